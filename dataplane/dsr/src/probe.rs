//! The director's own packets to one real server, on the way that forwarded packets take: a health probe is sent to the
//! VIP, its mark names the real server, and its frame gets the same head as a client's. So a probe fails where the
//! client's packets would: a real server without its VIP, a tunnel that ends nowhere, a neighbour that is gone.

use crate::layout::marked_backend;
use crate::verdict::Reason;
use core::ops::Deref;
use sluicegate_l4::layout::Backend;
use sluicegate_l4::verdict::{Reason as Forwarded, Verdict as Delivered};
use sluicegate_l4::{Packet, deliver_own};

/// What to do with a frame that leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeVerdict {
    /// No probe: goes its way untouched.
    Untouched,
    /// Goes its way: to this machine itself, or out of the interface where it is.
    Stay(Reason),
    /// Out of this interface. The mark has to be taken off first, so that the same program there leaves it alone.
    Redirect(Reason, u32),
    /// The end of it.
    Drop(Reason),
}

/// Gives a frame whose mark names a real server the head of that real server's packets. [`Packet::ingress`] has to be the
/// interface that it is about to leave by.
///
/// `backend` is the table of the forwarder. A dead one is probed as well: that is how it comes back.
#[inline(always)]
pub fn probe<P: Packet, B: Deref<Target = Backend>>(
    packet: &mut P,
    mark: u32,
    backend: impl FnOnce(u16) -> Option<B>,
) -> ProbeVerdict {
    let Some(id) = marked_backend(mark) else { return ProbeVerdict::Untouched };
    let backend = match backend(id) {
        Some(backend) if backend.kind != Backend::KIND_NONE => backend,
        _ => return ProbeVerdict::Drop(Reason::ProbeUnknown),
    };
    match deliver_own(packet, &backend) {
        Delivered::Pass(_) => ProbeVerdict::Stay(Reason::ProbedLocal),
        Delivered::Transmit(_) => ProbeVerdict::Stay(Reason::Probed),
        Delivered::Redirect(_, egress) => ProbeVerdict::Redirect(Reason::Probed, egress),
        Delivered::Drop(Forwarded::TooBig) => ProbeVerdict::Drop(Reason::ProbeTooBig),
        Delivered::Drop(Forwarded::NoRoom) => ProbeVerdict::Drop(Reason::NoRoom),
        Delivered::Drop(Forwarded::TableFault) => ProbeVerdict::Drop(Reason::ProbeUnknown),
        Delivered::Drop(_) => ProbeVerdict::Drop(Reason::ProbeMalformed),
    }
}
