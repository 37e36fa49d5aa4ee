//! What lies in the tables of the real server's programs, and the marks of probes: the contract with who fills them
//! (`dataplane/backend`) and with the process of the next version, which finds them pinned.
//!
//! Plain old data without padding, in the byte order of the machine; addresses as in `sluicegate_l4::layout`.

use sluicegate_l4::layout::MAX_BACKENDS;

/// Version of everything in this file; part of the path of the pins.
pub const VERSION: u32 = 1;

/// VIPs that one real server can have.
pub const MAX_BOUND: u32 = 2048;
/// Directors that one real server can know.
pub const MAX_DIRECTORS: u32 = 1024;
/// Networks of peers that one real server can know.
pub const MAX_PEERS: u32 = 4096;
/// Counters for reasons, with room for later ones.
pub const REASON_COUNTERS: u32 = 64;
/// Addresses of one host at which tunnels end.
pub const MAX_ENDPOINTS: u32 = 1024;

/// Names of the maps, in the object and below the pin directory.
pub mod map {
    /// `Array<HostControl>` with one entry.
    pub const HOST: &str = "HOST";
    /// `HashMap<Address, u32>`: outer sources that are believed. The value is 1.
    pub const DIRECTORS: &str = "DIRECTORS";
    /// `LpmTrie<Address, u32>`: networks of other real servers, with prefixes of 0 to 128 bits (IPv4: 96 to 128). The value
    /// is 1.
    pub const PEERS: &str = "PEERS";
    /// `HashMap<Address, u32>`: addresses of this host at which tunnels end. The value is 1.
    pub const ENDPOINTS: &str = "ENDPOINTS";
    /// `HashMap<Address, Bound>`: the VIPs of this real server.
    pub const BOUND: &str = "BOUND";
    /// `PerCpuArray<u64>` by [`crate::Reason`] index: packets.
    pub const HOST_REASONS: &str = "HOST_REASONS";
    /// `PerCpuArray<u64>` by [`crate::Reason`] index: packets that the director's probe program saw.
    pub const PROBE_REASONS: &str = "PROBE_REASONS";
}

/// Switches of the real server's programs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostControl {
    /// [`HostControl::ANY_DIRECTOR`].
    pub flags: u32,
    /// 0.
    pub reserved: u32,
}

impl HostControl {
    /// Tunnels are believed whatever their outer source is. Whoever can send packets to this host can then send packets
    /// with any source address to its VIPs.
    pub const ANY_DIRECTOR: u32 = 1;
}

/// A VIP of this real server.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    /// Largest IP packet that fits into the tunnel from the director, in bytes; 0 = the MSS is left alone.
    pub tunnel_mtu: u16,
    /// 0.
    pub reserved: u16,
}

/// A packet that the director itself sends goes to the real server with this id:
/// `mark = MARK_BASE | id`, `id` as in `sluicegate_l4::layout::map::BACKENDS`.
///
/// The bits that kube-proxy (0x4000, 0x8000) and Cilium (0x0f00 in its lower half, where it is alone) use are either
/// not set by it or not looked at under [`MARK_MASK`], so a probe is not taken for a packet to be masqueraded or dropped.
pub const MARK_BASE: u32 = 0x5347_0000;
/// Bits of the mark that say "a probe"; the others are the id.
pub const MARK_MASK: u32 = 0xffff_c000;

/// The mark of a probe to this real server; `None` if there is no such id.
#[must_use]
pub const fn mark(backend: u16) -> Option<u32> {
    if backend == 0 || backend as u32 > MAX_BACKENDS { None } else { Some(MARK_BASE | backend as u32) }
}

/// The real server that a mark names; `None` if it is no probe's.
#[must_use]
pub const fn marked_backend(mark: u32) -> Option<u16> {
    let id = (mark & !MARK_MASK) as u16;
    if mark & MARK_MASK != MARK_BASE || id == 0 { None } else { Some(id) }
}

const _: () = {
    assert!(size_of::<HostControl>() == 8);
    assert!(size_of::<Bound>() == 4);
    assert!(crate::Reason::ALL.len() <= REASON_COUNTERS as usize);
    assert!(MAX_BACKENDS == !MARK_MASK);
};
