//! The echo backend against clients that are not ours: the scripts of `tests/peers`.

mod common;

use std::path::PathBuf;
use std::process::Output;

use common::backend;
use sluicegate_echo::{EchoBackend, Tls};

/// Runs a script with the interpreter that has its packages: `SLUICEGATE_PEERS_PYTHON`, or `python3`.
async fn run(script: &str, arguments: Vec<String>) -> Output {
    let python = std::env::var_os("SLUICEGATE_PEERS_PYTHON").unwrap_or_else(|| "python3".into());
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/peers").join(script);
    let running = tokio::task::spawn_blocking(move || {
        std::process::Command::new(python).arg(script).args(arguments).output().expect("python starts")
    });
    running.await.expect("no panic")
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test]
#[ignore = "needs python3 with the packages of tests/peers/requirements.txt"]
async fn grpcio_is_served_in_plaintext_and_over_tls() {
    let plain = backend().await;
    let address = plain.address().to_string();
    let arguments =
        vec![address.clone(), "--authority".into(), "grpc.test".into(), "--service".into(), "coffee".into()];
    let output = run("grpc_client.py", arguments).await;
    assert!(output.status.success(), "{}", told(&output));

    let tls = Tls::self_signed(["grpc.test"]).expect("a name");
    let secure = EchoBackend::builder("tea").tls(tls.clone()).start().await.expect("start");
    let trusted = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(trusted.path(), tls.certificate_pem()).expect("written");
    let trusted = trusted.path().display().to_string();
    let target = secure.address().to_string();
    let arguments = vec![target, "--authority".into(), "grpc.test".into(), "--tls-insecure-ca".into(), trusted];
    let output = run("grpc_client.py", arguments).await;
    assert!(output.status.success(), "{}", told(&output));

    // The script can fail: this Service does not live here.
    let output = run("grpc_client.py", vec![address, "--service".into(), "tea".into()]).await;
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
}

#[tokio::test]
#[ignore = "needs python3 with the packages of tests/peers/requirements.txt"]
async fn the_websocket_suite_passes() {
    let backend = backend().await;
    let url = format!("ws://{}/ws", backend.address());
    let output = run("ws_suite.py", vec![url.clone(), "--direct".into(), url]).await;
    assert!(output.status.success(), "{}", told(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(report["cases"].as_u64().is_some_and(|cases| cases >= 300), "{report}");

    // The script can fail: this path answers with a status, not with a WebSocket.
    let refusing = format!("ws://{}/status/503", backend.address());
    let output = run("ws_suite.py", vec![refusing, "--cases".into(), "1.1.*".into()]).await;
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
}
