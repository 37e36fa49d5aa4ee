//! Who is told of requests that are over: the metrics of routes, the access log, and whoever watches them live.

use sluicegate_telemetry::{
    AccessLog, AccessLogError, AccessLogSettings, FinishedRequest, Metrics, RequestSink, RequestSinks, RequestTaps,
    RouteSinks,
};
use std::sync::Arc;
use std::time::Duration;

/// How long what waits may take to be written at the end.
const FLUSH: Duration = Duration::from_secs(2);

/// All of them, by name.
pub struct Telemetry {
    /// `/metrics`
    routes: RouteSinks,
    /// Where there is one.
    access_log: Option<Arc<AccessLog>>,
    /// `tap`
    taps: RequestTaps,
}

impl Telemetry {
    /// Opens what is to be written to.
    ///
    /// # Errors
    /// Where the access log cannot be opened.
    pub fn start(access_log: Option<AccessLogSettings>, metrics: &Metrics) -> Result<Arc<Self>, AccessLogError> {
        let access_log = access_log.map(AccessLog::start).transpose()?;
        if let Some(log) = &access_log {
            metrics.set_access_log(Arc::clone(log));
        }
        Ok(Arc::new(Self { routes: metrics.route_sinks(), access_log, taps: RequestTaps::default() }))
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
    }
}

impl RequestSinks for Telemetry {
    fn of_worker(&self, index: usize) -> Box<dyn RequestSink> {
        let log = self.access_log.as_ref().map(|log| log.of_worker(index));
        let always = [self.routes.of_worker(index), self.taps.of_worker(index)];
        Box::new(Each(always.into_iter().chain(log).collect()))
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
