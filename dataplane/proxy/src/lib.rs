//! The L7 proxy: listeners, TLS, connections, exchanges and upstream pools. It decides nothing about routing
//! (that is `sluicegate-route`) and parses no HTTP/1.1 itself (that is `sluicegate-http1`).
//!
//! One thread per core, each with its own runtime, listening sockets, buffers and upstream connections. The controller
//! swaps the tables through [`Proxy::apply`]; requests read them and never wait.
//!
//! ```text
//! listener ─► connection ─► http1_server ─┐                 ┌─► http1_stream ─► pool ─► endpoint
//!                 │    └──► http2_server ─┴─► exchange ─► relay
//!                 └──► stream_proxy (opaque TCP)            └─► upstream_http2
//! ```

mod answer;
pub mod balance;
mod body_splice;
mod buffer;
pub mod client_hello;
pub mod connect;
mod connection;
mod downstream_http2;
mod drain;
pub mod endpoint;
mod exchange;
mod fault;
mod future_room;
mod headers;
mod http1_server;
mod http1_stream;
mod http2_body;
mod http2_server;
mod listener;
mod peer;
pub mod pool;
mod proxy;
pub mod proxy_protocol;
mod record;
mod relay;
mod request_line;
pub mod resolve;
pub mod server_tls;
mod settings;
pub mod stream;
mod stream_proxy;
mod tls;
mod trace;
pub mod transport;
mod upstream_http2;
mod watchdog;
mod worker;

pub use drain::Drained;
pub use listener::BindError;
pub use proxy::{Addresses, Applied, BackendReport, EndpointView, Proxy, StartError};
pub use settings::{Limits, ProxySettings, StreamEngine, Timeouts, TraceSettings};
pub use tls::TlsSetupError;
