//! A container of the manifest without a runtime: its arguments, user, capabilities and account, a read-only `/proc/sys`, and
//! the API server where a pod finds it.

use super::{Workload, arguments, arguments_on, list};
use rustix::process::Signal;
use serde_json::Value;
use sluicegate_netlab::{Namespace, Process};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// Generous: the machines of CI are slow and loaded.
const PATIENCE: Duration = Duration::from_secs(60);

/// Mounts come first, then everything is given up at once. Arguments: the account's files, the program, setpriv's.
const START: &str = r#"
set -e
files=$1 program=$2
shift 2
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/secrets/kubernetes.io
cp -r "$files" /run/secrets/kubernetes.io/serviceaccount
: >/run/sluicegate
mount --bind "$program" /run/sluicegate
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
exec setpriv "$@"
"#;

/// What a pod is given by its cluster.
pub struct Pod<'a> {
    pub namespace: &'a Namespace,
    /// The node that it runs on.
    pub node: &'a str,
    /// A folder of its own.
    pub folder: PathBuf,
    /// Token and certificate; the API server's port on loopback.
    pub token: String,
    pub authority: PathBuf,
    pub port: u16,
}

/// A running container.
pub struct Container {
    process: Process,
    log: PathBuf,
}

impl Container {
    /// Runs the init containers to their end, then the container. Files of ConfigMaps and Secrets are those below the folder's
    /// `volumes`, by their paths in the container.
    pub fn start(workload: &Workload<'_>, pod: &Pod<'_>) -> Self {
        for init in list(&workload.pod["initContainers"]) {
            let mut command = Command::new(env!("CARGO_BIN_EXE_sluicegate"));
            command.args(arguments(init)).stdout(Stdio::null());
            let mut process = pod.namespace.spawn_process(command).expect("an init container");
            let status = process.wait(PATIENCE).expect("it ends");
            assert!(status.success(), "{}: {init}: {status}", workload.name);
        }
        let files = pod.folder.join("account");
        std::fs::create_dir_all(&files).expect("a folder");
        std::fs::write(files.join("token"), &pod.token).expect("a token");
        std::fs::write(files.join("namespace"), "sluicegate-system").expect("a namespace");
        std::fs::copy(&pod.authority, files.join("ca.crt")).expect("a certificate");
        readable(&pod.folder);
        let log = pod.folder.join("log");
        let mut command = Command::new("sh");
        command.args(["-c", START, "sh"]).arg(&files).arg(env!("CARGO_BIN_EXE_sluicegate"));
        command.args(privileges(workload)).arg("/run/sluicegate");
        let volumes = pod.folder.join("volumes");
        let in_folder = |argument: String| match argument.split_once("=/etc/") {
            Some((flag, path)) => format!("{flag}={}/etc/{path}", volumes.display()),
            None => argument,
        };
        command.args(arguments_on(workload.container, pod.node).into_iter().map(in_folder));
        for variable in list(&workload.container["env"]) {
            if let (Some(name), Some(value)) = (variable["name"].as_str(), variable["value"].as_str()) {
                command.env(name, value);
            }
        }
        command.env("KUBERNETES_SERVICE_HOST", "127.0.0.1").env("KUBERNETES_SERVICE_PORT", pod.port.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(std::fs::File::create(&log).expect("a log"));
        let process = pod.namespace.spawn_process(command).expect("a container");
        Self { process, log }
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for a line of its log.
    #[track_caller]
    pub fn wait_for(&self, part: &str) {
        let begun = Instant::now();
        while !self.log().contains(part) {
            let has_failed = self.log().lines().any(|line| line.starts_with("error: "));
            let waits_in = || std::fs::read_to_string(format!("/proc/{}/wchan", self.process.id()));
            assert!(
                !has_failed && begun.elapsed() < PATIENCE,
                "no {part:?} in the log (State {}, waits in {:?}):\n{}",
                self.status("State"),
                waits_in(),
                self.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A line of `/proc/PID/status`: `CapEff`.
    pub fn status(&self, key: &str) -> String {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("it runs");
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).expect("a line");
        line.trim().to_owned()
    }

    /// SIGTERM, and its end in order.
    pub fn end(mut self) {
        self.process.signal(Signal::TERM).expect("a signal");
        let status = self.process.wait(PATIENCE).expect("it ends");
        assert!(status.success(), "{status}:\n{}", self.log());
    }
}

/// Everybody may read it, as with volumes of pods.
fn readable(path: &Path) {
    let is_folder = path.is_dir();
    let mode = if is_folder { 0o755 } else { 0o644 };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("permissions");
    if is_folder {
        for entry in std::fs::read_dir(path).expect("a folder") {
            readable(&entry.expect("an entry").path());
        }
    }
}

/// `setpriv` as the runtime would: the user, and of all capabilities those that are added.
fn privileges(workload: &Workload<'_>) -> Vec<String> {
    let of = |key: &str| {
        let (own, pod) = (&workload.container["securityContext"][key], &workload.pod["securityContext"][key]);
        if own.is_null() { pod.as_u64() } else { own.as_u64() }
    };
    let user = of("runAsUser").expect("a user");
    let bounding: String = capabilities(workload.container).iter().map(|name| format!(",+{name}")).collect();
    vec![
        format!("--reuid={user}"),
        format!("--regid={}", of("runAsGroup").unwrap_or(0)),
        "--clear-groups".to_owned(),
        "--inh-caps=-all".to_owned(),
        format!("--bounding-set=-all{bounding}"),
        "--no-new-privs".to_owned(),
    ]
}

/// Those that are added, as setpriv names them: `net_admin`.
fn capabilities(container: &Value) -> Vec<String> {
    let added = list(&container["securityContext"]["capabilities"]["add"]).iter();
    added.map(|name| name.as_str().expect("a name").to_lowercase()).collect()
}

/// The bits of capabilities that are added, as `/proc` shows them.
pub fn capability_bits(container: &Value) -> String {
    let bit = |name: &str| match name {
        "net_bind_service" => 10,
        "net_admin" => 12,
        "net_raw" => 13,
        "perfmon" => 38,
        "bpf" => 39,
        other => panic!("{other}: which bit is it?"),
    };
    let bits = capabilities(container).iter().fold(0_u64, |bits, name| bits | 1 << bit(name));
    format!("{bits:016x}")
}

/// Lets a namespace without a way out reach a port of this machine's loopback, at the same port of its own.
pub fn lead_to_port(namespace: &Namespace, port: u16) {
    let (sender, accepted) = channel::<TcpStream>();
    let (ready, is_ready) = channel();
    namespace.spawn(move || {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("a port of the namespace");
        ready.send(()).expect("somebody waits");
        listener.incoming().map_while(Result::ok).for_each(|stream| drop(sender.send(stream)));
    });
    is_ready.recv().expect("it listens");
    std::thread::spawn(move || {
        for near in accepted {
            // While the server is down, connections are closed at once.
            if let Ok(far) = TcpStream::connect(("127.0.0.1", port)) {
                let (near_end, far_end) = (near.try_clone().expect("a socket"), far.try_clone().expect("a socket"));
                std::thread::spawn(move || carry(near_end, far));
                std::thread::spawn(move || carry(far_end, near));
            }
        }
    });
}

fn carry(mut from: TcpStream, mut to: TcpStream) {
    let mut piece = [0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut piece) {
        if to.write_all(&piece[..length]).is_err() {
            break;
        }
    }
    // The other direction ends by itself.
    let _gone = to.shutdown(std::net::Shutdown::Write);
}
