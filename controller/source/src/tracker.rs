//! Which files have to be read when: it remembers who is still writing, what vanished a moment ago and what each file
//! looked like when it was read.

use crate::directory::Root;
use crate::files::FileTable;
use crate::manifest::{Format, unreadable};
use crate::walk::{self, Found, Mark, Ready, Scan, Stamp};
use crate::watch::{FileEvent, Watcher};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A file that vanishes may come back at once: editors rename the old one away before they write the new one.
const GRACE: Duration = Duration::from_millis(20);
/// A file that appeared without anybody seen writing it is read once it looked the same for so long.
const SETTLE: Duration = Duration::from_millis(25);
/// An empty file that held something is taken for empty after so long: a writer that has truncated it may wait for the disk
/// before the kernel tells of that, and nobody is in a hurry to have a file emptied.
const EMPTIED: Duration = Duration::from_millis(500);
/// A file that was written longer ago than this is complete.
const YOUNG: Duration = Duration::from_millis(100);
/// How often links are looked at, whose targets no watch sees; and everything, where there is no inotify.
const LOOK: Duration = Duration::from_secs(1);
/// `SETTLE` where there is no inotify.
const SETTLE_POLLING: Duration = Duration::from_millis(500);

/// Decides which files are to be read.
#[derive(Debug)]
pub(crate) struct Tracker {
    roots: Vec<Root>,
    polling: bool,
    next_look: Instant,
    /// What each file looked like when it was read.
    stamps: BTreeMap<Arc<str>, Mark>,
    links: BTreeSet<Arc<str>>,
    problems: BTreeSet<Arc<str>>,
    writing: BTreeSet<Arc<str>>,
    /// With their bytes, as far as known.
    ready: BTreeMap<Arc<str>, u64>,
    gone: BTreeMap<Arc<str>, Instant>,
    unsettled: BTreeMap<Arc<str>, (Option<Stamp>, Instant)>,
    /// Files that held something and were empty when they were read last.
    emptied: BTreeMap<Arc<str>, (Stamp, Instant)>,
}

impl Tracker {
    pub fn new(roots: Vec<Root>, polling: bool) -> Self {
        Self {
            roots,
            polling,
            next_look: Instant::now() + LOOK,
            stamps: BTreeMap::new(),
            links: BTreeSet::new(),
            problems: BTreeSet::new(),
            writing: BTreeSet::new(),
            ready: BTreeMap::new(),
            gone: BTreeMap::new(),
            unsettled: BTreeMap::new(),
            emptied: BTreeMap::new(),
        }
    }

    /// Looks through all roots. With a watcher, every folder is watched before it is listed.
    pub fn look_everywhere(&mut self, table: &mut FileTable, mut watcher: Option<&mut Watcher>) -> Result<(), Errno> {
        for root in self.roots.clone() {
            if let Some(watcher) = watcher.as_deref_mut()
                && let (Some(parent), Some(_)) = (root.path().parent(), root.path().file_name())
            {
                let watched = match root {
                    Root::Folder(_) => watcher.add_parent(parent),
                    Root::File(_) => watcher.add(parent),
                };
                watched.or_else(only_if_exhausted)?;
            }
            match root {
                Root::Folder(folder) => self.look_into(&folder, table, watcher.as_deref_mut())?,
                Root::File(file) => self.look_at(&file),
            }
        }
        Ok(())
    }

    /// Everything that there is becomes ready, however young.
    pub fn look_once(&mut self, table: &mut FileTable) {
        // Without a watcher there is nothing that could be exhausted.
        let _never = self.look_everywhere(table, None);
        let unsettled = std::mem::take(&mut self.unsettled).into_iter();
        self.ready.extend(unsettled.map(|(path, (stamp, _))| (path, stamp.as_ref().map_or(0, Stamp::size))));
    }

    /// There is no inotify (any more).
    pub fn poll_from_here(&mut self) {
        self.polling = true;
        self.writing.clear();
        self.next_look = Instant::now();
    }

    /// Takes one event of the watcher.
    pub fn take_event(
        &mut self,
        event: FileEvent,
        table: &mut FileTable,
        watcher: Option<&mut Watcher>,
    ) -> Result<(), Errno> {
        let path = match &event {
            FileEvent::Lost => {
                // Closings may be among what was lost, so nobody is known to be writing.
                self.writing.clear();
                return self.look_everywhere(table, watcher);
            }
            FileEvent::Created(path)
            | FileEvent::Writing(path)
            | FileEvent::Closed(path)
            | FileEvent::MovedIn(path)
            | FileEvent::Gone(path)
            | FileEvent::Folder(path) => path.clone(),
        };
        if self.roots.iter().any(|root| matches!(root, Root::Folder(folder) if *folder == path)) {
            if let Some(watcher) = watcher {
                self.forget(&path, watcher);
                return self.look_everywhere(table, Some(watcher));
            }
            return Ok(());
        }
        if let Some(file) = self.manifest(&path)
            && !matches!(event, FileEvent::Folder(_))
        {
            self.take_file_event(&event, file);
            return Ok(());
        }
        self.take_other_event(&event, &path, table, watcher)
    }

    fn take_file_event(&mut self, event: &FileEvent, file: Arc<str>) {
        self.gone.remove(&file);
        match event {
            FileEvent::Closed(_) | FileEvent::MovedIn(_) => {
                self.writing.remove(&file);
                self.unsettled.remove(&file);
                self.ready.insert(file, 0);
            }
            FileEvent::Gone(_) => {
                self.writing.remove(&file);
                self.unsettled.remove(&file);
                self.ready.remove(&file);
                self.gone.insert(file, Instant::now() + GRACE);
            }
            FileEvent::Created(path) => {
                let own = std::fs::symlink_metadata(path);
                if own.as_ref().is_ok_and(std::fs::Metadata::is_symlink) {
                    self.ready.insert(Arc::clone(&file), 0);
                    self.links.insert(file);
                } else if own.is_ok_and(|own| own.len() > 0) {
                    // A hard link, or a writer whose first write comes as the next event.
                    self.look_again(&file);
                } else {
                    self.write_begins(file);
                }
            }
            FileEvent::Writing(_) => self.write_begins(file),
            FileEvent::Folder(_) | FileEvent::Lost => {}
        }
    }

    fn write_begins(&mut self, file: Arc<str>) {
        self.unsettled.remove(&file);
        self.ready.remove(&file);
        self.writing.insert(file);
    }

    fn take_other_event(
        &mut self,
        event: &FileEvent,
        path: &Path,
        table: &mut FileTable,
        watcher: Option<&mut Watcher>,
    ) -> Result<(), Errno> {
        let Some(watcher) = watcher else { return Ok(()) };
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        // A mounted ConfigMap or Secret is changed by swapping this link.
        if name == b"..data" && matches!(event, FileEvent::MovedIn(_) | FileEvent::Created(_)) {
            let parent = path.parent().unwrap_or(path);
            for file in self.file_roots_in(parent) {
                self.look_at(&file);
            }
            let inside = self.is_inside(parent);
            return if inside { self.look_into(parent, table, Some(watcher)) } else { Ok(()) };
        }
        if walk::is_hidden(path) || !self.is_inside(path) {
            return Ok(());
        }
        let concerns_folder = match event {
            FileEvent::Folder(_) => true,
            // Links to folders come and go as files do.
            FileEvent::Created(_) | FileEvent::MovedIn(_) => path.is_dir(),
            FileEvent::Gone(_) => watcher.watches(path),
            _ => false,
        };
        if concerns_folder {
            self.forget(path, watcher);
            self.look_into(path, table, Some(watcher))?;
        }
        Ok(())
    }

    /// Stops watching a folder and what is below it. Nobody would be heard closing a file there, so nobody is known to be
    /// writing.
    fn forget(&mut self, folder: &Path, watcher: &mut Watcher) {
        self.writing.retain(|file| !Path::new(&**file).starts_with(folder));
        watcher.forget(folder);
    }

    /// Compares what is in a folder, and below it, with what was read.
    fn look_into(
        &mut self,
        folder: &Path,
        table: &mut FileTable,
        mut watcher: Option<&mut Watcher>,
    ) -> Result<(), Errno> {
        let mut exhausted = Ok(());
        let scanned = walk::scan(folder, &mut |entered| {
            if let Some(watcher) = watcher.as_deref_mut()
                && exhausted.is_ok()
            {
                exhausted = watcher.add(entered).or_else(only_if_exhausted);
            }
        });
        let is_root = self.roots.iter().any(|root| root.path() == folder);
        let scan = match scanned {
            Ok(scan) => scan,
            Err(error) if is_vanished(&error) && !is_root => Scan::default(),
            Err(error) => Scan {
                problems: BTreeMap::from([(display(folder), format!("the folder cannot be read: {error}"))]),
                ..Scan::default()
            },
        };
        self.compare(folder, scan, table);
        exhausted
    }

    fn compare(&mut self, folder: &Path, scan: Scan, table: &mut FileTable) {
        let below = |path: &str| Path::new(path).starts_with(folder);
        for problem in self.problems.iter().filter(|path| below(path)).cloned().collect::<Vec<_>>() {
            if !scan.problems.contains_key(&problem) {
                self.problems.remove(&problem);
                table.remove(&problem);
            }
        }
        for (path, reason) in &scan.problems {
            if self.problems.insert(Arc::clone(path)) {
                let remedy = "let the gateway's user read the folder; what it gave before stays in force until then";
                table.put(path, unreadable(path, reason.clone(), remedy));
            }
        }
        let hidden_by_problem =
            |path: &str| scan.problems.keys().any(|problem| Path::new(path).starts_with(&**problem));
        let known = self.stamps.keys().chain(self.unsettled.keys()).filter(|path| below(path)).cloned();
        for path in known.collect::<BTreeSet<_>>() {
            if !scan.files.contains_key(&path) && !self.is_file_root(&path) && !hidden_by_problem(&path) {
                self.unsettled.remove(&path);
                self.gone.entry(path).or_insert_with(|| Instant::now() + GRACE);
            }
        }
        for (path, found) in scan.files {
            self.compare_file(path, found);
        }
    }

    fn compare_file(&mut self, path: Arc<str>, found: Found) {
        if found.link {
            self.links.insert(Arc::clone(&path));
        }
        self.gone.remove(&path);
        if self.writing.contains(&path) || self.stamps.get(&path) == Some(&found.stamp.mark()) {
            return;
        }
        if self.polling || found.stamp.is_younger_than(YOUNG) {
            let rested = Instant::now() + self.settle();
            self.unsettled.entry(path).or_insert((Some(found.stamp), rested));
        } else {
            self.ready.insert(path, found.stamp.size());
        }
    }

    /// Compares one file with what was read.
    fn look_at(&mut self, file: &Path) {
        let path = display(file);
        match walk::stamp(&path) {
            Some(stamp) => self.compare_file(path, Found { stamp, link: false }),
            None if self.stamps.contains_key(&path) => {
                self.gone.entry(path).or_insert_with(|| Instant::now() + GRACE);
            }
            None => {}
        }
    }

    /// Moves to [`Tracker::take_ready`] what is due, and takes away what stayed gone.
    pub fn take_due(
        &mut self,
        now: Instant,
        table: &mut FileTable,
        watcher: Option<&mut Watcher>,
    ) -> Result<(), Errno> {
        let mut outcome = Ok(());
        if self.next_look <= now {
            self.next_look = now + LOOK;
            if self.polling {
                outcome = self.look_everywhere(table, watcher);
            } else {
                for link in self.links.clone() {
                    self.look_at(Path::new(&*link));
                }
            }
        }
        for path in due(&self.gone, |at| *at <= now) {
            self.gone.remove(&path);
            match walk::stamp(&path) {
                Some(stamp) => {
                    self.ready.insert(path, stamp.size());
                }
                None => {
                    self.was_removed(&path);
                    table.remove(&path);
                }
            }
        }
        for path in due(&self.unsettled, |(_, at)| *at <= now) {
            let before = self.unsettled.remove(&path).and_then(|(stamp, _)| stamp);
            match walk::stamp(&path) {
                Some(stamp) if before == Some(stamp) => {
                    self.ready.insert(path, stamp.size());
                }
                Some(stamp) => {
                    self.unsettled.insert(path, (Some(stamp), now + self.settle()));
                }
                None => {
                    self.gone.insert(path, now + GRACE);
                }
            }
        }
        outcome
    }

    /// The files to read, sorted.
    pub fn take_ready(&mut self) -> Vec<Ready> {
        std::mem::take(&mut self.ready).into_iter().map(|(path, bytes)| Ready { path, bytes }).collect()
    }

    /// True if something happened to the file that makes a reading of it worthless.
    pub fn is_stirring(&self, path: &str) -> bool {
        self.writing.contains(path) || self.ready.contains_key(path)
    }

    /// True if nothing waits to be decided that could be part of the first state.
    pub fn is_settled(&self) -> bool {
        self.ready.is_empty() && self.unsettled.is_empty()
    }

    /// An empty file that held something is most often one that a writer has just truncated: it counts once nobody has
    /// touched it for a while. (Equal stamps alone do not say so, because file times are coarse.)
    pub fn may_be_truncated(&mut self, path: &Arc<str>, stamp: Stamp) -> bool {
        if !stamp.is_empty() {
            return false;
        }
        let now = Instant::now();
        match self.emptied.get(path) {
            Some((before, since)) if *before == stamp && now.duration_since(*since) >= EMPTIED => return false,
            Some((before, _)) if *before == stamp => {}
            _ => {
                self.emptied.insert(Arc::clone(path), (stamp, now));
            }
        }
        self.look_again(path);
        true
    }

    /// The file was read and looked like this.
    pub fn was_read(&mut self, path: &Arc<str>, stamp: Option<Stamp>) {
        self.emptied.remove(path);
        match stamp {
            Some(stamp) => self.stamps.insert(Arc::clone(path), stamp.mark()),
            None => self.stamps.remove(path),
        };
    }

    /// Gives back what the map of a first load has too much: its nodes are half empty where they were filled in order.
    pub fn pack(&mut self) {
        self.stamps = std::mem::take(&mut self.stamps).into_iter().collect();
    }

    /// The file is no more.
    pub fn was_removed(&mut self, path: &str) {
        self.stamps.remove(path);
        self.links.remove(path);
        self.emptied.remove(path);
        self.writing.remove(path);
    }

    /// The file has to be looked at again, once it rests.
    pub fn look_again(&mut self, path: &Arc<str>) {
        if !self.writing.contains(path) {
            self.unsettled.insert(Arc::clone(path), (walk::stamp(path), Instant::now() + self.settle()));
        }
    }

    /// When [`Tracker::take_due`] has something to do, if nothing else happens.
    pub fn next_deadline(&self) -> Option<Instant> {
        let look = (self.polling || !self.links.is_empty()).then_some(self.next_look);
        let ready = (!self.ready.is_empty()).then(Instant::now);
        let gone = self.gone.values().min().copied();
        let unsettled = self.unsettled.values().map(|(_, at)| *at).min();
        [look, ready, gone, unsettled].into_iter().flatten().min()
    }

    fn settle(&self) -> Duration {
        if self.polling { SETTLE_POLLING } else { SETTLE }
    }

    /// The path of a manifest that is to be read: in a root and not hidden, or a root itself.
    fn manifest(&self, path: &Path) -> Option<Arc<str>> {
        let text = path.to_str()?;
        if self.is_file_root(text) || (Format::of(text).is_some() && self.is_inside(path)) {
            return Some(text.into());
        }
        None
    }

    fn is_file_root(&self, path: &str) -> bool {
        self.roots.iter().any(|root| matches!(root, Root::File(file) if file == Path::new(path)))
    }

    /// True if the path is in a root folder, and neither it nor a folder on the way is hidden.
    fn is_inside(&self, path: &Path) -> bool {
        self.roots.iter().any(|root| match root {
            Root::Folder(folder) => path.strip_prefix(folder).is_ok_and(|below| {
                below.components().all(|part| !part.as_os_str().as_encoded_bytes().starts_with(b"."))
            }),
            Root::File(_) => false,
        })
    }

    fn file_roots_in(&self, folder: &Path) -> Vec<PathBuf> {
        let files = self.roots.iter().filter(|root| matches!(root, Root::File(_))).map(Root::path);
        files.filter(|file| file.parent() == Some(folder)).map(Path::to_owned).collect()
    }
}

fn due<T>(waiting: &BTreeMap<Arc<str>, T>, is_due: impl Fn(&T) -> bool) -> Vec<Arc<str>> {
    waiting.iter().filter(|(_, at)| is_due(at)).map(|(path, _)| Arc::clone(path)).collect()
}

fn display(path: &Path) -> Arc<str> {
    path.to_string_lossy().into()
}

fn is_vanished(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// A folder that vanished or may not be read is told by the scan; that watches ran out concerns all folders.
fn only_if_exhausted(error: Errno) -> Result<(), Errno> {
    match error {
        Errno::NOSPC | Errno::NOMEM => Err(error),
        _ => Ok(()),
    }
}
