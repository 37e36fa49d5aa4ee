//! Who is told of requests that are over: the metrics of routes, the access log, whoever watches them live, and who makes
//! spans of them.

use sluicegate_otlp::{Exporter, OtlpSettings};
use sluicegate_telemetry::{
    AccessLog, AccessLogSettings, FinishedRequest, Metrics, RequestSink, RequestSinks, RequestTaps, RouteSinks,
    SpanSinks,
};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long what waits may take to be written at the end.
const FLUSH: Duration = Duration::from_secs(2);

/// How long a collector may take for the last spans.
const LAST_SPANS: Duration = Duration::from_secs(5);

/// All of them, by name.
pub struct Telemetry {
    /// `/metrics`
    routes: RouteSinks,
    /// Where there is one.
    access_log: Option<Arc<AccessLog>>,
    /// `tap`
    taps: RequestTaps,
    /// Where spans are exported.
    spans: Option<SpanSinks>,
    /// Until it ends.
    exporter: Mutex<Option<Exporter>>,
}

impl Telemetry {
    /// Opens what is to be written to, and starts who sends spans.
    ///
    /// # Errors
    /// Where the access log cannot be opened, or a file for the collector cannot be read.
    pub fn start(
        access_log: Option<AccessLogSettings>,
        spans: Option<OtlpSettings>,
        metrics: &Metrics,
    ) -> anyhow::Result<Arc<Self>> {
        let access_log = access_log.map(AccessLog::start).transpose()?;
        if let Some(log) = &access_log {
            metrics.set_access_log(Arc::clone(log));
        }
        let exporter = spans.map(Exporter::start).transpose()?;
        let spans = exporter.as_ref().map(|exporter| {
            metrics.set_spans(Arc::clone(exporter.queue()));
            SpanSinks::new(Arc::clone(exporter.queue()))
        });
        Ok(Arc::new(Self {
            routes: metrics.route_sinks(),
            access_log,
            taps: RequestTaps::default(),
            spans,
            exporter: Mutex::new(exporter),
        }))
    }

    /// Where live requests are watched.
    pub fn taps(&self) -> &RequestTaps {
        &self.taps
    }

    /// Opens files anew, for who has renamed them; false where there are none.
    pub fn reopen(&self) -> bool {
        self.access_log.as_ref().inspect(|log| log.reopen()).is_some()
    }

    /// Writes what waits, once no worker has anything to say any more.
    pub fn finish(&self) {
        if let Some(log) = &self.access_log
            && !log.finish(FLUSH)
        {
            tracing::warn!("the end of the access log could not be written within {FLUSH:?}");
        }
        let exporter = self.exporter.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(exporter) = exporter {
            exporter.shut_down(LAST_SPANS);
        }
    }
}

impl RequestSinks for Telemetry {
    fn of_worker(&self, index: usize) -> Box<dyn RequestSink> {
        let log = self.access_log.as_ref().map(|log| log.of_worker(index));
        let spans = self.spans.as_ref().map(|spans| spans.of_worker(index));
        let always = [self.routes.of_worker(index), self.taps.of_worker(index)];
        Box::new(Each(always.into_iter().chain(log).chain(spans).collect()))
    }
}

/// Tells each in turn.
struct Each(Box<[Box<dyn RequestSink>]>);

impl RequestSink for Each {
    fn finished(&mut self, request: &FinishedRequest<'_>) {
        for sink in &mut self.0 {
            sink.finished(request);
        }
    }
}
