//! The manifests of `deploy/`, read for tests.

#![allow(dead_code, reason = "every test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test fails where something is not there")]

pub mod container;

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A path below `deploy/`.
pub fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path)
}

/// The objects of a file, in their order.
pub fn objects(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    objects_of(&text)
}

/// The objects of a text.
pub fn objects_of(text: &str) -> Vec<Value> {
    let documents = text.split("\n---\n").map(|text| text.trim_start_matches("---\n"));
    let documents = documents.filter(|text| text.lines().any(|line| !line.is_empty() && !line.starts_with('#')));
    documents.map(|text| yaml_serde::from_str(text).unwrap_or_else(|error| panic!("{error}:\n{text}"))).collect()
}

/// The plain manifest.
pub fn plain() -> Vec<Value> {
    objects(&deploy("manifests/sluicegate.yaml"))
}

/// Kind, namespace and name.
pub fn reference(object: &Value) -> String {
    let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
    format!("{} {}/{}", object["kind"].as_str().unwrap_or("?"), text("namespace"), text("name"))
}

/// Those of a kind.
pub fn of_kind<'a>(objects: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(move |object| object["kind"] == kind)
}

/// A list; empty where there is none.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A pod of the manifest, with what makes it.
pub struct Workload<'a> {
    /// `sluicegate-gateway`.
    pub name: &'a str,
    pub object: &'a Value,
    /// Its pods.
    pub pod: &'a Value,
    /// The one container that stays.
    pub container: &'a Value,
}

/// What makes pods.
pub fn workloads(objects: &[Value]) -> Vec<Workload<'_>> {
    let makers = objects.iter().filter(|object| object["spec"]["template"].is_object());
    makers
        .map(|object| {
            let pod = &object["spec"]["template"]["spec"];
            let [container] = list(&pod["containers"]) else { panic!("{}: one container", reference(object)) };
            Workload { name: object["metadata"]["name"].as_str().unwrap(), object, pod, container }
        })
        .collect()
}

/// The arguments of a container as the kubelet gives them on some node.
pub fn arguments(container: &Value) -> Vec<String> {
    arguments_on(container, "edge1")
}

/// The same on that node.
pub fn arguments_on(container: &Value, node: &str) -> Vec<String> {
    let variables = BTreeMap::from([("NODE_NAME", node)]);
    let named: Vec<&str> = list(&container["env"]).iter().filter_map(|one| one["name"].as_str()).collect();
    let arguments = list(&container["args"]).iter().map(|argument| {
        let mut argument = argument.as_str().unwrap().to_owned();
        for name in &named {
            if let Some(value) = variables.get(name) {
                argument = argument.replace(&format!("$({name})"), value);
            }
        }
        assert!(!argument.contains("$("), "{argument}: a variable that is not set");
        argument
    });
    arguments.collect()
}

/// The value of `--flag=value`.
pub fn flag<'a>(arguments: &'a [String], name: &str) -> Option<&'a str> {
    arguments.iter().find_map(|argument| argument.strip_prefix(name)?.strip_prefix('='))
}
