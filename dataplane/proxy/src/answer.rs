//! What the gateway answers by itself: faults and redirects, sent as any other response.

use crate::exchange::{Ask, Ended, Session};
use crate::fault::{self, Canned, Fault};
use crate::headers::SmallText;
use crate::peer::{Downstream, Filled, PeerError};
use crate::watchdog::Watchdog;
use crate::worker::Heads;
use sluicegate_http1::{Framing, HeadLimits, Version, canonical_reason};
use sluicegate_route::{CompiledRoute, redirect_location};
use std::future::poll_fn;
use std::time::Instant;

/// Answers a request by itself.
pub(crate) async fn answer_fault<D: Downstream>(
    session: &Session<'_>,
    ask: &Ask,
    fault: &Fault,
    request_id: &SmallText,
    downstream: &mut D,
    heads: &mut Heads,
    watchdog: &mut Watchdog,
) -> Ended {
    let id = std::str::from_utf8(&request_id.0).unwrap_or_default();
    let body = fault::render(fault, &heads.request, id, &session.worker.date(Instant::now()), &mut heads.response);
    let close = ask.close || fault.close || session.worker.is_draining();
    answer(session, close, body, downstream, heads, watchdog).await
}

/// Answers with the redirect of the nginx dialect to the same URL with a slash at its end.
pub(crate) async fn redirect_with_slash<D: Downstream>(
    session: &Session<'_>,
    route: &CompiledRoute,
    ask: &Ask,
    downstream: &mut D,
    heads: &mut Heads,
    watchdog: &mut Watchdog,
) -> Ended {
    let Heads { request, response, .. } = &mut *heads;
    let mut location = Vec::new();
    redirect_location(route, request.path(), request.query(), &mut location);
    response.clear();
    // Every text is ours, or part of a target that the codec took.
    let _ = response.begin(Version::Http11, 301, canonical_reason(301).as_bytes());
    let _ = response.push(b"location", &location);
    let _ = response.push(b"date", &session.worker.date(Instant::now()));
    response.set_framing(if request.is_head() { Framing::None } else { Framing::Length(0) });
    let _ = response.finish(&HeadLimits::default());
    answer(session, ask.close || session.worker.is_draining(), Canned(bytes::Bytes::new()), downstream, heads, watchdog)
        .await
}

/// Most bytes of a request body that are thrown away to keep a connection.
const DISCARD: usize = 64 * 1024;

/// Throws away what is here already of a request body that nobody wants, so that a small one does not cost the
/// connection. False if some of it is still to come: then the connection ends, since nobody would read it.
async fn discard_what_came<D: Downstream>(downstream: &mut D) -> bool {
    if downstream.has_read_request() {
        return true;
    }
    let mut left = DISCARD;
    poll_fn(|cx| {
        while let std::task::Poll::Ready(Ok(Filled::Data)) = downstream.poll_fill(cx) {
            let count = downstream.chunk().len();
            downstream.consume(count);
            left = left.saturating_sub(count);
            if left == 0 {
                break;
            }
        }
        std::task::Poll::Ready(downstream.has_read_request())
    })
    .await
}

/// Sends the response in `heads` with a body that is there already.
async fn answer<D: Downstream>(
    session: &Session<'_>,
    close: bool,
    mut body: Canned,
    downstream: &mut D,
    heads: &mut Heads,
    watchdog: &mut Watchdog,
) -> Ended {
    use crate::peer::Peer;
    let close = close || !discard_what_came(downstream).await;
    if downstream.send_head(&heads.request, &heads.response, close).is_err() {
        return Ended::Cut;
    }
    let deadline = Instant::now() + session.worker.settings.timeouts.client_write;
    let sent = poll_fn(|cx| {
        if watchdog.poll_expired(cx, deadline).is_ready() {
            return std::task::Poll::Ready(Err(PeerError::Closed));
        }
        while !body.chunk().is_empty() {
            std::task::ready!(downstream.poll_send(cx, &mut body))?;
        }
        std::task::Poll::Ready(Ok(()))
    })
    .await
    .and_then(|()| downstream.finish(crate::peer::TrailerFields::None));
    if sent.is_err() {
        return Ended::Cut;
    }
    let flushed = poll_fn(|cx| {
        if watchdog.poll_expired(cx, deadline).is_ready() {
            return std::task::Poll::Ready(Err(PeerError::Closed));
        }
        downstream.poll_flush(cx)
    })
    .await;
    if flushed.is_err() { Ended::Cut } else { Ended::Answered { close } }
}
