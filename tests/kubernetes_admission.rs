//! The webhook, asked by a real API server: what is bad is refused in our words, what is good is written, and a gateway
//! that is not there keeps nobody from anything.

mod cli_support;
mod cluster_support;

use cli_support::{AT_MOST, Gateway, free_address, run_to_end, try_get};
use cluster_support::Cluster;
use http::Method;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

const INGRESSES: &str = "/apis/networking.k8s.io/v1/namespaces/shop/ingresses";

fn ingress(name: &str, host: &str, path: &str) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"namespace": "shop", "name": name},
        "spec": {"ingressClassName": "sluicegate", "rules": [{"host": host, "http": {"paths": [
            {"path": path, "pathType": "Prefix", "backend": {"service": {"name": name, "port": {"number": 80}}}}]}}]}})
}

/// Files for `--webhook-cert` and `--webhook-key`, and the certificate for the API server.
fn pair(folder: &Path) -> String {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    std::fs::write(folder.join("tls.crt"), made.cert.pem()).expect("written");
    std::fs::write(folder.join("tls.key"), made.signing_key.serialize_pem()).expect("written");
    made.cert.pem()
}

fn configuration(webhook: SocketAddr, authority: &str) -> Value {
    let rule = |group: &str, resource: &str| json!({"apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": [resource]});
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "sluicegate"},
        "webhooks": [{
            "name": "validate.sluicegate.io", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "failurePolicy": "Ignore", "timeoutSeconds": 5,
            "clientConfig": {"url": format!("https://{webhook}/validate"), "caBundle": base64(authority.as_bytes())},
            "rules": [rule("networking.k8s.io", "ingresses"), rule("", "configmaps"), rule("", "services")],
        }],
    })
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = three.iter().enumerate().fold(0_u32, |bits, (at, byte)| bits | u32::from(*byte) << (16 - 8 * at));
        for at in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= three.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

fn metric(gateway: &Gateway, series: &str) -> f64 {
    let text = try_get(gateway.metrics, &gateway.metrics.to_string(), "/metrics").expect("an answer");
    let line = text.lines().find_map(|line| line.strip_prefix(series)).unwrap_or_else(|| panic!("{series} in {text}"));
    line.trim().parse().expect("a number")
}

#[test]
#[ignore = "needs kube-apiserver and etcd on the PATH or in KUBEBUILDER_ASSETS"]
fn a_real_api_server_asks_before_it_writes() {
    let cluster = Cluster::real();
    for namespace in ["shop", "sluicegate-system"] {
        cluster.apply(&json!({"kind": "Namespace", "metadata": {"name": namespace}}));
    }
    for (name, controller) in [("sluicegate", "sluicegate.io/ingress"), ("other", "example.test/other")] {
        let class = json!({"kind": "IngressClass", "metadata": {"name": name}, "spec": {"controller": controller}});
        cluster.apply(&class);
    }
    let folder = tempfile::tempdir().expect("a folder");
    let authority = pair(folder.path());
    let webhook = free_address();
    let (kubeconfig, address) = (cluster.kubeconfig(), webhook.to_string());
    let file = |name: &str| folder.path().join(name).to_str().expect("text").to_owned();
    let (certificate, key) = (file("tls.crt"), file("tls.key"));
    let mut arguments = vec!["--kubeconfig", &kubeconfig, "--forward", "off", "--log-format", "json"];
    for flag in ["--http", "--https", "--metrics", "--admin"] {
        arguments.extend([flag, "127.0.0.1:0"]);
    }
    arguments.extend(["--webhook", &address, "--webhook-cert", &certificate, "--webhook-key", &key]);
    let gateway = Gateway::start_with(&arguments, &[]);
    let (status, _, answer) = cluster.send(
        Method::POST,
        "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
        &configuration(webhook, &authority),
    );
    assert_eq!(status, 201, "{answer}");

    // The API server takes a moment to ask.
    let bad = |number: usize| {
        let mut bad = ingress(&format!("bad{number}"), "bad.example", "/");
        bad["metadata"]["annotations"] = json!({"sluicegate.io/load-balance": "fastest"});
        bad
    };
    let begun = Instant::now();
    let refused = (0..).find_map(|number| {
        let (status, _, answer) = cluster.send(Method::POST, INGRESSES, &bad(number));
        assert!(begun.elapsed() < AT_MOST, "nothing is refused: {status} {answer}");
        std::thread::sleep(Duration::from_millis(200));
        (status != 201).then_some((status, answer))
    });
    let (status, answer) = refused.expect("it ends");
    let message = answer["message"].as_str().expect("a message");
    assert_eq!(status, 422, "{answer}");
    assert!(
        message.starts_with("admission webhook \"validate.sluicegate.io\" denied the request: Ingress shop/bad"),
        "{message}"
    );
    assert!(message.contains("load-balance") && message.contains("fastest"), "{message}");
    println!("{message}");

    // What is good is written, and what is wrong but may come is a warning.
    let mut good = ingress("good", "good.example", "/");
    let (status, warnings, answer) = cluster.send(Method::POST, INGRESSES, &good);
    assert_eq!(status, 201, "{answer}");
    assert!(warnings.iter().any(|warning| warning.contains("Service shop/good does not exist")), "{warnings:?}");
    // A second one of the same path loses, and is told to whom, once the gateway has seen the first.
    let thief = ingress("thief", "good.example", "/");
    let begun = Instant::now();
    let message = loop {
        let path = format!("{INGRESSES}?dryRun=All");
        let (status, _, answer) = cluster.send(Method::POST, &path, &thief);
        if status != 201 {
            break answer["message"].as_str().expect("a message").to_owned();
        }
        assert!(begun.elapsed() < AT_MOST, "the conflict is not said");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(message.contains("already claimed by Ingress shop/good"), "{message}");
    println!("{message}");
    // Of another class it is none of our business.
    let mut of_others = bad(1_000_000);
    of_others["spec"]["ingressClassName"] = json!("other");
    let (status, warnings, _) = cluster.send(Method::POST, INGRESSES, &of_others);
    assert_eq!((status, warnings), (201, vec![]));
    // Updates are judged too, and a status is not.
    good["spec"]["rules"][0]["http"]["paths"][0]["path"] = json!("/v2");
    cluster.apply(&good);
    let maps = "/api/v1/namespaces/sluicegate-system/configmaps";
    let vips = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "vips"}, "data": {"nonsense": "shop/good"}});
    let (status, _, answer) = cluster.send(Method::POST, maps, &vips);
    assert!(status == 422 && answer["message"].as_str().is_some_and(|text| text.contains("nonsense")), "{answer}");
    assert!(metric(&gateway, "sluicegate_admission_reviews_total{verdict=\"refused\"}") >= 3.0);

    // Nobody there: everything is written, and deletions always were.
    drop(gateway);
    let (status, _, answer) = cluster.send(Method::POST, INGRESSES, &bad(2_000_000));
    assert_eq!(status, 201, "{answer}");
    let (status, ..) = cluster.send(Method::DELETE, &format!("{INGRESSES}/good"), &Value::Null);
    assert_eq!(status, 200);
}

#[test]
fn a_webhook_needs_a_cluster_and_its_files() {
    for (arguments, part) in [
        (vec!["run", "--manifests", ".", "--webhook", "127.0.0.1:0"], "--webhook is for objects of a cluster"),
        (vec!["run", "--kubeconfig", "x", "--webhook", "127.0.0.1:0"], "--webhook needs --webhook-cert FILE"),
        (vec!["run", "--kubeconfig", "x", "--webhook-key", "x"], "are for --webhook ADDR"),
    ] {
        let end = run_to_end(&arguments);
        assert!(end.code == Some(2) && end.stderr.contains(part), "{arguments:?}: {:?} {}", end.code, end.stderr);
    }
}
