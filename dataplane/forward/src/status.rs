//! What the forwarder does at this moment, and why: for `vips`, the admin interface and metrics.

use crate::engine::Mode;
use crate::engine::xdp::Found;
use crate::failure::PlanFailure;
use crate::fleet::{MethodReason, ServiceKey, Standing};
use crate::shared_list::SharedList;
use crate::stats::Rate;
use crate::topology::Mac;
use sluicegate_config::{Method, Scheduler};
use sluicegate_l4::layout::Traffic;
use sluicegate_l4::verdict::Reason;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

/// Everything.
#[derive(Clone, Debug, Default)]
pub struct ForwarderStatus {
    /// The call of [`crate::forwarder::Forwarder::apply`] and its like whose wish is in the tables (or among the failures).
    pub applied: u64,
    /// Whether packets can be forwarded at all.
    pub engine: EngineState,
    /// Ports, by index.
    pub ports: Vec<PortStatus>,
    /// Interfaces that cannot be attached to, and other things that an operator should see.
    pub problems: Vec<String>,
    /// VIPs, by address.
    pub vips: Vec<Arc<VipStatus>>,
    /// What was counted of real servers, by id in the tables; shorter where none is counted.
    pub readings: Arc<[RealReading]>,
    /// Parts of the desired state that are not served, each with what to do.
    pub failures: Vec<PlanFailure>,
    /// When counters were read last; `None` = not yet.
    pub counted: Option<Instant>,
    /// Packets by reason, those that occurred.
    pub reasons: Vec<(Reason, u64)>,
    /// The flow table.
    pub flows: FlowTableStatus,
    /// Writes to tables since the start, renewals aside.
    pub table_writes: u64,
}

impl ForwarderStatus {
    /// What was counted of a real server.
    #[must_use]
    pub fn reading(&self, real: &RealStatus) -> RealReading {
        real.id.and_then(|id| self.readings.get(usize::from(id))).copied().unwrap_or_default()
    }
}

/// Whether packets can be forwarded at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum EngineState {
    /// Not yet known.
    #[default]
    Starting,
    /// Off, and why.
    Off(String),
    /// On, and how the tables were found.
    On(Found),
}

/// A port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortStatus {
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// The interface that stands for it (a bond, a VLAN), where it is another one.
    pub asked_as: String,
    /// The MAC address that VIPs have there.
    pub mac: Mac,
    /// The cable or peer is there.
    pub carrier: bool,
    /// How it is attached; `None` = it is not.
    pub mode: Option<Mode>,
    /// Better modes, and why each was refused.
    pub refused: Vec<(Mode, String)>,
}

/// A VIP.
#[derive(Clone, Debug, PartialEq)]
pub struct VipStatus {
    /// The address.
    pub address: IpAddr,
    /// Its id, the index of its fence; `None` = it is not in the tables.
    pub id: Option<u16>,
    /// This machine has the address itself: director and real server at once.
    pub held: bool,
    /// What is bound to it, by (protocol, port).
    pub services: Vec<ServiceStatus>,
}

/// A port of a VIP.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceStatus {
    /// Where it listens.
    pub key: ServiceKey,
    /// Id in the tables.
    pub id: Option<u16>,
    /// Namespace of the Service.
    pub namespace: Arc<str>,
    /// Name of the Service.
    pub service: Arc<str>,
    /// How packets are spread.
    pub scheduler: Scheduler,
    /// How they are delivered.
    pub method: Method,
    /// Why that way.
    pub method_reason: MethodReason,
    /// All real servers fail their probes and are used all the same.
    pub fails_open: bool,
    /// Counted since the tables exist.
    pub traffic: Traffic,
    /// In the last second or so.
    pub rate: Rate,
    /// Real servers, by address. Services with the same ones share the list.
    pub reals: SharedList<RealStatus>,
}

/// A real server of a service; its counters are in [`ForwarderStatus::reading`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RealStatus {
    /// Address.
    pub address: IpAddr,
    /// Id in the tables.
    pub id: Option<u16>,
    /// Share of new flows.
    pub weight: u16,
    /// What it gets.
    pub standing: Standing,
    /// Why it does not get new flows.
    pub reason: Option<Arc<str>>,
}

/// What was counted of a record of a real server, which services may share.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RealReading {
    /// Counted since the tables exist.
    pub traffic: Traffic,
    /// In the last second or so.
    pub rate: Rate,
    /// Flows with two packets and more, at the last sweep.
    pub established: u64,
    /// Flows with one packet, at the last sweep.
    pub tentative: u64,
}

/// The flow table at the last sweep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowTableStatus {
    /// Entries that fit.
    pub capacity: u64,
    /// Flows with two packets and more.
    pub established: u64,
    /// Flows with one packet.
    pub tentative: u64,
    /// Sweeps so far.
    pub sweeps: u64,
}
