//! The scenarios: which packets, of how many flows, and what must become of them.

use clap::ValueEnum;
use serde::Serialize;
use sluicegate_l4::verdict::Reason;
use std::fmt;

/// How packets reach the real servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "UPPERCASE")]
pub enum Delivery {
    /// New MAC addresses.
    L2,
    /// IP in IP.
    Tunnel,
    /// IP in UDP.
    #[value(skip)]
    Gue,
}

/// What kind of packet it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A TCP segment with ACK.
    Ack,
    /// A TCP segment with SYN.
    Syn,
    /// A UDP datagram.
    Udp,
    /// ICMP echo to the VIP.
    Echo,
    /// A TCP segment with DF that is too big for the way.
    TooBig,
    /// A TCP segment to an address that is no VIP.
    Elsewhere,
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// How packets are delivered.
    pub delivery: Delivery,
    /// Of IPv6.
    pub v6: bool,
    /// What kind.
    pub kind: Kind,
    /// Flows, a power of two; `None` = each packet is a flow of its own.
    pub flows: Option<u64>,
    /// 0, or one packet of so many is of these flows, which are established before; the others are SYNs of sources that never
    /// return.
    pub flood: u32,
    /// For what reason at least 95 of 100 packets must end.
    pub reasons: &'static [Reason],
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.method())
    }
}

impl Scenario {
    /// The method's name.
    pub const fn method(&self) -> &'static str {
        match self.delivery {
            Delivery::L2 => "L2",
            Delivery::Tunnel => "TUNNEL",
            Delivery::Gue => "GUE",
        }
    }

    /// Most nanoseconds net that are good, where somebody set a goal.
    pub fn goal(&self) -> Option<f64> {
        let hot = self.flows == Some(1);
        if self.flood != 0 {
            return None;
        }
        Some(match (self.kind, self.delivery, self.flows) {
            (Kind::Elsewhere, ..) => 10.0,
            (Kind::Echo | Kind::TooBig, ..) => return None,
            (Kind::Syn, _, None) => 200.0,
            (_, _, None) => 220.0,
            (_, Delivery::Gue, _) => 45.0,
            (Kind::Udp, ..) if hot => 35.0,
            (Kind::Ack, Delivery::L2, _) if hot => 20.0,
            (Kind::Ack, Delivery::Tunnel, _) if hot => 30.0,
            (_, _, Some(flows)) if flows >= 1 << 20 => 200.0,
            (_, _, Some(flows)) if flows >= 1 << 16 => 180.0,
            _ => return None,
        })
    }

    /// Bytes that the program puts in front.
    pub const fn pushed(&self) -> u32 {
        match (self.kind, self.delivery, self.v6) {
            (Kind::TooBig, _, false) => 28,
            (Kind::Echo | Kind::Elsewhere, ..) | (_, Delivery::L2, _) => 0,
            (_, Delivery::Tunnel, false) => 20,
            (_, Delivery::Tunnel, true) => 40,
            (_, Delivery::Gue, false) => 28,
            (Kind::TooBig, _, true) | (_, Delivery::Gue, true) => 48,
        }
    }
}

const HIT: &[Reason] = &[Reason::FlowHit];
const NEW: &[Reason] = &[Reason::FlowNew, Reason::FlowUntracked];
const HIT_OR_NEW: &[Reason] = &[Reason::FlowHit, Reason::FlowNew, Reason::FlowUntracked];
/// Nine packets of ten are SYNs of strangers.
pub const FLOOD: u32 = 10;

/// All rows, L2 before TUNNEL.
pub fn all() -> Vec<Scenario> {
    let flows = [
        ("tcp4_hit", false, Kind::Ack, Some(1), HIT),
        ("tcp4_1k", false, Kind::Ack, Some(1 << 10), HIT),
        ("tcp4_64k", false, Kind::Ack, Some(1 << 16), HIT),
        ("tcp4_1m", false, Kind::Ack, Some(1 << 20), HIT),
        ("tcp4_new", false, Kind::Ack, None, NEW),
        ("syn4", false, Kind::Syn, Some(1), HIT),
        ("syn4_new", false, Kind::Syn, None, NEW),
        ("udp4_hit", false, Kind::Udp, Some(1), HIT),
        ("udp4_1m", false, Kind::Udp, Some(1 << 20), HIT),
        ("tcp6_hit", true, Kind::Ack, Some(1), HIT),
        ("tcp6_1m", true, Kind::Ack, Some(1 << 20), HIT),
    ];
    let mut rows = Vec::new();
    for (name, v6, kind, flows, reasons) in flows {
        for delivery in [Delivery::L2, Delivery::Tunnel] {
            rows.push(Scenario { name, delivery, v6, kind, flows, flood: 0, reasons });
        }
    }
    for (name, flows) in [("flood4_1k", 1 << 10), ("flood4_64k", 1 << 16), ("flood4_1m", 1 << 20)] {
        for delivery in [Delivery::L2, Delivery::Tunnel] {
            let flows = Some(flows);
            rows.push(Scenario {
                name,
                delivery,
                v6: false,
                kind: Kind::Ack,
                flows,
                flood: FLOOD,
                reasons: HIT_OR_NEW,
            });
        }
    }
    let one =
        |name, delivery, kind, reasons| Scenario { name, delivery, v6: false, kind, flows: Some(1), flood: 0, reasons };
    rows.push(one("gue4", Delivery::Gue, Kind::Ack, HIT));
    rows.push(one("icmp4", Delivery::Tunnel, Kind::Echo, &[Reason::EchoAnswered]));
    rows.push(one("ptb4", Delivery::Tunnel, Kind::TooBig, &[Reason::TooBigAnswered]));
    rows.push(one("nonvip", Delivery::Tunnel, Kind::Elsewhere, &[Reason::NotVip]));
    rows
}
