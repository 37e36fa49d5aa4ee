//! That a contestant does the same work as the others, before it is measured.

use crate::asker::{Trust, ask, ask_once};
use crate::certificate::HOST;
use crate::proxies::{Proxy, THROUGH};
use anyhow::{Context as _, ensure};
use rustls::ProtocolVersion;

/// Whether a host is served.
pub fn serves(port: u16, host: &str) -> bool {
    ask_once(port, host, "/").is_ok_and(|answer| answer.status == 200)
}

/// Status, length, routing by host, TLS version and protocol.
///
/// # Errors
/// What differs.
pub fn same_work(proxy: &Proxy, hosts: &[String], trust: &Trust) -> anyhow::Result<()> {
    for host in hosts.first().into_iter().chain(hosts.last()) {
        for (path, length) in [("/", 128), ("/api/x", 128), ("/static/64k", 64 << 10), ("/static/1m", 1 << 20)] {
            let answer = ask_once(proxy.ports.http, host, path).with_context(|| format!("{host}{path}"))?;
            let found = (answer.status, answer.body.len());
            ensure!(
                found == (200, length),
                "{host}{path}: {} with {} bytes instead of 200 with {length}",
                found.0,
                found.1
            );
        }
    }
    let unknown = ask_once(proxy.ports.http, "unknown.bench.test", "/").context("a host that is not routed")?;
    ensure!(unknown.status == 404, "a host that is not routed: {} instead of 404", unknown.status);
    for protocol in ["http/1.1", "h2"] {
        let stream = trust.connect(proxy.ports.https, HOST, protocol).with_context(|| format!("TLS for {protocol}"))?;
        let found = (stream.conn.protocol_version(), stream.conn.alpn_protocol());
        ensure!(
            found == (Some(ProtocolVersion::TLSv1_3), Some(protocol.as_bytes())),
            "TLS for {protocol}: {:?} with {:?}",
            found.0,
            found.1.map(String::from_utf8_lossy)
        );
    }
    Ok(())
}

/// TLS that is passed on reaches the backend.
///
/// # Errors
/// What it does instead.
pub fn passes_through(proxy: &Proxy, trust: &Trust) -> anyhow::Result<()> {
    let mut stream = trust.connect(proxy.through(), THROUGH, "http/1.1").context("TLS that is passed on")?;
    let answer = ask(&mut stream, THROUGH, "/").context("TLS that is passed on")?;
    let found = (answer.status, answer.body.len());
    ensure!(found == (200, 128), "TLS that is passed on: {} with {} bytes instead of 200 with 128", found.0, found.1);
    // A proxy that ended TLS itself would have offered HTTP/2.
    let ended =
        trust.connect(proxy.through(), THROUGH, "h2").is_ok_and(|stream| stream.conn.alpn_protocol() == Some(b"h2"));
    ensure!(!ended, "TLS that is to be passed on was ended by the proxy");
    Ok(())
}
