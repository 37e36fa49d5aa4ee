//! How it stands with the API server: when it last answered, and what each watch is missing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// One watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchState {
    /// Everything that there was has been read once, or there is no right to read it.
    pub is_read: bool,
    /// What is wrong at present.
    pub error: Option<Arc<str>>,
}

/// What is known of the API server, for probes, metrics and the page. Shared by every client of it.
#[derive(Debug, Default)]
pub struct ApiContact {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    answered: Option<Instant>,
    failed: Option<(Instant, Arc<str>)>,
    watches: BTreeMap<Arc<str>, WatchState>,
}

impl ApiContact {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why nothing is heard from the API server, and since when; `None` while it answers.
    #[must_use]
    pub fn outage(&self, now: Instant) -> Option<(Duration, Arc<str>)> {
        let inner = self.inner();
        let (failed, why) = inner.failed.as_ref()?;
        match inner.answered {
            Some(answered) if answered >= *failed => None,
            Some(answered) => Some((now.saturating_duration_since(answered), Arc::clone(why))),
            None => Some((Duration::ZERO, Arc::clone(why))),
        }
    }

    /// The watches by name, such as `services` or `services in shop`.
    #[must_use]
    pub fn watches(&self) -> BTreeMap<Arc<str>, WatchState> {
        self.inner().watches.clone()
    }

    pub(super) fn answered(&self) {
        self.inner().answered = Some(Instant::now());
    }

    pub(super) fn failed(&self, why: &str) {
        self.inner().failed = Some((Instant::now(), why.into()));
    }

    pub(super) fn set(&self, watch: &Arc<str>, state: WatchState) {
        self.inner().watches.insert(Arc::clone(watch), state);
    }

    pub(super) fn forget(&self, watch: &str) {
        self.inner().watches.remove(watch);
    }
}
