//! The access log: a line for each request, as JSON or by a template of nginx's variables, to a file or standard output.
//!
//! A worker writes the line into a buffer of its own and goes on; one thread gathers the buffers ten times a second and
//! writes them. So a request costs no system call, and a disk that is slow or full costs lines and never time: what
//! finds no room is dropped, counted and said once a minute.

mod lane;
mod output;
mod template;
mod writer;

pub use template::{Template, TemplateError, UPSTREAMINFO, VARIABLES};

use crate::request::{FinishedRequest, RequestSink, RequestSinks};
use crate::request_filter::RequestFilter;
use crate::request_json::JsonWriter;
use lane::{Lane, Urge};
use output::Output;
use sluicegate_trace::{Ratio, Sampler, TraceId};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::Thread;
use std::time::{Duration, Instant};
use template::TemplateWriter;
use writer::Writer;

/// What is logged, how and where.
#[derive(Clone, Debug)]
pub struct AccessLogSettings {
    /// Where lines go.
    pub target: LogTarget,
    /// What they look like.
    pub format: LineFormat,
    /// The part of requests that is logged; errors always are. A trace is in or out as a whole.
    pub sample: Option<Ratio>,
    /// Where there are any, only what one of them takes is logged.
    pub filters: Vec<RequestFilter>,
    /// Requests for these are not logged.
    pub skip: Vec<SkippedUrl>,
}

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard output.
    Stdout,
    /// A file, made where it is not there; or a named pipe.
    File(PathBuf),
}

impl fmt::Display for LogTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("stdout"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// What a line looks like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LineFormat {
    /// [`REQUEST_FIELDS`](crate::request_json::REQUEST_FIELDS) as a JSON object.
    #[default]
    Json,
    /// Text with variables.
    Template(Template),
}

impl FromStr for LineFormat {
    type Err = TemplateError;

    /// `json`, `nginx` (the line of ingress-nginx) or a template.
    fn from_str(text: &str) -> Result<Self, TemplateError> {
        match text {
            "json" => Ok(Self::Json),
            "nginx" => Template::parse(UPSTREAMINFO).map(Self::Template),
            text => Template::parse(text).map(Self::Template),
        }
    }
}

/// A URL whose requests are not logged: path and query as they came, or with `*` behind it all that begin so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkippedUrl {
    text: Box<[u8]>,
    is_beginning: bool,
}

/// A text that no URL begins with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no path; write one such as /healthz, or /assets/* for all that begin so (regular expressions are not taken)"
)]
pub struct SkippedUrlError(String);

impl FromStr for SkippedUrl {
    type Err = SkippedUrlError;

    fn from_str(text: &str) -> Result<Self, SkippedUrlError> {
        let (url, is_beginning) = text.strip_suffix('*').map_or((text, false), |beginning| (beginning, true));
        if !url.starts_with('/') || url.contains('*') {
            return Err(SkippedUrlError(text.to_owned()));
        }
        Ok(Self { text: url.as_bytes().into(), is_beginning })
    }
}

impl SkippedUrl {
    fn is_of(&self, request: &FinishedRequest<'_>) -> bool {
        let query = request.query;
        let url = || request.path.iter().chain(query.map(|_| &b'?')).chain(query.unwrap_or_default());
        let length = request.path.len() + query.map_or(0, |query| query.len() + 1);
        match self.is_beginning {
            true => length >= self.text.len() && url().take(self.text.len()).eq(&*self.text),
            false => length == self.text.len() && url().eq(&*self.text),
        }
    }
}

/// Why there is no access log.
#[derive(Debug, thiserror::Error)]
pub enum AccessLogError {
    /// The file cannot be opened.
    #[error(
        "--access-log {target}: cannot be opened for writing: {source}; give a file in a folder that this process may write to, stdout or off"
    )]
    Open {
        /// What was to be opened.
        target: LogTarget,
        /// What the system said.
        source: io::Error,
    },
    /// The system gave no thread.
    #[error("the thread that writes the access log cannot be started: {0}")]
    Thread(io::Error),
}

/// Lines since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineCounts {
    /// Handed to the system.
    pub written: u64,
    /// Lost: the target is full, gone or too slow.
    pub dropped: u64,
}

/// A running access log. Once it and the sinks of all workers are dropped, it writes what waits, for a second at most.
#[derive(Debug)]
pub struct AccessLog(Arc<Writing>);

/// The thread that writes, for as long as anybody has something to write.
#[derive(Debug)]
struct Writing {
    shared: Arc<Shared>,
    thread: Thread,
    /// Says that the thread is over.
    done: Mutex<mpsc::Receiver<()>>,
}

/// What workers, writer and owner share.
#[derive(Debug)]
struct Shared {
    target: LogTarget,
    rule: Rule,
    lanes: Mutex<Vec<Arc<Lane>>>,
    hurry: AtomicBool,
    reopen: AtomicBool,
    stop: Mutex<Option<Instant>>,
    stopping: AtomicBool,
    written: AtomicU64,
    /// By the writer; what workers dropped is in their lanes.
    lost: AtomicU64,
}

impl Shared {
    fn is_called(&self) -> bool {
        [&self.hurry, &self.reopen, &self.stopping].iter().any(|flag| flag.load(Ordering::Acquire))
    }

    /// When to give up, once it is to stop.
    fn stop_by(&self) -> Option<Instant> {
        self.stopping.load(Ordering::Acquire).then(|| *lock(&self.stop)).flatten()
    }

    fn dropped(&self) -> u64 {
        self.lost.load(Ordering::Relaxed) + lock(&self.lanes).iter().map(|lane| lane.dropped()).sum::<u64>()
    }
}

impl AccessLog {
    /// Opens the target and starts the thread that writes.
    ///
    /// # Errors
    /// Where the file cannot be opened.
    pub fn start(settings: AccessLogSettings) -> Result<Arc<Self>, AccessLogError> {
        let AccessLogSettings { target, format, sample, filters, skip } = settings;
        let output = Output::open(target.clone())?;
        let shared = Arc::new(Shared {
            target,
            rule: Rule { format, sample, filters, skip },
            lanes: Mutex::default(),
            hurry: AtomicBool::new(false),
            reopen: AtomicBool::new(false),
            stop: Mutex::new(None),
            stopping: AtomicBool::new(false),
            written: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        });
        let writer = Writer::new(output, Arc::clone(&shared));
        let (ended, done) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || {
                writer.run();
                // Nobody may wait for it.
                let _nobody = ended.try_send(());
            })
            .map_err(AccessLogError::Thread)?;
        Ok(Arc::new(Self(Arc::new(Writing { shared, thread: thread.thread().clone(), done: Mutex::new(done) }))))
    }

    /// Opens the file anew, for who has renamed it. Lines that were handed over before go into the old one.
    pub fn reopen(&self) {
        self.0.shared.reopen.store(true, Ordering::Release);
        self.0.thread.unpark();
    }

    /// How many lines there were.
    pub fn counts(&self) -> LineCounts {
        LineCounts { written: self.0.shared.written.load(Ordering::Relaxed), dropped: self.0.shared.dropped() }
    }

    /// Writes what waits and ends, at the latest after `limit`; what comes later is dropped. False where lines were left.
    pub fn finish(&self, limit: Duration) -> bool {
        self.0.finish(limit)
    }
}

impl Writing {
    fn finish(&self, limit: Duration) -> bool {
        lock(&self.shared.stop).get_or_insert_with(|| Instant::now() + limit);
        self.shared.stopping.store(true, Ordering::Release);
        self.thread.unpark();
        // A bit more than the writer gives itself: a disk that hangs lets it give up no sooner.
        match lock(&self.done).recv_timeout(limit + 2 * output::PATIENCE) {
            Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => true,
            Err(mpsc::RecvTimeoutError::Timeout) => false,
        }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.finish(Duration::from_secs(1));
    }
}

impl RequestSinks for AccessLog {
    fn of_worker(&self, _index: usize) -> Box<dyn RequestSink> {
        let lane = Arc::new(Lane::default());
        lock(&self.0.shared.lanes).push(Arc::clone(&lane));
        Box::new(Sink {
            writing: Arc::clone(&self.0),
            lane,
            json: JsonWriter::default(),
            template: TemplateWriter::default(),
            chance: Chance(RandomState::new().hash_one(0) | 1),
        })
    }
}

/// Which requests are logged, and how.
#[derive(Debug)]
struct Rule {
    format: LineFormat,
    sample: Option<Ratio>,
    filters: Vec<RequestFilter>,
    skip: Vec<SkippedUrl>,
}

impl Rule {
    fn takes(&self, request: &FinishedRequest<'_>, chance: &mut Chance) -> bool {
        if request.is_probe || request.route.is_some_and(|route| !route.access_log) {
            return false;
        }
        if !self.filters.is_empty() && !self.filters.iter().any(|filter| filter.takes(request)) {
            return false;
        }
        if self.skip.iter().any(|url| url.is_of(request)) {
            return false;
        }
        match self.sample {
            None => true,
            Some(_) if is_error(request) => true,
            Some(ratio) => {
                let id =
                    request.trace.map_or_else(|| TraceId::from_random(chance.next().into()), |trace| trace.trace_id);
                Sampler::Ratio(ratio).samples(id, None)
            }
        }
    }
}

/// What is wrong on this side of the client: no answer, one that says so, and one that was cut. That clients ask for what
/// is not there or may not be had is no such thing.
fn is_error(request: &FinishedRequest<'_>) -> bool {
    let is_refusal = (400..499).contains(&request.status);
    request.status >= 499 || request.status < 100 || (request.fault.is_some() && !is_refusal)
}

/// Numbers by chance (xorshift64*, Vigna 2014): for samples, not for secrets.
#[derive(Debug)]
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        // The lower bits of the product are the worse ones, and samplers look at those.
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d).swap_bytes()
    }
}

/// The end that a worker holds.
struct Sink {
    writing: Arc<Writing>,
    lane: Arc<Lane>,
    json: JsonWriter,
    template: TemplateWriter,
    chance: Chance,
}

impl RequestSink for Sink {
    fn finished(&mut self, request: &FinishedRequest<'_>) {
        let Writing { shared, thread, .. } = &*self.writing;
        let rule = &shared.rule;
        if !rule.takes(request, &mut self.chance) {
            return;
        }
        let (json, writer) = (&mut self.json, &mut self.template);
        let urge = self.lane.push(|out| match &rule.format {
            LineFormat::Json => json.write(out, request),
            LineFormat::Template(template) => template.write(out, request, writer),
        });
        match urge {
            Urge::None => {}
            Urge::Begin => thread.unpark(),
            Urge::Hurry => {
                shared.hurry.store(true, Ordering::Release);
                thread.unpark();
            }
        }
    }
}

/// Values are whole at every point, so a thread that panicked with the lock left nothing broken.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
