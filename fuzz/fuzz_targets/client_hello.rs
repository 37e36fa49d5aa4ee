//! ClientHellos: the answer does not depend on how the bytes arrive, and what it says is fit to route by.
#![no_main]

// The module and not its crate: the proxy brings TLS and runtimes along, which would be instrumented as well.
#[path = "../../dataplane/proxy/src/client_hello.rs"]
mod client_hello;

use client_hello::{ClientHelloError, ClientHelloReader};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    check(data);
    // Most inputs fail at the record header; as the payload of records they reach what lies behind it.
    if let Some((size, payload)) = data.split_first() {
        let records = payload.chunks(1 + usize::from(*size)).flat_map(|fragment| {
            let length = (fragment.len() as u16).to_be_bytes();
            [&[22, 3, 1], &length[..], fragment].concat()
        });
        check(&records.collect::<Vec<u8>>());
    }
});

fn check(bytes: &[u8]) {
    let whole = ClientHelloReader::new().inspect(bytes);
    let mut reader = ClientHelloReader::new();
    let dripped = (0..=bytes.len())
        .map(|end| reader.inspect(&bytes[..end]))
        .find(|inspected| *inspected != Ok(None))
        .unwrap_or(Ok(None));
    assert_eq!(whole, dripped);
    match whole {
        Ok(Some(hello)) => {
            if let Some(name) = &hello.server_name {
                assert!((1..=253).contains(&name.len()) && !name.ends_with('.'));
                assert!(name.bytes().all(|byte| !byte.is_ascii_uppercase() && byte.is_ascii_graphic()));
            }
            assert!(hello.alpn().all(|protocol| !protocol.is_empty()));
            assert_eq!(hello.is_acme_tls(), hello.alpn().any(|protocol| protocol == client_hello::ACME_TLS_ALPN));
        }
        Ok(None) => assert!(bytes.len() < client_hello::MAX_CLIENT_HELLO),
        Err(ClientHelloError::NotTls { .. }) => assert!(!bytes.starts_with(&[22, 3])),
        Err(ClientHelloError::TooLarge | ClientHelloError::Malformed(_)) => {}
    }
}
