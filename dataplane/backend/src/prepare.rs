//! Settings of a host that its director or agent needs and, in a container with a read-only `/proc/sys`, cannot write.

use crate::doctor::Role;
use crate::sysctl::{self, SysctlError};
use std::fmt;
use std::fs;

/// A setting that was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostChange {
    /// The name below `/proc/sys`.
    pub name: &'static str,
    /// What it was; `None` where it was no number.
    pub before: Option<u32>,
    /// What it is now.
    pub after: u32,
    /// Why.
    pub why: &'static str,
}

impl fmt::Display for HostChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, before, after, why } = self;
        match before {
            Some(before) => write!(f, "set {name} to {after} (it was {before}): {why}"),
            None => write!(f, "set {name} to {after}: {why}"),
        }
    }
}

/// What a role needs at least. The kernel takes the larger one of a setting of `all` and that of an interface, so that those
/// of `all` hold for interfaces to come.
const SETTINGS: [(Option<Role>, &str, u32, &str); 3] = [
    (None, "net/core/bpf_jit_enable", 1, "interpreted programs are several times slower"),
    (Some(Role::Backend), "net/ipv4/conf/all/arp_ignore", 1, "virtual IPs on lo are not to be answered for by ARP"),
    (Some(Role::Backend), "net/ipv4/conf/all/arp_announce", 2, "virtual IPs on lo are not to stand in ARP requests"),
];

const RP_FILTER: &str = "net/ipv4/conf/all/rp_filter";

/// Brings the host's settings to what the role needs; what is enough already stays.
///
/// # Errors
/// Where a setting cannot be written.
pub fn prepare_host(role: Role) -> Result<Vec<HostChange>, SysctlError> {
    let mut changes = Vec::new();
    for (of, name, least, why) in SETTINGS {
        let before = sysctl::read(name);
        // What is not there cannot be too little: kernels without a JIT, namespaces that lack what is the machine's.
        let is_missing = before.is_some_and(|value| value < least);
        if of.is_none_or(|of| of == role) && is_missing && sysctl::write(name, least)? {
            changes.push(HostChange { name, before, after: least, why });
        }
    }
    let before = sysctl::read(RP_FILTER);
    if is_strict_somewhere() && sysctl::write(RP_FILTER, 2)? {
        let why = "a strict filter drops what comes by another interface than the way back leads to";
        changes.push(HostChange { name: RP_FILTER, before, after: 2, why });
    }
    Ok(changes)
}

/// An interface is strict where the larger one of its own setting and that of `all` is 1; new ones begin as `default`.
fn is_strict_somewhere() -> bool {
    if sysctl::read(RP_FILTER) == Some(2) {
        return false;
    }
    let Ok(entries) = fs::read_dir("/proc/sys/net/ipv4/conf") else { return false };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut settings = names.map(|name| sysctl::read(&format!("net/ipv4/conf/{name}/rp_filter")));
    settings.any(|setting| setting == Some(1))
}
