//! Trace context of one request, between the head that came and the heads that are sent, one per try.

use crate::settings::TraceSettings;
use crate::worker::Worker;
use sluicegate_config::TracePolicy;
use sluicegate_http1::{Field, FieldName, RequestHead};
use sluicegate_trace::{
    FreshIds, Injection, InjectionSettings, Policy, Sampler, SpanId, Trace, TraceFields, TraceId, Trust, decide,
};
use std::time::Instant;

/// What a request's tries say of its trace. Empty where the gateway leaves trace headers alone; kept between requests with
/// its buffers.
#[derive(Default)]
pub(crate) struct Propagation {
    injection: Injection,
    trace: Option<Trace>,
}

impl Propagation {
    /// Reads the context of a request and settles which trace it belongs to. `trust` is the listener's; `route` is
    /// what the Ingress says, where one takes the request.
    pub(crate) fn begin(&mut self, request: &RequestHead, worker: &Worker, trust: Trust, route: Option<&TracePolicy>) {
        self.clear();
        if let Some(settings) = &worker.settings.trace
            && !route.is_some_and(|route| route.off)
        {
            self.settle(request, settings, worker, trust, route);
        }
    }

    fn settle(
        &mut self,
        request: &RequestHead,
        settings: &TraceSettings,
        worker: &Worker,
        trust: Trust,
        route: Option<&TracePolicy>,
    ) {
        if request.fields().any(|field| is_candidate(&field) && TraceFields::is_name(field.name)) {
            let candidates = request.fields().filter(is_candidate);
            let fields = TraceFields::collect(candidates.map(|field| (field.name, field.value)));
            self.continue_from(&fields, request, settings, worker, trust, route);
        } else {
            // Most requests bring nothing, and need no table of all headers.
            self.continue_from(TraceFields::none(), request, settings, worker, trust, route);
        }
    }

    fn continue_from(
        &mut self,
        fields: &TraceFields<'_>,
        request: &RequestHead,
        settings: &TraceSettings,
        worker: &Worker,
        trust: Trust,
        route: Option<&TracePolicy>,
    ) {
        let policy = policy(&settings.policy, trust, route, request);
        let extracted = fields.extract(&settings.extract);
        let random = u128::from(worker.random()) << 64 | u128::from(worker.random());
        let fresh = FreshIds { trace_id: TraceId::from_random(random), span_id: SpanId::from_random(worker.random()) };
        let trace = decide(fields, &extracted, &policy, fresh, || worker.may_force_sampling(Instant::now()));
        let formats = route.and_then(|route| route.formats);
        let strip = policy.trust != Trust::Continue;
        let own = (formats.is_some() || strip != settings.injection.strip_baggage).then(|| InjectionSettings {
            formats: formats.unwrap_or(settings.injection.formats),
            strip_baggage: strip || settings.injection.strip_baggage,
            ..settings.injection.clone()
        });
        self.injection.prepare(fields, &extracted, &trace, own.as_ref().unwrap_or(&settings.injection));
        self.trace = Some(trace);
    }

    /// Each try is a span of its own, so that a backend is not the child of another one's failed try. Returns it.
    pub(crate) fn begin_try(&mut self, worker: &Worker) -> Option<SpanId> {
        self.trace.as_ref()?;
        let span = SpanId::from_random(worker.random());
        self.injection.set_span(span);
        Some(span)
    }

    /// Whether a field of the request is replaced or removed.
    pub(crate) fn replaces(&self, field: &Field<'_>) -> bool {
        self.trace.is_some() && is_candidate(field) && self.injection.replaces(field.name)
    }

    /// Names and values to add.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        self.injection.fields()
    }

    /// The trace, where the gateway carries one.
    pub(crate) fn trace(&self) -> Option<&Trace> {
        self.trace.as_ref()
    }

    pub(crate) fn clear(&mut self) {
        self.injection.clear();
        self.trace = None;
    }

    pub(crate) fn capacity_bytes(&self) -> usize {
        self.injection.capacity_bytes()
    }
}

/// The rules for a request. Probes are never recorded, nor is anything where the Ingress says so, whatever callers want.
fn policy(gateway: &Policy, trust: Trust, route: Option<&TracePolicy>, request: &RequestHead) -> Policy {
    let own = route.and_then(|route| route.sampler);
    let never = own == Some(Sampler::Never) || is_probe(request);
    Policy {
        trust: route.and_then(|route| route.trust).unwrap_or(trust),
        sampler: if never { Sampler::Never } else { own.unwrap_or(gateway.sampler) },
        parent_based: gateway.parent_based && !never,
    }
}

/// Load balancers and kubelets that look whether we live.
pub(crate) fn is_probe(request: &RequestHead) -> bool {
    const PROBES: [&[u8]; 3] = [b"kube-probe/", b"GoogleHC/", b"ELB-HealthChecker/"];
    let Some(agent) = request.field(FieldName::UserAgent) else { return false };
    // Most names of clients end at the first letter.
    matches!(agent, [b'k' | b'G' | b'E', ..]) && PROBES.iter().any(|probe| agent.starts_with(probe))
}

/// The names that the codec knows are told apart already; most fields end here.
fn is_candidate(field: &Field<'_>) -> bool {
    matches!(
        field.id,
        FieldName::Other | FieldName::Traceparent | FieldName::Tracestate | FieldName::Baggage | FieldName::B3
    )
}
