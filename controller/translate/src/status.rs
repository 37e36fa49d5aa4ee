//! Which addresses the status of an object is to show, and which it shows.
//!
//! It decides and writes nothing: [`Controller::take_status_writes`] says what differs, who holds the lease writes it. What an
//! API server shows comes back with the object, so what is right is not written again, not after a restart either.

use crate::condition::{CONDITION_TYPE, Condition};
use crate::controller::Controller;
use crate::dirty::Dirty;
use crate::object::Object;
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service};
use k8s_openapi::api::networking::v1::IngressLoadBalancerIngress;
use sluicegate_config::settings::LOAD_BALANCER_CLASS;
use sluicegate_config::{Kind, NamespacedName, ObjectRef};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

/// What a Service of ours says about its addresses: packets for them are not to be short-cut by kube-proxy, because the
/// director sees and counts them (Kubernetes API, `LoadBalancerIngress.ipMode`).
pub const IP_MODE: &str = "Proxy";

/// The name under which fields of objects are ours.
pub const FIELD_MANAGER: &str = "sluicegate";

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
    /// What it is to show; `None` = it is ours no more, and nothing of what we wrote stays.
    pub shown: Option<Shown>,
    /// The `metadata.resourceVersion` that this was decided about: whoever writes lets the API server refuse it where the object
    /// has moved since. Of Services: their statuses are the record of addresses, and a wish that changes while a write is
    /// on its way would leave a record of what nobody holds. `None` = whatever the object is by now.
    pub version: Option<Box<str>>,
}

/// All that a status is to show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// Sorted; may be none.
    pub addresses: Vec<Published>,
    /// Of Services. Ingresses have no conditions.
    pub condition: Option<Condition>,
}

/// What an API server shows of an object.
#[derive(Debug, Default, PartialEq, Eq)]
struct Observed {
    uid: Box<str>,
    addresses: Box<[Published]>,
    /// It says nothing else that we would not have written.
    as_written: bool,
    /// Of Services: ours.
    condition: Option<Condition>,
    /// `metadata.generation`, where the kind has it.
    generation: Option<i64>,
    /// Of Services: `metadata.resourceVersion`.
    version: Option<Box<str>>,
    /// We wrote its status, and nobody can think it his: it is of another type, or names another controller's class.
    is_left_over: bool,
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
        let (uid, observed) = match object {
            Object::Ingress(ingress) => {
                let shown = ingress.status.as_ref().and_then(|status| status.load_balancer.as_ref());
                let shown = shown.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
                let addresses = shown.iter().filter_map(of_ingress).collect();
                (&ingress.metadata.uid, Observed { addresses, as_written: true, ..Observed::default() })
            }
            Object::Service(service) => (&service.metadata.uid, observed_service(service)),
            Object::Secret(object) => (&object.metadata.uid, Observed::default()),
            Object::ConfigMap(object) => (&object.metadata.uid, Observed::default()),
            Object::IngressClass(object) => (&object.metadata.uid, Observed::default()),
            // They have no status that is ours. What is wrong with a slice is said of its Service, and nothing is wrong with
            // a Node or a Namespace.
            Object::EndpointSlice(_) | Object::Node(_) | Object::Namespace(_) => return,
        };
        // What comes from a folder is answered nowhere.
        let Some(uid) = uid.as_deref().filter(|uid| !uid.is_empty()).map(Box::from) else { return };
        let reference = object.reference();
        self.observed.insert(reference.clone(), Observed { uid, ..observed });
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

fn observed_service(service: &Service) -> Observed {
    let status = service.status.as_ref();
    let shown = status.and_then(|status| status.load_balancer.as_ref());
    let shown = shown.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let is_written_by_us =
        service.metadata.managed_fields.iter().flatten().any(|entry| {
            entry.manager.as_deref() == Some(FIELD_MANAGER) && entry.subresource.as_deref() == Some("status")
        });
    let spec = service.spec.as_ref();
    let is_balancer = spec.and_then(|spec| spec.type_.as_deref()) == Some("LoadBalancer");
    let class = spec.and_then(|spec| spec.load_balancer_class.as_deref());
    let is_nobodys = !is_balancer || class.is_some_and(|class| class != LOAD_BALANCER_CLASS);
    Observed {
        addresses: shown.iter().filter_map(of_service).collect(),
        as_written: shown.iter().all(|one| one.ip.is_none() || one.ip_mode.as_deref() == Some(IP_MODE)),
        condition: conditions.iter().find(|one| one.type_ == CONDITION_TYPE).map(Condition::observed),
        generation: service.metadata.generation,
        version: service.metadata.resource_version.as_deref().map(Box::from),
        is_left_over: is_written_by_us && is_nobodys,
        ..Observed::default()
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

    /// What takes back all that this process has written, and that a status of ours shows: for who removes the gateway.
    pub fn clear_statuses(&self) -> Vec<StatusWrite> {
        let statuses = &self.objects().statuses;
        let shows = |object: &&ObjectRef| {
            let observed = statuses.observed.get(*object);
            observed.is_some_and(|observed| !observed.addresses.is_empty() || observed.condition.is_some())
        };
        let write = |object: &ObjectRef| StatusWrite { object: object.clone(), shown: None, version: None };
        statuses.ours.iter().filter(shows).map(write).collect()
    }

    fn status_write(&mut self, object: ObjectRef, published: &[Published]) -> Option<StatusWrite> {
        let observed = self.objects().statuses.observed.get(&object)?;
        let was_ours = self.objects().statuses.ours.contains(&object) || observed.is_left_over;
        let shown = match object.kind {
            Kind::Ingress if self.objects().is_claimed(&object) => {
                Some(Shown { addresses: published.to_vec(), condition: None })
            }
            Kind::Service if self.objects().is_our_balancer(&object) => Some(self.shown_by(&object)),
            _ => None,
        };
        let observed = self.objects().statuses.observed.get(&object)?;
        let mut addresses = observed.addresses.to_vec();
        addresses.sort();
        let differs = match &shown {
            // Nobody has said what Ingresses are to show.
            Some(shown) if shown.addresses.is_empty() && object.kind == Kind::Ingress && !was_ours => return None,
            Some(Shown { addresses: wanted, condition }) => {
                let is_other = |wanted: &Condition| observed.condition.as_ref().is_none_or(|one| !one.says(wanted));
                addresses != *wanted || !observed.as_written || condition.as_ref().is_some_and(is_other)
            }
            None if was_ours => !addresses.is_empty() || observed.condition.is_some(),
            None => return None,
        };
        let version = observed.version.clone();
        let ours = &mut self.statuses().ours;
        match &shown {
            Some(_) => drop(ours.insert(object.clone())),
            // A write of a version may be refused: until nothing is shown it is looked at again.
            None if differs && version.is_some() => {}
            None => drop(ours.remove(&object)),
        }
        differs.then_some(StatusWrite { object, shown, version })
    }

    fn shown_by(&self, service: &ObjectRef) -> Shown {
        let key = NamespacedName::new(service.namespace.clone(), service.name.clone());
        // What was chosen is shown even where nothing serves it: the status is the record.
        let chosen = self.objects().chosen_for(&key).into_iter().map(Published::Ip);
        let addresses: BTreeSet<Published> = self.vips_of(service).into_iter().chain(chosen).collect();
        let observed = self.objects().statuses.observed.get(service);
        let generation = observed.and_then(|observed| observed.generation);
        let condition = self.condition_of(&key, generation);
        let before = observed.and_then(|observed| observed.condition.as_ref());
        Shown { addresses: addresses.into_iter().collect(), condition: Some(condition.since(before, self.now_unix())) }
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
