//! How a patch changes an object: JSON merge patch (RFC 7386) and server-side apply.
//!
//! Of server-side apply it knows what decides over conflicts: which manager owns which field, a field being a leaf of the
//! object. Lists are leaves (atomic), which is true of `status.loadBalancer.ingress` and wrong of lists with keys: of these it
//! knows `status.conditions` alone, each of whose items is a leaf by its `type`.

use crate::status::Refusal;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Who may own fields: a field manager by its name and by whether it applies or updates.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Manager {
    /// The name that it gives itself.
    pub name: String,
    /// It applies; else it updates, and takes what it changes.
    pub applies: bool,
}

/// The owners of an object's fields, by JSON pointer.
pub type Owners = BTreeMap<Manager, BTreeSet<String>>;

/// Merges a patch into an object as RFC 7386 says: `null` removes.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(fields) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            fields.remove(key);
        } else {
            merge(fields.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Applies a configuration: its fields become the manager's, and what it had applied before and names no more goes, unless
/// somebody else owns it too.
///
/// # Errors
/// Where another manager owns a field with another value, and `force` is not given.
pub fn apply(
    object: &mut Value,
    owners: &mut Owners,
    manager: &str,
    configuration: &Value,
    force: bool,
) -> Result<(), Refusal> {
    let me = Manager { name: manager.to_owned(), applies: true };
    let wanted = leaves(configuration);
    let mut conflicts = BTreeSet::new();
    for (other, fields) in owners.iter().filter(|(other, _)| **other != me) {
        for field in fields {
            let is_other = |value: &Value| !is_empty_object(value) && find(object, field) != Some(value);
            let differs = wanted.get(field).is_some_and(|value| is_other(value));
            let is_within = wanted
                .iter()
                .any(|(mine, value)| is_below(mine, field) || (is_below(field, mine) && !is_empty_object(value)));
            if differs || is_within {
                conflicts.insert((other.name.clone(), field.clone()));
            }
        }
    }
    if !conflicts.is_empty() && !force {
        let list: Vec<String> =
            conflicts.iter().map(|(other, field)| format!("conflict with {other:?}: {field}")).collect();
        return Err(Refusal::conflict(format!("Apply failed with {} conflicts: {}", list.len(), list.join(", "))));
    }
    let before = owners.remove(&me).unwrap_or_default();
    for fields in owners.values_mut() {
        fields.retain(|field| !conflicts.iter().any(|(_, lost)| lost == field));
    }
    for field in before.iter().filter(|field| !wanted.contains_key(*field)) {
        if owners.values().all(|fields| !fields.contains(field)) {
            remove(object, field);
        }
    }
    for (field, value) in &wanted {
        // An object without fields claims none of those that are in it.
        if !(is_empty_object(value) && find(object, field).is_some_and(Value::is_object)) {
            put(object, field, (*value).clone());
        }
    }
    owners.insert(me, wanted.into_keys().collect());
    owners.retain(|_, fields| !fields.is_empty());
    Ok(())
}

/// An update takes the fields that it changed from everybody else.
pub fn update(before: &Value, after: &Value, owners: &mut Owners, manager: &str) {
    let (old, new) = (leaves(before), leaves(after));
    let changed: BTreeSet<String> =
        new.iter().filter(|(field, value)| old.get(*field) != Some(value)).map(|(field, _)| field.clone()).collect();
    for fields in owners.values_mut() {
        fields.retain(|field| new.contains_key(field) && !changed.contains(field));
    }
    if !changed.is_empty() {
        owners.entry(Manager { name: manager.to_owned(), applies: false }).or_default().extend(changed);
    }
    owners.retain(|_, fields| !fields.is_empty());
}

/// The fields of an object that can be owned: without its identity and what the server itself keeps.
fn leaves(object: &Value) -> BTreeMap<String, &Value> {
    fn walk<'a>(value: &'a Value, path: &mut String, found: &mut BTreeMap<String, &'a Value>) {
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                for (key, value) in fields {
                    let length = path.len();
                    path.push('/');
                    path.push_str(&key.replace('~', "~0").replace('/', "~1"));
                    walk(value, path, found);
                    path.truncate(length);
                }
            }
            Value::Array(items) if path == CONDITIONS => {
                for (step, item) in items.iter().filter_map(|item| Some((keyed(item)?, item))) {
                    found.insert(format!("{path}/{}", step.replace('~', "~0").replace('/', "~1")), item);
                }
            }
            _ => {
                found.insert(path.clone(), value);
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(object, &mut String::new(), &mut found);
    found.retain(|path, _| {
        let is_own = ["/metadata/labels/", "/metadata/annotations/"].iter().any(|start| path.starts_with(start))
            || matches!(path.as_str(), "/metadata/finalizers" | "/metadata/ownerReferences");
        path != "/apiVersion" && path != "/kind" && (!path.starts_with("/metadata") || is_own) && !path.is_empty()
    });
    found
}

fn is_empty_object(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty)
}

/// The list whose items are known by their key.
const CONDITIONS: &str = "/status/conditions";

/// The step that leads to an item of such a list.
fn keyed(item: &Value) -> Option<String> {
    Some(format!("type={}", item.get("type")?.as_str()?))
}

fn find<'a>(object: &'a Value, pointer: &str) -> Option<&'a Value> {
    steps(pointer).iter().try_fold(object, |at, step| match at {
        Value::Array(items) => items.iter().find(|item| keyed(item).as_ref() == Some(step)),
        at => at.get(step),
    })
}

fn is_below(inner: &str, outer: &str) -> bool {
    inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'))
}

fn steps(pointer: &str) -> Vec<String> {
    pointer.split('/').skip(1).map(|step| step.replace("~1", "/").replace("~0", "~")).collect()
}

fn put(object: &mut Value, pointer: &str, value: Value) {
    let mut at = object;
    for step in steps(pointer) {
        if step.starts_with("type=") && pointer.starts_with(CONDITIONS) {
            if !at.is_array() {
                *at = Value::Array(Vec::new());
            }
            let Value::Array(items) = at else { return };
            let place = items.iter().position(|item| keyed(item).as_ref() == Some(&step)).unwrap_or_else(|| {
                items.push(Value::Null);
                items.len() - 1
            });
            at = &mut items[place];
            continue;
        }
        if !at.is_object() {
            *at = Value::Object(Map::new());
        }
        let Value::Object(fields) = at else { return };
        at = fields.entry(step).or_insert(Value::Null);
    }
    *at = value;
}

/// Removes a field, and the objects and lists around it that it leaves empty.
fn remove(object: &mut Value, pointer: &str) {
    fn walk(value: &mut Value, steps: &[String]) {
        let [first, rest @ ..] = steps else { return };
        let is_empty = |value: &Value| match value {
            Value::Object(fields) => fields.is_empty(),
            Value::Array(items) => items.is_empty(),
            _ => false,
        };
        match value {
            Value::Array(items) => items.retain(|item| keyed(item).as_ref() != Some(first)),
            Value::Object(fields) if rest.is_empty() => drop(fields.remove(first)),
            Value::Object(fields) => {
                let Some(inner) = fields.get_mut(first) else { return };
                walk(inner, rest);
                if is_empty(inner) {
                    fields.remove(first);
                }
            }
            _ => {}
        }
    }
    walk(object, &steps(pointer));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn merging_is_rfc_7386() {
        // The table of the RFC's appendix A, where it concerns objects.
        for (mut target, patch, wanted) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [1]}), json!({"a": [2]}), json!({"a": [2]})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            merge(&mut target, &patch);
            assert_eq!(target, wanted, "{patch}");
        }
    }

    #[test]
    fn what_is_applied_is_owned_and_goes_when_it_is_not_applied_again() {
        let mut object = json!({"metadata": {"name": "a"}, "spec": {"x": 1}});
        let mut owners = Owners::new();
        let first = json!({"metadata": {"name": "a"}, "status": {"ip": [1], "host": "h"}});
        apply(&mut object, &mut owners, "one", &first, false).expect("nobody owns it");
        assert_eq!(object["status"], json!({"ip": [1], "host": "h"}));
        let other = json!({"status": {"ip": [2]}});
        let refusal = apply(&mut object, &mut owners, "two", &other, false).expect_err("it is owned");
        assert!(refusal.message.contains("\"one\": /status/ip"), "{refusal}");
        apply(&mut object, &mut owners, "two", &json!({"status": {"ip": [1]}}), false)
            .expect("the same value is shared");
        apply(&mut object, &mut owners, "one", &json!({}), false).expect("gives up");
        assert_eq!(object["status"], json!({"ip": [1]}), "what another one owns stays");
        apply(&mut object, &mut owners, "three", &other, true).expect("by force");
        assert_eq!(object["status"], json!({"ip": [2]}));
        apply(&mut object, &mut owners, "two", &json!({}), false).expect("owns nothing any more");
        assert_eq!(object["status"], json!({"ip": [2]}), "force took it");
    }

    #[test]
    fn conditions_are_known_by_their_type() {
        let condition = |of: &str, reason: &str| json!({"type": of, "reason": reason});
        let mut object = json!({"status": {"conditions": [condition("theirs", "A")]}});
        let mut owners = Owners::new();
        update(&Value::Null, &object.clone(), &mut owners, "them");
        let ours = |reason: &str| json!({"status": {"conditions": [condition("x.io/Ours", reason)]}});
        apply(&mut object, &mut owners, "us", &ours("B"), false).expect("nobody owns it");
        apply(&mut object, &mut owners, "us", &ours("C"), false).expect("it is ours");
        assert_eq!(object["status"]["conditions"], json!([condition("theirs", "A"), condition("x.io/Ours", "C")]));
        let taken = json!({"status": {"conditions": [condition("theirs", "D")]}});
        assert!(apply(&mut object.clone(), &mut owners.clone(), "us", &taken, false).is_err(), "it is theirs");
        apply(&mut object, &mut owners, "us", &json!({"status": {}}), false).expect("gives up");
        assert_eq!(object["status"]["conditions"], json!([condition("theirs", "A")]));
    }

    #[test]
    fn an_update_takes_what_it_changes() {
        let mut object = json!({"spec": {"a": 1, "b": 1}});
        let mut owners = Owners::new();
        apply(&mut object, &mut owners, "one", &json!({"spec": {"a": 1, "b": 1}}), false).expect("applied");
        let before = object.clone();
        object["spec"]["a"] = json!(2);
        update(&before, &object, &mut owners, "editor");
        let refusal = apply(&mut object, &mut owners, "one", &json!({"spec": {"a": 1, "b": 1}}), false);
        assert!(refusal.expect_err("the editor owns it").message.contains("\"editor\": /spec/a"));
    }
}
