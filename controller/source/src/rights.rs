//! What a service account must be allowed: one table, which manifests, documents and `sluicegate doctor` are compared with.
//!
//! It asks nobody. A row is here because code of this crate makes the request; who adds a request adds its row.

use std::fmt;

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
        why: "the virtual IPs of Services of type LoadBalancer",
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
                is_of_one && (other.group, other.resource, other.reach) == (right.group, right.resource, right.reach)
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
    fn a_rule_can_be_copied() {
        let right = RIGHTS.iter().find(|right| right.resource == "services").expect("a row");
        assert_eq!(right.rule(), r#"{apiGroups: [""], resources: [services], verbs: [list, watch]}"#);
    }
}
