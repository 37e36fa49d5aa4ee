//! The keyed store of objects, and the index that says what each one has a part in.

use crate::allocation::Allocation;
use crate::dirty::Dirty;
use crate::facts::configmap::{TcpServices, Vips};
use crate::facts::ingress::{Class, Ingress};
use crate::facts::node::Node;
use crate::facts::secret::Secret;
use crate::facts::service::Service;
use crate::facts::slice::Slice;
use crate::index::Users;
use crate::object::{Object, ObjectChange};
use crate::shared::Shared;
use crate::status::Statuses;
use sluicegate_config::{
    BackendId, Balance, CertificateId, HostPattern, Kind, NamespacedName, ObjectRef, PortRef, Settings, StreamPort,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Every object that matters, reduced to what decides something, with the index of dependencies between them.
#[derive(Debug)]
pub struct Objects {
    pub(crate) settings: Arc<Settings>,
    shared: Shared,
    /// Boxed: a map's nodes are half empty, and an Ingress is large.
    pub(crate) ingresses: BTreeMap<NamespacedName, Box<Ingress>>,
    pub(crate) classes: BTreeMap<Arc<str>, Class>,
    pub(crate) services: BTreeMap<NamespacedName, Service>,
    slices: BTreeMap<NamespacedName, Slice>,
    pub(crate) secrets: BTreeMap<NamespacedName, Secret>,
    pub(crate) tcp_services: TcpServices,
    pub(crate) vips: Vips,
    nodes: BTreeMap<Arc<str>, Node>,
    pub(crate) by_host: Users<HostPattern>,
    /// Without the hosts of an Ingress's own rules, which are in `by_host` already.
    by_tls_host: Users<HostPattern>,
    pub(crate) by_backend: Users<BackendId>,
    pub(crate) by_certificate: Users<CertificateId>,
    by_class: Users<Option<Arc<str>>>,
    slices_of: Users<NamespacedName>,
    streams_of: BTreeSet<(BackendId, StreamPort)>,
    /// The VIPs of the ConfigMap, by Service.
    vips_of: BTreeSet<(NamespacedName, IpAddr)>,
    /// Labels of namespaces, where a pool asks for them.
    pub(crate) namespaces: BTreeMap<Arc<str>, BTreeMap<Box<str>, Box<str>>>,
    /// The VIPs of Services of type LoadBalancer.
    pub(crate) allocation: Allocation,
    pub(crate) statuses: Statuses,
}

/// What an object was before [`Objects::try_on`]; `None` = it was not there.
#[derive(Debug)]
pub(crate) enum Former {
    Ingress(Option<Box<Ingress>>, NamespacedName),
    Service(Option<Service>, ObjectRef),
    ConfigMap(TcpServices, Vips, ObjectRef),
}

impl Objects {
    /// An empty store. The settings say which ConfigMaps and which namespace matter; nothing else is kept.
    pub fn new(settings: &Settings) -> Self {
        Self {
            settings: Arc::new(settings.clone()),
            shared: Shared::default(),
            ingresses: BTreeMap::new(),
            classes: BTreeMap::new(),
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            secrets: BTreeMap::new(),
            tcp_services: TcpServices::default(),
            vips: Vips::default(),
            nodes: BTreeMap::new(),
            by_host: Users::default(),
            by_tls_host: Users::default(),
            by_backend: Users::default(),
            by_certificate: Users::default(),
            by_class: Users::default(),
            slices_of: Users::default(),
            streams_of: BTreeSet::new(),
            vips_of: BTreeSet::new(),
            namespaces: BTreeMap::new(),
            allocation: Allocation::default(),
            statuses: Statuses::default(),
        }
    }

    /// Takes one change and says what it may have moved. An object that is set to what it was moves nothing.
    pub fn apply(&mut self, change: ObjectChange) -> Dirty {
        let reference = match &change {
            ObjectChange::Set(object) => object.reference(),
            ObjectChange::Remove(reference) => reference.clone(),
        };
        if reference.name.is_empty() || !self.is_watched(&reference) {
            return Dirty::default();
        }
        match &change {
            ObjectChange::Set(object) => self.statuses.see(object),
            ObjectChange::Remove(reference) => self.statuses.forget(reference),
        }
        let reference = self.share(reference);
        let shown = match &change {
            ObjectChange::Set(Object::Service(object)) => Some(shown_addresses(object)),
            _ => None,
        };
        let key = name(&reference);
        let is_news = shown.is_some_and(|shown| self.see_record(&key, shown));
        let mut dirty = self.take(change, reference);
        if is_news {
            self.refresh_claims(&key, &mut dirty);
        }
        dirty
    }

    /// Sets an object for a moment, until [`Objects::take_back`]: an Ingress, a Service or a ConfigMap that matters.
    /// `None` for all others. What statuses show is not looked at.
    pub(crate) fn try_on(&mut self, object: Object) -> Option<(Dirty, Former)> {
        let reference = object.reference();
        if reference.name.is_empty() || !self.is_watched(&reference) {
            return None;
        }
        let reference = self.share(reference);
        let key = name(&reference);
        let former = match reference.kind {
            Kind::Ingress => Former::Ingress(self.ingresses.get(&key).cloned(), key),
            Kind::Service => Former::Service(self.services.get(&key).cloned(), reference.clone()),
            Kind::ConfigMap => Former::ConfigMap(self.tcp_services.clone(), self.vips.clone(), reference.clone()),
            Kind::IngressClass | Kind::EndpointSlice | Kind::Secret | Kind::Node | Kind::Namespace | Kind::File => {
                return None;
            }
        };
        Some((self.take(ObjectChange::Set(object), reference), former))
    }

    /// Ends [`Objects::try_on`]: everything is as it was.
    pub(crate) fn take_back(&mut self, former: Former) {
        let mut moved = Dirty::default();
        match former {
            Former::Ingress(ingress, key) => moved = self.set_ingress(key, ingress),
            Former::Service(service, reference) => moved = self.set_service(&reference, service),
            Former::ConfigMap(tcp_services, vips, reference) => {
                self.set_tcp_services(&mut moved, &reference, tcp_services);
                self.set_vips(&mut moved, &reference, vips);
            }
        }
        // Keys were looked at beside what is served, and nothing was made of them.
        drop(moved);
    }

    fn share(&mut self, reference: ObjectRef) -> ObjectRef {
        ObjectRef {
            kind: reference.kind,
            namespace: self.shared.text(&reference.namespace),
            name: match reference.kind {
                // Nobody else names these.
                Kind::EndpointSlice => reference.name,
                _ => self.shared.text(&reference.name),
            },
        }
    }

    fn take(&mut self, change: ObjectChange, reference: ObjectRef) -> Dirty {
        match change {
            ObjectChange::Set(Object::Ingress(object)) => {
                let ingress = Ingress::read(&object, reference, &mut self.shared);
                self.set_ingress(ingress.key(), Some(Box::new(ingress)))
            }
            ObjectChange::Set(Object::IngressClass(object)) => {
                self.set_class(&reference.name, Some(Class::read(&object)))
            }
            ObjectChange::Set(Object::Service(object)) => {
                let service = Service::read(&object, &mut self.shared);
                self.set_service(&reference, Some(service))
            }
            ObjectChange::Set(Object::EndpointSlice(object)) => {
                let slice = Slice::read(&object, &mut self.shared);
                self.set_slice(name(&reference), Some(slice))
            }
            ObjectChange::Set(Object::Secret(object)) => {
                let id =
                    CertificateId { namespace: Arc::clone(&reference.namespace), name: Arc::clone(&reference.name) };
                self.set_secret(Some(Secret::read(&object, id.clone())), id)
            }
            ObjectChange::Set(Object::ConfigMap(object)) => self.set_configmap(&reference, Some(&object)),
            ObjectChange::Set(Object::Node(object)) => self.set_node(&reference.name, Some(Node::read(&object))),
            ObjectChange::Set(Object::Namespace(object)) => {
                let labels = object.metadata.labels.unwrap_or_default();
                self.set_namespace(
                    &reference.name,
                    Some(labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect()),
                )
            }
            ObjectChange::Remove(_) => self.remove(&reference),
        }
    }

    /// As [`crate::Controller::pack`].
    pub(crate) fn pack(&mut self) {
        self.shared.pack();
        pack(&mut self.ingresses);
        pack(&mut self.services);
        pack(&mut self.slices);
        pack(&mut self.secrets);
        self.by_host.pack();
        self.by_tls_host.pack();
        self.by_backend.pack();
        self.by_certificate.pack();
        self.by_class.pack();
        self.slices_of.pack();
    }

    /// Every key that there is: what a full rebuild makes.
    pub fn everything(&self) -> Dirty {
        let default = self.default_certificate();
        let objects = self
            .ingresses
            .values()
            .map(|ingress| ingress.reference.clone())
            .chain(self.classes.keys().map(|name| ObjectRef::new(Kind::IngressClass, "", Arc::clone(name))))
            .chain(self.services.keys().map(|key| reference(Kind::Service, key)))
            .chain(self.configmap_names().map(|key| reference(Kind::ConfigMap, key)));
        Dirty {
            hosts: self.by_host.keys().cloned().collect(),
            server_names: self.ingresses.values().flat_map(|ingress| ingress.references().server_names).collect(),
            backends: self.by_backend.keys().chain(self.streams_of.iter().map(|(id, _)| id)).cloned().collect(),
            certificates: self.by_certificate.keys().cloned().chain(default).collect(),
            listeners: self.tcp_services.listeners.keys().copied().collect(),
            vips: self.vips.bindings.keys().chain(self.claimed()).copied().collect(),
            nodes: BTreeSet::new(),
            objects: objects.collect(),
        }
    }

    /// How many objects of a kind are kept. ConfigMaps and files are not counted, and namespaces only kept where a pool asks
    /// for labels.
    pub fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Ingress => self.ingresses.len(),
            Kind::IngressClass => self.classes.len(),
            Kind::Service => self.services.len(),
            Kind::EndpointSlice => self.slices.len(),
            Kind::Secret => self.secrets.len(),
            Kind::Node => self.nodes.len(),
            Kind::Namespace => self.namespaces.len(),
            Kind::ConfigMap | Kind::File => 0,
        }
    }

    /// What is known of a node; `None` = no such Node object has come.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// True once there is any Node: this is a cluster.
    pub(crate) fn knows_nodes(&self) -> bool {
        !self.nodes.is_empty()
    }

    /// The nodes where an agent is ready, by the Service that selects agents; `None` = there is no such Service.
    pub(crate) fn nodes_with_agents(&self) -> Option<BTreeSet<Arc<str>>> {
        let service = self.settings.backend_service.as_ref()?;
        Some(self.slices_of(service).flat_map(|(_, slice)| slice.ready_nodes()).collect())
    }

    /// The VIPs with endpoints on one of these nodes.
    ///
    /// Looked for once a batch of changes instead of kept as an index: facts of nodes change seldom, and all of them at
    /// once when the first list arrives.
    pub(crate) fn vips_on(&self, nodes: &BTreeSet<Arc<str>>) -> BTreeSet<IpAddr> {
        let is_there = |service: &NamespacedName| {
            let mut endpoints = self.slices_of(service).flat_map(|(_, slice)| slice.endpoints.iter());
            endpoints.any(|endpoint| endpoint.node.as_ref().is_some_and(|node| nodes.contains(node)))
        };
        if nodes.is_empty() {
            return BTreeSet::new();
        }
        let bound = self.vips_of.iter().filter(|(service, _)| is_there(service)).map(|(_, vip)| *vip);
        let claimed = self.claimed().filter(|vip| self.claimants_of(vip).any(is_there)).copied();
        bound.chain(claimed).collect()
    }

    /// The name of the pool that an address lies in.
    pub fn pool_of(&self, address: IpAddr) -> Option<&Arc<str>> {
        self.settings.vip_pools.of(address).map(|pool| &pool.name)
    }

    /// The Ingresses that say something about TLS for a host.
    pub(crate) fn by_server_name<'a>(&'a self, host: &'a HostPattern) -> impl Iterator<Item = &'a NamespacedName> {
        let has_tls = |key: &&NamespacedName| self.ingresses.get(*key).is_some_and(|ingress| ingress.has_tls());
        self.by_host.of(host).filter(has_tls).chain(self.by_tls_host.of(host))
    }

    /// Those that an Ingress of ours names, or the operator for everybody else.
    pub(crate) fn wanted_secrets(&self) -> BTreeSet<CertificateId> {
        let named = self.by_certificate.keys().filter(|id| {
            let mut users = self.by_certificate.of(id).filter_map(|key| self.ingresses.get(key));
            users.any(|ingress| self.serves(ingress).is_some())
        });
        named.cloned().chain(self.default_certificate()).collect()
    }

    /// The certificate for names that have none of their own.
    pub(crate) fn default_certificate(&self) -> Option<CertificateId> {
        let NamespacedName { namespace, name } = self.settings.default_certificate.clone()?;
        Some(CertificateId { namespace, name })
    }

    /// The slices of a Service, by name.
    pub(crate) fn slices_of<'a>(
        &'a self,
        service: &'a NamespacedName,
    ) -> impl Iterator<Item = (&'a NamespacedName, &'a Slice)> {
        self.slices_of.of(service).filter_map(|name| self.slices.get(name).map(|slice| (name, slice)))
    }

    /// The VIPs that a Service may be bound to: by the ConfigMap, and by its own wish.
    pub(crate) fn vips_named_by<'a>(&'a self, service: &'a NamespacedName) -> impl Iterator<Item = IpAddr> + 'a {
        self.vips_of(service)
    }

    /// True for an Ingress that we serve.
    pub(crate) fn is_claimed(&self, ingress: &ObjectRef) -> bool {
        self.ingresses.get(&name(ingress)).is_some_and(|ingress| self.claim(ingress).is_ok())
    }

    /// True for a Service of type LoadBalancer that is ours to balance.
    pub(crate) fn is_our_balancer(&self, service: &ObjectRef) -> bool {
        self.services.get(&name(service)).is_some_and(|service| service.is_our_balancer(&self.settings))
    }

    /// The TCP services that go to a backend.
    pub(crate) fn streams_of(&self, backend: &BackendId) -> impl Iterator<Item = StreamPort> {
        self.streams_of.range((backend.clone(), 0)..=(backend.clone(), StreamPort::MAX)).map(|(_, port)| *port)
    }

    fn configmap_names(&self) -> impl Iterator<Item = &NamespacedName> {
        std::iter::once(&self.settings.vip_configmap).chain(&self.settings.tcp_services_configmap)
    }

    fn is_watched(&self, reference: &ObjectRef) -> bool {
        match reference.kind {
            Kind::IngressClass | Kind::Node | Kind::Namespace => true,
            Kind::EndpointSlice if self.holds_our_own(&reference.namespace) => true,
            Kind::File => false,
            Kind::ConfigMap => self.configmap_names().any(|key| *key == name(reference)),
            // The operator's own choice, wherever it lies.
            Kind::Secret if self.settings.default_certificate.as_ref() == Some(&name(reference)) => true,
            _ => self.settings.watch_namespace.as_ref().is_none_or(|only| *only == reference.namespace),
        }
    }

    /// Slices of agents and directors are read wherever they lie.
    fn holds_our_own(&self, namespace: &str) -> bool {
        let mut ours = self.settings.backend_service.iter().chain(&self.settings.director_service);
        ours.any(|service| *service.namespace == *namespace)
    }

    fn remove(&mut self, reference: &ObjectRef) -> Dirty {
        match reference.kind {
            Kind::Ingress => self.set_ingress(name(reference), None),
            Kind::IngressClass => self.set_class(&reference.name, None),
            Kind::Service => {
                self.forget_record(&name(reference));
                self.set_service(reference, None)
            }
            Kind::Namespace => self.set_namespace(&reference.name, None),
            Kind::EndpointSlice => self.set_slice(name(reference), None),
            Kind::Secret => {
                let id =
                    CertificateId { namespace: Arc::clone(&reference.namespace), name: Arc::clone(&reference.name) };
                self.set_secret(None, id)
            }
            Kind::ConfigMap => self.set_configmap(reference, None),
            Kind::Node => self.set_node(&reference.name, None),
            Kind::File => Dirty::default(),
        }
    }

    fn set_ingress(&mut self, key: NamespacedName, new: Option<Box<Ingress>>) -> Dirty {
        let mut dirty = Dirty::default();
        let old = self.ingresses.remove(&key);
        if old == new {
            if let Some(old) = old {
                self.ingresses.insert(key, old);
            }
            return dirty;
        }
        if let Some(old) = old {
            dirty_ingress(&mut dirty, &old);
            let refs = old.references();
            refs.tls_hosts().for_each(|host| self.by_tls_host.remove(host.clone(), key.clone()));
            refs.hosts.into_iter().for_each(|host| self.by_host.remove(host, key.clone()));
            refs.backends.into_iter().for_each(|id| self.by_backend.remove(id, key.clone()));
            refs.certificates.into_iter().for_each(|id| self.by_certificate.remove(id, key.clone()));
            self.by_class.remove(old.class.name().cloned(), key.clone());
        }
        if let Some(new) = new {
            dirty_ingress(&mut dirty, &new);
            let refs = new.references();
            refs.tls_hosts().for_each(|host| self.by_tls_host.insert(host.clone(), key.clone()));
            refs.hosts.into_iter().for_each(|host| self.by_host.insert(host, key.clone()));
            refs.backends.into_iter().for_each(|id| self.by_backend.insert(id, key.clone()));
            refs.certificates.into_iter().for_each(|id| self.by_certificate.insert(id, key.clone()));
            self.by_class.insert(new.class.name().cloned(), key.clone());
            self.ingresses.insert(key, new);
        }
        dirty
    }

    /// A class decides over the Ingresses that name it; and, where it is or was the default, over those that name none.
    fn set_class(&mut self, class: &Arc<str>, new: Option<Class>) -> Dirty {
        if self.classes.get(class) == new.as_ref() {
            return Dirty::default();
        }
        let had_classes = !self.classes.is_empty();
        let old_default = self.default_class().map(|(name, _)| Arc::clone(name));
        match new {
            Some(new) => self.classes.insert(Arc::clone(class), new),
            None => self.classes.remove(class),
        };
        if had_classes == self.classes.is_empty() {
            // Without any class object other rules are in force (Settings::adopt_without_classes).
            let mut dirty = self.everything();
            dirty.objects.insert(ObjectRef::new(Kind::IngressClass, "", Arc::clone(class)));
            return dirty;
        }
        let new_default = self.default_class().map(|(name, _)| Arc::clone(name));
        let mut dirty = Dirty::default();
        // Each default class is told about the others.
        dirty.objects.extend(
            self.classes.keys().chain([class]).map(|name| ObjectRef::new(Kind::IngressClass, "", Arc::clone(name))),
        );
        let mut affected: Vec<Option<Arc<str>>> = vec![Some(Arc::clone(class))];
        let is_default = |default: &Option<Arc<str>>| default.as_ref() == Some(class);
        if old_default != new_default || is_default(&old_default) || is_default(&new_default) {
            affected.push(None);
        }
        for use_of in affected {
            for ingress in self.by_class.of(&use_of).filter_map(|key| self.ingresses.get(key)) {
                dirty_ingress(&mut dirty, ingress);
            }
        }
        dirty
    }

    fn set_service(&mut self, reference: &ObjectRef, new: Option<Service>) -> Dirty {
        let key = name(reference);
        if self.services.get(&key) == new.as_ref() {
            return Dirty::default();
        }
        let mut dirty = Dirty::default();
        dirty.objects.insert(reference.clone());
        self.dirty_service(&mut dirty, &key);
        dirty.vips.extend(self.vips_of(&key));
        match new {
            Some(new) => self.services.insert(key.clone(), new),
            None => self.services.remove(&key),
        };
        self.refresh_claims(&key, &mut dirty);
        dirty
    }

    /// Pools are for namespaces by their labels.
    fn set_namespace(&mut self, namespace: &Arc<str>, new: Option<BTreeMap<Box<str>, Box<str>>>) -> Dirty {
        let mut dirty = Dirty::default();
        if !self.settings.vip_pools.asks_for_labels() || self.namespaces.get(namespace) == new.as_ref() {
            return dirty;
        }
        match new {
            Some(new) => self.namespaces.insert(Arc::clone(namespace), new),
            None => self.namespaces.remove(namespace),
        };
        let first = NamespacedName::new(Arc::clone(namespace), "");
        let within = self.services.range(first..).take_while(|(key, _)| key.namespace == *namespace);
        let balancers = within.filter(|(_, service)| service.balancer().is_some());
        for key in balancers.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            dirty.objects.insert(reference(Kind::Service, &key));
            self.refresh_claims(&key, &mut dirty);
        }
        dirty
    }

    fn set_slice(&mut self, key: NamespacedName, new: Option<Slice>) -> Dirty {
        let old = self.slices.remove(&key);
        let mut dirty = Dirty::default();
        if old == new {
            if let Some(old) = old {
                self.slices.insert(key, old);
            }
            return dirty;
        }
        let service_of = |slice: &Slice| {
            slice.service.as_ref().map(|service| NamespacedName::new(Arc::clone(&key.namespace), Arc::clone(service)))
        };
        let agents = |slice: &Option<Slice>| -> BTreeSet<Arc<str>> {
            let of = slice.as_ref().filter(|slice| service_of(slice) == self.settings.backend_service);
            of.into_iter().filter(|slice| slice.service.is_some()).flat_map(Slice::ready_nodes).collect()
        };
        dirty.nodes = &agents(&old) ^ &agents(&new);
        if let Some(service) = old.as_ref().and_then(service_of) {
            self.dirty_slice(&mut dirty, &service);
            self.slices_of.remove(service, key.clone());
        }
        if let Some(service) = new.as_ref().and_then(service_of) {
            self.dirty_slice(&mut dirty, &service);
            self.slices_of.insert(service, key.clone());
        }
        if let Some(new) = new {
            self.slices.insert(key, new);
        }
        dirty
    }

    /// Hosts look at a certificate only for its existence and its names.
    fn set_secret(&mut self, new: Option<Secret>, id: CertificateId) -> Dirty {
        let key = NamespacedName::new(Arc::clone(&id.namespace), Arc::clone(&id.name));
        let old = self.secrets.get(&key);
        let mut dirty = Dirty::default();
        if old == new.as_ref() {
            return dirty;
        }
        if old.and_then(Secret::names) != new.as_ref().and_then(Secret::names) || old.is_none() != new.is_none() {
            for ingress in self.by_certificate.of(&id).filter_map(|user| self.ingresses.get(user)) {
                dirty.server_names.extend(ingress.references().server_names);
            }
        }
        match new {
            Some(new) => self.secrets.insert(key, new),
            None => self.secrets.remove(&key),
        };
        if self.by_certificate.of(&id).next().is_some() || self.default_certificate().as_ref() == Some(&id) {
            dirty.certificates.insert(id);
        }
        dirty
    }

    /// Kubelets write to their Nodes all the time: only what is kept of them makes anything dirty.
    fn set_node(&mut self, node: &Arc<str>, new: Option<Node>) -> Dirty {
        if self.nodes.get(node) == new.as_ref() {
            return Dirty::default();
        }
        let was_cluster = self.knows_nodes();
        match new {
            Some(new) => self.nodes.insert(Arc::clone(node), new),
            None => self.nodes.remove(node),
        };
        let mut dirty = Dirty { nodes: BTreeSet::from([Arc::clone(node)]), ..Dirty::default() };
        if was_cluster != self.knows_nodes() {
            // It decides what Services without endpoints are taken for.
            dirty.vips.extend(self.vips.bindings.keys().chain(self.claimed()));
        }
        dirty
    }

    fn set_configmap(
        &mut self,
        reference: &ObjectRef,
        object: Option<&k8s_openapi::api::core::v1::ConfigMap>,
    ) -> Dirty {
        let mut dirty = Dirty::default();
        let key = name(reference);
        if self.settings.tcp_services_configmap.as_ref() == Some(&key) {
            let new = object
                .map(|object| TcpServices::read(object, reference, &self.settings.reserved_ports))
                .unwrap_or_default();
            self.set_tcp_services(&mut dirty, reference, new);
        }
        if self.settings.vip_configmap == key {
            let new = object.map(|object| Vips::read(object, reference)).unwrap_or_default();
            self.set_vips(&mut dirty, reference, new);
        }
        dirty
    }

    fn set_tcp_services(&mut self, dirty: &mut Dirty, reference: &ObjectRef, new: TcpServices) {
        if new == self.tcp_services {
            return;
        }
        self.dirty_streams(dirty);
        self.tcp_services = new;
        let listeners = self.tcp_services.listeners.values();
        self.streams_of = listeners.map(|listener| (listener.backend.clone(), listener.port)).collect();
        self.dirty_streams(dirty);
        dirty.objects.insert(reference.clone());
    }

    fn set_vips(&mut self, dirty: &mut Dirty, reference: &ObjectRef, new: Vips) {
        if new == self.vips {
            return;
        }
        let (old, new_ones) = (&self.vips.bindings, &new.bindings);
        let moved = |address: &&IpAddr| old.get(address) != new_ones.get(address);
        dirty.vips.extend(old.keys().chain(new_ones.keys()).filter(moved));
        let before = std::mem::replace(&mut self.vips, new);
        let bound = self.vips.bindings.iter();
        self.vips_of =
            bound.flat_map(|(address, of)| of.lines.iter().map(|line| (line.service.clone(), *address))).collect();
        dirty.objects.insert(reference.clone());
        // Whom it binds gets nothing of the pools.
        let lines = before.bindings.values().chain(self.vips.bindings.values()).flat_map(|of| &of.lines);
        for service in lines.map(|line| line.service.clone()).collect::<BTreeSet<_>>() {
            if self.services.get(&service).is_some_and(|found| found.balancer().is_some()) {
                dirty.objects.insert(crate::objects::reference(Kind::Service, &service));
                self.refresh_claims(&service, dirty);
            }
        }
        self.stir();
    }

    fn dirty_streams(&self, dirty: &mut Dirty) {
        dirty.listeners.extend(self.tcp_services.listeners.keys());
        dirty.backends.extend(self.tcp_services.listeners.values().map(|listener| listener.backend.clone()));
    }

    /// The backends of a Service lie side by side in the order of [`BackendId`].
    fn dirty_service(&self, dirty: &mut Dirty, service: &NamespacedName) {
        let first = BackendId {
            namespace: Arc::clone(&service.namespace),
            service: Arc::clone(&service.name),
            port: PortRef::Number(0),
            protocol: None,
            balance: Balance::RoundRobin,
        };
        let same = |id: &BackendId| id.namespace == service.namespace && id.service == service.name;
        dirty.backends.extend(self.by_backend.keys_from(first.clone(), same).cloned());
        let streams = self.streams_of.range((first, 0)..).map(|(id, _)| id);
        dirty.backends.extend(streams.take_while(|id| same(id)).cloned());
    }

    fn dirty_slice(&self, dirty: &mut Dirty, service: &NamespacedName) {
        self.dirty_service(dirty, service);
        dirty.vips.extend(self.vips_of(service));
    }

    /// The VIPs that a Service has a part in: those that the ConfigMap binds it to, and those that it claims.
    fn vips_of<'a>(&'a self, service: &'a NamespacedName) -> impl Iterator<Item = IpAddr> + 'a {
        self.bound_vips_of(service).chain(self.claims_of(service))
    }

    /// The VIPs that the ConfigMap binds a Service to.
    pub(crate) fn bound_vips_of<'a>(&'a self, service: &'a NamespacedName) -> impl Iterator<Item = IpAddr> + 'a {
        let lowest = IpAddr::from([0, 0, 0, 0]);
        let bound = self.vips_of.range((service.clone(), lowest)..).take_while(move |(name, _)| name == service);
        bound.map(|(_, address)| *address)
    }
}

fn pack<K: Ord, V>(map: &mut BTreeMap<K, V>) {
    *map = std::mem::take(map).into_iter().collect();
}

/// The addresses of a status, each once.
fn shown_addresses(object: &k8s_openapi::api::core::v1::Service) -> Vec<IpAddr> {
    let status = object.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let shown = status.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
    let mut addresses: Vec<IpAddr> =
        shown.iter().filter_map(|one| one.ip.as_deref()).filter_map(|ip| ip.parse().ok()).collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

fn dirty_ingress(dirty: &mut Dirty, ingress: &Ingress) {
    let references = ingress.references();
    dirty.hosts.extend(references.hosts);
    dirty.server_names.extend(references.server_names);
    dirty.backends.extend(references.backends);
    dirty.certificates.extend(references.certificates);
    dirty.objects.insert(ingress.reference.clone());
}

fn name(reference: &ObjectRef) -> NamespacedName {
    NamespacedName { namespace: Arc::clone(&reference.namespace), name: Arc::clone(&reference.name) }
}

pub(crate) fn reference(kind: Kind, name: &NamespacedName) -> ObjectRef {
    ObjectRef { kind, namespace: Arc::clone(&name.namespace), name: Arc::clone(&name.name) }
}
