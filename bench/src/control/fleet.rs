//! The manifests of a large cluster, and of one application in it whose changes are watched.

use super::Size;
use crate::certificate::Certificate;
use crate::manifests::{self, Ingress, NAMESPACE};
use crate::proxies::CHANGING;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The host whose endpoints change.
pub const MOVING: &str = "moving.change.bench.test";
/// The host under load.
pub const LOADED: &str = "load.bench.test";
/// The host of WebSockets.
pub const UPGRADED: &str = "upgrade.bench.test";

const NAMESPACES: u32 = 100;
const EACH_FILE: u32 = 1000;
/// Nothing is ever sent to these endpoints; if it were, it would stay on this machine.
const FIRST_ENDPOINT: u32 = u32::from_be_bytes([127, 64, 0, 0]);

/// The ports of the backends.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    pub usual: u16,
    /// It says A.
    pub a: u16,
    /// It says B.
    pub b: u16,
}

impl Ports {
    /// Three ports from here on.
    pub const fn from(first: u16) -> Self {
        Self { usual: first, a: first + 1, b: first + 2 }
    }
}

/// What was written.
#[derive(Clone, Copy, Debug, Default)]
pub struct WrittenFiles {
    pub files: usize,
    pub bytes: u64,
}

impl WrittenFiles {
    fn count(&mut self, text: &str) {
        self.files += 1;
        self.bytes += text.len() as u64;
    }
}

/// A file for each object.
///
/// # Errors
/// Where the folder cannot be written.
pub fn write_many_files(folder: &Path, size: Size) -> anyhow::Result<WrittenFiles> {
    let mut written = WrittenFiles::default();
    for number in 0..size.ingresses {
        let below = folder.join(format!("team-{:02}", number % NAMESPACES));
        if number < NAMESPACES {
            std::fs::create_dir_all(&below)?;
        }
        for (kind, text) in ["ingress", "service", "endpoints"].into_iter().zip(application(number, size)) {
            std::fs::write(below.join(format!("app-{number}-{kind}.yaml")), &text)?;
            written.count(&text);
        }
    }
    Ok(written)
}

/// A file for each thousand applications.
///
/// # Errors
/// Where the folder cannot be written.
pub fn write_large_files(folder: &Path, size: Size) -> anyhow::Result<WrittenFiles> {
    std::fs::create_dir_all(folder)?;
    let mut written = WrittenFiles::default();
    for first in (0..size.ingresses).step_by(EACH_FILE as usize) {
        let numbers = first..size.ingresses.min(first + EACH_FILE);
        let text = numbers.flat_map(|number| application(number, size)).collect::<Vec<_>>().join("---\n");
        std::fs::write(folder.join(format!("apps-{first:06}.yaml")), &text)?;
        written.count(&text);
    }
    Ok(written)
}

/// Ingress, Service and EndpointSlice of one of many applications.
fn application(number: u32, size: Size) -> [String; 3] {
    let (name, namespace) = (format!("app-{number}"), format!("team-{}", number % NAMESPACES));
    // As evenly as they can be shared.
    let share = |number: u32| u32::try_from(u64::from(size.endpoints) * u64::from(number) / u64::from(size.ingresses));
    let (first, next) = (share(number).unwrap_or(u32::MAX), share(number + 1).unwrap_or(u32::MAX));
    let addresses: Vec<String> =
        (first..next).map(|at| Ipv4Addr::from(FIRST_ENDPOINT.saturating_add(at)).to_string()).collect();
    let ingress = Ingress {
        name: &name,
        namespace: &namespace,
        host: &format!("{name}.bench.test"),
        paths: &[("/", &name), ("/api", &name)],
        tls: false,
        annotations: &[],
    };
    [ingress.text(), manifests::service(&name, &namespace), manifests::slice(&name, &namespace, &addresses, 8080)]
}

/// The application that is changed and asked: two backends that say A and B, a loaded host, upgraded connections.
pub struct Watched {
    /// What the gateway reads, this application and the cluster.
    pub manifests: PathBuf,
    folder: PathBuf,
    ports: Ports,
}

impl Watched {
    /// Writes it in its first state.
    ///
    /// # Errors
    /// Where the folder cannot be written.
    pub fn write(manifests: &Path, certificate: &Certificate, ports: Ports) -> io::Result<Self> {
        let watched = Self { manifests: manifests.to_owned(), folder: manifests.join("watched"), ports };
        watched.put("class", &[manifests::INGRESS_CLASS.to_owned()])?;
        watched.put("tls", &[manifests::secret(&certificate.chain, &certificate.key)])?;
        for (name, port) in [("a", ports.a), ("b", ports.b)] {
            watched.put(name, &[manifests::service(name, NAMESPACE), slice(name, port)])?;
        }
        for name in ["moving", "load", "upgrade"] {
            watched.put(&format!("{name}-service"), &[manifests::service(name, NAMESPACE)])?;
        }
        watched.endpoints("moving", 'A')?;
        watched.endpoints("load", 'A')?;
        watched.upgrade_endpoints(false)?;
        watched.route('B')?;
        watched.ingress("moving", MOVING, "moving")?;
        watched.load_route("load")?;
        watched.ingress("upgrade", UPGRADED, "upgrade")?;
        Ok(watched)
    }

    /// One EndpointSlice: the pods of a Service are others. Returns the moment.
    ///
    /// # Errors
    /// Where the folder cannot be written, as all below.
    pub fn endpoints(&self, service: &str, answer: char) -> io::Result<Instant> {
        let port = if answer == 'A' { self.ports.a } else { self.ports.b };
        self.put(&format!("{service}-endpoints"), &[slice(service, port)])
    }

    /// One Ingress: its path leads to another Service. Returns the moment.
    ///
    /// # Errors
    /// As [`Self::endpoints`].
    pub fn route(&self, answer: char) -> io::Result<Instant> {
        self.ingress("route", CHANGING, if answer == 'A' { "a" } else { "b" })
    }

    /// The Ingress of the host under load.
    ///
    /// # Errors
    /// As [`Self::endpoints`].
    pub fn load_route(&self, service: &str) -> io::Result<Instant> {
        self.ingress("load", LOADED, service)
    }

    /// The pods behind upgraded connections: theirs, or others.
    ///
    /// # Errors
    /// As [`Self::endpoints`].
    pub fn upgrade_endpoints(&self, away: bool) -> io::Result<Instant> {
        let port = if away { self.ports.a } else { self.ports.usual };
        self.put("upgrade-endpoints", &[slice("upgrade", port)])
    }

    fn ingress(&self, name: &str, host: &str, service: &str) -> io::Result<Instant> {
        let paths = [("/", service)];
        let text = Ingress { name, namespace: NAMESPACE, host, paths: &paths, tls: true, annotations: &[] }.text();
        self.put(&format!("{name}-ingress"), &[text])
    }

    fn put(&self, name: &str, documents: &[String]) -> io::Result<Instant> {
        manifests::write(&self.folder.join(format!("{name}.yaml")), documents)
    }
}

fn slice(name: &str, port: u16) -> String {
    manifests::slice(name, NAMESPACE, &["127.0.0.1".to_owned()], port)
}
