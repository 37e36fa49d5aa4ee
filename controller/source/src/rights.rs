//! What a service account must be allowed: one table, which manifests, documents and `sluicegate doctor` are compared with.
//!
//! It asks nobody. A row is here because code of this crate makes the request; who adds a request adds its row.

use sluicegate_config::NamespacedName;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// Who asks the API server. `--role all` is a gateway and a director in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Account {
    /// `--role gateway`.
    Gateway,
    /// `--role director`.
    Director,
    /// `sluicegate backend`. It only reads.
    Backend,
}

impl Account {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Gateway, Self::Director, Self::Backend];
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gateway => "gateway",
            Self::Director => "director",
            Self::Backend => "backend",
        })
    }
}

/// Where a right is needed: what its binding must reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// The kind has no namespaces: a ClusterRole with a ClusterRoleBinding.
    Cluster,
    /// The namespaces that are read: all of them, by a ClusterRoleBinding, or a RoleBinding in that of `--watch-namespace`.
    Watched,
    /// A RoleBinding in each namespace that has certificates; a ClusterRoleBinding reads every Secret of the cluster.
    Certificates,
    /// Objects that flags name, each in its namespace: a Role with `resourceNames`.
    Named,
    /// The namespace of the Lease: a Role there.
    Own,
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cluster => "the cluster",
            Self::Watched => "namespaces that are read",
            Self::Certificates => "namespaces with certificates",
            Self::Named => "its namespace, by name",
            Self::Own => "namespace of the Lease",
        })
    }
}

/// One rule of a Role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Right {
    /// Who needs it.
    pub accounts: &'static [Account],
    /// `apiGroups`; empty = the core group.
    pub group: &'static str,
    /// `resources`, with the subresource: `ingresses/status`.
    pub resource: &'static str,
    /// `verbs`.
    pub verbs: &'static [&'static str],
    /// Where it is needed.
    pub reach: Reach,
    /// The flag without which it is not needed; `None` = always.
    pub flag: Option<&'static str>,
    /// What becomes of it.
    pub why: &'static str,
}

impl Right {
    /// As a rule of a Role, to be copied: `{apiGroups: [""], resources: [services], verbs: [list, watch]}`.
    #[must_use]
    pub fn rule(&self) -> String {
        rule(self.group, self.resource, self.verbs)
    }
}

/// Every right, in the order of the documents.
pub const RIGHTS: &[Right] = &[
    Right {
        accounts: &[Account::Gateway],
        group: "networking.k8s.io",
        resource: "ingresses",
        verbs: WATCH,
        reach: Reach::Watched,
        flag: None,
        why: "hosts, paths and what they go to",
    },
    Right {
        accounts: &[Account::Gateway],
        group: "networking.k8s.io",
        resource: "ingressclasses",
        verbs: WATCH,
        reach: Reach::Cluster,
        flag: None,
        why: "which Ingresses are ours",
    },
    Right {
        accounts: &Account::ALL,
        group: "",
        resource: "services",
        verbs: WATCH,
        reach: Reach::Watched,
        flag: None,
        why: "ports of backends; who asks for a virtual IP",
    },
    Right {
        accounts: &Account::ALL,
        group: "discovery.k8s.io",
        resource: "endpointslices",
        verbs: WATCH,
        reach: Reach::Watched,
        flag: None,
        why: "addresses of backends and real servers",
    },
    Right {
        accounts: &Account::ALL,
        group: "",
        resource: "configmaps",
        verbs: WATCH,
        reach: Reach::Named,
        flag: None,
        why: "those of `--vip-configmap` and `--tcp-services-configmap`",
    },
    Right {
        accounts: &[Account::Gateway],
        group: "",
        resource: "secrets",
        verbs: WATCH,
        reach: Reach::Certificates,
        flag: None,
        why: "certificates that accepted Ingresses and `--default-ssl-certificate` name",
    },
    Right {
        accounts: &Account::ALL,
        group: "",
        resource: "namespaces",
        verbs: WATCH,
        reach: Reach::Cluster,
        flag: Some("--watch-namespace-selector"),
        why: "which namespaces are read",
    },
    Right {
        accounts: &[Account::Director, Account::Backend],
        group: "",
        resource: "namespaces",
        verbs: WATCH,
        reach: Reach::Cluster,
        flag: Some("--vip-pool-namespaces"),
        why: "which namespaces may use a pool of virtual IPs",
    },
    Right {
        accounts: &[Account::Director, Account::Backend],
        group: "",
        resource: "nodes",
        verbs: WATCH,
        reach: Reach::Cluster,
        flag: None,
        why: "addresses of nodes; which of them are kept out of load balancing",
    },
    Right {
        accounts: &[Account::Gateway],
        group: "networking.k8s.io",
        resource: "ingresses/status",
        verbs: &["patch"],
        reach: Reach::Watched,
        flag: None,
        why: "the addresses that Ingresses are reached by",
    },
    Right {
        accounts: &[Account::Director],
        group: "",
        resource: "services/status",
        verbs: &["patch"],
        reach: Reach::Watched,
        flag: None,
        why: "the virtual IPs of Services of type LoadBalancer, and their condition",
    },
    Right {
        accounts: WRITERS,
        group: "",
        resource: "events",
        verbs: &["create", "get", "patch"],
        reach: Reach::Watched,
        flag: None,
        why: "what is wrong with an object, told on it",
    },
    Right {
        accounts: &[Account::Gateway],
        group: "coordination.k8s.io",
        resource: "leases",
        verbs: &["create", "get", "update"],
        reach: Reach::Own,
        flag: None,
        why: "who writes statuses and Events",
    },
    Right {
        accounts: &[Account::Director],
        group: "coordination.k8s.io",
        resource: "leases",
        verbs: LEASES_OF_DIRECTORS,
        reach: Reach::Own,
        flag: None,
        why: "the same; who the directors are",
    },
];

/// What finding other directors takes.
pub(crate) const LEASES_OF_DIRECTORS: &[&str] = &["create", "get", "list", "update", "watch"];

/// Who tells an API server anything.
const WRITERS: &[Account] = &[Account::Gateway, Account::Director];

/// Where rights are needed, as the flags of a process say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// `--watch-namespace`; `None` = all.
    pub watch_namespace: Option<Arc<str>>,
    /// ConfigMaps that flags name.
    pub config_maps: Vec<NamespacedName>,
    /// The Lease of who writes.
    pub lease: NamespacedName,
    /// Flags that are given and without which a right is not needed ([`Right::flag`]).
    pub flags: BTreeSet<&'static str>,
}

/// May the account do this?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The row.
    pub right: &'static Right,
    /// One of its verbs.
    pub verb: &'static str,
    /// `None` = in all of them, or the kind has none.
    pub namespace: Option<Arc<str>>,
    /// One object alone.
    pub name: Option<Arc<str>>,
}

/// Everything to ask an API server for these accounts, in the order of the table.
#[must_use]
pub fn questions(accounts: &[Account], places: &Places) -> Vec<Question> {
    let is_needed = |right: &&Right| {
        right.accounts.iter().any(|account| accounts.contains(account))
            && right.flag.is_none_or(|flag| places.flags.contains(flag))
    };
    let mut questions = Vec::new();
    for right in RIGHTS.iter().filter(is_needed) {
        for verb in right.verbs {
            questions.extend(places.of(right.reach).into_iter().map(|Place { namespace, name }| Question {
                right,
                verb,
                namespace,
                // What does not exist yet has no name to be restricted to.
                name: name.filter(|_| *verb != "create"),
            }));
        }
    }
    questions
}

/// All of a namespace or of the cluster, or one object.
#[derive(Default)]
struct Place {
    namespace: Option<Arc<str>>,
    name: Option<Arc<str>>,
}

impl Places {
    fn of(&self, reach: Reach) -> Vec<Place> {
        let object = |of: &NamespacedName| Place {
            namespace: Some(Arc::clone(&of.namespace)),
            name: Some(Arc::clone(&of.name)),
        };
        match reach {
            Reach::Cluster => vec![Place::default()],
            Reach::Watched | Reach::Certificates => {
                vec![Place { namespace: self.watch_namespace.clone(), name: None }]
            }
            Reach::Named => self.config_maps.iter().map(object).collect(),
            Reach::Own => vec![object(&self.lease)],
        }
    }
}

/// What following a kind takes. Nothing is read one by one.
pub(crate) const WATCH: &[&str] = &["list", "watch"];

/// The rights of an account.
pub fn of(account: Account) -> impl Iterator<Item = &'static Right> {
    RIGHTS.iter().filter(move |right| right.accounts.contains(&account))
}

pub(crate) fn rule(group: &str, resource: &str, verbs: &[&str]) -> String {
    format!("{{apiGroups: [{group:?}], resources: [{resource}], verbs: [{}]}}", verbs.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_resource_has_one_row_with_sorted_verbs() {
        for (index, right) in RIGHTS.iter().enumerate() {
            assert!(right.verbs.is_sorted() && !right.verbs.is_empty(), "{right:?}");
            assert!(right.accounts.is_sorted() && !right.accounts.is_empty(), "{right:?}");
            let same = RIGHTS[..index].iter().find(|other| {
                let is_of_one = other.accounts.iter().any(|account| right.accounts.contains(account));
                let key = |right: &Right| (right.group, right.resource, right.reach, right.flag);
                is_of_one && key(other) == key(right)
            });
            assert_eq!(same, None, "one rule for {}", right.resource);
        }
    }

    #[test]
    fn a_director_reads_no_secrets_and_no_ingresses() {
        let of: Vec<&str> = of(Account::Director).map(|right| right.resource).collect();
        assert!(!of.contains(&"secrets") && !of.iter().any(|resource| resource.starts_with("ingress")), "{of:?}");
        assert!(of.contains(&"services/status"));
    }

    #[test]
    fn questions_are_about_the_places_that_flags_name() {
        let mut places = Places {
            watch_namespace: None,
            config_maps: vec![NamespacedName::new("edge", "vips")],
            lease: NamespacedName::new("edge", "sluicegate"),
            flags: BTreeSet::new(),
        };
        let asked = |places: &Places, resource: &str| -> Vec<(String, Option<String>, Option<String>)> {
            let all = questions(&[Account::Gateway], places).into_iter();
            all.filter(|question| question.right.resource == resource)
                .map(|question| {
                    let text = |text: Option<Arc<str>>| text.map(|text| text.to_string());
                    (question.verb.to_owned(), text(question.namespace), text(question.name))
                })
                .collect()
        };
        let row = |verb: &str, namespace: Option<&str>, name: Option<&str>| {
            (verb.to_owned(), namespace.map(str::to_owned), name.map(str::to_owned))
        };
        assert_eq!(asked(&places, "secrets"), [row("list", None, None), row("watch", None, None)]);
        assert_eq!(asked(&places, "configmaps")[0], row("list", Some("edge"), Some("vips")));
        assert_eq!(
            asked(&places, "leases"),
            [
                row("create", Some("edge"), None),
                row("get", Some("edge"), Some("sluicegate")),
                row("update", Some("edge"), Some("sluicegate")),
            ]
        );
        assert_eq!(asked(&places, "namespaces"), []);
        assert_eq!(asked(&places, "services/status"), [], "a director's");
        places.flags.insert("--watch-namespace-selector");
        places.watch_namespace = Some("shop".into());
        assert_eq!(asked(&places, "namespaces").len(), 2);
        assert_eq!(asked(&places, "secrets")[0], row("list", Some("shop"), None));
        assert_eq!(asked(&places, "ingressclasses")[0], row("list", None, None));
    }

    #[test]
    fn a_rule_can_be_copied() {
        let right = RIGHTS.iter().find(|right| right.resource == "services").expect("a row");
        assert_eq!(right.rule(), r#"{apiGroups: [""], resources: [services], verbs: [list, watch]}"#);
    }
}
