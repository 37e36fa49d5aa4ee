//! Which of two routes of a host comes first when both match.
//!
//! [`Matching::LongestPath`]: "precedence will be given first to the longest matching path", then Exact before Prefix
//! before StringPrefix. What counts is how much of the request's path was matched, so
//! 1. an Exact path that matches comes before anything else: it matched the whole path;
//! 2. else the longer path, as written and with its trailing slash: wherever `/foo/` and `/foo` both match behind
//!    the slash, the first matched one character more;
//! 3. else Prefix, then StringPrefix, then Regex (which the longest-path hosts of translation do not have);
//! 4. else the greater text, so that the outcome does not hang on the order of objects; equal texts go by
//!    the order in which the host lists them (oldest Ingress first).
//!
//! [`Matching::FirstRegex`]: the longer pattern, then the greater text, then the order in which the host lists them
//! (as ingress-nginx sorts its locations).

use sluicegate_config::{Matching, PathMatch};
use std::cmp::{Ordering, Reverse};

/// Where a route stands among those of its host; the least comes first. Routes of equal rank keep their order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rank<'a> {
    matching: Matching,
    kind: Kind,
    text: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Exact,
    Prefix,
    StringPrefix,
    Regex,
}

impl<'a> Rank<'a> {
    /// `text` is the path in normal form, or the pattern as written.
    pub(crate) fn new(matching: Matching, path: &PathMatch, text: &'a [u8]) -> Self {
        let kind = match path {
            PathMatch::Exact(_) => Kind::Exact,
            PathMatch::Prefix(_) => Kind::Prefix,
            PathMatch::StringPrefix(_) => Kind::StringPrefix,
            PathMatch::Regex(_) => Kind::Regex,
        };
        Self { matching, kind, text }
    }

    /// Why this one comes before the other, which matches too.
    pub(crate) fn reason_before(&self, other: &Self) -> &'static str {
        match (self.matching, self.text.len().cmp(&other.text.len())) {
            (Matching::LongestPath, _) if self.kind == Kind::Exact && other.kind != Kind::Exact => {
                "an exact match comes before any prefix"
            }
            (Matching::LongestPath, Ordering::Greater) => "a longer path matches",
            (Matching::FirstRegex, Ordering::Greater) => "a longer pattern matches",
            (Matching::LongestPath, Ordering::Equal) if self.kind != other.kind => {
                "of equal length, Prefix comes before StringPrefix before Regex"
            }
            (_, Ordering::Equal) if self.text == other.text => "the same path is listed before it",
            _ => "of equal length, the greater text comes first",
        }
    }
}

impl Ord for Rank<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let longest_first = |rank: &Self| Reverse(rank.text.len());
        match self.matching {
            Matching::LongestPath => {
                let exact_first = |rank: &Self| rank.kind != Kind::Exact;
                exact_first(self)
                    .cmp(&exact_first(other))
                    .then_with(|| longest_first(self).cmp(&longest_first(other)))
                    .then_with(|| self.kind.cmp(&other.kind))
                    .then_with(|| other.text.cmp(self.text))
            }
            Matching::FirstRegex => {
                longest_first(self).cmp(&longest_first(other)).then_with(|| other.text.cmp(self.text))
            }
        }
    }
}

impl PartialOrd for Rank<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(text: &str) -> PathMatch {
        PathMatch::Exact(text.into())
    }
    fn prefix(text: &str) -> PathMatch {
        PathMatch::Prefix(text.into())
    }
    fn string_prefix(text: &str) -> PathMatch {
        PathMatch::StringPrefix(text.into())
    }
    fn regex(text: &str) -> PathMatch {
        PathMatch::Regex(text.into())
    }

    #[test]
    fn every_tie_has_one_outcome() {
        use Matching::{FirstRegex, LongestPath};
        let table = [
            // (competition, first, second, why)
            (LongestPath, exact("/foo"), prefix("/foo"), "an exact match comes before any prefix"),
            (LongestPath, exact("/foo"), prefix("/foo/"), "an exact match comes before any prefix"),
            (LongestPath, exact("/foo"), string_prefix("/foo"), "an exact match comes before any prefix"),
            (LongestPath, exact("/foo"), regex("/foo.*"), "an exact match comes before any prefix"),
            (LongestPath, prefix("/foo/"), prefix("/foo"), "a longer path matches"),
            (LongestPath, prefix("/foo/"), string_prefix("/foo"), "a longer path matches"),
            (LongestPath, string_prefix("/foo/"), prefix("/foo"), "a longer path matches"),
            (
                LongestPath,
                prefix("/foo"),
                string_prefix("/foo"),
                "of equal length, Prefix comes before StringPrefix before Regex",
            ),
            (
                LongestPath,
                string_prefix("/foo"),
                regex("/foo"),
                "of equal length, Prefix comes before StringPrefix before Regex",
            ),
            (LongestPath, regex("/f.o"), regex("/f.*"), "of equal length, the greater text comes first"),
            (FirstRegex, regex("/foo/bar"), regex("/foo"), "a longer pattern matches"),
            (FirstRegex, regex("/fob"), regex("/foa"), "of equal length, the greater text comes first"),
            (FirstRegex, regex("/foo"), exact("/fo"), "a longer pattern matches"),
        ];
        for (matching, first, second, why) in &table {
            let first = Rank::new(*matching, first, first.as_str().as_bytes());
            let second = Rank::new(*matching, second, second.as_str().as_bytes());
            assert_eq!(first.cmp(&second), Ordering::Less, "{first:?} {second:?}");
            assert_eq!(second.cmp(&first), Ordering::Greater, "{first:?} {second:?}");
            assert_eq!(first.reason_before(&second), *why, "{first:?} {second:?}");
        }
    }

    #[test]
    fn equal_routes_keep_their_order() {
        for matching in [Matching::LongestPath, Matching::FirstRegex] {
            let (one, other) = (prefix("/foo"), prefix("/foo"));
            let (one, other) = (Rank::new(matching, &one, b"/foo"), Rank::new(matching, &other, b"/foo"));
            assert_eq!(one.cmp(&other), Ordering::Equal);
            assert_eq!(one.reason_before(&other), "the same path is listed before it");
        }
    }
}
