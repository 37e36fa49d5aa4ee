//! Whether this process may build networks of namespaces and load programs into the kernel.

use rustix::thread::{CapabilitySet, capabilities};

/// What the laboratory needs; CAP_SYS_ADMIN makes namespaces and mounts, CAP_NET_RAW captures.
const NEEDED: [(CapabilitySet, &str); 4] = [
    (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN"),
    (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
    (CapabilitySet::NET_RAW, "CAP_NET_RAW"),
    (CapabilitySet::BPF, "CAP_BPF"),
];

/// Capabilities that this process would need and has not, by name.
pub fn missing() -> Vec<&'static str> {
    missing_from(capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective))
}

fn missing_from(effective: CapabilitySet) -> Vec<&'static str> {
    NEEDED.into_iter().filter(|(capability, _)| !effective.contains(*capability)).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        assert!(missing_from(CapabilitySet::all()).is_empty());
        assert_eq!(missing_from(CapabilitySet::all() - CapabilitySet::BPF), ["CAP_BPF"]);
        assert_eq!(missing_from(CapabilitySet::empty()).len(), NEEDED.len());
    }
}
