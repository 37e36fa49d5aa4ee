//! What became of the flows.

use super::programmer::Engine;
use crate::report::{Cell, Column, Figure, Machine, Note, Report, Section, Table, Unit};
use serde::Serialize;

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

/// All events, as `-o json` prints them.
#[derive(Debug, Serialize)]
pub struct Events {
    kernel: String,
    flows: u32,
    connections: u32,
    events: Vec<Event>,
}

/// A report without events, of this moment.
pub fn begin(engine: Engine) -> Report {
    let said = if engine == Engine::Xdp { "XDP" } else { "AF_PACKET" };
    Report::new(name(engine), &format!("Flow integrity, {said}"))
}

/// Name of the reports of an engine.
pub const fn name(engine: Engine) -> &'static str {
    match engine {
        Engine::Xdp => "flows",
        Engine::Packet => "flows-packet",
    }
}

impl Events {
    /// None yet.
    pub fn new(machine: &Machine, flows: u32, connections: u32) -> Self {
        let kernel = machine.kernel.clone();
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

    /// Puts them into a report.
    pub fn fill(&self, report: &mut Report) {
        let mut section = Section::new("");
        section.notes.push(Note::new(format!(
            "{} established flows and {} connections of real sockets; what had to go with its real server is not counted. `ring alone`: \
             flows that would have moved without the flow table. `took`: until the tables were as wished.",
            Unit::Count.number(f64::from(self.flows)),
            Unit::Count.number(f64::from(self.connections))
        )));
        let columns = ["event", "flows", "moved", "ring alone", "connections", "broken"].map(Column::new);
        let mut table = Table::new("", columns.into());
        table.columns.push(Column::of("took", Unit::Milliseconds));
        for one in &self.events {
            let count = |things: usize| Figure::count(things as u64);
            let mut row: Vec<Cell> = vec![one.event.into(), count(one.flows).into()];
            row.extend([count(one.moved).at_most(0.0).into(), count(one.by_ring_alone).into()]);
            row.extend([count(one.connections).into(), count(one.broken).at_most(0.0).into()]);
            row.push(match one.took_ms {
                0.0 => Cell::Missing(String::new()),
                took => Figure::exact(Unit::Milliseconds, took).into(),
            });
            table.row(row);
        }
        section.tables.push(table);
        report.sections.push(section);
    }
}
