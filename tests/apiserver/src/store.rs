//! Objects, their versions, and the log of changes that watches read. No I/O: who calls gives the time.

use crate::apply::{self, Owners};
use crate::resource::Resource;
use crate::selector::Selector;
use crate::status::Refusal;
use http::StatusCode;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Namespace and name; the namespace is empty for kinds without.
pub type Key = (&'static Resource, String, String);

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is new.
    Added,
    /// It is another.
    Modified,
    /// It is gone.
    Deleted,
}

/// One entry of the log.
#[derive(Clone, Debug)]
pub struct Change {
    /// The version that it made.
    pub version: u64,
    /// What happened.
    pub action: Action,
    /// The kind.
    pub resource: &'static Resource,
    /// The object after it; for a deletion, its last state.
    pub object: Arc<Value>,
    /// The object before it.
    pub before: Option<Arc<Value>>,
}

#[derive(Debug)]
struct Stored {
    object: Arc<Value>,
    owners: Owners,
}

/// How an object is to be changed.
#[derive(Clone, Debug)]
pub enum Patch {
    /// RFC 7386.
    Merge(Value),
    /// Server-side apply.
    Apply {
        /// The configuration.
        configuration: Value,
        /// Take fields from others.
        force: bool,
    },
}

/// All objects.
#[derive(Debug, Default)]
pub struct Store {
    objects: BTreeMap<Key, Stored>,
    log: VecDeque<Change>,
    version: u64,
    /// Changes up to this version are not in the log any more.
    compacted: u64,
    named: u64,
}

impl Store {
    /// The version of the last change.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Forgets the history: a watch that starts before this moment gets `410 Gone`.
    pub fn compact(&mut self) {
        self.log.clear();
        self.compacted = self.version;
    }

    /// One object.
    ///
    /// # Errors
    /// Where it is not there.
    pub fn get(&self, key: &Key) -> Result<Arc<Value>, Refusal> {
        self.objects.get(key).map(|stored| Arc::clone(&stored.object)).ok_or_else(|| not_found(key))
    }

    /// The objects of a kind, in a namespace or in all, that a selector takes; in order.
    pub fn list<'a>(
        &'a self,
        resource: &'static Resource,
        namespace: Option<&'a str>,
        selector: &'a Selector,
    ) -> impl Iterator<Item = (&'a Key, &'a Arc<Value>)> {
        let start = (resource, namespace.unwrap_or_default().to_owned(), String::new());
        self.objects
            .range(start..)
            .take_while(move |((kind, within, _), _)| {
                *kind == resource && namespace.is_none_or(|namespace| namespace == within)
            })
            .filter(|(_, stored)| selector.matches(&stored.object))
            .map(|(key, stored)| (key, &stored.object))
    }

    /// What happened after a version.
    ///
    /// # Errors
    /// `410 Gone` where that is not known any more.
    pub fn since(&self, version: u64) -> Result<impl Iterator<Item = &Change>, Refusal> {
        if version < self.compacted {
            return Err(Refusal::gone());
        }
        let first = self.log.partition_point(|change| change.version <= version);
        Ok(self.log.range(first..))
    }

    /// Makes an object. Without a name, `generateName` is completed.
    ///
    /// # Errors
    /// Where it exists, or has no name.
    pub fn create(
        &mut self,
        resource: &'static Resource,
        namespace: &str,
        mut object: Value,
        manager: &str,
        now: &str,
    ) -> Result<Arc<Value>, Refusal> {
        identify(resource, namespace, &mut object)?;
        if object["metadata"]["name"].as_str().unwrap_or_default().is_empty() {
            let Some(prefix) = object["metadata"]["generateName"].as_str() else {
                return Err(Refusal::invalid("metadata.name: Required value: name or generateName is required"));
            };
            self.named += 1;
            object["metadata"]["name"] = json!(format!("{prefix}{:05x}", self.named));
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let key = (resource, namespace.to_owned(), name);
        if self.objects.contains_key(&key) {
            let message = format!("{} {:?} already exists", resource.plural, key.2);
            return Err(Refusal::new(StatusCode::CONFLICT, "AlreadyExists", message));
        }
        if resource.status && !matches!(resource.plural, "pods" | "nodes") {
            // Only `/status` sets it; but kubelets make their Nodes with all that they know.
            object.as_object_mut().map(|fields| fields.remove("status"));
        }
        let mut owners = Owners::new();
        apply::update(&Value::Null, &object, &mut owners, manager);
        object["metadata"]["uid"] = json!(format!("00000000-0000-4000-8000-{:012x}", self.version + 1));
        // A real server overwrites it always; tests say how old an object is.
        if object["metadata"]["creationTimestamp"].as_str().is_none() {
            object["metadata"]["creationTimestamp"] = json!(now);
        }
        if object.get("spec").is_some() {
            object["metadata"]["generation"] = json!(1);
        }
        Ok(self.put(key, object, owners, None))
    }

    /// Replaces an object, or its status. A `resourceVersion` in it must be the current one.
    ///
    /// # Errors
    /// Where it is not there, or has changed in the meantime.
    pub fn replace(
        &mut self,
        key: &Key,
        status: bool,
        mut object: Value,
        manager: &str,
    ) -> Result<Arc<Value>, Refusal> {
        identify(key.0, &key.1, &mut object)?;
        if object["metadata"]["name"].as_str() != Some(&key.2) {
            return Err(Refusal::bad("the name of the object does not match the name on the URL"));
        }
        let stored = self.objects.get(key).ok_or_else(|| not_found(key))?;
        expect_version(&object, &stored.object, key)?;
        let (before, mut owners) = (Arc::clone(&stored.object), stored.owners.clone());
        let after = self.next_state(key.0, &before, object, status);
        apply::update(&before, &after, &mut owners, manager);
        Ok(self.settle(key.clone(), &before, after, owners))
    }

    /// Changes an object, or its status. An applied configuration makes an object that is not there.
    ///
    /// # Errors
    /// Where it is not there, has changed in the meantime, or another manager owns the field.
    pub fn patch(
        &mut self,
        key: &Key,
        status: bool,
        patch: Patch,
        manager: &str,
        now: &str,
    ) -> Result<Arc<Value>, Refusal> {
        let Some(stored) = self.objects.get(key) else {
            return match patch {
                Patch::Apply { configuration, .. } if !status => self.create_applied(key, configuration, manager, now),
                _ => Err(not_found(key)),
            };
        };
        let (before, mut owners) = (Arc::clone(&stored.object), stored.owners.clone());
        let mut wanted = Value::clone(&before);
        match &patch {
            Patch::Merge(patch) => {
                expect_version(patch, &before, key)?;
                apply::merge(&mut wanted, patch);
            }
            Patch::Apply { configuration, force } => {
                expect_version(configuration, &before, key)?;
                let part = part_of(configuration, status);
                apply::apply(&mut wanted, &mut owners, manager, &part, *force)?;
            }
        }
        let after = self.next_state(key.0, &before, wanted, status);
        if matches!(patch, Patch::Merge(_)) {
            apply::update(&before, &after, &mut owners, manager);
        }
        Ok(self.settle(key.clone(), &before, after, owners))
    }

    fn create_applied(
        &mut self,
        key: &Key,
        configuration: Value,
        manager: &str,
        now: &str,
    ) -> Result<Arc<Value>, Refusal> {
        let mut owners = Owners::new();
        let mut nothing = json!({});
        apply::apply(&mut nothing, &mut owners, manager, &part_of(&configuration, false), true)?;
        self.create(key.0, &key.1, configuration, manager, now)?;
        if let Some(stored) = self.objects.get_mut(key) {
            stored.owners = owners;
        }
        self.get(key)
    }

    /// Removes an object; its last state is the answer.
    ///
    /// # Errors
    /// Where it is not there.
    pub fn delete(&mut self, key: &Key) -> Result<Arc<Value>, Refusal> {
        let stored = self.objects.remove(key).ok_or_else(|| not_found(key))?;
        self.version += 1;
        let mut last = Value::clone(&stored.object);
        last["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let last = Arc::new(last);
        self.log.push_back(Change {
            version: self.version,
            action: Action::Deleted,
            resource: key.0,
            object: Arc::clone(&last),
            before: Some(stored.object),
        });
        Ok(last)
    }

    /// The state after a write: a write of the status leaves the rest alone and the other way round, and another `spec`
    /// is another generation.
    fn next_state(&self, resource: &Resource, before: &Value, mut wanted: Value, status: bool) -> Value {
        if status {
            let mut after = before.clone();
            set_or_remove(&mut after, "status", wanted.get("status").cloned());
            return after;
        }
        if resource.status {
            set_or_remove(&mut wanted, "status", before.get("status").cloned());
        }
        for field in ["uid", "creationTimestamp", "generation", "resourceVersion"] {
            set_or_remove(&mut wanted["metadata"], field, before["metadata"].get(field).cloned());
        }
        if wanted.get("spec") != before.get("spec") {
            let generation = before["metadata"]["generation"].as_u64().unwrap_or(0);
            wanted["metadata"]["generation"] = json!(generation + 1);
        }
        wanted
    }

    /// Writes what changed; what did not makes no version.
    fn settle(&mut self, key: Key, before: &Arc<Value>, after: Value, owners: Owners) -> Arc<Value> {
        if after == **before {
            if let Some(stored) = self.objects.get_mut(&key) {
                stored.owners = owners;
            }
            return Arc::clone(before);
        }
        self.put(key, after, owners, Some(Arc::clone(before)))
    }

    fn put(&mut self, key: Key, mut object: Value, owners: Owners, before: Option<Arc<Value>>) -> Arc<Value> {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let object = Arc::new(object);
        let action = if before.is_none() { Action::Added } else { Action::Modified };
        let change = Change { version: self.version, action, resource: key.0, object: Arc::clone(&object), before };
        self.log.push_back(change);
        self.objects.insert(key, Stored { object: Arc::clone(&object), owners });
        object
    }
}

fn part_of(configuration: &Value, status: bool) -> Value {
    let mut part = configuration.clone();
    if let Some(fields) = part.as_object_mut() {
        if status {
            fields.retain(|name, _| name == "status");
        } else {
            fields.remove("status");
        }
    }
    part
}

fn set_or_remove(object: &mut Value, field: &str, value: Option<Value>) {
    if let Some(fields) = object.as_object_mut() {
        match value {
            Some(value) => fields.insert(field.to_owned(), value),
            None => fields.remove(field),
        };
    }
}

fn expect_version(given: &Value, stored: &Value, key: &Key) -> Result<(), Refusal> {
    match given["metadata"]["resourceVersion"].as_str() {
        Some(version) if !version.is_empty() && Some(version) != stored["metadata"]["resourceVersion"].as_str() => {
            Err(Refusal::conflict(format!(
                "Operation cannot be fulfilled on {} {:?}: the object has been modified; please apply your changes to the \
                 latest version and try again",
                key.0.plural, key.2
            )))
        }
        _ => Ok(()),
    }
}

/// Kind, version and namespace must be those of the path, where they are given.
fn identify(resource: &Resource, namespace: &str, object: &mut Value) -> Result<(), Refusal> {
    let Some(fields) = object.as_object_mut() else { return Err(Refusal::bad("the body is no object")) };
    for (field, wanted) in [("kind", resource.kind.to_owned()), ("apiVersion", resource.api_version())] {
        match fields.get(field).and_then(Value::as_str) {
            None | Some("") => fields.insert(field.to_owned(), json!(wanted)),
            Some(given) if given == wanted => None,
            Some(given) => return Err(Refusal::bad(format!("{field} is {given:?}, and the path is of {wanted:?}"))),
        };
    }
    let metadata = fields.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    let Some(metadata) = metadata.as_object_mut() else { return Err(Refusal::bad("metadata is no object")) };
    metadata.remove("managedFields");
    if resource.namespaced {
        match metadata.get("namespace").and_then(Value::as_str) {
            Some(given) if given != namespace => {
                return Err(Refusal::bad("the namespace of the object does not match the namespace on the URL"));
            }
            _ => metadata.insert("namespace".to_owned(), json!(namespace)),
        };
    }
    Ok(())
}

fn not_found(key: &Key) -> Refusal {
    Refusal::not_found(&format!("{} {:?}", key.0.plural, key.2))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-01T00:00:00Z";

    fn services() -> &'static Resource {
        Resource::of_kind("Service").expect("it is served")
    }

    fn store() -> (Store, Key) {
        let mut store = Store::default();
        let object = json!({"metadata": {"name": "web"}, "spec": {"a": 1}, "status": {"lied": true}});
        store.create(services(), "shop", object, "test", NOW).expect("created");
        (store, (services(), "shop".to_owned(), "web".to_owned()))
    }

    #[test]
    fn every_write_makes_a_version_and_none_without_a_change() {
        let (mut store, key) = store();
        let first = store.get(&key).expect("there");
        assert_eq!(first["metadata"]["resourceVersion"], "1");
        assert_eq!(first["metadata"]["generation"], 1);
        assert!(first.get("status").is_none(), "a status is set by /status alone");
        let same = store.patch(&key, false, Patch::Merge(json!({"spec": {"a": 1}})), "x", NOW).expect("patched");
        assert_eq!((same, store.version()), (first, 1));
        let next = store.patch(&key, false, Patch::Merge(json!({"spec": {"a": 2}})), "x", NOW).expect("patched");
        assert_eq!((&next["metadata"]["generation"], store.version()), (&json!(2), 2));
    }

    #[test]
    fn status_and_the_rest_are_apart() {
        let (mut store, key) = store();
        let patch = Patch::Merge(json!({"spec": {"a": 9}, "status": {"ip": "192.0.2.1"}}));
        let after = store.patch(&key, true, patch, "x", NOW).expect("patched");
        assert_eq!((&after["spec"]["a"], &after["status"]["ip"]), (&json!(1), &json!("192.0.2.1")));
        assert_eq!(after["metadata"]["generation"], 1);
        let after =
            store.replace(&key, false, json!({"metadata": {"name": "web"}, "spec": {}}), "x").expect("replaced");
        assert_eq!(after["status"]["ip"], "192.0.2.1");
    }

    #[test]
    fn the_slower_writer_is_told() {
        let (mut store, key) = store();
        let stale = json!({"metadata": {"name": "web", "resourceVersion": "1"}, "spec": {"a": 3}});
        store.replace(&key, false, stale.clone(), "x").expect("it is the first");
        let refusal = store.replace(&key, false, stale, "x").expect_err("it is stale");
        assert_eq!((refusal.code, refusal.reason), (StatusCode::CONFLICT, "Conflict"));
        let again = store.create(services(), "shop", json!({"metadata": {"name": "web"}}), "x", NOW);
        assert_eq!(again.expect_err("it is there").reason, "AlreadyExists");
    }

    #[test]
    fn a_compacted_log_says_so() {
        let (mut store, key) = store();
        assert_eq!(store.since(0).expect("all is known").count(), 1);
        store.compact();
        assert_eq!(store.since(0).err(), Some(Refusal::gone()));
        store.delete(&key).expect("it was there");
        let seen: Vec<Action> = store.since(1).expect("known").map(|change| change.action).collect();
        assert_eq!(seen, [Action::Deleted]);
    }

    #[test]
    fn bodies_that_do_not_fit_the_path_are_refused() {
        let mut store = Store::default();
        for object in [
            json!([]),
            json!({"metadata": {"name": "a", "namespace": "other"}}),
            json!({"kind": "Ingress", "metadata": {"name": "a"}}),
            json!({"apiVersion": "v2", "metadata": {"name": "a"}}),
            json!({"metadata": {}}),
        ] {
            assert!(store.create(services(), "shop", object.clone(), "x", NOW).is_err(), "{object}");
        }
        let made =
            store.create(services(), "shop", json!({"metadata": {"generateName": "web-"}}), "x", NOW).expect("named");
        assert_eq!(made["metadata"]["name"], "web-00001");
    }
}
