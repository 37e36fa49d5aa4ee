//! Request heads.

use std::fmt;
use std::ops::Range;

use crate::authority;
use crate::error::HeadError;
use crate::field::{Field, FieldName};
use crate::framing::{self, ConnectionOptions, Framing, Version};
use crate::head::{Fields, Head, LineFault, Span, Stage};
use crate::limits::HeadLimits;
use crate::syntax;
use crate::target::{self, PathAndQuery, Target, TargetForm};

/// Longer than every registered method; what exceeds it is no method.
const LONGEST_METHOD: usize = 64;

/// A request head: parsed from the wire with [`parse`](Self::parse), or built with [`begin`](Self::begin),
/// [`push`](Self::push) and [`finish`](Self::finish) and held to the same rules. What the accessors say holds once
/// `parse` returned `Some`, or `finish` returned `Ok`.
///
/// It owns its bytes. One value is used for all requests of a connection: `clear` keeps the memory, `shrink` gives it
/// back.
#[derive(Clone, Default)]
pub struct RequestHead {
    head: Head,
    version: Version,
    method: Span,
    target: Span,
    form: TargetForm,
    path: Span,
    path_len: u32,
    path_prefix: PathPrefix,
    authority: Span,
    host_len: u32,
    port: Option<u16>,
    framing: Framing,
    framing_is_given: bool,
    options: ConnectionOptions,
    upgrade: bool,
    expects_continue: bool,
}

/// What must be put before the part of the target that is the path and query.
#[derive(Clone, Copy, Debug, Default)]
enum PathPrefix {
    #[default]
    None,
    Slash,
    Asterisk,
}

impl RequestHead {
    /// An empty head. Allocates nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets the request and keeps the memory.
    pub fn clear(&mut self) {
        let mut head = std::mem::take(&mut self.head);
        head.clear();
        *self = Self { head, ..Self::default() };
    }

    /// Forgets the request and gives the memory back, as an idle connection should.
    pub fn shrink(&mut self) {
        *self = Self::default();
    }

    /// Bytes of memory that it holds outside of itself.
    pub fn capacity_bytes(&self) -> usize {
        self.head.capacity_bytes()
    }

    /// Reads a head from the start of `input`. `Ok(None)`: it is not complete; call again with the same bytes and
    /// more. `Ok(Some(n))`: the first `n` bytes were the head (with the one empty line that may stand before it).
    ///
    /// What has been looked at is remembered until the next `clear`, so a client that sends byte by byte costs linear
    /// time. The result does not depend on how the bytes were split. A head that is complete, or was built, is cleared
    /// first. An error stays until the head is cleared.
    pub fn parse(&mut self, input: &[u8], limits: &HeadLimits) -> Result<Option<usize>, HeadError> {
        if let Stage::Refused(error) = self.head.stage {
            return Err(error);
        }
        if !self.head.is_fresh_for(input) {
            self.clear();
        }
        let result = self.advance(input, limits);
        self.head.mirror(input);
        match result {
            Ok(Some(_)) => self.head.stage = Stage::Complete,
            Ok(None) => {}
            Err(error) => self.head.stage = Stage::Refused(error),
        }
        result
    }

    fn advance(&mut self, input: &[u8], limits: &HeadLimits) -> Result<Option<usize>, HeadError> {
        while self.head.stage == Stage::StartLine {
            if !self.read_start_line(input, limits)? {
                return Ok(None);
            }
        }
        let Some(end) = self.head.read_fields(input, limits)? else {
            return Ok(None);
        };
        self.head.mirror(input);
        self.derive()?;
        Ok(Some(end))
    }

    /// Starts a head by hand. Method and target are checked as `parse` checks them. With [`Version::Http2`], CONNECT
    /// may have a path (RFC 8441), and field names must be lower case.
    pub fn begin(&mut self, version: Version, method: &[u8], target: &[u8]) -> Result<(), HeadError> {
        self.clear();
        self.head.stage = Stage::Built;
        self.version = version;
        check_method(method)?;
        if target.len() > HeadLimits::default().head_bytes() {
            return Err(HeadError::TargetTooLong);
        }
        let parsed = target::parse(method, version, target)?;
        self.method = self.head.keep(method);
        self.target = self.head.keep(target);
        self.set_target(parsed);
        Ok(())
    }

    /// Adds a field by hand: name and value are checked, and white space around the value is dropped.
    pub fn push(&mut self, name: &[u8], value: &[u8]) -> Result<(), HeadError> {
        if self.version == Version::Http2 && name.iter().any(u8::is_ascii_uppercase) {
            return Err(HeadError::InvalidName);
        }
        self.head.push(name, value)
    }

    /// Completes a head that was built by hand: applies the limits, and derives host, framing and the rest from the
    /// fields as `parse` does. In HTTP/2, Host is `:authority`, and must be pushed as a field.
    pub fn finish(&mut self, limits: &HeadLimits) -> Result<(), HeadError> {
        if self.target.len as usize > limits.max_target_bytes {
            return Err(HeadError::TargetTooLong);
        }
        self.head.check_limits(limits)?;
        self.derive()
    }

    /// Says how the body is framed, where the fields do not say it (HTTP/2). Before `finish` it is compared with
    /// Content-Length there; after, it just replaces what was found.
    pub fn set_framing(&mut self, framing: Framing) {
        self.framing = framing;
        self.framing_is_given = true;
    }

    /// Bytes of the head as it was parsed, from the request line to the empty line; of a head that was built by hand,
    /// those of its names and values.
    pub fn wire_len(&self) -> usize {
        self.head.wire_len()
    }

    /// The version that the request was sent in.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The method, as received: methods are case-sensitive.
    pub fn method(&self) -> &[u8] {
        self.head.slice(self.method)
    }

    /// Whether the method is HEAD, so that the response has no body.
    pub fn is_head(&self) -> bool {
        self.method() == b"HEAD"
    }

    /// Whether the method is CONNECT.
    pub fn is_connect(&self) -> bool {
        self.method() == b"CONNECT"
    }

    /// Whether the request may be sent again after a failure (RFC 9110 section 9.2.2).
    pub fn is_idempotent(&self) -> bool {
        matches!(self.method(), b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE" | b"PUT" | b"DELETE")
    }

    /// The target, as received.
    pub fn target(&self) -> &[u8] {
        self.head.slice(self.target)
    }

    /// The form of the target.
    pub fn form(&self) -> TargetForm {
        self.form
    }

    /// The target in the form in which a gateway sends it on: the path and query of an absolute target, `/` where the
    /// path is empty, `*` for an OPTIONS on the whole server, and `/` for a CONNECT to an authority.
    pub fn path_and_query(&self) -> &[u8] {
        self.head.slice(self.path)
    }

    /// [`path_and_query`](Self::path_and_query) up to the first `?`.
    pub fn path(&self) -> &[u8] {
        self.head.slice(Span { len: self.path_len, ..self.path })
    }

    /// What follows the first `?`, which may be empty.
    pub fn query(&self) -> Option<&[u8]> {
        self.path_and_query().get(self.path_len as usize + 1..)
    }

    /// The effective `host[:port]` in the client's spelling: that of the target where it names one, else Host
    /// (RFC 9112 section 3.2.2). Empty only in HTTP/1.0.
    pub fn authority(&self) -> &[u8] {
        self.head.slice(self.authority)
    }

    /// [`authority`](Self::authority) without the port; IPv6 addresses with their brackets.
    pub fn host(&self) -> &[u8] {
        self.head.slice(Span { len: self.host_len, ..self.authority })
    }

    /// The port that [`authority`](Self::authority) names.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// How the body is framed. Never [`Framing::UntilClose`].
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Whether the client wants the connection kept (RFC 9112 section 9.3).
    pub fn keep_alive(&self) -> bool {
        self.options.keep_alive(self.version)
    }

    /// Whether the client waits for `100 Continue` before it sends the body. HTTP/1.0 clients do not, whatever they
    /// say (RFC 9110 section 10.1.1), and neither does a request without a body.
    pub fn expects_continue(&self) -> bool {
        self.expects_continue && !self.framing.is_empty()
    }

    /// The Upgrade value, where Connection lists `upgrade` and the version is HTTP/1.1.
    pub fn upgrade(&self) -> Option<&[u8]> {
        self.head.value(FieldName::Upgrade).filter(|_| self.upgrade)
    }

    /// Whether Connection names this field, so that it goes no further (RFC 9110 section 7.6.1). It never names Host
    /// or Content-Length: such a head is refused.
    pub fn is_connection_option(&self, name: &[u8]) -> bool {
        framing::is_connection_option(&self.head, name)
    }

    /// Whether the client takes trailers (RFC 9110 section 10.1.4).
    pub fn te_trailers(&self) -> bool {
        framing::te_trailers(&self.head)
    }

    /// All fields, in order.
    pub fn fields(&self) -> Fields<'_> {
        self.head.fields()
    }

    /// Appends the fields that `keeps` wants to `out`, in order, each as `name: value` and CRLF: what
    /// [`write_field`](crate::write_field) makes of each of them, at less cost.
    pub fn write_fields(&self, out: &mut Vec<u8>, keeps: impl FnMut(&Field<'_>) -> bool) {
        self.head.write_fields(out, keeps);
    }

    /// How many fields there are.
    pub fn len_fields(&self) -> usize {
        self.head.len_fields()
    }

    /// The value of the first field of this name.
    pub fn field(&self, name: FieldName) -> Option<&[u8]> {
        self.head.value(name)
    }

    /// The values of all fields of this name, in order.
    pub fn fields_named(&self, name: FieldName) -> impl Iterator<Item = &[u8]> + Clone {
        self.head.values(name)
    }

    /// The value of the first field of this name, known or not, without regard to case.
    pub fn field_by_name(&self, name: &[u8]) -> Option<&[u8]> {
        self.head.value_by_name(name)
    }

    /// Takes the next line of what stands before the fields; `false` when it is not complete.
    fn read_start_line(&mut self, input: &[u8], limits: &HeadLimits) -> Result<bool, HeadError> {
        let start = self.head.line_start;
        let target_bound = start
            .saturating_add(limits.max_target_bytes)
            .saturating_add(LONGEST_METHOD + " ".len() + " HTTP/1.1\r\n".len());
        let bound = target_bound.min(limits.head_bytes());
        let line = match self.head.next_line(input, bound) {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(false),
            Err(LineFault::Ending(error)) => return Err(error),
            Err(LineFault::Full) if bound < limits.head_bytes() => {
                return Err(HeadError::TargetTooLong);
            }
            Err(LineFault::Full) => return Err(HeadError::HeadTooLarge),
            Err(LineFault::Control(at)) => return Err(control_in_request_line(&input[start..at])),
        };
        if line.is_empty() {
            // One empty line is left over by some clients after a body (RFC 9112 section 2.2).
            if start != 0 {
                return Err(HeadError::BadRequestLine);
            }
            self.head.take_line();
            return Ok(true);
        }
        self.take_request_line(&input[line], start, limits)?;
        self.head.take_line();
        self.head.stage = Stage::Fields;
        Ok(true)
    }

    fn take_request_line(&mut self, line: &[u8], start: usize, limits: &HeadLimits) -> Result<(), HeadError> {
        self.framing_is_given = false;
        let method_len = memchr::memchr(b' ', line).ok_or(HeadError::BadRequestLine)?;
        let rest = &line[method_len + 1..];
        let target_len = memchr::memchr(b' ', rest).ok_or(HeadError::BadRequestLine)?;
        let (method, target) = (&line[..method_len], &rest[..target_len]);
        if target.is_empty() {
            return Err(HeadError::BadRequestLine);
        }
        check_method(method)?;
        self.version = match &rest[target_len + 1..] {
            b"HTTP/1.1" => Version::Http11,
            b"HTTP/1.0" => Version::Http10,
            other => return Err(fault_of_version(other)),
        };
        if target.len() > limits.max_target_bytes {
            return Err(HeadError::TargetTooLong);
        }
        let target_at = start + method_len + 1;
        self.method = Span::of(start..start + method_len);
        self.target = Span::of(target_at..target_at + target_len);
        let parsed = target::parse(method, self.version, target)?;
        self.set_target(parsed);
        Ok(())
    }

    fn set_target(&mut self, target: Target) {
        let base = self.target.start as usize;
        let within = |part: Range<usize>| Span::of(base + part.start..base + part.end);
        self.form = target.form;
        if let Some((part, authority)) = target.authority {
            self.authority = within(part);
            self.host_len = authority.host_len as u32;
            self.port = authority.port;
        }
        (self.path_prefix, self.path) = match target.path {
            PathAndQuery::Within(part) => (PathPrefix::None, within(part)),
            PathAndQuery::Rooted(query) => (PathPrefix::Slash, within(query)),
            PathAndQuery::Asterisk => (PathPrefix::Asterisk, Span::default()),
        };
    }

    /// Everything that needs all fields.
    fn derive(&mut self) -> Result<(), HeadError> {
        self.derive_path();
        if self.version == Version::Http2 {
            framing::check_http2(&self.head)?;
        }
        self.derive_host()?;
        self.options = ConnectionOptions::of(&self.head)?;
        self.derive_framing()?;
        self.upgrade = framing::has_upgrade(&self.head, self.options, self.version);
        self.derive_expectation()
    }

    fn derive_path(&mut self) {
        let prefix: &[u8] = match std::mem::take(&mut self.path_prefix) {
            PathPrefix::None => b"",
            PathPrefix::Slash => b"/",
            PathPrefix::Asterisk => b"*",
        };
        if !prefix.is_empty() {
            let prefix = self.head.keep(prefix);
            let query = self.head.keep_again(self.path);
            self.path = Span { start: prefix.start, len: prefix.len + query.len };
        }
        let path = self.head.slice(self.path);
        self.path_len = memchr::memchr(b'?', path).unwrap_or(path.len()) as u32;
    }

    /// Host is checked even where the target's authority takes its place.
    fn derive_host(&mut self) -> Result<(), HeadError> {
        let mut hosts = self.head.values(FieldName::Host);
        let (first, second) = (hosts.next(), hosts.next());
        let Some(host) = first else {
            return match self.version {
                Version::Http10 => Ok(()),
                Version::Http11 | Version::Http2 => Err(HeadError::MissingHost),
            };
        };
        if second.is_some() {
            return Err(HeadError::MultipleHosts);
        }
        let host = authority::parse(host)?;
        if !matches!(self.form, TargetForm::Absolute | TargetForm::Authority) {
            self.authority = self.head.value_span(FieldName::Host).unwrap_or_default();
            self.host_len = host.host_len as u32;
            self.port = host.port;
        }
        Ok(())
    }

    fn derive_framing(&mut self) -> Result<(), HeadError> {
        let claimed = framing::claimed(&self.head, self.version)?;
        if self.framing_is_given {
            let given = match self.framing {
                Framing::None => Some(0),
                Framing::Length(given) => Some(given),
                Framing::Chunked | Framing::UntilClose => None,
            };
            return match (given, claimed) {
                (Some(given), Some(Framing::Length(claimed))) if given != claimed => {
                    Err(HeadError::DifferingContentLengths)
                }
                _ => Ok(()),
            };
        }
        self.framing = claimed.unwrap_or(Framing::None);
        let forbidden = self.is_connect() || self.method() == b"TRACE";
        if forbidden && !self.framing.is_empty() {
            return Err(HeadError::ContentForbidden);
        }
        Ok(())
    }

    fn derive_expectation(&mut self) -> Result<(), HeadError> {
        for value in self.head.values(FieldName::Expect) {
            if !value.eq_ignore_ascii_case(b"100-continue") {
                return Err(HeadError::UnsupportedExpectation);
            }
        }
        self.expects_continue = self.version > Version::Http10 && self.head.has(FieldName::Expect);
        Ok(())
    }
}

impl fmt::Debug for RequestHead {
    /// Prints neither credentials nor the query, which may hold them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestHead")
            .field("version", &self.version)
            .field("method", &self.method().escape_ascii().to_string())
            .field("form", &self.form)
            .field("path", &self.path().escape_ascii().to_string())
            .field("query_bytes", &self.query().map(<[u8]>::len))
            .field("framing", &self.framing)
            .field("fields", &self.fields().collect::<Vec<Field<'_>>>())
            .finish()
    }
}

fn check_method(method: &[u8]) -> Result<(), HeadError> {
    if method.len() > LONGEST_METHOD || !syntax::is_token(method) {
        return Err(HeadError::InvalidMethod);
    }
    Ok(())
}

/// Names what stands in the place of `HTTP/1.1`.
#[cold]
fn fault_of_version(bytes: &[u8]) -> HeadError {
    match bytes {
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
            HeadError::UnsupportedVersion
        }
        _ if memchr::memchr2(b' ', b'\t', bytes).is_some() || bytes.is_empty() => HeadError::BadRequestLine,
        _ => HeadError::InvalidVersion,
    }
}

/// Names the part of the request line that a control character stands in.
#[cold]
fn control_in_request_line(line_before: &[u8]) -> HeadError {
    match memchr::memchr_iter(b' ', line_before).count() {
        0 => HeadError::InvalidMethod,
        1 => HeadError::InvalidTarget,
        _ => HeadError::BadRequestLine,
    }
}
