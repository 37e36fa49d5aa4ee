//! One connection: socket, TLS, and whatever is spoken on it.

use super::exchange::{Answer, Begun, Done, Fault};
use super::outcome::Handshakes;
use super::plan::{Handshake, Plan, Protocol};
use super::{h1, h2, tls, websocket};
use rustix::event::epoll::{self, EventFlags};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{self, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};
use rustls::HandshakeKind;
use rustls::client::UnbufferedClientConnection;
use std::net::SocketAddr;

/// How long a server that refused is left alone, in ns.
const RETRY: u64 = 50_000_000;

/// A whole answer of a megabyte takes few calls; more is hardly ever there at once.
const BUFFER: usize = 256 * 1024;

/// Answers that come in pieces are kept until they are whole; a server that sends more than this and no end is at fault.
const LONGEST_STASH: usize = 1 << 20;

/// What connections of one thread share: nothing of it is shared with other threads.
#[derive(Debug)]
pub struct Io {
    /// What is planned.
    pub plan: Plan,
    /// Where connections go.
    pub address: SocketAddr,
    /// Requests, rendered.
    pub requests: Requests,
    /// With what TLS is made.
    pub tls: Option<tls::Client>,
    /// What waits for events.
    pub epoll: OwnedFd,
    /// What is over since it was last emptied.
    pub done: Vec<Done>,
    /// Bytes over sockets, and connections.
    pub traffic: Traffic,
    buffer: Vec<u8>,
    plain: Vec<u8>,
}

/// What a thread has moved.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    /// Bytes written.
    pub sent: u64,
    /// Bytes read.
    pub received: u64,
    /// Connections begun.
    pub opened: u64,
    /// Connections on which requests could begin.
    pub established: u64,
    /// Handshakes done.
    pub handshakes: Handshakes,
}

/// What is sent for each target.
#[derive(Debug)]
pub enum Requests {
    /// HTTP/1.1.
    Http1(Vec<h1::Request>),
    /// HTTP/2 and gRPC.
    Http2(Vec<h2::Request>),
    /// Messages, all alike.
    WebSocket(Box<websocket::Messages>),
    /// Nothing.
    Handshake,
}

impl Io {
    /// Renders all requests.
    pub fn new(plan: &Plan, address: SocketAddr, tls: Option<tls::Client>) -> Result<Self, Fault> {
        let alone = plan.targets.len() == 1;
        let requests = match plan.protocol {
            Protocol::Http1 => {
                Requests::Http1(plan.targets.iter().map(|target| h1::Request::new(target, plan)).collect())
            }
            Protocol::Http2 | Protocol::Grpc => {
                Requests::Http2(plan.targets.iter().map(|target| h2::Request::new(target, plan, alone)).collect())
            }
            Protocol::WebSocket => Requests::WebSocket(Box::new(websocket::Messages::new(&plan.targets[0], plan))),
            Protocol::Handshake(_) => Requests::Handshake,
        };
        Ok(Self {
            plan: plan.clone(),
            address,
            requests,
            tls,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            done: Vec::new(),
            traffic: Traffic::default(),
            buffer: vec![0; BUFFER],
            plain: Vec::new(),
        })
    }

    fn resumes(&self) -> bool {
        self.plan.protocol == Protocol::Handshake(Handshake::Resumed)
    }
}

/// What becomes of a connection after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes on.
    Stays,
    /// It has done what it was for, or the server closes it in order.
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Down,
    Connecting,
    /// TLS, settings of HTTP/2 or the upgrade to WebSocket.
    Opening,
    Ready,
}

#[derive(Debug)]
enum Session {
    None,
    Http1(h1::Session),
    Http2(Box<h2::Session>),
    WebSocket(websocket::Session),
    Handshake(Option<Begun>),
}

/// A connection, or the place of one that is down.
pub struct Connection {
    /// In epoll, and in the thread's list.
    key: u64,
    socket: Option<OwnedFd>,
    stage: Stage,
    session: Session,
    tls: Option<Box<tls::Layer<UnbufferedClientConnection>>>,
    /// What is to be written, and how much of it is.
    out: Vec<u8>,
    written: usize,
    /// What the session says first, until it may be encrypted.
    early: Vec<u8>,
    /// What the session has not understood yet for want of the rest.
    stash: Vec<u8>,
    /// Requests that wait for the connection.
    waiting: Vec<Begun>,
    opened: u64,
    retry: u64,
    ticket: bool,
    /// Whether epoll tells when there is room to write.
    watches_room: bool,
    /// Whether it stands in the thread's line of free connections.
    pub queued: bool,
}

impl Connection {
    /// A place without a connection.
    pub fn new(key: u64) -> Self {
        Self {
            key,
            socket: None,
            stage: Stage::Down,
            session: Session::None,
            tls: None,
            out: Vec::new(),
            written: 0,
            early: Vec::new(),
            stash: Vec::new(),
            waiting: Vec::new(),
            opened: 0,
            retry: 0,
            ticket: false,
            watches_room: false,
            queued: false,
        }
    }

    /// Whether a request may begin on it, if need be by opening it.
    pub fn is_free(&self, now: u64) -> bool {
        match (&self.stage, &self.session) {
            (Stage::Down, _) => now >= self.retry,
            (Stage::Ready, Session::Http1(session)) => session.is_free(),
            (Stage::Ready, Session::Http2(session)) => session.is_free(),
            (Stage::Ready, Session::WebSocket(session)) => session.is_free(),
            _ => false,
        }
    }

    /// Whether there is none.
    pub fn is_down(&self) -> bool {
        self.stage == Stage::Down
    }

    /// Begins a request; [`Self::flush`] sends it.
    pub fn begin(&mut self, begun: Begun, io: &mut Io) -> Result<(), Fault> {
        if self.stage != Stage::Ready {
            self.waiting.push(begun);
            return if self.stage == Stage::Down { self.open(begun.started, io) } else { Ok(()) };
        }
        self.submit(begun, io);
        Ok(())
    }

    /// Begins to connect.
    pub fn open(&mut self, now: u64, io: &mut Io) -> Result<(), Fault> {
        io.traffic.opened += 1;
        self.opened = now;
        let family = if io.address.is_ipv4() { net::AddressFamily::INET } else { net::AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = net::socket_with(family, SocketType::STREAM, flags, None)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        let connected = match net::connect(&socket, &io.address) {
            Ok(()) => true,
            Err(Errno::INPROGRESS) => false,
            Err(errno) => return Err(errno.into()),
        };
        let wanted = if connected { EventFlags::IN } else { EventFlags::OUT };
        epoll::add(&io.epoll, &socket, epoll::EventData::new_u64(self.key), wanted)?;
        self.socket = Some(socket);
        self.stage = Stage::Connecting;
        if connected { self.connected(io) } else { Ok(()) }
    }

    /// Something happened to the socket.
    pub fn advance(&mut self, events: EventFlags, io: &mut Io) -> Result<Fate, Fault> {
        let Some(socket) = &self.socket else { return Ok(Fate::Stays) };
        if self.stage == Stage::Connecting {
            sockopt::socket_error(socket)??;
            epoll::modify(&io.epoll, socket, epoll::EventData::new_u64(self.key), EventFlags::IN)?;
            self.connected(io)?;
            return Ok(Fate::Stays);
        }
        if events.contains(EventFlags::OUT) {
            self.flush(io)?;
        }
        if events.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            return self.read(io);
        }
        Ok(Fate::Stays)
    }

    /// Writes what is to be written, and more of bodies as there is room.
    pub fn flush(&mut self, io: &mut Io) -> Result<(), Fault> {
        let Some(socket) = &self.socket else { return Ok(()) };
        if self.stage == Stage::Connecting {
            return Ok(());
        }
        let full = loop {
            if self.written == self.out.len() {
                self.out.clear();
                self.written = 0;
                produce(&mut self.session, &mut self.tls, &mut self.out, io);
                if self.out.is_empty() {
                    break false;
                }
            }
            match net::send(socket, &self.out[self.written..], SendFlags::NOSIGNAL) {
                Ok(sent) => {
                    self.written += sent;
                    io.traffic.sent += sent as u64;
                }
                Err(Errno::AGAIN) => break true,
                Err(Errno::INTR) => {}
                // The answer may be there all the same: reading says what happened.
                Err(Errno::PIPE | Errno::CONNRESET) => {
                    self.out.clear();
                    self.written = 0;
                    break false;
                }
                Err(errno) => return Err(errno.into()),
            }
        };
        if full != self.watches_room {
            let flags = if full { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
            epoll::modify(&io.epoll, socket, epoll::EventData::new_u64(self.key), flags)?;
            self.watches_room = full;
        }
        Ok(())
    }

    /// Closes in order. What is in flight must be over.
    pub fn close(&mut self, io: &mut Io) {
        if let (Some(layer), Some(_)) = (&mut self.tls, &self.socket) {
            layer.close(&mut self.out);
            // A server that is gone needs no farewell.
            let _ = self.flush(io);
        }
        self.drop_socket();
    }

    /// Ends it for a fault: everything in flight, or that waits for it, has that fault.
    pub fn fail(&mut self, now: u64, fault: &Fault, io: &mut Io) {
        if self.stage != Stage::Ready {
            self.retry = now + RETRY;
        }
        let mut lost = std::mem::take(&mut self.waiting);
        match &mut self.session {
            Session::None => {}
            Session::Http1(session) => lost.extend(session.abandon()),
            Session::Http2(session) => lost.extend(session.abandon()),
            Session::WebSocket(session) => lost.extend(session.abandon()),
            Session::Handshake(begun) => lost.extend(begun.take()),
        }
        io.done.extend(lost.into_iter().map(|begun| Done { begun, verdict: Err(fault.clone()) }));
        self.drop_socket();
    }

    /// Gives up on what takes longer than the timeout: what began before the moment. A fault ends the connection.
    pub fn expire(&mut self, before: u64, io: &mut Io) -> Result<(), Fault> {
        if matches!(self.stage, Stage::Connecting | Stage::Opening) && self.opened < before {
            return Err(Fault::NotConnected);
        }
        let begun = match &mut self.session {
            Session::Http1(session) => session.in_flight(),
            Session::WebSocket(session) => session.in_flight(),
            Session::Handshake(_) if self.stage == Stage::Ready && self.opened < before => return Err(Fault::NoTicket),
            Session::Http2(session) => {
                io.plain.clear();
                let late = session.expire(before, &mut io.plain);
                io.done.extend(late.into_iter().map(|begun| Done { begun, verdict: Err(Fault::TimedOut) }));
                put(&mut self.tls, &mut self.out, &io.plain);
                return self.flush(io);
            }
            _ => None,
        };
        if begun.is_some_and(|begun| begun.started < before) { Err(Fault::TimedOut) } else { Ok(()) }
    }

    fn drop_socket(&mut self) {
        // Closing takes it out of epoll, too.
        self.socket = None;
        self.tls = None;
        self.stage = Stage::Down;
        self.session = Session::None;
        self.out.clear();
        self.written = 0;
        self.early.clear();
        self.stash.clear();
        self.ticket = false;
        self.watches_room = false;
    }

    fn connected(&mut self, io: &mut Io) -> Result<(), Fault> {
        self.session = match &io.requests {
            Requests::Http1(_) => Session::Http1(h1::Session::default()),
            Requests::Http2(_) => Session::Http2(Box::new(h2::Session::open(&io.plan, &mut self.early))),
            Requests::WebSocket(messages) => Session::WebSocket(websocket::Session::open(messages, &mut self.early)),
            Requests::Handshake => Session::Handshake(self.waiting.pop()),
        };
        self.stage = Stage::Opening;
        if let Some(client) = &io.tls {
            let connection = UnbufferedClientConnection::new(client.config.clone(), client.name.clone())?;
            let mut layer = Box::new(tls::Layer::new(connection));
            layer.receive(&mut [], &mut self.out, |_| Ok(()))?;
            self.tls = Some(layer);
        } else {
            self.out.append(&mut self.early);
            self.opened_up(io);
        }
        self.flush(io)
    }

    /// Begins what waits, once the protocol can carry it.
    fn opened_up(&mut self, io: &mut Io) {
        let open = match &self.session {
            Session::None => false,
            Session::Http1(_) | Session::Handshake(_) => true,
            Session::Http2(session) => session.is_open(),
            Session::WebSocket(session) => session.is_open(),
        };
        if !open || self.stage != Stage::Opening || self.tls.as_ref().is_some_and(|layer| !layer.ready) {
            return;
        }
        self.stage = Stage::Ready;
        if !io.resumes() {
            io.traffic.established += 1;
        }
        for begun in std::mem::take(&mut self.waiting) {
            self.submit(begun, io);
        }
    }

    fn submit(&mut self, begun: Begun, io: &mut Io) {
        io.plain.clear();
        let direct = self.tls.is_none();
        let out = if direct { &mut self.out } else { &mut io.plain };
        match (&mut self.session, &io.requests) {
            (Session::Http1(session), Requests::Http1(requests)) => session.begin(begun, &requests[begun.target], out),
            (Session::Http2(session), Requests::Http2(requests)) => session.begin(begun, requests, out),
            (Session::WebSocket(session), Requests::WebSocket(messages)) => session.begin(begun, messages, out),
            _ => {}
        }
        if !direct {
            put(&mut self.tls, &mut self.out, &io.plain);
        }
    }

    fn read(&mut self, io: &mut Io) -> Result<Fate, Fault> {
        let Some(socket) = &self.socket else { return Ok(Fate::Stays) };
        let rest = self.tls.as_ref().map_or(0, |layer| layer.rest.len());
        if rest >= io.buffer.len() {
            return Err(Fault::Malformed("a TLS record without end"));
        }
        let read = match net::recv(socket, &mut io.buffer[rest..], RecvFlags::empty()) {
            Ok((read, _)) => read,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Fate::Stays),
            Err(errno) => return Err(errno.into()),
        };
        io.traffic.received += read as u64;
        if read == 0 {
            return self.end(io);
        }
        let before = io.done.len();
        let closed =
            if self.tls.is_some() { self.read_tls(rest, rest + read, io)? } else { self.read_plain(read, io)? };
        self.opened_up(io);
        if closed {
            return self.end(io);
        }
        let over = match &self.session {
            Session::Http1(session) => session.is_over() || (!io.plan.keep_alive && io.done.len() > before),
            Session::Http2(session) => session.is_over(),
            Session::Handshake(_) => self.stage == Stage::Ready && (self.ticket || !io.resumes()),
            _ => false,
        };
        if over {
            // What closes it sends what is left with its farewell.
            return Ok(Fate::Over);
        }
        if !self.out.is_empty() {
            self.flush(io)?;
        }
        Ok(Fate::Stays)
    }

    fn read_plain(&mut self, read: usize, io: &mut Io) -> Result<bool, Fault> {
        let Io { buffer, requests, done, .. } = io;
        feed(&mut self.session, &mut self.stash, &buffer[..read], requests, &mut self.out, done)?;
        Ok(false)
    }

    fn read_tls(&mut self, rest: usize, end: usize, io: &mut Io) -> Result<bool, Fault> {
        let Some(layer) = &mut self.tls else { return Ok(false) };
        let tickets = io.tls.as_ref().map_or(0, |client| client.tickets.received());
        let Io { buffer, requests, done, plain, .. } = io;
        buffer[..rest].copy_from_slice(&layer.rest);
        plain.clear();
        let (session, stash) = (&mut self.session, &mut self.stash);
        let was_ready = layer.ready;
        let closed = layer
            .receive(&mut buffer[..end], &mut self.out, |bytes| feed(session, stash, bytes, requests, plain, done))?;
        if layer.ready && !was_ready {
            self.secured(io)?;
        }
        put(&mut self.tls, &mut self.out, &io.plain);
        self.ticket |= io.tls.as_ref().is_some_and(|client| client.tickets.received() > tickets);
        if self.ticket && io.resumes() {
            io.traffic.established += 1;
        }
        Ok(closed)
    }

    /// The handshake is done.
    fn secured(&mut self, io: &mut Io) -> Result<(), Fault> {
        let Some(layer) = &mut self.tls else { return Ok(()) };
        let resumed = layer.end.handshake_kind() == Some(HandshakeKind::Resumed);
        if resumed {
            io.traffic.handshakes.resumed += 1;
        } else {
            io.traffic.handshakes.full += 1;
        }
        if matches!(self.session, Session::Http2(_)) && layer.end.alpn_protocol() != Some(b"h2") {
            return Err(Fault::Alpn);
        }
        if let Session::Handshake(begun) = &mut self.session
            && let Some(begun) = begun.take()
        {
            let verdict =
                if io.resumes() && !resumed { Err(Fault::NotResumed) } else { Ok(Answer { status: 0, body: 0 }) };
            io.done.push(Done { begun, verdict });
        }
        layer.encrypt(&self.early, &mut self.out);
        self.early.clear();
        Ok(())
    }

    /// The server has closed.
    fn end(&mut self, io: &mut Io) -> Result<Fate, Fault> {
        if self.stage != Stage::Ready {
            return Err(Fault::Closed);
        }
        match &mut self.session {
            Session::Http1(session) => session.end(&mut io.done).map(|()| Fate::Over),
            Session::Handshake(None) if io.resumes() && !self.ticket => Err(Fault::NoTicket),
            Session::Handshake(None) | Session::None => Ok(Fate::Over),
            _ => Err(Fault::Closed),
        }
    }
}

/// Gives bytes to the session, behind those that it could not use yet.
fn feed(
    session: &mut Session,
    stash: &mut Vec<u8>,
    bytes: &[u8],
    requests: &Requests,
    out: &mut Vec<u8>,
    done: &mut Vec<Done>,
) -> Result<(), Fault> {
    let mut take = |bytes: &[u8]| match (&mut *session, requests) {
        (Session::Http1(session), _) => session.receive(bytes, done),
        (Session::Http2(session), Requests::Http2(requests)) => session.receive(bytes, requests, out, done),
        (Session::WebSocket(session), Requests::WebSocket(messages)) => session.receive(bytes, messages, out, done),
        _ => Ok(bytes.len()),
    };
    if stash.is_empty() {
        let taken = take(bytes)?;
        stash.extend_from_slice(&bytes[taken..]);
    } else {
        stash.extend_from_slice(bytes);
        let taken = take(stash)?;
        stash.drain(..taken);
    }
    if stash.len() > LONGEST_STASH { Err(Fault::Malformed("an answer without end")) } else { Ok(()) }
}

/// Appends more of bodies that are being sent.
fn produce(
    session: &mut Session,
    tls: &mut Option<Box<tls::Layer<UnbufferedClientConnection>>>,
    out: &mut Vec<u8>,
    io: &mut Io,
) {
    io.plain.clear();
    let to = if tls.is_some() { &mut io.plain } else { &mut *out };
    match (session, &io.requests) {
        (Session::Http1(session), _) => session.produce(to),
        (Session::Http2(session), Requests::Http2(requests)) => session.produce(requests, to),
        _ => {}
    }
    put(tls, out, &io.plain);
}

/// Appends what a session has to say, encrypted where there is TLS.
fn put(tls: &mut Option<Box<tls::Layer<UnbufferedClientConnection>>>, out: &mut Vec<u8>, plain: &[u8]) {
    match tls {
        _ if plain.is_empty() => {}
        Some(layer) => layer.encrypt(plain, out),
        None => out.extend_from_slice(plain),
    }
}
