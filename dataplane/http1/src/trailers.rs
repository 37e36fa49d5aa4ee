//! The fields that may follow a chunked body.

use std::fmt;

use crate::error::BodyError;
use crate::field::{Field, FieldName};
use crate::head::{Fields, Head};

/// Bytes of all trailer lines of one body, and their number.
const MAX_BYTES: usize = 16 << 10;
const MAX_FIELDS: usize = 64;

/// The trailer fields of a chunked body, at most 16 KiB and 64 of them.
///
/// Only fields that [`allowed_in_trailers`] passes are here; Content-Length, Transfer-Encoding and Host in trailers are
/// refused, because only an attack puts them there, and the others are dropped and counted (RFC 9110 section 6.5.1).
#[derive(Clone, Default)]
pub struct Trailers {
    head: Head,
    received_bytes: usize,
    received_fields: usize,
    line_start: usize,
}

impl Trailers {
    /// None.
    pub(crate) const NONE: Self = Self { head: Head::new(), received_bytes: 0, received_fields: 0, line_start: 0 };

    /// The fields, in order.
    pub fn fields(&self) -> Fields<'_> {
        self.head.fields()
    }

    /// The value of the first field of this name, without regard to case.
    pub fn field_by_name(&self, name: &[u8]) -> Option<&[u8]> {
        self.head.value_by_name(name)
    }

    /// How many fields there are.
    pub fn len_fields(&self) -> usize {
        self.head.len_fields()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.head.len_fields() == 0
    }

    /// How many fields were received and dropped.
    pub fn dropped(&self) -> usize {
        self.received_fields - self.head.len_fields()
    }

    pub(crate) fn clear(&mut self) {
        self.head.clear();
        self.received_bytes = 0;
        self.received_fields = 0;
        self.line_start = 0;
    }

    /// Takes bytes of the current line, and says how many belonged to it and whether they ended it.
    pub(crate) fn take(&mut self, input: &[u8]) -> Result<(usize, bool), BodyError> {
        let room = MAX_BYTES - self.received_bytes;
        let window = &input[..input.len().min(room)];
        let end = memchr::memchr(b'\n', window);
        let taken = end.map_or(window.len(), |lf| lf + 1);
        if end.is_none() && window.len() == room {
            return Err(BodyError::TrailersTooLarge);
        }
        self.received_bytes += taken;
        self.head.keep(&window[..taken]);
        if end.is_some() {
            self.end_line()?;
        }
        Ok((taken, end.is_some()))
    }

    fn end_line(&mut self) -> Result<(), BodyError> {
        self.received_fields += 1;
        if self.received_fields > MAX_FIELDS {
            return Err(BodyError::TrailersTooLarge);
        }
        let mut claims_framing = false;
        let ended = self.head.end_trailer(self.line_start, |field| {
            claims_framing =
                matches!(field.id, FieldName::ContentLength | FieldName::TransferEncoding | FieldName::Host);
            allowed_in_trailers(field)
        });
        if ended.is_err() || claims_framing {
            return Err(BodyError::BadTrailer);
        }
        self.line_start = self.head.len_bytes();
        Ok(())
    }
}

impl fmt::Debug for Trailers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.fields()).finish()
    }
}

/// Whether a field may stand in trailers: not one that frames, routes, authenticates, negotiates or describes the
/// content, all of which a recipient must know before the body (RFC 9110 section 6.5.1), nor one that a gateway vouches
/// for. Digests of the content may (RFC 9530 section 2).
pub fn allowed_in_trailers(field: Field<'_>) -> bool {
    let content = b"content-";
    let describes_content = field.name.get(..content.len()).is_some_and(|start| start.eq_ignore_ascii_case(content))
        && !field.name.eq_ignore_ascii_case(b"content-digest");
    if describes_content || FieldName::disguised(field.name).is_some() {
        return false;
    }
    matches!(
        field.id,
        FieldName::Other | FieldName::Etag | FieldName::GrpcStatus | FieldName::GrpcMessage | FieldName::Server
    )
}
