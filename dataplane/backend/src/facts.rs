//! Reads what the doctor judges.

use crate::addresses::Addresses;
use crate::doctor::{HostFacts, LinkFacts};
use crate::sysctl;
use std::fs;
use std::path::Path;

/// Facts of this host and network namespace. What cannot be read is left open, and so are the clock and offloads of
/// interfaces. Needs a tokio runtime.
pub async fn read_facts() -> HostFacts {
    let loopback = match Addresses::open() {
        Ok(addresses) => addresses.on_loopback().await.unwrap_or_default().into_keys().collect(),
        Err(_) => Vec::new(),
    };
    HostFacts {
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease").ok().as_deref().and_then(version),
        bpf_jit: sysctl::read("net/core/bpf_jit_enable"),
        bpf_fs: rustix::fs::statfs("/sys/fs/bpf").ok().map(|found| found.f_type as u32 == 0xcafe_4a11),
        capabilities: fs::read_to_string("/proc/self/status").ok().as_deref().and_then(capabilities),
        links: links(),
        loopback,
        clock_is_right: None,
        strict_arp: None,
        conntrack: sysctl::read("net/netfilter/nf_conntrack_count").zip(sysctl::read("net/netfilter/nf_conntrack_max")),
        kube_proxy: Path::new("/proc/sys/net/ipv4/conf/kube-ipvs0").exists().then(|| "ipvs".to_owned()),
    }
}

fn links() -> std::collections::BTreeMap<String, LinkFacts> {
    let Ok(entries) = fs::read_dir("/proc/sys/net/ipv4/conf") else { return Default::default() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter(|name| name != "default")
        .map(|name| {
            let of = |setting: &str| sysctl::read(&format!("net/ipv4/conf/{name}/{setting}"));
            let mtu = sysctl::read(&format!("net/ipv6/conf/{name}/mtu")).filter(|_| name != "all");
            let (rp_filter, arp_ignore, arp_announce) = (of("rp_filter"), of("arp_ignore"), of("arp_announce"));
            (name, LinkFacts { mtu, rp_filter, arp_ignore, arp_announce, ..LinkFacts::default() })
        })
        .collect()
}

/// `6.18.44-generic` → 6, 18.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn capabilities(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}
