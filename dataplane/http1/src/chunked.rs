//! Where the data of a body lies among the bytes that were read (RFC 9112 sections 6 and 7).

use crate::error::BodyError;
use crate::framing::Framing;
use crate::syntax;
use crate::trailers::Trailers;

/// Digits of a chunk size, leading zeros included: as many as 64 bits need.
const MAX_SIZE_DIGITS: u8 = 16;

/// Bytes of extension on one chunk.
const MAX_EXTENSION: u16 = 256;

/// Bytes of extension that a body may have beyond the bytes of its data, so that a peer cannot make us read much for
/// little.
const EXTENSION_CREDIT: u64 = 16 << 10;

/// What the next bytes of the input are. All of `skip` and `len` count as consumed once this is returned; to take less,
/// pass less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// `skip` bytes of framing, then `len` (not 0) bytes of body data.
    Data {
        /// Bytes to drop.
        skip: usize,
        /// Bytes of data behind them.
        len: usize,
    },
    /// All of the input was framing, and more must come.
    NeedMore {
        /// Bytes to drop: the whole input.
        skip: usize,
    },
    /// The body is complete, trailers included. What follows belongs to the next message.
    End {
        /// Bytes to drop.
        skip: usize,
    },
}

/// Finds body data in the caller's buffer, without copying it. Trailers are copied, into
/// [`trailers`](BodyDecoder::trailers).
///
/// The data found does not depend on how the bytes were split. Errors stay.
#[derive(Clone, Debug)]
pub struct BodyDecoder {
    state: State,
    /// Few bodies have any, and whoever holds many decoders pays for what they hold.
    trailers: Option<Box<Trailers>>,
    data_bytes: u64,
    extension_bytes: u64,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Length(u64),
    UntilClose,
    Size { digits: u8, value: u64 },
    Extension { size: u64, len: u16, part: Part },
    SizeLf { size: u64 },
    Data(u64),
    DataCr,
    DataLf,
    TrailerStart,
    TrailerLine,
    EndLf,
    Done,
    Failed(BodyError),
}

/// Places in `*( ";" BWS name [ BWS "=" BWS ( token / quoted-string ) ] )` (RFC 9112 section 7.1.1).
#[derive(Clone, Copy, Debug)]
enum Part {
    BeforeName,
    Name,
    AfterName,
    BeforeValue,
    Value,
    Quoted,
    QuotedPair,
    AfterQuoted,
}

impl BodyDecoder {
    /// A decoder for a body with this framing. Allocates nothing.
    pub fn new(framing: Framing) -> Self {
        Self { state: State::of(framing), trailers: None, data_bytes: 0, extension_bytes: 0 }
    }

    /// Starts with another body, and keeps the memory of trailers.
    pub fn reset(&mut self, framing: Framing) {
        self.state = State::of(framing);
        if let Some(trailers) = &mut self.trailers {
            trailers.clear();
        }
        self.data_bytes = 0;
        self.extension_bytes = 0;
    }

    /// Looks at the unread bytes and says what the first of them are. Call it until it returns
    /// [`Decoded::NeedMore`], [`Decoded::End`] or an error, each time behind what was consumed.
    pub fn decode(&mut self, input: &[u8]) -> Result<Decoded, BodyError> {
        if let State::Failed(error) = self.state {
            return Err(error);
        }
        let decoded = self.advance(input);
        if let Err(error) = decoded {
            self.state = State::Failed(error);
        }
        decoded
    }

    /// The peer has closed its side. That ends a body framed by it, and truncates any other that is not complete.
    pub fn eof(&mut self) -> Result<(), BodyError> {
        match self.state {
            State::Done => Ok(()),
            State::UntilClose => {
                self.state = State::Done;
                Ok(())
            }
            State::Failed(error) => Err(error),
            _ => {
                self.state = State::Failed(BodyError::Truncated);
                Err(BodyError::Truncated)
            }
        }
    }

    /// Bytes of data that come next whatever they are, where the length of the whole body is known; else 0. They may be moved
    /// past the decoder, which is told of by [`BodyDecoder::skip`].
    pub fn known_ahead(&self) -> u64 {
        match self.state {
            State::Length(remaining) => remaining,
            _ => 0,
        }
    }

    /// Counts data that went past the decoder, [`known_ahead`](BodyDecoder::known_ahead) at most: beyond that the body is
    /// broken.
    pub fn skip(&mut self, count: u64) {
        let State::Length(remaining) = self.state else { return };
        self.data_bytes = self.data_bytes.saturating_add(count);
        self.state = match remaining.checked_sub(count) {
            Some(0) => State::Done,
            Some(rest) => State::Length(rest),
            None => State::Failed(BodyError::Truncated),
        };
    }

    /// Whether the body is complete. A body of known length is as soon as its last byte was returned.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Bytes of data found so far.
    pub fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// The trailer fields; complete when the body is.
    pub fn trailers(&self) -> &Trailers {
        self.trailers.as_deref().unwrap_or(const { &Trailers::NONE })
    }

    fn advance(&mut self, input: &[u8]) -> Result<Decoded, BodyError> {
        let mut at = 0;
        loop {
            if let State::Done = self.state {
                return Ok(Decoded::End { skip: at });
            }
            let Some(byte) = input.get(at).copied() else {
                return Ok(Decoded::NeedMore { skip: at });
            };
            let available = input.len() - at;
            self.state = match self.state {
                State::Length(left) => {
                    let len = at_most(available, left);
                    let left = left - len as u64;
                    return Ok(self.found(at, len, State::of(Framing::Length(left))));
                }
                State::UntilClose => return Ok(self.found(at, available, State::UntilClose)),
                State::Data(left) => {
                    let len = at_most(available, left);
                    let left = left - len as u64;
                    let next = if left == 0 { State::DataCr } else { State::Data(left) };
                    return Ok(self.found(at, len, next));
                }
                State::TrailerStart if byte != b'\r' => State::TrailerLine,
                State::TrailerLine => {
                    let (taken, ended) = self.trailers.get_or_insert_default().take(&input[at..])?;
                    at += taken;
                    if !ended {
                        continue;
                    }
                    State::TrailerStart
                }
                State::Extension { size, len, part } => {
                    at += 1;
                    self.extension(size, len, part, byte)?
                }
                state => {
                    at += 1;
                    state.after(byte)?
                }
            };
        }
    }

    fn found(&mut self, skip: usize, len: usize, next: State) -> Decoded {
        self.state = next;
        self.data_bytes = self.data_bytes.saturating_add(len as u64);
        Decoded::Data { skip, len }
    }

    fn extension(&mut self, size: u64, len: u16, part: Part, byte: u8) -> Result<State, BodyError> {
        if byte == b'\r' && part.may_end() {
            return Ok(State::SizeLf { size });
        }
        self.extension_bytes += 1;
        let credit = EXTENSION_CREDIT.saturating_add(self.data_bytes);
        if len == MAX_EXTENSION || self.extension_bytes > credit {
            return Err(BodyError::ChunkExtensionTooLong);
        }
        let part = part.after(byte).ok_or(BodyError::BadChunkExtension)?;
        let len = len + 1;
        Ok(State::Extension { size, len, part })
    }
}

impl State {
    fn of(framing: Framing) -> Self {
        match framing {
            Framing::None | Framing::Length(0) => Self::Done,
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Size { digits: 0, value: 0 },
            Framing::UntilClose => Self::UntilClose,
        }
    }

    /// The step of the states that take one byte.
    fn after(self, byte: u8) -> Result<Self, BodyError> {
        match (self, byte) {
            (Self::Size { digits, value }, _) => size_step(digits, value, byte),
            (Self::SizeLf { size: 0 }, b'\n') => Ok(Self::TrailerStart),
            (Self::SizeLf { size }, b'\n') => Ok(Self::Data(size)),
            (Self::SizeLf { .. }, _) => Err(BodyError::BadChunkLineEnd),
            (Self::DataCr, b'\r') => Ok(Self::DataLf),
            (Self::DataLf, b'\n') => Ok(Self::Size { digits: 0, value: 0 }),
            (Self::DataCr | Self::DataLf, _) => Err(BodyError::MissingChunkCrlf),
            (Self::TrailerStart, b'\r') => Ok(Self::EndLf),
            (Self::EndLf, b'\n') => Ok(Self::Done),
            (Self::EndLf, _) => Err(BodyError::BadChunkLineEnd),
            (state, _) => Ok(state),
        }
    }
}

fn size_step(digits: u8, value: u64, byte: u8) -> Result<State, BodyError> {
    let digit = match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        b'A'..=b'F' => byte - b'A' + 10,
        b'\r' if digits > 0 => return Ok(State::SizeLf { size: value }),
        b';' if digits > 0 => {
            return Ok(State::Extension { size: value, len: 0, part: Part::BeforeName });
        }
        b'\n' if digits > 0 => return Err(BodyError::BadChunkLineEnd),
        _ => return Err(BodyError::BadChunkSize),
    };
    if digits == MAX_SIZE_DIGITS {
        return Err(BodyError::ChunkSizeOverflow);
    }
    Ok(State::Size { digits: digits + 1, value: value << 4 | u64::from(digit) })
}

impl Part {
    fn may_end(self) -> bool {
        matches!(self, Self::Name | Self::Value | Self::AfterQuoted)
    }

    /// `None`: the byte may not stand here. White space is taken around `=` and after `;`, and nowhere else.
    fn after(self, byte: u8) -> Option<Self> {
        let token = syntax::is_token_char(byte);
        let space = syntax::is_space(byte);
        match (self, byte) {
            (Self::BeforeName, _) if space => Some(Self::BeforeName),
            (Self::BeforeName | Self::Name, _) if token => Some(Self::Name),
            (Self::Name | Self::AfterName, b'=') => Some(Self::BeforeValue),
            (Self::Name | Self::AfterName | Self::Value | Self::AfterQuoted, b';') => Some(Self::BeforeName),
            (Self::Name | Self::AfterName, _) if space => Some(Self::AfterName),
            (Self::BeforeValue, _) if space => Some(Self::BeforeValue),
            (Self::BeforeValue, b'"') => Some(Self::Quoted),
            (Self::BeforeValue | Self::Value, _) if token => Some(Self::Value),
            (Self::Quoted, b'"') => Some(Self::AfterQuoted),
            (Self::Quoted, b'\\') => Some(Self::QuotedPair),
            (Self::Quoted | Self::QuotedPair, _) if syntax::is_value(&[byte]) => Some(Self::Quoted),
            _ => None,
        }
    }
}

fn at_most(available: usize, left: u64) -> usize {
    usize::try_from(left).map_or(available, |left| left.min(available))
}
