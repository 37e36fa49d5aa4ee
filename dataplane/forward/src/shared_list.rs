//! Lists that many services have alike, held once: hundreds of VIPs stand in front of the same real servers.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Weak};

/// A list that others may hold too. A clone is a reference; who changes it gets a copy of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedList<T>(Arc<[T]>);

impl<T> SharedList<T> {
    /// True where both are the very same list in memory.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T> Default for SharedList<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> From<Vec<T>> for SharedList<T> {
    fn from(list: Vec<T>) -> Self {
        Self(list.into())
    }
}

impl<T> FromIterator<T> for SharedList<T> {
    fn from_iter<I: IntoIterator<Item = T>>(list: I) -> Self {
        Self(list.into_iter().collect())
    }
}

impl<T> Deref for SharedList<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: Clone> DerefMut for SharedList<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        Arc::make_mut(&mut self.0)
    }
}

impl<'a, T> IntoIterator for &'a SharedList<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// The lists that somebody holds, by content. It keeps none of them alive.
#[derive(Debug)]
pub struct SharedLists<T> {
    known: HashMap<u64, Vec<Weak<[T]>>>,
    state: RandomState,
}

impl<T> Default for SharedLists<T> {
    fn default() -> Self {
        Self { known: HashMap::new(), state: RandomState::new() }
    }
}

impl<T: Eq + Hash> SharedLists<T> {
    /// The list with this content that somebody holds already, else this one.
    pub fn share(&mut self, list: Vec<T>) -> SharedList<T> {
        let alike = self.known.entry(self.state.hash_one(&list)).or_default();
        if let Some(known) = alike.iter().filter_map(Weak::upgrade).find(|known| **known == *list) {
            return SharedList(known);
        }
        let list: Arc<[T]> = list.into();
        alike.push(Arc::downgrade(&list));
        SharedList(list)
    }

    /// Forgets those that nobody holds any more, whose memory is not free before.
    pub fn tidy(&mut self) {
        self.known.retain(|_, alike| {
            alike.retain(|list| list.strong_count() > 0);
            !alike.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_lists_are_one_until_somebody_changes_his() {
        let mut lists = SharedLists::default();
        let (mine, mut yours, other) = (lists.share(vec![1, 2]), lists.share(vec![1, 2]), lists.share(vec![2, 1]));
        assert!(mine.is_same(&yours) && !mine.is_same(&other));
        yours[0] = 7;
        assert_eq!((&*mine, &*yours), (&[1, 2][..], &[7, 2][..]));
        assert!(lists.share(vec![1, 2]).is_same(&mine));
        drop((mine, yours, other));
        lists.tidy();
        assert!(lists.known.is_empty(), "{lists:?}");
    }
}
