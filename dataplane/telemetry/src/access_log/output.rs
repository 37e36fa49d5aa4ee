//! Where lines go: a file that may be renamed or full, standard output or a pipe that somebody reads slowly or not at all.

use super::{AccessLogError, LogTarget};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// Who may read the file: its group, which is that of log shippers, and nobody else.
const MODE: u32 = 0o640;
/// How often is looked whether the file still has its name.
const NAME_CHECK: Duration = Duration::from_secs(1);
/// What a pipe takes at once without waiting, where it says that it takes anything (pipe(7), PIPE_BUF).
const PIPE_BYTES: usize = 4096;
/// How long is waited for a pipe before looking whether anything else is to be done.
pub(crate) const PATIENCE: Duration = Duration::from_millis(250);

/// An open target.
#[derive(Debug)]
pub(crate) struct Output {
    target: LogTarget,
    file: File,
    /// A disk's file, which never says "later".
    is_regular: bool,
    /// Device and number of the file, to know it by.
    identity: (u64, u64),
    /// The rest of a line whose beginning was written.
    torn: Vec<u8>,
    checked: Instant,
}

/// What a pipe's slowness is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    Wait,
    GiveUp,
}

impl Output {
    pub(crate) fn open(target: LogTarget) -> Result<Self, AccessLogError> {
        let opened = match &target {
            LogTarget::Stdout => io::stdout().as_fd().try_clone_to_owned().map(File::from),
            LogTarget::File(path) => open_file(path),
        };
        let opened = opened.and_then(|file| Ok((file.metadata()?, file)));
        let (metadata, file) = opened.map_err(|source| AccessLogError::Open { target: target.clone(), source })?;
        Ok(Self {
            target,
            file,
            is_regular: metadata.is_file(),
            identity: identity(&metadata),
            torn: Vec::new(),
            checked: Instant::now(),
        })
    }

    /// Opens the file anew where its name is another file's by now, or nobody's.
    pub(crate) fn follow_name(&mut self) -> Result<(), AccessLogError> {
        let LogTarget::File(path) = &self.target else { return Ok(()) };
        if !self.is_regular || self.checked.elapsed() < NAME_CHECK {
            return Ok(());
        }
        self.checked = Instant::now();
        if std::fs::metadata(path).is_ok_and(|metadata| identity(&metadata) == self.identity) {
            return Ok(());
        }
        self.reopen()
    }

    /// Opens the target again. Where that fails, what is open stays in use.
    pub(crate) fn reopen(&mut self) -> Result<(), AccessLogError> {
        if self.target == LogTarget::Stdout {
            return Ok(());
        }
        let new = Self::open(self.target.clone())?;
        *self = new;
        Ok(())
    }

    /// Writes lines; `wait` is asked each [`PATIENCE`] that a pipe takes nothing. On failure the lines that are lost are
    /// counted; a torn one is completed before anything else is written.
    pub(crate) fn write(&mut self, lines: &[u8], wait: &mut dyn FnMut() -> Patience) -> Result<(), (u64, io::Error)> {
        if !self.torn.is_empty() {
            let torn = std::mem::take(&mut self.torn);
            if let Err((written, error)) = self.write_some(&torn, wait) {
                self.torn = torn[written..].to_vec();
                return Err((count(lines), error));
            }
        }
        self.write_some(lines, wait).map_err(|(written, error)| {
            let rest = &lines[written..];
            let is_torn = written > 0 && lines[written - 1] != b'\n';
            let end = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |at| at + 1);
            if is_torn {
                self.torn = rest[..end].to_vec();
            }
            (count(if is_torn { &rest[end..] } else { rest }), error)
        })
    }

    fn write_some(&mut self, bytes: &[u8], wait: &mut dyn FnMut() -> Patience) -> Result<(), (usize, io::Error)> {
        let mut written = 0;
        while written < bytes.len() {
            let part = if self.is_regular {
                &bytes[written..]
            } else {
                self.until_writable(wait).map_err(|error| (written, error))?;
                &bytes[written..bytes.len().min(written + PIPE_BYTES)]
            };
            match self.file.write(part) {
                Ok(0) => return Err((written, io::ErrorKind::WriteZero.into())),
                Ok(length) => written += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Standard output may be set to answer so by whoever shares it; the next turn waits.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && wait() == Patience::Wait => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(error) => return Err((written, error)),
            }
        }
        Ok(())
    }

    fn until_writable(&self, wait: &mut dyn FnMut() -> Patience) -> io::Result<()> {
        loop {
            let mut asked = [PollFd::new(&self.file, PollFlags::OUT)];
            let limit = Timespec::try_from(PATIENCE).map_err(|_| io::ErrorKind::InvalidInput)?;
            match poll(&mut asked, Some(&limit)) {
                // Also where the reader is gone: then writing says so.
                Ok(1..) => return Ok(()),
                Ok(0) if wait() == Patience::GiveUp => return Err(io::ErrorKind::TimedOut.into()),
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    let is_pipe = std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo());
    let mut options = OpenOptions::new();
    if is_pipe {
        // Opened for writing alone it would wait for a reader, and fail whenever the reader is started anew.
        options.read(true).write(true);
    } else {
        // Appending, so that who truncates the file (copytruncate) leaves no hole.
        options.append(true).create(true).mode(MODE);
    }
    options.open(path)
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn count(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| **byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, OFlags, mknodat};
    use std::io::Read;

    #[test]
    fn a_line_that_was_torn_is_completed_before_the_next_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pipe");
        mknodat(CWD, &path, FileType::Fifo, 0o600.into(), 0).expect("a named pipe");
        let mut output = Output::open(LogTarget::File(path.clone())).expect("no reader is waited for");
        let nonblocking = OFlags::NONBLOCK.bits() as i32;
        let mut reader = OpenOptions::new().read(true).custom_flags(nonblocking).open(&path).expect("a reader");
        let mut received = Vec::new();
        let mut receive = || {
            let mut part = [0; 8192];
            while let Ok(length @ 1..) = reader.read(&mut part) {
                received.extend_from_slice(&part[..length]);
            }
            received.clone()
        };
        // More than a pipe takes, in lines that end nowhere near its pages.
        let line = [&[b'x'; 1500][..], b"\n"].concat();
        let (lost, error) = output.write(&line.repeat(100), &mut || Patience::GiveUp).expect_err("the pipe is full");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(!receive().ends_with(b"\n"), "it ends inside of a line");
        output.write(b"next\n", &mut || Patience::GiveUp).expect("there is room again");
        let text = receive();
        let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
        let (last, whole) = lines.split_last().expect("lines");
        assert_eq!(*last, b"next\n");
        assert!(whole.iter().all(|received| *received == &line[..]), "torn");
        assert_eq!(whole.len() as u64 + lost, 100);
    }
}
