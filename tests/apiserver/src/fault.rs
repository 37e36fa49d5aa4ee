//! What goes wrong, and when: a plan that is asked about every request.

use crate::serve::Seen;
use http::StatusCode;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is served so much later.
    Delay(Duration),
    /// It is answered with this status and reason, and does nothing.
    Refuse(StatusCode, &'static str),
    /// It is done, and the connection is closed before the answer.
    LoseAnswer,
    /// The connection is closed before anything is done.
    Cut,
    /// The answer is this body with status 200, whatever was asked.
    Answer(String),
    /// A watch ends after so many events (initial ones included), by a closed connection.
    CutAfter(usize),
    /// Each event of a watch waits so long.
    Slow(Duration),
}

type Plan = dyn FnMut(&Seen) -> Option<Fault> + Send;

/// The plan of a server. Cloned, it is the same one.
#[derive(Clone, Default)]
pub struct Faults(Arc<Mutex<Option<Box<Plan>>>>);

impl Faults {
    /// Asks this of every request from now on.
    pub fn set(&self, plan: impl FnMut(&Seen) -> Option<Fault> + Send + 'static) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(plan));
    }

    /// Nothing goes wrong any more.
    pub fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(crate) fn of(&self, seen: &Seen) -> Option<Fault> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut().and_then(|plan| plan(seen))
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faults")
    }
}
