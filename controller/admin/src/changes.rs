//! The last changes: what the source told, what moved by it, how long that took. A bounded ring.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Changes that are kept; older ones go.
pub const MOST_CHANGES: usize = 200;

/// Names that are kept of each part of a change; more are counted alone.
pub const MOST_NAMES: usize = 20;

/// One change of what is served, or of what was not taken.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ChangeState {
    /// Counted up from 1 with each change.
    pub number: u64,
    /// When it was served, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The generation after it.
    pub generation: u64,
    /// `objects`: the source told of some. `time`: a certificate's time came, for one. `pools`: addresses were given.
    pub cause: String,
    /// Objects that the source told of.
    pub objects: NamedChanges,
    /// What moved by it in tables, by kind (`hosts`, `backends`, `server_names`, `certificates`, `listeners`, `vips`);
    /// kinds of which nothing moved are absent.
    pub moved: Vec<MovedState>,
    /// How many parts of objects were newly not taken.
    pub new_rejections: u64,
    /// How many are not among them any more.
    pub gone_rejections: u64,
    /// From when the source noticed it to the swap of the tables, in milliseconds.
    pub took_ms: f64,
    /// What the data plane could not do of it.
    pub failures: Vec<String>,
}

/// What moved of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedState {
    /// Its plural.
    pub kind: String,
    /// Which.
    #[serde(flatten)]
    pub names: NamedChanges,
}

/// Things that changed, the first by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedChanges {
    /// How many there are.
    pub count: u64,
    /// The first [`MOST_NAMES`].
    pub first: Vec<ChangedName>,
}

/// One thing that changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedName {
    /// Its name; an object's with the kind before it: `Ingress shop/web`.
    pub name: String,
    /// It is not there any more.
    pub gone: bool,
}

impl NamedChanges {
    /// Counts all, and writes the names of the first alone.
    pub fn of<T>(changed: impl ExactSizeIterator<Item = T>, name: impl Fn(T) -> ChangedName) -> Self {
        let count = u64::try_from(changed.len()).unwrap_or(u64::MAX);
        Self { count, first: changed.take(MOST_NAMES).map(name).collect() }
    }

    /// Adds others behind these.
    pub fn add(&mut self, others: Self) {
        self.count = self.count.saturating_add(others.count);
        let room = MOST_NAMES.saturating_sub(self.first.len());
        self.first.extend(others.first.into_iter().take(room));
    }
}

/// The ring. One thread adds, others look.
#[derive(Debug, Default)]
pub struct ChangeLog {
    kept: Mutex<VecDeque<ChangeState>>,
}

impl ChangeLog {
    /// Adds a change; its number is the next one, whatever it says. The oldest goes where there are too many.
    pub fn add(&self, mut change: ChangeState) {
        let mut kept = self.locked();
        change.number = kept.back().map_or(0, |last| last.number) + 1;
        if kept.len() == MOST_CHANGES {
            kept.pop_front();
        }
        kept.push_back(change);
    }

    /// The number of the last change; 0 before the first.
    pub fn last(&self) -> u64 {
        self.locked().back().map_or(0, |last| last.number)
    }

    /// All that are kept, the newest first.
    pub fn newest_first(&self) -> Vec<ChangeState> {
        self.locked().iter().rev().cloned().collect()
    }

    fn locked(&self) -> MutexGuard<'_, VecDeque<ChangeState>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_keeps_the_newest_and_counts_on() {
        let log = ChangeLog::default();
        assert_eq!(log.last(), 0);
        for generation in 1..=250 {
            log.add(ChangeState { generation, ..ChangeState::default() });
        }
        let kept = log.newest_first();
        assert_eq!((kept.len(), kept[0].number, kept[0].generation, log.last()), (MOST_CHANGES, 250, 250, 250));
        assert_eq!(kept[MOST_CHANGES - 1].number, 51);
    }

    #[test]
    fn names_are_bounded_and_counted() {
        let many: Vec<u32> = (0..1_000).collect();
        let named = NamedChanges::of(many.iter(), |one| ChangedName { name: one.to_string(), gone: false });
        assert_eq!((named.count, named.first.len(), named.first[19].name.as_str()), (1_000, MOST_NAMES, "19"));
        let mut few = NamedChanges::of([0].iter(), |_| ChangedName { name: "first".to_owned(), gone: false });
        few.add(named);
        assert_eq!((few.count, few.first.len(), few.first[1].name.as_str()), (1_001, MOST_NAMES, "0"));
    }
}
