//! Who talks to the gateway: a client that keeps its connection, a backend that answers every request alike, and a server
//! that does TLS and nothing else. Each on a thread of its own, with blocking sockets.

use crate::support::{PATIENCE, tls};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConnection, ServerConfig, ServerConnection, StreamOwned};
use sluicegate_allocations::Thread;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

/// What a browser sends.
const REQUEST: &[u8] = b"GET /assets/app.js?v=17 HTTP/1.1\r\nHost: shop.example\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\nAccept: */*\r\n\
    Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\nReferer: https://shop.example/\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef\r\nSec-Fetch-Dest: script\r\n\r\n";
const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/javascript\r\nCache-Control: max-age=60\r\nContent-Length: 12\r\n\r\nhello world\n";

/// A connection that asks again and again.
pub struct Client(Box<dyn Connection>);

trait Connection: Read + Write {}
impl<T: Read + Write> Connection for T {}

impl Client {
    /// In the clear.
    pub fn plain(address: SocketAddr) -> Self {
        Self(Box::new(connect(address)))
    }

    /// By TLS 1.3, as a browser would.
    pub fn tls(address: SocketAddr) -> Self {
        let name = ServerName::try_from("shop.example").expect("a name");
        let session = ClientConnection::new(Arc::new(tls::modern(&["http/1.1"])), name).expect("a session");
        Self(Box::new(StreamOwned::new(session, connect(address))))
    }

    /// So many requests, one after the other.
    pub fn ask(&mut self, requests: u64) {
        let mut buffer = [0; 4096];
        for _ in 0..requests {
            self.0.write_all(REQUEST).expect("a request is sent");
            let mut read = 0;
            while !buffer[..read].ends_with(b"hello world\n") {
                let more = self.0.read(&mut buffer[read..]).expect("an answer");
                assert_ne!(more, 0, "closed after {:?}", buffer[..read].escape_ascii().to_string());
                read += more;
            }
            assert!(buffer.starts_with(b"HTTP/1.1 200 "), "{}", buffer[..read].escape_ascii());
        }
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connect");
    stream.set_nodelay(true).expect("nodelay");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

/// Answers every head on every connection.
pub fn backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || answer(stream));
        }
    });
    address
}

fn answer(mut stream: impl Read + Write) -> io::Result<()> {
    let mut buffer = [0; 8192];
    let mut read = 0;
    loop {
        match stream.read(&mut buffer[read..])? {
            0 => return Ok(()),
            more => read += more,
        }
        if buffer[..read].ends_with(b"\r\n\r\n") {
            stream.write_all(RESPONSE)?;
            stream.flush()?;
            read = 0;
        }
    }
}

/// A server that answers by TLS, out of the library alone. Returns how to learn which thread serves its one connection.
pub fn bare_tls_server() -> (SocketAddr, impl Fn() -> Thread) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a connection");
        tell.send(sluicegate_allocations::current()).expect("somebody asks");
        answer(StreamOwned::new(ServerConnection::new(server_config()).expect("a session"), stream))
    });
    (address, move || told.recv_timeout(PATIENCE).expect("a connection"))
}

fn server_config() -> Arc<ServerConfig> {
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec!["shop.example".to_owned()]).expect("a name");
    let certificate = params.self_signed(&key).expect("signed");
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key);
    Arc::new(config.expect("a configuration"))
}
