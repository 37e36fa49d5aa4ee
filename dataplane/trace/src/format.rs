//! The formats by name.

use crate::extract::{Claim, Malformed};
use crate::fields::{HeaderSet, TraceFields};
use crate::{b3, datadog, google, grpc_trace_bin, jaeger, opentracing, w3c, xray};
use std::fmt;
use std::str::FromStr;

/// A way to write trace context into the fields of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Format {
    /// W3C Trace Context level 2: `traceparent`, `tracestate`.
    W3c,
    /// Zipkin's B3 in one header: `b3`.
    B3,
    /// Zipkin's B3 in several: `x-b3-traceid` …
    B3Multi,
    /// `uber-trace-id`.
    Jaeger,
    /// The OpenTracing basic tracers: `ot-tracer-traceid` …
    OpenTracing,
    /// `x-datadog-trace-id` …
    Datadog,
    /// AWS X-Ray and the balancers of AWS: `x-amzn-trace-id`.
    XRay,
    /// Google Cloud's balancers: `x-cloud-trace-context`.
    Google,
    /// OpenCensus over gRPC: `grpc-trace-bin`.
    GrpcTraceBin,
}

impl Format {
    /// Every format, in the order in which they are asked by default: W3C first; one header before several; last those that
    /// balancers of clouds add to requests that are part of a trace already.
    pub const ALL: [Self; 9] = [
        Self::W3c,
        Self::B3,
        Self::B3Multi,
        Self::Jaeger,
        Self::Datadog,
        Self::OpenTracing,
        Self::GrpcTraceBin,
        Self::XRay,
        Self::Google,
    ];

    /// The name in settings: that of `OTEL_PROPAGATORS` where OpenTelemetry has one.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::W3c => "tracecontext",
            Self::B3 => "b3",
            Self::B3Multi => "b3multi",
            Self::Jaeger => "jaeger",
            Self::OpenTracing => "ottrace",
            Self::Datadog => "datadog",
            Self::XRay => "xray",
            Self::Google => "google",
            Self::GrpcTraceBin => "grpc-trace-bin",
        }
    }

    /// What the fields say in this format.
    pub(crate) fn read(self, fields: &TraceFields<'_>) -> Result<Claim, Malformed> {
        match self {
            Self::W3c => w3c::read(fields),
            Self::B3 => b3::read_single(fields),
            Self::B3Multi => b3::read_multi(fields),
            Self::Jaeger => jaeger::read(fields),
            Self::OpenTracing => opentracing::read(fields),
            Self::Datadog => datadog::read(fields),
            Self::XRay => xray::read(fields),
            Self::Google => google::read(fields),
            Self::GrpcTraceBin => grpc_trace_bin::read(fields),
        }
    }

    /// Every header that is part of the format, baggage aside.
    pub(crate) fn headers(self) -> HeaderSet {
        match self {
            Self::W3c => w3c::HEADERS,
            Self::B3 => b3::HEADERS_SINGLE,
            Self::B3Multi => b3::HEADERS_MULTI,
            Self::Jaeger => jaeger::HEADERS,
            Self::OpenTracing => opentracing::HEADERS,
            Self::Datadog => datadog::HEADERS,
            Self::XRay => xray::HEADERS,
            Self::Google => google::HEADERS,
            Self::GrpcTraceBin => grpc_trace_bin::HEADERS,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that is not that of a format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a trace format; use tracecontext, b3, b3multi, jaeger, ottrace, datadog, xray, google or grpc-trace-bin"
)]
pub struct UnknownFormat(pub String);

impl FromStr for Format {
    type Err = UnknownFormat;

    /// Reads [`Format::as_str`], and the other names that people know a format by.
    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        let alias = match name {
            "w3c" => Some(Self::W3c),
            "b3single" => Some(Self::B3),
            "opentracing" => Some(Self::OpenTracing),
            "aws" => Some(Self::XRay),
            _ => None,
        };
        let named = || Self::ALL.into_iter().find(|format| format.as_str() == name);
        alias.or_else(named).ok_or_else(|| UnknownFormat(name.to_owned()))
    }
}

/// A set of formats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FormatSet(u16);

impl FormatSet {
    /// None.
    pub const EMPTY: Self = Self(0);

    /// This one too.
    #[must_use]
    pub const fn with(self, format: Format) -> Self {
        Self(self.0 | 1 << format as u8)
    }

    /// Those of either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether it is one of them.
    pub const fn contains(self, format: Format) -> bool {
        self.0 & 1 << format as u8 != 0
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The members, in the order of [`Format::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Format> {
        let (mut left, mut formats) = (self.0, Format::ALL.into_iter());
        // Most sets have one member, and it is among the first.
        std::iter::from_fn(move || {
            while left != 0 {
                let format = formats.next()?;
                if left & 1 << format as u8 != 0 {
                    left &= !(1 << format as u8);
                    return Some(format);
                }
            }
            None
        })
    }
}

impl fmt::Display for FormatSet {
    /// The names, separated by commas.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, format) in self.iter().enumerate() {
            write!(f, "{}{format}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl FromIterator<Format> for FormatSet {
    fn from_iter<I: IntoIterator<Item = Format>>(formats: I) -> Self {
        formats.into_iter().fold(Self::EMPTY, Self::with)
    }
}
