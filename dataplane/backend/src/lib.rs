//! Makes a host able to take DSR traffic, and checks it. It forwards nothing and knows nothing of Kubernetes: which VIPs and
//! directors there are, it is told.
//!
//! - [`Backend`]: the VIPs on `lo`, without ARP and without being a source; the director's tunnels unwrapped in XDP; the MSS
//!   of SYN-ACKs sized to the tunnel; or, for ports of VIPs that end in pods, delivered to these and answered with the VIP as
//!   source. Programs and tables are pinned, so that traffic goes on without the process.
//! - [`ProbeEgress`]: on a director, marked packets of its own go to one real server on the way of forwarded ones.
//! - [`doctor`]: what of a host stands in the way of DSR, why, and the command that changes it.

mod addresses;
mod backend;
mod classifiers;
pub mod doctor;
mod facts;
mod peer;
mod pod_tables;
mod pods;
mod prepare;
mod probe_egress;
mod programs;
mod sysctl;
mod turn;

pub use addresses::{AddressError, Addresses};
pub use backend::{
    Backend, BackendError, BackendSettings, BackendState, Changes, DEFAULT_POD_FLOWS, Directors, detach, make_room,
};
pub use classifiers::ClassifierMode;
pub use facts::read_facts;
pub use peer::{PeerNetwork, PeerNetworkError};
pub use pods::{Pod, PodError, PodPort, PodService, TransportProtocol};
pub use prepare::{HostChange, prepare_host};
pub use probe_egress::{ProbeEgress, ProbeEgressError, ProbeEgressSettings, let_answers_in};
pub use programs::{AttachMode, Attachment, ProgramError, default_pins};
pub use sysctl::SysctlError;
