//! What is kept of Nodes, and that the rest of what happens to them makes nothing anew.

use serde_json::{Value, json};
use sluicegate_config::{Kind, ObjectRef, Settings};
use sluicegate_translate::{Dirty, Node, Object, ObjectChange, Objects};

const LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

fn node(name: &str, rest: &Value) -> ObjectChange {
    let mut node = json!({"metadata": {"name": name}});
    let fields = rest.as_object().expect("a map").clone();
    node.as_object_mut().expect("a map").extend(fields);
    node["metadata"]["name"] = json!(name);
    ObjectChange::Set(Object::Node(serde_json::from_value(node).expect("a Node")))
}

fn addresses(of: &[(&str, &str)]) -> Value {
    of.iter().map(|(kind, address)| json!({"type": kind, "address": address})).collect()
}

fn read(rest: &Value) -> Node {
    let mut objects = Objects::new(&Settings::default());
    objects.apply(node("n1", rest));
    objects.node("n1").expect("it is kept").clone()
}

#[test]
fn facts_are_addresses_by_kind_and_the_two_marks() {
    let table = [
        (json!({}), Node::default()),
        (
            json!({"status": {"addresses": addresses(&[
                ("Hostname", "n1"),
                ("ExternalIP", "198.51.100.11"),
                ("InternalIP", "2001:db8::11"),
                ("InternalIP", "192.0.2.11"),
                ("InternalIP", "192.0.2.12"),
                ("InternalIP", "192.0.2.11"),
                ("InternalIP", "127.0.0.1"),
                ("InternalIP", "somewhere"),
            ])}}),
            Node {
                internal: ["2001:db8::11", "192.0.2.11", "192.0.2.12"].map(|text| text.parse().expect("one")).into(),
                other: ["127.0.0.1", "198.51.100.11"].map(|text| text.parse().expect("an address")).into(),
                ..Node::default()
            },
        ),
        (json!({"metadata": {"labels": {LABEL: ""}}}), Node { is_excluded: true, ..Node::default() }),
        // Its presence counts, as for every controller of load balancers.
        (json!({"metadata": {"labels": {LABEL: "false"}}}), Node { is_excluded: true, ..Node::default() }),
        (json!({"spec": {"unschedulable": true}}), Node { is_unschedulable: true, ..Node::default() }),
    ];
    for (object, expected) in table {
        assert_eq!(read(&object), expected, "{object}");
    }
}

#[test]
fn packets_for_a_node_go_to_its_first_address_of_the_family_or_else_to_the_other_family() {
    let both = read(&json!({"status": {"addresses": addresses(&[
        ("InternalIP", "192.0.2.11"), ("InternalIP", "2001:db8::11"), ("InternalIP", "192.0.2.12"),
    ])}}));
    assert_eq!(both.address(false), "192.0.2.11".parse().ok());
    assert_eq!(both.address(true), "2001:db8::11".parse().ok());
    let single = read(&json!({"status": {"addresses": addresses(&[("InternalIP", "192.0.2.11")])}}));
    assert_eq!(single.address(true), "192.0.2.11".parse().ok());
    let external = read(&json!({"status": {"addresses": addresses(&[("ExternalIP", "198.51.100.11")])}}));
    assert_eq!(external.address(false), None);
    assert!(external.has_address("198.51.100.11".parse().expect("an address")));
}

#[test]
fn heartbeats_make_nothing_dirty() {
    let mut objects = Objects::new(&Settings { watch_namespace: Some("elsewhere".into()), ..Settings::default() });
    let at = |beat: u32, address: &str| {
        node(
            "n1",
            &json!({"status": {
                "addresses": addresses(&[("InternalIP", address)]),
                "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": format!("2027-06-01T00:00:{beat:02}Z")}],
                "images": [{"names": [format!("example.test/image:{beat}")], "sizeBytes": beat}],
            }}),
        )
    };
    let moved = Dirty { nodes: ["n1".into()].into(), ..Dirty::default() };
    assert_eq!(objects.apply(at(0, "192.0.2.11")), moved);
    for beat in 1..60 {
        assert_eq!(objects.apply(at(beat, "192.0.2.11")), Dirty::default());
    }
    assert_eq!(objects.apply(at(0, "192.0.2.12")), moved);
    assert_eq!(objects.count(Kind::Node), 1);
    let remove = || ObjectChange::Remove(ObjectRef::new(Kind::Node, "", "n1"));
    assert_eq!(objects.apply(remove()), moved);
    assert!(objects.apply(remove()).is_empty());
}
