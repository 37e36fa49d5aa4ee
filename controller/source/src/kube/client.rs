//! The way to the API server: from a kubeconfig, or from inside of the cluster.

use super::contact::{Answered, ApiContact};
use super::request::Asked;
use http::header::DATE;
use http::{Request, Response};
use kube::client::{Body, ClientBuilder};
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};
use tower::{BoxError, Layer, Service};

/// An API server that takes no connection for so long is away.
const CONNECT: Duration = Duration::from_secs(5);
/// A request that was dropped after so long was given up for want of an answer.
const GIVEN_UP: Duration = Duration::from_secs(1);

/// Where the API server is and who we are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Login {
    /// A kubeconfig; without one, the service account of the pod.
    pub kubeconfig: Option<PathBuf>,
    /// The context in it; without one, its current context.
    pub context: Option<String>,
}

/// Why there is no way to the API server.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The kubeconfig.
    #[error("--kubeconfig {}", .path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<KubeconfigError>,
    },
    /// There is no kubeconfig and no service account.
    #[error(
        "no service account of a pod was found here; give --kubeconfig FILE, or --manifests DIR to run without a cluster"
    )]
    NotInCluster(#[source] InClusterError),
    /// TLS or the address.
    #[error("the API server's address or certificates do not do")]
    Client(#[source] Box<kube::Error>),
}

/// The way to an API server. Nothing is sent before it is used.
#[derive(Clone)]
pub struct KubeClient {
    config: Config,
    contact: Arc<ApiContact>,
}

impl KubeClient {
    /// Reads what is needed.
    ///
    /// # Errors
    /// Where the files do not do.
    pub async fn new(login: &Login) -> Result<Self, ClientError> {
        let mut config = match &login.kubeconfig {
            Some(path) => {
                let wrong = |source| ClientError::Kubeconfig { path: path.clone(), source: Box::new(source) };
                let file = Kubeconfig::read_from(path).map_err(wrong)?;
                let options = KubeConfigOptions { context: login.context.clone(), ..KubeConfigOptions::default() };
                Config::from_custom_kubeconfig(file, &options).await.map_err(wrong)?
            }
            None => Config::incluster().map_err(ClientError::NotInCluster)?,
        };
        config.connect_timeout = Some(CONNECT);
        let this = Self { config, contact: Arc::default() };
        // What is wrong with certificates shows here rather than in a thread.
        this.build().map_err(|error| ClientError::Client(Box::new(error)))?;
        Ok(this)
    }

    /// How it stands with the server.
    #[must_use]
    pub fn contact(&self) -> Arc<ApiContact> {
        Arc::clone(&self.contact)
    }

    /// The server's address, for the log.
    #[must_use]
    pub fn address(&self) -> String {
        self.config.cluster_url.to_string()
    }

    /// The server's host and port.
    #[must_use]
    pub fn host(&self) -> (String, u16) {
        let url = &self.config.cluster_url;
        let host = url.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let port = if url.scheme_str() == Some("http") { 80 } else { 443 };
        (host.to_owned(), url.port_u16().unwrap_or(port))
    }

    /// A client for the runtime that runs this.
    ///
    /// # Errors
    /// As [`KubeClient::new`], which has tried it.
    pub fn build(&self) -> Result<Client, kube::Error> {
        let builder = ClientBuilder::try_from(self.config.clone())?;
        Ok(builder.with_layer(&ContactLayer(self.contact())).build())
    }
}

impl fmt::Debug for KubeClient {
    /// Without credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubeClient").field("address", &self.address()).finish_non_exhaustive()
    }
}

/// Notes when the server answers and when it does not.
struct ContactLayer(Arc<ApiContact>);

impl<S> Layer<S> for ContactLayer {
    type Service = Contacted<S>;

    fn layer(&self, inner: S) -> Contacted<S> {
        Contacted { inner, contact: Arc::clone(&self.0) }
    }
}

struct Contacted<S> {
    inner: S,
    contact: Arc<ApiContact>,
}

impl<S, B> Service<Request<Body>> for Contacted<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut waiting = Waiting {
            contact: Arc::clone(&self.contact),
            asked: Asked::read(request.method(), request.uri()),
            since: Instant::now(),
            is_over: false,
        };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await.map_err(Into::into);
            waiting.over(&answer);
            answer
        })
    }
}

/// A request that is not answered yet. Dropped in this state it was given up.
struct Waiting {
    contact: Arc<ApiContact>,
    asked: Asked,
    since: Instant,
    is_over: bool,
}

impl Waiting {
    fn over<B>(&mut self, answer: &Result<Response<B>, BoxError>) {
        self.is_over = true;
        if let Ok(answer) = answer
            && let Some(ahead) = clock_ahead(answer, SystemTime::now())
            && let Some(told) = self.contact.compared(ahead)
        {
            tracing::warn!("{told}");
        }
        match answer.as_ref().map(Response::status) {
            Ok(status) if status.is_server_error() => {
                self.contact.failed(self.asked, Answered::Failed, &format!("the API server answers {status}"));
            }
            Ok(status) if status.is_success() => self.contact.answered(self.asked, Answered::Success),
            Ok(_) => self.contact.answered(self.asked, Answered::Refused),
            Err(error) => self.contact.failed(self.asked, Answered::Not, &innermost(&**error)),
        }
    }
}

/// By how many seconds `now` is ahead of the server's clock, where the answer says what that shows (RFC 9110, section 6.6.1).
fn clock_ahead<B>(answer: &Response<B>, now: SystemTime) -> Option<i64> {
    let seconds = |time: SystemTime| i64::try_from(time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs()).ok();
    let theirs = httpdate::parse_http_date(answer.headers().get(DATE)?.to_str().ok()?).ok()?;
    Some(seconds(now)? - seconds(theirs)?)
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // Who ceases to want an answer does so at once, who despairs of one has waited.
        if !self.is_over && self.since.elapsed() > GIVEN_UP {
            self.contact.failed(self.asked, Answered::Not, "the API server does not answer");
        }
    }
}

/// The error at the bottom says what happened, those above it where.
pub(crate) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
