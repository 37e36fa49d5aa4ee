//! How it stands with the API server: when it last answered, what each watch is missing, and what was asked of it.

use super::request::Asked;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A server of which nothing at all is heard for so long is away, though no request has failed: watches are asked for anew
/// every minute, and a connection that died without a word may keep one waiting.
const SILENCE: Duration = Duration::from_secs(90);

/// Clocks that differ by more than this many seconds are worth a word: certificates and tokens are judged by them. Nothing here
/// is: Leases are judged by how long they have not moved.
const CLOCKS_DIFFER: i64 = 5;

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
    clock_ahead: Option<i64>,
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

    /// By how many seconds this machine's clock is ahead of the API server's (negative: behind), by the last answer that
    /// said the time. Below two seconds it is nothing, because answers say it to the second.
    #[must_use]
    pub fn clock_ahead(&self) -> Option<i64> {
        self.inner().clock_ahead
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

    /// An answer said what time it is there; `ahead` is ours less that, in seconds. Says what to tell of it, once.
    pub(super) fn compared(&self, ahead: i64) -> Option<String> {
        let ahead = if ahead.abs() < 2 { 0 } else { ahead };
        let before = self.inner().clock_ahead.replace(ahead).unwrap_or_default();
        let (differs, differed) = (ahead.abs() > CLOCKS_DIFFER, before.abs() > CLOCKS_DIFFER);
        let which = if ahead > 0 { "ahead of" } else { "behind" };
        match (differs, differed) {
            (true, false) => Some(format!(
                "this machine's clock is {} s {which} the API server's; certificates and tokens may be refused for it: set \
                 both by NTP",
                ahead.abs()
            )),
            (false, true) => Some("this machine's clock agrees with the API server's again".to_owned()),
            _ => None,
        }
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
    fn clocks_that_differ_are_told_once() {
        let contact = ApiContact::default();
        assert_eq!((contact.clock_ahead(), contact.compared(1), contact.clock_ahead()), (None, None, Some(0)));
        let told = contact.compared(-40).expect("it differs");
        assert!(told.contains("40 s behind"), "{told}");
        assert_eq!((contact.compared(-41), contact.clock_ahead()), (None, Some(-41)));
        assert!(contact.compared(0).expect("it agrees").contains("again"));
        assert!(contact.compared(3600).expect("it differs").contains("3600 s ahead of"));
    }

    #[test]
    fn silence_is_an_outage_without_an_error() {
        let contact = ApiContact::default();
        contact.answered(ASKED, Answered::Success);
        assert_eq!(contact.outage(Instant::now() + SILENCE / 2), None);
        assert!(contact.outage(Instant::now() + SILENCE * 2).is_some());
    }
}
