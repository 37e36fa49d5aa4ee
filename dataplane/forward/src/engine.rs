//! What carries out the plan: XDP in the kernel ([`xdp`]), or packet sockets in user space
//! ([`packet`]).

pub mod clock;
mod macs;
mod memory;
pub mod packet;
mod rows;
pub mod xdp;

use crate::ports::Port;
use crate::tables::{MapOp, Tables};
use crate::tap::Sample;
use aya::maps::{Map, MapData, RingBuf};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sluicegate_l4::layout::{self, Control, FLOW_WAYS, Traffic, flow_word, map};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How packets get to the program on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// XDP in the driver.
    Native,
    /// XDP in the kernel's generic receive path: slower, for drivers without XDP.
    Generic,
    /// User space, over packet sockets.
    Packet,
}

impl Mode {
    /// The word in tables, metrics and names of pins.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Packet => "packet",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why an engine did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The pins.
    #[error(transparent)]
    Pin(#[from] crate::pins::PinError),
    /// The kernel does not take the programs.
    #[error(
        "the kernel refused the programs or maps ({0}): CAP_BPF, CAP_NET_ADMIN and a kernel from 5.15 on are needed"
    )]
    Load(#[source] Box<aya::EbpfError>),
    /// The verifier or the kernel refuses a program.
    #[error("the kernel refused program {name}: {reason}")]
    Program {
        /// Which one.
        name: &'static str,
        /// Why: the kernel's error and the end of the verifier's log.
        reason: String,
    },
    /// The object lacks what it must have: it was built for another version.
    #[error("the built eBPF object has no {0}: rebuild it with `cargo xtask ebpf`")]
    Missing(&'static str),
    /// A map cannot be read or written.
    #[error("map {name}: {source}")]
    Map {
        /// Which one.
        name: &'static str,
        /// Why not.
        source: Box<aya::maps::MapError>,
    },
    /// A table cannot be mapped into memory.
    #[error("cannot map table {name} into memory: {source}")]
    Memory {
        /// Which one.
        name: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A socket or what goes through it.
    #[error("{what}: {source}")]
    Socket {
        /// What for.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A plan that names a row beyond the table.
    #[error("row {row} is beyond table {name}")]
    Range {
        /// Which table.
        name: &'static str,
        /// Row.
        row: u32,
    },
}

/// What became of an attempt to attach to a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The mode that was reached; `None` = not attached.
    pub mode: Option<Mode>,
    /// Why not the better ones, best first.
    pub refused: Vec<(Mode, String)>,
    /// It was there already, from a process before this one.
    pub adopted: bool,
}

/// Counters since the tables exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets by index of the reason.
    pub reasons: Vec<u64>,
    /// By service id.
    pub services: BTreeMap<u16, Traffic>,
    /// By backend id.
    pub backends: BTreeMap<u16, Traffic>,
}

/// An engine: has the tables and moves packets by them.
pub trait Engine: Send {
    /// Carries out operations in their order.
    ///
    /// # Errors
    /// At the first one that fails; those before it are in place, and the order of a plan makes that harmless.
    fn apply(&mut self, ops: &[MapOp]) -> Result<(), EngineError>;

    /// Reads all tables.
    ///
    /// # Errors
    /// Where one cannot be read.
    fn read(&self) -> Result<Tables, EngineError>;

    /// Makes the ports known and attached, in the best mode of `modes` that each takes, and lets go of others.
    /// `modes` is ordered, best first.
    fn set_ports(&mut self, ports: &BTreeMap<u32, Port>, modes: &[Mode]) -> BTreeMap<u32, Attachment>;

    /// Moves the dead man's deadline to `ahead` from the present.
    ///
    /// # Errors
    /// Where the clock or the map fails.
    fn renew(&mut self, ahead: Duration) -> Result<(), EngineError>;

    /// Sets how many packets there are to a sample; 0 = none.
    ///
    /// # Errors
    /// Where the map fails.
    fn sample(&mut self, every: u32) -> Result<(), EngineError>;

    /// Counters of these services and backends.
    ///
    /// # Errors
    /// Where a map fails.
    fn counters(&self, services: &[u16], backends: &[u16]) -> Result<Counters, EngineError>;

    /// The flow table and what is needed to judge its words; `None` = this engine has none to share.
    fn flows(&mut self) -> Option<FlowTable<'_>>;

    /// What a packet meets beside the rows of [`Tables`]: switches, time, flows.
    fn passing(&self) -> Passing<'_>;

    /// How far ahead the fence of a VIP lies, by its id; nothing where that cannot be read.
    fn fence(&self, address: u16) -> Duration;
}

/// What a packet meets beside the rows of [`Tables`].
pub struct Passing<'a> {
    /// The switches.
    pub control: Control,
    /// The present in the ticks of deadlines and stamps.
    pub now: u64,
    /// The words of all sets of the flow table.
    pub flows: &'a [AtomicU64],
    /// The mark of each set.
    pub overflows: &'a [AtomicU8],
    /// Length of a stamp.
    pub stamp_length: Duration,
}

impl Passing<'_> {
    /// The words of the flow table among which a flow with this hash may be: those of its first set, and those of its second
    /// one if the first is marked.
    pub fn places(&self, hash: u64) -> impl Iterator<Item = &AtomicU64> {
        let [home, other] = layout::flow_sets(hash, self.control.flow_mask);
        let marked = self.overflows.get(home as usize).is_some_and(|mark| mark.load(Ordering::Relaxed) != 0);
        let set = |index: u32| {
            let first = index as usize * FLOW_WAYS;
            self.flows.get(first..first + FLOW_WAYS).unwrap_or_default()
        };
        set(home).iter().chain(if marked { set(other) } else { &[] })
    }

    /// The present in stamps, modulo their range.
    #[must_use]
    pub fn stamp(&self) -> u16 {
        let stamps = self.now >> self.control.stamp_shift.min(63);
        (stamps & ((1 << flow_word::STAMP_BITS) - 1)) as u16
    }
}

/// Where samples come from, to be opened by who reads them.
#[derive(Clone, Debug)]
pub enum Samples {
    /// A queue of the kernel, by its pin.
    Kernel(PathBuf),
    /// A queue of this process.
    Memory(Arc<SampleQueue>),
}

/// Samples of this process that wait for their reader; the oldest are kept.
#[derive(Debug, Default)]
pub struct SampleQueue {
    waiting: Mutex<VecDeque<Sample>>,
    filled: Condvar,
}

/// Samples that wait at most.
const MOST_SAMPLES: usize = 4096;

impl SampleQueue {
    /// Puts a sample in, if there is room.
    pub fn put(&self, sample: Sample) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < MOST_SAMPLES {
            waiting.push_back(sample);
            self.filled.notify_one();
        }
    }
}

impl Samples {
    /// Opens the queue. One reader at a time.
    ///
    /// # Errors
    /// Where the pin is gone.
    pub fn open(&self) -> Result<SampleSource, EngineError> {
        match self {
            Self::Kernel(path) => MapData::from_pin(path)
                .and_then(|data| RingBuf::try_from(Map::RingBuf(data)))
                .map(SampleSource::Kernel)
                .map_err(|source| EngineError::Map { name: map::SAMPLES, source: Box::new(source) }),
            Self::Memory(queue) => Ok(SampleSource::Memory(queue.clone())),
        }
    }
}

/// An opened queue of samples.
pub enum SampleSource {
    /// Of the kernel.
    Kernel(RingBuf<MapData>),
    /// Of this process.
    Memory(Arc<SampleQueue>),
}

impl SampleSource {
    /// Waits until there is something, for so long at most.
    pub fn wait(&self, limit: Duration) {
        match self {
            Self::Kernel(ring) => {
                let limit = Timespec { tv_sec: 0, tv_nsec: i64::from(limit.subsec_nanos()) };
                let mut ready = [PollFd::new(ring, PollFlags::IN)];
                // Interrupted: who waits looks again anyway.
                let _interrupted = poll(&mut ready, Some(&limit));
            }
            Self::Memory(queue) => {
                let waiting = queue.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                if waiting.is_empty() {
                    let _woken = queue.filled.wait_timeout(waiting, limit);
                }
            }
        }
    }

    /// Takes what is there.
    pub fn drain(&mut self, mut take: impl FnMut(Sample)) {
        match self {
            // Bounded: under load there is always a next one.
            Self::Kernel(ring) => {
                for _ in 0..MOST_SAMPLES {
                    let Some(record) = ring.next() else { return };
                    if let Some(sample) = Sample::read(&record) {
                        take(sample);
                    }
                }
            }
            Self::Memory(queue) => {
                let waiting = std::mem::take(&mut *queue.waiting.lock().unwrap_or_else(PoisonError::into_inner));
                waiting.into_iter().for_each(take);
            }
        }
    }
}

/// The flow table, shared with who forwards at this moment.
pub struct FlowTable<'a> {
    /// The words of all sets.
    pub words: &'a [AtomicU64],
    /// The mark of each set.
    pub overflows: &'a [AtomicU8],
    /// Present time in stamps, modulo their range.
    pub stamp: u16,
    /// Length of a stamp.
    pub stamp_length: Duration,
}
