//! Kubernetes objects to drafts of desired state. It contains no I/O.
