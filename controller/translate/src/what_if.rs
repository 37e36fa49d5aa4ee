//! What would become of an object that is not there yet: an answer for who is about to write it.
//!
//! The object is set, the keys that it makes dirty are translated and checked beside the desired state, and it is taken back.
//! Nothing is copied but the one object that was there before, and nothing that is served is touched.

use crate::controller::Controller;
use crate::object::Object;
use crate::translate::translate;
use sluicegate_config::{Kind, Rejection, SourceKey, Verdict, check};
use std::collections::BTreeSet;

/// What would become of an object. Each list is sorted and without duplicates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WhatIf {
    /// Parts of it that would not be served, that are its own fault or another object's that has a better right, and that
    /// were not there before.
    pub refused: Vec<Rejection>,
    /// What else is to be said of it: parts without effect, what does not exist (yet), and what was rejected before too.
    pub remarks: Vec<Rejection>,
    /// What other objects would lose by it that was well before.
    pub effects: Vec<Rejection>,
}

impl Controller {
    /// Says what would become of an Ingress, a Service or a ConfigMap if it were so. Other kinds, objects that are not
    /// followed and Ingresses of somebody else are not judged: nothing is said of them.
    ///
    /// `now_unix` as for [`Controller::apply`]. The cost is that of the object's own keys, as with a change; nothing remains of it.
    pub fn what_if(&mut self, object: Object, now_unix: i64) -> WhatIf {
        let reference = object.reference();
        let Some((dirty, former)) = self.objects.try_on(object) else { return WhatIf::default() };
        let translation = translate(&self.objects, &dirty, now_unix);
        let checked = check(translation.draft, self.desired());
        let is_ours = reference.kind != Kind::Ingress || self.objects.is_claimed(&reference);
        self.objects.take_back(former);

        let before = self.rejections_of(&dirty);
        let (mut refused, mut remarks, mut effects) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for note in translation.notes.into_iter().chain(checked.rejections) {
            let (is_new, may_come) = (!before.contains(&note.rejection), may_come(&note.source));
            let rejection = note.rejection;
            if rejection.object != reference {
                if is_new {
                    effects.insert(rejection);
                }
            } else if rejection.verdict == Verdict::Rejected && is_new && !may_come {
                refused.insert(rejection);
            } else if is_ours {
                remarks.insert(rejection);
            }
        }
        let list = |these: BTreeSet<Rejection>| these.into_iter().collect();
        WhatIf { refused: list(refused), remarks: list(remarks), effects: list(effects) }
    }
}

/// A Secret or a Service may be made after the Ingress that names it, as cert-manager and package managers do.
fn may_come(source: &SourceKey) -> bool {
    match source {
        SourceKey::Certificate(_) | SourceKey::ServerName(_) | SourceKey::Backend(_) => true,
        SourceKey::Object(_) | SourceKey::Host(_) | SourceKey::Listener(_) | SourceKey::Vip(_) => false,
    }
}
