//! Which namespaces are read: all, those that are named, or those whose labels match.

use super::reflector::{Reflector, Running, Watched};
use super::{KubeSettings, watched_kinds};
use sluicegate_config::{Kind, NamespacedName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::watch;

/// The watches of a gateway but for Secrets.
pub(super) struct Scope {
    reflector: Reflector,
    kinds: &'static [Kind],
    /// Of cluster-wide kinds, named ConfigMaps and, without a selector, everything else.
    fixed: Vec<Running>,
    /// By namespace, where a selector chooses them.
    chosen: BTreeMap<Arc<str>, Vec<Running>>,
    /// The namespaces that match; `None` until they have been read.
    names: Option<watch::Receiver<Option<BTreeSet<Arc<str>>>>>,
}

impl Scope {
    pub fn start(reflector: &Reflector, settings: &KubeSettings) -> Self {
        let kinds = watched_kinds(settings.services_alone);
        let mut fixed = Vec::new();
        if !settings.services_alone {
            fixed.push(reflector.start(Watched::of(Kind::IngressClass)));
        }
        if settings.nodes {
            fixed.push(reflector.start(Watched::of(Kind::Node)));
        }
        let is_limited = settings.namespace_selector.is_some() || !settings.namespaces.is_empty();
        let beyond = |service: &&NamespacedName| is_limited && !settings.namespaces.contains(&service.namespace);
        for service in settings.endpoints_of.iter().filter(beyond) {
            fixed.push(reflector.start(Watched {
                namespace: Some(Arc::clone(&service.namespace)),
                labels: Some(format!("kubernetes.io/service-name={}", service.name)),
                ..Watched::of(Kind::EndpointSlice)
            }));
        }
        for config_map in &settings.config_maps {
            fixed.push(reflector.start(Watched {
                namespace: Some(Arc::clone(&config_map.namespace)),
                fields: Some(format!("metadata.name={}", config_map.name)),
                ..Watched::of(Kind::ConfigMap)
            }));
        }
        let mut names = None;
        if settings.namespace_selector.is_some() || settings.namespace_labels {
            fixed.extend(watched_namespaces(settings).map(|watched| reflector.start(watched)));
        }
        match &settings.namespace_selector {
            Some(_) => names = fixed.last().map(Running::names),
            None if settings.namespaces.is_empty() => {
                fixed.extend(kinds.iter().map(|kind| reflector.start(Watched::of(*kind))));
            }
            None => {
                let namespaces = settings.namespaces.iter();
                fixed.extend(namespaces.flat_map(|namespace| in_namespace(reflector, kinds, namespace)));
            }
        }
        Self { reflector: reflector.clone(), kinds, fixed, chosen: BTreeMap::new(), names }
    }

    /// Until everything has been read once.
    pub async fn until_read(&mut self) {
        if let Some(names) = &mut self.names {
            // It ends with everything else.
            drop(names.wait_for(Option::is_some).await);
            self.choose().await;
        }
        for running in self.fixed.iter_mut().chain(self.chosen.values_mut().flatten()) {
            running.until_read().await;
        }
    }

    /// Until all Services that there are when the round has begun have been handed on, as far as they are watched now.
    pub fn read_in(&self, round: u64) -> impl Future<Output = ()> + Send + use<> {
        let services = self.fixed.iter().chain(self.chosen.values().flatten()).filter(|one| one.kind == Kind::Service);
        let reads: Vec<_> = services.map(|running| running.read_in(round)).collect();
        async move {
            for read in reads {
                read.await;
            }
        }
    }

    /// Waits for the next change of namespaces, which [`Scope::choose`] follows; for ever where none is chosen by labels.
    pub async fn changed(&mut self) {
        if let Some(names) = &mut self.names
            && names.changed().await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }

    /// Watches the namespaces that match at this moment, and no others.
    pub async fn choose(&mut self) {
        let Some(names) = self.names.as_mut().and_then(|names| names.borrow_and_update().clone()) else { return };
        let gone: Vec<Arc<str>> = self.chosen.keys().filter(|name| !names.contains(*name)).cloned().collect();
        for name in gone {
            for running in self.chosen.remove(&name).into_iter().flatten() {
                running.stop().await;
            }
        }
        for name in names {
            let (reflector, kinds) = (&self.reflector, self.kinds);
            self.chosen.entry(name).or_insert_with_key(|name| in_namespace(reflector, kinds, name).collect());
        }
    }
}

/// One watch for the namespaces that are read and for the labels of those that pools are for.
fn watched_namespaces(settings: &KubeSettings) -> impl Iterator<Item = Watched> {
    let all = Watched { labels: settings.namespace_selector.clone(), ..Watched::of(Kind::Namespace) };
    let one =
        |name: &Arc<str>| Watched { fields: Some(format!("metadata.name={name}")), ..Watched::of(Kind::Namespace) };
    let named: Vec<Watched> = settings.namespaces.iter().map(one).collect();
    if named.is_empty() { vec![all] } else { named }.into_iter()
}

fn in_namespace(reflector: &Reflector, kinds: &'static [Kind], namespace: &Arc<str>) -> impl Iterator<Item = Running> {
    kinds.iter().map(|kind| reflector.start(Watched { namespace: Some(Arc::clone(namespace)), ..Watched::of(*kind) }))
}
