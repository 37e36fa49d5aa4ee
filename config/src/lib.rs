//! The vocabulary of the gateway. It contains no I/O, no clock and no Kubernetes types.
//!
//! Everything that the data plane obeys is a [`Desired`]: virtual hosts, backends,
//! certificates, stream listeners and virtual IPs, each under its own key and behind its own
//! `Arc`. There is one door into it: a draft is checked object by object, what is good
//! becomes desired state and what is bad becomes a [`Rejection`]. A [`Diff`] is what moved.

pub mod backend;
pub mod check;
pub mod desired;
pub mod diff;
pub mod draft;
pub mod host;
pub mod listener;
pub mod object;
pub mod pool;
pub mod rejection;
pub mod route;
pub mod selector;
pub mod settings;
pub mod tls;
pub mod trace;
pub mod vip;

pub use backend::{Backend, BackendId, Balance, Endpoint, HashKey, PortRef, UpstreamProtocol};
pub use check::{Checked, check};
pub use desired::{Desired, Generation, Growth};
pub use diff::{Change, Diff, diff};
pub use draft::{Draft, Note, SourceKey};
pub use host::{HostName, HostPattern, InvalidHost};
pub use listener::{StreamListener, StreamPort};
pub use object::{Kind, ObjectRef};
pub use pool::{InvalidVipPool, PoolNamespaces, PoolRanges, VipPool, VipPools};
pub use rejection::{Rejection, Verdict};
pub use route::{Action, Dialect, Matching, PathMatch, Policy, Redirect, Rewrite, Route, RuleRef, VirtualHost};
pub use selector::{InvalidSelector, LabelSelector};
pub use settings::{NamespacedName, Settings};
pub use tls::{Certificate, CertificateId, PrivateKey, ServerName, TlsTreatment};
pub use trace::{InvalidOperationName, OperationName, OperationPart, OperationVariable, TracePolicy};
pub use vip::{
    HealthCheck, Method, Persistence, PodTunnel, ProbeKind, Readiness, RealServer, Scheduler, TransportProtocol,
    VipBinding, VipOptions, VipPort, VipService, WhenAllFail,
};
