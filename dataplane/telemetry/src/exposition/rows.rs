//! The samples of rows: routes and endpoints. There may be tens of thousands of them, so they are written by hand, in
//! pieces, from labels that were put into words when the row came.

use super::Exposition;
use crate::endpoints::EndpointCells;
use crate::labels::MethodLabel;
use crate::metrics::{MetricId, MetricInfo, MetricKind};
use crate::routes::{CLASSES, DistributionTotal, PHASES, ROUTE_BOUNDS, RouteCells, RouteTotals, SIZE_BOUNDS};
use crate::series::Shown;
use std::fmt::Write as _;

/// All rows of one scrape.
pub(crate) struct Rows {
    pub(crate) routes: Vec<Shown<RouteCells>>,
    pub(crate) endpoints: Vec<Shown<EndpointCells>>,
}

/// Bytes after which a piece is handed over.
const PIECE: usize = 256 * 1024;

/// The bounds of the histograms as they stand in `le`.
pub(super) const ROUTE_LE: [&str; ROUTE_BOUNDS.len() + 1] =
    ["0.001", "0.0025", "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1.0", "2.5", "5.0", "10.0", "+Inf"];
pub(super) const SIZE_LE: [&str; SIZE_BOUNDS.len() + 1] =
    ["10.0", "100.0", "1000.0", "10000.0", "100000.0", "1000000.0", "10000000.0", "+Inf"];

/// Writes samples in pieces.
pub(crate) struct Writer<'a> {
    out: String,
    take: &'a mut dyn FnMut(&str),
    pub(super) format: Exposition,
    digits: itoa::Buffer,
}

impl<'a> Writer<'a> {
    pub(super) fn new(format: Exposition, take: &'a mut dyn FnMut(&str)) -> Self {
        Self { out: String::with_capacity(PIECE + 8 * 1024), take, format, digits: itoa::Buffer::new() }
    }

    /// Begins a family.
    pub(super) fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing into a String cannot fail.
        let _ = write!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    /// A sample up to its value; `labels` are as they stand between the braces.
    #[inline]
    fn name(&mut self, name: &str, end: &str, labels: &[&str]) {
        if self.out.len() >= PIECE {
            self.flush();
        }
        self.out.push_str(name);
        self.out.push_str(end);
        let mut before = "{";
        for label in labels.iter().filter(|label| !label.is_empty()) {
            self.out.push_str(before);
            self.out.push_str(label);
            before = ",";
        }
        self.out.push_str(if before == "{" { " " } else { "} " });
    }

    pub(super) fn integer(&mut self, name: &str, end: &str, labels: &[&str], value: u64) {
        self.name(name, end, labels);
        self.out.push_str(self.digits.format(value));
        self.out.push('\n');
    }

    pub(super) fn float(&mut self, name: &str, end: &str, labels: &[&str], value: f64) {
        self.name(name, end, labels);
        let _ = writeln!(self.out, "{value}");
    }

    /// A histogram without its family; `exemplar` is asked for what stands behind a bucket.
    pub(super) fn histogram<const N: usize>(
        &mut self,
        name: &str,
        labels: &[&str],
        le: &[&str; N],
        total: &DistributionTotal<N>,
        exemplar: impl Fn(usize) -> Option<crate::exemplar::Exemplar>,
    ) {
        let mut count = 0;
        for (bucket, (le, inside)) in le.iter().zip(&total.buckets).enumerate() {
            count += inside;
            self.name(name, "_bucket", labels);
            // The name wrote the closing brace; `le` stands before it.
            self.out.truncate(self.out.len() - 2);
            self.out.push_str(",le=\"");
            self.out.push_str(le);
            self.out.push_str("\"} ");
            self.out.push_str(self.digits.format(count));
            if self.format == Exposition::OpenMetrics
                && *inside > 0
                && let Some(one) = exemplar(bucket)
            {
                let (duration, at) = (one.duration.as_secs_f64(), one.at.as_secs_f64());
                let _ = write!(self.out, " # {{trace_id=\"{:032x}\"}} {duration} {at:.3}", one.trace_id);
            }
            self.out.push('\n');
        }
        self.float(name, "_sum", labels, total.sum);
        self.integer(name, "_count", labels, count);
    }

    /// Hands over what there is.
    pub(super) fn flush(&mut self) {
        (self.take)(&self.out);
        self.out.clear();
    }
}

/// The samples of a metric that has rows; the others have none here.
pub(super) fn family(writer: &mut Writer<'_>, info: &MetricInfo, rows: &Rows) {
    let name = match (info.kind, writer.format) {
        (MetricKind::Counter, Exposition::OpenMetrics) => info.name.strip_suffix("_total").unwrap_or(info.name),
        _ => info.name,
    };
    writer.family(name, info.kind.as_str(), info.help);
    match info.id {
        MetricId::RouteRequests => rows.routes.iter().for_each(|row| route_requests(writer, info.name, row)),
        MetricId::RouteDuration => {
            for row in rows.routes.iter().filter(|row| row.totals.count() > 0) {
                let exemplar = |bucket| row.totals.exemplar_of(bucket);
                writer.histogram(info.name, &[&row.text], &ROUTE_LE, &row.totals.duration, exemplar);
            }
        }
        MetricId::RouteUpstream => rows.routes.iter().for_each(|row| route_phases(writer, info.name, row)),
        MetricId::RouteReceived => of_routes(writer, info.name, rows, |totals| totals.bytes_in),
        MetricId::RouteSent => of_routes(writer, info.name, rows, |totals| totals.bytes_out),
        MetricId::RouteRetries => of_routes(writer, info.name, rows, |totals| totals.retries),
        MetricId::EndpointRequests => of_endpoints(writer, info.name, rows, |row| row.totals.started),
        MetricId::EndpointFailures => of_endpoints(writer, info.name, rows, |row| row.totals.failures),
        MetricId::EndpointActive => {
            of_endpoints(writer, info.name, rows, |row| row.totals.started.saturating_sub(row.totals.finished))
        }
        MetricId::EndpointEjected => of_endpoints(writer, info.name, rows, |row| row.totals.ejected),
        MetricId::SeriesRows => {
            writer.integer(info.name, "", &["of=\"routes\""], rows.named_routes().count() as u64);
            writer.integer(info.name, "", &["of=\"endpoints\""], rows.named_endpoints().count() as u64);
        }
        MetricId::SeriesOverflow => {
            let (routes, endpoints) = rows.beyond();
            writer.integer(info.name, "", &["of=\"routes\""], routes);
            writer.integer(info.name, "", &["of=\"endpoints\""], endpoints);
        }
        _ => {}
    }
}

impl Rows {
    fn named_routes(&self) -> impl Iterator<Item = &Shown<RouteCells>> {
        self.routes.iter().filter(|row| !row.labels.ingress.is_empty())
    }

    fn named_endpoints(&self) -> impl Iterator<Item = &Shown<EndpointCells>> {
        self.endpoints.iter().filter(|row| row.labels.endpoint.is_some())
    }

    /// Requests in the rows of what is beyond the limit.
    fn beyond(&self) -> (u64, u64) {
        let routes = self.routes.iter().filter(|row| *row.labels == **crate::routes::OTHER);
        let endpoints = self.endpoints.iter().filter(|row| row.labels.endpoint.is_none());
        (routes.map(|row| row.totals.count()).sum(), endpoints.map(|row| row.totals.started).sum())
    }
}

/// Of method and class only what occurred.
pub(super) fn each_request(totals: &RouteTotals, mut write: impl FnMut(&'static str, &'static str, u64)) {
    for (method, classes) in MethodLabel::ALL.iter().zip(&totals.requests) {
        for (class, count) in CLASSES.iter().zip(classes).filter(|(_, count)| **count > 0) {
            write(method.as_str(), class, *count);
        }
    }
}

fn route_requests(writer: &mut Writer<'_>, name: &str, row: &Shown<RouteCells>) {
    let mut labels = String::new();
    each_request(&row.totals, |method, code, count| {
        labels.clear();
        let _ = write!(labels, "method=\"{method}\",code=\"{code}\"");
        writer.integer(name, "", &[&row.text, &labels], count);
    });
}

fn route_phases(writer: &mut Writer<'_>, name: &str, row: &Shown<RouteCells>) {
    const LABELS: [&str; PHASES.len()] = ["phase=\"connect\"", "phase=\"first_byte\"", "phase=\"total\""];
    let timed = LABELS.iter().zip(&row.totals.phases).filter(|(_, (count, _))| *count > 0);
    for (phase, (count, sum)) in timed {
        writer.float(name, "_sum", &[&row.text, phase], *sum);
        writer.integer(name, "_count", &[&row.text, phase], *count);
    }
}

fn of_routes(writer: &mut Writer<'_>, name: &str, rows: &Rows, value: impl Fn(&RouteTotals) -> u64) {
    let rows = rows.routes.iter().filter(|row| row.totals.count() > 0);
    rows.for_each(|row| writer.integer(name, "", &[&row.text], value(&row.totals)));
}

fn of_endpoints(writer: &mut Writer<'_>, name: &str, rows: &Rows, value: impl Fn(&Shown<EndpointCells>) -> u64) {
    let rows = rows.endpoints.iter().filter(|row| row.totals.started > 0);
    rows.for_each(|row| writer.integer(name, "", &[&row.text], value(row)));
}
