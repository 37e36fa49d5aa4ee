//! The byte stream under HTTP: what was read before comes first, waiting needs no buffer, staleness is told from
//! TLS's own messages.

mod upstream_support;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use sluicegate_proxy::connect::{UpstreamTls, connect};
use sluicegate_proxy::transport::{PrefixedStream, Transport};
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
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
        TlsAcceptor::from(Arc::new(config)).accept(stream).await.expect("a handshake")
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
fn what_is_known_of_a_connection() {
    worker(async {
        let (client, server) = tls_pair().await;
        assert!(client.is_tls() && server.is_tls());
        assert_eq!(client.alpn_protocol(), Some(&b"http/1.1"[..]));
        assert_eq!(server.alpn_protocol(), Some(&b"http/1.1"[..]));
        assert_eq!(server.server_session().and_then(|session| session.server_name()), Some("web.test"));
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
