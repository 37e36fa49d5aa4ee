//! The machine, as far as it explains figures.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What `/proc` and `/sys` say of the machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Model name of the processor.
    pub processor: String,
    /// A hypervisor runs it: others may take time that this machine does not see.
    pub is_virtual: bool,
    /// Cores that this process may use.
    pub cores: usize,
    /// Bytes of memory.
    pub memory: u64,
    /// Release of the kernel.
    pub kernel: String,
    /// Who chooses the clock of the first core (`performance`, `schedutil`), where the machine says so.
    pub governor: Option<String>,
    /// Processes that ran or waited before the measurement, mean of one minute.
    pub load: Option<f64>,
}

impl Machine {
    /// This one, at this moment.
    #[must_use]
    pub fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let system = rustix::system::uname();
        let mut machine = Self::described(&read("/proc/cpuinfo"), &read("/proc/meminfo"), &read("/proc/loadavg"));
        if machine.processor.is_empty() {
            machine.processor = system.machine().to_string_lossy().into_owned();
        }
        machine.kernel = format!("{} {}", system.sysname().to_string_lossy(), system.release().to_string_lossy());
        machine.cores = std::thread::available_parallelism().map_or(1, usize::from);
        let governor = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").trim().to_owned();
        machine.governor = (!governor.is_empty()).then_some(governor);
        machine
    }

    /// Why figures are not to be trusted far, where there was other work than what was measured.
    #[must_use]
    pub fn is_busy(&self) -> Option<String> {
        let load = self.load.filter(|load| *load > self.cores as f64 / 2.0)?;
        Some(format!(
            "the machine was busy (a load of {load:.1} on {} cores before it began): what needs memory or several cores suffers, and \
             figures that were taken one after another differ by more than their programs do; repeat this on a quiet machine",
            self.cores
        ))
    }

    /// From the text of these files.
    fn described(cpuinfo: &str, meminfo: &str, loadavg: &str) -> Self {
        let of = |name: &str| {
            let line = cpuinfo.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'));
            line.map(|value| value.trim().to_owned())
        };
        let kibibytes =
            meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok());
        Self {
            processor: of("model name").unwrap_or_default(),
            is_virtual: of("flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            memory: kibibytes.map_or(0, |kibibytes: u64| kibibytes * 1024),
            load: loadavg.split_whitespace().next().and_then(|load| load.parse().ok()),
            ..Self::default()
        }
    }
}

/// One line: `AMD EPYC (virtual machine), 2 cores, 24 GiB, Linux 6.18.44; load 0.4 before it began`.
impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_virtual { " (virtual machine)" } else { "" };
        let cores = if self.cores == 1 { "1 core".to_owned() } else { format!("{} cores", self.cores) };
        let gibibytes = self.memory as f64 / f64::from(1 << 30);
        write!(f, "{}{kind}, {cores}, {gibibytes:.0} GiB, {}", self.processor, self.kernel)?;
        if let Some(governor) = &self.governor {
            write!(f, ", governor {governor}")?;
        }
        if let Some(load) = self.load {
            write!(f, "; load {load:.1} before it began")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_described_by_what_the_kernel_says() {
        let cpuinfo = "processor\t: 0\nmodel name\t: Made-up 3000\nflags\t\t: fpu hypervisor avx2\n";
        let machine =
            Machine::described(cpuinfo, "MemTotal:       25165824 kB\nMemFree: 1 kB\n", "0.42 0.1 0.0 1/2 3\n");
        let machine = Machine { cores: 2, kernel: "Linux 6.18.1".to_owned(), ..machine };
        assert_eq!(
            machine.to_string(),
            "Made-up 3000 (virtual machine), 2 cores, 24 GiB, Linux 6.18.1; load 0.4 before it began"
        );
        assert_eq!(machine.is_busy(), None, "half of the cores were free");
        let busy = Machine { load: Some(9.4), ..machine }.is_busy().expect("others were there");
        assert!(busy.contains("9.4 on 2 cores"), "{busy}");
        let nothing = Machine::described("", "", "");
        assert_eq!((nothing.memory, nothing.load, nothing.is_virtual), (0, None, false));
    }
}
