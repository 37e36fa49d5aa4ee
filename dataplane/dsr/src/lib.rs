//! Direct server return beside the director, frame by frame: a real server unwraps what the director sent
//! ([`unwrap()`]), delivers it into pods ([`pod`]) and sizes its clients' packets ([`clamp()`]); a director sends health probes
//! the packets' own way ([`probe()`]).
//!
//! As `sluicegate-l4`, it does no I/O, allocates nothing, reads no clock and knows neither eBPF nor sockets: frame and
//! tables come through traits, so that the same code runs in the kernel and in tests.
#![no_std]
#![forbid(unsafe_code)]

mod clamp;
mod ecn;
mod frame;
pub mod hand_over;
pub mod layout;
pub mod pod;
mod probe;
mod unwrap;
mod verdict;

pub use clamp::clamp;
pub use frame::{Change, StackFrame};
pub use probe::{ProbeVerdict, probe};
pub use unwrap::{HostTables, unwrap};
pub use verdict::{Reason, Verdict};
