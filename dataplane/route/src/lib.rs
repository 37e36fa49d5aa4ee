//! The L7 routing table. It contains no I/O, no clock, no randomness and no Kubernetes types; it opens no
//! connection, picks no endpoint and writes no response.
//!
//! A [`RouteTable`] is an immutable snapshot: [`RouteTable::with`] makes the next one from a
//! [`sluicegate_config::Diff`] and shares whatever did not change, [`RouteTable::find`] says where a request goes
//! without allocating, waiting or touching a reference count (`pattern` says what regular expressions add), [`rewrite()`] says what the backend is asked for and
//! [`RouteTable::explain`] says why.
//!
//! How one request flows: `host` brings the authority into the form in which hosts are stored, `table` finds the
//! virtual host (exact, wildcard, catch-all), `normalize` brings the path into the form in which the host's dialect
//! compares, `path` picks the route in the order that `precedence` defines.

mod explain;
mod host;
mod host_table;
mod index;
mod normalize;
mod path;
mod pattern;
mod precedence;
mod rewrite;
mod slots;
mod table;
mod text;

pub use explain::{Candidate, Explanation, Reason};
pub use host_table::{BackendSlot, CompiledRoute, HostTable, SeriesSlot, Target};
pub use normalize::BadPath;
pub use pattern::{PatternError, check_pattern};
pub use rewrite::{redirect_location, rewrite};
pub use table::{Outcome, RouteId, RouteTable, SlottedBackend};
