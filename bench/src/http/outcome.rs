//! What came of a run: counts, latency, and what the generator itself spent. It contains no networking code.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// What was counted after the warm-up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// As [`super::plan::Protocol::name`] says.
    pub protocol: String,
    /// What is counted: request, message, call or handshake.
    pub unit: String,
    /// Of the first target.
    pub url: String,
    /// How many targets there are.
    pub targets: usize,
    /// Where connections went.
    pub address: SocketAddr,
    /// Whether TLS was spoken.
    pub tls: bool,
    /// Connections, of all threads together.
    pub connections: usize,
    /// Requests in flight on a connection.
    pub streams: usize,
    /// Requests a second that were asked for; `None` in a closed loop.
    pub asked_per_second: Option<f64>,
    /// Seconds from the end of the warm-up to the last answer (or the end of the time that was asked for).
    pub seconds: f64,
    /// Requests that were begun, or were due to begin and never were.
    pub begun: u64,
    /// Whole answers of any status.
    pub answered: u64,
    /// Requests without a (right) answer: the sum of `errors`.
    pub failed: u64,
    /// Answers a second.
    pub per_second: f64,
    /// Bytes written to sockets, TLS included.
    pub bytes_sent: u64,
    /// Bytes read from sockets, TLS included.
    pub bytes_received: u64,
    /// Bytes of the bodies of answers.
    pub body_bytes: u64,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests that failed, by what happened.
    pub errors: BTreeMap<String, u64>,
    /// From the intended start of a request to its last byte. In an open loop the intended start is the schedule's, so that
    /// a server that stalls cannot hide the requests which waited for it (coordinated omission).
    pub latency: Latency,
    /// How much later than intended requests began: want of a free connection, or a generator that was late itself.
    pub lateness: Latency,
    /// Connections that were opened to replace others, or for one request each.
    pub reopened: u64,
    /// TLS handshakes of all connections, warm-up included.
    pub handshakes: Handshakes,
    /// What the load generator itself spent.
    pub generator: Generator,
    /// What it could have done at most; `None` where it was not measured.
    pub ceiling: Option<Ceiling>,
    /// All latencies, in µs; not part of the JSON.
    #[serde(skip)]
    pub histogram: Option<Histogram<u64>>,
}

impl Outcome {
    /// Answers whose status is an error's (400 and above).
    pub fn refused(&self) -> u64 {
        self.statuses.range(400..).map(|(_, count)| count).sum()
    }
}

/// Latencies in µs, to three significant digits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// How many were recorded; the rest is 0 where this is 0.
    pub count: u64,
    /// Arithmetic mean.
    pub mean_us: f64,
    /// Least.
    pub min_us: u64,
    /// Median.
    pub p50_us: u64,
    /// 90 of 100 are at most this.
    pub p90_us: u64,
    /// 99 of 100 are at most this.
    pub p99_us: u64,
    /// 999 of 1,000 are at most this.
    pub p999_us: u64,
    /// Greatest.
    pub max_us: u64,
    /// (percentile from 0 to 100, µs), denser towards 100: for a plot.
    pub curve: Vec<(f64, u64)>,
}

impl Latency {
    /// What a histogram of µs says.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let curve = histogram
            .iter_quantiles(2)
            .map(|step| (step.quantile_iterated_to() * 100.0, step.value_iterated_to().min(histogram.max())))
            .collect();
        Self {
            count: histogram.len(),
            mean_us: histogram.mean(),
            min_us: histogram.min(),
            p50_us: histogram.value_at_quantile(0.5),
            p90_us: histogram.value_at_quantile(0.9),
            p99_us: histogram.value_at_quantile(0.99),
            p999_us: histogram.value_at_quantile(0.999),
            max_us: histogram.max(),
            curve,
        }
    }
}

/// Handshakes by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handshakes {
    /// With certificates.
    pub full: u64,
    /// With a ticket.
    pub resumed: u64,
}

/// What the generator's threads spent while it counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Generator {
    /// Threads that loaded.
    pub threads: usize,
    /// CPUs that they were pinned to; empty where the scheduler chose.
    pub cpus: Vec<usize>,
    /// User and system time of all threads, in µs an answer.
    pub cpu_us_per_answer: f64,
    /// CPU time of the busiest thread, as a share of the time from 0 to 1.
    pub busiest: f64,
}

/// What the generator can do at most, from a run against a responder that gives canned answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ceiling {
    /// Answers a second if each thread had a CPU to itself, by `cpu_us_per_answer`.
    pub per_second: f64,
    /// Answers a second that came out of it; the responder, or whoever else used the CPUs, may have been the limit.
    pub measured_per_second: f64,
    /// CPU of the generator, in µs an answer, with the same protocol, connections and sizes.
    pub cpu_us_per_answer: f64,
    /// The run's answers a second as a share of `per_second`.
    pub reached: f64,
    /// Whether the generator may have been the limit of the run: above 80 %.
    pub may_limit: bool,
}
