//! WebSocket connections through the gateway that say something now and then and want it back.

use crate::asker::connect;
use anyhow::bail;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

/// Any sixteen bytes in base64 (RFC 6455 section 4.1): who answers is the bench itself.
const KEY: &str = "c2x1aWNlZ2F0ZS1iZW5jaA==";

/// A number of them.
pub struct WebSockets {
    open: Vec<TcpStream>,
    /// Those that no longer live.
    pub broken: u64,
    /// Frames there and back on each.
    pub rounds: u32,
}

impl WebSockets {
    /// Opens so many.
    ///
    /// # Errors
    /// Where one is refused.
    pub fn open(port: u16, host: &str, count: u32) -> anyhow::Result<Self> {
        let open = (0..count).map(|_| upgrade(port, host)).collect::<anyhow::Result<_>>()?;
        Ok(Self { open, broken: 0, rounds: 0 })
    }

    /// One small frame there and back on each; those that fail are broken for good.
    pub fn talk(&mut self) {
        self.rounds += 1;
        // A text frame of four bytes, with a mask of zeros (RFC 6455 section 5.2).
        let mut frame = b"\x81\x84\x00\x00\x00\x00".to_vec();
        frame.extend_from_slice(format!("{:04}", self.rounds % 10_000).as_bytes());
        let before = self.open.len();
        self.open.retain_mut(|stream| {
            let mut back = vec![0; frame.len()];
            let whole = stream.write_all(&frame).and_then(|()| stream.read_exact(&mut back));
            whole.is_ok() && back == frame
        });
        self.broken += (before - self.open.len()) as u64;
    }
}

fn upgrade(port: u16, host: &str) -> anyhow::Result<TcpStream> {
    let mut stream = connect(port)?;
    write!(
        stream,
        "GET / HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {KEY}\r\n\
         Sec-WebSocket-Version: 13\r\n\r\n"
    )?;
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            bail!("a WebSocket was refused: the connection was closed");
        }
        head.push(byte[0]);
    }
    if !head.starts_with(b"HTTP/1.1 101 ") {
        bail!("a WebSocket was refused: {}", String::from_utf8_lossy(&head).lines().next().unwrap_or_default());
    }
    Ok(stream)
}
