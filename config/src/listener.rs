//! TCP services: ports that are relayed without looking inside.

use crate::backend::BackendId;
use crate::object::ObjectRef;
use serde::Serialize;

/// A TCP port of the gateway, 1 to 65535.
pub type StreamPort = u16;

/// One line of the TCP services ConfigMap: `port: namespace/service:port[:PROXY[:PROXY]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StreamListener {
    /// Port to listen on.
    pub port: StreamPort,
    /// Where connections go.
    pub backend: BackendId,
    /// Clients begin with a PROXY protocol header (the first `PROXY`).
    pub accept_proxy_protocol: bool,
    /// The backend is sent a PROXY protocol v1 header (the second `PROXY`).
    pub send_proxy_protocol: bool,
    /// The ConfigMap.
    pub origin: ObjectRef,
}
