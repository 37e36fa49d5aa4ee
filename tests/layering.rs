//! The shape of the repository: who may depend on whom, what stays pure, what the documents point at.
//!
//! It tests no behaviour of the gateway. Every rule is a function from a text or a graph to complaints; the module at
//! the end shows each of them a case that it must complain about.

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, PackageId};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// Which crate of the workspace depends on which, dev-dependencies aside: the whole picture, so that a new edge is a
/// decision that shows here.
const PICTURE: &[(&str, &[&str])] = &[
    (
        "sluicegate",
        &[
            "sluicegate-admin",
            "sluicegate-admission",
            "sluicegate-announce",
            "sluicegate-backend",
            "sluicegate-config",
            "sluicegate-dsr",
            "sluicegate-echo",
            "sluicegate-forward",
            "sluicegate-health",
            "sluicegate-l4",
            "sluicegate-netlab",
            "sluicegate-otlp",
            "sluicegate-proxy",
            "sluicegate-route",
            "sluicegate-source",
            "sluicegate-telemetry",
            "sluicegate-trace",
            "sluicegate-translate",
        ],
    ),
    ("sluicegate-admin", &["sluicegate-config", "sluicegate-telemetry"]),
    ("sluicegate-admission", &["sluicegate-config", "sluicegate-telemetry", "sluicegate-translate"]),
    ("sluicegate-allocations", &[]),
    ("sluicegate-announce", &[]),
    ("sluicegate-apiserver", &[]),
    ("sluicegate-backend", &["sluicegate-dsr", "sluicegate-l4", "sluicegate-xdp"]),
    (
        "sluicegate-bench",
        &[
            "sluicegate-apiserver",
            "sluicegate-config",
            "sluicegate-forward",
            "sluicegate-l4",
            "sluicegate-netlab",
            "sluicegate-xdp",
        ],
    ),
    ("sluicegate-collector", &[]),
    ("sluicegate-config", &["sluicegate-trace"]),
    ("sluicegate-dsr", &["sluicegate-l4"]),
    ("sluicegate-echo", &[]),
    ("sluicegate-forward", &["sluicegate-config", "sluicegate-l4", "sluicegate-xdp"]),
    ("sluicegate-health", &["sluicegate-config"]),
    ("sluicegate-http1", &[]),
    (
        "sluicegate-instructions",
        &[
            "sluicegate-config",
            "sluicegate-http1",
            "sluicegate-l4",
            "sluicegate-otlp",
            "sluicegate-proxy",
            "sluicegate-route",
            "sluicegate-telemetry",
            "sluicegate-trace",
        ],
    ),
    ("sluicegate-l4", &[]),
    ("sluicegate-netlab", &[]),
    ("sluicegate-otlp", &["sluicegate-telemetry", "sluicegate-trace"]),
    (
        "sluicegate-proxy",
        &["sluicegate-config", "sluicegate-http1", "sluicegate-route", "sluicegate-telemetry", "sluicegate-trace"],
    ),
    ("sluicegate-route", &["sluicegate-config"]),
    ("sluicegate-source", &["sluicegate-config", "sluicegate-translate"]),
    ("sluicegate-telemetry", &["sluicegate-trace"]),
    ("sluicegate-trace", &[]),
    ("sluicegate-translate", &["sluicegate-config", "sluicegate-trace"]),
    ("sluicegate-xdp", &["sluicegate-dsr", "sluicegate-l4"]),
    ("xtask", &[]),
];

/// Crates without I/O, clock, randomness, threads and locks of their own.
const PURE: &[&str] =
    &["sluicegate-config", "sluicegate-http1", "sluicegate-route", "sluicegate-trace", "sluicegate-translate"];

/// What a pure crate may not reach, by name or, with `*`, by the beginning of the name: runtimes, sockets, the file
/// system, randomness, logging. `rustls` and `aws-lc-rs` are not among them: `translate` asks them whether a key fits a
/// certificate, which touches no socket.
const IMPURE_CRATES: &[&str] = &[
    "async-io",
    "async-std",
    "crossbeam-channel",
    "fastrand",
    "futures-executor",
    "getrandom",
    "h2",
    "hickory-*",
    "hyper",
    "hyper-*",
    "inotify*",
    "io-uring",
    "kube*",
    "mio",
    "nix",
    "notify*",
    "parking_lot",
    "polling",
    "quinn*",
    "rand",
    "rand_*",
    "reqwest",
    "rustix",
    "smol",
    "socket2",
    "tempfile",
    "tokio",
    "tokio-*",
    "tonic*",
    "tracing",
    "tracing-*",
    "walkdir",
];

/// What a pure crate may not write, outside of its tests.
const IMPURE_WORDS: &[&str] = &[
    "std::env",
    "std::fs",
    "std::io",
    "std::process",
    "std::thread",
    "TcpListener",
    "TcpStream",
    "UdpSocket",
    "UnixStream",
    "Instant::now",
    "SystemTime",
    "Mutex",
    "RwLock",
    "Condvar",
    "RandomState",
    "static mut",
    "thread_local!",
    "println!",
    "eprintln!",
];

/// Crates that may override the workspace's ban of unsafe code: those that share memory with the kernel (the eBPF programs
/// and who maps their tables), the laboratory, which moves threads between namespaces, and the allocator that tests count
/// by. Each use in them is allowed where it stands, with its reason.
const UNSAFE_SHELLS: &[&str] =
    &["sluicegate-allocations", "sluicegate-announce", "sluicegate-forward", "sluicegate-netlab", "sluicegate-xdp"];

/// Lines that a source file outside of `tests` may have: beyond that it has a second subject.
const LONGEST_FILE: usize = 800;

/// Folders that hold what was built, fetched or found, not what was written.
const NOT_SOURCE: &[&str] = &[".git", "target", "artifacts", "corpus", "__pycache__", ".venv", "node_modules"];

static ROOT: LazyLock<PathBuf> = LazyLock::new(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));

static METADATA: LazyLock<Metadata> = LazyLock::new(|| {
    // Crates of other platforms need not be there.
    let platform = vec!["--filter-platform".to_owned(), host_triple()];
    MetadataCommand::new()
        .manifest_path(ROOT.join("Cargo.toml"))
        .other_options(platform)
        .exec()
        .expect("cargo metadata")
});

/// Every file of the repository, by its path below the root.
static FILES: LazyLock<Vec<PathBuf>> = LazyLock::new(|| {
    let mut files = Vec::new();
    walk(&ROOT, Path::new(""), &mut files);
    files.sort();
    files
});

#[test]
fn the_workspace_depends_as_the_picture_says() {
    let complaints = picture_complaints(&edges_of_the_workspace());
    assert!(complaints.is_empty(), "{complaints:#?}");
}

#[test]
fn pure_crates_reach_no_runtime_socket_or_clock() {
    for name in PURE {
        let reached = reached_by(name);
        assert!(reached.contains("thiserror"), "the tree of {name} was read: {reached:?}");
        let complaints = reach_complaints(name, &reached);
        assert!(complaints.is_empty(), "{complaints:#?}");
    }
}

#[test]
fn pure_crates_write_no_input_or_output() {
    for name in PURE {
        let complaints: Vec<String> = sources_of(name).flat_map(|(path, text)| impure_lines(&path, &text)).collect();
        assert!(complaints.is_empty(), "{complaints:#?}");
    }
}

#[test]
fn every_crate_opens_with_what_it_is_not() {
    let mut read = 0;
    for package in METADATA.workspace_packages() {
        for target in package.targets.iter().filter(|target| target.is_lib() || target.is_bin()) {
            let text = fs::read_to_string(&target.src_path).expect("a root of a crate");
            assert_eq!(opening_complaint(&text), None, "{}", target.src_path);
            read += 1;
        }
    }
    assert!(read >= PICTURE.len(), "{read} crate roots were read");
}

#[test]
fn unsafe_code_is_forbidden_in_every_crate() {
    let root = read("Cargo.toml");
    assert_eq!(workspace_lint_complaint(&root), None);
    for package in METADATA.workspace_packages() {
        if UNSAFE_SHELLS.contains(&package.name.as_str()) {
            continue;
        }
        let manifest = fs::read_to_string(&package.manifest_path).expect("a manifest");
        assert_eq!(inherited_lint_complaint(&manifest), None, "{}", package.manifest_path);
    }
}

#[test]
fn sources_stay_short_and_names_say_something() {
    let mut complaints = Vec::new();
    let mut sources = 0;
    for path in FILES.iter() {
        complaints.extend(name_complaint(path));
        if path.extension() == Some(OsStr::new("rs")) {
            sources += 1;
            complaints.extend(length_complaint(path, &read(path)));
        }
    }
    assert!(sources > 100, "{sources} source files were read");
    assert!(complaints.is_empty(), "{complaints:#?}");
}

#[test]
fn nothing_names_a_machine_or_a_registry() {
    let mut complaints = Vec::new();
    for path in FILES.iter().filter(|path| is_text(path)) {
        complaints.extend(machine_complaints(path, &read(path)));
    }
    for lock in ["Cargo.lock", "fuzz/Cargo.lock"] {
        complaints.extend(lock_complaints(lock, &read(lock)));
    }
    assert!(complaints.is_empty(), "{complaints:#?}");
}

#[test]
fn one_rust_version_is_named_everywhere() {
    let mut versions: BTreeMap<String, String> = METADATA
        .workspace_packages()
        .iter()
        .map(|package| {
            (package.name.to_string(), package.rust_version.as_ref().map_or_else(String::new, short_version))
        })
        .collect();
    versions.insert("fuzz/Cargo.toml".to_owned(), quoted_after(&read("fuzz/Cargo.toml"), "rust-version"));
    let distinct: BTreeSet<&String> = versions.values().collect();
    assert_eq!(distinct.len(), 1, "{versions:#?}");
    let version = distinct.first().expect("one");
    assert!(!version.is_empty(), "{versions:#?}");
    for document in ["README.md", "CONTRIBUTING.md"] {
        assert!(read(document).contains(&format!("Rust {version}")), "{document} does not name Rust {version}");
    }
    assert!(
        read("deploy/Dockerfile").contains(&format!("FROM rust:{version}-")),
        "deploy/Dockerfile builds with Rust {version}"
    );
    for file in ["rust-toolchain", "rust-toolchain.toml"] {
        assert!(!ROOT.join(file).exists(), "{file} would make rustup download another toolchain");
    }
}

#[test]
fn the_map_of_the_code_points_at_files_that_exist() {
    let text = read("ARCHITECTURE.md");
    let rows = where_is_rows(&text);
    assert!(rows.len() >= 30, "{} rows", rows.len());
    let complaints: Vec<String> =
        rows.iter().flat_map(|row| row_complaints(row, &|path| ROOT.join(path).exists())).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
    for package in METADATA.workspace_packages() {
        assert!(text.contains(package.name.as_str()), "ARCHITECTURE.md does not describe {}", package.name);
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut complaints = Vec::new();
    let mut read_documents = 0;
    for path in FILES.iter().filter(|path| path.extension() == Some(OsStr::new("md"))) {
        let folder = path.parent().unwrap_or(Path::new(""));
        complaints.extend(link_complaints(path, &read(path), &|target| ROOT.join(folder).join(target).exists()));
        read_documents += 1;
    }
    assert!(read_documents >= 4, "{read_documents} documents were read");
    assert!(complaints.is_empty(), "{complaints:#?}");
}

// The rules.

fn picture_complaints(edges: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut complaints = Vec::new();
    for (name, depends_on) in edges {
        let Some((_, expected)) = PICTURE.iter().find(|(known, _)| known == name) else {
            complaints.push(format!("{name} has no place in the picture"));
            continue;
        };
        let expected: BTreeSet<String> = expected.iter().map(|name| (*name).to_owned()).collect();
        complaints.extend(depends_on.difference(&expected).map(|other| format!("{name} may not depend on {other}")));
        complaints
            .extend(expected.difference(depends_on).map(|other| format!("{name} does not depend on {other} any more")));
    }
    let gone = PICTURE.iter().filter(|(name, _)| !edges.contains_key(*name));
    complaints.extend(gone.map(|(name, _)| format!("{name} is in the picture and not in the workspace")));
    complaints
}

fn reach_complaints(name: &str, reached: &BTreeSet<String>) -> Vec<String> {
    let is_impure = |other: &str| {
        IMPURE_CRATES.iter().any(|impure| match impure.strip_suffix('*') {
            Some(beginning) => other.starts_with(beginning),
            None => other == *impure,
        })
    };
    reached.iter().filter(|other| is_impure(other)).map(|other| format!("{name} is pure and reaches {other}")).collect()
}

fn impure_lines(path: &Path, text: &str) -> Vec<String> {
    let product = text.lines().enumerate().take_while(|(_, line)| line.trim() != "#[cfg(test)]");
    let code = product.filter(|(_, line)| !line.trim_start().starts_with("//"));
    code.flat_map(|(number, line)| {
        let found = IMPURE_WORDS.iter().filter(move |word| line.contains(**word));
        found.map(move |word| format!("{}:{}: a pure crate has no {word}", path.display(), number + 1))
    })
    .collect()
}

/// The first two paragraphs of the crate's documentation say what it is and what it is not.
fn opening_complaint(text: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().take_while(|line| line.starts_with("//!")).collect();
    if lines.is_empty() {
        return Some("does not open with //!".to_owned());
    }
    let documentation = lines.iter().map(|line| line.trim_start_matches("//!").trim()).collect::<Vec<_>>().join("\n");
    let opening = documentation.split("\n\n").take(2).collect::<Vec<_>>().join(" ").to_ascii_lowercase();
    let denies = opening
        .split(|c: char| !c.is_ascii_alphabetic())
        .any(|word| matches!(word, "no" | "not" | "nothing" | "neither" | "never" | "none" | "without"));
    (!denies).then(|| format!("does not say what it is not: {opening:?}"))
}

fn workspace_lint_complaint(manifest: &str) -> Option<String> {
    let lint = section(manifest, "[workspace.lints.rust]").find(|line| line.starts_with("unsafe_code"));
    (lint != Some("unsafe_code = \"forbid\"")).then(|| format!("the workspace says {lint:?} of unsafe code"))
}

fn inherited_lint_complaint(manifest: &str) -> Option<String> {
    let inherits = section(manifest, "[lints]").any(|line| line == "workspace = true");
    (!inherits).then(|| "does not inherit the lints of the workspace, so unsafe code is not forbidden".to_owned())
}

fn name_complaint(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let empty = ["utils", "helper", "manager"].into_iter().find(|word| name.contains(word))?;
    Some(format!("{}: {empty} names nothing", path.display()))
}

fn length_complaint(path: &Path, text: &str) -> Option<String> {
    let in_tests = path.components().any(|part| part.as_os_str() == "tests");
    let lines = text.lines().count();
    (!in_tests && lines > LONGEST_FILE).then(|| format!("{}: {lines} lines, more than {LONGEST_FILE}", path.display()))
}

/// Paths of one machine and names of registries mean nothing elsewhere. Written in pieces, so that this file passes.
fn machine_complaints(path: &Path, text: &str) -> Vec<String> {
    const PLACES: &[&str] = &[
        concat!("/wo", "rk/"),
        concat!("/fa", "rm/"),
        concat!("../sha", "red"),
        concat!("/ro", "ot/."),
        concat!("/tmp/tar", "get"),
        concat!("artif", "actory"),
        concat!("index.", "crates.io"),
        concat!("static.", "crates.io"),
        concat!("pypi.", "org"),
        concat!("python", "hosted.org"),
        concat!("deb.", "debian.org"),
        concat!("replace", "-with ="),
    ];
    let found = PLACES.iter().filter(|place| text.contains(**place));
    found.map(|place| format!("{} names {place}", path.display())).collect()
}

fn lock_complaints(name: &str, lock: &str) -> Vec<String> {
    let sources = lock.lines().filter(|line| line.starts_with("source = "));
    let elsewhere =
        sources.filter(|line| *line != "source = \"registry+https://github.com/rust-lang/crates.io-index\"");
    elsewhere.map(|line| format!("{name}: {line} is not crates.io")).collect()
}

/// The rows of the table under the heading `Where is …?`: the question and the paths of the answer.
fn where_is_rows(text: &str) -> Vec<(String, Vec<String>)> {
    let table = text
        .lines()
        .skip_while(|line| !(line.starts_with('#') && line.contains("Where is")))
        .skip(1)
        .take_while(|line| !line.starts_with('#'));
    let rows = table.filter(|line| line.starts_with('|')).skip(2);
    rows.map(|row| {
        let mut cells = row.trim_matches('|').splitn(2, " | ");
        let question = cells.next().unwrap_or_default().trim().to_owned();
        let answer = cells.next().unwrap_or_default();
        (question, answer.split('`').skip(1).step_by(2).map(str::to_owned).collect())
    })
    .collect()
}

fn row_complaints((question, paths): &(String, Vec<String>), exists: &dyn Fn(&str) -> bool) -> Vec<String> {
    if paths.is_empty() {
        return vec![format!("{question:?} is not answered with a path")];
    }
    let gone = paths.iter().filter(|path| !exists(path));
    gone.map(|path| format!("{question:?} is answered with {path}, which does not exist")).collect()
}

/// Links to files, `](path)`; those to the web and inside the document are not followed.
fn link_complaints(path: &Path, text: &str, exists: &dyn Fn(&str) -> bool) -> Vec<String> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    let files = targets.filter(|target| !target.contains("://") && !target.starts_with(['#', '<']));
    let gone = files.filter(|target| !exists(target.split('#').next().unwrap_or_default()));
    gone.map(|target| format!("{} links to {target}, which does not exist", path.display())).collect()
}

// What the rules are asked about.

fn host_triple() -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo).arg("-vV").output().expect("cargo runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: ")).expect("cargo names its host");
    host.to_owned()
}

fn edges_of_the_workspace() -> BTreeMap<String, BTreeSet<String>> {
    let packages = METADATA.workspace_packages();
    let members: BTreeSet<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let of = |package: &&cargo_metadata::Package| {
        let product = package.dependencies.iter().filter(|edge| edge.kind != DependencyKind::Development);
        let within = product.filter(|edge| members.contains(edge.name.as_str()));
        (package.name.to_string(), within.map(|edge| edge.name.clone()).collect())
    };
    packages.iter().map(of).collect()
}

/// Names of all packages in the normal dependency tree of a crate of the workspace.
fn reached_by(name: &str) -> BTreeSet<String> {
    let resolve = METADATA.resolve.as_ref().expect("a resolved graph");
    let nodes: BTreeMap<&PackageId, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let start = METADATA.workspace_packages().into_iter().find(|package| package.name == name).expect("a member");
    let mut seen = BTreeSet::from([&start.id]);
    let mut next = vec![&start.id];
    while let Some(id) = next.pop() {
        let node = nodes[id];
        for edge in &node.deps {
            let normal = edge.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal);
            if normal && is_built(node, &METADATA[&edge.pkg].name) && seen.insert(&edge.pkg) {
                next.push(&edge.pkg);
            }
        }
    }
    seen.into_iter().map(|id| METADATA[id].name.to_string()).collect()
}

/// Cargo lists an optional dependency that no feature turns on as well, where another feature mentions it weakly
/// (`ring?/std`).
fn is_built(node: &cargo_metadata::Node, name: &str) -> bool {
    let package = &METADATA[&node.id];
    let mut edges = package.dependencies.iter().filter(|edge| edge.name == name);
    let turns_on = |value: &String, called: &str| {
        value.strip_prefix("dep:") == Some(called)
            || value.strip_prefix(called).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let on: Vec<&String> =
        node.features.iter().filter_map(|name| package.features.get(name.as_str())).flatten().collect();
    edges.any(|edge| {
        let called = edge.rename.as_deref().unwrap_or(&edge.name);
        !edge.optional || on.iter().any(|value| turns_on(value, called))
    })
}

fn sources_of(name: &str) -> impl Iterator<Item = (PathBuf, String)> {
    let package = METADATA.workspace_packages().into_iter().find(|package| package.name == name).expect("a member");
    let folder = package.manifest_path.parent().expect("a folder").join("src").into_std_path_buf();
    let below = folder.strip_prefix(&*ROOT).expect("inside the repository").to_owned();
    let mine: Vec<&PathBuf> = FILES.iter().filter(|path| path.starts_with(&below)).collect();
    assert!(!mine.is_empty(), "{name} has sources");
    mine.into_iter().map(|path| (path.clone(), read(path)))
}

fn walk(root: &Path, below: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(root.join(below)).expect("a folder") {
        let entry = entry.expect("an entry");
        let path = below.join(entry.file_name());
        let kind = entry.file_type().expect("a type");
        if kind.is_dir() {
            let name = entry.file_name();
            if !NOT_SOURCE.iter().any(|skipped| name == **skipped) {
                walk(root, &path, files);
            }
        } else if kind.is_file() {
            files.push(path);
        }
    }
}

fn is_text(path: &Path) -> bool {
    const TEXT: &[&str] =
        &["rs", "toml", "md", "yaml", "yml", "json", "sh", "py", "txt", "html", "proto", "conf", "cfg", "dict"];
    match path.extension().and_then(OsStr::to_str) {
        Some(extension) => TEXT.contains(&extension),
        None => path.starts_with(".ci") || path.file_name() == Some(OsStr::new(".gitignore")),
    }
}

fn read(path: impl AsRef<Path>) -> String {
    let path = ROOT.join(path);
    fs::read_to_string(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

/// The lines of one section of a manifest.
fn section<'a>(manifest: &'a str, heading: &'a str) -> impl Iterator<Item = &'a str> {
    let below = manifest.lines().map(str::trim).skip_while(move |line| *line != heading).skip(1);
    below.take_while(|line| !line.starts_with('['))
}

fn quoted_after(text: &str, key: &str) -> String {
    let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
    line.split('"').nth(1).unwrap_or_default().to_owned()
}

fn short_version(version: &cargo_metadata::semver::Version) -> String {
    format!("{}.{}", version.major, version.minor)
}

mod each_rule_can_fail {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn edges() {
        let of = |(name, others): &(&str, &[&str])| ((*name).to_owned(), set(others));
        let mut edges: BTreeMap<_, _> = PICTURE.iter().map(of).collect();
        assert!(picture_complaints(&edges).is_empty());
        edges.get_mut("sluicegate-config").expect("a member").insert("sluicegate-proxy".to_owned());
        assert_eq!(picture_complaints(&edges), ["sluicegate-config may not depend on sluicegate-proxy"]);
        edges.get_mut("sluicegate-config").expect("a member").remove("sluicegate-proxy");
        edges.get_mut("sluicegate-route").expect("a member").clear();
        assert_eq!(picture_complaints(&edges), ["sluicegate-route does not depend on sluicegate-config any more"]);
        edges.remove("sluicegate-route");
        edges.insert("sluicegate-new".to_owned(), BTreeSet::new());
        assert_eq!(picture_complaints(&edges).len(), 2);
    }

    #[test]
    fn reach() {
        let reached = set(&["thiserror", "tokio", "tokio-util", "hickory-proto"]);
        assert_eq!(reach_complaints("sluicegate-config", &reached).len(), 3);
        // The shells reach what the pure crates may not: the graph is really walked.
        assert!(!reach_complaints("sluicegate-proxy", &reached_by("sluicegate-proxy")).is_empty());
    }

    #[test]
    fn words() {
        let text = "let a = std::time::Instant::now();\n// std::fs\nuse std::fs;\n#[cfg(test)]\nuse std::fs;\n";
        let lines = impure_lines(Path::new("a.rs"), text);
        assert_eq!(lines, ["a.rs:1: a pure crate has no Instant::now", "a.rs:3: a pure crate has no std::fs"]);
    }

    #[test]
    fn openings() {
        assert_eq!(opening_complaint("//! Parses.\n//!\n//! It contains no I/O.\n"), None);
        assert!(opening_complaint("fn main() {}\n").is_some());
        assert!(opening_complaint("//! Parses.\n//!\n//! Notable.\n//!\n//! It is not late.\n").is_some());
    }

    #[test]
    fn lints() {
        let good = "[workspace.lints.rust]\nunsafe_code = \"forbid\"\n";
        assert_eq!(workspace_lint_complaint(good), None);
        assert!(workspace_lint_complaint(&good.replace("forbid", "warn")).is_some());
        assert!(workspace_lint_complaint("[lints.rust]\nunsafe_code = \"forbid\"\n").is_some());
        assert!(
            inherited_lint_complaint("[lints.rust]\nunsafe_code = \"allow\"\n[package]\nworkspace = true\n").is_some()
        );
    }

    #[test]
    fn names_and_lengths() {
        for bad in ["src/net_utils.rs", "src/Manager.rs", "a/test_helper.py"] {
            assert!(name_complaint(Path::new(bad)).is_some(), "{bad}");
        }
        let long = "\n".repeat(LONGEST_FILE + 1);
        assert!(length_complaint(Path::new("src/a.rs"), &long).is_some());
        assert!(length_complaint(Path::new("src/a.rs"), &long[1..]).is_none());
        assert!(length_complaint(Path::new("a/tests/a.rs"), &long).is_none());
    }

    #[test]
    fn machines() {
        let bad = format!("see {}main and {}", concat!("/wo", "rk/"), concat!("pypi.", "org"));
        assert_eq!(machine_complaints(Path::new("a.md"), &bad).len(), 2);
        let lock = "source = \"registry+https://github.com/rust-lang/crates.io-index\"\nsource = \"git+https://a.example/b\"\n";
        assert_eq!(lock_complaints("Cargo.lock", lock).len(), 1);
        assert!(is_text(Path::new(".ci/run")) && is_text(Path::new("docs/a.md")) && !is_text(Path::new("a.png")));
    }

    #[test]
    fn tables_and_links() {
        let text = "# A\n| x | `no` |\n## Where is …?\n\n| what | where |\n| --- | --- |\n| a | `a.rs`, `b.rs` |\n| b | there |\n# C\n| x | `no` |\n";
        let rows = where_is_rows(text);
        assert_eq!(rows.len(), 2);
        let complaints: Vec<String> = rows.iter().flat_map(|row| row_complaints(row, &|path| path == "a.rs")).collect();
        assert_eq!(complaints.len(), 2, "{complaints:?}");
        let links = "[a](a.md#x) [b](b.md) [c](https://c.example/) [d](#d)";
        assert_eq!(link_complaints(Path::new("a.md"), links, &|path| path == "a.md").len(), 1);
    }
}
