//! Response bodies: the pattern that clients can verify at any offset, and the
//! shapes (paced, cut short, chunked with trailers) in which it is sent.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};

/// What can end a body early.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;
/// Every response body of the backend.
pub(crate) type EchoBody = UnsyncBoxBody<Bytes, BodyError>;

/// Name of the trailer that `/chunked/…?trailers=1` sends: [`checksum`] of the body in hex.
pub(crate) const CHECKSUM_TRAILER: HeaderName = HeaderName::from_static("x-checksum");

/// The byte at `offset` of every pattern body. The period is a prime, so that a body that lost,
/// doubled or swapped a buffer of any usual size does not look right.
pub fn pattern_byte(offset: u64) -> u8 {
    (offset % PERIOD) as u8
}

/// FNV-1a, 64 bits: the checksum that `x-checksum` trailers carry.
pub fn checksum(bytes: &[u8]) -> u64 {
    checksum_from(FNV_OFFSET, bytes)
}

const PERIOD: u64 = 251;
const BLOCK: usize = PERIOD as usize * 256;
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

static PATTERN: LazyLock<Bytes> = LazyLock::new(|| (0..BLOCK as u64).map(pattern_byte).collect());

fn checksum_from(start: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(start, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// `len` bytes of the pattern from `offset`, without a copy where they fit one block.
fn pattern(offset: u64, len: usize) -> Bytes {
    let start = (offset % PERIOD) as usize;
    if start + len <= BLOCK {
        PATTERN.slice(start..start + len)
    } else {
        (offset..offset + len as u64).map(pattern_byte).collect()
    }
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> EchoBody {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// A pattern body whose length is known, so that it gets a Content-Length.
pub(crate) fn sized(len: u64) -> EchoBody {
    Pattern { offset: 0, len }.map_err(|never| match never {}).boxed_unsync()
}

/// The same, of a length that the receiver learns only at its end.
pub(crate) fn unsized_pattern(len: u64) -> EchoBody {
    paced(len, BLOCK, Duration::ZERO, Ending::Complete)
}

/// How a paced body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Complete,
    /// With an error, which closes the connection or resets the stream.
    Broken,
}

/// `len` pattern bytes, `size` at a time, with a pause before each piece.
pub(crate) fn paced(len: u64, size: usize, every: Duration, ending: Ending) -> EchoBody {
    // What was sent must be on the wire before the body breaks: the server drops what it buffers.
    const SETTLE: Duration = Duration::from_millis(30);
    let frames = stream::unfold(0u64, move |offset| async move {
        if offset == len {
            if ending == Ending::Complete {
                return None;
            }
            tokio::time::sleep(SETTLE).await;
            let broken: BodyError = Box::new(io::Error::other("cut short as the request asked"));
            return Some((Err(broken), len + 1));
        }
        if offset > len {
            return None;
        }
        if !every.is_zero() {
            tokio::time::sleep(every).await;
        }
        let piece = (size as u64).min(len - offset);
        Some((Ok(Frame::data(pattern(offset, piece as usize))), offset + piece))
    });
    StreamBody::new(frames).boxed_unsync()
}

/// `count` pieces of `size` bytes (one chunk each in HTTP/1.1), then perhaps a checksum trailer.
pub(crate) fn chunked(count: u64, size: usize, trailers: bool) -> EchoBody {
    let frames = stream::unfold((0u64, FNV_OFFSET), move |(sent, sum)| async move {
        if sent < count {
            let piece = pattern(sent * size as u64, size);
            let sum = if trailers { checksum_from(sum, &piece) } else { sum };
            return Some((Ok(Frame::data(piece)), (sent + 1, sum)));
        }
        if !trailers || sent > count {
            return None;
        }
        let mut fields = HeaderMap::new();
        if let Ok(value) = HeaderValue::try_from(format!("{sum:016x}")) {
            fields.insert(CHECKSUM_TRAILER, value);
        }
        Some((Ok(Frame::trailers(fields)), (sent + 1, sum)))
    });
    StreamBody::new(frames).boxed_unsync()
}

struct Pattern {
    offset: u64,
    len: u64,
}

impl Body for Pattern {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let me = self.get_mut();
        let left = me.len - me.offset;
        if left == 0 {
            return Poll::Ready(None);
        }
        let piece = left.min(BLOCK as u64);
        let bytes = pattern(me.offset, piece as usize);
        me.offset += piece;
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.offset == self.len
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.len - self.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_pattern_is_the_same_however_it_is_cut(offset in 0u64..1 << 40, len in 0usize..200_000) {
            let piece = pattern(offset, len);
            prop_assert_eq!(piece.len(), len);
            for index in [0, len / 3, len / 2, len.saturating_sub(1)] {
                if index < len {
                    prop_assert_eq!(piece[index], pattern_byte(offset + index as u64));
                }
            }
        }

        #[test]
        fn the_checksum_continues_across_pieces(bytes in prop::collection::vec(any::<u8>(), 0..500), cut in 0usize..500) {
            let (left, right) = bytes.split_at(cut.min(bytes.len()));
            prop_assert_eq!(checksum_from(checksum(left), right), checksum(&bytes));
        }
    }
}
