//! The process as the kernel sees it, read from `/proc`. What cannot be read is left out of the exposition.

use std::fs;

/// What `/proc` says about this process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Process {
    /// Seconds of processor time, user and system.
    pub(crate) cpu_seconds: Option<f64>,
    pub(crate) resident_bytes: Option<u64>,
    pub(crate) virtual_bytes: Option<u64>,
    pub(crate) threads: Option<u64>,
    pub(crate) open_fds: Option<u64>,
    pub(crate) max_fds: Option<u64>,
    /// Seconds since the Unix epoch.
    pub(crate) start_seconds: Option<f64>,
}

impl Process {
    pub(crate) fn read() -> Self {
        let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
        let page = rustix::param::page_size() as u64;
        let stat = fs::read_to_string("/proc/self/stat").ok().and_then(|text| Stat::parse(&text));
        let boot = fs::read_to_string("/proc/stat").ok().and_then(|text| boot_seconds(&text));
        Self {
            cpu_seconds: stat.map(|stat| stat.cpu_ticks as f64 / ticks_per_second),
            resident_bytes: stat.map(|stat| stat.resident_pages.saturating_mul(page)),
            virtual_bytes: stat.map(|stat| stat.virtual_bytes),
            threads: stat.map(|stat| stat.threads),
            open_fds: open_fds(),
            max_fds: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
            start_seconds: stat.zip(boot).map(|(stat, boot)| boot + stat.start_ticks as f64 / ticks_per_second),
        }
    }
}

/// Since Linux 6.2 the size of `/proc/self/fd` is the number of open descriptors. Older kernels say 0, and there the
/// entries are counted, which takes tens of milliseconds with 100,000 connections.
fn open_fds() -> Option<u64> {
    match fs::metadata("/proc/self/fd").ok()?.len() {
        0 => fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as u64),
        count => Some(count),
    }
}

/// Fields of `/proc/self/stat`, see proc_pid_stat(5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    threads: u64,
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The second field is the name in parentheses and may contain anything, parentheses and spaces too.
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // The manual counts fields from 1; `rest` begins with field 3.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu_ticks: field(14)?.saturating_add(field(15)?),
            threads: field(20)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

fn boot_seconds(text: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_shift_the_fields() {
        let text =
            "7 (a) (b c) S 1 7 7 0 -1 4194304 10 0 0 0 250 50 0 0 20 0 9 0 4242 8192000 300 18446744073709551615";
        let stat = Stat::parse(text).expect("valid");
        let want =
            Stat { cpu_ticks: 300, threads: 9, start_ticks: 4242, virtual_bytes: 8_192_000, resident_pages: 300 };
        assert_eq!(stat, want);
        assert_eq!(Stat::parse("7 (a) S 1 2"), None);
        assert_eq!(Stat::parse(""), None);
    }

    #[test]
    fn this_process_is_described() {
        let before = Process::read();
        let held: Vec<_> = (0..5).map(|_| fs::File::open("/proc/self/stat").expect("open")).collect();
        let with_files = Process::read();
        drop(held);
        assert!(with_files.open_fds >= before.open_fds.map(|count| count + 1), "{before:?} {with_files:?}");
        assert!(before.resident_bytes.is_some_and(|bytes| bytes > 100_000));
        assert!(before.threads.is_some_and(|threads| threads >= 1));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs_f64();
        let age = now - before.start_seconds.expect("readable");
        assert!((-2.0..3600.0).contains(&age), "{age}");
    }
}
