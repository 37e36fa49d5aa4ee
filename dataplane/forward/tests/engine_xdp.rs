//! The forwarder with real programs, tables, links and sockets, in a laboratory of namespaces: L2 delivery, a process
//! that goes and comes back, the dead man, versions, and leaving nothing behind.

use aya::EbpfLoader;
use aya::maps::{MapData, MapInfo};
use sluicegate_config::{
    Kind, Method, ObjectRef, Readiness, RealServer, TransportProtocol, VipBinding, VipOptions, VipPort, VipService,
};
use sluicegate_forward::engine::Mode;
use sluicegate_forward::engine::xdp::Found;
use sluicegate_forward::fleet::{Health, ServiceKey, Standing};
use sluicegate_forward::forwarder::{ForwardMode, Forwarder, ForwarderSettings, detach};
use sluicegate_forward::netlink::NetworkWatch;
use sluicegate_forward::offload::Offload;
use sluicegate_forward::status::{EngineState, ForwarderStatus};
use sluicegate_l4::layout::map;
use sluicegate_l4::verdict::Reason;
use sluicegate_netlab::Lab;
use sluicegate_netlab::topology::{DsrLab, DsrTopology};
use sluicegate_netlab::traffic::{TcpClient, TcpEcho};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Generous: the machines of CI are slow and loaded.
const PATIENCE: Duration = Duration::from_secs(20);
const PORT: u16 = 8080;

/// A laboratory with two real servers on the link of one director, and pins of its own.
struct Site {
    lab: DsrLab,
    _servers: Vec<TcpEcho>,
    root: PathBuf,
}

impl Site {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = PathBuf::from(format!("/sys/fs/bpf/sg-engine-{}-{number}", std::process::id()));
        let lab = Lab::dsr("sg-engine", DsrTopology::default()).expect("a laboratory");
        let mut servers = Vec::new();
        for (index, backend) in lab.backends.iter().enumerate() {
            for vip in vips() {
                backend.namespace.hold_vip(vip).expect("the VIP on lo");
                let name = format!("backend{index}");
                servers.push(TcpEcho::start(&backend.namespace, &name, (vip, PORT).into()).expect("a server"));
            }
        }
        Self { lab, _servers: servers, root }
    }

    fn settings(&self) -> ForwarderSettings {
        ForwarderSettings {
            mode: ForwardMode::Xdp,
            pin_root: self.root.clone(),
            flow_sets: 1 << 10,
            sweep_interval: Duration::from_secs(1),
            ..ForwarderSettings::default()
        }
    }

    fn start(&self, settings: ForwarderSettings) -> Forwarder {
        self.lab.directors[0].namespace.run(|| Forwarder::start(settings)).expect("a forwarder")
    }

    /// A forwarder that serves both VIPs with both real servers.
    fn serve(&self, settings: ForwarderSettings) -> Forwarder {
        let mut forwarder = self.start(settings);
        let wish = forwarder.apply(&self.bindings());
        let status = wait(&forwarder, "both real servers in the ring", |status| {
            status.applied >= wish
                && standings(status).len() == 4
                && standings(status).iter().all(|s| *s == Standing::InRing)
        });
        let mut fences = forwarder.take_fences().expect("fences");
        for vip in &status.vips {
            fences.hold(vip.id.expect("an id"), Duration::from_secs(3600)).expect("the fence");
        }
        forwarder
    }

    fn bindings(&self) -> BTreeMap<IpAddr, Arc<VipBinding>> {
        let binding = |vip: IpAddr| {
            let real = |host: &sluicegate_netlab::topology::Host| RealServer {
                address: host.address_like(vip),
                weight: 1,
                readiness: Readiness::Ready,
                node: None,
                pods: None,
            };
            let mut reals: Vec<RealServer> = self.lab.backends.iter().map(real).collect();
            reals.sort();
            let ports = vec![VipPort { protocol: TransportProtocol::Tcp, port: PORT, reals }];
            let service = VipService {
                namespace: "default".into(),
                service: "echo".into(),
                method: Some(Method::L2),
                into_pods: false,
                options: VipOptions::default(),
                ports,
            };
            VipBinding {
                address: vip,
                services: vec![service],
                origin: ObjectRef::new(Kind::ConfigMap, "sluicegate-system", "vips"),
            }
        };
        vips().map(|vip| (vip, Arc::new(binding(vip)))).into()
    }

    fn connect(&self, vip: IpAddr, at_most: Duration) -> Option<TcpClient> {
        TcpClient::connect(&self.lab.clients[0].namespace, (vip, PORT).into(), at_most).ok()
    }

    /// The servers that new connections reach.
    fn reached(&self, vip: IpAddr, connections: usize) -> BTreeSet<String> {
        let connect = || self.connect(vip, PATIENCE).expect("a connection through the VIP").server().to_owned();
        (0..connections).map(|_| connect()).collect()
    }

    /// Whether any XDP program is at the director's interface.
    fn program_attached(&self) -> bool {
        self.lab.directors[0].namespace.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let watch = runtime.block_on(NetworkWatch::start()).expect("netlink");
            let link = watch.topology().link_named("eth0").expect("eth0");
            link.xdp_program.is_some()
        })
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _removed = detach(&self.root);
    }
}

fn vips() -> [IpAddr; 2] {
    [DsrLab::vip4(0).into(), DsrLab::vip6(0).into()]
}

fn standings(status: &ForwarderStatus) -> Vec<Standing> {
    let services = status.vips.iter().flat_map(|vip| &vip.services);
    services.flat_map(|service| &service.reals).map(|real| real.standing).collect()
}

fn wait(forwarder: &Forwarder, what: &str, reached: impl Fn(&ForwarderStatus) -> bool) -> Arc<ForwarderStatus> {
    let begun = Instant::now();
    loop {
        let status = forwarder.status();
        if reached(&status) {
            return status;
        }
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}; {status:#?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
#[ignore = "needs root: namespaces, loads eBPF programs"]
fn connections_outlive_the_process_and_a_new_one_writes_nothing() {
    let site = Site::new();
    let forwarder = site.serve(site.settings());
    let status = forwarder.status();
    assert_eq!(status.engine, EngineState::On(Found::Fresh));
    assert_eq!(
        status.ports.iter().map(|port| (port.name.as_str(), port.mode)).collect::<Vec<_>>(),
        [("eth0", Some(Mode::Native))]
    );
    assert!(status.failures.is_empty() && status.problems.is_empty(), "{status:#?}");
    let mut held = Vec::new();
    for vip in vips() {
        assert_eq!(site.reached(vip, 24).len(), 2, "{vip}: both real servers get connections");
        held.push(site.connect(vip, PATIENCE).expect("a connection"));
    }
    let counted = wait(&forwarder, "counters", |status| {
        let services = status.vips.iter().flat_map(|vip| &vip.services);
        services.clone().count() == 2 && services.into_iter().all(|service| service.traffic.flows >= 25)
    });
    let hits = counted.reasons.iter().find(|(reason, _)| *reason == Reason::FlowHit);
    assert!(hits.is_some_and(|(_, hits)| *hits >= 50), "{:?}", counted.reasons);
    wait(&forwarder, "flows counted by the sweep", |status| {
        let services = status.vips.iter().flat_map(|vip| &vip.services);
        services.flat_map(|service| &service.reals).all(|real| status.reading(real).established > 0)
    });

    drop(forwarder);
    for connection in &mut held {
        connection.echo(b"while nobody programs").expect("the flow goes on");
    }
    assert_eq!(site.reached(vips()[0], 24).len(), 2, "new flows too");

    let forwarder = site.start(site.settings());
    let wish = forwarder.apply(&site.bindings());
    let status = wait(&forwarder, "the wish applied", |status| status.applied >= wish && standings(status).len() == 4);
    assert_eq!(status.engine, EngineState::On(Found::Adopted { version: site.settings().version }));
    assert_eq!(status.table_writes, 0, "what is as wished is not written");
    assert_eq!(status.ports[0].mode, Some(Mode::Native));
    for connection in &mut held {
        connection.echo(b"after the new process came").expect("the flow goes on");
    }

    forwarder.detach().expect("everything removed");
    assert!(!site.root.exists(), "pins are left");
    // The kernel lets go of a link after the last of those who run through it.
    let begun = Instant::now();
    while site.program_attached() {
        assert!(begun.elapsed() < PATIENCE, "a program is left");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(site.connect(vips()[0], Duration::from_millis(500)).is_none(), "nobody forwards any more");
}

#[test]
#[ignore = "needs root: namespaces, loads eBPF programs"]
fn a_real_server_that_fails_loses_its_flows_and_a_drained_one_keeps_them() {
    let site = Site::new();
    let forwarder = site.serve(site.settings());
    let vip = vips()[0];
    let mut first = site.connect(vip, PATIENCE).expect("a connection");
    let index: usize = first.server().trim_start_matches("backend").parse().expect("a number");
    let real = site.lab.backends[index].address_like(vip);
    let other = BTreeSet::from([format!("backend{}", 1 - index)]);

    let wish = forwarder.set_drained(BTreeSet::from([real]));
    wait(&forwarder, "drained", |status| status.applied >= wish);
    assert_eq!(site.reached(vip, 12), other, "new flows go to the other one");
    first.echo(b"still here").expect("its flows stay");

    let key = ServiceKey { vip, protocol: TransportProtocol::Tcp, port: PORT };
    forwarder.set_drained(BTreeSet::new());
    let wish = forwarder.set_health(BTreeMap::from([((key, real), Health::Unhealthy("connection refused".into()))]));
    let status = wait(&forwarder, "unhealthy", |status| status.applied >= wish);
    let reals = status.vips.iter().flat_map(|vip| &vip.services).flat_map(|service| &service.reals);
    let reason = reals.clone().find(|status| status.address == real).and_then(|real| real.reason.clone());
    assert_eq!(reason.as_deref(), Some("connection refused"));
    assert_eq!(site.reached(vip, 12), other);
    assert!(first.echo(b"anyone?").is_err(), "the other one does not know the flow and resets it");

    let wish = forwarder.set_health(BTreeMap::new());
    wait(&forwarder, "healthy again", |status| status.applied >= wish);
    assert_eq!(site.reached(vip, 24).len(), 2);
}

/// Where no driver takes XDP, the kernel's generic path serves the same.
#[test]
#[ignore = "needs root: namespaces, loads eBPF programs"]
fn the_generic_path_serves_a_port() {
    let site = Site::new();
    let forwarder = site.serve(ForwarderSettings { native: false, ..site.settings() });
    let modes: Vec<_> = forwarder.status().ports.iter().map(|port| port.mode).collect();
    assert_eq!(modes, [Some(Mode::Generic)]);
    for vip in vips() {
        assert_eq!(site.reached(vip, 24).len(), 2, "{vip}");
        let mut bulk = site.connect(vip, PATIENCE).expect("a connection");
        bulk.echo(&[7; 200_000]).expect("more than one frame at a time");
    }
}

#[test]
#[ignore = "needs root: namespaces, loads eBPF programs"]
fn frames_are_seen_with_their_vlan_tags() {
    let site = Site::new();
    let director = &site.lab.directors[0].namespace;
    let strips = || director.run(|| Offload::VlanStripping.is_on("eth0")).expect("an answer");
    director.run(|| Offload::VlanStripping.switch("eth0", true)).expect("a veth can");
    assert!(strips());
    let forwarder = site.serve(site.settings());
    let begun = Instant::now();
    while strips() {
        assert!(begun.elapsed() < PATIENCE, "tags are still taken out: {:?}", forwarder.status().ports);
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A TCP segment that opens a connection to the first VIP, in a frame for this MAC address.
fn opening(mac: [u8; 6], port: u16) -> Vec<u8> {
    let mut frame = [&mac[..], &[2, 0, 0, 0, 0x77, 1, 8, 0]].concat();
    frame.extend([0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 198, 51, 100, 77]);
    frame.extend(DsrLab::vip4(0).octets());
    let sum: u32 = frame[14..34].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let sum = !sluicegate_l4::checksum::fold(sum);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame.extend(port.to_be_bytes());
    frame.extend(PORT.to_be_bytes());
    frame.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
    frame.resize(60, 0);
    frame
}

#[test]
#[ignore = "needs root: namespaces, loads eBPF programs"]
fn a_frame_that_is_flooded_for_another_machine_is_not_forwarded() {
    const FRAMES: u16 = 50;
    let site = Site::new();
    let forwarder = site.serve(site.settings());
    let director = &site.lab.directors[0].namespace;
    let own = director.mac("eth0").expect("eth0");
    let count = |status: &ForwarderStatus, wanted: Reason| {
        status.reasons.iter().find(|(reason, _)| *reason == wanted).map_or(0, |(_, packets)| *packets)
    };
    let sender = site.lab.backends[0].namespace.frame_sender("eth0").expect("a packet socket");
    for port in 0..FRAMES {
        sender.send(&opening([2, 0, 0, 0, 0x77, 2], 10_000 + port)).expect("sent");
    }
    let flooded = wait(&forwarder, "frames for nobody", |status| count(status, Reason::OtherHost) >= FRAMES.into());
    assert_eq!(count(&flooded, Reason::FlowNew), 0, "{:?}", flooded.reasons);
    for port in 0..FRAMES {
        sender.send(&opening(own, 10_000 + port)).expect("sent");
    }
    wait(&forwarder, "the same frames for the director", |status| count(status, Reason::FlowNew) == FRAMES.into());

    // The address of the port changes, and with it what is taken.
    let new = [2, 0, 0, 0, 0x77, 3];
    director.set_mac("eth0", new).expect("another MAC address");
    let begun = Instant::now();
    let mut port = 20_000;
    while count(&forwarder.status(), Reason::FlowNew) < u64::from(FRAMES) + 10 {
        assert!(begun.elapsed() < PATIENCE, "{:?}", forwarder.status().reasons);
        sender.send(&opening(new, port)).expect("sent");
        port += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
#[ignore = "needs root: namespaces, loads eBPF programs"]
fn without_renewals_the_dead_man_lets_packets_pass() {
    let site = Site::new();
    let forwarder = site.serve(ForwarderSettings { dead_man: Duration::from_secs(3), ..site.settings() });
    let vip = vips()[0];
    assert!(site.connect(vip, PATIENCE).is_some());
    drop(forwarder);
    let begun = Instant::now();
    while site.connect(vip, Duration::from_millis(300)).is_some() {
        assert!(begun.elapsed() < PATIENCE, "the tables are live without anybody");
        std::thread::sleep(Duration::from_millis(100));
    }
    let _again = site.serve(site.settings());
    assert!(site.connect(vip, PATIENCE).is_some(), "a new process brings them back to life");
}

#[test]
#[ignore = "needs root: namespaces, loads eBPF programs"]
fn versions_take_over_from_each_other_without_losing_flows() {
    let site = Site::new();
    let of = |version: u32, before: u32| ForwarderSettings { version, compatible: vec![before], ..site.settings() };
    let forwarder = site.serve(of(1, 2));
    let vip = vips()[0];
    let mut held: Vec<TcpClient> = (0..8).map(|_| site.connect(vip, PATIENCE).expect("a connection")).collect();
    drop(forwarder);
    // The first version had no second sets.
    std::fs::remove_file(site.root.join("v1").join(map::OVERFLOWS)).expect("removed");
    for (version, before) in [(2, 1), (1, 2)] {
        let forwarder = site.serve(of(version, before));
        let EngineState::On(Found::Adopted { .. }) = forwarder.status().engine else {
            panic!("{:?}", forwarder.status().engine);
        };
        for connection in &mut held {
            connection.echo(b"through an upgrade").expect("the flow goes on");
        }
        assert_eq!(site.reached(vip, 24).len(), 2);
    }
}

/// Ids in the flow table mean something in the backends that they were given for, and in no others.
#[test]
#[ignore = "needs root: namespaces, loads eBPF programs"]
fn tables_of_another_layout_are_taken_over_whole_or_not_at_all() {
    let site = Site::new();
    let of = |version: u32, before: u32| ForwarderSettings { version, compatible: vec![before], ..site.settings() };
    drop(site.serve(of(1, 2)));
    let vip = vips()[0];
    let mut held: Vec<TcpClient> = (0..8).map(|_| site.connect(vip, PATIENCE).expect("a connection")).collect();
    // Backends of another layout.
    let place = |version: u32, name: &str| site.root.join(format!("v{version}/{name}"));
    std::fs::remove_file(place(1, map::BACKENDS)).expect("removed");
    let other = MapData::from_pin(place(1, map::FENCES)).expect("a map");
    other.pin(place(1, map::BACKENDS)).expect("pinned");

    let forwarder = site.serve(of(2, 1));
    let engine = forwarder.status().engine.clone();
    let EngineState::On(Found::Replaced { reason }) = &engine else { panic!("{engine:?}") };
    assert!(reason.starts_with("BACKENDS"), "{reason}");
    let flows = |version| MapInfo::from_pin(place(version, map::FLOWS)).expect("a map").id();
    assert_ne!(flows(1), flows(2), "flows are not taken over without their backends");
    for connection in &mut held {
        connection.echo(b"by the ring").expect("equal rings find the same real server");
    }
}

/// Rows of another size, or fewer of them, under this version's own name: nothing of it is believed.
#[test]
#[ignore = "needs root: namespaces, loads eBPF programs"]
fn tables_of_a_wrong_geometry_are_made_anew() {
    let site = Site::new();
    drop(site.serve(site.settings()));
    let place = |name: &str| site.root.join(format!("v{}/{name}", sluicegate_l4::layout::VERSION));
    let identity = |name: &str| MapInfo::from_pin(place(name)).expect("a map").id();
    let few_rows = || {
        let _object = EbpfLoader::new()
            .map_max_entries(map::SERVICES, 7)
            .map_pin_path(map::SERVICES, place(map::SERVICES))
            .load(sluicegate_xdp::DIRECTOR)
            .expect("tables");
    };
    let other_rows = || {
        let other = MapData::from_pin(place(map::FENCES)).expect("a map");
        other.pin(place(map::BACKENDS)).expect("pinned");
    };
    for (name, spoil) in [(map::SERVICES, &few_rows as &dyn Fn()), (map::BACKENDS, &other_rows)] {
        std::fs::remove_file(place(name)).expect("removed");
        spoil();
        let (flows, spoiled) = (identity(map::FLOWS), identity(name));
        let forwarder = site.serve(site.settings());
        let engine = forwarder.status().engine.clone();
        let EngineState::On(Found::Replaced { reason }) = &engine else { panic!("{name}: {engine:?}") };
        assert!(reason.starts_with(name), "{reason}");
        assert_ne!(identity(name), spoiled, "{name}");
        assert_ne!(identity(map::FLOWS), flows, "{name}: all of them, because they refer to each other");
        for vip in vips() {
            assert_eq!(site.reached(vip, 24).len(), 2, "{name}: {vip}");
        }
    }
}

#[test]
#[ignore = "needs root: namespaces, loads eBPF programs"]
fn two_processes_do_not_program_the_same_tables() {
    let site = Site::new();
    let _first = site.start(site.settings());
    let second = site.lab.directors[0].namespace.run(|| Forwarder::start(site.settings()));
    let error = second.err().expect("the second one is refused").to_string();
    assert!(error.contains("another process programs the tables"), "{error}");
    let auto = ForwarderSettings { mode: ForwardMode::Auto, ..site.settings() };
    let off = site.lab.directors[0].namespace.run(|| Forwarder::start(auto)).expect("off is a state");
    assert!(matches!(&off.status().engine, EngineState::Off(reason) if reason.contains("stop it first")));
}

#[test]
#[ignore = "needs root: namespaces, loads eBPF programs"]
fn a_real_server_without_a_neighbour_is_dead_for_that_reason_until_it_answers() {
    let site = Site::new();
    let forwarder = site.serve(site.settings());
    let vip = vips()[0];
    let backend = &site.lab.backends[1];
    let real = backend.address_like(vip);
    backend.namespace.set_link("eth0", false).expect("down");
    // The kernel's cache still has it; who asks finds out.
    let silent = |status: &ForwarderStatus| {
        let mut reals = status.vips.iter().flat_map(|vip| &vip.services).flat_map(|service| &service.reals);
        reals.any(|status| {
            let silent = status.reason.as_ref().is_some_and(|reason| reason.contains("does not answer ARP"));
            status.address == real && status.standing == Standing::Dead && silent
        })
    };
    let begun = Instant::now();
    while !silent(&forwarder.status()) {
        assert!(begun.elapsed() < 3 * PATIENCE, "{:#?}", forwarder.status());
        std::thread::sleep(Duration::from_millis(50));
    }
    backend.namespace.set_link("eth0", true).expect("up");
    wait(&forwarder, "the neighbour back", |status| !silent(status) && standings(status)[1] == Standing::InRing);
}
