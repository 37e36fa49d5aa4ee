//! Which objects a list or a watch is about: label selectors with equality and sets, field selectors by name, namespace
//! and type.

use crate::status::Refusal;
use serde_json::Value;

/// A conjunction of demands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    demands: Vec<Demand>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Demand {
    pointer: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Equal(String),
    NotEqual(String),
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
}

impl Selector {
    /// Reads both selectors of a request.
    ///
    /// # Errors
    /// Where one is not understood: an API server refuses it too, and nothing is left out in silence.
    pub fn parse(labels: &str, fields: &str) -> Result<Self, Refusal> {
        let mut demands = Vec::new();
        for part in split(labels) {
            demands.push(label(part)?);
        }
        for part in fields.split(',').filter(|part| !part.is_empty()) {
            demands.push(field(part)?);
        }
        Ok(Self { demands })
    }

    /// True where the object meets every demand.
    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        self.demands.iter().all(|demand| demand.test.holds(object.pointer(&demand.pointer).and_then(Value::as_str)))
    }
}

impl Test {
    fn holds(&self, value: Option<&str>) -> bool {
        match self {
            Self::Equal(wanted) => value == Some(wanted),
            Self::NotEqual(other) => value != Some(other),
            Self::In(values) => value.is_some_and(|value| values.iter().any(|one| one == value)),
            Self::NotIn(values) => value.is_none_or(|value| values.iter().all(|one| one != value)),
            Self::Exists => value.is_some(),
            Self::Absent => value.is_none(),
        }
    }
}

/// At commas outside of parentheses.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut from) = (Vec::new(), 0_u32, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[from..]);
    parts.into_iter().map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn label(text: &str) -> Result<Demand, Refusal> {
    let wrong = || Refusal::bad(format!("unable to parse requirement: {text:?}"));
    let (key, test) = if let Some((key, value)) = text.split_once("!=") {
        (key, Test::NotEqual(value.trim().to_owned()))
    } else if let Some((key, value)) = text.split_once('=') {
        (key, Test::Equal(value.trim_start_matches('=').trim().to_owned()))
    } else if let Some(key) = text.strip_prefix('!') {
        (key, Test::Absent)
    } else if let Some((head, values)) = text.split_once('(') {
        let values = values.strip_suffix(')').ok_or_else(wrong)?;
        let values = values.split(',').map(|value| value.trim().to_owned()).collect();
        match head.trim().split_once(char::is_whitespace) {
            Some((key, "in")) => (key, Test::In(values)),
            Some((key, "notin")) => (key, Test::NotIn(values)),
            _ => return Err(wrong()),
        }
    } else {
        (text, Test::Exists)
    };
    let key = key.trim();
    if key.is_empty() || key.contains(char::is_whitespace) {
        return Err(wrong());
    }
    Ok(Demand { pointer: format!("/metadata/labels/{}", key.replace('~', "~0").replace('/', "~1")), test })
}

fn field(text: &str) -> Result<Demand, Refusal> {
    let (key, test) = match text.split_once("!=") {
        Some((key, value)) => (key, Test::NotEqual(value.to_owned())),
        None => match text.split_once('=') {
            Some((key, value)) => (key, Test::Equal(value.trim_start_matches('=').to_owned())),
            None => return Err(Refusal::bad(format!("invalid field selector: {text:?}"))),
        },
    };
    match key {
        "metadata.name" | "metadata.namespace" | "type" => {
            Ok(Demand { pointer: format!("/{}", key.replace('.', "/")), test })
        }
        _ => Err(Refusal::bad(format!("field label not supported: {key}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors_select() {
        let object =
            json!({"metadata": {"name": "a", "namespace": "shop", "labels": {"app": "web", "x.io/tier": "gold"}}});
        for (labels, fields, wanted) in [
            ("", "", true),
            ("app=web", "", true),
            ("app==web", "", true),
            ("app=api", "", false),
            ("app!=api,x.io/tier=gold", "", true),
            ("other!=x", "", true),
            ("app in (web, api)", "", true),
            ("app notin (web),app", "", false),
            ("x.io/tier", "", true),
            ("!x.io/tier", "", false),
            ("missing=", "", false),
            ("", "metadata.name=a", true),
            ("", "metadata.name=b", false),
            ("", "metadata.name=a,metadata.namespace!=shop", false),
        ] {
            let selector = Selector::parse(labels, fields).expect("a selector");
            assert_eq!(selector.matches(&object), wanted, "{labels:?} {fields:?}");
        }
        assert!(Selector::parse("app in web", "").is_err());
        assert!(Selector::parse("", "spec.nodeName=a").is_err());
    }
}
