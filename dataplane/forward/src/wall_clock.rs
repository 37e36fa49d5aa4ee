//! What the kernel knows of the wall clock. Nothing of the packet path goes by it.

use std::io;

/// Is the wall clock kept right, as by NTP? The kernel believes so for a while after whoever keeps it has last said so
/// (adjtimex(2), `STA_UNSYNC`).
///
/// # Errors
/// Where the kernel does not say: in some sandboxes.
pub fn is_kept_right() -> io::Result<bool> {
    // SAFETY: all fields are numbers, for which zeros are values.
    #[allow(unsafe_code, reason = "the structure has reserved fields that have no names")]
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: without modes the call changes nothing but the structure, which is as long as the kernel's.
    #[allow(unsafe_code, reason = "no safe interface to adjtimex")]
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    if state < 0 { Err(io::Error::last_os_error()) } else { Ok(timex.status & libc::STA_UNSYNC == 0) }
}
