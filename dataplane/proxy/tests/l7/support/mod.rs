//! What the end-to-end tests share: a gateway that is fed manifests, and clients that show the bytes.
//!
//! Nothing in here judges the proxy; the tests do. All traffic stays on loopback.

#![allow(dead_code, unused_imports, reason = "every test binary uses a part of it")]

pub mod gateway;
pub mod http1;
pub mod http2;
pub mod manifest;
pub mod recorder;
pub mod tls;
pub mod upgrade;
pub mod wire;

pub use gateway::Gateway;
pub use http1::{Body, Http1, Response};
pub use http2::Http2;
pub use manifest::{Ingress, service, service_speaking};
pub use recorder::{Recorded, Recorder};

use std::future::Future;
use std::time::Duration;

/// Longer than anything on a busy machine takes; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for something that has no event of its own, such as a counter of another thread.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Awaits what must come soon.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}
