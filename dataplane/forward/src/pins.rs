//! Where programs, links and maps are pinned, so that they outlive the process: below a root in a BPF file system
//! (`/sys/fs/bpf/sluicegate`), `links/` for the attachments and `vN/` for the tables of layout version N.
//!
//! Links stand outside of the versions: whichever version starts updates the same link to its program in one step, so
//! N → N+1 → N never leaves an interface without a program.

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountFlags;
use sluicegate_l4::layout::{self, map};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Where pins are by default.
pub const DEFAULT_ROOT: &str = "/sys/fs/bpf/sluicegate";

/// Where the kernel's BPF file system belongs.
const BPF_MOUNT: &str = "/sys/fs/bpf";

/// `BPF_FS_MAGIC` of `linux/magic.h`.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// Why pins cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// No BPF file system, and none can be mounted.
    #[error(
        "{path} is not in a BPF file system and none could be mounted at {BPF_MOUNT} ({reason}): run `mount -t bpf bpf {BPF_MOUNT}` as root, or in a container mount the host's {BPF_MOUNT}"
    )]
    NoBpfFs {
        /// The root of the pins.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// Another process holds the pins.
    #[error("another process programs the tables pinned at {0}: stop it first")]
    Busy(PathBuf),
    /// A file operation failed.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The kind of a map as the kernel numbers it (`enum bpf_map_type`).
const HASH: u32 = 1;
const ARRAY: u32 = 2;
const PERCPU_ARRAY: u32 = 6;
const DEVMAP_HASH: u32 = 25;
const RINGBUF: u32 = 27;

/// `BPF_F_MMAPABLE`.
const MMAPABLE: u32 = 1 << 10;

/// What a pinned map must be like to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Name of the map and of its pin.
    pub name: &'static str,
    /// `enum bpf_map_type`.
    pub kind: u32,
    /// Bytes of a key.
    pub key: u32,
    /// Bytes of a value.
    pub value: u32,
    /// Entries; `None` = any number.
    pub entries: Option<u32>,
    /// Flags that must be set.
    pub flags: u32,
}

const fn array(name: &'static str, value: usize, entries: u32, flags: u32) -> Geometry {
    Geometry { name, kind: ARRAY, key: 4, value: value as u32, entries: Some(entries), flags }
}

const fn per_cpu(name: &'static str, value: usize, entries: Option<u32>) -> Geometry {
    Geometry { name, kind: PERCPU_ARRAY, key: 4, value: value as u32, entries, flags: 0 }
}

/// The maps of [`layout::VERSION`]. Numbers of flow sets are not fixed: [`layout::Control::flow_mask`] says how many.
pub const GEOMETRY: &[Geometry] = &[
    array(map::CONTROL, size_of::<layout::Control>(), 1, 0),
    array(map::ADDRESSES, size_of::<layout::AddressBucket>(), layout::ADDRESS_BUCKETS, 0),
    array(map::FENCES, 8, layout::MAX_ADDRESSES + 1, 0),
    array(map::SERVICE_INDEX, size_of::<layout::ServiceBucket>(), layout::SERVICE_BUCKETS, 0),
    array(map::SERVICES, size_of::<layout::Service>(), layout::MAX_SERVICES + 1, 0),
    array(map::RINGS, size_of::<layout::RingLine>(), layout::MAX_RINGS * layout::RING_LINES, MMAPABLE),
    array(map::BACKENDS, size_of::<layout::Backend>(), layout::MAX_BACKENDS + 1, 0),
    Geometry {
        name: map::FLOWS,
        kind: ARRAY,
        key: 4,
        value: size_of::<layout::FlowSet>() as u32,
        entries: None,
        flags: MMAPABLE,
    },
    Geometry {
        name: map::OVERFLOWS,
        kind: ARRAY,
        key: 4,
        value: size_of::<layout::OverflowLine>() as u32,
        entries: None,
        flags: MMAPABLE,
    },
    Geometry { name: map::INTERFACES, kind: HASH, key: 4, value: 8, entries: None, flags: 0 },
    array(map::MACS, size_of::<layout::PortMacs>(), layout::PortMacs::ROWS, 0),
    Geometry { name: map::EGRESS, kind: DEVMAP_HASH, key: 4, value: 8, entries: None, flags: 0 },
    per_cpu(map::REASONS, 8, None),
    per_cpu(map::SERVICE_TRAFFIC, size_of::<layout::Traffic>(), Some(layout::MAX_SERVICES + 1)),
    per_cpu(map::BACKEND_TRAFFIC, size_of::<layout::Traffic>(), Some(layout::MAX_BACKENDS + 1)),
    per_cpu(map::TURNS, 8, Some(layout::MAX_SERVICES + 1)),
    Geometry { name: map::SAMPLES, kind: RINGBUF, key: 0, value: 0, entries: None, flags: 0 },
];

/// The pins of one layout version below one root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    root: PathBuf,
    version: u32,
}

/// As long as it lives, no other process programs the tables below the same root.
#[derive(Debug)]
pub struct PinLock {
    _directory: OwnedFd,
}

impl Pins {
    /// Pins of `version` below `root`.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>, version: u32) -> Self {
        Self { root: root.into(), version }
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the maps of this version are.
    #[must_use]
    pub fn tables(&self) -> PathBuf {
        self.root.join(format!("v{}", self.version))
    }

    /// Where the links are.
    #[must_use]
    pub fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// Makes the directories, mounting the BPF file system where it is missing, and takes the lock.
    ///
    /// # Errors
    /// Where there is no BPF file system, no right to it, or another process at work.
    pub fn prepare(&self) -> Result<PinLock, PinError> {
        ensure_bpf_fs(&self.root)?;
        for directory in [self.root.clone(), self.links()] {
            fs::create_dir_all(&directory).map_err(io_error("create", &directory))?;
        }
        let lock = lock(&self.root)?;
        self.ensure_tables()?;
        Ok(lock)
    }

    /// Makes the directory of this version's tables.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub(crate) fn ensure_tables(&self) -> Result<(), PinError> {
        let tables = self.tables();
        fs::create_dir_all(&tables).map_err(io_error("create", &tables))
    }

    /// Other versions that have tables here, in ascending order.
    #[must_use]
    pub fn other_versions(&self) -> Vec<Self> {
        let Ok(entries) = fs::read_dir(&self.root) else { return Vec::new() };
        let mut versions: Vec<u32> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.strip_prefix('v')?.parse().ok())
            .filter(|version| *version != self.version)
            .collect();
        versions.sort_unstable();
        versions.into_iter().map(|version| Self { root: self.root.clone(), version }).collect()
    }

    /// The layout version.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Removes the tables of this version; the links stay.
    ///
    /// # Errors
    /// Where a pin cannot be removed.
    pub fn remove_tables(&self) -> Result<(), PinError> {
        let directory = self.tables();
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", &directory)(error)),
            _ => Ok(()),
        }
    }
}

/// Removes everything below a root: links (which detaches the programs), tables of all versions and the root.
/// False where there was nothing.
///
/// # Errors
/// Where another process programs the tables, or a pin cannot be removed.
pub fn detach(root: &Path) -> Result<bool, PinError> {
    if !root.exists() {
        return Ok(false);
    }
    let held = lock(root)?;
    let links = root.join("links");
    match fs::remove_dir_all(&links) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error("remove", &links)(error)),
        _ => {}
    }
    fs::remove_dir_all(root).map_err(io_error("remove", root))?;
    drop(held);
    Ok(true)
}

fn lock(root: &Path) -> Result<PinLock, PinError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory =
        rustix::fs::open(root, flags, Mode::empty()).map_err(|errno| io_error("open", root)(errno.into()))?;
    match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(PinLock { _directory: directory }),
        Err(Errno::WOULDBLOCK) => Err(PinError::Busy(root.to_owned())),
        Err(errno) => Err(io_error("lock", root)(errno.into())),
    }
}

/// Makes sure that the root is in a BPF file system, and mounts one at `/sys/fs/bpf` where that takes it.
///
/// # Errors
/// Where there is none and none can be mounted, which needs root.
pub fn ensure_bpf_fs(root: &Path) -> Result<(), PinError> {
    if is_bpf_fs(root) {
        return Ok(());
    }
    let missing = |reason: String| PinError::NoBpfFs { path: root.to_owned(), reason };
    if !root.starts_with(BPF_MOUNT) {
        return Err(missing(format!("only {BPF_MOUNT} is mounted by itself")));
    }
    rustix::mount::mount("bpf", BPF_MOUNT, "bpf", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None)
        .map_err(|errno| missing(errno.to_string()))?;
    if is_bpf_fs(root) { Ok(()) } else { Err(missing("it does not show there".to_owned())) }
}

/// True where the nearest directory above that exists is in a BPF file system.
fn is_bpf_fs(path: &Path) -> bool {
    path.ancestors()
        .find_map(|directory| rustix::fs::statfs(directory).ok())
        .is_some_and(|found| found.f_type as u64 == BPF_FS_MAGIC)
}

fn io_error<'a>(what: &'static str, path: &'a Path) -> impl Fn(io::Error) -> PinError + use<'a> {
    move |source| PinError::Io { what, path: path.to_owned(), source }
}
