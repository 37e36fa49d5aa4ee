//! The shell around the folder: a thread that reads it, watches it and hands on what changed.

use crate::files::{Changes, FileTable};
use crate::tracker::Tracker;
use crate::walk::{self, Load, Ready};
use crate::watch::{Waker, Watcher, wait};
use rustix::io::Errno;
use sluicegate_config::Rejection;
use sluicegate_translate::ObjectChange;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// After the first event of a burst, a pause this long ends it.
const QUIET: Duration = Duration::from_millis(2);
/// A burst is cut off after this time, so that constant writing delays nobody.
const LONGEST_BURST: Duration = Duration::from_millis(20);
/// The kernel changes a file first and queues the event a moment later. What was changed this lately (file times are
/// up to 10 ms behind the clock) is taken only once the event must have come.
const FRESH: Duration = Duration::from_millis(12);
/// That moment, generously.
const EVENT_LAG: Duration = Duration::from_millis(1);
/// Turns in a row in which files are read again because others were taken away. Each turn settles a file.
const MAX_REREADS: usize = 100_000;

/// What to watch and how.
#[derive(Clone, Debug, Default)]
pub struct DirectorySettings {
    /// Folders, and single files.
    pub paths: Vec<PathBuf>,
    /// Never use inotify; look once a second instead. Without it, polling is what happens where inotify cannot be had.
    pub poll: bool,
}

/// Objects that changed together.
#[derive(Debug)]
pub struct SourceEvent {
    /// Objects, sorted.
    pub changes: Vec<ObjectChange>,
    /// For each file that was touched, all that was not taken from it (empty = nothing any more), sorted by path.
    pub file_rejections: Vec<(Arc<str>, Vec<Rejection>)>,
    /// True for the event that completes the first state, which comes even if it is empty. What comes before it are parts of
    /// the first state.
    pub initial: bool,
    /// When the first of the changes was noticed.
    pub noticed: Instant,
    /// Counted up with each event of an API server; 0 from a folder, which asks for nothing back.
    pub number: u64,
    /// With this event all Services have been read that there were when somebody asked for this round
    /// ([`crate::Wishes::read_again`]).
    pub round: Option<u64>,
}

/// Why a folder cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The path that the user gave cannot be read.
    #[error("{}: {error}; name a folder or file of manifests that the gateway's user can read", .path.display())]
    Unreadable {
        /// The path.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The path is a socket, a device or the like.
    #[error("{}: neither a folder nor a file; name a folder or file of manifests", .path.display())]
    NotAManifest {
        /// The path.
        path: PathBuf,
    },
    /// No path was given.
    #[error("no manifests were named; name at least one folder or file")]
    NothingNamed,
    /// The system did not give what the watching thread needs.
    #[error("the folder cannot be watched")]
    System(#[from] io::Error),
}

/// A watched folder. Dropping it ends the thread.
#[derive(Debug)]
pub struct Directory {
    stop: Arc<AtomicBool>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Directory {
    /// Reads everything, then goes on watching, in a thread of its own.
    ///
    /// `sink` takes each event and returns false to end it; it may block, and changes then gather in the meantime.
    ///
    /// # Errors
    /// Where a path cannot be read at all, or the system has no threads or file descriptors left.
    pub fn watch(
        settings: DirectorySettings,
        sink: impl FnMut(SourceEvent) -> bool + Send + 'static,
    ) -> Result<Self, SourceError> {
        let roots = roots(&settings.paths)?;
        let stop = Arc::new(AtomicBool::new(false));
        let waker = Waker::new().map_err(io::Error::from)?;
        let watcher = if settings.poll { None } else { start_inotify() };
        let shell = Shell {
            tracker: Tracker::new(roots, watcher.is_none()),
            table: FileTable::default(),
            watcher,
            waker: waker.clone(),
            stop: Arc::clone(&stop),
            first: Some(Instant::now()),
            sink,
        };
        let thread = std::thread::Builder::new().name("source".to_owned()).spawn(move || shell.run())?;
        Ok(Self { stop, waker, thread: Some(thread) })
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.waker.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that watches the manifests panicked");
        }
    }
}

/// Reads everything once, without watching.
///
/// # Errors
/// Where a path cannot be read at all.
pub fn load(paths: &[PathBuf]) -> Result<SourceEvent, SourceError> {
    let noticed = Instant::now();
    let mut tracker = Tracker::new(roots(paths)?, false);
    let mut table = FileTable::default();
    tracker.look_once(&mut table);
    let ready = tracker.take_ready();
    let mut rest = &ready[..];
    while !rest.is_empty() {
        for loaded in walk::load(walk::next_wave(&mut rest), &|_, _| false) {
            if let Load::Manifest(manifest, _) = loaded.load {
                table.put(&loaded.path, manifest);
            }
        }
    }
    let Changes { objects, files } = table.drain();
    Ok(SourceEvent { changes: objects, file_rejections: files, initial: true, noticed, number: 0, round: None })
}

/// A path that the user named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Root {
    /// All manifests in it and below it.
    Folder(PathBuf),
    /// This file, whatever its name ends with.
    File(PathBuf),
}

impl Root {
    pub fn path(&self) -> &Path {
        match self {
            Self::Folder(path) | Self::File(path) => path,
        }
    }
}

fn roots(paths: &[PathBuf]) -> Result<Vec<Root>, SourceError> {
    if paths.is_empty() {
        return Err(SourceError::NothingNamed);
    }
    paths
        .iter()
        .map(|path| {
            let path = path.components().collect::<PathBuf>();
            let unreadable = |error| SourceError::Unreadable { path: path.clone(), error };
            let metadata = std::fs::metadata(&path).map_err(unreadable)?;
            if metadata.is_dir() {
                std::fs::read_dir(&path).map_err(unreadable)?;
                Ok(Root::Folder(path))
            } else if metadata.is_file() {
                std::fs::File::open(&path).map_err(unreadable)?;
                Ok(Root::File(path))
            } else {
                Err(SourceError::NotAManifest { path })
            }
        })
        .collect()
}

fn start_inotify() -> Option<Watcher> {
    match Watcher::new() {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            say_polling(error);
            None
        }
    }
}

/// Says why changes are found by polling.
fn say_polling(error: Errno) {
    let limit = match error {
        Errno::NOSPC => "fs.inotify.max_user_watches is used up; raise it with sysctl",
        Errno::MFILE => "fs.inotify.max_user_instances is used up; raise it with sysctl",
        _ => "inotify is not to be had",
    };
    tracing::warn!(%error, "{limit}; until then the manifests are looked at once a second, and changes take up to two");
}

struct Shell<S> {
    tracker: Tracker,
    table: FileTable,
    watcher: Option<Watcher>,
    waker: Waker,
    stop: Arc<AtomicBool>,
    /// Since when the first state is read, until it is handed on.
    first: Option<Instant>,
    sink: S,
}

impl<S: FnMut(SourceEvent) -> bool> Shell<S> {
    fn run(mut self) {
        let mut noticed = None;
        self.look_everywhere();
        loop {
            let settled = self.act();
            // What was being read is not all there.
            if self.is_stopped() {
                return;
            }
            if settled && let Some(since) = self.first.take() {
                self.hand_on(true, since);
                self.table.pack();
                self.tracker.pack();
                noticed = None;
            } else if self.first.is_none() {
                self.hand_on(false, noticed.take().unwrap_or_else(Instant::now));
            }
            if self.is_stopped() {
                return;
            }
            let timeout = self.tracker.next_deadline().map(|at| at.saturating_duration_since(Instant::now()));
            if wait(self.watcher.as_ref(), &self.waker, timeout) {
                noticed.get_or_insert_with(Instant::now);
                self.gather();
            }
        }
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Takes the events of a burst.
    fn gather(&mut self) {
        let start = Instant::now();
        loop {
            self.take_events();
            let over = start.elapsed() >= LONGEST_BURST || self.is_stopped();
            if over || !wait(self.watcher.as_ref(), &self.waker, Some(QUIET)) {
                return;
            }
        }
    }

    fn take_events(&mut self) {
        let events = self.watcher.as_mut().map(Watcher::read).unwrap_or_default();
        for (watch, event) in events {
            if self.watcher.as_ref().is_some_and(|watcher| watcher.is_outdated(watch)) {
                continue;
            }
            if let Err(error) = self.tracker.take_event(event, &mut self.table, self.watcher.as_mut()) {
                self.give_up_watching(error);
            }
        }
    }

    fn look_everywhere(&mut self) {
        if let Err(error) = self.tracker.look_everywhere(&mut self.table, self.watcher.as_mut()) {
            self.give_up_watching(error);
        }
    }

    fn give_up_watching(&mut self, error: Errno) {
        if self.watcher.take().is_some() {
            say_polling(error);
        }
        self.tracker.poll_from_here();
    }

    /// Does what is due: reads files, takes away those that are gone. True if nothing of the folder is left undecided.
    fn act(&mut self) -> bool {
        let now = Instant::now();
        if let Err(error) = self.tracker.take_due(now, &mut self.table, self.watcher.as_mut()) {
            self.give_up_watching(error);
        }
        let ready = self.tracker.take_ready();
        let mut rest = &ready[..];
        while !rest.is_empty() && !self.is_stopped() {
            self.take_wave(walk::next_wave(&mut rest));
            if let Some(since) = self.first
                && !rest.is_empty()
            {
                self.hand_on(false, since);
            }
        }
        for _ in 0..MAX_REREADS {
            let Some(path) = self.table.wanted() else { break };
            for loaded in walk::load(&[Ready { path, bytes: 0 }], &|path, digest| self.table.knows(path, digest)) {
                self.take_file(loaded);
            }
        }
        self.tracker.is_settled()
    }

    fn take_wave(&mut self, wave: &[Ready]) {
        let loaded = walk::load(wave, &|path, digest| self.table.knows(path, digest));
        let fresh = |loaded: &walk::Loaded| matches!(&loaded.load, Load::Manifest(_, Some(stamp)) if stamp.is_younger_than(FRESH));
        if loaded.iter().any(fresh) {
            std::thread::sleep(EVENT_LAG);
        }
        // A writer that got at a file while it was read has left an event by now: what was read is then half a file.
        self.take_events();
        for loaded in loaded {
            if !self.tracker.is_stirring(&loaded.path) {
                self.take_file(loaded);
            }
        }
    }

    fn take_file(&mut self, loaded: walk::Loaded) {
        match loaded.load {
            Load::Manifest(_, Some(stamp))
                if self.table.gives_anything(&loaded.path) && self.tracker.may_be_truncated(&loaded.path, stamp) => {}
            Load::Manifest(manifest, stamp) => {
                self.tracker.was_read(&loaded.path, stamp);
                self.table.put(&loaded.path, manifest);
            }
            Load::Gone => {
                self.tracker.was_removed(&loaded.path);
                self.table.remove(&loaded.path);
            }
            Load::Moving => {
                self.tracker.look_again(&loaded.path);
                if self.table.wanted().as_ref() == Some(&loaded.path) {
                    let reason = "the file changes while it is read".to_owned();
                    let manifest = crate::manifest::unreadable(&loaded.path, reason, "wait until it is written");
                    self.table.put(&loaded.path, manifest);
                }
            }
        }
    }

    /// Nobody who takes it is a reason to end.
    fn hand_on(&mut self, initial: bool, noticed: Instant) {
        let changes = self.table.drain();
        if changes.is_empty() && !initial {
            return;
        }
        let Changes { objects, files } = changes;
        let event = SourceEvent { changes: objects, file_rejections: files, initial, noticed, number: 0, round: None };
        if !(self.sink)(event) {
            self.stop.store(true, Ordering::Relaxed);
        }
    }
}
