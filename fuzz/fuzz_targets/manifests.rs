//! Manifests: whatever the text, nothing panics, what is incremental equals the full rebuild, and the routing table
//! that comes of it answers.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluicegate_config::{Kind, Settings};
use sluicegate_route::RouteTable;
use sluicegate_source::manifest::{Document, Format, Source, parse};
use sluicegate_translate::{Controller, ObjectChange};
use std::sync::Arc;

/// A moment of 2026; certificates are judged by it.
const NOW: i64 = 1_790_000_000;

fuzz_target!(|data: &[u8]| {
    let mut controller = Controller::new(Settings::for_folder());
    let mut table = RouteTable::empty();
    let mut seen = Vec::new();
    // A zero byte is in no manifest: it parts one state of the file from the next.
    for (step, text) in data.split(|byte| *byte == 0).take(3).enumerate() {
        let format = if step == 1 { Format::Json } else { Format::Yaml };
        let changes = objects(text, format);
        seen.extend(changes.iter().filter_map(|change| match change {
            ObjectChange::Set(object) => Some(object.reference()),
            ObjectChange::Remove(_) => None,
        }));
        let update = controller.apply(changes, NOW);
        table = table.with(&update.diff);
        check(&controller, &table);
    }
    // Taking everything away again leaves nothing.
    let update = controller.apply(seen.into_iter().map(ObjectChange::Remove), NOW);
    table = table.with(&update.diff);
    check(&controller, &table);
    assert!(controller.desired().routes.is_empty() && controller.desired().certificates.is_empty());
    assert_eq!(controller.objects().count(Kind::Ingress), 0);
});

fn objects(text: &[u8], format: Format) -> Vec<ObjectChange> {
    let path: Arc<str> = Arc::from("fuzz.yaml");
    let manifest = parse(Source { path: &path, format, bytes: text }, |_| false);
    let mut changes = Vec::new();
    for document in manifest.documents {
        if let Document::Parsed { objects, .. } = document {
            changes.extend(objects.into_iter().map(|(_, object)| ObjectChange::Set(*object)));
        }
    }
    changes
}

fn check(controller: &Controller, table: &RouteTable) {
    let rebuilt = controller.rebuild();
    let mut desired = controller.desired().clone();
    desired.generation = rebuilt.desired.generation;
    assert_eq!(desired, rebuilt.desired);
    assert_eq!(table.hosts().count(), desired.routes.len());
    for host in desired.routes.keys() {
        let name = host.to_string().replacen('*', "label", 1);
        for path in [&b"/"[..], b"/api/v1", b"/%2e%2e/x", b"/a//b/../c/"] {
            // Whoever takes it: the answer and the explanation exist.
            let _ = table.find(name.as_bytes(), path);
            let _ = table.explain(name.as_bytes(), path).to_string();
        }
    }
}
