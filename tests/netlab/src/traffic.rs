//! Tiny servers and clients to see what arrives where. They speak nothing but echo, and every wait has an end.

mod neighbor;
mod ping;
mod pulse;
mod tcp;
mod udp;

pub use neighbor::NeighborAsker;
pub use ping::ping;
pub use pulse::UdpPulse;
pub use tcp::{TcpClient, TcpEcho};
pub use udp::{UdpEcho, UdpReply, udp_ask};
