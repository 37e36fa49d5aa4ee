//! Asks the admin API of a running gateway.

use crate::options::AdminAddress;
use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::net::TcpStream;

/// The largest answer that is read: the state of several hundred thousand routes.
const MOST_BYTES: usize = 1 << 30;
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

async fn fetch(admin: &AdminAddress, method: http::Method, path: &str) -> anyhow::Result<(http::StatusCode, Bytes)> {
    let stream = TcpStream::connect(admin.admin).await.with_context(|| {
        format!(
            "no gateway answers at {} (`sluicegate run` serves its admin API there; give another one with --admin)",
            admin.admin
        )
    })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let mut request =
        http::Request::builder().method(method).uri(path).header(http::header::HOST, admin.admin.to_string());
    if let Some(file) = &admin.admin_token_file {
        let token = std::fs::read_to_string(file)
            .with_context(|| format!("--admin-token-file {}: cannot be read", file.display()))?;
        request = request.header(http::header::AUTHORIZATION, format!("Bearer {}", token.trim()));
    }
    let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MOST_BYTES).collect().await.map_err(anyhow::Error::from_boxed)?;
    driver.abort();
    Ok((status, body.to_bytes()))
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
