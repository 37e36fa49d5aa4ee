//! Where workers hand over what becomes spans.

use super::Spans;
use super::queue::{DropReason, SpanQueue, SpanRecord};
use crate::request::{FinishedRequest, RequestSink, RequestSinks};
use std::sync::Arc;
use std::time::SystemTime;

/// Enough for a request with one try and common texts, so that the buffer grows once in a worker's life.
const COMMON: usize = 2048;

/// Makes spans of the requests of every worker.
#[derive(Clone, Debug)]
pub struct SpanSinks {
    queue: Arc<SpanQueue>,
}

impl SpanSinks {
    /// Spans go into the queue.
    pub fn new(queue: Arc<SpanQueue>) -> Self {
        Self { queue }
    }
}

impl RequestSinks for SpanSinks {
    fn of_worker(&self, _index: usize) -> Box<dyn RequestSink> {
        Box::new(SpanSink {
            queue: Arc::clone(&self.queue),
            spans: Spans::default(),
            scratch: Vec::with_capacity(COMMON),
        })
    }
}

struct SpanSink {
    queue: Arc<SpanQueue>,
    spans: Spans,
    /// Spans are written here and kept in a piece of memory of their own size.
    scratch: Vec<u8>,
}

impl RequestSink for SpanSink {
    fn finished(&mut self, request: &FinishedRequest<'_>) {
        if !super::is_recorded(request) {
            return;
        }
        if self.queue.is_full() {
            // Writing them would be for nothing, and a gateway that is that busy has other things to do.
            self.queue.counts().count_dropped(DropReason::QueueFull, 1 + request.tries.len());
            return;
        }
        self.scratch.clear();
        let spans = self.spans.write(request, SystemTime::now(), &mut self.scratch);
        if spans > 0 {
            self.queue.push(SpanRecord { spans, bytes: self.scratch.as_slice().into() });
        }
    }
}
