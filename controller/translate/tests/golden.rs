//! Golden translation: each folder under `tests/golden/` holds manifests and the desired state that they become.
//!
//! `UPDATE_GOLDEN=1 cargo test -p sluicegate-translate --test golden` rewrites the expected files; read the difference
//! before committing it. A folder may hold a `settings.json` with what differs from the settings for a folder of manifests.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use sluicegate_config::{Desired, Rejection, Settings, VipPools};
use sluicegate_translate::{Controller, Object, ObjectChange};
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

/// 2027-06-01T00:00:00Z.
const NOW: i64 = 1_811_808_000;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct GoldenSettings {
    cluster: bool,
    take_over_ingress_nginx: bool,
    watch_ingress_without_class: bool,
    tcp_services_configmap: Option<String>,
    watch_namespace: Option<String>,
    default_load_balancer: bool,
    vip_pools: Vec<String>,
    backend_service: Option<String>,
    vip_pool_namespaces: Vec<String>,
}

impl GoldenSettings {
    fn settings(self) -> Settings {
        let base = if self.cluster { Settings::default() } else { Settings::for_folder() };
        Settings {
            take_over_ingress_nginx: self.take_over_ingress_nginx,
            watch_ingress_without_class: self.watch_ingress_without_class,
            tcp_services_configmap: self.tcp_services_configmap.map(|name| name.parse().expect("NAMESPACE/NAME")),
            watch_namespace: self.watch_namespace.map(Into::into),
            default_load_balancer: self.default_load_balancer,
            vip_pools: VipPools::new(
                self.vip_pools.iter().map(|ranges| ranges.parse().expect("a pool")),
                self.vip_pool_namespaces.iter().map(|text| text.parse().expect("NAME=SELECTOR")),
            )
            .expect("pools"),
            backend_service: self.backend_service.map(|name| name.parse().expect("NAMESPACE/NAME")),
            ..base
        }
    }
}

#[test]
fn every_folder_becomes_what_it_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut failures = Vec::new();
    let folders = sorted(&root);
    assert!(folders.len() >= 20, "golden folders are missing under {}", root.display());
    for folder in folders {
        let actual = format!("{:#}\n", translated(&folder));
        let expected_file = folder.join("expected.json");
        if update {
            fs::write(&expected_file, &actual).expect("writable tree");
            continue;
        }
        let expected = fs::read_to_string(&expected_file).unwrap_or_default();
        if actual != expected {
            failures.push(format!("{}:\n{}", folder.display(), difference(&expected, &actual)));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The order in which objects arrive decides nothing.
#[test]
fn order_of_arrival_does_not_matter() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    for folder in sorted(&root) {
        let objects = objects(&folder);
        let mut forward = Controller::new(settings(&folder));
        forward.apply(objects.iter().cloned().map(ObjectChange::Set), NOW);
        forward.give_addresses(true, NOW);
        let mut backward = Controller::new(settings(&folder));
        for object in objects.into_iter().rev() {
            backward.apply([ObjectChange::Set(object)], NOW);
        }
        backward.give_addresses(true, NOW);
        assert_eq!(serialized(&forward), serialized(&backward), "{}", folder.display());
    }
}

fn translated(folder: &Path) -> Value {
    let mut controller = Controller::new(settings(folder));
    controller.apply(objects(folder).into_iter().map(ObjectChange::Set), NOW);
    controller.give_addresses(true, NOW);
    serialized(&controller)
}

fn settings(folder: &Path) -> Settings {
    match fs::read_to_string(folder.join("settings.json")) {
        Ok(text) => serde_json::from_str::<GoldenSettings>(&text).expect("settings.json").settings(),
        Err(_) => GoldenSettings::default().settings(),
    }
}

fn objects(folder: &Path) -> Vec<Object> {
    let mut objects = Vec::new();
    for file in sorted(folder).into_iter().filter(|file| file.extension().is_some_and(|extension| extension == "yaml"))
    {
        let text = fs::read_to_string(&file).expect("readable manifest");
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(&text).unwrap_or_else(|why| panic!("{}: {why}", file.display()));
        objects.extend(documents.into_iter().map(|document| object(document, &file)));
    }
    assert!(!objects.is_empty(), "{} holds no manifest", folder.display());
    objects
}

fn object(document: Value, file: &Path) -> Object {
    let kind = document["kind"].as_str().unwrap_or_default().to_owned();
    let read = match kind.as_str() {
        "Ingress" => serde_json::from_value(document).map(Object::Ingress),
        "IngressClass" => serde_json::from_value(document).map(Object::IngressClass),
        "Service" => serde_json::from_value(document).map(Object::Service),
        "EndpointSlice" => serde_json::from_value(document).map(Object::EndpointSlice),
        "Secret" => serde_json::from_value(document).map(Object::Secret),
        "ConfigMap" => serde_json::from_value(document).map(Object::ConfigMap),
        "Node" => serde_json::from_value(document).map(Object::Node),
        "Namespace" => serde_json::from_value(document).map(Object::Namespace),
        other => panic!("{}: kind {other:?} is not read", file.display()),
    };
    read.unwrap_or_else(|why| panic!("{}: {kind}: {why}", file.display()))
}

fn sorted(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap_or_else(|why| panic!("{}: {why}", folder.display()))
        .map(|entry| entry.expect("readable folder").path())
        .collect();
    entries.sort();
    entries
}

fn serialized(controller: &Controller) -> Value {
    let Desired { generation: _, routes, backends, server_names, certificates, listeners, vips } = controller.desired();
    let hosts = routes.iter().map(|(host, of)| {
        let routes: Vec<Value> = of.routes.iter().map(route).collect();
        let value = json!({
            "dialect": of.dialect,
            "matching": of.matching,
            "routes": routes,
            "fallback": of.fallback.as_ref().map(route),
        });
        (host.to_string(), value)
    });
    let mut all = Map::new();
    all.insert("routes".into(), Value::Object(hosts.collect()));
    all.insert("backends".into(), table(backends.iter().map(|(id, of)| (id, json!(**of)))));
    all.insert("server_names".into(), table(server_names.iter().map(|(host, of)| (host, json!(**of)))));
    all.insert("certificates".into(), table(certificates.iter().map(|(id, of)| (id, json!(of.names)))));
    all.insert("listeners".into(), table(listeners.iter().map(|(port, of)| (port, json!(**of)))));
    all.insert("vips".into(), table(vips.iter().map(|(address, of)| (address, json!(**of)))));
    all.insert("rejections".into(), controller.rejections().map(Rejection::to_string).map(Value::String).collect());
    all.retain(|_, value| match value {
        Value::Object(map) => !map.is_empty(),
        _ => true,
    });
    Value::Object(all)
}

/// One route on few lines: a golden file is read by people.
fn route(route: &sluicegate_config::Route) -> Value {
    let mut value = json!({
        "path": route.path,
        "action": route.action,
        "origin": format!("{} {}", route.origin.ingress, route.origin.field),
    });
    if *route.policy != sluicegate_config::Policy::default() {
        value["policy"] = json!(*route.policy);
    }
    value
}

fn table<K: Display>(entries: impl Iterator<Item = (K, Value)>) -> Value {
    Value::Object(entries.map(|(key, value)| (key.to_string(), value)).collect())
}

fn difference(expected: &str, actual: &str) -> String {
    let (expected, actual): (Vec<_>, Vec<_>) = (expected.lines().collect(), actual.lines().collect());
    let first = expected.iter().zip(&actual).take_while(|(a, b)| a == b).count();
    let show =
        |lines: &[&str]| lines.iter().skip(first).take(12).map(|line| format!("    {line}\n")).collect::<String>();
    format!("  differs from line {}; expected\n{}  became\n{}", first + 1, show(&expected), show(&actual))
}
