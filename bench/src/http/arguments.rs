//! The command line of `http`: what was typed becomes a [`Plan`].

use super::plan::{self, Handshake, Order, Pace, Plan, Protocol, Target, Trust};
use crate::report::Output;
use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// What to load, how hard and for how long.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    sluicegate-bench http http://192.0.2.10/                                    # saturation, 64 kept connections, 10 s\n  \
    sluicegate-bench http http://192.0.2.10/ --rate 5000 --hdr out.hgrm         # 5,000 requests/s, latency from the schedule\n  \
    sluicegate-bench http https://bench.test/ --connect 192.0.2.10:443 --ca ca.pem\n  \
    sluicegate-bench http https://bench.test/ -p http2 -c 8 -m 32               # 8 connections of 32 streams\n  \
    sluicegate-bench http https://bench.test/ -p resumed -d 5s                  # resumed TLS 1.3 handshakes\n  \
    sluicegate-bench http http://192.0.2.10/echo -p websocket --body 125        # messages and their echoes\n  \
    sluicegate-bench http https://bench.test/echo.Echo/Say -p grpc --body 100   # unary calls\n  \
    sluicegate-bench http --targets hosts.txt --connect 192.0.2.10:80 -n 100000 # 100,000 requests, hosts in turn\n\n\
    Exit codes: 0 success, 1 nothing was answered or more failed than --max-errors, 2 wrong usage.")]
pub struct Arguments {
    /// http://HOST[:PORT]/PATH, or https, ws, wss
    #[arg(value_name = "URL", required_unless_present = "targets")]
    url: Option<String>,
    /// What is spoken
    #[arg(short, long, value_enum, default_value_t)]
    protocol: Spoken,
    /// Connections, of all threads together
    #[arg(short, long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    connections: u32,
    /// Requests in flight on each connection (http2, grpc)
    #[arg(short = 'm', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    streams: u32,
    /// Threads that load
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: u32,
    /// CPUs for the threads, in turn: 0,2
    #[arg(long, value_delimiter = ',', value_name = "CPU")]
    cpus: Vec<usize>,
    /// How long it counts: 10s, 500ms, 2m [default: 10s, or until --requests are done]
    #[arg(short, long, value_parser = duration)]
    duration: Option<Duration>,
    /// How many requests are counted, exactly
    #[arg(short = 'n', long, value_parser = clap::value_parser!(u64).range(1..))]
    requests: Option<u64>,
    /// Time under load before anything is counted
    #[arg(long, value_parser = duration, default_value = "1s")]
    warm_up: Duration,
    /// What a request, or the making of a connection, may take
    #[arg(long, value_parser = duration, default_value = "5s")]
    timeout: Duration,
    /// Requests a second, whatever the server does (open loop); without it each waits for the one before (closed loop)
    #[arg(short, long)]
    rate: Option<f64>,
    /// Let the requests of --rate begin at random moments (Poisson) instead of equal distances
    #[arg(long, requires = "rate")]
    poisson: bool,
    /// Seed of everything that is random
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Method, where a target names none
    #[arg(short = 'X', long, default_value = "GET")]
    method: String,
    /// Another field of every request: 'NAME: VALUE'
    #[arg(short = 'H', long = "header", value_name = "FIELD")]
    headers: Vec<String>,
    /// Bytes of every request's body, or of the message (websocket, grpc)
    #[arg(long, value_name = "BYTES", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_073_741_824))]
    body: u32,
    /// Bytes that every answer's body has to have
    #[arg(long, value_name = "BYTES")]
    expect_length: Option<u64>,
    /// File of targets: each line is URL, METHOD URL or HOST PATH
    #[arg(long, value_name = "FILE")]
    targets: Option<PathBuf>,
    /// Take targets at random instead of in turn
    #[arg(long)]
    random: bool,
    /// Lines HOST PATH of --targets are https
    #[arg(long, requires = "targets")]
    tls: bool,
    /// Address to connect to, whatever the targets' hosts are
    #[arg(long, value_name = "ADDRESS")]
    connect: Option<SocketAddr>,
    /// Name for TLS (SNI and certificate) [default: the first target's host]
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// PEM file of the authorities that are believed [default: those of the system]
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    ca: Option<PathBuf>,
    /// Believe every certificate
    #[arg(short = 'k', long)]
    insecure: bool,
    /// One request on each connection (http1)
    #[arg(long)]
    no_keep_alive: bool,
    /// Leave out what the generator could have done at most
    #[arg(long)]
    no_ceiling: bool,
    /// Failures that are accepted
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub max_errors: u64,
    /// Also write the latencies by percentile, in ms, as HdrHistogram's plotter reads them
    #[arg(long, value_name = "FILE")]
    pub hdr: Option<PathBuf>,
    #[command(flatten)]
    pub output: Output,
}

/// What is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Spoken {
    /// HTTP/1.1
    #[default]
    Http1,
    /// HTTP/2: by ALPN over TLS, by prior knowledge without
    Http2,
    /// Messages and their echoes
    Websocket,
    /// Unary calls, whose grpc-status is checked
    Grpc,
    /// Full TLS 1.3 handshakes and nothing else
    Handshake,
    /// Resumed TLS 1.3 handshakes and nothing else
    Resumed,
}

impl Arguments {
    /// What is meant.
    ///
    /// # Errors
    /// Where a file cannot be read, or a URL or field is none.
    pub fn plan(&self) -> anyhow::Result<Plan> {
        let protocol = match self.protocol {
            Spoken::Http1 => Protocol::Http1,
            Spoken::Http2 => Protocol::Http2,
            Spoken::Websocket => Protocol::WebSocket,
            Spoken::Grpc => Protocol::Grpc,
            Spoken::Handshake => Protocol::Handshake(Handshake::Full),
            Spoken::Resumed => Protocol::Handshake(Handshake::Resumed),
        };
        let counted = self.requests.is_none().then_some(Duration::from_secs(10));
        let plan = Plan {
            order: if self.random { Order::Random(self.seed) } else { Order::InTurn },
            connect: self.connect,
            server_name: self.server_name.clone(),
            trust: match &self.ca {
                _ if self.insecure => Trust::Everything,
                Some(file) => Trust::File(file.clone()),
                None => Trust::System,
            },
            headers: self.headers.iter().map(|field| header(field)).collect::<anyhow::Result<_>>()?,
            upload: self.body as usize,
            expect_length: self.expect_length,
            connections: self.connections as usize,
            streams: self.streams as usize,
            keep_alive: !self.no_keep_alive,
            pace: match self.rate {
                None => Pace::Closed,
                Some(rate) if self.poisson => Pace::Poisson { rate, seed: self.seed },
                Some(rate) => Pace::Constant(rate),
            },
            warm_up: self.warm_up,
            duration: self.duration.or(counted),
            requests: self.requests,
            timeout: self.timeout,
            threads: self.threads as usize,
            cpus: self.cpus.clone(),
            ceiling: !self.no_ceiling,
            ..Plan::new(protocol, self.all_targets()?)
        };
        plan.check()?;
        Ok(plan)
    }

    fn all_targets(&self) -> anyhow::Result<Vec<Target>> {
        let mut targets = Vec::new();
        if let Some(url) = &self.url {
            targets.push(Target::parse(&self.method, url)?);
        }
        if let Some(file) = &self.targets {
            let said = || format!("--targets {}", file.display());
            let text = std::fs::read_to_string(file).with_context(said)?;
            let tls = self.tls || targets.first().is_some_and(|target| target.tls);
            targets.extend(plan::parse_targets(&text, &self.method, tls).with_context(said)?);
        }
        Ok(targets)
    }
}

/// `NAME: VALUE`.
fn header(field: &str) -> anyhow::Result<(String, String)> {
    let (name, value) = field.split_once(':').with_context(|| format!("--header {field:?}: write 'NAME: VALUE'"))?;
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let text = |byte: u8| byte == b'\t' || (b' '..=b'~').contains(&byte);
    if name.is_empty() || !name.bytes().all(token) || !value.bytes().all(text) {
        bail!("--header {field:?}: a name of letters, digits and -, a value of one line of ASCII");
    }
    for owned in ["host", "content-length", "transfer-encoding", "connection"] {
        if name.eq_ignore_ascii_case(owned) {
            bail!("--header {field:?}: {name} follows from the URL, --body and --no-keep-alive");
        }
    }
    Ok((name.to_owned(), value.trim().to_owned()))
}

/// `10s`, `500ms`, `2m`; a number alone is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|letter: char| letter.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale = match unit {
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" => 60.0,
        _ => return Err(format!("{text}: write a number with ms, s or m")),
    };
    let number: f64 = number.parse().map_err(|_| format!("{text}: write a number with ms, s or m"))?;
    let seconds = number * scale;
    if !(0.0..=86_400.0).contains(&seconds) {
        return Err(format!("{text}: from 0 to 24 hours"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, wanted) in [
            ("500ms", Some(500)),
            ("2", Some(2000)),
            ("1.5s", Some(1500)),
            ("2m", Some(120_000)),
            ("1h", None),
            ("-1s", None),
            ("s", None),
        ] {
            assert_eq!(duration(text).ok(), wanted.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn fields_that_would_break_the_framing_are_refused() {
        assert_eq!(header("X-A:  b ").expect("a field"), ("X-A".to_owned(), "b".to_owned()));
        for field in ["X-A", "X A: b", ": b", "X: a\r\nY: b", "Host: a", "content-length: 3"] {
            assert!(header(field).is_err(), "{field:?}");
        }
    }
}
