//! What the controller answers an API server: which Secrets it needs, which statuses differ, what is wrong with objects.

use sluicegate_config::{Kind, Rejection, Verdict, VipPools};
use sluicegate_source::Wishes;
use sluicegate_source::write::{Remark, Writer};
use sluicegate_translate::{Controller, PublishSettings, StatusWrite, Update};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// How long statuses may take to be taken back when the gateway ends.
const CLEARING: Duration = Duration::from_secs(10);

/// The way back to an API server.
pub struct Answers {
    wishes: Wishes,
    /// Comes once the loop runs, which it tells of its turns; where nothing is to be written, never.
    writer: Arc<OnceLock<Writer>>,
    publish: PublishSettings,
    /// The kinds whose statuses and Events are this role's.
    kinds: &'static [Kind],
}

impl Answers {
    /// For a role: a director answers for Services and VIPs, a gateway for the rest.
    pub fn new(
        wishes: Wishes,
        writer: Arc<OnceLock<Writer>>,
        publish: PublishSettings,
        kinds: &'static [Kind],
    ) -> Self {
        Self { wishes, writer, publish, kinds }
    }

    /// Asks for what the objects so far name.
    pub fn want(&self, controller: &Controller, through: u64) {
        self.wishes.want(controller.wanted_secrets(), through);
    }

    /// Asks for all Services to be read anew, where addresses are chosen for them by who leads: it has to know what leaders
    /// before it have given. `None` where none are chosen.
    pub fn read_again(&self, pools: &VipPools) -> Option<u64> {
        (self.kinds.contains(&Kind::Service) && !pools.is_empty()).then(|| self.wishes.read_again())
    }

    /// Takes back what was written, and waits until it is done. Nothing may be written after it.
    pub fn clear(&self, controller: &Controller) {
        let Some(writer) = self.writer.get().filter(|writer| writer.leads()) else { return };
        let writes = controller.clear_statuses();
        let count = writes.len();
        writer.write_statuses(writes.into_iter().filter(|write| self.kinds.contains(&write.object.kind)).collect());
        if writer.flush(CLEARING) {
            tracing::info!(statuses = count, "statuses are taken back");
        } else {
            tracing::warn!("not all statuses could be taken back; remove status.loadBalancer by hand where it stays");
        }
    }

    /// Writes the statuses that differ.
    pub fn write(&self, controller: &mut Controller) {
        let Some(writer) = self.writer.get().filter(|writer| writer.leads()) else { return };
        let writes = controller.take_status_writes(&self.publish);
        let is_ours = |write: &StatusWrite| self.kinds.contains(&write.object.kind);
        writer.write_statuses(writes.into_iter().filter(is_ours).collect());
    }

    /// Says again what stands, and writes what differs: the leader before may have been cut off in the middle of it.
    pub fn begin(&self, controller: &mut Controller) {
        controller.touch_statuses();
        self.write(controller);
        if let Some(writer) = self.writer.get() {
            let standing = controller.rejections().filter_map(|rejection| self.complaint(controller, rejection, true));
            writer.tell(standing.collect());
        }
    }

    /// Tells what was rejected anew, and what is well again.
    pub fn tell(&self, controller: &Controller, update: &Update) {
        let Some(writer) = self.writer.get().filter(|writer| writer.leads()) else { return };
        let new = update.new_rejections.iter().filter_map(|one| self.complaint(controller, one, false));
        let gone = update.gone_rejections.iter().filter_map(|one| self.all_clear(controller, one));
        writer.tell(new.chain(gone).collect());
    }

    /// Tells who bound a VIP what a director cannot do of it, and what it can again.
    pub fn tell_failures(
        &self,
        controller: &Controller,
        before: &BTreeSet<(IpAddr, String)>,
        after: &BTreeSet<(IpAddr, String)>,
    ) {
        let Some(writer) = self.writer.get() else { return };
        let remark = |(vip, message): &(IpAddr, String), is_warning: bool| {
            let object = controller.desired().vips.get(vip)?.origin.clone();
            let uid = Some(controller.uid(&object).filter(|_| self.kinds.contains(&object.kind))?.to_owned());
            let (reason, message) = match is_warning {
                true => ("NotForwarded", message.clone()),
                false => ("Forwarded", format!("done; it was: {message}")),
            };
            Some(Remark { object, uid, is_warning, reason, message, stands: false })
        };
        let new = after.difference(before).filter_map(|failure| remark(failure, true));
        let gone = before.difference(after).filter_map(|failure| remark(failure, false));
        writer.tell(new.chain(gone).collect());
    }

    fn complaint(&self, controller: &Controller, rejection: &Rejection, stands: bool) -> Option<Remark> {
        let reason = match rejection.verdict {
            Verdict::Rejected => "Rejected",
            Verdict::Warning => "Warning",
            // What belongs to others is none of our business to complain about.
            Verdict::Ignored => return None,
        };
        let Rejection { field, reason: why, remedy, .. } = rejection;
        self.remark(controller, rejection, true, reason, format!("{field}: {why}; {remedy}"), stands)
    }

    fn all_clear(&self, controller: &Controller, rejection: &Rejection) -> Option<Remark> {
        if rejection.verdict == Verdict::Ignored {
            return None;
        }
        let message = format!("{}: taken; it was: {}", rejection.field, rejection.reason);
        self.remark(controller, rejection, false, "Accepted", message, false)
    }

    /// `None` for objects that are none of this role's, or not there (any more).
    fn remark(
        &self,
        controller: &Controller,
        rejection: &Rejection,
        is_warning: bool,
        reason: &'static str,
        message: String,
        stands: bool,
    ) -> Option<Remark> {
        let object = rejection.object.clone();
        if !self.kinds.contains(&object.kind) {
            return None;
        }
        let uid = Some(controller.uid(&object)?.to_owned());
        Some(Remark { object, uid, is_warning, reason, message, stands })
    }
}
