//! The table: an immutable snapshot of hosts, backends, server names and stream listeners.
//!
//! Routes name backends by slot, so a change of endpoints swaps what is in one slot and compiles no host, even where
//! 5,000 hosts share the backend. The request path reads and writes nothing: it takes no lock, touches no reference
//! count and hashes the host name once.

use crate::host::{HostBuffer, HostKey};
use crate::host_table::{BackendSlot, CompiledRoute, Found, HostEntry, HostTable, name_of};
use crate::index::{Index, Seed};
use crate::slots::Slots;
use serde::Serialize;
use sluicegate_config::{
    Backend, BackendId, Change, Dialect, Diff, HostPattern, ServerName, StreamListener, VirtualHost,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Names a route of one particular table. Whoever holds it keeps that table alive; a copy costs nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteId {
    host: u32,
    route: u32,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// To this route.
    Route(RouteId),
    /// Nowhere: no virtual host claims the host and there is no catch-all. 404.
    NoHost,
    /// Nowhere: the host is served, but none of its routes takes the path and there is no fallback. 404.
    NoPath,
    /// Nowhere: the path cannot be compared with routes (see [`crate::BadPath`]). 400.
    BadPath,
}

/// A backend in its slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SlottedBackend {
    /// The slot, as in [`BackendSlot::index`].
    pub slot: u32,
    /// Unique per (re)use of the slot and never reused, not even by the same backend when it comes back: what was
    /// kept for another incarnation (pools, balancing state) belongs to something else.
    pub incarnation: u64,
    /// Changes whenever the backend is replaced, as by new endpoints. Unique over all slots.
    pub version: u64,
    /// The backend.
    pub backend: Arc<Backend>,
}

/// An immutable routing table. Made from its predecessor by [`RouteTable::with`]; tables of one line share memory.
pub struct RouteTable {
    seed: Seed,
    hosts: Named<HostEntry>,
    server_names: Named<(HostPattern, Arc<ServerName>)>,
    backends: Slots<BackendEntry>,
    backend_index: Index,
    /// Places to count in that are given out.
    series: Slots<()>,
    listeners: Arc<BTreeMap<u16, Arc<StreamListener>>>,
    /// The last number given out as incarnation or version.
    last_number: u64,
}

impl RouteTable {
    /// A table with nothing in it and a fixed seed. Where clients choose the host names, take
    /// [`RouteTable::empty_with_seed`].
    pub fn empty() -> Self {
        Self::empty_with_seed(0x5109_6a7e)
    }

    /// A table with nothing in it. All tables made from it hash with this seed; a random one keeps clients from
    /// choosing names that collide.
    pub fn empty_with_seed(seed: u64) -> Self {
        Self {
            seed: Seed::new(seed),
            hosts: Named::new(),
            server_names: Named::new(),
            backends: Slots::new(),
            backend_index: Index::new(),
            series: Slots::new(),
            listeners: Arc::default(),
            last_number: 0,
        }
    }

    /// The table after a change. Shares what did not change; `self` stays as it is.
    ///
    /// Routes may refer to backends that come in the same change, and to backends that do not exist (then
    /// [`RouteTable::backend`] has nothing in that slot). Incarnations and versions are unique along one line of
    /// tables, each made from the one before.
    pub fn with(&self, diff: &Diff) -> Self {
        let mut next = Self {
            seed: self.seed,
            hosts: self.hosts.clone(),
            server_names: self.server_names.clone(),
            backends: self.backends.clone(),
            backend_index: self.backend_index.clone(),
            series: self.series.clone(),
            listeners: Arc::clone(&self.listeners),
            last_number: self.last_number,
        };
        // Backends first, so that a new one does not have its place kept and then filled.
        let mut references = References::default();
        for (id, change) in &diff.backends {
            match change {
                Change::Set(backend) => next.set_backend(id, backend),
                Change::Remove => next.vacate_backend(id, &mut references),
            }
        }
        for (pattern, change) in &diff.routes {
            match change {
                Change::Set(host) => next.set_host(pattern, host, &mut references),
                Change::Remove => next.remove_host(pattern, &mut references),
            }
        }
        next.settle_references(references);
        next.change_server_names(diff);
        next.change_listeners(diff);
        next
    }

    /// Where a request goes. `host` is the authority as the client sent it, `path` the path as it was sent, without
    /// the query.
    ///
    /// An exact host beats a wildcard as a whole, a wildcard takes exactly one label, and the catch-all takes hosts
    /// that nobody claims. What a host does not route goes to its fallback; where it has none, a host of the strict dialect
    /// falls to the catch-all's fallback and a host of the nginx dialect has nothing.
    #[inline]
    pub fn find(&self, host: &[u8], path: &[u8]) -> Outcome {
        let Some((slot, entry)) = self.entry_of(host) else { return Outcome::NoHost };
        match entry.find(path, self.seed) {
            Found::Route(route) => Outcome::Route(RouteId { host: slot, route }),
            Found::BadPath => Outcome::BadPath,
            Found::Nothing => self.default_of(&entry.table).map_or(Outcome::NoPath, Outcome::Route),
        }
    }

    /// The route, by two index operations.
    ///
    /// # Panics
    /// May panic if the id is from another table.
    #[inline]
    pub fn route(&self, id: RouteId) -> &CompiledRoute {
        &self.host_table(id).all_routes()[id.route as usize]
    }

    /// The virtual host that a route belongs to.
    ///
    /// # Panics
    /// May panic if the id is from another table.
    pub fn host_of(&self, id: RouteId) -> &HostTable {
        self.host_table(id)
    }

    /// What is in a slot: nothing while a route refers to a backend that does not exist.
    #[inline]
    pub fn backend(&self, slot: BackendSlot) -> Option<&SlottedBackend> {
        self.backends.get(slot.0)?.live()
    }

    /// What is in the slot of this number.
    pub fn backend_at(&self, slot: u32) -> Option<&SlottedBackend> {
        self.backend(BackendSlot(slot))
    }

    /// All backends, in the order of their slots.
    pub fn backends(&self) -> impl Iterator<Item = &SlottedBackend> {
        self.backends.iter().filter_map(|(_, entry)| entry.live())
    }

    /// Where a backend is kept, whether or not it exists at present.
    pub fn backend_slot(&self, id: &BackendId) -> Option<BackendSlot> {
        let is_id = |slot| self.backends.get(slot).is_some_and(|entry| entry.id() == id);
        self.backend_index.get(self.seed.hash_value(id), is_id).map(BackendSlot)
    }

    /// Which backend a slot is kept for, whether or not it exists at present.
    pub fn backend_id(&self, slot: BackendSlot) -> Option<&BackendId> {
        self.backends.get(slot.0).map(BackendEntry::id)
    }

    /// All virtual hosts, in the order in which users see them: exact hosts, wildcards, the catch-all, by name.
    pub fn hosts(&self) -> impl Iterator<Item = &HostTable> {
        let mut hosts: Vec<&HostTable> = self.hosts.slots.iter().map(|(_, entry)| entry.table.as_ref()).collect();
        hosts.sort_by(|one, other| one.pattern().cmp(other.pattern()));
        hosts.into_iter()
    }

    /// How connections for a server name (SNI) are treated: by the exact name, else by the wildcard over its first
    /// label, else by what was set for all names, if anything was.
    pub fn server_name(&self, sni: &str) -> Option<&Arc<ServerName>> {
        let mut buffer = HostBuffer::new();
        let key = HostKey::parse(sni.as_bytes(), &mut buffer);
        let slot = self.server_names.find(key, self.seed, |(pattern, _), name| name_of(pattern) == name)?;
        self.server_names.slots.get(slot).map(|(_, server_name)| server_name)
    }

    /// The TCP service on a port of the gateway.
    pub fn listener(&self, port: u16) -> Option<&Arc<StreamListener>> {
        self.listeners.get(&port)
    }

    /// All TCP services, by port.
    pub fn listeners(&self) -> impl Iterator<Item = &Arc<StreamListener>> {
        self.listeners.values()
    }

    #[inline]
    fn entry_of(&self, authority: &[u8]) -> Option<(u32, &HostEntry)> {
        let mut buffer = HostBuffer::new();
        let key = HostKey::parse(authority, &mut buffer);
        let slot = self.hosts.find(key, self.seed, |host, name| host.is_named(name))?;
        self.hosts.slots.get(slot).map(|entry| (slot, entry))
    }

    /// The catch-all's fallback, for a host of the strict dialect that has none.
    fn default_of(&self, table: &HostTable) -> Option<RouteId> {
        if table.dialect() != Dialect::Strict {
            return None;
        }
        let host = self.hosts.any?;
        let route = self.hosts.slots.get(host)?.table.fallback_index()?;
        Some(RouteId { host, route })
    }

    /// # Panics
    /// May panic if the id is from another table.
    #[inline]
    fn host_table(&self, id: RouteId) -> &HostTable {
        match self.hosts.slots.get(id.host) {
            Some(entry) => &entry.table,
            None => panic!("{id:?} is not of this table"),
        }
    }

    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    fn set_backend(&mut self, id: &BackendId, backend: &Arc<Backend>) {
        let slot = self.place_of_backend(id);
        let live = self.backends.get(slot).and_then(BackendEntry::live);
        if live.is_some_and(|live| Arc::ptr_eq(&live.backend, backend)) {
            return;
        }
        let kept = live.map(|live| live.incarnation);
        let version = self.next_number();
        let incarnation = kept.unwrap_or(version);
        if let Some(entry) = self.backends.get_mut(slot) {
            entry.occupant =
                Occupant::Live(SlottedBackend { slot, incarnation, version, backend: Arc::clone(backend) });
        }
    }

    /// The slot of a backend; one is kept for it if it has none.
    fn place_of_backend(&mut self, id: &BackendId) -> u32 {
        if let Some(BackendSlot(slot)) = self.backend_slot(id) {
            return slot;
        }
        let kept = Occupant::Kept(Arc::new(id.clone()));
        let slot = self.backends.insert(BackendEntry { occupant: kept, references: 0 });
        self.backend_index.insert(self.seed.hash_value(id), slot);
        slot
    }

    /// Takes a backend out of its slot, which stays kept for it while routes refer to it.
    fn vacate_backend(&mut self, id: &BackendId, references: &mut References) {
        let Some(BackendSlot(slot)) = self.backend_slot(id) else { return };
        if let Some(entry) = self.backends.get_mut(slot) {
            entry.occupant = Occupant::Kept(Arc::new(id.clone()));
        }
        references.add(&[slot], 0);
    }

    fn set_host(&mut self, pattern: &HostPattern, host: &VirtualHost, references: &mut References) {
        let seed = self.seed;
        let former = self.hosts.get(pattern, seed, |entry| entry.table.pattern()).map(|entry| Arc::clone(&entry.table));
        let mut series = std::mem::replace(&mut self.series, Slots::new());
        let place = |id: &BackendId| self.place_of_backend(id);
        let table = HostTable::new(pattern, host, former.as_deref(), place, || series.insert(()));
        // What left is free only now: the same place must not go from one to another within one table.
        if let Some(former) = &former {
            former.series_gone(Some(&table)).for_each(|slot| _ = series.remove(slot));
            references.add(former.backends(), -1);
        }
        self.series = series;
        references.add(table.backends(), 1);
        self.hosts.set(pattern, HostEntry::new(table, seed), seed, |entry| entry.table.pattern());
    }

    fn remove_host(&mut self, pattern: &HostPattern, references: &mut References) {
        if let Some(old) = self.hosts.remove(pattern, self.seed, |entry| entry.table.pattern()) {
            references.add(old.table.backends(), -1);
            old.table.series_gone(None).for_each(|slot| _ = self.series.remove(slot));
        }
    }

    /// Counts what refers to each backend and frees the slots that nothing needs.
    fn settle_references(&mut self, references: References) {
        for (slot, change) in references.0 {
            let Some(entry) = self.backends.get(slot) else { continue };
            let count = entry.references.saturating_add_signed(change);
            if count == 0 && entry.live().is_none() {
                let hash = self.seed.hash_value(entry.id());
                self.backend_index.remove(hash, slot);
                self.backends.remove(slot);
            } else if change != 0
                && let Some(entry) = self.backends.get_mut(slot)
            {
                entry.references = count;
            }
        }
    }

    fn change_server_names(&mut self, diff: &Diff) {
        let seed = self.seed;
        for (pattern, change) in &diff.server_names {
            match change {
                Change::Set(name) => {
                    let value = (pattern.clone(), Arc::clone(name));
                    self.server_names.set(pattern, value, seed, |(pattern, _)| pattern);
                }
                Change::Remove => {
                    self.server_names.remove(pattern, seed, |(pattern, _)| pattern);
                }
            }
        }
    }

    fn change_listeners(&mut self, diff: &Diff) {
        for (port, change) in &diff.listeners {
            let listeners = Arc::make_mut(&mut self.listeners);
            match change {
                Change::Set(listener) => listeners.insert(*port, Arc::clone(listener)),
                Change::Remove => listeners.remove(port),
            };
        }
    }
}

/// What `explain` needs to see of the table's inside.
impl RouteTable {
    /// The virtual hosts that could claim an authority, in the order in which they are asked: exact, wildcard,
    /// catch-all.
    pub(crate) fn claimants(&self, authority: &[u8]) -> Vec<(u32, &HostTable)> {
        let mut buffer = HostBuffer::new();
        let key = HostKey::parse(authority, &mut buffer);
        let is_key = |host: &HostEntry, name: &[u8]| host.is_named(name);
        let exact = key.and_then(|key| self.hosts.exact(key.as_bytes(), self.seed, is_key));
        let parent = key.and_then(|key| key.parent());
        let wildcard = parent.and_then(|suffix| self.hosts.wildcard(suffix, self.seed, is_key));
        let slots = [exact, wildcard, self.hosts.any].into_iter().flatten();
        slots.filter_map(|slot| self.hosts.slots.get(slot).map(|entry| (slot, entry.table.as_ref()))).collect()
    }
}

impl RouteId {
    pub(crate) fn new(host: u32, route: u32) -> Self {
        Self { host, route }
    }
}

#[derive(Clone)]
struct BackendEntry {
    occupant: Occupant,
    /// Number of hosts with a route to it.
    references: u32,
}

/// Whose a slot is.
#[derive(Clone)]
enum Occupant {
    /// The backend's, which names itself.
    Live(SlottedBackend),
    /// That of a backend which does not exist at present.
    Kept(Arc<BackendId>),
}

impl BackendEntry {
    fn id(&self) -> &BackendId {
        match &self.occupant {
            Occupant::Live(live) => &live.backend.id,
            Occupant::Kept(id) => id,
        }
    }

    #[inline]
    fn live(&self) -> Option<&SlottedBackend> {
        match &self.occupant {
            Occupant::Live(live) => Some(live),
            Occupant::Kept(_) => None,
        }
    }
}

/// By how much the count of hosts that refer to a backend changes, by slot.
#[derive(Default)]
struct References(BTreeMap<u32, i32>);

impl References {
    fn add(&mut self, slots: &[u32], change: i32) {
        for slot in slots {
            *self.0.entry(*slot).or_default() += change;
        }
    }
}

/// Values under host patterns.
#[derive(Clone)]
struct Named<T> {
    slots: Slots<T>,
    exact: Index,
    wildcards: Index,
    any: Option<u32>,
}

impl<T: Clone> Named<T> {
    fn new() -> Self {
        Self { slots: Slots::new(), exact: Index::new(), wildcards: Index::new(), any: None }
    }

    /// The slot of the pattern that claims a name. `is_named` compares a value's own name (without `*.`) with one.
    #[inline]
    fn find(&self, key: Option<HostKey<'_>>, seed: Seed, is_named: impl Fn(&T, &[u8]) -> bool) -> Option<u32> {
        let Some(key) = key else { return self.any };
        if let Some(slot) = self.exact(key.as_bytes(), seed, &is_named) {
            return Some(slot);
        }
        if self.wildcards.is_empty() {
            return self.any;
        }
        key.parent().and_then(|suffix| self.wildcard(suffix, seed, is_named)).or(self.any)
    }

    #[inline]
    fn exact(&self, name: &[u8], seed: Seed, is_named: impl Fn(&T, &[u8]) -> bool) -> Option<u32> {
        self.exact.get(seed.hash(name), |slot| self.slots.get(slot).is_some_and(|value| is_named(value, name)))
    }

    fn wildcard(&self, suffix: &[u8], seed: Seed, is_named: impl Fn(&T, &[u8]) -> bool) -> Option<u32> {
        let is_key = |slot| self.slots.get(slot).is_some_and(|value| is_named(value, suffix));
        self.wildcards.get(seed.hash(suffix), is_key)
    }

    fn slot_of(&self, pattern: &HostPattern, seed: Seed, pattern_of: impl Fn(&T) -> &HostPattern) -> Option<u32> {
        let is_named = |value: &T, _: &[u8]| pattern_of(value) == pattern;
        match pattern {
            HostPattern::Exact(_) => self.exact(name_of(pattern), seed, is_named),
            HostPattern::Wildcard(_) => self.wildcard(name_of(pattern), seed, is_named),
            HostPattern::Any => self.any,
        }
    }

    fn get(&self, pattern: &HostPattern, seed: Seed, pattern_of: impl Fn(&T) -> &HostPattern) -> Option<&T> {
        self.slots.get(self.slot_of(pattern, seed, pattern_of)?)
    }

    /// Puts a value under a pattern and returns what was there.
    fn set(
        &mut self,
        pattern: &HostPattern,
        value: T,
        seed: Seed,
        pattern_of: impl Fn(&T) -> &HostPattern,
    ) -> Option<T> {
        if let Some(slot) = self.slot_of(pattern, seed, pattern_of) {
            return self.slots.get_mut(slot).map(|place| std::mem::replace(place, value));
        }
        let slot = self.slots.insert(value);
        let hash = seed.hash(name_of(pattern));
        match pattern {
            HostPattern::Exact(_) => self.exact.insert(hash, slot),
            HostPattern::Wildcard(_) => self.wildcards.insert(hash, slot),
            HostPattern::Any => self.any = Some(slot),
        }
        None
    }

    fn remove(&mut self, pattern: &HostPattern, seed: Seed, pattern_of: impl Fn(&T) -> &HostPattern) -> Option<T> {
        let slot = self.slot_of(pattern, seed, pattern_of)?;
        let hash = seed.hash(name_of(pattern));
        match pattern {
            HostPattern::Exact(_) => self.exact.remove(hash, slot),
            HostPattern::Wildcard(_) => self.wildcards.remove(hash, slot),
            HostPattern::Any => self.any = None,
        }
        self.slots.remove(slot)
    }
}
