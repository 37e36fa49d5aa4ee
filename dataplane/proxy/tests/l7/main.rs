//! The proxy end to end, over loopback sockets: hostile and ordinary clients in front, backends that behave and that do
//! not behind. One binary, so that all of it is linked once.

mod conformance;
mod drain;
mod grpc;
mod hostile_http1;
mod hostile_http2;
mod http1;
mod http1_bodies;
mod http2;
mod limits;
mod metrics;
mod observe;
mod reload;
mod streams;
mod support;
mod tls;
mod trace;
mod upgrade;
mod upstream;
