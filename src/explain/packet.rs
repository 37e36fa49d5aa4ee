//! `explain PACKET`: which virtual IP takes it and where it goes, asked of the running director or of manifests.

use crate::check::Reading;
use crate::cli::{ExplainArguments, OutputFormat};
use crate::output::{Table, print};
use crate::{Failure, admin_client};
use sluicegate_forward::explain::{Explanation, explain_offline};
use sluicegate_forward::packet_tuple::PacketTuple;
use sluicegate_forward::plan::PlanSettings;

pub fn explain(arguments: &ExplainArguments) -> Result<(), Failure> {
    // Checked here too, so that nonsense is a usage error and needs no gateway.
    let packet: PacketTuple = arguments.target.parse().map_err(|error| Failure::Usage(format!("{error}")))?;
    let explanation = if arguments.manifests.is_empty() {
        let path = format!("/api/v1/explain?packet={}", super::encoded(&packet.to_string()));
        admin_client::get(&arguments.admin, &path)?
    } else {
        let reading = Reading::of(&arguments.manifests, &arguments.translate)?;
        explain_offline(&packet, &reading.controller.desired().vips, &PlanSettings::default())
    };
    match arguments.output {
        OutputFormat::Json => print(&format!("{}\n", serde_json::to_string_pretty(&explanation)?))?,
        OutputFormat::Table => print(&render(&explanation))?,
    }
    Ok(())
}

fn render(told: &Explanation) -> String {
    let mut facts = Table::new(&["PACKET", &told.packet]);
    facts.row(["RESULT", &told.result]);
    facts.row(["REASON", &format!("{} ({})", told.reason, told.verdict)]);
    for (name, text) in [
        ("VIP", vip(told)),
        ("SERVICE", service(told)),
        ("FLOW", flow(told)),
        ("PERSISTENCE", client(told)),
        ("RING", ring(told)),
        ("LEAVES BY", leaves(told)),
    ] {
        if let Some(text) = text {
            facts.row([name, &text]);
        }
    }
    told.not_served.iter().for_each(|why| facts.row(["NOT SERVED", why]));
    told.assumptions.iter().for_each(|assumption| facts.row(["ASSUMED", assumption]));
    let mut out = facts.render();
    if !told.candidates.is_empty() {
        let mut table = Table::new(&["", "BOUND TO", "SERVICE", "BECAUSE"]);
        for candidate in &told.candidates {
            let mark = if candidate.code == "won" { "->" } else { "" };
            table.row([mark, &candidate.address, &candidate.service, &candidate.because]);
        }
        out.push('\n');
        out.push_str(&table.render());
        if told.omitted > 0 {
            out.push_str(&format!("and {} more\n", told.omitted));
        }
    }
    if !told.real_servers.is_empty() {
        let mut table = Table::new(&["", "REAL SERVER", ">WEIGHT", ">SLOTS", "GETS", "NODE", "BECAUSE"]);
        for real in &told.real_servers {
            let mark = if told.real_server == Some(real.address) { "->" } else { "" };
            let because = real.because.as_deref().unwrap_or_default();
            let (address, weight, slots) = (real.address.to_string(), real.weight.to_string(), real.slots.to_string());
            let node = crate::vips::node_and_pods(real.node.as_deref(), real.pods);
            table.row([mark, &address, &weight, &slots, &real.gets, &node, because]);
        }
        out.push('\n');
        out.push_str(&table.render());
    }
    out
}

fn vip(told: &Explanation) -> Option<String> {
    let vip = told.vip.as_ref()?;
    let asked = !told.offline;
    let mut text = vip.address.to_string();
    if !vip.in_tables {
        text.push_str(", not in the tables");
    }
    if asked && vip.answered_for_ms > 0 {
        text.push_str(&format!(", owned here (answered for another {} ms)", vip.answered_for_ms));
    } else if asked {
        text.push_str(", not owned by this director: what comes all the same is forwarded");
    }
    if let Some(owner) = &vip.owner {
        text.push_str(&format!(", owner {owner}"));
    }
    if vip.own_address {
        text.push_str(", an address of this machine too");
    }
    Some(text)
}

fn service(told: &Explanation) -> Option<String> {
    let service = told.service.as_ref()?;
    let open = if service.fails_open { ", all real servers fail their checks and are used all the same" } else { "" };
    Some(format!(
        "{} {}, scheduler {}, method {} ({}){open}",
        service.address, service.service, service.scheduler, service.method, service.method_because
    ))
}

fn flow(told: &Explanation) -> Option<String> {
    let flow = told.flow.as_ref()?;
    if told.offline {
        return None;
    }
    if !flow.in_table {
        return Some("not in the flow table".to_owned());
    }
    let real = flow.real_server.map_or_else(|| "a real server that is gone".to_owned(), |real| real.to_string());
    let kind = if flow.confirmed { "established" } else { "tentative (one packet so far)" };
    let idle = flow.idle_seconds.map_or_else(String::new, |seconds| format!(", idle for about {seconds} s"));
    let followed = if flow.followed { "" } else { ", not followed" };
    Some(format!("in the flow table, to {real}, {kind}{idle}{followed}"))
}

fn client(told: &Explanation) -> Option<String> {
    let client = told.client.as_ref()?;
    let who = client.real_server.map_or_else(|| "the client is not known".to_owned(), |real| format!("to {real}"));
    Some(format!("{} s by /{}: {who}", client.seconds, client.prefix))
}

fn ring(told: &Explanation) -> Option<String> {
    let ring = told.ring.as_ref()?;
    Some(match (ring.slot, ring.real_server) {
        (Some(slot), Some(real)) => format!("slot {slot} of {}: {real}, by {}", ring.slots, ring.by),
        (Some(slot), None) => format!("slot {slot} of {}: nobody, by {}", ring.slots, ring.by),
        (None, _) => format!("{} slots, by {}", ring.slots, ring.by),
    })
}

fn leaves(told: &Explanation) -> Option<String> {
    let way = told.leaves.as_ref()?;
    let mut text = format!("{} from {} to {}", way.interface, way.source_mac, way.destination_mac);
    if !way.vlans.is_empty() {
        let tags: Vec<String> = way.vlans.iter().map(ToString::to_string).collect();
        text.push_str(&format!(", VLAN {}", tags.join(" in ")));
    }
    if let Some(outer) = &way.outer {
        text.push_str(&format!(", {} from {} to {}", outer.kind, outer.source, outer.destination));
    }
    text.push_str(&format!(", packets of up to {} bytes", way.largest_packet));
    Some(text)
}
