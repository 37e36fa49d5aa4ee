//! The port: requests of the Kubernetes API, as HTTP.

use crate::fault::{Fault, Faults};
use crate::resource::{Resource, Target};
use crate::selector::Selector;
use crate::status::Refusal;
use crate::store::{Patch, Store};
use crate::watch::{self, BrokenOff, Line};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Deserialize as _;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch as signal};

/// The largest body; etcd takes no more than 1.5 MB.
const LARGEST: usize = 3 << 20;
/// What an API server chooses where a watch gives no time.
const LONGEST_WATCH: Duration = Duration::from_secs(1800);

/// One request, as tests count it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// `get`, `list`, `watch`, `create`, `update`, `patch` or `delete`, as RBAC calls it.
    pub verb: &'static str,
    /// The kind's name in paths, with `/status`.
    pub resource: String,
    /// The namespace, if the path has one.
    pub namespace: String,
    /// The object, if the path names one.
    pub name: String,
    /// The query as it came.
    pub query: String,
    /// `User-Agent`.
    pub agent: String,
    /// When.
    pub at: Instant,
}

/// What the server's tasks share.
pub(crate) struct Shared {
    store: Mutex<Store>,
    seen: Mutex<Vec<Seen>>,
    faults: Faults,
    token: Option<String>,
    bookmark_every: Mutex<Duration>,
    /// Seconds that the `Date` of answers is ahead.
    clock: AtomicI64,
    /// Versions, as they come.
    pub(crate) versions: signal::Sender<u64>,
    /// Counted up, it cuts every watch.
    pub(crate) cuts: signal::Sender<u64>,
    /// True while connections are to be taken.
    open: signal::Sender<bool>,
    /// True while the port is bound.
    bound: signal::Sender<bool>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn store<R>(&self, act: impl FnOnce(&mut Store) -> R) -> R {
        let mut store = lock(&self.store);
        let result = act(&mut store);
        let version = store.version();
        drop(store);
        self.versions.send_if_modified(|known| std::mem::replace(known, version) != version);
        result
    }

    pub(crate) fn bookmark_every(&self) -> Duration {
        *lock(&self.bookmark_every)
    }
}

/// A server on a port of the loopback interface. Dropped, it is gone with its connections.
pub struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ApiServer {
    /// Starts without objects; everybody may do everything.
    ///
    /// # Errors
    /// Where there is no port or thread to be had.
    pub fn start() -> io::Result<Self> {
        Self::with_token(None)
    }

    /// As [`ApiServer::start`], for those with the token.
    ///
    /// # Errors
    /// Where there is no port or thread to be had.
    pub fn with_token(token: Option<&str>) -> io::Result<Self> {
        Self::listen((Ipv4Addr::LOCALHOST, 0).into(), token)
    }

    /// As [`ApiServer::start`], at this IPv4 address: in the network namespace of the thread that calls this.
    ///
    /// # Errors
    /// Where the address or a thread is not to be had.
    pub fn at(address: SocketAddr) -> io::Result<Self> {
        Self::listen(address, None)
    }

    fn listen(address: SocketAddr, token: Option<&str>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            store: Mutex::default(),
            seen: Mutex::default(),
            faults: Faults::default(),
            token: token.map(str::to_owned),
            bookmark_every: Mutex::new(Duration::from_millis(500)),
            clock: AtomicI64::new(0),
            versions: signal::Sender::new(0),
            cuts: signal::Sender::new(0),
            open: signal::Sender::new(true),
            bound: signal::Sender::new(true),
        });
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let within = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("apiserver".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(within, listener, address) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { shared, address, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens, such as `http://127.0.0.1:34567`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A kubeconfig that leads here.
    #[must_use]
    pub fn kubeconfig(&self) -> String {
        let user = self.shared.token.as_ref().map_or_else(|| json!({}), |token| json!({"token": token}));
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self.url()}}],
            "users": [{"name": "test", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "default"}}],
        })
        .to_string()
    }

    /// Looks at the objects, or changes them past HTTP; watches see it.
    pub fn store<R>(&self, act: impl FnOnce(&mut Store) -> R) -> R {
        self.shared.store(act)
    }

    /// Makes an object or replaces it as a whole but for its status, as `kubectl apply` does with what is new.
    ///
    /// # Errors
    /// Where its kind is not served, or it is no object.
    pub fn put(&self, object: Value) -> Result<Arc<Value>, Refusal> {
        let kind = object["kind"].as_str().unwrap_or_default();
        let resource =
            Resource::of_kind(kind).ok_or_else(|| Refusal::bad(format!("kind {kind:?} is not served here")))?;
        let namespace = match object["metadata"]["namespace"].as_str() {
            _ if !resource.namespaced => "",
            Some(namespace) => namespace,
            None => "default",
        }
        .to_owned();
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let key = (resource, namespace, name);
        self.store(|store| match store.get(&key) {
            Ok(_) => store.replace(&key, false, object, "test"),
            Err(_) => store.create(resource, &key.1, object, "test", &now()),
        })
    }

    /// Puts every document of a text of YAML.
    ///
    /// # Errors
    /// At the first that is none, or that [`ApiServer::put`] refuses.
    pub fn put_yaml(&self, text: &str) -> Result<(), Refusal> {
        for document in yaml_serde::Deserializer::from_str(text) {
            let value = Value::deserialize(document).map_err(|error| Refusal::bad(error.to_string()))?;
            if !value.is_null() {
                self.put(value)?;
            }
        }
        Ok(())
    }

    /// Removes an object.
    ///
    /// # Errors
    /// Where it is not there.
    pub fn remove(&self, kind: &str, namespace: &str, name: &str) -> Result<(), Refusal> {
        let resource =
            Resource::of_kind(kind).ok_or_else(|| Refusal::bad(format!("kind {kind:?} is not served here")))?;
        self.store(|store| store.delete(&(resource, namespace.to_owned(), name.to_owned()))).map(|_| ())
    }

    /// An object as it is; `None` where it is not there.
    #[must_use]
    pub fn object(&self, kind: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let key = (Resource::of_kind(kind)?, namespace.to_owned(), name.to_owned());
        self.store(|store| store.get(&key)).ok()
    }

    /// Every object of a kind.
    #[must_use]
    pub fn objects(&self, kind: &str) -> Vec<Arc<Value>> {
        let Some(resource) = Resource::of_kind(kind) else { return Vec::new() };
        let all = Selector::default();
        self.store(|store| store.list(resource, None, &all).map(|(_, object)| Arc::clone(object)).collect())
    }

    /// What goes wrong.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// The requests so far, in order.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.seen).clone()
    }

    /// Forgets the requests so far.
    pub fn forget(&self) {
        lock(&self.shared.seen).clear();
    }

    /// Time between bookmarks where nothing happens; half a second unless told.
    pub fn set_bookmarks(&self, every: Duration) {
        *lock(&self.shared.bookmark_every) = every;
    }

    /// Sets the clock that answers show, in seconds ahead of this machine's.
    pub fn set_clock(&self, ahead: i64) {
        self.shared.clock.store(ahead, Ordering::Relaxed);
    }

    /// Breaks the connection of every watch.
    pub fn cut_watches(&self) {
        self.shared.cuts.send_modify(|count| *count += 1);
    }

    /// Closes the port and every connection; the objects stay.
    pub fn go_down(&self) {
        self.shared.open.send_replace(false);
    }

    /// Opens the same port again, and waits until it takes connections, for at most ten seconds.
    pub fn come_back(&self) {
        self.shared.open.send_replace(true);
        let begun = Instant::now();
        // Not by a connection: the server may be in another network namespace.
        while !*self.shared.bound.borrow() && begun.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed, and the test is over.
            let _printed = thread.join();
        }
    }
}

async fn accept(shared: Arc<Shared>, first: std::net::TcpListener, address: SocketAddr) {
    let mut open = shared.open.subscribe();
    let mut listener = TcpListener::from_std(first).ok();
    loop {
        let mut connections = tokio::task::JoinSet::new();
        if let Some(listener) = &listener {
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let Ok((stream, _)) = accepted else { continue };
                        let shared = Arc::clone(&shared);
                        let service = service_fn(move |request| answer(Arc::clone(&shared), request));
                        connections.spawn(async move {
                            // The client sees what became of its connection.
                            let _broken = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                        });
                    }
                    Some(_) = connections.join_next(), if !connections.is_empty() => {}
                    changed = open.wait_for(|open| !open) => if changed.is_ok() { break } else { return },
                }
            }
        }
        shared.bound.send_replace(false);
        drop(listener.take());
        connections.shutdown().await;
        if open.wait_for(|open| *open).await.is_err() {
            return;
        }
        // The port may linger for a moment.
        for _ in 0..100 {
            match rebind(address) {
                Ok(bound) => {
                    listener = Some(bound);
                    shared.bound.send_replace(true);
                    break;
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
}

fn rebind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1024)
}

/// A body that is there, or one that comes line by line.
enum Answer {
    Whole(Option<Bytes>),
    Lines(mpsc::Receiver<Line>),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Lines(lines) => lines.poll_recv(context).map(|line| line.map(|line| line.map(Frame::data))),
        }
    }
}

/// The connection is to be closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection is closed without an answer")]
struct NoAnswer;

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Answer>, NoAnswer> {
    let ahead = shared.clock.load(Ordering::Relaxed);
    let mut response = answer_to(shared, request).await?;
    let now = SystemTime::now();
    let by = Duration::from_secs(ahead.unsigned_abs());
    let shown = if ahead < 0 { now.checked_sub(by) } else { now.checked_add(by) };
    if let Some(date) = shown.and_then(|shown| http::HeaderValue::try_from(httpdate::fmt_http_date(shown)).ok()) {
        response.headers_mut().insert(http::header::DATE, date);
    }
    Ok(response)
}

async fn answer_to(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Answer>, NoAnswer> {
    let (head, body) = request.into_parts();
    let query = Query::parse(head.uri.query().unwrap_or_default());
    let target = match Target::parse(head.uri.path()) {
        Some(target) => target,
        None if head.uri.path() == "/version" => {
            return Ok(whole(StatusCode::OK, &json!({"major": "1", "minor": "36", "gitVersion": "v1.36.0"})));
        }
        None => return Ok(refuse(&Refusal::not_found(head.uri.path()))),
    };
    let verb = verb(&head.method, &target, &query);
    let seen = Seen {
        verb,
        resource: format!("{}{}", target.resource.plural, if target.status { "/status" } else { "" }),
        namespace: target.namespace.clone().unwrap_or_default(),
        name: target.name.clone().unwrap_or_default(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        agent: text(&head.headers, &USER_AGENT),
        at: Instant::now(),
    };
    let fault = shared.faults.of(&seen);
    lock(&shared.seen).push(seen);
    match &fault {
        Some(Fault::Delay(pause)) => tokio::time::sleep(*pause).await,
        Some(Fault::Refuse(code, reason)) => {
            return Ok(refuse(&Refusal::new(
                *code,
                reason,
                format!("{verb} {}: a planned fault", target.resource.plural),
            )));
        }
        Some(Fault::Cut) => return Err(NoAnswer),
        Some(Fault::Answer(body)) => return Ok(raw(StatusCode::OK, body.clone().into())),
        _ => {}
    }
    if let Some(token) = &shared.token
        && text(&head.headers, &AUTHORIZATION) != format!("Bearer {token}")
    {
        return Ok(refuse(&Refusal::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")));
    }
    if verb == "watch" {
        return Ok(start_watch(shared, target, &query, fault).unwrap_or_else(|refusal| refuse(&refusal)));
    }
    let body = match Limited::new(body, LARGEST).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => {
            return Ok(refuse(&Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", "too large")));
        }
    };
    let done = act(&shared, verb, &target, &query, &head.headers, &body);
    if fault == Some(Fault::LoseAnswer) {
        return Err(NoAnswer);
    }
    Ok(match done {
        Ok((code, object)) => raw(code, object),
        Err(refusal) => refuse(&refusal),
    })
}

fn verb(method: &Method, target: &Target, query: &Query) -> &'static str {
    match *method {
        Method::GET if query.is("watch") => "watch",
        Method::GET if target.name.is_some() => "get",
        Method::GET => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "unknown",
    }
}

fn act(
    shared: &Shared,
    verb: &str,
    target: &Target,
    query: &Query,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<(StatusCode, Bytes), Refusal> {
    let manager = match query.get("fieldManager") {
        "" => text(headers, &USER_AGENT),
        name => name.to_owned(),
    };
    let namespace = target.namespace.clone().unwrap_or_default();
    if target.resource.namespaced && target.namespace.is_none() && !matches!(verb, "list") {
        return Err(Refusal::bad("the path needs a namespace"));
    }
    let key = (target.resource, namespace.clone(), target.name.clone().unwrap_or_default());
    let json = |code: StatusCode, object: Arc<Value>| (code, Bytes::from(object.to_string()));
    match verb {
        "list" => list(shared, target, query).map(|list| (StatusCode::OK, list.to_string().into())),
        "get" => shared.store(|store| store.get(&key)).map(|object| json(StatusCode::OK, object)),
        "create" if target.name.is_none() => {
            let object = parse(body)?;
            let created = shared.store(|store| store.create(target.resource, &namespace, object, &manager, &now()));
            created.map(|object| json(StatusCode::CREATED, object))
        }
        "update" if target.name.is_some() => {
            let object = parse(body)?;
            let updated = shared.store(|store| store.replace(&key, target.status, object, &manager));
            updated.map(|object| json(StatusCode::OK, object))
        }
        "patch" if target.name.is_some() => {
            let patch = patch(query, headers, body)?;
            let was = shared.store(|store| store.get(&key).is_ok());
            let patched = shared.store(|store| store.patch(&key, target.status, patch, &manager, &now()));
            patched.map(|object| json(if was { StatusCode::OK } else { StatusCode::CREATED }, object))
        }
        "delete" if target.name.is_some() => {
            shared.store(|store| store.delete(&key)).map(|object| json(StatusCode::OK, object))
        }
        _ => Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "not served here")),
    }
}

fn patch(query: &Query, headers: &HeaderMap, body: &Bytes) -> Result<Patch, Refusal> {
    match text(headers, &CONTENT_TYPE).as_str() {
        "application/merge-patch+json" => Ok(Patch::Merge(parse(body)?)),
        "application/apply-patch+yaml" if query.get("fieldManager").is_empty() => {
            Err(Refusal::bad("fieldManager is required for apply patch"))
        }
        "application/apply-patch+yaml" => Ok(Patch::Apply { configuration: parse(body)?, force: query.is("force") }),
        other => Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UnsupportedMediaType",
            format!("{other:?}: merge patches and applied configurations are served here"),
        )),
    }
}

/// One page of a list, from the state of this moment: a page never lies about a version, but pages may differ in age.
fn list(shared: &Shared, target: &Target, query: &Query) -> Result<Value, Refusal> {
    let selector = Selector::parse(query.get("labelSelector"), query.get("fieldSelector"))?;
    let limit = query.get("limit").parse::<usize>().ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    let after = query.get("continue");
    shared.store(|store| {
        let name = |key: &crate::store::Key| format!("{}/{}", key.1, key.2);
        let mut rest = store
            .list(target.resource, target.namespace.as_deref(), &selector)
            .skip_while(|(key, _)| !after.is_empty() && name(key).as_str() <= after);
        let page: Vec<_> = rest.by_ref().take(limit).collect();
        let left = rest.count();
        let mut metadata = json!({"resourceVersion": store.version().to_string()});
        if let Some((last, _)) = page.last().filter(|_| left > 0) {
            metadata["continue"] = json!(name(last));
            metadata["remainingItemCount"] = json!(left);
        }
        let items: Vec<&Value> = page.iter().map(|(_, object)| &***object).collect();
        Ok(json!({
            "kind": format!("{}List", target.resource.kind),
            "apiVersion": target.resource.api_version(),
            "metadata": metadata,
            "items": items,
        }))
    })
}

fn start_watch(
    shared: Arc<Shared>,
    target: Target,
    query: &Query,
    fault: Option<Fault>,
) -> Result<Response<Answer>, Refusal> {
    let selector = Selector::parse(query.get("labelSelector"), query.get("fieldSelector"))?;
    let initial_events = query.is("sendInitialEvents");
    if initial_events && !(query.is("allowWatchBookmarks") && query.get("resourceVersionMatch") == "NotOlderThan") {
        return Err(Refusal::invalid(
            "sendInitialEvents needs allowWatchBookmarks and resourceVersionMatch=NotOlderThan",
        ));
    }
    let since = match query.get("resourceVersion") {
        _ if initial_events => None,
        "" | "0" => None,
        version => Some(version.parse::<u64>().map_err(|_| Refusal::bad("resourceVersion is no number"))?),
    };
    if let Some(version) = since {
        shared.store(|store| store.since(version).map(|_| ()))?;
    }
    let timeout = query.get("timeoutSeconds").parse().map_or(LONGEST_WATCH, Duration::from_secs);
    let bookmarks = query.is("allowWatchBookmarks");
    let request = watch::Request { target, selector, since, initial_events, bookmarks, timeout, fault };
    let (sender, lines) = mpsc::channel(64);
    tokio::spawn(watch::watch(shared, request, sender));
    Ok(respond(StatusCode::OK, Answer::Lines(lines)))
}

fn parse(body: &Bytes) -> Result<Value, Refusal> {
    serde_json::from_slice(body).map_err(|error| Refusal::bad(format!("the body is no JSON: {error}")))
}

fn refuse(refusal: &Refusal) -> Response<Answer> {
    whole(refusal.code, &refusal.to_json())
}

fn whole(code: StatusCode, value: &Value) -> Response<Answer> {
    raw(code, value.to_string().into())
}

fn raw(code: StatusCode, body: Bytes) -> Response<Answer> {
    respond(code, Answer::Whole(Some(body)))
}

fn respond(code: StatusCode, body: Answer) -> Response<Answer> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

fn text(headers: &HeaderMap, name: &http::HeaderName) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

/// RFC 3339, to the second.
fn now() -> String {
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days to a date in the proleptic Gregorian calendar: eras of 400 years that begin in March.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest % 3600 / 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The parameters of a request.
struct Query(BTreeMap<String, String>);

impl Query {
    fn parse(text: &str) -> Self {
        Self(form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    fn is(&self, name: &str) -> bool {
        matches!(self.get(name), "true" | "1")
    }
}
