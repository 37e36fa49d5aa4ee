//! Fills the tables of the packet path and attaches it to the network. It does not decide what is served: it makes the
//! tables say what the desired state says, make before break.

pub mod allocations;
pub mod dissect;
pub mod engine;
pub mod explain;
pub mod failure;
pub mod fleet;
pub mod forwarder;
pub mod head;
pub mod netlink;
pub mod offload;
pub mod own_clients;
pub mod packet_tuple;
pub mod pins;
pub mod plan;
pub mod ports;
pub mod sampling;
pub mod shared_list;
pub mod stats;
pub mod status;
pub mod tables;
pub mod tap;
pub mod topology;
pub mod wall_clock;
pub mod weights;
