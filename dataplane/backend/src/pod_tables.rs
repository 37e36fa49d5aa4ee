//! The tables of pods: which rows there are to be, and writing them. Rows outlive the process: a pod that stays keeps its row, so
//! that its flows find it.

use crate::backend::words;
use crate::pods::{PodError, PodPort, PodService, TransportProtocol};
use crate::programs::{self, ProgramError};
use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, MapError};
use sluicegate_dsr::layout::{self, MAX_POD_PORTS, POD_SLOTS, Pod, PodPortKey, map};
use sluicegate_l4::layout::Address;
use sluicegate_l4::maglev::{self, Claimant};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// All that belong together: rows of one name rows of another.
pub(crate) const TABLES: [&str; 5] = [map::POD_PORTS, map::PODS, map::POD_FLOWS, map::POD_REPLIES, map::POD_PARTS];

/// `PodPortKey` as it lies in memory.
type KeyRow = [u32; 6];
/// `layout::PodPort` as it lies in memory.
type PortRow = [u16; 1024];
/// `Pod` as it lies in memory.
type PodRow = [u32; 10];

/// What is in the tables.
#[derive(Debug, Default)]
pub(crate) struct PodTables {
    /// By id; the first is none.
    pods: Vec<Pod>,
    /// Who is ready behind a port, and its flags.
    ports: BTreeMap<PodPortKey, (BTreeSet<u16>, u16)>,
}

/// What is to be written, in this order: what leads to a row is written behind it, and what does not any more is removed
/// before it.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pods: Vec<(u16, Pod)>,
    ports: Vec<(PodPortKey, BTreeSet<u16>, u16)>,
    /// Rows of VIPs come between.
    gone_ports: Vec<PodPortKey>,
    gone_pods: Vec<u16>,
}

impl PodTables {
    /// Reads what an earlier process left.
    pub(crate) fn read(object: &mut Ebpf) -> Result<Self, ProgramError> {
        let rows: Array<&mut MapData, PodRow> = programs::table(object, map::PODS)?;
        let mut pods = Vec::new();
        for row in rows.iter() {
            pods.push(pod(&row.map_err(|why| failed(map::PODS, &why))?));
        }
        let rows: HashMap<&mut MapData, KeyRow, PortRow> = programs::table(object, map::POD_PORTS)?;
        let mut ports = BTreeMap::new();
        for row in rows.iter() {
            let (key, row) = row.map_err(|why| failed(map::POD_PORTS, &why))?;
            let ready = row[..POD_SLOTS].iter().copied().filter(|id| *id != 0).collect();
            ports.insert(port_key(&key), (ready, row[POD_SLOTS + 1]));
        }
        Ok(Self { pods, ports })
    }

    /// What makes the tables hold these services and no others.
    pub(crate) fn plan(&self, services: &BTreeMap<PodPort, PodService>) -> Result<Plan, PodError> {
        if services.len() > MAX_POD_PORTS as usize {
            return Err(PodError::TooManyPorts(services.len()));
        }
        let known = self.pods.iter().enumerate().skip(1).filter(|(_, pod)| pod.state != Pod::NONE);
        let known: BTreeMap<_, u16> = known.map(|(id, pod)| (identity(pod), id as u16)).collect();
        let mut free = self.pods.iter().enumerate().skip(1).filter(|(_, pod)| pod.state == Pod::NONE);
        let mut plan = Plan::default();
        let mut kept = BTreeSet::new();
        for (port, service) in services {
            let mut ready = BTreeSet::new();
            for wanted in rows(port, service) {
                let id = match known.get(&identity(&wanted)) {
                    Some(id) => {
                        kept.insert(*id);
                        let row = self.pods[usize::from(*id)];
                        if row.state != wanted.state {
                            plan.pods.push((*id, Pod { generation: row.generation, ..wanted }));
                        }
                        *id
                    }
                    None => {
                        let (id, row) = free.next().ok_or(PodError::TooManyPods)?;
                        plan.pods.push((id as u16, Pod { generation: row.generation.wrapping_add(1), ..wanted }));
                        id as u16
                    }
                };
                if wanted.state == Pod::READY {
                    ready.insert(id);
                }
            }
            let flags = if service.by_client_alone { layout::PodPort::BY_CLIENT } else { 0 };
            let key = key(port);
            if self.ports.get(&key) != Some(&(ready.clone(), flags)) {
                plan.ports.push((key, ready, flags));
            }
        }
        let wanted: BTreeSet<PodPortKey> = services.keys().map(key).collect();
        plan.gone_ports = self.ports.keys().filter(|key| !wanted.contains(key)).copied().collect();
        plan.gone_pods = known.into_values().filter(|id| !kept.contains(id)).collect();
        Ok(plan)
    }

    /// Writes pods and ports; answers with how many rows.
    pub(crate) fn put(&mut self, object: &mut Ebpf, plan: &Plan) -> Result<usize, ProgramError> {
        self.put_pods(object, &plan.pods)?;
        let mut rows: HashMap<&mut MapData, KeyRow, PortRow> = programs::table(object, map::POD_PORTS)?;
        for (key, ready, flags) in &plan.ports {
            let row = self.port_row(ready, *flags);
            rows.insert(key_row(key), row, 0).map_err(|why| failed(map::POD_PORTS, &why))?;
            self.ports.insert(*key, (ready.clone(), *flags));
        }
        Ok(plan.pods.len() + plan.ports.len())
    }

    /// Removes ports and pods that are not wanted; answers with how many rows.
    pub(crate) fn remove(&mut self, object: &mut Ebpf, plan: &Plan) -> Result<usize, ProgramError> {
        let mut rows: HashMap<&mut MapData, KeyRow, PortRow> = programs::table(object, map::POD_PORTS)?;
        for key in &plan.gone_ports {
            rows.remove(&key_row(key)).map_err(|why| failed(map::POD_PORTS, &why))?;
            self.ports.remove(key);
        }
        let none = |id: &u16| (*id, Pod { state: Pod::NONE, ..self.pods[usize::from(*id)] });
        let gone: Vec<(u16, Pod)> = plan.gone_pods.iter().map(none).collect();
        self.put_pods(object, &gone)?;
        Ok(plan.gone_ports.len() + gone.len())
    }

    fn put_pods(&mut self, object: &mut Ebpf, pods: &[(u16, Pod)]) -> Result<(), ProgramError> {
        let mut rows: Array<&mut MapData, PodRow> = programs::table(object, map::PODS)?;
        for (id, pod) in pods {
            rows.set(u32::from(*id), pod_row(pod), 0).map_err(|why| failed(map::PODS, &why))?;
            self.pods[usize::from(*id)] = *pod;
        }
        Ok(())
    }

    fn port_row(&self, ready: &BTreeSet<u16>, flags: u16) -> PortRow {
        let mut row = [0; 1024];
        let claimant = |id: &u16| {
            let pod = &self.pods[usize::from(*id)];
            // Pods in the host's own network share its address.
            let own = maglev::identity(octets(&pod.address)) ^ u64::from(pod.port) << 32;
            Claimant::new(*id, 1, own)
        };
        let mut claimants: Vec<Claimant> = ready.iter().map(claimant).collect();
        maglev::fill(&mut claimants, &mut row[..POD_SLOTS]);
        row[POD_SLOTS] = u16::try_from(ready.len()).unwrap_or(u16::MAX);
        row[POD_SLOTS + 1] = flags;
        row
    }
}

/// VIPs that end in pods, with the room of the narrowest of their ports.
pub(crate) fn rooms(services: &BTreeMap<PodPort, PodService>) -> BTreeMap<IpAddr, Option<u16>> {
    let mut rooms: BTreeMap<IpAddr, Option<u16>> = BTreeMap::new();
    for (port, service) in services {
        let room = rooms.entry(port.vip).or_default();
        *room = room.iter().copied().chain(service.room).min();
    }
    rooms
}

/// The pods of a port as rows, without generation. One that is listed twice is ready if one of them is.
fn rows(port: &PodPort, service: &PodService) -> impl Iterator<Item = Pod> {
    let mut pods: BTreeMap<(IpAddr, u16), bool> = BTreeMap::new();
    for pod in &service.pods {
        let draining = pods.entry((pod.address, pod.port)).or_insert(true);
        *draining &= pod.draining;
    }
    let (vip, vip_port, protocol) = (words(port.vip), port.port, number(port.protocol));
    pods.into_iter().map(move |((address, port), draining)| Pod {
        address: words(address),
        vip,
        port,
        vip_port,
        generation: 0,
        protocol,
        state: if draining { Pod::DRAINING } else { Pod::READY },
    })
}

/// What makes two rows the same pod behind the same port.
fn identity(pod: &Pod) -> (Address, Address, u16, u16, u8) {
    (pod.vip, pod.address, pod.port, pod.vip_port, pod.protocol)
}

const fn number(protocol: TransportProtocol) -> u8 {
    match protocol {
        TransportProtocol::Tcp => 6,
        TransportProtocol::Udp => 17,
    }
}

fn key(port: &PodPort) -> PodPortKey {
    PodPortKey { vip: words(port.vip), port: u32::from(port.port), protocol: u32::from(number(port.protocol)) }
}

fn key_row(key: &PodPortKey) -> KeyRow {
    let [a, b, c, d] = key.vip;
    [a, b, c, d, key.port, key.protocol]
}

fn port_key(row: &KeyRow) -> PodPortKey {
    let [a, b, c, d, port, protocol] = *row;
    PodPortKey { vip: [a, b, c, d], port, protocol }
}

fn pod_row(pod: &Pod) -> PodRow {
    let [a, b, c, d] = pod.address;
    let [e, f, g, h] = pod.vip;
    let ([p, q], [r, s], [t, u]) = (pod.port.to_ne_bytes(), pod.vip_port.to_ne_bytes(), pod.generation.to_ne_bytes());
    let (ports, state) = (u32::from_ne_bytes([p, q, r, s]), u32::from_ne_bytes([t, u, pod.protocol, pod.state]));
    [a, b, c, d, e, f, g, h, ports, state]
}

fn pod(row: &PodRow) -> Pod {
    let [a, b, c, d, e, f, g, h, ports, state] = *row;
    let ([p, q, r, s], [t, u, protocol, state]) = (ports.to_ne_bytes(), state.to_ne_bytes());
    Pod {
        address: [a, b, c, d],
        vip: [e, f, g, h],
        port: u16::from_ne_bytes([p, q]),
        vip_port: u16::from_ne_bytes([r, s]),
        generation: u16::from_ne_bytes([t, u]),
        protocol,
        state,
    }
}

fn octets(address: &Address) -> [u8; 16] {
    let mut octets = [0; 16];
    for (place, word) in octets.as_chunks_mut::<4>().0.iter_mut().zip(address) {
        *place = word.to_ne_bytes();
    }
    octets
}

fn failed(table: &'static str, why: &MapError) -> ProgramError {
    ProgramError::Table { table, reason: programs::all_causes(why) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods;
    use sluicegate_dsr::layout::MAX_PODS;

    fn port(port: u16) -> PodPort {
        PodPort { vip: [192, 0, 2, 10].into(), protocol: TransportProtocol::Tcp, port }
    }

    fn service(pods: &[(u8, bool)]) -> PodService {
        let pods = pods.iter().map(|(host, draining)| pods::Pod {
            address: [203, 0, 113, *host].into(),
            port: 8080,
            draining: *draining,
        });
        PodService { pods: pods.collect(), by_client_alone: false, room: Some(1480) }
    }

    /// The tables after a plan, without a kernel.
    fn follow(tables: &mut PodTables, services: &BTreeMap<PodPort, PodService>) -> Plan {
        let plan = tables.plan(services).expect("it fits");
        for (id, pod) in &plan.pods {
            tables.pods[usize::from(*id)] = *pod;
        }
        for (key, ready, flags) in &plan.ports {
            tables.ports.insert(*key, (ready.clone(), *flags));
        }
        for key in &plan.gone_ports {
            tables.ports.remove(key);
        }
        for id in &plan.gone_pods {
            tables.pods[usize::from(*id)].state = Pod::NONE;
        }
        plan
    }

    fn empty(rows: usize) -> PodTables {
        PodTables { pods: vec![Pod::default(); rows], ports: BTreeMap::new() }
    }

    #[test]
    fn a_pod_that_stays_keeps_its_row() {
        let mut tables = empty(8);
        follow(&mut tables, &[(port(80), service(&[(1, false), (2, false)]))].into());
        let before = tables.pods.clone();
        // Another one comes, and one drains.
        let services = [(port(80), service(&[(1, true), (2, false), (3, false)]))].into();
        let plan = follow(&mut tables, &services);
        assert_eq!((plan.pods.len(), plan.ports.len(), plan.gone_pods.len()), (2, 1, 0));
        assert_eq!(tables.pods[1], Pod { state: Pod::DRAINING, ..before[1] });
        assert_eq!(tables.pods[2], before[2]);
        let again = follow(&mut tables, &services);
        assert!(again.pods.is_empty() && again.ports.is_empty() && again.gone_ports.is_empty());
    }

    #[test]
    fn a_row_that_gets_another_pod_is_known_to_have() {
        let mut tables = empty(3);
        follow(&mut tables, &[(port(80), service(&[(1, false), (2, false)]))].into());
        let first = tables.pods[1].generation;
        follow(&mut tables, &[(port(80), service(&[(2, false)]))].into());
        assert_eq!(tables.pods[1].state, Pod::NONE);
        follow(&mut tables, &[(port(80), service(&[(2, false), (3, false)]))].into());
        assert_eq!(tables.pods[1].state, Pod::READY);
        assert_ne!(tables.pods[1].generation, first);
        let full = [(port(80), service(&[(2, false), (3, false), (4, false)]))].into();
        assert!(matches!(tables.plan(&full), Err(PodError::TooManyPods)));
    }

    #[test]
    fn one_pod_behind_two_ports_has_two_rows() {
        let mut tables = empty(8);
        let services = [(port(80), service(&[(1, false)])), (port(81), service(&[(1, false)]))].into();
        assert_eq!(follow(&mut tables, &services).pods.len(), 2);
        let plan = follow(&mut tables, &[(port(81), service(&[(1, false), (1, true)]))].into());
        assert_eq!((plan.gone_ports.len(), plan.gone_pods), (1, vec![1]));
        assert!(plan.pods.is_empty(), "listed twice, it is ready if one of them is");
    }

    #[test]
    fn rows_are_read_as_they_are_written() {
        let row = Pod {
            address: [1, 2, 3, 4],
            vip: [5, 6, 7, 8],
            port: 9,
            vip_port: 10,
            generation: 11,
            protocol: 6,
            state: Pod::READY,
        };
        assert_eq!(pod(&pod_row(&row)), row);
        assert_eq!(port_key(&key_row(&key(&port(80)))), key(&port(80)));
    }

    #[test]
    fn pods_are_spread_whatever_row_they_have() {
        let ring = |ids: [u16; 2]| {
            let mut tables = empty(MAX_PODS as usize);
            for (id, host) in ids.iter().zip([1, 2]) {
                let address = words([203, 0, 113, host].into());
                tables.pods[usize::from(*id)] = Pod { address, port: 8080, state: Pod::READY, ..Pod::default() };
            }
            let row = tables.port_row(&ids.into(), 0);
            row[..POD_SLOTS].iter().map(|id| *id == ids[0]).collect::<Vec<_>>()
        };
        let one = ring([1, 2]);
        assert_eq!(one, ring([9, 4]));
        assert!((480..540).contains(&one.iter().filter(|first| **first).count()));
    }

    #[test]
    fn the_narrowest_port_says_what_fits() {
        let wide = PodService { room: Some(1480), ..service(&[]) };
        let none = PodService { room: None, ..service(&[]) };
        let narrow = PodService { room: Some(1400), ..service(&[]) };
        let all = [(port(80), wide.clone()), (port(81), none.clone()), (port(82), narrow)].into();
        assert_eq!(rooms(&all).into_values().collect::<Vec<_>>(), [Some(1400)]);
        assert_eq!(rooms(&[(port(80), none)].into()).into_values().collect::<Vec<_>>(), [None]);
    }
}
