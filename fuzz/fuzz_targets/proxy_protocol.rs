//! PROXY headers: the answer does not depend on how the bytes arrive, and addresses survive being written again.
#![no_main]

// The module and not its crate: the proxy brings TLS and runtimes along, which would be instrumented as well.
#[allow(dead_code, reason = "a gateway also writes headers of its own connections")]
#[path = "../../dataplane/proxy/src/proxy_protocol.rs"]
mod proxy_protocol;

use libfuzzer_sys::fuzz_target;
use proxy_protocol::{MAX_V1, MAX_V2_PAYLOAD, ProxyHeader, parse, write_v1, write_v2};

fuzz_target!(|data: &[u8]| {
    check(data);
    check(&[b"PROXY ", data].concat());
    check(&[b"\r\n\r\n\0\r\nQUIT\n\x21", data].concat());
});

fn check(bytes: &[u8]) {
    let whole = parse(bytes);
    let dripped =
        (0..=bytes.len()).map(|end| parse(&bytes[..end])).find(|parsed| *parsed != Ok(None)).unwrap_or(Ok(None));
    match whole {
        Err(_) => assert!(dripped.is_err()),
        Ok(None) => assert!(bytes.len() < 16 + MAX_V2_PAYLOAD),
        Ok(Some((header, length))) => {
            assert_eq!(dripped, whole);
            assert!(length <= bytes.len() && length <= (16 + MAX_V2_PAYLOAD).max(MAX_V1));
            // The header alone says the same.
            assert_eq!(parse(&bytes[..length]), whole);
            rewrite(header);
        }
    }
}

fn rewrite(header: ProxyHeader) {
    let (Some(source), Some(destination)) = (header.source, header.destination) else {
        assert_eq!((header.source, header.destination), (None, None));
        return;
    };
    for write in [write_v1, write_v2] {
        let mut written = Vec::new();
        write(&mut written, source, destination);
        assert_eq!(parse(&written), Ok(Some((header, written.len()))));
    }
}
