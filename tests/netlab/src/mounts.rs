//! What of the file system belongs to one namespace: its name, its view of `/sys`, and a BPF file system of its own, so
//! that the pins of two directors do not meet. No link or address is touched here.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Where `ip netns` and `nsenter` look for named namespaces.
pub(crate) const NAMES: &str = "/run/netns";
/// The BPF file systems are here, followed by the names of the namespaces. There is no folder for all, which one lab
/// would remove as empty while another is about to use it.
const BPF: &str = "/run/sluicegate-netlab-";
/// Where programs look for a BPF file system.
const BPF_PLACE: &str = "/sys/fs/bpf";

/// The file that stands for the namespace.
pub(crate) fn name_path(name: &str) -> PathBuf {
    Path::new(NAMES).join(name)
}

/// The namespace's own BPF file system.
pub(crate) fn bpf_path(name: &str) -> PathBuf {
    PathBuf::from(format!("{BPF}{name}"))
}

/// The names that are taken.
pub(crate) fn existing() -> Vec<String> {
    let Ok(entries) = fs::read_dir(NAMES) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// Makes the namespace's own BPF file system.
pub(crate) fn make_bpf(name: &str) -> io::Result<()> {
    let path = bpf_path(name);
    fs::create_dir(&path)?;
    Ok(mount("bpf", &path, "bpf", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None)?)
}

/// Makes a network namespace that the (empty) file stands for. The calling thread is in it from here on.
pub(crate) fn make_namespace(path: &Path) -> io::Result<()> {
    #[allow(unsafe_code, reason = "the one way to make a namespace")]
    // SAFETY: only the network namespace of this thread is unshared; file descriptors stay shared.
    unsafe {
        unshare_unsafe(UnshareFlags::NEWNET)?;
    }
    Ok(mount_bind("/proc/thread-self/ns/net", path)?)
}

/// Gives the calling thread, which is in the namespace, and what it starts from here on, a `/sys` that shows the
/// namespace's interfaces and holds the namespace's BPF file system.
pub(crate) fn see_own_sys(name: &str) -> io::Result<()> {
    #[allow(unsafe_code, reason = "the one way to have mounts of one's own")]
    // SAFETY: mounts and the current directory of this thread are unshared; file descriptors stay shared.
    unsafe {
        unshare_unsafe(UnshareFlags::NEWNS)?;
    }
    // What is mounted from here on is nobody else's, and what others mount still appears here.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    mount("sysfs", "/sys", "sysfs", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None)?;
    Ok(mount_bind(bpf_path(name), BPF_PLACE)?)
}

/// Removes all of it, as far as it is there.
pub(crate) fn remove(name: &str) {
    for path in [bpf_path(name), name_path(name)] {
        // A place that was never mounted upon, or is gone already, needs no more than what follows.
        let _ = unmount(&path, UnmountFlags::DETACH);
    }
    let _ = fs::remove_dir(bpf_path(name));
    // The name goes last: as long as it is there, a sweep finds the rest.
    let _ = fs::remove_file(name_path(name));
}
