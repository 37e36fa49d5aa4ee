//! The election over an API server: reads and writes the Lease as [`Election`] says.

use super::{PATIENCE, Shared, WriterSettings};
use crate::kube::innermost;
use crate::lease::{Election, Record, Step};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use std::time::{Duration, Instant};

pub(super) struct Elector {
    leases: Api<Lease>,
    name: String,
    retry: Duration,
    election: Election,
    /// The failure that was logged last.
    said: Option<String>,
}

impl Elector {
    pub fn new(api: Client, settings: &WriterSettings, election: Election) -> Self {
        Self {
            leases: Api::namespaced(api, &settings.lease.namespace),
            name: settings.lease.name.to_string(),
            retry: settings.timing.retry,
            election,
            said: None,
        }
    }

    /// Looks at the Lease again and again, and says who writes.
    pub async fn run(&mut self, shared: &Shared, mut on_turn: impl FnMut(bool)) {
        let mut led = false;
        loop {
            let looked = tokio::time::timeout(PATIENCE, self.look()).await;
            match looked.map_err(|_| "the API server does not answer".to_owned()).and_then(|done| done) {
                Ok(()) => self.said = None,
                Err(error) if self.said.as_ref() == Some(&error) => {}
                Err(error) => {
                    tracing::warn!(lease = self.name, %error, "the Lease of the leader cannot be read or renewed");
                    self.said = Some(error);
                }
            }
            let leads = self.election.leads(Instant::now());
            shared.turn(self.election.leads_until(), led && !leads);
            if leads != led {
                tracing::info!(lease = self.name, leads, "the leader has changed");
                led = leads;
                on_turn(leads);
                shared.changed.notify_one();
            }
            tokio::time::sleep(self.retry).await;
        }
    }

    async fn look(&mut self) -> Result<(), String> {
        let text = |error: kube::Error| innermost(&error);
        let found = self.leases.get_opt(&self.name).await.map_err(text)?;
        let record = found.as_ref().map(record_of);
        let begun = Instant::now();
        let now = Timestamp::now();
        let Step::Write(next, is_new) = self.election.look(record, begun, now.to_string()) else { return Ok(()) };
        let lease = self.lease(&next, found, now);
        let parameters = PostParams::default();
        let written = if is_new {
            self.leases.create(&parameters, &lease).await
        } else {
            self.leases.replace(&self.name, &parameters, &lease).await
        };
        match written {
            Ok(lease) => self.election.written(record_of(&lease), begun),
            // Another one was faster: the next look shows it.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(innermost(&error)),
        }
        Ok(())
    }

    /// Gives the Lease back, so that the next leader need not wait.
    pub async fn release(&mut self) {
        let Some(record) = self.election.release() else { return };
        let lease = self.lease(&record, None, Timestamp::now());
        let parameters = PostParams::default();
        let replaced = self.leases.replace(&self.name, &parameters, &lease);
        match tokio::time::timeout(PATIENCE, replaced).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "the Lease could not be given back; the next leader waits for its end")
            }
            Err(_) => tracing::warn!("the Lease could not be given back; the next leader waits for its end"),
        }
    }

    /// What is not ours of a Lease stays as it was.
    fn lease(&self, record: &Record, found: Option<Lease>, now: Timestamp) -> Lease {
        let mut lease = found.unwrap_or_default();
        lease.metadata.name = Some(self.name.clone());
        lease.metadata.resource_version = (!record.version.is_empty()).then(|| record.version.clone());
        lease.metadata.managed_fields = None;
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(&record.holder) {
            spec.acquire_time = Some(MicroTime(now));
        }
        spec.holder_identity = Some(record.holder.clone());
        spec.lease_duration_seconds = i32::try_from(record.duration.as_secs()).ok();
        spec.lease_transitions = Some(record.transitions);
        spec.renew_time = Some(MicroTime(now));
        lease
    }
}

fn record_of(lease: &Lease) -> Record {
    let LeaseSpec { holder_identity, lease_duration_seconds, lease_transitions, renew_time, .. } =
        lease.spec.clone().unwrap_or_default();
    Record {
        holder: holder_identity.unwrap_or_default(),
        duration: Duration::from_secs(lease_duration_seconds.and_then(|seconds| seconds.try_into().ok()).unwrap_or(0)),
        renewed: renew_time.map(|MicroTime(time)| time.to_string()).unwrap_or_default(),
        transitions: lease_transitions.unwrap_or(0),
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
    }
}
