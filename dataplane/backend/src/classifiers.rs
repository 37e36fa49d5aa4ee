//! Classifiers at what comes in and what leaves an interface: by links (tcx, Linux 6.6), else by filters of the discipline
//! `clsact`, which all kernels have that have the programs.
//!
//! Links stand before those that are there, so that of two the one that is attached later comes first. A link is pinned, and is
//! gone with its pin. A filter stays without that; its pinned program says that it is there.

use crate::programs::{ProgramError, all_causes, pinned, program, unpin};
use aya::Ebpf;
use aya::programs::links::FdLink;
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle};
use aya::programs::tc::{qdisc_add_clsact, qdisc_detach_program};
use aya::programs::{LinkOrder, ProgramError as AyaError, SchedClassifier, TcAttachType};
use std::path::{Path, PathBuf};

/// Where filters stand: behind those of whoever wants to be first, and known again after a restart. What wants what the others
/// leave stands behind them.
fn priority(program: &str) -> u16 {
    if program == "to_pod" { 0x5348 } else { 0x5347 }
}

/// The number of a filter among those of one side of an interface.
fn handle(program: &str) -> TcHandle {
    TcHandle::new(0, if program == "hand_over" { 2 } else { 1 })
}

/// `EINVAL` and `EOPNOTSUPP`: what a kernel answers that knows no links of classifiers.
const UNKNOWN: [i32; 2] = [22, 95];

/// How classifiers are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClassifierMode {
    /// By links, else by filters.
    #[default]
    Auto,
    /// By filters, as on kernels before 6.6.
    Filter,
}

/// Attaches the classifier `name` to one side of an interface, or puts it in place of the one that is there.
pub(crate) fn attach(
    object: &mut Ebpf,
    name: &'static str,
    (interface, side): (&str, TcAttachType),
    mode: ClassifierMode,
    pin: &Path,
) -> Result<(), ProgramError> {
    let program: &mut SchedClassifier = program(object, name)?;
    let failed = |why: String| ProgramError::Attach { program: name, interface: interface.to_owned(), reason: why };
    if let Some(link) = pinned(pin)
        && let Ok(link) = SchedClassifierLink::try_from(link)
        && program.attach_to_link(link).and_then(|id| program.take_link(id)).map(FdLink::try_from).is_ok()
    {
        return Ok(());
    }
    unpin(pin)?;
    let mark = mark(pin);
    // What is there stays of its kind, so that there are never two of it.
    let mode = if mark.exists() { ClassifierMode::Filter } else { mode };
    if mode == ClassifierMode::Auto {
        // First: many programs of networks of pods let nobody come behind them.
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        match program.attach_with_options(interface, side, options).and_then(|id| program.take_link(id)) {
            Ok(link) => {
                let link = FdLink::try_from(link).map_err(|why| failed(all_causes(&why)))?;
                return link.pin(pin).map(drop).map_err(|why| failed(all_causes(&why)));
            }
            Err(AyaError::SyscallError(why)) if why.io_error.raw_os_error().is_some_and(|no| UNKNOWN.contains(&no)) => {
            }
            Err(why) => return Err(failed(all_causes(&why))),
        }
    }
    attach_filter(program, (priority(name), handle(name)), interface, side).map_err(|why| failed(all_causes(&why)))?;
    unpin(&mark)?;
    program.pin(&mark).map_err(|why| failed(all_causes(&why)))
}

/// Is there one whose pin would be this?
pub(crate) fn is_there(pin: &Path) -> bool {
    pin.exists() || mark(pin).exists()
}

/// The pin that the mark of a filter stands for.
pub(crate) fn pin_of_mark(name: &str) -> Option<&str> {
    name.strip_prefix(FILTER)
}

const FILTER: &str = "filter_";

/// Where the program of a filter is pinned.
fn mark(pin: &Path) -> PathBuf {
    pin.with_file_name(format!("{FILTER}{}", pin.file_name().unwrap_or_default().display()))
}

fn attach_filter(
    program: &mut SchedClassifier,
    (priority, handle): (u16, TcHandle),
    interface: &str,
    side: TcAttachType,
) -> Result<(), AyaError> {
    // There already, perhaps another one's; if it could not be made, attaching says why.
    let _there = qdisc_add_clsact(interface);
    let present = SchedClassifierLink::attached(interface, side, priority, handle, None).map_err(AyaError::IOError)?;
    let attached = match program.attach_to_link(present) {
        Ok(id) => Ok(id),
        Err(_) => {
            let options = NlOptions { priority, handle, classid: None };
            program.attach_with_options(interface, side, TcAttachOptions::Netlink(options))
        }
    };
    // Dropped, the filter would go.
    std::mem::forget(program.take_link(attached?)?);
    Ok(())
}

/// Removes what [`attach`] made: a link is gone with its pin, a filter is looked for. `clsact` stays: others may use it.
pub(crate) fn detach(name: &str, interface: &str, side: TcAttachType, pin: &Path) -> Result<(), ProgramError> {
    if mark(pin).exists() {
        // Not found: it went with the interface, or somebody else took it away.
        let _gone = qdisc_detach_program(interface, side, name);
        unpin(&mark(pin))?;
    }
    unpin(pin)
}
