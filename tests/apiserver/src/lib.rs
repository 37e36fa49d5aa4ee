//! A Kubernetes API server in the process of a test: real HTTP on a loopback port, objects in memory, faults on demand.
//!
//! It is small and strict, and it is **not**: a validator (any JSON with a name is an object), an authenticator (one
//! bearer token at most), an admission chain, a garbage collector or a controller of anything. It speaks JSON alone, serves
//! one version of each kind of [`resource::RESOURCES`], takes lists in an applied configuration as atomic, and keeps its
//! whole history until [`store::Store::compact`] is called. What it does do, it does as the Kubernetes API conventions say:
//! resource versions, optimistic concurrency, `generation`, the status subresource, watches with bookmarks and streaming
//! lists, `410 Gone`, pages of lists, label and field selectors, merge patches and server-side apply with its conflicts.
//!
//! - [`store`] (pure): objects, versions, the log that watches read;
//! - [`apply`] (pure): merge patch and server-side apply;
//! - [`selector`] (pure): which objects a list or watch is about;
//! - [`fault`]: what goes wrong, and when;
//! - [`ApiServer`]: the port.

pub mod apply;
pub mod fault;
pub mod resource;
pub mod selector;
mod serve;
pub mod status;
pub mod store;
mod watch;

pub use fault::{Fault, Faults};
pub use serve::{ApiServer, Seen};
