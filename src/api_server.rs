//! The API server as probes, metrics and the page show it.

use sluicegate_admin::source::{FailingWatch, MOST_NAMED, SourceState, WatchCounts};
use sluicegate_source::kube::{Answered, ApiContact, WatchState};
use sluicegate_telemetry::source::SourceCounts;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An API server that objects come from.
#[derive(Clone, Debug)]
pub struct ApiServer {
    pub address: String,
    pub contact: Arc<ApiContact>,
}

impl ApiServer {
    /// For `/api/v1/state`.
    pub fn state(&self, now: Instant) -> SourceState {
        let watches = self.contact.watches();
        let mut counts = WatchCounts::default();
        for state in watches.values() {
            *match standing(state) {
                "well" => &mut counts.well,
                "reading" => &mut counts.reading,
                _ => &mut counts.failing,
            } += 1;
        }
        let failing = watches.iter().filter_map(|(watch, state)| {
            let error = state.error.as_deref()?.to_owned();
            Some(FailingWatch { watch: watch.to_string(), error })
        });
        SourceState { watches: counts, failing: failing.take(MOST_NAMED).collect(), ..self.contact_state(now) }
    }

    /// For `/readyz`, which waits for nothing.
    pub fn remark(&self, now: Instant) -> Option<String> {
        self.contact_state(now).remark()
    }

    fn contact_state(&self, now: Instant) -> SourceState {
        let outage = self.contact.outage(now);
        SourceState {
            api_server: self.address.clone(),
            outage_seconds: outage.as_ref().map(|(outage, _)| outage.as_secs()),
            why: outage.map(|(_, why)| why.to_string()),
            heard_seconds_ago: self.contact.age(now).map(|age| age.as_secs()),
            clock_ahead_seconds: self.contact.clock_ahead(),
            ..SourceState::default()
        }
    }

    /// For `/metrics`.
    pub fn counts(&self, now: Instant) -> SourceCounts {
        let mut watches = BTreeMap::new();
        for state in self.contact.watches().values() {
            *watches.entry((state.resource, standing(state))).or_default() += 1;
        }
        let counts = self.contact.counts();
        let class = |answered| match answered {
            Answered::Success => "2xx",
            Answered::Refused => "4xx",
            Answered::Failed => "5xx",
            Answered::Not => "none",
        };
        SourceCounts {
            outage: self.contact.outage(now).map_or(Duration::ZERO, |(outage, _)| outage),
            age: self.contact.age(now),
            clock_ahead: self.contact.clock_ahead(),
            watches: watches.into_iter().map(|((resource, state), count)| (resource, state, count)).collect(),
            lists: counts.lists.into_iter().collect(),
            watch_errors: counts.watch_errors.into_iter().collect(),
            requests: counts
                .requests
                .into_iter()
                .map(|((verb, resource, answered), count)| (verb, resource, class(answered), count))
                .collect(),
        }
    }
}

fn standing(state: &WatchState) -> &'static str {
    match state {
        WatchState { error: Some(_), .. } => "failing",
        WatchState { is_read: true, .. } => "well",
        WatchState { .. } => "reading",
    }
}
