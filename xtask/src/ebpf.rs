//! Builds the eBPF objects, and compares them with those that are committed.
//!
//! The toolchain: a Rust compiler with its library sources, and `bpf-linker` of the same LLVM. `SLUICEGATE_BPF_RUSTC` names
//! the compiler where the one in `PATH` is not it (Debian: `/usr/bin/rustc` of `rustc-web`).

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "bpfel-unknown-none";
const INSTALL: &str = "\
On Debian: apt-get install rustc-web rust-web-src llvm-22-dev libzstd-dev libpolly-22-dev, then
  PATH=/usr/lib/llvm-22/bin:$PATH LLVM_PREFIX=/usr/lib/llvm-22 LLVM_SYS_221_PREFIX=/usr/lib/llvm-22 \\
    RUSTFLAGS='-L /usr/lib/llvm-22/lib' cargo install bpf-linker --no-default-features --features llvm-22
  and run with SLUICEGATE_BPF_RUSTC=/usr/bin/rustc.
Elsewhere: rustup toolchain install nightly --component rust-src; cargo install bpf-linker;
  and run with SLUICEGATE_BPF_RUSTC=\"$(rustup which --toolchain nightly rustc)\".";

/// Why there is no object, or not the right one.
#[derive(Debug)]
pub enum Failure {
    /// A tool is not there, or does not run.
    Toolchain(String),
    /// There is no such program.
    Program(String),
    /// cargo has said why.
    Build,
    /// The objects differ from the committed ones.
    Differs(Vec<String>),
    /// A file could not be read or written.
    File(PathBuf, std::io::Error),
}

impl Failure {
    /// What the process exits with.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Toolchain(_) => 2,
            Self::Program(_) | Self::Build | Self::Differs(_) | Self::File(..) => 1,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Toolchain(what) => write!(f, "the eBPF toolchain is missing: {what}\n{INSTALL}"),
            Self::Program(name) => write!(f, "there is no dataplane/xdp/src/bin/{name}.rs"),
            Self::Build => write!(f, "the programs did not build"),
            Self::Differs(names) => write!(
                f,
                "built anew with the recorded toolchain, {} differ from what is committed: run 'cargo xtask ebpf' and commit \
                 dataplane/xdp/prebuilt/",
                names.join(", ")
            ),
            Self::File(path, why) => write!(f, "{}: {why}", path.display()),
        }
    }
}

/// Builds these programs (none = all) and puts them where they are committed.
pub fn build_into_place(only: &[&str]) -> Result<String, Failure> {
    let toolchain = toolchain()?;
    let prebuilt = prebuilt();
    let mut said = Vec::new();
    for (name, object) in build(only)? {
        said.push(format!("{name}: {} bytes", object.len()));
        write(&prebuilt.join(name), &object)?;
    }
    write(&prebuilt.join("TOOLCHAIN"), toolchain.as_bytes())?;
    Ok(said.join("\n"))
}

/// Builds these programs (none = all) and compares them with those that are committed.
pub fn check(only: &[&str]) -> Result<String, Failure> {
    let toolchain = toolchain()?;
    let prebuilt = prebuilt();
    let recorded = String::from_utf8_lossy(&read(&prebuilt.join("TOOLCHAIN"))?).into_owned();
    let mut differing = Vec::new();
    for (name, object) in build(only)? {
        if fs::read(prebuilt.join(&name)).ok().as_deref() != Some(object.as_slice()) {
            differing.push(name);
        }
    }
    match (differing.is_empty(), recorded == toolchain) {
        (true, _) => Ok("the committed objects are what the sources build to".to_owned()),
        (false, true) => Err(Failure::Differs(differing)),
        (false, false) => Ok(format!(
            "{} differ from what is committed, as is to be expected of another toolchain:\nrecorded:\n{recorded}here:\n{toolchain}\
             Run the packet suite on the objects of this toolchain: 'cargo xtask ebpf', then the tests of sluicegate-xdp.",
            differing.join(", ")
        )),
    }
}

/// File names and contents of the built programs, in the order of their names.
fn build(only: &[&str]) -> Result<Vec<(String, Vec<u8>)>, Failure> {
    let mut programs = programs()?;
    if let Some(unknown) = only.iter().find(|name| !programs.iter().any(|program| program == *name)) {
        return Err(Failure::Program((*unknown).to_owned()));
    }
    programs.retain(|program| only.is_empty() || only.contains(&program.as_str()));
    let folder = root().join("target").join("ebpf");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(folder, |own| root().join(own).join("ebpf"));
    for program in &programs {
        build_one(program, &target)?;
    }
    let built = target.join(TARGET).join("bpf");
    let mut objects = Vec::new();
    for program in programs {
        objects.push((format!("{program}.o"), read(&built.join(&program))?));
    }
    Ok(objects)
}

fn build_one(program: &str, target: &Path) -> Result<(), Failure> {
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(root())
        .args(["rustc", "--quiet", "--locked", "--package", "sluicegate-xdp", "--profile", "bpf"])
        .args(["--target", TARGET, "-Z", "build-std=core", "--bin", program, "--"])
        .args(own_flags(program))
        .env("CARGO_TARGET_DIR", target)
        .env("RUSTC", rustc())
        // build-std and the linker flavour are unstable; Debian's compiler is a stable one.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags().join("\x1f"))
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTC_WRAPPER")
        .status()
        .map_err(|why| Failure::Toolchain(format!("cargo: {why}")))?;
    if status.success() { Ok(()) } else { Err(Failure::Build) }
}

/// The director's small structs are cleared and copied by words, not by a call that goes byte by byte (30 ns a packet).
/// Programs that copy whole heads into frames would hold all the words on their stack.
fn own_flags(program: &str) -> &'static [&'static str] {
    match program {
        "director" => &["-Clink-arg=--disable-expand-memcpy-in-order"],
        _ => &[],
    }
}

/// Paths are mapped away, so that the bytes do not depend on where the repository and the registry lie.
fn flags() -> Vec<String> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))
        .unwrap_or_default();
    vec![
        "-Ctarget-cpu=v3".to_owned(),
        "-Clink-arg=-O3".to_owned(),
        format!("--remap-path-prefix={}=/sluicegate", root().display()),
        format!("--remap-path-prefix={}=/cargo", home.display()),
    ]
}

/// The programs are the binaries of the crate.
fn programs() -> Result<Vec<String>, Failure> {
    let folder = root().join("dataplane/xdp/src/bin");
    let entries = fs::read_dir(&folder).map_err(|why| Failure::File(folder.clone(), why))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry.map_err(|why| Failure::File(folder.clone(), why))?.path();
        if path.extension() == Some(OsStr::new("rs")) {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

/// What decides the bytes, as it is recorded.
fn toolchain() -> Result<String, Failure> {
    let rustc = said_by(&rustc(), &["-vV"])?;
    let of = |key: &str| rustc.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("unknown").to_owned();
    let linker = said_by(Path::new("bpf-linker"), &["--version"])?;
    let sysroot = said_by(&self::rustc(), &["--print", "sysroot"])?;
    let sources = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs");
    if !sources.exists() {
        return Err(Failure::Toolchain(format!("the sources of core ({})", sources.display())));
    }
    Ok(format!("rustc {}\nLLVM {}\n{}\n", of("release: "), of("LLVM version: "), linker.trim()))
}

fn said_by(program: &Path, arguments: &[&str]) -> Result<String, Failure> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|why| Failure::Toolchain(format!("{}: {why}", program.display())))?;
    if !output.status.success() {
        return Err(Failure::Toolchain(format!("{} {} fails", program.display(), arguments.join(" "))));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn rustc() -> PathBuf {
    std::env::var_os("SLUICEGATE_BPF_RUSTC").map_or_else(|| PathBuf::from("rustc"), PathBuf::from)
}

fn prebuilt() -> PathBuf {
    root().join("dataplane/xdp/prebuilt")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned()
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|why| Failure::File(path.to_owned(), why))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    fs::write(path, bytes).map_err(|why| Failure::File(path.to_owned(), why))
}
