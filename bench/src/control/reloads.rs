//! The same change with a proxy that reads its configuration anew: a file is rewritten, and a signal sent.

use super::changes::{Load, loaded, seconds};
use super::fleet::Ports;
use super::{Control, EFFECT_WITHIN};
use crate::accounting;
use crate::asker::{Asker, ask_once};
use crate::certificate::HOST;
use crate::daemon::Daemon;
use crate::proxies::{CHANGING, Kind, Proxy, Routes};
use rustix::process::Signal;
use serde::Serialize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// Between two reloads: old workers end.
const PAUSE: Duration = Duration::from_secs(1);

/// One peer.
#[derive(Debug, Serialize)]
pub struct Reloads {
    pub name: String,
    pub vhosts: u32,
    /// Seconds from the rename of the configuration to the first answer that shows the change.
    pub effects: Vec<Option<f64>>,
    /// The same under load.
    pub effects_under_load: Vec<Option<f64>>,
    /// During the reloads under load.
    pub load: Load,
    /// Requests of who asked that failed.
    pub asker_failed: u64,
    /// Bytes of all processes before the first reload, and at most.
    pub resident: u64,
    pub peak: u64,
}

impl Control<'_> {
    /// nginx and HAProxy, one after the other.
    pub(super) fn reloads(&mut self) -> anyhow::Result<Vec<Reloads>> {
        let mut all = Vec::new();
        if self.size.reloads == 0 {
            self.notes.push("reloads of nginx and HAProxy were left out (--reloads 0)".to_owned());
            return Ok(all);
        }
        for kind in [Kind::Nginx, Kind::Haproxy] {
            self.interrupt.check()?;
            match self.peer(kind) {
                None => {
                    self.notes.push(format!("{} is not in this run: not installed ({})", kind.name(), kind.remedy()))
                }
                Some(proxy) => match Reloaded::start(self, proxy.reloadable()) {
                    Ok(mut reloaded) => all.push(reloaded.measure()?),
                    Err(why) => self.notes.push(format!("{} is not in this run: {why:#}", kind.name())),
                },
            }
        }
        Ok(all)
    }
}

/// A peer that is told to reload.
struct Reloaded<'a, 'b> {
    control: &'a Control<'b>,
    proxy: Proxy,
    daemon: Daemon,
    folder: PathBuf,
    asker: Asker,
    /// What the next reload leads to: each leads to the other.
    next: char,
}

impl<'a, 'b> Reloaded<'a, 'b> {
    fn start(control: &'a Control<'b>, proxy: Proxy) -> anyhow::Result<Self> {
        eprintln!("{}: {} virtual hosts", proxy.kind.name(), control.size.vhosts);
        let folder = control.folder.path().join(proxy.kind.program());
        let routes = routes(control, 'A');
        proxy.write(&folder, &routes, &control.certificate)?;
        let mut daemon = proxy.start(&folder, &routes, &control.placement)?;
        let port = proxy.ports.http;
        if !daemon.wait_until(Duration::from_secs(120), || {
            ask_once(port, CHANGING, "/").is_ok_and(|answer| answer.status == 200)
        }) {
            anyhow::bail!("it does not serve: {}", daemon.complaint());
        }
        // A master serves before it takes signals.
        thread::sleep(PAUSE);
        let asker = Asker::new(port, CHANGING);
        Ok(Self { control, proxy, daemon, folder, asker, next: 'B' })
    }

    fn measure(&mut self) -> anyhow::Result<Reloads> {
        let count = self.control.size.reloads;
        let resident = self.daemon.memory().now;
        let (first, peak, over) = (self.daemon.id(), AtomicU64::new(resident), AtomicBool::new(false));
        let measured = thread::scope(|scope| {
            scope.spawn(|| {
                // Old workers live on beside new ones.
                while !over.load(Ordering::Relaxed) {
                    peak.fetch_max(accounting::resident(&accounting::tree(first)).now, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(100));
                }
            });
            let measured = self.both(count);
            over.store(true, Ordering::Relaxed);
            measured
        });
        let (effects, (load, effects_under_load)) = measured?;
        let name = self.proxy.kind.name();
        eprintln!("{name}: {} of {} requests failed in {count} reloads", load.failed, load.answered);
        Ok(Reloads {
            name: name.to_owned(),
            vhosts: self.control.size.vhosts,
            effects,
            effects_under_load,
            load,
            asker_failed: self.asker.failures,
            resident,
            peak: peak.into_inner(),
        })
    }

    #[allow(clippy::type_complexity, reason = "two lists of times and what came between")]
    fn both(&mut self, count: u32) -> anyhow::Result<(Vec<Option<f64>>, (Load, Vec<Option<f64>>))> {
        let calm = self.times(count)?;
        self.asker.failures = 0;
        let port = self.proxy.ports.http;
        let loaded = loaded(port, HOST, || self.times(count))?;
        Ok((calm, loaded))
    }

    fn times(&mut self, count: u32) -> anyhow::Result<Vec<Option<f64>>> {
        (0..count)
            .map(|_| {
                self.control.interrupt.check()?;
                let took = self.reload(self.next)?;
                self.next = if self.next == 'A' { 'B' } else { 'A' };
                thread::sleep(PAUSE);
                Ok(took)
            })
            .collect()
    }

    fn reload(&mut self, answer: char) -> anyhow::Result<Option<f64>> {
        let routes = routes(self.control, answer);
        let files = self.proxy.configuration(&self.folder, &routes, &self.control.certificate);
        let mut since = None;
        for (name, text) in files {
            since = Some(crate::manifests::replace(&self.folder.join(name), &text)?);
        }
        self.daemon.signal(if self.proxy.kind == Kind::Nginx { Signal::HUP } else { Signal::USR2 })?;
        let since = since.ok_or_else(|| anyhow::anyhow!("{} has no configuration", self.proxy.kind.name()))?;
        Ok(seconds(self.asker.until(&answer.to_string(), since, EFFECT_WITHIN)))
    }
}

fn routes(control: &Control<'_>, answer: char) -> Routes {
    let ports = Ports::from(control.arguments.port);
    Routes {
        hosts: Routes::hosts(control.size.vhosts as usize),
        upstream: ports.usual,
        upstream_tls: ports.usual,
        changing: if answer == 'A' { ports.a } else { ports.b },
    }
}
