//! The names of namespaces: whose they are, and whether that process still lives. Nothing here touches the network.
//!
//! `<prefix>-<pid>.<start time>-<serial>-<label>`: the start time tells a process from a later one with the same id.

use std::fs;

use crate::LabError;

/// Interface names have at most 15 bytes (`IFNAMSIZ`).
pub(crate) const LONGEST_INTERFACE: usize = 15;

/// A process, told from others that had or will have its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pid: u32,
    /// Clock ticks after boot, field 22 of `/proc/<pid>/stat`.
    started: u64,
}

impl Owner {
    /// This process.
    pub(crate) fn current() -> Self {
        let pid = std::process::id();
        let started = read_stat(pid).map_or(0, |(_, started)| started);
        Self { pid, started }
    }

    /// Whether the process still runs. One that is dead and not yet waited for does not.
    pub(crate) fn lives(self) -> bool {
        read_stat(self.pid).is_some_and(|(state, started)| started == self.started && !matches!(state, 'Z' | 'X'))
    }
}

/// The name of one namespace of a lab.
pub(crate) fn namespace_name(prefix: &str, owner: Owner, serial: u32, label: &str) -> String {
    format!("{prefix}-{}.{}-{serial}-{label}", owner.pid, owner.started)
}

/// Whose namespace this is, if a lab of that prefix made it.
pub(crate) fn owner_of(prefix: &str, name: &str) -> Option<Owner> {
    let rest = name.strip_prefix(prefix)?.strip_prefix('-')?;
    let mut parts = rest.splitn(3, '-');
    let (pid, started) = parts.next()?.split_once('.')?;
    let _serial: u32 = parts.next()?.parse().ok()?;
    parts.next()?;
    Some(Owner { pid: pid.parse().ok()?, started: started.parse().ok()? })
}

/// Prefixes and labels are short and plain, since they become file names and, for labels, names of interfaces.
pub(crate) fn check_label(what: &'static str, name: &str) -> Result<(), LabError> {
    let reason = if name.is_empty() || name.len() > 40 {
        "it must have 1 to 40 characters"
    } else if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        "only letters, digits and - are allowed"
    } else {
        return Ok(());
    };
    Err(LabError::Name { what, name: name.to_owned(), reason })
}

/// State and start time of a process.
fn read_stat(pid: u32) -> Option<(char, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the command in parentheses, which may hold spaces and parentheses.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_whose_they_are() {
        let owner = Owner::current();
        assert!(owner.lives());
        let name = namespace_name("sg-test", owner, 3, "client-1");
        assert_eq!(owner_of("sg-test", &name), Some(owner));
        assert_eq!(owner_of("sg", &name), None, "a shorter prefix is another lab's");
        for foreign in ["sg-test", "sg-test-1", "sg-test-1.2", "sg-test-1.2-3", "sg-test-x.2-3-a", "other-1.2-3-a"] {
            assert_eq!(owner_of("sg-test", foreign), None, "{foreign}");
        }
    }

    #[test]
    fn a_later_process_with_the_same_id_is_another_one() {
        let owner = Owner::current();
        assert!(!Owner { started: owner.started + 1, ..owner }.lives());
    }

    #[test]
    fn labels_are_plain() {
        assert!(check_label("a label", "director-1").is_ok());
        for bad in ["", "a b", "../x", "a.b", "ä", &"x".repeat(41)] {
            assert!(check_label("a label", bad).is_err(), "{bad:?}");
        }
    }
}
