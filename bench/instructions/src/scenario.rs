//! What is counted: pieces of work on the hot paths, with inputs that are always the same. None of them knows what it is
//! expected to cost.

mod http;
mod packet;
mod route;
mod telemetry;
mod trace;

/// One row.
pub struct Scenario {
    /// `part/what`, unique.
    pub name: &'static str,
    /// Makes its inputs, and gives what does the work once.
    pub prepare: fn() -> Work,
}

/// Does the work once; false where it did not do what its name says.
pub type Work = Box<dyn FnMut() -> bool>;

/// All rows that need no sockets, in the order in which they are shown.
pub fn all() -> Vec<Scenario> {
    [packet::SCENARIOS, route::SCENARIOS, http::SCENARIOS, trace::SCENARIOS, telemetry::SCENARIOS]
        .into_iter()
        .flatten()
        .map(|(name, prepare)| Scenario { name, prepare: *prepare })
        .collect()
}

/// A row as the modules list it.
type Row = (&'static str, fn() -> Work);

/// A generator of full period stands in for chance, from the same seed each time.
#[derive(Clone, Debug)]
struct Sequence(u64);

impl Sequence {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
}
