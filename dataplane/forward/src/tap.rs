//! Sampled packets as a capture file (pcapng), each with the verdict as its comment.
//!
//! XDP takes packets before any socket sees them, and what it sends no socket sees either, so tcpdump on a director is
//! blind. This writes a format that Wireshark reads:
//! <https://datatracker.ietf.org/doc/draft-ietf-opsawg-pcapng/>. It opens no socket and decides nothing.

use sluicegate_l4::layout::SampleHead;
use sluicegate_l4::verdict::Reason;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const ETHERNET: u16 = 1;
const OPTION_END: u16 = 0;
const OPTION_COMMENT: u16 = 1;
const OPTION_NAME: u16 = 2;
const OPTION_RESOLUTION: u16 = 9;

/// A sampled packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Time by the monotonic clock.
    pub time: Duration,
    /// Interface that it came in on.
    pub ifindex: u32,
    /// Length of the whole frame.
    pub length: u32,
    /// What became of it; `None` = a reason that this version does not know.
    pub reason: Option<Reason>,
    /// Backend id, 0 = none.
    pub backend: u16,
    /// Service id, 0 = none.
    pub service: u16,
    /// Beginning of the frame.
    pub frame: Vec<u8>,
}

impl Sample {
    /// Reads a record of the queue. `None` where it is shorter than it says.
    #[must_use]
    pub fn read(record: &[u8]) -> Option<Self> {
        let (head, frame) = record.split_at_checked(size_of::<SampleHead>())?;
        let word = |at: usize| Some(u32::from_ne_bytes(head.get(at..at + 4)?.try_into().ok()?));
        let half = |at: usize| Some(u16::from_ne_bytes(head.get(at..at + 2)?.try_into().ok()?));
        let reason = u32::from(half(18)?);
        Some(Self {
            time: Duration::from_nanos(u64::from_ne_bytes(head.get(..8)?.try_into().ok()?)),
            ifindex: word(8)?,
            length: word(12)?,
            reason: Reason::ALL.iter().copied().find(|known| known.index() == reason),
            backend: half(20)?,
            service: half(22)?,
            // The record has room for the longest; only so many bytes were written.
            frame: frame.get(..usize::from(half(16)?).min(frame.len()))?.to_vec(),
        })
    }
}

/// Writes a capture file.
pub struct CaptureWriter<W> {
    out: W,
    /// Wall-clock time minus monotonic time.
    epoch: Duration,
    interfaces: BTreeMap<u32, u32>,
}

impl<W: Write> CaptureWriter<W> {
    /// Begins a file. `epoch` is wall-clock time minus monotonic time.
    ///
    /// # Errors
    /// Where writing fails.
    pub fn new(mut out: W, epoch: Duration) -> io::Result<Self> {
        let mut body = BYTE_ORDER.to_ne_bytes().to_vec();
        body.extend(1_u16.to_ne_bytes());
        body.extend(0_u16.to_ne_bytes());
        // Length of the section: not known.
        body.extend(u64::MAX.to_ne_bytes());
        block(&mut out, SECTION, &body)?;
        Ok(Self { out, epoch, interfaces: BTreeMap::new() })
    }

    /// Writes one packet. `interface` is the name of where it came in, `comment` what an operator should read.
    ///
    /// # Errors
    /// Where writing fails.
    pub fn write(&mut self, sample: &Sample, interface: &str, comment: &str) -> io::Result<()> {
        let number = self.interface(sample.ifindex, interface)?;
        let time = u64::try_from((self.epoch + sample.time).as_nanos()).unwrap_or(u64::MAX);
        let captured = u32::try_from(sample.frame.len()).unwrap_or(u32::MAX);
        let mut body = Vec::with_capacity(sample.frame.len() + comment.len() + 48);
        for word in [number, (time >> 32) as u32, time as u32, captured, sample.length.max(captured)] {
            body.extend(word.to_ne_bytes());
        }
        padded(&mut body, &sample.frame);
        option(&mut body, OPTION_COMMENT, comment.as_bytes());
        option(&mut body, OPTION_END, &[]);
        block(&mut self.out, ENHANCED_PACKET, &body)
    }

    /// Hands everything on to what is below.
    ///
    /// # Errors
    /// Where writing fails.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// The number of an interface in this file; its description is written before the first packet that names it.
    fn interface(&mut self, ifindex: u32, name: &str) -> io::Result<u32> {
        if let Some(number) = self.interfaces.get(&ifindex) {
            return Ok(*number);
        }
        let mut body = ETHERNET.to_ne_bytes().to_vec();
        body.extend(0_u16.to_ne_bytes());
        // No limit on captured bytes is claimed.
        body.extend(0_u32.to_ne_bytes());
        option(&mut body, OPTION_NAME, name.as_bytes());
        // 10^-9 seconds.
        option(&mut body, OPTION_RESOLUTION, &[9]);
        option(&mut body, OPTION_END, &[]);
        block(&mut self.out, INTERFACE, &body)?;
        let number = u32::try_from(self.interfaces.len()).unwrap_or(u32::MAX);
        self.interfaces.insert(ifindex, number);
        Ok(number)
    }
}

fn block(out: &mut impl Write, kind: u32, body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(body.len() + 12).map_err(io::Error::other)?.to_ne_bytes();
    out.write_all(&kind.to_ne_bytes())?;
    out.write_all(&length)?;
    out.write_all(body)?;
    out.write_all(&length)
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = value.get(..value.len().min(usize::from(u16::MAX))).unwrap_or_default();
    body.extend(code.to_ne_bytes());
    body.extend((value.len() as u16).to_ne_bytes());
    padded(body, value);
}

/// Fields end on a multiple of four bytes.
fn padded(body: &mut Vec<u8>, value: &[u8]) {
    body.extend_from_slice(value);
    body.resize(body.len().next_multiple_of(4), 0);
}
