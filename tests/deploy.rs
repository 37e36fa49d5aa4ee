//! What people install: the plain manifest and the chart say what the program takes, needs and is allowed, and no more.

mod cli_support;
mod deploy_support;

use cli_support::run_to_end;
use deploy_support::{
    Workload, arguments, deploy, flag, list, objects, objects_of, of_kind, plain, reference, workloads,
};
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass, NetworkPolicy};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sluicegate_source::rights::{self, Account, Reach};
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Parses and writes again; what is not there afterwards, Kubernetes does not know.
fn through<T: Serialize + DeserializeOwned>(object: &Value) -> Value {
    let typed: T =
        serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{}: {error}", reference(object)));
    serde_json::to_value(typed).expect("JSON")
}

fn typed(object: &Value) -> Value {
    match object["kind"].as_str().unwrap_or_default() {
        "ClusterRole" => through::<ClusterRole>(object),
        "ClusterRoleBinding" => through::<ClusterRoleBinding>(object),
        "ConfigMap" => through::<ConfigMap>(object),
        "DaemonSet" => through::<DaemonSet>(object),
        "Deployment" => through::<Deployment>(object),
        "EndpointSlice" => through::<EndpointSlice>(object),
        "Ingress" => through::<Ingress>(object),
        "IngressClass" => through::<IngressClass>(object),
        "Namespace" => through::<Namespace>(object),
        "NetworkPolicy" => through::<NetworkPolicy>(object),
        "PodDisruptionBudget" => through::<PodDisruptionBudget>(object),
        "Role" => through::<Role>(object),
        "RoleBinding" => through::<RoleBinding>(object),
        "Secret" => through::<Secret>(object),
        "Service" => through::<Service>(object),
        "ServiceAccount" => through::<ServiceAccount>(object),
        "ValidatingWebhookConfiguration" => through::<ValidatingWebhookConfiguration>(object),
        _ => panic!("{}: no type is known for it", reference(object)),
    }
}

/// Fields of `given` that `kept` lacks.
fn lost(given: &Value, kept: &Value, path: &str, found: &mut Vec<String>) {
    match (given, kept) {
        (Value::Object(given), Value::Object(_)) => {
            for (key, value) in given {
                lost(value, &kept[key], &format!("{path}.{key}"), found);
            }
        }
        (Value::Array(given), Value::Array(kept)) if given.len() == kept.len() => {
            for (index, (given, kept)) in given.iter().zip(kept).enumerate() {
                lost(given, kept, &format!("{path}[{index}]"), found);
            }
        }
        // An empty rule or selector may be left out.
        (Value::Array(given), Value::Null) if given.is_empty() => {}
        _ if given == kept => {}
        _ => found.push(format!("{path}: {given} became {kept}")),
    }
}

fn assert_kubernetes_takes(objects: &[Value]) {
    let mut seen = BTreeSet::new();
    let of_operator = |object: &&Value| matches!(object["kind"].as_str(), Some("ServiceMonitor" | "PrometheusRule"));
    for object in objects.iter().filter(|object| !of_operator(object)) {
        let mut found = Vec::new();
        lost(object, &typed(object), "", &mut found);
        assert!(found.is_empty(), "{}: {found:#?}", reference(object));
        assert!(seen.insert(reference(object)), "{} is there twice", reference(object));
    }
}

#[test]
fn objects_have_no_field_that_kubernetes_does_not_know() {
    let objects = plain();
    assert!(objects.len() > 20, "{} objects", objects.len());
    assert_kubernetes_takes(&objects);
    let mut wrong = objects.iter().find(|object| object["kind"] == "DaemonSet").expect("a DaemonSet").clone();
    wrong["spec"]["template"]["spec"]["hostNetworks"] = true.into();
    let mut found = Vec::new();
    lost(&wrong, &typed(&wrong), "", &mut found);
    assert_eq!(found, [".spec.template.spec.hostNetworks: true became null"], "this test finds what is wrong");
}

/// The command line of a container, read by the program itself; `--help` in the end, so that it does nothing else.
fn assert_arguments_are_taken(name: &str, container: &Value) {
    let mut line = arguments(container);
    line.push("--help".to_owned());
    let end = run_to_end(&line.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(end.code, Some(0), "{name}: {line:?}: {}", end.stderr);
}

fn assert_program_takes(objects: &[Value]) {
    for Workload { name, pod, container, .. } in workloads(objects) {
        assert_arguments_are_taken(name, container);
        for init in list(&pod["initContainers"]) {
            assert_arguments_are_taken(name, init);
        }
    }
}

#[test]
fn flags_are_those_of_the_program() {
    let objects = plain();
    assert_eq!(workloads(&objects).iter().map(|one| one.name).collect::<Vec<_>>(), WORKLOADS);
    assert_program_takes(&objects);
    let mut wrong = objects.iter().find(|object| object["kind"] == "DaemonSet").expect("a DaemonSet").clone();
    wrong["spec"]["template"]["spec"]["containers"][0]["args"][2] = "--metrics=somewhere".into();
    let mut line = arguments(&wrong["spec"]["template"]["spec"]["containers"][0]);
    line.push("--help".to_owned());
    let end = run_to_end(&line.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(end.code, Some(2), "this test finds what is wrong");
}

const WORKLOADS: [&str; 3] = ["sluicegate-backend", "sluicegate-director", "sluicegate-gateway"];

#[test]
fn probes_ask_where_the_program_answers() {
    let objects = plain();
    let mut of_nodes = BTreeSet::new();
    for Workload { name, pod, container, .. } in workloads(&objects) {
        let line = arguments(container);
        let metrics = flag(&line, "--metrics").and_then(|address| address.rsplit(':').next()).expect("--metrics");
        let port = |name: &str| list(&container["ports"]).iter().find(|port| port["name"] == name);
        for (probe, path) in
            [("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")]
        {
            assert_eq!(container[probe]["httpGet"]["path"], path, "{name}: {probe}");
            let asked = container[probe]["httpGet"]["port"].as_str().and_then(port).expect("a named port");
            assert_eq!(asked["containerPort"].to_string(), metrics, "{name}: {probe}");
        }
        for (port, flag_name) in [("http", "--http"), ("https", "--https")] {
            let declared = list(&container["ports"]).iter().find(|one| one["name"] == port);
            let listened = flag(&line, flag_name).and_then(|address| address.rsplit(':').next());
            assert_eq!(declared.map(|one| one["containerPort"].to_string()).as_deref(), listened, "{name}: {port}");
        }
        // Ports of the node are one name space, and those of the admin API lie in it too.
        let admin = flag(&line, "--admin").and_then(|address| address.rsplit(':').next()).map(str::to_owned);
        let in_host = pod["hostNetwork"] == true;
        assert_eq!(
            admin.is_some(),
            in_host && line[0] == "run",
            "{name}: the admin API has a port of its own in the node's network alone"
        );
        let ports = list(&container["ports"]).iter().filter_map(|port| {
            let port = if in_host { &port["containerPort"] } else { &port["hostPort"] };
            port.as_u64().map(|port| port.to_string())
        });
        for port in ports.chain(admin) {
            assert!(of_nodes.insert(port.clone()), "{name}: {port} of the node is taken twice");
            // ingress-nginx in the node's network, the kubelet, kube-proxy and the control plane.
            let taken =
                ["80", "443", "8181", "10246", "10247", "10248", "10249", "10250", "10254", "10256", "10257", "10259"];
            assert!(!taken.contains(&port.as_str()), "{name}: {port} is somebody else's");
        }
        let grace = pod["terminationGracePeriodSeconds"].as_u64().expect("a period");
        assert!(grace > 40, "{name}: longer than --lame-duck and --drain together");
    }
}

#[test]
fn images_are_of_this_release() {
    let objects = plain();
    let containers = workloads(&objects).into_iter().flat_map(|one| {
        list(&one.pod["initContainers"]).iter().chain(list(&one.pod["containers"])).map(|one| one["image"].clone())
    });
    let images: BTreeSet<String> = containers.map(|image| image.as_str().expect("an image").to_owned()).collect();
    let release = env!("CARGO_PKG_VERSION");
    assert_eq!(images, BTreeSet::from([format!("ghcr.io/sluicegate/sluicegate:{release}")]));
    let chart = std::fs::read_to_string(deploy("helm/sluicegate/Chart.yaml")).expect("Chart.yaml");
    for key in ["version", "appVersion"] {
        assert!(chart.contains(&format!("\n{key}: {release}\n")), "Chart.yaml: {key} is {release}");
    }
}

/// What the image is beside what its pods are told.
#[test]
fn the_image_runs_as_the_user_of_the_manifest() {
    let dockerfile = std::fs::read_to_string(deploy("Dockerfile")).expect("Dockerfile");
    let objects = plain();
    let gateway = workloads(&objects).into_iter().find(|one| one.name == "sluicegate-gateway").expect("gateways");
    let context = &gateway.pod["securityContext"];
    let line =
        |name: &str| dockerfile.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned();
    assert_eq!(line("USER "), format!("{}:{}", context["runAsUser"], context["runAsGroup"]));
    let ports: Vec<String> =
        list(&gateway.container["ports"]).iter().map(|port| port["containerPort"].to_string()).collect();
    assert_eq!(line("EXPOSE "), ports.join(" "));
    assert!(gateway.container["command"].is_null() && line("ENTRYPOINT ").contains("/sluicegate"));
    for path in ["manifests/sluicegate.yaml", "helm/sluicegate/Chart.yaml", "Dockerfile"] {
        let release = deploy("../.github/workflows/release.yml");
        let text = std::fs::read_to_string(&release).expect("release.yml");
        assert!(text.contains(&format!("deploy/{path}")) && deploy(path).exists(), "{path}");
    }
}

/// Rules by where their binding reaches, of one account; verbs of rules that name the same are put together.
type Rules = BTreeMap<(Reach, String, String), BTreeSet<String>>;

fn rules_in(objects: &[Value], account: &str) -> Rules {
    let mut rules = Rules::new();
    let bindings = objects.iter().filter(|object| object["roleRef"].is_object());
    for binding in bindings.filter(|binding| list(&binding["subjects"]).iter().any(|one| one["name"] == account)) {
        let role = objects.iter().find(|object| {
            object["kind"] == binding["roleRef"]["kind"]
                && object["metadata"]["name"] == binding["roleRef"]["name"]
                && (object["kind"] == "ClusterRole"
                    || object["metadata"]["namespace"] == binding["metadata"]["namespace"])
        });
        let role = role.unwrap_or_else(|| panic!("{}: its role is not there", reference(binding)));
        let name = role["metadata"]["name"].as_str().expect("a name");
        for rule in list(&role["rules"]) {
            let reach = match (role["kind"].as_str(), rule["resources"][0].as_str()) {
                (Some("Role"), Some("leases")) => Reach::Own,
                (Some("Role"), _) => {
                    assert!(!list(&rule["resourceNames"]).is_empty(), "{}: {rule}: by name", reference(role));
                    Reach::Named
                }
                (_, Some("secrets")) => Reach::Certificates,
                _ if name.ends_with("-cluster") => Reach::Cluster,
                _ => Reach::Watched,
            };
            for group in list(&rule["apiGroups"]) {
                for resource in list(&rule["resources"]) {
                    let text = |value: &Value| value.as_str().expect("text").to_owned();
                    let key = (reach, text(group), text(resource));
                    rules.entry(key).or_default().extend(list(&rule["verbs"]).iter().map(text));
                }
            }
        }
    }
    rules
}

fn rules_needed(account: Account, has_flag: impl Fn(&str) -> bool) -> Rules {
    let needed = rights::of(account).filter(|right| right.flag.is_none_or(&has_flag));
    needed
        .map(|right| {
            let key = (right.reach, right.group.to_owned(), right.resource.to_owned());
            (key, right.verbs.iter().map(|verb| (*verb).to_owned()).collect())
        })
        .collect()
}

/// The rights of the manifest are those of the code. Certificates are bound by hand: the role is there, for nobody yet.
#[test]
fn accounts_may_do_what_the_program_asks_for_and_nothing_else() {
    let objects = plain();
    for account in Account::ALL {
        let mut needed = rules_needed(account, |_| false);
        needed.retain(|(reach, ..), _| *reach != Reach::Certificates);
        assert_eq!(rules_in(&objects, &format!("sluicegate-{account}")), needed, "{account}");
    }
    let bound: Vec<_> =
        objects.iter().filter(|object| object["roleRef"]["name"] == "sluicegate-certificates").collect();
    assert_eq!(bound, Vec::<&Value>::new(), "nobody reads Secrets unless that is chosen");
    let role = of_kind(&objects, "ClusterRole").find(|role| role["metadata"]["name"] == "sluicegate-certificates");
    let secrets = rights::of(Account::Gateway).find(|right| right.resource == "secrets").expect("a row");
    let [rule] = list(&role.expect("the role")["rules"]) else { panic!("one rule") };
    assert_eq!(rule["resources"], serde_json::json!([secrets.resource]));
    assert_eq!(rule["verbs"], serde_json::json!(secrets.verbs));
    assert_eq!(of_kind(&objects, "Secret").count(), 0, "no secret is in a file that everybody has");
}

#[test]
fn what_is_referred_to_is_there() {
    let objects = plain();
    let named = |kind: &str, name: &Value| of_kind(&objects, kind).any(|one| one["metadata"]["name"] == *name);
    let workloads = workloads(&objects);
    for Workload { name, object, pod, container } in &workloads {
        assert!(named("ServiceAccount", &pod["serviceAccountName"]), "{name}: its account");
        assert_eq!(object["spec"]["selector"]["matchLabels"], object["spec"]["template"]["metadata"]["labels"]);
        for volume in list(&pod["volumes"]).iter().filter(|volume| volume["configMap"].is_object()) {
            assert!(named("ConfigMap", &volume["configMap"]["name"]), "{name}: {volume}");
        }
        for mount in list(&container["volumeMounts"]) {
            assert!(list(&pod["volumes"]).iter().any(|volume| volume["name"] == mount["name"]), "{name}: {mount}");
        }
    }
    let selected = |labels: &Value| {
        workloads
            .iter()
            .find(|one| one.object["spec"]["template"]["metadata"]["labels"] == *labels)
            .expect("a workload")
    };
    for service in of_kind(&objects, "Service") {
        let container = selected(&service["spec"]["selector"]).container;
        for port in list(&service["spec"]["ports"]) {
            let target = |one: &&Value| one["name"] == port["targetPort"];
            assert!(list(&container["ports"]).iter().any(|one| target(&one)), "{}: {port}", reference(service));
        }
    }
    for budget in of_kind(&objects, "PodDisruptionBudget") {
        let workload = selected(&budget["spec"]["selector"]["matchLabels"]);
        // The disruption controller knows no size of a DaemonSet.
        assert_eq!(workload.object["kind"], "DaemonSet");
        assert!(budget["spec"]["minAvailable"].is_u64(), "{}", reference(budget));
    }
    for policy in of_kind(&objects, "NetworkPolicy") {
        let workload = selected(&policy["spec"]["podSelector"]["matchLabels"]);
        assert_ne!(workload.pod["hostNetwork"], true, "{}: no policy reaches those", reference(policy));
    }
    let class = of_kind(&objects, "IngressClass").next().expect("a class");
    assert_eq!(class["spec"]["controller"], "sluicegate.io/ingress");
}

#[test]
fn pods_have_no_more_of_the_node_than_they_need() {
    let objects = plain();
    for Workload { name, pod, container, .. } in workloads(&objects) {
        let context = &container["securityContext"];
        assert_eq!(context["allowPrivilegeEscalation"], false, "{name}");
        assert_eq!(context["readOnlyRootFilesystem"], true, "{name}");
        assert_eq!(context["capabilities"]["drop"], serde_json::json!(["ALL"]), "{name}");
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{name}");
        assert!(
            container["resources"]["requests"].is_object() && container["resources"]["limits"]["memory"].is_string()
        );
        for init in list(&pod["initContainers"]) {
            assert_eq!(init["args"][0], "prepare", "{name}: nothing else is privileged");
        }
        let is_gateway = name == "sluicegate-gateway";
        assert_eq!(pod["hostNetwork"] == true, !is_gateway, "{name}");
        if is_gateway {
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
            assert_eq!(list(&context["capabilities"]["add"]), &[] as &[Value]);
            let volumes = list(&pod["volumes"]);
            assert!(!volumes.iter().any(|volume| volume["hostPath"].is_object() || volume["secret"].is_object()));
            assert_eq!(list(&pod["initContainers"]), &[] as &[Value]);
        }
    }
}

/// The values that the chart's README explains are those that it has.
#[test]
fn every_value_is_explained() {
    let [values] = &objects(&deploy("helm/sluicegate/values.yaml"))[..] else { panic!("one document") };
    let [schema] = &objects(&deploy("helm/sluicegate/values.schema.json"))[..] else { panic!("one document") };
    let text = std::fs::read_to_string(deploy("helm/sluicegate/README.md")).expect("README.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let explained: BTreeSet<String> = rows.map(|(name, _)| name.to_owned()).collect();
    let (mut had, mut described) = (BTreeSet::new(), BTreeSet::new());
    leaves(values, "", &|value| value.as_object().filter(|fields| !fields.is_empty()).is_none(), &mut had);
    described_by(schema, "", &mut described);
    assert!(described.remove("global"), "what Helm passes to parts of other charts");
    // Whole parts that are passed on are one value.
    let whole = |name: &String| {
        let parts = [".resources", ".nodeSelector", ".tolerations", ".labels"];
        parts
            .iter()
            .find_map(|part| name.find(part).map(|at| name[..at + part.len()].to_owned()))
            .unwrap_or(name.clone())
    };
    let had: BTreeSet<String> = had.iter().map(whole).collect();
    assert_eq!(explained, had, "README.md of the chart and values.yaml");
    assert_eq!(described, had, "values.schema.json and values.yaml");
}

fn leaves(value: &Value, path: &str, is_leaf: &dyn Fn(&Value) -> bool, found: &mut BTreeSet<String>) {
    if is_leaf(value) {
        found.insert(path.to_owned());
        return;
    }
    for (key, value) in value.as_object().into_iter().flatten() {
        leaves(value, &if path.is_empty() { key.clone() } else { format!("{path}.{key}") }, is_leaf, found);
    }
}

fn described_by(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    match schema["properties"].as_object() {
        Some(properties) => {
            assert_eq!(schema["additionalProperties"], false, "{path}: a value that is misspelt is an error");
            for (key, schema) in properties {
                described_by(schema, &if path.is_empty() { key.clone() } else { format!("{path}.{key}") }, found);
            }
        }
        None => {
            assert!(
                schema["type"].is_string() || schema["type"].is_array() || schema["enum"].is_array(),
                "{path}: a type"
            );
            found.insert(path.to_owned());
        }
    }
}

fn helm(arguments: &[&str]) -> Result<String, String> {
    let program = std::env::var("HELM").unwrap_or_else(|_| "helm".to_owned());
    let mut command = Command::new(&program);
    command.args(arguments).current_dir(deploy(""));
    let output =
        command.output().unwrap_or_else(|error| panic!("{program}: {error}; name it by HELM, or put it on the PATH"));
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

fn rendered(settings: &[&str]) -> Vec<Value> {
    let mut arguments = vec!["template", "sluicegate", "helm/sluicegate", "--namespace", "edge"];
    for setting in settings {
        arguments.extend([
            if setting.starts_with("json:") { "--set-json" } else { "--set" },
            setting.trim_start_matches("json:"),
        ]);
    }
    objects_of(&helm(&arguments).unwrap_or_else(|error| panic!("{settings:?}: {error}")))
}

#[test]
#[ignore = "needs helm on the PATH or in HELM"]
fn the_plain_manifest_is_what_the_chart_renders_by_default() {
    let output = Command::new("bash").arg(deploy("render.sh")).arg("--check").output().expect("bash");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "run deploy/render.sh:\n{text}{}", String::from_utf8_lossy(&output.stderr));
    helm(&["lint", "--strict", "helm/sluicegate"]).expect("no complaint");
}

/// What the sidecar of Grafana looks for.
fn is_dashboard(config: &Value) -> bool {
    config["metadata"]["labels"]["grafana_dashboard"] == "1"
}

/// Each file is in a ConfigMap of its own, byte for byte but for the line feed at its end.
fn assert_dashboards_are_whole(objects: &[Value]) {
    let shown: BTreeMap<String, String> = of_kind(objects, "ConfigMap")
        .filter(|config| is_dashboard(config))
        .flat_map(|config| config["data"].as_object().expect("its files"))
        .map(|(name, text)| (name.clone(), text.as_str().expect("text").trim_end().to_owned()))
        .collect();
    let files = std::fs::read_dir(deploy("dashboards")).expect("dashboards").map(|file| file.expect("a file").path());
    let written: BTreeMap<String, String> = files
        .map(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
            (format!("sluicegate-{name}"), std::fs::read_to_string(&path).expect("a dashboard").trim_end().to_owned())
        })
        .collect();
    assert!(!written.is_empty());
    assert!(shown == written, "{:?} beside {:?}", shown.keys(), written.keys());
}

#[test]
#[ignore = "needs helm on the PATH or in HELM"]
fn the_chart_renders_what_is_asked_for() {
    let deployment = rendered(&[
        "gateway.kind=Deployment",
        "gateway.replicas=3",
        "gateway.hostPorts.http=0",
        "serviceMonitor.enabled=true",
        "alerts.enabled=true",
        "dashboards.enabled=true",
    ]);
    assert_kubernetes_takes(&deployment);
    assert_program_takes(&deployment);
    let gateway = of_kind(&deployment, "Deployment").next().expect("a Deployment");
    assert_eq!(gateway["spec"]["replicas"], 3);
    assert_eq!(gateway["spec"]["template"]["spec"]["containers"][0]["ports"][0].get("hostPort"), None);
    assert_eq!(of_kind(&deployment, "ServiceMonitor").count(), 1);
    let rules = of_kind(&deployment, "PrometheusRule").next().expect("alerts");
    assert_eq!(rules["spec"], objects(&deploy("alerts/sluicegate.yaml"))[0]);
    assert_dashboards_are_whole(&deployment);
    assert!(of_kind(&plain(), "ConfigMap").all(|one| !is_dashboard(one)), "only where they are asked for");

    let one = rendered(&[
        "watchNamespace=shop",
        "json:rbac.certificates.namespaces=[\"shop\",\"blog\"]",
        "json:config={\"vip-pool\":[\"192.0.2.0/24\"],\"default-load-balancer\":true}",
        "gateway.extraArgs[0]=--workers=2",
        "ingressClass.default=true",
    ]);
    assert_kubernetes_takes(&one);
    assert_program_takes(&one);
    for binding in of_kind(&one, "ClusterRoleBinding") {
        assert!(binding["metadata"]["name"].as_str().is_some_and(|name| name.ends_with("-cluster")), "{binding}");
    }
    let certificates = of_kind(&one, "RoleBinding").filter(|one| one["roleRef"]["name"] == "sluicegate-certificates");
    assert_eq!(certificates.map(|one| &one["metadata"]["namespace"]).collect::<Vec<_>>(), ["shop", "blog"]);
    let config = of_kind(&one, "ConfigMap").next().expect("a ConfigMap")["data"]["config.yaml"].as_str().expect("text");
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("config.yaml"), config).expect("a file");
    let path = folder.path().join("config.yaml").to_str().expect("a path").to_owned();
    // It gets past the file, and finds that there is nothing to read.
    let end = run_to_end(&["run", "--config", &path]);
    assert!(end.stderr.contains("there is nothing to read"), "{}", end.stderr);

    for flag in ["watch-namespace-selector", "vip-pool-namespaces"] {
        let selector = rendered(&[&format!("json:config={{\"{flag}\":\"edge=yes\"}}")]);
        for account in Account::ALL {
            let mut needed = rules_needed(account, |one| one == format!("--{flag}"));
            needed.retain(|(reach, ..), _| *reach != Reach::Certificates);
            assert_eq!(rules_in(&selector, &format!("sluicegate-{account}")), needed, "{account} with --{flag}");
        }
    }
    let asked = rendered(&["webhook.enabled=true", "webhook.caBundle=QUJD", "watchNamespace=shop"]);
    assert_kubernetes_takes(&asked);
    assert_program_takes(&asked);
    let webhook = of_kind(&asked, "ValidatingWebhookConfiguration").next().expect("a webhook");
    let client = &webhook["webhooks"][0]["clientConfig"]["service"];
    let service =
        of_kind(&asked, "Service").find(|one| one["metadata"]["name"] == client["name"]).expect("its Service");
    let gateway = workloads(&asked).into_iter().find(|one| one.name == "sluicegate-gateway").expect("gateways");
    let line = arguments(gateway.container);
    let port =
        list(&gateway.container["ports"]).iter().find(|one| one["name"] == service["spec"]["ports"][0]["targetPort"]);
    let listened = flag(&line, "--webhook").and_then(|address| address.rsplit(':').next());
    assert_eq!(port.map(|one| one["containerPort"].to_string()).as_deref(), listened);
    assert_eq!(webhook["webhooks"][0]["failurePolicy"], "Ignore");
    assert_eq!(of_kind(&plain(), "ValidatingWebhookConfiguration").count(), 0, "only where it is asked for");

    for wrong in ["gateway.kind=StatefulSet", "gatway.enabled=true", "director.metricsPort=many"] {
        let refused = helm(&["template", "sluicegate", "helm/sluicegate", "--set", wrong]);
        assert!(refused.is_err(), "{wrong}");
    }
}
