//! Captures: a thread reads every frame of an interface into bounded memory. It judges none of them. Beside it, the
//! other way: frames that are sent as they are.

use std::io;
use std::mem::MaybeUninit;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crate::packet_socket::{LONGEST_FRAME, PacketSocket};
use crate::{Frame, LabError, Namespace};

/// What one capture keeps at most. Frames beyond are counted, not kept.
const MOST_BYTES: usize = 256 << 20;
/// How long the thread waits for a frame before it looks whether to stop.
const PATIENCE: Duration = Duration::from_millis(20);

/// Sends frames from an interface, whatever is in them.
#[derive(Debug)]
pub struct FrameSender {
    socket: PacketSocket,
    what: String,
}

impl FrameSender {
    pub(crate) fn open(namespace: &Namespace, interface: &str) -> Result<Self, LabError> {
        let index = namespace.ifindex(interface)?;
        let what = format!("sending a frame at {interface} of {}", namespace.label());
        let socket = namespace.run(|| PacketSocket::open_to_send(index)).map_err(LabError::system(what.clone()))?;
        Ok(Self { socket, what })
    }

    /// Sends a frame, from its destination address on. It must not be longer than MTU and Ethernet header.
    pub fn send(&self, frame: &[u8]) -> Result<(), LabError> {
        self.socket.send(frame).map_err(LabError::system(self.what.clone()))
    }
}

/// A running capture. What was seen before [`stop`](Self::stop) is in what it returns.
#[derive(Debug)]
pub struct Capture {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    seen: Mutex<Seen>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct Seen {
    frames: Vec<Frame>,
    bytes: usize,
    left_out: u64,
    /// Since when it is to end.
    stopping: Option<SystemTime>,
}

impl Capture {
    pub(crate) fn start(
        namespace: &Namespace,
        interface: &str,
        wanted: impl Fn(&Frame) -> bool + Send + 'static,
    ) -> Result<Self, LabError> {
        let index = namespace.ifindex(interface)?;
        let what = format!("capturing at {interface} of {}", namespace.label());
        let socket = namespace
            .run(|| {
                let socket = PacketSocket::open(index)?;
                socket.set_patience(PATIENCE)?;
                Ok(socket)
            })
            .map_err(LabError::system::<io::Error>(what))?;
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = std::thread::spawn(move || read(&socket, &theirs, &wanted));
        Ok(Self { shared, thread: Some(thread) })
    }

    /// A copy of what was seen so far.
    pub fn frames(&self) -> Vec<Frame> {
        self.shared.lock().frames.clone()
    }

    /// How many of the frames that were seen so far are wanted.
    pub fn count(&self, wanted: impl Fn(&Frame) -> bool) -> usize {
        self.shared.lock().frames.iter().filter(|frame| wanted(frame)).count()
    }

    /// How many frames were not kept because the capture was full.
    pub fn left_out(&self) -> u64 {
        self.shared.lock().left_out
    }

    /// Waits until a frame was seen, before or from here on, for which `wanted` is true.
    pub fn wait_for(&self, wanted: impl Fn(&Frame) -> bool, at_most: Duration) -> Option<Frame> {
        let deadline = Instant::now() + at_most;
        let mut seen = self.shared.lock();
        let mut looked_at = 0;
        loop {
            if let Some(found) = seen.frames.get(looked_at..).unwrap_or_default().iter().find(|frame| wanted(frame)) {
                return Some(found.clone());
            }
            looked_at = seen.frames.len();
            let left = deadline.checked_duration_since(Instant::now())?;
            seen = self.shared.arrived.wait_timeout(seen, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Ends the capture and returns what passed until here, in the order in which it passed.
    pub fn stop(mut self) -> Vec<Frame> {
        self.end();
        std::mem::take(&mut self.shared.lock().frames)
    }

    fn end(&mut self) {
        self.shared.lock().stopping = Some(SystemTime::now());
        if let Some(thread) = self.thread.take() {
            // Where the predicate panicked, what was seen before is still there.
            let _ = thread.join();
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(socket: &PacketSocket, shared: &Shared, wanted: &dyn Fn(&Frame) -> bool) {
    let mut buffer = vec![MaybeUninit::uninit(); LONGEST_FRAME];
    // A round that began after `stop` and found nothing has read all that passed before.
    let mut stopping = false;
    loop {
        match socket.receive(&mut buffer) {
            Ok(received) => {
                let bytes = initialised(&buffer, received.length);
                let frame = Frame { at: socket.received_at(), outgoing: received.outgoing, bytes };
                // Under traffic there is no round that finds nothing.
                if shared.lock().stopping.is_some_and(|since| frame.at > since) {
                    return;
                }
                if wanted(&frame) {
                    keep(shared, frame);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if stopping {
                    return;
                }
                stopping = shared.lock().stopping.is_some();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The interface went down, which is told once, or for good.
            Err(_) => {
                if shared.lock().stopping.is_some() {
                    return;
                }
                std::thread::sleep(PATIENCE);
            }
        }
    }
}

fn keep(shared: &Shared, frame: Frame) {
    let mut seen = shared.lock();
    if seen.bytes + frame.bytes.len() > MOST_BYTES {
        seen.left_out += 1;
        return;
    }
    seen.bytes += frame.bytes.len() + size_of::<Frame>();
    seen.frames.push(frame);
    shared.arrived.notify_all();
}

pub(crate) fn initialised(buffer: &[MaybeUninit<u8>], length: usize) -> Vec<u8> {
    let filled = &buffer[..length.min(buffer.len())];
    #[allow(unsafe_code, reason = "socket2 reads into uninitialised memory")]
    // SAFETY: the kernel has written this many bytes at the beginning of the buffer.
    filled.iter().map(|byte| unsafe { byte.assume_init() }).collect()
}
