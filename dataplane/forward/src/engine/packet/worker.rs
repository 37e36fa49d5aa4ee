//! A worker: takes frames from one ring, runs the packet path on each, and sends what is to be sent.

use super::counters::Counters;
use super::frame::RoomyFrame;
use super::ring::{self, ReceiveRing};
use super::state::{Shared, coarse_ticks, ticks};
use crate::tap::Sample;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg};
use rustix::time::{ClockId, clock_gettime};
use sluicegate_l4::layout::Interface;
use sluicegate_l4::verdict::{Reason, Verdict};
use socket2::Socket;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Frames that are taken, decided and sent together.
const BATCH: usize = 64;

/// Batches from one look at other things to the next.
const BATCHES: usize = 64;

/// An answer to ARP or NDP that is older than so many ticks is not sent: who was stopped between deciding and sending may
/// have lost the VIP meanwhile.
const ANSWER_LIFE: u64 = 20;

/// After a failed wait.
const RETRY: Duration = Duration::from_millis(10);

/// A running worker. Dropped, it stops.
#[derive(Debug)]
pub struct Worker {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts a thread in the namespace of the caller that forwards what comes in at an interface.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn start(name: String, ring: ReceiveRing, port: (u32, Interface), shared: Arc<Shared>) -> io::Result<Self> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let theirs = stop.clone();
        let counters = shared.free_counters();
        let (index, interface) = port;
        let work = Work {
            ring,
            index,
            interface,
            shared,
            counters,
            senders: BTreeMap::new(),
            outgoing: Vec::new(),
            dice: Dice(1),
        };
        let thread = std::thread::Builder::new().name(name).spawn(move || work.run(&theirs))?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Whether it still runs.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let told = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        let ended = self.thread.take().map(JoinHandle::join);
        if told.is_err() || matches!(ended, Some(Err(_))) {
            tracing::error!("a worker of the packet engine did not end as it should");
        }
    }
}

/// A frame that is to be sent.
struct Outgoing {
    port: u32,
    nth: usize,
    bounds: Range<usize>,
    answer: bool,
}

struct Work {
    ring: ReceiveRing,
    index: u32,
    interface: Interface,
    shared: Arc<Shared>,
    counters: Arc<Counters>,
    senders: BTreeMap<u32, Socket>,
    outgoing: Vec<Outgoing>,
    dice: Dice,
}

/// Which packets are sampled: by xorshift, so that no rhythm of the traffic meets that of the sampling.
struct Dice(u64);

impl Dice {
    /// True for one call of `every`; never for 0.
    #[inline]
    fn falls(&mut self, every: u32) -> bool {
        if every == 0 {
            return false;
        }
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.checked_rem(u64::from(every)) == Some(0)
    }
}

/// Bytes of a frame that are kept, as in the kernel's engine.
const CAPTURED: usize = 232;

/// A frame as it came, without what becomes of it.
fn sample(frame: &RoomyFrame<'_>, ifindex: u32) -> Sample {
    let now = clock_gettime(ClockId::Monotonic);
    let bytes = frame.bytes();
    Sample {
        time: Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0)),
        ifindex,
        length: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
        reason: None,
        backend: 0,
        service: 0,
        frame: bytes.get(..bytes.len().min(CAPTURED)).unwrap_or_default().to_vec(),
    }
}

impl Work {
    fn run(mut self, stop: &OwnedFd) {
        loop {
            // Under load there is always a next batch: whether to stop is then asked at times, without waiting.
            let busy = (0..BATCHES).all(|_| self.batch() > 0);
            if let Ok(dropped) = self.ring.dropped() {
                self.counters.lost(dropped);
            }
            if is_set(stop, &self.ring, !busy) {
                return;
            }
        }
    }

    /// Takes what waits; how many frames that were.
    fn batch(&mut self) -> usize {
        let waiting = self.ring.waiting(BATCH);
        if waiting == 0 {
            return 0;
        }
        let begun = coarse_ticks();
        let shared = self.shared.clone();
        {
            let rows = shared.rows();
            let counters = self.counters.clone();
            let view = shared.view(&rows, &counters);
            for nth in 0..waiting {
                let Some(received) = self.ring.received(nth) else { continue };
                if received.cut || (received.of_others && !is_for(received.buffer, &received.bounds, &self.interface)) {
                    continue;
                }
                let Some(mut frame) = RoomyFrame::new(received.buffer, received.bounds, self.index) else { continue };
                if received.tag.is_some_and(|(protocol, tag)| !frame.insert_tag(protocol, tag)) {
                    continue;
                }
                let sampled = self.dice.falls(rows.control.sample_every).then(|| sample(&frame, self.index));
                let verdict = sluicegate_l4::forward(&mut frame, &view);
                if let Some(sample) = sampled {
                    let (service, backend) = view.take_counted();
                    let reason = Some(verdict.reason());
                    shared.samples.put(Sample { reason, service, backend, ..sample });
                }
                let (port, reason) = match verdict {
                    // The kernel has its own copy of what passes.
                    Verdict::Pass(_) | Verdict::Drop(_) => continue,
                    Verdict::Transmit(reason) => (self.index, reason),
                    Verdict::Redirect(reason, port) if rows.interfaces.contains_key(&port) => (port, reason),
                    // A port that is not known has gone: what was meant for it is lost, as on a link that is down.
                    Verdict::Redirect(..) => {
                        counters.lost(1);
                        continue;
                    }
                };
                let answer = matches!(reason, Reason::ArpAnswered | Reason::NdpAnswered);
                self.outgoing.push(Outgoing { port, nth, bounds: frame.bounds(), answer });
            }
        }
        self.send(begun);
        self.ring.release(waiting);
        waiting
    }

    /// Sends what the batch left, port by port.
    fn send(&mut self, begun: u64) {
        let mut outgoing = std::mem::take(&mut self.outgoing);
        if outgoing.iter().any(|one| one.answer) && ticks().saturating_sub(begun) > ANSWER_LIFE {
            outgoing.retain(|one| !one.answer);
        }
        outgoing.sort_by_key(|one| one.port);
        for frames in outgoing.chunk_by(|one, next| one.port == next.port) {
            let Some(port) = frames.first().map(|frame| frame.port) else { continue };
            let sent = match self.sender(port) {
                Ok(()) => self.senders.get(&port).map_or(0, |socket| send_all(socket, &self.ring, frames)),
                Err(error) => {
                    tracing::debug!(port, %error, "no socket to send by");
                    0
                }
            };
            if sent < frames.len() {
                self.counters.lost((frames.len() - sent) as u64);
            }
        }
        outgoing.clear();
        self.outgoing = outgoing;
    }

    /// Makes sure that there is a socket for a port.
    fn sender(&mut self, port: u32) -> io::Result<()> {
        if let Entry::Vacant(place) = self.senders.entry(port) {
            place.insert(ring::sender(port)?);
        }
        Ok(())
    }
}

/// Sends frames; how many the kernel took. One that it refuses does not keep back the others.
fn send_all(socket: &Socket, ring: &ReceiveRing, frames: &[Outgoing]) -> usize {
    let slices: Vec<IoSlice<'_>> =
        frames.iter().filter_map(|frame| ring.bytes(frame.nth, frame.bounds.clone())).map(IoSlice::new).collect();
    let mut controls: Vec<SendAncillaryBuffer<'_, '_, '_>> =
        slices.iter().map(|_| SendAncillaryBuffer::default()).collect();
    let mut messages: Vec<MMsgHdr<'_>> = slices
        .iter()
        .zip(&mut controls)
        .map(|(slice, control)| MMsgHdr::new(std::slice::from_ref(slice), control))
        .collect();
    let (mut sent, mut at) = (0, 0);
    while let Some(rest) = messages.get_mut(at..).filter(|rest| !rest.is_empty()) {
        match sendmmsg(socket, rest, SendFlags::DONTWAIT) {
            Ok(count) => {
                sent += count;
                at += count.max(1);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => at += 1,
        }
    }
    sent
}

/// Whether a frame is for the port, though its address is not the interface's own: ports of a bond or bridge carry the
/// address of that.
fn is_for(buffer: &[u8], bounds: &Range<usize>, interface: &Interface) -> bool {
    buffer.get(bounds.clone()).and_then(|frame| frame.first_chunk::<6>()).is_some_and(|to| *to == interface.mac)
}

/// Whether the worker is to stop; with `wait`, not before that or before frames come.
fn is_set(stop: &OwnedFd, ring: &ReceiveRing, wait: bool) -> bool {
    let fds = &mut [
        PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN),
        PollFd::from_borrowed_fd(ring.as_fd(), PollFlags::IN),
    ];
    let no_wait = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    let polled = poll(fds, (!wait).then_some(&no_wait));
    let [stop, ring] = fds;
    if polled.is_ok() && stop.revents().contains(PollFlags::IN) {
        return true;
    }
    // A link that goes down is an error that stays until it is asked for, or longer.
    if polled.is_err() || (wait && ring.revents().intersects(PollFlags::ERR | PollFlags::HUP)) {
        std::thread::sleep(RETRY);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_others_are_taken_for_the_address_of_the_bridge_alone() {
        let interface = Interface { mac: [2, 0, 0, 0, 0, 1], mtu: 1500 };
        let buffer = [0, 0, 2, 0, 0, 0, 0, 1, 9, 9];
        assert!(is_for(&buffer, &(2..10), &interface));
        assert!(!is_for(&buffer, &(1..10), &interface));
        assert!(!is_for(&buffer, &(6..10), &interface));
    }
}
