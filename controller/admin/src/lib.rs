//! The HTTP servers of the gateway's own: probes and metrics for machines, state and `explain` for people.
//!
//! It knows neither the proxy nor Kubernetes: what it shows it asks of a [`StateView`]. Nothing is changed through it but
//! whether the director is cordoned; all else is GET and HEAD alone. It runs in one thread of its own, apart from the workers
//! that serve traffic; what may take long (the whole state of 20,000 Ingresses) runs beside that thread, so that probes are
//! answered meanwhile. The status page is files that are embedded, which ask the same API as everybody else.

mod answer;
mod body;
pub mod changes;
pub mod director;
mod events;
mod guard;
pub mod history;
pub mod leaders;
pub mod packets;
mod page;
mod scrape;
pub mod server;
pub mod source;
pub mod state;
pub mod traffic;
pub mod view;

pub use body::Lines;
pub use changes::{ChangeLog, ChangeState};
pub use server::{Addresses, AdminServer, AdminSettings, ProbeServer, StartError};
pub use state::{Live, Section, State};
pub use traffic::{Pulse, RequestCounts, TrafficVisitor};
pub use view::{ExplainError, Readiness, StateView, TapError, TapRequest, Unavailable};
