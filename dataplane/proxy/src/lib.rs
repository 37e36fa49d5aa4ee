//! The L7 proxy: listeners, TLS, connections, exchanges, upstream pools.
