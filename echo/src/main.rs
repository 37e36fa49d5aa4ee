//! `sluicegate-echo`: one echo backend by hand. It is not the demo, which starts
//! several of them together with a gateway.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use sluicegate_echo::{EchoBackend, Tls};
use tokio::signal::unix::{SignalKind, signal};

/// An echo backend: HTTP/1.1, HTTP/2, gRPC and WebSocket on one port, answering what reached it.
///
/// Example: sluicegate-echo --service coffee --address 127.0.0.1:9401
#[derive(Debug, Parser)]
#[command(version)]
struct Flags {
    /// Name of the Service that it plays.
    #[arg(long, default_value = "echo")]
    service: String,
    /// Name of the pod that it plays [default: SERVICE-0].
    #[arg(long)]
    pod: Option<String>,
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:9400")]
    address: SocketAddr,
    /// Speak TLS with a self-signed certificate for these names (repeatable).
    #[arg(long, value_name = "NAME", conflicts_with = "tls_certificate")]
    tls_name: Vec<String>,
    /// Speak TLS with this certificate chain (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_certificate: Option<PathBuf>,
    /// Private key of the certificate (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_key: Option<PathBuf>,
    /// Write the served certificate here, for clients to trust.
    #[arg(long, value_name = "FILE")]
    write_certificate: Option<PathBuf>,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")
        .and_then(|runtime| runtime.block_on(run(flags)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluicegate-echo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(flags: Flags) -> anyhow::Result<()> {
    let tls = certificate(&flags)?;
    if let (Some(path), Some(tls)) = (&flags.write_certificate, &tls) {
        std::fs::write(path, tls.certificate_pem()).with_context(|| format!("write {}", path.display()))?;
    }
    let scheme = if tls.is_some() { "https" } else { "http" };
    let mut builder = EchoBackend::builder(&flags.service).address(flags.address).tls(tls);
    if let Some(pod) = &flags.pod {
        builder = builder.pod(pod);
    }
    let backend = builder.start().await.with_context(|| format!("listen on {}", flags.address))?;
    println!("{} listens on {scheme}://{}", flags.service, backend.address());
    let mut terminated = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.context("listen for Ctrl-C")?,
        _ = terminated.recv() => {}
    }
    backend.stop().await;
    Ok(())
}

fn certificate(flags: &Flags) -> anyhow::Result<Option<Tls>> {
    let read = |path: &PathBuf| std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()));
    Ok(match (&flags.tls_certificate, &flags.tls_key) {
        (Some(certificate), Some(key)) => Some(Tls::from_pem(&read(certificate)?, &read(key)?)?),
        _ if !flags.tls_name.is_empty() => Some(Tls::self_signed(flags.tls_name.iter().cloned())?),
        _ => None,
    })
}
