//! A global allocator that counts what each thread allocates, so that a test can hold a path to a number of allocations and a
//! connection to a number of bytes. It is for tests: it knows no call sites, and a program has no use for it.
//!
//! ```no_run
//! #[global_allocator]
//! static ALLOCATOR: sluicegate_allocations::Counting = sluicegate_allocations::Counting;
//!
//! let thread = sluicegate_allocations::current();
//! let before = thread.allocations();
//! drop(Box::new(1));
//! assert_eq!(thread.allocations() - before, 1);
//! ```

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};

/// The system's allocator, counting. To be the `#[global_allocator]` of the test.
#[derive(Clone, Copy, Debug)]
pub struct Counting;

/// A thread whose allocations are counted. Other threads may ask for its figures.
#[derive(Clone, Copy, Debug)]
pub struct Thread(&'static Counts);

/// The thread that calls.
pub fn current() -> Thread {
    Thread(counts())
}

impl Thread {
    /// How often it has asked for memory: new blocks and blocks that were to grow or shrink.
    pub fn allocations(self) -> u64 {
        self.0.allocations.load(Relaxed)
    }

    /// Bytes that it has asked for less those that it has given back. What one thread allocates and another one frees counts
    /// for the first and against the second, so it may be negative.
    pub fn bytes(self) -> i64 {
        self.0.bytes.load(Relaxed)
    }
}

/// Of one thread. Written by that thread alone, but for the last of [`COUNTS`].
#[derive(Debug)]
struct Counts {
    allocations: AtomicU64,
    bytes: AtomicI64,
}

/// Threads that have counts of their own; the last place is shared by all that come later.
const THREADS: usize = 1024;

static COUNTS: [Counts; THREADS] =
    [const { Counts { allocations: AtomicU64::new(0), bytes: AtomicI64::new(0) } }; THREADS];
static NEXT: AtomicUsize = AtomicUsize::new(0);

const UNKNOWN: usize = usize::MAX;

thread_local! {
    /// Which of [`COUNTS`] is the thread's. Constant at first and without a destructor, so that asking for it allocates nothing.
    static PLACE: Cell<usize> = const { Cell::new(UNKNOWN) };
}

fn counts() -> &'static Counts {
    let place = PLACE.with(|place| {
        if place.get() == UNKNOWN {
            place.set(NEXT.fetch_add(1, Relaxed).min(THREADS - 1));
        }
        place.get()
    });
    &COUNTS[place]
}

fn count(allocations: u64, bytes: i64) {
    let counts = counts();
    counts.allocations.fetch_add(allocations, Relaxed);
    counts.bytes.fetch_add(bytes, Relaxed);
}

/// No layout is larger than `isize::MAX`.
fn signed(size: usize) -> i64 {
    size as i64
}

#[allow(unsafe_code, reason = "there is no other way to be the global allocator")]
// SAFETY: every call is passed on to the system's allocator as it came, and its answer is given back as it is; counting
// allocates nothing and cannot panic.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, signed(layout.size()));
        // SAFETY: the caller's promises are those that are asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(1, signed(layout.size()));
        // SAFETY: the caller's promises are those that are asked for.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(1, signed(new_size) - signed(layout.size()));
        // SAFETY: the caller's promises are those that are asked for.
        unsafe { System.realloc(block, layout, new_size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(0, -signed(layout.size()));
        // SAFETY: the caller's promises are those that are asked for.
        unsafe { System.dealloc(block, layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[global_allocator]
    static ALLOCATOR: Counting = Counting;

    #[test]
    fn a_thread_counts_its_own_blocks_alone() {
        let here = current();
        let (before, bytes) = (here.allocations(), here.bytes());
        let other = std::thread::spawn(|| {
            let there = current();
            let before = (there.allocations(), there.bytes());
            let kept: Vec<u8> = Vec::with_capacity(1000);
            let one = (there.allocations() - before.0, there.bytes() - before.1);
            drop(kept);
            (one, there.allocations() - before.0, there.bytes() - before.1)
        });
        // What starting a thread takes is counted here; what the thread does is not.
        let (of_one, allocations, left) = other.join().expect("the thread");
        assert_eq!((of_one, allocations, left), ((1, 1000), 1, 0));
        let started = here.allocations() - before;
        assert!(started < 100, "{started} allocations to start a thread");
        assert!(here.bytes() - bytes < 1000, "{} bytes left of a thread", here.bytes() - bytes);
    }

    #[test]
    fn a_block_that_grows_counts_again() {
        let here = current();
        let (before, bytes) = (here.allocations(), here.bytes());
        let mut block: Vec<u8> = Vec::with_capacity(10);
        block.reserve_exact(100);
        assert_eq!(here.allocations() - before, 2);
        assert_eq!(here.bytes() - bytes, 100);
        drop(block);
        assert_eq!(here.bytes() - bytes, 0);
    }
}
