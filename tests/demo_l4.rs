//! `demo` as root: its laboratory shows every delivery, fails where the wires show something else, and is gone afterwards,
//! however the demo ends.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Generous: the machines of CI are slow and loaded.
const PATIENCE: Duration = Duration::from_secs(120);

/// One laboratory at a time: two cores are few.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A demo with a temporary folder of its own. It is killed when this is dropped.
struct Demo {
    child: Child,
    said: Receiver<String>,
    place: TempDir,
}

impl Demo {
    fn start(arguments: &[&str]) -> Self {
        Self::start_as(Command::new(env!("CARGO_BIN_EXE_sluicegate")), arguments)
    }

    fn start_as(mut command: Command, arguments: &[&str]) -> Self {
        let place = tempfile::tempdir().expect("a folder");
        command.args(["demo", "--http", "127.0.0.1:0", "--https", "127.0.0.1:0"]).args(arguments);
        command.env("NO_COLOR", "1").env("TMPDIR", place.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("a demo");
        let (lines, said) = channel();
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).for_each(|line| drop(lines.send(line))));
        Self { child, said, place }
    }

    /// Waits for a line on standard error that holds the text.
    #[track_caller]
    fn wait_for(&self, part: &str) {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        loop {
            match self.said.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(part) => return,
                Ok(line) => seen.push(line),
                Err(error) => panic!("{error}: no {part:?} in {seen:#?}"),
            }
        }
    }

    /// What it printed for people, to the end.
    fn programme(&mut self) -> String {
        let mut lines = BufReader::new(self.child.stdout.take().expect("piped")).lines().map_while(Result::ok);
        let mut text = String::new();
        for line in lines.by_ref() {
            text.push_str(&line);
            text.push('\n');
            if line.starts_with("Ctrl-C ends it") {
                break;
            }
        }
        // What it prints later goes on being read, so that it can go on printing.
        std::thread::spawn(move || lines.for_each(drop));
        text
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("signalled");
    }

    fn end(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What `-o json` printed, the exit code and the lines on standard error.
    fn report(&mut self) -> (Value, Option<i32>, Vec<String>) {
        let mut text = String::new();
        self.child.stdout.take().expect("piped").read_to_string(&mut text).expect("text");
        let status = self.end();
        let mut said = Vec::new();
        while let Ok(line) = self.said.recv_timeout(Duration::from_secs(5)) {
            said.push(line);
        }
        let report = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}\n{said:#?}"));
        (report, status.code(), said)
    }

    /// Namespaces and file systems that carry its process id.
    fn leftovers(&self) -> Vec<PathBuf> {
        let own = format!("sg-demo-{}.", self.child.id());
        let entries = ["/run/netns", "/run"].into_iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten();
        entries.flatten().map(|entry| entry.path()).filter(|path| path.to_string_lossy().contains(&own)).collect()
    }

    #[track_caller]
    fn assert_nothing_is_left(&self) {
        assert_eq!(self.leftovers(), Vec::<PathBuf>::new());
        assert_eq!(entries(self.place.path()), BTreeSet::new(), "its folders are still there");
        assert_eq!(children_of_laboratories(self.place.path()), Vec::<String>::new());
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
        sluicegate_netlab::Lab::sweep("sg-demo");
    }
}

fn entries(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Command lines of processes that work on manifests in that folder.
fn children_of_laboratories(folder: &Path) -> Vec<String> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = processes.filter_map(|process| fs::read_to_string(process.path().join("cmdline")).ok());
    lines.filter(|line| line.contains(&*folder.to_string_lossy())).collect()
}

/// What of the host a laboratory could disturb.
fn host() -> [BTreeSet<String>; 2] {
    [entries(Path::new("/sys/class/net")), entries(Path::new("/sys/fs/bpf"))]
}

fn steps(report: &Value) -> Vec<(&str, bool, &str)> {
    let steps = report["steps"].as_array().expect("steps").iter();
    steps
        .map(|step| {
            (step["what"].as_str().expect("text"), step["ok"] == true, step["came_back"].as_str().expect("text"))
        })
        .collect()
}

/// Every delivery, IP version and protocol, by name.
fn packet_steps() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for version in ["IPv4", "IPv6"] {
        for method in ["L2", "TUNNEL", "GUE"] {
            names.extend(
                ["TCP", "UDP", "ICMP echo", "ICMP too big"].map(|what| format!("{method}, {what} over {version}")),
            );
        }
        names.extend(["HTTP", "HTTPS"].map(|what| format!("L7 tier, {what} over {version}")));
    }
    names
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn once_shows_every_delivery_and_leaves_nothing_of_itself_or_of_a_killed_one() {
    let _alone = alone();
    let before = host();
    let mut killed = Demo::start(&[]);
    killed.wait_for("every VIP is served");
    assert!(!killed.leftovers().is_empty() && entries(killed.place.path()).len() == 2);
    killed.signal(Signal::KILL);
    killed.end();

    // The next one looks for folders where the killed one made them.
    let mut command = Command::new("env");
    command.arg(format!("TMPDIR={}", killed.place.path().display())).arg(env!("CARGO_BIN_EXE_sluicegate"));
    let mut demo = Demo::start_as(command, &["--once", "-o", "json"]);
    let (report, code, said) = demo.report();
    let failed: Vec<_> = steps(&report).into_iter().filter(|(_, ok, _)| !ok).collect();
    assert_eq!((failed, code), (Vec::new(), Some(0)), "{said:#?}");
    let seen: BTreeSet<String> = steps(&report).into_iter().map(|(what, _, _)| what.to_owned()).collect();
    let missing: Vec<_> = packet_steps().difference(&seen).cloned().collect();
    assert_eq!(missing, Vec::<String>::new());
    demo.assert_nothing_is_left();
    killed.assert_nothing_is_left();
    assert_eq!(host(), before, "the host's own links and pins are as they were");
}

/// The manifests that the laboratory's director reads, once they are complete.
fn wait_for_manifest(place: &Path) -> PathBuf {
    let begun = Instant::now();
    loop {
        let packets = entries(place).into_iter().find(|name| name.starts_with("sluicegate-demo-packets-"));
        if let Some(path) = packets.map(|name| place.join(name).join("vips/vips.yaml"))
            && fs::read_to_string(&path).is_ok_and(|text| text.ends_with("demo/gateways:TUNNEL\n"))
        {
            return path;
        }
        assert!(begun.elapsed() < PATIENCE, "there are no manifests");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn once_fails_where_the_wires_show_another_delivery() {
    let _alone = alone();
    let mut demo = Demo::start(&["--once", "-o", "json"]);
    let manifest = wait_for_manifest(demo.place.path());
    // Every answer still comes, by another tunnel than the demo says.
    let text = fs::read_to_string(&manifest).expect("a manifest").replace("demo/far:TUNNEL", "demo/far:GUE");
    fs::write(&manifest, text).expect("written");
    let (report, code, said) = demo.report();
    assert_eq!(code, Some(1), "{said:#?}");
    let failed: BTreeSet<&str> = steps(&report).into_iter().filter(|(_, ok, _)| !ok).map(|(what, _, _)| what).collect();
    let expected: BTreeSet<String> =
        packet_steps().into_iter().filter(|what| what.starts_with("TUNNEL") && !what.contains("echo")).collect();
    assert_eq!(failed, expected.iter().map(String::as_str).collect(), "{report:#}");
    for (what, _, back) in steps(&report).into_iter().filter(|(_, ok, _)| !ok) {
        assert!(back.contains("left the director by GUE, not by TUNNEL"), "{what}: {back}");
    }
    demo.assert_nothing_is_left();
}

/// Every line with `curl` that is for root, as a shell understands it.
fn what_it_says_to_try_works(programme: &str) {
    let (_, lines) = programme.split_once("Try, as root:\n").unwrap_or_else(|| panic!("nothing to try: {programme}"));
    let lines: Vec<&str> = lines.lines().take_while(|line| !line.is_empty()).collect();
    let (lab, requests) = lines.split_first().expect("lines");
    assert!(lab.trim().starts_with("lab=") && requests.len() == 8, "{lines:#?}");
    for request in requests {
        let request = request.replace("curl ", "curl --silent --show-error --fail --max-time 30 ");
        let output = Command::new("sh").args(["-c", &format!("{lab}\n{request}")]).output().expect("a shell");
        let answer: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{request}: {error}: {}", String::from_utf8_lossy(&output.stderr)));
        assert!(["near", "far", "store"].iter().any(|service| answer["service"] == *service), "{request}: {answer}");
    }
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn signals_remove_everything() {
    let _alone = alone();
    let mut early = Demo::start(&["--once"]);
    early.wait_for("namespaces are joined");
    early.signal(Signal::TERM);
    assert_eq!(early.end().code(), Some(1), "it did not come to its end");
    early.assert_nothing_is_left();

    let mut demo = Demo::start(&[]);
    demo.wait_for("every VIP is served");
    what_it_says_to_try_works(&demo.programme());
    demo.signal(Signal::INT);
    assert_eq!(demo.end().code(), Some(0));
    demo.assert_nothing_is_left();
}

#[test]
#[ignore = "needs root: starts from all capabilities"]
fn without_the_rights_the_rest_runs() {
    let _alone = alone();
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-net_admin", env!("CARGO_BIN_EXE_sluicegate")]);
    let mut demo = Demo::start_as(command, &["--once", "-o", "json"]);
    let (report, code, said) = demo.report();
    assert_eq!((code, steps(&report).len()), (Some(0), 23), "{said:#?}");
    let lines: Vec<_> = said.iter().filter(|line| line.contains("left out")).collect();
    assert!(matches!(&lines[..], [line] if line.ends_with("missing: CAP_NET_ADMIN")), "{said:#?}");
    demo.assert_nothing_is_left();
}
