//! WebSocket as a client (RFC 6455): one message out, its echo back. It contains no I/O.

use super::exchange::{Answer, Begun, Done, Fault};
use super::h1::{self, Reader};
use super::payload;
use super::plan::{Plan, Target};
use std::io::Cursor;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// The key of every handshake. It protects intermediaries of browsers from scripts, and there is neither here.
const KEY: &str = "c2x1aWNlZ2F0ZS1iZW5jaA==";

/// The mask of every frame, for the same reason: messages are rendered once.
const MASK: [u8; 4] = [0x5a, 0x17, 0xc3, 0x88];

/// A control frame that is longer is malformed (RFC 6455, 5.5).
const LONGEST_CONTROL: u64 = 125;

/// What is sent.
#[derive(Clone, Debug)]
pub struct Messages {
    upgrade: Vec<u8>,
    frame: Vec<u8>,
    plain: Vec<u8>,
    accept: String,
}

impl Messages {
    /// Renders them.
    pub fn new(target: &Target, plan: &Plan) -> Self {
        let mut upgrade = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n",
            target.path, target.authority
        )
        .into_bytes();
        h1::append_fields(&mut upgrade, &plan.headers);
        upgrade.extend_from_slice(b"\r\n");
        let mut plain = Vec::with_capacity(plan.upload);
        payload::append(&mut plain, 0, plan.upload);
        let frame = frame(OpCode::Data(Data::Binary), &plain);
        Self { upgrade, frame, plain, accept: derive_accept_key(KEY.as_bytes()) }
    }
}

/// A frame as clients send it.
fn frame(opcode: OpCode, content: &[u8]) -> Vec<u8> {
    let header = FrameHeader { is_final: true, opcode, mask: Some(MASK), ..FrameHeader::default() };
    let mut bytes = Vec::with_capacity(content.len() + 14);
    // A Vec takes everything.
    let _ = header.format(content.len() as u64, &mut bytes);
    bytes.extend(content.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// A connection.
#[derive(Debug, Default)]
pub struct Session {
    /// The answer to the upgrade; `None` once it is done.
    upgrading: Option<Reader>,
    begun: Option<Begun>,
    /// Bytes of the echo that have come.
    echoed: usize,
    frame: Option<Frame>,
}

/// A data frame that is being read.
#[derive(Clone, Copy, Debug)]
struct Frame {
    left: u64,
    last: bool,
}

impl Session {
    /// Asks for the upgrade.
    pub fn open(messages: &Messages, out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(&messages.upgrade);
        Self { upgrading: Some(Reader::new(false)), ..Self::default() }
    }

    /// Whether messages may be sent.
    pub fn is_open(&self) -> bool {
        self.upgrading.is_none()
    }

    /// Whether a message may begin.
    pub fn is_free(&self) -> bool {
        self.is_open() && self.begun.is_none()
    }

    /// Sends the message.
    pub fn begin(&mut self, begun: Begun, messages: &Messages, out: &mut Vec<u8>) {
        self.begun = Some(begun);
        self.echoed = 0;
        out.extend_from_slice(&messages.frame);
    }

    /// Reads, and gives how many bytes it took; the rest comes again with more behind it.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        messages: &Messages,
        out: &mut Vec<u8>,
        done: &mut Vec<Done>,
    ) -> Result<usize, Fault> {
        let mut at = 0;
        if let Some(reader) = &mut self.upgrading {
            at = reader.read(bytes)?;
            let Some(answer) = reader.complete() else { return Ok(at) };
            if answer.status != 101 {
                return Err(Fault::NotUpgraded(answer.status));
            }
            if reader.accept.as_deref() != Some(messages.accept.as_bytes()) {
                return Err(Fault::Malformed("Sec-WebSocket-Accept"));
            }
            self.upgrading = None;
        }
        while at < bytes.len() {
            let Some(taken) = self.step(&bytes[at..], messages, out, done)? else { break };
            at += taken;
        }
        Ok(at)
    }

    /// What is in flight, which will not be answered.
    pub fn abandon(&mut self) -> Option<Begun> {
        self.begun.take()
    }

    /// What is in flight.
    pub fn in_flight(&self) -> Option<&Begun> {
        self.begun.as_ref()
    }

    fn step(
        &mut self,
        bytes: &[u8],
        messages: &Messages,
        out: &mut Vec<u8>,
        done: &mut Vec<Done>,
    ) -> Result<Option<usize>, Fault> {
        if let Some(frame) = &mut self.frame {
            let taken = frame.left.min(bytes.len() as u64) as usize;
            let wanted = messages.plain.get(self.echoed..self.echoed + taken);
            if wanted != Some(&bytes[..taken]) {
                return Err(Fault::WrongEcho);
            }
            self.echoed += taken;
            frame.left -= taken as u64;
            self.settle(messages, done)?;
            return Ok(Some(taken));
        }
        let mut cursor = Cursor::new(bytes);
        let header = FrameHeader::parse(&mut cursor).map_err(|_| Fault::Malformed("a frame of WebSocket"))?;
        let Some((header, length)) = header else { return Ok(None) };
        let begins = cursor.position() as usize;
        if header.mask.is_some() {
            return Err(Fault::Malformed("a masked frame of a server"));
        }
        match header.opcode {
            OpCode::Data(_) => {
                if self.begun.is_none() {
                    return Err(Fault::Unasked);
                }
                self.frame = Some(Frame { left: length, last: header.is_final });
                self.settle(messages, done)?;
                Ok(Some(begins))
            }
            OpCode::Control(_) if length > LONGEST_CONTROL => Err(Fault::Malformed("a control frame above 125 bytes")),
            OpCode::Control(control) => {
                let ends = begins + length as usize;
                let Some(content) = bytes.get(begins..ends) else { return Ok(None) };
                match control {
                    Control::Ping => out.extend_from_slice(&frame(OpCode::Control(Control::Pong), content)),
                    Control::Close => return Err(Fault::CloseFrame),
                    _ => {}
                }
                Ok(Some(ends))
            }
        }
    }

    /// Ends the frame, and the message with its last one.
    fn settle(&mut self, messages: &Messages, done: &mut Vec<Done>) -> Result<(), Fault> {
        let Some(Frame { left: 0, last }) = self.frame else { return Ok(()) };
        self.frame = None;
        if last && let Some(begun) = self.begun.take() {
            if self.echoed != messages.plain.len() {
                done.push(Done { begun, verdict: Err(Fault::WrongEcho) });
            } else {
                done.push(Done { begun, verdict: Ok(Answer { status: 0, body: self.echoed as u64 }) });
            }
        }
        Ok(())
    }
}
