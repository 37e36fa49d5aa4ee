//! `tap`: live requests, a line each.

use crate::cli::{OutputFormat, TapArguments};
use crate::explain::encoded;
use crate::{Failure, admin_client, output};
use anyhow::Context as _;
use serde::Deserialize;
use sluicegate_admin::Lines;
use sluicegate_telemetry::RequestTap;
use std::io::{self, IsTerminal as _, Write};
use std::ops::ControlFlow;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::time::{Interval, MissedTickBehavior};

/// What the admin API sends: requests as they end, and once a second how many were lost.
pub struct RequestLines {
    tap: RequestTap,
    pulse: Option<Interval>,
}

impl RequestLines {
    /// All that a tap gives.
    pub fn new(tap: RequestTap) -> Self {
        Self { tap, pulse: None }
    }
}

impl Lines for RequestLines {
    fn poll_line(&mut self, context: &mut Context<'_>) -> Poll<Option<bytes::Bytes>> {
        let pulse = self.pulse.get_or_insert_with(|| {
            let mut pulse = tokio::time::interval(Duration::from_secs(1));
            pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
            pulse
        });
        if pulse.poll_tick(context).is_ready() {
            return Poll::Ready(Some(format!("{{\"lost\":{}}}\n", self.tap.lost()).into()));
        }
        self.tap.poll_lines(context).map(|lines| Some(lines.into()))
    }
}

/// A line of `/api/v1/tap/requests`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Line {
    /// How many requests this reader was too slow for.
    Lost { lost: u64 },
    /// A request.
    Request(Box<Request>),
}

/// What a line shows of a request.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Request {
    time: String,
    status: u16,
    reason: Option<String>,
    method: String,
    host: String,
    path: String,
    query: Option<String>,
    client: String,
    duration_ms: f64,
    namespace: Option<String>,
    ingress: Option<String>,
    tries: Vec<Attempt>,
    trace_id: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Attempt {
    endpoint: String,
    pod: Option<String>,
    status: Option<u16>,
    error: Option<String>,
    queued_ms: Option<f64>,
    connect_ms: Option<f64>,
    tls_ms: Option<f64>,
    first_byte_ms: Option<f64>,
}

/// How lines are drawn.
#[derive(Clone, Copy, Debug)]
struct Style {
    /// Columns of the terminal; `None` = nothing is cut.
    columns: Option<usize>,
    colour: bool,
}

/// Columns of the URL, where there is room for them.
const URL: std::ops::RangeInclusive<usize> = 16..=60;

pub fn watch(arguments: &TapArguments) -> Result<(), Failure> {
    let style = Style {
        columns: output::terminal_columns().filter(|_| io::stdout().is_terminal()),
        colour: io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
    };
    if io::stdout().is_terminal() && arguments.output == OutputFormat::Table {
        output::print(&format!("{}\n", fit(HEADINGS, style.columns)))?;
    }
    let (mut requests, mut lost) = (0, 0);
    let until = arguments.period.map(|period| Instant::now() + period);
    admin_client::stream(&arguments.admin, &question(arguments), until, |line| {
        match serde_json::from_slice(line).context("what answers is not the admin API of sluicegate")? {
            Line::Lost { lost: so_far } => lost = so_far,
            Line::Request(request) => {
                let shown = match arguments.output {
                    OutputFormat::Json => write_line(line),
                    OutputFormat::Table => write_line(format!("{}\n", request.text(style)).as_bytes()),
                };
                match shown {
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(ControlFlow::Break(())),
                    other => other?,
                }
                requests += 1;
            }
        }
        let done = arguments.count.is_some_and(|count| requests >= count);
        Ok(if done { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    // There is nowhere left to say that standard error is gone.
    let _gone = writeln!(io::stderr(), "{requests} requests, {lost} lost because they came faster than they were read");
    Ok(())
}

fn question(arguments: &TapArguments) -> String {
    let criteria = [
        ("host", &arguments.host),
        ("path", &arguments.path),
        ("method", &arguments.method),
        ("status", &arguments.status),
        ("slow", &arguments.slow),
        ("ingress", &arguments.ingress),
    ];
    let asked = criteria.iter().filter_map(|(name, value)| Some(format!("{name}={}", encoded(value.as_ref()?))));
    format!("/api/v1/tap/requests?{}", asked.collect::<Vec<_>>().join("&"))
}

fn write_line(line: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(line)?;
    out.flush()
}

const HEADINGS: &str = "TIME         STATUS  DURATION  METHOD   URL";

impl Request {
    /// `09:12:33.123     200    20.0ms  GET      shop.example/cart  203.0.113.7 > cart-2 …`
    fn text(&self, style: Style) -> String {
        // Of a time in RFC 3339 the time of day.
        let time = self.time.get(11..23).unwrap_or_default();
        let method = if self.method.is_empty() { "-" } else { &self.method };
        let before = format!("{time:12} {:>6}  {:>8}  {method:8} ", self.shown_status(), duration(self.duration_ms));
        let after = self.rest();
        let query = self.query.as_ref().map_or_else(String::new, |query| format!("?{query}"));
        let url = format!("{}{}{query}", self.host, self.path);
        let room =
            style.columns.map(|columns| columns.saturating_sub(before.chars().count() + after.chars().count() + 2));
        let url = fit(&output::printable(&url), room.map(|room| room.clamp(*URL.start(), *URL.end())));
        let width = room.map_or(0, |room| room.min(URL.start() + 16)).min(*URL.end());
        let line = output::printable(&format!("{before}{url:width$}  {after}"));
        self.coloured(fit(&line, style.columns), style)
    }

    fn shown_status(&self) -> String {
        if self.status == 0 { "-".to_owned() } else { self.status.to_string() }
    }

    /// Whose it was, where it went, and how that was.
    fn rest(&self) -> String {
        let mut parts = vec![self.client.clone()];
        if let Some(last) = self.tries.last() {
            parts.push(format!("> {}", last.pod.as_ref().unwrap_or(&last.endpoint)));
            parts.extend(last.timing());
        }
        parts.extend(self.reason.clone());
        if self.tries.len() > 1 {
            let told = self.tries.iter().map(Attempt::outcome).collect::<Vec<_>>().join(", ");
            parts.push(format!("{} tries: {told}", self.tries.len()));
        } else if let Some(error) = self.tries.first().and_then(|attempt| attempt.error.as_ref()) {
            parts.push(error.clone());
        }
        if let (Some(namespace), Some(ingress)) = (&self.namespace, &self.ingress) {
            parts.push(format!("{namespace}/{ingress}"));
        }
        parts.extend(self.trace_id.as_ref().map(|trace| format!("trace {trace}")));
        parts.join(" ")
    }

    /// The status in the colour of its class: the rest of the line is for reading.
    fn coloured(&self, line: String, style: Style) -> String {
        let colour = match self.status {
            _ if !style.colour => return line,
            100..=299 => 32,
            300..=399 => 36,
            400..=499 => 33,
            _ => 31,
        };
        // Behind the time and a blank; only ASCII stands there.
        match (line.get(..13), line.get(13..19), line.get(19..)) {
            (Some(time), Some(status), Some(rest)) => format!("{time}\x1b[{colour}m{status}\x1b[0m{rest}"),
            _ => line,
        }
    }
}

impl Attempt {
    /// Where the time went, in parts that are worth a look.
    fn timing(&self) -> Option<String> {
        let parts = [
            ("queue", self.queued_ms.filter(|time| *time >= 1.0)),
            ("connect", self.connect_ms),
            ("tls", self.tls_ms),
            ("first byte", self.first_byte_ms),
        ];
        let told: Vec<_> =
            parts.iter().filter_map(|(name, time)| Some(format!("{name} {}", duration((*time)?)))).collect();
        (!told.is_empty()).then(|| format!("({})", told.join(", ")))
    }

    fn outcome(&self) -> String {
        match (&self.error, self.status) {
            (Some(error), _) => error.clone(),
            (None, Some(status)) => status.to_string(),
            (None, None) => "-".to_owned(),
        }
    }
}

/// Three digits that matter, with a unit.
fn duration(milliseconds: f64) -> String {
    match milliseconds {
        time if time < 1.0 => format!("{:.0}us", time * 1000.0),
        time if time < 100.0 => format!("{time:.1}ms"),
        time if time < 1000.0 => format!("{time:.0}ms"),
        time => format!("{:.1}s", time / 1000.0),
    }
}

/// Text in so many columns; what is cut off ends in an ellipsis.
fn fit(text: &str, columns: Option<usize>) -> String {
    match columns {
        Some(columns) if text.chars().count() > columns => {
            text.chars().take(columns.saturating_sub(1)).chain(['…']).collect()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"time":"2026-01-31T23:59:58.123Z","status":200,"method":"GET","host":"shop.example",
        "path":"/cart/7","query":"a=b","client":"203.0.113.7","duration_ms":20.0,"namespace":"shop","ingress":"web",
        "tries":[{"endpoint":"192.0.2.101:8080","pod":"cart-1","error":"refused","connect_ms":2.0},
        {"endpoint":"192.0.2.102:8080","pod":"cart-2","status":200,"queued_ms":0.2,"first_byte_ms":0.512}],
        "trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","more":1}"#;

    fn request(line: &str) -> Request {
        match serde_json::from_str(line).expect("a line") {
            Line::Request(request) => *request,
            Line::Lost { .. } => panic!("a request"),
        }
    }

    #[test]
    fn requests_are_told_in_one_line() {
        let plain = Style { columns: None, colour: false };
        assert_eq!(
            request(LINE).text(plain),
            "23:59:58.123    200    20.0ms  GET      shop.example/cart/7?a=b  203.0.113.7 > cart-2 (first byte 512us) \
             2 tries: refused, 200 shop/web trace 4bf92f3577b34da6a3ce929d0e0e4736"
        );
        let refused =
            r#"{"time":"","status":503,"reason":"no_endpoints","host":"a\u001b[2Jb","path":"/","client":"::1"}"#;
        assert_eq!(request(refused).text(plain), "                503       0us  -        a [2Jb/  ::1 no_endpoints");
        assert!(matches!(serde_json::from_str(r#"{"lost":3}"#), Ok(Line::Lost { lost: 3 })));
    }

    #[test]
    fn lines_fit_a_terminal_and_only_the_status_has_a_colour() {
        for columns in [20, 60, 80, 132, 200, 400] {
            let line = request(LINE).text(Style { columns: Some(columns), colour: false });
            assert!(line.chars().count() <= columns, "{columns}: {line}");
            let coloured = request(LINE).text(Style { columns: Some(columns), colour: true });
            assert_eq!(coloured.replace("\x1b[32m", "").replace("\x1b[0m", ""), line);
            assert_eq!(coloured.matches('\x1b').count(), 2, "{coloured:?}");
        }
        let wide = request(LINE).text(Style { columns: Some(400), colour: false });
        assert!(wide.contains("shop.example/cart/7?a=b ") && wide.ends_with("4736"), "{wide}");
    }

    #[test]
    fn times_have_three_digits() {
        for (milliseconds, text) in
            [(0.0, "0us"), (0.25, "250us"), (9.94, "9.9ms"), (250.4, "250ms"), (61_000.0, "61.0s")]
        {
            assert_eq!(duration(milliseconds), text);
        }
    }
}
