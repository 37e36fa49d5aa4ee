//! Opaque TCP: connections that are passed through by server name, and TCP services. Picks an endpoint, connects, and
//! hands both sockets to [`crate::stream`].

use crate::balance::PickContext;
use crate::connect::ConnectError;
use crate::endpoint::InFlight;
use crate::exchange::hash_address;
use crate::proxy_protocol;
use crate::stream::{Ended, RelayOptions, relay};
use crate::worker::{Registration, Worker};
use bytes::Bytes;
use sluicegate_config::{BackendId, Balance};
use sluicegate_route::BackendSlot;
use sluicegate_telemetry::{LimitName, StreamEnd, StreamKind, UpstreamError};
use smallvec::SmallVec;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;
use tokio::net::TcpStream;

/// Relays a client's connection to an endpoint of `backend`. `prefix` was read from the client already; `header`: the
/// addresses to tell the backend in a PROXY protocol header.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    client: TcpStream,
    prefix: Bytes,
    backend: BackendId,
    kind: StreamKind,
    header: Option<(SocketAddr, SocketAddr)>,
    _registration: Registration,
) {
    worker.metrics.stream_opened(kind);
    let table = worker.table();
    let end = match table.backend_slot(&backend) {
        None => StreamEnd::NoEndpoints,
        Some(slot) => {
            worker.metrics.backend(slot.index() as u32).started();
            let end = relay_to(&worker, client, prefix, &backend, slot, kind, header).await;
            let failed = matches!(end, StreamEnd::NoEndpoints | StreamEnd::ConnectFailed | StreamEnd::BackendReset);
            worker.metrics.backend(slot.index() as u32).finished(failed);
            end
        }
    };
    if matches!(end, StreamEnd::NoEndpoints | StreamEnd::ConnectFailed) {
        tracing::info!(%backend, kind = kind.as_str(), reason = end.as_str(), "stream not relayed");
    }
    worker.metrics.stream_ended(kind, end);
}

async fn relay_to(
    worker: &Rc<Worker>,
    client: TcpStream,
    prefix: Bytes,
    backend: &BackendId,
    slot: BackendSlot,
    kind: StreamKind,
    header: Option<(SocketAddr, SocketAddr)>,
) -> StreamEnd {
    let (upstream, _in_flight) = match connect(worker, &client, backend, slot).await {
        Ok(connected) => connected,
        Err(end) => return end,
    };
    let first = match header {
        None => prefix,
        Some((source, destination)) => {
            let mut with_header = Vec::with_capacity(prefix.len() + 108);
            proxy_protocol::write_v1(&mut with_header, source, destination);
            with_header.extend_from_slice(&prefix);
            with_header.into()
        }
    };
    let options =
        RelayOptions { idle_timeout: worker.settings.timeouts.stream_idle, engine: worker.stream_engine.clone() };
    let outcome = relay(client, upstream, &first, &options, worker.drained()).await;
    worker.metrics.stream_bytes(kind, outcome.bytes_up, outcome.bytes_down);
    match outcome.ended {
        Ended::ClientClosed => StreamEnd::ClientClosed,
        Ended::BackendClosed => StreamEnd::BackendClosed,
        Ended::IdleTimeout => {
            worker.metrics.limit(LimitName::StreamIdleTimeout);
            StreamEnd::IdleTimeout
        }
        Ended::ClientReset => StreamEnd::ClientReset,
        Ended::BackendReset => StreamEnd::BackendReset,
        Ended::Drained => StreamEnd::Drained,
        Ended::Error(_) => StreamEnd::Error,
    }
}

/// Connects to one endpoint after the other until one takes the connection.
async fn connect(
    worker: &Rc<Worker>,
    client: &TcpStream,
    backend: &BackendId,
    slot: BackendSlot,
) -> Result<(TcpStream, InFlight), StreamEnd> {
    let table = worker.table();
    let upstream = match table.backend(slot) {
        Some(slotted) => worker.upstreams.backend(slotted),
        None => return Err(StreamEnd::NoEndpoints),
    };
    if upstream.ready(Instant::now()).await.is_err() {
        return Err(StreamEnd::NoEndpoints);
    }
    // A stream has no headers: whatever the key, all that it can be kept together by is the client's address.
    let hash = match (&backend.balance, client.peer_addr()) {
        (Balance::ConsistentHash(_), Ok(peer)) => Some(hash_address(peer.ip())),
        _ => None,
    };
    let mut tried = SmallVec::<[SocketAddr; 4]>::new();
    while tried.len() < worker.settings.limits.max_tries as usize {
        let context = PickContext { hash, tried: &tried, now: Instant::now(), random: worker.random() };
        let Some(endpoint) = upstream.pick(context) else {
            break;
        };
        let begun = Instant::now();
        let connecting = TcpStream::connect(endpoint.address());
        let error = match tokio::time::timeout(worker.settings.timeouts.connect, connecting).await {
            Ok(Ok(stream)) => {
                endpoint.succeeded(begun.elapsed(), Instant::now());
                return Ok((stream, endpoint.begin()));
            }
            Ok(Err(error)) => ConnectError::from(error),
            Err(_) => ConnectError::Timeout,
        };
        worker.metrics.upstream_error(UpstreamError::from_label(error.reason()));
        if let Some(failure) = error.failure() {
            endpoint.failed(failure, Instant::now());
        }
        tried.push(endpoint.address());
    }
    Err(if tried.is_empty() { StreamEnd::NoEndpoints } else { StreamEnd::ConnectFailed })
}
