//! From one request to one response.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Serialize;

use crate::backend::Connection;
use crate::behaviour::Behaviour;
use crate::body::{self, BodyError, EchoBody, Ending};
use crate::tls::Session;
use crate::{grpc, upgrade};

const SERVER: HeaderValue = HeaderValue::from_static("sluicegate-echo");

/// Answers `request`. An error closes the connection (HTTP/1.1) or resets the stream (HTTP/2).
pub(crate) async fn answer(
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<EchoBody>, BodyError> {
    count(&connection, request.version());
    let mut response = if grpc::is_grpc(&request) {
        connection.shared.counters.grpc.fetch_add(1, Ordering::Relaxed);
        grpc::answer(&connection, request).await
    } else {
        match Behaviour::of(request.uri()) {
            Ok(behaviour) => perform(behaviour, &connection, request).await?,
            Err(bad) => text(StatusCode::BAD_REQUEST, format!("{bad}\n")),
        }
    };
    let headers = response.headers_mut();
    headers.entry(header::SERVER).or_insert(SERVER);
    for (name, value) in
        [("x-echo-service", &connection.shared.service_header), ("x-echo-pod", &connection.shared.pod_header)]
    {
        if let Some(value) = value {
            headers.insert(name, value.clone());
        }
    }
    Ok(response)
}

fn count(connection: &Connection, version: Version) {
    let counters = &connection.shared.counters;
    counters.total.fetch_add(1, Ordering::Relaxed);
    let by_version = if version == Version::HTTP_2 { &counters.http2 } else { &counters.http1 };
    by_version.fetch_add(1, Ordering::Relaxed);
}

async fn perform(
    behaviour: Behaviour,
    connection: &Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<EchoBody>, BodyError> {
    // An upgrade offered on a path of its own is taken anywhere; a named behaviour comes first.
    if behaviour == Behaviour::Describe && upgrade::asks_for_websocket(&request) {
        return Ok(upgrade::websocket(connection, request, false));
    }
    Ok(match behaviour {
        Behaviour::WebSocket { hello } => upgrade::websocket(connection, request, hello),
        Behaviour::Upgrade => upgrade::raw(connection, request),
        Behaviour::Mirror => mirror(request),
        Behaviour::Status { status, unread: true } => described(connection, &request, 0, status),
        Behaviour::Continue { reject: Some(status), .. } => described(connection, &request, 0, status),
        Behaviour::Close => match connection.abort(false).await {},
        Behaviour::Reset { reason, connection: whole } => {
            if request.version() == Version::HTTP_2 && !whole {
                return Err(h2::Error::from(h2::Reason::from(reason)).into());
            }
            match connection.abort(true).await {}
        }
        Behaviour::Continue { pause, reject: None } => {
            tokio::time::sleep(pause).await;
            after_body(Behaviour::Describe, connection, request).await?
        }
        Behaviour::EarlyHints { link, pause } => {
            early_hints(connection, request.version(), &link);
            tokio::time::sleep(pause).await;
            after_body(Behaviour::Headers(vec![(header::LINK, link)]), connection, request).await?
        }
        other => after_body(other, connection, request).await?,
    })
}

/// The behaviours that take the whole request before they answer.
async fn after_body(
    behaviour: Behaviour,
    connection: &Connection,
    mut request: Request<Incoming>,
) -> Result<Response<EchoBody>, BodyError> {
    let mut body_bytes = 0u64;
    while let Some(frame) = request.body_mut().frame().await {
        body_bytes += frame?.data_ref().map_or(0, |data| data.len() as u64);
    }
    let describe = |status| described(connection, &request, body_bytes, status);
    Ok(match behaviour {
        Behaviour::Status { status, .. } => describe(status),
        Behaviour::Delay(pause) => {
            tokio::time::sleep(pause).await;
            describe(StatusCode::OK)
        }
        Behaviour::Headers(wanted) => with_headers(describe(StatusCode::OK), wanted),
        Behaviour::Health if connection.shared.healthy.load(Ordering::Acquire) => {
            text(StatusCode::OK, "ok\n".to_owned())
        }
        Behaviour::Health => text(StatusCode::SERVICE_UNAVAILABLE, "not serving\n".to_owned()),
        Behaviour::Bytes(len) => octets(body::sized(len)),
        Behaviour::Chunked { count, size, trailers } => {
            let mut response = octets(body::chunked(count, size, trailers));
            if trailers {
                response.headers_mut().insert(header::TRAILER, HeaderValue::from_static("x-checksum"));
            }
            response
        }
        Behaviour::Drip { bytes, size, every, sized } => {
            let mut response = octets(body::paced(bytes, size, every, Ending::Complete));
            if sized {
                response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
            }
            response
        }
        Behaviour::Half { bytes, sent, chunked } => {
            let mut response = octets(body::paced(sent, 16 * 1024, Duration::ZERO, Ending::Broken));
            if !chunked {
                response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
            }
            response
        }
        Behaviour::UntilClose(len) => {
            let mut response = octets(body::unsized_pattern(len));
            // An HTTP/1.0 response without a length is what makes the server delimit by closing.
            if request.version() != Version::HTTP_2 {
                *response.version_mut() = Version::HTTP_10;
            }
            response
        }
        _ => describe(StatusCode::OK),
    })
}

/// Sends the request body and its trailers back as they come.
fn mirror(request: Request<Incoming>) -> Response<EchoBody> {
    let (head, incoming) = request.into_parts();
    let mut response = Response::new(incoming.map_err(Into::into).boxed_unsync());
    for name in [header::CONTENT_TYPE, header::TRAILER] {
        if let Some(value) = head.headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

/// 103 (RFC 8297). The HTTP/2 server library has no way to send one, and HTTP/1.0 must not see one
/// (RFC 9110 section 15.2), so that there only the final response carries the link.
fn early_hints(connection: &Connection, version: Version, link: &HeaderValue) {
    if version == Version::HTTP_11 {
        let head = [b"HTTP/1.1 103 Early Hints\r\nLink: ", link.as_bytes(), b"\r\n\r\n"].concat();
        connection.interim.push(&head);
    }
}

fn with_headers(mut response: Response<EchoBody>, wanted: Vec<(http::HeaderName, HeaderValue)>) -> Response<EchoBody> {
    let own: Vec<_> = response.headers().keys().cloned().collect();
    let headers = response.headers_mut();
    for name in own.iter().filter(|name| wanted.iter().any(|(asked, _)| asked == *name)) {
        headers.remove(name);
    }
    for (name, value) in wanted {
        headers.append(name, value);
    }
    response
}

fn octets(body: EchoBody) -> Response<EchoBody> {
    typed(body, HeaderValue::from_static("application/octet-stream"))
}

pub(crate) fn text(status: StatusCode, text: String) -> Response<EchoBody> {
    let mut response = typed(body::full(text), HeaderValue::from_static("text/plain; charset=utf-8"));
    *response.status_mut() = status;
    response
}

fn typed(body: EchoBody, content_type: HeaderValue) -> Response<EchoBody> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

fn described<B>(
    connection: &Connection,
    request: &Request<B>,
    body_bytes: u64,
    status: StatusCode,
) -> Response<EchoBody> {
    if request.method() == Method::CONNECT {
        return text(StatusCode::METHOD_NOT_ALLOWED, "CONNECT: only with :protocol websocket\n".to_owned());
    }
    let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED);
    let body = if bodiless { body::full("") } else { body::full(description(connection, request, body_bytes)) };
    let mut response = typed(body, HeaderValue::from_static("application/json"));
    *response.status_mut() = status;
    response
}

/// The description of `request` as one line of JSON.
pub(crate) fn description<B>(connection: &Connection, request: &Request<B>, body_bytes: u64) -> String {
    let uri = request.uri();
    let host = match request.headers().get(header::HOST) {
        Some(host) => printable(host),
        None => uri.authority().map(ToString::to_string).unwrap_or_default(),
    };
    let description = Description {
        service: &connection.shared.service,
        pod: &connection.shared.pod,
        namespace: &connection.shared.namespace,
        method: request.method().as_str(),
        path: uri.path_and_query().map_or("", |path| path.as_str()),
        host,
        proto: match request.version() {
            Version::HTTP_2 => "HTTP/2.0",
            Version::HTTP_10 => "HTTP/1.0",
            _ => "HTTP/1.1",
        },
        headers: printable_headers(request.headers()),
        tls: connection.session.as_ref(),
        peer: connection.peer.to_string(),
        body_bytes,
    };
    let mut json = serde_json::to_string(&description).unwrap_or_default();
    json.push('\n');
    json
}

#[derive(Serialize)]
struct Description<'a> {
    service: &'a str,
    pod: &'a str,
    namespace: &'a str,
    method: &'a str,
    path: &'a str,
    host: String,
    proto: &'static str,
    headers: BTreeMap<&'a str, Vec<String>>,
    tls: Option<&'a Session>,
    peer: String,
    body_bytes: u64,
}

fn printable_headers(headers: &HeaderMap) -> BTreeMap<&str, Vec<String>> {
    let named = headers.keys().map(|name| (name.as_str(), headers.get_all(name).iter().map(printable).collect()));
    named.collect()
}

/// A field value as text. Where it is no UTF-8, each byte becomes the character of that number,
/// so that no two values look alike.
fn printable(value: &HeaderValue) -> String {
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => text.to_owned(),
        Err(_) => value.as_bytes().iter().map(|byte| char::from(*byte)).collect(),
    }
}
