//! What is asked of every contestant.

use crate::asker::here;
use crate::certificate::HOST;
use crate::http::plan::{Handshake, Order, Pace, Plan, Protocol, Target, Trust};
use crate::proxies::{Proxy, THROUGH};
use std::path::Path;
use std::time::Duration;

/// Virtual hosts of the scenario with many.
pub const VHOSTS: usize = 5000;
/// Of the schedule at a fixed rate: every contestant gets the same one.
const SEED: u64 = 7;

/// One row of the report.
#[derive(Debug)]
pub struct Scenario {
    /// How it is asked for.
    pub key: &'static str,
    /// For people.
    pub title: &'static str,
    /// Who takes part.
    pub field: Field,
    /// With 5,000 virtual hosts, each asked in turn.
    pub vhosts: bool,
    /// CPU per request to reach, as a share of the best peer's.
    pub goal: Option<f64>,
    protocol: Protocol,
    tls: bool,
    path: &'static str,
    length: Option<u64>,
    connections: usize,
    streams: usize,
}

/// Who takes part in a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The proxies, in what they are there for.
    Proxies,
    /// Those that pass TLS on as it is, and a bare relay.
    Passing,
    /// Sluicegate with and without trace context.
    Tracing,
}

const PLAIN: Scenario = Scenario {
    key: "s1",
    title: "small, HTTP/1.1 keep-alive",
    field: Field::Proxies,
    vhosts: false,
    goal: Some(0.85),
    protocol: Protocol::Http1,
    tls: false,
    path: "/",
    length: Some(128),
    connections: 64,
    streams: 1,
};

/// In the order of the report.
pub static SCENARIOS: [Scenario; 11] = [
    PLAIN,
    Scenario { key: "s2", title: "small, HTTP/1.1 keep-alive over TLS 1.3", tls: true, ..PLAIN },
    Scenario {
        key: "s3",
        title: "full TLS 1.3 handshakes",
        protocol: Protocol::Handshake(Handshake::Full),
        tls: true,
        length: None,
        connections: 4,
        ..PLAIN
    },
    Scenario {
        key: "s4",
        title: "small, HTTP/2 over TLS 1.3 → HTTP/1.1",
        protocol: Protocol::Http2,
        tls: true,
        connections: 8,
        streams: 32,
        ..PLAIN
    },
    Scenario { key: "s5", title: "64 KiB, HTTP/1.1", path: "/static/64k", length: Some(64 << 10), ..PLAIN },
    Scenario {
        key: "s6",
        title: "1 MiB, HTTP/1.1 over TLS 1.3",
        tls: true,
        path: "/static/1m",
        length: Some(1 << 20),
        connections: 16,
        ..PLAIN
    },
    Scenario {
        key: "s6p",
        title: "1 MiB, HTTP/1.1",
        path: "/static/1m",
        length: Some(1 << 20),
        connections: 16,
        ..PLAIN
    },
    Scenario {
        key: "tcp",
        title: "TLS passed on by its server name, 64 KiB",
        field: Field::Passing,
        goal: Some(1.1),
        tls: true,
        path: "/static/64k",
        length: Some(64 << 10),
        connections: 16,
        ..PLAIN
    },
    Scenario {
        key: "tcp1m",
        title: "TLS passed on by its server name, 1 MiB",
        field: Field::Passing,
        goal: Some(1.1),
        tls: true,
        path: "/static/1m",
        length: Some(1 << 20),
        connections: 16,
        ..PLAIN
    },
    Scenario { key: "trace", title: "s1 with and without trace context", field: Field::Tracing, goal: None, ..PLAIN },
    Scenario { key: "s7", title: "small, HTTP/1.1, 5,000 virtual hosts in turn", vhosts: true, ..PLAIN },
];

/// What `--quick` measures.
pub const USUAL: [&str; 5] = ["s1", "s2", "s4", "s5", "s7"];

impl Scenario {
    /// What the load generator does in one turn.
    pub fn plan(&self, proxy: &Proxy, certificate: &Path, core: usize, time: Duration) -> Plan {
        let (host, port) = match (self.field, self.tls) {
            (Field::Passing, _) => (THROUGH, proxy.through()),
            (_, true) => (HOST, proxy.ports.https),
            (_, false) => (HOST, proxy.ports.http),
        };
        let target = |host: &str| Target {
            method: "GET".to_owned(),
            tls: self.tls,
            authority: host.to_owned(),
            path: self.path.to_owned(),
        };
        let targets = match self.vhosts {
            false => vec![target(host)],
            // A stride that is prime to the count: neighbours in time are no neighbours in a sorted table.
            true => (0..VHOSTS).map(|at| target(&format!("h{}.{HOST}", at * 1777 % VHOSTS))).collect(),
        };
        Plan {
            order: Order::InTurn,
            connect: Some(here(port)),
            server_name: Some(host.to_owned()),
            trust: Trust::File(certificate.to_owned()),
            expect_length: self.length,
            connections: self.connections,
            streams: self.streams,
            // A turn that is not counted comes first.
            warm_up: Duration::ZERO,
            duration: Some(time),
            cpus: vec![core],
            ceiling: false,
            ..Plan::new(self.protocol, targets)
        }
    }

    /// What is counted.
    pub fn unit(&self) -> &'static str {
        self.protocol.unit()
    }
}

/// Small answers over HTTP/1.1 at a fixed rate, arrivals that do not know of each other.
pub fn fixed_rate(port: u16, core: usize, rate: f64, time: Duration) -> Plan {
    let target = Target { method: "GET".to_owned(), tls: false, authority: HOST.to_owned(), path: "/".to_owned() };
    Plan {
        connect: Some(here(port)),
        expect_length: Some(128),
        pace: Pace::Poisson { rate, seed: SEED },
        warm_up: Duration::ZERO,
        duration: Some(time),
        cpus: vec![core],
        ceiling: false,
        ..Plan::new(Protocol::Http1, vec![target])
    }
}
