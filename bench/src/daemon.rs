//! A server that a measurement runs beside itself: in the foreground, on the cores and with the priority that it is given,
//! what it prints in a file. Dropped, it is ended with all that it started.

use crate::accounting::{self, Memory};
use crate::asker::here;
use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process, setpriority_process};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::fs::File;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Where processes run, and before whom.
#[derive(Clone, Debug)]
pub struct Placement {
    /// Cores that they may use.
    pub cores: Vec<usize>,
    /// From -20 (first) to 19; 0 is what everybody has.
    pub nice: i32,
}

/// How long a server that is told to end may take.
const END_WITHIN: Duration = Duration::from_millis(1500);

/// A running server.
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts it.
    ///
    /// # Errors
    /// Where the program cannot be run, or the cores do not exist.
    pub fn start(mut command: Command, log: &Path, placement: &Placement) -> anyhow::Result<Self> {
        let output = File::create(log).with_context(|| format!("{} cannot be written", log.display()))?;
        // A group of its own: Ctrl-C is for the bench, which ends the others.
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
        let name = command.get_program().to_owned();
        // A child has the cores and the priority of the thread that starts it.
        let started = thread::scope(|scope| {
            let start = scope.spawn(|| {
                place(placement)?;
                Ok::<_, anyhow::Error>(command.spawn()?)
            });
            start.join()
        });
        let child = match started {
            Ok(child) => child.with_context(|| format!("{} cannot be started", Path::new(&name).display()))?,
            Err(_) => anyhow::bail!("{} could not be started", Path::new(&name).display()),
        };
        Ok(Self { child, log: log.to_owned() })
    }

    /// The first of its processes.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// It and its workers.
    pub fn pids(&self) -> Vec<u32> {
        accounting::tree(self.child.id())
    }

    /// Resident memory of all its processes.
    pub fn memory(&self) -> Memory {
        accounting::resident(&self.pids())
    }

    /// Sends a signal to the first of its processes.
    ///
    /// # Errors
    /// Where it has ended.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// Waits until it does what it is there for. False where it ended before, or did not in time.
    pub fn wait_until(&mut self, within: Duration, mut is_so: impl FnMut() -> bool) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < within {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return false;
            }
            if is_so() {
                return true;
            }
            thread::sleep(Duration::from_millis(10));
        }
        false
    }

    /// Why it is not there: how it ended, and the end of what it said.
    pub fn complaint(&mut self) -> String {
        let state = match self.child.try_wait() {
            Ok(Some(status)) => status.to_string(),
            _ => "still running".to_owned(),
        };
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        let said = said.trim();
        let from = said.char_indices().rev().nth(600).map_or(0, |(at, _)| at);
        format!("{state}: {}", &said[from..])
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
    }
}

impl Daemon {
    /// Ends it and all that it started, and waits for that.
    pub fn end(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        let all = self.pids();
        let tell = |signal| {
            for pid in all.iter().filter_map(|pid| Pid::from_raw(i32::try_from(*pid).ok()?)) {
                // It may have ended by itself.
                let _gone = kill_process(pid, signal);
            }
        };
        tell(Signal::TERM);
        let told = Instant::now();
        while told.elapsed() < END_WITHIN && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(10));
        }
        tell(Signal::KILL);
        let _ended = self.child.wait();
    }
}

/// Puts this thread, and what it starts from here on, on the cores.
///
/// # Errors
/// Where there are no such cores. A priority that is refused is no reason not to measure.
pub fn place(placement: &Placement) -> anyhow::Result<()> {
    let mut cores = CpuSet::new();
    for core in &placement.cores {
        cores.set(*core);
    }
    sched_setaffinity(None, &cores).with_context(|| format!("cores {:?} cannot be used", placement.cores))?;
    if placement.nice != 0 {
        let _refused = setpriority_process(None, placement.nice);
    }
    Ok(())
}

/// The priority of this session among others. The kernel shares time between sessions first (sched(7), autogroup): that of
/// a process counts within its own alone. Dropped, it is as it was.
pub struct SessionPriority(Option<i32>);

const AUTOGROUP: &str = "/proc/self/autogroup";

impl SessionPriority {
    /// Takes it. Where that is refused, or sessions have none, nothing changes.
    pub fn take(nice: i32) -> Self {
        // `/autogroup-123 nice 0`
        let before =
            std::fs::read_to_string(AUTOGROUP).ok().and_then(|text| text.split_whitespace().last()?.parse().ok());
        let taken = nice != 0 && std::fs::write(AUTOGROUP, nice.to_string()).is_ok();
        Self(before.filter(|_| taken))
    }
}

impl Drop for SessionPriority {
    fn drop(&mut self) {
        if let Some(before) = self.0 {
            let _refused = std::fs::write(AUTOGROUP, before.to_string());
        }
    }
}

/// A program in the given folders, in PATH, or where Debian keeps servers.
pub fn find_program(name: &str, folders: &[PathBuf]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let everywhere = folders.iter().cloned().chain(std::env::split_paths(&path)).chain([PathBuf::from("/usr/sbin")]);
    everywhere.map(|folder| folder.join(name)).find(|program| is_executable(program))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// Whoever else listens would be measured in place of what is started.
///
/// # Errors
/// The first port that is taken.
pub fn expect_free(first: u16, last: u16) -> anyhow::Result<()> {
    for port in first..=last {
        TcpListener::bind(here(port))
            .with_context(|| format!("port {port} is not free; is another run under way? Choose others with --port"))?;
    }
    Ok(())
}

/// The first thing that looks like a version in what a program prints of itself.
pub fn version(program: &Path, flags: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(flags).stdin(Stdio::null()).output() else {
        return "unknown".to_owned();
    };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let words = text.split(|letter: char| letter.is_whitespace() || "/,:()".contains(letter));
    let looks = |word: &&str| {
        let word = word.trim_start_matches('v');
        word.starts_with(|first: char| first.is_ascii_digit()) && word.contains('.')
    };
    words
        .filter(looks)
        .map(|word| word.trim_start_matches('v').to_owned())
        .next()
        .unwrap_or_else(|| "unknown".to_owned())
}

/// Connections are descriptors; those that are started inherit the limit.
pub fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // As many as there are then.
    let _refused = setrlimit(Resource::Nofile, limit);
}
