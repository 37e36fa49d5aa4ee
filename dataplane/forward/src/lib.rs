//! Fills the tables of the packet path and attaches it to the network. It does not decide what is served: it makes the
//! tables say what the desired state says, make before break.

pub mod netlink;
pub mod ports;
pub mod topology;
