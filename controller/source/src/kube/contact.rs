//! How it stands with the API server: when it last answered, what each watch is missing, and what was asked of it.

use super::request::Asked;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A server of which nothing at all is heard for so long is away, though no request has failed: watches are asked for anew
/// every minute, and a connection that died without a word may keep one waiting.
const SILENCE: Duration = Duration::from_secs(90);

/// One watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchState {
    /// What is watched, as paths and rights call it: `services`.
    pub resource: &'static str,
    /// Everything that there was has been read once, or there is no right to read it.
    pub is_read: bool,
    /// What is wrong at present.
    pub error: Option<Arc<str>>,
}

impl WatchState {
    pub(super) fn new(resource: &'static str) -> Self {
        Self { resource, is_read: false, error: None }
    }
}

/// The answers to requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answered {
    /// 2xx.
    Success,
    /// 3xx and 4xx: somebody else was faster, a right is missing, a version is forgotten, too many requests.
    Refused,
    /// 5xx.
    Failed,
    /// No answer at all.
    Not,
}

/// What was asked of the API server since the start. The sets of labels are closed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiCounts {
    /// Requests, by verb, resource and answer. A watch counts once, however long it goes on.
    pub requests: BTreeMap<(&'static str, &'static str, Answered), u64>,
    /// Times that everything of a resource was read, the first time included.
    pub lists: BTreeMap<&'static str, u64>,
    /// Watches that broke, or could not begin.
    pub watch_errors: BTreeMap<&'static str, u64>,
}

/// What is known of the API server, for probes, metrics and the page. Shared by every client of it.
#[derive(Debug)]
pub struct ApiContact {
    begun: Instant,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    answered: Option<Instant>,
    failed: Option<(Instant, Arc<str>)>,
    watches: BTreeMap<Arc<str>, WatchState>,
    counts: ApiCounts,
}

impl Default for ApiContact {
    fn default() -> Self {
        Self { begun: Instant::now(), inner: Mutex::default() }
    }
}

impl ApiContact {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why nothing is heard from the API server, and for how long; `None` while it answers.
    #[must_use]
    pub fn outage(&self, now: Instant) -> Option<(Duration, Arc<str>)> {
        let inner = self.inner();
        let age = now.saturating_duration_since(inner.answered.unwrap_or(self.begun));
        match &inner.failed {
            Some((failed, why)) if inner.answered.is_none_or(|answered| answered < *failed) => {
                Some((age, Arc::clone(why)))
            }
            _ => (age > SILENCE).then(|| (age, "nothing is heard of it".into())),
        }
    }

    /// How long ago it was last heard of; `None` = never. A quiet cluster is heard of once a minute.
    #[must_use]
    pub fn age(&self, now: Instant) -> Option<Duration> {
        self.inner().answered.map(|answered| now.saturating_duration_since(answered))
    }

    /// The watches by name, such as `services` or `services in shop`.
    #[must_use]
    pub fn watches(&self) -> BTreeMap<Arc<str>, WatchState> {
        self.inner().watches.clone()
    }

    /// What was asked so far.
    #[must_use]
    pub fn counts(&self) -> ApiCounts {
        self.inner().counts.clone()
    }

    /// It was heard of.
    pub(super) fn heard(&self) {
        self.inner().answered = Some(Instant::now());
    }

    pub(super) fn answered(&self, asked: Asked, how: Answered) {
        let mut inner = self.inner();
        inner.answered = Some(Instant::now());
        inner.count(asked, how);
    }

    pub(super) fn failed(&self, asked: Asked, how: Answered, why: &str) {
        let mut inner = self.inner();
        inner.failed = Some((Instant::now(), why.into()));
        inner.count(asked, how);
    }

    pub(super) fn listed(&self, resource: &'static str) {
        *self.inner().counts.lists.entry(resource).or_default() += 1;
    }

    pub(super) fn set(&self, watch: &Arc<str>, state: WatchState) {
        let mut inner = self.inner();
        if state.error.is_some() {
            *inner.counts.watch_errors.entry(state.resource).or_default() += 1;
        }
        inner.watches.insert(Arc::clone(watch), state);
    }

    pub(super) fn forget(&self, watch: &str) {
        self.inner().watches.remove(watch);
    }
}

impl Inner {
    fn count(&mut self, Asked { verb, resource }: Asked, how: Answered) {
        *self.counts.requests.entry((verb, resource, how)).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Asked = Asked { verb: "get", resource: "leases" };

    #[test]
    fn an_outage_is_as_old_as_the_last_answer() {
        let contact = ApiContact::default();
        let later = Instant::now() + Duration::from_secs(20);
        assert_eq!((contact.outage(later), contact.age(later)), (None, None), "it has only just begun");
        contact.failed(ASKED, Answered::Not, "refused");
        let (age, why) = contact.outage(later).expect("an outage");
        assert!(age >= Duration::from_secs(20) && &*why == "refused", "{age:?} {why}");
        contact.answered(ASKED, Answered::Success);
        assert_eq!(contact.outage(later), None);
        contact.failed(ASKED, Answered::Failed, "503");
        assert!(contact.outage(later).is_some());
        contact.heard();
        assert_eq!(contact.outage(later), None);
    }

    #[test]
    fn silence_is_an_outage_without_an_error() {
        let contact = ApiContact::default();
        contact.answered(ASKED, Answered::Success);
        assert_eq!(contact.outage(Instant::now() + SILENCE / 2), None);
        assert!(contact.outage(Instant::now() + SILENCE * 2).is_some());
    }
}
