//! Reads folders: which manifests there are, and what they hold. The only place that opens files.

use crate::manifest::{self, Format, MAX_FILE_BYTES, Manifest, Outcome, Source};
use sluicegate_config::Rejection;
use std::collections::{BTreeMap, BTreeSet, HashSet};
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
/// Bytes of files that are held at once while many are parsed.
const WAVE_BYTES: u64 = 256 << 20;
/// Documents that a thread takes at a time.
const PIECES_PER_TURN: usize = 64;
/// Below this many bytes threads cost more than they save.
const PARALLEL_BYTES: usize = 256 << 10;

/// What tells one state of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
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

fn list(folder: &Path) -> io::Result<BTreeSet<PathBuf>> {
    fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect()
}

fn scan_entries(
    entries: BTreeSet<PathBuf>,
    depth: usize,
    seen: &mut HashSet<(u64, u64)>,
    scan: &mut Scan,
    enter: &mut dyn FnMut(&Path),
) {
    for path in entries {
        let Some(text) = path.to_str().map(Arc::<str>::from) else { continue };
        if is_hidden(&path) {
            continue;
        }
        // A link without a target, or what vanished since it was listed, is not there.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_file() && Format::of(&text).is_some() {
            let link = fs::symlink_metadata(&path).is_ok_and(|own| own.is_symlink());
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
        let content = read_bounded(&mut file, metadata.len())?;
        let after = Stamp::of(&file.metadata()?);
        Ok(if before == after { Content::Bytes(content, before) } else { Content::Moving })
    });
    outcome.unwrap_or_else(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Content::Gone,
        _ => Content::Failed(format!("the file cannot be read: {error}"), "let the gateway's user read the file"),
    })
}

fn read_bounded(file: &mut File, expected: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::with_capacity(usize::try_from(expected).unwrap_or(0));
    file.take(MAX_FILE_BYTES).read_to_end(&mut content)?;
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

/// Reads and parses files on all cores: many small ones side by side, and the documents of a large one too.
pub(crate) fn load_all(paths: &[Arc<str>], knows: &(impl Fn(&str, manifest::Digest) -> bool + Sync)) -> Vec<Loaded> {
    let mut loaded = Vec::with_capacity(paths.len());
    let mut rest = paths;
    while !rest.is_empty() {
        let mut bytes = 0;
        let wave = rest.iter().take_while(|path| {
            let fits = bytes < WAVE_BYTES;
            bytes += fs::metadata(&***path).map_or(0, |metadata| metadata.len().min(MAX_FILE_BYTES));
            fits
        });
        let (wave, later) = rest.split_at(wave.count().max(1));
        loaded.extend(load_wave(wave, knows));
        rest = later;
    }
    loaded
}

fn load_wave(paths: &[Arc<str>], knows: &(impl Fn(&str, manifest::Digest) -> bool + Sync)) -> Vec<Loaded> {
    let threads = if paths.len() < 16 { 1 } else { cores() };
    let contents = side_by_side(paths.len(), 16, threads, |index| read(&paths[index]));
    let mut cuts = Vec::with_capacity(paths.len());
    let mut pieces = Vec::new();
    let mut bytes = 0;
    for (index, content) in contents.iter().enumerate() {
        let mut refusal = None;
        let start = pieces.len();
        if let Content::Bytes(content, _) = content {
            let format = Format::of(&paths[index]).unwrap_or(Format::Yaml);
            let (cut, wrong) = manifest::split(Source { path: &paths[index], format, bytes: content });
            pieces.extend(cut.into_iter().map(|piece| (index, piece)));
            refusal = wrong;
            bytes += content.len();
        }
        cuts.push((start..pieces.len(), refusal));
    }
    let threads = if bytes < PARALLEL_BYTES { 1 } else { cores() };
    let outcomes = side_by_side(pieces.len(), PIECES_PER_TURN, threads, |at| {
        let (index, piece) = pieces[at];
        manifest::parse_piece(&paths[index], piece, &|digest| knows(&paths[index], digest))
    });
    put_together(paths, &contents, cuts, outcomes)
}

fn put_together(
    paths: &[Arc<str>],
    contents: &[Content],
    cuts: Vec<(std::ops::Range<usize>, Option<Rejection>)>,
    outcomes: Vec<Outcome>,
) -> Vec<Loaded> {
    let mut outcomes = outcomes.into_iter();
    let files = paths.iter().zip(contents).zip(cuts);
    files
        .map(|((path, content), (range, refusal))| {
            let own = outcomes.by_ref().take(range.len()).collect();
            let load = match content {
                Content::Bytes(_, stamp) => Load::Manifest(manifest::assemble(path, own, refusal), Some(*stamp)),
                Content::Failed(reason, remedy) => {
                    Load::Manifest(manifest::unreadable(path, reason.clone(), remedy), stamp(path))
                }
                Content::Gone => Load::Gone,
                Content::Moving => Load::Moving,
            };
            Loaded { path: Arc::clone(path), load }
        })
        .collect()
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
