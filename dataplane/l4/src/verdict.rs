//! What becomes of a packet, and why: every pass, answer and drop has a name that is counted.

/// What to do with the frame. The reason is counted in [`crate::layout::map::REASONS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The frame is as it came; the machine's own stack goes on with it.
    Pass(Reason),
    /// The end of it.
    Drop(Reason),
    /// Out of the interface that it came in on.
    Transmit(Reason),
    /// Out of another interface.
    Redirect(Reason, u32),
}

impl Verdict {
    /// Why.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Pass(reason) | Self::Drop(reason) | Self::Transmit(reason) | Self::Redirect(reason, _) => reason,
        }
    }
}

/// Why a packet took the way that it took. The number is the index of its counter; new ones go to the end, and a removed
/// one keeps its number unused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Reason {
    /// Pass: neither IP nor ARP, or an address resolution that is not for a VIP.
    NotIp = 0,
    /// Pass: the destination is no VIP.
    NotVip = 1,
    /// Pass: the dead man's deadline is over.
    Expired = 2,
    /// Pass: the selected backend is this machine.
    LocalBackend = 3,
    /// Pass: nothing is bound to the port, and the VIP is an address of this machine too.
    LocalAddress = 4,
    /// Pass: an ARP or NDP question for a VIP that this director does not answer for (any more).
    NotOwned = 5,
    /// Pass: an ICMPv6 message of neighbour discovery or multicast to a VIP that is not ours to answer.
    NdpOther = 6,
    /// Forwarded: the flow was in the table.
    FlowHit = 7,
    /// Forwarded: selected, and remembered.
    FlowNew = 8,
    /// Forwarded: selected, and not remembered because the set is full of established flows.
    FlowUntracked = 9,
    /// Forwarded: the flow's backend is dead; selected anew.
    FlowMoved = 10,
    /// Forwarded: to the backend that the client has.
    Persistent = 11,
    /// Forwarded: scheduled by itself.
    OnePacket = 12,
    /// Forwarded: a fragment, after its first one.
    Fragment = 13,
    /// Forwarded: an ICMP error, to the backend of the flow that it quotes.
    IcmpError = 14,
    /// Answered: an ARP request for an owned VIP.
    ArpAnswered = 15,
    /// Answered: a neighbour solicitation for an owned VIP.
    NdpAnswered = 16,
    /// Answered: ICMP echo to a VIP.
    EchoAnswered = 17,
    /// Answered: too big for the tunnel; told the sender the MTU.
    TooBigAnswered = 18,
    /// Dropped: the frame ends inside of a header.
    Truncated = 19,
    /// Dropped: a header contradicts itself (version, lengths).
    BadHeader = 20,
    /// Dropped: more IPv6 extension headers than are followed.
    TooManyHeaders = 21,
    /// Dropped: the IPv4 header checksum is wrong.
    BadChecksum = 22,
    /// Dropped: TTL or hop limit is used up.
    TtlExpired = 23,
    /// Dropped: nothing is bound to this protocol and port of the VIP.
    NoService = 24,
    /// Dropped: the service has no backend.
    NoBackend = 25,
    /// Dropped: the ring leads to a backend that is not alive.
    DeadBackend = 26,
    /// Dropped: a protocol that is not forwarded, to a VIP.
    UnknownProtocol = 27,
    /// Dropped: a fragment to a service that does not take them.
    FragmentUnwanted = 28,
    /// Dropped: a fragment whose first one was not seen.
    FragmentUnknown = 29,
    /// Dropped: an ICMP error that quotes no flow of the VIP.
    IcmpUnknownFlow = 30,
    /// Dropped: another ICMP message to a VIP.
    IcmpUnsupported = 31,
    /// Dropped: too big for the tunnel where the sender cannot be told (no DF, no room, rate).
    TooBig = 32,
    /// Dropped: a source address that no answer can reach.
    BroadcastSource = 33,
    /// Dropped: the frame could not be grown or shrunk.
    NoRoom = 34,
    /// Dropped: a table does not hold what another one refers to.
    TableFault = 35,
    /// Forwarded: an unknown flow's packet to the owner of its slot, with the address of the former one.
    SecondChance = 36,
    /// Pass: the frame is for another machine's MAC address (a switch floods, or the port is promiscuous).
    OtherHost = 37,
}

impl Reason {
    /// All of them, in the order of their numbers.
    pub const ALL: &'static [Self] = &[
        Self::NotIp,
        Self::NotVip,
        Self::Expired,
        Self::LocalBackend,
        Self::LocalAddress,
        Self::NotOwned,
        Self::NdpOther,
        Self::FlowHit,
        Self::FlowNew,
        Self::FlowUntracked,
        Self::FlowMoved,
        Self::Persistent,
        Self::OnePacket,
        Self::Fragment,
        Self::IcmpError,
        Self::ArpAnswered,
        Self::NdpAnswered,
        Self::EchoAnswered,
        Self::TooBigAnswered,
        Self::Truncated,
        Self::BadHeader,
        Self::TooManyHeaders,
        Self::BadChecksum,
        Self::TtlExpired,
        Self::NoService,
        Self::NoBackend,
        Self::DeadBackend,
        Self::UnknownProtocol,
        Self::FragmentUnwanted,
        Self::FragmentUnknown,
        Self::IcmpUnknownFlow,
        Self::IcmpUnsupported,
        Self::TooBig,
        Self::BroadcastSource,
        Self::NoRoom,
        Self::TableFault,
        Self::SecondChance,
        Self::OtherHost,
    ];

    /// Index of the counter.
    #[must_use]
    pub const fn index(self) -> u32 {
        self as u32
    }

    /// The name in metrics, tables and captures.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotIp => "not_ip",
            Self::NotVip => "not_vip",
            Self::Expired => "expired",
            Self::LocalBackend => "local_backend",
            Self::LocalAddress => "local_address",
            Self::NotOwned => "not_owned",
            Self::NdpOther => "ndp_other",
            Self::FlowHit => "flow_hit",
            Self::FlowNew => "flow_new",
            Self::FlowUntracked => "flow_untracked",
            Self::FlowMoved => "flow_moved",
            Self::Persistent => "persistent",
            Self::OnePacket => "one_packet",
            Self::Fragment => "fragment",
            Self::IcmpError => "icmp_error",
            Self::ArpAnswered => "arp_answered",
            Self::NdpAnswered => "ndp_answered",
            Self::EchoAnswered => "echo_answered",
            Self::TooBigAnswered => "too_big_answered",
            Self::Truncated => "truncated",
            Self::BadHeader => "bad_header",
            Self::TooManyHeaders => "too_many_headers",
            Self::BadChecksum => "bad_checksum",
            Self::TtlExpired => "ttl_expired",
            Self::NoService => "no_service",
            Self::NoBackend => "no_backend",
            Self::DeadBackend => "dead_backend",
            Self::UnknownProtocol => "unknown_protocol",
            Self::FragmentUnwanted => "fragment_unwanted",
            Self::FragmentUnknown => "fragment_unknown",
            Self::IcmpUnknownFlow => "icmp_unknown_flow",
            Self::IcmpUnsupported => "icmp_unsupported",
            Self::TooBig => "too_big",
            Self::BroadcastSource => "broadcast_source",
            Self::NoRoom => "no_room",
            Self::TableFault => "table_fault",
            Self::SecondChance => "second_chance",
            Self::OtherHost => "other_host",
        }
    }
}
