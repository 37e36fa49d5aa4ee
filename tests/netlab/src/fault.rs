//! Faults that are packet programs: they lose frames, and undo themselves when dropped. Delay is not among them; see
//! [`WireOptions::delay`](crate::WireOptions).

use crate::bpf::{Attachment, Hook, Instruction, Program, TC_DROP, TC_NEXT};
use crate::{LabError, Namespace};

/// A fault that lasts until this is dropped.
#[derive(Debug)]
#[must_use = "the fault ends when this is dropped"]
pub struct Fault {
    _attachments: Vec<Attachment>,
}

/// Which frames are meant, seen from the host, also where a switch loses them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Those that the host sends.
    FromHost,
    /// Those that it is to receive.
    ToHost,
    /// All.
    Both,
}

impl Fault {
    pub(crate) fn new(attachments: Vec<Attachment>) -> Self {
        Self { _attachments: attachments }
    }
}

impl Namespace {
    /// Loses that share (0 to 1) of the frames at an interface, at random, until the [`Fault`] is dropped. What an XDP
    /// program of the host takes or sends is not lost: for such hosts there is [`Bridge::lose`](crate::Bridge::lose).
    pub fn lose(&self, interface: &str, direction: Direction, share: f64) -> Result<Fault, LabError> {
        let hooks: &[Hook] = match direction {
            Direction::FromHost => &[Hook::Egress],
            Direction::ToHost => &[Hook::Ingress],
            Direction::Both => &[Hook::Ingress, Hook::Egress],
        };
        attach(self, interface, hooks, &drop_at_random(share))
    }

    /// Keeps ICMP "fragmentation needed" and ICMPv6 "packet too big" from passing an interface either way, as careless
    /// firewalls do, until the [`Fault`] is dropped.
    pub fn drop_too_big_errors(&self, interface: &str) -> Result<Fault, LabError> {
        attach(self, interface, &[Hook::Ingress, Hook::Egress], &too_big_filter())
    }
}

impl Direction {
    /// The same, seen from the other end of the wire.
    pub(crate) fn as_the_switch_sees_it(self) -> Self {
        match self {
            Self::FromHost => Self::ToHost,
            Self::ToHost => Self::FromHost,
            Self::Both => Self::Both,
        }
    }
}

fn attach(namespace: &Namespace, interface: &str, hooks: &[Hook], program: &Program) -> Result<Fault, LabError> {
    let attached: Result<Vec<_>, _> = hooks.iter().map(|hook| namespace.attach(interface, *hook, program)).collect();
    Ok(Fault::new(attached?))
}

/// For the egress of a port: drops what came in by one of the other ports. It goes by port, not by address, so that
/// frames with borrowed addresses do not slip through.
pub(crate) fn drop_from_ports(indexes: &[u32]) -> Program {
    /// `offsetof(struct __sk_buff, ingress_ifindex)`
    const INGRESS_IFINDEX: i16 = 36;
    let mut code = vec![Instruction::load_word(2, 1, INGRESS_IFINDEX)];
    for index in indexes {
        code.push(Instruction::skip_unless_equal(2, index.cast_signed(), 2));
        code.extend([Instruction::set(0, TC_DROP), Instruction::exit()]);
    }
    code.extend([Instruction::set(0, TC_NEXT), Instruction::exit()]);
    Program::new("netlab_partition", code)
}

fn drop_at_random(share: f64) -> Program {
    /// `BPF_FUNC_get_prandom_u32`
    const RANDOM: i32 = 7;
    let share = if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) };
    let drop = [Instruction::set(0, TC_DROP), Instruction::exit()];
    if share >= 1.0 {
        return Program::new("netlab_drop", drop.to_vec());
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below 2^32 and not negative")]
    let threshold = (share * 4_294_967_296.0) as u32;
    let mut code = vec![Instruction::call(RANDOM), Instruction::skip_if_word_below(0, threshold, 2)];
    code.extend([Instruction::set(0, TC_NEXT), Instruction::exit()]);
    code.extend(drop);
    Program::new("netlab_loss", code)
}

/// Reads headers without IPv4 options, IPv6 extension headers or VLAN tags, which these errors do not have here.
fn too_big_filter() -> Program {
    let code = vec![
        Instruction::copy(6, 1),
        Instruction::packet_half(12),
        Instruction::skip_if_equal(0, 0x0800, 2),
        Instruction::skip_if_equal(0, 0x86dd, 7),
        Instruction::skip(10),
        // IPv4: protocol ICMP, type "destination unreachable", code "fragmentation needed" (RFC 1191).
        Instruction::packet_byte(23),
        Instruction::skip_unless_equal(0, 1, 8),
        Instruction::packet_half(34),
        Instruction::skip_unless_equal(0, 0x0304, 6),
        Instruction::set(0, TC_DROP),
        Instruction::exit(),
        // IPv6: next header ICMPv6, type "packet too big" (RFC 4443).
        Instruction::packet_byte(20),
        Instruction::skip_unless_equal(0, 58, 2),
        Instruction::packet_byte(54),
        Instruction::skip_if_equal(0, 2, 2),
        Instruction::set(0, TC_NEXT),
        Instruction::exit(),
        Instruction::set(0, TC_DROP),
        Instruction::exit(),
    ];
    Program::new("netlab_too_big", code)
}

/// MLDv2 reports (RFC 3810, section 5.2): a hop-by-hop header of eight bytes, then ICMPv6 type 143.
pub(crate) fn multicast_report_filter() -> Program {
    let code = vec![
        Instruction::copy(6, 1),
        Instruction::packet_half(12),
        Instruction::skip_unless_equal(0, 0x86dd, 8),
        Instruction::packet_byte(20),
        Instruction::skip_unless_equal(0, 0, 6),
        Instruction::packet_byte(54),
        Instruction::skip_unless_equal(0, 58, 4),
        Instruction::packet_byte(62),
        Instruction::skip_unless_equal(0, 143, 2),
        Instruction::set(0, TC_DROP),
        Instruction::exit(),
        Instruction::set(0, TC_NEXT),
        Instruction::exit(),
    ];
    Program::new("netlab_no_report", code)
}
