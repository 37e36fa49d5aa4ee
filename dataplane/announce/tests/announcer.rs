//! Announcers that talk to each other through real sockets on loopback.

use sluicegate_announce::{
    AnnounceSettings, Announcer, DirectorId, FenceError, FenceSink, Fitness, Moment, OnIsolation, Secret, Timing,
};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Generous, for machines that do other things as well.
const PATIENCE: Duration = Duration::from_secs(30);

/// Stands for the table in the kernel: it outlives the announcer.
#[derive(Clone, Default)]
struct Table(Arc<Mutex<BTreeMap<IpAddr, Moment>>>);

impl FenceSink for Table {
    fn set_fence(&mut self, vip: IpAddr, until: Moment) -> Result<(), FenceError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(vip, until);
        Ok(())
    }
}

impl Table {
    fn answers(&self, vip: IpAddr) -> bool {
        let fences = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        fences.get(&vip).is_some_and(|until| Moment::now() < *until)
    }
}

struct Cluster {
    addresses: BTreeMap<DirectorId, SocketAddr>,
    tables: BTreeMap<DirectorId, Table>,
    running: BTreeMap<DirectorId, Announcer>,
    vips: Vec<IpAddr>,
}

impl Cluster {
    fn new(directors: usize) -> Self {
        // All are open at once, so that no two are the same.
        let ports: Vec<TcpListener> =
            (0..directors).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        let address = |port: &TcpListener| port.local_addr().expect("an address");
        let id = |number: usize| DirectorId::new(&format!("director-{number}")).expect("a name");
        let addresses: BTreeMap<_, _> =
            ports.iter().enumerate().map(|(number, port)| (id(number), address(port))).collect();
        let tables = addresses.keys().map(|id| (id.clone(), Table::default())).collect();
        let vips = (0..6).map(|number| IpAddr::from(Ipv4Addr::new(192, 0, 2, 10 + number))).collect();
        Self { addresses, tables, running: BTreeMap::new(), vips }
    }

    fn ids(&self) -> Vec<DirectorId> {
        self.addresses.keys().cloned().collect()
    }

    fn start_with(&mut self, id: &DirectorId, secret: &[u8]) {
        let others = self.addresses.iter().filter(|(other, _)| *other != id);
        let settings = AnnounceSettings {
            me: id.clone(),
            peers: others.map(|(other, address)| (other.clone(), vec![*address])).collect(),
            joins: None,
            listen: vec![self.addresses[id]],
            secret: Secret::new(secret).expect("a secret"),
            ports: Vec::new(),
            timing: Timing::default(),
            failback: false,
            on_isolation: OnIsolation::Release,
        };
        let announcer = Announcer::start(settings, self.tables[id].clone()).expect("an announcer");
        announcer.set_fitness(Fitness::FIT);
        announcer.set_vips(self.vips.iter().map(|vip| (*vip, true)).collect());
        self.running.insert(id.clone(), announcer);
    }

    fn start(&mut self, id: &DirectorId) {
        self.start_with(id, &[7; 32]);
    }

    fn started(directors: usize) -> Self {
        let mut cluster = Self::new(directors);
        cluster.ids().iter().for_each(|id| cluster.start(id));
        cluster.wait("all VIPs to be served", Cluster::all_served);
        cluster
    }

    fn owners(&self, vip: IpAddr) -> Vec<&DirectorId> {
        self.tables.iter().filter(|(_, table)| table.answers(vip)).map(|(id, _)| id).collect()
    }

    fn all_served(&self) -> bool {
        self.vips.iter().all(|vip| !self.owners(*vip).is_empty())
    }

    /// Until it is so; meanwhile no VIP may have two owners. How long it took.
    fn wait(&self, what: &str, is_so: impl Fn(&Self) -> bool) -> Duration {
        let start = Instant::now();
        while !is_so(self) {
            self.assert_one_owner();
            assert!(start.elapsed() < PATIENCE, "waited for {what}: {:#?}", self.statuses());
            thread::sleep(Duration::from_millis(2));
        }
        start.elapsed()
    }

    fn assert_one_owner(&self) {
        for vip in &self.vips {
            let owners = self.owners(*vip);
            assert!(owners.len() <= 1, "{vip} is owned by {owners:?}");
        }
    }

    fn statuses(&self) -> Vec<sluicegate_announce::Status> {
        self.running.values().map(Announcer::status).collect()
    }
}

#[test]
fn a_director_alone_owns_everything_at_once() {
    let cluster = Cluster::started(1);
    let status = cluster.statuses().remove(0);
    assert_eq!(status.take_overs, 6);
    assert!(status.vips.iter().all(|vip| vip.owner.as_ref() == Some(&status.me)));
}

#[test]
fn vips_are_spread_and_survive_a_death() {
    for directors in [2, 3] {
        let mut cluster = Cluster::started(directors);
        let ids = cluster.ids();
        let owners: Vec<DirectorId> = cluster.vips.iter().map(|vip| cluster.owners(*vip)[0].clone()).collect();
        assert!(ids.iter().filter(|id| owners.contains(id)).count() > 1, "one holds all: {owners:?}");
        // Dropped without a release: its sockets close, its fences stay.
        drop(cluster.running.remove(&ids[0]));
        let took = cluster.wait("the survivors to take over", |cluster| {
            cluster.vips.iter().all(|vip| cluster.owners(*vip).iter().any(|owner| **owner != ids[0]))
        });
        assert!(took >= Duration::from_millis(300), "before the fence ran out: {took:?}");
        assert!(took < Duration::from_millis(2_900), "not by the lease alone: {took:?}");
        cluster.start(&ids[0]);
        cluster.wait("the dead one to be heard again", |cluster| {
            let status = cluster.running[&ids[1]].status();
            status.peers.iter().any(|peer| peer.id == ids[0] && peer.present)
        });
        cluster.wait("all VIPs to be served", Cluster::all_served);
    }
}

#[test]
fn directors_that_start_together_share_though_one_is_able_first() {
    let mut cluster = Cluster::new(2);
    let ids = cluster.ids();
    cluster.start(&ids[0]);
    cluster.start(&ids[1]);
    let unable = cluster.vips.iter().map(|vip| (*vip, false)).collect();
    cluster.running[&ids[1]].set_vips(unable);
    cluster.wait("they have met", |cluster| cluster.running[&ids[0]].status().peers.iter().all(|peer| peer.present));
    thread::sleep(Duration::from_millis(500));
    let able = cluster.vips.iter().map(|vip| (*vip, true)).collect();
    cluster.running[&ids[1]].set_vips(able);
    cluster.wait("all VIPs to be served", Cluster::all_served);
    for id in &ids {
        assert!(cluster.vips.iter().any(|vip| cluster.owners(*vip) == [id]), "{id} holds some");
    }
}

#[test]
fn a_release_hands_over() {
    let mut cluster = Cluster::started(3);
    let ids = cluster.ids();
    let leaving = cluster.running.remove(&ids[1]).expect("running");
    assert!(leaving.release(PATIENCE), "all peers hear of it");
    assert!(cluster.vips.iter().all(|vip| !cluster.tables[&ids[1]].answers(*vip)), "its fences have ended");
    cluster.wait("the others to take over", Cluster::all_served);
    drop(leaving);
    cluster.wait("all VIPs to be served", Cluster::all_served);
}

#[test]
fn a_stranger_gets_no_vote() {
    let mut cluster = Cluster::new(3);
    let ids = cluster.ids();
    cluster.start(&ids[0]);
    cluster.start(&ids[1]);
    cluster.start_with(&ids[2], &[8; 32]);
    cluster.wait("two to serve all", Cluster::all_served);
    assert!(cluster.vips.iter().all(|vip| !cluster.tables[&ids[2]].answers(*vip)));
    let status = cluster.running[&ids[0]].status();
    assert!(status.peers.iter().all(|peer| peer.id != ids[2] || !peer.present), "{status:?}");
}

#[test]
fn a_cordoned_director_gives_up_and_goes_on_voting() {
    let cluster = Cluster::started(3);
    let ids = cluster.ids();
    cluster.running[&ids[0]].set_fitness(Fitness { cordoned: true, ..Fitness::FIT });
    cluster.wait("the others to serve all", |cluster| {
        cluster.all_served() && cluster.vips.iter().all(|vip| !cluster.tables[&ids[0]].answers(*vip))
    });
    let status = cluster.running[&ids[1]].status();
    assert!(status.peers.iter().any(|peer| peer.id == ids[0] && peer.present && !peer.fit), "{status:?}");
}
