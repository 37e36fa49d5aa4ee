//! One probe: the socket that goes the right way, the time that it has, and the kind of question.

use crate::checker::DueProbe;
use crate::failure::{Failure, Step};
use crate::route::Way;
use crate::tls::ProbeTls;
use crate::{grpc, http, icmp, tcp, udp};
use rustix::io::Errno;
use sluicegate_config::{HealthCheck, ProbeKind};
use socket2::{Domain, Protocol, Socket, Type};
use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::{TcpStream, UdpSocket};

/// Sends probes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Prober {
    tls: ProbeTls,
}

impl Prober {
    /// Prepares what all probes share.
    #[must_use]
    pub fn new() -> Self {
        Self { tls: ProbeTls::new() }
    }

    /// Sends one probe the given way and judges the answer, within the timeout of the check. Must run in a tokio runtime
    /// with I/O and time.
    ///
    /// # Errors
    /// Why the real server did not give a good answer, or why it was not asked ([`Failure::is_local`]).
    pub async fn probe(&self, due: &DueProbe, way: &Way) -> Result<(), Failure> {
        let marked = match way {
            Way::Marked { mark, source } => Some((*mark, *source)),
            Way::Direct => None,
            Way::Unknown => return Err(Failure::Local("the forwarder does not know the real server yet".into())),
            Way::Unreachable(reason) => return Err(Failure::Unreachable(reason.clone())),
        };
        let attempt = Attempt::new(due, marked, &self.tls);
        match tokio::time::timeout(due.check.timeout, attempt.ask(&due.check.kind)).await {
            Ok(result) => result,
            // No ICMP error came in all that time: nothing speaks against it, and more cannot be known.
            Err(_) if due.check.kind == ProbeKind::Udp => Ok(()),
            Err(_) => Err(Failure::TimedOut { after: due.check.timeout, step: attempt.step.get() }),
        }
    }
}

impl Default for Prober {
    fn default() -> Self {
        Self::new()
    }
}

/// One probe under way.
pub(crate) struct Attempt<'a> {
    /// Where packets are addressed to: the VIP where they are marked, else the real server.
    pub(crate) address: SocketAddr,
    /// The VIP, which is what names the service in a question.
    pub(crate) vip: IpAddr,
    /// Differs from that of every other probe of this process.
    pub(crate) nonce: u64,
    pub(crate) tls: &'a ProbeTls,
    /// The mark, and where packets come from if not from where the kernel chooses.
    marked: Option<(u32, Option<IpAddr>)>,
    step: Cell<Step>,
}

impl<'a> Attempt<'a> {
    fn new(due: &DueProbe, marked: Option<(u32, Option<IpAddr>)>, tls: &'a ProbeTls) -> Self {
        let DueProbe { ticket, target, check } = due;
        let HealthCheck { port, .. } = **check;
        let host = if marked.is_some() { target.vip } else { target.real };
        Self {
            address: SocketAddr::new(host, port.unwrap_or(target.port)),
            vip: target.vip,
            nonce: ticket.0,
            tls,
            marked,
            step: Cell::new(Step::Connecting),
        }
    }

    async fn ask(&self, kind: &ProbeKind) -> Result<(), Failure> {
        match kind {
            ProbeKind::Tcp => tcp::probe(self).await,
            ProbeKind::Http { path, host, tls } => http::probe(self, path, host.as_deref(), *tls).await,
            ProbeKind::Grpc { service } => grpc::probe(self, service).await,
            ProbeKind::Udp => udp::probe(self).await,
            ProbeKind::Icmp => icmp::probe(self).await,
        }
    }

    /// Says what the probe is at, for the text of a timeout.
    pub(crate) fn enter(&self, step: Step) {
        self.step.set(step);
    }

    /// What an error of the connection means at this point.
    pub(crate) fn failed(&self, error: &std::io::Error) -> Failure {
        Failure::remote(error, self.step.get())
    }

    /// The other side ended the connection at this point.
    pub(crate) fn closed(&self) -> Failure {
        Failure::Closed(self.step.get())
    }

    /// A non-blocking socket whose packets go the way of this probe.
    pub(crate) fn socket(&self, kind: Type, protocol: Protocol) -> Result<Socket, std::io::Error> {
        let socket = Socket::new(Domain::for_address(self.address), kind.nonblocking(), Some(protocol))?;
        if let Some((mark, source)) = self.marked {
            socket.set_mark(mark)?;
            if let Some(source) = source {
                socket.bind(&SocketAddr::new(source, 0).into())?;
            }
        }
        Ok(socket)
    }

    /// A TCP connection, in the time that the probe has.
    pub(crate) async fn connect(&self) -> Result<TcpStream, Failure> {
        self.enter(Step::Connecting);
        let socket =
            self.socket(Type::STREAM, Protocol::TCP).map_err(|error| Failure::local("cannot open a socket", &error))?;
        // Closing resets the connection. All real servers of a VIP share one destination, so connections in TIME_WAIT
        // would use up the local ports; and a server that only saw a handshake has nothing to accept.
        let prepared = socket.set_linger(Some(Duration::ZERO)).and_then(|()| socket.set_tcp_nodelay(true));
        prepared.map_err(|error| Failure::local("cannot prepare a socket", &error))?;
        self.begin(&socket)?;
        let stream =
            TcpStream::from_std(socket.into()).map_err(|error| Failure::local("cannot wait for a socket", &error))?;
        stream.writable().await.map_err(|error| self.failed(&error))?;
        match stream.take_error() {
            Ok(None) => Ok(stream),
            Ok(Some(error)) | Err(error) => Err(self.failed(&error)),
        }
    }

    /// A socket for datagrams that takes answers of the probed address alone.
    pub(crate) fn datagrams(&self, socket: Socket) -> Result<UdpSocket, Failure> {
        self.enter(Step::Answer);
        self.begin(&socket)?;
        UdpSocket::from_std(socket.into()).map_err(|error| Failure::local("cannot wait for a socket", &error))
    }

    /// `connect(2)`. What it says at once is the word of this machine, not of the network: with a mark no such error can
    /// be the real server's fault.
    fn begin(&self, socket: &Socket) -> Result<(), Failure> {
        let Err(error) = socket.connect(&self.address.into()) else { return Ok(()) };
        match Errno::from_io_error(&error) {
            Some(Errno::INPROGRESS) => Ok(()),
            Some(Errno::CONNREFUSED | Errno::CONNRESET) => Err(self.failed(&error)),
            Some(Errno::NETUNREACH | Errno::HOSTUNREACH) if self.marked.is_none() => Err(self.failed(&error)),
            _ => Err(Failure::local("cannot send", &error)),
        }
    }
}
