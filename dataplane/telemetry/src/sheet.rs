//! What a line is written on: memory of fixed size that is there already, so that words of known length are a few stores.
//! What does not fit goes on in the buffer that the line is for.

use crate::text::{self, Escape};

/// Nearly all lines are shorter.
const SIZE: usize = 4096;

/// The memory of one sheet, kept between lines.
#[derive(Debug)]
pub(crate) struct Paper(Box<[u8; SIZE]>);

impl Default for Paper {
    fn default() -> Self {
        Self(Box::new([0; SIZE]))
    }
}

/// A line that is being written.
pub(crate) struct Sheet<'a> {
    paper: &'a mut [u8; SIZE],
    /// Bytes of `paper` that are written.
    at: usize,
    /// What is before them, and where all of it goes.
    out: &'a mut Vec<u8>,
}

impl<'a> Sheet<'a> {
    /// A line behind what is in the buffer. It is there once [`Sheet::finish`] was called.
    pub(crate) fn begin(paper: &'a mut Paper, out: &'a mut Vec<u8>) -> Self {
        Self { paper: &mut paper.0, at: 0, out }
    }

    /// Puts what was written into the buffer.
    pub(crate) fn finish(mut self) {
        self.empty();
    }

    /// Bytes as they are. Where their number is known when this is compiled they are stored without a loop.
    #[inline(always)]
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        match self.paper.get_mut(self.at..self.at + bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.at += bytes.len();
            }
            None => self.put_behind(bytes),
        }
    }

    /// The first so many of some bytes.
    #[inline(always)]
    pub(crate) fn put_first<const N: usize>(&mut self, bytes: &[u8; N], count: usize) {
        match self.paper.get_mut(self.at..self.at + N) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.at += count.min(N);
            }
            None => self.put_behind(&bytes[..count.min(N)]),
        }
    }

    /// Text that strangers chose.
    pub(crate) fn put_escaped(&mut self, escape: Escape, text: &[u8]) {
        let room = self.paper.get_mut(self.at..self.at + text.len());
        if room.is_some_and(|room| text::copy_plain(text, room)) {
            self.at += text.len();
        } else {
            self.escape_behind(escape, text);
        }
    }

    #[cold]
    #[inline(never)]
    fn put_behind(&mut self, bytes: &[u8]) {
        self.empty();
        self.out.extend_from_slice(bytes);
    }

    #[cold]
    #[inline(never)]
    fn escape_behind(&mut self, escape: Escape, text: &[u8]) {
        self.empty();
        escape.write(self.out, text);
    }

    fn empty(&mut self) {
        self.out.extend_from_slice(&self.paper[..self.at]);
        self.at = 0;
    }
}
