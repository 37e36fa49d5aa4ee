//! Bytes as they are: a client that sends anything and tells all that came back.

use super::{PATIENCE, soon};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How a connection ended, as the client saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// FIN.
    Closed,
    /// RST.
    Reset,
}

/// Sends the pieces, each in a segment of its own, and reads until the other side closes. The client's half stays open.
pub async fn converse(address: SocketAddr, pieces: &[&[u8]]) -> (Vec<u8>, End) {
    let stream = TcpStream::connect(address).await.expect("connect");
    stream.set_nodelay(true).expect("nodelay");
    let (mut reader, mut writer) = stream.into_split();
    let sending = async {
        for piece in pieces {
            // The other side may have had enough already.
            if writer.write_all(piece).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await
    };
    let mut received = Vec::new();
    let reading = async {
        match reader.read_to_end(&mut received).await {
            Ok(_) => End::Closed,
            Err(_) => End::Reset,
        }
    };
    let end = tokio::time::timeout(PATIENCE, async {
        tokio::select! {
            end = reading => end,
            () = sending => unreachable!("sending never ends"),
        }
    });
    let Ok(end) = end.await else {
        panic!("the connection was not closed: {}", pieces.concat().escape_ascii());
    };
    (received, end)
}

/// Asserts that the other side closes without another byte.
pub async fn expect_silence_and_end(mut stream: impl tokio::io::AsyncRead + Unpin) {
    let mut rest = Vec::new();
    // A reset is an end too.
    let _ = soon("the end of the connection", stream.read_to_end(&mut rest)).await;
    assert!(rest.is_empty(), "{}", rest.escape_ascii());
}
