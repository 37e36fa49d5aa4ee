//! Capabilities: what each role keeps while it runs. All others are given up before the first thread starts, so that whoever
//! takes a thread over has no more rights than the role needs. A pod is granted the same ones (`deploy/`).

use crate::options::Role;
use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_capabilities,
};

/// Loading, attaching and pinning programs, interfaces and routes, marked probes. Without `PERFMON` the verifier takes no
/// program that compares pointers, as those of the packet path do.
const PACKETS: CapabilitySet = CapabilitySet::BPF.union(CapabilitySet::PERFMON).union(CapabilitySet::NET_ADMIN);

/// What a process needs for as long as it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Duty {
    /// Of `run`; `None` = a real server's agent.
    pub role: Option<Role>,
    /// Packets are forwarded (`--forward` is not `off`), or delivered.
    pub forwards: bool,
    /// Manifests or a kubeconfig are followed, which may be somebody else's; a pod's own are not.
    pub follows_files: bool,
}

impl Duty {
    fn capabilities(self) -> CapabilitySet {
        let mut kept = CapabilitySet::empty();
        if self.forwards && self.role != Some(Role::Gateway) {
            kept |= PACKETS;
        }
        // Directors announce by raw frames and probe by raw ICMP.
        if self.forwards && matches!(self.role, Some(Role::Director | Role::All)) {
            kept |= CapabilitySet::NET_RAW;
        }
        // To the end: ports of TCP services come and go.
        if matches!(self.role, Some(Role::Gateway | Role::All)) {
            kept |= CapabilitySet::NET_BIND_SERVICE;
        }
        if self.follows_files {
            kept |= CapabilitySet::DAC_READ_SEARCH;
        }
        kept
    }
}

/// Gives up what this duty does not need. Nothing is gained: what the process has not is not kept either.
///
/// # Errors
/// Where the kernel refuses it, which it never does to somebody who gives up.
pub fn keep_only(duty: Duty) -> Result<(), Errno> {
    let kept = duty.capabilities();
    let before = capabilities(None)?;
    clear_ambient_capability_set()?;
    for capability in (CapabilitySet::all() - kept).iter() {
        match remove_capability_from_bounding_set(capability) {
            // Without `SETPCAP` the bounding set stays; it grants nothing to a process that cannot gain rights. Kernels do
            // not know every capability by name.
            Ok(()) | Err(Errno::PERM | Errno::INVAL) => {}
            Err(errno) => return Err(errno),
        }
    }
    set_capabilities(
        None,
        CapabilitySets {
            effective: before.effective & kept,
            permitted: before.permitted & kept,
            inheritable: CapabilitySet::empty(),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_keeps_what_it_needs() {
        let kept = |role, forwards, follows_files| Duty { role, forwards, follows_files }.capabilities();
        let (director, gateway) = (Some(Role::Director), Some(Role::Gateway));
        assert_eq!(kept(director, true, false), PACKETS | CapabilitySet::NET_RAW);
        assert_eq!(kept(director, false, false), CapabilitySet::empty());
        assert_eq!(kept(gateway, true, false), CapabilitySet::NET_BIND_SERVICE);
        assert_eq!(kept(gateway, true, true), CapabilitySet::NET_BIND_SERVICE | CapabilitySet::DAC_READ_SEARCH);
        assert_eq!(kept(Some(Role::All), false, false), CapabilitySet::NET_BIND_SERVICE);
        assert_eq!(kept(None, true, false), PACKETS);
        assert!(kept(Some(Role::All), true, false).contains(kept(director, true, false) | kept(gateway, true, false)));
    }
}
