//! The specification's words as slow code: what the table must answer. It shares nothing with the crate.
//!
//! Hosts: "precise matches … or a wildcard"; a wildcard covers a single label. Paths: Exact "matches the URL path exactly
//! and with case sensitivity", Prefix "matches based on a URL path prefix split by `/` … on a path element by element
//! basis", a trailing slash ignored; "precedence will be given first to the longest matching path", then to Exact.

use sluicegate_config::{Dialect, HostPattern, Matching, PathMatch, VirtualHost};
use std::cmp::Reverse;

/// The service (or outcome) that a request gets.
pub fn answer(hosts: &[&VirtualHost], authority: &str, path: &[u8]) -> String {
    let name = host_name(authority);
    let catch_all = hosts.iter().find(|host| host.host == HostPattern::Any);
    let exact = hosts.iter().find(|host| matches!(&host.host, HostPattern::Exact(own) if own.as_str() == name));
    let wildcard =
        hosts.iter().find(|host| matches!(&host.host, HostPattern::Wildcard(own) if covers(own.as_str(), &name)));
    let Some(host) = exact.or(wildcard).or(catch_all) else { return "NoHost".into() };
    let Some(path) = normal(host.dialect, path) else { return "BadPath".into() };
    if let Some(route) = best(host, &path) {
        return route;
    }
    let default = match (&host.fallback, host.dialect) {
        (Some(own), _) => Some(own),
        (None, Dialect::Strict) => catch_all.and_then(|host| host.fallback.as_ref()),
        (None, Dialect::Nginx) => None,
    };
    default.map_or("NoPath".into(), |route| route.origin.field.to_string())
}

/// Without the port and one dot at the end, in lower case.
fn host_name(authority: &str) -> String {
    let name = match authority.rsplit_once(':') {
        Some((name, port)) if port.chars().all(|c| c.is_ascii_digit()) => name,
        _ => authority,
    };
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// `*.suffix` takes the suffix with one label in front.
fn covers(suffix: &str, name: &str) -> bool {
    let labels: Vec<&str> = name.split('.').collect();
    labels.len() > 1 && !labels[0].is_empty() && labels[1..].join(".") == suffix
}

fn best(host: &VirtualHost, path: &[u8]) -> Option<String> {
    let mut matching: Vec<_> = host.routes.iter().filter(|route| matches(&route.path, host.dialect, path)).collect();
    match host.matching {
        Matching::FirstRegex => matching.sort_by_key(|route| {
            let text = route.path.as_str();
            (Reverse(text.len()), Reverse(text.to_string()))
        }),
        Matching::LongestPath => matching.sort_by_key(|route| {
            let written = literal(host.dialect, route.path.as_str()).len();
            let (matched, kind) = match &route.path {
                PathMatch::Exact(_) => (path.len(), 0),
                // A trailing slash that the path does not have was not matched.
                PathMatch::Prefix(_) => (written.min(path.len()), 1),
                PathMatch::StringPrefix(_) => (written, 2),
                PathMatch::Regex(_) => panic!("not in these tests"),
            };
            (Reverse(matched), kind, Reverse(written))
        }),
    }
    matching.first().map(|route| route.origin.field.to_string())
}

fn matches(condition: &PathMatch, dialect: Dialect, path: &[u8]) -> bool {
    match condition {
        PathMatch::Exact(text) => literal(dialect, text) == path,
        PathMatch::Prefix(text) => {
            let text = literal(dialect, text);
            let mut elements: Vec<&[u8]> = text.split(|byte| *byte == b'/').collect();
            if elements.last().is_some_and(|last| last.is_empty()) {
                elements.pop();
            }
            let all: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
            all.starts_with(&elements)
        }
        PathMatch::StringPrefix(text) => path.starts_with(&literal(dialect, text)),
        PathMatch::Regex(text) => {
            let pattern = regex::bytes::RegexBuilder::new(&format!("^(?:{text})"));
            let mut pattern = pattern;
            pattern.case_insensitive(true).unicode(false).build().is_ok_and(|pattern| pattern.is_match(path))
        }
    }
}

/// A manifest's path as requests are compared with it; in the strict dialect a `%` that begins no escape is itself.
fn literal(dialect: Dialect, text: &str) -> Vec<u8> {
    if dialect == Dialect::Nginx {
        return text.into();
    }
    let stray = regex::Regex::new("%([0-9A-Fa-f]{2})?").expect("a pattern");
    let text = stray.replace_all(text, |found: &regex::Captures<'_>| match found.get(1) {
        Some(digits) => format!("%{}", digits.as_str()),
        None => "%25".into(),
    });
    normal(dialect, text.as_bytes()).unwrap_or_else(|| text.as_bytes().into())
}

/// The normal form of a request's path, element by element.
pub fn normal(dialect: Dialect, path: &[u8]) -> Option<Vec<u8>> {
    match path {
        b"" => return Some(b"/".to_vec()),
        b"*" => return Some(b"*".to_vec()),
        _ if path[0] != b'/' => return None,
        _ => {}
    }
    let decoded = decode(dialect, path)?;
    let elements: Vec<&[u8]> = decoded[1..].split(|byte| *byte == b'/').collect();
    let mut stack: Vec<&[u8]> = Vec::new();
    for (at, element) in elements.iter().enumerate() {
        let last = at + 1 == elements.len();
        match *element {
            b"." => {}
            b".." => {
                stack.pop()?;
            }
            b"" if dialect == Dialect::Nginx && !last => {}
            element => {
                stack.push(element);
                continue;
            }
        }
        // What vanished at the end leaves its slash.
        if last && *element != b"" {
            stack.push(b"");
        }
    }
    Some(stack.iter().flat_map(|element| [b"/", *element].concat()).collect())
}

fn decode(dialect: Dialect, path: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < path.len() {
        let escaped = path[at] == b'%';
        let byte = if escaped {
            let digits = std::str::from_utf8(path.get(at + 1..at + 3)?).ok()?;
            if digits.starts_with('+') {
                return None;
            }
            u8::from_str_radix(digits, 16).ok()?
        } else {
            path[at]
        };
        at += if escaped { 3 } else { 1 };
        let unreserved = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        let reserved = b"!$&'()*+,;=:@/".contains(&byte);
        match (byte, dialect) {
            (0, _) => return None,
            (_, Dialect::Nginx) => out.push(byte),
            (_, Dialect::Strict) if unreserved || (reserved && !escaped) => out.push(byte),
            (_, Dialect::Strict) => out.extend(format!("%{byte:02X}").bytes()),
        }
    }
    Some(out)
}
