//! What an Ingress says about the traces of its requests.

use serde::{Serialize, Serializer};
use sluicegate_trace::{FormatSet, Sampler, Trust};
use std::fmt;
use std::sync::Arc;

/// Rules for the traces of a route. `None` = what the listener or the gateway says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TracePolicy {
    /// The gateway takes no part in these traces: it records no span, and trace headers cross as they came.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub off: bool,
    /// How far a trace from outside is believed.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_text")]
    pub trust: Option<Trust>,
    /// What is recorded of traces that nobody has decided about. With [`Sampler::Never`] nothing is, whatever callers
    /// have decided.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_text")]
    pub sampler: Option<Sampler>,
    /// The formats that backends are sent beside those that came.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_text")]
    pub formats: Option<FormatSet>,
    /// What spans are called.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_text")]
    pub operation: Option<OperationName>,
}

impl TracePolicy {
    /// True where it says nothing.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

fn as_text<T: fmt::Display, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

/// What a part of an [`OperationName`] stands for: the variables of nginx by which a route can be told.
///
/// `$request_uri` and `$args` are not among them: queries hold secrets, and would make every span's name its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OperationVariable {
    /// `$request_method`.
    Method,
    /// `$host`: without the port.
    Host,
    /// `$uri`: the path as it came.
    Path,
    /// `$scheme`.
    Scheme,
    /// `$namespace` of the Ingress.
    Namespace,
    /// `$ingress_name`.
    Ingress,
    /// `$service_name`.
    Service,
    /// `$service_port`.
    ServicePort,
    /// `$location_path`: the path as the Ingress writes it.
    Location,
}

impl OperationVariable {
    /// Every variable with its name in nginx.
    pub const ALL: [(Self, &str); 9] = [
        (Self::Method, "request_method"),
        (Self::Host, "host"),
        (Self::Path, "uri"),
        (Self::Scheme, "scheme"),
        (Self::Namespace, "namespace"),
        (Self::Ingress, "ingress_name"),
        (Self::Service, "service_name"),
        (Self::ServicePort, "service_port"),
        (Self::Location, "location_path"),
    ];
}

/// A piece of an [`OperationName`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum OperationPart {
    /// Itself.
    Text(Box<str>),
    /// What the request has.
    Variable(OperationVariable),
}

/// The name of spans, with variables of nginx: `HTTP $request_method $location_path`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OperationName {
    text: Arc<str>,
    parts: Arc<[OperationPart]>,
}

/// Why a text is not an [`OperationName`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOperationName {
    /// Longer than [`OperationName::LONGEST`].
    #[error("is longer than {} bytes", OperationName::LONGEST)]
    TooLong,
    /// A variable that is not known.
    #[error("has the variable ${0}, which is not known here")]
    Variable(String),
}

impl OperationName {
    /// The longest text, in bytes.
    pub const LONGEST: usize = 256;

    /// Reads a text in which `$name` and `${name}` stand for variables.
    ///
    /// # Errors
    /// Names the variable that is not known.
    pub fn parse(text: &str) -> Result<Self, InvalidOperationName> {
        if text.len() > Self::LONGEST {
            return Err(InvalidOperationName::TooLong);
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            if !before.is_empty() {
                parts.push(OperationPart::Text(before.into()));
            }
            let (name, next) = match after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
                Some(braced) => braced,
                None => {
                    let end = after.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(after.len());
                    after.split_at(end)
                }
            };
            let known = OperationVariable::ALL.iter().find(|(_, known)| *known == name);
            let (variable, _) = known.ok_or_else(|| InvalidOperationName::Variable(name.to_owned()))?;
            parts.push(OperationPart::Variable(*variable));
            rest = next;
        }
        if !rest.is_empty() {
            parts.push(OperationPart::Text(rest.into()));
        }
        Ok(Self { text: text.into(), parts: parts.into() })
    }

    /// The pieces, in order.
    pub fn parts(&self) -> &[OperationPart] {
        &self.parts
    }
}

impl fmt::Display for OperationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
