//! Reads folders: which manifests there are, and what they hold. The only place that opens files.

use crate::manifest::{self, Format, MAX_FILE_BYTES, Manifest, Source};
use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::num::NonZero;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

/// Folders inside folders that are followed.
const MAX_DEPTH: usize = 32;
/// Bytes of files, and files, that are read and parsed before what they give is handed on. Objects as they are parsed are ten
/// times as large as their text, and memory that was used a moment ago is cheaper than fresh one.
const WAVE_BYTES: u64 = 4 << 20;
const WAVE_FILES: usize = 4096;
/// Files that a thread takes at a time.
const FILES_PER_TURN: usize = 16;
/// Documents that a thread takes at a time.
const PIECES_PER_TURN: usize = 64;
/// Of a file that is smaller threads do not share the documents: they would cost more than they save.
const PARALLEL_BYTES: usize = 256 << 10;

/// What tells one state of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Stands for a stamp where one is kept for each of tens of thousands of files. Equal marks are taken for equal stamps, as
/// equal [`manifest::Digest`]s are for equal content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark(manifest::Digest);

impl Stamp {
    /// What is kept of it.
    pub fn mark(&self) -> Mark {
        Mark(manifest::Digest::of(self))
    }

    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// The length of the file in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// True for a file without a byte.
    pub fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// True if the content changed so lately that somebody may be in the middle of it.
    pub fn is_younger_than(&self, age: Duration) -> bool {
        let modified = SystemTime::UNIX_EPOCH
            + Duration::new(u64::try_from(self.modified.0).unwrap_or(0), u32::try_from(self.modified.1).unwrap_or(0));
        SystemTime::now().duration_since(modified).is_ok_and(|since| since < age)
    }
}

/// A manifest that a scan found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub stamp: Stamp,
    /// Its name is a symbolic link: the target may change where no watch sees it.
    pub link: bool,
}

/// What a scan of one folder found.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Manifests by path.
    pub files: BTreeMap<Arc<str>, Found>,
    /// What could not be looked into: path and why.
    pub problems: BTreeMap<Arc<str>, String>,
}

/// Looks through a folder and what is below it. `enter` is called for each folder before it is listed, so that a watch
/// can be set first and nothing falls between the two. A folder that is reachable twice (a loop of links) is read once.
pub(crate) fn scan(root: &Path, enter: &mut dyn FnMut(&Path)) -> io::Result<Scan> {
    let mut scan = Scan::default();
    let mut seen = HashSet::new();
    let metadata = fs::metadata(root)?;
    seen.insert((metadata.dev(), metadata.ino()));
    enter(root);
    let entries = list(root)?;
    scan_entries(entries, 0, &mut seen, &mut scan, enter);
    Ok(scan)
}

/// The entries of a folder by path; true for links. Folders say so themselves: there is nothing to ask for each entry.
fn list(folder: &Path) -> io::Result<BTreeMap<PathBuf, bool>> {
    let entry = |entry: fs::DirEntry| Ok((entry.path(), entry.file_type()?.is_symlink()));
    fs::read_dir(folder)?.map(|found| found.and_then(entry)).collect()
}

fn scan_entries(
    entries: BTreeMap<PathBuf, bool>,
    depth: usize,
    seen: &mut HashSet<(u64, u64)>,
    scan: &mut Scan,
    enter: &mut dyn FnMut(&Path),
) {
    for (path, link) in entries {
        let Some(text) = path.to_str().map(Arc::<str>::from) else { continue };
        if is_hidden(&path) {
            continue;
        }
        // A link without a target, or what vanished since it was listed, is not there.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_file() && Format::of(&text).is_some() {
            scan.files.insert(text, Found { stamp: Stamp::of(&metadata), link });
        } else if metadata.is_dir() && seen.insert((metadata.dev(), metadata.ino())) {
            if depth == MAX_DEPTH {
                scan.problems.insert(text, format!("folders are nested deeper than {MAX_DEPTH}"));
                continue;
            }
            enter(&path);
            match list(&path) {
                Ok(entries) => scan_entries(entries, depth + 1, seen, scan, enter),
                Err(error) => {
                    scan.problems.insert(text, format!("the folder cannot be read: {error}"));
                }
            }
        }
    }
}

/// Names that start with a dot: editors' swap files, and the innards of a mounted ConfigMap.
pub(crate) fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// The stamp of a file, following links. `None` where there is no regular file.
pub(crate) fn stamp(path: &str) -> Option<Stamp> {
    fs::metadata(path).ok().filter(Metadata::is_file).map(|metadata| Stamp::of(&metadata))
}

/// What reading one file gave.
#[derive(Debug)]
pub(crate) enum Content {
    /// The content, and the stamp that it had before and after.
    Bytes(Vec<u8>, Stamp),
    /// It is not there.
    Gone,
    /// It changed while it was read.
    Moving,
    /// It cannot be read: why, and what to do.
    Failed(String, &'static str),
}

/// Reads one file, within bounds, and notices when it changes meanwhile.
pub(crate) fn read(path: &str) -> Content {
    // A FIFO in the place of a file must not block.
    let opened =
        OpenOptions::new().read(true).custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed()).open(path);
    let outcome = opened.and_then(|mut file| {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Ok(Content::Gone);
        }
        if metadata.len() > MAX_FILE_BYTES {
            let reason = format!("the file has {} bytes, more than {MAX_FILE_BYTES}", metadata.len());
            return Ok(Content::Failed(reason, "divide it into several files"));
        }
        let before = Stamp::of(&metadata);
        let content = read_bounded(&mut file, before.size)?;
        let after = Stamp::of(&file.metadata()?);
        let is_whole = u64::try_from(content.len()) == Ok(after.size);
        Ok(if before == after && is_whole { Content::Bytes(content, before) } else { Content::Moving })
    });
    outcome.unwrap_or_else(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Content::Gone,
        _ => Content::Failed(format!("the file cannot be read: {error}"), "let the gateway's user read the file"),
    })
}

/// Reads with room for a byte more than there should be: a regular file that fills less of it is over, which saves asking.
fn read_bounded(file: &mut File, expected: u64) -> io::Result<Vec<u8>> {
    let expected = usize::try_from(expected).unwrap_or(0);
    let mut content = vec![0; expected + 1];
    let mut filled = 0;
    while filled < expected {
        match file.read(&mut content[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    content.truncate(filled);
    Ok(content)
}

/// A file that was read and parsed.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub path: Arc<str>,
    pub load: Load,
}

/// What became of one file.
#[derive(Debug)]
pub(crate) enum Load {
    Manifest(Manifest, Option<Stamp>),
    Gone,
    Moving,
}

/// A file that is to be read, and how large it was when it was seen last; 0 where nobody looked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ready {
    pub path: Arc<str>,
    pub bytes: u64,
}

/// Cuts off as many of the files, from the first on, as are to be read at once.
pub(crate) fn next_wave<'a>(rest: &mut &'a [Ready]) -> &'a [Ready] {
    let mut bytes = 0;
    let fits = rest.iter().take(WAVE_FILES).take_while(|file| {
        let fits = bytes < WAVE_BYTES;
        bytes += file.bytes;
        fits
    });
    let (wave, later) = rest.split_at(fits.count());
    *rest = later;
    wave
}

/// Reads and parses files on all cores: many small ones side by side, and the documents of a large one too.
pub(crate) fn load(wave: &[Ready], knows: &(impl Fn(&str, manifest::Digest) -> bool + Sync)) -> Vec<Loaded> {
    let threads = if wave.len() < FILES_PER_TURN { 1 } else { cores() };
    let steps = side_by_side(wave.len(), FILES_PER_TURN, threads, |index| load_small(&wave[index].path, knows));
    let load = |(file, step): (&Ready, Step)| {
        let load = match step {
            Step::Done(load) => load,
            Step::Large(bytes, stamp) => Load::Manifest(parse_large(&file.path, &bytes, knows), Some(stamp)),
        };
        Loaded { path: Arc::clone(&file.path), load }
    };
    wave.iter().zip(steps).map(load).collect()
}

/// What one thread made of a file.
enum Step {
    Done(Load),
    /// It is for all of them.
    Large(Vec<u8>, Stamp),
}

fn load_small(path: &Arc<str>, knows: &impl Fn(&str, manifest::Digest) -> bool) -> Step {
    Step::Done(match read(path) {
        Content::Bytes(bytes, stamp) if bytes.len() >= PARALLEL_BYTES => return Step::Large(bytes, stamp),
        Content::Bytes(bytes, stamp) => {
            Load::Manifest(manifest::parse(source(path, &bytes), |digest| knows(path, digest)), Some(stamp))
        }
        Content::Failed(reason, remedy) => Load::Manifest(manifest::unreadable(path, reason, remedy), stamp(path)),
        Content::Gone => Load::Gone,
        Content::Moving => Load::Moving,
    })
}

fn parse_large(path: &Arc<str>, bytes: &[u8], knows: &(impl Fn(&str, manifest::Digest) -> bool + Sync)) -> Manifest {
    let (pieces, refusal) = manifest::split(source(path, bytes));
    let outcomes = side_by_side(pieces.len(), PIECES_PER_TURN, cores(), |at| {
        manifest::parse_piece(path, pieces[at], &|digest| knows(path, digest))
    });
    manifest::assemble(path, outcomes, refusal)
}

fn source<'a>(path: &'a Arc<str>, bytes: &'a [u8]) -> Source<'a> {
    Source { path, format: Format::of(path).unwrap_or(Format::Yaml), bytes }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// Calls `work` for 0 to `count`, by turns of `step`, on so many threads; results in order.
fn side_by_side<T: Send>(count: usize, step: usize, threads: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    if threads < 2 || count <= step {
        return (0..count).map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let turn = || {
        let mut done = Vec::new();
        loop {
            let start = next.fetch_add(step, Ordering::Relaxed);
            if start >= count {
                return done;
            }
            done.push((start, (start..count.min(start + step)).map(&work).collect::<Vec<_>>()));
        }
    };
    let mut parts = std::thread::scope(|scope| {
        let others = (1..threads).map(|_| scope.spawn(turn)).collect::<Vec<_>>();
        let mut parts = turn();
        for other in others {
            match other.join() {
                Ok(done) => parts.extend(done),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        parts
    });
    parts.sort_by_key(|(start, _)| *start);
    parts.into_iter().flat_map(|(_, part)| part).collect()
}
