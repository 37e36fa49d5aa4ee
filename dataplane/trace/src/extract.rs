//! Asks the formats of a list in order what a request says.

use crate::context::{RemoteContext, Sampled};
use crate::fields::TraceFields;
use crate::format::Format;

/// What one format says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// Its headers are not there.
    Nothing,
    /// Whether to record, without ids: the trace begins here.
    Decision(Sampled),
    /// The trace goes on.
    Context(RemoteContext),
}

/// Why the headers of a format cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A header that may stand once stands more than once.
    #[error("a header is repeated, and it is unclear which one holds")]
    Repeated,
    /// An id is there without the other that it needs.
    #[error("the trace id or the span id is missing")]
    Incomplete,
    /// An id is zero.
    #[error("the trace id or the span id is zero")]
    ZeroId,
    /// The version is one that does not exist.
    #[error("the version is invalid")]
    Version,
    /// The text is not of the format's grammar.
    #[error("the value does not follow the grammar of the format")]
    Syntax,
}

/// What a request says of its trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extracted {
    /// The context, of the first format of the list that has one.
    pub context: Option<RemoteContext>,
    /// The format that the context or the decision is from.
    pub source: Option<Format>,
    /// The decision: the context's, or the first that stands without ids (`b3: 0`, `jaeger-debug-id`).
    pub sampled: Sampled,
    /// The first format of the list that is there and cannot be read, and why; for a log. It counts as absent.
    pub malformed: Option<(Format, Malformed)>,
}

impl TraceFields<'_> {
    /// Reads the context, asking the formats in this order.
    pub fn extract(&self, order: &[Format]) -> Extracted {
        let mut extracted = Extracted::default();
        if self.is_empty() {
            return extracted;
        }
        for format in order.iter().copied() {
            match format.read(self) {
                Ok(Claim::Nothing) => {}
                Ok(Claim::Decision(sampled)) => {
                    if extracted.source.is_none() {
                        (extracted.source, extracted.sampled) = (Some(format), sampled);
                    }
                }
                Ok(Claim::Context(context)) => {
                    (extracted.source, extracted.sampled) = (Some(format), context.sampled);
                    extracted.context = Some(self.with_random_flag(context, format));
                    break;
                }
                Err(why) => extracted.malformed = extracted.malformed.or(Some((format, why))),
            }
        }
        extracted
    }

    /// Only W3C has the flag; where its header names the same trace the flag is true of what another format says, too.
    fn with_random_flag(&self, mut context: RemoteContext, source: Format) -> RemoteContext {
        if source != Format::W3c
            && let Ok(Claim::Context(w3c)) = Format::W3c.read(self)
            && w3c.trace_id == context.trace_id
        {
            context.random = w3c.random;
        }
        context
    }
}
