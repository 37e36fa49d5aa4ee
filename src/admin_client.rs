//! Asks the admin API of a running gateway.

use crate::options::AdminAddress;
use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// The largest answer that is read: the state of several hundred thousand routes.
const MOST_BYTES: usize = 1 << 30;
/// The longest line of a stream: a request with fields as long as they may be, escaped.
const MOST_LINE: usize = 4 << 20;
const PATIENCE: Duration = Duration::from_secs(30);

/// One JSON document.
pub fn get<T: DeserializeOwned>(admin: &AdminAddress, path: &str) -> anyhow::Result<T> {
    ask(admin, http::Method::GET, path)
}

/// Changes something, and returns the answer.
pub fn post<T: DeserializeOwned>(admin: &AdminAddress, path: &str) -> anyhow::Result<T> {
    ask(admin, http::Method::POST, path)
}

fn ask<T: DeserializeOwned>(admin: &AdminAddress, method: http::Method, path: &str) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (status, body) = runtime.block_on(async {
        tokio::time::timeout(PATIENCE, fetch(admin, method, path))
            .await
            .with_context(|| format!("the admin API at {} does not answer within {PATIENCE:?}", admin.admin))?
    })?;
    if !status.is_success() {
        bail!("the admin API at {} answers {status}: {}", admin.admin, complaint(&body));
    }
    serde_json::from_slice(&body)
        .with_context(|| format!("what answers at {} is not the admin API of sluicegate", admin.admin))
}

/// Lines, one after the other, until the gateway ends, `until` is there, somebody interrupts, or `take` has enough.
pub fn stream(
    admin: &AdminAddress,
    path: &str,
    until: Option<Instant>,
    mut take: impl FnMut(&[u8]) -> anyhow::Result<ControlFlow<()>>,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let response = tokio::time::timeout(PATIENCE, begin(admin, http::Method::GET, path))
            .await
            .with_context(|| format!("the admin API at {} does not answer within {PATIENCE:?}", admin.admin))??;
        let status = response.status();
        let mut body = response.into_body();
        if !status.is_success() {
            let body = Limited::new(body, MOST_LINE).collect().await.map_err(anyhow::Error::from_boxed)?;
            bail!("the admin API at {} answers {status}: {}", admin.admin, complaint(&body.to_bytes()));
        }
        let end = async {
            match until {
                Some(until) => tokio::time::sleep_until(until.into()).await,
                None => std::future::pending().await,
            }
        };
        let mut end = std::pin::pin!(end);
        let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
        let mut waiting = Vec::new();
        loop {
            let frame = tokio::select! {
                frame = body.frame() => frame,
                () = &mut end => return Ok(()),
                _ = &mut interrupted => return Ok(()),
            };
            let Some(frame) = frame else { return Ok(()) };
            let data = frame.with_context(|| format!("the gateway at {} ended the stream", admin.admin))?;
            waiting.extend_from_slice(data.data_ref().map(AsRef::as_ref).unwrap_or_default());
            while let Some(feed) = waiting.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = waiting.drain(..=feed).collect();
                if take(&line)?.is_break() {
                    return Ok(());
                }
            }
            if waiting.len() > MOST_LINE {
                bail!("what answers at {} is not the admin API of sluicegate", admin.admin);
            }
        }
    })
}

async fn fetch(admin: &AdminAddress, method: http::Method, path: &str) -> anyhow::Result<(http::StatusCode, Bytes)> {
    let response = begin(admin, method, path).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MOST_BYTES).collect().await.map_err(anyhow::Error::from_boxed)?;
    Ok((status, body.to_bytes()))
}

async fn begin(admin: &AdminAddress, method: http::Method, path: &str) -> anyhow::Result<http::Response<Incoming>> {
    let stream = TcpStream::connect(admin.admin).await.with_context(|| {
        format!(
            "no gateway answers at {} (`sluicegate run` serves its admin API there; give another one with --admin)",
            admin.admin
        )
    })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the runtime, which serves one question.
    tokio::spawn(connection);
    let mut request =
        http::Request::builder().method(method).uri(path).header(http::header::HOST, admin.admin.to_string());
    if let Some(file) = &admin.admin_token_file {
        let token = std::fs::read_to_string(file)
            .with_context(|| format!("--admin-token-file {}: cannot be read", file.display()))?;
        request = request.header(http::header::AUTHORIZATION, format!("Bearer {}", token.trim()));
    }
    Ok(sender.send_request(request.body(Empty::<Bytes>::new())?).await?)
}

/// The sentence inside a problem document, or the beginning of the text.
fn complaint(body: &[u8]) -> String {
    let said = serde_json::from_slice::<serde_json::Value>(body).ok().and_then(|problem| {
        let text = |key: &str| problem.get(key)?.as_str().map(str::to_owned);
        let reason = text("error").or_else(|| text("reason")).or_else(|| text("detail"))?;
        Some(text("remedy").map_or(reason.clone(), |remedy| format!("{reason}; {remedy}")))
    });
    said.unwrap_or_else(|| String::from_utf8_lossy(&body[..body.len().min(200)]).trim().to_owned())
}
