//! Which of a host's routes takes a path, fast with one route and with thousands.
//!
//! A single route, which most hosts have, is compared from memory that lies next to the host's name. Few are tried one after
//! the other, in order of precedence. Many
//! literal paths become a hash table that is probed at the path's element boundaries, the longest first, and a sorted
//! list for prefixes of characters. Many regular expressions are told apart by the literal text that they begin
//! with, and those that need an automaton share one.

use crate::index::Seed;
use crate::pattern::{GaveUp, Joined, Pattern};
use crate::text::Text;
use hashbrown::HashTable;
use smallvec::SmallVec;
use std::sync::Arc;

/// Up to so many routes, trying each is cheaper than hashing.
const FEW: usize = 8;
/// So many automata and more are joined into one.
const MANY_AUTOMATA: usize = 16;

/// The condition of one route.
#[derive(Clone)]
pub(crate) enum Condition {
    Exact(Text),
    /// Without the trailing slash, which does not count; empty takes everything.
    Prefix(Text),
    StringPrefix(Text),
    Regex(Arc<Pattern>),
    /// A regular expression that no engine takes.
    Never,
}

impl Condition {
    pub(crate) fn prefix(text: &[u8]) -> Self {
        Self::Prefix(text.strip_suffix(b"/").unwrap_or(text).into())
    }

    #[inline]
    pub(crate) fn matches(&self, path: &[u8]) -> Result<bool, GaveUp> {
        match self {
            Self::Exact(text) => Ok(path == text.as_bytes()),
            Self::Prefix(text) => Ok(is_element_prefix(text.as_bytes(), path)),
            Self::StringPrefix(text) => Ok(path.starts_with(text.as_bytes())),
            Self::Regex(pattern) => pattern.matches(path),
            Self::Never => Ok(false),
        }
    }
}

#[inline]
fn is_element_prefix(prefix: &[u8], path: &[u8]) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| prefix.is_empty() || matches!(rest.first(), None | Some(b'/')))
}

/// Finds the position, in order of precedence, of the first condition that a path meets.
#[derive(Clone)]
pub(crate) enum Matcher {
    One(Condition),
    Few(Arc<[Condition]>),
    Paths(Arc<Paths>),
    Patterns(Arc<Patterns>),
}

impl Matcher {
    /// `conditions` are in order of precedence. `longest_path` says that the order is that of
    /// [`sluicegate_config::Matching::LongestPath`], which the hash table relies on.
    pub(crate) fn new(conditions: Vec<Condition>, longest_path: bool, seed: Seed) -> Self {
        let is_regex = |condition: &Condition| matches!(condition, Condition::Regex(_) | Condition::Never);
        if let [one] = conditions.as_slice() {
            Self::One(one.clone())
        } else if conditions.len() <= FEW {
            Self::Few(conditions.into())
        } else if longest_path && !conditions.iter().any(is_regex) {
            Self::Paths(Arc::new(Paths::new(&conditions, seed)))
        } else if conditions.iter().all(is_regex) {
            Self::Patterns(Arc::new(Patterns::new(conditions)))
        } else {
            Self::Few(conditions.into())
        }
    }

    #[inline]
    pub(crate) fn find(&self, path: &[u8], seed: Seed) -> Result<Option<u32>, GaveUp> {
        match self {
            Self::One(condition) => Ok(condition.matches(path)?.then_some(0)),
            Self::Few(conditions) => {
                for (at, condition) in (0..).zip(conditions.iter()) {
                    if condition.matches(path)? {
                        return Ok(Some(at));
                    }
                }
                Ok(None)
            }
            Self::Paths(paths) => Ok(paths.find(path, seed)),
            Self::Patterns(patterns) => patterns.find(path),
        }
    }
}

/// Literal paths, many of them.
pub(crate) struct Paths {
    nodes: HashTable<Node>,
    /// Number of slashes in the longest-reaching prefix, and its bytes: nothing beyond is looked at.
    max_slashes: usize,
    max_len: usize,
    /// The prefix that takes everything.
    root: Option<u32>,
    string_prefixes: PrefixList,
}

struct Node {
    hash: u64,
    text: Box<[u8]>,
    exact: Option<u32>,
    prefix: Option<u32>,
}

impl Paths {
    fn new(conditions: &[Condition], seed: Seed) -> Self {
        let mut paths = Self {
            nodes: HashTable::new(),
            max_slashes: 0,
            max_len: 0,
            root: None,
            string_prefixes: PrefixList::default(),
        };
        let mut string_prefixes = Vec::new();
        for (at, condition) in (0..).zip(conditions) {
            match condition {
                Condition::Exact(text) => {
                    paths.node(text.as_bytes(), seed).exact.get_or_insert(at);
                }
                Condition::Prefix(text) if text.as_bytes().is_empty() => {
                    paths.root.get_or_insert(at);
                }
                Condition::Prefix(text) => {
                    paths.max_slashes = paths.max_slashes.max(count_slashes(text.as_bytes()));
                    paths.node(text.as_bytes(), seed).prefix.get_or_insert(at);
                }
                Condition::StringPrefix(text) => string_prefixes.push((text.as_bytes().to_vec(), at)),
                Condition::Regex(_) | Condition::Never => {}
            }
        }
        paths.string_prefixes = PrefixList::new(string_prefixes);
        paths
    }

    fn node(&mut self, text: &[u8], seed: Seed) -> &mut Node {
        self.max_len = self.max_len.max(text.len());
        let hash = seed.hash(text);
        self.nodes
            .entry(hash, |node| *node.text == *text, |node| node.hash)
            .or_insert_with(|| Node { hash, text: text.into(), exact: None, prefix: None })
            .into_mut()
    }

    fn find(&self, path: &[u8], seed: Seed) -> Option<u32> {
        let probe = |text: &[u8]| {
            let hash = seed.hash(text);
            self.nodes.find(hash, |node| node.hash == hash && *node.text == *text)
        };
        let whole = if path.len() <= self.max_len { probe(path) } else { None };
        if let Some(exact) = whole.and_then(|node| node.exact) {
            return Some(exact);
        }
        let prefix = whole
            .and_then(|node| node.prefix)
            .or_else(|| self.boundaries(path).iter().rev().find_map(|end| probe(path.get(..*end)?)?.prefix))
            .or(self.root);
        let string_prefix = self.string_prefixes.of(path).next().and_then(|entry| entry.values.first().copied());
        match (prefix, string_prefix) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    /// Where elements end before the end of the path, as far as any prefix reaches.
    fn boundaries(&self, path: &[u8]) -> SmallVec<[usize; 16]> {
        let reach = path.get(..=self.max_len).unwrap_or(path);
        let ends = reach.iter().enumerate().skip(1).filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        ends.take(self.max_slashes).collect()
    }
}

fn count_slashes(text: &[u8]) -> usize {
    text.iter().filter(|byte| **byte == b'/').count()
}

/// Texts, of which those are wanted that another text begins with.
#[derive(Default)]
struct PrefixList {
    /// Sorted by text.
    entries: Vec<PrefixEntry>,
}

struct PrefixEntry {
    text: Box<[u8]>,
    /// The longest other text that this one begins with.
    parent: Option<usize>,
    /// What stands for the text, ascending.
    values: SmallVec<[u32; 2]>,
}

impl PrefixList {
    fn new(mut texts: Vec<(Vec<u8>, u32)>) -> Self {
        texts.sort();
        let mut entries: Vec<PrefixEntry> = Vec::with_capacity(texts.len());
        for (text, value) in texts {
            if let Some(last) = entries.last_mut().filter(|last| *last.text == *text) {
                last.values.push(value);
                continue;
            }
            let mut parent = entries.len().checked_sub(1);
            while let Some(entry) = parent.and_then(|at| entries.get(at)) {
                if text.starts_with(&entry.text) {
                    break;
                }
                parent = entry.parent;
            }
            entries.push(PrefixEntry { text: text.into(), parent, values: SmallVec::from_slice(&[value]) });
        }
        Self { entries }
    }

    /// The entries that `text` begins with, the longest first.
    fn of(&self, text: &[u8]) -> impl Iterator<Item = &PrefixEntry> {
        // Whatever `text` begins with sorts at or before it, and begins the last entry that does, too.
        let last = self.entries.partition_point(|entry| *entry.text <= *text).checked_sub(1);
        let last = last.and_then(|at| self.entries.get(at));
        let common =
            last.map_or(0, |entry| entry.text.iter().zip(text).take_while(|(one, other)| one == other).count());
        let chain = std::iter::successors(last, |entry| self.entries.get(entry.parent?));
        chain.filter(move |entry| entry.text.len() <= common)
    }
}

/// Regular expressions, many of them.
pub(crate) struct Patterns {
    conditions: Vec<Condition>,
    /// Those that are not joined, under the literal text that they begin with.
    by_literal: PrefixList,
    joined: Option<(Joined, Vec<u32>)>,
}

impl Patterns {
    fn new(conditions: Vec<Condition>) -> Self {
        let patterns = || {
            (0..).zip(&conditions).filter_map(|(at, condition)| match condition {
                Condition::Regex(pattern) => Some((at, pattern.as_ref())),
                _ => None,
            })
        };
        let joinable = || patterns().filter(|(_, pattern)| pattern.can_join());
        let joined = if joinable().count() >= MANY_AUTOMATA {
            let members = joinable().map(|(at, _)| at).collect();
            Joined::build(joinable().map(|(_, pattern)| pattern)).map(|joined| (joined, members))
        } else {
            None
        };
        let alone = patterns().filter(|(_, pattern)| joined.is_none() || !pattern.can_join());
        let by_literal = PrefixList::new(alone.map(|(at, pattern)| (pattern.literal().to_vec(), at)).collect());
        Self { conditions, by_literal, joined }
    }

    fn find(&self, path: &[u8]) -> Result<Option<u32>, GaveUp> {
        let mut best = self.joined.as_ref().and_then(|(joined, members)| members.get(joined.first(path)?).copied());
        let mut gave_up = None;
        let mut lower: SmallVec<[u8; 256]> = path.into();
        lower.make_ascii_lowercase();
        for entry in self.by_literal.of(&lower) {
            for at in entry.values.iter().copied() {
                // Ascending, so nothing behind can come before what is known.
                if best.is_some_and(|best| best < at) || gave_up.is_some_and(|gave_up| gave_up < at) {
                    break;
                }
                let Some(condition) = self.conditions.get(at as usize) else { continue };
                match condition.matches(path) {
                    Ok(true) => best = Some(at),
                    Ok(false) => {}
                    Err(GaveUp) => gave_up = Some(at),
                }
            }
        }
        match (best, gave_up) {
            (Some(best), Some(gave_up)) if gave_up < best => Err(GaveUp),
            (None, Some(_)) => Err(GaveUp),
            _ => Ok(best),
        }
    }
}
