//! Connections that leave HTTP: the WebSocket echo (RFC 6455, and RFC 8441 over
//! HTTP/2) and the plain byte echo of any other upgrade.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::Error as WsError;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};

use crate::answer::{description, text};
use crate::backend::{Connection, Shared};
use crate::body::{self, EchoBody};

type WebSocket = WebSocketStream<TokioIo<Upgraded>>;

/// Whether `request` offers to become a WebSocket, in whichever HTTP version.
pub(crate) fn asks_for_websocket<B>(request: &Request<B>) -> bool {
    extended_connect(request)
        || (request.version() == Version::HTTP_11 && lists(request.headers(), &header::UPGRADE, "websocket"))
}

/// Opens a WebSocket that sends every message back; `hello` sends the description of the request first.
pub(crate) fn websocket(
    connection: &Arc<Connection>,
    mut request: Request<Incoming>,
    hello: bool,
) -> Response<EchoBody> {
    let mut response = match Opening::of(&request) {
        Ok(opening) => opening.response(),
        Err(refusal) => return refusal.response(),
    };
    if let Some(protocol) = first_subprotocol(request.headers()) {
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    connection.shared.counters.websockets.fetch_add(1, Ordering::Relaxed);
    let greeting = hello.then(|| description(connection, &request, 0));
    let upgrading = hyper::upgrade::on(&mut request);
    let held = Arc::clone(connection);
    connection.shared.spawn(async move {
        if let Ok(upgraded) = upgrading.await {
            echo_messages(upgraded, greeting, &held.shared).await;
        }
    });
    response
}

/// Switches to the first protocol of `Upgrade` and sends every byte back.
pub(crate) fn raw(connection: &Arc<Connection>, mut request: Request<Incoming>) -> Response<EchoBody> {
    let headers = request.headers();
    let asked = lists(headers, &header::CONNECTION, "upgrade").then(|| headers.get(header::UPGRADE)).flatten();
    let first = asked.and_then(|value| value.to_str().ok()).and_then(|list| list.split(',').next()).map(str::trim);
    let Some(protocol) = first.and_then(|token| HeaderValue::from_str(token).ok()) else {
        return text(StatusCode::UPGRADE_REQUIRED, "send Connection: upgrade and Upgrade\n".to_owned());
    };
    let response = switching(protocol);
    let upgrading = hyper::upgrade::on(&mut request);
    let held = Arc::clone(connection);
    connection.shared.spawn(async move {
        let _held = held;
        if let Ok(upgraded) = upgrading.await {
            let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
            // Either end may go at any time; that is the end of the echo.
            if tokio::io::copy(&mut reader, &mut writer).await.is_ok() {
                let _ = writer.shutdown().await;
            }
        }
    });
    response
}

fn extended_connect<B>(request: &Request<B>) -> bool {
    request.method() == Method::CONNECT
        && request.extensions().get::<Protocol>().is_some_and(|protocol| protocol.as_str() == "websocket")
}

/// How a WebSocket opens.
enum Opening {
    /// 101 with this `Sec-WebSocket-Accept`.
    Switch(HeaderValue),
    /// 200 on an extended CONNECT, which has no key (RFC 8441 section 5).
    Connect,
}

/// What a handshake lacks (RFC 6455 section 4.2.1).
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("no WebSocket: send GET over HTTP/1.1, or extended CONNECT over HTTP/2")]
    Method,
    #[error("this path speaks WebSocket: send Connection: upgrade and Upgrade: websocket")]
    Plain,
    #[error("Sec-WebSocket-Version: only 13")]
    Version,
    #[error("Sec-WebSocket-Key: not 16 bytes of base64")]
    Key,
}

impl Opening {
    fn of<B>(request: &Request<B>) -> Result<Opening, Refusal> {
        let headers = request.headers();
        let connect = extended_connect(request);
        if !connect {
            if request.method() != Method::GET || request.version() != Version::HTTP_11 {
                return Err(Refusal::Method);
            }
            if !lists(headers, &header::UPGRADE, "websocket") || !lists(headers, &header::CONNECTION, "upgrade") {
                return Err(Refusal::Plain);
            }
        }
        if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
            return Err(Refusal::Version);
        }
        if connect {
            return Ok(Opening::Connect);
        }
        let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|key| is_nonce(key.as_bytes()));
        let accept = key.and_then(|key| HeaderValue::try_from(derive_accept_key(key.as_bytes())).ok());
        accept.map(Opening::Switch).ok_or(Refusal::Key)
    }

    fn response(self) -> Response<EchoBody> {
        match self {
            Opening::Connect => Response::new(body::full("")),
            Opening::Switch(accept) => {
                let mut response = switching(HeaderValue::from_static("websocket"));
                response.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, accept);
                response
            }
        }
    }
}

impl Refusal {
    fn response(&self) -> Response<EchoBody> {
        let status = match self {
            Refusal::Method | Refusal::Key => StatusCode::BAD_REQUEST,
            Refusal::Plain | Refusal::Version => StatusCode::UPGRADE_REQUIRED,
        };
        let mut response = text(status, format!("{self}\n"));
        let headers = response.headers_mut();
        if status == StatusCode::UPGRADE_REQUIRED {
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        response
    }
}

fn switching(protocol: HeaderValue) -> Response<EchoBody> {
    let mut response = Response::new(body::full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::UPGRADE, protocol);
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    response
}

/// Sixteen bytes in base64: 22 characters and two of padding.
fn is_nonce(key: &[u8]) -> bool {
    key.len() == 24
        && key.ends_with(b"==")
        && key[..22].iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'))
}

fn first_subprotocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let offered = headers.get(header::SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
    HeaderValue::from_str(offered.split(',').next()?.trim()).ok()
}

fn lists(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|list| list.split(',')).any(|item| item.trim().eq_ignore_ascii_case(token))
}

async fn echo_messages(upgraded: Upgraded, greeting: Option<String>, shared: &Shared) {
    let config = WebSocketConfig::default()
        .read_buffer_size(16 * 1024)
        .write_buffer_size(16 * 1024)
        .max_frame_size(Some(64 << 20))
        .max_message_size(Some(64 << 20));
    let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
    if let Some(greeting) = greeting
        && socket.send(Message::text(greeting)).await.is_err()
    {
        return;
    }
    let mut leaving = false;
    loop {
        let message = tokio::select! {
            message = socket.next() => message,
            () = shared.drain.cancelled(), if !leaving => {
                leaving = true;
                let goodbye = CloseFrame { code: CloseCode::Away, reason: "stopping".into() };
                if socket.close(Some(goodbye)).await.is_err() {
                    return;
                }
                continue;
            }
        };
        match message {
            Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) if !leaving => {
                if socket.send(message).await.is_err() {
                    return;
                }
            }
            // Pings and closes are answered by the library as it reads on.
            Some(Ok(_)) => {}
            Some(Err(error)) => return fail(socket, &error).await,
            None => return,
        }
    }
}

/// Fails the connection as RFC 6455 section 7.1.7 says: the close code first, then the end. What the
/// peer still sends is read for a moment, since unread bytes would turn the end into a reset that
/// overtakes the code.
async fn fail(mut socket: WebSocket, error: &WsError) {
    const LINGER: Duration = Duration::from_secs(1);
    let code = match error {
        WsError::Protocol(_) | WsError::AttackAttempt => CloseCode::Protocol,
        WsError::Utf8(_) => CloseCode::Invalid,
        WsError::Capacity(_) => CloseCode::Size,
        _ => return,
    };
    let frame = CloseFrame { code, reason: String::new().into() };
    if socket.close(Some(frame)).await.is_err() {
        return;
    }
    let mut stream = socket.into_inner();
    let _ = stream.shutdown().await;
    let mut sink = vec![0; 16 * 1024];
    let drained = async { while stream.read(&mut sink).await.is_ok_and(|read| read > 0) {} };
    let _ = tokio::time::timeout(LINGER, drained).await;
}
