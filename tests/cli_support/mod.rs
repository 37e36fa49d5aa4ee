//! Runs the built program.

#![allow(dead_code, reason = "every test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test fails where something is not there")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longer than anything here takes on a busy machine.
pub const AT_MOST: Duration = Duration::from_secs(60);

/// How a command ended.
pub struct End {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluicegate"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SLUICEGATE_")) {
        command.env_remove(name);
    }
    command.env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

/// Runs a command that ends by itself.
pub fn run_to_end(arguments: &[&str]) -> End {
    end_of(program(), arguments)
}

/// As [`run_to_end`], with temporary files in that folder.
pub fn run_to_end_in(temporary: &Path, arguments: &[&str]) -> End {
    let mut command = program();
    command.env("TMPDIR", temporary);
    end_of(command, arguments)
}

fn end_of(mut command: Command, arguments: &[&str]) -> End {
    let mut child = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        out.read_to_string(&mut text).unwrap();
        text
    });
    let err_reader = std::thread::spawn(move || {
        let mut text = String::new();
        err.read_to_string(&mut text).unwrap();
        text
    });
    let status = wait(&mut child, &arguments.join(" "));
    End { code: status.code(), stdout: reader.join().unwrap(), stderr: err_reader.join().unwrap() }
}

fn wait(child: &mut Child, what: &str) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if start.elapsed() > AT_MOST {
            child.kill().unwrap();
            panic!("`{what}` did not end within {AT_MOST:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A folder of manifests.
pub fn manifests(files: &[(&str, &str)]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

/// A loopback address on which nothing listens. Its port is none that the kernel hands out by itself, and nobody listens on it
/// to find that out: a process that another test starts in that moment would go on to do so until it runs its program.
pub fn free_address() -> SocketAddr {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id().wrapping_mul(64).wrapping_add(TAKEN.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(12_000 + number % 20_000).expect("below the ephemeral ports");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpStream::connect(address).is_err() {
            return address;
        }
    }
}

/// A running gateway. Dropping it kills it.
pub struct Gateway {
    child: Child,
    log: Receiver<String>,
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub metrics: SocketAddr,
    pub admin: SocketAddr,
}

impl Gateway {
    /// Starts on a folder, on free ports.
    pub fn start(folder: &TempDir, more: &[&str]) -> Self {
        let mut arguments =
            vec!["--manifests", folder.path().to_str().unwrap(), "--http", "127.0.0.1:0", "--https", "127.0.0.1:0"];
        arguments.extend(["--metrics", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log-format", "json"]);
        arguments.extend(more);
        Self::start_with(&arguments, &[])
    }

    /// Starts with these arguments; the log has to be JSON.
    pub fn start_with(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut child = program()
            .arg("run")
            .args(arguments)
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (lines, log) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).for_each(|line| drop(lines.send(line))));
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut gateway = Self { child, log, http: any, https: any, metrics: any, admin: any };
        let line = gateway.wait_for("\"listening\"");
        let listening: serde_json::Value = serde_json::from_str(&line).unwrap();
        let address = |key: &str| -> SocketAddr {
            let text = listening[key].as_str().unwrap().trim_matches(['[', ']']).to_owned();
            text.parse().unwrap_or_else(|_| panic!("{key}: {listening}"))
        };
        (gateway.http, gateway.https) = (address("http"), address("https"));
        (gateway.metrics, gateway.admin) = (address("metrics"), address("admin"));
        gateway.wait_for("the first state is served");
        gateway
    }

    /// The next line of the log that holds the text.
    #[track_caller]
    pub fn wait_for(&self, part: &str) -> String {
        let deadline = Instant::now() + AT_MOST;
        let mut seen = Vec::new();
        loop {
            match self.log.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(part) => return line,
                Ok(line) => seen.push(line),
                Err(error) => panic!("{error}: no {part:?} in the log:\n{}", seen.join("\n")),
            }
        }
    }

    /// Sends a signal by its number.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// The exit code.
    pub fn end(&mut self) -> Option<i32> {
        wait(&mut self.child, "run").code()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// What an HTTP/1.1 server answers to a GET, as text.
pub fn get(address: SocketAddr, host: &str, path: &str) -> String {
    try_get(address, host, path).unwrap()
}

/// As [`get`], for servers that may not be there.
pub fn try_get(address: SocketAddr, host: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(AT_MOST))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}
