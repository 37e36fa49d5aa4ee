//! `http`: a load generator for HTTP/1.1, HTTP/2, WebSocket, gRPC and TLS handshakes.
//!
//! A thread a core, each with connections, schedule and histogram of its own: nothing is shared while it loads. Latency
//! counts from the moment at which a request was meant to begin, so that a server that stalls is charged for every request
//! that had to wait.

pub mod outcome;
pub mod plan;
pub mod progress;

use outcome::Outcome;
use plan::Plan;
use progress::Progress;

/// Loads a server as planned, and counts.
///
/// # Errors
/// Where the plan contradicts itself, a name has no address, certificates cannot be read, or no connection could be made;
/// what fails once load has begun is counted in [`Outcome::errors`].
pub fn run(plan: &Plan, _progress: &dyn Progress) -> anyhow::Result<Outcome> {
    plan.check()?;
    anyhow::bail!("not here yet")
}
