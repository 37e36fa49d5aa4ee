//! Which Ingresses have a part in which key.

use sluicegate_config::NamespacedName;
use std::collections::BTreeSet;
use std::ops::Bound;

/// Pairs of a key and an Ingress, in order. One set of pairs and not a set per key: nearly all keys have one user,
/// and a set of one takes as much memory as a set of eleven.
#[derive(Debug)]
pub(crate) struct Users<K> {
    pairs: BTreeSet<(K, NamespacedName)>,
    /// Before and after every name: namespaces are DNS labels.
    first: NamespacedName,
    last: NamespacedName,
}

impl<K: Ord> Default for Users<K> {
    fn default() -> Self {
        Self { pairs: BTreeSet::new(), first: NamespacedName::new("", ""), last: NamespacedName::new("\u{10FFFF}", "") }
    }
}

impl<K: Ord + Clone> Users<K> {
    pub(crate) fn insert(&mut self, key: K, user: NamespacedName) {
        self.pairs.insert((key, user));
    }

    pub(crate) fn remove(&mut self, key: K, user: NamespacedName) {
        self.pairs.remove(&(key, user));
    }

    /// Gives back what it has too much, as [`crate::Controller::pack`].
    pub(crate) fn pack(&mut self) {
        self.pairs = std::mem::take(&mut self.pairs).into_iter().collect();
    }

    /// The users of a key, by namespace and name.
    pub(crate) fn of<'a, 'k>(&'a self, key: &'k K) -> impl Iterator<Item = &'a NamespacedName> + use<'a, 'k, K> {
        self.pairs
            .range((Bound::Included((key.clone(), self.first.clone())), Bound::Unbounded))
            .take_while(move |(of, _)| of == key)
            .map(|(_, user)| user)
    }

    /// All keys that have users, once each.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.skip_from(self.pairs.first().map(|(key, _)| key))
    }

    /// Keys from `start` on, once each and in order, as long as they pass.
    pub(crate) fn keys_from<'a>(&'a self, start: K, pass: impl Fn(&K) -> bool + 'a) -> impl Iterator<Item = &'a K> {
        let first = self.pairs.range((start, self.first.clone())..).next().map(|(key, _)| key);
        self.skip_from(first).take_while(move |key| pass(key))
    }

    /// Jumps from key to key, however many users each has.
    fn skip_from<'a>(&'a self, first: Option<&'a K>) -> impl Iterator<Item = &'a K> {
        std::iter::successors(first, |key| {
            let past = (Bound::Excluded(((*key).clone(), self.last.clone())), Bound::Unbounded);
            self.pairs.range(past).next().map(|(next, _)| next)
        })
    }
}
