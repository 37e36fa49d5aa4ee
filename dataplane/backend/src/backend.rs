//! A real server: its VIPs, its programs, its settings.

use crate::addresses::{AddressError, Addresses};
use crate::classifiers::{self, ClassifierMode};
use crate::peer::PeerNetwork;
use crate::pod_tables::{self, Plan, PodTables};
use crate::pods::{self, PodError, PodPort, PodService};
use crate::programs::{self, AttachMode, Attachment, ProgramError, Source};
use crate::sysctl::{self, SysctlError};
use crate::turn::{self, Turn};
use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, MapData};
use aya::programs::TcAttachType;
use sluicegate_dsr::Reason;
use sluicegate_dsr::layout::{Bound, HostControl, map};
use sluicegate_l4::layout::Address;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// What does not change while it runs.
#[derive(Clone, Debug)]
pub struct BackendSettings {
    /// Where the director's packets come in and answers leave.
    pub interfaces: Vec<String>,
    /// How the XDP program is attached.
    pub mode: AttachMode,
    /// How classifiers are attached.
    pub classifiers: ClassifierMode,
    /// A folder of its own in a BPF file system: [`crate::default_pins`].
    pub pins: PathBuf,
    /// How many flows into pods are remembered, about 210 bytes each: [`DEFAULT_POD_FLOWS`], say. Beyond, those that were silent
    /// longest are forgotten. 0 = nothing is delivered into pods: what that needs is neither loaded nor attached.
    pub pod_flows: u32,
}

/// Flows into pods of one host, for most (56 MB of the kernel's memory).
pub const DEFAULT_POD_FLOWS: u32 = 262_144;

/// Whose tunnels are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Directors {
    /// Those with these outer source addresses.
    Known(BTreeSet<IpAddr>),
    /// Everybody's. Whoever can reach the host can then send packets with any source address to its VIPs.
    Any,
}

/// What a real server is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendState {
    /// VIPs, with the largest IP packet in bytes that fits into the director's tunnel (the MTU of its way less the outer
    /// headers: 20 IPIP, 28 GUE over IPv4; 40 and 48 over IPv6); `None` = no tunnel (L2).
    pub vips: BTreeMap<IpAddr, Option<u16>>,
    /// Whose tunnels are believed.
    pub directors: Directors,
    /// Other real servers of the VIPs: what they hand over is believed, and packets of flows that are not known here are
    /// handed over to them (second chance). The host itself may be among them.
    pub peers: BTreeSet<PeerNetwork>,
    /// Addresses at which tunnels end; empty = all that the host has when this is applied.
    pub endpoints: BTreeSet<IpAddr>,
    /// Ports of VIPs that end in pods of this host. Their VIPs are not put on `lo`; one that is also among [`Self::vips`] is
    /// on `lo` for its other ports.
    pub services: BTreeMap<PodPort, PodService>,
}

/// What one [`Backend::apply`] changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// VIPs that were put on `lo`.
    pub added: Vec<IpAddr>,
    /// VIPs that were taken off.
    pub removed: Vec<IpAddr>,
    /// VIPs that stay on `lo` though they are not wanted, because somebody else put them there.
    pub foreign: Vec<IpAddr>,
    /// Rows of tables that were written or removed.
    pub rows: usize,
}

/// Why a host could not be made a real server.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// Programs or tables.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// Services into pods.
    #[error(transparent)]
    Pods(#[from] PodError),
    /// Addresses.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// Settings of the kernel.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
}

/// A host that takes DSR traffic. Dropping it leaves everything as it is: [`detach`] takes it away.
pub struct Backend {
    object: Ebpf,
    attachments: Vec<Attachment>,
    addresses: Addresses,
    pods: PodTables,
    settings: BackendSettings,
    /// What [`turn`] made is there, or may be.
    has_turn: bool,
}

impl Backend {
    /// Loads and attaches the programs, or takes over those that an earlier process left (tables of another release are
    /// made anew: nothing is unwrapped until [`Backend::apply`] has filled them), and silences ARP for addresses
    /// on `lo` (`arp_ignore=1`, `arp_announce=2`, which stay so). Needs a tokio runtime.
    ///
    /// # Errors
    /// Missing rights, no BPF file system, no such interface; another XDP program on it in the modes that ask for XDP.
    pub fn start(settings: &BackendSettings) -> Result<Self, BackendError> {
        let flows = settings.pod_flows.max(1);
        let entries = [(map::POD_FLOWS, Some(flows)), (map::POD_REPLIES, Some(flows))];
        let mut object = Source { entries: &entries, ..OBJECT }.load_anew(&settings.pins)?;
        let pods = if settings.pod_flows > 0 { PodTables::read(&mut object)? } else { PodTables::default() };
        silence_arp("all")?;
        let mut attachments = Vec::new();
        for interface in &settings.interfaces {
            let clamp = pin(&settings.pins, CLAMP, interface);
            let leaves = (interface.as_str(), TcAttachType::Egress);
            classifiers::attach(&mut object, CLAMP, leaves, settings.classifiers, &clamp)?;
            // Before the program that gives it something to do.
            let hand_over = pin(&settings.pins, HAND_OVER, interface);
            let comes_in = (interface.as_str(), TcAttachType::Ingress);
            classifiers::attach(&mut object, HAND_OVER, comes_in, settings.classifiers, &hand_over)?;
            let to_pod = pin(&settings.pins, TO_POD, interface);
            if settings.pod_flows > 0 {
                classifiers::attach(&mut object, TO_POD, comes_in, settings.classifiers, &to_pod)?;
            } else {
                classifiers::detach(TO_POD, interface, comes_in.1, &to_pod)?;
            }
            // Stands before what has come before, which wants what it leaves.
            attachments.push(attach_unwrapping(&mut object, settings, interface)?);
            silence_arp(interface)?;
        }
        Ok(Self {
            object,
            attachments,
            addresses: Addresses::open()?,
            pods,
            settings: settings.clone(),
            has_turn: true,
        })
    }

    /// The interfaces, and how the XDP program is attached.
    #[must_use]
    pub fn attachments(&self) -> &[Attachment] {
        &self.attachments
    }

    /// Makes the host what `state` says; writes only what differs. A new VIP can be reached when its tables are filled:
    /// address first, then tables; a removed one in reverse.
    ///
    /// # Errors
    /// The first thing that the kernel refuses; what was done until then stays, and applying again goes on.
    pub async fn apply(&mut self, state: &BackendState) -> Result<Changes, BackendError> {
        pods::check(&state.services, self.settings.pod_flows)?;
        let plan = self.pods.plan(&state.services)?;
        let turn = self.turn(state).await;
        let mut changes = Changes::default();
        let present = self.addresses.on_loopback().await?;
        for vip in state.vips.keys().filter(|vip| !present.contains_key(vip)) {
            self.addresses.add(*vip).await?;
            changes.added.push(*vip);
        }
        let endpoints = match state.endpoints.is_empty() {
            true => self.addresses.reachable().await?.into_iter().collect(),
            false => state.endpoints.clone(),
        };
        changes.rows += self.write(state, &endpoints, &plan, turn)?;
        for (vip, ours) in present {
            if !state.vips.contains_key(&vip) && ours {
                self.addresses.remove(vip).await?;
                changes.removed.push(vip);
            } else if !state.vips.contains_key(&vip) && !vip.is_loopback() {
                changes.foreign.push(vip);
            }
        }
        Ok(changes)
    }

    /// Packets by reason since the tables were made; those that are 0 are left out.
    ///
    /// # Errors
    /// Where the table cannot be read.
    pub fn counters(&self) -> Result<Vec<(Reason, u64)>, BackendError> {
        Ok(programs::counters(&self.object, map::HOST_REASONS)?)
    }

    /// The way of clients of this host to its pods; none where there are none, or where it cannot be made: then those clients, and
    /// they alone, do not reach them.
    async fn turn(&mut self, state: &BackendState) -> Turn {
        let made = match (state.services.is_empty(), self.has_turn) {
            (true, false) => return Turn::default(),
            (true, true) => self.remove_turn().await.map(|()| Turn::default()),
            (false, _) => self.make_turn().await,
        };
        self.has_turn = !state.services.is_empty();
        made.unwrap_or_else(|why| {
            tracing::warn!(%why, "clients on this host do not reach pods of this host by VIPs");
            Turn::default()
        })
    }

    async fn remove_turn(&self) -> Result<(), BackendError> {
        for interface in turn::OF_DIRECTOR {
            let at = pin(&self.settings.pins, TO_POD, interface);
            classifiers::detach(TO_POD, interface, TcAttachType::Ingress, &at)?;
        }
        turn::remove().await?;
        Ok(())
    }

    async fn make_turn(&mut self) -> Result<Turn, BackendError> {
        // The kernel expects what has a VIP as source by the default route, which the first uplink is taken to have.
        let made = turn::make(self.settings.interfaces.first().map_or("", String::as_str)).await?;
        let settings = &self.settings;
        let leaves = (turn::DEVICE, TcAttachType::Egress);
        let at = pin(&settings.pins, CLAMP, turn::DEVICE);
        classifiers::attach(&mut self.object, CLAMP, leaves, settings.classifiers, &at)?;
        for interface in turn::OF_DIRECTOR {
            let at = pin(&settings.pins, TO_POD, interface);
            if programs::index_of(interface).is_ok() {
                let comes_in = (interface, TcAttachType::Ingress);
                classifiers::attach(&mut self.object, TO_POD, comes_in, settings.classifiers, &at)?;
            }
        }
        Ok(made)
    }

    fn write(
        &mut self,
        state: &BackendState,
        endpoints: &BTreeSet<IpAddr>,
        plan: &Plan,
        turn: Turn,
    ) -> Result<usize, ProgramError> {
        let (any, directors) = match &state.directors {
            Directors::Any => (HostControl::ANY_DIRECTOR, BTreeSet::new()),
            Directors::Known(directors) => (0, directors.clone()),
        };
        let ones = |addresses: &BTreeSet<IpAddr>| addresses.iter().map(|address| (words(*address), 1)).collect();
        let mut rows = self.fill(map::DIRECTORS, &ones(&directors))?;
        rows += self.fill_peers(&state.peers)?;
        rows += self.fill(map::ENDPOINTS, &ones(endpoints))?;
        // What pods answer is to find its way before anything is led to them.
        let pods = if state.services.is_empty() { 0 } else { HostControl::PODS };
        rows += self.pods.put(&mut self.object, plan)?;
        rows += self.control(any | pods, turn)?;
        rows += self.fill(map::BOUND, &bound(state))?;
        rows += self.pods.remove(&mut self.object, plan)?;
        Ok(rows)
    }

    fn control(&mut self, flags: u32, turn: Turn) -> Result<usize, ProgramError> {
        let failed = |why: aya::maps::MapError| failed_table(map::HOST, &why);
        let mut host: Array<&mut MapData, ControlRow> = programs::table(&mut self.object, map::HOST)?;
        let control = control_row(flags, turn);
        if host.get(&0, 0).map_err(failed)? == control {
            return Ok(0);
        }
        host.set(0, control, 0).map_err(failed)?;
        Ok(1)
    }

    /// Makes the table of peers hold these networks and no others: adds, then removes.
    fn fill_peers(&mut self, wanted: &BTreeSet<PeerNetwork>) -> Result<usize, ProgramError> {
        let failed = |why: aya::maps::MapError| failed_table(map::PEERS, &why);
        let mut table: LpmTrie<&mut MapData, Address, u32> = programs::table(&mut self.object, map::PEERS)?;
        let wanted: BTreeSet<(u32, Address)> = wanted.iter().map(PeerNetwork::key).collect();
        let mut present = BTreeSet::new();
        for key in table.keys() {
            let key = key.map_err(failed)?;
            present.insert((key.prefix_len(), key.data()));
        }
        let mut rows = 0;
        for (prefix, address) in wanted.difference(&present) {
            table.insert(&Key::new(*prefix, *address), 1, 0).map_err(failed)?;
            rows += 1;
        }
        for (prefix, address) in present.difference(&wanted) {
            table.remove(&Key::new(*prefix, *address)).map_err(failed)?;
            rows += 1;
        }
        Ok(rows)
    }

    /// Makes a table hold these rows and no others: adds, then removes.
    fn fill(&mut self, name: &'static str, wanted: &BTreeMap<Address, u32>) -> Result<usize, ProgramError> {
        let failed = |why: aya::maps::MapError| failed_table(name, &why);
        let mut table: HashMap<&mut MapData, Address, u32> = programs::table(&mut self.object, name)?;
        let present: BTreeMap<Address, u32> = table.iter().collect::<Result<_, _>>().map_err(failed)?;
        let mut rows = 0;
        for (key, value) in wanted.iter().filter(|(key, value)| present.get(*key) != Some(value)) {
            table.insert(key, value, 0).map_err(failed)?;
            rows += 1;
        }
        for key in present.keys().filter(|key| !wanted.contains_key(*key)) {
            table.remove(key).map_err(failed)?;
            rows += 1;
        }
        Ok(rows)
    }
}

/// Lets another XDP program, such as that of a director on the same machine, have an interface: the unwrapping moves behind
/// XDP and goes on without a gap. False where no program of a real server is in XDP there.
///
/// # Errors
/// Where the classifier cannot be attached; then all is as it was.
pub fn make_room(pins: &Path, interface: &str) -> Result<bool, ProgramError> {
    let in_xdp = pin(pins, UNWRAP, interface);
    if !in_xdp.exists() {
        return Ok(false);
    }
    let mut object = OBJECT.load(pins)?;
    let comes_in = (interface, TcAttachType::Ingress);
    let behind = pin(pins, UNWRAP_SKB, interface);
    classifiers::attach(&mut object, UNWRAP_SKB, comes_in, ClassifierMode::Auto, &behind)?;
    programs::unpin(&in_xdp)?;
    Ok(true)
}

/// Takes away what [`Backend`] made, also that of a gone process: links, tables, and the VIPs that it had put on `lo`.
/// Answers with what it removed. Settings of ARP stay. Needs a tokio runtime.
///
/// # Errors
/// Where pins or addresses cannot be removed.
pub async fn detach(pins: &Path) -> Result<Vec<String>, BackendError> {
    let mut removed = Vec::new();
    let failed = |why: std::io::Error| ProgramError::Pin { path: pins.to_owned(), reason: why.to_string() };
    if pins.exists() {
        let mut paths: Vec<PathBuf> = fs::read_dir(pins).map_err(failed)?.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        // Links first: what they hold goes on working until nothing leads to it.
        paths.sort_by_key(|path| programs::is_pinned_map(path));
        for path in paths {
            unpin(&path)?;
            removed.push(path.display().to_string());
        }
        fs::remove_dir(pins).map_err(failed)?;
    }
    if turn::remove().await? {
        removed.push(turn::DEVICE.to_owned());
    }
    let addresses = Addresses::open()?;
    for (vip, _) in addresses.on_loopback().await?.into_iter().filter(|(_, ours)| *ours) {
        addresses.remove(vip).await?;
        removed.push(format!("{vip} on lo"));
    }
    Ok(removed)
}

/// The programs of a real server; what their pins are called.
const UNWRAP: &str = "unwrap";
const UNWRAP_SKB: &str = "unwrap_skb";
const HAND_OVER: &str = "hand_over";
const TO_POD: &str = "to_pod";
const CLAMP: &str = "clamp";

/// With the tables that are pinned.
const OBJECT: Source<'static> = Source {
    object: sluicegate_xdp::BACKEND,
    what: "real server's programs",
    maps: &[
        map::HOST,
        map::DIRECTORS,
        map::PEERS,
        map::ENDPOINTS,
        map::BOUND,
        map::HOST_REASONS,
        map::POD_PORTS,
        map::PODS,
        map::POD_FLOWS,
        map::POD_REPLIES,
        map::POD_PARTS,
    ],
    elsewhere: &[],
    entries: &[(map::POD_FLOWS, None), (map::POD_REPLIES, None)],
    together: &pod_tables::TABLES,
};

/// In XDP, or behind it: where another program is there, and where it has once made room for one.
fn attach_unwrapping(
    object: &mut Ebpf,
    settings: &BackendSettings,
    interface: &str,
) -> Result<Attachment, ProgramError> {
    let behind = pin(&settings.pins, UNWRAP_SKB, interface);
    let mode = match settings.mode {
        AttachMode::Auto if classifiers::is_there(&behind) => AttachMode::Classifier,
        mode => mode,
    };
    if mode != AttachMode::Classifier {
        match programs::attach_xdp(object, UNWRAP, interface, mode, &pin(&settings.pins, UNWRAP, interface)) {
            Err(ProgramError::Taken(_)) if mode == AttachMode::Auto => {}
            attached => return attached,
        }
    }
    let comes_in = (interface, TcAttachType::Ingress);
    classifiers::attach(object, UNWRAP_SKB, comes_in, settings.classifiers, &behind)?;
    programs::unpin(&pin(&settings.pins, UNWRAP, interface))?;
    Ok(Attachment { interface: interface.to_owned(), mode: AttachMode::Classifier, not_native: None })
}

/// Removes a pin, with the filter that it may stand for.
fn unpin(path: &Path) -> Result<(), ProgramError> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let pin = classifiers::pin_of_mark(name).unwrap_or(name);
    let classifier = match pin.split_once('-') {
        Some((CLAMP, interface)) => Some((CLAMP, interface, TcAttachType::Egress)),
        Some((TO_POD, interface)) => Some((TO_POD, interface, TcAttachType::Ingress)),
        Some((HAND_OVER, interface)) => Some((HAND_OVER, interface, TcAttachType::Ingress)),
        Some((UNWRAP_SKB, interface)) => Some((UNWRAP_SKB, interface, TcAttachType::Ingress)),
        _ => None,
    };
    match classifier {
        Some((program, interface, side)) => {
            classifiers::detach(program, &interface_name(interface), side, &path.with_file_name(pin))
        }
        None => programs::unpin(path),
    }
}

/// No answer to ARP for what is on `lo`, no address of `lo` in requests (as IPVS's documentation has it for LVS-DR). NDP
/// answers for addresses of the interface alone anyhow.
fn silence_arp(interface: &str) -> Result<(), SysctlError> {
    for (name, least) in [("arp_ignore", 1), ("arp_announce", 2)] {
        let of = |interface: &str| format!("net/ipv4/conf/{interface}/{name}");
        // The larger one counts, and a container cannot write either: `prepare` does it for all.
        let value = sysctl::read(&of(interface)).max(sysctl::read(&of("all")));
        if value.is_none_or(|value| value < least) {
            sysctl::write(&of(interface), least)?;
        }
    }
    Ok(())
}

/// Where a program of an interface is pinned. Names of files in a BPF file system have no dots.
fn pin(pins: &Path, program: &str, interface: &str) -> PathBuf {
    pins.join(format!("{program}-{}", interface.replace('.', DOT)))
}

fn interface_name(pin: &str) -> String {
    pin.replace(DOT, ".")
}

const DOT: &str = "_dot_";

/// An address as it lies in the tables.
pub(crate) fn words(address: IpAddr) -> Address {
    let octets = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    std::array::from_fn(|word| {
        let octet = |i: usize| octets[4 * word + i];
        u32::from_ne_bytes([octet(0), octet(1), octet(2), octet(3)])
    })
}

/// `Bound` of each VIP as it lies in memory: the MTU, and the flags.
fn bound(state: &BackendState) -> BTreeMap<Address, u32> {
    let row = |mtu: Option<u16>, flags: u16| {
        let ([one, two], [three, four]) = (mtu.unwrap_or(0).to_ne_bytes(), flags.to_ne_bytes());
        u32::from_ne_bytes([one, two, three, four])
    };
    let mut rows: BTreeMap<Address, u32> = state.vips.iter().map(|(vip, mtu)| (words(*vip), row(*mtu, 0))).collect();
    for (vip, room) in pod_tables::rooms(&state.services) {
        let (room, flags) = match state.vips.get(&vip) {
            Some(mtu) => (room.into_iter().chain(*mtu).min(), Bound::PODS),
            None => (room, Bound::PODS | Bound::NO_ADDRESS),
        };
        rows.insert(words(vip), row(room, flags));
    }
    rows
}

/// `HostControl` as it lies in memory.
type ControlRow = [u32; 5];

fn control_row(flags: u32, turn: Turn) -> ControlRow {
    let [a, b, c, d, e, f, g, h] = turn.home.mac;
    let mac = [[a, b, c, d], [e, f, g, h]].map(u32::from_ne_bytes);
    [flags, turn.index, turn.home.interface, mac[0], mac[1]]
}

fn failed_table(table: &'static str, why: &aya::maps::MapError) -> ProgramError {
    ProgramError::Table { table, reason: programs::all_causes(why) }
}
