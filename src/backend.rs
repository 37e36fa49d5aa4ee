//! `backend` and `detach`: this host as a real server of directors elsewhere, and what gone processes left.

use crate::Failure;
use crate::capabilities::{self, Duty};
use crate::check::Reading;
use crate::cli::{BackendArguments, DetachArguments, TunnelName};
use crate::director::probe_egress;
use crate::output::print;
use crate::run::{Signals, log_to_stderr};
use anyhow::Context as _;
use sluicegate_backend::{
    AttachMode, Backend, BackendSettings, BackendState, Changes, ClassifierMode, Directors, ProbeEgress,
};
use sluicegate_forward::pins::DEFAULT_ROOT;
use sluicegate_l4::gue::{FORMER4, FORMER6};
use sluicegate_l4::layout::VERSION;
use sluicegate_telemetry::logging::LogFormat;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

/// How often the host is made what it should be: somebody may have taken an address away, and manifests change.
const REPEAT: Duration = Duration::from_secs(2);

pub fn backend(arguments: &BackendArguments) -> Result<(), Failure> {
    if arguments.vip.is_empty() && arguments.manifests.is_empty() {
        return Err(Failure::Usage("no VIP: name them with --vip ADDRESS, or the manifests that bind them".to_owned()));
    }
    if arguments.tunnel != TunnelName::None && arguments.director.is_empty() && !arguments.any_director {
        return Err(Failure::Usage(
            "no director: name those whose tunnels are believed with --director ADDRESS, or use --tunnel none where \
             packets come on the same link"
                .to_owned(),
        ));
    }
    if arguments.tunnel != TunnelName::Gue && !arguments.peer.is_empty() {
        return Err(Failure::Usage(
            "--peer is for the second chance, which needs GUE: add --tunnel gue, or leave --peer out".to_owned(),
        ));
    }
    log_to_stderr(LogFormat::Text, &arguments.log_level)?;
    let duty = Duty { role: None, forwards: true, follows_files: !arguments.manifests.is_empty() };
    capabilities::keep_only(duty).context("giving up capabilities")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut signals = Signals::new()?;
        let settings = BackendSettings {
            interfaces: arguments.interface.clone(),
            mode: AttachMode::Auto,
            classifiers: if arguments.classic_filters { ClassifierMode::Filter } else { ClassifierMode::Auto },
            pins: sluicegate_backend::default_pins(),
            pod_flows: 0,
        };
        let mut backend = Backend::start(&settings).context("this host cannot be a real server")?;
        for attachment in backend.attachments() {
            tracing::info!(?attachment, "attached");
        }
        loop {
            let changes = backend.apply(&state(arguments)?).await?;
            say(&changes);
            if arguments.once {
                return Ok(());
            }
            tokio::select! {
                () = tokio::time::sleep(REPEAT) => {}
                name = signals.next() => {
                    tracing::info!("{name}: VIPs and programs stay; `sluicegate detach` takes them away");
                    return Ok(());
                }
            }
        }
    })
}

fn state(arguments: &BackendArguments) -> Result<BackendState, Failure> {
    let mut vips: BTreeSet<IpAddr> = arguments.vip.iter().copied().collect();
    if !arguments.manifests.is_empty() {
        let reading = Reading::of(&arguments.manifests, &arguments.translate)?;
        vips.extend(reading.controller.desired().vips.keys());
    }
    let room = room(arguments);
    let directors = match arguments.any_director {
        true => Directors::Any,
        false => Directors::Known(arguments.director.iter().copied().collect()),
    };
    let vips: BTreeMap<IpAddr, Option<u16>> = vips.into_iter().map(|vip| (vip, room)).collect();
    let peers = arguments.peer.iter().copied().collect();
    Ok(BackendState { vips, directors, peers, endpoints: BTreeSet::new(), services: BTreeMap::new() })
}

/// The largest packet that fits into the tunnel: outer headers are those of the longest family among the directors. With
/// peers, the header that names a former owner has to fit too.
fn room(arguments: &BackendArguments) -> Option<u16> {
    let over_ipv6 = arguments.any_director || arguments.director.iter().any(IpAddr::is_ipv6);
    let second_chance = !arguments.peer.is_empty();
    let outer = match (arguments.tunnel, over_ipv6) {
        (TunnelName::None, _) => return None,
        (TunnelName::Ipip, false) => 20,
        (TunnelName::Ipip, true) => 40,
        (TunnelName::Gue, false) if second_chance => 28 + FORMER4 as u16,
        (TunnelName::Gue, false) => 28,
        (TunnelName::Gue, true) if second_chance => 48 + FORMER6 as u16,
        (TunnelName::Gue, true) => 48,
    };
    Some(arguments.path_mtu.saturating_sub(outer))
}

fn say(changes: &Changes) {
    for vip in &changes.added {
        tracing::info!(%vip, "on lo");
    }
    for vip in &changes.removed {
        tracing::info!(%vip, "taken off lo");
    }
}

pub fn detach(arguments: &DetachArguments) -> Result<(), Failure> {
    log_to_stderr(LogFormat::Text, "error")?;
    let root = arguments.pins.as_deref().unwrap_or(Path::new(DEFAULT_ROOT));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // The real server's part first: it knows which addresses on `lo` are its own.
    let removed = runtime.block_on(sluicegate_backend::detach(&sluicegate_backend::default_pins()))?;
    if root.exists() {
        // Its rules and routes lie outside of the pins.
        let probes = probe_egress(root, VERSION, Vec::new());
        runtime.block_on(ProbeEgress::detach(&probes)).context("the way of probes")?;
    }
    let director = sluicegate_forward::forwarder::detach(root).context("the director's programs and tables")?;
    for one in &removed {
        print(&format!("removed {one}\n"))?;
    }
    if director {
        print(&format!("removed the director's programs and tables below {}\n", root.display()))?;
    }
    if !director && removed.is_empty() {
        print("nothing to remove\n")?;
    }
    Ok(())
}
