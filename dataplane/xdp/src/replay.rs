//! What the `replay` program is told: which packet stands in front of a program that is timed.

/// Bytes of the frame that are written anew before each run, at most.
pub const HEAD_BYTES: usize = 80;

/// The one entry of map `SCRIPT`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Script {
    /// Flows minus one (a power of two); `u64::MAX` = each packet is a flow of its own.
    pub flow_mask: u64,
    /// Length of the frame in bytes.
    pub length: u32,
    /// Bytes that the timed program puts in front of it.
    pub pushed: u32,
    /// Ones' complement sum, not folded, of the IPv4 header with source and checksum 0.
    pub checksum: u32,
    /// 1 = source address and port tell the flow; 0 = each packet is the template.
    pub vary: u32,
    /// 0 = all packets are like the template. N = one packet of N is, of those flows, and the others are TCP SYNs of a new
    /// flow each.
    pub flood: u32,
    /// 0.
    pub reserved: u32,
    /// The frame's beginning: its first 54 (IPv4) or 74 bytes are written.
    pub head: [u8; HEAD_BYTES],
}

const _: () = assert!(size_of::<Script>() == 112);
