//! The engine on io_uring where its runtime does not build (musl, which the static binaries are linked with): there is none, and
//! whoever asks for it is told at start.

use super::RelayOutcome;
use std::convert::Infallible;
use std::future::Future;
use std::net::TcpStream;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use thiserror::Error;

/// A worker that cannot be had.
#[derive(Debug, Clone)]
pub struct UringWorker(Infallible);

/// Why there is no worker.
#[derive(Debug, Error)]
pub enum UringError {
    /// Of this target there never is.
    #[error("this build is for musl, for which there is no io_uring runtime; use the splice engine instead")]
    NotBuilt,
}

/// A relay that was not taken.
#[derive(Debug)]
pub struct UringRefused {
    /// As submitted.
    pub client: TcpStream,
    /// As submitted.
    pub backend: TcpStream,
    /// As submitted.
    pub prefix: Vec<u8>,
}

/// A relay that cannot be.
#[derive(Debug)]
pub struct UringRelay(Infallible);

impl UringWorker {
    /// Fails.
    pub fn spawn(_name: &str) -> Result<Self, UringError> {
        Err(UringError::NotBuilt)
    }

    /// Is never called, for want of a worker.
    pub fn submit(
        &self,
        _client: TcpStream,
        _backend: TcpStream,
        _prefix: Vec<u8>,
        _idle_timeout: Duration,
    ) -> Result<UringRelay, Box<UringRefused>> {
        match self.0 {}
    }
}

impl UringRelay {
    /// Is never called, for want of a relay.
    pub fn end(&mut self) {
        match self.0 {}
    }
}

impl Future for UringRelay {
    type Output = RelayOutcome;

    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<RelayOutcome> {
        match self.0 {}
    }
}
