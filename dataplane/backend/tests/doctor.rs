//! Findings over snapshots of hosts.

use sluicegate_backend::doctor::{Expectation, HostFacts, LinkFacts, Role, Severity, examine, proxy_mode};

fn healthy() -> (HostFacts, Expectation) {
    let link = |mtu| LinkFacts {
        mtu,
        rp_filter: Some(0),
        arp_ignore: Some(1),
        arp_announce: Some(2),
        vlan_stripping: Some(false),
        large_receive: Some(false),
    };
    let vip = "192.0.2.10".parse().expect("an address");
    let facts = HostFacts {
        kernel: Some((6, 18)),
        bpf_jit: Some(1),
        bpf_fs: Some(true),
        capabilities: Some(u64::MAX),
        links: [("all".to_owned(), link(None)), ("eth0".to_owned(), link(Some(1500)))].into(),
        loopback: vec![vip],
        kube_proxy: Some("iptables".to_owned()),
        strict_arp: Some(false),
        conntrack: Some((1_000, 262_144)),
        clock_is_right: Some(true),
    };
    let interfaces = vec!["eth0".to_owned()];
    (facts, Expectation { role: Role::Backend, interfaces, vips: vec![vip], tunnels: true })
}

#[test]
fn a_good_host_has_no_findings() {
    let (facts, expected) = healthy();
    assert_eq!(examine(&facts, &expected), []);
}

#[test]
fn what_could_not_be_read_is_not_judged() {
    let (mut facts, expected) = healthy();
    let links = ["all", "eth0"].map(|name| (name.to_owned(), LinkFacts::default()));
    facts = HostFacts { links: links.into(), loopback: facts.loopback, ..HostFacts::default() };
    assert_eq!(examine(&facts, &expected), []);
}

type Spoil = fn(&mut HostFacts, &mut Expectation);

#[test]
fn each_fault_is_found_with_its_remedy() {
    let cases: &[(Severity, &str, &str, Spoil)] = &[
        (Severity::Broken, "Linux 4.19", "newer kernel", |facts, _| facts.kernel = Some((4, 19))),
        (Severity::Risky, "JIT", "bpf_jit_enable=1", |facts, _| facts.bpf_jit = Some(0)),
        (Severity::Broken, "/sys/fs/bpf", "mount -t bpf", |facts, _| facts.bpf_fs = Some(false)),
        (Severity::Broken, "CAP_NET_ADMIN", "capabilities", |facts, _| facts.capabilities = Some(!(1 << 12))),
        (Severity::Broken, "CAP_BPF", "capabilities", |facts, _| facts.capabilities = Some(1 << 12 | 1 << 38)),
        (Severity::Broken, "CAP_PERFMON", "capabilities", |facts, _| facts.capabilities = Some(1 << 12 | 1 << 39)),
        (Severity::Broken, "no interface eth1", "--interface", |_, expected| expected.interfaces = vec!["eth1".into()]),
        (Severity::Risky, "rp_filter", "rp_filter=2", |facts, _| link(facts).rp_filter = Some(1)),
        (Severity::Broken, "arp_ignore", "arp_ignore=1", |facts, _| {
            facts.links.values_mut().for_each(|link| link.arp_ignore = Some(0));
        }),
        (Severity::Broken, "arp_announce", "arp_announce=2", |facts, _| {
            facts.links.values_mut().for_each(|link| link.arp_announce = Some(0));
        }),
        (Severity::Risky, "MTU", "mtu 1328", |facts, _| link(facts).mtu = Some(1300)),
        (Severity::Broken, "not on lo", "ip addr add 192.0.2.10/32 dev lo", |facts, _| facts.loopback.clear()),
        (Severity::Hint, "is on lo", "ip addr del", |_, expected| expected.role = Role::Director),
        (Severity::Hint, "VLAN tags", "ethtool -K eth0 rxvlan off", |facts, expected| {
            link(facts).vlan_stripping = Some(true);
            (expected.role, expected.vips) = (Role::Director, Vec::new());
        }),
        (Severity::Hint, "merges segments", "ethtool -K eth0 lro off", |facts, expected| {
            link(facts).large_receive = Some(true);
            (expected.role, expected.vips) = (Role::Director, Vec::new());
        }),
        (Severity::Hint, "clock", "NTP", |facts, _| facts.clock_is_right = Some(false)),
        (Severity::Hint, "IPVS", "strictARP", |facts, _| {
            (facts.kube_proxy, facts.strict_arp) = (Some("ipvs".into()), None);
        }),
        (Severity::Risky, "IPVS mode without strictARP", "restart it", |facts, _| {
            facts.kube_proxy = Some("ipvs".into());
        }),
        (Severity::Risky, "conntrack entries", "nf_conntrack_max=524288", |facts, _| {
            facts.conntrack = Some((210_000, 262_144));
        }),
    ];
    for (severity, what, change, spoil) in cases {
        let (mut facts, mut expected) = healthy();
        spoil(&mut facts, &mut expected);
        let findings = examine(&facts, &expected);
        assert_eq!(findings.len(), 1, "{what}: {findings:?}");
        assert_eq!(findings[0].severity, *severity, "{what}");
        assert!(findings[0].what.contains(what) && findings[0].change.contains(change), "{findings:?}");
    }
}

#[test]
fn kube_proxy_says_its_mode() {
    for (answer, mode) in [
        ("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nipvs", Some("ipvs")),
        ("HTTP/1.1 200 OK\r\n\r\nnftables\n", Some("nftables")),
        ("HTTP/1.1 404 Not Found\r\n\r\niptables", None),
        ("HTTP/1.1 200 OK\r\n\r\n<html>", None),
        ("HTTP/1.1 200 OK", None),
        ("", None),
    ] {
        assert_eq!(proxy_mode(answer), mode, "{answer:?}");
    }
}

fn link(facts: &mut HostFacts) -> &mut LinkFacts {
    facts.links.get_mut("eth0").expect("a link")
}

#[test]
fn the_gravest_comes_first_and_all_settings_count() {
    let (mut facts, expected) = healthy();
    facts.links.get_mut("all").expect("a link").rp_filter = Some(1);
    facts.clock_is_right = Some(false);
    facts.loopback.clear();
    let severities: Vec<Severity> = examine(&facts, &expected).iter().map(|finding| finding.severity).collect();
    assert_eq!(severities, [Severity::Broken, Severity::Risky, Severity::Hint]);
}
