//! What the director counts: packets by reason, by port of a VIP and by real server, and who owns what. Bounded by the
//! tables of the packet path.

/// One reading of the director's counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PacketCounts {
    /// (Verdict, reason, packets), those that occurred.
    pub reasons: Vec<(&'static str, &'static str, u64)>,
    /// By port of a VIP.
    pub services: Vec<ServiceCounts>,
    /// By real server, method and port; port `*` where several share the counters.
    pub real_servers: Vec<RealServerCounts>,
    /// (VIP, whether this director owns it).
    pub owned: Vec<(String, bool)>,
    /// How often this director became the owner of a VIP.
    pub take_overs: u64,
    /// How often it ceased to be.
    pub losses: u64,
    /// How often somebody else claimed a VIP.
    pub conflicts: u64,
    /// The cluster's directors; nothing where flags name them.
    pub directors: Option<DirectorCounts>,
    /// Entries of the flow table with two packets and more, and with one.
    pub flows: (u64, u64),
    /// Entries that fit.
    pub flow_capacity: u64,
}

/// The directors of a cluster, as one of them sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirectorCounts {
    /// The number of the record.
    pub record: u64,
    /// Those that are in it.
    pub recorded: u64,
    /// Those of them that are heard, this one included.
    pub heard: u64,
    /// Seconds since the own Lease was renewed, where it was.
    pub lease_age: Option<u64>,
}

/// What came to a port of a VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceCounts {
    /// The VIP.
    pub vip: String,
    /// `TCP/80`.
    pub port: String,
    /// `namespace/name` of the Service.
    pub service: String,
    /// What came.
    pub counted: Counted,
}

/// What went to a real server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealServerCounts {
    /// Its address.
    pub real_server: String,
    /// How it got there.
    pub method: String,
    /// `TCP/80`, or `*`.
    pub port: String,
    /// What went.
    pub counted: Counted,
}

/// Frames, their bytes, and flows that were selected anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Frames.
    pub packets: u64,
    /// Bytes of these frames.
    pub bytes: u64,
    /// New flows.
    pub flows: u64,
}
