//! Metrics and logs of the process. It contains no networking code, knows no Kubernetes object and decides nothing.
//!
//! The request path writes to a [`WorkerMetrics`] that belongs to its thread alone: a plain load and store on memory
//! that no other core writes, so counting costs no locked instruction and no shared cache line. Whoever scrapes adds
//! the workers up ([`Metrics::expose`]). Every metric that exists is a row of one table ([`metrics::TABLE`]), and every
//! label value that the request path can choose is a variant of a closed set ([`labels`]), so traffic cannot create
//! series. What the control side sets ([`control`]) is bounded where it is taken in.

pub mod access_log;
pub mod control;
pub mod endpoints;
mod exemplar;
pub mod exposition;
pub mod labels;
pub mod logging;
pub mod metrics;
pub mod packets;
pub mod process;
pub mod redact;
pub mod request;
pub mod request_filter;
pub mod request_json;
pub mod request_tap;
mod routes;
pub mod series;
mod sheet;
pub mod source;
pub mod span;
mod text;
pub mod totals;
pub mod worker;

pub use access_log::{AccessLog, AccessLogError, AccessLogSettings, LineFormat, LogTarget, SkippedUrl};
pub use control::{CertificateExpiry, RejectionCounts};
pub use endpoints::{EndpointCounters, EndpointLabels};
pub use exposition::{Exposition, NGINX_TABLE, NginxMetric, NginxNames};
pub use labels::{
    FaultReason, LimitName, ListenerKind, MethodLabel, Protocol, ReviewEnd, StreamEnd, StreamKind, TlsFailure,
    TlsVersion, UpgradeKind, UpstreamError,
};
pub use logging::{LogError, LogFormat};
pub use metrics::{Metrics, MetricsSettings};
pub use request::{Downstream, DownstreamTls, FinishedRequest, HeadFields, RequestSink, RequestSinks, RouteTaken, Try};
pub use request_filter::{Comparison, FilterError, RequestFilter};
pub use request_tap::{RequestTap, RequestTaps, TooManyTaps};
pub use routes::{NO_ROUTE, ROUTE_CELL_BYTES, RouteSinks};
pub use series::DEFAULT_SERIES_LIMIT;
pub use span::{DropReason, ExportCounts, ExportFailure, SpanQueue, SpanRecord, SpanSinks};
pub use totals::{DurationTotals, TrafficTotals};
pub use worker::{BackendCounters, BackendTotals, MAX_BACKEND_SLOTS, RequestSample, WorkerMetrics};
