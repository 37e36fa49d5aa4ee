//! ARP requests for a VIP that this director holds are answered in place (RFC 826).

use crate::access::{Packet, Tables};
use crate::directory;
use crate::field::{bytes, ne32, put};
use crate::parse::mapped;
use crate::verdict::{Reason, Verdict};

const REQUEST_OVER_ETHERNET: [u8; 8] = [0, 1, 0x08, 0, 6, 4, 0, 1];
const REPLY: [u8; 2] = [0, 2];

/// What is not a request for a VIP, or not ours to answer, passes to the machine's own stack.
#[inline(never)]
pub(crate) fn answer<P: Packet, T: Tables>(packet: &mut P, tables: &T, link: usize) -> Result<Verdict, Verdict> {
    let request = packet.view::<28>(link).ok_or(Verdict::Pass(Reason::NotIp))?;
    let asks = bytes::<8, _>(request, 0) == REQUEST_OVER_ETHERNET;
    let sender: [u8; 10] = bytes(request, 8);
    let target = ne32(request, 24);
    let announces = ne32(request, 14) == target;
    let vip = directory::find_address(tables, &mapped(target)).ok_or(Verdict::Pass(Reason::NotIp))?;
    // An announcement is another director's, for who announces to see.
    if !asks || announces || tables.now() >= tables.fence(vip.id) {
        return Err(Verdict::Pass(Reason::NotOwned));
    }
    let interface = tables.interface(packet.ingress()).ok_or(Verdict::Pass(Reason::NotOwned))?;
    let fault = Verdict::Drop(Reason::Truncated);
    let reply = packet.view_mut::<28>(link).ok_or(fault)?;
    put(reply, 6, REPLY);
    put(reply, 8, interface.mac);
    put(reply, 14, target.to_ne_bytes());
    put(reply, 18, sender);
    let ethernet = packet.view_mut::<12>(0).ok_or(fault)?;
    put::<6, _>(ethernet, 0, bytes(&sender, 0));
    put(ethernet, 6, interface.mac);
    Ok(Verdict::Transmit(Reason::ArpAnswered))
}
