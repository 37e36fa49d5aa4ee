//! A backend without HTTP: it plays a byte script to each connection and records
//! every byte that it received. For answers that no HTTP library would send, and to
//! prove that a request did not come through.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, tcp};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

/// One thing that a [`RawBackend`] does on a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Wait until a head (up to and with CR LF CR LF) has come that no earlier step waited for.
    AwaitHead,
    /// Wait for that many bytes more.
    AwaitBytes(usize),
    /// Wait until what has come ends with these: the last chunk of a body whose chunks may be cut anyhow.
    AwaitEnd(Bytes),
    /// Send these bytes as they are.
    Send(Bytes),
    /// Wait.
    Pause(Duration),
    /// Send back what no step waited for, and all that comes, until the peer finishes sending.
    Echo,
    /// Begin the script anew, unless the peer has finished sending.
    Again,
    /// Close with RST, at once.
    Reset,
    /// Close, at once, whatever the peer still sends.
    Close,
}

/// See the module. After its last step a connection is finished for sending and read until the
/// peer finishes too (for at most ten seconds), so that the answer is not lost in a reset.
///
/// Dropping it kills it.
pub struct RawBackend {
    address: SocketAddr,
    listener: Arc<TcpListener>,
    recordings: Arc<Mutex<Vec<Arc<Recording>>>>,
    kill: CancellationToken,
}

impl RawBackend {
    /// Answers the first request head of each connection with `answer` on a free loopback port.
    ///
    /// # Errors
    /// What binding says.
    pub async fn answering(answer: impl Into<Bytes>) -> io::Result<RawBackend> {
        RawBackend::scripted([Step::AwaitHead, Step::Send(answer.into())]).await
    }

    /// Plays `script` to each connection on a free loopback port.
    ///
    /// # Errors
    /// What binding says.
    pub async fn scripted(script: impl Into<Vec<Step>>) -> io::Result<RawBackend> {
        RawBackend::scripted_at(SocketAddr::from(([127, 0, 0, 1], 0)), script).await
    }

    /// Plays `script` to each connection on `address`.
    ///
    /// # Errors
    /// What binding says.
    pub async fn scripted_at(address: SocketAddr, script: impl Into<Vec<Step>>) -> io::Result<RawBackend> {
        let listener = Arc::new(TcpListener::bind(address).await?);
        let backend = RawBackend {
            address: listener.local_addr()?,
            listener: Arc::clone(&listener),
            recordings: Arc::default(),
            kill: CancellationToken::new(),
        };
        let accepting = accept(listener, script.into().into(), Arc::clone(&backend.recordings), backend.kill.clone());
        tokio::spawn(accepting);
        Ok(backend)
    }

    /// The address that it listens on, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The bytes received so far, by connection in the order of acceptance. A connection that sent
    /// nothing has an empty entry; of each at most the first 4 MiB are kept.
    pub fn received(&self) -> Vec<Vec<u8>> {
        let recordings = self.recordings.lock().unwrap_or_else(PoisonError::into_inner);
        recordings.iter().map(|recording| recording.bytes()).collect()
    }

    /// Whether not one byte came, on however many connections.
    pub fn is_untouched(&self) -> bool {
        self.received().iter().all(Vec::is_empty)
    }

    /// Forgets what was received, for the next case of a table. Connections that are still open
    /// are no longer seen.
    pub fn forget(&self) {
        self.recordings.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Refuses new connections from this call on and resets the open ones.
    pub fn kill(&self) {
        self.kill.cancel();
        let _ = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both);
    }
}

impl Drop for RawBackend {
    fn drop(&mut self) {
        self.kill();
    }
}

impl fmt::Debug for RawBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawBackend").field("address", &self.address).finish_non_exhaustive()
    }
}

const MAX_KEPT: usize = 4 << 20;
const MAX_CONNECTIONS: usize = 4096;
const LINGER: Duration = Duration::from_secs(10);

/// What one connection received, and how far it has come.
#[derive(Debug)]
struct Recording {
    bytes: Mutex<Vec<u8>>,
    progress: watch::Sender<Progress>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    received: usize,
    finished: bool,
}

impl Recording {
    fn new() -> Recording {
        Recording { bytes: Mutex::default(), progress: watch::Sender::new(Progress::default()) }
    }

    fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn since(&self, offset: usize) -> Vec<u8> {
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        bytes.get(offset..).unwrap_or_default().to_vec()
    }

    fn head_end(&self, offset: usize) -> Option<usize> {
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = bytes.get(offset..)?;
        rest.windows(4).position(|window| window == b"\r\n\r\n").map(|found| offset + found + 4)
    }

    fn length_if_ends_with(&self, end: &[u8]) -> Option<usize> {
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        bytes.ends_with(end).then_some(bytes.len())
    }

    fn extend(&self, read: &[u8]) {
        {
            let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
            let room = MAX_KEPT - bytes.len();
            bytes.extend_from_slice(&read[..read.len().min(room)]);
        }
        self.progress.send_modify(|progress| progress.received += read.len());
    }

    fn finish(&self) {
        self.progress.send_modify(|progress| progress.finished = true);
    }

    async fn record(&self, reader: &mut tcp::ReadHalf<'_>) {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(read @ 1..) = reader.read(&mut buffer).await {
            self.extend(&buffer[..read]);
        }
        self.finish();
    }
}

async fn accept(
    listener: Arc<TcpListener>,
    script: Arc<[Step]>,
    recordings: Arc<Mutex<Vec<Arc<Recording>>>>,
    kill: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            biased;
            () = kill.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((tcp, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        // Above the bound a connection is dropped unrecorded rather than the memory filled.
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let recording = Arc::new(Recording::new());
        recordings.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&recording));
        let (script, kill) = (Arc::clone(&script), kill.clone());
        tokio::spawn(async move {
            let _place = place;
            converse(tcp, &script, &recording, &kill).await;
        });
    }
}

/// How a script came to its end.
enum End {
    Finished,
    Closed,
    Reset,
}

async fn converse(mut tcp: TcpStream, script: &[Step], recording: &Recording, kill: &CancellationToken) {
    let _ = tcp.set_nodelay(true);
    let end = {
        let (mut reader, mut writer) = tcp.split();
        let played = async {
            let end = play(script, recording, &mut writer).await;
            if matches!(end, End::Finished) {
                let _ = writer.shutdown().await;
                let mut progress = recording.progress.subscribe();
                let _ = tokio::time::timeout(LINGER, progress.wait_for(|progress| progress.finished)).await;
            }
            end
        };
        let recorded = async {
            recording.record(&mut reader).await;
            std::future::pending::<End>().await
        };
        tokio::select! {
            biased;
            () = kill.cancelled() => End::Reset,
            // Polled before the script, so that what has arrived is on record when a script closes.
            end = recorded => end,
            end = played => end,
        }
    };
    if matches!(end, End::Reset) {
        let _ = tcp.set_zero_linger();
    }
}

async fn play(script: &[Step], recording: &Recording, writer: &mut tcp::WriteHalf<'_>) -> End {
    let mut progress = recording.progress.subscribe();
    let mut taken = 0;
    let mut steps = script.iter();
    while let Some(step) = steps.next() {
        match step {
            Step::AwaitHead => loop {
                if let Some(end) = recording.head_end(taken) {
                    taken = end;
                    break;
                }
                if progress.borrow_and_update().finished || progress.changed().await.is_err() {
                    return End::Finished;
                }
            },
            Step::AwaitBytes(count) => {
                taken += count;
                let arrived = progress.wait_for(|progress| progress.received >= taken || progress.finished).await;
                if !arrived.is_ok_and(|progress| progress.received >= taken) {
                    return End::Finished;
                }
            }
            Step::AwaitEnd(end) => loop {
                if let Some(length) = recording.length_if_ends_with(end) {
                    taken = length;
                    break;
                }
                if progress.borrow_and_update().finished || progress.changed().await.is_err() {
                    return End::Finished;
                }
            },
            Step::Send(bytes) => {
                if writer.write_all(bytes).await.is_err() {
                    return End::Closed;
                }
            }
            Step::Pause(pause) => tokio::time::sleep(*pause).await,
            Step::Echo => loop {
                let finished = progress.borrow_and_update().finished;
                let bytes = recording.since(taken);
                taken += bytes.len();
                if writer.write_all(&bytes).await.is_err() {
                    return End::Closed;
                }
                if finished || progress.changed().await.is_err() {
                    break;
                }
            },
            Step::Again => {
                if progress.borrow().finished {
                    return End::Finished;
                }
                // A script that waits for nothing must not keep the runtime from the others.
                tokio::task::yield_now().await;
                steps = script.iter();
            }
            Step::Reset => return End::Reset,
            Step::Close => return End::Closed,
        }
    }
    End::Finished
}
