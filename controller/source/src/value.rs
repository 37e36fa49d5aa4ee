//! One document as a tree of values, read strictly: a key that stands twice is an error, and a document that unfolds
//! into far more than its text (an alias bomb) is refused.

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Values that a document may hold beyond one for each byte of its text. Without aliases there are never more values
/// than bytes.
const SPARE_VALUES: usize = 10_000;
/// How many times its own size a document may unfold to, counting the bytes of strings.
const MAX_UNFOLDING: usize = 8;
/// Nested collections. The deepest Kubernetes object has about 20; parsers stop at 128 by themselves.
const MAX_DEPTH: usize = 100;

/// Brackets that may be open at once. The YAML parser's time grows with their square, long before it looks at depth.
const MAX_OPEN: usize = 10_000;

/// Why a document is not a tree of values.
#[derive(Debug)]
pub(crate) struct ValueError {
    /// The line inside the document, from 1, where it is known.
    pub line: Option<usize>,
    /// What the parser says.
    pub message: String,
}

/// Reads one YAML document. Text that starts with `{` is tried as JSON first, which is several times as fast.
pub(crate) fn from_yaml(text: &str) -> Result<Value, ValueError> {
    if text.trim_start().starts_with('{')
        && let Ok(value) = from_json(text)
    {
        return Ok(value);
    }
    if opens_too_many(text) {
        return Err(ValueError { line: None, message: format!("more than {MAX_OPEN} brackets are open at once") });
    }
    // The YAML parser asserts its own invariants. An assertion that fails is a bug there and must cost one document,
    // not the process.
    let parsed = catch_unwind(AssertUnwindSafe(|| {
        let budget = Budget::for_text(text);
        Strict { budget: &budget, depth: 0 }.deserialize(yaml_serde::Deserializer::from_str(text))
    }));
    match parsed {
        Ok(result) => result.map_err(|error| ValueError {
            line: error.location().map(|location| location.line()),
            message: error.to_string(),
        }),
        Err(_) => Err(ValueError { line: None, message: "the YAML parser gave up on this document".to_owned() }),
    }
}

/// Counts brackets without regard to quotes: text that means something does not come near the bound.
fn opens_too_many(text: &str) -> bool {
    let mut open = 0_usize;
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        if open > MAX_OPEN {
            return true;
        }
    }
    false
}

/// Reads one JSON document.
pub(crate) fn from_json(text: &str) -> Result<Value, ValueError> {
    let budget = Budget::for_text(text);
    let mut deserializer = serde_json::Deserializer::from_str(text);
    Strict { budget: &budget, depth: 0 }
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value))
        .map_err(|error| ValueError { line: Some(error.line()), message: error.to_string() })
}

/// What a document may still cost.
struct Budget {
    values: Cell<usize>,
    bytes: Cell<usize>,
}

impl Budget {
    fn for_text(text: &str) -> Self {
        Self {
            values: Cell::new(text.len() + SPARE_VALUES),
            bytes: Cell::new(text.len().saturating_mul(MAX_UNFOLDING) + SPARE_VALUES),
        }
    }

    fn spend<E: serde::de::Error>(&self, bytes: usize) -> Result<(), E> {
        match (self.values.get().checked_sub(1), self.bytes.get().checked_sub(bytes)) {
            (Some(values), Some(left)) => {
                self.values.set(values);
                self.bytes.set(left);
                Ok(())
            }
            _ => Err(E::custom("aliases unfold to far more than the text of the document")),
        }
    }
}

#[derive(Clone, Copy)]
struct Strict<'a> {
    budget: &'a Budget,
    depth: usize,
}

impl Strict<'_> {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth == MAX_DEPTH {
            return Err(E::custom(format_args!("nested deeper than {MAX_DEPTH} levels")));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON can hold")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Value, E> {
        self.budget.spend(0)?;
        Ok(Value::Null)
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<Value, E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Value, E> {
        self.budget.spend(0)?;
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        self.budget.spend(0)?;
        Ok(value.into())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        self.budget.spend(0)?;
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        self.budget.spend(0)?;
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number that is not finite"))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        self.budget.spend(value.len())?;
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        self.budget.spend(0)?;
        let seed = self.deeper()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(seed)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        self.budget.spend(0)?;
        let seed = self.deeper()?;
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            self.budget.spend(key.len())?;
            if map.contains_key(&key) {
                return Err(A::Error::custom(format_args!("the key `{key}` stands twice in one mapping")));
            }
            let value = entries.next_value_seed(seed)?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn scalars_have_the_type_that_they_are_written_with() {
        let read = |text: &str| from_yaml(text).map_err(|error| error.message);
        assert_eq!(read("a: 80"), Ok(json!({"a": 80})));
        assert_eq!(read("a: '80'"), Ok(json!({"a": "80"})));
        assert_eq!(read("a: true"), Ok(json!({"a": true})));
        assert_eq!(read("a: \"true\""), Ok(json!({"a": "true"})));
        assert_eq!(read("a:"), Ok(json!({"a": null})));
        assert_eq!(read("80: x"), Ok(json!({"80": "x"})));
        assert_eq!(read("{\"a\": [1, 2.5]}"), Ok(json!({"a": [1, 2.5]})));
        assert_eq!(read("{a: b}"), Ok(json!({"a": "b"})));
        assert_eq!(read("a: &x [1]\nb: *x"), Ok(json!({"a": [1], "b": [1]})));
    }

    #[test]
    fn what_is_ambiguous_is_refused() {
        for (text, why) in [
            ("a: 1\na: 2\n", "stands twice"),
            ("{\"a\": 1, \"a\": 2}", "stands twice"),
            ("a: .nan", "not finite"),
            ("a: *missing", "anchor"),
            ("a: [1", "flow sequence"),
            ("a: b: c", "mapping values"),
        ] {
            let error = from_yaml(text).expect_err(text);
            assert!(error.message.contains(why), "{text:?}: {}", error.message);
        }
    }

    #[test]
    fn bombs_are_refused_quickly() {
        let mut laughs = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
        for level in 1..30 {
            let alias = format!("*a{}", level - 1);
            laughs.push_str(&format!("a{level}: &a{level} [{}]\n", [alias.as_str(); 9].join(", ")));
        }
        let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), "*a, ".repeat(10_000));
        let deep_flow = "[".repeat(200_000);
        let deep_block = (0..2_000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect::<String>();
        let deep_json = format!("{{\"a\": {}1{}}}", "[".repeat(200_000), "]".repeat(200_000));
        for text in [laughs, long, deep_flow, deep_block, deep_json] {
            let start = std::time::Instant::now();
            assert!(from_yaml(&text).is_err(), "{:?}…", &text[..20]);
            assert!(start.elapsed().as_secs() < 10, "{:?}…: {:?}", &text[..20], start.elapsed());
        }
    }
}
