//! What became of the flows.

use serde::Serialize;
use std::fmt::Write as _;

/// One event.
#[derive(Debug, Serialize)]
pub struct Event {
    pub event: &'static str,
    /// From the beginning of the event until the tables were as wished.
    pub took_ms: f64,
    /// Flows that must stay.
    pub flows: usize,
    /// Of these, flows that got another real server, or none.
    pub moved: usize,
    /// Flows whose slot says another real server: they would have moved without the flow table.
    pub by_ring_alone: usize,
    /// Connections of real sockets that must stay.
    pub connections: usize,
    /// Of these, those that broke.
    pub broken: usize,
}

/// All events.
#[derive(Debug, Serialize)]
pub struct Report {
    kernel: String,
    flows: u32,
    connections: u32,
    events: Vec<Event>,
}

impl Report {
    /// An empty one about this machine.
    pub fn new(flows: u32, connections: u32) -> Self {
        let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        Self { kernel, flows, connections, events: Vec::new() }
    }

    /// One more event.
    pub fn add(&mut self, event: Event) {
        self.events.push(event);
    }

    /// Events that moved or broke what must stay.
    pub fn missed(&self) -> usize {
        self.events.iter().filter(|event| event.moved + event.broken > 0).count()
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut text = format!(
            "Linux {}; {} flows and {} connections; what had to go is not counted\n\n{:<50} {:>8} {:>7} {:>11} {:>12} {:>7} {:>9}\n",
            self.kernel,
            self.flows,
            self.connections,
            "event",
            "flows",
            "moved",
            "ring alone",
            "connections",
            "broken",
            "took ms"
        );
        for one in &self.events {
            // Writing to a String does not fail.
            let _ok = writeln!(
                text,
                "{:<50} {:>8} {:>7} {:>11} {:>12} {:>7} {:>9.1}",
                one.event, one.flows, one.moved, one.by_ring_alone, one.connections, one.broken, one.took_ms
            );
        }
        text
    }
}
