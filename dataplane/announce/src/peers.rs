//! Connections to the other directors.
//!
//! Of two directors the one whose name sorts first dials, on every path that it was given; the other one accepts. That a
//! connection ends is taken for the death of the peer's process only where nothing else can be behind it, which rests
//! on two rules:
//!
//! - A living process closes a connection only once it has heard a heartbeat on a newer one to the same peer. A connection that
//!   has fallen silent stays open while the dialer tries anew, and so does one on which the peer broke the protocol.
//! - An end counts only if the peer's side made it (end of file or reset, not a time-out), a heartbeat came through within the last
//!   lease, and no other connection to that life of the peer was made or heard within the last lease.

use crate::heartbeat::Beat;
use crate::moment::Moment;
use crate::rendezvous::{DirectorId, Incarnation};
use crate::session::{HELLO, Handshake, Hello, Opener, Secret, SessionError, Side, TAG};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

/// What the connections tell.
#[derive(Debug)]
pub(crate) enum News {
    Up {
        link: LinkId,
        peer: DirectorId,
        incarnation: Incarnation,
        writer: mpsc::Sender<Beat>,
    },
    Beat {
        link: LinkId,
        beat: Beat,
    },
    /// The peer's side ended it.
    Ended {
        link: LinkId,
    },
    /// It failed in another way, which says nothing about the peer.
    Failed {
        link: LinkId,
    },
    /// The peer broke the protocol. The connection stays open, unread, until its writer is dropped.
    Broken {
        link: LinkId,
    },
}

/// One connection, by a number that is never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LinkId(u64);

/// What every connection needs.
#[derive(Clone)]
pub(crate) struct Terms {
    pub(crate) me: DirectorId,
    pub(crate) incarnation: Incarnation,
    pub(crate) secret: Secret,
    pub(crate) lease: Duration,
    /// The others; they may change.
    pub(crate) peers: watch::Receiver<Addresses>,
    pub(crate) news: mpsc::Sender<News>,
    next_link: Arc<AtomicU64>,
}

/// Where each of the others is found.
pub(crate) type Addresses = BTreeMap<DirectorId, Vec<SocketAddr>>;

/// For connecting, and again for greeting.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(200);
/// More strangers than this are not listened to at once.
const MOST_GREETINGS: usize = 64;
/// Heartbeats that wait for a slow connection; more are dropped.
const QUEUE: usize = 4;

#[derive(Debug, Error)]
enum LinkError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Session(#[from] SessionError),
    #[error("no answer in time")]
    Slow,
    #[error("{0} is not configured as a peer that would connect here")]
    Stranger(DirectorId),
    #[error("{found} answers where {expected} should: correct the address")]
    Wrong { expected: DirectorId, found: DirectorId },
}

impl Terms {
    pub(crate) fn new(
        me: DirectorId,
        incarnation: Incarnation,
        secret: Secret,
        lease: Duration,
        peers: watch::Receiver<Addresses>,
        news: mpsc::Sender<News>,
    ) -> Self {
        Self { me, incarnation, secret, lease, peers, news, next_link: Arc::default() }
    }

    /// Runs until it is dropped.
    pub(crate) async fn keep_connected(mut self, listeners: Vec<TcpListener>) {
        let mut tasks = JoinSet::new();
        for listener in listeners {
            tasks.spawn(self.clone().accept(listener));
        }
        let mut dialing: BTreeMap<(DirectorId, SocketAddr), AbortHandle> = BTreeMap::new();
        loop {
            let peers = self.peers.borrow_and_update().clone();
            let wanted = peers.iter().filter(|(peer, _)| self.me < **peer);
            let wanted: BTreeSet<(DirectorId, SocketAddr)> =
                wanted.flat_map(|(peer, addresses)| addresses.iter().map(|address| (peer.clone(), *address))).collect();
            dialing.retain(|path, task| {
                let stays = wanted.contains(path);
                if !stays {
                    task.abort();
                }
                stays
            });
            for path in wanted {
                let (peer, address) = path.clone();
                dialing.entry(path).or_insert_with(|| tasks.spawn(self.clone().dial(peer, address)));
            }
            if self.peers.changed().await.is_err() {
                // Who would change them has ended, and ends this.
                std::future::pending::<()>().await;
            }
        }
    }

    async fn accept(self, listener: TcpListener) {
        let greetings = Arc::new(Semaphore::new(MOST_GREETINGS));
        loop {
            let Ok((stream, from)) = listener.accept().await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let Ok(permit) = greetings.clone().try_acquire_owned() else { continue };
            let terms = self.clone();
            tokio::spawn(async move {
                let greeted = timeout(PATIENCE, terms.greet_dialer(stream)).await.unwrap_or(Err(LinkError::Slow));
                drop(permit);
                match greeted {
                    Ok(greeted) => terms.converse(greeted, None).await,
                    Err(why) => tracing::warn!(%from, %why, "refused a connection between directors"),
                }
            });
        }
    }

    /// Keeps one connection to this address, and a silent one until there is a better one.
    async fn dial(self, peer: DirectorId, address: SocketAddr) {
        let mut silent: Vec<AbortHandle> = Vec::new();
        let mut last_complaint = String::new();
        loop {
            match timeout(PATIENCE * 2, self.connect(&peer, address)).await.unwrap_or(Err(LinkError::Slow)) {
                Err(why) => {
                    // The same complaint five times a second helps nobody.
                    let complaint = why.to_string();
                    if complaint != last_complaint {
                        tracing::info!(%peer, %address, %why, "no connection to a director");
                        last_complaint = complaint;
                    }
                }
                Ok(greeted) => {
                    last_complaint.clear();
                    let (heard, mut last_heard) = watch::channel(None);
                    let terms = self.clone();
                    let task = tokio::spawn(async move { terms.converse(greeted, Some(heard)).await });
                    if self.wait_for_silence(&mut last_heard, &mut silent).await {
                        silent.push(task.abort_handle());
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Until nothing has been heard for a lease, or the connection has ended. With the first heartbeat the older
    /// connectionss may be closed.
    async fn wait_for_silence(
        &self,
        heard: &mut watch::Receiver<Option<Moment>>,
        older: &mut Vec<AbortHandle>,
    ) -> bool {
        loop {
            match timeout(self.lease, heard.changed()).await {
                Ok(Ok(())) => {
                    older.drain(..).for_each(|older| older.abort());
                }
                Ok(Err(_ended)) => return false,
                Err(_silent) => return true,
            }
        }
    }

    async fn connect(&self, peer: &DirectorId, address: SocketAddr) -> Result<Greeted, LinkError> {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mine = Hello::new(&self.me, self.incarnation)?;
        stream.write_all(mine.bytes()).await?;
        let theirs = read_hello(&mut stream).await?;
        if theirs.id != *peer {
            return Err(LinkError::Wrong { expected: peer.clone(), found: theirs.id });
        }
        let handshake = Handshake::new(&self.secret, &mine, &theirs);
        let mut proof = [0; TAG];
        stream.read_exact(&mut proof).await?;
        handshake.check(Side::Acceptor, &proof)?;
        stream.write_all(&handshake.proof(Side::Dialer)).await?;
        Ok(Greeted { stream, peer: theirs, handshake, side: Side::Dialer })
    }

    async fn greet_dialer(&self, mut stream: TcpStream) -> Result<Greeted, LinkError> {
        stream.set_nodelay(true)?;
        let theirs = read_hello(&mut stream).await?;
        if theirs.id >= self.me || !self.peers.borrow().contains_key(&theirs.id) {
            return Err(LinkError::Stranger(theirs.id));
        }
        let mine = Hello::new(&self.me, self.incarnation)?;
        let handshake = Handshake::new(&self.secret, &theirs, &mine);
        stream.write_all(mine.bytes()).await?;
        stream.write_all(&handshake.proof(Side::Acceptor)).await?;
        let mut proof = [0; TAG];
        stream.read_exact(&mut proof).await?;
        handshake.check(Side::Dialer, &proof)?;
        Ok(Greeted { stream, peer: theirs, handshake, side: Side::Acceptor })
    }

    /// Until the connection ends. The dialer is told of each heartbeat.
    async fn converse(&self, greeted: Greeted, heard: Option<watch::Sender<Option<Moment>>>) {
        let link = LinkId(self.next_link.fetch_add(1, Ordering::Relaxed));
        let Greeted { stream, peer, handshake, side } = greeted;
        let (reader, writer) = stream.into_split();
        let (mut sealer, opener) = handshake.channels(side);
        let (queue, mut beats) = mpsc::channel::<Beat>(QUEUE);
        let up = News::Up { link, peer: peer.id.clone(), incarnation: peer.incarnation, writer: queue };
        if self.news.send(up).await.is_err() {
            return;
        }
        // Ends when whoever has the other end of the queue lets go of it; until then the socket stays open, because
        // closing is a statement.
        let write = async move {
            let mut writer: OwnedWriteHalf = writer;
            let mut is_writable = true;
            while let Some(beat) = beats.recv().await {
                // Why it failed, and whether that means anything, is for the reader to find out.
                is_writable = is_writable && writer.write_all(&sealer.seal(&beat)).await.is_ok();
            }
        };
        tokio::pin!(write);
        let why = tokio::select! {
            why = self.listen(link, reader, opener, &peer, heard) => why,
            () = &mut write => return,
        };
        let LinkError::Io(error) = &why else {
            tracing::error!(peer = %peer.id, %why, "a director broke the protocol: nothing is read from this connection any more");
            let _ = self.news.send(News::Broken { link }).await;
            return write.await;
        };
        let by_peer = matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
        );
        tracing::info!(peer = %peer.id, %why, "a connection between directors ended");
        let _ = self.news.send(if by_peer { News::Ended { link } } else { News::Failed { link } }).await;
    }

    async fn listen(
        &self,
        link: LinkId,
        mut reader: OwnedReadHalf,
        mut opener: Opener,
        peer: &Hello,
        heard: Option<watch::Sender<Option<Moment>>>,
    ) -> LinkError {
        loop {
            match read_beat(&mut reader, &mut opener).await {
                Ok(beat) if beat.incarnation != peer.incarnation => return LinkError::Session(SessionError::Forged),
                Ok(beat) => {
                    if let Some(heard) = &heard {
                        heard.send_replace(Some(Moment::now()));
                    }
                    let _ = self.news.send(News::Beat { link, beat }).await;
                }
                Err(why) => return why,
            }
        }
    }
}

struct Greeted {
    stream: TcpStream,
    peer: Hello,
    handshake: Handshake,
    side: Side,
}

async fn read_hello(stream: &mut TcpStream) -> Result<Hello, LinkError> {
    let mut bytes = [0; HELLO];
    stream.read_exact(&mut bytes).await?;
    Ok(Hello::decode(bytes)?)
}

async fn read_beat(reader: &mut OwnedReadHalf, opener: &mut Opener) -> Result<Beat, LinkError> {
    let mut record = vec![0; 4];
    reader.read_exact(&mut record).await?;
    let rest = Opener::rest(*record.first_chunk().ok_or(LinkError::Slow)?)?;
    record.resize(4 + rest, 0);
    reader.read_exact(&mut record[4..]).await?;
    Ok(opener.open(&record)?)
}
