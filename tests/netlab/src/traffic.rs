//! Tiny servers and clients to see what arrives where. They speak nothing but echo, and every wait has an end.

mod ping;
mod tcp;
mod udp;

pub use ping::ping;
pub use tcp::{TcpClient, TcpEcho};
pub use udp::{UdpEcho, UdpReply, udp_ask};
