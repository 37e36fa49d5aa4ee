//! The table of the W3C trace-context harness, with the crate alone as the gateway.

mod support;
mod w3c_cases;

use support::{Gateway, NEW_SPAN};
use w3c_cases::Pairs;

/// What a backend gets.
fn pass(request: &[(&str, &str)]) -> Pairs {
    Gateway::default().pass(request)
}

/// What it gets in three tries.
fn thrice(request: &[(&str, &str)]) -> Vec<Pairs> {
    Gateway::default().tries(request, &[NEW_SPAN, 7, u64::MAX])
}

#[test]
fn all_cases_pass() {
    w3c_cases::run_all();
}
