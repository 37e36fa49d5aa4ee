//! The vocabulary of the gateway: desired state, its checks and its differences. It contains no I/O.
