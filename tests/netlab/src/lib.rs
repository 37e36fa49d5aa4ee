//! Builds small networks of namespaces and takes them away again: hosts, routers and snooping bridges joined by veth
//! pairs, captures on any of their links, faults, and just enough traffic to see what arrives. It knows nothing of the
//! gateway that is tried in them, and it never touches an interface that it did not make.
//!
//! Everything goes through netlink and `bpf(2)`; no `ip`, `tc` or `ethtool` has to be installed. What it needs is root
//! (`CAP_SYS_ADMIN`, `CAP_NET_ADMIN`, `CAP_NET_RAW`, `CAP_BPF`). While a [`Lab`] lives, its namespaces can be visited:
//! `nsenter --net=/run/netns/<name>`.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use sluicegate_netlab::Lab;
//! use sluicegate_netlab::topology::DsrTopology;
//! use sluicegate_netlab::traffic::{TcpClient, TcpEcho};
//!
//! # fn main() -> Result<(), sluicegate_netlab::LabError> {
//! let lab = Lab::dsr("sg-example", DsrTopology::default())?;
//! let (client, backend) = (&lab.clients[0], &lab.backends[0]);
//! let capture = lab.lan.capture(&backend.namespace)?;
//! let server = (backend.ipv4, 8080).into();
//! let _echo = TcpEcho::start(&backend.namespace, "backend1", server)?;
//! let mut connection = TcpClient::connect(&client.namespace, server, Duration::from_secs(5))?;
//! connection.echo(b"hello")?;
//! assert_eq!(connection.server(), "backend1");
//! assert!(capture.stop().iter().any(|frame| frame.is_arp_reply_for(backend.ipv4)));
//! # Ok(())
//! # }
//! ```
//!
//! # What the kernel asks for
//!
//! - A veth hands over packets whose checksum is not computed yet, and TCP segments larger than the MTU. A packet that
//!   is sent back with `XDP_TX` would leave so. Both ends of every wire therefore have checksum and segmentation
//!   offload off (`ETHTOOL_STXCSUM`, `ETHTOOL_STSO`, `ETHTOOL_SGSO`), and receiving hosts check what they get.
//! - A frame that leaves a veth by `XDP_TX` or `XDP_REDIRECT` is dropped unless the *peer* runs NAPI, which it does
//!   with a native XDP program of its own or with GRO on. The ports of a [`Bridge`] have a program that passes
//!   everything; for other wires there is [`Namespace::accept_xdp_frames`]. GRO is not used for this, because captures
//!   would show merged segments.
//! - On wires with an MTU beyond some 3,500 bytes a native XDP program must be loaded with `xdp.frags`.
//! - The kernel takes VLAN tags out of a received frame before captures see it.
//! - Captures see neither what an XDP program took from an interface nor what it sent from there: capture at the peer,
//!   as [`Bridge::capture`] does.
//! - Delay needs a queue that holds packets back, and neither `netem` nor `fq` can be relied on: a wire with a
//!   [`delay`](WireOptions::delay) is carried by a thread in user space, so it is slow (10,000s of packets a second)
//!   and hides the carrier of the other end.

mod bpf;
mod bridge;
mod capture;
mod error;
mod fault;
mod frame;
mod lab;
mod mounts;
mod names;
mod namespace;
mod netlink;
mod offload;
mod packet_socket;
mod process;
mod slow_wire;
pub mod topology;
pub mod traffic;
mod wire;

pub use bpf::{Attachment, Hook, Instruction, Program};
pub use bridge::Bridge;
pub use capture::{Capture, FrameSender};
pub use error::LabError;
pub use fault::{Direction, Fault};
pub use frame::{Frame, Packet, TcpFlags, write_pcap};
pub use lab::Lab;
pub use namespace::Namespace;
pub use process::Process;
pub use wire::WireOptions;
