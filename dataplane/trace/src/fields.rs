//! Finds the headers of all formats among the fields of a request, in one walk.

use crate::format::{Format, FormatSet};
use crate::text::trim_ows;
use smallvec::SmallVec;
use std::sync::LazyLock;

macro_rules! headers {
    ($($variant:ident = $text:literal,)*) => {
        /// A header that carries trace context or baggage.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub(crate) enum Header {
            $(#[doc = concat!("`", $text, "`")] $variant,)*
        }

        const HEADERS: &[(Header, &str)] = &[$((Header::$variant, $text),)*];
    };
}

headers! {
    Traceparent = "traceparent",
    Tracestate = "tracestate",
    Baggage = "baggage",
    B3 = "b3",
    B3TraceId = "x-b3-traceid",
    B3SpanId = "x-b3-spanid",
    B3ParentSpanId = "x-b3-parentspanid",
    B3Sampled = "x-b3-sampled",
    B3Flags = "x-b3-flags",
    UberTraceId = "uber-trace-id",
    JaegerDebugId = "jaeger-debug-id",
    JaegerBaggage = "jaeger-baggage",
    OtTraceId = "ot-tracer-traceid",
    OtSpanId = "ot-tracer-spanid",
    OtSampled = "ot-tracer-sampled",
    DatadogTraceId = "x-datadog-trace-id",
    DatadogParentId = "x-datadog-parent-id",
    DatadogPriority = "x-datadog-sampling-priority",
    DatadogOrigin = "x-datadog-origin",
    DatadogTags = "x-datadog-tags",
    AmznTraceId = "x-amzn-trace-id",
    CloudTraceContext = "x-cloud-trace-context",
    GrpcTraceBin = "grpc-trace-bin",
    UberctxAny = "uberctx-",
    OtBaggageAny = "ot-baggage-",
}

impl Header {
    /// Resolves a name, without regard to case. Most names end at the first letter or at the length.
    #[inline]
    pub(crate) fn of(name: &[u8]) -> Option<Self> {
        // Places in the table, by first letter, and which lengths the names there have; of some the beginning counts.
        let (candidates, lengths) = match name.first()? | 0x20 {
            b't' => (0..2, const { lengths(0, 2) }),
            b'b' => (2..4, const { lengths(2, 4) }),
            b'x' => (4..22, const { lengths(4, 22) }),
            b'u' | b'j' | b'o' | b'g' => (9..HEADERS.len(), u64::MAX),
            _ => return None,
        };
        let may_be = lengths == u64::MAX || (name.len() < 64 && lengths & 1 << name.len() != 0);
        if !may_be {
            return None;
        }
        Self::among(&HEADERS[candidates], name)
    }

    fn among(headers: &[(Self, &str)], name: &[u8]) -> Option<Self> {
        let matches = |header: Self, text: &str| match header {
            Self::UberctxAny | Self::OtBaggageAny => {
                name.len() > text.len() && name[..text.len()].eq_ignore_ascii_case(text.as_bytes())
            }
            _ => name.len() == text.len() && name.eq_ignore_ascii_case(text.as_bytes()),
        };
        headers.iter().find(|(header, text)| matches(*header, text)).map(|(header, _)| *header)
    }

    /// The header that a backend would take it for that reads `_` and `-` as one (CGI, WSGI, PHP).
    pub(crate) fn disguised(name: &[u8]) -> Option<Self> {
        if !name.contains(&b'_') {
            return None;
        }
        // Longer than every name; behind a prefix the rest does not matter.
        let mut plain = [0; 32];
        let plain = &mut plain[..name.len().min(32)];
        for (to, from) in plain.iter_mut().zip(name) {
            *to = if *from == b'_' { b'-' } else { *from };
        }
        Self::of(plain)
    }

    /// The name, in lower case.
    pub(crate) fn as_str(self) -> &'static str {
        HEADERS[self as usize].1
    }
}

/// Bit `n` is set where a name of these places has `n` letters.
const fn lengths(from: usize, to: usize) -> u64 {
    let (mut set, mut at) = (0, from);
    while at < to {
        set |= 1 << HEADERS[at].1.len();
        at += 1;
    }
    set
}

/// A set of headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HeaderSet(u32);

impl HeaderSet {
    pub(crate) const fn of(headers: &[Header]) -> Self {
        let (mut set, mut at) = (0, 0);
        while at < headers.len() {
            set |= 1 << headers[at] as u8;
            at += 1;
        }
        Self(set)
    }

    pub(crate) fn insert(&mut self, header: Header) {
        self.0 |= 1 << header as u8;
    }

    pub(crate) fn contains(self, header: Header) -> bool {
        self.0 & 1 << header as u8 != 0
    }

    pub(crate) fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = Header> {
        HEADERS.iter().map(|(header, _)| *header).filter(move |header| self.contains(*header))
    }
}

/// The headers of all formats that a request has. It borrows from the request and allocates nothing while `tracestate`
/// and `baggage` stand in two fields each at most.
#[derive(Clone, Debug, Default)]
pub struct TraceFields<'a> {
    present: HeaderSet,
    repeated: HeaderSet,
    /// The first value of each header, without white space around it.
    values: [&'a [u8]; HEADERS.len()],
    /// All values of `tracestate`, in order.
    tracestate: SmallVec<[&'a [u8]; 2]>,
    /// All values of `baggage`, in order.
    baggage: SmallVec<[&'a [u8]; 2]>,
}

impl<'a> TraceFields<'a> {
    /// Picks the headers out of a request's fields, which are given as name and value in the order of the request.
    pub fn collect(fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let mut found = Self::default();
        for (name, value) in fields {
            if let Some(header) = Header::of(name) {
                found.take(header, trim_ows(value));
            }
        }
        found
    }

    fn take(&mut self, header: Header, value: &'a [u8]) {
        if self.present.contains(header) {
            self.repeated.insert(header);
        } else {
            self.present.insert(header);
            self.values[header as usize] = value;
        }
        match header {
            Header::Tracestate => self.tracestate.push(value),
            Header::Baggage => self.baggage.push(value),
            _ => {}
        }
    }

    /// Those of a request that has none of the headers.
    pub fn none() -> &'static TraceFields<'static> {
        static NONE: LazyLock<TraceFields<'static>> = LazyLock::new(TraceFields::default);
        &NONE
    }

    /// Whether a field of this name is one of the headers.
    pub fn is_name(name: &[u8]) -> bool {
        Header::of(name).is_some()
    }

    /// Whether the request has none of the headers.
    pub fn is_empty(&self) -> bool {
        self.present.is_empty()
    }

    /// The formats of which the request has at least one header, readable or not.
    pub fn formats(&self) -> FormatSet {
        if self.is_empty() {
            return FormatSet::EMPTY;
        }
        Format::ALL.into_iter().filter(|format| self.present.meets(format.headers())).collect()
    }

    /// The value of a header that is there; the first where it is repeated.
    pub(crate) fn value(&self, header: Header) -> Option<&'a [u8]> {
        self.present.contains(header).then(|| self.values[header as usize])
    }

    /// Whether one of the headers is there more than once.
    pub(crate) fn repeats(&self, headers: HeaderSet) -> bool {
        self.repeated.meets(headers)
    }

    pub(crate) fn has(&self, headers: HeaderSet) -> bool {
        self.present.meets(headers)
    }

    pub(crate) fn tracestate(&self) -> &[&'a [u8]] {
        &self.tracestate
    }

    pub(crate) fn baggage(&self) -> &[&'a [u8]] {
        &self.baggage
    }
}
