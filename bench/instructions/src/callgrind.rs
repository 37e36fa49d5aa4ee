//! Runs this program once more under callgrind and reads what it counted. It knows no scenario.
//!
//! `boundary` marks: callgrind writes down what was executed since the last one each time that it is called. So one run
//! counts many scenarios, and what preparing them took is not in their counts.

use anyhow::{Context as _, bail};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

/// As callgrind is told to know [`boundary`] by, mangled or not.
const BOUNDARY: &str = "--dump-before=*sluicegate_instructions*callgrind*boundary*";

/// Callgrind writes down what was executed since the last call, in a part of its own.
#[inline(never)]
pub fn boundary(number: usize) {
    // Without an effect the call would be gone.
    std::hint::black_box(number);
}

/// Whether threads are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// All in one; parts end at boundaries.
    Together,
    /// Each for itself, over the whole run.
    Apart,
}

/// The command that runs this program with arguments under callgrind, which writes into a file.
///
/// # Errors
/// Where the program does not know its own path.
pub fn command(threads: Threads, out: &Path, arguments: &[impl AsRef<OsStr>]) -> anyhow::Result<Command> {
    let own = std::env::current_exe().context("the path of this program")?;
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--quiet", "--combine-dumps=yes", "--vgdb=no"]);
    match threads {
        Threads::Together => command.arg(BOUNDARY),
        Threads::Apart => command.arg("--separate-threads=yes"),
    };
    let mut file = std::ffi::OsString::from("--callgrind-out-file=");
    file.push(out);
    command.arg(file).arg(own).args(arguments).stdin(Stdio::null());
    Ok(command)
}

/// The version of valgrind.
///
/// # Errors
/// Where there is none.
pub fn version() -> anyhow::Result<String> {
    let output = Command::new("valgrind")
        .arg("--version")
        .output()
        .context("valgrind cannot be started; install it (Debian: `apt-get install valgrind`)")?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.trim().trim_start_matches("valgrind-").to_owned())
}

/// Instructions of one part of one thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// From 1.
    pub part: u32,
    /// From 1.
    pub thread: u32,
    /// Instructions in user space.
    pub instructions: u64,
}

/// Reads what callgrind wrote.
///
/// # Errors
/// Where it is not there, or is not of callgrind.
pub fn read(out: &Path) -> anyhow::Result<Vec<Part>> {
    let text = std::fs::read_to_string(out).with_context(|| format!("callgrind left no {}", out.display()))?;
    parse(&text)
}

/// The same by thread, summed over parts.
pub fn by_thread(parts: &[Part]) -> BTreeMap<u32, u64> {
    let mut threads = BTreeMap::new();
    for part in parts {
        *threads.entry(part.thread).or_default() += part.instructions;
    }
    threads
}

fn parse(text: &str) -> anyhow::Result<Vec<Part>> {
    if !text.starts_with("# callgrind format") {
        bail!("this is no output of callgrind: it begins with {:?}", text.lines().next().unwrap_or_default());
    }
    let mut parts = Vec::new();
    let (mut part, mut thread) = (1, 1);
    for line in text.lines() {
        let Some((key, value)) = line.split_once(": ") else { continue };
        match key {
            "part" => part = value.trim().parse().context("the number of a part")?,
            "thread" => thread = value.trim().parse().context("the number of a thread")?,
            "totals" => {
                let instructions = value.trim().parse().context("the total of a part")?;
                parts.push(Part { part, thread, instructions });
            }
            _ => {}
        }
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_found_by_part_and_thread() {
        let text = "# callgrind format\nversion: 1\npart: 1\nthread: 1\nevents: Ir\nsummary: 7\nfn=(1) main\n3 7\n\
            totals: 7\npart: 2\nthread: 1\nsummary: 40\ntotals: 40\npart: 2\nthread: 3\ntotals: 2\n";
        let parts = parse(text).expect("it is of callgrind");
        let part = |part, thread, instructions| Part { part, thread, instructions };
        assert_eq!(parts, [part(1, 1, 7), part(2, 1, 40), part(2, 3, 2)]);
        assert_eq!(by_thread(&parts), BTreeMap::from([(1, 47), (3, 2)]));
        assert!(parse("totals: 7\n").is_err(), "anything else is refused");
    }
}
