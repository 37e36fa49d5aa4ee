//! Which Secrets are watched: those that something names, and how.

use super::reflector::{Reflector, Running, Watched};
use sluicegate_config::{CertificateId, Kind};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Secrets of a namespace that each have a watch of their own. Where more are named, the namespace's Secrets are watched as
/// a whole: a watch is a connection's stream, and an API server has better things to do than hundreds of them.
pub const MOST_BY_NAME: usize = 16;

/// One watch of Secrets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct SecretWatch {
    namespace: Arc<str>,
    /// `None` = all of the namespace.
    name: Option<Arc<str>>,
}

/// The watches for what is wanted.
fn plan(wanted: &BTreeSet<CertificateId>) -> BTreeSet<SecretWatch> {
    let mut by_namespace = BTreeMap::<&Arc<str>, Vec<&Arc<str>>>::new();
    for id in wanted {
        by_namespace.entry(&id.namespace).or_default().push(&id.name);
    }
    let watches = by_namespace.into_iter().flat_map(|(namespace, names)| {
        let names: Vec<Option<Arc<str>>> = if names.len() > MOST_BY_NAME {
            vec![None]
        } else {
            names.into_iter().map(|name| Some(Arc::clone(name))).collect()
        };
        names.into_iter().map(|name| SecretWatch { namespace: Arc::clone(namespace), name })
    });
    watches.collect()
}

/// The watches that run.
pub(super) struct SecretWatches {
    reflector: Reflector,
    running: BTreeMap<SecretWatch, Running>,
}

impl SecretWatches {
    pub fn new(reflector: Reflector) -> Self {
        Self { reflector, running: BTreeMap::new() }
    }

    /// Watches these. What is wanted no more is removed from the controller before it could be wanted again.
    pub async fn set(&mut self, wanted: &BTreeSet<CertificateId>) {
        let planned = plan(wanted);
        let gone: Vec<SecretWatch> = self.running.keys().filter(|watch| !planned.contains(*watch)).cloned().collect();
        let mut stopped = Vec::new();
        for watch in gone {
            stopped.extend(self.running.remove(&watch));
        }
        for watch in planned {
            let watched = Watched {
                namespace: Some(Arc::clone(&watch.namespace)),
                fields: Some(fields(&watch)),
                ..Watched::of(Kind::Secret)
            };
            self.running.entry(watch).or_insert_with(|| self.reflector.start(watched));
        }
        // Those that a watch of the whole namespace took over are read anew by it, after they were removed: for a moment
        // a name has no certificate but its last good one, which the controller keeps.
        for running in stopped {
            running.stop().await;
        }
    }

    /// Until each has been read once.
    pub async fn until_read(&mut self) {
        for running in self.running.values_mut() {
            running.until_read().await;
        }
    }
}

/// Tokens and releases are the bulk of a namespace's Secrets, and never a certificate.
fn fields(watch: &SecretWatch) -> String {
    match &watch.name {
        Some(name) => format!("metadata.name={name}"),
        None => "type!=kubernetes.io/service-account-token,type!=helm.sh/release.v1".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(namespace: &str, count: usize) -> BTreeSet<CertificateId> {
        let id = |number| CertificateId { namespace: namespace.into(), name: format!("tls{number:03}").into() };
        (0..count).map(id).collect()
    }

    #[test]
    fn a_few_are_watched_by_name_and_many_by_namespace() {
        for (count, watches, whole) in
            [(0, 0, false), (1, 1, false), (MOST_BY_NAME, MOST_BY_NAME, false), (MOST_BY_NAME + 1, 1, true)]
        {
            let planned = plan(&ids("shop", count));
            assert_eq!(planned.len(), watches, "{count}");
            assert_eq!(planned.iter().any(|watch| watch.name.is_none()), whole, "{count}");
        }
        let mut two = ids("shop", MOST_BY_NAME + 1);
        two.extend(ids("blog", 2));
        assert_eq!(plan(&two).len(), 3, "each namespace for itself");
    }
}
