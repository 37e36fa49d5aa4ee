//! What is loaded, how hard and for how long. It contains no networking code.

use anyhow::{Context as _, bail};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// One run of the load generator.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is spoken.
    pub protocol: Protocol,
    /// Whom the requests name; all of them are sent to one address.
    pub targets: Vec<Target>,
    /// In which order the targets are asked.
    pub order: Order,
    /// Where to connect; without it, the address of the first target's host and port.
    pub connect: Option<SocketAddr>,
    /// The name asked for in the TLS handshake (SNI) and looked for in the certificate; without it, the first target's host.
    pub server_name: Option<String>,
    /// Which certificates are believed.
    pub trust: Trust,
    /// Fields added to every request, after those that the protocol needs.
    pub headers: Vec<(String, String)>,
    /// Bytes of the body of every request; of the message with WebSocket and gRPC.
    pub upload: usize,
    /// What every body has to be long, in bytes; any other is an error.
    pub expect_length: Option<u64>,
    /// Connections, of all threads together.
    pub connections: usize,
    /// Requests in flight on a connection (HTTP/2 and gRPC; 1 otherwise).
    pub streams: usize,
    /// Whether connections are kept; otherwise each carries one request (HTTP/1.1).
    pub keep_alive: bool,
    /// When requests begin.
    pub pace: Pace,
    /// Time under load before anything is counted.
    pub warm_up: Duration,
    /// How long it counts; without it, until `requests` are done.
    pub duration: Option<Duration>,
    /// How many requests are counted, exactly; without it, as many as `duration` allows.
    pub requests: Option<u64>,
    /// What a request (or the making of a connection) may take before it is an error.
    pub timeout: Duration,
    /// Threads that load; each has connections of its own.
    pub threads: usize,
    /// Where threads run, in turn; empty leaves it to the scheduler.
    pub cpus: Vec<usize>,
    /// Whether the generator measures, after the run, what it could have done at most.
    pub ceiling: bool,
}

impl Plan {
    /// A closed loop of one thread and 64 kept connections for 10 s, after a second of warm-up.
    pub fn new(protocol: Protocol, targets: Vec<Target>) -> Self {
        Self {
            protocol,
            targets,
            order: Order::InTurn,
            connect: None,
            server_name: None,
            trust: Trust::System,
            headers: Vec::new(),
            upload: 0,
            expect_length: None,
            connections: 64,
            streams: 1,
            keep_alive: true,
            pace: Pace::Closed,
            warm_up: Duration::from_secs(1),
            duration: Some(Duration::from_secs(10)),
            requests: None,
            timeout: Duration::from_secs(5),
            threads: 1,
            cpus: Vec::new(),
            ceiling: true,
        }
    }

    /// Whether the plan can be carried out.
    ///
    /// # Errors
    /// Where values contradict each other; the message names them.
    pub fn check(&self) -> anyhow::Result<()> {
        let Some(first) = self.targets.first() else {
            bail!("there is no target: give a URL, or a file with --targets")
        };
        if self.targets.iter().any(|target| target.tls != first.tls) {
            bail!("http and https targets are mixed: one run speaks one of them");
        }
        if self.connect.is_none()
            && let Some(other) = self.targets.iter().find(|target| target.authority != first.authority)
        {
            bail!(
                "{} and {} may be different servers: say with --connect at which address all targets are asked",
                first.authority,
                other.authority
            );
        }
        if matches!(self.protocol, Protocol::Handshake(_)) && !first.tls {
            bail!("handshakes need an https URL");
        }
        if self.targets.len() > 1 && matches!(self.protocol, Protocol::WebSocket | Protocol::Handshake(_)) {
            bail!("{} has one target: {} were given", self.protocol.name(), self.targets.len());
        }
        if self.connections == 0 || self.streams == 0 || self.threads == 0 {
            bail!("connections, streams and threads are at least 1");
        }
        if self.threads > self.connections {
            bail!("{} threads share {} connections: each thread needs one", self.threads, self.connections);
        }
        if self.streams > 1 && !self.protocol.multiplexes() {
            bail!("--streams needs HTTP/2 or gRPC: other protocols have one request in flight on a connection");
        }
        if !self.keep_alive && self.protocol != Protocol::Http1 {
            bail!("one request a connection is for HTTP/1.1; handshakes open one each anyway");
        }
        if self.duration.is_none() && self.requests.is_none() {
            bail!("a run needs an end: --duration or --requests");
        }
        if let Pace::Constant(rate) | Pace::Poisson { rate, .. } = self.pace
            && !(rate.is_finite() && rate > 0.0 && rate <= 1e7)
        {
            bail!("a rate of {rate} requests/s: between 0 and 10,000,000");
        }
        Ok(())
    }
}

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, one request after the other.
    Http1,
    /// HTTP/2: by ALPN over TLS, by prior knowledge without.
    Http2,
    /// One upgraded connection each, on which a message goes out and its echo is awaited.
    WebSocket,
    /// Unary calls over HTTP/2 whose `grpc-status` is checked.
    Grpc,
    /// TLS 1.3 handshakes and nothing else.
    Handshake(Handshake),
}

impl Protocol {
    /// Whether several requests are in flight on a connection.
    pub fn multiplexes(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc)
    }

    /// As reports name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
            Self::WebSocket => "WebSocket",
            Self::Grpc => "gRPC",
            Self::Handshake(Handshake::Full) => "full handshakes",
            Self::Handshake(Handshake::Resumed) => "resumed handshakes",
        }
    }

    /// What is counted.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Http1 | Self::Http2 => "request",
            Self::WebSocket => "message",
            Self::Grpc => "call",
            Self::Handshake(_) => "handshake",
        }
    }
}

/// How a handshake is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// With certificates and key exchange, each time.
    Full,
    /// With a ticket of an earlier one (RFC 8446, 2.2); those that the server makes full are errors.
    Resumed,
}

/// What a request names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// In capitals, as it is sent.
    pub method: String,
    /// Whether TLS is spoken.
    pub tls: bool,
    /// `Host` or `:authority`.
    pub authority: String,
    /// Path and query.
    pub path: String,
}

/// In which order targets are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As they stand; with several threads, each takes its share of every round.
    InTurn,
    /// At random, by a seed.
    Random(u64),
}

/// Which certificates are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Those that lead to an authority of the system.
    System,
    /// Those that lead to an authority of this PEM file.
    File(PathBuf),
    /// Every one.
    Everything,
}

/// When requests begin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// The next one when the one before is answered: saturation.
    Closed,
    /// So many a second, whatever the server does. Latency counts from the moment that this gives.
    Constant(f64),
    /// So many a second on average, at moments that do not know of each other, by a seed.
    Poisson {
        /// Mean requests a second.
        rate: f64,
        /// Of the moments.
        seed: u64,
    },
}

impl Pace {
    /// Requests a second that are asked for; `None` in a closed loop.
    pub fn rate(self) -> Option<f64> {
        match self {
            Self::Closed => None,
            Self::Constant(rate) | Self::Poisson { rate, .. } => Some(rate),
        }
    }
}

impl Target {
    /// `http://host:port/path?query`, or the same with https, ws or wss.
    ///
    /// # Errors
    /// Where the URL has no known scheme, no host, or characters that no request line may carry.
    pub fn parse(method: &str, url: &str) -> anyhow::Result<Self> {
        let (scheme, rest) =
            url.split_once("://").with_context(|| format!("{url}: no scheme; write http:// or https://"))?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "http" | "ws" => false,
            "https" | "wss" => true,
            other => bail!("{url}: {other} is not spoken here; http, https, ws and wss are"),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let path = path.split('#').next().unwrap_or_default();
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Self { method: method.to_ascii_uppercase(), tls, authority: authority.to_owned(), path }.checked(url)
    }

    /// The host without its port, IPv6 addresses without brackets.
    pub fn host(&self) -> &str {
        let host = match self.authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => &self.authority,
        };
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The port, or that of the scheme.
    pub fn port(&self) -> u16 {
        let named = self.authority.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        named.unwrap_or(if self.tls { 443 } else { 80 })
    }

    fn checked(self, said: &str) -> anyhow::Result<Self> {
        let host = self.host();
        if host.is_empty() || self.authority.contains('@') {
            bail!("{said}: no host between scheme and path");
        }
        if self.authority.matches(':').count() == 1
            && self.authority.rsplit(':').next().is_some_and(|port| port.parse::<u16>().is_err())
        {
            bail!("{said}: the port is no number from 0 to 65535");
        }
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if !plain(&self.authority) || !plain(&self.path) {
            bail!("{said}: space, control or non-ASCII characters; percent-encode them");
        }
        if self.method.is_empty() || !self.method.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'-') {
            bail!("{said}: {} is no method", self.method);
        }
        Ok(self)
    }
}

/// Targets of a file: each line is `URL`, `METHOD URL` or `HOST PATH`; empty lines and those that begin with `#` are left
/// out. `HOST PATH` takes the scheme from `tls` and the method from `method`.
///
/// # Errors
/// The first line that is none of these, by its number.
pub fn parse_targets(text: &str, method: &str, tls: bool) -> anyhow::Result<Vec<Target>> {
    let mut targets = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let target = match words[..] {
            [url] => Target::parse(method, url),
            [method, url] if url.contains("://") => Target::parse(method, url),
            [host, path] if path.starts_with('/') => {
                Target { method: method.to_owned(), tls, authority: host.to_owned(), path: path.to_owned() }
                    .checked(line)
            }
            _ => bail!("line {}: {line}: write URL, METHOD URL or HOST PATH", number + 1),
        };
        targets.push(target.with_context(|| format!("line {}", number + 1))?);
    }
    Ok(targets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let target = Target::parse("get", "https://bench.test:8443/a?b=c#d").expect("taken");
        assert_eq!(
            (target.method.as_str(), target.tls, target.host(), target.port()),
            ("GET", true, "bench.test", 8443)
        );
        assert_eq!(target.path, "/a?b=c");
        let target = Target::parse("GET", "http://[2001:db8::1]").expect("taken");
        assert_eq!((target.host(), target.port(), target.path.as_str()), ("2001:db8::1", 80, "/"));
        let target = Target::parse("GET", "wss://a.test?q").expect("taken");
        assert_eq!((target.port(), target.path.as_str()), (443, "/?q"));
    }

    #[test]
    fn bad_urls_say_why() {
        for (url, why) in [
            ("bench.test/", "no scheme"),
            ("ftp://bench.test/", "not spoken"),
            ("http:///x", "no host"),
            ("http://a.test:99999/", "port"),
            ("http://a.test/a b", "percent-encode"),
        ] {
            let said = format!("{:#}", Target::parse("GET", url).expect_err("refused"));
            assert!(said.contains(why) && said.contains(url), "{url}: {said}");
        }
    }

    #[test]
    fn a_file_of_targets_has_three_kinds_of_lines() {
        let targets =
            parse_targets("# said\n\nhttp://a.test/1\nPUT http://b.test/2\nc.test /3\n", "GET", false).expect("taken");
        let read: Vec<_> =
            targets.iter().map(|one| (one.method.as_str(), one.authority.as_str(), one.path.as_str())).collect();
        assert_eq!(read, [("GET", "a.test", "/1"), ("PUT", "b.test", "/2"), ("GET", "c.test", "/3")]);
        let said = format!("{:#}", parse_targets("http://a.test/\na b c\n", "GET", false).expect_err("refused"));
        assert!(said.contains("line 2"), "{said}");
    }

    #[test]
    fn plans_that_contradict_themselves_are_refused() {
        let target = |url| Target::parse("GET", url).expect("taken");
        let mut plan = Plan::new(Protocol::Http1, vec![target("http://a.test/"), target("http://b.test/")]);
        assert!(format!("{:#}", plan.check().expect_err("refused")).contains("--connect"));
        plan.connect = Some(([127, 0, 0, 1], 80).into());
        plan.check().expect("taken");
        plan.streams = 2;
        assert!(format!("{:#}", plan.check().expect_err("refused")).contains("--streams"));
        let plan = Plan::new(Protocol::WebSocket, vec![target("http://a.test/1"), target("http://a.test/2")]);
        assert!(format!("{:#}", plan.check().expect_err("refused")).contains("one target"));
        let plan = Plan::new(Protocol::Handshake(Handshake::Full), vec![target("http://a.test/")]);
        assert!(format!("{:#}", plan.check().expect_err("refused")).contains("https"));
    }
}
