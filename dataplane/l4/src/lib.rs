//! The packet path: from a frame to a verdict. It does no I/O, allocates nothing, reads no clock and knows neither eBPF nor
//! sockets: the frame, the tables and the time come through two traits, so that the same code runs in the kernel (XDP), in
//! user space and under a fuzzer.
#![no_std]
#![forbid(unsafe_code)]

mod access;
mod arp;
mod chance;
pub mod checksum;
pub mod directory;
mod encap;
mod field;
mod flow;
pub mod gue;
pub mod hash;
mod icmp;
mod lane;
pub mod layout;
pub mod maglev;
mod ndp;
mod own;
mod parse;
mod path;
mod select;
mod station;
pub mod verdict;

pub use access::{FlowPlaces, Packet, Tables};
pub use flow::IDLE_STAMPS;
pub use own::deliver_own;
pub use path::{forward, forward_any, forward_known};
