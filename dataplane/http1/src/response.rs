//! Response heads.

use std::fmt;

use crate::error::HeadError;
use crate::field::{Field, FieldName};
use crate::framing::{self, ConnectionOptions, Framing, Version};
use crate::head::{Fields, Head, LineFault, Span, Stage};
use crate::limits::HeadLimits;
use crate::syntax;

/// Longer than every reason phrase in use.
const LONGEST_REASON: usize = 4096;

/// A response head, with the ownership of [`RequestHead`](crate::RequestHead). Errors are the backend's: a gateway
/// answers them with 502.
#[derive(Clone, Default)]
pub struct ResponseHead {
    head: Head,
    version: Version,
    status: u16,
    reason: Span,
    framing: Framing,
    framing_is_given: bool,
    options: ConnectionOptions,
    upgrade: bool,
}

impl ResponseHead {
    /// An empty head. Allocates nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets the response and keeps the memory.
    pub fn clear(&mut self) {
        let mut head = std::mem::take(&mut self.head);
        head.clear();
        *self = Self { head, ..Self::default() };
    }

    /// Forgets the response and gives the memory back, as an idle connection should.
    pub fn shrink(&mut self) {
        *self = Self::default();
    }

    /// Bytes of memory that it holds outside of itself.
    pub fn capacity_bytes(&self) -> usize {
        self.head.capacity_bytes()
    }

    /// Reads a head from the start of `input`, in the manner of [`RequestHead::parse`](crate::RequestHead::parse).
    ///
    /// The request decides whether a body follows (RFC 9112 section 6.3): none does after HEAD, in 1xx, 204 and 304,
    /// and in a 2xx to CONNECT, whatever the fields claim; there they are checked all the same.
    pub fn parse(
        &mut self,
        input: &[u8],
        request_was_head: bool,
        request_was_connect: bool,
        limits: &HeadLimits,
    ) -> Result<Option<usize>, HeadError> {
        if let Stage::Refused(error) = self.head.stage {
            return Err(error);
        }
        if !self.head.is_fresh_for(input) {
            self.clear();
        }
        let result = self
            .advance(input, limits, |status| request_was_head || (request_was_connect && (200..300).contains(&status)));
        self.head.mirror(input);
        match result {
            Ok(Some(_)) => self.head.stage = Stage::Complete,
            Ok(None) => {}
            Err(error) => self.head.stage = Stage::Refused(error),
        }
        result
    }

    fn advance(
        &mut self,
        input: &[u8],
        limits: &HeadLimits,
        request_forbids_body: impl FnOnce(u16) -> bool,
    ) -> Result<Option<usize>, HeadError> {
        if self.head.stage == Stage::StartLine && !self.read_start_line(input, limits)? {
            return Ok(None);
        }
        let Some(end) = self.head.read_fields(input, limits)? else {
            return Ok(None);
        };
        self.head.mirror(input);
        let no_body = request_forbids_body(self.status);
        self.derive(no_body)?;
        Ok(Some(end))
    }

    /// Starts a head by hand, with a status from 100 to 999. With [`Version::Http2`], field names must be lower case.
    pub fn begin(&mut self, version: Version, status: u16, reason: &[u8]) -> Result<(), HeadError> {
        self.clear();
        self.head.stage = Stage::Built;
        if !(100..1000).contains(&status) {
            return Err(HeadError::InvalidStatus);
        }
        if reason.len() > LONGEST_REASON || !syntax::is_value(reason) {
            return Err(HeadError::InvalidValue);
        }
        self.version = version;
        self.status = status;
        self.reason = self.head.keep(reason);
        Ok(())
    }

    /// Adds a field by hand: name and value are checked, and white space around the value is dropped.
    pub fn push(&mut self, name: &[u8], value: &[u8]) -> Result<(), HeadError> {
        if self.version == Version::Http2 && name.iter().any(u8::is_ascii_uppercase) {
            return Err(HeadError::InvalidName);
        }
        self.head.push(name, value)
    }

    /// Completes a head that was built by hand, as the response to a request that was neither HEAD nor CONNECT; for
    /// those, say [`Framing::None`] with [`set_framing`](Self::set_framing).
    pub fn finish(&mut self, limits: &HeadLimits) -> Result<(), HeadError> {
        self.head.check_limits(limits)?;
        self.derive(false)
    }

    /// Says how the body is framed, instead of the fields.
    pub fn set_framing(&mut self, framing: Framing) {
        self.framing = framing;
        self.framing_is_given = true;
    }

    /// The version that the response was sent in.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The status code, 100 to 999.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The reason phrase, as received; often empty.
    pub fn reason(&self) -> &[u8] {
        self.head.slice(self.reason)
    }

    /// Whether the status is 1xx.
    pub fn is_informational(&self) -> bool {
        (100..200).contains(&self.status)
    }

    /// Whether another response to the same request follows: 1xx, but not 101, which ends HTTP on the connection.
    pub fn is_interim(&self) -> bool {
        self.is_informational() && self.status != 101
    }

    /// How the body is framed.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Whether the connection can carry another request after this response (RFC 9112 section 9.3).
    pub fn keep_alive(&self) -> bool {
        self.options.keep_alive(self.version) && self.framing != Framing::UntilClose
    }

    /// The protocol that a 101 changes to; also what other statuses offer.
    pub fn upgrade(&self) -> Option<&[u8]> {
        self.head.value(FieldName::Upgrade).filter(|_| self.upgrade)
    }

    /// Whether Connection names this field, so that it goes no further (RFC 9110 section 7.6.1). It never names Host
    /// or Content-Length: such a head is refused.
    pub fn is_connection_option(&self, name: &[u8]) -> bool {
        framing::is_connection_option(&self.head, name)
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

    fn read_start_line(&mut self, input: &[u8], limits: &HeadLimits) -> Result<bool, HeadError> {
        let line = match self.head.next_line(input, limits.head_bytes()) {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(false),
            Err(LineFault::Ending(error)) => return Err(error),
            Err(LineFault::Full) => return Err(HeadError::HeadTooLarge),
            Err(LineFault::Control(_)) => return Err(HeadError::BadStatusLine),
        };
        self.take_status_line(&input[line])?;
        self.head.take_line();
        self.head.stage = Stage::Fields;
        Ok(true)
    }

    fn take_status_line(&mut self, line: &[u8]) -> Result<(), HeadError> {
        self.framing_is_given = false;
        let (version, rest) = line.split_first_chunk::<8>().ok_or(HeadError::BadStatusLine)?;
        self.version = match version {
            b"HTTP/1.1" => Version::Http11,
            b"HTTP/1.0" => Version::Http10,
            [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
                return Err(HeadError::UnsupportedVersion);
            }
            _ => return Err(HeadError::InvalidVersion),
        };
        let [b' ', rest @ ..] = rest else {
            return Err(HeadError::BadStatusLine);
        };
        let (digits, rest) = rest.split_first_chunk::<3>().ok_or(HeadError::InvalidStatus)?;
        // Without a reason the space before it is often forgotten; nothing can be mistaken for it.
        if !matches!(rest, [] | [b' ', ..]) {
            return Err(HeadError::InvalidStatus);
        }
        self.status = syntax::decimal(digits)
            .and_then(|status| u16::try_from(status).ok())
            .filter(|status| *status >= 100)
            .ok_or(HeadError::InvalidStatus)?;
        let reason_at = line.len() - rest.len().saturating_sub(1);
        self.reason = Span::of(reason_at..line.len());
        Ok(())
    }

    fn derive(&mut self, request_forbids_body: bool) -> Result<(), HeadError> {
        if self.version == Version::Http2 {
            framing::check_http2(&self.head)?;
        }
        self.options = ConnectionOptions::of(&self.head)?;
        let claimed = framing::claimed(&self.head, self.version)?;
        if !self.framing_is_given {
            let unknown_length = match self.version {
                Version::Http10 | Version::Http11 => Framing::UntilClose,
                Version::Http2 => Framing::Chunked,
            };
            self.framing = if request_forbids_body || matches!(self.status, 100..200 | 204 | 304) {
                Framing::None
            } else {
                claimed.unwrap_or(unknown_length)
            };
        }
        self.upgrade = framing::has_upgrade(&self.head, self.options, self.version);
        Ok(())
    }
}

impl fmt::Debug for ResponseHead {
    /// Does not print credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseHead")
            .field("version", &self.version)
            .field("status", &self.status)
            .field("reason", &self.reason().escape_ascii().to_string())
            .field("framing", &self.framing)
            .field("fields", &self.fields().collect::<Vec<Field<'_>>>())
            .finish()
    }
}
