//! The engine in user space: the same packet path over packet sockets, for kernels and network cards without XDP
//! (`--forward packet`).
//!
//! Tables lie in the memory of this process: when it ends, nothing is forwarded, and flows are selected anew by its
//! successor (which a Maglev ring answers as before). The kernel's own handling of the same packets is kept away by
//! a blackhole route for each VIP, which is there before the VIP is served and goes after it; see `packet/aside.rs`.
//!
//! A VIP that is also an address of this machine (director and backend at once) is not forwarded by this engine: the
//! kernel would handle its packets too. The machine itself goes on answering for it.
//!
//! What XDP asks of the network holds here too: frames come with finished checksums and no longer than the MTU. The
//! kernel's merging of segments (GRO) is switched off on attached ports and on again when they are let go (after `kill -9`:
//! `ethtool -K IFACE gro on`). Merging by the card itself (LRO) is for the operator to switch off.

mod aside;
mod counters;
pub(crate) mod frame;
mod merging;
mod ring;
mod state;
mod worker;

use super::clock::JiffiesClock;
use super::xdp::Fences;
use super::{Attachment, Counters, Engine, EngineError, FlowTable, Mode, Passing, Samples};
use crate::ports::Port;
use crate::tables::{MapOp, Tables};
use aside::Aside;
use merging::Unmerged;
use ring::ReceiveRing;
use sluicegate_l4::layout::{self, Address, AddressEntry, Control, Interface, Traffic};
use sluicegate_l4::verdict::Reason;
use state::Shared;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::Arc;
use std::time::{Duration, Instant};
use worker::Worker;

/// What the engine is started with.
#[derive(Clone, Copy, Debug)]
pub struct PacketSettings {
    /// Sets of the flow table, a power of two.
    pub flow_sets: u32,
    /// Threads per port, at least one. Several share what comes by the hash of the flow.
    pub workers: usize,
}

impl Default for PacketSettings {
    fn default() -> Self {
        let workers = std::thread::available_parallelism().map_or(1, |cores| cores.get().min(MOST_WORKERS));
        Self { flow_sets: layout::FLOW_SETS, workers }
    }
}

/// Threads per port at most: each has a ring of 8 MiB.
const MOST_WORKERS: usize = 16;

/// A port and who takes its frames.
struct Attached {
    interface: Interface,
    workers: Vec<Worker>,
    _unmerged: Option<Unmerged>,
}

/// Packet sockets and threads.
pub struct PacketEngine {
    shared: Arc<Shared>,
    clock: JiffiesClock,
    workers_per_port: usize,
    ports: BTreeMap<u32, Attached>,
    /// Last, so that the kernel is kept away until nobody forwards any more.
    aside: Aside,
    /// After that, so that no other one removes routes that are in use.
    _alone: UnixListener,
}

impl PacketEngine {
    /// Makes empty tables, in the network namespace of the caller. Nothing is attached yet.
    ///
    /// # Errors
    /// Where another one runs there, or rights or randomness are missing.
    pub fn start(settings: &PacketSettings) -> Result<Self, EngineError> {
        let flow_sets = settings.flow_sets.clamp(1, 1 << 24).next_power_of_two();
        let clock = JiffiesClock::new(state::TICKS, Instant::now(), state::ticks());
        let mut secret = [0; 8];
        if rustix::rand::getrandom(&mut secret, rustix::rand::GetRandomFlags::empty()).is_err() {
            return Err(EngineError::Missing("source of randomness"));
        }
        let control = Control {
            flow_secret: u64::from_ne_bytes(secret) | 1,
            flow_mask: flow_sets - 1,
            stamp_shift: clock.stamp_shift(),
            ..Control::default()
        };
        let alone = alone()?;
        Ok(Self {
            _alone: alone,
            shared: Arc::new(Shared::new(control, flow_sets)),
            clock,
            workers_per_port: settings.workers.clamp(1, MOST_WORKERS),
            ports: BTreeMap::new(),
            aside: Aside::start().map_err(|source| EngineError::Socket {
                what: "cannot set routes of VIPs (CAP_NET_ADMIN is needed)",
                source,
            })?,
        })
    }

    /// A handle to the fences, for who owns VIPs. An answer that was decided before a fence ended leaves at most 20 ms after
    /// that.
    #[must_use]
    pub fn fences(&self) -> Fences {
        Fences::in_memory(self.shared.fences.clone(), self.clock.clone())
    }

    /// The queue of sampled packets.
    #[must_use]
    pub fn samples(&self) -> Samples {
        Samples::Memory(self.shared.samples.clone())
    }

    /// Packets that found a ring full, or that were to be sent and no interface took.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.shared.sum(0, |sum, counters| sum + counters.lost_so_far())
    }

    fn write(&self, op: &MapOp) -> Result<(), EngineError> {
        let MapOp::Address { bucket, way, entry } = op else { return self.shared.rows_mut().write(op) };
        let before = self.shared.rows().address(*bucket, *way).unwrap_or_default();
        if let Some(vip) = served(entry) {
            self.aside.add(vip).map_err(route_error)?;
        } else if entry.id != 0 {
            tracing::warn!(
                vip = %vip_of(&entry.address),
                "a VIP that is an address of this machine is not forwarded by --forward packet: use xdp, or remove the address"
            );
        }
        self.shared.rows_mut().write(op)?;
        match served(&before) {
            // An entry that moves within the directory is in its new place already.
            Some(vip) if served(entry) != Some(vip) && !self.is_served(vip) => {
                self.aside.remove(vip).map_err(route_error)
            }
            _ => Ok(()),
        }
    }

    fn is_served(&self, vip: IpAddr) -> bool {
        let rows = self.shared.rows();
        (0..layout::ADDRESS_BUCKETS)
            .flat_map(|bucket| (0..3).map(move |way| (bucket, way)))
            .any(|(bucket, way)| rows.address(bucket, way).is_some_and(|entry| served(&entry) == Some(vip)))
    }

    /// Opens rings at a port and starts their threads.
    fn attach(&self, port: &Port, interface: Interface) -> io::Result<Attached> {
        let unmerged = Unmerged::switch_off(&port.name).unwrap_or_else(|error| {
            tracing::warn!(
                interface = %port.name, %error,
                "cannot switch GRO off: merged frames will be lost (`ethtool -K {} gro off`)", port.name
            );
            None
        });
        let mut group = (self.workers_per_port > 1).then_some(None);
        let mut workers = Vec::with_capacity(self.workers_per_port);
        for number in 0..self.workers_per_port {
            let ring = ReceiveRing::open(port.index, port.mtu, group)?;
            if group == Some(None) {
                group = Some(Some(ring.group()?));
            }
            let name = format!("packet-{}-{number}", port.name);
            workers.push(Worker::start(name, ring, (port.index, interface), self.shared.clone())?);
        }
        Ok(Attached { interface, workers, _unmerged: unmerged })
    }
}

impl Engine for PacketEngine {
    fn apply(&mut self, ops: &[MapOp]) -> Result<(), EngineError> {
        ops.iter().try_for_each(|op| self.write(op))
    }

    fn read(&self) -> Result<Tables, EngineError> {
        Ok(self.shared.rows().image())
    }

    fn set_ports(&mut self, ports: &BTreeMap<u32, Port>, _modes: &[Mode]) -> BTreeMap<u32, Attachment> {
        let wanted: BTreeMap<u32, Interface> = ports
            .iter()
            .map(|(index, port)| {
                (*index, Interface { mac: port.mac, mtu: u16::try_from(port.mtu).unwrap_or(u16::MAX) })
            })
            .collect();
        // A ring has slots for one MTU: a port that changed is attached anew.
        self.ports
            .retain(|index, held| wanted.get(index) == Some(&held.interface) && held.workers.iter().all(Worker::runs));
        self.shared.rows_mut().interfaces = wanted.clone();
        let mut attachments = BTreeMap::new();
        for (index, interface) in wanted {
            let adopted = self.ports.contains_key(&index);
            let mut attachment = Attachment { mode: Some(Mode::Packet), refused: Vec::new(), adopted };
            if let (false, Some(port)) = (adopted, ports.get(&index)) {
                match self.attach(port, interface) {
                    Ok(attached) => {
                        self.ports.insert(index, attached);
                    }
                    Err(error) => {
                        attachment.mode = None;
                        attachment.refused.push((Mode::Packet, format!("no packet socket (CAP_NET_RAW?): {error}")));
                    }
                }
            }
            attachments.insert(index, attachment);
        }
        attachments
    }

    fn renew(&mut self, ahead: Duration) -> Result<(), EngineError> {
        self.shared.rows_mut().control.live_until = self.clock.at(Instant::now()) + self.clock.ticks(ahead);
        Ok(())
    }

    fn sample(&mut self, every: u32) -> Result<(), EngineError> {
        self.shared.rows_mut().control.sample_every = every;
        Ok(())
    }

    fn counters(&self, services: &[u16], backends: &[u16]) -> Result<Counters, EngineError> {
        let of_reason = |reason: &Reason| self.shared.sum(0, |sum, counters| sum + counters.of_reason(*reason));
        let of_service = |id: u16| self.shared.sum(Traffic::default(), |sum, held| plus(sum, held.of_service(id)));
        let of_backend = |id: u16| self.shared.sum(Traffic::default(), |sum, held| plus(sum, held.of_backend(id)));
        Ok(Counters {
            reasons: Reason::ALL.iter().map(of_reason).collect(),
            services: services.iter().map(|id| (*id, of_service(*id))).collect(),
            backends: backends.iter().map(|id| (*id, of_backend(*id))).collect(),
        })
    }

    fn flows(&mut self) -> Option<FlowTable<'_>> {
        let shift = self.shared.rows().control.stamp_shift.min(63);
        let stamp = (self.clock.at(Instant::now()) >> shift) & ((1 << layout::flow_word::STAMP_BITS) - 1);
        Some(FlowTable {
            words: self.shared.flow_words(),
            overflows: self.shared.overflows(),
            stamp: stamp as u16,
            stamp_length: self.clock.stamp_length(shift),
        })
    }

    fn passing(&self) -> Passing<'_> {
        let control = self.shared.rows().control;
        Passing {
            control,
            now: self.clock.at(Instant::now()),
            flows: self.shared.flow_words(),
            overflows: self.shared.overflows(),
            stamp_length: self.clock.stamp_length(control.stamp_shift),
        }
    }

    fn fence(&self, address: u16) -> Duration {
        self.fences().remaining(address)
    }
}

/// Removes what a killed engine left in the network namespace of the caller: blackhole routes of VIPs.
///
/// # Errors
/// Where an engine runs there, or the kernel refuses.
pub fn detach() -> Result<(), EngineError> {
    let _alone = alone()?;
    Aside::start().map(drop).map_err(route_error)
}

/// Makes sure that no other engine runs in the network namespace: both would forward each packet. Abstract names of Unix
/// sockets are the namespace's own, and go with the process.
fn alone() -> Result<UnixListener, EngineError> {
    SocketAddr::from_abstract_name("sluicegate-packet-engine").and_then(|name| UnixListener::bind_addr(&name)).map_err(
        |source| EngineError::Socket {
            what: "another packet engine runs in this network namespace, stop it first",
            source,
        },
    )
}

/// The VIP of an entry that is in use and not for this machine itself.
fn served(entry: &AddressEntry) -> Option<IpAddr> {
    (entry.id != 0 && entry.flags & AddressEntry::LOCAL == 0).then(|| vip_of(&entry.address))
}

fn vip_of(address: &Address) -> IpAddr {
    let mut octets = [0; 16];
    for (bytes, word) in octets.as_chunks_mut::<4>().0.iter_mut().zip(address) {
        *bytes = word.to_ne_bytes();
    }
    Ipv6Addr::from(octets).to_canonical()
}

fn plus(one: Traffic, other: Traffic) -> Traffic {
    Traffic { packets: one.packets + other.packets, bytes: one.bytes + other.bytes, flows: one.flows + other.flows }
}

fn route_error(source: io::Error) -> EngineError {
    EngineError::Socket { what: "cannot set routes of VIPs (CAP_NET_ADMIN is needed)", source }
}
