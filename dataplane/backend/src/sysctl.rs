//! Settings of the kernel below `/proc/sys`.

use std::fs;
use std::path::PathBuf;

/// Why a setting could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot set {name} to {value}: {source}; run `sysctl -w {name}={value}` as root, outside of a container with a read-only /proc"
)]
pub struct SysctlError {
    name: String,
    value: u32,
    source: std::io::Error,
}

/// The number that a setting has; `None` if there is no such setting, or it is none.
pub(crate) fn read(name: &str) -> Option<u32> {
    fs::read_to_string(path(name)).ok()?.trim().parse().ok()
}

/// Sets it where it is another one. True if it was.
pub(crate) fn write(name: &str, value: u32) -> Result<bool, SysctlError> {
    if read(name) == Some(value) {
        return Ok(false);
    }
    let failed = |source| SysctlError { name: name.to_owned(), value, source };
    fs::write(path(name), value.to_string()).map_err(failed)?;
    Ok(true)
}

/// Names use `/`, because names of interfaces may have dots.
fn path(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(name)
}
