//! Sampled packets for who watches: one thread reads the engine's queue while somebody does, and gives each reader what it
//! asked for. A reader that is too slow loses packets, which are counted; nobody waits for it.
//!
//! Sampling costs the packet path something, so it is off while there is no reader: the thread looks whether they are
//! still there ten times a second.

use crate::dissect::Dissection;
use crate::engine::Samples;
use crate::stats::Outcome;
use crate::status::ForwarderStatus;
use crate::tap::Sample;
use sluicegate_l4::verdict::Reason;
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Readers at a time.
pub const MOST_READERS: usize = 4;
/// Packets that wait for a reader; one more is lost to it.
const QUEUE: usize = 1024;
/// From one look whether readers are still there to the next.
const LOOK: Duration = Duration::from_millis(100);

/// What a reader wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection {
    /// One packet of so many, at least 1.
    pub every: u32,
    /// Packets to this address alone.
    pub vip: Option<IpAddr>,
    /// Also packets that are for no VIP, or for another machine.
    pub all: bool,
}

impl Selection {
    fn takes(&self, sample: &Sample) -> bool {
        let foreign = matches!(sample.reason, Some(Reason::NotIp | Reason::NotVip | Reason::OtherHost));
        let destination = || Dissection::of(&sample.frame).and_then(|frame| frame.destination());
        (self.all || !foreign) && self.vip.is_none_or(|vip| destination() == Some(vip))
    }
}

/// A packet, with the names of what it met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tapped {
    /// The packet.
    pub sample: Sample,
    /// Name of the interface that it came in by.
    pub interface: String,
    /// What became of it.
    pub outcome: Option<Outcome>,
    /// `192.0.2.10:80/TCP shop/web`.
    pub service: Option<String>,
    /// Where it went.
    pub real_server: Option<IpAddr>,
}

/// Why there is nothing to read.
#[derive(Debug, thiserror::Error)]
pub enum NoTap {
    /// The engine is off.
    #[error("no packets are forwarded here; `sluicegate vips` and the log say why")]
    Off,
    /// Others read.
    #[error("{MOST_READERS} readers are there already: end one of them first")]
    TooMany,
    /// The queue cannot be opened.
    #[error("the samples cannot be read: {0}")]
    Source(String),
    /// The system gives no thread.
    #[error("no thread for samples: {0}")]
    Thread(#[from] io::Error),
}

/// A reader. Dropped, it is forgotten.
#[derive(Debug)]
pub struct Tap {
    packets: mpsc::Receiver<Tapped>,
    lost: Arc<AtomicU64>,
}

impl Tap {
    /// The next packet; `None` once the forwarder has ended.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Tapped>> {
        self.packets.poll_recv(context)
    }

    /// Packets that this reader was too slow for.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// Gives samples out.
pub(crate) struct Hub {
    state: Mutex<State>,
    samples: Option<Samples>,
    status: watch::Receiver<Arc<ForwarderStatus>>,
    /// Sets how many packets there are to a sample, 0 = none.
    set_rate: Box<dyn Fn(u32) + Send + Sync>,
}

#[derive(Default)]
struct State {
    readers: Vec<Reader>,
    runs: bool,
    ended: bool,
}

struct Reader {
    selection: Selection,
    packets: mpsc::Sender<Tapped>,
    lost: Arc<AtomicU64>,
    /// Samples that it left to others, which have asked for more of them.
    passed_over: u32,
}

impl Hub {
    pub(crate) fn new(
        samples: Option<Samples>,
        status: watch::Receiver<Arc<ForwarderStatus>>,
        set_rate: impl Fn(u32) + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), samples, status, set_rate: Box::new(set_rate) })
    }

    /// One more reader.
    pub(crate) fn open(self: &Arc<Self>, selection: Selection) -> Result<Tap, NoTap> {
        let samples = self.samples.as_ref().ok_or(NoTap::Off)?;
        let mut state = self.state();
        if state.ended {
            return Err(NoTap::Off);
        }
        state.readers.retain(|reader| !reader.packets.is_closed());
        if state.readers.len() >= MOST_READERS {
            return Err(NoTap::TooMany);
        }
        if !state.runs {
            let mut source = samples.open().map_err(|error| NoTap::Source(error.to_string()))?;
            // What is left of a reader before this one.
            source.drain(|_| {});
            let hub = Arc::clone(self);
            std::thread::Builder::new().name("tap".to_owned()).spawn(move || hub.run(source))?;
            state.runs = true;
        }
        let (sender, packets) = mpsc::channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let selection = Selection { every: selection.every.max(1), ..selection };
        state.readers.push(Reader { selection, packets: sender, lost: lost.clone(), passed_over: 0 });
        (self.set_rate)(rate(&state.readers));
        Ok(Tap { packets, lost })
    }

    /// No more readers, and those that there are come to an end.
    pub(crate) fn end(&self) {
        let mut state = self.state();
        state.ended = true;
        state.readers.clear();
    }

    fn run(self: Arc<Self>, mut source: crate::engine::SampleSource) {
        let mut names = Names::default();
        while self.has_readers() {
            source.wait(LOOK);
            names.follow(&self.status.borrow().clone());
            let mut state = self.state();
            let finest = rate(&state.readers);
            source.drain(|sample| give(&mut state.readers, finest, &sample, &names));
        }
    }

    /// Whether to go on; sampling is switched off where not.
    fn has_readers(&self) -> bool {
        let mut state = self.state();
        let before = rate(&state.readers);
        state.readers.retain(|reader| !reader.packets.is_closed());
        let now = rate(&state.readers);
        if before != now || now == 0 {
            (self.set_rate)(now);
        }
        state.runs = now != 0;
        state.runs
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The rate that serves all readers.
fn rate(readers: &[Reader]) -> u32 {
    readers.iter().map(|reader| reader.selection.every).min().unwrap_or(0)
}

fn give(readers: &mut [Reader], finest: u32, sample: &Sample, names: &Names) {
    for reader in readers {
        reader.passed_over += 1;
        if reader.passed_over < reader.selection.every / finest.max(1) {
            continue;
        }
        reader.passed_over = 0;
        if !reader.selection.takes(sample) {
            continue;
        }
        // One that has gone is not counted, and soon forgotten.
        if let Err(mpsc::error::TrySendError::Full(_)) = reader.packets.try_send(names.tapped(sample)) {
            reader.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What ids mean at this moment.
#[derive(Default)]
struct Names {
    seen: Option<Arc<ForwarderStatus>>,
    services: BTreeMap<u16, String>,
    reals: BTreeMap<u16, IpAddr>,
    interfaces: BTreeMap<u32, String>,
}

impl Names {
    fn follow(&mut self, status: &Arc<ForwarderStatus>) {
        if self.seen.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, status)) {
            return;
        }
        let services = || status.vips.iter().flat_map(|vip| &vip.services);
        self.services = services()
            .filter_map(|service| {
                Some((service.id?, format!("{} {}/{}", service.key, service.namespace, service.service)))
            })
            .collect();
        self.reals =
            services().flat_map(|service| &service.reals).filter_map(|real| Some((real.id?, real.address))).collect();
        self.interfaces = status.ports.iter().map(|port| (port.index, port.name.clone())).collect();
        self.seen = Some(status.clone());
    }

    fn tapped(&self, sample: &Sample) -> Tapped {
        Tapped {
            interface: self.interfaces.get(&sample.ifindex).cloned().unwrap_or_else(|| format!("#{}", sample.ifindex)),
            outcome: sample.reason.map(Outcome::of),
            service: self.services.get(&sample.service).cloned(),
            real_server: self.reals.get(&sample.backend).copied(),
            sample: sample.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(reason: Reason) -> Sample {
        Sample {
            time: Duration::ZERO,
            ifindex: 7,
            length: 60,
            reason: Some(reason),
            backend: 0,
            service: 0,
            frame: vec![0; 14],
        }
    }

    fn reader(every: u32, queue: usize) -> (Reader, Tap) {
        let (sender, packets) = mpsc::channel(queue);
        let lost = Arc::new(AtomicU64::new(0));
        let selection = Selection { every, vip: None, all: false };
        (Reader { selection, packets: sender, lost: lost.clone(), passed_over: 0 }, Tap { packets, lost })
    }

    #[test]
    fn each_reader_gets_its_share_and_a_slow_one_loses_what_does_not_fit() {
        let ((fine, mut many), (coarse, mut few), (slow, mut slow_tap)) =
            (reader(2, 100), reader(10, 100), reader(2, 3));
        let mut readers = vec![fine, coarse, slow];
        let finest = rate(&readers);
        assert_eq!(finest, 2);
        for _ in 0..50 {
            give(&mut readers, finest, &sample(Reason::FlowNew), &Names::default());
        }
        let count = |tap: &mut Tap| std::iter::from_fn(|| tap.packets.try_recv().ok()).count();
        assert_eq!((count(&mut many), count(&mut few), count(&mut slow_tap)), (50, 10, 3));
        assert_eq!((many.lost(), few.lost(), slow_tap.lost()), (0, 0, 47));
    }

    #[test]
    fn packets_for_no_vip_are_left_out_unless_asked_for() {
        let selection = Selection { every: 1, vip: None, all: false };
        assert!(selection.takes(&sample(Reason::NoService)) && !selection.takes(&sample(Reason::NotVip)));
        assert!(Selection { all: true, ..selection }.takes(&sample(Reason::NotVip)));
        assert!(!selection.takes(&sample(Reason::OtherHost)));
        let vip = Some("192.0.2.10".parse().expect("an address"));
        assert!(!Selection { vip, ..selection }.takes(&sample(Reason::FlowNew)), "the frame says of no address");
    }
}
