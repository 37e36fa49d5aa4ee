//! The engine in the kernel: loads the programs, finds or makes the pinned tables, attaches to ports, writes rows.
//!
//! It keeps no state that the kernel does not have: a process that is killed leaves the programs forwarding, and the next
//! one finds everything where the pins are.

use super::clock::JiffiesClock;
use super::macs::MacTable;
use super::memory::MappedWords;
use super::rows::Row;
use super::{Attachment, Counters, Engine, EngineError, FlowTable, Mode, Passing, Samples};
use crate::pins::{GEOMETRY, Geometry, PinLock, Pins};
use crate::ports::Port;
use crate::tables::{MapOp, Tables, lines_of};
use aya::maps::{Array, DevMapHash, HashMap, Map, MapData, MapError, MapInfo, PerCpuArray};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use sluicegate_l4::layout::{
    self, AddressBucket, AddressEntry, Backend, Control, Interface, RING_LINE_SLOTS, RingLine, Service, ServiceBucket,
    Traffic, map,
};
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Words of one [`RingLine`].
const LINE_WORDS: usize = size_of::<RingLine>() / 8;

/// How long the rate of the clock is measured at start.
const RATE_MEASURE: Duration = Duration::from_millis(60);

/// What the engine is started with.
#[derive(Clone, Debug)]
pub struct XdpSettings {
    /// Where everything is pinned.
    pub pins: Pins,
    /// Other layout versions whose maps mean the same where their geometry is the same: they are taken over.
    pub compatible: Vec<u32>,
    /// Sets of the flow table, a power of two; a table that is there already keeps its size.
    pub flow_sets: u32,
}

/// How the tables were found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing was pinned.
    Fresh,
    /// The tables of a process before, or of a compatible version.
    Adopted {
        /// The version that they come from.
        version: u32,
    },
    /// What was pinned did not fit and was replaced: flows are selected anew.
    Replaced {
        /// What did not fit.
        reason: String,
    },
}

/// XDP, by pinned programs and tables.
pub struct XdpEngine {
    ebpf: Ebpf,
    pins: Pins,
    _lock: PinLock,
    found: Found,
    clock: JiffiesClock,
    ticks: Array<MapData, u64>,
    control: Array<MapData, Row<Control>>,
    switches: Control,
    addresses: Array<MapData, Row<AddressBucket>>,
    services: Array<MapData, Row<Service>>,
    service_index: Array<MapData, Row<ServiceBucket>>,
    backends: Array<MapData, Row<Backend>>,
    interfaces: HashMap<MapData, u32, Row<Interface>>,
    macs: MacTable,
    egress: DevMapHash<MapData>,
    reasons: PerCpuArray<MapData, u64>,
    service_traffic: PerCpuArray<MapData, Row<Traffic>>,
    backend_traffic: PerCpuArray<MapData, Row<Traffic>>,
    rings: MappedWords,
    flows: MappedWords,
    overflows: MappedWords,
    links: BTreeMap<u32, Held>,
}

/// An attachment, kept open: closing it leaves it to its pin.
struct Held {
    mode: Mode,
    _link: FdLink,
    path: PathBuf,
}

impl XdpEngine {
    /// Loads the programs, adopting what is pinned. Nothing is attached yet.
    ///
    /// # Errors
    /// Where the pins, the kernel or rights do not allow it.
    pub fn start(settings: &XdpSettings) -> Result<Self, EngineError> {
        let pins = settings.pins.clone();
        let lock = pins.prepare()?;
        let found = find_tables(&pins, &settings.compatible)?;
        let mut ebpf = load(&pins, settings.flow_sets)?;
        for name in [DIRECTOR, CLOCK_PROGRAM] {
            program(&mut ebpf, name)?.load().map_err(|error| refused(name, &error))?;
        }
        let mut ticks: Array<_, u64> = table(&mut ebpf, CLOCK)?;
        let clock = measure(&mut ebpf, &mut ticks)?;
        let flow_sets = pinned_entries(&pins, map::FLOWS)?;
        let flows = mapped(&mut ebpf, map::FLOWS, flow_sets, size_of::<layout::FlowSet>())?;
        let lines = pinned_entries(&pins, map::OVERFLOWS)?;
        let overflows = mapped(&mut ebpf, map::OVERFLOWS, lines, size_of::<layout::OverflowLine>())?;
        let lines = layout::MAX_RINGS * layout::RING_LINES;
        let rings = mapped(&mut ebpf, map::RINGS, lines, size_of::<RingLine>())?;
        let mut engine = Self {
            control: table(&mut ebpf, map::CONTROL)?,
            switches: Control::default(),
            addresses: table(&mut ebpf, map::ADDRESSES)?,
            services: table(&mut ebpf, map::SERVICES)?,
            service_index: table(&mut ebpf, map::SERVICE_INDEX)?,
            backends: table(&mut ebpf, map::BACKENDS)?,
            interfaces: table(&mut ebpf, map::INTERFACES)?,
            macs: MacTable::new(table(&mut ebpf, map::MACS)?),
            egress: table(&mut ebpf, map::EGRESS)?,
            reasons: table(&mut ebpf, map::REASONS)?,
            service_traffic: table(&mut ebpf, map::SERVICE_TRAFFIC)?,
            backend_traffic: table(&mut ebpf, map::BACKEND_TRAFFIC)?,
            ticks,
            rings,
            flows,
            overflows,
            links: BTreeMap::new(),
            ebpf,
            pins,
            _lock: lock,
            found,
            clock,
        };
        engine.set_switches(flow_sets)?;
        Ok(engine)
    }

    /// How the tables were found.
    #[must_use]
    pub fn found(&self) -> &Found {
        &self.found
    }

    /// The clock that deadlines are set by.
    #[must_use]
    pub fn clock(&self) -> JiffiesClock {
        self.clock.clone()
    }

    /// The pins.
    #[must_use]
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// A handle to the fences, for who owns VIPs: it works beside the engine and after it.
    ///
    /// # Errors
    /// Where the pin is gone.
    pub fn fences(&self) -> Result<Fences, EngineError> {
        let opened =
            MapData::from_pin(self.pins.tables().join(map::FENCES)).and_then(|data| Array::try_from(Map::Array(data)));
        Ok(Fences { places: Places::Kernel(opened.map_err(map_error(map::FENCES))?), clock: self.clock.clone() })
    }

    /// The queue of sampled packets.
    #[must_use]
    pub fn samples(&self) -> Samples {
        Samples::Kernel(self.pins.tables().join(map::SAMPLES))
    }

    /// Takes the switches over, or sets them for the first time.
    fn set_switches(&mut self, flow_sets: u32) -> Result<(), EngineError> {
        let held = self.control.get(&0, 0).map_err(map_error(map::CONTROL))?.0;
        let mut wanted = held;
        if wanted.flow_secret == 0 {
            let mut secret = [0; 8];
            // The kernel's generator is ready long before anything is attached.
            if rustix::rand::getrandom(&mut secret, rustix::rand::GetRandomFlags::empty()).is_err() {
                return Err(EngineError::Missing("source of randomness"));
            }
            wanted.flow_secret = u64::from_ne_bytes(secret) | 1;
        }
        wanted.flow_mask = flow_sets.saturating_sub(1);
        wanted.stamp_shift = self.clock.stamp_shift();
        // Whoever read samples of a process before this one is gone with it.
        wanted.sample_every = 0;
        self.switches = wanted;
        if wanted == held { Ok(()) } else { self.write_switches() }
    }

    fn write_switches(&mut self) -> Result<(), EngineError> {
        self.control.set(0, Row(self.switches), 0).map_err(map_error(map::CONTROL))
    }

    /// Reads the clock of the kernel.
    fn tick(&mut self) -> Result<(), EngineError> {
        let (at, jiffies) = read_clock(&mut self.ebpf, &mut self.ticks)?;
        self.clock.set(at, jiffies);
        Ok(())
    }

    fn write(&mut self, op: &MapOp) -> Result<(), EngineError> {
        match op {
            MapOp::Backend { id, value } => {
                self.backends.set(u32::from(*id), Row(*value), 0).map_err(map_error(map::BACKENDS))
            }
            MapOp::Service { id, value } => {
                self.services.set(u32::from(*id), Row(*value), 0).map_err(map_error(map::SERVICES))
            }
            MapOp::Ring { ring, lines } => {
                lines.iter().try_for_each(|(line, value)| self.write_line(*ring, *line, value))
            }
            MapOp::NewRing { ring, filling } => {
                (0..).zip(&filling.lines()).try_for_each(|(line, value)| self.write_line(*ring, line, value))
            }
            MapOp::ServiceWord { bucket, way, word } => {
                let mut held = self.service_index.get(bucket, 0).map_err(map_error(map::SERVICE_INDEX))?;
                *row(&mut held.0.words, *way, map::SERVICE_INDEX)? = *word;
                self.service_index.set(*bucket, held, 0).map_err(map_error(map::SERVICE_INDEX))
            }
            MapOp::Address { bucket, way, entry } => self.write_address(*bucket, *way, *entry),
        }
    }

    fn write_line(&self, ring: u32, line: u32, value: &RingLine) -> Result<(), EngineError> {
        let range = || EngineError::Range { name: map::RINGS, row: ring };
        if ring >= layout::MAX_RINGS || line >= layout::RING_LINES {
            return Err(range());
        }
        let first = (ring * layout::RING_LINES + line) as usize * LINE_WORDS;
        let words = self.rings.words().get(first..first + LINE_WORDS).ok_or_else(range)?;
        for (word, slots) in words.iter().zip(value.slots.as_chunks::<4>().0) {
            word.store(word_of(slots), Ordering::Release);
        }
        Ok(())
    }

    /// An address is found by its id being there: it goes first and comes last, so no reader sees half an entry.
    fn write_address(&mut self, bucket: u32, way: u32, entry: AddressEntry) -> Result<(), EngineError> {
        let mut held = self.addresses.get(&bucket, 0).map_err(map_error(map::ADDRESSES))?;
        let slot = row(&mut held.0.entries, way, map::ADDRESSES)?;
        let before = *slot;
        let mut steps = Vec::with_capacity(3);
        if before.address != entry.address {
            if before.id != 0 {
                steps.push(AddressEntry { id: 0, ..before });
            }
            steps.push(AddressEntry { id: 0, ..entry });
        }
        steps.push(entry);
        for step in steps {
            *row(&mut held.0.entries, way, map::ADDRESSES)? = step;
            self.addresses.set(bucket, held, 0).map_err(map_error(map::ADDRESSES))?;
        }
        Ok(())
    }

    fn line(&self, ring: u32, line: u32) -> RingLine {
        let first = (ring * layout::RING_LINES + line) as usize * LINE_WORDS;
        let mut slots = [0; RING_LINE_SLOTS as usize];
        let words = self.rings.words().get(first..first + LINE_WORDS).unwrap_or_default();
        for (chunk, word) in slots.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *chunk = slots_of(word.load(Ordering::Relaxed));
        }
        RingLine { slots }
    }

    /// Attaches to one port, in the first mode that works.
    fn attach(&mut self, port: &Port, modes: &[Mode]) -> Attachment {
        if let Some(held) = self.links.get(&port.index) {
            return Attachment { mode: Some(held.mode), refused: Vec::new(), adopted: true };
        }
        let mut refused = Vec::new();
        for mode in [Mode::Native, Mode::Generic] {
            let path = self.link_path(port.index, mode);
            if !path.exists() {
                continue;
            }
            match self.take_over(&path) {
                Ok(link) => {
                    self.links.insert(port.index, Held { mode, _link: link, path });
                    return Attachment { mode: Some(mode), refused, adopted: true };
                }
                Err(error) => {
                    // The interface behind it is gone and its index was given out again.
                    tracing::info!(interface = %port.name, %error, "a pinned link leads nowhere, attaching anew");
                    let _gone = fs::remove_file(&path);
                }
            }
        }
        for &mode in modes {
            match self.attach_anew(port, mode) {
                Ok(held) => {
                    self.links.insert(port.index, held);
                    return Attachment { mode: Some(mode), refused, adopted: false };
                }
                Err(reason) => refused.push((mode, reason)),
            }
        }
        Attachment { mode: None, refused, adopted: false }
    }

    /// Puts this process's program behind a pinned link, in one step.
    fn take_over(&mut self, path: &Path) -> Result<FdLink, String> {
        let mut refused = String::new();
        for name in PROGRAMS {
            let pinned = PinnedLink::from_pin(path).map_err(|error| full(&error))?;
            let link = XdpLink::try_from(FdLink::from(pinned)).map_err(|error| full(&error))?;
            let director = loaded(&mut self.ebpf, name).map_err(|error| full(&error))?;
            match director.attach_to_link(link) {
                Ok(id) => {
                    let link = director.take_link(id).map_err(|error| full(&error))?;
                    return FdLink::try_from(link).map_err(|error| full(&error));
                }
                Err(error) => refused = full(&error),
            }
        }
        Err(refused)
    }

    fn attach_anew(&mut self, port: &Port, mode: Mode) -> Result<Held, String> {
        let flag = match mode {
            Mode::Native => XdpMode::Driver,
            Mode::Generic => XdpMode::Skb,
            Mode::Packet => return Err("not a mode of XDP".to_owned()),
        };
        let path = self.link_path(port.index, mode);
        let mut refused = String::new();
        for name in PROGRAMS {
            let director = loaded(&mut self.ebpf, name).map_err(|error| full(&error))?;
            match director.attach_to_if_index(port.index, flag) {
                Ok(id) => {
                    let link = director.take_link(id).map_err(|error| full(&error))?;
                    let link = FdLink::try_from(link)
                        .map_err(|_| "the kernel has no XDP links (they came with 5.9)".to_owned())?;
                    let pinned = link.pin(&path).map_err(|error| full(&error))?;
                    return Ok(Held { mode, _link: pinned.into(), path });
                }
                // The reason of the first is the one that an operator can do something about.
                Err(error) if refused.is_empty() => refused = refusal(&error),
                Err(_) => {}
            }
        }
        Err(refused)
    }

    fn link_path(&self, index: u32, mode: Mode) -> PathBuf {
        self.pins.links().join(format!("{index}-{mode}"))
    }

    /// Lets go of ports that are not wanted, also of those that a process before this one left.
    fn release_others(&mut self, ports: &BTreeMap<u32, Port>) {
        self.links.retain(|index, held| {
            let wanted = ports.contains_key(index);
            if !wanted {
                let _gone = fs::remove_file(&held.path);
            }
            wanted
        });
        for entry in fs::read_dir(self.pins.links()).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let index = name.to_str().and_then(|name| name.split('-').next()).and_then(|index| index.parse().ok());
            if index.is_none_or(|index: u32| !ports.contains_key(&index)) {
                let _gone = fs::remove_file(entry.path());
            }
        }
        let known: Vec<u32> = self.interfaces.keys().flatten().collect();
        for index in known {
            if !ports.contains_key(&index) {
                let _gone = self.interfaces.remove(&index);
                let _gone = self.egress.remove(index);
            }
        }
    }

    /// Makes a port known to the program: who it is, and that packets may leave by it.
    fn describe(&mut self, port: &Port) -> Result<(), EngineError> {
        let wanted = Interface { mac: port.mac, mtu: u16::try_from(port.mtu).unwrap_or(u16::MAX) };
        if self.interfaces.get(&port.index, 0).ok().map(|held| held.0) != Some(wanted) {
            self.interfaces.insert(port.index, Row(wanted), 0).map_err(map_error(map::INTERFACES))?;
        }
        if self.egress.get(port.index, 0).is_err() {
            let inserted = self.egress.insert(port.index, port.index, None, 0);
            if let Err(error) = inserted {
                tracing::warn!(interface = %port.name, %error, "packets cannot be sent by this interface");
            }
        }
        Ok(())
    }
}

impl Engine for XdpEngine {
    fn apply(&mut self, ops: &[MapOp]) -> Result<(), EngineError> {
        ops.iter().try_for_each(|op| self.write(op))
    }

    fn read(&self) -> Result<Tables, EngineError> {
        let mut tables = Tables::default();
        for (index, bucket) in tables.addresses.iter_mut().enumerate() {
            *bucket = self.addresses.get(&(index as u32), 0).map_err(map_error(map::ADDRESSES))?.0;
        }
        for (index, bucket) in tables.service_index.iter_mut().enumerate() {
            *bucket = self.service_index.get(&(index as u32), 0).map_err(map_error(map::SERVICE_INDEX))?.0;
        }
        for id in 1..=layout::MAX_BACKENDS as u16 {
            let backend = self.backends.get(&u32::from(id), 0).map_err(map_error(map::BACKENDS))?.0;
            if backend.kind != Backend::KIND_NONE {
                tables.backends.insert(id, backend);
            }
        }
        for id in 1..=layout::MAX_SERVICES as u16 {
            let service = self.services.get(&u32::from(id), 0).map_err(map_error(map::SERVICES))?.0;
            if service.ring_slots == 0 && service.ring == 0 && service.former_ring == 0 {
                continue;
            }
            tables.services.insert(id, service);
            for ring in [service.ring, service.former_ring] {
                if ring < layout::MAX_RINGS && !tables.rings.contains_key(&ring) {
                    let lines = lines_of(service.ring_slots.min(layout::RING_SLOTS));
                    tables.rings.insert(ring, (0..lines).map(|line| self.line(ring, line)).collect());
                }
            }
        }
        Ok(tables)
    }

    fn set_ports(&mut self, ports: &BTreeMap<u32, Port>, modes: &[Mode]) -> BTreeMap<u32, Attachment> {
        self.release_others(ports);
        // Known before attached: an answer that goes out of a port carries its MAC address.
        for port in ports.values() {
            if let Err(error) = self.describe(port) {
                tracing::warn!(interface = %port.name, %error, "the port is not known to the program");
            }
        }
        if let Err(error) = self.macs.set(ports) {
            tracing::warn!(%error, "frames for other machines are not told apart at every port");
        }
        let modes_of = |port: &Port| if port.is_of_own_clients() { &[Mode::Generic] } else { modes };
        ports.iter().map(|(index, port)| (*index, self.attach(port, modes_of(port)))).collect()
    }

    fn renew(&mut self, ahead: Duration) -> Result<(), EngineError> {
        self.tick()?;
        self.switches.live_until = self.clock.at(Instant::now()) + self.clock.ticks(ahead);
        self.write_switches()
    }

    fn sample(&mut self, every: u32) -> Result<(), EngineError> {
        self.switches.sample_every = every;
        self.write_switches()
    }

    fn counters(&self, services: &[u16], backends: &[u16]) -> Result<Counters, EngineError> {
        let mut counters = Counters::default();
        for reason in sluicegate_l4::verdict::Reason::ALL {
            let values = self.reasons.get(&reason.index(), 0).map_err(map_error(map::REASONS))?;
            counters.reasons.push(values.iter().sum());
        }
        for id in services {
            let values = self.service_traffic.get(&u32::from(*id), 0).map_err(map_error(map::SERVICE_TRAFFIC))?;
            counters.services.insert(*id, sum(&values));
        }
        for id in backends {
            let values = self.backend_traffic.get(&u32::from(*id), 0).map_err(map_error(map::BACKEND_TRAFFIC))?;
            counters.backends.insert(*id, sum(&values));
        }
        Ok(counters)
    }

    fn flows(&mut self) -> Option<FlowTable<'_>> {
        let shift = self.switches.stamp_shift.min(63);
        let stamp = (self.clock.at(Instant::now()) >> shift) & ((1 << layout::flow_word::STAMP_BITS) - 1);
        let (words, overflows) = (self.flows.words(), self.overflows.bytes());
        Some(FlowTable { words, overflows, stamp: stamp as u16, stamp_length: self.clock.stamp_length(shift) })
    }

    fn passing(&self) -> Passing<'_> {
        Passing {
            control: self.switches,
            now: self.clock.at(Instant::now()),
            flows: self.flows.words(),
            overflows: self.overflows.bytes(),
            stamp_length: self.clock.stamp_length(self.switches.stamp_shift),
        }
    }

    fn fence(&self, address: u16) -> Duration {
        self.fences().map(|fences| fences.remaining(address)).unwrap_or_default()
    }
}

/// The fences: until when ARP and NDP are answered for each VIP.
pub struct Fences {
    places: Places,
    clock: JiffiesClock,
}

/// Where they lie.
enum Places {
    Kernel(Array<MapData, u64>),
    Memory(Arc<[AtomicU64]>),
}

impl Fences {
    /// Fences in the memory of this process, by address id, in ticks of the clock.
    pub(super) fn in_memory(places: Arc<[AtomicU64]>, clock: JiffiesClock) -> Self {
        Self { places: Places::Memory(places), clock }
    }

    /// Answers for the VIP with this id until `ahead` from the present.
    ///
    /// # Errors
    /// Where the map fails.
    pub fn hold(&mut self, address: u16, ahead: Duration) -> Result<(), EngineError> {
        let until = self.clock.at(Instant::now()) + self.clock.ticks(ahead);
        self.set(address, until)
    }

    /// Answers until a deadline of which `remaining` says how far it lies ahead. The jiffies are read first: a process
    /// that is stopped in between makes the deadline earlier, never later.
    ///
    /// # Errors
    /// Where the map fails.
    pub fn hold_until(&mut self, address: u16, remaining: impl FnOnce() -> Duration) -> Result<(), EngineError> {
        let present = self.clock.at(Instant::now());
        match self.clock.ticks(remaining()) {
            0 => self.release(address),
            ticks => self.set(address, present + ticks),
        }
    }

    /// How far ahead the deadline lies; nothing where it is over, or cannot be read.
    #[must_use]
    pub fn remaining(&self, address: u16) -> Duration {
        let until = match &self.places {
            Places::Kernel(map) => map.get(&u32::from(address), 0).unwrap_or(0),
            Places::Memory(places) => places.get(usize::from(address)).map_or(0, |place| place.load(Ordering::Relaxed)),
        };
        let ticks = until.saturating_sub(self.clock.at(Instant::now()));
        // A deadline lies seconds ahead at most; what is beyond fits into no duration of interest.
        Duration::from_secs(ticks.min(u64::from(u32::MAX))) / self.clock.rate()
    }

    /// Answers no more.
    ///
    /// # Errors
    /// Where the map fails.
    pub fn release(&mut self, address: u16) -> Result<(), EngineError> {
        self.set(address, 0)
    }

    /// Answers until these jiffies.
    ///
    /// # Errors
    /// Where the map fails.
    pub fn set(&mut self, address: u16, until_jiffies: u64) -> Result<(), EngineError> {
        let index = u32::from(address);
        match &mut self.places {
            Places::Kernel(map) => map.set(index, until_jiffies, 0).map_err(map_error(map::FENCES)),
            Places::Memory(places) => {
                let range = EngineError::Range { name: map::FENCES, row: index };
                places.get(usize::from(address)).ok_or(range)?.store(until_jiffies, Ordering::Relaxed);
                Ok(())
            }
        }
    }
}

/// Takes frames that lie in one part.
const DIRECTOR: &str = "director";
/// Takes frames of several parts too (`xdp.frags`): what drivers want where the MTU is beyond a page.
const DIRECTOR_FRAGS: &str = "director_frags";
/// In the order in which a driver is asked to take them.
const PROGRAMS: [&str; 2] = [DIRECTOR, DIRECTOR_FRAGS];
const CLOCK_PROGRAM: &str = "clock";

/// Name of the map that the program `clock` writes to.
const CLOCK: &str = "CLOCK";

/// Makes sure that what is pinned under this version can be used, taking over a compatible version's where there is none.
fn find_tables(pins: &Pins, compatible: &[u32]) -> Result<Found, EngineError> {
    let mut found = Found::Fresh;
    if let Some(reason) = GEOMETRY.iter().find_map(|geometry| misfit(pins, geometry)) {
        tracing::warn!(%reason, path = %pins.tables().display(), "the pinned tables do not fit, making new ones");
        pins.remove_tables()?;
        pins.ensure_tables()?;
        found = Found::Replaced { reason };
    } else if pins.tables().join(map::CONTROL).exists() {
        return Ok(Found::Adopted { version: pins.version() });
    }
    let before = pins
        .other_versions()
        .into_iter()
        .rev()
        .find(|other| compatible.contains(&other.version()) && other.tables().join(map::CONTROL).exists());
    let Some(before) = before else { return Ok(found) };
    // They refer to each other by ids: flows that were taken over without the backends that they name would end anywhere.
    if let Some(reason) = GEOMETRY.iter().filter(|table| !is_counter(table)).find_map(|table| misfit(&before, table)) {
        tracing::warn!(version = before.version(), %reason, "the tables of the version before do not fit, making new ones");
        return Ok(Found::Replaced { reason });
    }
    for geometry in GEOMETRY {
        let is_new = !before.tables().join(geometry.name).exists();
        if is_new || misfit(&before, geometry).is_some() {
            continue;
        }
        let shared = MapData::from_pin(before.tables().join(geometry.name)).and_then(|data| {
            let pinned = data.pin(pins.tables().join(geometry.name));
            pinned.map_err(|error| MapError::PinError { name: Some(geometry.name.into()), error })
        });
        if let Err(error) = shared {
            tracing::warn!(map = geometry.name, %error, "a table of the version before cannot be taken over");
        }
    }
    Ok(Found::Adopted { version: before.version() })
}

/// True for tables that nobody refers to: losing them costs figures.
fn is_counter(table: &Geometry) -> bool {
    let counters = [map::REASONS, map::SERVICE_TRAFFIC, map::BACKEND_TRAFFIC, map::TURNS, map::SAMPLES];
    counters.contains(&table.name)
}

/// Why a pinned map cannot be used; `None` = it can, or is not there.
fn misfit(pins: &Pins, wanted: &Geometry) -> Option<String> {
    let path = pins.tables().join(wanted.name);
    if !path.exists() {
        return None;
    }
    let info = match MapInfo::from_pin(&path) {
        Ok(info) => info,
        Err(error) => return Some(format!("{}: {}", wanted.name, full(&error))),
    };
    let kind = info.map_type().map_or(u32::MAX, |kind| kind as u32);
    let fits = kind == wanted.kind
        && (wanted.key == 0 || info.key_size() == wanted.key)
        && (wanted.value == 0 || info.value_size() == wanted.value)
        && wanted.entries.is_none_or(|entries| info.max_entries() == entries)
        && info.map_flags() & wanted.flags == wanted.flags;
    (!fits).then(|| {
        format!(
            "{}: is type {kind} with keys of {}, values of {}, {} entries, flags {:#x}",
            wanted.name,
            info.key_size(),
            info.value_size(),
            info.max_entries(),
            info.map_flags()
        )
    })
}

fn load(pins: &Pins, flow_sets: u32) -> Result<Ebpf, EngineError> {
    let mut loader = EbpfLoader::new();
    // The program reads no types of the kernel, and parsing them all takes time and 20 MB.
    loader.btf(None);
    for geometry in GEOMETRY {
        loader.map_pin_path(geometry.name, pins.tables().join(geometry.name));
    }
    let wanted = flow_sets.clamp(1, 1 << 24).next_power_of_two();
    // A table that is there keeps its size.
    let sets = pinned_entries(pins, map::FLOWS).unwrap_or(wanted);
    loader.map_max_entries(map::FLOWS, sets);
    loader.map_max_entries(map::OVERFLOWS, sets.div_ceil(layout::OVERFLOW_LINE_SETS));
    loader.load(sluicegate_xdp::DIRECTOR).map_err(|error| EngineError::Load(Box::new(error)))
}

fn pinned_entries(pins: &Pins, name: &'static str) -> Result<u32, EngineError> {
    Ok(MapInfo::from_pin(pins.tables().join(name)).map_err(map_error(name))?.max_entries())
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, EngineError> {
    let program = ebpf.program_mut(name).ok_or(EngineError::Missing(name))?;
    program.try_into().map_err(|error: ProgramError| refused(name, &error))
}

/// The program in the kernel. Verifying takes seconds of a CPU: what is seldom wanted is loaded when it is.
fn loaded<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, EngineError> {
    let program = program(ebpf, name)?;
    if program.fd().is_err() {
        program.load().map_err(|error| refused(name, &error))?;
    }
    Ok(program)
}

fn table<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, EngineError> {
    T::try_from(ebpf.take_map(name).ok_or(EngineError::Missing(name))?).map_err(map_error(name))
}

fn mapped(ebpf: &mut Ebpf, name: &'static str, entries: u32, size: usize) -> Result<MappedWords, EngineError> {
    let Some(Map::Array(data)) = ebpf.map(name) else { return Err(EngineError::Missing(name)) };
    MappedWords::new(data.fd().as_fd(), entries, size as u32).map_err(|source| EngineError::Memory { name, source })
}

/// Runs the clock program until its rate is known.
fn measure(ebpf: &mut Ebpf, ticks: &mut Array<MapData, u64>) -> Result<JiffiesClock, EngineError> {
    let first = read_clock(ebpf, ticks)?;
    std::thread::sleep(RATE_MEASURE);
    let second = read_clock(ebpf, ticks)?;
    Ok(JiffiesClock::new(JiffiesClock::rate_of(first, second), second.0, second.1))
}

fn read_clock(ebpf: &mut Ebpf, ticks: &mut Array<MapData, u64>) -> Result<(Instant, u64), EngineError> {
    let clock = program(ebpf, CLOCK_PROGRAM)?;
    let at = Instant::now();
    sluicegate_xdp::test_run::run(clock, &[0; 64], 1).map_err(|error| refused(CLOCK_PROGRAM, &error))?;
    Ok((at, ticks.get(&0, 0).map_err(map_error(CLOCK))?))
}

fn sum(values: &aya::maps::PerCpuValues<Row<Traffic>>) -> Traffic {
    values.iter().fold(Traffic::default(), |sum, Row(one)| Traffic {
        packets: sum.packets + one.packets,
        bytes: sum.bytes + one.bytes,
        flows: sum.flows + one.flows,
    })
}

fn row<'a, T>(rows: &'a mut [T], index: u32, name: &'static str) -> Result<&'a mut T, EngineError> {
    rows.get_mut(index as usize).ok_or(EngineError::Range { name, row: index })
}

fn word_of(slots: &[u16; 4]) -> u64 {
    let mut bytes = [0; 8];
    for (pair, slot) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(slots) {
        *pair = slot.to_ne_bytes();
    }
    u64::from_ne_bytes(bytes)
}

fn slots_of(word: u64) -> [u16; 4] {
    let bytes = word.to_ne_bytes();
    let mut slots = [0; 4];
    for (slot, pair) in slots.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *slot = u16::from_ne_bytes(*pair);
    }
    slots
}

fn map_error(name: &'static str) -> impl Fn(MapError) -> EngineError {
    move |source| EngineError::Map { name, source: Box::new(source) }
}

/// A program that the kernel does not take. The verifier's log can have a million lines, the last ones say what it is about.
fn refused(name: &'static str, error: &ProgramError) -> EngineError {
    let reason = match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            let mut end: Vec<&str> =
                log.lines().rev().filter(|line| !line.trim().is_empty()).take(VERIFIER_LINES).collect();
            end.reverse();
            format!("{io_error}; the verifier: {}", end.join(" | "))
        }
        other => full(other),
    };
    EngineError::Program { name, reason }
}

/// Lines of the verifier's log that are shown.
const VERIFIER_LINES: usize = 5;

/// Why the kernel would not attach, in the operator's words where the reason is a known one.
fn refusal(error: &ProgramError) -> String {
    let errno = match error {
        ProgramError::SyscallError(call) => call.io_error.raw_os_error(),
        _ => None,
    };
    match errno {
        Some(16 | 17) => format!("another XDP program is attached already ({}): detach it first", full(error)),
        Some(95) => format!("the driver has no XDP ({})", full(error)),
        _ => full(error),
    }
}

/// An error with its causes.
fn full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
