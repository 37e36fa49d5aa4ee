//! What of a host stands in the way of DSR: pure checks over a snapshot of facts. It reads nothing and changes nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

/// Outer headers of the largest tunnel: IPv6, UDP (GUE).
const LARGEST_TUNNEL: u32 = 48;
/// What IPv6 demands of every link (RFC 8200, section 5).
const SMALLEST_IPV6_MTU: u32 = 1280;
/// The oldest kernel that has all that is used (`xdp.frags`, `IFA_PROTO`).
const OLDEST_KERNEL: (u32, u32) = (5, 18);

/// What a host does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Forwards packets for VIPs.
    Director,
    /// Has VIPs and answers for them.
    Backend,
    /// Serves HTTP alone.
    Gateway,
}

/// How grave a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Traffic does not flow.
    Broken,
    /// Some traffic may not flow, or more slowly.
    Risky,
    /// Good to know.
    Hint,
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How grave it is.
    pub severity: Severity,
    /// What was found.
    pub what: String,
    /// Why it matters.
    pub why: &'static str,
    /// The command that changes it, or what to do.
    pub change: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Broken => "broken",
            Severity::Risky => "risky",
            Severity::Hint => "hint",
        };
        write!(f, "{severity}: {}\n  why: {}\n  change: {}", self.what, self.why, self.change)
    }
}

/// What is known of one interface; `None` = could not be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkFacts {
    /// In bytes.
    pub mtu: Option<u32>,
    /// 0 = off, 1 = strict, 2 = loose.
    pub rp_filter: Option<u32>,
    /// Which ARP requests are answered.
    pub arp_ignore: Option<u32>,
    /// Which addresses requests are sent from.
    pub arp_announce: Option<u32>,
    /// The card takes VLAN tags out of received frames (`rxvlan`).
    pub vlan_stripping: Option<bool>,
    /// The card merges received segments (`lro`).
    pub large_receive: Option<bool>,
}

/// A snapshot of a host; `None` = could not be read, and is not judged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Major and minor version.
    pub kernel: Option<(u32, u32)>,
    /// `net.core.bpf_jit_enable`.
    pub bpf_jit: Option<u32>,
    /// `/sys/fs/bpf` is a BPF file system.
    pub bpf_fs: Option<bool>,
    /// Effective capabilities, as in `/proc/self/status`.
    pub capabilities: Option<u64>,
    /// Interfaces by name; `all` is the kernel's entry for all of them, without an MTU.
    pub links: BTreeMap<String, LinkFacts>,
    /// Addresses of `lo`.
    pub loopback: Vec<IpAddr>,
    /// kube-proxy's mode, where it runs: `iptables`, `nftables`, `ipvs`.
    pub kube_proxy: Option<String>,
    /// kube-proxy in IPVS mode leaves ARP for its addresses to others (`ipvs.strictARP`).
    pub strict_arp: Option<bool>,
    /// Entries of the conntrack table, and how many fit (`nf_conntrack_count`, `nf_conntrack_max`).
    pub conntrack: Option<(u32, u32)>,
    /// The wall clock is kept right (NTP).
    pub clock_is_right: Option<bool>,
}

/// What is expected of the host.
#[derive(Clone, Debug)]
pub struct Expectation {
    /// What it does.
    pub role: Role,
    /// Interfaces that VIPs' packets come in on or leave by.
    pub interfaces: Vec<String>,
    /// VIPs that it is to have or to forward.
    pub vips: Vec<IpAddr>,
    /// Packets come in tunnels, or leave in them.
    pub tunnels: bool,
}

/// Findings, the gravest first.
#[must_use]
pub fn examine(facts: &HostFacts, expected: &Expectation) -> Vec<Finding> {
    let mut findings = Vec::new();
    if expected.role != Role::Gateway {
        kernel(facts, &mut findings);
        rights(facts, &mut findings);
        for interface in &expected.interfaces {
            link(facts, expected, interface, &mut findings);
        }
    }
    vips(facts, expected, &mut findings);
    kube_proxy(facts, &mut findings);
    conntrack(facts, &mut findings);
    if facts.clock_is_right == Some(false) {
        findings.push(Finding {
            severity: Severity::Hint,
            what: "nothing keeps the clock right".to_owned(),
            why: "certificates are judged by it and logs are compared; who has a VIP does not depend on it",
            change: "run a client of NTP, such as chronyd or systemd-timesyncd".to_owned(),
        });
    }
    findings.sort_by_key(|finding| finding.severity);
    findings
}

fn kernel(facts: &HostFacts, findings: &mut Vec<Finding>) {
    if let Some(kernel) = facts.kernel {
        let said = format!("Linux {}.{}", kernel.0, kernel.1);
        if kernel < OLDEST_KERNEL {
            findings.push(Finding {
                severity: Severity::Broken,
                what: said,
                why: "the XDP programs need Linux 5.18",
                change: "install a newer kernel, or run with --forward off".to_owned(),
            });
        }
    }
    if facts.bpf_jit == Some(0) {
        findings.push(Finding {
            severity: Severity::Risky,
            what: "the BPF JIT is off".to_owned(),
            why: "programs are interpreted, several times slower",
            change: "sysctl -w net.core.bpf_jit_enable=1".to_owned(),
        });
    }
    if facts.bpf_fs == Some(false) {
        findings.push(Finding {
            severity: Severity::Broken,
            what: "/sys/fs/bpf is no BPF file system".to_owned(),
            why: "programs and tables are pinned there, so that they outlive the process",
            change: "mount -t bpf bpf /sys/fs/bpf".to_owned(),
        });
    }
}

fn rights(facts: &HostFacts, findings: &mut Vec<Finding>) {
    let Some(effective) = facts.capabilities else { return };
    for (bit, name) in [(12, "CAP_NET_ADMIN"), (38, "CAP_PERFMON"), (39, "CAP_BPF")] {
        // CAP_SYS_ADMIN (21) includes the two that were once parts of it.
        let included = bit != 12 && effective & (1 << 21) != 0;
        if effective & (1 << bit) == 0 && !included {
            findings.push(Finding {
                severity: Severity::Broken,
                what: format!("{name} is missing"),
                why: "programs and addresses cannot be set up without it",
                change: format!("run as root, or add {name} to the container's securityContext.capabilities"),
            });
        }
    }
}

fn link(facts: &HostFacts, expected: &Expectation, interface: &str, findings: &mut Vec<Finding>) {
    let Some(link) = facts.links.get(interface) else {
        findings.push(Finding {
            severity: Severity::Broken,
            what: format!("there is no interface {interface}"),
            why: "VIPs' packets are expected there",
            change: "name the right one (ip link) with --interface".to_owned(),
        });
        return;
    };
    let all = facts.links.get("all").cloned().unwrap_or_default();
    let effective = |of: fn(&LinkFacts) -> Option<u32>| of(link).max(of(&all));
    if effective(|link| link.rp_filter) == Some(1) {
        findings.push(Finding {
            severity: Severity::Risky,
            what: format!("rp_filter of {interface} is strict"),
            why: "packets whose way back is another interface are dropped without a word: clients' packets out of tunnels, \
                  and answers to a director's probes",
            change: format!("sysctl -w net/ipv4/conf/all/rp_filter=0 net/ipv4/conf/{interface}/rp_filter=2"),
        });
    }
    if expected.role == Role::Director {
        offloads(link, interface, findings);
    }
    if expected.role == Role::Backend {
        for (name, value, least) in [
            ("arp_ignore", effective(|link| link.arp_ignore), 1),
            ("arp_announce", effective(|link| link.arp_announce), 2),
        ] {
            if value.is_some_and(|value| value < least) {
                findings.push(Finding {
                    severity: Severity::Broken,
                    what: format!("{name} of {interface} is {}, less than {least}", value.unwrap_or(0)),
                    why: "the host answers ARP for the VIP, or announces it, and takes its traffic from the director",
                    change: format!("sysctl -w net/ipv4/conf/all/{name}={least}"),
                });
            }
        }
    }
    if let Some(mtu) = link.mtu.filter(|_| expected.tunnels)
        && mtu < SMALLEST_IPV6_MTU + LARGEST_TUNNEL
    {
        findings.push(Finding {
            severity: Severity::Risky,
            what: format!("the MTU of {interface} is {mtu}"),
            why: "less than 1280 bytes are left in the largest tunnel, which IPv6 does not allow",
            change: format!("ip link set {interface} mtu {}", SMALLEST_IPV6_MTU + LARGEST_TUNNEL),
        });
    }
}

/// What hides frames from XDP. The director switches it off where it attaches, if the card lets it.
fn offloads(link: &LinkFacts, interface: &str, findings: &mut Vec<Finding>) {
    for (on, what, why, name) in [
        (
            link.vlan_stripping,
            "takes VLAN tags out of frames",
            "the program does not see them, and packets leave without; the director switches it off if the card lets it",
            "rxvlan",
        ),
        (
            link.large_receive,
            "merges segments",
            "they are longer than the MTU and cannot be sent on; the director switches it off if the card lets it",
            "lro",
        ),
    ] {
        if on == Some(true) {
            findings.push(Finding {
                severity: Severity::Hint,
                what: format!("{interface} {what}"),
                why,
                change: format!("ethtool -K {interface} {name} off"),
            });
        }
    }
}

fn kube_proxy(facts: &HostFacts, findings: &mut Vec<Finding>) {
    if facts.kube_proxy.as_deref() != Some("ipvs") || facts.strict_arp == Some(true) {
        return;
    }
    let (severity, what) = match facts.strict_arp {
        Some(false) => (Severity::Risky, "kube-proxy runs in IPVS mode without strictARP"),
        _ => (Severity::Hint, "kube-proxy runs in IPVS mode"),
    };
    findings.push(Finding {
        severity,
        what: what.to_owned(),
        why: "it binds addresses of Services to kube-ipvs0 and answers ARP for them unless strictARP is set",
        change: "set ipvs.strictARP: true in kube-proxy's ConfigMap and restart it".to_owned(),
    });
}

/// XDP comes before it; what goes on into the machine's own stack does not.
fn conntrack(facts: &HostFacts, findings: &mut Vec<Finding>) {
    let Some((entries, most)) = facts.conntrack.filter(|(_, most)| *most > 0) else { return };
    if u64::from(entries) * 5 < u64::from(most) * 4 {
        return;
    }
    findings.push(Finding {
        severity: Severity::Risky,
        what: format!("{entries} of {most} conntrack entries are in use"),
        why: "the kernel drops packets of new connections once the table is full, also of those that tunnels bring",
        change: format!("sysctl -w net.netfilter.nf_conntrack_max={}", u64::from(most) * 2),
    });
}

/// kube-proxy's mode, of what it answers to `GET /proxyMode` (status line, fields, an empty line, the mode).
#[must_use]
pub fn proxy_mode(answer: &str) -> Option<&'static str> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?;
    let known = ["iptables", "nftables", "ipvs"];
    known.into_iter().find(|mode| status == "200" && body.trim() == *mode)
}

fn vips(facts: &HostFacts, expected: &Expectation, findings: &mut Vec<Finding>) {
    for vip in expected.vips.iter().filter(|vip| facts.loopback.contains(vip) != (expected.role == Role::Backend)) {
        let prefix = if vip.is_ipv4() { 32 } else { 128 };
        match expected.role {
            Role::Backend => findings.push(Finding {
                severity: Severity::Broken,
                what: format!("{vip} is not on lo"),
                why: "the host does not take packets for an address that it does not have",
                change: format!("ip addr add {vip}/{prefix} dev lo"),
            }),
            Role::Director | Role::Gateway => findings.push(Finding {
                severity: Severity::Hint,
                what: format!("{vip} is on lo"),
                why: "a pure director does not have the VIP; it is needed where the machine is a real server too",
                change: format!("ip addr del {vip}/{prefix} dev lo"),
            }),
        }
    }
}
