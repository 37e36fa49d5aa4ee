//! Echo backends for the demo, the tests and the bench: what stands behind the
//! gateway and says what reached it.
//!
//! It is NOT part of the gateway: nothing of the data plane depends on it, it reads no
//! configuration and it must not face a network that is not a test's. [`EchoBackend`]
//! speaks HTTP/1.1, HTTP/2 (prior knowledge or ALPN), WebSocket and gRPC on one port;
//! [`RawBackend`] speaks bytes; [`client`] is a gRPC client for tests.
//!
//! # What a request can ask for
//! By path, or under any path by the query parameter `do=` (`/app?do=delay/500ms`). Any other path
//! answers 200 with the description of the request: one JSON object with `service`, `pod`,
//! `namespace`, `method`, `path` (raw, with the query), `host`, `proto` (`HTTP/1.1`, `HTTP/2.0`),
//! `headers` (lower-case name → values), `tls` (`null` or `version`, `serverName`,
//! `negotiatedProtocol`, `cipherSuite`), `peer` and `body_bytes`: the fields of the Ingress
//! conformance suite and more. Every response carries `server: sluicegate-echo`,
//! `x-echo-service` and `x-echo-pod`.
//!
//! | asked | answered |
//! | --- | --- |
//! | `/status/503` `?unread=1` | the description under that status; `unread`: before the body was read |
//! | `/delay/500ms` | the description after a pause (`us`, `ms`, `s`, `m`, at most 10m) |
//! | `/headers?name=value&…` | the description with these response headers |
//! | `/bytes/65536` | that many [`pattern_byte`]s, with Content-Length |
//! | `/chunked/10x1000` `?trailers=1` | 10 chunks of 1000 bytes; trailer `x-checksum` ([`checksum`] in hex; over HTTP/1.1 only to a client that sends `TE: trailers`) |
//! | `/drip?bytes=10&size=1&every=100ms&length=1` | bytes with a pause before each piece; `length`: with Content-Length |
//! | `/half?bytes=1000&sent=500&chunked=1` | announces more than it sends, then closes (HTTP/2: resets the stream) |
//! | `/until-close?bytes=1000` | an HTTP/1.0 response that ends with the connection |
//! | `/echo` | the request body and its trailers, as they come |
//! | `/early-hints?link=…&delay=…` | 103 with `Link`, then the description with it (103 over HTTP/1.1 only) |
//! | `/continue?delay=…&reject=417` | waits before it reads the body (that sends 100), or rejects without reading |
//! | `/close` | closes the connection without an answer |
//! | `/reset?reason=2&connection=1` | RST; over HTTP/2 RST_STREAM with that code, unless `connection` |
//! | `/healthz` | 200, or 503 after [`EchoBackend::set_healthy`]`(false)` |
//! | `/ws?hello=1` | WebSocket echo (as is any WebSocket upgrade of a path that names no behaviour); `hello`: the description first |
//! | `/upgrade` | any other upgrade: bytes come back |
//!
//! gRPC is `proto/echo.proto` and `grpc.health.v1.Health`.

mod answer;
mod backend;
mod behaviour;
mod body;
pub mod client;
mod grpc;
mod message;
mod raw;
mod tls;
mod transport;
mod upgrade;

pub use backend::{Builder, EchoBackend, Requests};
pub use body::{checksum, pattern_byte};
pub use message::{EchoReply, EchoRequest, HealthCheckRequest, HealthCheckResponse, MAX_REPEAT, ServingStatus};
pub use raw::{RawBackend, Step};
pub use tls::{Tls, TlsError};
