//! The least that a relay of streams can do: accept, connect, and `splice(2)` both ways through a pipe each. No timeouts, no
//! names, no checks. Whoever looks at a server name before relaying is measured against it.

use crate::asker::{announce, here};
use clap::Args;
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use std::collections::BTreeMap;
use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

/// From where to where, on the loopback address.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The port that is listened on; 0 is any free one, and printed
    #[arg(long, value_name = "PORT")]
    listen: u16,
    /// The port that every connection leads to
    #[arg(long, value_name = "PORT")]
    to: u16,
}

/// Names the listener among the events; connections have smaller numbers.
const LISTENER: u64 = u64::MAX;
const PIPE: usize = 256 << 10;
const PIECE: usize = 1 << 20;

/// Relays until it is ended.
///
/// # Errors
/// Where the port is taken.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let listener = TcpListener::bind(here(arguments.listen))?;
    announce(listener.local_addr()?)?;
    listener.set_nonblocking(true)?;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&poll, &listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
    let mut pairs: BTreeMap<u64, Pair> = BTreeMap::new();
    let (mut next, mut events) = (0, Vec::with_capacity(64));
    loop {
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None)?;
        for event in events.drain(..) {
            let number = event.data.u64();
            if number == LISTENER {
                // A connection that ended before it was taken is nobody's loss.
                let Ok((client, _)) = listener.accept() else { continue };
                if let Ok(pair) = Pair::open(client, arguments.to, &poll, next) {
                    pairs.insert(next, pair);
                    next += 1;
                }
            } else if let Some(pair) = pairs.get_mut(&number)
                && !pair.pump().unwrap_or(false)
            {
                pairs.remove(&number);
            }
        }
    }
}

struct Pair {
    client: TcpStream,
    server: TcpStream,
    up: Pipe,
    down: Pipe,
}

impl Pair {
    fn open(client: TcpStream, to: u16, poll: &OwnedFd, number: u64) -> io::Result<Self> {
        let server = TcpStream::connect(here(to))?;
        let edges = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        for socket in [&client, &server] {
            socket.set_nonblocking(true)?;
            socket.set_nodelay(true)?;
            epoll::add(poll, socket, epoll::EventData::new_u64(number), edges)?;
        }
        Ok(Self { client, server, up: Pipe::open()?, down: Pipe::open()? })
    }

    /// False once both ways are over.
    fn pump(&mut self) -> io::Result<bool> {
        self.up.pump(&self.client, &self.server)?;
        self.down.pump(&self.server, &self.client)?;
        Ok(!(self.up.done && self.down.done))
    }
}

struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    held: usize,
    done: bool,
}

impl Pipe {
    fn open() -> io::Result<Self> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        fcntl_setpipe_size(&writer, PIPE)?;
        Ok(Self { reader, writer, held: 0, done: false })
    }

    fn pump(&mut self, from: &TcpStream, to: &TcpStream) -> io::Result<()> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        while !self.done {
            let moved = match self.held {
                0 => splice(from, None, &self.writer, None, PIECE, flags),
                held => splice(&self.reader, None, to, None, held, flags),
            };
            match (moved, self.held) {
                (Err(Errno::AGAIN), _) => break,
                (Err(error), _) => return Err(error.into()),
                (Ok(0), 0) => {
                    self.done = true;
                    // It may be closed already.
                    let _closed = to.shutdown(Shutdown::Write);
                }
                (Ok(moved), 0) => self.held = moved,
                (Ok(moved), held) => self.held = held - moved,
            }
        }
        Ok(())
    }
}
