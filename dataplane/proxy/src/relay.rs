//! Moves the bodies of one exchange between client and backend, in both directions at once, under deadlines.
//!
//! It knows neither HTTP/1.1 nor HTTP/2: both ends are [`crate::peer`]s.

use crate::body_splice::{BodySplice, Failed};
use crate::peer::{Downstream, Filled, Peer, PeerError, Upstream};
use crate::watchdog::Watchdog;
use sluicegate_http1::{HeadLimits, RequestHead, ResponseHead};
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Most interim responses to one request: a backend that sends them without end keeps nobody waiting for ever.
const MAX_INTERIM: usize = 64;

/// Who is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// The client's next piece of the request body.
    ClientBody,
    /// The client taking the response.
    ClientWrite,
    /// The backend's next bytes.
    UpstreamRead,
    /// The backend taking the request.
    UpstreamSend,
    /// Either side of a tunnel.
    Tunnel,
}

/// Why an exchange ended before its time.
#[derive(Debug)]
pub(crate) enum Break {
    Client(PeerError),
    Upstream(PeerError),
    BodyTooLarge,
    TimedOut(Waiting),
}

/// The longest pauses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) request_body: Duration,
    pub(crate) client_write: Duration,
    pub(crate) upstream_read: Duration,
    pub(crate) upstream_send: Duration,
    pub(crate) tunnel: Duration,
}

#[derive(Debug)]
enum RequestSide {
    Body,
    Flushing,
    Done,
    /// The backend takes no more of it; its answer may be there all the same.
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ResponseSide {
    Head,
    Body,
    Flushing,
    Done,
}

/// One exchange on its way.
pub(crate) struct Relay<'a> {
    watchdog: &'a mut Watchdog,
    pace: Pace,
    max_body: u64,
    response_limits: HeadLimits,
    request: RequestSide,
    response: ResponseSide,
    request_splice: BodySplice,
    response_splice: BodySplice,
    tunnel: bool,
    /// One side broke off. What it had sent before goes to the other side first.
    broken: Option<Break>,
    request_waits: Option<Waiting>,
    response_waits: Option<Waiting>,
    request_moved: Instant,
    response_moved: Instant,
    /// What time it is, as long as nothing is waited for.
    now: Option<Instant>,
    /// Body bytes that came from the client.
    pub(crate) bytes_in: u64,
    /// Body bytes that went to the client.
    pub(crate) bytes_out: u64,
}

impl<'a> Relay<'a> {
    /// `max_body` = 0 means no limit. `with_body` is false where the request has no body, or none before an upgrade.
    pub(crate) fn new(
        watchdog: &'a mut Watchdog,
        pace: Pace,
        max_body: u64,
        response_limits: HeadLimits,
        with_body: bool,
        now: Instant,
    ) -> Self {
        Self {
            watchdog,
            pace,
            max_body,
            response_limits,
            request: if with_body { RequestSide::Body } else { RequestSide::Flushing },
            response: ResponseSide::Head,
            request_splice: BodySplice::default(),
            response_splice: BodySplice::default(),
            tunnel: false,
            broken: None,
            request_waits: None,
            response_waits: None,
            request_moved: now,
            response_moved: now,
            now: Some(now),
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    /// What time it is. The clock is read once between two waits: that is exact enough for everything that is measured
    /// here, and reading it for each piece that moves would cost as much as parsing a head.
    pub(crate) fn now(&mut self) -> Instant {
        *self.now.get_or_insert_with(Instant::now)
    }

    /// Something was waited for outside of the relay.
    pub(crate) fn waited(&mut self) {
        self.now = None;
    }

    fn remember_wait<T>(&mut self, polled: Poll<T>) -> Poll<T> {
        if polled.is_pending() {
            self.now = None;
        }
        polled
    }

    /// Sends the request and waits for the final response head; interim responses go to the client on the way.
    pub(crate) async fn head<D: Downstream, U: Upstream>(
        &mut self,
        downstream: &mut D,
        upstream: &mut U,
        request: &RequestHead,
        response: &mut ResponseHead,
    ) -> Result<(), Break> {
        for _ in 0..=MAX_INTERIM {
            response.clear();
            poll_fn(|cx| {
                let polled = self.poll_head(cx, downstream, upstream, request, response);
                self.remember_wait(polled)
            })
            .await?;
            let interim = response.is_informational() && response.status() != 101;
            if !interim {
                self.response = ResponseSide::Body;
                return Ok(());
            }
            if request.version() != sluicegate_http1::Version::Http10 {
                downstream.send_interim(response);
            }
        }
        Err(Break::Upstream(PeerError::Overflow))
    }

    fn poll_head<D: Downstream, U: Upstream>(
        &mut self,
        cx: &mut Context<'_>,
        downstream: &mut D,
        upstream: &mut U,
        request: &RequestHead,
        response: &mut ResponseHead,
    ) -> Poll<Result<(), Break>> {
        self.pump_request(cx, downstream, upstream)?;
        // Interim responses that are queued must not wait for the final one.
        if let Poll::Ready(Err(error)) = downstream.poll_flush(cx) {
            return Poll::Ready(Err(Break::Client(error)));
        }
        match upstream.poll_head(cx, request, response, &self.response_limits) {
            Poll::Ready(Ok(())) => {
                self.response_moved = self.now();
                return Poll::Ready(Ok(()));
            }
            Poll::Ready(Err(error)) => return Poll::Ready(Err(Break::Upstream(error))),
            Poll::Pending => self.response_waits = Some(Waiting::UpstreamRead),
        }
        if let Poll::Ready(error) = downstream.poll_gone(cx) {
            return Poll::Ready(Err(Break::Client(error)));
        }
        self.poll_deadline(cx)
    }

    /// Both sides agreed on an upgrade: bytes are opaque from here on.
    pub(crate) fn enter_tunnel<D: Downstream, U: Upstream>(&mut self, downstream: &mut D, upstream: &mut U) {
        downstream.enter_tunnel();
        upstream.enter_tunnel();
        self.tunnel = true;
        self.max_body = 0;
        self.request = RequestSide::Body;
        self.response = ResponseSide::Body;
        self.request_moved = self.now();
    }

    /// Moves the rest: the response body, and what is left of the request body. Returns whether the request was sent
    /// to its end, which decides if the backend's connection can be used again.
    pub(crate) async fn body<D: Downstream, U: Upstream>(
        &mut self,
        downstream: &mut D,
        upstream: &mut U,
    ) -> Result<bool, Break> {
        poll_fn(|cx| {
            let polled = self.poll_body(cx, downstream, upstream);
            self.remember_wait(polled)
        })
        .await?;
        Ok(matches!(self.request, RequestSide::Done))
    }

    fn poll_body<D: Downstream, U: Upstream>(
        &mut self,
        cx: &mut Context<'_>,
        downstream: &mut D,
        upstream: &mut U,
    ) -> Poll<Result<(), Break>> {
        self.pump_request(cx, downstream, upstream)?;
        self.pump_response(cx, downstream, upstream)?;
        let request_over = matches!(self.request, RequestSide::Done | RequestSide::Refused);
        if self.response == ResponseSide::Done && (request_over || !self.tunnel) {
            return Poll::Ready(Ok(()));
        }
        if let Poll::Ready(error) = downstream.poll_gone(cx) {
            return Poll::Ready(Err(Break::Client(error)));
        }
        self.poll_deadline(cx)
    }

    fn pump_request<D: Peer, U: Peer>(
        &mut self,
        cx: &mut Context<'_>,
        downstream: &mut D,
        upstream: &mut U,
    ) -> Result<(), Break> {
        self.request_waits = None;
        loop {
            if matches!(self.request, RequestSide::Body) && self.splice_request(cx, downstream, upstream)? {
                if self.request_waits.is_some() {
                    return Ok(());
                }
                continue;
            }
            match self.request {
                RequestSide::Body => match downstream.poll_fill(cx) {
                    Poll::Ready(Ok(Filled::Data)) => {
                        let ready = downstream.chunk().len();
                        if self.max_body != 0 && self.bytes_in + ready as u64 > self.max_body {
                            return Err(Break::BodyTooLarge);
                        }
                        match upstream.poll_send(cx, downstream) {
                            Poll::Ready(Ok(())) => {
                                self.bytes_in += (ready - downstream.chunk().len()) as u64;
                                self.request_moved = self.now();
                            }
                            Poll::Ready(Err(_)) => self.request = RequestSide::Refused,
                            Poll::Pending => {
                                self.request_waits = Some(Waiting::UpstreamSend);
                                return Ok(());
                            }
                        }
                    }
                    Poll::Ready(Ok(Filled::End)) => {
                        self.request = match upstream.finish(downstream.trailers()) {
                            Ok(()) => RequestSide::Flushing,
                            Err(error) => return Err(Break::Client(error)),
                        };
                    }
                    // In a tunnel the bytes before the break mean something without those behind it.
                    Poll::Ready(Err(error)) if self.tunnel => {
                        self.broken = Some(Break::Client(error));
                        self.request = match upstream.finish(downstream.trailers()) {
                            Ok(()) => RequestSide::Flushing,
                            Err(_) => RequestSide::Refused,
                        };
                    }
                    Poll::Ready(Err(error)) => return Err(Break::Client(error)),
                    Poll::Pending => {
                        self.request_waits = Some(Waiting::ClientBody);
                        match upstream.poll_flush(cx) {
                            Poll::Ready(Ok(())) => {}
                            Poll::Ready(Err(_)) => self.request = RequestSide::Refused,
                            Poll::Pending => self.request_waits = Some(Waiting::UpstreamSend),
                        }
                        return Ok(());
                    }
                },
                RequestSide::Flushing => match upstream.poll_flush(cx) {
                    Poll::Ready(Ok(())) => {
                        self.request = RequestSide::Done;
                        self.request_moved = self.now();
                    }
                    Poll::Ready(Err(_)) => self.request = RequestSide::Refused,
                    Poll::Pending => {
                        self.request_waits = Some(Waiting::UpstreamSend);
                        return Ok(());
                    }
                },
                RequestSide::Done | RequestSide::Refused => {
                    return match self.broken.take_if(|broken| matches!(broken, Break::Client(_))) {
                        Some(broken) => Err(broken),
                        None => Ok(()),
                    };
                }
            }
        }
    }

    fn pump_response<D: Peer, U: Peer>(
        &mut self,
        cx: &mut Context<'_>,
        downstream: &mut D,
        upstream: &mut U,
    ) -> Result<(), Break> {
        self.response_waits = None;
        loop {
            if self.response == ResponseSide::Body && self.splice_response(cx, downstream, upstream)? {
                if self.response_waits.is_some() {
                    return Ok(());
                }
                continue;
            }
            match self.response {
                ResponseSide::Body => match upstream.poll_fill(cx) {
                    Poll::Ready(Ok(Filled::Data)) => {
                        let ready = upstream.chunk().len();
                        match downstream.poll_send(cx, upstream) {
                            Poll::Ready(Ok(())) => {
                                self.bytes_out += (ready - upstream.chunk().len()) as u64;
                                self.response_moved = self.now();
                            }
                            Poll::Ready(Err(error)) => return Err(Break::Client(error)),
                            Poll::Pending => {
                                self.response_waits = Some(Waiting::ClientWrite);
                                return Ok(());
                            }
                        }
                    }
                    Poll::Ready(Ok(Filled::End)) => {
                        downstream.finish(upstream.trailers()).map_err(Break::Client)?;
                        self.response = ResponseSide::Flushing;
                    }
                    Poll::Ready(Err(error)) => {
                        self.upstream_broke(downstream, upstream, error)?;
                    }
                    Poll::Pending => {
                        self.response_waits = Some(Waiting::UpstreamRead);
                        match downstream.poll_flush(cx) {
                            Poll::Ready(Ok(())) => {}
                            Poll::Ready(Err(error)) => return Err(Break::Client(error)),
                            Poll::Pending => self.response_waits = Some(Waiting::ClientWrite),
                        }
                        return Ok(());
                    }
                },
                ResponseSide::Flushing => match downstream.poll_flush(cx) {
                    Poll::Ready(Ok(())) => {
                        self.response = ResponseSide::Done;
                        if let Some(broken) = self.broken.take() {
                            return Err(broken);
                        }
                    }
                    Poll::Ready(Err(error)) => return Err(Break::Client(error)),
                    Poll::Pending => {
                        self.response_waits = Some(Waiting::ClientWrite);
                        return Ok(());
                    }
                },
                ResponseSide::Head | ResponseSide::Done => return Ok(()),
            }
        }
    }

    /// True where a piece of the body went past the buffers, or is waited for ([`Self::request_waits`]).
    fn splice_request<D: Peer, U: Peer>(
        &mut self,
        cx: &mut Context<'_>,
        downstream: &mut D,
        upstream: &mut U,
    ) -> Result<bool, Break> {
        // A body whose length is known was held against the limit before it was begun.
        match self.request_splice.poll_move(cx, downstream, upstream) {
            Poll::Ready(Ok(0)) => return Ok(false),
            Poll::Ready(Ok(moved)) => {
                self.bytes_in += moved;
                self.request_moved = self.now();
            }
            Poll::Ready(Err(Failed::Sink(_))) => self.request = RequestSide::Refused,
            Poll::Ready(Err(Failed::Source(error))) => return Err(Break::Client(error)),
            Poll::Pending if self.request_splice.holds_bytes() => self.request_waits = Some(Waiting::UpstreamSend),
            Poll::Pending => self.request_waits = Some(Waiting::ClientBody),
        }
        Ok(true)
    }

    /// True where a piece of the body went past the buffers, or is waited for ([`Self::response_waits`]).
    fn splice_response<D: Peer, U: Peer>(
        &mut self,
        cx: &mut Context<'_>,
        downstream: &mut D,
        upstream: &mut U,
    ) -> Result<bool, Break> {
        match self.response_splice.poll_move(cx, upstream, downstream) {
            Poll::Ready(Ok(0)) => return Ok(false),
            Poll::Ready(Ok(moved)) => {
                self.bytes_out += moved;
                self.response_moved = self.now();
            }
            Poll::Ready(Err(Failed::Sink(error))) => return Err(Break::Client(error)),
            Poll::Ready(Err(Failed::Source(error))) => self.upstream_broke(downstream, upstream, error)?,
            Poll::Pending if self.response_splice.holds_bytes() => self.response_waits = Some(Waiting::ClientWrite),
            Poll::Pending => self.response_waits = Some(Waiting::UpstreamRead),
        }
        Ok(true)
    }

    /// The backend broke off: what it had sent still goes to the client. A backend that closes a tunnel with bytes of
    /// the client unread resets it, often right behind its last message: there the reset is an end like any other.
    fn upstream_broke<D: Peer, U: Peer>(
        &mut self,
        downstream: &mut D,
        upstream: &mut U,
        error: PeerError,
    ) -> Result<(), Break> {
        self.response = ResponseSide::Flushing;
        if self.tunnel {
            self.request = RequestSide::Refused;
            return downstream.finish(upstream.trailers()).map_err(Break::Client);
        }
        self.broken = Some(Break::Upstream(error));
        Ok(())
    }

    /// Ready with the wait that lasted too long.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Break>> {
        let latest = self.request_moved.max(self.response_moved);
        let (deadline, waiting) = if self.tunnel {
            (latest + self.pace.tunnel, Waiting::Tunnel)
        } else {
            // As long as the client owes a part of the request, the backend owes nobody an answer.
            let owes_request = self.request_waits == Some(Waiting::ClientBody) && self.response == ResponseSide::Head;
            let request = match self.request_waits {
                // A client may stream its body as slowly as the answer comes once there is an answer (gRPC).
                Some(Waiting::ClientBody) if owes_request => {
                    Some((self.request_moved + self.pace.request_body, Waiting::ClientBody))
                }
                Some(Waiting::UpstreamSend) => {
                    Some((self.request_moved + self.pace.upstream_send, Waiting::UpstreamSend))
                }
                _ => None,
            };
            let response = match self.response_waits {
                Some(Waiting::ClientWrite) => {
                    Some((self.response_moved + self.pace.client_write, Waiting::ClientWrite))
                }
                Some(Waiting::UpstreamRead) if !owes_request => {
                    Some((latest + self.pace.upstream_read, Waiting::UpstreamRead))
                }
                _ => None,
            };
            match (request, response) {
                (Some(a), Some(b)) => std::cmp::min_by_key(a, b, |wait| wait.0),
                (Some(one), None) | (None, Some(one)) => one,
                (None, None) => return Poll::Pending,
            }
        };
        std::task::ready!(self.watchdog.poll_expired(cx, deadline));
        Poll::Ready(Err(Break::TimedOut(waiting)))
    }
}
