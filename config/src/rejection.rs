//! What was not taken, and what to do about it.

use crate::object::ObjectRef;
use serde::Serialize;
use std::fmt;

/// How much of the object is affected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The named part is not served. `check` exits 1.
    Rejected,
    /// The named part has no effect here (an unsupported annotation, another controller's class).
    Ignored,
    /// Served, but probably not what was meant.
    Warning,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rejected => "rejected",
            Self::Ignored => "ignored",
            Self::Warning => "warning",
        })
    }
}

/// One thing in one object that was rejected or ignored, who is at fault and the remedy.
///
/// Shown by `sluicegate check`, in the log and in `/api/v1/state`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Rejection {
    /// The object at fault.
    pub object: ObjectRef,
    /// Path of the field inside the object, as `kubectl explain` writes it with indices: `spec.rules[0].http.paths[1].path`.
    pub field: String,
    /// Rejected, ignored or served with a warning.
    pub verdict: Verdict,
    /// Why, in one sentence without a final period.
    pub reason: String,
    /// What to do, in one imperative sentence without a final period.
    pub remedy: String,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({}): {}; {}", self.verdict, self.object, self.field, self.reason, self.remedy)
    }
}
