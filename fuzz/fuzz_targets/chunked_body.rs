//! Chunked bodies: the data found does not depend on the split, and decodes to the same when it is encoded again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluicegate_http1::{
    BodyDecoder, BodyError, CHUNK_END, Decoded, Field, Framing, write_chunk_head, write_last_chunk,
};

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

#[derive(Debug, PartialEq, Eq)]
struct Body {
    data: Vec<u8>,
    trailers: Pairs,
    /// Bytes consumed and whether the body was complete.
    end: Result<(usize, bool), BodyError>,
}

fuzz_target!(|data: &[u8]| {
    let Some((first, input)) = data.split_first() else {
        return;
    };
    let whole = decode(input, input.len().max(1));
    assert_eq!(decode(input, 1), whole);
    assert_eq!(decode(input, 1 + usize::from(*first)), whole);
    if let Ok((len, true)) = whole.end {
        assert!(input[..len].ends_with(b"\r\n"));
        let wire = encode(&whole, 1 + usize::from(*first));
        let again = decode(&wire, wire.len());
        assert_eq!(again.end, Ok((wire.len(), true)));
        assert_eq!((again.data, again.trailers), (whole.data, whole.trailers));
    }
});

/// Decodes the input as it arrives in pieces of `step` bytes.
fn decode(input: &[u8], step: usize) -> Body {
    let mut decoder = BodyDecoder::new(Framing::Chunked);
    let mut data = Vec::new();
    let mut consumed = 0;
    let end = 'all: {
        for piece in input.chunks(step) {
            let end = consumed + piece.len();
            while consumed <= end {
                match decoder.decode(&input[consumed..end]) {
                    Ok(Decoded::Data { skip, len }) => {
                        assert!(len > 0);
                        data.extend_from_slice(&input[consumed + skip..consumed + skip + len]);
                        consumed += skip + len;
                    }
                    Ok(Decoded::NeedMore { skip }) => {
                        consumed += skip;
                        assert_eq!(consumed, end);
                        break;
                    }
                    Ok(Decoded::End { skip }) => break 'all Ok((consumed + skip, true)),
                    Err(error) => break 'all Err(error),
                }
            }
        }
        Ok((consumed, false))
    };
    let trailers = decoder.trailers().fields();
    Body { data, trailers: trailers.map(|field| (field.name.to_vec(), field.value.to_vec())).collect(), end }
}

fn encode(body: &Body, chunk: usize) -> Vec<u8> {
    let mut wire = Vec::new();
    for data in body.data.chunks(chunk) {
        write_chunk_head(&mut wire, data.len());
        wire.extend_from_slice(data);
        wire.extend_from_slice(CHUNK_END);
    }
    write_last_chunk(&mut wire, body.trailers.iter().map(|(name, value)| Field::new(name, value)));
    wire
}
