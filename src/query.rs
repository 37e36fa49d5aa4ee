//! `routes`, `backends`: what the running gateway has, as tables or as the JSON of its admin API.

use crate::cli::{OutputFormat, QueryArguments};
use crate::output::{Table, print};
use crate::{Failure, admin_client};
use sluicegate_admin::State;
use sluicegate_admin::state::{BackendState, EndpointCondition, Traffic};

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

/// One section, as a table or as it is.
pub fn show(
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
