//! The L7 proxy: listeners, TLS, connections, exchanges and upstream pools. It decides nothing about routing
//! (that is `sluicegate-route`) and parses no HTTP/1.1 itself (that is `sluicegate-http1`).
