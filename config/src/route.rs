//! Virtual hosts and their routes: one typed model behind both dialects.

use crate::backend::BackendId;
use crate::host::HostPattern;
use crate::object::ObjectRef;
use crate::trace::TracePolicy;
use serde::Serialize;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Whose rules a host's Ingresses are read by; a property of the IngressClass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// The Ingress specification to the letter.
    #[default]
    Strict,
    /// As ingress-nginx reads them: trailing-slash redirect, string prefixes, host-wide regular expressions.
    Nginx,
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Strict => "strict",
            Self::Nginx => "nginx",
        })
    }
}

/// How a route claims paths. Paths are compared byte for byte unless said otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PathMatch {
    /// The path itself and nothing else.
    Exact(Arc<str>),
    /// Element-wise prefix: `/foo` takes `/foo` and `/foo/…`, not `/foobar`. A trailing slash does not count, `/` takes all.
    Prefix(Arc<str>),
    /// Prefix of characters: `/foo` also takes `/foobar` (`ImplementationSpecific` in the nginx dialect).
    StringPrefix(Arc<str>),
    /// A regular expression, anchored at the start, open at the end, ignoring case (nginx dialect).
    Regex(Arc<str>),
}

impl PathMatch {
    /// The path or pattern as written.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Exact(path) | Self::Prefix(path) | Self::StringPrefix(path) | Self::Regex(path) => path,
        }
    }

    /// The path or pattern as written, without copying it.
    pub fn into_text(self) -> Arc<str> {
        match self {
            Self::Exact(path) | Self::Prefix(path) | Self::StringPrefix(path) | Self::Regex(path) => path,
        }
    }
}

impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => write!(f, "={path}"),
            Self::Prefix(path) => write!(f, "{path}"),
            Self::StringPrefix(path) => write!(f, "{path}*"),
            Self::Regex(pattern) => write!(f, "~{pattern}"),
        }
    }
}

/// How a host's routes compete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Matching {
    /// The longest matching path wins; of equal length Exact beats Prefix beats StringPrefix.
    #[default]
    LongestPath,
    /// Every path is a [`PathMatch::Regex`] and the first in order wins (length of the pattern descending, then text descending).
    FirstRegex,
}

/// The rule that a route comes from, for logs, tables and `explain`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct RuleRef {
    /// The Ingress.
    pub ingress: ObjectRef,
    /// Path of the field: `spec.rules[0].http.paths[1]` or `spec.defaultBackend`.
    pub field: Arc<str>,
}

/// What a route does with a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Sends it to a backend.
    Forward(BackendId),
    /// Answers with a redirect.
    Redirect(Redirect),
    /// Answers 503 and reaches no backend: what the Ingress asks for here (access control, a protocol) is not
    /// implemented, and serving it without would open what its owner closed. The reason is for logs and `explain`,
    /// never for the client.
    Deny(Arc<str>),
}

/// A redirect that the gateway answers itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Redirect {
    /// 301 to the same URL with a slash at the end of the path (nginx dialect, paths that end in `/`).
    AppendSlash,
}

/// How the path is rewritten before it is sent on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rewrite {
    /// The template: `$1` to `$9` stand for groups of the route's [`PathMatch::Regex`]; missing groups are empty.
    pub target: Arc<str>,
}

/// Per-route settings. `None` = the gateway's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// Largest request body in bytes; 0 = no limit.
    pub max_body: Option<u64>,
    /// Time to establish a connection to an endpoint.
    pub connect_timeout: Option<Duration>,
    /// Longest pause between two reads from an endpoint.
    pub read_timeout: Option<Duration>,
    /// Longest pause between two writes to an endpoint.
    pub send_timeout: Option<Duration>,
    /// Path rewrite.
    pub rewrite: Option<Rewrite>,
    /// False keeps requests out of the access log, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_log: Option<bool>,
    /// How its requests are traced.
    #[serde(skip_serializing_if = "TracePolicy::is_default")]
    pub trace: TracePolicy,
}

/// One path of a virtual host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Route {
    /// Which paths it claims.
    pub path: PathMatch,
    /// What it does.
    pub action: Action,
    /// Per-route settings.
    pub policy: Arc<Policy>,
    /// Where it comes from.
    pub origin: RuleRef,
}

/// Everything that one host (or wildcard, or the catch-all) serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VirtualHost {
    /// What it claims.
    pub host: HostPattern,
    /// The dialect of the oldest Ingress of the host.
    pub dialect: Dialect,
    /// How routes compete.
    pub matching: Matching,
    /// The routes, in order of precedence, without duplicates.
    pub routes: Vec<Route>,
    /// Takes what no route of this host takes. Where there is none, a host of the strict dialect falls to the
    /// catch-all's fallback and a host of the nginx dialect answers 404.
    pub fallback: Option<Route>,
}
