//! Which addresses the status of an object is to show, and which it shows.
//!
//! It decides and writes nothing: [`Controller::take_status_writes`] says what differs, who holds the lease writes it. What an
//! API server shows comes back with the object, so what is right is not written again, not after a restart either.

use crate::controller::Controller;
use crate::dirty::Dirty;
use crate::object::Object;
use k8s_openapi::api::core::v1::LoadBalancerIngress;
use k8s_openapi::api::networking::v1::IngressLoadBalancerIngress;
use sluicegate_config::{Kind, NamespacedName, ObjectRef};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

/// What a Service of ours says about its addresses: packets for them are not to be short-cut by kube-proxy, because the
/// director sees and counts them (Kubernetes API, `LoadBalancerIngress.ipMode`).
pub const IP_MODE: &str = "Proxy";

/// Where clients reach an object. IP addresses come before names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Published {
    /// An address.
    Ip(IpAddr),
    /// A name.
    Hostname(Arc<str>),
}

impl FromStr for Published {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text.parse().map_or_else(|_| Self::Hostname(text.into()), Self::Ip))
    }
}

impl fmt::Display for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => write!(f, "{address}"),
            Self::Hostname(name) => f.write_str(name),
        }
    }
}

/// What the status of Ingresses shows. With neither, nothing is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishSettings {
    /// The VIPs of this Service, or what its own status shows where it has none.
    pub service: Option<NamespacedName>,
    /// These; they beat the Service.
    pub addresses: Vec<Published>,
}

/// One status that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusWrite {
    /// An Ingress or a Service.
    pub object: ObjectRef,
    /// All that it is to show, sorted; empty = nothing any more.
    pub addresses: Vec<Published>,
}

/// What an API server shows of an object.
#[derive(Debug, Default, PartialEq, Eq)]
struct Observed {
    uid: Box<str>,
    addresses: Box<[Published]>,
    /// It says nothing else that we would not have written.
    as_written: bool,
}

/// What is known of statuses.
#[derive(Debug, Default)]
pub(crate) struct Statuses {
    observed: BTreeMap<ObjectRef, Observed>,
    /// Objects whose status may not be what it should be.
    dirty: BTreeSet<ObjectRef>,
    /// Objects that were ours: what they show is taken back once they are not.
    ours: BTreeSet<ObjectRef>,
    /// What Ingresses were to show when it was last looked at.
    published: Vec<Published>,
}

impl Statuses {
    /// Looks at an object that came.
    pub(crate) fn see(&mut self, object: &Object) {
        let (uid, addresses, as_written) = match object {
            Object::Ingress(ingress) => {
                let shown = ingress.status.as_ref().and_then(|status| status.load_balancer.as_ref());
                let shown = shown.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
                (&ingress.metadata.uid, shown.iter().filter_map(of_ingress).collect(), true)
            }
            Object::Service(service) => {
                let shown = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
                let shown = shown.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
                let as_written = shown.iter().all(|one| one.ip.is_none() || one.ip_mode.as_deref() == Some(IP_MODE));
                (&service.metadata.uid, shown.iter().filter_map(of_service).collect(), as_written)
            }
            Object::Secret(object) => (&object.metadata.uid, Box::default(), true),
            Object::ConfigMap(object) => (&object.metadata.uid, Box::default(), true),
            Object::IngressClass(object) => (&object.metadata.uid, Box::default(), true),
            // They have no status, and what is wrong with them is said of their Service.
            Object::EndpointSlice(_) | Object::Node(_) => return,
        };
        // What comes from a folder is answered nowhere.
        let Some(uid) = uid.as_deref().filter(|uid| !uid.is_empty()).map(Box::from) else { return };
        let reference = object.reference();
        self.observed.insert(reference.clone(), Observed { uid, addresses, as_written });
        self.touch(reference);
    }

    /// It is gone.
    pub(crate) fn forget(&mut self, object: &ObjectRef) {
        self.observed.remove(object);
        self.ours.remove(object);
        self.dirty.remove(object);
    }

    fn touch(&mut self, object: ObjectRef) {
        if matches!(object.kind, Kind::Ingress | Kind::Service) {
            self.dirty.insert(object);
        }
    }

    fn touch_all(&mut self, kind: Kind) {
        let all = self.observed.keys().filter(|object| object.kind == kind).cloned().collect::<Vec<_>>();
        self.dirty.extend(all);
    }
}

fn of_ingress(shown: &IngressLoadBalancerIngress) -> Option<Published> {
    published(shown.ip.as_deref(), shown.hostname.as_deref())
}

fn of_service(shown: &LoadBalancerIngress) -> Option<Published> {
    published(shown.ip.as_deref(), shown.hostname.as_deref())
}

fn published(ip: Option<&str>, hostname: Option<&str>) -> Option<Published> {
    match (ip.map(str::parse), hostname) {
        (Some(Ok(address)), _) => Some(Published::Ip(address)),
        (_, Some(name)) => Some(Published::Hostname(name.into())),
        _ => None,
    }
}

impl Controller {
    /// The statuses that are not what they should be, of objects that moved since the last call. Whoever writes them sees
    /// to it that they arrive; they come again only when the object moves.
    pub fn take_status_writes(&mut self, settings: &PublishSettings) -> Vec<StatusWrite> {
        let published = self.published(settings);
        if published != self.objects().statuses.published {
            let statuses = self.statuses();
            statuses.published.clone_from(&published);
            statuses.touch_all(Kind::Ingress);
        }
        let dirty = std::mem::take(&mut self.statuses().dirty);
        dirty.into_iter().filter_map(|object| self.status_write(object, &published)).collect()
    }

    /// Looks at every status again: for who has begun to write.
    pub fn touch_statuses(&mut self) {
        let statuses = self.statuses();
        statuses.touch_all(Kind::Ingress);
        statuses.touch_all(Kind::Service);
    }

    /// The `metadata.uid` of an object, which Events name; `None` where no API server gave one.
    pub fn uid(&self, object: &ObjectRef) -> Option<&str> {
        Some(&self.objects().statuses.observed.get(object)?.uid)
    }

    /// What a change of the desired state means for statuses.
    pub(crate) fn touch_statuses_of(&mut self, dirty: &Dirty) {
        let mut touched: BTreeSet<ObjectRef> = dirty.objects.clone();
        for vip in &dirty.vips {
            let bound = self.objects().vips.bindings.get(vip).into_iter().flat_map(|of| &of.lines);
            let was = self.desired().vips.get(vip).into_iter().flat_map(|binding| &binding.services);
            let was = was.map(|service| NamespacedName::new(service.namespace.clone(), service.service.clone()));
            let claimants = self.objects().claimants_of(vip).chain(bound.map(|line| &line.service)).cloned();
            touched.extend(claimants.chain(was).map(|key| ObjectRef::new(Kind::Service, key.namespace, key.name)));
        }
        let statuses = self.statuses();
        let known = touched.into_iter().filter(|object| statuses.observed.contains_key(object)).collect::<Vec<_>>();
        known.into_iter().for_each(|object| statuses.touch(object));
    }

    fn status_write(&mut self, object: ObjectRef, published: &[Published]) -> Option<StatusWrite> {
        let addresses = match object.kind {
            Kind::Ingress => self.objects().is_claimed(&object).then(|| published.to_vec()),
            Kind::Service => self.objects().is_our_balancer(&object).then(|| self.vips_of(&object)),
            _ => None,
        };
        let was_ours = self.objects().statuses.ours.contains(&object);
        let addresses = match addresses {
            // Nobody has said what Ingresses are to show.
            Some(addresses) if addresses.is_empty() && object.kind == Kind::Ingress && !was_ours => return None,
            Some(addresses) => {
                self.statuses().ours.insert(object.clone());
                addresses
            }
            None if was_ours => {
                self.statuses().ours.remove(&object);
                Vec::new()
            }
            None => return None,
        };
        let observed = self.objects().statuses.observed.get(&object)?;
        let mut shown = observed.addresses.to_vec();
        shown.sort();
        (shown != addresses || !observed.as_written).then_some(StatusWrite { object, addresses })
    }

    /// What Ingresses are to show.
    fn published(&self, settings: &PublishSettings) -> Vec<Published> {
        let mut published = settings.addresses.clone();
        if published.is_empty()
            && let Some(service) = &settings.service
        {
            let reference = ObjectRef::new(Kind::Service, service.namespace.clone(), service.name.clone());
            published = self.vips_of(&reference);
            if published.is_empty() {
                let observed = self.objects().statuses.observed.get(&reference);
                published = observed.map(|observed| observed.addresses.to_vec()).unwrap_or_default();
            }
        }
        published.sort();
        published.dedup();
        published
    }

    /// The VIPs at which a Service is served, sorted.
    fn vips_of(&self, service: &ObjectRef) -> Vec<Published> {
        let is_it =
            |of: &sluicegate_config::VipService| of.namespace == service.namespace && of.service == service.name;
        let key = NamespacedName::new(service.namespace.clone(), service.name.clone());
        let asked = self.objects().vips_named_by(&key).collect::<BTreeSet<IpAddr>>();
        let bound = asked.into_iter().filter(|vip| {
            let binding = self.desired().vips.get(vip);
            binding.is_some_and(|binding| binding.services.iter().any(|one| is_it(one) && !one.ports.is_empty()))
        });
        bound.map(Published::Ip).collect()
    }
}
