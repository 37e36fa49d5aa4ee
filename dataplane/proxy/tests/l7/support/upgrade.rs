//! WebSockets over any byte stream, and an HTTP/2 stream as one.

use super::{PATIENCE, soon};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use h2::{RecvStream, SendStream};
use std::net::SocketAddr;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error, Message};

/// Opens a WebSocket over HTTP/1.1.
pub async fn websocket(address: SocketAddr, host: &str, path: &str) -> Result<WebSocketStream<TcpStream>, Error> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    websocket_over(socket, host, path).await
}

/// Opens a WebSocket over an established connection.
pub async fn websocket_over<S>(stream: S, host: &str, path: &str) -> Result<WebSocketStream<S>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let opening = tokio_tungstenite::client_async(format!("ws://{host}{path}"), stream);
    let (socket, response) = soon("the handshake", opening).await?;
    assert_eq!(response.status(), 101);
    Ok(socket)
}

/// Sends messages of several sizes and expects each of them back.
pub async fn expect_echo<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut WebSocketStream<S>) {
    for size in [0, 1, 125, 126, 65_536, 300_000] {
        let message = Message::binary(vec![b'w'; size]);
        // Sent and read side by side: a large one fills the buffers in between before it is read.
        let (mut sink, mut stream) = socket.split();
        let (sent, received) =
            tokio::join!(soon("sending", sink.send(message.clone())), soon("an echo", stream.next()));
        sent.expect("sent");
        assert_eq!(received.expect("a message").expect("no error"), message);
    }
    socket.send(Message::text("text")).await.expect("sent");
    assert_eq!(soon("an echo", socket.next()).await.expect("a message").expect("no error"), Message::text("text"));
}

/// Closes in good order and expects the same of the other side.
pub async fn expect_close<S: AsyncRead + AsyncWrite + Unpin>(mut socket: WebSocketStream<S>) {
    socket.close(None).await.expect("closed");
    while let Some(message) = soon("the close", socket.next()).await {
        if !matches!(message, Ok(Message::Close(_))) {
            panic!("{message:?}");
        }
    }
}

/// A WebSocket on what a tunnel carries, without a handshake.
pub async fn client_on<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> WebSocketStream<S> {
    WebSocketStream::from_raw_socket(stream, Role::Client, None).await
}

/// The data of an HTTP/2 stream as bytes.
pub fn tunnel(mut send: SendStream<Bytes>, mut receive: RecvStream) -> DuplexStream {
    let (near, far) = tokio::io::duplex(256 * 1024);
    let (mut from_near, mut to_near) = tokio::io::split(far);
    tokio::spawn(async move {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(count @ 1..) = from_near.read(&mut buffer).await {
            let mut piece = Bytes::copy_from_slice(&buffer[..count]);
            while !piece.is_empty() {
                send.reserve_capacity(piece.len());
                let Some(Ok(granted)) = std::future::poll_fn(|cx| send.poll_capacity(cx)).await else { return };
                if send.send_data(piece.split_to(granted.min(piece.len())), false).is_err() {
                    return;
                }
            }
        }
        let _ = send.send_data(Bytes::new(), true);
    });
    tokio::spawn(async move {
        while let Some(Ok(piece)) = receive.data().await {
            let _ = receive.flow_control().release_capacity(piece.len());
            if to_near.write_all(&piece).await.is_err() {
                return;
            }
        }
        let _ = tokio::time::timeout(PATIENCE, to_near.shutdown()).await;
    });
    near
}
