//! inotify, as far as a folder of manifests needs it.
//!
//! The kernel interface is used directly and not through a cross-platform crate, because what matters here is exactly
//! what such crates blur: whether a writer has *closed* a file, and an event queue that the gateway's own reading of
//! 40,000 files does not fill up.

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// One thing that happened in a watched folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FileEvent {
    /// The entry was made: by a writer that has it open, or complete, as a link.
    Created(PathBuf),
    /// Somebody wrote to it and has not closed it.
    Writing(PathBuf),
    /// A writer closed it.
    Closed(PathBuf),
    /// It was renamed into place.
    MovedIn(PathBuf),
    /// It was deleted or renamed away.
    Gone(PathBuf),
    /// A folder appeared, moved or went.
    Folder(PathBuf),
    /// Events were lost: everything has to be looked at again.
    Lost,
}

/// Watches folders.
pub(crate) struct Watcher {
    inotify: OwnedFd,
    folders: HashMap<i32, PathBuf>,
    /// Forgotten since events were read last.
    forgotten: BTreeSet<i32>,
}

/// An event, and the watch that it came by; `None` where it concerns all of them.
pub(crate) type Watched = (Option<i32>, FileEvent);

/// Wakes a thread that waits for events.
#[derive(Clone, Debug)]
pub(crate) struct Waker(Arc<OwnedFd>);

impl Waker {
    pub fn new() -> rustix::io::Result<Self> {
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map(|fd| Self(Arc::new(fd)))
    }

    pub fn wake(&self) {
        // The counter being full means that a wake-up is pending already.
        let _full = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
    }
}

/// Waits for events, a wake-up or the timeout. True if there are events.
pub(crate) fn wait(watcher: Option<&Watcher>, waker: &Waker, timeout: Option<Duration>) -> bool {
    let timeout = timeout.map(|timeout| Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(timeout.subsec_nanos()),
    });
    let mut fds = vec![PollFd::new(&*waker.0, PollFlags::IN)];
    fds.extend(watcher.map(|watcher| PollFd::new(&watcher.inotify, PollFlags::IN)));
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) => fds.get(1).is_some_and(|fd| fd.revents().contains(PollFlags::IN)),
        Err(_) => false,
    }
}

impl Watcher {
    pub fn new() -> rustix::io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Self { inotify, folders: HashMap::new(), forgotten: BTreeSet::new() })
    }

    /// Watches the entries of a folder.
    pub fn add(&mut self, folder: &Path) -> rustix::io::Result<()> {
        let flags = WatchFlags::CREATE
            | WatchFlags::MODIFY
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::ONLYDIR;
        let watch = inotify::add_watch(&self.inotify, openable(folder), flags)?;
        self.folders.insert(watch, folder.to_owned());
        Ok(())
    }

    /// Watches whether the entries of a folder come and go, without their content.
    pub fn add_parent(&mut self, folder: &Path) -> rustix::io::Result<()> {
        let flags = WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::MASK_ADD
            | WatchFlags::ONLYDIR;
        let watch = inotify::add_watch(&self.inotify, openable(folder), flags)?;
        self.folders.entry(watch).or_insert_with(|| folder.to_owned());
        Ok(())
    }

    /// True if the folder is watched under this path.
    pub fn watches(&self, folder: &Path) -> bool {
        self.folders.values().any(|watched| watched == folder)
    }

    /// Stops watching a folder and what is below it, which may have another path by now.
    pub fn forget(&mut self, folder: &Path) {
        let below = |path: &PathBuf| path.starts_with(folder);
        let watches = self.folders.iter().filter(|(_, path)| below(path)).map(|(watch, _)| *watch);
        for watch in watches.collect::<BTreeSet<_>>() {
            self.folders.remove(&watch);
            self.forgotten.insert(watch);
            // It fails where the folder is gone, and the watch with it.
            let _gone = inotify::remove_watch(&self.inotify, watch);
        }
    }

    /// Whether an event that was read came by a watch that was forgotten meanwhile: its path is one that the folder may
    /// have had before, and what it tells of was looked at since.
    pub fn is_outdated(&self, watch: Option<i32>) -> bool {
        watch.is_some_and(|watch| self.forgotten.contains(&watch))
    }

    /// Takes the events that are there, without waiting.
    pub fn read(&mut self) -> Vec<Watched> {
        self.forgotten.clear();
        let mut buffer = [MaybeUninit::<u8>::uninit(); 16 << 10];
        let mut events = Vec::new();
        let mut dropped = Vec::new();
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Err(_) => {
                    events.push((None, FileEvent::Lost));
                    break;
                }
            };
            let flags = event.events();
            if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                events.push((None, FileEvent::Lost));
                continue;
            }
            if flags.contains(ReadFlags::IGNORED) {
                dropped.push(event.wd());
                continue;
            }
            let Some(folder) = self.folders.get(&event.wd()) else { continue };
            if let Some(name) = event.file_name() {
                let of_file = event_of(flags, folder.join(OsStr::from_bytes(name.to_bytes())));
                events.extend(of_file.map(|of_file| (Some(event.wd()), of_file)));
            }
        }
        for watch in dropped {
            self.folders.remove(&watch);
        }
        events
    }
}

/// The parent of a relative path is the empty path, which means the working directory.
fn openable(folder: &Path) -> &Path {
    if folder.as_os_str().is_empty() { Path::new(".") } else { folder }
}

fn event_of(flags: ReadFlags, path: PathBuf) -> Option<FileEvent> {
    let entry = ReadFlags::CREATE | ReadFlags::MOVED_TO | ReadFlags::MOVED_FROM | ReadFlags::DELETE;
    Some(if flags.contains(ReadFlags::ISDIR) {
        if !flags.intersects(entry) {
            return None;
        }
        FileEvent::Folder(path)
    } else if flags.contains(ReadFlags::CLOSE_WRITE) {
        FileEvent::Closed(path)
    } else if flags.contains(ReadFlags::MOVED_TO) {
        FileEvent::MovedIn(path)
    } else if flags.intersects(ReadFlags::MOVED_FROM | ReadFlags::DELETE) {
        FileEvent::Gone(path)
    } else if flags.contains(ReadFlags::CREATE) {
        FileEvent::Created(path)
    } else if flags.contains(ReadFlags::MODIFY) {
        FileEvent::Writing(path)
    } else {
        return None;
    })
}
