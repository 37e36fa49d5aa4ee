//! The names by which dashboards, alerts and autoscalers of ingress-nginx ask, served beside our own.
//!
//! A counter is called as there, without `_total`. OpenMetrics has no such counters, so it is of type `unknown` there.

use super::rows::{ROUTE_LE, Rows, SIZE_LE, Writer, each_request};
use super::{Exposition, escape_into};
use crate::metrics::{MetricKind, Snapshot};
use crate::routes::{DetailTotals, DistributionTotal};
use std::fmt::Write as _;

/// Labels that ingress-nginx puts on everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NginxNames {
    /// `controller_class`: the controller of the IngressClass.
    pub class: String,
    /// `controller_namespace`: the namespace that this process runs in.
    pub namespace: String,
    /// `controller_pod`: the pod, or the machine.
    pub pod: String,
}

/// One of the names.
#[derive(Clone, Copy, Debug)]
pub struct NginxMetric {
    /// The name after `nginx_ingress_controller_`.
    pub name: &'static str,
    /// How it behaves.
    pub kind: MetricKind,
    /// Its labels besides those of [`NginxNames`].
    pub labels: &'static [&'static str],
    /// What it counts, in one line.
    pub help: &'static str,
}

const PREFIX: &str = "nginx_ingress_controller_";
const ROUTE: &[&str] = &["namespace", "ingress", "service", "host"];

const fn metric(
    name: &'static str,
    kind: MetricKind,
    labels: &'static [&'static str],
    help: &'static str,
) -> NginxMetric {
    NginxMetric { name, kind, labels, help }
}

/// Every name of ingress-nginx that `--nginx-metrics` serves, in the order of exposition.
pub const NGINX_TABLE: &[NginxMetric] = &[
    metric(
        "requests",
        MetricKind::Counter,
        &["namespace", "ingress", "service", "host", "method", "status"],
        "Requests that are over, by class of the status.",
    ),
    metric(
        "request_duration_seconds",
        MetricKind::Histogram,
        ROUTE,
        "Time from the first byte of a request to the last of its response.",
    ),
    metric(
        "connect_duration_seconds",
        MetricKind::Histogram,
        ROUTE,
        "Time to connect to the endpoint, where a connection was opened.",
    ),
    metric(
        "header_duration_seconds",
        MetricKind::Histogram,
        ROUTE,
        "Time to the end of the head of the endpoint's response.",
    ),
    metric("response_duration_seconds", MetricKind::Histogram, ROUTE, "Time at the endpoint."),
    metric("request_size", MetricKind::Histogram, ROUTE, "Bytes of requests, head and body."),
    metric("response_size", MetricKind::Histogram, ROUTE, "Body bytes of responses."),
    metric("bytes_sent", MetricKind::Histogram, ROUTE, "Body bytes of responses."),
    metric("nginx_process_connections", MetricKind::Gauge, &["state"], "Connections with clients that are open."),
    metric("nginx_process_connections_total", MetricKind::Counter, &["state"], "Connections accepted from clients."),
    metric("nginx_process_requests_total", MetricKind::Counter, &[], "Requests that are over."),
    metric("nginx_process_cpu_seconds_total", MetricKind::Counter, &[], "Processor time of the process."),
    metric("nginx_process_resident_memory_bytes", MetricKind::Gauge, &[], "Resident memory of the process."),
    metric("nginx_process_virtual_memory_bytes", MetricKind::Gauge, &[], "Virtual memory of the process."),
    metric("nginx_process_oldest_start_time_seconds", MetricKind::Gauge, &[], "When the process started."),
    metric(
        "config_hash",
        MetricKind::Gauge,
        &[],
        "Generation that is applied: another one for every change, as the hash is there.",
    ),
    metric(
        "config_last_reload_successful",
        MetricKind::Gauge,
        &[],
        "1 where all of the last generation could be applied.",
    ),
    metric(
        "config_last_reload_successful_timestamp_seconds",
        MetricKind::Gauge,
        &[],
        "When the last generation was applied.",
    ),
    metric("success", MetricKind::Counter, &[], "Generations that were applied."),
    metric("errors", MetricKind::Counter, &[], "Generations of which something could not be applied."),
    metric(
        "ssl_expire_time_seconds",
        MetricKind::Gauge,
        &["namespace", "secret_name"],
        "When a certificate in use expires.",
    ),
];

pub(super) fn families(writer: &mut Writer<'_>, names: &NginxNames, snapshot: &Snapshot, rows: &Rows) {
    let mut constant = String::new();
    let values = [
        ("controller_class", &names.class),
        ("controller_namespace", &names.namespace),
        ("controller_pod", &names.pod),
    ];
    for (name, value) in values {
        let _ = write!(constant, "{}{name}=\"", if constant.is_empty() { "" } else { "," });
        escape_into(&mut constant, value);
        constant.push('"');
    }
    for metric in NGINX_TABLE {
        let is_total = metric.name.ends_with("_total");
        let name = format!("{PREFIX}{}", metric.name);
        let open = writer.format == Exposition::OpenMetrics;
        let family = if open && is_total { name.strip_suffix("_total").unwrap_or(&name) } else { &name };
        let kind =
            if open && metric.kind == MetricKind::Counter && !is_total { "unknown" } else { metric.kind.as_str() };
        writer.family(family, kind, metric.help);
        samples(writer, metric.name, &name, &constant, snapshot, rows);
    }
}

fn samples(writer: &mut Writer<'_>, metric: &str, name: &str, constant: &str, snapshot: &Snapshot, rows: &Rows) {
    let control = &snapshot.control;
    let workers = || snapshot.shards.iter();
    let opened = || workers().flat_map(|worker| &worker.connections_opened).map(|count| count.value()).sum::<u64>();
    let closed = || workers().flat_map(|worker| &worker.connections_closed).map(|count| count.value()).sum::<u64>();
    let mut plain = |value: f64| writer.float(name, "", &[constant], value);
    match metric {
        "requests" => requests(writer, name, constant, rows),
        "request_duration_seconds" => {
            for row in rows.routes.iter().filter(|row| row.totals.count() > 0) {
                let exemplar = |bucket| row.totals.exemplar_of(bucket);
                writer.histogram(name, &[&row.text, constant], &ROUTE_LE, &row.totals.duration, exemplar);
            }
        }
        "connect_duration_seconds" => details(writer, name, constant, rows, &ROUTE_LE, |all| &all.phases[0]),
        "header_duration_seconds" => details(writer, name, constant, rows, &ROUTE_LE, |all| &all.phases[1]),
        "response_duration_seconds" => details(writer, name, constant, rows, &ROUTE_LE, |all| &all.phases[2]),
        "request_size" => details(writer, name, constant, rows, &SIZE_LE, |all| &all.request_size),
        "response_size" | "bytes_sent" => details(writer, name, constant, rows, &SIZE_LE, |all| &all.response_size),
        "nginx_process_connections" => {
            let closed = closed();
            writer.integer(name, "", &[constant, "state=\"active\""], opened().saturating_sub(closed));
        }
        "nginx_process_connections_total" => {
            for state in ["state=\"accepted\"", "state=\"handled\""] {
                writer.integer(name, "", &[constant, state], opened());
            }
        }
        "nginx_process_requests_total" => {
            let all = workers().flat_map(|worker| worker.requests.iter().flatten().flatten());
            plain(all.map(|count| count.value()).sum::<u64>() as f64);
        }
        "nginx_process_cpu_seconds_total" => snapshot.process.cpu_seconds.into_iter().for_each(plain),
        "nginx_process_resident_memory_bytes" => {
            snapshot.process.resident_bytes.iter().for_each(|bytes| plain(*bytes as f64));
        }
        "nginx_process_virtual_memory_bytes" => {
            snapshot.process.virtual_bytes.iter().for_each(|bytes| plain(*bytes as f64));
        }
        "nginx_process_oldest_start_time_seconds" => snapshot.process.start_seconds.into_iter().for_each(plain),
        "config_hash" => plain(control.generation as f64),
        "config_last_reload_successful" => {
            plain(if control.generation > 0 && control.last_failures == 0 { 1.0 } else { 0.0 });
        }
        "config_last_reload_successful_timestamp_seconds" => plain(control.applied_at),
        "success" => plain(control.apply_duration.0.buckets.iter().sum::<u64>() as f64),
        "errors" => plain(control.failed_applies as f64),
        "ssl_expire_time_seconds" => {
            for certificate in &control.certificates {
                let mut labels = String::from("namespace=\"");
                escape_into(&mut labels, &certificate.namespace);
                labels.push_str("\",secret_name=\"");
                escape_into(&mut labels, &certificate.name);
                labels.push('"');
                writer.float(name, "", &[constant, &labels], certificate.not_after as f64);
            }
        }
        _ => {}
    }
}

fn requests(writer: &mut Writer<'_>, name: &str, constant: &str, rows: &Rows) {
    let mut labels = String::new();
    for row in &rows.routes {
        each_request(&row.totals, |method, status, count| {
            labels.clear();
            let _ = write!(labels, "method=\"{method}\",status=\"{status}\"");
            writer.integer(name, "", &[&row.text, &labels, constant], count);
        });
    }
}

fn details<const N: usize>(
    writer: &mut Writer<'_>,
    name: &str,
    constant: &str,
    rows: &Rows,
    le: &[&str; N],
    part: impl Fn(&DetailTotals) -> &DistributionTotal<N>,
) {
    for row in &rows.routes {
        if let Some(total) =
            row.totals.details.as_deref().map(&part).filter(|total| total.buckets.iter().any(|n| *n > 0))
        {
            writer.histogram(name, &[&row.text, constant], le, total, |_| None);
        }
    }
}
