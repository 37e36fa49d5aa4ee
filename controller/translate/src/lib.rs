//! Kubernetes objects to drafts of desired state. It contains no I/O, no clock and no global state.
//!
//! [`Controller`] is the whole of it: changes of objects go in, a [`sluicegate_config::Diff`] comes out. Inside, [`Objects`] keeps what
//! matters of every object under its key with an index of who has a part in what; a change makes keys [`Dirty`];
//! [`translate()`] makes drafts of those alone; [`sluicegate_config::check()`] lets the good ones through.
//!
//! # Which Ingresses are served
//! 1. `spec.ingressClassName` names an IngressClass whose `spec.controller` is ours. A class that does not exist is
//!    nobody's.
//! 2. Without the field, the annotation `kubernetes.io/ingress.class` names such a class, or, where no IngressClass has that name, one of
//!    our own names (`sluicegate`; `nginx` too when taking over ingress-nginx).
//! 3. Without both, the default IngressClass decides. Without one, the Ingress is served only if the settings say so.
//! 4. A folder that holds no IngressClass at all is taken to be meant for us: Ingresses without a class are served,
//!    and so are those whose `ingressClassName` is one of our own names. The first IngressClass object ends that.
//!
//! # Order
//! The oldest Ingress wins; a missing `creationTimestamp` counts as the oldest. Of equally old ones the first by
//! namespace and name wins in the strict dialect, the last in the nginx dialect. A host is read in the dialect of its
//! first Ingress.
//!
//! # Paths
//! A missing `pathType` is refused by an API server; in a folder it is rejected too, except where the path is empty as
//! well, which can only mean `Prefix` with `/`. In the strict dialect `ImplementationSpecific` is `Prefix`.

mod allocation;
mod annotations;
mod claim;
mod condition;
mod controller;
mod dirty;
mod facts;
mod index;
pub mod node_share;
mod object;
mod objects;
mod shared;
pub mod status;
mod translate;
mod what_if;

pub use allocation::PoolUsage;
pub use condition::{CONDITION_TYPE, Condition, ConditionReason};
pub use controller::{Controller, Rebuilt, Update};
pub use dirty::Dirty;
pub use facts::node::Node;
pub use object::{Object, ObjectChange};
pub use objects::Objects;
pub use status::{PublishSettings, Published, Shown, StatusWrite};
pub use translate::{Translation, translate};
pub use what_if::WhatIf;
