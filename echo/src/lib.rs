//! Echo backends (HTTP/1.1, gRPC, WebSocket) for the demo, the tests and the bench.
