//! Pools as the operator writes them: names, ranges, namespaces, and what does not go together.

use sluicegate_config::pool::{AddressRange, count};
use sluicegate_config::{InvalidVipPool, PoolNamespaces, PoolRanges, VipPools};
use std::net::IpAddr;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|why| panic!("{text}: {why}"))
}

fn pools(ranges: &[&str], namespaces: &[&str]) -> Result<VipPools, InvalidVipPool> {
    let ranges = ranges.iter().map(|text| text.parse::<PoolRanges>()).collect::<Result<Vec<_>, _>>()?;
    let namespaces = namespaces.iter().map(|text| text.parse::<PoolNamespaces>()).collect::<Result<Vec<_>, _>>()?;
    VipPools::new(ranges, namespaces)
}

fn shown(pools: &VipPools) -> Vec<String> {
    pools.iter().map(ToString::to_string).collect()
}

#[test]
fn names_gather_ranges_and_hold_until_the_next_name() {
    let all = pools(
        &["192.0.2.0/28", "public=192.0.2.16-192.0.2.20,2001:db8::/120,internal=198.51.100.7", "public=203.0.113.0/24"],
        &["internal=team=edge", "internal=kubernetes.io/metadata.name in (a,b)"],
    )
    .expect("pools");
    assert_eq!(
        shown(&all),
        [
            "default (192.0.2.0/28)",
            "public (192.0.2.16-192.0.2.20, 2001:db8::/120, 203.0.113.0/24)",
            "internal (198.51.100.7)",
        ]
    );
    let name = |address: &str| all.of(ip(address)).map(|pool| pool.name.to_string());
    assert_eq!(name("192.0.2.17").as_deref(), Some("public"));
    assert_eq!(name("192.0.2.21"), None);
    let internal = all.named("internal").expect("it is there");
    assert!(internal.is_for(|key| (key == "team").then_some("edge")), "by a label");
    assert!(internal.is_for(|key| (key == "kubernetes.io/metadata.name").then_some("b")), "or by name");
    assert!(!internal.is_for(|_| None));
    assert!(all.named("public").is_some_and(|pool| pool.is_for(|_| None)), "every namespace");
    assert!(all.asks_for_labels() && !pools(&["192.0.2.0/28"], &[]).expect("a pool").asks_for_labels());
}

#[test]
fn what_does_not_go_together_is_named() {
    for (ranges, namespaces, part) in [
        (&["a=192.0.2.0/24", "b=192.0.2.255"][..], &[][..], "pool a (192.0.2.0/24) and pool b (192.0.2.255) overlap"),
        (
            &["192.0.2.9", "b=192.0.2.0-192.0.2.9"],
            &[],
            "pool default (192.0.2.9) and pool b (192.0.2.0-192.0.2.9) overlap",
        ),
        (&["a=192.0.2.0/24"], &["b=x"], "there is no pool b"),
        (&["a=192.0.2.0/24"], &["a"], "does not say which pool"),
        (&["a=192.0.2.0/24"], &["a=x y"], "pool a: \"x y\" is no demand on labels"),
        (&["A=192.0.2.0/24"], &[], "\"A\" is no name for a pool"),
        (&["-a=192.0.2.0/24"], &[], "is no name for a pool"),
        (&["=192.0.2.0/24"], &[], "is no name for a pool"),
        (&["a=192.0.2.0/24,"], &[], "is not a range of addresses"),
    ] {
        let why = pools(ranges, namespaces).expect_err(part).to_string();
        assert!(why.contains(part), "{ranges:?} {namespaces:?}: {why}");
    }
    let many: Vec<String> = (0..65).map(|number| format!("p{number}=192.0.2.{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(pools(&many, &[]), Err(InvalidVipPool::TooMany));
    assert!(pools(&["192.0.2.0/24", "192.0.2.10"], &[]).is_ok(), "a pool may name an address twice");
}

#[test]
fn ends_of_networks_are_chosen_for_nobody() {
    for (text, wanted) in [
        ("192.0.2.0/24", Some(("192.0.2.1", "192.0.2.254"))),
        ("192.0.2.0/30", Some(("192.0.2.1", "192.0.2.2"))),
        ("192.0.2.0/31", Some(("192.0.2.0", "192.0.2.1"))),
        ("192.0.2.7/32", Some(("192.0.2.7", "192.0.2.7"))),
        ("192.0.2.0-192.0.2.255", Some(("192.0.2.0", "192.0.2.255"))),
        ("2001:db8::/120", Some(("2001:db8::1", "2001:db8::ff"))),
        ("2001:db8::/127", Some(("2001:db8::", "2001:db8::1"))),
        ("127.0.0.0/8", None),
        ("fe80::/64", None),
    ] {
        let range: AddressRange = text.parse().expect("a range");
        assert_eq!(range.choosable(), wanted.map(|(first, last)| (ip(first), ip(last))), "{text}");
    }
    assert_eq!(count(ip("192.0.2.1"), ip("192.0.2.254")), 254);
    assert_eq!(count(ip("::"), ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")), u128::MAX);
}
