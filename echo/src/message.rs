//! The protobuf messages of `proto/echo.proto` and of `grpc.health.v1`, written
//! by hand so that nobody needs protoc to build.

use std::collections::BTreeMap;

/// What a caller asks of `sluicegate.echo.v1.Echo`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct EchoRequest {
    /// Text to be echoed.
    #[prost(string, tag = "1")]
    pub message: String,
    /// How often to answer; zero means once. At most [`MAX_REPEAT`].
    #[prost(uint32, tag = "2")]
    pub repeat: u32,
    /// The grpc-status (1 to 16) to end the call with; zero means success.
    #[prost(uint32, tag = "3")]
    pub fail_with: u32,
    /// Milliseconds to wait before each reply.
    #[prost(uint32, tag = "4")]
    pub delay_ms: u32,
}

/// What the backend answers.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct EchoReply {
    /// The echoed text.
    #[prost(string, tag = "1")]
    pub message: String,
    /// Name of the Service that the backend plays.
    #[prost(string, tag = "2")]
    pub service: String,
    /// Name of the pod that the backend plays.
    #[prost(string, tag = "3")]
    pub pod: String,
    /// Request metadata as received; several values of a name are joined by `, `.
    #[prost(btree_map = "string, string", tag = "4")]
    pub metadata: BTreeMap<String, String>,
}

/// Most replies that one [`EchoRequest`] may ask for.
pub const MAX_REPEAT: u32 = 1_000_000;

/// Request of `grpc.health.v1.Health`.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct HealthCheckRequest {
    /// Full name of the asked service; empty for the server as a whole.
    #[prost(string, tag = "1")]
    pub service: String,
}

/// Response of `grpc.health.v1.Health`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct HealthCheckResponse {
    /// See [`ServingStatus`].
    #[prost(enumeration = "ServingStatus", tag = "1")]
    pub status: i32,
}

/// `grpc.health.v1.HealthCheckResponse.ServingStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum ServingStatus {
    /// Not said.
    Unknown = 0,
    /// Takes calls.
    Serving = 1,
    /// Takes no calls.
    NotServing = 2,
    /// `Watch` was asked for a service that does not exist.
    ServiceUnknown = 3,
}
