//! Sends spans to an OpenTelemetry collector: OTLP over gRPC and over HTTP with protobuf.
//!
//! It makes no spans and knows nothing of requests: workers put the bytes of spans into a
//! [`SpanQueue`](sluicegate_telemetry::SpanQueue) and never wait; a thread of its own takes batches out, and whatever a
//! collector does (down, slow, full, no collector at all) ends there. What is lost is counted by reason. The parts, from the
//! inside out:
//!
//! - `messages` and `envelope` (pure): what stands around the spans of a request to a collector, and in its answer;
//! - `answer` and `backoff` (pure): what an answer means, and when to come back;
//! - [`environment`] (pure): the variables that OpenTelemetry defines;
//! - `client`: one HTTP client for both protocols;
//! - [`exporter`]: the thread.

mod answer;
mod backoff;
mod client;
mod envelope;
pub mod environment;
pub mod exporter;
mod messages;
pub mod settings;
mod tls;

pub use environment::Environment;
pub use exporter::Exporter;
pub use settings::{Compression, Endpoint, Headers, OtlpError, OtlpProtocol, OtlpSettings, TlsFiles};
