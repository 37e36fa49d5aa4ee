//! Lines by a template with the variables of nginx, as ingress-nginx's `log-format-upstream` is written.

use crate::labels::{Protocol, TlsVersion, UpstreamError};
use crate::redact;
use crate::request::{FinishedRequest, Try};
use crate::request_filter::without_port;
use crate::request_json::write_url;
use crate::sheet::{Paper, Sheet};
use crate::text::{self, Escape, WallClock};
use std::net::IpAddr;

/// The line of ingress-nginx, which log parsers know as `upstreaminfo`.
pub const UPSTREAMINFO: &str = "$remote_addr - $remote_user [$time_local] \"$request\" $status $body_bytes_sent \
    \"$http_referer\" \"$http_user_agent\" $request_length $request_time [$proxy_upstream_name] \
    [$proxy_alternative_upstream_name] $upstream_addr $upstream_response_length $upstream_response_time \
    $upstream_status $req_id";

/// Fields that are never written, whoever asks: they hold what lets others in.
const SECRET_FIELDS: &[&str] =
    &["authorization", "cookie", "proxy_authorization", "set_cookie", "www_authenticate", "proxy_authenticate"];

/// A template that lines are written by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    escape: Escape,
    parts: Box<[Part]>,
}

/// A text that is no template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// There is no such variable.
    #[error(
        "there is no variable ${name}; there are {}, and $http_NAME and $sent_http_NAME for fields of request and response",
        known()
    )]
    UnknownVariable {
        /// Its name.
        name: String,
    },
    /// The variable would write credentials.
    #[error("${name} is never written to a log, because who reads the log could use it; leave it out")]
    Secret {
        /// Its name.
        name: String,
    },
    /// A `$` without a name.
    #[error(
        "a `$` stands before the name of a variable, such as $status or ${{status}}; there is none after `{before}`"
    )]
    NoName {
        /// What stands before it.
        before: String,
    },
    /// What would make more than one line of a request.
    #[error("it has control characters; a request is one line of text, so write it without line feeds and tabs")]
    Control,
    /// No variable at all.
    #[error("it has no variable, so that all lines would be the same; write json, nginx or variables such as $status")]
    Constant,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(Box<[u8]>),
    Variable(Variable),
    RequestField(Box<str>),
    ResponseField(Box<str>),
}

macro_rules! variables {
    ($($name:literal $(| $alias:literal)* => $variable:ident, $meaning:literal;)+) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Variable {
            $($variable,)+
        }

        /// Every variable beside `$http_NAME` and `$sent_http_NAME`, by its names, and what it says.
        pub const VARIABLES: &[(&[&str], &str)] = &[$((&[$name $(, $alias)*], $meaning),)+];

        fn variable(name: &str) -> Option<Variable> {
            match name {
                $($name $(| $alias)* => Some(Variable::$variable),)+
                _ => None,
            }
        }
    };
}

variables! {
    "args" | "query_string" => Query, "the query, with `REDACTED` for values of secrets";
    "body_bytes_sent" => BytesOut, "body bytes to the client";
    "fault_detail" => FaultDetail, "`$fault_reason` in words";
    "fault_reason" => FaultReason, "why the gateway answered by itself or cut the response";
    "host" => Host, "`Host` or `:authority` without the port, else the rule's host";
    "http_host" | "best_http_host" => HttpHost, "`Host` or `:authority` as it came";
    "http_referer" => Referer, "`Referer`, with `REDACTED` for values of secrets";
    "ingress_name" => Ingress, "the Ingress that took the request";
    "is_args" => IsArgs, "`?` if there is a query";
    "location_path" => RulePath, "the rule's path as the Ingress writes it";
    "msec" => Msec, "when it was over, in seconds since the Unix epoch, with milliseconds";
    "namespace" => Namespace, "of that Ingress";
    "opentelemetry_span_id" | "span_id" => SpanId, "the gateway's own span";
    "opentelemetry_trace_id" | "trace_id" => TraceId, "the trace that backends see";
    "proxy_alternative_upstream_name" => Alternative, "always empty: there are no canaries";
    "proxy_protocol_addr" => ProxyProtocolAddress, "the client's address where it is not the connection's";
    "proxy_upstream_name" => UpstreamName, "`namespace-service-port`";
    "realip_remote_addr" => PeerAddress, "the address that has the connection";
    "remote_addr" | "the_real_ip" => ClientAddress, "the client's address: as trusted proxies say, else the connection's";
    "remote_port" => PeerPort, "the port of the connection";
    "remote_user" => Nothing, "always `-`: nothing of `Authorization` is written";
    "req_id" | "request_id" => RequestId, "`X-Request-ID`, the client's or the gateway's";
    "request" => Request, "the request line: method, path and query, version";
    "request_length" => RequestLength, "bytes of the request, head and body";
    "request_method" => Method, "the method as it came";
    "request_time" => Duration, "seconds from the first byte in to the last one out, with milliseconds";
    "request_uri" => RequestUri, "path and query as they came, with `REDACTED` for values of secrets";
    "scheme" => Scheme, "`http` or `https`";
    "server_addr" => LocalAddress, "the address that was connected to";
    "server_name" => RuleHost, "the rule's host as the Ingress writes it, `_` for every host";
    "server_port" => LocalPort, "the port that was connected to";
    "server_protocol" => ServerProtocol, "`HTTP/1.0`, `HTTP/1.1` or `HTTP/2.0`";
    "service_name" => Service, "the Service behind the rule";
    "service_port" => ServicePort, "its port as the Ingress writes it";
    "ssl_protocol" => TlsProtocol, "`TLSv1.2` or `TLSv1.3`";
    "ssl_server_name" => ServerName, "the name that the client asked for in its TLS handshake";
    "status" => Status, "what the client was sent; 499 where it went before, 000 where nothing was sent";
    "time_iso8601" => TimeIso8601, "when it was over (UTC)";
    "time_local" => TimeLocal, "when it was over (UTC), `31/Jan/2026:23:59:59 +0000`";
    "tries" => Tries, "how many tries there were";
    "upstream_addr" => UpstreamAddress, "endpoints, one for each try";
    "upstream_connect_time" => UpstreamConnect, "seconds of TCP and TLS handshakes of each try";
    "upstream_header_time" => UpstreamHeader, "seconds of each try until the response's head was there";
    "upstream_node" => UpstreamNode, "nodes of the pods, one for each try";
    "upstream_pod" => UpstreamPod, "pods, one for each try";
    "upstream_response_length" => UpstreamLength, "body bytes of each try";
    "upstream_response_time" => UpstreamTime, "seconds of each try";
    "upstream_status" => UpstreamStatus, "status of each try; 502 or 504 where there was no answer";
    "uri" => Uri, "the path as it came";
}

fn known() -> String {
    let names: Vec<String> = VARIABLES.iter().flat_map(|(names, _)| *names).map(|name| format!("${name}")).collect();
    names.join(", ")
}

impl Template {
    /// Reads a template: text with `$name` or `${name}`. As in nginx's `log_format`, `escape=json` or `escape=default` may
    /// stand in front.
    ///
    /// # Errors
    /// Where a variable is unknown or never written, or there is none.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let (escape, text) = match text.split_once(' ') {
            Some(("escape=json", rest)) => (Escape::Json, rest),
            Some(("escape=default", rest)) => (Escape::Nginx, rest),
            _ => (Escape::Nginx, text),
        };
        if text.chars().any(char::is_control) {
            return Err(TemplateError::Control);
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            if !before.is_empty() {
                parts.push(Part::Literal(before.as_bytes().into()));
            }
            let (name, after) = split_name(after).ok_or_else(|| TemplateError::NoName { before: before.to_owned() })?;
            parts.push(Part::named(name)?);
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.as_bytes().into()));
        }
        if parts.iter().all(|part| matches!(part, Part::Literal(_))) {
            return Err(TemplateError::Constant);
        }
        Ok(Self { escape, parts: parts.into() })
    }

    /// Writes the line of a request, without a line feed.
    pub(crate) fn write(&self, out: &mut Vec<u8>, request: &FinishedRequest<'_>, writer: &mut TemplateWriter) {
        let TemplateWriter { clock, paper } = writer;
        let mut sheet = Sheet::begin(paper, out);
        let mut line = Line { out: &mut sheet, escape: self.escape, request, clock };
        for part in &self.parts {
            match part {
                Part::Literal(text) => line.out.put(text),
                Part::Variable(variable) => line.variable(*variable),
                Part::RequestField(name) => line.text(request.request_fields.field(name).unwrap_or_default()),
                Part::ResponseField(name) => {
                    line.text(request.response_fields.and_then(|fields| fields.field(name)).unwrap_or_default());
                }
            }
        }
        sheet.finish();
    }
}

impl Part {
    fn named(name: &str) -> Result<Self, TemplateError> {
        let is_secret = |field: &str| SECRET_FIELDS.contains(&field);
        let field = |field: &str| field.replace('_', "-").into_boxed_str();
        if let Some(variable) = variable(name) {
            return Ok(Self::Variable(variable));
        }
        match (name.strip_prefix("http_"), name.strip_prefix("sent_http_")) {
            (Some(of), _) | (_, Some(of)) if is_secret(of) => Err(TemplateError::Secret { name: name.to_owned() }),
            (Some(of), _) if !of.is_empty() => Ok(Self::RequestField(field(of))),
            (_, Some(of)) if !of.is_empty() => Ok(Self::ResponseField(field(of))),
            _ if name.starts_with("cookie_") => Err(TemplateError::Secret { name: name.to_owned() }),
            _ => Err(TemplateError::UnknownVariable { name: name.to_owned() }),
        }
    }
}

/// The name of a variable at the beginning, in braces or not, and what follows.
fn split_name(text: &str) -> Option<(&str, &str)> {
    let is_of_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let (name, rest) = match text.strip_prefix('{') {
        Some(inner) => inner.split_once('}')?,
        None => text.split_at(text.find(|letter| !is_of_name(letter)).unwrap_or(text.len())),
    };
    (!name.is_empty() && name.chars().all(is_of_name)).then_some((name, rest))
}

/// What lines are written with. Each worker has one of its own.
#[derive(Debug, Default)]
pub(crate) struct TemplateWriter {
    clock: WallClock,
    paper: Paper,
}

/// A line that is being written.
struct Line<'a, 's> {
    out: &'a mut Sheet<'s>,
    escape: Escape,
    request: &'a FinishedRequest<'a>,
    clock: &'a mut WallClock,
}

impl Line<'_, '_> {
    fn variable(&mut self, variable: Variable) {
        let request = self.request;
        match variable {
            Variable::Nothing => self.nothing(),
            Variable::Alternative => {}
            Variable::Method => self.text(request.method),
            Variable::HttpHost => self.text(request.authority),
            Variable::Host => self.host(),
            Variable::Uri => self.text(request.path),
            Variable::Query => self.query(),
            Variable::IsArgs => self.out.put(if request.query.is_some() { b"?".as_slice() } else { b"" }),
            Variable::Request => self.request_line(),
            Variable::RequestUri => self.request_uri(),
            Variable::Referer => match request.request_fields.field("referer") {
                Some(referer) => write_url(self.out, referer, self.escape),
                None => self.nothing(),
            },
            Variable::RequestId => self.text(request.request_id),
            Variable::Scheme => self.text(if request.downstream.tls.is_some() { b"https" } else { b"http" }),
            Variable::ServerProtocol => self.text(protocol(request.downstream.protocol)),
            Variable::Status => match request.status {
                0 => self.out.put(b"000"),
                status => self.number(status.into()),
            },
            Variable::BytesOut => self.number(request.bytes_out),
            Variable::RequestLength => self.number(request.request_length),
            Variable::Duration => text::seconds(self.out, request.ended.saturating_duration_since(request.started)),
            Variable::FaultReason => self.text(request.fault.map_or("", |(reason, _)| reason.as_str()).as_bytes()),
            Variable::FaultDetail => self.text(request.fault.map_or("", |(_, detail)| detail).as_bytes()),
            Variable::Tries => self.number(request.tries.len() as u64),
            Variable::TimeLocal => self.clock.write_common_log(self.out, request.ended),
            Variable::TimeIso8601 => self.clock.write_iso8601(self.out, request.ended),
            Variable::Msec => {
                let time = self.clock.since_epoch(request.ended);
                text::seconds(self.out, time);
            }
            Variable::TraceId => match request.trace {
                Some(trace) => {
                    text::hexadecimal(self.out, trace.trace_id.high());
                    text::hexadecimal(self.out, trace.trace_id.low());
                }
                None => self.nothing(),
            },
            Variable::SpanId => match request.trace {
                Some(trace) => text::hexadecimal(self.out, trace.span_id.get()),
                None => self.nothing(),
            },
            other => self.place(other),
        }
    }

    /// Variables that say where a request came from or went to.
    fn place(&mut self, variable: Variable) {
        let (downstream, route) = (self.request.downstream, self.request.route);
        let tls = downstream.tls;
        match variable {
            Variable::ClientAddress => text::address(self.out, downstream.client),
            Variable::ProxyProtocolAddress => self.relayed(downstream.client, downstream.peer.ip()),
            Variable::PeerAddress => text::address(self.out, downstream.peer.ip()),
            Variable::PeerPort => self.number(downstream.peer.port().into()),
            Variable::LocalAddress => text::address(self.out, downstream.local.ip()),
            Variable::LocalPort => self.number(downstream.local.port().into()),
            Variable::TlsProtocol => match tls.map(|tls| tls.version) {
                Some(TlsVersion::Tls12) => self.text(b"TLSv1.2"),
                Some(TlsVersion::Tls13) => self.text(b"TLSv1.3"),
                None => self.nothing(),
            },
            Variable::ServerName => self.text(tls.and_then(|tls| tls.server_name).unwrap_or_default().as_bytes()),
            Variable::Namespace => self.text(route.map_or(b"", |route| route.namespace.as_bytes())),
            Variable::Ingress => self.text(route.map_or(b"", |route| route.ingress.as_bytes())),
            Variable::RuleHost => self.text(route.map_or("_", |route| route.host).as_bytes()),
            Variable::RulePath => self.text(route.map_or("", |route| route.path).as_bytes()),
            Variable::Service => {
                self.text(route.and_then(|route| route.service).map_or(b"", |(name, _)| name.as_bytes()))
            }
            Variable::ServicePort => {
                self.text(route.and_then(|route| route.service).map_or("", |(_, port)| port).as_bytes())
            }
            Variable::UpstreamName => self.upstream_name(),
            Variable::UpstreamAddress => self.each_try(|line, attempt| text::socket(line.out, attempt.endpoint)),
            Variable::UpstreamPod => {
                self.each_try(|line, attempt| line.text(attempt.pod.as_deref().unwrap_or_default().as_bytes()))
            }
            Variable::UpstreamNode => {
                self.each_try(|line, attempt| line.text(attempt.node.as_deref().unwrap_or_default().as_bytes()))
            }
            Variable::UpstreamLength => self.each_try(|line, attempt| line.number(attempt.bytes)),
            Variable::UpstreamTime => self.each_try(|line, attempt| {
                text::seconds(line.out, attempt.ended.saturating_duration_since(attempt.started));
            }),
            Variable::UpstreamConnect => self.each_try(|line, attempt| match (attempt.reused, attempt.connect) {
                (true, _) => text::seconds(line.out, std::time::Duration::ZERO),
                (false, Some(connect)) => text::seconds(line.out, connect + attempt.tls.unwrap_or_default()),
                (false, None) => line.nothing(),
            }),
            Variable::UpstreamHeader => self.each_try(|line, attempt| match attempt.first_byte {
                Some(first_byte) => {
                    let handshakes = attempt.connect.unwrap_or_default() + attempt.tls.unwrap_or_default();
                    text::seconds(line.out, attempt.queued.unwrap_or_default() + handshakes + first_byte);
                }
                None => line.nothing(),
            }),
            Variable::UpstreamStatus => self.each_try(|line, attempt| match (attempt.status, attempt.error) {
                (Some(status), _) => line.number(status.into()),
                (None, Some(error)) => line.number(status_of(error)),
                (None, None) => line.nothing(),
            }),
            // The others are in `variable`.
            _ => self.nothing(),
        }
    }

    /// Text that strangers chose.
    fn text(&mut self, text: &[u8]) {
        if text.is_empty() {
            self.nothing();
        } else {
            self.out.put_escaped(self.escape, text);
        }
    }

    /// What nginx writes where a variable has no value.
    fn nothing(&mut self) {
        match self.escape {
            Escape::Nginx => self.out.put(b"-"),
            Escape::Json => {}
        }
    }

    fn number(&mut self, number: u64) {
        text::integer(self.out, number);
    }

    fn host(&mut self) {
        let host = without_port(self.request.authority);
        if host.is_empty() {
            self.text(self.request.route.map_or("", |route| route.host).as_bytes());
            return;
        }
        self.text(&host.to_ascii_lowercase());
    }

    fn query(&mut self) {
        match self.request.query {
            Some(query) if !query.is_empty() => self.out.put_escaped(self.escape, &redact::query(query)),
            _ => self.nothing(),
        }
    }

    fn request_uri(&mut self) {
        self.text(self.request.path);
        if let Some(query) = self.request.query {
            self.out.put(b"?");
            self.out.put_escaped(self.escape, &redact::query(query));
        }
    }

    fn request_line(&mut self) {
        if self.request.method.is_empty() {
            self.nothing();
            return;
        }
        self.text(self.request.method);
        self.out.put(b" ");
        self.request_uri();
        self.out.put(b" ");
        self.text(protocol(self.request.downstream.protocol));
    }

    fn upstream_name(&mut self) {
        match self.request.route.and_then(|route| Some((route, route.service?))) {
            Some((route, (service, port))) => {
                for (index, part) in [route.namespace, service, port].into_iter().enumerate() {
                    if index > 0 {
                        self.out.put(b"-");
                    }
                    self.out.put_escaped(self.escape, part.as_bytes());
                }
            }
            None => self.nothing(),
        }
    }

    fn relayed(&mut self, client: IpAddr, peer: IpAddr) {
        if client.to_canonical() == peer.to_canonical() {
            self.nothing();
        } else {
            text::address(self.out, client);
        }
    }

    /// Values of several tries stand behind commas.
    fn each_try(&mut self, mut write: impl FnMut(&mut Self, &Try)) {
        if self.request.tries.is_empty() {
            self.nothing();
        }
        for (index, attempt) in self.request.tries.iter().enumerate() {
            if index > 0 {
                self.out.put(b", ");
            }
            write(self, attempt);
        }
    }
}

fn protocol(protocol: Protocol) -> &'static [u8] {
    match protocol {
        Protocol::Http10 => b"HTTP/1.0",
        Protocol::Http11 => b"HTTP/1.1",
        Protocol::Http2 => b"HTTP/2.0",
    }
}

/// nginx notes 504 for what took too long, and 502 for all else that was no answer.
fn status_of(error: UpstreamError) -> u64 {
    match error {
        UpstreamError::ConnectTimeout | UpstreamError::ReadTimeout | UpstreamError::SendTimeout => 504,
        _ => 502,
    }
}
