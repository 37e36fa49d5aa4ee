//! Where Kubernetes objects come from: a watched folder of manifests, or an API server.
//!
//! It does not decide what objects mean (that is `sluicegate-translate`). The parts, from the inside out:
//!
//! - [`manifest`] (pure): the bytes of one file → documents → objects and notes;
//! - [`files`] (pure): which file gives which object, and what changes when a file changes;
//! - [`directory`]: the shell that reads folders and watches them with inotify;
//! - [`kube`]: the shell that watches an API server;
//! - [`lease`] (pure): who leads; [`mod@write`]: the shell that the leader answers with;
//! - [`directors`]: the Leases of directors and the record of who they are;
//! - [`rights`] (pure): what a service account must be allowed for all of it.
//!
//! # What counts as the truth
//!
//! A file is read when a writer closes it, when it is renamed into place, and when the `..data` link of a mounted
//! ConfigMap is swapped; never while somebody still writes to it. A document that an API server would refuse at its
//! door (broken syntax, a wrong type, no name) does not replace what the file gave before: the former object stays in
//! force, as it would in a cluster, and the rejection says so. After a restart there is nothing to keep, and the object
//! is absent until the document is repaired. Removing a document or a file removes its objects.

pub mod directors;
pub mod directory;
pub mod files;
pub mod kube;
pub mod lease;
pub mod manifest;
mod object;
pub mod rights;
mod text;
mod tracker;
mod value;
mod walk;
mod watch;
pub mod write;

pub use crate::kube::{Kube, KubeClient, KubeSettings, Login, Wishes};
pub use directory::{Directory, DirectorySettings, SourceError, SourceEvent, load};
