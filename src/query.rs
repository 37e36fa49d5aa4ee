//! `routes`, `backends`, `vips`: what the running gateway has, as tables or as the JSON of its admin API.

use crate::cli::{OutputFormat, QueryArguments};
use crate::output::{Table, print};
use crate::{Failure, admin_client};
use sluicegate_admin::State;
use sluicegate_admin::state::{BackendState, EndpointCondition, RealServerState, Traffic, VipState};

pub fn routes(arguments: &QueryArguments) -> Result<(), Failure> {
    show(arguments, "routes", |state| {
        let mut table = Table::new(&["HOST", "PATH", "MATCH", "TARGET", "INGRESS", "RULE"]);
        for route in state.routes.iter().flatten() {
            let target = match (&route.backend, &route.reason) {
                (Some(backend), _) => backend.clone(),
                (None, Some(reason)) => format!("deny: {reason}"),
                (None, None) => route.action.replace('_', " "),
            };
            let path = if route.path.is_empty() { "(default)" } else { &route.path };
            table.row([&route.host, path, &route.matching, &target, &route.ingress, &route.field]);
        }
        (table, "no routes")
    })
}

pub fn backends(arguments: &QueryArguments) -> Result<(), Failure> {
    show(arguments, "backends", |state| {
        let mut table =
            Table::new(&["BACKEND", "PROTOCOL", "ENDPOINT", "POD", "STATE", ">ACTIVE", ">REQUESTS", ">ERRORS", "NOTE"]);
        for backend in state.backends.iter().flatten() {
            backend_rows(backend, &mut table);
        }
        (table, "no backends")
    })
}

fn backend_rows(backend: &BackendState, table: &mut Table) {
    let [active, requests, errors] = counts(backend.traffic);
    let note = match (&backend.unavailable, &backend.external) {
        (Some(why), _) => format!("unavailable: {why}"),
        (None, Some(name)) => format!("external {name}"),
        (None, None) if backend.endpoints.is_empty() => "no endpoints".to_owned(),
        (None, None) => String::new(),
    };
    table.row([backend.id.as_str(), &backend.protocol, "", "", "", &active, &requests, &errors, &note]);
    for endpoint in &backend.endpoints {
        let [active, requests, errors] = counts(endpoint.traffic);
        let state = match endpoint.state {
            EndpointCondition::Up => "up",
            EndpointCondition::Ejected => "ejected",
            EndpointCondition::Terminating => "terminating",
            EndpointCondition::Removed => "removed",
        };
        let address = endpoint.address.to_string();
        let pod = endpoint.pod.as_deref().unwrap_or("-");
        table.row(["", "", &address, pod, state, &active, &requests, &errors, ""]);
    }
}

fn counts(traffic: Option<Traffic>) -> [String; 3] {
    traffic.map_or_else(Default::default, |traffic| {
        [traffic.active, traffic.requests, traffic.errors].map(|count| count.to_string())
    })
}

pub fn vips(arguments: &QueryArguments) -> Result<(), Failure> {
    show(arguments, "vips", |state| (vip_table(state), "no virtual IPs"))
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
        let served = held(vip);
        let served = served.as_str();
        if vip.services.is_empty() {
            table.row([&address, "(announced alone)", "", "", "", "", "", served, "", "", "", &vip.origin]);
        }
        for service in &vip.services {
            let method = service.method.as_deref().unwrap_or("auto");
            let scheduler = service.scheduler.as_str();
            let head = |port: &str| {
                let cells =
                    [&address, &service.service, port, scheduler, method, "", "", served, "", "", "", &vip.origin];
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
    let node = real.node.clone().unwrap_or_else(|| "-".to_owned());
    let none = String::new;
    let (address, weight) = (real.address.to_string(), real.weight.to_string());
    [none(), none(), none(), none(), method, address, weight, state, packets, bytes, node, none()]
}

fn show(
    arguments: &QueryArguments,
    section: &str,
    table: impl FnOnce(&State) -> (Table, &'static str),
) -> Result<(), Failure> {
    let path = format!("/api/v1/state?section={section}");
    match arguments.output {
        OutputFormat::Json => {
            let state: serde_json::Value = admin_client::get(&arguments.admin, &path)?;
            print(&format!("{state:#}\n"))?;
        }
        OutputFormat::Table => {
            let state: State = admin_client::get(&arguments.admin, &path)?;
            let (table, nothing) = table(&state);
            if table.is_empty() {
                print(&format!("{nothing} (generation {})\n", state.generation))?;
            } else {
                print(&table.render())?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
                {"address": "192.0.2.10", "served": true, "origin": "ConfigMap a/b", "services": [
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
            &["192.0.2.10", "default/web", "TCP/80", "mh", "auto", "served", "ConfigMap a/b"],
            &["TUNNEL", "198.51.100.1", "1", "ready, unhealthy: no answer within 3 s", "7", "448", "node-a"],
            &["192.0.2.10", "default/web", "UDP/53", "mh", "auto", "served", "ConfigMap a/b"],
            &["198.51.100.2", "1", "ready", "node-a"],
            &["192.0.2.10", "default/gone", "(no such Service)", "L2", "served", "ConfigMap a/b"],
        ];
        assert_eq!(rows, expected, "{text}");
    }
}
