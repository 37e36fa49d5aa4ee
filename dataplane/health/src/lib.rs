//! Whether real servers answer: probes along the way of the packets, and verdicts with a reason.
//!
//! It changes no table and announces nothing: who programs the forwarder reads its verdicts, [`combine`]s them with what
//! Kubernetes says of the real servers, and acts. It knows nothing of tunnels either: a probe goes to the VIP from a socket
//! whose mark names the real server, and the director's egress program delivers it as it delivers clients' packets
//! ([`ProbeRoute`]).
//!
//! [`Checker`] decides when to probe and what the answers mean. It is pure: time is an argument, and no socket is in
//! sight. [`Health`] is the thread around it, with one task for each probe that is under way.

mod binding;
mod checker;
mod failure;
mod grpc;
mod health;
mod http;
mod icmp;
mod probe;
mod route;
mod target;
mod tcp;
mod tls;
mod udp;

pub use binding::{Combined, combine, targets};
pub use checker::{Checker, DueProbe, RealPort, Ticket};
pub use failure::{Failure, Step};
pub use health::{Health, HealthSettings, StartError};
pub use probe::Prober;
pub use route::{ProbeRoute, Way};
pub use target::{Change, LastProbe, Status, Target, Verdict};
