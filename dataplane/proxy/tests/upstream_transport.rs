//! The byte stream under HTTP: what was read before comes first, waiting needs no buffer, staleness is told from
//! TLS's own messages.

mod upstream_support;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use sluicegate_proxy::connect::{UpstreamTls, connect};
use sluicegate_proxy::server_tls::ServerTlsStream;
use sluicegate_proxy::transport::{PrefixedStream, Transport};
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};
use upstream_support::{LIMIT, worker};

const MOMENT: Duration = Duration::from_millis(50);

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("its address");
    let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
    (client.expect("a connection"), server.expect("a connection").0)
}

/// Both ends of a TLS connection: ours towards a backend, and ours towards a client.
async fn tls_pair() -> (Transport, Transport) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["web.test".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .expect("a key that fits");
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("its address");
    let server = spawn_local(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        // As if the ClientHello had been looked at.
        let mut first = [0; 3];
        stream.read_exact(&mut first).await.expect("a hello");
        let stream = PrefixedStream::new(stream, first.to_vec());
        ServerTlsStream::accept(Arc::new(config), stream).await.expect("a handshake")
    });
    let target = UpstreamTls::new(None).target(false, "web.test");
    let (client, handshake) = connect(address, Some(&target), LIMIT).await.expect("a handshake");
    assert!(handshake.tls.is_some_and(|took| !took.is_zero()) && !handshake.tcp.is_zero());
    (client, server.await.expect("no panic").into())
}

#[test]
fn what_was_read_before_comes_first() {
    worker(async {
        for size in [1, 3, 64] {
            let (mut client, server) = pair().await;
            let mut server = Transport::from(PrefixedStream::new(server, &b"PROXIED "[..]));
            assert!(server.try_is_stale(), "there is something to read");
            timeout(MOMENT, server.readable()).await.expect("at once").expect("no error");
            client.write_all(b"the rest").await.expect("it goes out");
            drop(client);
            let mut all = Vec::new();
            let mut buffer = vec![0; size];
            loop {
                match server.read(&mut buffer).await.expect("no error") {
                    0 => break,
                    length => all.extend_from_slice(&buffer[..length]),
                }
            }
            assert_eq!(all, b"PROXIED the rest");
        }
    });
}

#[test]
fn an_empty_prefix_leaves_a_plain_stream() {
    worker(async {
        let (_client, server) = pair().await;
        assert!(matches!(Transport::from(PrefixedStream::from(server)), Transport::Plain(_)));
    });
}

#[test]
fn waiting_ends_with_bytes_and_with_the_end() {
    worker(async {
        let (mut client, server) = pair().await;
        let mut server = Transport::from(server);
        // A fresh socket is taken for readable until a read has said otherwise.
        assert!(!server.try_is_stale());
        assert!(timeout(MOMENT, server.readable()).await.is_err());
        client.write_all(b"x").await.expect("it goes out");
        timeout(LIMIT, server.readable()).await.expect("in time").expect("no error");
        let mut byte = [0; 16];
        assert_eq!(server.read(&mut byte).await.expect("no error"), 1);
        assert!(timeout(MOMENT, server.readable()).await.is_err(), "all is read");
        drop(client);
        timeout(LIMIT, server.readable()).await.expect("in time").expect("no error");
        assert_eq!(server.read(&mut byte).await.expect("no error"), 0);
    });
}

#[test]
fn staleness_of_plain_connections() {
    worker(async {
        let (mut client, server) = pair().await;
        let mut server = Transport::from(server);
        sleep(MOMENT).await;
        assert!(!server.try_is_stale());
        client.write_all(b"!").await.expect("it goes out");
        sleep(MOMENT).await;
        assert!(server.try_is_stale(), "it spoke");

        let (client, server) = pair().await;
        let mut server = Transport::from(server);
        drop(client);
        sleep(MOMENT).await;
        assert!(server.try_is_stale(), "it was closed");
    });
}

#[test]
fn staleness_of_tls_connections() {
    worker(async {
        for speaks in [true, false] {
            let (mut client, mut server) = tls_pair().await;
            sleep(MOMENT).await;
            // Session tickets have arrived; they are no reason to throw the connection away.
            assert!(!client.try_is_stale() && !server.try_is_stale());
            assert!(!client.try_is_stale());
            if speaks {
                server.write_all(b"!").await.expect("it goes out");
                server.flush().await.expect("it goes out");
            } else {
                server.shutdown().await.expect("it says so");
            }
            sleep(MOMENT).await;
            assert!(client.try_is_stale());
        }
    });
}

#[test]
fn decrypted_bytes_that_are_left_end_the_wait() {
    worker(async {
        let (mut client, mut server) = tls_pair().await;
        client.write_all(b"two").await.expect("it goes out");
        client.flush().await.expect("it goes out");
        let mut byte = [0];
        server.read_exact(&mut byte).await.expect("the first byte");
        // The socket is empty; what is left lies decrypted in the session.
        timeout(MOMENT, server.readable()).await.expect("at once").expect("no error");
        let mut rest = [0; 2];
        server.read_exact(&mut rest).await.expect("the rest");
        assert_eq!(&[byte.as_slice(), &rest].concat(), b"two");
        assert!(timeout(MOMENT, server.readable()).await.is_err());
    });
}

#[test]
fn more_than_the_sockets_hold_arrives_whole_in_both_directions_at_once() {
    worker(async {
        let (client, server) = tls_pair().await;
        // Beyond every buffer on the way, and in pieces that are no multiple of a record.
        let sent: Vec<u8> = (0..6_000_011u32).map(|at| (at ^ (at >> 8)) as u8).collect();
        let both = timeout(LIMIT * 10, async {
            tokio::join!(converse(client, &sent, 100_003), converse(server, &sent, 77_777));
        });
        both.await.expect("an end");
    });
}

/// Sends everything in pieces of two slices each, while as much comes back.
async fn converse(transport: Transport, sent: &[u8], piece: usize) {
    let (mut reader, mut writer) = tokio::io::split(transport);
    let sending = async {
        for piece in sent.chunks(piece) {
            let (head, mut body) = piece.split_at(piece.len().min(300));
            let mut head = head;
            while !head.is_empty() {
                let count =
                    writer.write_vectored(&[IoSlice::new(head), IoSlice::new(body)]).await.expect("it goes out");
                let of_head = count.min(head.len());
                (head, body) = (&head[of_head..], &body[count - of_head..]);
            }
            writer.write_all(body).await.expect("it goes out");
        }
        writer.shutdown().await.expect("it says so");
    };
    let receiving = async {
        let mut received = Vec::new();
        reader.read_to_end(&mut received).await.expect("all of it, and the end");
        assert!(received == sent, "{} of {} bytes, or others", received.len(), sent.len());
    };
    tokio::join!(sending, receiving);
}

#[test]
fn a_broken_record_ends_the_connection_with_an_alert() {
    worker(async {
        let (client, mut server) = tls_pair().await;
        let Transport::Tls(client) = client else { panic!("the client's end is another one") };
        let (mut socket, mut session) = client.into_inner();
        // Application data that no key has encrypted, and a part of another record behind it.
        socket.write_all(b"\x17\x03\x03\x00\x20 this is not a record of TLS 1.3!\x17\x03").await.expect("it goes out");
        let mut buffer = [0; 64];
        let error = timeout(LIMIT, server.read(&mut buffer)).await.expect("at once").expect_err("no data");
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{error}");
        assert!(server.read(&mut buffer).await.is_err() && server.write_all(b"x").await.is_err());
        server.shutdown().await.expect("what is left to say is said");
        let mut said = Vec::new();
        timeout(LIMIT, socket.read_to_end(&mut said)).await.expect("an end").expect("no reset");
        session.read_tls(&mut said.as_slice()).expect("room");
        assert_eq!(
            session.process_new_packets().map(|_| ()),
            Err(rustls::Error::AlertReceived(rustls::AlertDescription::BadRecordMac))
        );
    });
}

#[test]
fn what_is_known_of_a_connection() {
    worker(async {
        let (client, server) = tls_pair().await;
        assert!(client.is_tls() && server.is_tls());
        assert_eq!(client.alpn_protocol(), Some(&b"http/1.1"[..]));
        assert_eq!(server.alpn_protocol(), Some(&b"http/1.1"[..]));
        assert_eq!(client.peer_addr().expect("it"), server.local_addr().expect("it"));
        server.set_nodelay(true).expect("the option");
        assert!(server.socket().nodelay().expect("the option"));
        assert!(server.into_plain().is_err(), "it stays encrypted");
    });
}

#[test]
fn the_bare_socket_comes_with_what_was_not_read() {
    worker(async {
        let (_client, server) = pair().await;
        let mut server = Transport::from(PrefixedStream::new(server, &b"abc"[..]));
        let mut byte = [0];
        server.read_exact(&mut byte).await.expect("the first byte");
        let (_socket, rest) = server.into_plain().expect("it is plain");
        assert_eq!(rest, "bc");
    });
}

#[test]
fn writes_are_vectored_on_every_kind() {
    worker(async {
        let (plain, _peer) = pair().await;
        let (prefixed, _other_peer) = pair().await;
        let prefixed = Transport::from(PrefixedStream::new(prefixed, &b"x"[..]));
        let (client, server) = tls_pair().await;
        for transport in &mut [Transport::from(plain), prefixed, client, server] {
            assert!(transport.is_write_vectored());
            let slices = [IoSlice::new(b"head"), IoSlice::new(b"body")];
            assert_eq!(transport.write_vectored(&slices).await.expect("it goes out"), 8, "both in one write");
        }
    });
}
