//! Bodies of answers: a document, or lines that go on.

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

/// Lines that come as they do, each with its line feed. Dropped, nobody reads them any more.
pub trait Lines: Send {
    /// The next one; `None` = there will be no more.
    fn poll_line(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>>;
}

/// The body of an answer.
pub(crate) enum AnswerBody {
    Whole(Full<Bytes>),
    Lines { lines: Box<dyn Lines>, _open: Streaming },
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Whole(document) => Pin::new(document).poll_frame(context),
            Self::Lines { lines, .. } => lines.poll_line(context).map(|line| line.map(|line| Ok(Frame::data(line)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(document) => document.is_end_stream(),
            Self::Lines { .. } => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(document) => document.size_hint(),
            Self::Lines { .. } => SizeHint::default(),
        }
    }
}

/// Answers of one connection that go on: it is not too old while there is one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Streams(Arc<AtomicUsize>);

impl Streams {
    pub(crate) fn begin(&self) -> Streaming {
        self.0.fetch_add(1, Ordering::Relaxed);
        Streaming(Arc::clone(&self.0))
    }

    pub(crate) fn are_open(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Streaming(Arc<AtomicUsize>);

impl Drop for Streaming {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
