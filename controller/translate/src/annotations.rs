//! Annotations of an Ingress (those of a Service are in [`service`]): the few that are implemented become [`Options`], every other one a [`Remark`].
//!
//! The rule for access control is "closed, never open": an annotation that restricts who gets through and is not
//! implemented closes the paths of its Ingress (503), because serving them without it would open them.

pub(crate) mod service;
mod table;

use sluicegate_config::{Balance, HashKey, OperationName, OperationVariable, Policy, UpstreamProtocol, Verdict};
use sluicegate_trace::{Format, FormatSet, Ratio, Sampler, Trust, UnknownFormat};
use std::sync::Arc;
use std::time::Duration;
use table::{Effect, Row};

/// The prefix of ingress-nginx's annotations.
pub(crate) const NGINX_PREFIX: &str = "nginx.ingress.kubernetes.io/";
/// The prefix of our own.
pub(crate) const OWN_PREFIX: &str = "sluicegate.io/";
/// The annotation that names a class; the field beats it.
pub(crate) const LEGACY_CLASS: &str = "kubernetes.io/ingress.class";

/// Longest timeout that an annotation may ask for: a day.
const LONGEST_TIMEOUT: u64 = 86_400;

/// What the annotations of one Ingress ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Protocol to the backends.
    pub(crate) protocol: Option<UpstreamProtocol>,
    /// How endpoints are chosen.
    pub(crate) balance: Balance,
    /// Limits and timeouts, without a rewrite.
    pub(crate) policy: Arc<Policy>,
    /// `rewrite-target`, if it is not empty.
    pub(crate) rewrite: Option<Arc<str>>,
    /// `use-regex`.
    pub(crate) use_regex: bool,
    /// TLS is relayed, not terminated.
    pub(crate) passthrough: bool,
    /// It is the canary of another Ingress and takes no traffic by itself.
    pub(crate) canary: bool,
    /// Why its paths answer 503.
    pub(crate) closed: Option<Arc<str>>,
}

/// What is to be said about one annotation.
#[derive(Clone, Debug)]
pub(crate) struct Remark {
    pub(crate) key: String,
    pub(crate) verdict: Verdict,
    pub(crate) reason: String,
    pub(crate) remedy: String,
}

/// True for annotations that are kept of an Ingress.
pub(crate) fn is_ours(key: &str) -> bool {
    key.starts_with(NGINX_PREFIX) || key.starts_with(OWN_PREFIX)
}

/// Reads annotations in the order of their keys.
pub(crate) fn read(annotations: &[(Box<str>, Box<str>)]) -> (Options, Vec<Remark>) {
    let mut reader = Reader::default();
    for (key, value) in annotations {
        match (key.strip_prefix(NGINX_PREFIX), key.strip_prefix(OWN_PREFIX)) {
            (Some(short), _) => reader.nginx(key, short, value.trim()),
            (None, Some(short)) => reader.own(key, short, value.trim()),
            (None, None) => {}
        }
    }
    reader.finish()
}

#[derive(Default)]
struct Reader {
    options: Options,
    policy: Policy,
    nginx_balance: Option<Balance>,
    nginx_hash: Option<HashKey>,
    nginx_trust: Option<Trust>,
    own_balance: Option<Balance>,
    own_hash: Option<(String, HashKey)>,
    remarks: Vec<Remark>,
}

impl Reader {
    fn nginx(&mut self, key: &str, short: &str, value: &str) {
        let Some(row) = table::find(short) else {
            self.remark(
                key,
                Verdict::Ignored,
                "is not a known annotation",
                "check the spelling or remove the annotation",
            );
            return;
        };
        if row.silent.contains(&value) {
            return;
        }
        match row.effect {
            Effect::Implemented => self.implemented(key, short, value),
            Effect::Closes => self.close(key, row),
            Effect::Snippet if changes_only_responses(value) => {
                self.remark(
                    key,
                    Verdict::Rejected,
                    "holds proxy configuration text, which has no effect here",
                    row.remedy,
                );
            }
            Effect::Snippet => self.close(key, row),
            Effect::Ignored => self.remark(key, Verdict::Ignored, "has no effect here", row.remedy),
            Effect::Nonexistent => self.remark(key, Verdict::Ignored, "does not exist", row.remedy),
        }
    }

    fn implemented(&mut self, key: &str, short: &str, value: &str) {
        match short {
            "backend-protocol" => self.protocol(key, value),
            "enable-opentelemetry" => {
                if let Some(on) = self.truth(key, value) {
                    self.policy.trace.off |= !on;
                }
            }
            "opentelemetry-trust-incoming-span" => {
                let trust = |yes| if yes { Trust::Continue } else { Trust::Restart };
                self.nginx_trust = self.truth(key, value).map(trust);
            }
            "opentelemetry-operation-name" => match OperationName::parse(value) {
                Ok(name) => self.policy.trace.operation = Some(name),
                Err(error) => self.remark(key, Verdict::Rejected, &error.to_string(), &operation_remedy()),
            },
            "enable-access-log" => self.policy.access_log = self.truth(key, value),
            "canary" => {
                if self.boolean(key, value) {
                    self.options.canary = true;
                    self.remark(
                        key,
                        Verdict::Rejected,
                        "makes this Ingress a canary, which is not implemented: it takes no traffic, and all of it goes to the main Ingress",
                        "split traffic with replicas behind one Service, and remove the canary Ingress",
                    );
                }
            }
            "load-balance" => match value {
                "round_robin" => self.nginx_balance = Some(Balance::RoundRobin),
                "ewma" => self.nginx_balance = Some(Balance::Ewma),
                _ => self.refuse(key, value, "use round_robin or ewma"),
            },
            "upstream-hash-by" => match nginx_hash_key(value) {
                Some(hash) => self.nginx_hash = Some(hash),
                None => self.refuse(
                    key,
                    value,
                    "use one of $remote_addr, $binary_remote_addr, $request_uri, $host, $http_NAME, $cookie_NAME",
                ),
            },
            "proxy-body-size" => match body_size(value) {
                Some(bytes) => self.policy.max_body = Some(bytes),
                None => self.refuse(key, value, "write bytes, or a number with k, m or g, as in 8m; 0 means no limit"),
            },
            "proxy-connect-timeout" => self.policy.connect_timeout = self.timeout(key, value),
            "proxy-read-timeout" => self.policy.read_timeout = self.timeout(key, value),
            "proxy-send-timeout" => self.policy.send_timeout = self.timeout(key, value),
            "rewrite-target" => self.options.rewrite = Some(value).filter(|value| !value.is_empty()).map(Arc::from),
            "ssl-passthrough" => self.options.passthrough |= self.boolean(key, value),
            "use-regex" => self.options.use_regex = self.boolean(key, value),
            _ => self.remark(
                key,
                Verdict::Ignored,
                "is not a known annotation",
                "check the spelling or remove the annotation",
            ),
        }
    }

    fn own(&mut self, key: &str, short: &str, value: &str) {
        match short {
            "load-balance" => {
                self.own_balance = match value {
                    "round_robin" => Some(Balance::RoundRobin),
                    "least_requests" => Some(Balance::LeastRequests),
                    "ewma" => Some(Balance::Ewma),
                    "hash" => Some(Balance::ConsistentHash(HashKey::ClientAddress)),
                    _ => {
                        self.refuse(key, value, "use round_robin, least_requests, ewma or hash");
                        None
                    }
                }
            }
            "hash-by" => match own_hash_key(value) {
                Some(hash) => self.own_hash = Some((key.to_owned(), hash)),
                None => self.refuse(key, value, "use client-address, uri, host, header:NAME or cookie:NAME"),
            },
            "trace-trust" => match value.parse() {
                Ok(trust) => self.policy.trace.trust = Some(trust),
                Err(_) => self.refuse(key, value, "use continue, restart or ignore"),
            },
            "trace-sampling" => match sampler(value) {
                Some(sampler) => self.policy.trace.sampler = Some(sampler),
                None => self.refuse(key, value, "use always, never, or a ratio from 0 to 1 such as 0.05"),
            },
            "trace-propagation" => match formats(value) {
                Ok(formats) if formats.is_empty() => self.policy.trace.off = true,
                Ok(formats) => self.policy.trace.formats = Some(formats),
                Err(error) => self.remark(
                    key,
                    Verdict::Rejected,
                    &format!("names the format {:?}, which is not known", error.0),
                    FORMATS,
                ),
            },
            "tls-passthrough" => self.options.passthrough |= self.boolean(key, value),
            "dialect" => {
                self.remark(key, Verdict::Ignored, "has no effect on an Ingress", "set it on the IngressClass");
            }
            _ => self.remark(
                key,
                Verdict::Ignored,
                "is not a known annotation",
                "check the spelling or remove the annotation",
            ),
        }
    }

    fn protocol(&mut self, key: &str, value: &str) {
        self.options.protocol = Some(match value.to_ascii_uppercase().as_str() {
            "HTTP" => UpstreamProtocol::Http1,
            "HTTPS" => UpstreamProtocol::Https,
            "GRPC" => UpstreamProtocol::H2c,
            "GRPCS" => UpstreamProtocol::H2,
            _ => {
                // Speaking HTTP to a FastCGI process, or in the clear to a TLS port, serves nobody.
                let reason = format!(
                    "asks for the protocol {value:?}, which is not implemented: the paths of this Ingress answer 503"
                );
                self.options.closed.get_or_insert_with(|| format!("annotation {key} {reason}").into());
                self.remark(key, Verdict::Rejected, &reason, "use HTTP, HTTPS, GRPC or GRPCS");
                return;
            }
        });
    }

    fn close(&mut self, key: &str, row: &Row) {
        let reason = "is not implemented, and serving without it would open what it closes: the paths of this Ingress answer 503";
        self.options.closed.get_or_insert_with(|| format!("annotation {key} is not implemented").into());
        self.remark(key, Verdict::Rejected, reason, row.remedy);
    }

    /// False where the value is none.
    fn boolean(&mut self, key: &str, value: &str) -> bool {
        self.truth(key, value).unwrap_or(false)
    }

    /// The forms that ingress-nginx takes (Go's ParseBool).
    fn truth(&mut self, key: &str, value: &str) -> Option<bool> {
        match value {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" | "" => Some(false),
            _ => {
                self.refuse(key, value, "write \"true\" or \"false\"");
                None
            }
        }
    }

    fn timeout(&mut self, key: &str, value: &str) -> Option<Duration> {
        match value.parse::<u64>() {
            Ok(seconds @ 1..=LONGEST_TIMEOUT) => Some(Duration::from_secs(seconds)),
            _ => {
                self.refuse(key, value, "write seconds from 1 to 86400 without a unit");
                None
            }
        }
    }

    fn refuse(&mut self, key: &str, value: &str, remedy: &str) {
        self.remark(
            key,
            Verdict::Rejected,
            &format!("has the value {value:?}, which is not implemented; the default is in force"),
            remedy,
        );
    }

    fn remark(&mut self, key: &str, verdict: Verdict, reason: &str, remedy: &str) {
        self.remarks.push(Remark {
            key: key.to_owned(),
            verdict,
            reason: format!("annotation {key} {reason}"),
            remedy: remedy.to_owned(),
        });
    }

    /// Our own annotations beat ingress-nginx's; there, a hash beats the algorithm.
    fn finish(mut self) -> (Options, Vec<Remark>) {
        self.options.balance = match (self.own_balance.take(), self.own_hash.take()) {
            (None | Some(Balance::ConsistentHash(_)), Some((_, hash))) => Balance::ConsistentHash(hash),
            (Some(balance), Some((key, _))) => {
                self.remark(
                    &key,
                    Verdict::Ignored,
                    "has no effect beside another algorithm",
                    "set sluicegate.io/load-balance: hash",
                );
                balance
            }
            (Some(balance), None) => balance,
            (None, None) => {
                self.nginx_hash.take().map(Balance::ConsistentHash).or(self.nginx_balance.take()).unwrap_or_default()
            }
        };
        let trace = &mut self.policy.trace;
        trace.trust = trace.trust.or(self.nginx_trust);
        if self.policy != Policy::default() {
            self.options.policy = Arc::new(self.policy);
        }
        (self.options, self.remarks)
    }
}

const FORMATS: &str = "list formats with commas: tracecontext, b3, b3multi, jaeger, ottrace, datadog, xray, google, grpc-trace-bin; or write none";

/// Formats with commas between them; `none` is the empty set.
fn formats(value: &str) -> Result<FormatSet, UnknownFormat> {
    if value == "none" {
        return Ok(FormatSet::EMPTY);
    }
    value.split(',').map(|name| name.trim().parse::<Format>()).collect()
}

fn sampler(value: &str) -> Option<Sampler> {
    match value {
        "always" => Some(Sampler::Always),
        "never" => Some(Sampler::Never),
        _ => Ratio::new(value.parse().ok()?).ok().map(Sampler::Ratio),
    }
}

fn operation_remedy() -> String {
    let known: Vec<String> = OperationVariable::ALL.iter().map(|(_, name)| format!("${name}")).collect();
    format!("use text and the variables {}", known.join(", "))
}

/// nginx's sizes: a number, optionally with a unit of 1024. ingress-nginx also takes `b`.
fn body_size(value: &str) -> Option<u64> {
    let (digits, unit) = match value.as_bytes().last()? {
        b'b' | b'B' => (&value[..value.len() - 1], 1),
        b'k' | b'K' => (&value[..value.len() - 1], 1 << 10),
        b'm' | b'M' => (&value[..value.len() - 1], 1 << 20),
        b'g' | b'G' => (&value[..value.len() - 1], 1 << 30),
        _ => (value, 1),
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// A single variable of a closed set, as `$name` or `${name}`.
fn nginx_hash_key(value: &str) -> Option<HashKey> {
    let name = value.strip_prefix('$')?;
    let name = name.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(name);
    Some(match name {
        "remote_addr" | "binary_remote_addr" => HashKey::ClientAddress,
        "request_uri" => HashKey::RequestUri,
        "host" => HashKey::Host,
        _ => match (name.strip_prefix("http_"), name.strip_prefix("cookie_")) {
            // nginx spells header names with `_` for `-`.
            (Some(header), _) if is_token(header) => {
                HashKey::Header(header.to_ascii_lowercase().replace('_', "-").into())
            }
            (_, Some(cookie)) if is_token(cookie) => HashKey::Cookie(cookie.into()),
            _ => return None,
        },
    })
}

fn own_hash_key(value: &str) -> Option<HashKey> {
    Some(match value {
        "client-address" => HashKey::ClientAddress,
        "uri" => HashKey::RequestUri,
        "host" => HashKey::Host,
        _ => match value.split_once(':')? {
            ("header", name) if is_token(name) => HashKey::Header(name.to_ascii_lowercase().into()),
            ("cookie", name) if is_token(name) => HashKey::Cookie(name.into()),
            _ => return None,
        },
    })
}

/// RFC 9110 section 5.6.2, bounded.
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 128
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#%&'*+-.^_`|~".contains(&byte))
}

/// True if every statement of a snippet touches responses, timeouts or buffers alone, so that serving without it
/// opens nothing.
fn changes_only_responses(snippet: &str) -> bool {
    const HARMLESS: &[&str] = &[
        "add_header",
        "chunked_transfer_encoding",
        "client_body_buffer_size",
        "client_body_timeout",
        "expires",
        "grpc_read_timeout",
        "grpc_send_timeout",
        "gzip",
        "gzip_min_length",
        "gzip_types",
        "more_clear_headers",
        "more_set_headers",
        "proxy_buffer_size",
        "proxy_buffering",
        "proxy_buffers",
        "proxy_busy_buffers_size",
        "proxy_connect_timeout",
        "proxy_read_timeout",
        "proxy_request_buffering",
        "proxy_send_timeout",
        "send_timeout",
    ];
    // A quoted `;` splits a statement in two, and its second half is then not harmless: the error is on the closed side.
    snippet
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join(" ")
        .split(';')
        .filter_map(|statement| statement.split_whitespace().next())
        .all(|directive| HARMLESS.contains(&directive))
        && !snippet.contains(['{', '}'])
}
