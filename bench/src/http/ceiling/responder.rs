//! Threads that answer whatever is asked with the same bytes.

use crate::http::exchange::Fault;
use crate::http::h2::frame::{self, Header, flag, kind, setting};
use crate::http::plan::{Plan, Protocol};
use crate::http::tls::Layer;
use crate::http::{payload, worker};
use anyhow::Context as _;
use memchr::memmem;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{self, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::UnbufferedServerConnection;
use std::collections::BTreeMap;
use std::io::Cursor;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::OpCode;

/// In epoll, the listener.
const LISTENER: u64 = u64::MAX;

/// What is answered.
#[derive(Clone)]
pub struct Canned {
    protocol: Protocol,
    /// HTTP/1.1: head and body. HTTP/2: the body alone.
    answer: Vec<u8>,
    /// Bytes of every request's body.
    upload: usize,
    closes: bool,
    tls: Option<Arc<ServerConfig>>,
}

impl Canned {
    /// Answers with bodies of so many bytes.
    ///
    /// # Errors
    /// Where no certificate can be made.
    pub fn new(plan: &Plan, body: usize) -> anyhow::Result<Self> {
        let mut answer = Vec::new();
        if plan.protocol == Protocol::Http1 {
            let close = if plan.keep_alive { "" } else { "Connection: close\r\n" };
            let head = format!(
                "HTTP/1.1 200 OK\r\nServer: canned\r\nContent-Type: text/plain\r\nContent-Length: {body}\r\n{close}\r\n"
            );
            answer.extend_from_slice(head.as_bytes());
        }
        payload::append(&mut answer, 0, body);
        let tls = plan.targets.first().is_some_and(|target| target.tls).then(server).transpose()?;
        Ok(Self { protocol: plan.protocol, answer, upload: plan.upload, closes: !plan.keep_alive, tls })
    }
}

/// TLS 1.3 with a certificate of its own, and tickets that need no memory.
fn server() -> anyhow::Result<Arc<ServerConfig>> {
    let made = rcgen::generate_simple_self_signed(vec!["ceiling.test".to_owned()]).context("a certificate")?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    Ok(Arc::new(config))
}

/// As many threads as load.
pub struct Crew {
    address: SocketAddr,
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Crew {
    /// Listens on a port of loopback that was free.
    ///
    /// # Errors
    /// Where there is none.
    pub fn start(plan: &Plan, canned: Canned, cpus: Vec<usize>) -> anyhow::Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let mut address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut threads = Vec::new();
        for at in 0..plan.threads {
            let listener = listen(address).context("a port for the responder")?;
            address = net::getsockname(&listener)?.try_into()?;
            let cpu = (!cpus.is_empty()).then(|| cpus[at % cpus.len()]);
            let (canned, over) = (canned.clone(), over.clone());
            let body = move || {
                if let Some(cpu) = cpu {
                    // It was among those allowed a moment ago; elsewhere it answers as well.
                    let _ = worker::pin_to(cpu);
                }
                // Without it the generator finds nobody there, and says so.
                let _ = respond(listener, &canned, &over);
            };
            threads.push(thread::Builder::new().name(format!("canned-{at}")).spawn(body)?);
        }
        Ok(Self { address, over, threads })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it.
    pub fn stop(self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

fn listen(address: SocketAddr) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let listener = net::socket_with(net::AddressFamily::INET, SocketType::STREAM, flags, None)?;
    // The threads share the port.
    sockopt::set_socket_reuseport(&listener, true)?;
    net::bind(&listener, &address)?;
    net::listen(&listener, 4096)?;
    Ok(listener)
}

fn respond(listener: OwnedFd, canned: &Canned, over: &AtomicBool) -> rustix::io::Result<()> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&poll, &listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
    let (mut peers, mut next, mut events) = (BTreeMap::new(), 0, Vec::with_capacity(1024));
    let mut buffer = vec![0; 256 * 1024];
    while !over.load(Ordering::Relaxed) {
        events.clear();
        let patience = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        // Interrupted: nothing happened.
        let _ = epoll::wait(&poll, spare_capacity(&mut events), Some(&patience));
        for event in &events {
            let key = event.data.u64();
            if key == LISTENER {
                while let Ok(socket) = net::accept_with(&listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                    sockopt::set_tcp_nodelay(&socket, true)?;
                    epoll::add(&poll, &socket, epoll::EventData::new_u64(next), epoll::EventFlags::IN)?;
                    peers.extend(Peer::new(socket, next, canned).map(|peer| (next, peer)));
                    next += 1;
                }
                continue;
            }
            let gone =
                peers.get_mut(&key).is_none_or(|peer| peer.advance(event.flags, &poll, &mut buffer, canned).is_err());
            if gone {
                peers.remove(&key);
            }
        }
    }
    Ok(())
}

/// A connection of the generator.
struct Peer {
    socket: OwnedFd,
    key: u64,
    tls: Option<Layer<UnbufferedServerConnection>>,
    out: Vec<u8>,
    written: usize,
    stash: Vec<u8>,
    /// Bytes of a request's body that are to come.
    body: usize,
    /// Whether preface or upgrade are behind.
    opened: bool,
    /// HTTP/2: data that was taken and not given back.
    used: u32,
    closing: bool,
    watches_room: bool,
}

impl Peer {
    fn new(socket: OwnedFd, key: u64, canned: &Canned) -> Option<Self> {
        let tls = match &canned.tls {
            Some(config) => Some(Layer::new(UnbufferedServerConnection::new(config.clone()).ok()?)),
            None => None,
        };
        Some(Self {
            socket,
            key,
            tls,
            out: Vec::new(),
            written: 0,
            stash: Vec::new(),
            body: 0,
            opened: false,
            used: 0,
            closing: false,
            watches_room: false,
        })
    }

    /// Reads, answers, writes; an error is the end.
    fn advance(
        &mut self,
        events: epoll::EventFlags,
        poll: &OwnedFd,
        buffer: &mut [u8],
        canned: &Canned,
    ) -> Result<(), Fault> {
        if events.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
            let rest = self.tls.as_ref().map_or(0, |layer| layer.rest.len());
            match net::recv(&self.socket, &mut buffer[rest..], RecvFlags::empty()) {
                Ok((0, _)) => return Err(Fault::Closed),
                Ok((read, _)) => self.take(&mut buffer[..rest + read], rest, canned)?,
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        self.flush(poll)?;
        if self.closing && self.out.is_empty() { Err(Fault::Closed) } else { Ok(()) }
    }

    fn take(&mut self, incoming: &mut [u8], rest: usize, canned: &Canned) -> Result<(), Fault> {
        let Some(mut layer) = self.tls.take() else {
            self.stash.extend_from_slice(incoming);
            let mut out = std::mem::take(&mut self.out);
            let answered = self.answer(canned, &mut out);
            self.out = out;
            return answered;
        };
        incoming[..rest].copy_from_slice(&layer.rest);
        let mut plain = Vec::new();
        let closed = layer.receive(incoming, &mut self.out, |bytes| {
            self.stash.extend_from_slice(bytes);
            Ok(())
        })?;
        self.answer(canned, &mut plain)?;
        if !plain.is_empty() {
            layer.encrypt(&plain, &mut self.out);
        }
        self.tls = Some(layer);
        self.closing |= closed;
        Ok(())
    }

    fn answer(&mut self, canned: &Canned, out: &mut Vec<u8>) -> Result<(), Fault> {
        let stash = std::mem::take(&mut self.stash);
        let mut at = 0;
        while at < stash.len() {
            let rest = &stash[at..];
            let taken = match canned.protocol {
                Protocol::Http1 => self.answer_http1(rest, canned, out),
                Protocol::WebSocket => self.echo(rest, out)?,
                Protocol::Http2 | Protocol::Grpc => self.answer_http2(rest, canned, out),
                Protocol::Handshake(_) => Some(rest.len()),
            };
            let Some(taken) = taken else { break };
            at += taken;
        }
        self.stash = stash;
        self.stash.drain(..at);
        Ok(())
    }

    /// One head, or what there is of a body: bytes taken, `None` where more are needed.
    fn answer_http1(&mut self, bytes: &[u8], canned: &Canned, out: &mut Vec<u8>) -> Option<usize> {
        let taken = if self.body > 0 {
            let taken = self.body.min(bytes.len());
            self.body -= taken;
            taken
        } else {
            self.body = canned.upload;
            head(bytes)?
        };
        if self.body == 0 {
            out.extend_from_slice(&canned.answer);
            self.closing |= canned.closes;
        }
        Some(taken)
    }

    /// The upgrade, or one message.
    fn echo(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Option<usize>, Fault> {
        const WRONG: Fault = Fault::Malformed("WebSocket");
        const KEY: &[u8] = b"Sec-WebSocket-Key: ";
        if !self.opened {
            let Some(end) = head(bytes) else { return Ok(None) };
            let from = memmem::find(&bytes[..end], KEY).ok_or(WRONG)? + KEY.len();
            let length = bytes[from..end].iter().position(|byte| *byte == b'\r').ok_or(WRONG)?;
            let accept = derive_accept_key(&bytes[from..from + length]);
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
            );
            out.extend_from_slice(answer.as_bytes());
            self.opened = true;
            return Ok(Some(end));
        }
        let mut cursor = Cursor::new(bytes);
        let Some((header, length)) = FrameHeader::parse(&mut cursor).map_err(|_| WRONG)? else { return Ok(None) };
        let from = cursor.position() as usize;
        let Some(content) = bytes.get(from..from + length as usize) else { return Ok(None) };
        if let OpCode::Data(_) = header.opcode {
            let mask = header.mask.ok_or(WRONG)?;
            // A Vec takes everything.
            let _ = FrameHeader { mask: None, ..header }.format(length, out);
            out.extend(content.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        }
        Ok(Some(from + length as usize))
    }

    /// The preface, or one frame.
    fn answer_http2(&mut self, bytes: &[u8], canned: &Canned, out: &mut Vec<u8>) -> Option<usize> {
        if !self.opened {
            bytes.get(..frame::PREFACE.len())?;
            frame::append_settings(out, &[(setting::INITIAL_WINDOW_SIZE, frame::WINDOW)]);
            frame::append_window(out, 0, frame::WINDOW - frame::DEFAULT_WINDOW);
            self.opened = true;
            return Some(frame::PREFACE.len());
        }
        let header = Header::read(bytes)?;
        let end = frame::HEADER + header.length;
        let content = bytes.get(frame::HEADER..end)?;
        match header.kind {
            kind::SETTINGS if !header.has(flag::ACK) => frame::append(out, kind::SETTINGS, flag::ACK, 0, &[]),
            kind::PING if !header.has(flag::ACK) => frame::append(out, kind::PING, flag::ACK, 0, content),
            kind::DATA => {
                self.used += header.length as u32;
                if self.used > frame::WINDOW / 2 {
                    frame::append_window(out, 0, self.used);
                    self.used = 0;
                }
            }
            _ => {}
        }
        if matches!(header.kind, kind::HEADERS | kind::DATA) && header.has(flag::END_STREAM) {
            append_answer(header.stream, canned, out);
        }
        Some(end)
    }

    fn flush(&mut self, poll: &OwnedFd) -> Result<(), Fault> {
        let mut full = false;
        while self.written < self.out.len() {
            match net::send(&self.socket, &self.out[self.written..], SendFlags::NOSIGNAL) {
                Ok(sent) => self.written += sent,
                Err(Errno::AGAIN) => {
                    full = true;
                    break;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        if !full {
            self.out.clear();
            self.written = 0;
        }
        if full != self.watches_room {
            let flags = if full { epoll::EventFlags::IN | epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
            epoll::modify(poll, &self.socket, epoll::EventData::new_u64(self.key), flags)?;
            self.watches_room = full;
        }
        Ok(())
    }
}

/// How long the head is with which `bytes` begin.
fn head(bytes: &[u8]) -> Option<usize> {
    memmem::find(bytes, b"\r\n\r\n").map(|at| at + 4)
}

/// Fields, body and, for gRPC, the status. The generator's windows are larger than what is in flight.
fn append_answer(stream: u32, canned: &Canned, out: &mut Vec<u8>) {
    // Indexed, by RFC 7541's static table.
    const STATUS_200: u8 = 0x88;
    let grpc = canned.protocol == Protocol::Grpc;
    let last = |ends: bool| if ends { flag::END_STREAM } else { 0 };
    let only = canned.answer.is_empty() && !grpc;
    frame::append(out, kind::HEADERS, flag::END_HEADERS | last(only), stream, &[STATUS_200]);
    let mut pieces = canned.answer.chunks(frame::LARGEST).peekable();
    while let Some(piece) = pieces.next() {
        frame::append(out, kind::DATA, last(pieces.peek().is_none() && !grpc), stream, piece);
    }
    if grpc {
        let trailers = [&[0x00, 0x0b][..], b"grpc-status", &[0x01], b"0"].concat();
        frame::append(out, kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream, &trailers);
    }
}
