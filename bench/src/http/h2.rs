//! HTTP/2 as a client (RFC 9113), and gRPC's unary calls on it. It contains no I/O.

pub mod frame;
pub mod hpack;
mod huffman;

use super::exchange::{Answer, Begun, Done, Fault};
use super::payload;
use super::plan::{Plan, Protocol, Target};
use frame::{Header, flag, kind, setting};
use hpack::{Block, Decoder, Fields};
use std::collections::VecDeque;

/// Fields of one answer, CONTINUATION frames included, that are longer are malformed.
const LONGEST_FIELDS: usize = 256 * 1024;

/// Refill a window when so much of it is used.
const REFILL: u32 = frame::WINDOW / 2;

/// The last stream that a connection can have.
const LAST_STREAM: u32 = 0x7fff_ffff;

/// What is sent for a target.
#[derive(Clone, Debug)]
pub struct Request {
    block: Block,
    /// gRPC: prefix and message. Otherwise the body is cut from the pattern.
    message: Vec<u8>,
    upload: u64,
    head: bool,
}

impl Request {
    /// Renders it. `alone`: whether there is no other target.
    pub fn new(target: &Target, plan: &Plan, alone: bool) -> Self {
        let grpc = plan.protocol == Protocol::Grpc;
        let mut message = Vec::new();
        if grpc {
            let content = payload::protobuf(plan.upload);
            message.push(0);
            message.extend_from_slice(&(content.len() as u32).to_be_bytes());
            message.extend_from_slice(&content);
        }
        let upload = if grpc { message.len() } else { plan.upload } as u64;
        Self { block: Block::new(target, plan, grpc, alone), message, upload, head: target.method == "HEAD" }
    }

    /// Appends a portion of the body.
    fn append_body(&self, out: &mut Vec<u8>, from: u64, length: usize) {
        if self.message.is_empty() {
            payload::append(out, from, length);
        } else {
            out.extend_from_slice(&self.message[from as usize..from as usize + length]);
        }
    }
}

/// A connection with up to so many streams at once.
#[derive(Debug)]
pub struct Session {
    grpc: bool,
    /// Streams wanted, and what the server allows.
    wanted: usize,
    allowed: usize,
    /// Whether the server's settings have come.
    opened: bool,
    /// Whether nothing new may begin.
    leaving: bool,
    /// By number: `first` is that of the front; streams that are over are `None`.
    streams: VecDeque<Option<Stream>>,
    first: u32,
    in_flight: usize,
    decoder: Decoder,
    table: Table,
    peer: Peer,
    /// Bytes of data for which the connection's window was not refilled.
    used: u32,
    reading: Reading,
    /// Streams with a body to send, in turn.
    sending: VecDeque<u32>,
}

/// What the server says that it takes.
#[derive(Debug)]
struct Peer {
    window: i64,
    stream_window: i64,
    largest: usize,
}

/// What the server's table has of our fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Table {
    Empty,
    Filled,
    /// The server wants a smaller one than all begin with: we use none, once that is said.
    Unwanted {
        said: bool,
    },
}

/// One request.
#[derive(Debug)]
struct Stream {
    begun: Begun,
    status: u16,
    body: u64,
    grpc_status: Option<u32>,
    /// Bytes of the body that are sent.
    sent: u64,
    window: i64,
    /// Bytes of data for which the stream's window was not refilled.
    used: u32,
}

/// Where in the sequence of frames the reader is.
#[derive(Debug)]
enum Reading {
    Frames,
    /// Inside a DATA frame: bytes of data left, then of padding.
    Data {
        stream: u32,
        left: usize,
        padding: usize,
        ends: bool,
    },
    /// Between HEADERS and the end of its CONTINUATIONs.
    Fields {
        stream: u32,
        block: Vec<u8>,
        ends: bool,
    },
}

impl Session {
    /// Says what a client says first.
    pub fn open(plan: &Plan, out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(frame::PREFACE);
        frame::append_settings(out, &[(setting::ENABLE_PUSH, 0), (setting::INITIAL_WINDOW_SIZE, frame::WINDOW)]);
        frame::append_window(out, 0, frame::WINDOW - frame::DEFAULT_WINDOW);
        Self {
            grpc: plan.protocol == Protocol::Grpc,
            wanted: plan.streams,
            allowed: plan.streams,
            opened: false,
            leaving: false,
            streams: VecDeque::new(),
            first: 1,
            in_flight: 0,
            decoder: Decoder::default(),
            table: Table::Empty,
            peer: Peer {
                window: frame::DEFAULT_WINDOW.into(),
                stream_window: frame::DEFAULT_WINDOW.into(),
                largest: frame::LARGEST,
            },
            used: 0,
            reading: Reading::Frames,
            sending: VecDeque::new(),
        }
    }

    /// Whether the server has answered the preface.
    pub fn is_open(&self) -> bool {
        self.opened
    }

    /// Whether a request may begin.
    pub fn is_free(&self) -> bool {
        self.opened && !self.leaving && self.in_flight < self.allowed
    }

    /// Whether nothing is in flight, and nothing may begin any more.
    pub fn is_over(&self) -> bool {
        self.leaving && self.in_flight == 0
    }

    /// Begins a request; what its body has beyond the windows comes by [`Self::produce`].
    pub fn begin(&mut self, begun: Begun, requests: &[Request], out: &mut Vec<u8>) {
        let Some(request) = requests.get(begun.target) else { return };
        let id = self.first + 2 * self.streams.len() as u32;
        self.leaving |= id >= LAST_STREAM - 2;
        let flags = flag::END_HEADERS | if request.upload == 0 { flag::END_STREAM } else { 0 };
        match self.table {
            Table::Unwanted { said: false } => {
                let length = request.block.plain.len() + 1;
                Header { length, kind: kind::HEADERS, flags, stream: id }.append(out);
                // A table of size 0 (RFC 7541, 6.3).
                out.push(0x20);
                out.extend_from_slice(&request.block.plain);
                self.table = Table::Unwanted { said: true };
            }
            Table::Unwanted { said: true } => frame::append(out, kind::HEADERS, flags, id, &request.block.plain),
            Table::Filled => frame::append(out, kind::HEADERS, flags, id, &request.block.next),
            Table::Empty => {
                frame::append(out, kind::HEADERS, flags, id, &request.block.first);
                self.table = Table::Filled;
            }
        }
        let window = self.peer.stream_window;
        self.streams.push_back(Some(Stream { begun, status: 0, body: 0, grpc_status: None, sent: 0, window, used: 0 }));
        self.in_flight += 1;
        if request.upload > 0 {
            self.sending.push_back(id);
            self.produce(requests, out);
        }
    }

    /// Appends bodies as far as windows allow, and not more than a portion at a time.
    pub fn produce(&mut self, requests: &[Request], out: &mut Vec<u8>) {
        let enough = out.len() + payload::PORTION;
        let mut stuck = 0;
        while stuck < self.sending.len() && out.len() < enough && self.peer.window > 0 {
            let Some(id) = self.sending.pop_front() else { break };
            let before = out.len();
            if self.send_body(id, requests, out) {
                self.sending.push_back(id);
            }
            stuck = if out.len() == before { stuck + 1 } else { 0 };
        }
    }

    /// One frame of the body of a stream; whether more of it is left.
    fn send_body(&mut self, id: u32, requests: &[Request], out: &mut Vec<u8>) -> bool {
        let (largest, connection) = (self.peer.largest, self.peer.window);
        let Some(stream) = self.stream(id) else { return false };
        let Some(request) = requests.get(stream.begun.target) else { return false };
        let left = request.upload - stream.sent;
        let room = connection.min(stream.window).clamp(0, largest as i64) as u64;
        let length = left.min(room) as usize;
        if length == 0 {
            return left > 0;
        }
        let ends = length as u64 == left;
        let flags = if ends { flag::END_STREAM } else { 0 };
        Header { length, kind: kind::DATA, flags, stream: id }.append(out);
        request.append_body(out, stream.sent, length);
        stream.sent += length as u64;
        stream.window -= length as i64;
        self.peer.window -= length as i64;
        !ends
    }

    /// Reads, and gives how many bytes it took; the rest comes again with more behind it.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        requests: &[Request],
        out: &mut Vec<u8>,
        done: &mut Vec<Done>,
    ) -> Result<usize, Fault> {
        let mut at = 0;
        while at < bytes.len() {
            if let Reading::Data { .. } = self.reading {
                at += self.read_data(bytes.len() - at, requests, out, done);
                continue;
            }
            let Some(header) = Header::read(&bytes[at..]) else { break };
            if header.length > frame::LARGEST {
                return Err(Fault::Malformed("a frame above 16 KiB"));
            }
            let begins = at + frame::HEADER;
            if header.kind == kind::DATA {
                let Some(taken) = self.begin_data(header, &bytes[begins..])? else { break };
                at = begins + taken;
                if header.length == taken {
                    self.read_data(0, requests, out, done);
                }
                continue;
            }
            let Some(content) = bytes.get(begins..begins + header.length) else { break };
            self.read_frame(header, content, requests, out, done)?;
            at = begins + header.length;
        }
        if !self.sending.is_empty() {
            self.produce(requests, out);
        }
        Ok(at)
    }

    /// What is in flight, which will not be answered.
    pub fn abandon(&mut self) -> Vec<Begun> {
        self.in_flight = 0;
        self.sending.clear();
        self.streams.drain(..).flatten().map(|stream| stream.begun).collect()
    }

    /// Gives up on requests that began before a moment.
    pub fn expire(&mut self, before: u64, out: &mut Vec<u8>) -> Vec<Begun> {
        const CANCEL: u32 = 8;
        let late: Vec<u32> = (self.first..)
            .step_by(2)
            .zip(&self.streams)
            .filter(|(_, stream)| stream.as_ref().is_some_and(|stream| stream.begun.started < before))
            .map(|(id, _)| id)
            .collect();
        let mut begun = Vec::new();
        for id in late {
            frame::append(out, kind::RST_STREAM, 0, id, &CANCEL.to_be_bytes());
            begun.extend(self.remove(id).map(|stream| stream.begun));
        }
        begun
    }

    fn stream(&mut self, id: u32) -> Option<&mut Stream> {
        let at = id.checked_sub(self.first)? / 2;
        self.streams.get_mut(at as usize)?.as_mut()
    }

    fn remove(&mut self, id: u32) -> Option<Stream> {
        let at = id.checked_sub(self.first)? / 2;
        let stream = self.streams.get_mut(at as usize)?.take()?;
        self.in_flight -= 1;
        while let Some(None) = self.streams.front() {
            self.streams.pop_front();
            self.first += 2;
        }
        Some(stream)
    }

    fn finish(&mut self, id: u32, requests: &[Request], verdict: Result<(), Fault>, done: &mut Vec<Done>) {
        let Some(stream) = self.remove(id) else { return };
        let grpc = self.grpc && verdict.is_ok();
        let verdict = verdict.and(match stream.grpc_status {
            _ if !grpc => Ok(()),
            Some(0) => Ok(()),
            Some(status) => Err(Fault::GrpcStatus(status)),
            None => Err(Fault::NoGrpcStatus),
        });
        let body = if requests.get(stream.begun.target).is_some_and(|request| request.head) { 0 } else { stream.body };
        done.push(Done { begun: stream.begun, verdict: verdict.map(|()| Answer { status: stream.status, body }) });
    }

    /// The beginning of a DATA frame: bytes taken behind the header, `None` where more are needed.
    fn begin_data(&mut self, header: Header, content: &[u8]) -> Result<Option<usize>, Fault> {
        if !matches!(self.reading, Reading::Frames) {
            return Err(Fault::Malformed("a frame between fields"));
        }
        let mut taken = 0;
        let mut padding = 0;
        if header.has(flag::PADDED) {
            let Some(length) = content.first() else { return Ok(None) };
            padding = usize::from(*length);
            taken = 1;
        }
        let left =
            header.length.checked_sub(taken + padding).ok_or(Fault::Malformed("padding longer than its frame"))?;
        // All of the frame counts for the windows (RFC 9113, 6.9.1).
        self.used += header.length as u32;
        if let Some(stream) = self.stream(header.stream) {
            stream.used += header.length as u32;
        }
        self.reading = Reading::Data { stream: header.stream, left, padding, ends: header.has(flag::END_STREAM) };
        Ok(Some(taken))
    }

    /// Takes so many of the bytes that are there as belong to the DATA frame.
    fn read_data(&mut self, there: usize, requests: &[Request], out: &mut Vec<u8>, done: &mut Vec<Done>) -> usize {
        let Reading::Data { stream: id, left, padding, ends } = self.reading else { return 0 };
        let data = left.min(there);
        let skipped = padding.min(there - data);
        let whole = data == left && skipped == padding;
        if let Some(stream) = self.stream(id) {
            stream.body += data as u64;
        }
        self.reading = if whole {
            Reading::Frames
        } else {
            Reading::Data { stream: id, left: left - data, padding: padding - skipped, ends }
        };
        if whole {
            if ends {
                self.finish(id, requests, Ok(()), done);
            }
            self.refill(id, out);
        }
        data + skipped
    }

    fn refill(&mut self, id: u32, out: &mut Vec<u8>) {
        if self.used > REFILL {
            frame::append_window(out, 0, self.used);
            self.used = 0;
        }
        if let Some(stream) = self.stream(id)
            && stream.used > REFILL
        {
            frame::append_window(out, id, stream.used);
            stream.used = 0;
        }
    }

    fn read_frame(
        &mut self,
        header: Header,
        content: &[u8],
        requests: &[Request],
        out: &mut Vec<u8>,
        done: &mut Vec<Done>,
    ) -> Result<(), Fault> {
        if matches!(self.reading, Reading::Fields { .. }) != (header.kind == kind::CONTINUATION) {
            return Err(Fault::Malformed("a frame between fields"));
        }
        match header.kind {
            kind::HEADERS => {
                let block = fragment(header, content)?;
                let ends = header.has(flag::END_STREAM);
                if header.has(flag::END_HEADERS) {
                    return self.read_fields(header.stream, block, ends, requests, done);
                }
                self.reading = Reading::Fields { stream: header.stream, block: block.to_vec(), ends };
            }
            kind::CONTINUATION => {
                let Reading::Fields { stream, block, ends } = &mut self.reading else { return Ok(()) };
                block.extend_from_slice(content);
                if *stream != header.stream || block.len() > LONGEST_FIELDS {
                    return Err(Fault::Malformed("CONTINUATION"));
                }
                if header.has(flag::END_HEADERS) {
                    let (stream, block, ends) = (*stream, std::mem::take(block), *ends);
                    self.reading = Reading::Frames;
                    return self.read_fields(stream, &block, ends, requests, done);
                }
            }
            kind::RST_STREAM => {
                let code = frame::number(content).ok_or(Fault::Malformed("RST_STREAM"))?;
                self.finish(header.stream, requests, Err(Fault::StreamReset(code)), done);
            }
            kind::SETTINGS if !header.has(flag::ACK) => self.settle(content, out)?,
            kind::PING if !header.has(flag::ACK) => frame::append(out, kind::PING, flag::ACK, 0, content),
            kind::GOAWAY => self.leave(content, done)?,
            kind::WINDOW_UPDATE => {
                let more = i64::from(frame::number(content).ok_or(Fault::Malformed("WINDOW_UPDATE"))? & 0x7fff_ffff);
                if header.stream == 0 {
                    self.peer.window += more;
                } else if let Some(stream) = self.stream(header.stream) {
                    stream.window += more;
                }
            }
            kind::PUSH_PROMISE => return Err(Fault::Malformed("PUSH_PROMISE, which was refused")),
            // Others are to be ignored (RFC 9113, 4.1).
            _ => {}
        }
        Ok(())
    }

    fn read_fields(
        &mut self,
        id: u32,
        block: &[u8],
        ends: bool,
        requests: &[Request],
        done: &mut Vec<Done>,
    ) -> Result<(), Fault> {
        let Fields { status, grpc_status } = self.decoder.read(block)?;
        let Some(stream) = self.stream(id) else { return Ok(()) };
        stream.grpc_status = grpc_status.or(stream.grpc_status);
        match status {
            Some(100..200) if !ends => return Ok(()),
            Some(status) => stream.status = status,
            None if stream.status == 0 => return Err(Fault::Malformed("an answer without :status")),
            None => {}
        }
        if ends {
            self.finish(id, requests, Ok(()), done);
        }
        Ok(())
    }

    fn settle(&mut self, content: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        for (name, value) in frame::settings(content) {
            match name {
                setting::HEADER_TABLE_SIZE if value < 4096 && !matches!(self.table, Table::Unwanted { .. }) => {
                    self.table = Table::Unwanted { said: false };
                }
                setting::MAX_CONCURRENT_STREAMS => self.allowed = self.wanted.min(value as usize),
                setting::INITIAL_WINDOW_SIZE if value > 0x7fff_ffff => {
                    return Err(Fault::Malformed("SETTINGS_INITIAL_WINDOW_SIZE"));
                }
                setting::INITIAL_WINDOW_SIZE => {
                    let change = i64::from(value) - self.peer.stream_window;
                    self.peer.stream_window = value.into();
                    self.streams.iter_mut().flatten().for_each(|stream| stream.window += change);
                }
                // Larger frames than all must take are not worth their buffers.
                setting::MAX_FRAME_SIZE => self.peer.largest = (value as usize).clamp(1, frame::LARGEST),
                _ => {}
            }
        }
        frame::append(out, kind::SETTINGS, flag::ACK, 0, &[]);
        self.opened = true;
        Ok(())
    }

    /// The server takes nothing behind the stream that it names (RFC 9113, 6.8).
    fn leave(&mut self, content: &[u8], done: &mut Vec<Done>) -> Result<(), Fault> {
        let (Some(last), Some(code)) = (frame::number(content), content.get(4..).and_then(frame::number)) else {
            return Err(Fault::Malformed("GOAWAY"));
        };
        self.leaving = true;
        let ids: Vec<u32> = (self.first..).step_by(2).take(self.streams.len()).filter(|id| *id > last).collect();
        for id in ids {
            let fault = Fault::GoneAway(code);
            done.extend(self.remove(id).map(|stream| Done { begun: stream.begun, verdict: Err(fault) }));
        }
        Ok(())
    }
}

/// The fields of a HEADERS frame, without padding and priority (RFC 9113, 6.2).
fn fragment(header: Header, content: &[u8]) -> Result<&[u8], Fault> {
    const WRONG: Fault = Fault::Malformed("HEADERS");
    let (padding, content) = match content.split_first() {
        Some((length, rest)) if header.has(flag::PADDED) => (usize::from(*length), rest),
        _ => (0, content),
    };
    let content = if header.has(flag::PRIORITY) { content.get(5..).ok_or(WRONG)? } else { content };
    content.get(..content.len().checked_sub(padding).ok_or(WRONG)?).ok_or(WRONG)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A session with requests in flight, and what they ask for.
    fn session(requests: u64, upload: usize) -> (Session, Vec<Request>) {
        let target = Target::parse("GET", "http://a.test/").expect("a URL");
        let mut plan = Plan::new(Protocol::Http2, vec![target.clone()]);
        (plan.streams, plan.upload) = (4, upload);
        let rendered = vec![Request::new(&target, &plan, true)];
        let mut session = Session::open(&plan, &mut Vec::new());
        let mut settings = Vec::new();
        frame::append_settings(&mut settings, &[]);
        read(&mut session, &rendered, &settings).expect("settings");
        for at in 0..requests {
            assert!(session.is_free());
            let begun = Begun { intended: at, started: at, counted: true, target: 0 };
            session.begin(begun, &rendered, &mut Vec::new());
        }
        (session, rendered)
    }

    /// Reads byte by byte, as a slow network brings them: what is over, and what has to be said.
    fn read(session: &mut Session, requests: &[Request], bytes: &[u8]) -> Result<(Vec<Done>, Vec<u8>), Fault> {
        let (mut stash, mut done, mut out) = (Vec::new(), Vec::new(), Vec::new());
        for byte in bytes {
            stash.push(*byte);
            let taken = session.receive(&stash, requests, &mut out, &mut done)?;
            stash.drain(..taken);
        }
        assert!(stash.is_empty(), "nothing is left of whole frames");
        Ok((done, out))
    }

    /// Lengths of DATA frames, and whether the last of them ends its stream.
    fn data(mut out: &[u8]) -> (Vec<usize>, bool) {
        let (mut lengths, mut ends) = (Vec::new(), false);
        while let Some(header) = Header::read(out) {
            if header.kind == kind::DATA {
                lengths.push(header.length);
                ends = header.has(flag::END_STREAM);
            }
            out = &out[frame::HEADER + header.length..];
        }
        (lengths, ends)
    }

    #[test]
    fn answers_are_read_through_padding_priority_continuation_and_other_frames() {
        let (mut session, requests) = session(2, 0);
        let mut bytes = Vec::new();
        // Two bytes of padding behind the fields, five of priority in front of them.
        let fields = [&[2, 0, 0, 0, 0, 16][..], &[0x88], &[0, 0]].concat();
        frame::append(&mut bytes, kind::HEADERS, flag::END_HEADERS | flag::PADDED | flag::PRIORITY, 1, &fields);
        frame::append(&mut bytes, 0x42, 0, 0, b"unknown");
        frame::append(&mut bytes, kind::DATA, flag::PADDED, 1, &[3, b'a', b'b', 0, 0, 0]);
        frame::append(&mut bytes, kind::HEADERS, flag::END_STREAM, 3, &[0x48, 0x03, b'5']);
        frame::append(&mut bytes, kind::CONTINUATION, flag::END_HEADERS, 3, b"03");
        frame::append(&mut bytes, kind::DATA, flag::END_STREAM, 1, b"");
        let (done, _) = read(&mut session, &requests, &bytes).expect("frames");
        let verdicts: Vec<_> = done.iter().map(|done| (done.begun.intended, done.verdict.clone())).collect();
        assert_eq!(verdicts, [(1, Ok(Answer { status: 503, body: 0 })), (0, Ok(Answer { status: 200, body: 2 }))]);
        assert!(session.abandon().is_empty());
    }

    #[test]
    fn a_server_that_goes_away_takes_what_it_names_and_nothing_new() {
        let (mut session, requests) = session(3, 0);
        let mut bytes = Vec::new();
        frame::append(&mut bytes, kind::GOAWAY, 0, 0, &[0, 0, 0, 3, 0, 0, 0, 11]);
        let (done, _) = read(&mut session, &requests, &bytes).expect("frames");
        assert_eq!(done.len(), 1);
        assert_eq!((done[0].begun.intended, &done[0].verdict), (2, &Err(Fault::GoneAway(11))));
        assert!(!session.is_free() && !session.is_over());
        let mut bytes = Vec::new();
        for stream in [1, 3] {
            frame::append(&mut bytes, kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream, &[0x88]);
        }
        let (done, _) = read(&mut session, &requests, &bytes).expect("frames");
        assert!(done.len() == 2 && session.is_over());
    }

    #[test]
    fn bodies_wait_for_the_windows_of_stream_and_connection() {
        let (mut session, requests) = session(1, 100_000);
        // 65,535 bytes are gone with the request; the stream may then have all, the connection 10,000 more.
        let mut bytes = Vec::new();
        frame::append_window(&mut bytes, 1, 1 << 20);
        frame::append_window(&mut bytes, 0, 10_000);
        let (_, out) = read(&mut session, &requests, &bytes).expect("frames");
        assert_eq!(data(&out), (vec![10_000], false));
        let mut bytes = Vec::new();
        frame::append_window(&mut bytes, 0, 1 << 20);
        let (_, out) = read(&mut session, &requests, &bytes).expect("frames");
        assert_eq!(data(&out), (vec![16_384, 100_000 - 65_535 - 10_000 - 16_384], true));
    }

    #[test]
    fn frames_that_break_the_protocol_are_faults() {
        let broken: [(u8, u8, &[u8]); 5] = [
            (kind::PUSH_PROMISE, flag::END_HEADERS, &[0, 0, 0, 2, 0x88]),
            (kind::CONTINUATION, flag::END_HEADERS, &[0x88]),
            (kind::DATA, flag::PADDED, &[9, b'a']),
            (kind::HEADERS, flag::END_HEADERS, &[0xff]),
            (kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, &[]),
        ];
        for (kind, flags, content) in broken {
            let (mut session, requests) = session(1, 0);
            let mut bytes = Vec::new();
            frame::append(&mut bytes, kind, flags, 1, content);
            assert!(matches!(read(&mut session, &requests, &bytes), Err(Fault::Malformed(_))), "kind {kind}");
        }
    }

    #[test]
    fn what_takes_too_long_is_cancelled_and_forgotten() {
        let (mut session, requests) = session(3, 0);
        let mut out = Vec::new();
        let late = session.expire(2, &mut out);
        assert_eq!(late.iter().map(|begun| begun.intended).collect::<Vec<_>>(), [0, 1]);
        let header = Header::read(&out).expect("a frame");
        assert_eq!((header.kind, header.stream), (kind::RST_STREAM, 1));
        // An answer that comes all the same is nobody's.
        let mut bytes = Vec::new();
        for stream in [1, 5] {
            frame::append(&mut bytes, kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream, &[0x88]);
        }
        let (done, _) = read(&mut session, &requests, &bytes).expect("frames");
        assert_eq!(done.iter().map(|done| done.begun.intended).collect::<Vec<_>>(), [2]);
    }
}
