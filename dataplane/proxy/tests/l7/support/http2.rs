//! Two HTTP/2 clients: one over the h2 crate, and one that writes any frame.

use super::{PATIENCE, soon};
use bytes::Bytes;
use h2::client::{self, ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use std::net::SocketAddr;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// One connection of the h2 crate.
pub struct Http2 {
    pub sender: SendRequest<Bytes>,
    /// How the connection ended.
    pub connection: JoinHandle<Result<(), h2::Error>>,
    scheme: &'static str,
}

/// A whole response.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub fields: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    /// The value of a field, or of a trailer field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(|value| value.to_str().expect("text"))
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body.escape_ascii()))
    }
}

impl Http2 {
    /// Without TLS, by prior knowledge.
    pub async fn prior_knowledge(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("connect");
        stream.set_nodelay(true).expect("nodelay");
        Self::over(stream, "http").await
    }

    /// Over an established connection.
    pub async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, scheme: &'static str) -> Self {
        let mut builder = client::Builder::new();
        builder.initial_window_size(1 << 20).initial_connection_window_size(8 << 20);
        Self::built(&builder, stream, scheme).await
    }

    /// With settings of its own.
    pub async fn built(
        builder: &client::Builder,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        scheme: &'static str,
    ) -> Self {
        let (sender, connection) = soon("the handshake", builder.handshake(stream)).await.expect("handshake");
        Self { sender, connection: tokio::spawn(connection), scheme }
    }

    /// The head of a request.
    pub fn request(&self, method: Method, authority: &str, path: &str) -> Request<()> {
        let uri = format!("{}://{authority}{path}", self.scheme);
        Request::builder().method(method).uri(uri).version(http::Version::HTTP_2).body(()).expect("a request")
    }

    /// GET.
    pub async fn get(&mut self, authority: &str, path: &str) -> Answer {
        let request = self.request(Method::GET, authority, path);
        self.send(request).await
    }

    /// A request without a body.
    pub async fn send(&mut self, request: Request<()>) -> Answer {
        let (response, _) = self.open(request, true).await;
        answer(response).await.expect("an answer")
    }

    /// Opens a stream; `end`: the request has no body.
    pub async fn open(&mut self, request: Request<()>, end: bool) -> (ResponseFuture, SendStream<Bytes>) {
        let mut ready = soon("room for a stream", self.sender.clone().ready()).await.expect("ready");
        ready.send_request(request, end).expect("sent")
    }

    /// POST with a body in as many frames as the window asks for.
    pub async fn post(&mut self, authority: &str, path: &str, body: Bytes) -> Result<Answer, h2::Error> {
        let request = self.request(Method::POST, authority, path);
        let (response, stream) = self.open(request, false).await;
        let (sent, answered) = tokio::join!(send_all(stream, body), answer(response));
        let answered = answered?;
        sent?;
        Ok(answered)
    }
}

/// Sends a body within the window and ends the stream.
pub async fn send_all(mut stream: SendStream<Bytes>, mut body: Bytes) -> Result<(), h2::Error> {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let granted = soon("a window", std::future::poll_fn(|cx| stream.poll_capacity(cx))).await;
        let Some(granted) = granted else { return Ok(()) };
        stream.send_data(body.split_to(granted?.min(body.len())), false)?;
    }
    stream.send_data(Bytes::new(), true)
}

/// Reads a response to its end.
pub async fn answer(response: ResponseFuture) -> Result<Answer, h2::Error> {
    let (parts, mut stream) = soon("a response", response).await?.into_parts();
    let mut body = Vec::new();
    while let Some(piece) = soon("data", stream.data()).await {
        let piece = piece?;
        stream.flow_control().release_capacity(piece.len())?;
        body.extend_from_slice(&piece);
    }
    let trailers = soon("trailers", stream.trailers()).await?;
    Ok(Answer { status: parts.status, fields: parts.headers, body, trailers })
}

/// A frame as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// What became of one request that was written frame by frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was answered.
    Status(u16),
    /// The stream was reset with this code.
    Reset(u32),
    /// The connection was ended with this code.
    GoAway(u32),
    /// The connection was closed without a word.
    Closed,
}

/// A connection on which any frame can be written.
pub struct Frames {
    stream: TcpStream,
    next: u32,
}

impl Frames {
    /// Sends the preface and empty SETTINGS.
    pub async fn connect(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).await.expect("connect");
        stream.set_nodelay(true).expect("nodelay");
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.expect("preface");
        Self { stream, next: 1 }
    }

    /// Writes one frame.
    pub async fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend_from_slice(payload);
        // The other side may have closed; what it said before is still read.
        let _ = self.stream.write_all(&frame).await;
    }

    /// Opens a stream with these fields, in this order, and returns its number.
    pub async fn open(&mut self, fields: &[(&[u8], &[u8])], end: bool) -> u32 {
        let stream = self.next;
        self.next += 2;
        let flags = END_HEADERS | if end { END_STREAM } else { 0 };
        self.write(HEADERS, flags, stream, &literal(fields)).await;
        stream
    }

    /// The next frame; `None` at the end of the connection.
    pub async fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        if !matches!(soon("a frame", self.stream.read_exact(&mut head)).await, Ok(9)) {
            return None;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        soon("a payload", self.stream.read_exact(&mut payload)).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// Waits for what becomes of a stream.
    pub async fn fate(&mut self, stream: u32) -> Fate {
        while let Some(frame) = self.read().await {
            match frame.kind {
                HEADERS if frame.stream == stream => return Fate::Status(status_of(&frame.payload)),
                RST_STREAM if frame.stream == stream => return Fate::Reset(code(&frame.payload)),
                GOAWAY if code(&frame.payload[4..]) != 0 => return Fate::GoAway(code(&frame.payload[4..])),
                _ => {}
            }
        }
        Fate::Closed
    }
}

fn code(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload[..4].try_into().expect("four bytes"))
}

/// HPACK: literal fields without indexing and without Huffman coding (RFC 7541 section 6.2.2), so that any byte passes.
pub fn literal(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    fn text(out: &mut Vec<u8>, text: &[u8]) {
        // An integer with a prefix of seven bits (RFC 7541 section 5.1).
        match text.len() {
            length @ ..127 => out.push(length as u8),
            length => {
                out.push(127);
                let mut rest = length - 127;
                while rest >= 128 {
                    out.push((rest % 128 + 128) as u8);
                    rest /= 128;
                }
                out.push(rest as u8);
            }
        }
        out.extend_from_slice(text);
    }
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        text(&mut block, name);
        text(&mut block, value);
    }
    block
}

/// The status of a header block that begins with `:status`, as any encoder may write it.
fn status_of(block: &[u8]) -> u16 {
    // Size updates of the dynamic table may come first (RFC 7541 section 6.3).
    let start = block.iter().position(|byte| byte & 0xe0 != 0x20).expect("a field");
    match block[start..] {
        [0x88, ..] => 200,
        [0x89, ..] => 204,
        [0x8a, ..] => 206,
        [0x8b, ..] => 304,
        [0x8c, ..] => 400,
        [0x8d, ..] => 404,
        [0x8e, ..] => 500,
        // A literal whose name is one of the static table's `:status` entries.
        [first, length, ref rest @ ..] if (8..15).contains(&(first & 0x3f)) => {
            let size = usize::from(length & 0x7f);
            if length & 0x80 == 0 { digits(&rest[..size]) } else { huffman_digits(&rest[..size]) }
        }
        ref other => panic!("not a status: {}", other.escape_ascii()),
    }
}

fn digits(text: &[u8]) -> u16 {
    std::str::from_utf8(text).expect("digits").parse().expect("a status")
}

/// Digits alone (RFC 7541 appendix B): 0 to 2 have five bits, 3 to 9 have six.
fn huffman_digits(coded: &[u8]) -> u16 {
    let bits: Vec<u8> = coded.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    let (mut at, mut status, mut count) = (0, 0, 0);
    while count < 3 {
        let take = |length: usize| bits[at..at + length].iter().fold(0u16, |value, bit| value << 1 | u16::from(*bit));
        let (digit, length) = match take(5) {
            short @ 0..=2 => (short, 5),
            _ => (take(6) - 0b01_1001 + 3, 6),
        };
        status = status * 10 + digit;
        at += length;
        count += 1;
    }
    status
}
