//! Temporary folders that do not outlive their demo for long: what a killed one left is removed by the next.

use anyhow::Context as _;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use tempfile::TempDir;

/// How the names of all of them begin.
const PREFIX: &str = "sluicegate-demo-";
/// The file that a living demo holds locked. It begins with a dot, so that no source reads it.
const LOCK: &str = ".lock";

/// A folder that is removed when this is dropped.
pub struct Folder {
    directory: TempDir,
    _lock: File,
}

impl Folder {
    /// Where it is.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// Makes a folder. Its name says what it is for, if that is not empty.
///
/// # Errors
/// Where the system's temporary folder cannot be written.
pub fn make(purpose: &str) -> anyhow::Result<Folder> {
    let made = || -> io::Result<Folder> {
        let directory = tempfile::Builder::new().prefix(&format!("{PREFIX}{purpose}")).tempdir()?;
        let lock = File::create_new(directory.path().join(LOCK))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Folder { directory, _lock: lock })
    };
    made().context("a temporary folder")
}

/// Removes folders of this user's demos that are dead. One that cannot be removed stays: the next demo tries again.
pub fn sweep() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) && is_abandoned(&entry.path()) {
            let _next_time = fs::remove_dir_all(entry.path());
        }
    }
}

/// True where nobody holds the lock. A folder without one is being made, or is somebody else's.
fn is_abandoned(folder: &Path) -> bool {
    let own = rustix::process::geteuid().as_raw();
    let is_own = fs::symlink_metadata(folder).is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == own);
    let Ok(lock) = File::open(folder.join(LOCK)) else { return false };
    is_own && flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_without_an_owner_are_abandoned() {
        let folder = make("test-").expect("a folder");
        assert!(!is_abandoned(folder.path()), "its demo lives");
        let Folder { directory, _lock: lock } = folder;
        drop(lock);
        assert!(is_abandoned(directory.path()));
        fs::remove_file(directory.path().join(LOCK)).expect("removed");
        assert!(!is_abandoned(directory.path()), "it is somebody else's");
        assert!(!is_abandoned(&directory.path().join("missing")));
    }
}
