//! The program, as a process of its own.

use super::server::Server;
use anyhow::{Context as _, bail};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Dropped, it is told to end and waited for.
pub struct Program {
    child: Child,
    http: SocketAddr,
    /// From its start until the first full state was served.
    pub started_in: Duration,
}

impl Program {
    pub fn start(program: &Path, server: &Server) -> anyhow::Result<Self> {
        let begun = Instant::now();
        let mut command = Command::new(program);
        command.args(["run", "--role", "gateway", "--log-format", "json", "--lame-duck", "0s"]);
        command.args(["--publish-status-address", server.published()]);
        command.arg("--kubeconfig").arg(server.kubeconfig());
        for flag in ["--http", "--https", "--metrics", "--admin"] {
            command.args([flag, "127.0.0.1:0"]);
        }
        let mut child = command
            .stdin(Stdio::null())
            // The access log: standard output is the report's.
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} cannot be started", program.display()))?;
        let mut lines = BufReader::new(child.stderr.take().context("it has a standard error")?).lines();
        let (mut http, mut said) = (None, Vec::new());
        for line in lines.by_ref() {
            let line = line?;
            if line.contains("\"listening\"") {
                let listening: serde_json::Value = serde_json::from_str(&line)?;
                let text = listening["http"].as_str().unwrap_or_default().trim_matches(['[', ']']);
                http = Some(text.parse().with_context(|| format!("no address in {line}"))?);
            }
            if line.contains("the first state is served") {
                let started_in = begun.elapsed();
                // Somebody has to read what it says.
                std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
                let http = http.context("it said that it serves before it said where")?;
                return Ok(Self { child, http, started_in });
            }
            said.push(line);
        }
        bail!("it ended before it served:\n{}", said.join("\n"))
    }

    /// Bytes resident now, and at most until now.
    pub fn memory(&self) -> anyhow::Result<(u64, u64)> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let of = |name: &str| -> anyhow::Result<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).context("its memory")?;
            let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
            Ok(kib * 1024)
        };
        Ok((of("VmRSS:")?, of("VmHWM:")?))
    }

    pub fn connect(&self) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(self.http)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(Connection(stream))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        // It may have ended by itself.
        let _told = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ended = self.child.wait();
    }
}

/// A kept connection.
pub struct Connection(TcpStream);

impl Connection {
    /// Status line, head and body of the answer.
    pub fn ask(&mut self, host: &str, path: &str) -> anyhow::Result<String> {
        write!(self.0, "GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")?;
        let (mut answer, mut piece) = (Vec::new(), [0; 8192]);
        loop {
            let length = self.0.read(&mut piece)?;
            if length == 0 {
                bail!("the gateway closed a connection");
            }
            answer.extend_from_slice(&piece[..length]);
            let text = String::from_utf8_lossy(&answer);
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let field = head
                .lines()
                .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
            let announced: usize = field.context("an answer without a length")?;
            if body.len() >= announced {
                return Ok(text.into_owned());
            }
        }
    }
}
