//! A wire with delay: two veth pairs whose inner ends are in one namespace, and a thread each way that holds every frame
//! back. It neither loses nor reorders, as long as the thread keeps up.

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::bpf::{Attachment, Hook, Program};
use crate::capture::initialised;
use crate::packet_socket::{LONGEST_FRAME, PacketSocket};
use crate::{LabError, Namespace, WireOptions, wire};

/// What is under way at most, each way; more is lost, as in any queue.
const MOST_UNDER_WAY: usize = 16_384;
/// How often a thread that waits for frames looks whether to end.
const PATIENCE: Duration = Duration::from_millis(50);

/// A running wire; it is cut when this is dropped.
#[derive(Debug)]
pub(crate) struct SlowWire {
    cut: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    /// Make frames arrive that the hosts send by XDP.
    _accept: Vec<Attachment>,
}

impl SlowWire {
    /// Joins the two ends; the inner ends get the two names in the namespace in the middle.
    pub(crate) fn join(
        one: (&Namespace, &str),
        other: (&Namespace, &str),
        middle: (&Namespace, [&str; 2]),
        options: WireOptions,
    ) -> Result<Self, LabError> {
        let (middle, [near, far]) = middle;
        let mut accept = Vec::new();
        for (inner, outer) in [(near, one), (far, other)] {
            wire::join((middle, inner), outer, options.mtu)?;
            // The middle is a wire: it has nothing to say for itself.
            middle.set_sysctl(&format!("net/ipv6/conf/{inner}/disable_ipv6"), "1")?;
            accept.push(middle.attach(inner, Hook::Xdp, &Program::pass())?);
        }
        let cut = Arc::new(AtomicBool::new(false));
        let mut wire = Self { cut, threads: Vec::new(), _accept: accept };
        for (from, to) in [(near, far), (far, near)] {
            let (from, to) = (open(middle, from)?, open(middle, to)?);
            let cut = Arc::clone(&wire.cut);
            wire.threads.push(thread::spawn(move || carry(&from, &to, options.delay, &cut)));
        }
        Ok(wire)
    }
}

impl Drop for SlowWire {
    fn drop(&mut self) {
        self.cut.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that panicked carries nothing either.
            let _ = thread.join();
        }
    }
}

fn open(middle: &Namespace, interface: &str) -> Result<PacketSocket, LabError> {
    let index = middle.ifindex(interface)?;
    middle.run(|| PacketSocket::open(index)).map_err(LabError::system(format!("opening the slow wire at {interface}")))
}

fn carry(from: &PacketSocket, to: &PacketSocket, delay: Duration, cut: &AtomicBool) {
    let mut buffer = vec![MaybeUninit::uninit(); LONGEST_FRAME];
    let mut under_way: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    while !cut.load(Ordering::Relaxed) {
        let now = Instant::now();
        while let Some((_, frame)) = under_way.pop_front_if(|(due, _)| *due <= now) {
            // An interface that is down loses it.
            let _ = to.send(&frame);
        }
        let wait = under_way.front().map_or(PATIENCE, |(due, _)| due.saturating_duration_since(now));
        // Zero would mean to wait for ever.
        if from.set_patience(wait.max(Duration::from_micros(1))).is_err() {
            return;
        }
        match from.receive(&mut buffer) {
            Ok(received) if !received.outgoing && under_way.len() < MOST_UNDER_WAY => {
                under_way.push_back((Instant::now() + delay, initialised(&buffer, received.length)));
            }
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            // Told once when the interface goes down.
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
}
