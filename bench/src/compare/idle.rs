//! Memory of kept connections on which nothing happens: each was used once, then all rest.

use super::{Bench, checks};
use crate::asker::{Trust, ask, connect};
use crate::certificate::HOST;
use crate::daemon::Daemon;
use crate::proxies::{Kind, Proxy};
use rustls::{ClientConnection, StreamOwned};
use serde::Serialize;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

/// How many connections are held.
pub const COUNTS: [usize; 2] = [1000, 10_000];
/// In this time a proxy may give buffers back.
const SETTLE: Duration = Duration::from_secs(3);
/// What the first connections make a proxy allocate once is no cost of a connection.
const FIRST: usize = 100;

/// One contestant with so many connections.
#[derive(Clone, Debug, Serialize)]
pub struct Idle {
    pub contestant: String,
    pub own: bool,
    pub tls: bool,
    pub connections: usize,
    /// Bytes of resident memory for each.
    pub each: Option<f64>,
    /// Why there is nothing.
    pub why_not: Option<String>,
}

impl Bench<'_> {
    /// Once for each: memory does not depend on what else runs. New processes, so that nothing is left from before.
    pub(super) fn measure_idle(&mut self, ready: &mut [(Proxy, Daemon)]) -> anyhow::Result<()> {
        let trust = Trust::new(&self.certificate.chain)?;
        for (proxy, daemon) in ready.iter_mut().filter(|(proxy, _)| Kind::NAMED.contains(&proxy.kind)) {
            for (tls, connections) in [false, true].into_iter().flat_map(|tls| COUNTS.map(|count| (tls, count))) {
                self.interrupt.check()?;
                let folder = self.folder_of(proxy, false);
                // Its ports are free only when it is gone.
                daemon.end();
                *daemon = proxy.start(&folder, &super::routes(self.arguments, 0), &self.placement)?;
                let outcome = if daemon
                    .wait_until(super::turns::READY_WITHIN, || checks::serves(proxy.ports.http, HOST))
                {
                    hold(daemon, proxy, tls, FIRST, &trust).and_then(|_| hold(daemon, proxy, tls, connections, &trust))
                } else {
                    Err(anyhow::anyhow!("it did not start again: {}", daemon.complaint()))
                };
                let kind = if tls { "TLS" } else { "plain" };
                match &outcome {
                    Ok(each) => {
                        eprintln!("idle {:10} {connections} {kind}: {:.2} KiB each", proxy.kind.name(), each / 1024.0)
                    }
                    Err(why) => eprintln!("idle {:10} {connections} {kind}: {why:#}", proxy.kind.name()),
                }
                self.measured.idle.push(Idle {
                    contestant: proxy.kind.name().to_owned(),
                    own: proxy.kind == Kind::Sluicegate,
                    tls,
                    connections,
                    why_not: outcome.as_ref().err().map(|why| format!("{why:#}")),
                    each: outcome.ok(),
                });
            }
        }
        Ok(())
    }
}

/// Bytes for each connection.
fn hold(daemon: &Daemon, proxy: &Proxy, tls: bool, count: usize, trust: &Trust) -> anyhow::Result<f64> {
    let before = daemon.memory().now;
    let mut kept = Vec::with_capacity(count);
    for number in 0..count {
        let mut one =
            Kept::open(proxy, tls, trust).map_err(|error| error.context(format!("connection {}", number + 1)))?;
        let answer = one.ask().map_err(|error| error.context(format!("connection {}", number + 1)))?;
        anyhow::ensure!(answer == 200, "connection {}: an answer {answer}", number + 1);
        kept.push(one);
    }
    thread::sleep(SETTLE);
    let after = daemon.memory().now;
    let closed = kept.iter().filter(|one| !one.is_open()).count();
    anyhow::ensure!(closed == 0, "{closed} of {count} connections were closed");
    Ok((after as f64 - before as f64) / count as f64)
}

enum Kept {
    Plain(TcpStream),
    // Thousands of them lie in one list.
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Kept {
    fn open(proxy: &Proxy, tls: bool, trust: &Trust) -> anyhow::Result<Self> {
        Ok(match tls {
            true => Self::Tls(Box::new(trust.connect(proxy.ports.https, HOST, "http/1.1")?)),
            false => Self::Plain(connect(proxy.ports.http)?),
        })
    }

    fn ask(&mut self) -> anyhow::Result<u16> {
        let answer = match self {
            Self::Plain(stream) => ask(stream, HOST, "/"),
            Self::Tls(stream) => ask(stream.as_mut(), HOST, "/"),
        }?;
        anyhow::ensure!(!answer.last, "it is not kept");
        Ok(answer.status)
    }

    /// A ticket may wait to be read; the end may not.
    fn is_open(&self) -> bool {
        let stream = match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => &stream.sock,
        };
        let look = || {
            stream.set_nonblocking(true)?;
            stream.peek(&mut [0])
        };
        match look() {
            Ok(length) => length > 0,
            Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
        }
    }
}
