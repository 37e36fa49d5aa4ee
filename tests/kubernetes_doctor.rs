//! `doctor` on a cluster: it names the rights that are missing with the rules to add, and says what kube-proxy is set to.

mod cli_support;
mod cluster_support;

use cli_support::run_to_end;
use cluster_support::Cluster;
use serde_json::{Value, json};
use sluicegate_source::rights::{self, Account, Reach, Right};

/// The findings of a gateway's account, and how `doctor` ended.
fn examined(kubeconfig: &str) -> (Vec<Value>, Option<i32>) {
    let end = run_to_end(&["doctor", "--role", "gateway", "--kubeconfig", kubeconfig, "-o", "json"]);
    let findings =
        serde_json::from_str(&end.stdout).unwrap_or_else(|error| panic!("{error}: {} {}", end.stdout, end.stderr));
    (findings, end.code)
}

fn named<'a>(findings: &'a [Value], part: &str) -> Option<&'a Value> {
    findings.iter().find(|finding| finding["what"].as_str().is_some_and(|what| what.contains(part)))
}

fn rule(right: &Right, verbs: &[&str]) -> Value {
    json!({"apiGroups": [right.group], "resources": [right.resource], "verbs": verbs})
}

/// Gives the account these rules in the whole cluster.
fn grant(cluster: &Cluster, rules: &[Value]) {
    let api = "rbac.authorization.k8s.io/v1";
    cluster.apply_strictly(&json!({
        "apiVersion": api, "kind": "ClusterRole", "metadata": {"name": "examined"}, "rules": rules,
    }));
    cluster.apply_strictly(&json!({
        "apiVersion": api, "kind": "ClusterRoleBinding", "metadata": {"name": "examined"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "examined"},
        "subjects": [{"kind": "ServiceAccount", "namespace": "sluicegate-system", "name": "examined"}],
    }));
}

#[test]
#[ignore = "needs kube-apiserver and etcd on the PATH or in KUBEBUILDER_ASSETS"]
fn missing_rights_are_named_with_their_rules() {
    let cluster = Cluster::real();
    cluster.apply(&json!({"kind": "Namespace", "metadata": {"name": "sluicegate-system"}}));
    let account = json!({"kind": "ServiceAccount", "metadata": {"namespace": "sluicegate-system", "name": "examined"}});
    cluster.apply(&account);
    let (port, authority) = cluster.address();
    let folder = tempfile::tempdir().expect("a folder");
    let kubeconfig = folder.path().join("kubeconfig");
    let token = cluster.token("sluicegate-system", "examined");
    let file = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": format!("https://127.0.0.1:{port}"), "certificate-authority": authority}}],
        "users": [{"name": "test", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    });
    std::fs::write(&kubeconfig, file.to_string()).expect("written");
    let kubeconfig = kubeconfig.to_str().expect("text");

    // Nothing is allowed: each right without a flag is named.
    let (findings, code) = examined(kubeconfig);
    assert_eq!(code, Some(1));
    for right in rights::of(Account::Gateway) {
        let finding = named(&findings, &format!("{} {} ", right.verbs[right.verbs.len() - 1], right.resource));
        assert_eq!(finding.is_some(), right.flag.is_none(), "{}: {findings:#?}", right.resource);
    }
    let ingresses = named(&findings, " ingresses ").expect("it is missing");
    assert_eq!(ingresses["severity"], "broken");
    let rule_to_add = r#"{apiGroups: ["networking.k8s.io"], resources: [ingresses], verbs: [list, watch]}"#;
    assert!(ingresses["change"].as_str().is_some_and(|change| change.contains(rule_to_add)), "{ingresses}");

    // Everything but Secrets, of which one may not read all, and a verb of Events.
    let all: Vec<Value> = rights::of(Account::Gateway)
        .filter(|right| right.reach != Reach::Certificates)
        .map(|right| match right.resource {
            "events" => rule(right, &["create", "get"]),
            _ => rule(right, right.verbs),
        })
        .collect();
    grant(&cluster, &all);
    let (findings, code) = examined(kubeconfig);
    let missing: Vec<&Value> = findings
        .iter()
        .filter(|finding| finding["what"].as_str().is_some_and(|what| what.contains("right to")))
        .collect();
    assert_eq!(missing.len(), 2, "{findings:#?}");
    assert_eq!(named(&findings, "the right to patch events").expect("it is missing")["severity"], "risky");
    assert_eq!(named(&findings, "secrets in all namespaces").expect("it is missing")["severity"], "hint");
    assert_eq!(code, Some(0), "nothing stands in the way");

    // kube-proxy, which the account may not read and an administrator may.
    cluster.apply(&json!({"kind": "ConfigMap", "metadata": {"namespace": "kube-system", "name": "kube-proxy"},
        "data": {"config.conf": "kind: KubeProxyConfiguration\nmode: ipvs\nipvs:\n  strictARP: false\n"}}));
    assert!(named(&examined(kubeconfig).0, "kube-proxy").is_none());
    let (findings, code) = examined(&cluster.kubeconfig());
    let finding = named(&findings, "IPVS mode without strictARP").unwrap_or_else(|| panic!("{findings:#?}"));
    assert_eq!((&finding["severity"], code), (&json!("risky"), Some(0)));
}

#[test]
fn an_api_server_that_is_away_is_a_finding() {
    let cluster = Cluster::in_process();
    cluster.server().go_down();
    let (findings, code) = examined(&cluster.kubeconfig());
    let finding = named(&findings, "the API server cannot be asked").unwrap_or_else(|| panic!("{findings:#?}"));
    assert_eq!((&finding["severity"], code), (&json!("broken"), Some(1)));
    let (findings, _) = examined("/nonexistent/kubeconfig");
    assert!(named(&findings, "/nonexistent/kubeconfig").is_some(), "{findings:#?}");
}
