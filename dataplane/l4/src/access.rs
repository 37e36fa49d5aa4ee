//! What the packet path needs of the world: a frame and tables.

use crate::layout::{AddressBucket, Backend, Control, FLOW_WAYS, Interface, PortMacs, Service, ServiceBucket};
use crate::verdict::Reason;
use core::ops::Deref;
use core::sync::atomic::{AtomicU64, Ordering};

/// A frame, from its Ethernet header on.
///
/// A view is an array of fixed size, so that the one check of its bounds is the only one: what is read of it afterwards
/// compiles to plain loads. Offsets are small by construction (headers); an implementation refuses those beyond the frame.
pub trait Packet {
    /// Bytes of the frame, without its check sequence.
    fn length(&self) -> usize;

    /// Runs what is rarely run. An implementation that lives in registers may run it on a copy of itself, which it then
    /// becomes, so that it need not lie in memory for that.
    #[inline(always)]
    fn apart<R>(&mut self, run: impl FnOnce(&mut Self) -> R) -> R
    where
        Self: Sized,
    {
        run(self)
    }

    /// The same value. An implementation whose verifier follows each value by itself forgets here what it knows of it, so
    /// that ways which differ only in it become one.
    #[inline(always)]
    fn opaque(&self, value: usize) -> usize {
        value
    }

    /// Says that different ways meet here: an implementation whose verifier follows them forgets what it learned of the
    /// frame on them.
    #[inline(always)]
    fn meet(&mut self) {}

    /// Index of the interface that it came in on.
    fn ingress(&self) -> u32;

    /// `N` bytes from `offset` on; `None` if the frame ends before, or if they do not lie in its first, contiguous part.
    fn view<const N: usize>(&self, offset: usize) -> Option<&[u8; N]>;

    /// The same, to be written.
    fn view_mut<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]>;

    /// Puts `by` bytes in front of the frame (their content is undefined), or takes `-by` away. False and unchanged if there
    /// is no room.
    #[must_use]
    fn move_head(&mut self, by: isize) -> bool;

    /// Cuts the frame to `length` bytes, which is not more than it has. False and unchanged if it cannot be.
    #[must_use]
    fn truncate(&mut self, length: usize) -> bool;
}

/// The tables, the time, and the counters.
///
/// A row is lent or copied, as suits: the kernel lends what lies in its maps; user space, which shares that memory with
/// writers, copies. Whoever gives no row for an id that another row names makes the packet a [`Reason::TableFault`].
pub trait Tables {
    /// The switches.
    fn control(&self) -> Option<impl Deref<Target = Control>>;

    /// Jiffies of the machine: what [`Control::live_until`] and the fences count in.
    fn now(&self) -> u64;

    /// Bucket of the directory of VIPs.
    fn address_bucket(&self, index: u32) -> Option<impl Deref<Target = AddressBucket>>;

    /// Bucket of the directory of services.
    fn service_bucket(&self, index: u32) -> Option<impl Deref<Target = ServiceBucket>>;

    /// Service by its id.
    fn service(&self, id: u16) -> Option<impl Deref<Target = Service>>;

    /// Id of the backend in a slot of a ring.
    fn ring_slot(&self, ring: u32, slot: u32) -> Option<u16>;

    /// Backend by its id.
    fn backend(&self, id: u16) -> Option<impl Deref<Target = Backend>>;

    /// Set of the flow table.
    fn flow_set(&self, index: u32) -> Option<impl FlowPlaces>;

    /// The mark of a set of the flow table; not 0 = flows of it may be in their second set.
    fn overflow(&self, set: u32) -> u8;

    /// Marks a set of the flow table. False where that is not to be had.
    #[must_use]
    fn mark_overflow(&self, set: u32, mark: u8) -> bool;

    /// Until when ARP and NDP are answered for a VIP, in jiffies; 0 if unknown.
    fn fence(&self, address: u16) -> u64;

    /// A port that the program is attached to.
    fn interface(&self, index: u32) -> Option<Interface>;

    /// Row of [`PortMacs`]. `None` where whoever brings the frames has sorted out those of others.
    fn port_macs(&self, row: u32) -> Option<impl Deref<Target = PortMacs>>;

    /// The turn of round robin of a service: counts up with each call.
    fn turn(&self, service: u16) -> u64;

    /// One packet of `bytes` bytes went to `backend` (0 = none) for `service` (0 = none); `selected` if it was not by
    /// the flow table.
    fn count_traffic(&self, service: u16, backend: u16, bytes: usize, selected: bool);

    /// One packet ended for this reason.
    fn count_reason(&self, reason: Reason);
}

/// The places of a set of the flow table. Each is read and written whole, without any order among them: other CPUs do the
/// same at the same time. Beyond [`FLOW_WAYS`] there is nothing to read, and nothing is written.
pub trait FlowPlaces {
    /// The word in a place.
    fn load(&self, way: usize) -> u64;

    /// Puts a word into a place.
    fn store(&self, way: usize, word: u64);
}

impl FlowPlaces for &[AtomicU64; FLOW_WAYS] {
    #[inline(always)]
    fn load(&self, way: usize) -> u64 {
        self.get(way).map_or(0, |place| place.load(Ordering::Relaxed))
    }

    #[inline(always)]
    fn store(&self, way: usize, word: u64) {
        if let Some(place) = self.get(way) {
            place.store(word, Ordering::Relaxed);
        }
    }
}
