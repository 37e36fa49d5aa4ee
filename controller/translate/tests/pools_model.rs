//! A model of several directors in front of one API server: each has read it up to a moment of its own, one of them leads,
//! and leaders change. Random sequences of what users and machines do.
//!
//! Whatever happens: no address is in two statuses, nobody who keeps his wishes is moved, those at one moment serve the same,
//! and in the end who has nothing has nothing because all is taken.

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::FileFailurePersistence;
use serde_json::{Value, json};
use sluicegate_config::{Kind, ObjectRef, Settings, VipPools};
use sluicegate_translate::{Controller, Object, ObjectChange, PublishSettings, Published, StatusWrite};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

const NOW: i64 = 1_800_000_000;
const DIRECTORS: usize = 3;
const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
/// Three addresses of IPv4, one that can be asked for and is never chosen, two of IPv6.
const POOL: &str = "192.0.2.0-192.0.2.2,2001:db8::-2001:db8::1";

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1000,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("proptest-regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_address_twice_and_nobody_is_moved(steps in prop::collection::vec(step(), 1..80)) {
        let mut world = World::new();
        for step in steps {
            world.take(step)?;
            world.hold()?;
        }
        world.come_to_rest()?;
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// A Service comes, or changes its wishes.
    Apply(&'static str, Wish),
    Delete(&'static str),
    /// A director reads so many changes more.
    Read(usize, usize),
    /// So many of the leader's writes arrive.
    Write(usize),
    /// A write is repeated by its client, or the leader is interrupted in the middle of what it has to write.
    Decide,
    /// Another one leads. What the former one had not written is lost.
    Lead(usize),
    /// A director forgets all and reads what there is.
    Restart(usize),
}

/// What a Service says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    V4,
    V6,
    Both,
    BothOrNone,
    /// A particular address.
    Asks(&'static str),
    /// Of no concern to us.
    ClusterIp,
}

fn step() -> impl Strategy<Value = Step> {
    let wish = select(vec![
        Wish::V4,
        Wish::V4,
        Wish::V6,
        Wish::Both,
        Wish::BothOrNone,
        Wish::Asks("192.0.2.1"),
        Wish::ClusterIp,
    ]);
    prop_oneof![
        5 => (select(&NAMES), wish).prop_map(|(name, wish)| Step::Apply(name, wish)),
        2 => select(&NAMES).prop_map(Step::Delete),
        6 => (0..DIRECTORS, 1..4_usize).prop_map(|(director, count)| Step::Read(director, count)),
        5 => (1..3_usize).prop_map(Step::Write),
        3 => Just(Step::Decide),
        1 => (0..DIRECTORS).prop_map(Step::Lead),
        1 => (0..DIRECTORS).prop_map(Step::Restart),
    ]
}

/// A Service as the API server has it.
#[derive(Clone, Debug)]
struct Service {
    wish: Wish,
    created: i64,
    shown: Vec<IpAddr>,
    /// The change that last said something else.
    wished_at: usize,
    /// Counted up by every change, the status included.
    version: u64,
}

impl Service {
    fn object(&self, name: &str) -> Object {
        let (kind, policy, families): (_, _, &[&str]) = match self.wish {
            Wish::V4 => ("LoadBalancer", "SingleStack", &["IPv4"]),
            Wish::V6 => ("LoadBalancer", "SingleStack", &["IPv6"]),
            Wish::Both => ("LoadBalancer", "PreferDualStack", &["IPv4", "IPv6"]),
            Wish::BothOrNone => ("LoadBalancer", "RequireDualStack", &["IPv4", "IPv6"]),
            Wish::Asks(_) => ("LoadBalancer", "SingleStack", &["IPv4"]),
            Wish::ClusterIp => ("ClusterIP", "SingleStack", &["IPv4"]),
        };
        let mut annotations = BTreeMap::new();
        if let Wish::Asks(address) = self.wish {
            annotations.insert("sluicegate.io/vip", address);
        }
        let shown: Vec<Value> = self.shown.iter().map(|ip| json!({"ip": ip, "ipMode": "Proxy"})).collect();
        let created = 1_700_000_000 + self.created;
        let service = json!({
            "metadata": {"namespace": "shop", "name": name, "uid": format!("{name}-{created}"), "annotations": annotations,
                "resourceVersion": self.version.to_string(),
                "managedFields": [{"manager": "sluicegate", "operation": "Apply", "subresource": "status"}],
                "creationTimestamp": k8s_openapi::jiff::Timestamp::from_second(created).expect("a time").to_string()},
            "spec": {"type": kind, "loadBalancerClass": (kind == "LoadBalancer").then_some("sluicegate.io/vip"),
                "ipFamilyPolicy": policy, "ipFamilies": families, "clusterIPs": ["10.0.0.1"],
                "ports": [{"port": 80}]},
            "status": {"loadBalancer": {"ingress": shown}},
        });
        Object::Service(serde_json::from_value(service).expect("a Service"))
    }

    fn chooses(&self) -> bool {
        !matches!(self.wish, Wish::Asks(_) | Wish::ClusterIp)
    }

    /// What it shows and still wants.
    fn keeps(&self) -> Vec<IpAddr> {
        let wanted = |address: &&IpAddr| match self.wish {
            Wish::V4 => address.is_ipv4(),
            Wish::V6 => address.is_ipv6(),
            Wish::Both | Wish::BothOrNone => true,
            Wish::Asks(_) | Wish::ClusterIp => false,
        };
        self.shown.iter().filter(wanted).copied().collect()
    }
}

struct Director {
    controller: Controller,
    /// Changes that it has read.
    read: usize,
}

struct World {
    services: BTreeMap<&'static str, Service>,
    changes: Vec<ObjectChange>,
    directors: Vec<Director>,
    leader: Option<usize>,
    /// What the leader is about to write, and how much it had read when it decided so.
    writes: Vec<(StatusWrite, usize)>,
    clock: i64,
    /// Somebody has asked for an address.
    asked: bool,
}

fn settings() -> Settings {
    Settings { vip_pools: POOL.parse().expect("a pool"), ..Settings::default() }
}

impl World {
    fn new() -> Self {
        let director = || Director { controller: Controller::new(settings()), read: 0 };
        Self {
            services: BTreeMap::new(),
            changes: Vec::new(),
            directors: (0..DIRECTORS).map(|_| director()).collect(),
            leader: None,
            writes: Vec::new(),
            clock: 0,
            asked: false,
        }
    }

    fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Apply(name, wish) => {
                self.clock += 1;
                self.asked |= matches!(wish, Wish::Asks(_));
                let at = self.changes.len();
                let new = Service { wish, created: self.clock, shown: Vec::new(), wished_at: at, version: 0 };
                let service = self.services.entry(name).or_insert(new);
                if service.wish != wish {
                    (service.wish, service.wished_at) = (wish, at);
                }
                self.publish(name);
            }
            Step::Delete(name) => {
                if self.services.remove(name).is_some() {
                    self.changes.push(ObjectChange::Remove(ObjectRef::new(Kind::Service, "shop", name)));
                }
            }
            Step::Read(director, count) => self.read(director, count),
            Step::Write(count) => {
                for _ in 0..count.min(self.writes.len()) {
                    let (write, read) = self.writes.remove(0);
                    self.arrive(write, read)?;
                }
            }
            Step::Decide => self.decide(),
            Step::Lead(director) => self.lead(director),
            Step::Restart(director) => {
                if self.leader == Some(director) {
                    (self.leader, self.writes) = (None, Vec::new());
                }
                let mut controller = Controller::new(settings());
                let all = self.services.iter().map(|(name, service)| ObjectChange::Set(service.object(name)));
                controller.apply(all, NOW);
                self.directors[director] = Director { controller, read: self.changes.len() };
            }
        }
        Ok(())
    }

    fn publish(&mut self, name: &str) {
        self.clock += 1;
        self.services.get_mut(name).expect("it is there").version = self.clock as u64;
        self.changes.push(ObjectChange::Set(self.services[name].object(name)));
    }

    fn read(&mut self, director: usize, count: usize) {
        let director = &mut self.directors[director];
        let until = (director.read + count).min(self.changes.len());
        director.controller.apply(self.changes[director.read..until].iter().cloned(), NOW);
        director.read = until;
    }

    /// The former leader has stopped, and the new one reads everything before it gives.
    fn lead(&mut self, director: usize) {
        if let Some(former) = self.leader.take() {
            self.directors[former].controller.give_addresses(false, NOW);
            self.writes.clear();
        }
        self.leader = Some(director);
        self.read(director, usize::MAX / 2);
        let leader = &mut self.directors[director];
        leader.controller.give_addresses(true, NOW);
        leader.controller.touch_statuses();
        self.decide();
    }

    fn decide(&mut self) {
        let Some(leader) = self.leader else { return };
        let Director { controller, read } = &mut self.directors[leader];
        let writes = controller.take_status_writes(&PublishSettings::default());
        for write in writes {
            // Of one object the last state alone is written.
            self.writes.retain(|(known, _)| known.object != write.object);
            self.writes.push((write, *read));
        }
    }

    fn arrive(&mut self, write: StatusWrite, read: usize) -> Result<(), TestCaseError> {
        let Some((name, service)) = self.services.iter_mut().find(|(name, _)| ***name == *write.object.name) else {
            return Ok(());
        };
        // Refused: it is not any more what this was decided about.
        if write.version.as_deref() != Some(&*service.version.to_string()) {
            return Ok(());
        }
        let address = |published: Published| match published {
            Published::Ip(address) => address,
            Published::Hostname(name) => panic!("{name}"),
        };
        let shown: Vec<IpAddr> =
            write.shown.map(|shown| shown.addresses.into_iter().map(address).collect()).unwrap_or_default();
        if read > service.wished_at {
            let mut kept = service.keeps();
            // Whoever asks for this one and has it comes before who ceases to ask.
            kept.retain(|address| !(self.asked && address.to_string() == "192.0.2.1"));
            prop_assert!(kept.iter().all(|kept| shown.contains(kept)), "{name} is moved from {kept:?} to {shown:?}");
        }
        let name = *name;
        if service.shown != shown {
            service.shown = shown;
            self.publish(name);
        }
        Ok(())
    }

    /// What must hold at every moment.
    fn hold(&self) -> Result<(), TestCaseError> {
        let mut holders: BTreeMap<IpAddr, &str> = BTreeMap::new();
        for (name, service) in self.services.iter().filter(|(_, service)| service.chooses()) {
            // One that somebody asks for may be in two statuses for a moment: who asked is told.
            let asked = |address: &IpAddr| self.asked && address.to_string() == "192.0.2.1";
            for address in service.keeps().into_iter().filter(|address| !asked(address)) {
                let other = holders.insert(address, name);
                prop_assert_eq!(other, None, "{} is given to {} too", address, name);
            }
        }
        for (number, director) in self.directors.iter().enumerate() {
            for other in self.directors[number + 1..].iter().filter(|other| other.read == director.read) {
                let (one, two) = (served(director), served(other));
                // The leader withholds from those that ask what it has given and nobody has seen yet.
                let leads = [
                    self.leader == Some(number),
                    self.leader.is_some_and(|at| std::ptr::eq(&self.directors[at], other)),
                ];
                if leads == [false, false] {
                    prop_assert_eq!(one, two, "at the same moment");
                }
            }
        }
        Ok(())
    }

    /// Everything that was begun is done: all agree, nothing is written any more, and only what is not there is missing.
    fn come_to_rest(&mut self) -> Result<(), TestCaseError> {
        self.lead(self.leader.unwrap_or(0));
        for _ in 0..50 {
            while !self.writes.is_empty() {
                let (write, read) = self.writes.remove(0);
                self.arrive(write, read)?;
                self.hold()?;
            }
            (0..DIRECTORS).for_each(|director| self.read(director, usize::MAX / 2));
            self.decide();
        }
        prop_assert!(self.writes.is_empty(), "it never ends: {:?}", self.writes);
        let bound: Vec<_> = self.directors.iter().map(served).collect();
        prop_assert!(bound.iter().all(|one| *one == bound[0]), "{bound:?}");
        let pools: VipPools = POOL.parse().expect("a pool");
        let taken: BTreeSet<IpAddr> = self.services.values().flat_map(|service| service.shown.clone()).collect();
        let free = |is_v4: bool| {
            let all = ["192.0.2.0", "192.0.2.1", "192.0.2.2", "2001:db8::", "2001:db8::1"]
                .map(|text| text.parse().expect("an address"));
            assert!(all.iter().all(|address| pools.of(*address).is_some()));
            let asked = |address: &IpAddr| {
                self.services.values().any(|of| matches!(of.wish, Wish::Asks(asked) if asked == address.to_string()))
            };
            all.into_iter()
                .any(|address: IpAddr| address.is_ipv4() == is_v4 && !taken.contains(&address) && !asked(&address))
        };
        for (name, service) in &self.services {
            let has = |is_v4: bool| service.shown.iter().any(|address| address.is_ipv4() == is_v4);
            let must = match service.wish {
                Wish::V4 => has(true) || !free(true),
                Wish::V6 => has(false) || !free(false),
                Wish::Both => (has(true) || !free(true)) && (has(false) || !free(false)),
                Wish::BothOrNone => {
                    (has(true) && has(false)) || !((has(true) || free(true)) && (has(false) || free(false)))
                }
                Wish::Asks(_) => true,
                Wish::ClusterIp => service.shown.is_empty(),
            };
            prop_assert!(must, "{name} {service:?} has not what is free; {taken:?}");
            if service.chooses() {
                for address in &service.shown {
                    prop_assert!(bound[0].contains(&(*address, (*name).to_owned())), "{name} is served at {address}");
                }
            }
        }
        Ok(())
    }
}

/// Who is served at which address.
fn served(director: &Director) -> BTreeSet<(IpAddr, String)> {
    let vips = director.controller.desired().vips.iter();
    vips.flat_map(|(address, binding)| {
        let with_ports = binding.services.iter().filter(|service| !service.ports.is_empty());
        with_ports.map(|service| (*address, service.service.to_string())).collect::<Vec<_>>()
    })
    .collect()
}
