//! `doctor`: what of this host, and of its cluster, stands in the way, why, and the command that changes it.

mod cluster;

use crate::Failure;
use crate::cli::{DoctorArguments, ExaminedRole, OutputFormat};
use crate::output::print;
use sluicegate_backend::doctor::{Expectation, Finding, HostFacts, Role, Severity, examine, proxy_mode};
use sluicegate_backend::read_facts;
use sluicegate_forward::offload::Offload;
use sluicegate_forward::wall_clock::is_kept_right;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

pub fn doctor(arguments: &DoctorArguments) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut facts = with_more(runtime.block_on(read_facts()));
    let of_cluster = runtime.block_on(cluster::examine(arguments, &mut facts));
    let expected = Expectation {
        role: match arguments.role {
            ExaminedRole::Director | ExaminedRole::All => Role::Director,
            ExaminedRole::Backend => Role::Backend,
            ExaminedRole::Gateway => Role::Gateway,
        },
        interfaces: arguments.interface.clone(),
        vips: arguments.vip.clone(),
        tunnels: !arguments.no_tunnels,
    };
    let mut findings = examine(&facts, &expected);
    findings.extend(of_cluster);
    findings.sort_by_key(|finding| finding.severity);
    match arguments.output {
        OutputFormat::Table => print(&text(&findings))?,
        OutputFormat::Json => {
            let json: Vec<_> = findings.iter().map(json).collect();
            print(&format!("{:#}\n", serde_json::Value::Array(json)))?;
        }
    }
    let stands_in_the_way = findings.iter().any(|finding| finding.severity == Severity::Broken);
    if stands_in_the_way { Err(Failure::Silent) } else { Ok(()) }
}

/// Facts of the machine that are not of its network stack.
fn with_more(mut facts: HostFacts) -> HostFacts {
    for (name, link) in facts.links.iter_mut().filter(|(name, _)| *name != "all") {
        link.vlan_stripping = Offload::VlanStripping.is_on(name).ok();
        link.large_receive = Offload::LargeReceive.is_on(name).ok();
    }
    facts.clock_is_right = is_kept_right().ok();
    facts.kube_proxy = ask_kube_proxy().ok().flatten().or(facts.kube_proxy);
    facts
}

/// kube-proxy of this machine tells its mode where it serves its metrics, by default on loopback.
fn ask_kube_proxy() -> std::io::Result<Option<String>> {
    let mut stream = TcpStream::connect_timeout(&KUBE_PROXY, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /proxyMode HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(LONGEST_ANSWER).read_to_string(&mut answer)?;
    Ok(proxy_mode(&answer).map(str::to_owned))
}

/// `metricsBindAddress` of kube-proxy's configuration.
const KUBE_PROXY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 10249);
const PATIENCE: Duration = Duration::from_secs(1);
const LONGEST_ANSWER: u64 = 4096;

fn text(findings: &[Finding]) -> String {
    if findings.is_empty() {
        return "nothing stands in the way\n".to_owned();
    }
    let mut text = String::new();
    for finding in findings {
        // Writing to a String does not fail.
        let _ok = writeln!(text, "{finding}");
    }
    text
}

fn json(finding: &Finding) -> serde_json::Value {
    serde_json::json!({
        "severity": name(finding.severity),
        "what": finding.what,
        "why": finding.why,
        "change": finding.change,
    })
}

fn name(severity: Severity) -> &'static str {
    match severity {
        Severity::Broken => "broken",
        Severity::Risky => "risky",
        Severity::Hint => "hint",
    }
}
