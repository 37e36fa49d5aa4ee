//! `vips`: the virtual IPs of the running director with their real servers, what they got, and how fast.

use crate::cli::{OutputFormat, QueryArguments, VipsArguments};
use crate::output::{Table, print};
use crate::{Failure, admin_client, query};
use serde::Serialize;
use sluicegate_admin::State;
use sluicegate_admin::director::DirectorState;
use sluicegate_admin::packets::{PacketsState, PortTraffic};
use sluicegate_admin::state::{RealServerState, VipServiceState, VipState};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// From one reading to the next where nobody says.
const INTERVAL: Duration = Duration::from_secs(1);
/// The director reads its counters once a second; a reading is asked for again until it is a later one.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// For so long at most.
const PATIENCE: Duration = Duration::from_secs(10);

pub fn vips(arguments: &VipsArguments) -> Result<(), Failure> {
    if arguments.rate {
        return rates(arguments);
    }
    // An interval without a count goes on until somebody ends it.
    let readings = arguments.count.or_else(|| arguments.interval.is_none().then_some(1));
    let mut done = 0;
    loop {
        if arguments.stats {
            totals(&arguments.query)?;
        } else {
            owners(&arguments.query)?;
        }
        done += 1;
        if readings.is_some_and(|readings| done >= readings) {
            return Ok(());
        }
        std::thread::sleep(interval(arguments));
        separate(&arguments.query)?;
    }
}

/// Who owns what, and below it who the directors of the cluster are.
fn owners(query: &QueryArguments) -> Result<(), Failure> {
    if query.output == OutputFormat::Json {
        return query::show(query, "vips", |state| (vip_table(state), ""));
    }
    let state = read(query)?;
    let table = vip_table(&state);
    let mut text = match table.is_empty() {
        true => format!("no virtual IPs (generation {})\n", state.generation),
        false => table.render(),
    };
    text.extend(state.director.as_ref().and_then(directors));
    print(&text)?;
    Ok(())
}

/// `directors, record 7: edge1 (this one), edge2, edge3 (not heard); the Lease was renewed 4 s ago`
fn directors(director: &DirectorState) -> Option<String> {
    let membership = director.membership.as_ref()?;
    let is_heard = |name: &String| director.peers.iter().any(|peer| peer.name == *name && peer.present);
    let shown = membership.members.iter().map(|name| match name {
        name if *name == director.name => format!("{name} (this one)"),
        name if !membership.is_member || is_heard(name) => name.clone(),
        name => format!("{name} (not heard)"),
    });
    let shown = shown.collect::<Vec<_>>().join(", ");
    let mut text = match membership.number {
        0 => "\ndirectors: the record was not read yet".to_owned(),
        number => format!("\ndirectors, record {number}: {shown}"),
    };
    if let Some(age) = membership.renewed_seconds_ago {
        text.push_str(&format!("; the Lease was renewed {age} s ago"));
    }
    if let Some(trouble) = &membership.trouble {
        text.push_str(&format!("; {trouble}"));
    }
    text.push('\n');
    Some(text)
}

/// No more than ten readings a second, whatever is asked for.
fn interval(arguments: &VipsArguments) -> Duration {
    arguments.interval.unwrap_or(INTERVAL).max(ASK_AGAIN)
}

fn separate(query: &QueryArguments) -> Result<(), Failure> {
    match query.output {
        OutputFormat::Table => print("\n")?,
        OutputFormat::Json => {}
    }
    Ok(())
}

fn read(query: &QueryArguments) -> anyhow::Result<State> {
    admin_client::get(&query.admin, "/api/v1/state?section=vips")
}

/// `--stats`: what came since the tables exist.
fn totals(query: &QueryArguments) -> Result<(), Failure> {
    if query.output == OutputFormat::Json {
        return query::show(query, "vips", |state| (vip_table(state), ""));
    }
    let state = read(query)?;
    let counted = Counts::of(&state);
    if counted.ports.is_empty() {
        print(&nothing(&state))?;
        return Ok(());
    }
    let mut table =
        Table::new(&["VIP", "PORT", "SERVICE", "REAL SERVER", ">CONNECTIONS", ">PACKETS", ">BYTES", ">FLOWS NOW"]);
    for port in &counted.ports {
        let cells = port.total.map(|count| count.to_string());
        row(&mut table, &port.head(), cells, port.established.to_string());
        for real in &port.reals {
            let cells = real.total.map(|count| count.to_string());
            row(&mut table, &real.head(), cells, real.established.to_string());
        }
    }
    let mut text = table.render();
    if let Some(director) = &state.packets {
        let mut table = Table::new(&["DROPPED", ">PACKETS"]);
        for dropped in drops(director) {
            table.row([dropped.0.to_owned(), dropped.1.to_string()]);
        }
        if !table.is_empty() {
            text.push('\n');
            text.push_str(&table.render());
        }
    }
    print(&text)?;
    Ok(())
}

fn row(table: &mut Table, head: &[String; 4], cells: [String; 3], last: String) {
    let [a, b, c] = cells;
    table.row(head.iter().cloned().chain([a, b, c, last]));
}

fn nothing(state: &State) -> String {
    match state.packets.as_ref().and_then(|director| director.off.as_deref()) {
        Some(why) => format!("no packets are forwarded: {why}\n"),
        None if state.packets.is_none() => "no packets are forwarded: this gateway is no director\n".to_owned(),
        None => format!("no virtual IPs (generation {})\n", state.generation),
    }
}

fn drops(director: &PacketsState) -> impl Iterator<Item = (&str, u64)> {
    let dropped = director.reasons.iter().filter(|count| count.verdict == "dropped" && count.packets > 0);
    dropped.map(|count| (count.reason.as_str(), count.packets))
}

/// `--rate`: differences between two readings of the director, over the time between these.
fn rates(arguments: &VipsArguments) -> Result<(), Failure> {
    let query = &arguments.query;
    let interval = interval(arguments);
    let readings = arguments.count.or_else(|| arguments.interval.is_none().then_some(1));
    let mut before = read(query)?;
    if Counts::of(&before).ports.is_empty() {
        print(&nothing(&before))?;
        return Ok(());
    }
    let mut done = 0;
    loop {
        std::thread::sleep(interval);
        let after = later_than(&before, query)?;
        let rates = Rates::between(&before, &after);
        match query.output {
            OutputFormat::Json => print(&format!("{}\n", serde_json::to_string(&rates)?))?,
            OutputFormat::Table => print(&rates.render(arguments.stats))?,
        }
        done += 1;
        if readings.is_some_and(|readings| done >= readings) {
            return Ok(());
        }
        separate(query)?;
        before = after;
    }
}

/// The next reading of the director's counters.
fn later_than(before: &State, query: &QueryArguments) -> anyhow::Result<State> {
    let read_at = |state: &State| state.packets.as_ref().and_then(|director| director.counted_ms);
    let begun = Instant::now();
    loop {
        let state = read(query)?;
        if read_at(&state) != read_at(before) {
            return Ok(state);
        }
        if begun.elapsed() > PATIENCE {
            anyhow::bail!("the director has not read its counters for {PATIENCE:?}; its log says why");
        }
        std::thread::sleep(ASK_AGAIN);
    }
}

/// New flows, packets and bytes: in all, or a second.
type Triple<T> = [T; 3];

/// Counters of all ports and real servers.
struct Counts {
    ports: Vec<PortCounts>,
}

struct PortCounts {
    vip: IpAddr,
    port: String,
    service: String,
    total: Triple<u64>,
    established: u64,
    reals: Vec<RealCounts>,
}

struct RealCounts {
    address: IpAddr,
    total: Triple<u64>,
    established: u64,
}

impl PortCounts {
    fn head(&self) -> [String; 4] {
        [self.vip.to_string(), self.port.clone(), self.service.clone(), String::new()]
    }
}

impl RealCounts {
    fn head(&self) -> [String; 4] {
        [String::new(), String::new(), String::new(), self.address.to_string()]
    }
}

impl Counts {
    fn of(state: &State) -> Self {
        let of_service = |vip: &VipState, service: &VipServiceState| {
            let one = |port: &PortTraffic| {
                let of_port = service.real_servers.iter().filter(|real| real.port == port.port);
                let reals: Vec<RealCounts> = of_port
                    .filter_map(|real| {
                        let live = real.live.as_ref()?;
                        let total = [live.connections, live.packets, live.bytes];
                        Some(RealCounts { address: real.address, total, established: live.established })
                    })
                    .collect();
                PortCounts {
                    vip: vip.address,
                    port: port.port.clone(),
                    service: service.service.clone(),
                    total: [port.connections, port.packets, port.bytes],
                    established: reals.iter().map(|real| real.established).sum(),
                    reals,
                }
            };
            service.traffic.iter().map(one).collect::<Vec<_>>()
        };
        let vips = state.vips.iter().flatten();
        let ports = vips.flat_map(|vip| vip.services.iter().flat_map(move |service| of_service(vip, service)));
        Self { ports: ports.collect() }
    }
}

/// What comes in a second. Its JSON is a line.
#[derive(Debug, Serialize)]
struct Rates {
    /// Between the two readings.
    seconds: f64,
    ports: Vec<PortRate>,
    /// Packets a second that are dropped, by reason.
    dropped_per_second: BTreeMap<String, f64>,
}

#[derive(Debug, Serialize)]
struct PortRate {
    vip: IpAddr,
    port: String,
    service: String,
    #[serde(flatten)]
    rate: Rate,
    real_servers: Vec<RealRate>,
}

#[derive(Debug, Serialize)]
struct RealRate {
    address: IpAddr,
    #[serde(flatten)]
    rate: Rate,
}

#[derive(Debug, Serialize)]
struct Rate {
    connections_per_second: f64,
    packets_per_second: f64,
    bytes_per_second: f64,
    connections: u64,
    packets: u64,
    bytes: u64,
}

impl Rate {
    /// What was not there before begins at 0; a counter that went back was given out anew.
    fn between(before: Option<Triple<u64>>, after: Triple<u64>, seconds: f64) -> Self {
        let [connections, packets, bytes] = after;
        let before = before.unwrap_or(after);
        let part = |at: usize| {
            let grown = after[at].checked_sub(before[at]).unwrap_or(after[at]);
            if seconds > 0.0 { grown as f64 / seconds } else { 0.0 }
        };
        let (connections_per_second, packets_per_second, bytes_per_second) = (part(0), part(1), part(2));
        Self { connections_per_second, packets_per_second, bytes_per_second, connections, packets, bytes }
    }

    fn cells(&self, stats: bool) -> Vec<String> {
        let rates = [self.connections_per_second, self.packets_per_second, self.bytes_per_second];
        let totals = [self.connections, self.packets, self.bytes].map(|count| count.to_string());
        let rates = rates.into_iter().map(|rate| format!("{rate:.1}"));
        if stats { totals.into_iter().chain(rates).collect() } else { rates.collect() }
    }
}

impl Rates {
    fn between(before: &State, after: &State) -> Self {
        let read_at = |state: &State| state.packets.as_ref().and_then(|director| director.counted_ms).unwrap_or(0);
        let seconds = read_at(after).saturating_sub(read_at(before)) as f64 / 1000.0;
        let known: BTreeMap<(IpAddr, String), PortCounts> =
            Counts::of(before).ports.into_iter().map(|port| ((port.vip, port.port.clone()), port)).collect();
        let port = |port: PortCounts| {
            let former = known.get(&(port.vip, port.port.clone()));
            let of_real = |real: &RealCounts| {
                let former = former.and_then(|port| port.reals.iter().find(|known| known.address == real.address));
                let rate = Rate::between(former.map(|real| real.total), real.total, seconds);
                RealRate { address: real.address, rate }
            };
            PortRate {
                rate: Rate::between(former.map(|port| port.total), port.total, seconds),
                real_servers: port.reals.iter().map(of_real).collect(),
                vip: port.vip,
                port: port.port,
                service: port.service,
            }
        };
        let dropped = |state: &State| -> BTreeMap<String, u64> {
            let director = state.packets.iter();
            director.flat_map(drops).map(|(reason, packets)| (reason.to_owned(), packets)).collect()
        };
        let former = dropped(before);
        let dropped_per_second = dropped(after).into_iter().filter_map(|(reason, packets)| {
            // A reason that did not occur before had none.
            let grown = packets.saturating_sub(former.get(&reason).copied().unwrap_or(0));
            (grown > 0 && seconds > 0.0).then(|| (reason, grown as f64 / seconds))
        });
        Self {
            seconds,
            ports: Counts::of(after).ports.into_iter().map(port).collect(),
            dropped_per_second: dropped_per_second.collect(),
        }
    }

    fn render(&self, stats: bool) -> String {
        let mut headings = vec!["VIP", "PORT", "SERVICE", "REAL SERVER"];
        if stats {
            headings.extend([">CONNECTIONS", ">PACKETS", ">BYTES"]);
        }
        headings.extend([">CONNECTIONS/S", ">PACKETS/S", ">BYTES/S"]);
        let mut table = Table::new(&headings);
        for port in &self.ports {
            let head = [port.vip.to_string(), port.port.clone(), port.service.clone(), String::new()];
            table.row(head.into_iter().chain(port.rate.cells(stats)));
            for real in &port.real_servers {
                let head = [String::new(), String::new(), String::new(), real.address.to_string()];
                table.row(head.into_iter().chain(real.rate.cells(stats)));
            }
        }
        let mut text = table.render();
        if !self.dropped_per_second.is_empty() {
            let mut table = Table::new(&["DROPPED", ">PACKETS/S"]);
            for (reason, rate) in &self.dropped_per_second {
                table.row([reason.clone(), format!("{rate:.1}")]);
            }
            text.push('\n');
            text.push_str(&table.render());
        }
        text
    }
}

/// In the manner of `ipvsadm -Ln --stats`: a row for each port, and below it one for each real server.
fn vip_table(state: &State) -> Table {
    let mut table = Table::new(&[
        "VIP",
        "SERVICE",
        "PORT",
        "SCHED",
        "METHOD",
        "REAL SERVER",
        ">WEIGHT",
        "STATE",
        ">PACKETS",
        ">BYTES",
        "NODE",
        "BOUND BY",
    ]);
    for vip in state.vips.iter().flatten() {
        let address = vip.address.to_string();
        let bound_by = match &vip.pool {
            Some(pool) => format!("{} (pool {pool})", vip.origin),
            None => vip.origin.clone(),
        };
        let served = held(vip);
        let served = served.as_str();
        if vip.services.is_empty() {
            table.row([&address, "(announced alone)", "", "", "", "", "", served, "", "", "", &bound_by]);
        }
        for service in &vip.services {
            let method = service.method.as_deref().unwrap_or(if service.into_pods { "POD (pods)" } else { "auto" });
            let scheduler = service.scheduler.as_str();
            let head = |port: &str| {
                let cells =
                    [&address, &service.service, port, scheduler, method, "", "", served, "", "", "", &bound_by];
                cells.map(str::to_owned)
            };
            if service.ports.is_empty() {
                table.row(head("(no such Service)"));
            }
            for port in &service.ports {
                table.row(head(port));
                let of_port = service.real_servers.iter().filter(|real| real.port == *port);
                of_port.for_each(|real| table.row(real_server_row(real)));
            }
        }
    }
    table
}

/// Whether this director serves it, who else does, and who should not.
fn held(vip: &VipState) -> String {
    let held = match (&vip.owner, vip.served) {
        (_, true) => "served".to_owned(),
        (Some(owner), false) => format!("held by {owner}"),
        (None, false) => "not served".to_owned(),
    };
    match &vip.conflict {
        Some(conflict) => format!("{held}, CLAIMED BY {}", conflict.mac),
        None => held,
    }
}

fn real_server_row(real: &RealServerState) -> [String; 12] {
    let live = real.live.as_ref();
    let [packets, bytes] = live.map_or_else(Default::default, |live| [live.packets, live.bytes].map(|n| n.to_string()));
    let state = match live.map(|live| (live.healthy, live.reason.as_deref())) {
        Some((Some(false), Some(why))) => format!("{}, unhealthy: {why}", real.readiness),
        Some((Some(false), None)) => format!("{}, unhealthy", real.readiness),
        Some((_, Some(why))) => format!("{}, {why}", real.readiness),
        Some((_, None)) | None => real.readiness.clone(),
    };
    let method = live.map_or_else(String::new, |live| live.method.clone());
    let node = node_and_pods(real.node.as_deref(), real.pods);
    let none = String::new;
    let (address, weight) = (real.address.to_string(), real.weight.to_string());
    [none(), none(), none(), none(), method, address, weight, state, packets, bytes, node, none()]
}

/// `node-a (3 pods)`.
pub fn node_and_pods(node: Option<&str>, pods: Option<u32>) -> String {
    let node = node.unwrap_or("-");
    match pods {
        None => node.to_owned(),
        Some(1) => format!("{node} (1 pod)"),
        Some(pods) => format!("{node} ({pods} pods)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluicegate_admin::director::{MembershipState, PeerState};

    #[test]
    fn the_directors_of_a_cluster_stand_in_one_line() {
        let mut director = DirectorState { name: "edge1".to_owned(), ..DirectorState::default() };
        assert_eq!(directors(&director), None, "flags name them");
        director.membership = Some(MembershipState::default());
        assert_eq!(directors(&director).as_deref(), Some("\ndirectors: the record was not read yet\n"));
        let peer = |name: &str, present| PeerState { name: name.to_owned(), present, fit: true, holds: 0 };
        director.peers = vec![peer("edge2", true), peer("edge3", false)];
        director.membership = Some(MembershipState {
            number: 7,
            members: ["edge1", "edge2", "edge3"].map(str::to_owned).to_vec(),
            is_member: true,
            renewed_seconds_ago: Some(4),
            trouble: None,
        });
        let expected =
            "\ndirectors, record 7: edge1 (this one), edge2, edge3 (not heard); the Lease was renewed 4 s ago\n";
        assert_eq!(directors(&director).as_deref(), Some(expected));
    }

    #[test]
    fn real_servers_stand_below_their_port() {
        let real = |port: &str, address: &str, live: serde_json::Value| {
            serde_json::json!({
                "port": port, "address": address, "node": "node-a", "weight": 1, "readiness": "ready", "live": live,
            })
        };
        let live = serde_json::json!({
            "method": "TUNNEL", "healthy": false, "reason": "no answer within 3 s", "packets": 7, "bytes": 448,
        });
        let state: State = serde_json::from_value(serde_json::json!({
            "version": "1", "generation": 1, "ready": true, "not_ready_reasons": [],
            "vips": [
                {
                    "address": "192.0.2.9", "served": false, "owner": "edge2", "services": [], "origin": "ConfigMap a/b",
                    "conflict": {"mac": "02:00:00:00:00:09", "by_director": false, "seconds_ago": 3},
                },
                {"address": "192.0.2.10", "served": true, "origin": "ConfigMap a/b", "pool": "public", "services": [
                    {
                        "service": "default/web", "method": null, "ports": ["TCP/80", "UDP/53"], "scheduler": "mh",
                        "real_servers": [real("TCP/80", "198.51.100.1", live), real("UDP/53", "198.51.100.2", ().into())],
                    },
                    {"service": "default/gone", "method": "L2", "ports": []},
                ]},
            ],
        }))
        .expect("a document");
        let text = vip_table(&state).render();
        let rows: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
            .collect();
        let expected: [&[&str]; 7] = [
            &[
                "VIP",
                "SERVICE",
                "PORT",
                "SCHED",
                "METHOD",
                "REAL SERVER",
                "WEIGHT",
                "STATE",
                "PACKETS",
                "BYTES",
                "NODE",
                "BOUND BY",
            ],
            &["192.0.2.9", "(announced alone)", "held by edge2, CLAIMED BY 02:00:00:00:00:09", "ConfigMap a/b"],
            &["192.0.2.10", "default/web", "TCP/80", "mh", "auto", "served", "ConfigMap a/b (pool public)"],
            &["TUNNEL", "198.51.100.1", "1", "ready, unhealthy: no answer within 3 s", "7", "448", "node-a"],
            &["192.0.2.10", "default/web", "UDP/53", "mh", "auto", "served", "ConfigMap a/b (pool public)"],
            &["198.51.100.2", "1", "ready", "node-a"],
            &["192.0.2.10", "default/gone", "(no such Service)", "L2", "served", "ConfigMap a/b (pool public)"],
        ];
        assert_eq!(rows, expected, "{text}");
    }

    #[test]
    fn rates_are_over_the_time_between_two_readings() {
        let state = |at: u64, counts: [u64; 3], dropped: u64| -> State {
            let [connections, packets, bytes] = counts;
            serde_json::from_value(serde_json::json!({
                "version": "1", "generation": 1, "ready": true, "not_ready_reasons": [],
                "packets": {
                    "off": null, "ports": [], "counted_ms": at, "failures": [],
                    "problems": [], "flows": {"capacity": 8, "established": 1, "tentative": 0},
                    "reasons": [{"verdict": "dropped", "reason": "no_service", "packets": dropped},
                                {"verdict": "forwarded", "reason": "flow_hit", "packets": packets}],
                },
                "vips": [{"address": "192.0.2.10", "served": true, "origin": "ConfigMap a/b", "services": [{
                    "service": "shop/web", "method": null, "ports": ["TCP/80"],
                    "traffic": [{"port": "TCP/80", "method": "L2", "method_because": "asked for", "connections": connections,
                                 "packets": packets, "bytes": bytes}],
                    "real_servers": [{"port": "TCP/80", "address": "198.51.100.1", "node": null, "weight": 1,
                        "readiness": "ready", "live": {"method": "L2", "healthy": true, "reason": null,
                        "connections": connections, "packets": packets, "bytes": bytes}}],
                }]}],
            }))
            .expect("a document")
        };
        let rates = Rates::between(&state(1000, [10, 100, 6400], 5), &state(3000, [12, 300, 19200], 9));
        let text = rates.render(false);
        let numbers: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(numbers[1], ["192.0.2.10", "TCP/80", "shop/web", "1.0", "100.0", "6400.0"], "{text}");
        assert_eq!(numbers[2], ["198.51.100.1", "1.0", "100.0", "6400.0"], "{text}");
        assert!(text.starts_with("VIP") && text.contains("PACKETS/S") && text.contains("no_service"), "{text}");
        assert_eq!(rates.dropped_per_second.get("no_service"), Some(&2.0));
        let both = rates.render(true);
        assert!(both.contains("19200"), "{both}");
        // A counter that was given out anew begins at 0.
        let anew = Rates::between(&state(1000, [10, 100, 6400], 5), &state(2000, [1, 2, 128], 5));
        assert_eq!(anew.ports[0].rate.packets_per_second, 2.0);
        assert!(anew.dropped_per_second.is_empty());
    }
}
