//! A program that runs in a namespace, and the ways to hurt it. What it prints goes where its command says.

use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::LabError;

/// A running program. It is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    pub(crate) fn new(child: Child) -> Self {
        Self { child }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its pipes, as its command asked for them.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends a signal: `TERM` to end it in order, `STOP` and `CONT` to hold it and let it go on.
    pub fn signal(&self, signal: Signal) -> Result<(), LabError> {
        let what = format!("sending {signal:?} to process {}", self.child.id());
        kill_process(Pid::from_child(&self.child), signal).map_err(LabError::system(what))
    }

    /// Holds it (`SIGSTOP`): it keeps its sockets and answers nothing.
    pub fn freeze(&self) -> Result<(), LabError> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on (`SIGCONT`).
    pub fn thaw(&self) -> Result<(), LabError> {
        self.signal(Signal::CONT)
    }

    /// Kills it (`SIGKILL`) and waits until it is gone.
    pub fn kill(&mut self) -> Result<ExitStatus, LabError> {
        let what = format!("killing process {}", self.child.id());
        self.child.kill().and_then(|()| self.child.wait()).map_err(LabError::system(what))
    }

    /// Waits until it has ended by itself.
    pub fn wait(&mut self, at_most: Duration) -> Result<ExitStatus, LabError> {
        let what = format!("the end of process {}", self.child.id());
        let deadline = Instant::now() + at_most;
        loop {
            if let Some(status) = self.child.try_wait().map_err(LabError::system(what.clone()))? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                return Err(LabError::Silence { what, waited: at_most });
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended already cannot be killed, which is the same to us.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
