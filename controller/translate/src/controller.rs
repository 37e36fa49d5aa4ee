//! The loop without its shell: changes of objects in, changes of desired state out.

use crate::allocation::PoolUsage;
use crate::dirty::Dirty;
use crate::object::ObjectChange;
use crate::objects::Objects;
use crate::translate::translate;
use sluicegate_config::{
    CertificateId, Change, Checked, Desired, Diff, Generation, Growth, Kind, Note, ObjectRef, Rejection, Settings,
    SourceKey, check,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// What a batch of changes led to.
#[derive(Clone, Debug, Default)]
pub struct Update {
    /// What moved.
    pub diff: Diff,
    /// The generation after it; unchanged if nothing moved.
    pub generation: Generation,
    /// Virtual IPs of which something was looked at again, also where nothing about them moved: pods may have come and gone.
    pub vips: BTreeSet<IpAddr>,
    /// True if any rejection came or went.
    pub rejections_changed: bool,
    /// Those that were not there before, sorted: for the log.
    pub new_rejections: Vec<Rejection>,
    /// Those that are not there any more, sorted.
    pub gone_rejections: Vec<Rejection>,
}

/// What a rebuild from nothing gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebuilt {
    /// Desired state; its generation is 1, or 0 where it is empty.
    pub desired: Desired,
    /// Rejections, sorted, without duplicates and without those of files.
    pub rejections: Vec<Rejection>,
}

/// Owns the objects, the desired state made of them and everything that was not taken.
#[derive(Debug)]
pub struct Controller {
    pub(crate) objects: Objects,
    desired: Desired,
    /// How large it has grown.
    size: Growth,
    rejections: Rejections,
    /// Moments (seconds since the Unix epoch) at which a certificate's validity begins or ends.
    turns: BTreeSet<(i64, CertificateId)>,
    /// What was gathered may have moved.
    gathered: Dirty,
    now_unix: i64,
}

impl Controller {
    /// A controller that has seen nothing.
    pub fn new(settings: Settings) -> Self {
        Self {
            objects: Objects::new(&settings),
            desired: Desired::default(),
            size: Growth::default(),
            rejections: Rejections::default(),
            turns: BTreeSet::new(),
            gathered: Dirty::default(),
            now_unix: i64::MIN,
        }
    }

    /// Takes changes in their order, and makes again what they may have moved.
    ///
    /// `now_unix` is the time in seconds since the Unix epoch. No changes at all are fine: certificates that expired
    /// since the last call are reported then.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = ObjectChange>, now_unix: i64) -> Update {
        self.gather(changes);
        let dirty = std::mem::take(&mut self.gathered);
        self.make_again(dirty, now_unix)
    }

    /// Takes changes, and leaves what comes of them to the next [`Controller::apply`]: for a first state that comes in parts,
    /// of which nothing is to be served before all is there.
    pub fn gather(&mut self, changes: impl IntoIterator<Item = ObjectChange>) {
        for change in changes {
            self.gathered.merge(self.objects.apply(change));
        }
    }

    /// Makes the maps of objects anew. Nodes of maps that were filled one by one are half empty, so that after a first state
    /// this is a good part of what is kept; after single changes it is not worth the time.
    pub fn pack(&mut self) {
        self.objects.pack();
    }

    /// From now on addresses of pools are chosen here, or no more. Until it is told so a controller chooses none: only
    /// who has seen every Service knows what is free, and in a cluster only one process may choose.
    ///
    /// `now_unix` as for [`Controller::apply`].
    pub fn give_addresses(&mut self, gives: bool, now_unix: i64) -> Update {
        let mut dirty = Dirty::default();
        self.objects.set_giving(gives, &mut dirty);
        self.make_again(dirty, now_unix)
    }

    fn make_again(&mut self, mut dirty: Dirty, now_unix: i64) -> Update {
        self.objects.settle(&mut dirty);
        dirty.vips.extend(self.objects.vips_on(&dirty.nodes));
        self.turned(now_unix, &mut dirty);
        self.touch_statuses_of(&dirty);
        if dirty.is_empty() {
            return Update { generation: self.desired.generation, ..Update::default() };
        }
        let translation = translate(&self.objects, &dirty, now_unix);
        let Checked { diff, rejections } = check(translation.draft, &self.desired);
        let Growth { routes, endpoints } = self.desired.apply(&diff);
        self.size.routes += routes;
        self.size.endpoints += endpoints;
        self.watch_validity(&diff);
        let vips = dirty.vips.clone();
        let moved = self.rejections.replace(sources(dirty), translation.notes.into_iter().chain(rejections));
        Update { vips, ..self.update(diff, moved) }
    }

    /// Replaces what a manifest file is rejected for; an empty list means that it is good again.
    pub fn set_file_rejections(&mut self, file: &str, rejections: Vec<Rejection>) -> Update {
        let source = SourceKey::Object(ObjectRef::new(Kind::File, "", file));
        let notes = rejections.into_iter().map(|rejection| Note { source: source.clone(), rejection });
        let moved = self.rejections.replace([source.clone()], notes.collect::<Vec<_>>());
        self.update(Diff::default(), moved)
    }

    /// The rejections that stand of what these keys are made of.
    pub(crate) fn rejections_of(&self, dirty: &Dirty) -> BTreeSet<Rejection> {
        let standing = sources(dirty.clone()).filter_map(|source| self.rejections.by_source.get(&source));
        standing.flatten().map(|rejection| (**rejection).clone()).collect()
    }

    pub(crate) fn statuses(&mut self) -> &mut crate::status::Statuses {
        &mut self.objects.statuses
    }

    /// How full the pools of virtual IPs are, in their order.
    pub fn pool_usage(&self) -> Vec<PoolUsage> {
        self.objects.pool_usage()
    }

    pub(crate) fn now_unix(&self) -> i64 {
        self.now_unix
    }

    /// What the data plane shall be.
    pub fn desired(&self) -> &Desired {
        &self.desired
    }

    /// How many routes and endpoints that has.
    pub fn size(&self) -> Growth {
        self.size
    }

    /// Everything that was not taken, sorted, without duplicates.
    pub fn rejections(&self) -> impl Iterator<Item = &Rejection> {
        self.rejections.counts.keys().map(|rejection| &**rejection)
    }

    /// The Secrets that accepted Ingresses and the settings name: all that a source needs to read.
    pub fn wanted_secrets(&self) -> BTreeSet<CertificateId> {
        self.objects.wanted_secrets()
    }

    /// The objects.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// Makes everything again from the objects: the oracle that incremental changes are tested against. Only last good
    /// certificates come from the state that there is, because no object holds them.
    pub fn rebuild(&self) -> Rebuilt {
        let translation = translate(&self.objects, &self.objects.everything(), self.now_unix);
        let memory = Desired { certificates: self.desired.certificates.clone(), ..Desired::default() };
        let checked = check(translation.draft, &memory);
        let mut desired = Desired::default();
        // A certificate that is what it was is no change, and one that is asked for no more is a removal.
        let mut diff = checked.diff;
        let default = self.objects.default_certificate();
        for (id, certificate) in &self.desired.certificates {
            let is_asked_for = self.objects.by_certificate.of(id).next().is_some() || default.as_ref() == Some(id);
            if !diff.certificates.contains_key(id) && is_asked_for {
                diff.certificates.insert(id.clone(), Change::Set(Arc::clone(certificate)));
            }
        }
        desired.apply(&diff);
        let rejections: BTreeSet<Rejection> =
            translation.notes.into_iter().chain(checked.rejections).map(|note| note.rejection).collect();
        Rebuilt { desired, rejections: rejections.into_iter().collect() }
    }

    fn update(&self, diff: Diff, moved: Moved) -> Update {
        Update {
            diff,
            generation: self.desired.generation,
            vips: BTreeSet::new(),
            rejections_changed: !moved.new.is_empty() || !moved.gone.is_empty(),
            new_rejections: moved.new,
            gone_rejections: moved.gone,
        }
    }

    /// Certificates that became valid or expired since the last call.
    fn turned(&mut self, now_unix: i64, dirty: &mut Dirty) {
        let (from, to) = (self.now_unix.min(now_unix), self.now_unix.max(now_unix));
        self.now_unix = now_unix;
        let lowest = CertificateId { namespace: "".into(), name: "".into() };
        // A certificate is valid at both ends, so it turns one second after its last.
        let next = (to.saturating_add(1), lowest.clone());
        dirty.certificates.extend(self.turns.range((from, lowest)..next.clone()).map(|(_, id)| id.clone()));
        self.turns = self.turns.split_off(&next);
    }

    /// A moment may outlive its certificate; then it makes a certificate again for nothing, once.
    fn watch_validity(&mut self, diff: &Diff) {
        for id in diff.certificates.keys() {
            let secret = self
                .objects
                .secrets
                .get(&sluicegate_config::NamespacedName::new(Arc::clone(&id.namespace), Arc::clone(&id.name)));
            if let Some(good) = secret.and_then(|secret| secret.good()) {
                self.turns.insert((good.not_before, id.clone()));
                self.turns.insert((good.certificate.not_after.saturating_add(1), id.clone()));
            }
        }
    }
}

fn sources(dirty: Dirty) -> impl Iterator<Item = SourceKey> {
    let Dirty { hosts, server_names, backends, certificates, listeners, vips, nodes: _, objects } = dirty;
    objects
        .into_iter()
        .map(SourceKey::Object)
        .chain(hosts.into_iter().map(SourceKey::Host))
        .chain(server_names.into_iter().map(SourceKey::ServerName))
        .chain(backends.into_iter().map(SourceKey::Backend))
        .chain(certificates.into_iter().map(SourceKey::Certificate))
        .chain(listeners.into_iter().map(SourceKey::Listener))
        .chain(vips.into_iter().map(SourceKey::Vip))
}

/// How the set of rejections has changed.
struct Moved {
    new: Vec<Rejection>,
    gone: Vec<Rejection>,
}

/// Rejections by what they were found in the making of, and how often each is there.
#[derive(Debug, Default)]
struct Rejections {
    by_source: BTreeMap<SourceKey, Vec<Arc<Rejection>>>,
    counts: BTreeMap<Arc<Rejection>, usize>,
}

impl Rejections {
    /// Replaces all rejections of the sources, and says how the set of rejections has changed.
    fn replace(
        &mut self,
        sources: impl IntoIterator<Item = SourceKey>,
        notes: impl IntoIterator<Item = Note>,
    ) -> Moved {
        let mut gone: BTreeSet<Arc<Rejection>> = BTreeSet::new();
        for source in sources {
            for rejection in self.by_source.remove(&source).into_iter().flatten() {
                if let Some(count) = self.counts.get_mut(&rejection) {
                    *count -= 1;
                    if *count == 0 {
                        self.counts.remove(&rejection);
                        gone.insert(rejection);
                    }
                }
            }
        }
        let mut new: BTreeSet<Arc<Rejection>> = BTreeSet::new();
        for Note { source, rejection } in notes {
            let rejection = match self.counts.get_key_value(&rejection) {
                Some((known, _)) => Arc::clone(known),
                None => gone.take(&rejection).unwrap_or_else(|| {
                    let rejection = Arc::new(rejection);
                    new.insert(Arc::clone(&rejection));
                    rejection
                }),
            };
            *self.counts.entry(Arc::clone(&rejection)).or_insert(0) += 1;
            self.by_source.entry(source).or_default().push(rejection);
        }
        let list = |these: BTreeSet<Arc<Rejection>>| these.iter().map(|rejection| (**rejection).clone()).collect();
        Moved { new: list(new), gone: list(gone) }
    }
}
