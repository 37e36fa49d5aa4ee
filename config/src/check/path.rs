//! Which paths can be served. Regular expressions are proved to compile here; matching lives in the data plane.

use crate::route::{Matching, PathMatch};
use regex_syntax::ast::ErrorKind;
use std::collections::HashMap;
use std::sync::Arc;

/// Bound of one compiled pattern in bytes: what one Ingress can make the gateway hold.
const PATTERN_SIZE_LIMIT: usize = 1 << 20;

/// Longest path or pattern in bytes; no request line that is accepted is longer.
const PATH_LENGTH_LIMIT: usize = 8192;

/// Why a path cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PathProblem {
    #[error("an Exact path is empty")]
    Empty,
    #[error("path {0:?} does not begin with `/`")]
    NotAbsolute(Arc<str>),
    #[error("path {path:?} has {sequence:?}, which no normalised request path has")]
    NeverMatches { path: Arc<str>, sequence: &'static str },
    #[error("path is longer than {PATH_LENGTH_LIMIT} bytes")]
    TooLong,
    #[error("regular expression {pattern:?} uses {syntax}, which only a backtracking engine offers")]
    Backtracking { pattern: Arc<str>, syntax: &'static str },
    #[error("regular expression {pattern:?} is not valid: {why}")]
    NotARegex { pattern: Arc<str>, why: String },
    #[error("regular expression {0:?} is too large when compiled (limit {PATTERN_SIZE_LIMIT} bytes)")]
    TooLarge(Arc<str>),
}

impl PathProblem {
    pub(super) fn remedy(&self) -> &'static str {
        match self {
            Self::Empty => "write the path, or use pathType Prefix with path /",
            Self::NotAbsolute(_) => "begin the path with /",
            Self::NeverMatches { .. } => "write the path as it arrives after normalisation, without query or fragment",
            Self::TooLong => "shorten the path",
            Self::Backtracking { .. } => {
                "write the pattern without look-around, backreferences, atomic groups and possessive quantifiers"
            }
            Self::NotARegex { .. } => "correct the pattern",
            Self::TooLarge(_) => "lower the counted repetitions of the pattern",
        }
    }
}

/// What is served though it was probably not meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PathWarning {
    #[error("the path looks like a regular expression and is compared literally")]
    LooksLikeRegex,
}

impl PathWarning {
    pub(super) fn remedy(self) -> &'static str {
        match self {
            Self::LooksLikeRegex => {
                "use an IngressClass with the annotation sluicegate.io/dialect: nginx and set nginx.ingress.kubernetes.io/use-regex: \"true\""
            }
        }
    }
}

/// Outcomes of patterns within one check: thousands of Ingresses share a handful of idioms.
#[derive(Default)]
pub(super) struct Patterns {
    known: HashMap<Arc<str>, Result<(), PathProblem>>,
}

impl Patterns {
    /// # Errors
    /// Says why the path cannot be served.
    pub(super) fn check(&mut self, path: &PathMatch, matching: Matching) -> Result<Option<PathWarning>, PathProblem> {
        match path {
            PathMatch::Regex(pattern) => {
                if pattern.len() > PATH_LENGTH_LIMIT {
                    return Err(PathProblem::TooLong);
                }
                absolute(pattern)?;
                let outcome = match self.known.get(pattern) {
                    Some(outcome) => outcome.clone(),
                    None => {
                        let outcome = compiles(pattern);
                        self.known.insert(Arc::clone(pattern), outcome.clone());
                        outcome
                    }
                };
                outcome.map(|()| None)
            }
            PathMatch::Exact(path) | PathMatch::Prefix(path) | PathMatch::StringPrefix(path) => {
                debug_assert_eq!(matching, Matching::LongestPath, "a host of regular expressions has nothing else");
                literal(path)
            }
        }
    }
}

fn absolute(path: &Arc<str>) -> Result<(), PathProblem> {
    match path.as_bytes().first() {
        None => Err(PathProblem::Empty),
        Some(b'/') => Ok(()),
        Some(_) => Err(PathProblem::NotAbsolute(Arc::clone(path))),
    }
}

/// The API server's rules for Exact and Prefix (a folder has no API server), and the two characters that end a path.
fn literal(path: &Arc<str>) -> Result<Option<PathWarning>, PathProblem> {
    if path.len() > PATH_LENGTH_LIMIT {
        return Err(PathProblem::TooLong);
    }
    absolute(path)?;
    let never = ["//", "/./", "/../", "%2f", "%2F", "#"]
        .into_iter()
        .find(|sequence| path.contains(sequence))
        .or_else(|| ["/..", "/."].into_iter().find(|suffix| path.ends_with(suffix)));
    if let Some(sequence) = never {
        return Err(PathProblem::NeverMatches { path: Arc::clone(path), sequence });
    }
    if path.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return Err(PathProblem::NeverMatches { path: Arc::clone(path), sequence: "a space or control character" });
    }
    let looks_like_regex = [".*", ".+", "(/|$)", "\\", "[", "^", "(?"].into_iter().any(|sign| path.contains(sign));
    if looks_like_regex {
        return Ok(Some(PathWarning::LooksLikeRegex));
    }
    if path.contains('?') {
        return Err(PathProblem::NeverMatches { path: Arc::clone(path), sequence: "?" });
    }
    Ok(None)
}

fn compiles(pattern: &Arc<str>) -> Result<(), PathProblem> {
    if let Some(syntax) = backtracking_syntax(pattern) {
        return Err(PathProblem::Backtracking { pattern: Arc::clone(pattern), syntax });
    }
    // Over bytes, as the data plane matches; Unicode classes only where the pattern cannot be read without.
    let build = |unicode| {
        regex::bytes::RegexBuilder::new(pattern)
            .case_insensitive(true)
            .unicode(unicode)
            .size_limit(PATTERN_SIZE_LIMIT)
            .build()
    };
    match build(false).or_else(|first| if is_syntax(&first) { build(true) } else { Err(first) }) {
        Ok(_) => Ok(()),
        Err(regex::Error::CompiledTooBig(_)) => Err(PathProblem::TooLarge(Arc::clone(pattern))),
        Err(error) => {
            let why = match regex_syntax::parse(pattern) {
                Err(regex_syntax::Error::Parse(error)) => error.kind().to_string(),
                Err(regex_syntax::Error::Translate(error)) => error.kind().to_string(),
                _ => error.to_string().lines().last().unwrap_or_default().trim().to_owned(),
            };
            Err(PathProblem::NotARegex { pattern: Arc::clone(pattern), why })
        }
    }
}

fn is_syntax(error: &regex::Error) -> bool {
    matches!(error, regex::Error::Syntax(_))
}

/// Names the PCRE-only syntax of a pattern.
///
/// The parser knows look-around and backreferences. Atomic groups and possessive quantifiers are errors of another
/// name to it, or (possessive) mean something else, so they are looked for by their text.
fn backtracking_syntax(pattern: &str) -> Option<&'static str> {
    if let Err(regex_syntax::Error::Parse(error)) = regex_syntax::parse(pattern) {
        match error.kind() {
            ErrorKind::UnsupportedLookAround => return Some("look-around"),
            ErrorKind::UnsupportedBackreference => return Some("a backreference"),
            _ => {}
        }
    }
    let mut escaped = false;
    let mut in_class = false;
    for (at, byte) in pattern.bytes().enumerate() {
        let rest = &pattern.as_bytes()[at..];
        if escaped {
            escaped = false;
            if matches!(byte, b'K' | b'G' | b'R') {
                return Some("a PCRE escape (\\K, \\G or \\R)");
            }
            continue;
        }
        match byte {
            b'\\' => escaped = true,
            b'[' if !in_class => in_class = true,
            b']' => in_class = false,
            _ if in_class => {}
            b'(' if rest.starts_with(b"(?>") => return Some("an atomic group"),
            b'(' if rest.starts_with(b"(?R") || rest.starts_with(b"(?1") => return Some("recursion"),
            b'*' | b'+' | b'?' if rest.get(1) == Some(&b'+') => return Some("a possessive quantifier"),
            b'}' if rest.get(1) == Some(&b'+') && counts(&pattern[..at]) => return Some("a possessive quantifier"),
            _ => {}
        }
    }
    None
}

/// True if what stands before a closing brace is a count, as in `{2,3}`, and not a class, as in `\p{Greek}`.
fn counts(before: &str) -> bool {
    before
        .rsplit_once('{')
        .is_some_and(|(_, count)| !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit() || byte == b','))
}
