//! HTTP/1.1 as a client that reads only what it has to: status, framing, whether the connection stays (RFC 9112). It
//! contains no I/O.

use super::exchange::{Answer, Begun, Done, Fault};
use super::payload;
use super::plan::{Plan, Target};
use memchr::memchr;

/// A head, or a line of a chunk, that is longer is malformed.
const LONGEST_HEAD: usize = 64 * 1024;

/// Fields of an answer that are read; more are malformed.
const MOST_FIELDS: usize = 128;

/// What is sent for a target.
#[derive(Clone, Debug)]
pub struct Request {
    /// The head, and the body where it is small.
    bytes: Vec<u8>,
    /// Bytes of the body that are not in `bytes`.
    upload: usize,
    /// Whether the answer has no body (RFC 9110, 9.3.2).
    head: bool,
}

impl Request {
    /// Renders it.
    pub fn new(target: &Target, plan: &Plan) -> Self {
        let mut bytes =
            format!("{} {} HTTP/1.1\r\nHost: {}\r\n", target.method, target.path, target.authority).into_bytes();
        append_fields(&mut bytes, &plan.headers);
        if plan.upload > 0 || matches!(target.method.as_str(), "POST" | "PUT" | "PATCH") {
            bytes.extend_from_slice(format!("Content-Length: {}\r\n", plan.upload).as_bytes());
        }
        if !plan.keep_alive {
            bytes.extend_from_slice(b"Connection: close\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        let inline = plan.upload <= payload::PORTION;
        if inline {
            payload::append(&mut bytes, 0, plan.upload);
        }
        Self { bytes, upload: if inline { 0 } else { plan.upload }, head: target.method == "HEAD" }
    }
}

/// Appends fields as they were given.
pub fn append_fields(bytes: &mut Vec<u8>, fields: &[(String, String)]) {
    for (name, value) in fields {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
}

/// A connection: at most one request at a time.
#[derive(Debug, Default)]
pub struct Session {
    begun: Option<Begun>,
    /// Of the body that is sent: how much, how much of it is gone.
    upload: (usize, usize),
    answer: Reader,
    /// Whether the server closes after this answer.
    closing: bool,
}

impl Session {
    /// Whether a request may begin.
    pub fn is_free(&self) -> bool {
        self.begun.is_none() && !self.closing
    }

    /// Whether the server has said that it closes, and owes nothing.
    pub fn is_over(&self) -> bool {
        self.begun.is_none() && self.closing
    }

    /// Begins a request; the rest of a large body comes by [`Self::produce`].
    pub fn begin(&mut self, begun: Begun, request: &Request, out: &mut Vec<u8>) {
        self.begun = Some(begun);
        self.upload = (request.upload, 0);
        self.answer = Reader::new(request.head);
        out.extend_from_slice(&request.bytes);
    }

    /// Appends more of the body; nothing where all of it is gone.
    pub fn produce(&mut self, out: &mut Vec<u8>) {
        let (length, gone) = self.upload;
        let portion = (length - gone).min(payload::PORTION);
        payload::append(out, gone as u64, portion);
        self.upload.1 += portion;
    }

    /// Reads, and gives how many bytes it took; the rest comes again with more behind it.
    pub fn receive(&mut self, bytes: &[u8], done: &mut Vec<Done>) -> Result<usize, Fault> {
        if self.begun.is_none() {
            return if self.closing { Ok(bytes.len()) } else { Err(Fault::Unasked) };
        }
        let taken = self.answer.read(bytes)?;
        if let Some(answer) = self.answer.complete() {
            self.finish(answer, done);
            if taken < bytes.len() && !self.closing {
                return Err(Fault::Unasked);
            }
        }
        Ok(taken)
    }

    /// The server has closed: the end of an answer that is as long as the connection, else a fault for what is in flight.
    pub fn end(&mut self, done: &mut Vec<Done>) -> Result<(), Fault> {
        if self.begun.is_none() {
            return Ok(());
        }
        if let Some(answer) = self.answer.complete_at_end() {
            self.finish(answer, done);
            return Ok(());
        }
        Err(if self.answer.untouched() { Fault::Closed } else { Fault::Truncated })
    }

    /// What is in flight, which will not be answered.
    pub fn abandon(&mut self) -> Option<Begun> {
        self.begun.take()
    }

    /// What is in flight.
    pub fn in_flight(&self) -> Option<&Begun> {
        self.begun.as_ref()
    }

    fn finish(&mut self, answer: Answer, done: &mut Vec<Done>) {
        // A body that is still being sent makes the connection useless for another request.
        self.closing |= !self.answer.keeps || self.upload.0 != self.upload.1;
        if let Some(begun) = self.begun.take() {
            done.push(Done { begun, verdict: Ok(answer) });
        }
    }
}

/// One answer.
#[derive(Debug, Default)]
pub struct Reader {
    state: State,
    head: bool,
    status: u16,
    body: u64,
    /// Whether the connection stays.
    pub keeps: bool,
    begun: bool,
    /// `Sec-WebSocket-Accept`, for those who upgrade.
    pub accept: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Head,
    Length(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailer,
    UntilClosed,
    Complete,
}

impl Reader {
    /// For the answer to a request, which has no body if that was HEAD.
    pub fn new(head: bool) -> Self {
        Self { head, ..Self::default() }
    }

    /// Takes what it understands of `bytes`.
    pub fn read(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        self.begun |= !bytes.is_empty();
        let mut at = 0;
        while self.state != State::Complete {
            let rest = &bytes[at..];
            let Some(taken) = self.step(rest)? else {
                if rest.len() > LONGEST_HEAD {
                    return Err(Fault::Malformed("a head or line without end"));
                }
                break;
            };
            at += taken;
        }
        Ok(at)
    }

    /// The answer, once it is whole.
    pub fn complete(&self) -> Option<Answer> {
        (self.state == State::Complete).then_some(Answer { status: self.status, body: self.body })
    }

    /// The answer if the end of the connection is its end.
    fn complete_at_end(&self) -> Option<Answer> {
        matches!(self.state, State::Complete | State::UntilClosed)
            .then_some(Answer { status: self.status, body: self.body })
    }

    /// Whether nothing of it has come.
    fn untouched(&self) -> bool {
        !self.begun
    }

    /// One step: how many bytes it took, `None` where it needs more of them.
    fn step(&mut self, bytes: &[u8]) -> Result<Option<usize>, Fault> {
        match self.state {
            State::Head => self.read_head(bytes),
            State::Length(left) => {
                let taken = left.min(bytes.len() as u64);
                self.body += taken;
                self.state = if taken == left { State::Complete } else { State::Length(left - taken) };
                Ok((taken > 0 || left == 0).then_some(taken as usize))
            }
            State::ChunkSize => {
                let Some(line) = line(bytes) else { return Ok(None) };
                let size = chunk_size(&bytes[..line])?;
                self.state = if size == 0 { State::Trailer } else { State::Chunk(size) };
                Ok(Some(line))
            }
            State::Chunk(left) => {
                let taken = left.min(bytes.len() as u64);
                self.body += taken;
                self.state = if taken == left { State::ChunkEnd } else { State::Chunk(left - taken) };
                Ok((taken > 0).then_some(taken as usize))
            }
            State::ChunkEnd => match bytes {
                [b'\r', b'\n', ..] => {
                    self.state = State::ChunkSize;
                    Ok(Some(2))
                }
                [] | [b'\r'] => Ok(None),
                _ => Err(Fault::Malformed("a chunk longer than its size")),
            },
            State::Trailer => {
                let Some(line) = line(bytes) else { return Ok(None) };
                if line == 2 {
                    self.state = State::Complete;
                }
                Ok(Some(line))
            }
            State::UntilClosed => {
                self.body += bytes.len() as u64;
                Ok((!bytes.is_empty()).then_some(bytes.len()))
            }
            State::Complete => Ok(None),
        }
    }

    fn read_head(&mut self, bytes: &[u8]) -> Result<Option<usize>, Fault> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
        let mut head = httparse::Response::new(&mut fields);
        let length = match head.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(Fault::Malformed("no HTTP/1.1 head")),
        };
        let status = head.code.unwrap_or_default();
        if (100..200).contains(&status) && status != 101 {
            return Ok(Some(length));
        }
        self.status = status;
        self.keeps = head.version == Some(1);
        self.state = self.framing(head.headers, status)?;
        Ok(Some(length))
    }

    /// How long the body is (RFC 9112, 6.3).
    fn framing(&mut self, fields: &[httparse::Header<'_>], status: u16) -> Result<State, Fault> {
        let (mut length, mut chunked) = (None, false);
        for field in fields {
            let name = field.name;
            if name.eq_ignore_ascii_case("content-length") {
                let value = std::str::from_utf8(field.value).ok().and_then(|text| text.trim().parse::<u64>().ok());
                if value.is_none() || length.is_some_and(|before| Some(before) != value) {
                    return Err(Fault::Malformed("Content-Length"));
                }
                length = value;
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                chunked = true;
                if !field.value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                    return Err(Fault::Malformed("Transfer-Encoding"));
                }
            } else if name.eq_ignore_ascii_case("connection") {
                for option in field.value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                    if option.eq_ignore_ascii_case(b"close") {
                        self.keeps = false;
                    } else if option.eq_ignore_ascii_case(b"keep-alive") {
                        self.keeps = true;
                    }
                }
            } else if status == 101 && name.eq_ignore_ascii_case("sec-websocket-accept") {
                self.accept = Some(field.value.to_vec());
            }
        }
        let bodiless = self.head || matches!(status, 101 | 204 | 304);
        Ok(match length {
            _ if bodiless => State::Complete,
            _ if chunked => State::ChunkSize,
            Some(0) => State::Complete,
            Some(length) => State::Length(length),
            None => {
                self.keeps = false;
                State::UntilClosed
            }
        })
    }
}

/// How long the line is with which `bytes` begins, its end included.
fn line(bytes: &[u8]) -> Option<usize> {
    memchr(b'\n', bytes).map(|at| at + 1)
}

/// RFC 9112, 7.1: hexadecimal digits, then perhaps an extension.
fn chunk_size(line: &[u8]) -> Result<u64, Fault> {
    const WRONG: Fault = Fault::Malformed("the size of a chunk");
    let digits = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let ends = line.ends_with(b"\r\n") && matches!(line[digits..].trim_ascii_start().first(), None | Some(b';'));
    if !(1..=15).contains(&digits) || !ends {
        return Err(WRONG);
    }
    let text = std::str::from_utf8(&line[..digits]).map_err(|_| WRONG)?;
    u64::from_str_radix(text, 16).map_err(|_| WRONG)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads in one piece and byte by byte; both have to agree.
    fn read(head: bool, bytes: &[u8]) -> Result<(Option<Answer>, usize), Fault> {
        let mut reader = Reader::new(head);
        let taken = reader.read(bytes);
        let (mut slow, mut stash, mut swallowed, mut failed) = (Reader::new(head), Vec::new(), 0, None);
        for byte in bytes {
            stash.push(*byte);
            match slow.read(&stash) {
                Ok(taken) => {
                    stash.drain(..taken);
                    swallowed += taken;
                }
                Err(fault) => {
                    failed = Some(fault);
                    break;
                }
            }
        }
        assert_eq!(
            (failed.is_some(), slow.complete()),
            (taken.is_err(), reader.complete()),
            "{:?}",
            bytes.escape_ascii()
        );
        let taken = taken?;
        assert_eq!(swallowed, taken, "{}", bytes.escape_ascii());
        Ok((reader.complete(), taken))
    }

    #[test]
    fn answers_end_where_their_framing_says() {
        let cases = [
            (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc".as_slice(), Some((200, 3))),
            (b"HTTP/1.1 200 OK\r\ncontent-length:0\r\n\r\n", Some((200, 0))),
            (b"HTTP/1.1 204 No Content\r\n\r\n", Some((204, 0))),
            (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", Some((304, 0))),
            (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 1\r\n\r\nx", Some((201, 1))),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nT: 1\r\n\r\n", Some((200, 13))),
            (b"HTTP/1.1 503 No\r\nContent-Length: 3\r\n\r\nab", None),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", None),
            (b"HTTP/1.0 200 OK\r\n\r\nabc", None),
        ];
        for (bytes, wanted) in cases {
            let (answer, _) = read(false, bytes).expect("well-formed");
            assert_eq!(answer.map(|answer| (answer.status, answer.body)), wanted, "{}", bytes.escape_ascii());
        }
        let (answer, _) = read(true, b"HTTP/1.1 200 OK\r\nContent-Length: 300\r\n\r\n").expect("well-formed");
        assert_eq!(answer, Some(Answer { status: 200, body: 0 }), "HEAD");
    }

    #[test]
    fn garbage_is_called_so() {
        for bytes in [
            b"SSH-2.0-OpenSSH\r\n".as_slice(),
            b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
        ] {
            assert!(matches!(read(false, bytes), Err(Fault::Malformed(_))), "{}", bytes.escape_ascii());
        }
        let mut endless = b"HTTP/1.1 200 OK\r\nX: ".to_vec();
        endless.resize(LONGEST_HEAD + 100, b'x');
        assert!(matches!(Reader::new(false).read(&endless), Err(Fault::Malformed(_))));
    }

    #[test]
    fn a_session_knows_what_the_end_of_a_connection_means() {
        let plan = Plan::new(super::super::plan::Protocol::Http1, Vec::new());
        let target = Target::parse("GET", "http://a.test/").expect("a URL");
        let begun = Begun { intended: 1, started: 2, counted: true, target: 0 };
        let (mut out, mut done) = (Vec::new(), Vec::new());
        for (bytes, wanted) in [
            (b"".as_slice(), Err(Fault::Closed)),
            (b"HTTP/1.1 2", Err(Fault::Truncated)),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na", Err(Fault::Truncated)),
            (b"HTTP/1.1 200 OK\r\n\r\nabc", Ok(())),
        ] {
            let mut session = Session::default();
            session.begin(begun, &Request::new(&target, &plan), &mut out);
            session.receive(bytes, &mut done).expect("well-formed");
            assert_eq!(session.end(&mut done), wanted);
        }
        assert_eq!(done, [Done { begun, verdict: Ok(Answer { status: 200, body: 3 }) }]);
        assert!(out.starts_with(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"));
    }

    #[test]
    fn more_than_was_asked_for_is_a_fault() {
        let plan = Plan::new(super::super::plan::Protocol::Http1, Vec::new());
        let target = Target::parse("GET", "http://a.test/").expect("a URL");
        let begun = Begun { intended: 1, started: 2, counted: true, target: 0 };
        let (mut session, mut done) = (Session::default(), Vec::new());
        session.begin(begun, &Request::new(&target, &plan), &mut Vec::new());
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab";
        assert_eq!(session.receive(answer, &mut done), Err(Fault::Unasked));
        assert_eq!(done.len(), 1, "the answer itself counts");
    }
}
