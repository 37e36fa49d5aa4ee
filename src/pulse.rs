//! What the sampler of the status page reads: how things stand, and who has how much traffic.

use crate::control::Parts;
use sluicegate_admin::traffic::Pulse;
use sluicegate_admin::{RequestCounts, TrafficVisitor};
use std::time::Instant;

/// How things stand.
pub fn pulse(parts: &Parts) -> Pulse {
    let director = parts.director.as_ref();
    Pulse {
        source: parts.api_server.as_ref().map(|server| server.state(Instant::now())),
        director: director.map(|director| director.state()),
        packets: director.and_then(|director| director.packet_totals()),
        last_change: parts.changes.last(),
    }
}

/// Shows the counters of everything that has some of its own.
pub fn visit(parts: &Parts, visitor: &mut dyn TrafficVisitor) {
    let table = parts.proxy.table();
    for backend in table.backends() {
        let totals = parts.metrics.backend(backend.slot);
        visitor.backend(&backend.backend.id, RequestCounts { requests: totals.requests, errors: totals.errors });
    }
    parts.metrics.visit_hosts(Instant::now(), &mut |host, requests, errors| {
        visitor.host(host, RequestCounts { requests, errors });
    });
    if let Some(director) = &parts.director {
        director.visit_vips(&mut |address, counted_ms, packets, bytes| {
            visitor.vip(address, counted_ms, packets, bytes);
        });
    }
}
