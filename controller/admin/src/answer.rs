//! One request to one of the two servers, from the checks to the response.

use crate::body::{AnswerBody, Lines, Streams};
use crate::director::CordonError;
use crate::events::{self, Hub};
use crate::guard::{Token, names_this_host};
use crate::page;
use crate::scrape::Asked;
use crate::state::Section;
use crate::view::{ExplainError, StateView, TapRequest};
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Body;
use serde::Serialize;
use sluicegate_telemetry::{Comparison, Metrics, RequestFilter};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};

/// Views of the state that are made at one time; more wait.
const VIEWS: usize = 2;
/// How long a request waits for its view.
const VIEW_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest URL that is explained, in bytes; the proxy's own limit is lower.
const LONGEST_URL: usize = 8 * 1024;

/// The paths under which something is changed, by POST alone.
const CORDON: &str = "/api/v1/cordon";
const UNCORDON: &str = "/api/v1/uncordon";

fn is_change(path: &str) -> bool {
    matches!(path, CORDON | UNCORDON)
}
/// Bytes of a sampled frame, where nobody says how many: headers, and little of what they carry.
const DEFAULT_SNAP: u32 = 128;
/// At most: what the packet path keeps.
const MOST_SNAP: u32 = 232;

/// What `/api/v1/tap/requests` can be asked.
const REQUEST_CRITERIA: &[&str] = &["host", "path", "method", "status", "slow", "ingress"];

/// Which of the two servers is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Surface {
    /// `--metrics`: open to the cluster.
    Metrics,
    /// `--admin`: loopback or token.
    Admin,
}

/// What a request is answered from.
pub(crate) struct Answerer {
    view: Arc<dyn StateView>,
    metrics: Arc<Metrics>,
    token: Option<Token>,
    views: Arc<Semaphore>,
    scrapes: Arc<Semaphore>,
    hub: Arc<Hub>,
}

pub(crate) type Answer = Response<AnswerBody>;

impl Answerer {
    pub(crate) fn new(view: Arc<dyn StateView>, metrics: Arc<Metrics>, token: Option<Token>) -> Self {
        Self {
            view,
            metrics,
            token,
            views: Arc::new(Semaphore::new(VIEWS)),
            scrapes: Arc::new(Semaphore::new(1)),
            hub: Hub::new(),
        }
    }

    /// Samples traffic for who watches, until it is told to stop.
    pub(crate) fn keep_sampling(&self, stopped: watch::Receiver<bool>) -> impl Future<Output = ()> + Send + 'static {
        events::keep_sampling(Arc::clone(&self.hub), Arc::clone(&self.view), Arc::clone(&self.metrics), stopped)
    }

    /// Answers a request that came in on `listening`.
    pub(crate) async fn answer<B: Body>(
        &self,
        request: Request<B>,
        surface: Surface,
        listening: SocketAddr,
        streams: &Streams,
    ) -> Answer {
        let mut answer = match self.refuse(&request, surface, listening) {
            Some(refusal) => refusal,
            None => match surface {
                Surface::Metrics => self.metrics_surface(&request).await,
                Surface::Admin => self.admin_surface(&request, streams).await,
            },
        };
        let headers = answer.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
        if !request.body().is_end_stream() {
            // A body is of no use here and is not read.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }

    fn refuse<B>(&self, request: &Request<B>, surface: Surface, listening: SocketAddr) -> Option<Answer> {
        if listening.ip().to_canonical().is_loopback() && !names_this_host(request, listening) {
            let remedy = "ask under localhost, a loopback address or the address that is listened on";
            return Some(problem(StatusCode::MISDIRECTED_REQUEST, "the Host header names another machine", remedy));
        }
        // The page itself tells nothing: a browser loads it without a token, and the page asks for one.
        let is_page = surface == Surface::Admin && page::has(request.uri().path());
        if let (Surface::Admin, Some(token), false) = (surface, &self.token, is_page)
            && !token.admits(request.headers())
        {
            let remedy = "send `Authorization: Bearer` with the content of --admin-token-file";
            let mut answer = problem(StatusCode::UNAUTHORIZED, "the token is missing or wrong", remedy);
            let challenge = HeaderValue::from_static("Bearer realm=\"sluicegate\"");
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
            return Some(answer);
        }
        let (complaint, allowed) = if surface == Surface::Admin && is_change(request.uri().path()) {
            if request.method() == Method::POST {
                // Browsers send it with every POST, and no program that belongs here does.
                let is_web_page = request.headers().contains_key(header::ORIGIN);
                let remedy = "send no Origin header, as `sluicegate cordon` does";
                return is_web_page
                    .then(|| problem(StatusCode::FORBIDDEN, "a web page must not change the gateway", remedy));
            }
            ("this changes something", "POST")
        } else if matches!(*request.method(), Method::GET | Method::HEAD) {
            return None;
        } else {
            ("nothing can be changed here", "GET, HEAD")
        };
        let mut answer = problem(StatusCode::METHOD_NOT_ALLOWED, complaint, &format!("use {allowed}"));
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
        Some(answer)
    }

    async fn metrics_surface<B>(&self, request: &Request<B>) -> Answer {
        match request.uri().path() {
            "/healthz" => text(StatusCode::OK, "text/plain; charset=utf-8", "ok\n"),
            "/readyz" => {
                let readiness = self.view.ready();
                let status = if readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                json(status, &readiness)
            }
            "/metrics" => self.scrape(Asked::of(request.headers())).await,
            _ => problem(StatusCode::NOT_FOUND, "there is nothing here", "ask for /healthz, /readyz or /metrics"),
        }
    }

    /// Beside the thread that answers probes: an exposition of many routes takes a while.
    async fn scrape(&self, asked: Asked) -> Answer {
        let (metrics, scrapes) = (Arc::clone(&self.metrics), Arc::clone(&self.scrapes));
        let written = async move {
            // One at a time, so that many scrapers do not hold as many texts; the permit goes along with the work.
            let permit = scrapes.acquire_owned().await;
            tokio::task::spawn_blocking(move || {
                let _permit = permit;
                asked.write(&metrics)
            })
            .await
        };
        let mut answer = match tokio::time::timeout(VIEW_TIMEOUT, written).await {
            Ok(Ok(body)) => text(StatusCode::OK, asked.format.content_type(), body),
            Ok(Err(error)) => {
                tracing::error!(%error, "a scrape failed");
                return problem(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written", "see the log");
            }
            Err(_) => {
                let remedy = "scrape less often, or from fewer places";
                return problem(StatusCode::SERVICE_UNAVAILABLE, "other scrapes took more than 10 s", remedy);
            }
        };
        if asked.gzip {
            answer.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        answer.headers_mut().insert(header::VARY, HeaderValue::from_static("accept, accept-encoding"));
        answer
    }

    async fn admin_surface<B>(&self, request: &Request<B>, streams: &Streams) -> Answer {
        if let Some(answer) = page::answer(request.uri().path()) {
            return answer;
        }
        let query = request.uri().query().unwrap_or_default();
        match request.uri().path() {
            "/api/v1/events" => match parameters(query, &[]) {
                Ok(_) => self.events(streams.clone()).await,
                Err(error) => problem(StatusCode::BAD_REQUEST, &error, "ask as in /api/v1/events"),
            },
            "/api/v1/state" => match one_parameter(query, "section").and_then(|text| {
                text.map(|text| text.parse::<Section>().map_err(|error| error.to_string())).transpose()
            }) {
                Ok(section) => self.state(section).await,
                Err(error) => problem(StatusCode::BAD_REQUEST, &error, "ask as in /api/v1/state?section=routes"),
            },
            "/api/v1/explain" => match parameters(query, &["url", "packet"]) {
                Ok(asked) => self.explain(asked).await,
                Err(error) => problem(
                    StatusCode::BAD_REQUEST,
                    &error,
                    "write `&`, `+` and `#` inside the URL as %26, %2B and %23, as `curl -G --data-urlencode url=…` does",
                ),
            },
            path @ (CORDON | UNCORDON) => match one_parameter(query, "force").as_ref().map(Option::as_deref) {
                Ok(None | Some("false")) => self.cordon(path == CORDON, false).await,
                Ok(Some("true")) => self.cordon(path == CORDON, true).await,
                Ok(Some(_)) => {
                    problem(StatusCode::BAD_REQUEST, "`force` is neither true nor false", "give one of both")
                }
                Err(error) => problem(StatusCode::BAD_REQUEST, error, "the one parameter is `force`"),
            },
            "/api/v1/tap" => match parameters(query, &["every", "vip", "snap", "all"]).and_then(|asked| wanted(&asked))
            {
                Ok(request) => {
                    self.lines(streams.clone(), "application/x-ndjson", move |view| view.tap(&request)).await
                }
                Err(error) => {
                    problem(StatusCode::BAD_REQUEST, &error, "ask as in /api/v1/tap?every=100&vip=192.0.2.10&snap=128")
                }
            },
            "/api/v1/tap/requests" => {
                match parameters(query, REQUEST_CRITERIA).and_then(|asked| wanted_requests(&asked)) {
                    Ok(filter) => {
                        self.lines(streams.clone(), "application/x-ndjson", move |view| view.tap_requests(filter)).await
                    }
                    Err(error) => {
                        problem(StatusCode::BAD_REQUEST, &error, "ask as in /api/v1/tap/requests?status=5xx&slow=200ms")
                    }
                }
            }
            _ => problem(
                StatusCode::NOT_FOUND,
                "there is nothing here",
                "ask for /, /api/v1/state, /api/v1/explain?url=…, /api/v1/events, /api/v1/tap or /api/v1/tap/requests; metrics and probes are on the --metrics address",
            ),
        }
    }

    async fn state(&self, section: Option<Section>) -> Answer {
        self.beside(move |view| match view.state(section) {
            Ok(state) => json(StatusCode::OK, &state),
            Err(unavailable) => problem(StatusCode::SERVICE_UNAVAILABLE, &unavailable.to_string(), "ask again later"),
        })
        .await
    }

    async fn explain(&self, mut asked: BTreeMap<String, String>) -> Answer {
        let (url, packet) = (asked.remove("url"), asked.remove("packet"));
        if url.as_ref().or(packet.as_ref()).is_some_and(|text| text.len() > LONGEST_URL) {
            return problem(StatusCode::URI_TOO_LONG, "the URL is longer than 8192 bytes", "ask for a shorter one");
        }
        if url.is_some() == packet.is_some() {
            return problem(
                StatusCode::BAD_REQUEST,
                "one of the parameters `url` and `packet` is needed",
                "ask as in /api/v1/explain?url=https://web.example/path or \
                 /api/v1/explain?packet=tcp,198.51.100.7:40000,192.0.2.10:80",
            );
        }
        self.beside(move |view| {
            let explained = match (&url, &packet) {
                (Some(url), _) => view.explain(url),
                (None, packet) => view.explain_packet(packet.as_deref().unwrap_or_default()),
            };
            match explained {
                Ok(explanation) => json(StatusCode::OK, &explanation),
                Err(ExplainError::Url(reason)) => {
                    problem(StatusCode::BAD_REQUEST, &reason, "give a URL such as https://web.example/path")
                }
                Err(ExplainError::Packet(reason)) => problem(
                    StatusCode::BAD_REQUEST,
                    &reason,
                    "give a packet such as tcp,198.51.100.7:40000,192.0.2.10:80",
                ),
                Err(ExplainError::Unavailable(reason)) => {
                    problem(StatusCode::SERVICE_UNAVAILABLE, &reason, "ask again later")
                }
            }
        })
        .await
    }

    /// An answer that goes on.
    async fn lines<E: std::fmt::Display>(
        &self,
        streams: Streams,
        kind: &'static str,
        begin: impl FnOnce(&dyn StateView) -> Result<Box<dyn Lines>, E> + Send + 'static,
    ) -> Answer {
        self.beside(move |view| match begin(view) {
            Ok(lines) => {
                let mut answer = Response::new(AnswerBody::Lines { lines, _open: streams.begin() });
                answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
                answer
            }
            Err(error) => problem(StatusCode::SERVICE_UNAVAILABLE, &error.to_string(), "ask again later"),
        })
        .await
    }

    async fn cordon(&self, cordoned: bool, force: bool) -> Answer {
        self.beside(move |view| match view.cordon(cordoned, force) {
            Ok(director) => json(StatusCode::OK, &director),
            Err(error) => {
                let (status, remedy) = match &error {
                    CordonError::NoDirector => (StatusCode::NOT_FOUND, "ask a process of --role all or director"),
                    CordonError::Alone => (StatusCode::CONFLICT, "start another director first, or force it"),
                    CordonError::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "ask again later"),
                };
                problem(status, &error.to_string(), remedy)
            }
        })
        .await
    }

    async fn events(&self, streams: Streams) -> Answer {
        let hub = Arc::clone(&self.hub);
        self.lines(streams, "text/event-stream", move |_| hub.watch()).await
    }

    /// Makes an answer beside the thread that answers probes.
    async fn beside(&self, make: impl FnOnce(&dyn StateView) -> Answer + Send + 'static) -> Answer {
        let view = Arc::clone(&self.view);
        let views = Arc::clone(&self.views);
        let made = tokio::time::timeout(VIEW_TIMEOUT, async move {
            // The permit moves into the work: a request that gave up waiting does not make room for a third view.
            let permit = views.acquire_owned().await;
            tokio::task::spawn_blocking(move || {
                let _permit = permit;
                make(view.as_ref())
            })
            .await
        });
        match made.await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                tracing::error!(%error, "a view of the state failed");
                problem(StatusCode::INTERNAL_SERVER_ERROR, "the view of the state failed", "see the log")
            }
            Err(_) => {
                problem(StatusCode::GATEWAY_TIMEOUT, "the state was not to be had within 10 s", "ask again later")
            }
        }
    }
}

/// The value of the only parameter that an endpoint knows.
fn one_parameter(query: &str, known: &str) -> Result<Option<String>, String> {
    parameters(query, &[known]).map(|mut values| values.remove(known))
}

/// The values of the parameters that an endpoint knows, each at most once.
fn parameters(query: &str, known: &[&str]) -> Result<BTreeMap<String, String>, String> {
    let mut values = BTreeMap::new();
    for (name, given) in form_urlencoded::parse(query.as_bytes()) {
        if !known.contains(&name.as_ref()) {
            return Err(format!("the parameter `{name}` is unknown"));
        }
        if values.insert(name.to_string(), given.into_owned()).is_some() {
            return Err(format!("the parameter `{name}` is there twice"));
        }
    }
    Ok(values)
}

/// The requests that somebody wants to see.
fn wanted_requests(asked: &BTreeMap<String, String>) -> Result<RequestFilter, String> {
    let mut filter = RequestFilter::default();
    for (name, value) in asked {
        let (property, (comparison, value)) = match name.as_str() {
            "slow" => ("duration", (Comparison::AtLeast, value.as_str())),
            "status" => ("status", Comparison::split(value).unwrap_or((Comparison::Is, value))),
            name => (name, (Comparison::Is, value.as_str())),
        };
        filter = filter.and(property, comparison, value).map_err(|error| error.to_string())?;
    }
    Ok(filter)
}

/// The packets that somebody wants to see.
fn wanted(asked: &BTreeMap<String, String>) -> Result<TapRequest, String> {
    let number = |name: &str, default: u32, most: u32| match asked.get(name) {
        None => Ok(default),
        Some(text) => text
            .parse::<u32>()
            .ok()
            .filter(|number| (1..=most).contains(number))
            .ok_or_else(|| format!("`{name}` is no number from 1 to {most}")),
    };
    let vip = asked.get("vip").map(|text| text.parse::<IpAddr>().map_err(|_| "`vip` is no address".to_owned()));
    let all = match asked.get("all").map(String::as_str) {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err("`all` is neither true nor false".to_owned()),
    };
    Ok(TapRequest {
        every: number("every", 1, u32::MAX)?,
        vip: vip.transpose()?,
        all,
        snap: number("snap", DEFAULT_SNAP, MOST_SNAP)? as usize,
    })
}

#[derive(Serialize)]
struct Problem<'a> {
    error: &'a str,
    remedy: &'a str,
}

fn problem(status: StatusCode, error: &str, remedy: &str) -> Answer {
    json(status, &Problem { error, remedy })
}

fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(mut body) => {
            body.push(b'\n');
            text(status, "application/json", body)
        }
        Err(error) => {
            tracing::error!(%error, "an answer could not be written as JSON");
            text(StatusCode::INTERNAL_SERVER_ERROR, "application/json", "{\"error\":\"see the log\"}\n")
        }
    }
}

pub(crate) fn text(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(AnswerBody::Whole(Full::new(body.into())));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}
