//! `demo`: echo backends and the gateway on built-in manifests, on one machine and without any rights.
//!
//! The manifests are copied into a temporary folder, so that they can be edited while the gateway serves them. The folder
//! is removed at the end, whether that is the end of `--once`, Ctrl-C or an error.

mod client;
mod stage;
mod tour;

use crate::Failure;
use crate::cli::DemoArguments;
use crate::output::print;
use crate::run::{Signals, log_to_stderr};
use sluicegate_telemetry::logging::LogFormat;
use stage::Stage;
use std::fmt::Write as _;
use std::time::Duration;

/// How long open connections may take to end.
const DRAIN: Duration = Duration::from_secs(2);

pub fn demo(arguments: &DemoArguments) -> Result<(), Failure> {
    log_to_stderr(LogFormat::Text, &arguments.log_level)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut signals = runtime.block_on(async { Signals::new() })?;
    let mut stage = Stage::set_up(&runtime, arguments.http, arguments.https)?;
    if !arguments.once {
        print(&programme(&stage))?;
        runtime.block_on(signals.next());
        print("\nstopping: the temporary folder is removed\n")?;
        stage.strike(DRAIN);
        return Ok(());
    }
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = tour::tour(&mut stage) => Some(outcome),
            _ = signals.next() => None,
        }
    });
    stage.strike(DRAIN);
    let Some(outcome) = outcome else { return Err(Failure::Silent) };
    print(&outcome.render(arguments.output))?;
    if outcome.is_ok() { Ok(()) } else { Err(Failure::Silent) }
}

/// What there is to try.
fn programme(stage: &Stage) -> String {
    let mut text = String::new();
    for (wanted, got) in stage.moved_ports() {
        line(&mut text, &format!("{wanted} is taken; using {got}"));
    }
    let (http, https) = (stage.http(), stage.https());
    let folder = stage.folder().display();
    let resolve = |host: &str, port: u16| format!("--resolve {host}:{port}:{}", http.ip());
    line(&mut text, &format!("Sluicegate serves the manifests in {folder}"));
    line(&mut text, &format!("  HTTP  http://{http}   HTTPS https://{https}   status page http://{}", stage.admin()));
    line(&mut text, "");
    line(&mut text, "Try:");
    let plain =
        |host: &str, path: &str| format!("  curl {} http://{host}:{}{path}", resolve(host, http.port()), http.port());
    let secure = |host: &str, path: &str, more: &str| {
        format!("  curl -k{more} {} https://{host}:{}{path}", resolve(host, https.port()), https.port())
    };
    for request in [
        plain("shop.example", "/"),
        plain("shop.example", "/cart/checkout") + "    # the longest prefix wins",
        plain("blog.example", "/") + "             # another virtual host",
        plain("any.apps.example", "/") + "         # a wildcard",
        plain("blog.example", "/empty") + "        # a Service without endpoints",
        secure("shop.example", "/", " -v") + "     # TLS by server name, HTTP/2",
        secure("grpc.example", "/", "") + "        # gRPC backends speak h2c",
        format!(
            "  curl --http1.1 -N {} -H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' \
             -H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==' 'http://chat.example:{}/ws?hello=1' --output -    # WebSocket, Ctrl-C ends it",
            resolve("chat.example", http.port()),
            http.port()
        ),
    ] {
        line(&mut text, &request);
    }
    line(&mut text, "");
    line(&mut text, "See inside:");
    let admin = stage.admin();
    for command in ["routes", "backends", "explain http://shop.example/cart/checkout"] {
        line(&mut text, &format!("  sluicegate {command} --admin {admin}"));
    }
    line(&mut text, "");
    line(
        &mut text,
        &format!(
            "Change it live: edit {folder}/blog.yaml, save, and ask again. Ctrl-C ends it and removes the folder."
        ),
    );
    text
}

fn line(text: &mut String, line: &str) {
    // Writing to a String does not fail.
    let _ok = writeln!(text, "{line}");
}
