//! Pipes for `splice(2)`, and a bounded pool of them.

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice};
use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The most pipes that the process holds for relays, pooled ones included; each has 2 descriptors.
pub const MAX_PIPES: usize = 1024;

/// Asked for per pipe: 64 slots, enough for all fragments of several segments.
const CAPACITY: usize = 256 * 1024;

/// Beyond its budget of pipe pages (`fs.pipe-user-pages-soft`) a user gets pipes of two pages. Copying beats those.
const USEFUL_CAPACITY: usize = 64 * 1024;

/// Moved by one call at most. Slots run out first; this only bounds what one relay does in one turn.
pub(crate) const MAX_MOVE: usize = 1 << 20;

/// Empty pipes that a thread keeps.
const POOLED_PIPES: usize = 64;

/// Requests that are turned down after the system refused a pipe, before it is asked again.
const BACK_OFF: u32 = 1024;

/// Data on its way from one socket to another.
#[derive(Debug)]
pub(crate) struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    budget: &'static Budget,
}

/// How many pipes there are and may be.
#[derive(Debug)]
struct Budget {
    open: AtomicUsize,
    max: usize,
}

static PROCESS: Budget = Budget { open: AtomicUsize::new(0), max: MAX_PIPES };

thread_local! {
    static POOL: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
    static TURN_DOWN: Cell<u32> = const { Cell::new(0) };
}

/// An empty pipe, or `None` where there are [`MAX_PIPES`] or the system gives no more of use.
pub(crate) fn take_pipe() -> Option<Pipe> {
    if let Some(pipe) = POOL.with_borrow_mut(Vec::pop) {
        return Some(pipe);
    }
    let turn_down = TURN_DOWN.get();
    if turn_down > 0 {
        TURN_DOWN.set(turn_down - 1);
        return None;
    }
    let pipe = Pipe::open(&PROCESS);
    if pipe.is_none() {
        TURN_DOWN.set(BACK_OFF);
    }
    pipe
}

impl Pipe {
    fn open(budget: &'static Budget) -> Option<Self> {
        if budget.open.fetch_add(1, Ordering::Relaxed) >= budget.max {
            budget.open.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let Ok((reader, writer)) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK) else {
            budget.open.fetch_sub(1, Ordering::Relaxed);
            return None;
        };
        // From here on `drop` counts it out.
        let pipe = Self { reader, writer, budget };
        let capacity = fcntl_setpipe_size(&pipe.writer, CAPACITY).or_else(|_| fcntl_getpipe_size(&pipe.writer)).ok()?;
        (capacity >= USEFUL_CAPACITY).then_some(pipe)
    }

    /// Moves up to `bytes` of what `socket` has received into the pipe, which must be empty; 0 at the end of the stream.
    pub(crate) fn fill_from(&self, socket: impl AsFd, bytes: usize) -> io::Result<usize> {
        move_bytes(socket, &self.writer, bytes)
    }

    /// Moves up to `bytes` of the pipe into `socket`.
    pub(crate) fn drain_into(&self, socket: impl AsFd, bytes: usize) -> io::Result<usize> {
        move_bytes(&self.reader, socket, bytes)
    }

    /// Returns the pipe to the pool. It must be empty: whoever takes it next would send the rest to a stranger.
    /// A pipe that may hold data is dropped instead.
    pub(crate) fn give_back(self) {
        POOL.with_borrow_mut(|pool| {
            if pool.len() < POOLED_PIPES {
                pool.push(self);
            }
        });
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.budget.open.fetch_sub(1, Ordering::Relaxed);
    }
}

fn move_bytes(from: impl AsFd, to: impl AsFd, bytes: usize) -> io::Result<usize> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    Ok(splice(from, None, to, None, bytes, flags)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Beyond the budget there are none, and what is dropped can be had again.
    #[test]
    fn the_number_of_pipes_is_bounded() {
        static THREE: Budget = Budget { open: AtomicUsize::new(0), max: 3 };
        let mut held: Vec<Pipe> = std::iter::from_fn(|| Pipe::open(&THREE)).take(4).collect();
        assert_eq!(held.len(), 3);
        for _ in 0..10 {
            held.pop();
            held.extend(Pipe::open(&THREE));
            assert_eq!(held.len(), 3);
            assert!(Pipe::open(&THREE).is_none());
        }
    }
}
