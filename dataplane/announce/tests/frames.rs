//! Frames against bytes written by hand, and against what must not be taken for one.

use proptest::prelude::*;
use sluicegate_announce::frame::{announcement, claim, ndp, probe};
use std::net::IpAddr;

const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0a];

fn bytes(text: &str) -> Vec<u8> {
    let digits: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hex")).collect()
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn arp_announcements_and_probe() {
    let request =
        bytes("ffffffffffff 02000000000a 0806 0001 0800 06 04 0001 02000000000a c000020a 000000000000 c000020a");
    let reply =
        bytes("ffffffffffff 02000000000a 0806 0001 0800 06 04 0002 02000000000a c000020a ffffffffffff c000020a");
    let vip = address("192.0.2.10");
    assert_eq!(announcement(MAC, vip), [request.clone(), reply.clone()]);
    assert_eq!(claim(&request), Some((vip, MAC)));
    assert_eq!(claim(&reply), Some((vip, MAC)));
    let asked =
        bytes("ffffffffffff 02000000000a 0806 0001 0800 06 04 0001 02000000000a 00000000 000000000000 c000020a");
    assert_eq!(probe(MAC, vip), asked);
    assert_eq!(claim(&asked), None, "a probe claims nothing");
}

#[test]
fn neighbour_advertisement_and_probe() {
    // The checksums were computed by another program: pseudo-header (addresses, length, next header), then the message.
    let vip = address("2001:db8::10");
    let advertisement = bytes(
        "333300000001 02000000000a 86dd 60000000 0020 3a ff
         20010db8000000000000000000000010 ff020000000000000000000000000001
         88 00 f903 20000000 20010db8000000000000000000000010 0201 02000000000a",
    );
    let ours = announcement(MAC, vip);
    assert_eq!(ours.len(), 1);
    assert_eq!(ours[0], advertisement);
    assert_eq!(claim(&advertisement), Some((vip, MAC)));
    let solicitation = bytes(
        "3333ff000010 02000000000a 86dd 60000000 0018 3a ff
         00000000000000000000000000000000 ff0200000000000000000001ff000010
         87 00 4ccf 00000000 20010db8000000000000000000000010",
    );
    assert_eq!(probe(MAC, vip), solicitation);
    assert_eq!(claim(&solicitation), None, "a probe claims nothing");
    let group = ndp::solicited_node("2001:db8::12:3456".parse().expect("an address"));
    assert_eq!(address("ff02::1:ff12:3456"), IpAddr::from(group));
}

#[test]
fn broken_advertisements_claim_nothing() {
    let good = announcement(MAC, address("2001:db8::10")).remove(0);
    for (place, what) in [
        (12, "ethertype"),
        (20, "next header"),
        (21, "hop limit"),
        (54, "type"),
        (57, "checksum"),
        (80, "option length"),
    ] {
        let mut bad = good.clone();
        bad[place] ^= 0x40;
        assert_eq!(claim(&bad), None, "{what}");
    }
    for length in 0..good.len() {
        assert_eq!(claim(&good[..length]), None, "cut to {length} bytes");
    }
}

proptest! {
    #[test]
    fn no_frame_breaks_it(frame in prop::collection::vec(any::<u8>(), 0..200), place in 0..86usize, byte: u8) {
        let _ = claim(&frame);
        let mut near = announcement(MAC, address("2001:db8::10")).remove(0);
        near[place] = byte;
        let _ = claim(&near);
    }
}
