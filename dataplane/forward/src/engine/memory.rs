//! Tables of the kernel mapped into this process (`BPF_F_MMAPABLE`), as words or bytes that are read and written whole.

use rustix::mm::{MapFlags, ProtFlags};
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU8, AtomicU64};

/// The values of an array map whose value size is a multiple of 8, as one slice of words.
#[derive(Debug)]
pub struct MappedWords {
    start: *const AtomicU64,
    words: usize,
    bytes: usize,
}

// SAFETY: the memory belongs to the map and stays where it is until `drop`; all access goes through atomics.
#[allow(unsafe_code, reason = "a raw pointer to shared memory is neither Send nor Sync by itself")]
unsafe impl Send for MappedWords {}
// SAFETY: as above.
#[allow(unsafe_code, reason = "a raw pointer to shared memory is neither Send nor Sync by itself")]
unsafe impl Sync for MappedWords {}

impl MappedWords {
    /// Maps `entries` values of `value_size` bytes.
    ///
    /// # Errors
    /// Where the map was made without `BPF_F_MMAPABLE`, or the sizes are not those of the map.
    pub fn new(map: impl AsFd, entries: u32, value_size: u32) -> io::Result<Self> {
        let bytes = entries as usize * value_size as usize;
        if bytes == 0 || !value_size.is_multiple_of(8) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "values must be whole words"));
        }
        // SAFETY: a new shared mapping at an address that the kernel picks aliases no Rust object. The kernel refuses
        // lengths beyond the map's own (rounded up to pages), so the first `bytes` bytes are memory.
        #[allow(unsafe_code, reason = "mapping memory")]
        let start = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, map, 0)
        }?;
        Ok(Self { start: start.cast::<AtomicU64>().cast_const(), words: bytes / 8, bytes })
    }

    /// The words.
    #[must_use]
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: `start` is page-aligned and `words * 8` bytes from it are mapped until `drop`, which needs the value
        // that this slice borrows. Others write to the memory (the kernel's programs), which atomics allow.
        #[allow(unsafe_code, reason = "the one place where the mapping becomes a slice")]
        unsafe {
            std::slice::from_raw_parts(self.start, self.words)
        }
    }

    /// The same memory, as bytes.
    #[must_use]
    pub fn bytes(&self) -> &[AtomicU8] {
        // SAFETY: as in `words`; a byte has no alignment to mind.
        #[allow(unsafe_code, reason = "the mapping by its bytes")]
        unsafe {
            std::slice::from_raw_parts(self.start.cast(), self.bytes)
        }
    }
}

impl Drop for MappedWords {
    fn drop(&mut self) {
        // SAFETY: exactly what `new` mapped; no slice of it outlives `self`.
        #[allow(unsafe_code, reason = "unmapping what was mapped")]
        let unmapped = unsafe { rustix::mm::munmap(self.start.cast_mut().cast(), self.bytes) };
        if let Err(error) = unmapped {
            tracing::debug!(%error, "a table stays mapped");
        }
    }
}
