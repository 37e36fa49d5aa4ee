//! The end of a worker: what is told to whom, in which order, and what is cut.

use std::time::Duration;

/// What a shutdown came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were still open at the deadline and were cut.
    pub cut: usize,
    /// How long it took.
    pub took: Duration,
}
