//! Which requests somebody wants to see: conditions on what is known of a request that is over.

use crate::request::FinishedRequest;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

/// What a filter is written like, for messages.
const EXAMPLES: &str = "write as in `status>=400`, `duration>=500ms`, `host=*.shop.example`, `path=/api/*`, \
    `method!=GET` or `ingress=shop/web`, several with & between them";

/// Conditions that all have to hold. The empty one takes every request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestFilter(Vec<Condition>);

/// A text that is no filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a filter of requests: {reason}; {EXAMPLES}")]
pub struct FilterError {
    /// The condition.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// How a property is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `=`
    Is,
    /// `!=`
    IsNot,
    /// `>=`
    AtLeast,
    /// `>`
    Above,
    /// `<=`
    AtMost,
    /// `<`
    Below,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Condition {
    property: Property,
    /// What the property has to be: true, or false where the condition denies it.
    holds: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Property {
    Status(RangeInclusive<u16>),
    /// At least, in nanoseconds.
    Duration(u128),
    Host(Pattern),
    Path(Pattern),
    Method(Box<[u8]>),
    /// Namespace, and the name, where it is not every one's.
    Ingress(Box<str>, Option<Box<str>>),
}

/// A text, or how it begins or ends.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Whole(Box<[u8]>),
    Beginning(Box<[u8]>),
    End(Box<[u8]>),
}

impl RequestFilter {
    /// Also asks for this of a request: `status`, `duration`, `host`, `path`, `method` or `ingress`.
    ///
    /// # Errors
    /// Where the property is unknown, or can be no such value.
    pub fn and(mut self, property: &str, comparison: Comparison, value: &str) -> Result<Self, FilterError> {
        let condition = Condition::new(property, comparison, value).map_err(|reason| {
            let sign = comparison.sign();
            FilterError { text: format!("{property}{sign}{value}"), reason }
        })?;
        self.0.push(condition);
        Ok(self)
    }

    /// True if nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a request is one of those.
    pub fn takes(&self, request: &FinishedRequest<'_>) -> bool {
        self.0.iter().all(|condition| condition.property.is_of(request) == condition.holds)
    }
}

impl FromStr for RequestFilter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let mut filter = Self::default();
        for condition in text.split('&').map(str::trim) {
            let wrong = |reason| FilterError { text: condition.to_owned(), reason };
            let end = condition.find(['=', '!', '<', '>']).ok_or_else(|| wrong("nothing is compared"))?;
            let (property, rest) = condition.split_at(end);
            let (comparison, value) = Comparison::split(rest).ok_or_else(|| wrong("nothing is compared"))?;
            filter = filter.and(property.trim(), comparison, value.trim())?;
        }
        Ok(filter)
    }
}

impl Comparison {
    const ALL: [Self; 6] = [Self::IsNot, Self::AtLeast, Self::AtMost, Self::Is, Self::Above, Self::Below];

    fn sign(self) -> &'static str {
        match self {
            Self::Is => "=",
            Self::IsNot => "!=",
            Self::AtLeast => ">=",
            Self::Above => ">",
            Self::AtMost => "<=",
            Self::Below => "<",
        }
    }

    /// The comparison that a text begins with, and the rest of it.
    pub fn split(text: &str) -> Option<(Self, &str)> {
        Self::ALL.into_iter().find_map(|comparison| Some((comparison, text.strip_prefix(comparison.sign())?)))
    }
}

impl Condition {
    fn new(property: &str, comparison: Comparison, value: &str) -> Result<Self, &'static str> {
        let is_equality = matches!(comparison, Comparison::Is | Comparison::IsNot);
        let property = match property {
            "status" => return Self::of_status(comparison, value),
            "duration" => return Self::of_duration(comparison, value),
            "host" | "path" | "method" | "ingress" if !is_equality => return Err("texts are compared with = and !="),
            "host" | "path" | "method" | "ingress" if value.is_empty() => return Err("there is no value"),
            "host" => Property::Host(Pattern::of_host(value)?),
            "path" => Property::Path(Pattern::of_path(value)?),
            "method" => Property::Method(value.as_bytes().into()),
            "ingress" => Self::of_ingress(value)?,
            _ => return Err("the property is none of status, duration, host, path, method and ingress"),
        };
        Ok(Self { property, holds: comparison == Comparison::Is })
    }

    /// `404`, `5xx`, `400-499`, with any comparison.
    fn of_status(comparison: Comparison, value: &str) -> Result<Self, &'static str> {
        let number = |text: &str| text.parse::<u16>().ok().filter(|number| *number <= 999);
        let range = match (value.strip_suffix("xx").and_then(number), value.split_once('-')) {
            (Some(class @ 0..=9), _) => Some(class * 100..=class * 100 + 99),
            (None, Some((first, last))) => number(first).zip(number(last)).map(|(first, last)| first..=last),
            (None, None) => number(value).map(|number| number..=number),
            _ => None,
        };
        let range = range
            .filter(|range| !range.is_empty())
            .ok_or("a status is a number, a class such as 5xx or a range such as 400-499")?;
        let (range, holds) = match comparison {
            Comparison::Is => (range, true),
            Comparison::IsNot => (range, false),
            Comparison::AtLeast => (*range.start()..=u16::MAX, true),
            Comparison::Above => (0..=*range.end(), false),
            Comparison::AtMost => (0..=*range.end(), true),
            Comparison::Below => (*range.start()..=u16::MAX, false),
        };
        Ok(Self { property: Property::Status(range), holds })
    }

    fn of_duration(comparison: Comparison, value: &str) -> Result<Self, &'static str> {
        let least = duration(value).ok_or("a duration is a number with a unit, such as 500ms, 2s or 1m")?.as_nanos();
        let (least, holds) = match comparison {
            Comparison::AtLeast => (least, true),
            Comparison::Above => (least + 1, true),
            Comparison::Below => (least, false),
            Comparison::AtMost => (least + 1, false),
            Comparison::Is | Comparison::IsNot => return Err("durations are compared with >=, >, <= and <"),
        };
        Ok(Self { property: Property::Duration(least), holds })
    }

    /// `shop/web`, and `shop/*` for the whole namespace.
    fn of_ingress(value: &str) -> Result<Property, &'static str> {
        let (namespace, name) =
            value.split_once('/').ok_or("an Ingress is namespace/name; namespace/* takes all of a namespace")?;
        Ok(Property::Ingress(namespace.into(), Some(name).filter(|name| *name != "*").map(Into::into)))
    }
}

impl Property {
    fn is_of(&self, request: &FinishedRequest<'_>) -> bool {
        match self {
            Self::Status(range) => range.contains(&request.status),
            Self::Duration(least) => request.ended.saturating_duration_since(request.started).as_nanos() >= *least,
            Self::Host(pattern) => pattern.takes(without_port(request.authority), true),
            Self::Path(pattern) => pattern.takes(request.path, false),
            Self::Method(method) => request.method == &**method,
            Self::Ingress(namespace, name) => request.route.is_some_and(|route| {
                **route.namespace == **namespace && name.as_ref().is_none_or(|name| **route.ingress == **name)
            }),
        }
    }
}

impl Pattern {
    /// A host, or with `*.` in front all below it.
    fn of_host(text: &str) -> Result<Self, &'static str> {
        let host = text.trim_end_matches('.');
        match host.strip_prefix('*') {
            Some(below) if below.starts_with('.') && !below.contains('*') => Ok(Self::End(below.as_bytes().into())),
            None if !host.contains('*') => Ok(Self::Whole(host.as_bytes().into())),
            _ => Err("the only pattern of hosts is *. before a name"),
        }
    }

    /// A path, or with `*` behind it all that begin so.
    fn of_path(text: &str) -> Result<Self, &'static str> {
        if !text.starts_with('/') && text != "*" {
            return Err("a path begins with /");
        }
        match text.strip_suffix('*') {
            Some(beginning) if !beginning.contains('*') => Ok(Self::Beginning(beginning.as_bytes().into())),
            None if !text.contains('*') => Ok(Self::Whole(text.as_bytes().into())),
            _ => Err("the only pattern of paths is * behind one"),
        }
    }

    fn takes(&self, text: &[u8], ignore_case: bool) -> bool {
        let (part, pattern) = match self {
            Self::Whole(pattern) => (Some(text), pattern),
            Self::Beginning(pattern) => (text.get(..pattern.len()), pattern),
            Self::End(pattern) => (text.len().checked_sub(pattern.len()).and_then(|start| text.get(start..)), pattern),
        };
        part.is_some_and(|part| if ignore_case { part.eq_ignore_ascii_case(pattern) } else { part == &**pattern })
    }
}

/// The name or address of an authority, without a dot at the end.
pub(crate) fn without_port(authority: &[u8]) -> &[u8] {
    let end = match authority.iter().rposition(|byte| matches!(byte, b':' | b']')) {
        Some(at) if authority[at] == b':' => at,
        _ => authority.len(),
    };
    let host = &authority[..end];
    host.strip_suffix(b".").unwrap_or(host)
}

fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let number = number.parse::<u32>().ok()?;
    Some(match unit {
        "us" => Duration::from_micros(number.into()),
        "ms" => Duration::from_millis(number.into()),
        "s" => Duration::from_secs(number.into()),
        "m" => Duration::from_secs(60 * u64::from(number)),
        _ => return None,
    })
}
