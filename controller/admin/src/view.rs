//! What the servers ask the gateway.

use crate::body::Lines;
use crate::director::{CordonError, DirectorState};
use crate::state::{Section, State};
use crate::traffic::{Pulse, TrafficVisitor};
use serde::Serialize;
use sluicegate_telemetry::RequestFilter;
use std::net::IpAddr;

const NO_PACKETS: &str = "no packets are forwarded here: that is for a director (--role director or all)";

/// Which packets somebody wants to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TapRequest {
    /// One of so many, at least 1.
    pub every: u32,
    /// Those to this VIP alone.
    pub vip: Option<IpAddr>,
    /// Also those that are for no VIP.
    pub all: bool,
    /// Bytes of each frame.
    pub snap: usize,
}

/// Why no packets can be seen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TapError(pub String);

/// The gateway as its own HTTP servers see it.
pub trait StateView: Send + Sync + 'static {
    /// What the gateway has, or one section of it. It may block: it is not called on the thread that answers probes,
    /// and by at most two callers at a time.
    ///
    /// # Errors
    /// Where there is nobody left to ask, as in a shutdown.
    fn state(&self, section: Option<Section>) -> Result<State, Unavailable>;

    /// Which rule would take a request for the URL, and why the others would not. It may block as [`Self::state`] may.
    ///
    /// # Errors
    /// Where the text is no URL that a request could be for, or nobody is left to ask.
    fn explain(&self, url: &str) -> Result<serde_json::Value, ExplainError>;

    /// Takes the director out of service, so that others hold its virtual IPs, or lets it back in. With `force` also
    /// where nobody else would hold them. It may block as [`Self::state`] may.
    ///
    /// # Errors
    /// Where no director runs here, or the virtual IPs would have no owner.
    fn cordon(&self, _cordoned: bool, _force: bool) -> Result<DirectorState, CordonError> {
        Err(CordonError::NoDirector)
    }

    /// What would become of a packet (`tcp,198.51.100.7:40000,192.0.2.10:80`). It may block as [`Self::state`] may.
    ///
    /// # Errors
    /// Where the text describes no packet, or no packets are forwarded here.
    fn explain_packet(&self, _packet: &str) -> Result<serde_json::Value, ExplainError> {
        Err(ExplainError::Unavailable(NO_PACKETS.to_owned()))
    }

    /// Sampled packets from here on, a JSON object a line. It may block as [`Self::state`] may.
    ///
    /// # Errors
    /// Where no packets are forwarded here, or as many read them already as may.
    fn tap(&self, _request: &TapRequest) -> Result<Box<dyn Lines>, TapError> {
        Err(TapError(NO_PACKETS.to_owned()))
    }

    /// Live requests from here on, those that the filter takes, a JSON object a line. It may block as [`Self::state`] may.
    ///
    /// # Errors
    /// Where no requests are served here, or as many watch them already as may.
    fn tap_requests(&self, _filter: RequestFilter) -> Result<Box<dyn Lines>, TapError> {
        Err(TapError("no requests are served here".to_owned()))
    }

    /// How things stand, once a second. It is not called on the thread that answers probes, and is to be had in a moment.
    fn pulse(&self) -> Pulse {
        Pulse::default()
    }

    /// Shows the counters of everything that has some of its own, once in five seconds.
    fn visit_traffic(&self, _visitor: &mut dyn TrafficVisitor) {}

    /// Whether traffic may be sent here. It must not block: probes wait for it.
    fn ready(&self) -> Readiness;
}

/// Whether traffic may be sent here, and why not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// True where nothing speaks against it.
    ready: bool,
    /// What speaks against it, one sentence each.
    reasons: Vec<String>,
    /// What is to be known and speaks against nothing, one sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    remarks: Vec<String>,
}

impl Readiness {
    /// Ready.
    pub fn ready() -> Self {
        Self { ready: true, reasons: Vec::new(), remarks: Vec::new() }
    }

    /// Not ready, for at least this reason.
    pub fn not_ready(reason: impl Into<String>) -> Self {
        Self { ready: false, reasons: vec![reason.into()], remarks: Vec::new() }
    }

    /// Adds a reason not to be ready.
    #[must_use]
    pub fn and(mut self, reason: impl Into<String>) -> Self {
        self.ready = false;
        self.reasons.push(reason.into());
        self
    }

    /// Adds what is to be known beside it.
    #[must_use]
    pub fn remark(mut self, remark: impl Into<String>) -> Self {
        self.remarks.push(remark.into());
        self
    }

    /// True where nothing speaks against traffic.
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// What speaks against it.
    pub fn reasons(&self) -> &[String] {
        &self.reasons
    }

    /// What is to be known beside it.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }
}

/// There is nobody to ask.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub String);

/// Why a URL was not explained.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExplainError {
    /// The caller's text is no URL that a request could be for.
    #[error("{0}")]
    Url(String),
    /// The caller's text describes no packet.
    #[error("{0}")]
    Packet(String),
    /// There is nobody to ask.
    #[error("{0}")]
    Unavailable(String),
}
