//! An HTTP/1.1 client that shows how a response was framed and whether it was whole.

use super::soon;
use std::net::SocketAddr;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// How the body of a response was framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// No body.
    None,
    /// Content-Length.
    Length(usize),
    /// Chunked.
    Chunked,
    /// The end of the connection.
    UntilClose,
}

/// A response.
#[derive(Clone, Debug)]
pub struct Response {
    /// Its minor version: 0 or 1.
    pub version: u8,
    pub status: u16,
    pub reason: String,
    /// Names in lower case.
    pub fields: Vec<(String, String)>,
    pub framing: Body,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// Interim responses before it.
    pub interim: Vec<(u16, Vec<(String, String)>)>,
    /// Data chunks, where it was chunked.
    pub chunks: usize,
}

/// The connection ended, or broke the protocol, before the response was whole.
#[derive(Debug)]
pub struct Broken {
    /// The head, if it came.
    pub head: Option<Response>,
    /// What of the body came.
    pub received: usize,
    /// True for RST.
    pub reset: bool,
}

impl Response {
    /// The one value of a field, or none.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut values = self.fields.iter().filter(|(known, _)| known == name);
        let value = values.next();
        assert!(values.next().is_none(), "{name} is repeated: {:?}", self.fields);
        value.map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("UTF-8")
    }

    /// The body as JSON, such as the description of an echo backend.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body.escape_ascii()))
    }

    /// The value of a request header in the description of an echo backend; several are joined by `|`.
    pub fn echoed(&self, name: &str) -> Option<String> {
        let json = self.json();
        let values = json["headers"].get(name)?.as_array().expect("a list").clone();
        Some(values.iter().map(|value| value.as_str().expect("text")).collect::<Vec<_>>().join("|"))
    }
}

/// One connection.
pub struct Http1<S> {
    stream: S,
    buffer: Vec<u8>,
}

impl Http1<TcpStream> {
    /// Connects without TLS.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("connect");
        stream.set_nodelay(true).expect("nodelay");
        Self::new(stream)
    }

    /// The socket, what was read of it aside.
    pub fn socket(&self) -> &TcpStream {
        &self.stream
    }
}

enum Read {
    Some,
    End,
    Reset,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Http1<S> {
    /// Speaks over an established connection.
    pub fn new(stream: S) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// The connection, and what was read of it and not used.
    pub fn into_parts(self) -> (S, Vec<u8>) {
        (self.stream, self.buffer)
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.expect("sent");
    }

    /// Sends bytes to someone who may not want them.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        soon("sending", self.stream.write_all(bytes.as_ref())).await?;
        soon("flushing", self.stream.flush()).await
    }

    /// Closes the sending half.
    pub async fn finish(&mut self) {
        self.stream.shutdown().await.expect("shut down");
    }

    /// GET without more fields than Host.
    pub async fn get(&mut self, host: &str, path: &str) -> Response {
        self.get_with(host, path, "").await
    }

    /// GET with more field lines, each with its CRLF.
    pub async fn get_with(&mut self, host: &str, path: &str, fields: &str) -> Response {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n")).await;
        self.response().await
    }

    /// The next response, to anything but HEAD, which must be whole.
    pub async fn response(&mut self) -> Response {
        self.response_to("GET").await
    }

    /// The next response, which must be whole.
    pub async fn response_to(&mut self, method: &str) -> Response {
        self.try_response(method).await.unwrap_or_else(|broken| panic!("the response is broken: {broken:?}"))
    }

    /// The next response, if it comes whole.
    pub async fn try_response(&mut self, method: &str) -> Result<Response, Broken> {
        let mut interim = Vec::new();
        let mut response = loop {
            let head = self.head(method).await?;
            if (100..200).contains(&head.status) && head.status != 101 {
                interim.push((head.status, head.fields));
                continue;
            }
            break head;
        };
        response.interim = interim;
        match self.body(&mut response).await {
            Ok(()) => Ok(response),
            Err(reset) => Err(Broken { received: response.body.len(), head: Some(response), reset }),
        }
    }

    /// The next head, interim ones included, and nothing of its body.
    pub async fn head(&mut self, method: &str) -> Result<Response, Broken> {
        loop {
            if let Some(head) = parse_head(&mut self.buffer, method) {
                return Ok(head);
            }
            match self.read_more().await {
                Read::Some => {}
                Read::End => return Err(Broken { head: None, received: self.buffer.len(), reset: false }),
                Read::Reset => return Err(Broken { head: None, received: self.buffer.len(), reset: true }),
            }
        }
    }

    /// Reads the body that belongs to a head. `Err(true)` is a reset.
    pub async fn body(&mut self, response: &mut Response) -> Result<(), bool> {
        match response.framing {
            Body::None => Ok(()),
            Body::Length(length) => {
                response.body = self.exactly(length).await.map_err(|(partial, reset)| {
                    response.body = partial;
                    reset
                })?;
                Ok(())
            }
            Body::Chunked => self.chunked(response).await,
            Body::UntilClose => loop {
                response.body.append(&mut self.buffer);
                match self.read_more().await {
                    Read::Some => {}
                    Read::End => return Ok(()),
                    Read::Reset => return Err(true),
                }
            },
        }
    }

    async fn chunked(&mut self, response: &mut Response) -> Result<(), bool> {
        loop {
            let line = self.line().await?;
            let size = usize::from_str_radix(&line, 16).unwrap_or_else(|_| panic!("chunk size {line:?}"));
            if size == 0 {
                break;
            }
            let mut chunk = self.exactly(size).await.map_err(|(mut partial, reset)| {
                response.body.append(&mut partial);
                reset
            })?;
            response.body.append(&mut chunk);
            response.chunks += 1;
            assert_eq!(self.line().await?, "", "chunk data ends in CRLF");
        }
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok(());
            }
            let (name, value) = line.split_once(": ").expect("a trailer field");
            response.trailers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
    }

    async fn line(&mut self) -> Result<String, bool> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8(self.buffer[..end].to_vec()).expect("ASCII");
                self.buffer.drain(..end + 2);
                return Ok(line);
            }
            self.more().await?;
        }
    }

    async fn exactly(&mut self, count: usize) -> Result<Vec<u8>, (Vec<u8>, bool)> {
        while self.buffer.len() < count {
            if let Err(reset) = self.more().await {
                return Err((std::mem::take(&mut self.buffer), reset));
            }
        }
        let rest = self.buffer.split_off(count);
        Ok(std::mem::replace(&mut self.buffer, rest))
    }

    async fn more(&mut self) -> Result<(), bool> {
        match self.read_more().await {
            Read::Some => Ok(()),
            Read::End => Err(false),
            Read::Reset => Err(true),
        }
    }

    async fn read_more(&mut self) -> Read {
        self.buffer.reserve(64 * 1024);
        match soon("bytes from the gateway", self.stream.read_buf(&mut self.buffer)).await {
            Ok(0) => Read::End,
            Ok(_) => Read::Some,
            Err(_) => Read::Reset,
        }
    }

    /// Asserts that the gateway ends the connection and sends nothing more on it.
    pub async fn expect_end(mut self) {
        while let Read::Some = self.read_more().await {}
        assert!(self.buffer.is_empty(), "{}", self.buffer.escape_ascii());
    }
}

fn parse_head(buffer: &mut Vec<u8>, method: &str) -> Option<Response> {
    let mut fields = [httparse::EMPTY_HEADER; 256];
    let mut parsed = httparse::Response::new(&mut fields);
    let used = match parsed.parse(buffer) {
        Ok(httparse::Status::Complete(used)) => used,
        Ok(httparse::Status::Partial) => return None,
        Err(error) => panic!("{error}: {}", buffer.escape_ascii()),
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let fields: Vec<(String, String)> =
        parsed.headers.iter().map(|field| (field.name.to_ascii_lowercase(), text(field.value))).collect();
    let status = parsed.code.expect("complete");
    let (version, reason) = (parsed.version.expect("complete"), parsed.reason.unwrap_or_default().to_owned());
    buffer.drain(..used);
    let framing = framing(status, method, &fields);
    let (body, trailers, interim) = (Vec::new(), Vec::new(), Vec::new());
    Some(Response { version, status, reason, fields, framing, body, trailers, interim, chunks: 0 })
}

/// RFC 9112 section 6.3, as a client reads it.
fn framing(status: u16, method: &str, fields: &[(String, String)]) -> Body {
    let mut found = fields.iter().filter(|(name, _)| name == "content-length" || name == "transfer-encoding");
    let first = found.next();
    assert!(found.next().is_none(), "framed twice: {fields:?}");
    if status < 200 || matches!(status, 204 | 304) || method == "HEAD" {
        return Body::None;
    }
    match first {
        None => Body::UntilClose,
        Some((name, value)) if name == "content-length" => Body::Length(value.parse().expect("a length")),
        Some((_, value)) => {
            assert_eq!(value, "chunked");
            Body::Chunked
        }
    }
}
