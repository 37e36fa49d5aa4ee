//! What the status page and `/api/v1/state` tell of a change.

use sluicegate_admin::changes::{ChangeState, ChangedName, MovedState, NamedChanges};
use sluicegate_config::{Change, Diff};
use sluicegate_translate::{ObjectChange, Update};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::{Duration, SystemTime};

/// Why something changed.
pub struct Cause {
    name: &'static str,
    objects: NamedChanges,
}

impl Cause {
    /// The source told of objects.
    pub fn objects(changes: &[ObjectChange]) -> Self {
        let objects = NamedChanges::of(changes.iter(), |change| {
            let (reference, gone) = match change {
                ObjectChange::Set(object) => (object.reference(), false),
                ObjectChange::Remove(reference) => (reference.clone(), true),
            };
            ChangedName { name: reference.to_string(), gone }
        });
        Self { name: "objects", objects }
    }

    /// This, and what came after it.
    pub fn and(mut self, more: Self) -> Self {
        self.objects.add(more.objects);
        self
    }

    /// Time passed: a certificate is not valid any more, for one.
    pub fn time() -> Self {
        Self { name: "time", objects: NamedChanges::default() }
    }

    /// Addresses of pools were given to Services.
    pub fn pools() -> Self {
        Self { name: "pools", objects: NamedChanges::default() }
    }
}

/// What is told of an update; nothing where nothing came of it.
pub fn describe(cause: Cause, update: &Update, took: Duration, failures: &[impl Display]) -> Option<ChangeState> {
    let Update { diff, new_rejections, gone_rejections, .. } = update;
    if diff.is_empty() && new_rejections.is_empty() && gone_rejections.is_empty() {
        return None;
    }
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Some(ChangeState {
        number: 0,
        at_ms: u64::try_from(at.as_millis()).unwrap_or(u64::MAX),
        generation: update.generation.0,
        cause: cause.name.to_owned(),
        objects: cause.objects,
        moved: moved(diff),
        new_rejections: count(new_rejections.len()),
        gone_rejections: count(gone_rejections.len()),
        took_ms: (took.as_secs_f64() * 1e5).round() / 100.0,
        failures: failures.iter().take(MOST_FAILURES).map(ToString::to_string).collect(),
    })
}

/// Failures of a change that are kept; all are in the log.
const MOST_FAILURES: usize = 20;

fn moved(diff: &Diff) -> Vec<MovedState> {
    let kinds = [
        ("hosts", names(&diff.routes)),
        ("backends", names(&diff.backends)),
        ("server_names", names(&diff.server_names)),
        ("certificates", names(&diff.certificates)),
        ("listeners", names(&diff.listeners)),
        ("vips", names(&diff.vips)),
    ];
    let moved = kinds.into_iter().filter(|(_, names)| names.count > 0);
    moved.map(|(kind, names)| MovedState { kind: kind.to_owned(), names }).collect()
}

fn names<K: Display, V>(changes: &BTreeMap<K, Change<V>>) -> NamedChanges {
    NamedChanges::of(changes.iter(), |(key, change)| ChangedName {
        name: key.to_string(),
        gone: matches!(change, Change::Remove),
    })
}
