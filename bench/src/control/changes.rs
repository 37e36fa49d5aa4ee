//! Changes that a client sees: one after the other, and a thousand under load.

use super::fleet::{LOADED, MOVING, UPGRADED, Watched};
use super::websockets::WebSockets;
use super::{Control, EFFECT_WITHIN};
use crate::asker::{Asker, here};
use crate::http;
use crate::http::outcome::{Latency, Outcome};
use crate::http::plan::{Plan, Protocol, Target};
use crate::http::progress::Silent;
use crate::proxies::CHANGING;
use anyhow::Context as _;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Between two changes under load, however long one took: 50 a second.
const EACH: Duration = Duration::from_millis(20);
/// Of the load, in pieces of this length until the changes are over.
const PIECE: Duration = Duration::from_secs(2);

/// Seconds from a rename into the folder to the first answer that shows the change; none where it never came true.
#[derive(Debug, Default, Serialize)]
pub struct Changes {
    pub endpoint_slice: Vec<Option<f64>>,
    pub ingress: Vec<Option<f64>>,
    /// Requests of who asked that failed.
    pub failed: u64,
}

/// A thousand changes under load.
#[derive(Debug, Serialize)]
pub struct UnderLoad {
    /// As above, of the EndpointSlices among them.
    pub endpoint_slice: Vec<Option<f64>>,
    pub changes: u32,
    /// Without changes.
    pub calm: Load,
    /// With them.
    pub load: Load,
    /// Requests of who asked that failed.
    pub asker_failed: u64,
    pub websockets: u32,
    pub websockets_broken: u64,
    pub frames: u32,
}

/// What a load generator saw.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Load {
    pub answered: u64,
    /// Without an answer, or with an error's status.
    pub failed: u64,
    pub per_second: f64,
    pub latency: Latency,
}

impl Control<'_> {
    /// One after the other, EndpointSlices and Ingresses in turn, at moments that follow no rhythm.
    pub(super) fn changes(&self, watched: &Watched) -> anyhow::Result<Changes> {
        let (mut moved, mut routed) = (Asker::new(self.http(), MOVING), Asker::new(self.http(), CHANGING));
        let mut changes = Changes::default();
        for number in 0..self.size.changes {
            self.interrupt.check()?;
            // 20 to 80 ms, prime to what else goes on.
            thread::sleep(Duration::from_micros(20_000 + u64::from(number) * 16_787 % 60_000));
            let turn = number / 2 % 2 == 0;
            if number % 2 == 0 {
                let answer = if turn { 'B' } else { 'A' };
                let since = watched.endpoints("moving", answer)?;
                changes.endpoint_slice.push(seconds(moved.until(&answer.to_string(), since, EFFECT_WITHIN)));
            } else {
                // It begins with B.
                let answer = if turn { 'A' } else { 'B' };
                let since = watched.route(answer)?;
                changes.ingress.push(seconds(routed.until(&answer.to_string(), since, EFFECT_WITHIN)));
            }
        }
        changes.failed = moved.failures + routed.failures;
        Ok(changes)
    }

    /// Changes of every kind, of the loaded host too, while 64 connections ask as fast as they are answered and WebSockets talk.
    pub(super) fn under_load(&self, watched: &Watched) -> anyhow::Result<UnderLoad> {
        let (calm, ()) = loaded(self.http(), LOADED, || {
            thread::sleep(2 * PIECE);
            Ok(())
        })?;
        let mut websockets = WebSockets::open(self.http(), UPGRADED, self.size.websockets)?;
        let mut asker = Asker::new(self.http(), MOVING);
        let mut effects = Vec::new();
        let (load, ()) = loaded(self.http(), LOADED, || {
            let begun = Instant::now();
            for number in 0..self.size.under_load {
                self.interrupt.check()?;
                let answer = if number / 5 % 2 == 0 { 'B' } else { 'A' };
                match number % 5 {
                    0 => {
                        let since = watched.endpoints("moving", answer)?;
                        effects.push(seconds(asker.until(&answer.to_string(), since, EFFECT_WITHIN)));
                    }
                    1 => drop(watched.endpoints("load", answer)?),
                    2 => drop(watched.load_route(if answer == 'A' { "load" } else { "b" })?),
                    3 => drop(watched.upgrade_endpoints(answer == 'B')?),
                    _ => drop(watched.route(answer)?),
                }
                if number % 25 == 0 {
                    websockets.talk();
                }
                thread::sleep((EACH * (number + 1)).saturating_sub(begun.elapsed()));
            }
            Ok(())
        })?;
        websockets.talk();
        eprintln!(
            "under load: {} of {} requests failed, {} of {} WebSockets broke",
            load.failed, load.answered, websockets.broken, self.size.websockets
        );
        Ok(UnderLoad {
            endpoint_slice: effects,
            changes: self.size.under_load,
            calm,
            load,
            asker_failed: asker.failures,
            websockets: self.size.websockets,
            websockets_broken: websockets.broken,
            frames: websockets.rounds,
        })
    }
}

/// Seconds, as they are written.
pub fn seconds(time: Option<Duration>) -> Option<f64> {
    time.map(|time| time.as_secs_f64())
}

/// Does something while 64 connections ask for a host as fast as they are answered. The load outlasts the work.
pub fn loaded<T>(port: u16, host: &str, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(Load, T)> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let loader = scope.spawn(|| {
            let mut total = Total::new()?;
            while !over.load(Ordering::Relaxed) {
                total.add(&http::run(&plan(port, host), &Silent)?)?;
            }
            Ok::<_, anyhow::Error>(total.load())
        });
        // Connections are there by then.
        thread::sleep(PIECE / 4);
        let done = work();
        over.store(true, Ordering::Relaxed);
        let load = loader.join().map_err(|_| anyhow::anyhow!("the load generator panicked"))?;
        Ok((load.context("the load")?, done?))
    })
}

fn plan(port: u16, host: &str) -> Plan {
    let target = Target { method: "GET".to_owned(), tls: false, authority: host.to_owned(), path: "/".to_owned() };
    Plan {
        connect: Some(here(port)),
        warm_up: Duration::ZERO,
        duration: Some(PIECE),
        timeout: Duration::from_secs(10),
        ceiling: false,
        ..Plan::new(Protocol::Http1, vec![target])
    }
}

/// Of all pieces.
struct Total {
    load: Load,
    seconds: f64,
    histogram: Histogram<u64>,
}

impl Total {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { load: Load::default(), seconds: 0.0, histogram: Histogram::new(3)? })
    }

    fn add(&mut self, outcome: &Outcome) -> anyhow::Result<()> {
        self.load.answered += outcome.answered;
        self.load.failed += outcome.failed + outcome.refused();
        self.seconds += outcome.seconds;
        if let Some(histogram) = &outcome.histogram {
            self.histogram.add(histogram)?;
        }
        Ok(())
    }

    fn load(self) -> Load {
        let per_second = self.load.answered as f64 / self.seconds.max(1e-9);
        Load { per_second, latency: Latency::of(&self.histogram), ..self.load }
    }
}
