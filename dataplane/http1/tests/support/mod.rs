//! What several tests need: parsing under every way of splitting the bytes, and a plain value to compare heads by.
#![allow(dead_code, reason = "each test binary uses its own part")]

use sluicegate_http1::{
    BodyDecoder, BodyError, Decoded, Fields, Framing, HeadError, HeadLimits, RequestHead, ResponseHead,
};

pub type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// All that a request head says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub len: usize,
    pub method: Vec<u8>,
    pub target: Vec<u8>,
    pub path_and_query: Vec<u8>,
    pub authority: Vec<u8>,
    pub framing: Framing,
    pub keep_alive: bool,
    pub upgrade: Option<Vec<u8>>,
    pub fields: Pairs,
}

/// All that a response head says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub len: usize,
    pub status: u16,
    pub reason: Vec<u8>,
    pub framing: Framing,
    pub keep_alive: bool,
    pub fields: Pairs,
}

pub fn pairs(fields: Fields<'_>) -> Pairs {
    fields.map(|f| (f.name.to_vec(), f.value.to_vec())).collect()
}

fn request_of(head: &RequestHead, len: usize) -> Request {
    Request {
        len,
        method: head.method().to_vec(),
        target: head.target().to_vec(),
        path_and_query: head.path_and_query().to_vec(),
        authority: head.authority().to_vec(),
        framing: head.framing(),
        keep_alive: head.keep_alive(),
        upgrade: head.upgrade().map(<[u8]>::to_vec),
        fields: pairs(head.fields()),
    }
}

/// Parses the growing prefixes that end at `cuts` and then the whole; the first answer that is not "more" counts.
pub fn request(input: &[u8], cuts: &[usize], limits: &HeadLimits) -> Result<Option<Request>, HeadError> {
    let mut head = RequestHead::new();
    for cut in cuts.iter().copied().chain([input.len()]) {
        if let Some(len) = head.parse(&input[..cut.min(input.len())], limits)? {
            return Ok(Some(request_of(&head, len)));
        }
    }
    Ok(None)
}

/// As [`request`], for a response to a GET.
pub fn response(input: &[u8], cuts: &[usize], limits: &HeadLimits) -> Result<Option<Response>, HeadError> {
    let mut head = ResponseHead::new();
    for cut in cuts.iter().copied().chain([input.len()]) {
        if let Some(len) = head.parse(&input[..cut.min(input.len())], false, false, limits)? {
            return Ok(Some(Response {
                len,
                status: head.status(),
                reason: head.reason().to_vec(),
                framing: head.framing(),
                keep_alive: head.keep_alive(),
                fields: pairs(head.fields()),
            }));
        }
    }
    Ok(None)
}

/// What a body came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    pub data: Vec<u8>,
    pub trailers: Pairs,
    /// Bytes consumed and whether the body was complete, or why it was refused.
    pub end: Result<(usize, bool), BodyError>,
}

/// Decodes the bytes as they arrive in the pieces that end at `cuts`, each piece gone before the next.
pub fn body(framing: Framing, input: &[u8], cuts: &[usize]) -> Body {
    let mut decoder = BodyDecoder::new(framing);
    let mut data = Vec::new();
    let mut consumed = 0;
    let end = 'all: {
        for cut in cuts.iter().copied().chain([input.len()]) {
            let piece_end = cut.min(input.len()).max(consumed);
            loop {
                match decoder.decode(&input[consumed..piece_end]) {
                    Ok(Decoded::Data { skip, len }) => {
                        assert!(len > 0, "data is never empty");
                        data.extend_from_slice(&input[consumed + skip..consumed + skip + len]);
                        consumed += skip + len;
                    }
                    Ok(Decoded::NeedMore { skip }) => {
                        assert_eq!(skip, piece_end - consumed, "all framing is consumed");
                        consumed += skip;
                        break;
                    }
                    Ok(Decoded::End { skip }) => {
                        assert!(decoder.is_done());
                        break 'all Ok((consumed + skip, true));
                    }
                    Err(error) => {
                        assert_eq!(decoder.decode(b"0\r\n\r\n"), Err(error), "errors stay");
                        break 'all Err(error);
                    }
                }
            }
        }
        Ok((consumed, false))
    };
    Body { data, trailers: pairs(decoder.trailers().fields()), end }
}

/// Every place where bytes can be cut, one after the other: a peer that sends byte by byte.
pub fn byte_by_byte(input: &[u8]) -> Vec<usize> {
    (0..input.len()).collect()
}
