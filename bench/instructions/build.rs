//! Tells the program by which compiler it was built: counts depend on it.

use std::process::Command;

fn main() {
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(compiler).arg("--version").output().ok().and_then(|output| {
        let text = String::from_utf8(output.stdout).ok()?;
        text.split_whitespace().nth(1).map(str::to_owned)
    });
    println!("cargo:rustc-env=SLUICEGATE_RUSTC={}", version.as_deref().unwrap_or("unknown"));
    println!("cargo:rerun-if-changed=build.rs");
}
