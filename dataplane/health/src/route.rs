//! The way of a probe.

use crate::target::Target;
use std::net::IpAddr;
use std::sync::Arc;

/// How a probe reaches its real server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// As the packets of clients do: to the VIP, from a socket with this mark (`SO_MARK`). The director's egress program
    /// knows the real server by the mark and delivers the packets by its method; answers come back from the VIP.
    ///
    /// The machine needs a route to the VIP (the default route does, the packet never follows it), and must take answers
    /// from the VIP on the link on which they come (`rp_filter` 0 or 2; `accept_local` where it has the VIP itself). Setting
    /// a mark takes CAP_NET_ADMIN (or, from Linux 5.17 on, CAP_NET_RAW).
    Marked {
        /// The mark.
        mark: u32,
        /// The machine's address that packets come from; `None` = the kernel chooses. Where the machine has the VIP itself,
        /// the kernel would choose that, and no other machine that has it takes a packet from its own address.
        source: Option<IpAddr>,
    },
    /// To the real server's own address: where no forwarder runs. That shows that the real server serves, not that it has
    /// the VIP.
    Direct,
    /// The forwarder does not know the real server yet: no probe is sent and the verdict stays.
    Unknown,
    /// Packets cannot reach it, for this reason (no next hop, say). That counts as a failed probe.
    Unreachable(Arc<str>),
}

/// Tells the way of each probe, just before it is sent.
pub trait ProbeRoute {
    /// The way to `target`. Called in the thread of the checks: it must not block.
    fn way(&self, target: &Target) -> Way;
}

impl<F: Fn(&Target) -> Way> ProbeRoute for F {
    fn way(&self, target: &Target) -> Way {
        self(target)
    }
}
