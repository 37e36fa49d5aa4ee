//! The validating webhook of the gateway: an API server asks what would become of an object before it writes it.
//!
//! It decides nothing by itself and reads no cluster: a [`Judge`] says what would become of an object, and that is the same
//! translation and the same checks that the object goes through once it is written. The parts, from the inside out:
//!
//! - [`review`] (pure): the bytes of an AdmissionReview → the object → the answer's bytes;
//! - [`certificate`]: the pair of files, read again when they change;
//! - [`server`]: the listener, with its limits.
//!
//! # What is refused, and what is not
//!
//! Whatever cannot be judged may be written: deletions, subresources, other kinds, objects of others, objects that cannot
//! be read, and all objects before the gateway has read the cluster once. What an AdmissionReview does not look like is
//! answered by 400: that is the API server's fault or somebody else's, and `failurePolicy` says what comes of it.

pub mod certificate;
pub mod review;
pub mod server;

pub use certificate::CertificateError;
pub use review::{Judge, Unjudged};
pub use server::{StartError, Webhook, WebhookSettings};
