//! A strict HTTP/1.1 codec. It contains no I/O.
