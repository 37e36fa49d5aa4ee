//! What is counted of an API server that objects come from, and of objects that it lets us judge. Label values come from
//! closed sets of whoever counts.

use crate::control::Observed;
use crate::labels::ReviewEnd;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// One reading.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SourceCounts {
    /// For how long the API server has not answered; zero while it does.
    pub outage: Duration,
    /// How long ago it was last heard of; `None` = never.
    pub age: Option<Duration>,
    /// Seconds that this machine's clock is ahead of the API server's; `None` = not known.
    pub clock_ahead: Option<i64>,
    /// (Resource, state, watches): `well`, `reading` (not read once yet) and `failing`.
    pub watches: Vec<(&'static str, &'static str, u64)>,
    /// (Resource, times that everything of it was read).
    pub lists: Vec<(&'static str, u64)>,
    /// (Resource, failures of watches).
    pub watch_errors: Vec<(&'static str, u64)>,
    /// (Verb, resource, class of the answer, requests).
    pub requests: Vec<(&'static str, &'static str, &'static str, u64)>,
}

/// Who reads them, at each scrape: ages are of that moment.
pub type SourceReader = dyn Fn() -> SourceCounts + Send + Sync;

/// What is known of the source. Both parts are absent where there is no API server, or no webhook.
#[derive(Clone, Default)]
pub(crate) struct Source {
    pub(crate) reader: Option<Arc<SourceReader>>,
    pub(crate) reviews: Option<Reviews>,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("reviews", &self.reviews).finish_non_exhaustive()
    }
}

/// What the webhook answered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reviews {
    pub(crate) ends: [u64; ReviewEnd::COUNT],
    pub(crate) duration: Observed,
}

impl Reviews {
    pub(crate) fn count(&mut self, end: ReviewEnd, took: Duration) {
        self.ends[end.index()] += 1;
        self.duration.observe(took);
    }
}
