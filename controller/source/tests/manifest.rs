//! What becomes of the bytes of one file.

use sluicegate_config::{Rejection, Verdict};
use sluicegate_source::manifest::{Document, Format, Manifest, Refused, Source, parse};
use sluicegate_translate::Object;
use std::sync::Arc;

fn read(format: Format, text: &str) -> Manifest {
    let path = Arc::<str>::from("apps/web.yaml");
    parse(Source { path: &path, format, bytes: text.as_bytes() }, |_| false)
}

fn yaml(text: &str) -> Manifest {
    read(Format::Yaml, text)
}

fn objects(manifest: &Manifest) -> Vec<&Object> {
    manifest
        .documents
        .iter()
        .flat_map(|document| match document {
            Document::Parsed { objects, .. } => objects.iter().map(|(_, object)| &**object).collect(),
            Document::Known(_) => Vec::new(),
        })
        .collect()
}

fn names(manifest: &Manifest) -> Vec<String> {
    objects(manifest).into_iter().map(|object| object.reference().to_string()).collect()
}

fn only_note(manifest: &Manifest) -> &Rejection {
    assert_eq!(manifest.notes.len(), 1, "{:#?}", manifest.notes);
    &manifest.notes[0]
}

const INGRESS: &str = "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: web, namespace: shop}\n\
                       spec:\n  rules:\n  - host: web.example\n    http:\n      paths:\n      - path: /\n        \
                       pathType: Prefix\n        backend: {service: {name: web, port: {number: 80}}}\n";
const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 80}]}\n";

#[test]
fn every_kind_is_read_and_a_missing_namespace_is_default() {
    let text = format!(
        "{INGRESS}---\n{SERVICE}---\napiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {{name: main, namespace: x}}\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: web-1}}\naddressType: IPv4\nendpoints: []\nports: []\n\
         ---\napiVersion: v1\nkind: Secret\nmetadata: {{name: cert}}\ntype: kubernetes.io/tls\ndata: {{tls.crt: aGk=}}\n\
         ---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: vips}}\ndata: {{192.0.2.1: shop/web}}\n\
         ---\napiVersion: v1\nkind: Node\nmetadata: {{name: n1}}\nstatus: {{addresses: [{{type: InternalIP, address: 192.0.2.11}}]}}\n"
    );
    let manifest = yaml(&text);
    assert_eq!(
        names(&manifest),
        [
            "Ingress shop/web",
            "Service default/web",
            "IngressClass main",
            "EndpointSlice default/web-1",
            "Secret default/cert",
            "ConfigMap default/vips",
            "Node n1"
        ]
    );
    assert_eq!(manifest.notes, []);
}

#[test]
fn lists_are_expanded() {
    let list = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Service, metadata: {name: a}}\n\
                - {apiVersion: v1, kind: Service, metadata: {name: b, namespace: c}}\n- {apiVersion: apps/v1, kind: Deployment, metadata: {name: d}}\n";
    let typed = "{\"apiVersion\": \"v1\", \"kind\": \"ServiceList\", \"items\": [{\"metadata\": {\"name\": \"a\"}}, {\"metadata\": {\"name\": \"b\", \"namespace\": \"c\"}}]}";
    assert_eq!(names(&yaml(list)), ["Service default/a", "Service c/b"]);
    assert_eq!(names(&read(Format::Json, typed)), ["Service default/a", "Service c/b"]);
    assert_eq!(names(&yaml("apiVersion: v1\nkind: List\nitems:\n")), [] as [&str; 0]);
}

#[test]
fn json_texts_follow_each_other() {
    let text = "{\"apiVersion\":\"v1\",\"kind\":\"Service\",\"metadata\":{\"name\":\"a\"}}\n\n{\"apiVersion\":\"v1\",\"kind\":\"Service\",\"metadata\":{\"name\":\"b\"}}";
    assert_eq!(names(&read(Format::Json, text)), ["Service default/a", "Service default/b"]);
    let broken = format!("{text} {{\"apiVersion\":");
    let manifest = read(Format::Json, &broken);
    assert_eq!(names(&manifest), ["Service default/a", "Service default/b"]);
    assert_eq!(manifest.refused, Refused::Anything);
    assert_eq!(only_note(&manifest).verdict, Verdict::Rejected);
}

#[test]
fn a_broken_document_costs_itself_alone() {
    let manifest = yaml(&format!("{INGRESS}---\nkind: [broken\n---\n{SERVICE}"));
    assert_eq!(names(&manifest), ["Ingress shop/web", "Service default/web"]);
    let note = only_note(&manifest);
    assert_eq!(note.object.to_string(), "File apps/web.yaml");
    assert_eq!((note.field.as_str(), note.verdict), ("document 2", Verdict::Rejected));
    assert!(note.reason.contains("line 1"), "{}", note.reason);
    assert_eq!(manifest.refused, Refused::Anything);
}

/// Object, field, part of the reason, part of the remedy.
type Expected = (&'static str, &'static str, &'static str, &'static str);

#[test]
fn wrong_objects_are_refused_by_field() {
    let ingress = |from: &str, to: &str| INGRESS.replace(from, to);
    let table: Vec<(String, Expected)> = vec![
        (
            ingress("number: 80", "number: \"80\""),
            (
                "Ingress shop/web",
                "spec.rules[0].http.paths[0].backend.service.port.number",
                "string \"80\"",
                "without quotes",
            ),
        ),
        (ingress("host: web.example", "host: 12"), ("Ingress shop/web", "spec.rules[0].host", "12", "in quotes")),
        (
            ingress("namespace: shop", "annotations: {a/b: true}"),
            ("Ingress default/web", "metadata.annotations.a/b", "true", "in quotes"),
        ),
        (
            ingress("  rules:", "  rules: nothing\n  x:"),
            ("Ingress shop/web", "spec.rules", "nothing", "kubectl explain"),
        ),
        (
            ingress("name: web,", "generateName: web-,"),
            ("File apps/web.yaml", "document 1: metadata.name", "no name", "metadata.name"),
        ),
        (
            ingress("name: web,", "name: Web_1,"),
            ("File apps/web.yaml", "document 1: metadata.name", "Web_1", "lower-case"),
        ),
        (ingress("name: web,", "name: a/b,"), ("File apps/web.yaml", "document 1: metadata.name", "a/b", "lower-case")),
        (
            ingress("namespace: shop", "namespace: 7"),
            ("File apps/web.yaml", "document 1: metadata.namespace", "7", "quoted"),
        ),
        (
            ingress("networking.k8s.io/v1", "extensions/v1beta1"),
            ("Ingress shop/web", "apiVersion", "extensions/v1beta1", "networking.k8s.io/v1"),
        ),
        (
            ingress("kind: Ingress", "kind:"),
            ("File apps/web.yaml", "document 1: kind", "apiVersion and kind", "set `kind`"),
        ),
        (
            "- a\n- b\n".to_owned(),
            ("File apps/web.yaml", "document 1: (document)", "not a mapping", "out of the folder"),
        ),
        (
            "replicas: 3\n".to_owned(),
            ("File apps/web.yaml", "document 1: apiVersion", "apiVersion and kind", "set `apiVersion`"),
        ),
        (
            "apiVersion: v1\nkind: List\nitems: {a: b}\n".to_owned(),
            ("File apps/web.yaml", "document 1: items", "a list", "as a list"),
        ),
        (
            "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {tls.key: hunter2!}\n".to_owned(),
            ("Secret default/s", "data.tls.key", "wrong type", "base64"),
        ),
    ];
    for (text, (object, field, reason, remedy)) in table {
        let manifest = yaml(&text);
        assert!(names(&manifest).is_empty(), "{text}");
        let note = only_note(&manifest);
        assert_eq!((note.object.to_string().as_str(), note.field.as_str()), (object, field), "{text}{note}");
        assert_eq!(note.verdict, Verdict::Rejected);
        assert!(note.reason.contains(reason), "{text}{note}");
        assert!(note.remedy.contains(remedy), "{text}{note}");
        assert_ne!(manifest.refused, Refused::Nothing, "{text}");
        assert!(!note.to_string().contains("hunter2"), "a secret is in {note}");
    }
}

#[test]
fn other_kinds_are_told_once_a_kind() {
    let text = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: b}\n\
                ---\napiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: b}\n";
    let manifest = yaml(text);
    let told = manifest.notes.iter().map(|note| (note.verdict, note.reason.as_str())).collect::<Vec<_>>();
    assert_eq!(
        told,
        [
            (Verdict::Ignored, "2 objects are of kind Deployment (apps/v1), which the gateway does not read"),
            (Verdict::Ignored, "1 object is of kind Service (serving.knative.dev/v1), which the gateway does not read"),
        ]
    );
    assert_eq!(manifest.refused, Refused::Nothing);
}

#[test]
fn unknown_fields_are_warned_of_and_the_object_is_taken() {
    let manifest = yaml(&INGRESS.replace("path: /", "path: /\n        servicePort: 80"));
    assert_eq!(names(&manifest), ["Ingress shop/web"]);
    let note = only_note(&manifest);
    assert_eq!((note.verdict, note.field.as_str()), (Verdict::Warning, "spec.rules[0].http.paths[0].servicePort"));
}

#[test]
fn string_data_is_merged_into_data() {
    let manifest = yaml(
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: b25l, b: dHdv}\nstringData: {b: three, c: four}\n",
    );
    let [Object::Secret(secret)] = objects(&manifest)[..] else { panic!("{manifest:?}") };
    let data = secret.data.iter().flatten().map(|(key, value)| (key.as_str(), value.0.as_slice()));
    assert_eq!(data.collect::<Vec<_>>(), [("a", &b"one"[..]), ("b", b"three"), ("c", b"four")]);
    assert_eq!(secret.string_data, None);
}

#[test]
fn bytes_that_are_no_text_are_refused() {
    let path = Arc::<str>::from("x.yaml");
    let manifest = parse(Source { path: &path, format: Format::Yaml, bytes: b"a: \xff\xfe" }, |_| false);
    assert!(only_note(&manifest).reason.contains("not UTF-8"));
    assert_eq!(manifest.refused, Refused::Anything);
}

#[test]
fn notes_of_one_file_are_bounded() {
    let manifest = yaml(&"apiVersion: v1\nkind: Service\n---\n".repeat(5_000));
    assert!(manifest.notes.len() <= 102, "{}", manifest.notes.len());
    assert!(manifest.notes.iter().any(|note| note.reason.contains("4900 more")));
}

#[test]
fn known_texts_are_not_parsed_again() {
    let path = Arc::<str>::from("x.yaml");
    let text = format!("{INGRESS}---\n{SERVICE}");
    let first = parse(Source { path: &path, format: Format::Yaml, bytes: text.as_bytes() }, |_| false);
    let known = first.documents.iter().filter_map(|document| match document {
        Document::Parsed { digest, .. } => *digest,
        Document::Known(_) => None,
    });
    let known = known.collect::<Vec<_>>();
    assert_eq!(known.len(), 2);
    let again = format!("{INGRESS}---\n{}", SERVICE.replace("80", "81"));
    let second =
        parse(Source { path: &path, format: Format::Yaml, bytes: again.as_bytes() }, |digest| known.contains(&digest));
    assert!(matches!(second.documents[..], [Document::Known(digest), Document::Parsed { .. }] if digest == known[0]));
}

mod properties {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_end_it(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let path = Arc::<str>::from("x.yaml");
            for format in [Format::Yaml, Format::Json] {
                parse(Source { path: &path, format, bytes: &bytes }, |_| false);
            }
        }

        /// Manifests with one thing replaced: whatever comes out, it comes out, and what was not touched is there.
        #[test]
        fn damage_stays_in_its_document(at in 0..INGRESS.len(), with in "[-:{}\\[\\]&*!|>'\"%@` \\n\\ta-z]{0,6}", cut in 0..8_usize) {
            let mut damaged = INGRESS.to_owned();
            damaged.replace_range(at..(at + cut).min(INGRESS.len()), &with);
            prop_assume!(!damaged.contains("---") && !damaged.contains("..."));
            let manifest = yaml(&format!("{SERVICE}---\n{damaged}\n---\n{}", SERVICE.replace("web", "other")));
            let names = names(&manifest);
            prop_assert_eq!(names.first().map(String::as_str), Some("Service default/web"));
            prop_assert_eq!(names.last().map(String::as_str), Some("Service default/other"));
        }
    }
}
