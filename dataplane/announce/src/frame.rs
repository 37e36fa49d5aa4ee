//! Frames by which the network is told about a VIP and asked about it, as bytes. They are sent and received elsewhere.

pub mod arp;
pub mod ndp;

use std::net::IpAddr;

/// A MAC address.
pub type Mac = [u8; 6];

/// The MAC address that all stations take.
pub const BROADCAST: Mac = [0xff; 6];

/// The frames that tell everybody on the link that the VIP is at this MAC address.
#[must_use]
pub fn announcement(mac: Mac, vip: IpAddr) -> Vec<Vec<u8>> {
    match vip {
        IpAddr::V4(vip) => arp::announcements(mac, vip).into(),
        IpAddr::V6(vip) => vec![ndp::unsolicited_advertisement(mac, vip)],
    }
}

/// The frame that asks whether somebody has the VIP, without saying that this station does.
#[must_use]
pub fn probe(mac: Mac, vip: IpAddr) -> Vec<u8> {
    match vip {
        IpAddr::V4(vip) => arp::probe(mac, vip),
        IpAddr::V6(vip) => ndp::probe(mac, vip),
    }
}

/// Who says in this frame that which address is theirs.
#[must_use]
pub fn claim(frame: &[u8]) -> Option<(IpAddr, Mac)> {
    arp::claim(frame)
        .map(|(vip, mac)| (vip.into(), mac))
        .or_else(|| ndp::claim(frame).map(|(vip, mac)| (vip.into(), mac)))
}
