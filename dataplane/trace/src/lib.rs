//! Trace context across a proxy: what a request says of its trace, what the gateway makes of that, and what the backend
//! is told. It contains no I/O, no clock and no randomness (ids and time are arguments), it records and exports no spans,
//! and it knows nothing of HTTP but names and values of fields.
//!
//! ```text
//! fields of a request ─► TraceFields::collect ─► extract ─► decide ─► Injection::prepare ─► set_span, once per try
//!                        (the known headers)     (ordered)  (trust,    (what to leave out,   (a new parent id
//!                                                           sampling)  what to add)           in place)
//! ```
//!
//! The rules, where they are a choice:
//!
//! - Bad input never breaks a request. A format that cannot be read counts as absent: the next one of the list is asked,
//!   and where none is left the trace starts anew.
//! - A field that may stand once and stands twice makes its format unreadable, whatever the values are.
//! - A tracestate is passed on where it belongs to the trace that is sent, and then byte for byte unless it has to be
//!   joined or shortened.
//! - A request leaves with one context. Every format that came in is rewritten to it (or removed), since two headers that
//!   name two parents are how traces of mixed estates break.
//! - Hexadecimal is read in either case except in W3C headers, where the standard forbids upper case; it is written in
//!   lower case.

#![forbid(unsafe_code)]

mod b3;
mod baggage;
mod budget;
mod context;
mod datadog;
mod decide;
mod extract;
mod fields;
mod format;
mod google;
mod grpc_trace_bin;
mod inject;
mod jaeger;
mod opentracing;
mod sampler;
mod text;
mod tracestate;
mod w3c;
mod xray;

pub use budget::SamplingBudget;
pub use context::{RemoteContext, Sampled, SpanId, TraceId};
pub use decide::{FreshIds, Policy, Trace, Trust, UnknownTrust, decide};
pub use extract::{Extracted, Malformed};
pub use fields::TraceFields;
pub use format::{Format, FormatSet, UnknownFormat};
pub use inject::{Edit, Foreign, Injection, InjectionSettings, Limits};
pub use sampler::{Ratio, RatioError, Sampler};
pub use tracestate::{Member, MemberError, TraceState};
