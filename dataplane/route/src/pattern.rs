//! Regular expressions of the nginx dialect: anchored at the start of the path, open at the end, ignoring the case of
//! ASCII letters, over bytes (as nginx runs PCRE).
//!
//! Three engines, the cheapest that can do it:
//! 1. the idioms that nearly all Ingresses use (`/api(/|$)(.*)` and the like) are compared by hand: no automaton, no
//!    memory per host and worker;
//! 2. what needs neither look-around nor back-references runs in time linear in the path. The library keeps the
//!    working memory of a search in a pool per pattern, so here alone do threads meet: a first thread has its own, others
//!    take theirs from shards without ever waiting;
//! 3. the rest backtracks, with a bound on its steps. Where the bound is hit the request is refused ([`GaveUp`]): were
//!    it taken for "no match", a client could choose to be served by the next route instead.
//!
//! A pattern that no engine takes matches nothing and says so in `explain`. Whoever makes desired state has proven each
//! pattern with [`check_pattern`], so that this happens only where the two disagree; an assertion would turn one bad
//! object into the end of all routes.

use regex_automata::meta::{self, Regex};
use regex_automata::util::primitives::NonMaxUsize;
use regex_automata::{Anchored, Input};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Hir, HirKind, Look};

/// Most bytes of a pattern's automaton, and of one that joins those of a host.
const PATTERN_SIZE: usize = 1 << 20;
const JOINED_SIZE: usize = 32 << 20;
/// Most bytes of states that a lazily built automaton keeps, for one pattern and for joined ones.
const PATTERN_CACHE: usize = 512 << 10;
const JOINED_CACHE: usize = 8 << 20;
/// Most steps of a backtracking search: below a millisecond.
const BACKTRACK_STEPS: usize = 20_000;

/// Why a regular expression cannot be a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PatternError {
    /// No engine can read it; the text is the parser's.
    Syntax(String),
    /// It is well-formed, but its automaton would be larger than 1 MiB.
    TooLarge,
}

impl std::fmt::Display for PatternError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Syntax(message) => write!(f, "the regular expression cannot be read: {message}"),
            Self::TooLarge => f.write_str("the regular expression is too large: lower its repetition counts"),
        }
    }
}

impl std::error::Error for PatternError {}

/// Says whether a text can be the pattern of a [`sluicegate_config::PathMatch::Regex`].
///
/// # Errors
/// If no engine takes it, or its automaton would exceed 1 MiB.
pub fn check_pattern(text: &str) -> Result<(), PatternError> {
    Pattern::compile(text).map(|_| ())
}

/// A backtracking search hit its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GaveUp;

/// Where the groups `$1` to `$9` lie in the path; index 0 is the whole match.
pub(crate) type Groups = [Option<(usize, usize)>; 10];

pub(crate) struct Pattern {
    engine: Engine,
    /// Lower-case bytes with which each path begins that can match, in any case.
    literal: Box<[u8]>,
}

enum Engine {
    Idiom(Idiom),
    Automaton(Regex, Hir),
    Backtracking(Box<fancy_regex::Regex>),
}

impl Pattern {
    pub(crate) fn compile(text: &str) -> Result<Self, PatternError> {
        if let Some((literal, idiom)) = Idiom::parse(text) {
            return Ok(Self { engine: Engine::Idiom(idiom), literal });
        }
        let Some((hir, folds_ascii_only)) = parse(text) else { return Self::compile_backtracking(text) };
        let regex = meta::Builder::new()
            .configure(limits(PATTERN_SIZE, PATTERN_CACHE))
            .build_from_hir(&hir)
            .map_err(|_| PatternError::TooLarge)?;
        let literal = if folds_ascii_only { leading_literal(text) } else { Box::default() };
        Ok(Self { engine: Engine::Automaton(regex, hir), literal })
    }

    fn compile_backtracking(text: &str) -> Result<Self, PatternError> {
        // Anchored by the search, not by a `^` in front, so that the pattern is read as it was written.
        let build = |mode| {
            fancy_regex::RegexBuilder::new(text)
                .case_insensitive(true)
                .bytes_mode(mode)
                .backtrack_limit(BACKTRACK_STEPS)
                .delegate_size_limit(PATTERN_SIZE)
                .max_prog_size(PATTERN_SIZE)
                .build()
        };
        let regex = build(fancy_regex::BytesMode::Ascii)
            .or_else(|_| build(fancy_regex::BytesMode::UnicodeBytes))
            .map_err(|error| PatternError::Syntax(error.to_string()))?;
        Ok(Self { engine: Engine::Backtracking(Box::new(regex)), literal: Box::default() })
    }

    pub(crate) fn matches(&self, path: &[u8]) -> Result<bool, GaveUp> {
        match &self.engine {
            Engine::Idiom(idiom) => Ok(self.behind_literal(path).is_some_and(|rest| idiom.takes(rest))),
            Engine::Automaton(regex, _) => Ok(regex.is_match(Input::new(path).anchored(Anchored::Yes))),
            Engine::Backtracking(regex) => {
                regex.is_match_input(fancy_regex::RegexInput::new(path).anchored(true)).map_err(|_| GaveUp)
            }
        }
    }

    /// Finds the groups of a match. `None` if the path does not match or the search was given up.
    pub(crate) fn groups(&self, path: &[u8]) -> Option<Groups> {
        let mut groups = Groups::default();
        match &self.engine {
            Engine::Idiom(idiom) => {
                let rest = self.behind_literal(path)?;
                if !idiom.takes(rest) {
                    return None;
                }
                idiom.groups(path, self.literal.len(), &mut groups);
            }
            Engine::Automaton(regex, _) => {
                let mut slots = [None::<NonMaxUsize>; 20];
                regex.search_slots(&Input::new(path).anchored(Anchored::Yes), &mut slots)?;
                for (group, pair) in groups.iter_mut().zip(slots.chunks_exact(2)) {
                    *group = pair[0].zip(pair[1]).map(|(start, end)| (start.get(), end.get()));
                }
            }
            Engine::Backtracking(regex) => {
                let input = fancy_regex::RegexInput::new(path).anchored(true);
                let captures = regex.captures_input(input).ok()??;
                for (at, group) in groups.iter_mut().enumerate() {
                    *group = captures.get(at).map(|found| (found.start(), found.end()));
                }
            }
        }
        Some(groups)
    }

    /// Bytes (lower case) with which a path must begin, ignoring case, for this pattern to match at all.
    pub(crate) fn literal(&self) -> &[u8] {
        &self.literal
    }

    fn behind_literal<'a>(&self, path: &'a [u8]) -> Option<&'a [u8]> {
        let (start, rest) = path.split_at_checked(self.literal.len())?;
        start.eq_ignore_ascii_case(&self.literal).then_some(rest)
    }
}

/// Several linear-time patterns as one automaton that says which is the first, in the order given, to match.
pub(crate) struct Joined(Regex);

impl Joined {
    /// Joins those that [`Pattern::can_join`]. `None` if there is nothing to gain or it would be too large.
    pub(crate) fn build<'a>(patterns: impl Iterator<Item = &'a Pattern>) -> Option<Self> {
        let hirs: Vec<&Hir> = patterns.filter_map(Pattern::hir).collect();
        if hirs.len() < 2 {
            return None;
        }
        meta::Builder::new().configure(limits(JOINED_SIZE, JOINED_CACHE)).build_many_from_hir(&hirs).ok().map(Self)
    }

    /// Position, among the joined patterns, of the first that matches.
    pub(crate) fn first(&self, path: &[u8]) -> Option<usize> {
        // All start at the same place, so "leftmost first" is "first in order".
        self.0.search_half(&Input::new(path).anchored(Anchored::Yes)).map(|found| found.pattern().as_usize())
    }
}

impl Pattern {
    /// True if [`Joined`] takes it in.
    pub(crate) fn can_join(&self) -> bool {
        self.hir().is_some()
    }

    fn hir(&self) -> Option<&Hir> {
        match &self.engine {
            Engine::Automaton(_, hir) => Some(hir),
            Engine::Idiom(_) | Engine::Backtracking(_) => None,
        }
    }
}

/// What may follow the literal part of an idiom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Idiom {
    /// Nothing or `.*`: open.
    Open,
    /// `$`: the end.
    End,
    /// `(.*)`: open, group 1 is the rest.
    Rest,
    /// `/?(.*)`: open, group 1 is the rest without a slash in front.
    OptionalSlashRest,
    /// `(/|$)`: a slash or the end, which is group 1.
    Boundary,
    /// `(/|$)(.*)`: a slash or the end, which is group 1; group 2 is the rest.
    BoundaryRest,
}

impl Idiom {
    /// Splits a pattern into its literal part (lower case) and the idiom behind it.
    fn parse(text: &str) -> Option<(Box<[u8]>, Self)> {
        let text = text.strip_prefix('^').unwrap_or(text);
        let (mut literal, rest) = literal_run(text);
        let idiom = match rest {
            "" | ".*" => Self::Open,
            "$" => Self::End,
            "(.*)" => Self::Rest,
            "(/|$)" => Self::Boundary,
            "(/|$)(.*)" => Self::BoundaryRest,
            "?(.*)" if literal.last() == Some(&b'/') => {
                literal.pop();
                Self::OptionalSlashRest
            }
            _ => return None,
        };
        Some((literal.into(), idiom))
    }

    fn takes(self, rest: &[u8]) -> bool {
        match self {
            Self::Open | Self::Rest | Self::OptionalSlashRest => true,
            Self::End => rest.is_empty(),
            Self::Boundary | Self::BoundaryRest => matches!(rest.first(), None | Some(b'/')),
        }
    }

    /// Groups of a path that matches and whose literal part ends at `at`.
    fn groups(self, path: &[u8], at: usize, groups: &mut Groups) {
        let slash = usize::from(path.get(at) == Some(&b'/'));
        // `.` takes everything but a line feed.
        let line_end = |from: usize| {
            let rest = path.get(from..).unwrap_or_default();
            rest.iter().position(|byte| *byte == b'\n').map_or(path.len(), |length| from + length)
        };
        match self {
            Self::Open | Self::End => {}
            Self::Rest => groups[1] = Some((at, line_end(at))),
            Self::OptionalSlashRest => groups[1] = Some((at + slash, line_end(at + slash))),
            Self::Boundary => groups[1] = Some((at, at + slash)),
            Self::BoundaryRest => {
                groups[1] = Some((at, at + slash));
                groups[2] = Some((at + slash, line_end(at + slash)));
            }
        }
    }
}

/// The leading ASCII characters that stand for themselves, in lower case, and what follows them.
fn literal_run(text: &str) -> (Vec<u8>, &str) {
    let mut literal = Vec::new();
    let mut rest = text;
    loop {
        let mut chars = rest.chars();
        let byte = match (chars.next(), chars.clone().next()) {
            (Some('\\'), Some(escaped @ ('/' | '.' | '-' | '_' | '~'))) => {
                chars.next();
                escaped
            }
            (Some(plain), _) if plain.is_ascii_alphanumeric() || "/-_~%:@!&=,; ".contains(plain) => plain,
            _ => return (literal, rest),
        };
        literal.extend(u8::try_from(byte).ok().map(|byte| byte.to_ascii_lowercase()));
        rest = chars.as_str();
    }
}

/// Reads a pattern over bytes; where it uses what only Unicode has (`\p{…}`, `[é]`), over characters. Says whether case
/// is folded for ASCII letters alone.
fn parse(text: &str) -> Option<(Hir, bool)> {
    let read = |unicode: bool| {
        ParserBuilder::new().case_insensitive(true).unicode(unicode).utf8(false).build().parse(text).ok()
    };
    read(false).map(|hir| (hir, true)).or_else(|| read(true).map(|hir| (hir, false)))
}

/// The literal bytes with which the pattern begins, in lower case; nothing where that is not plain to see.
fn leading_literal(text: &str) -> Box<[u8]> {
    let parsed = ParserBuilder::new().unicode(false).utf8(false).build().parse(text);
    let Ok(hir) = parsed else { return Box::default() };
    let first = match hir.kind() {
        HirKind::Literal(literal) => Some(literal),
        HirKind::Concat(parts) => parts
            .iter()
            .find(|part| !matches!(part.kind(), HirKind::Look(Look::Start)))
            .and_then(|part| if let HirKind::Literal(literal) = part.kind() { Some(literal) } else { None }),
        _ => None,
    };
    first.map(|literal| literal.0.to_ascii_lowercase().into()).unwrap_or_default()
}

fn limits(size: usize, cache: usize) -> meta::Config {
    Regex::config().utf8_empty(false).nfa_size_limit(Some(size)).hybrid_cache_capacity(cache)
}
