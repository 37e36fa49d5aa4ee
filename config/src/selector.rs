//! Label selectors, as Kubernetes writes them.

use std::fmt;
use std::str::FromStr;

/// Longest label value, and longest name of a key without its prefix (Kubernetes API, "Labels and Selectors").
const LONGEST: usize = 63;
/// Longest prefix of a key: a DNS subdomain.
const LONGEST_PREFIX: usize = 253;

/// Demands on labels, all of which must hold: `edge=yes,tier!=test,team in (a,b),!private`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelSelector {
    demands: Vec<Demand>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Demand {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
}

/// The text is not a label selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no demand on labels; write KEY=VALUE, KEY!=VALUE, KEY in (A,B), KEY notin (A,B), KEY or !KEY, with commas between several"
)]
pub struct InvalidSelector(String);

impl LabelSelector {
    /// True where every demand holds. `label` gives the value of a key; a missing label differs from every value.
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.demands.iter().all(|demand| {
            let value = label(&demand.key);
            match &demand.test {
                Test::In(values) => value.is_some_and(|value| values.iter().any(|one| one == value)),
                Test::NotIn(values) => value.is_none_or(|value| values.iter().all(|one| one != value)),
                Test::Exists => value.is_some(),
                Test::Absent => value.is_none(),
            }
        })
    }
}

impl FromStr for LabelSelector {
    type Err = InvalidSelector;

    /// An empty selector is refused: whoever means all writes none.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let demands = split(text).map(demand).collect::<Result<Vec<_>, _>>()?;
        if demands.is_empty() { Err(InvalidSelector(text.to_owned())) } else { Ok(Self { demands }) }
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, Demand { key, test }) in self.demands.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            match test {
                Test::In(values) if values.len() == 1 => write!(f, "{comma}{key}={}", values[0])?,
                Test::NotIn(values) if values.len() == 1 => write!(f, "{comma}{key}!={}", values[0])?,
                Test::In(values) => write!(f, "{comma}{key} in ({})", values.join(","))?,
                Test::NotIn(values) => write!(f, "{comma}{key} notin ({})", values.join(","))?,
                Test::Exists => write!(f, "{comma}{key}")?,
                Test::Absent => write!(f, "{comma}!{key}")?,
            }
        }
        Ok(())
    }
}

/// At commas outside of parentheses; empty parts are left out.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut is_within = false;
    text.split(move |c| {
        match c {
            '(' => is_within = true,
            ')' => is_within = false,
            _ => {}
        }
        c == ',' && !is_within
    })
    .map(str::trim)
    .filter(|part| !part.is_empty())
}

fn demand(text: &str) -> Result<Demand, InvalidSelector> {
    let wrong = || InvalidSelector(text.to_owned());
    let (key, test) = if let Some((key, value)) = text.split_once("!=") {
        (key, Test::NotIn(vec![value.trim().to_owned()]))
    } else if let Some((key, value)) = text.split_once('=') {
        let value = value.strip_prefix('=').unwrap_or(value);
        (key, Test::In(vec![value.trim().to_owned()]))
    } else if let Some(key) = text.strip_prefix('!') {
        (key, Test::Absent)
    } else if let Some((head, values)) = text.split_once('(') {
        let values = values.strip_suffix(')').ok_or_else(wrong)?;
        let values = values.split(',').map(|value| value.trim().to_owned()).collect();
        match head.trim().split_once(char::is_whitespace) {
            Some((key, operator)) if operator.trim() == "in" => (key, Test::In(values)),
            Some((key, operator)) if operator.trim() == "notin" => (key, Test::NotIn(values)),
            _ => return Err(wrong()),
        }
    } else {
        (text, Test::Exists)
    };
    let key = key.trim();
    let are_values = match &test {
        Test::In(values) | Test::NotIn(values) => values.iter().all(|value| value.is_empty() || is_name(value)),
        Test::Exists | Test::Absent => true,
    };
    if is_key(key) && are_values { Ok(Demand { key: key.to_owned(), test }) } else { Err(wrong()) }
}

fn is_key(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => {
            let is_part = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
            !prefix.is_empty() && prefix.len() <= LONGEST_PREFIX && prefix.bytes().all(is_part) && is_name(name)
        }
        None => is_name(key),
    }
}

fn is_name(text: &str) -> bool {
    let is_edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    text.len() <= LONGEST
        && is_edge(text.bytes().next())
        && is_edge(text.bytes().next_back())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demands_are_those_of_kubernetes() {
        let labels = |key: &str| match key {
            "edge" => Some("yes"),
            "kubernetes.io/metadata.name" => Some("shop"),
            "empty" => Some(""),
            _ => None,
        };
        for (text, wanted) in [
            ("edge=yes", true),
            ("edge == yes", true),
            ("edge=no", false),
            ("edge!=no,other!=x", true),
            ("edge != yes", false),
            ("kubernetes.io/metadata.name in (shop, bank)", true),
            ("kubernetes.io/metadata.name in (bank),edge=yes", false),
            ("kubernetes.io/metadata.name notin (bank,till), edge", true),
            ("other notin (x)", true),
            ("edge", true),
            ("!edge", false),
            ("!other", true),
            ("empty=", true),
            ("other=", false),
        ] {
            let selector: LabelSelector = text.parse().expect(text);
            assert_eq!(selector.matches(labels), wanted, "{text}");
            assert_eq!(selector.to_string().parse(), Ok(selector), "{text}: shown as it is read");
        }
    }

    #[test]
    fn what_is_no_selector_is_refused() {
        for text in [
            "",
            ",",
            "a b",
            "a in b",
            "a in (b",
            "a is (b)",
            "=x",
            "!",
            "a=b c",
            "-a",
            "a/b/c",
            "/a",
            "A.x/a",
            "a>1",
            "a=b=c",
            "a in (b),(c)",
        ] {
            assert!(text.parse::<LabelSelector>().is_err(), "{text:?}");
        }
        assert!(format!("a={}", "x".repeat(64)).parse::<LabelSelector>().is_err());
    }
}
