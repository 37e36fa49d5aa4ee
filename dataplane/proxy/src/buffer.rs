//! Read and write buffers that belong to a worker and are lent to connections only while bytes are on the way.
//!
//! A connection that waits for its next request holds no buffer: that is what keeps an idle connection small.

use crate::transport::Transport;
use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Read buffer of a request: most heads and many bodies fit.
pub(crate) const SMALL: usize = 16 * 1024;
/// Read buffer of a response.
pub(crate) const MEDIUM: usize = 64 * 1024;
/// Read buffer of a body that is known to be long: fewer system calls per byte.
pub(crate) const LARGE: usize = 256 * 1024;

/// Buffers kept per class and worker; what comes back beyond is freed.
const KEPT: [usize; 3] = [256, 128, 32];
/// Write buffers that grew beyond this are freed rather than kept.
const KEPT_OUT_BYTES: usize = 64 * 1024;

/// The buffers of one worker that nobody uses at the moment.
#[derive(Default)]
pub(crate) struct BufferPool {
    read: [RefCell<Vec<Box<[u8]>>>; 3],
    write: RefCell<Vec<Vec<u8>>>,
}

fn class(size: usize) -> usize {
    match size {
        SMALL => 0,
        MEDIUM => 1,
        _ => 2,
    }
}

impl BufferPool {
    fn take(&self, size: usize) -> Box<[u8]> {
        self.read[class(size)].borrow_mut().pop().unwrap_or_else(|| vec![0; size].into_boxed_slice())
    }

    fn give(&self, buffer: Box<[u8]>) {
        let class = class(buffer.len());
        let mut kept = self.read[class].borrow_mut();
        if !buffer.is_empty() && kept.len() < KEPT[class] {
            kept.push(buffer);
        }
    }

    /// An empty write buffer.
    pub(crate) fn take_out(&self) -> Vec<u8> {
        self.write.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes a write buffer back.
    pub(crate) fn give_out(&self, mut buffer: Vec<u8>) {
        let mut kept = self.write.borrow_mut();
        if buffer.capacity() > 0 && buffer.capacity() <= KEPT_OUT_BYTES && kept.len() < KEPT[0] {
            buffer.clear();
            kept.push(buffer);
        }
    }
}

/// Bytes read and not yet used. Empty (no memory at all) until the first read.
#[derive(Default)]
pub(crate) struct ReadBuffer {
    data: Box<[u8]>,
    start: usize,
    end: usize,
}

impl ReadBuffer {
    pub(crate) fn unread(&self) -> &[u8] {
        &self.data[self.start..self.end]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    /// Marks `count` bytes as used. They stay in place until the next [`Self::poll_fill`] needs room, see [`Self::rewind`].
    pub(crate) fn consume(&mut self, count: usize) {
        debug_assert!(count <= self.len());
        self.start = (self.start + count).min(self.end);
    }

    /// Where the unread bytes begin, for [`Self::rewind`].
    pub(crate) fn mark(&self) -> usize {
        self.start
    }

    /// Makes bytes unread again. Only right while no [`Self::poll_fill`] moved them, which the caller tracks.
    pub(crate) fn rewind(&mut self, mark: usize) {
        debug_assert!(mark <= self.start);
        self.start = mark.min(self.end);
    }

    /// Gives the memory back if nothing is unread.
    pub(crate) fn release(&mut self, pool: &BufferPool) {
        if self.is_empty() && !self.data.is_empty() {
            pool.give(std::mem::take(&mut self.data));
            (self.start, self.end) = (0, 0);
        }
    }

    /// Drops what is unread and gives the memory back.
    pub(crate) fn discard(&mut self, pool: &BufferPool) {
        self.start = self.end;
        self.release(pool);
    }

    /// Makes the buffer at least `size` large, one of the classes above.
    pub(crate) fn ensure(&mut self, pool: &BufferPool, size: usize) {
        if self.data.len() >= size {
            return;
        }
        let mut larger = pool.take(size);
        let unread = self.len();
        larger[..unread].copy_from_slice(self.unread());
        pool.give(std::mem::replace(&mut self.data, larger));
        (self.start, self.end) = (0, unread);
    }

    /// True where not one more byte fits, even after moving.
    pub(crate) fn is_full(&self) -> bool {
        self.len() == self.data.len()
    }

    /// The next larger class, or `None` at the end of the ladder.
    pub(crate) fn next_size(&self) -> Option<usize> {
        match self.data.len() {
            0 => Some(SMALL),
            SMALL => Some(MEDIUM),
            MEDIUM => Some(LARGE),
            _ => None,
        }
    }

    /// Reads once. `Ok(0)` is the end of the stream. The buffer must have room ([`Self::is_full`] is false).
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>, io: &mut Transport) -> Poll<io::Result<usize>> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.data.len() {
            self.data.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let mut target = ReadBuf::new(&mut self.data[self.end..]);
        std::task::ready!(Pin::new(io).poll_read(cx, &mut target))?;
        let count = target.filled().len();
        self.end += count;
        Poll::Ready(Ok(count))
    }
}

/// Bytes to be written.
#[derive(Default)]
pub(crate) struct WriteBuffer {
    data: Vec<u8>,
    written: usize,
}

impl WriteBuffer {
    /// The buffer to append to, taken from the pool at first use.
    pub(crate) fn bytes(&mut self, pool: &BufferPool) -> &mut Vec<u8> {
        if self.data.capacity() == 0 {
            self.data = pool.take_out();
        }
        &mut self.data
    }

    pub(crate) fn pending(&self) -> &[u8] {
        &self.data[self.written..]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.written == self.data.len()
    }

    /// Marks bytes as written.
    pub(crate) fn advance(&mut self, count: usize) {
        self.written += count;
        debug_assert!(self.written <= self.data.len());
        if self.written >= self.data.len() {
            self.data.clear();
            self.written = 0;
        }
    }

    /// Forgets what is pending.
    pub(crate) fn clear(&mut self) {
        self.data.clear();
        self.written = 0;
    }

    /// Gives the memory back if nothing is pending.
    pub(crate) fn release(&mut self, pool: &BufferPool) {
        if self.is_empty() {
            self.written = 0;
            pool.give_out(std::mem::take(&mut self.data));
        }
    }

    /// Writes until nothing is pending.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, io: &mut Transport) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let count = std::task::ready!(Pin::new(&mut *io).poll_write(cx, self.pending()))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(count);
        }
        Poll::Ready(Ok(()))
    }
}
