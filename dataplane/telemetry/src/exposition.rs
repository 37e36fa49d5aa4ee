//! The exposition: a snapshot in the OpenMetrics text format or the older Prometheus one.
//!
//! `prometheus-client` writes the text. Its metric types are not used, because they are shared and counted with locked
//! instructions; it reads our values through its `Collector`. Its text is OpenMetrics, where a counter's family is
//! named without `_total`. The older format wants the family named as the sample, which the same encoder does when the
//! value goes through it as a gauge under the full name.

use crate::labels::{
    FaultReason, LimitName, ListenerKind, MethodLabel, Protocol, ReviewEnd, StreamEnd, StreamKind, TlsFailure,
    TlsVersion, UpgradeKind, UpstreamError,
};
use crate::metrics::{MetricId, MetricInfo, MetricKind, Snapshot, TABLE};
use crate::packets::{Counted, PacketCounts};
use crate::source::SourceCounts;
use crate::span::{DropReason, ExportCounts, ExportFailure};
use crate::worker::{BUCKETS_NS, CODES, Counter, Histogram, HistogramTotal, WorkerMetrics, code_label};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabel, EncodeLabelSet, LabelSetEncoder, MetricEncoder, NoLabelSet, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use rows::{Rows, Writer};
use std::fmt;
use std::sync::Arc;

mod nginx;
pub(crate) mod rows;

pub use nginx::{NGINX_TABLE, NginxMetric, NginxNames};

/// The format of an exposition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposition {
    /// OpenMetrics 1.0.0.
    OpenMetrics,
    /// Prometheus text format 0.0.4.
    Text,
}

impl Exposition {
    /// The format for an `Accept` header: OpenMetrics for who names it, as Prometheus does, else the older text.
    pub fn negotiate(accept: Option<&str>) -> Self {
        let wanted = accept.unwrap_or_default().split(',').any(|range| {
            let mut parts = range.split(';').map(str::trim);
            let named = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("application/openmetrics-text"));
            named && !parts.any(|parameter| matches!(parameter, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
        });
        if wanted { Self::OpenMetrics } else { Self::Text }
    }

    /// The value of `Content-Type`.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Writes everything in pieces of some hundred KiB.
pub(crate) fn encode(snapshot: Snapshot, rows: &Rows, format: Exposition, take: &mut dyn FnMut(&str)) {
    let snapshot = Arc::new(snapshot);
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape { snapshot: Arc::clone(&snapshot), format }));
    let mut out = String::with_capacity(64 * 1024);
    // Writing into a String cannot fail, and a scrape that is cut is better than none.
    if let Err(error) = text::encode_registry(&mut out, &registry) {
        tracing::error!(%error, "the exposition is incomplete");
    }
    take(&out);
    let mut writer = Writer::new(format, take);
    TABLE.iter().filter(|info| info.id.has_rows()).for_each(|info| rows::family(&mut writer, info, rows));
    if let Some(names) = &snapshot.nginx {
        nginx::families(&mut writer, names, &snapshot, rows);
    }
    writer.flush();
    if format == Exposition::OpenMetrics {
        take("# EOF\n");
    }
}

/// Writes a label's value as both formats want it between quotes.
pub(crate) fn escape_into(out: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
}

#[derive(Debug)]
struct Scrape {
    snapshot: Arc<Snapshot>,
    format: Exposition,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for info in TABLE.iter().filter(|info| !info.id.has_rows()) {
            let (name, metric_type) = match (info.kind, self.format) {
                (MetricKind::Counter, Exposition::OpenMetrics) => {
                    (info.name.strip_suffix("_total").unwrap_or(info.name), MetricType::Counter)
                }
                (MetricKind::Counter, Exposition::Text) => (info.name, MetricType::Counter),
                (MetricKind::Gauge, _) => (info.name, MetricType::Gauge),
                (MetricKind::Histogram | MetricKind::Summary, _) => (info.name, MetricType::Histogram),
            };
            let encoder = encoder.encode_descriptor(name, info.help, None, metric_type)?;
            samples(&self.snapshot, info.id, &mut Family { info, format: self.format, encoder })?;
        }
        Ok(())
    }
}

/// Takes the samples of one metric.
struct Family<'a> {
    info: &'static MetricInfo,
    format: Exposition,
    encoder: MetricEncoder<'a>,
}

enum Value<'a> {
    Integer(u64),
    Signed(i64),
    Float(f64),
    Histogram(&'a HistogramTotal),
}

impl Family<'_> {
    fn sample(&mut self, labels: &[&str], value: &Value<'_>) -> fmt::Result {
        debug_assert_eq!(labels.len(), self.info.labels.len(), "{}", self.info.name);
        if labels.is_empty() {
            return write_value(&mut self.encoder, self.info.kind, self.format, value);
        }
        let set = Labels { names: self.info.labels, values: labels };
        let mut encoder = self.encoder.encode_family(&set)?;
        write_value(&mut encoder, self.info.kind, self.format, value)
    }

    fn integer(&mut self, labels: &[&str], value: u64) -> fmt::Result {
        self.sample(labels, &Value::Integer(value))
    }

    fn integer_if_known(&mut self, value: Option<u64>) -> fmt::Result {
        value.map_or(Ok(()), |value| self.integer(&[], value))
    }

    fn float_if_known(&mut self, value: Option<f64>) -> fmt::Result {
        value.map_or(Ok(()), |value| self.sample(&[], &Value::Float(value)))
    }
}

fn write_value(
    encoder: &mut MetricEncoder<'_>,
    kind: MetricKind,
    format: Exposition,
    value: &Value<'_>,
) -> fmt::Result {
    let as_counter = kind == MetricKind::Counter && format == Exposition::OpenMetrics;
    match value {
        Value::Integer(value) if as_counter => encoder.encode_counter::<NoLabelSet, _, f64>(value, None),
        Value::Float(value) if as_counter => encoder.encode_counter::<NoLabelSet, _, f64>(value, None),
        Value::Integer(value) => encoder.encode_gauge(value),
        Value::Signed(value) => encoder.encode_gauge(value),
        Value::Float(value) => encoder.encode_gauge(value),
        Value::Histogram(total) => {
            let bounds = BUCKETS_NS.iter().map(|bound| *bound as f64 / 1e9).chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(total.buckets).collect();
            encoder.encode_histogram::<NoLabelSet>(total.sum, total.buckets.iter().sum(), &buckets, None)
        }
    }
}

struct Labels<'a> {
    names: &'static [&'static str],
    values: &'a [&'a str],
}

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        self.names.iter().zip(self.values).try_for_each(|pair| (*pair.0, *pair.1).encode(encoder.encode_label()))
    }
}

/// The samples of every metric of the table. Sets of up to a few dozen label values are written whole, zeros included,
/// so that a rate exists before the first event; of the product of protocol, method and code only what occurred.
fn samples(snapshot: &Snapshot, id: MetricId, family: &mut Family<'_>) -> fmt::Result {
    let shards = Sum(snapshot);
    let control = &snapshot.control;
    let process = &snapshot.process;
    match id {
        MetricId::Requests => requests(snapshot, family),
        MetricId::RequestDuration => each(Protocol::ALL, Protocol::as_str, |protocol, label| {
            let total = shards.histogram(|worker| &worker.request_duration[protocol.index()]);
            family.sample(&[label], &Value::Histogram(&total))
        }),
        MetricId::UpstreamDuration => {
            family.sample(&[], &Value::Histogram(&shards.histogram(|worker| &worker.upstream_duration)))
        }
        MetricId::ReceivedBytes => shards.array(family, Protocol::ALL, Protocol::as_str, |worker| &worker.bytes_in),
        MetricId::SentBytes => shards.array(family, Protocol::ALL, Protocol::as_str, |worker| &worker.bytes_out),
        MetricId::Faults => shards.array(family, FaultReason::ALL, FaultReason::as_str, |worker| &worker.faults),
        MetricId::Limits => shards.array(family, LimitName::ALL, LimitName::as_str, |worker| &worker.limits),
        MetricId::Connections => {
            shards.array(family, ListenerKind::ALL, ListenerKind::as_str, |worker| &worker.connections_opened)
        }
        MetricId::ConnectionsActive => each(ListenerKind::ALL, ListenerKind::as_str, |kind, label| {
            let closed = shards.of(|worker| &worker.connections_closed[kind.index()]);
            let opened = shards.of(|worker| &worker.connections_opened[kind.index()]);
            family.integer(&[label], opened.saturating_sub(closed))
        }),
        MetricId::TlsHandshakes => {
            shards.array(family, TlsVersion::ALL, TlsVersion::as_str, |worker| &worker.tls_handshakes)
        }
        MetricId::TlsFailures => {
            shards.array(family, TlsFailure::ALL, TlsFailure::as_str, |worker| &worker.tls_failures)
        }
        MetricId::TlsResumed => family.integer(&[], shards.of(|worker| &worker.tls_resumed)),
        MetricId::TlsDefaultCertificate => family.integer(&[], shards.of(|worker| &worker.tls_default_certificate)),
        MetricId::Upgrades => {
            shards.array(family, UpgradeKind::ALL, UpgradeKind::as_str, |worker| &worker.upgrades_opened)
        }
        MetricId::UpgradesActive => each(UpgradeKind::ALL, UpgradeKind::as_str, |kind, label| {
            let closed = shards.of(|worker| &worker.upgrades_closed[kind.index()]);
            let opened = shards.of(|worker| &worker.upgrades_opened[kind.index()]);
            family.integer(&[label], opened.saturating_sub(closed))
        }),
        MetricId::UpgradeBytes => each(UpgradeKind::ALL, UpgradeKind::as_str, |kind, label| {
            directions(family, label, |way| shards.of(|worker| &worker.upgrade_bytes[kind.index()][way]))
        }),
        MetricId::UpstreamConnections => family.integer(&[], shards.of(|worker| &worker.upstream_opened)),
        MetricId::UpstreamConnectionsActive => {
            let closed = shards.of(|worker| &worker.upstream_closed);
            family.integer(&[], shards.of(|worker| &worker.upstream_opened).saturating_sub(closed))
        }
        MetricId::UpstreamReused => family.integer(&[], shards.of(|worker| &worker.upstream_reused)),
        MetricId::UpstreamErrors => {
            shards.array(family, UpstreamError::ALL, UpstreamError::as_str, |worker| &worker.upstream_errors)
        }
        MetricId::Retries => family.integer(&[], shards.of(|worker| &worker.retries)),
        MetricId::Ejections => family.integer(&[], shards.of(|worker| &worker.ejections)),
        MetricId::Streams => shards.array(family, StreamKind::ALL, StreamKind::as_str, |worker| &worker.streams_opened),
        MetricId::StreamsActive => each(StreamKind::ALL, StreamKind::as_str, |kind, label| {
            let ended: u64 = StreamEnd::ALL
                .iter()
                .map(|how| shards.of(|worker| &worker.streams_ended[kind.index()][how.index()]))
                .sum();
            let opened = shards.of(|worker| &worker.streams_opened[kind.index()]);
            family.integer(&[label], opened.saturating_sub(ended))
        }),
        MetricId::StreamsEnded => each(StreamKind::ALL, StreamKind::as_str, |kind, label| {
            each(StreamEnd::ALL, StreamEnd::as_str, |how, reason| {
                let ended = shards.of(|worker| &worker.streams_ended[kind.index()][how.index()]);
                family.integer(&[label, reason], ended)
            })
        }),
        MetricId::StreamBytes => each(StreamKind::ALL, StreamKind::as_str, |kind, label| {
            directions(family, label, |way| shards.of(|worker| &worker.stream_bytes[kind.index()][way]))
        }),
        MetricId::Packets
        | MetricId::VipPackets
        | MetricId::VipBytes
        | MetricId::VipFlows
        | MetricId::RealServerPackets
        | MetricId::RealServerBytes
        | MetricId::RealServerFlows
        | MetricId::VipOwned
        | MetricId::VipTakeOvers
        | MetricId::VipLosses
        | MetricId::VipConflicts
        | MetricId::Directors
        | MetricId::DirectorRecord
        | MetricId::DirectorLeaseAge
        | MetricId::FlowEntries
        | MetricId::FlowCapacity => control.packets.as_deref().map_or(Ok(()), |counts| packets(counts, id, family)),
        MetricId::NodePackets => {
            control.node_packets.iter().try_for_each(|(reason, count)| family.integer(&[reason], *count))
        }
        MetricId::Generation => family.integer(&[], control.generation),
        MetricId::GenerationApplied => family.sample(&[], &Value::Float(control.applied_at)),
        MetricId::ApplyDuration => family.sample(&[], &Value::Histogram(&control.apply_duration.0)),
        MetricId::ApplyFailures => family.integer(&[], control.apply_failures),
        MetricId::Rejections => {
            family.integer(&["rejected"], control.rejections.rejected)?;
            family.integer(&["ignored"], control.rejections.ignored)?;
            family.integer(&["warning"], control.rejections.warning)
        }
        MetricId::Objects => control.objects.iter().try_for_each(|(kind, count)| family.integer(&[kind], *count)),
        MetricId::CertificateNotAfter => control.certificates.iter().try_for_each(|certificate| {
            family.sample(&[&certificate.namespace, &certificate.name], &Value::Signed(certificate.not_after))
        }),
        MetricId::VipPoolAddresses => control.pools.iter().try_for_each(|pool| {
            family.integer(&[&pool.pool, "used"], pool.used)?;
            family.sample(&[&pool.pool, "free"], &Value::Float(pool.free))
        }),
        MetricId::SourceOutage
        | MetricId::SourceAge
        | MetricId::SourceClockAhead
        | MetricId::SourceWatches
        | MetricId::SourceLists
        | MetricId::SourceWatchErrors
        | MetricId::SourceRequests => snapshot.source.as_ref().map_or(Ok(()), |counts| api_server(counts, id, family)),
        MetricId::AdmissionReviews => control.source.reviews.as_ref().map_or(Ok(()), |reviews| {
            each(ReviewEnd::ALL, ReviewEnd::as_str, |end, label| family.integer(&[label], reviews.ends[end.index()]))
        }),
        MetricId::AdmissionDuration => control
            .source
            .reviews
            .as_ref()
            .map_or(Ok(()), |reviews| family.sample(&[], &Value::Histogram(&reviews.duration.0))),
        MetricId::SpansExported | MetricId::SpansDropped | MetricId::SpansQueued | MetricId::SpanExportFailures => {
            control.spans.as_ref().map_or(Ok(()), |queue| spans(queue.counts(), id, family))
        }
        MetricId::AccessLogLines => control.access_log.as_ref().map_or(Ok(()), |log| {
            let counts = log.counts();
            family.integer(&["written"], counts.written)?;
            family.integer(&["dropped"], counts.dropped)
        }),
        MetricId::BuildInfo => family.integer(&[env!("CARGO_PKG_VERSION")], 1),
        MetricId::Workers => family.integer(&[], snapshot.workers as u64),
        MetricId::ProcessCpu => family.float_if_known(process.cpu_seconds),
        MetricId::ProcessResident => family.integer_if_known(process.resident_bytes),
        MetricId::ProcessVirtual => family.integer_if_known(process.virtual_bytes),
        MetricId::ProcessThreads => family.integer_if_known(process.threads),
        MetricId::ProcessOpenFds => family.integer_if_known(process.open_fds),
        MetricId::ProcessMaxFds => family.integer_if_known(process.max_fds),
        MetricId::ProcessStart => family.float_if_known(process.start_seconds),
        // Written beside this, since they are many.
        MetricId::RouteRequests
        | MetricId::RouteDuration
        | MetricId::RouteUpstream
        | MetricId::RouteReceived
        | MetricId::RouteSent
        | MetricId::RouteRetries
        | MetricId::EndpointRequests
        | MetricId::EndpointFailures
        | MetricId::EndpointActive
        | MetricId::EndpointEjected
        | MetricId::SeriesRows
        | MetricId::SeriesOverflow => Ok(()),
    }
}

/// What became of spans.
fn spans(counts: &ExportCounts, id: MetricId, family: &mut Family<'_>) -> fmt::Result {
    match id {
        MetricId::SpansExported => family.integer(&[], counts.exported()),
        MetricId::SpansDropped => {
            each(DropReason::ALL, DropReason::as_str, |reason, label| family.integer(&[label], counts.dropped(reason)))
        }
        MetricId::SpansQueued => family.integer(&[], counts.queued() as u64),
        MetricId::SpanExportFailures => each(ExportFailure::ALL, ExportFailure::as_str, |failure, label| {
            family.integer(&[label], counts.failures(failure))
        }),
        _ => Ok(()),
    }
}

/// What was asked of the API server, and how it stands with it.
fn api_server(counts: &SourceCounts, id: MetricId, family: &mut Family<'_>) -> fmt::Result {
    let by_resource = |family: &mut Family<'_>, counted: &[(&'static str, u64)]| {
        counted.iter().try_for_each(|(resource, count)| family.integer(&[resource], *count))
    };
    match id {
        MetricId::SourceOutage => family.sample(&[], &Value::Float(counts.outage.as_secs_f64())),
        MetricId::SourceAge => family.float_if_known(counts.age.map(|age| age.as_secs_f64())),
        MetricId::SourceClockAhead => {
            counts.clock_ahead.map_or(Ok(()), |ahead| family.sample(&[], &Value::Signed(ahead)))
        }
        MetricId::SourceWatches => {
            counts.watches.iter().try_for_each(|(resource, state, count)| family.integer(&[resource, state], *count))
        }
        MetricId::SourceLists => by_resource(family, &counts.lists),
        MetricId::SourceWatchErrors => by_resource(family, &counts.watch_errors),
        MetricId::SourceRequests => counts
            .requests
            .iter()
            .try_for_each(|(verb, resource, code, count)| family.integer(&[verb, resource, code], *count)),
        _ => Ok(()),
    }
}

/// What a director counted. The sets of labels are those of the tables of the packet path.
fn packets(counts: &PacketCounts, id: MetricId, family: &mut Family<'_>) -> fmt::Result {
    let part = |counted: &Counted| match id {
        MetricId::VipPackets | MetricId::RealServerPackets => counted.packets,
        MetricId::VipBytes | MetricId::RealServerBytes => counted.bytes,
        _ => counted.flows,
    };
    match id {
        MetricId::Packets => counts
            .reasons
            .iter()
            .try_for_each(|(verdict, reason, packets)| family.integer(&[verdict, reason], *packets)),
        MetricId::VipPackets | MetricId::VipBytes | MetricId::VipFlows => counts
            .services
            .iter()
            .try_for_each(|one| family.integer(&[&one.vip, &one.port, &one.service], part(&one.counted))),
        MetricId::RealServerPackets | MetricId::RealServerBytes | MetricId::RealServerFlows => counts
            .real_servers
            .iter()
            .try_for_each(|one| family.integer(&[&one.real_server, &one.method, &one.port], part(&one.counted))),
        MetricId::VipOwned => {
            counts.owned.iter().try_for_each(|(vip, owned)| family.integer(&[vip], u64::from(*owned)))
        }
        MetricId::VipTakeOvers => family.integer(&[], counts.take_overs),
        MetricId::VipLosses => family.integer(&[], counts.losses),
        MetricId::VipConflicts => family.integer(&[], counts.conflicts),
        MetricId::Directors => counts.directors.iter().try_for_each(|directors| {
            family.integer(&["recorded"], directors.recorded)?;
            family.integer(&["heard"], directors.heard)
        }),
        MetricId::DirectorRecord => {
            counts.directors.iter().try_for_each(|directors| family.integer(&[], directors.record))
        }
        MetricId::DirectorLeaseAge => {
            let age = counts.directors.and_then(|directors| directors.lease_age);
            age.iter().try_for_each(|age| family.integer(&[], *age))
        }
        MetricId::FlowEntries => {
            family.integer(&["established"], counts.flows.0)?;
            family.integer(&["tentative"], counts.flows.1)
        }
        MetricId::FlowCapacity => family.integer(&[], counts.flow_capacity),
        _ => Ok(()),
    }
}

fn requests(snapshot: &Snapshot, family: &mut Family<'_>) -> fmt::Result {
    let codes: Vec<String> = (0..CODES).map(code_label).collect();
    each(Protocol::ALL, Protocol::as_str, |protocol, protocol_label| {
        each(MethodLabel::ALL, MethodLabel::as_str, |method, method_label| {
            let mut sums = [0u64; CODES];
            for worker in &snapshot.shards {
                for (sum, counter) in sums.iter_mut().zip(&worker.requests[protocol.index()][method.index()]) {
                    *sum += counter.value();
                }
            }
            let occurred = codes.iter().zip(sums).filter(|(_, sum)| *sum > 0);
            occurred.into_iter().try_for_each(|(code, sum)| family.integer(&[protocol_label, method_label, code], sum))
        })
    })
}

fn each<T: Copy>(
    all: &[T],
    label: impl Fn(T) -> &'static str,
    mut write: impl FnMut(T, &'static str) -> fmt::Result,
) -> fmt::Result {
    all.iter().try_for_each(|member| write(*member, label(*member)))
}

fn directions(family: &mut Family<'_>, label: &str, bytes: impl Fn(usize) -> u64) -> fmt::Result {
    family.integer(&[label, "up"], bytes(0))?;
    family.integer(&[label, "down"], bytes(1))
}

/// Adds workers up.
#[derive(Clone, Copy)]
struct Sum<'a>(&'a Snapshot);

impl Sum<'_> {
    fn of(self, counter: impl Fn(&WorkerMetrics) -> &Counter) -> u64 {
        self.0.shards.iter().map(|worker| counter(worker).value()).sum()
    }

    fn histogram(self, histogram: impl Fn(&WorkerMetrics) -> &Histogram) -> HistogramTotal {
        let mut total = HistogramTotal::default();
        for worker in &self.0.shards {
            histogram(worker).add_to(&mut total);
        }
        total
    }

    fn array<T: Copy, const N: usize>(
        self,
        family: &mut Family<'_>,
        all: &[T],
        label: impl Fn(T) -> &'static str,
        counters: impl Fn(&WorkerMetrics) -> &[Counter; N],
    ) -> fmt::Result {
        all.iter().enumerate().try_for_each(|(index, member)| {
            family.integer(&[label(*member)], self.of(|worker| &counters(worker)[index]))
        })
    }
}
