//! What the proxy allocates and holds, counted: nothing for a steady HTTP/1.1 request, and little for a connection on which
//! nothing happens. A binary of its own, since its allocator counts for all of it.
//!
//! Clients and backends are threads of the test; what counts is the thread of the one worker. It counts the same in a debug
//! build and in a release build.

#[path = "allocations/gateway.rs"]
mod gateway;
#[path = "allocations/peers.rs"]
mod peers;
#[path = "l7/support/mod.rs"]
mod support;

use gateway::Gateway;
use peers::{Client, bare_tls_server};
use sluicegate_allocations::Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// After so many requests every buffer has grown, and what is filled at first is filled.
const WARM: u64 = 300;
const REQUESTS: u64 = 1000;
/// Connections that rest.
const IDLE: u64 = 200;

#[test]
fn a_steady_request_allocates_nothing() {
    let gateway = Gateway::start(None);
    let mut client = Client::plain(gateway.http());
    assert_eq!(allocations(&gateway, &mut client), 0, "allocations of {REQUESTS} requests");
}

/// The TLS library makes a block of each record that it reads or writes. A server that does nothing else does the same.
#[test]
fn a_steady_request_over_tls_allocates_what_the_library_does() {
    let gateway = Gateway::start(None);
    let mut client = Client::tls(gateway.https());
    let counted = allocations(&gateway, &mut client);
    let (address, thread) = bare_tls_server();
    let mut client = Client::tls(address);
    client.ask(WARM);
    let thread = thread();
    let before = thread.allocations();
    client.ask(REQUESTS);
    let library = thread.allocations() - before;
    assert_eq!(counted, library, "allocations of {REQUESTS} requests, and of the TLS library alone");
}

#[test]
fn an_idle_connection_holds_little() {
    let gateway = Gateway::start(None);
    let each = held_by_each(&gateway, || Client::plain(gateway.http()));
    println!("plain: {each} bytes");
    assert!(each <= 2048, "{each} bytes for each idle connection");
}

#[test]
fn an_idle_connection_with_tls_holds_little() {
    let gateway = Gateway::start(None);
    let each = held_by_each(&gateway, || Client::tls(gateway.https()));
    println!("TLS: {each} bytes");
    // Of the 8 KiB that it may hold, 2 are left to what the library's C parts allocate: the keys of both directions.
    assert!(each <= 6144, "{each} bytes for each idle connection");
}

/// Allocations of the worker for [`REQUESTS`] requests on one kept connection.
fn allocations(gateway: &Gateway, client: &mut Client) -> u64 {
    client.ask(WARM);
    let before = gateway.worker().allocations();
    client.ask(REQUESTS);
    gateway.worker().allocations() - before
}

/// Bytes that the worker holds for each of many connections that were used once and rest.
fn held_by_each(gateway: &Gateway, connect: impl Fn() -> Client) -> i64 {
    let open = |count: u64| {
        let mut kept: Vec<Client> = (0..count).map(|_| connect()).collect();
        kept.iter_mut().for_each(|client| client.ask(1));
        kept
    };
    // Tables that grow with the first connections have grown.
    drop(open(IDLE));
    gateway.wait_until_idle(0);
    let before = gateway.worker().bytes();
    let kept = open(IDLE);
    gateway.wait_until_idle(kept.len());
    (gateway.worker().bytes() - before) / IDLE as i64
}
