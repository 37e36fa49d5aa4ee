//! The programs on a host, attached by links that are pinned with their tables.

use aya::maps::{Map, MapData, MapInfo, PerCpuArray};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError as AyaError, SchedClassifier, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use rustix::fs::statfs;
use sluicegate_dsr::Reason;
use std::fs;
use std::path::{Path, PathBuf};

/// `BPF_FS_MAGIC` of `linux/magic.h`.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
/// `EBUSY` and `EEXIST`: there is an XDP program, of this kind or of the other.
const TAKEN: [i32; 2] = [16, 17];

/// Where the real server's pins are by default; the version is that of the tables' layout.
#[must_use]
pub fn default_pins() -> PathBuf {
    PathBuf::from(format!("/sys/fs/bpf/sluicegate/backend-v{}", sluicegate_dsr::layout::VERSION))
}

/// How the XDP program is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttachMode {
    /// In the driver, else generically; as a classifier where XDP is another program's.
    #[default]
    Auto,
    /// In the driver or not at all.
    Native,
    /// After the driver, on any interface.
    Generic,
    /// Not in XDP, which another program has: as a classifier of what comes in.
    Classifier,
}

/// The XDP program on one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Name of the interface.
    pub interface: String,
    /// What became of [`AttachMode::Auto`]; [`AttachMode::Auto`] where a link was found that an earlier process made.
    pub mode: AttachMode,
    /// Why it is not in the driver, where that was tried.
    pub not_native: Option<String>,
}

/// Why programs could not be loaded or attached.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// The pins are not in a BPF file system.
    #[error(
        "{0} is not in a BPF file system: run `mount -t bpf bpf /sys/fs/bpf` as root, or in a container mount the host's /sys/fs/bpf"
    )]
    NoBpfFs(PathBuf),
    /// Loading failed.
    #[error("cannot load the {what} (CAP_BPF and CAP_NET_ADMIN are needed, and Linux 5.18): {reason}")]
    Load {
        /// Which programs.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// No such interface.
    #[error("there is no interface {0}: see `ip link`")]
    NoInterface(String),
    /// Attaching failed.
    #[error("cannot attach {program} to {interface}: {reason}; another program may be attached (`bpftool net`)")]
    Attach {
        /// Which program.
        program: &'static str,
        /// Where.
        interface: String,
        /// Why.
        reason: String,
    },
    /// XDP of the interface is another program's.
    #[error(
        "another XDP program is attached to {0} (`ip link show {0}`): detach it, or let unwrapping be done behind XDP (the default)"
    )]
    Taken(String),
    /// A pinned table is of another release.
    #[error("the table {table} pinned at {pin} does not fit ({reason}): run `sluicegate backend` of this release")]
    Unfit {
        /// Which.
        table: &'static str,
        /// Where.
        pin: PathBuf,
        /// How it differs.
        reason: String,
    },
    /// A table could not be read or written.
    #[error("cannot use the table {table}: {reason}; `sluicegate detach` removes what an incompatible version left")]
    Table {
        /// Which.
        table: &'static str,
        /// Why.
        reason: String,
    },
    /// A pin could not be made or removed.
    #[error("cannot pin or unpin {path}: {reason}")]
    Pin {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// An object, and where its maps are.
pub(crate) struct Source<'a> {
    pub(crate) object: &'a [u8],
    pub(crate) what: &'static str,
    /// Maps that are pinned below the pins, or found there.
    pub(crate) maps: &'a [&'static str],
    /// Maps of others.
    pub(crate) elsewhere: &'a [(&'static str, PathBuf)],
    /// Maps that have not as many entries as the object says; `None` = as many as the pinned one has.
    pub(crate) entries: &'a [(&'static str, Option<u32>)],
    /// Maps whose rows name each other's: all are made anew where one of them is.
    pub(crate) together: &'a [&'static str],
}

impl Source<'_> {
    /// Loads the object.
    pub(crate) fn load(&self, pins: &Path) -> Result<Ebpf, ProgramError> {
        fs::create_dir_all(pins).map_err(|why| ProgramError::Pin { path: pins.to_owned(), reason: why.to_string() })?;
        if !statfs(pins)
            .is_ok_and(|found| u64::try_from(found.f_type).is_ok_and(|magic| magic & 0xffff_ffff == BPF_FS_MAGIC))
        {
            return Err(ProgramError::NoBpfFs(pins.to_owned()));
        }
        let unloadable = |why: aya::EbpfError| ProgramError::Load { what: self.what, reason: all_causes(&why) };
        if self.maps.iter().any(|name| pins.join(name).exists()) {
            let fresh = EbpfLoader::new().load(self.object).map_err(unloadable)?;
            if let Some(unfit) = self.maps.iter().find_map(|name| self.misfit(&fresh, name, &pins.join(name))) {
                return Err(unfit);
            }
        }
        let mut loader = EbpfLoader::new();
        // The programs read no types of the kernel, and parsing them all takes time and 20 MB.
        loader.btf(None);
        for name in self.maps {
            loader.map_pin_path(name, pins.join(name));
        }
        for (name, path) in self.elsewhere {
            loader.map_pin_path(name, path.clone());
        }
        for (name, entries) in self.entries {
            if let Some(entries) = entries {
                loader.map_max_entries(name, *entries);
            }
        }
        loader.load(self.object).map_err(unloadable)
    }

    /// Why a pinned table is not like the object's own; `None` = it is, or is not there.
    fn misfit(&self, fresh: &Ebpf, table: &'static str, pin: &Path) -> Option<ProgramError> {
        if !pin.exists() {
            return None;
        }
        let entries = self.entries.iter().find(|(name, _)| *name == table).map(|(_, entries)| *entries);
        let geometry = |info: &MapInfo, entries: u32| {
            let kind = info.map_type().map_or(u32::MAX, |kind| kind as u32);
            (kind, info.key_size(), info.value_size(), entries)
        };
        let wanted = match fresh.map(table)? {
            Map::Array(data)
            | Map::HashMap(data)
            | Map::LruHashMap(data)
            | Map::LpmTrie(data)
            | Map::PerCpuArray(data) => data.info(),
            _ => return None,
        };
        let reason = match (wanted, MapInfo::from_pin(pin)) {
            (Ok(wanted), Ok(found)) => {
                let entries = match entries {
                    Some(Some(entries)) => entries,
                    Some(None) => found.max_entries(),
                    None => wanted.max_entries(),
                };
                let (wanted, found) = (geometry(&wanted, entries), geometry(&found, found.max_entries()));
                if wanted == found {
                    return None;
                }
                format!("type, key size, value size and entries are {found:?} and should be {wanted:?}")
            }
            (Err(why), _) | (_, Err(why)) => all_causes(&why),
        };
        Some(ProgramError::Unfit { table, pin: pin.to_owned(), reason })
    }

    /// Loads as [`Self::load`] does; pinned tables that are of another release go first. Their rows are lost.
    pub(crate) fn load_anew(&self, pins: &Path) -> Result<Ebpf, ProgramError> {
        loop {
            match self.load(pins) {
                Err(ProgramError::Unfit { table, pin, reason }) => {
                    tracing::warn!(table, %reason, "a pinned table does not fit, making a new one");
                    unpin(&pin)?;
                    if self.together.contains(&table) {
                        self.together.iter().try_for_each(|other| unpin(&pins.join(other)))?;
                    }
                }
                loaded => return loaded,
            }
        }
    }
}

/// Attaches the XDP program `name`, or puts it in place of the one that the pinned link has.
pub(crate) fn attach_xdp(
    object: &mut Ebpf,
    name: &'static str,
    interface: &str,
    mode: AttachMode,
    pin: &Path,
) -> Result<Attachment, ProgramError> {
    let index = index_of(interface)?;
    let failed = |why: String| ProgramError::Attach { program: name, interface: interface.to_owned(), reason: why };
    let program: &mut Xdp = program(object, name)?;
    if let Some(link) = pinned(pin)
        && let Ok(link) = XdpLink::try_from(link)
        && program.attach_to_link(link).and_then(|id| program.take_link(id)).map(keep_xdp).is_ok()
    {
        return Ok(Attachment { interface: interface.to_owned(), mode: AttachMode::Auto, not_native: None });
    }
    unpin(pin)?;
    let (tries, mut not_native): (&[_], _) = match mode {
        AttachMode::Auto => (&[(AttachMode::Native, XdpMode::Driver), (AttachMode::Generic, XdpMode::Skb)], None),
        AttachMode::Native => (&[(AttachMode::Native, XdpMode::Driver)], None),
        AttachMode::Generic => (&[(AttachMode::Generic, XdpMode::Skb)], None),
        AttachMode::Classifier => (&[], None),
    };
    for (mode, flags) in tries {
        match program.attach_to_if_index(index, *flags) {
            Ok(id) => {
                let link = program.take_link(id).map_err(|why| failed(all_causes(&why)))?;
                let link = FdLink::try_from(link).map_err(|why| failed(all_causes(&why)))?;
                link.pin(pin).map_err(|why| failed(all_causes(&why)))?;
                return Ok(Attachment { interface: interface.to_owned(), mode: *mode, not_native });
            }
            Err(AyaError::SyscallError(why)) if why.io_error.raw_os_error().is_some_and(|no| TAKEN.contains(&no)) => {
                return Err(ProgramError::Taken(interface.to_owned()));
            }
            Err(why) => not_native = Some(all_causes(&why)),
        }
    }
    Err(failed(not_native.unwrap_or_default()))
}

/// Removes a pin, and with it what it alone kept.
pub(crate) fn unpin(path: &Path) -> Result<(), ProgramError> {
    match fs::remove_file(path) {
        Err(why) if why.kind() != std::io::ErrorKind::NotFound => {
            Err(ProgramError::Pin { path: path.to_owned(), reason: why.to_string() })
        }
        _ => Ok(()),
    }
}

/// Counters by reason, summed over the CPUs; those that are 0 are left out.
pub(crate) fn counters(object: &Ebpf, table: &'static str) -> Result<Vec<(Reason, u64)>, ProgramError> {
    let failed = |reason: String| ProgramError::Table { table, reason };
    let map = object.map(table).ok_or_else(|| failed("the object has no such table".to_owned()))?;
    let counters: PerCpuArray<_, u64> = PerCpuArray::try_from(map).map_err(|why| failed(all_causes(&why)))?;
    let mut found = Vec::new();
    for reason in Reason::ALL {
        let values = counters.get(&reason.index(), 0).map_err(|why| failed(all_causes(&why)))?;
        let sum: u64 = values.iter().sum();
        if sum > 0 {
            found.push((*reason, sum));
        }
    }
    Ok(found)
}

/// A table of a loaded object, as `T`.
pub(crate) fn table<'a, T>(object: &'a mut Ebpf, table: &'static str) -> Result<T, ProgramError>
where
    T: TryFrom<&'a mut Map>,
    T::Error: std::error::Error,
{
    let map = object.map_mut(table);
    let map = map.ok_or_else(|| ProgramError::Table { table, reason: "the object has no such table".to_owned() })?;
    T::try_from(map).map_err(|why| ProgramError::Table { table, reason: all_causes(&why) })
}

/// Is there a table pinned at this path?
pub(crate) fn is_pinned_map(path: &Path) -> bool {
    MapData::from_pin(path).is_ok()
}

/// An error with its causes, in one line.
pub(crate) fn all_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// Index of an interface of this network namespace.
pub(crate) fn index_of(interface: &str) -> Result<u32, ProgramError> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None);
    let index = socket.and_then(|socket| rustix::net::netdevice::name_to_index(&socket, interface));
    index.map_err(|_| ProgramError::NoInterface(interface.to_owned()))
}

pub(crate) fn program<'a, T>(object: &'a mut Ebpf, name: &'static str) -> Result<&'a mut T, ProgramError>
where
    &'a mut T: TryFrom<&'a mut aya::programs::Program, Error = aya::programs::ProgramError>,
    T: Loadable,
{
    let missing = || ProgramError::Load { what: name, reason: "the object has no such program".to_owned() };
    let program = object.program_mut(name).ok_or_else(missing)?;
    let program: &mut T = program.try_into().map_err(|_| missing())?;
    program.load_once().map_err(|why| ProgramError::Load { what: name, reason: all_causes(&why) })?;
    Ok(program)
}

pub(crate) trait Loadable {
    /// Loads it if it is not loaded.
    fn load_once(&mut self) -> Result<(), aya::programs::ProgramError>;
}

impl Loadable for Xdp {
    fn load_once(&mut self) -> Result<(), aya::programs::ProgramError> {
        if self.fd().is_ok() { Ok(()) } else { self.load() }
    }
}

impl Loadable for SchedClassifier {
    fn load_once(&mut self) -> Result<(), aya::programs::ProgramError> {
        if self.fd().is_ok() { Ok(()) } else { self.load() }
    }
}

pub(crate) fn pinned(path: &Path) -> Option<FdLink> {
    if path.exists() { PinnedLink::from_pin(path).ok().map(FdLink::from) } else { None }
}

/// The pin keeps the link, so this end of it may go.
fn keep_xdp(link: XdpLink) {
    drop(FdLink::try_from(link));
}
