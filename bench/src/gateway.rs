//! The gateway's binary: the release build of this workspace, or the one that is named.

use anyhow::{Context as _, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The workspace that this program was built in; it may be gone.
const WORKSPACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Where it is. One that is not named and not there is built, as a debug build would say nothing.
///
/// # Errors
/// Where the one that is named does not exist, or it cannot be built.
pub fn program(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(named) = named {
        if !named.exists() {
            bail!("--sluicegate {}: there is no such file", named.display());
        }
        return Ok(std::path::absolute(named)?);
    }
    let own = std::env::current_exe()?;
    // target/PROFILE/sluicegate-bench
    let target = own.parent().and_then(Path::parent).context("this program lies in no folder of cargo's")?;
    let program = target.join("release/sluicegate");
    if !program.exists() {
        build(target, &program)?;
    }
    Ok(program)
}

fn build(target: &Path, program: &Path) -> anyhow::Result<()> {
    if !Path::new(WORKSPACE).join("Cargo.toml").exists() {
        bail!("{} is not there: name the gateway with --sluicegate", program.display());
    }
    eprintln!("{} is not there; it is built: cargo build --release -p sluicegate", program.display());
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--release", "-p", "sluicegate", "--target-dir"]).arg(target).current_dir(WORKSPACE);
    // This program's own package is none of the build's business.
    for name in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "CARGO_PKG_VERSION"] {
        command.env_remove(name);
    }
    let status = command
        .status()
        .context("cargo cannot be run: build it (cargo build --release), or name it with --sluicegate")?;
    if !status.success() || !program.exists() {
        bail!("cargo build --release -p sluicegate: {status}");
    }
    Ok(())
}

/// Its version, and the commit where it is this workspace's own build.
pub fn version(program: &Path) -> String {
    let version = crate::daemon::version(program, &["--version"]);
    let own = std::env::current_exe().ok();
    let is_own =
        own.as_deref().and_then(Path::parent).and_then(Path::parent).is_some_and(|target| program.starts_with(target));
    match is_own.then(commit).flatten() {
        Some(commit) => format!("{version} ({commit})"),
        None => version,
    }
}

fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(WORKSPACE).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let name = git(&["rev-parse", "--short", "HEAD"])?;
    let sources = ["Cargo.toml", "Cargo.lock", "src", "config", "controller", "dataplane"];
    let changed = git(&[&["status", "--porcelain", "--"], &sources[..]].concat())?;
    Some(format!("commit {name}{}", if changed.is_empty() { "" } else { " with changes" }))
}
