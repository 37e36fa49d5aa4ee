//! The backend of every contestant, on the load generator's core: nginx where it is installed, else the responder of the
//! bench. It answers from memory or the page cache and keeps connections for ever, so that what is measured is the proxy.

use crate::asker::ask_once;
use crate::certificate::Certificate;
use crate::daemon::{self, Daemon, Placement, find_program};
use crate::responder::BODY;
use anyhow::bail;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long it may take to come up.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// The backend, while it lives.
pub struct Upstream {
    /// HTTP/1.1 in the clear.
    pub port: u16,
    /// What it is, for the report.
    pub what: String,
    daemon: Daemon,
}

impl Upstream {
    /// Starts one on two ports: the first for HTTP/1.1 in the clear, the next for TLS.
    ///
    /// # Errors
    /// Where it does not come up.
    pub fn start(
        folder: &Path,
        first_port: u16,
        certificate: &Certificate,
        programs: &[PathBuf],
        placement: &Placement,
    ) -> anyhow::Result<Self> {
        fs::create_dir_all(folder.join("static"))?;
        certificate.write(folder)?;
        let (port, tls) = (first_port, first_port + 1);
        let (command, what) = match find_program("nginx", programs) {
            Some(nginx) => {
                (nginx_command(&nginx, folder, port, tls)?, format!("nginx {}", daemon::version(&nginx, &["-v"])))
            }
            None => (responder_command(folder, port, tls)?, "the bench's own responder, for want of nginx".to_owned()),
        };
        let mut daemon = Daemon::start(command, &folder.join("log"), placement)?;
        if !daemon.wait_until(READY_WITHIN, || ask_once(port, "any", "/").is_ok_and(|answer| answer.status == 200)) {
            bail!("the backend does not come up: {}", daemon.complaint());
        }
        Ok(Self { port, what, daemon })
    }

    /// Its processes.
    pub fn pids(&self) -> Vec<u32> {
        self.daemon.pids()
    }
}

fn nginx_command(nginx: &Path, folder: &Path, port: u16, tls: u16) -> anyhow::Result<Command> {
    for (name, length) in [("64k", 64 << 10), ("1m", 1 << 20)] {
        fs::write(folder.join("static").join(name), b"0123456789abcdef".repeat(length / 16))?;
    }
    let text = include_str!("../peers/upstream.conf")
        .replace("@UPSTREAM@", &port.to_string())
        .replace("@UPSTREAM_TLS@", &tls.to_string())
        .replace("@DIR@", &folder.display().to_string())
        .replace("@BODY@", &BODY.replace('\n', "\\n"));
    fs::write(folder.join("upstream.conf"), text)?;
    let mut command = Command::new(nginx);
    command.args(["-e", "stderr", "-c"]).arg(folder.join("upstream.conf"));
    Ok(command)
}

fn responder_command(folder: &Path, port: u16, tls: u16) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["respond", "--listen", &port.to_string(), "--tls", &tls.to_string()]);
    command.arg("--certificate").arg(folder);
    Ok(command)
}
