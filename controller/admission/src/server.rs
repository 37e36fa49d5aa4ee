//! The listener: HTTP/1.1 over TLS, `POST /validate`, in a thread of its own.

use crate::certificate::{CertificateError, Files};
use crate::review::{self, Judge, Malformed};
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use sluicegate_telemetry::{Metrics, ReviewEnd};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

/// The path that the webhook is asked at.
pub const PATH: &str = "/validate";
/// Bytes of a review: the object twice, each at most 3 MiB, which is what an API server takes.
const LARGEST_REVIEW: usize = 7 << 20;
/// Bodies that are read, and objects that are judged, at one time.
const REVIEWS: usize = 4;
/// Connections; one more closes the oldest that has not asked anything yet, or the oldest of all.
const MOST_CONNECTIONS: usize = 64;
/// For the handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// For the first request, and then for each next one: longer than an API server keeps an idle connection (90 s), so that it
/// is never the one who finds it closed.
const IDLE: Duration = Duration::from_secs(120);
/// Whoever has connected and asks nothing.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// For the body of a request, its turn included.
const BODY: Duration = Duration::from_secs(5);
/// How often the certificate is looked at. A kubelet takes a minute to bring a Secret that has changed.
const LOOK: Duration = Duration::from_secs(5);
const HEAD_BYTES: usize = 16 * 1024;

/// Where to listen, and as whom.
#[derive(Clone, Debug)]
pub struct WebhookSettings {
    /// `--webhook`.
    pub address: SocketAddr,
    /// `--webhook-cert`: the certificate with its chain, in PEM.
    pub certificate: PathBuf,
    /// `--webhook-key`: its key, in PEM.
    pub key: PathBuf,
}

/// Why there is no webhook.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The certificate or the key.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The address.
    #[error("--webhook {address}: cannot listen; give an address of this machine whose port is free (`ss -ltnp`)")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The system gave no thread, or no event queue for it.
    #[error("the webhook's thread cannot be started")]
    Thread(#[source] io::Error),
}

/// The running webhook. Dropped, it ends.
#[derive(Debug)]
pub struct Webhook {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Webhook {
    /// Reads the certificate, takes the address and answers from then on.
    ///
    /// # Errors
    /// Where one of these cannot be had; the message names the flag.
    pub fn start(settings: WebhookSettings, judge: Arc<dyn Judge>, metrics: Arc<Metrics>) -> Result<Self, StartError> {
        let WebhookSettings { address, certificate, key } = settings;
        let (files, tls) = Files::read(certificate, key)?;
        let failed = |source| StartError::Listen { address, source };
        let socket = listen(address).map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(REVIEWS)
            .thread_name("webhook-judge")
            .build()
            .map_err(StartError::Thread)?;
        let (stop, stopped) = oneshot::channel::<()>();
        metrics.expect_reviews();
        let answerer = Arc::new(Answerer { judge, metrics, turns: Semaphore::new(REVIEWS) });
        let serving = std::thread::Builder::new().name("webhook".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve(socket, files, tls, answerer) => {}
                    _ = stopped => {}
                }
            });
            // A judge that hangs must not hold the process.
            runtime.shutdown_background();
        });
        Ok(Self { address, stop: Some(stop), thread: Some(serving.map_err(StartError::Thread)?) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the webhook panicked");
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // `[::]` takes IPv4 too, whatever net.ipv6.bindv6only says.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    Ok(socket.into())
}

/// A connection that is open.
struct Open {
    task: AbortHandle,
    has_asked: Arc<AtomicBool>,
}

/// Accepts until it is dropped, and with it every connection.
async fn serve(socket: std::net::TcpListener, mut files: Files, mut tls: Arc<ServerConfig>, answerer: Arc<Answerer>) {
    let listener = match TcpListener::from_std(socket) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "the webhook cannot listen"),
    };
    let mut look = tokio::time::interval(LOOK);
    let mut said = None;
    let mut open: VecDeque<Open> = VecDeque::new();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    make_room(&mut open);
                    let has_asked = Arc::new(AtomicBool::new(false));
                    let serving = connection(stream, Arc::clone(&tls), Arc::clone(&answerer), Arc::clone(&has_asked));
                    open.push_back(Open { task: connections.spawn(serving), has_asked });
                }
                Err(error) => {
                    // Out of file descriptors, most likely: it passes when something closes, and must not spin until then.
                    tracing::warn!(%error, "the webhook cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            // Connections that ended are forgotten as they do.
            Some(_) = connections.join_next() => {}
            _ = look.tick() => match files.changed() {
                Ok(None) => said = None,
                Ok(Some(new)) => {
                    tracing::info!("the webhook's certificate was read again");
                    (tls, said) = (new, None);
                }
                Err(error) => {
                    let message = with_source(&error);
                    if said.as_ref() != Some(&message) {
                        tracing::warn!(error = %message, "the webhook's certificate cannot be read again; the former one is used");
                        said = Some(message);
                    }
                }
            },
        }
    }
}

fn make_room(open: &mut VecDeque<Open>) {
    open.retain(|connection| !connection.task.is_finished());
    if open.len() < MOST_CONNECTIONS {
        return;
    }
    let silent = open.iter().position(|connection| !connection.has_asked.load(Ordering::Relaxed));
    if let Some(connection) = open.remove(silent.unwrap_or(0)) {
        connection.task.abort();
    }
}

fn with_source(error: &CertificateError) -> String {
    let source = std::error::Error::source(error);
    source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

async fn connection(stream: TcpStream, tls: Arc<ServerConfig>, answerer: Arc<Answerer>, has_asked: Arc<AtomicBool>) {
    // An answer is one small write or two, and whoever waits for it waits for nothing else.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    // What goes wrong with a handshake is between the API server's caBundle and the certificate; it says so itself.
    let accepting = tokio::time::timeout(HANDSHAKE, TlsAcceptor::from(tls).accept(stream));
    let Ok(Ok(stream)) = accepting.await else { return };
    let asked = Arc::clone(&has_asked);
    let service = service_fn(move |request| {
        let (answerer, asked) = (Arc::clone(&answerer), Arc::clone(&asked));
        async move {
            asked.store(true, Ordering::Relaxed);
            Ok::<_, Infallible>(answerer.answer(request).await)
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_buf_size(HEAD_BYTES)
        .max_headers(64)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        // What a client does wrong is answered where it can be, and is no event of the gateway.
        _ended = serving.as_mut() => return,
        () = tokio::time::sleep(FIRST_REQUEST) => {}
    }
    if has_asked.load(Ordering::Relaxed) {
        let _ended = serving.await;
    }
}

struct Answerer {
    judge: Arc<dyn Judge>,
    metrics: Arc<Metrics>,
    /// For bodies in memory, and for the judge.
    turns: Semaphore,
}

type Answer = Response<Full<Bytes>>;

fn review(body: &[u8], judge: &dyn Judge) -> Result<review::Answer, Malformed> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut question = review::read(body, i64::try_from(now.as_secs()).unwrap_or(i64::MAX))?;
    let judged = question.take_object().map(|object| judge.judge(object));
    Ok(question.answer(judged.as_ref()))
}

impl Answerer {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Answer {
        if request.uri().path() != PATH {
            return text(StatusCode::NOT_FOUND, "there is nothing here; reviews are sent to /validate\n");
        }
        if request.method() != Method::POST {
            let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "a review is sent by POST\n");
            answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
            return answer;
        }
        let largest = u64::try_from(LARGEST_REVIEW).unwrap_or(u64::MAX);
        if request.body().size_hint().lower() > largest {
            return self.malformed(StatusCode::PAYLOAD_TOO_LARGE, "the review is larger than 7 MiB");
        }
        let reading = tokio::time::timeout(BODY, async {
            let turn = self.turns.acquire().await;
            (turn, Limited::new(request.into_body(), LARGEST_REVIEW).collect().await)
        });
        let (_turn, body) = match reading.await {
            Ok((turn, Ok(body))) => (turn, body.to_bytes()),
            Ok((_, Err(error))) if error.is::<http_body_util::LengthLimitError>() => {
                return self.malformed(StatusCode::PAYLOAD_TOO_LARGE, "the review is larger than 7 MiB");
            }
            Ok((_, Err(_))) => return self.malformed(StatusCode::BAD_REQUEST, "the body broke off"),
            Err(_) => return self.malformed(StatusCode::REQUEST_TIMEOUT, "the body did not come within 5 s"),
        };
        let received = Instant::now();
        let judge = Arc::clone(&self.judge);
        // Reading megabytes of JSON is not for the thread that accepts, either.
        let reviewed = tokio::task::spawn_blocking(move || review(&body, &*judge)).await;
        match reviewed {
            Ok(Ok(review::Answer { body, end })) => {
                self.metrics.reviewed(end, received.elapsed());
                json(body)
            }
            Ok(Err(malformed)) => self.malformed(StatusCode::BAD_REQUEST, &malformed.to_string()),
            Err(error) => {
                tracing::error!(%error, "a review failed");
                text(StatusCode::INTERNAL_SERVER_ERROR, "the review failed; the gateway's log says why\n")
            }
        }
    }

    fn malformed(&self, status: StatusCode, why: &str) -> Answer {
        tracing::debug!(%status, why, "the webhook was asked what is no review");
        self.metrics.reviewed(ReviewEnd::Malformed, Duration::ZERO);
        text(status, &format!("{why}\n"))
    }
}

fn json(body: Vec<u8>) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn text(status: StatusCode, text: &str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(text.to_owned())));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    // What was not read of a body stands in the way of the next request.
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}
