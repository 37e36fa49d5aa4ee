//! `prepare`: what only root may do to a host before a director or an agent runs there with less.

use crate::Failure;
use crate::cli::{DoctorRole, PrepareArguments};
use crate::output::print;
use anyhow::Context as _;
use sluicegate_backend::doctor::Role;
use sluicegate_backend::prepare_host;
use sluicegate_forward::pins::{DEFAULT_ROOT, ensure_bpf_fs};
use std::path::Path;

pub fn prepare(arguments: &PrepareArguments) -> Result<(), Failure> {
    ensure_bpf_fs(Path::new(DEFAULT_ROOT)).context("the BPF file system")?;
    let role = match arguments.role {
        DoctorRole::Director => Role::Director,
        DoctorRole::Backend => Role::Backend,
    };
    let changes = prepare_host(role)?;
    for change in &changes {
        print(&format!("{change}\n"))?;
    }
    if changes.is_empty() {
        print("nothing to change\n")?;
    }
    Ok(())
}
