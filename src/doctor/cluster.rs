//! What of a cluster stands in the way: rights that are missing, kube-proxy's settings, the clock.

use crate::cli::{DoctorArguments, ExaminedRole};
use sluicegate_backend::doctor::{Finding, HostFacts, Severity};
use sluicegate_config::NamespacedName;
use sluicegate_source::kube::ClusterFacts;
use sluicegate_source::rights::{self, Account, Places, Question, Reach, Right};
use sluicegate_source::{KubeClient, Login};
use std::time::{Duration, SystemTime};

/// For all requests together.
const PATIENCE: Duration = Duration::from_secs(20);
/// Answers carry whole seconds and take their time.
const CLOCKS_DIFFER: Duration = Duration::from_secs(10);

/// Asks the API server where there is one to ask, and tells the host's facts what is known of kube-proxy.
pub async fn examine(arguments: &DoctorArguments, host: &mut HostFacts) -> Vec<Finding> {
    let is_in_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    if arguments.kubeconfig.is_none() && !is_in_pod {
        return Vec::new();
    }
    let asked = tokio::time::timeout(PATIENCE, ask(arguments)).await;
    let facts = match asked.unwrap_or_else(|_| Err("it does not answer".to_owned())) {
        Ok(facts) => facts,
        Err(why) => return vec![unreachable(&why)],
    };
    if let Some(settings) = facts.kube_proxy.as_deref().map(KubeProxy::read) {
        host.kube_proxy = host.kube_proxy.take().or(settings.mode);
        host.strict_arp = settings.strict_arp;
    }
    let now = SystemTime::now();
    missing_rights(&facts.denied).chain(clock(facts.date.as_deref(), now)).collect()
}

async fn ask(arguments: &DoctorArguments) -> Result<ClusterFacts, String> {
    let login = Login { kubeconfig: arguments.kubeconfig.clone(), context: arguments.context.clone() };
    let client = KubeClient::new(&login).await.map_err(|error| chain(&error))?;
    let asked = client.examine(rights::questions(accounts(arguments.role), &places(arguments))).await;
    asked.map_err(|error| format!("{}: {}", client.address(), chain(&error)))
}

fn accounts(role: ExaminedRole) -> &'static [Account] {
    match role {
        ExaminedRole::Gateway => &[Account::Gateway],
        ExaminedRole::Director => &[Account::Director],
        ExaminedRole::Backend => &[Account::Backend],
        ExaminedRole::All => &[Account::Gateway, Account::Director],
    }
}

fn places(arguments: &DoctorArguments) -> Places {
    let lease = match arguments.role {
        ExaminedRole::Gateway => "sluicegate-gateway",
        ExaminedRole::Director => "sluicegate-director",
        ExaminedRole::Backend | ExaminedRole::All => "sluicegate",
    };
    let lease = arguments.leader_lease.clone().unwrap_or_else(|| NamespacedName::new("sluicegate-system", lease));
    let vips = arguments.vip_configmap.clone().unwrap_or_else(|| NamespacedName::new("sluicegate-system", "vips"));
    let selector = arguments.watch_namespace_selector.then_some("--watch-namespace-selector");
    Places {
        watch_namespace: arguments.watch_namespace.as_deref().map(Into::into),
        config_maps: std::iter::once(vips).chain(arguments.tcp_services_configmap.clone()).collect(),
        lease,
        flags: selector.into_iter().collect(),
    }
}

/// The error at the bottom says what happened.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        source = cause.source();
    }
    text
}

fn unreachable(why: &str) -> Finding {
    Finding {
        severity: Severity::Broken,
        what: format!("the API server cannot be asked: {why}"),
        why: "objects come from it; what was read before is served, and nothing new",
        change: "check the address, the certificate and the token of --kubeconfig, or the pod's service account"
            .to_owned(),
    }
}

/// One finding for each row of the table and place.
fn missing_rights(denied: &[Question]) -> impl Iterator<Item = Finding> {
    let mut findings: Vec<(&'static Right, String, Vec<&'static str>, bool)> = Vec::new();
    for question in denied {
        let place = place(question);
        match findings.iter_mut().find(|(right, at, ..)| *right == question.right && *at == place) {
            Some((.., verbs, _)) => verbs.push(question.verb),
            None => findings.push((question.right, place, vec![question.verb], question.namespace.is_none())),
        }
    }
    findings.into_iter().map(|(right, place, verbs, is_everywhere)| {
        let rule =
            Right { verbs: &[], ..*right }.rule().replace("verbs: []", &format!("verbs: [{}]", verbs.join(", ")));
        let (severity, change) = match right.reach {
            // Who gives no right to all Secrets gives it where certificates are, and an API server cannot be asked where.
            Reach::Certificates if is_everywhere => {
                (Severity::Hint, format!("give it by a RoleBinding in each namespace that has certificates: {rule}"))
            }
            Reach::Watched if is_everywhere => (
                gravity(right),
                format!("give it by a ClusterRoleBinding ({rule}), or read one namespace alone with --watch-namespace"),
            ),
            _ => (gravity(right), format!("give it: {rule}")),
        };
        let what = format!("the right to {} {} {place} is missing", verbs.join(" and "), right.resource);
        Finding { severity, what, why: right.why, change }
    })
}

/// Without what is read nothing is served; without what is written nobody is told.
fn gravity(right: &Right) -> Severity {
    if right.verbs.contains(&"watch") { Severity::Broken } else { Severity::Risky }
}

fn place(question: &Question) -> String {
    match (&question.namespace, &question.name, question.right.reach) {
        (Some(namespace), Some(name), _) => format!("named {name} in namespace {namespace}"),
        (Some(namespace), None, _) => format!("in namespace {namespace}"),
        (None, _, Reach::Cluster) => "of the cluster".to_owned(),
        (None, ..) => "in all namespaces".to_owned(),
    }
}

/// Certificates and tokens are judged by it.
fn clock(date: Option<&str>, now: SystemTime) -> Option<Finding> {
    let theirs = httpdate::parse_http_date(date?).ok()?;
    let (apart, which) = match now.duration_since(theirs) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(behind) => (behind.duration(), "behind"),
    };
    (apart > CLOCKS_DIFFER).then(|| Finding {
        severity: Severity::Risky,
        what: format!("the clock is {} s {which} the API server's", apart.as_secs()),
        why: "tokens and certificates are judged by clocks; who has a VIP or leads does not depend on them",
        change: "run a client of NTP, such as chronyd or systemd-timesyncd, on both machines".to_owned(),
    })
}

/// What of kube-proxy's configuration (`kubeproxy.config.k8s.io`) matters.
#[derive(Debug, Default, PartialEq, Eq)]
struct KubeProxy {
    /// Empty means iptables.
    mode: Option<String>,
    strict_arp: Option<bool>,
}

impl KubeProxy {
    /// What cannot be read is not known.
    fn read(text: &str) -> Self {
        let Ok(settings) = yaml_serde::from_str::<serde_json::Value>(text) else { return Self::default() };
        let mode = settings["mode"].as_str().unwrap_or_default();
        let mode = if mode.is_empty() { "iptables" } else { mode };
        Self {
            mode: settings.is_object().then(|| mode.to_owned()),
            strict_arp: settings.is_object().then(|| settings["ipvs"]["strictARP"].as_bool().unwrap_or(false)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn places() -> Places {
        Places {
            watch_namespace: None,
            config_maps: vec![NamespacedName::new("edge", "vips")],
            lease: NamespacedName::new("edge", "sluicegate"),
            flags: BTreeSet::new(),
        }
    }

    #[test]
    fn a_missing_right_is_named_with_the_rule_to_add() {
        let all = rights::questions(&[Account::Gateway, Account::Director], &places());
        let findings: Vec<Finding> = missing_rights(&all).collect();
        let of = |part: &str| findings.iter().find(|finding| finding.what.contains(part)).expect(part);
        let ingresses = of("ingresses in all namespaces");
        assert_eq!(ingresses.what, "the right to list and watch ingresses in all namespaces is missing");
        assert_eq!(ingresses.severity, Severity::Broken);
        assert!(
            ingresses
                .change
                .contains(r#"{apiGroups: ["networking.k8s.io"], resources: [ingresses], verbs: [list, watch]}"#)
        );
        assert_eq!(of("secrets").severity, Severity::Hint);
        assert_eq!(of("services/status").severity, Severity::Risky);
        assert!(of("configmaps").what.contains("named vips in namespace edge"));
        assert!(of("leases in namespace edge").change.contains("verbs: [create]"));
        assert!(of("leases named sluicegate").change.contains("verbs: [get, update]"));
        let one: Vec<Question> = all.into_iter().filter(|question| question.verb == "watch").take(1).collect();
        let finding = missing_rights(&one).next().expect("one");
        assert!(finding.change.contains("verbs: [watch]"), "{}", finding.change);
    }

    #[test]
    fn clocks_are_compared() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let date = |offset: i64| {
            let at = 1_800_000_000_i64 + offset;
            httpdate::fmt_http_date(
                SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(at).expect("after 1970")),
            )
        };
        for fine in [0, 3, -3, 10] {
            assert_eq!(clock(Some(&date(fine)), now), None, "{fine}");
        }
        assert_eq!(clock(Some("yesterday"), now), None);
        assert_eq!(clock(None, now), None);
        let what = |offset| clock(Some(&date(offset)), now).expect("a finding").what;
        assert_eq!(what(60), "the clock is 60 s behind the API server's");
        assert_eq!(what(-3600), "the clock is 3600 s ahead of the API server's");
    }

    #[test]
    fn the_configuration_of_kube_proxy_is_read() {
        let of = |mode: Option<&str>, strict_arp| KubeProxy { mode: mode.map(str::to_owned), strict_arp };
        let header = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
        for (text, expected) in [
            ("mode: ipvs\nipvs:\n  strictARP: true\n", of(Some("ipvs"), Some(true))),
            ("mode: ipvs\nipvs: {strictARP: false}\n", of(Some("ipvs"), Some(false))),
            ("mode: \"\"\nipvs:\n  excludeCIDRs: null\n", of(Some("iptables"), Some(false))),
            ("mode: nftables\n", of(Some("nftables"), Some(false))),
        ] {
            assert_eq!(KubeProxy::read(&format!("{header}{text}")), expected, "{text}");
        }
        for nonsense in ["", "- a\n", "{", "7"] {
            assert_eq!(KubeProxy::read(nonsense), KubeProxy::default(), "{nonsense:?}");
        }
    }
}
