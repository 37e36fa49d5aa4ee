//! Which Service holds which address of the pools.
//!
//! The record of what was chosen for a Service is its status, as the API server keeps it. From this follow the rules:
//!
//! 1. A director serves a chosen address once the status of the Service shows it, and not before: whoever sees the same
//!    objects serves the same addresses, the leader included.
//! 2. A status is written only while the Service is what it was when that was decided (its `resourceVersion`): a write that was
//!    overtaken by a change of the Service is refused, and what it would have given is free.
//! 3. The leader alone chooses ([`crate::Controller::give_addresses`]), after it has read every Service since it began to
//!    lead; so it knows all that leaders before it have given. What it has given itself it remembers until it is shown.
//! 4. What a status shows stays, whatever other Services come and go. Only what nobody holds, asks for or shows is given.
//! 5. Where two statuses show one address after all, the older Service keeps it, and the other one gets another.
//! 6. A Service that asks for particular addresses has them from its `spec`. One that asks for an address that has been
//!    given comes too late, unless its own status shows it.
//!
//! A folder has no statuses. There, each process remembers by itself what it chose, for as long as it lives
//! ([`sluicegate_config::Settings::addresses_by_status`]).
//!
//! Nothing here depends on time or chance: the lowest free address of the first pool is chosen, for the oldest Service first.

use crate::condition::ConditionReason;
use crate::dirty::Dirty;
use crate::facts::balancer::{IpFamily, LoadBalancer, POOL_ANNOTATION};
use crate::facts::service::Service;
use crate::facts::virtual_service::{AskedMethod, Problem};
use crate::index::Users;
use crate::objects::{Objects, reference};
use sluicegate_config::pool::{count, successor};
use sluicegate_config::settings::LOAD_BALANCER_CLASS;
use sluicegate_config::{Kind, NamespacedName, VipPool};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The label by which namespaces are chosen by name; every API server sets it.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// How full a pool is.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolUsage {
    /// Its name.
    pub pool: std::sync::Arc<str>,
    /// Addresses that somebody holds, asks for or shows.
    pub used: u64,
    /// Addresses that can still be chosen; `f64`, because an IPv6 network has more than any integer.
    pub free: f64,
}

/// What is known of addresses and of those who want them.
#[derive(Debug, Default)]
pub(crate) struct Allocation {
    /// Addresses are chosen here.
    gives: bool,
    /// By Service: what its status shows; in a folder, what was chosen for it.
    records: BTreeMap<NamespacedName, Vec<IpAddr>>,
    recorded: Users<IpAddr>,
    claims: BTreeMap<NamespacedName, Vec<Claim>>,
    claimants: Users<IpAddr>,
    /// Given by this process, and not shown by the status yet.
    proposals: BTreeMap<NamespacedName, Vec<IpAddr>>,
    proposed: BTreeMap<IpAddr, NamespacedName>,
    /// Services that lack an address.
    wanting: BTreeSet<NamespacedName>,
    /// Those for which there was none.
    unmet: BTreeMap<NamespacedName, Vec<&'static [IpFamily]>>,
    /// Services to look at again.
    changed: BTreeSet<NamespacedName>,
    /// Something may be free that was not before.
    stirred: bool,
}

/// One address that a Service would have if nobody came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    address: IpAddr,
    /// It asks for it by itself; else it was chosen.
    asked: bool,
    /// The record says so.
    recorded: bool,
}

/// Who may be bound to an address by claiming it.
enum Holder<'a> {
    /// The Service that it was given to.
    One(&'a NamespacedName),
    /// All that ask for it, as far as their ports differ.
    Askers,
}

/// Why a Service does not have an address that it should have.
pub(crate) struct Fault {
    pub(crate) reason: ConditionReason,
    pub(crate) problem: Problem,
}

impl Objects {
    /// True if a Service that claims an address may be bound to it, where its ports are free.
    pub(crate) fn is_granted(&self, address: &IpAddr, service: &NamespacedName) -> bool {
        match self.holder(address) {
            Some(Holder::One(one)) => one == service,
            Some(Holder::Askers) => self.claim_on(service, address).is_some_and(|claim| claim.asked),
            None => false,
        }
    }

    /// The Service that an address was given to, which shares it with nobody.
    pub(crate) fn sole_holder(&self, address: &IpAddr) -> Option<&NamespacedName> {
        match self.holder(address) {
            Some(Holder::One(one)) => Some(one),
            Some(Holder::Askers) | None => None,
        }
    }

    /// The addresses that a Service claims, sorted.
    pub(crate) fn claims_of(&self, service: &NamespacedName) -> impl Iterator<Item = IpAddr> + use<> {
        let claims = self.allocation.claims.get(service).cloned().unwrap_or_default();
        claims.into_iter().map(|claim| claim.address)
    }

    /// The Services that claim an address, by namespace and name.
    pub(crate) fn claimants_of<'a>(&'a self, vip: &'a IpAddr) -> impl Iterator<Item = &'a NamespacedName> {
        self.allocation.claimants.of(vip)
    }

    /// All addresses that are claimed.
    pub(crate) fn claimed(&self) -> impl Iterator<Item = &IpAddr> {
        self.allocation.claimants.keys()
    }

    /// What was chosen for a Service and is its own: by its record, and by what was given just now.
    pub(crate) fn chosen_for(&self, service: &NamespacedName) -> Vec<IpAddr> {
        let claims = self.allocation.claims.get(service).into_iter().flatten();
        let held = claims.filter(|claim| !claim.asked && self.is_granted(&claim.address, service));
        let given = self.allocation.proposals.get(service).into_iter().flatten().copied();
        held.map(|claim| claim.address).chain(given).collect()
    }

    /// Given to the Service by this process, and not shown by its status yet.
    pub(crate) fn is_proposed(&self, address: &IpAddr, service: &NamespacedName) -> bool {
        self.allocation.proposed.get(address) == Some(service)
    }

    /// Why a Service of type LoadBalancer does not have every address that it should have, as far as pools decide.
    pub(crate) fn faults(&self, key: &NamespacedName) -> Vec<Fault> {
        let Some((service, balancer)) = self.balancer(key) else { return Vec::new() };
        if !balancer.is_ours(&self.settings) {
            return Vec::new();
        }
        let rejected = |reason, field: &str, why: String, remedy: String| Fault {
            reason,
            problem: Problem::rejected(field, why, remedy),
        };
        let mut faults = Vec::new();
        if balancer.restricted {
            faults.push(rejected(
                ConditionReason::SourceRangesNotImplemented,
                "spec.loadBalancerSourceRanges",
                "restricting clients is not implemented, and binding the Service without it would open what it closes: it gets no virtual IP".to_owned(),
                "remove the field, and restrict clients on the real servers".to_owned(),
            ));
        }
        if refuses_method(service) {
            faults.push(rejected(
                ConditionReason::MethodRefused,
                balancer.field(),
                "the Service gets no virtual IP, because its method is refused".to_owned(),
                "see the annotation sluicegate.io/method".to_owned(),
            ));
        }
        if let Some(asked) = &balancer.asked {
            let outside = asked.addresses.iter().filter(|address| !self.is_permitted(&key.namespace, **address));
            faults.extend(outside.map(|address| {
                let (why, remedy) = self.outside(&key.namespace, *address);
                rejected(ConditionReason::AddressNotAllowed, &asked.field, why, remedy)
            }));
        } else if faults.is_empty() && !self.is_bound_by_configmap(key) {
            let (field, pools) = self.pools_of(key, balancer);
            if pools.is_empty() {
                let (why, remedy) = self.without_pool(key, balancer);
                faults.push(rejected(ConditionReason::NoPool, &field, why, remedy));
            } else if let Some(missing) = self.allocation.unmet.get(key) {
                let (why, remedy) = exhausted(missing, &pools);
                faults.push(rejected(ConditionReason::PoolExhausted, &field, why, remedy));
            }
        }
        faults
    }

    /// What is to be said of a Service of type LoadBalancer that is not ours.
    pub(crate) fn strangers_problem(&self, key: &NamespacedName) -> Option<Problem> {
        let (_, balancer) = self.balancer(key)?;
        let asks_us = balancer.asked.as_ref().is_some_and(|asked| asked.field.contains("sluicegate.io/"))
            || balancer.pool.is_some();
        (asks_us && !balancer.is_ours(&self.settings)).then(|| {
            Problem::ignored(
                balancer.field(),
                "the Service is not of our load balancer class, so it gets no virtual IP here",
                format!(
                    "set spec.loadBalancerClass: {LOAD_BALANCER_CLASS}, or give --default-load-balancer where it names none"
                ),
            )
        })
    }

    /// How full each pool is, in their order.
    pub(crate) fn pool_usage(&self) -> Vec<PoolUsage> {
        let allocation = &self.allocation;
        let taken: BTreeSet<&IpAddr> = allocation
            .claimants
            .keys()
            .chain(allocation.recorded.keys())
            .chain(allocation.proposed.keys())
            .chain(self.vips.bindings.keys())
            .collect();
        let usage = |pool: &VipPool| {
            let within =
                pool.ranges.iter().map(|range| taken.iter().filter(|address| range.contains(***address)).count());
            let free = pool.ranges.iter().filter_map(|range| range.choosable()).map(|(first, last)| {
                let used = taken.range(first..=last).count();
                count(first, last).saturating_sub(used as u128) as f64
            });
            PoolUsage { pool: pool.name.clone(), used: within.map(|count| count as u64).sum(), free: free.sum() }
        };
        self.settings.vip_pools.iter().map(usage).collect()
    }

    /// The status of a Service shows these addresses; true if that is news.
    pub(crate) fn see_record(&mut self, key: &NamespacedName, shown: Vec<IpAddr>) -> bool {
        let known = self.allocation.records.get(key);
        // Without statuses it is what was chosen here; what a manifest brings along counts where nothing was.
        if self.settings.vip_pools.is_empty() || (!self.settings.addresses_by_status && known.is_some()) {
            return false;
        }
        if known.map_or(&[][..], Vec::as_slice) == shown {
            return false;
        }
        self.set_record(key, shown);
        true
    }

    /// Looks at what a Service claims after it, its status, its namespace or the ConfigMap has changed.
    pub(crate) fn refresh_claims(&mut self, key: &NamespacedName, dirty: &mut Dirty) {
        let new = self.claims_by_objects(key);
        let old = self.allocation.claims.remove(key).unwrap_or_default();
        let is_nobody = new.is_empty() && old.is_empty() && self.balancer(key).is_none();
        let allocation = &mut self.allocation;
        if is_nobody && !allocation.wanting.contains(key) && !allocation.proposals.contains_key(key) {
            return;
        }
        allocation.stirred = true;
        allocation.changed.insert(key.clone());
        for claim in old.iter().filter(|claim| !new.contains(claim)) {
            allocation.claimants.remove(claim.address, key.clone());
            dirty.vips.insert(claim.address);
        }
        for claim in new.iter().filter(|claim| !old.contains(claim)) {
            allocation.claimants.insert(claim.address, key.clone());
            dirty.vips.insert(claim.address);
        }
        for claim in old.iter().chain(&new) {
            allocation.changed.extend(allocation.claimants.of(&claim.address).cloned());
            if let Some(proposed_to) = allocation.proposed.get(&claim.address) {
                allocation.changed.insert(proposed_to.clone());
            }
        }
        if !new.is_empty() {
            allocation.claims.insert(key.clone(), new);
        }
    }

    /// Another address of the ConfigMap may be free, or taken.
    pub(crate) fn stir(&mut self) {
        self.allocation.stirred = true;
    }

    /// From now on addresses are chosen here, or no more.
    pub(crate) fn set_giving(&mut self, gives: bool, dirty: &mut Dirty) {
        let allocation = &mut self.allocation;
        allocation.gives = gives;
        allocation.stirred = true;
        if !gives {
            let unmet = std::mem::take(&mut allocation.unmet).into_keys();
            dirty.objects.extend(unmet.map(|key| reference(Kind::Service, &key)));
            dirty.vips.extend(std::mem::take(&mut allocation.proposed).into_keys());
            allocation.changed.extend(std::mem::take(&mut allocation.proposals).into_keys());
        }
    }

    /// Ends a batch of changes: everybody who was there before has what it had; now those choose that lack an address.
    pub(crate) fn settle(&mut self, dirty: &mut Dirty) {
        self.look_again(dirty);
        if self.allocation.gives && std::mem::take(&mut self.allocation.stirred) {
            self.give(dirty);
            self.look_again(dirty);
            // What was given is no news to those who got nothing.
            self.allocation.stirred = false;
        }
    }

    fn look_again(&mut self, dirty: &mut Dirty) {
        for key in std::mem::take(&mut self.allocation.changed) {
            if !self.settings.addresses_by_status {
                self.forget_what_is_not_held(&key);
            }
            self.drop_vain_proposals(&key, dirty);
            let is_wanting = !self.lacking(&key).is_empty();
            let allocation = &mut self.allocation;
            if is_wanting {
                allocation.wanting.insert(key);
            } else {
                allocation.wanting.remove(&key);
                if allocation.unmet.remove(&key).is_some() {
                    dirty.objects.insert(reference(Kind::Service, &key));
                }
            }
        }
    }

    /// Proposals that have arrived, or that somebody else was faster about.
    fn drop_vain_proposals(&mut self, key: &NamespacedName, dirty: &mut Dirty) {
        let Some(mut proposals) = self.allocation.proposals.remove(key) else { return };
        let wanted = match self.chooser(key) {
            Some(balancer) => {
                let (_, pools) = self.pools_of(key, balancer);
                // Those that have arrived are held, so that nothing is lacking for which they were proposed.
                let together: Vec<IpAddr> = self.chosen_for(key).into_iter().chain(proposals.iter().copied()).collect();
                let mut kept = balancer.families.kept(&together);
                kept.retain(|address| pools.iter().any(|pool| pool.contains(*address)));
                kept
            }
            None => Vec::new(),
        };
        let allocation = &mut self.allocation;
        proposals.retain(|address| {
            let is_shown = allocation.claims_on(address).any(|(_, claim)| claim.recorded);
            let is_open = wanted.contains(address) && !is_shown;
            if !is_open {
                allocation.proposed.remove(address);
                dirty.vips.insert(*address);
            }
            is_open
        });
        if !proposals.is_empty() {
            allocation.proposals.insert(key.clone(), proposals);
        }
    }

    fn give(&mut self, dirty: &mut Dirty) {
        let mut order: Vec<(i64, NamespacedName)> = Vec::new();
        for key in &self.allocation.wanting {
            order.extend(self.balancer(key).map(|(_, balancer)| (balancer.created, key.clone())));
        }
        order.sort();
        let mut cursors = Cursors::default();
        for (_, key) in order {
            let (chosen, missing) = self.choose(&key, &mut cursors);
            if !chosen.is_empty() {
                self.hand_over(&key, chosen, dirty);
            }
            let before = match missing.is_empty() {
                true => self.allocation.unmet.remove(&key).unwrap_or_default(),
                false => self.allocation.unmet.insert(key.clone(), missing.clone()).unwrap_or_default(),
            };
            if before != missing {
                dirty.objects.insert(reference(Kind::Service, &key));
            }
        }
    }

    /// Addresses for what a Service lacks, and what there is none for.
    fn choose(&self, key: &NamespacedName, cursors: &mut Cursors) -> (Vec<IpAddr>, Vec<&'static [IpFamily]>) {
        let Some(balancer) = self.chooser(key) else { return Default::default() };
        let (_, pools) = self.pools_of(key, balancer);
        if pools.is_empty() {
            return Default::default();
        }
        let (mut chosen, mut missing) = (Vec::new(), Vec::new());
        for families in self.lacking(key) {
            let mut tries = pools.iter().flat_map(|pool| families.iter().map(move |family| (pool, *family)));
            match tries.find_map(|(pool, family)| cursors.lowest_free(self, pool, family)) {
                Some(address) => chosen.push(address),
                None => missing.push(families),
            }
        }
        if missing.is_empty() {
            return (chosen, missing);
        }
        if balancer.families.all_or_none() {
            return (Vec::new(), missing);
        }
        // Of two that are only preferred one will do.
        let has_one = !chosen.is_empty() || !self.chosen_for(key).is_empty();
        (chosen, if has_one { Vec::new() } else { missing })
    }

    fn hand_over(&mut self, key: &NamespacedName, chosen: Vec<IpAddr>, dirty: &mut Dirty) {
        if !self.settings.addresses_by_status {
            let mut record = self.chosen_for(key);
            record.extend(chosen);
            self.set_record(key, record);
            self.refresh_claims(key, dirty);
            return;
        }
        let allocation = &mut self.allocation;
        allocation.proposed.extend(chosen.iter().map(|address| (*address, key.clone())));
        allocation.proposals.entry(key.clone()).or_default().extend(chosen);
        dirty.objects.insert(reference(Kind::Service, key));
    }

    fn set_record(&mut self, key: &NamespacedName, addresses: Vec<IpAddr>) {
        let allocation = &mut self.allocation;
        for address in allocation.records.remove(key).unwrap_or_default() {
            allocation.recorded.remove(address, key.clone());
        }
        for address in &addresses {
            allocation.recorded.insert(*address, key.clone());
        }
        if !addresses.is_empty() {
            allocation.records.insert(key.clone(), addresses);
        }
        allocation.stirred = true;
    }

    /// What was chosen in a folder is remembered while it is of use.
    fn forget_what_is_not_held(&mut self, key: &NamespacedName) {
        let claims = self.allocation.claims.get(key).into_iter().flatten();
        let held: Vec<IpAddr> = claims.filter(|claim| !claim.asked).map(|claim| claim.address).collect();
        if self.allocation.records.get(key).is_some_and(|record| *record != held) {
            self.set_record(key, held);
        }
    }

    /// A status that goes with its Service.
    pub(crate) fn forget_record(&mut self, key: &NamespacedName) {
        if self.settings.addresses_by_status {
            self.set_record(key, Vec::new());
        }
    }

    fn lacking(&self, key: &NamespacedName) -> Vec<&'static [IpFamily]> {
        self.chooser(key).map(|balancer| balancer.families.lacking(&self.chosen_for(key))).unwrap_or_default()
    }

    fn claims_by_objects(&self, key: &NamespacedName) -> Vec<Claim> {
        let Some((service, balancer)) = self.balancer(key) else { return Vec::new() };
        if !balancer.is_ours(&self.settings) || balancer.restricted || refuses_method(service) {
            return Vec::new();
        }
        let record = self.allocation.records.get(key).map_or(&[][..], Vec::as_slice);
        let mut claims: Vec<Claim> = match &balancer.asked {
            Some(asked) => {
                let permitted = asked.addresses.iter().filter(|address| self.is_permitted(&key.namespace, **address));
                let claim =
                    |address: &IpAddr| Claim { address: *address, asked: true, recorded: record.contains(address) };
                permitted.map(claim).collect()
            }
            None if self.is_bound_by_configmap(key) => Vec::new(),
            None => {
                let (_, pools) = self.pools_of(key, balancer);
                let usable = |address: &&IpAddr| pools.iter().any(|pool| pool.contains(**address));
                let usable: Vec<IpAddr> = record.iter().filter(usable).copied().collect();
                let kept = balancer.families.kept(&usable).into_iter();
                kept.map(|address| Claim { address, asked: false, recorded: true }).collect()
            }
        };
        claims.sort();
        claims
    }

    /// A Service for which addresses are chosen: ours, nothing stands in the way, and it says none by itself.
    fn chooser(&self, key: &NamespacedName) -> Option<&LoadBalancer> {
        let (service, balancer) = self.balancer(key)?;
        let chooses = balancer.is_ours(&self.settings)
            && balancer.asked.is_none()
            && !balancer.restricted
            && !refuses_method(service)
            && !self.is_bound_by_configmap(key);
        chooses.then_some(balancer)
    }

    fn balancer(&self, key: &NamespacedName) -> Option<(&Service, &LoadBalancer)> {
        let service = self.services.get(key)?;
        Some((service, service.balancer()?))
    }

    fn claim_on(&self, service: &NamespacedName, address: &IpAddr) -> Option<&Claim> {
        self.allocation.claims.get(service)?.iter().find(|claim| claim.address == *address)
    }

    /// First who asks and has it, then who was given it, then who asks; of equals the older one.
    fn holder(&self, address: &IpAddr) -> Option<Holder<'_>> {
        let claims = self.allocation.claims_on(address).map(|(name, claim)| (name, claim.asked, claim.recorded));
        // What was given just now counts as it will once it is shown.
        let given = self.allocation.proposed.get(address).map(|name| (name, false, true));
        let ranked = claims.chain(given).filter_map(|(name, asked, recorded)| {
            let rank = match (asked, recorded) {
                (true, true) => 0,
                (false, _) => 1,
                (true, false) => 2,
            };
            let (_, balancer) = self.balancer(name)?;
            Some((rank, balancer.created, name, asked))
        });
        let (_, _, name, asked) = ranked.min_by_key(|(rank, created, name, _)| (*rank, *created, *name))?;
        Some(if asked { Holder::Askers } else { Holder::One(name) })
    }

    fn is_taken(&self, address: &IpAddr) -> bool {
        let allocation = &self.allocation;
        allocation.proposed.contains_key(address)
            || self.vips.bindings.contains_key(address)
            || allocation.claimants.of(address).next().is_some()
            || allocation.recorded.of(address).next().is_some()
    }

    fn is_permitted(&self, namespace: &str, address: IpAddr) -> bool {
        self.settings.vip_pools.of(address).is_some_and(|pool| self.is_for(pool, namespace))
    }

    fn is_for(&self, pool: &VipPool, namespace: &str) -> bool {
        let labels = self.namespaces.get(namespace);
        pool.is_for(|key| match key {
            NAME_LABEL => Some(namespace),
            key => labels.and_then(|labels| labels.get(key)).map(|value| &**value),
        })
    }

    /// The field that decides over the pools, and those to choose from.
    fn pools_of(&self, key: &NamespacedName, balancer: &LoadBalancer) -> (String, Vec<&VipPool>) {
        let mine = |pool: &&VipPool| self.is_for(pool, &key.namespace);
        match &balancer.pool {
            Some(name) => {
                let named = self.settings.vip_pools.named(name).filter(mine);
                (crate::annotations::service::field(POOL_ANNOTATION), named.into_iter().collect())
            }
            None => (balancer.field().to_owned(), self.settings.vip_pools.iter().filter(mine).collect()),
        }
    }

    fn outside(&self, namespace: &str, address: IpAddr) -> (String, String) {
        let pools = self.settings.vip_pools.iter().filter(|pool| self.is_for(pool, namespace));
        let pools: Vec<String> = pools.map(ToString::to_string).collect();
        let is_anothers = self.settings.vip_pools.of(address).is_some();
        match (self.settings.vip_pools.is_empty(), is_anothers, pools.as_slice()) {
            (true, ..) => (
                format!("{address} cannot be asked for, because there is no pool of addresses"),
                "start the gateway with --vip-pool CIDR, or bind the Service in the VIP ConfigMap".to_owned(),
            ),
            (_, true, pools) => (
                format!("{address} lies in a pool that is not for namespace {namespace}"),
                match pools {
                    [] => "let the operator give the namespace a pool (--vip-pool-namespaces)".to_owned(),
                    pools => format!("ask for an address of {}", pools.join(", ")),
                },
            ),
            (_, false, []) => (
                format!("{address} lies in no pool"),
                "let the operator give the namespace a pool (--vip-pool, --vip-pool-namespaces)".to_owned(),
            ),
            (_, false, pools) => (
                format!("{address} lies in no pool"),
                format!("ask for an address of {}, or add a --vip-pool", pools.join(", ")),
            ),
        }
    }

    fn without_pool(&self, key: &NamespacedName, balancer: &LoadBalancer) -> (String, String) {
        let all = &self.settings.vip_pools;
        let namespace = &key.namespace;
        match &balancer.pool {
            _ if all.is_empty() => (
                "the Service asks for no address, and there is no pool to choose one from".to_owned(),
                "start the gateway with --vip-pool CIDR, or bind the Service in the VIP ConfigMap".to_owned(),
            ),
            Some(name) if all.named(name).is_none() => (
                format!("there is no pool {:?}", crate::annotations::service::brief(name)),
                "name a --vip-pool, or none to get an address of the first one".to_owned(),
            ),
            Some(name) => (
                format!("pool {name} is not for namespace {namespace}"),
                "name another pool, or let the operator change --vip-pool-namespaces".to_owned(),
            ),
            None => (
                format!("no pool is for namespace {namespace}"),
                "let the operator give the namespace a pool (--vip-pool-namespaces)".to_owned(),
            ),
        }
    }

    fn is_bound_by_configmap(&self, key: &NamespacedName) -> bool {
        self.bound_vips_of(key).next().is_some()
    }
}

impl Allocation {
    fn claims_on<'a, 'k>(
        &'a self,
        address: &'k IpAddr,
    ) -> impl Iterator<Item = (&'a NamespacedName, &'a Claim)> + use<'a, 'k> {
        self.claimants.of(address).filter_map(|name| {
            let claims = self.claims.get(name)?;
            Some((name, claims.iter().find(|claim| claim.address == *address)?))
        })
    }
}

/// Where to go on in each range while addresses are only taken and none comes back.
#[derive(Default)]
struct Cursors(BTreeMap<(IpAddr, IpAddr), Option<IpAddr>>);

impl Cursors {
    fn lowest_free(&mut self, objects: &Objects, pool: &VipPool, family: IpFamily) -> Option<IpAddr> {
        let ranges = pool.ranges.iter().filter(|range| range.is_ipv4() == (family == IpFamily::V4));
        for (first, last) in ranges.filter_map(|range| range.choosable()) {
            let cursor = self.0.entry((first, last)).or_insert(Some(first));
            while let Some(address) = cursor.filter(|address| *address <= last) {
                if !objects.is_taken(&address) {
                    return Some(address);
                }
                *cursor = successor(address);
            }
        }
        None
    }
}

fn refuses_method(service: &Service) -> bool {
    service.virtual_service.as_ref().is_some_and(|of| of.method == AskedMethod::Refused)
}

fn exhausted(missing: &[&'static [IpFamily]], pools: &[&VipPool]) -> (String, String) {
    let families: Vec<String> = missing
        .iter()
        .map(|families| families.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or "))
        .collect();
    let pools: Vec<String> = pools.iter().map(ToString::to_string).collect();
    let pool = if pools.len() == 1 { "pool" } else { "pools" };
    (
        format!("no {} address is free in {pool} {}", families.join(" and no "), pools.join(", ")),
        "add addresses with --vip-pool, or delete a Service that needs none".to_owned(),
    )
}
