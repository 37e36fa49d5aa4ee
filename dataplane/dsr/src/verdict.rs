//! What becomes of a packet, and why: every one has a name that is counted.

/// What to do with the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The machine's own stack (or the wire, on the way out) goes on with it.
    Pass(Reason),
    /// The end of it.
    Drop(Reason),
    /// To another real server, out of the interface that it came in on: first it is readdressed, then it leaves with the link
    /// header that the host's routes and neighbours say.
    HandOver(Reason),
}

impl Verdict {
    /// Why.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Pass(reason) | Self::Drop(reason) | Self::HandOver(reason) => reason,
        }
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $word:literal;)*) => {
        /// Why a packet took the way that it took. The number is the index of its counter; new ones go to the end, and a
        /// removed one keeps its number unused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Reason {
            $($(#[$doc])* $name = $number,)*
        }

        impl Reason {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name in metrics and tables.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }
        }
    };
}

reasons! {
    /// Pass: no tunnel that is spoken here.
    NotTunnel = 0, "not_tunnel";
    /// Pass: a tunnel that ends at another host.
    NotEndpoint = 1, "not_endpoint";
    /// Pass: a tunnel from somebody who is no director.
    UnknownDirector = 2, "unknown_director";
    /// Pass: a director's tunnel with a packet for an address that is no VIP of this host.
    NotBound = 3, "not_bound";
    /// Pass: a fragment of a tunnel packet; the director's way has a smaller MTU than it thinks.
    TunnelFragment = 4, "tunnel_fragment";
    /// Pass: a GUE control message, or a payload that is not IP.
    GueOther = 5, "gue_other";
    /// Unwrapped: IP in IP.
    UnwrappedIp = 6, "unwrapped_ip";
    /// Unwrapped: GUE.
    UnwrappedGue = 7, "unwrapped_gue";
    /// Dropped: a director's tunnel that ends inside of a header, or is longer than its frame.
    Truncated = 8, "truncated";
    /// Dropped: the header in a director's tunnel contradicts itself.
    BadInner = 9, "bad_inner";
    /// Dropped: the outer IPv4 header checksum is wrong.
    BadChecksum = 10, "bad_checksum";
    /// Dropped: congestion was met on the way of a packet that cannot say so (RFC 6040, section 4.2).
    Congested = 11, "congested";
    /// Dropped: the frame could not be grown or shrunk.
    NoRoom = 12, "no_room";
    /// Left as it was: no SYN-ACK of a VIP.
    NotSynAck = 13, "not_syn_ack";
    /// Left as it was: a SYN-ACK whose MSS fits, or that has none among its first options.
    MssFits = 14, "mss_fits";
    /// MSS lowered.
    Clamped = 15, "clamped";
    /// Sent the packets' way to a real server.
    Probed = 16, "probed";
    /// Pass: a probe of the real server that is this machine.
    ProbedLocal = 17, "probed_local";
    /// Dropped: a probe to a real server that the tables do not hold, or that nobody can be led to.
    ProbeUnknown = 18, "probe_unknown";
    /// Dropped: a probe that does not fit into the tunnel.
    ProbeTooBig = 19, "probe_too_big";
    /// Dropped: a probe that is not IP, is cut off, or has no hops left.
    ProbeMalformed = 20, "probe_malformed";
    /// Handed over: the flow is not known here, and went on to the former owner of its slot.
    HandedOver = 21, "handed_over";
    /// Unwrapped: the flow is not known here, and the former owner of its slot is no peer.
    NoPeer = 22, "no_peer";
    /// Dropped: a packet to be handed over that has no hops left.
    HopsUsedUp = 23, "hops_used_up";
    /// Left as it was: nothing that a pod behind a VIP gets or sends.
    NotPods = 24, "not_pods";
    /// Translated: to the pod that the flow has.
    ToPod = 25, "to_pod";
    /// Translated: to a pod that was picked for a new flow.
    ToPodNew = 26, "to_pod_new";
    /// Translated: to a pod that was picked anew, because the flow's is gone, or gets no new flows.
    ToPodMoved = 27, "to_pod_moved";
    /// Translated: a later part of a datagram, to the pod of its first one.
    ToPodPart = 28, "to_pod_part";
    /// Translated: an ICMP error, to the pod of the flow that it quotes.
    ToPodIcmp = 29, "to_pod_icmp";
    /// Translated: a pod's answer, from the VIP.
    FromPod = 30, "from_pod";
    /// Translated: a later part of a pod's answer, from the VIP.
    FromPodPart = 31, "from_pod_part";
    /// Translated: an ICMP error about a flow to a pod, from the VIP.
    FromPodIcmp = 32, "from_pod_icmp";
    /// Dropped: for a VIP that is no address of this host, and for none of its ports that end in pods.
    PodNoService = 33, "pod_no_service";
    /// Dropped: no pod is ready.
    PodNoneReady = 34, "pod_none_ready";
    /// Dropped: the client talks to the pod from this port already, by another VIP or port, and no other pod is free.
    PodPortTaken = 35, "pod_port_taken";
    /// Dropped: a part of a datagram whose first one was not seen.
    PodPartUnknown = 36, "pod_part_unknown";
    /// Dropped: an ICMP error that quotes no flow to a pod.
    PodIcmpUnknown = 37, "pod_icmp_unknown";
    /// Dropped: the header of a packet to a pod contradicts itself, or cannot be read.
    PodMalformed = 38, "pod_malformed";
    /// Dropped: the tables do not take another flow.
    PodUntracked = 39, "pod_untracked";
}

impl Reason {
    /// Index of the counter.
    #[must_use]
    pub const fn index(self) -> u32 {
        self as u32
    }
}
