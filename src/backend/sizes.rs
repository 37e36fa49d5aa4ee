//! Bytes that tunnels take from a packet.

use crate::cli::TunnelName;
use sluicegate_config::PodTunnel;
use sluicegate_l4::gue::{FORMER4, FORMER6};

/// Outer headers of IPIP over IPv4 (RFC 2003) and IPv6 (RFC 2473).
const IPIP: (u16, u16) = (20, 40);
/// The same with UDP in between: director and real server speak GUE in its short form (variant 1), which has no header of its own.
const GUE: (u16, u16) = (28, 48);

/// To a VIP that the host holds. With the second chance the header that names a former owner has to fit too. `None` = no tunnel.
pub fn of_tunnel(tunnel: TunnelName, over_ipv6: bool, second_chance: bool) -> Option<u16> {
    let former = match (second_chance, over_ipv6) {
        (false, _) => 0,
        (true, false) => FORMER4 as u16,
        (true, true) => FORMER6 as u16,
    };
    match tunnel {
        TunnelName::None => None,
        TunnelName::Ipip => Some(pick(IPIP, over_ipv6)),
        TunnelName::Gue => Some(pick(GUE, over_ipv6) + former),
    }
}

/// To a node, with method POD.
pub fn of_pod_tunnel(tunnel: PodTunnel, over_ipv6: bool) -> u16 {
    match tunnel {
        PodTunnel::Gue => pick(GUE, over_ipv6),
        PodTunnel::Ipip => pick(IPIP, over_ipv6),
    }
}

const fn pick((over_ipv4, over_ipv6): (u16, u16), is_ipv6: bool) -> u16 {
    if is_ipv6 { over_ipv6 } else { over_ipv4 }
}
