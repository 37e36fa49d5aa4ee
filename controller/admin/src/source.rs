//! The API server in `/api/v1/state`: how it stands with it, and which watches fail.

use serde::{Deserialize, Serialize};

/// Failing watches that are named; more are counted alone.
pub const MOST_NAMED: usize = 100;

/// The API server that objects come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceState {
    /// Its address.
    pub api_server: String,
    /// For how long it has not answered, in seconds; null while it does. What was read is served meanwhile.
    pub outage_seconds: Option<u64>,
    /// Why not.
    pub why: Option<String>,
    /// How long ago it was last heard of; null where it never was. A quiet one is heard of once a minute.
    pub heard_seconds_ago: Option<u64>,
    /// By how many seconds this machine's clock is ahead of its (negative: behind); null where that is not known.
    pub clock_ahead_seconds: Option<i64>,
    /// How the watches do.
    pub watches: WatchCounts,
    /// Those that fail, by name.
    pub failing: Vec<FailingWatch>,
}

/// Watches by how they do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchCounts {
    /// Read, and followed.
    pub well: u64,
    /// Not read once yet.
    pub reading: u64,
    /// Something is wrong; what was read stays in force.
    pub failing: u64,
}

/// A watch that fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailingWatch {
    /// `services`, `secrets in shop named tls`.
    pub watch: String,
    /// What is wrong.
    pub error: String,
}

impl SourceState {
    /// What is to be said beside readiness: an API server that is away speaks against no traffic.
    #[must_use]
    pub fn remark(&self) -> Option<String> {
        let seconds = self.outage_seconds?;
        let why = self.why.as_deref().unwrap_or("it does not answer");
        Some(format!(
            "the API server {} has not answered for {seconds} s ({why}); what was read is served",
            self.api_server
        ))
    }
}
