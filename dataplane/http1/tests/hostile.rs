//! Messages that must not pass, each with the reason for which it is refused, whole and byte by byte.

mod support;

use std::collections::BTreeSet;

use sluicegate_http1::{Framing, HeadError, HeadLimits, RequestHead, ResponseHead};

/// The reason, and the whole of what was sent.
type Case = (&'static str, &'static [u8]);

#[rustfmt::skip]
const REQUEST_LINES: &[Case] = &[
    ("lf_without_cr", b"GET / HTTP/1.1\nHost: a.test\r\n\r\n"),
    ("lf_without_cr", b"GET / HTTP/1.1\n\n"),
    ("lf_without_cr", b"\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("bare_cr", b"GET / HTTP/1.1\rHost: a.test\r\n\r\n"),
    ("bare_cr", b"GET / HTTP/1.1\r\r\nHost: a.test\r\n\r\n"),
    ("bare_cr", b"\rGET / HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("bad_request_line", b"\r\n\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("bad_request_line", b"GET /\r\n"),
    ("bad_request_line", b"GET / \r\nHost: a.test\r\n\r\n"),
    ("bad_request_line", b"GET\r\nHost: a.test\r\n\r\n"),
    ("bad_request_line", b"GET  / HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("bad_request_line", b"GET /  HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("bad_request_line", b"GET / HTTP/1.1 \r\nHost: a.test\r\n\r\n"),
    ("bad_request_line", b"GET /a b HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("bad_request_line", b"GET / HTTP/1.1 HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("bad_request_line", b"GET / HTTP/1.1\t\r\nHost: a.test\r\n\r\n"),
    ("bad_request_line", b"GET / HTTP/1.1\x00\r\nHost: a.test\r\n\r\n"),
    ("invalid_method", b" GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("bad_request_line", b"GET\t/ HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("invalid_method", b"G\x00ET / HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("invalid_method", b"GE(T / HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("invalid_method", b"G:ET / HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("invalid_method", b"\xc7ET / HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("invalid_method", b"\"GET\" / HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("invalid_method", b"MMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMM / HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("invalid_method", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    ("invalid_version", b"GET / http/1.1\r\nHost: a.test\r\n\r\n"),
    ("invalid_version", b"GET / HTTP/1.10\r\nHost: a.test\r\n\r\n"),
    ("invalid_version", b"GET / HTTP/01.1\r\nHost: a.test\r\n\r\n"),
    ("invalid_version", b"GET / HTTP/1\r\nHost: a.test\r\n\r\n"),
    ("invalid_version", b"GET / HTTP/11\r\nHost: a.test\r\n\r\n"),
    ("invalid_version", b"GET / HTTP/1,1\r\nHost: a.test\r\n\r\n"),
    ("invalid_version", b"GET / HTTP/+1.1\r\nHost: a.test\r\n\r\n"),
    ("invalid_version", b"GET / HTTPS/1.1\r\nHost: a.test\r\n\r\n"),
    ("unsupported_version", b"GET / HTTP/1.2\r\nHost: a.test\r\n\r\n"),
    ("unsupported_version", b"GET / HTTP/0.9\r\nHost: a.test\r\n\r\n"),
    ("unsupported_version", b"GET / HTTP/3.0\r\nHost: a.test\r\n\r\n"),
    ("unsupported_version", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
];

#[rustfmt::skip]
const TARGETS: &[Case] = &[
    ("invalid_target", b"GET /\x00 HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("invalid_target", b"GET /\x01 HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("invalid_target", b"GET /\x7f HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("invalid_target", b"GET /a\tb HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("invalid_target", b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("invalid_target", b"GET /#top HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("invalid_target", b"GET /?q#top HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("invalid_target", b"GET a HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("invalid_target", b"GET ?q HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("invalid_target", b"GET \\a HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("invalid_target", b"GET * HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("invalid_target", b"OPTIONS *a HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("invalid_target", b"GET a.test:80 HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("invalid_target", b"GET ftp://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("invalid_target", b"GET http:/a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("invalid_target", b"GET http:a.test HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("invalid_target", b"CONNECT / HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("invalid_target", b"CONNECT a.test HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("invalid_target", b"CONNECT a.test: HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("invalid_target", b"CONNECT a.test:99999 HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("invalid_target", b"CONNECT http://a.test:80 HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("userinfo_in_target", b"CONNECT u@a.test:80 HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("userinfo_in_target", b"GET http://u:p@a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("userinfo_in_target", b"GET http://@a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("invalid_host", b"GET http:/// HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("invalid_host", b"GET http://?q HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("invalid_host", b"GET http://a.test\\b/ HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("invalid_host", b"GET http://a.test:8o/ HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ("invalid_host", b"GET http://[::1/ HTTP/1.1\r\nHost: a.test\r\n\r\n"),
];

#[rustfmt::skip]
const HOSTS: &[Case] = &[
    ("missing_host", b"GET / HTTP/1.1\r\n\r\n"),
    ("missing_host", b"GET http://a.test/ HTTP/1.1\r\n\r\n"),
    ("missing_host", b"GET / HTTP/1.1\r\nX-Host: a.test\r\n\r\n"),
    ("multiple_hosts", b"GET / HTTP/1.1\r\nHost: a.test\r\nHost: a.test\r\n\r\n"),
    ("multiple_hosts", b"GET / HTTP/1.1\r\nHost: a.test\r\nhost: b.test\r\n\r\n"),
    ("multiple_hosts", b"GET / HTTP/1.0\r\nHost: a.test\r\nHOST: b.test\r\n\r\n"),
    ("invalid_host", b"GET / HTTP/1.1\r\nHost: a.test, b.test\r\n\r\n"),
    ("invalid_host", b"GET / HTTP/1.1\r\nHost: a.test b.test\r\n\r\n"),
    ("invalid_host", b"GET / HTTP/1.1\r\nHost:\r\n\r\n"),
    ("invalid_host", b"GET / HTTP/1.1\r\nHost: :80\r\n\r\n"),
    ("invalid_host", b"GET / HTTP/1.1\r\nHost: u@a.test\r\n\r\n"),
    ("invalid_host", b"GET / HTTP/1.1\r\nHost: a.test/\r\n\r\n"),
    ("invalid_host", b"GET / HTTP/1.1\r\nHost: http://a.test\r\n\r\n"),
    ("invalid_host", b"GET / HTTP/1.1\r\nHost: a.test?\r\n\r\n"),
    ("invalid_host", b"GET / HTTP/1.1\r\nHost: a.test#\r\n\r\n"),
    ("invalid_host", b"GET / HTTP/1.1\r\nHost: a\\b\r\n\r\n"),
    ("invalid_host", b"GET / HTTP/1.1\r\nHost: a%2etest\r\n\r\n"),
    ("invalid_host", b"GET / HTTP/1.1\r\nHost: a\xc3\xa9.test\r\n\r\n"),
    ("invalid_host", b"GET / HTTP/1.1\r\nHost: a.test:80:80\r\n\r\n"),
    ("invalid_host", b"GET / HTTP/1.1\r\nHost: a.test:+80\r\n\r\n"),
    ("invalid_host", b"GET / HTTP/1.1\r\nHost: a.test:65536\r\n\r\n"),
    ("invalid_host", b"GET / HTTP/1.1\r\nHost: a.test:000080\r\n\r\n"),
    ("invalid_host", b"GET / HTTP/1.1\r\nHost: 2001:db8::1\r\n\r\n"),
    ("invalid_host", b"GET / HTTP/1.1\r\nHost: [2001:db8::1\r\n\r\n"),
    ("invalid_host", b"GET / HTTP/1.1\r\nHost: [2001:db8::1]x\r\n\r\n"),
    ("invalid_host", b"GET / HTTP/1.1\r\nHost: [fe80::1%25eth0]\r\n\r\n"),
    ("invalid_host", b"GET / HTTP/1.1\r\nHost: [v1.x]\r\n\r\n"),
    ("invalid_host", b"GET http://a.test/ HTTP/1.1\r\nHost: b test\r\n\r\n"),
];

#[rustfmt::skip]
const FIELDS: &[Case] = &[
    ("lf_without_cr", b"GET / HTTP/1.1\r\nHost: a.test\n\r\n"),
    ("lf_without_cr", b"GET / HTTP/1.1\r\nHost: a.test\r\n\n"),
    ("lf_without_cr", b"GET / HTTP/1.1\r\nHost: a.test\r\nX: a\nTransfer-Encoding: chunked\r\n\r\n"),
    ("bare_cr", b"GET / HTTP/1.1\r\nHost: a.test\r\nX: a\rb\r\n\r\n"),
    ("bare_cr", b"GET / HTTP/1.1\r\nHost: a.test\r\n\rX: a\r\n\r\n"),
    ("bare_cr", b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\r\n"),
    ("bare_cr", b"GET / HTTP/1.1\r\nHost: a.test\r\rContent-Length: 5\r\n\r\n"),
    ("obs_fold", b"GET / HTTP/1.1\r\nHost: a.test\r\nX: a\r\n b\r\n\r\n"),
    ("obs_fold", b"GET / HTTP/1.1\r\nHost: a.test\r\nX: a\r\n\tb\r\n\r\n"),
    ("obs_fold", b"GET / HTTP/1.1\r\n Host: a.test\r\n\r\n"),
    ("obs_fold", b"GET / HTTP/1.1\r\nHost: a.test\r\n \r\n\r\n"),
    ("obs_fold", b"GET / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding:\r\n chunked\r\n\r\n"),
    ("nul_in_field", b"GET / HTTP/1.1\r\nHost: a.test\r\nX: a\x00b\r\n\r\n"),
    ("nul_in_field", b"GET / HTTP/1.1\r\nHost: a.test\r\nX\x00: a\r\n\r\n"),
    ("nul_in_field", b"GET / HTTP/1.1\r\nHost: a.test\x00\r\n\r\n"),
    ("invalid_value", b"GET / HTTP/1.1\r\nHost: a.test\r\nX: a\x0bb\r\n\r\n"),
    ("invalid_value", b"GET / HTTP/1.1\r\nHost: a.test\r\nX: \x7f\r\n\r\n"),
    ("invalid_value", b"GET / HTTP/1.1\r\nHost: a.test\r\nX: \x1b[31m\r\n\r\n"),
    ("invalid_value", b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: \x0bchunked\r\n\r\n"),
    ("invalid_value", b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding:\x0cchunked\r\n\r\n"),
    ("space_before_colon", b"GET / HTTP/1.1\r\nHost : a.test\r\n\r\n"),
    ("space_before_colon", b"GET / HTTP/1.1\r\nHost\t: a.test\r\n\r\n"),
    ("space_before_colon", b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding : chunked\r\n\r\n"),
    ("space_before_colon", b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length \t : 5\r\n\r\n"),
    ("empty_name", b"GET / HTTP/1.1\r\nHost: a.test\r\n: a\r\n\r\n"),
    ("empty_name", b"GET / HTTP/1.1\r\nHost: a.test\r\n:\r\n\r\n"),
    ("missing_colon", b"GET / HTTP/1.1\r\nHost: a.test\r\nX\r\n\r\n"),
    ("missing_colon", b"GET / HTTP/1.1\r\nHost: a.test\r\nX Y\r\n\r\n"),
    ("missing_colon", b"GET / HTTP/1.1\r\nHost: a.test\r\nGET / HTTP/1.1\r\n\r\n"),
    ("invalid_name", b"GET / HTTP/1.1\r\nHost: a.test\r\nX Y: a\r\n\r\n"),
    ("invalid_name", b"GET / HTTP/1.1\r\nHost: a.test\r\nX(Y): a\r\n\r\n"),
    ("invalid_name", b"GET / HTTP/1.1\r\nHost: a.test\r\nX\xc3\xa9: a\r\n\r\n"),
    ("invalid_name", b"GET / HTTP/1.1\r\nHost: a.test\r\n\"X\": a\r\n\r\n"),
    ("invalid_name", b"GET / HTTP/1.1\r\nHost: a.test\r\nX\x0bY: a\r\n\r\n"),
    ("invalid_name", b"GET / HTTP/1.1\r\nHost: a.test\r\n\xef\xbb\xbfContent-Length: 5\r\n\r\n"),
    ("bad_connection", b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: a b\r\n\r\n"),
    ("bad_connection", b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close;x\r\n\r\n"),
    ("bad_connection", b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close, hOST\r\n\r\n"),
    ("bad_connection", b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nConnection: content-length\r\n\r\nhello"),
    ("unsupported_expectation", b"GET / HTTP/1.1\r\nHost: a.test\r\nExpect: 200-ok\r\n\r\n"),
    ("unsupported_expectation", b"GET / HTTP/1.1\r\nHost: a.test\r\nExpect:\r\n\r\n"),
    ("unsupported_expectation", b"GET / HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue, x\r\n\r\n"),
    ("unsupported_expectation", b"GET / HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nExpect: x\r\n\r\n"),
];

#[rustfmt::skip]
const FRAMINGS: &[Case] = &[
    ("content_length_and_transfer_encoding", b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ("content_length_and_transfer_encoding", b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n"),
    ("content_length_and_transfer_encoding", b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: identity\r\nContent-Length: 5\r\n\r\n"),
    ("content_length_and_transfer_encoding", b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding:\r\nContent-Length: 5\r\n\r\n"),
    ("content_length_and_transfer_encoding", b"POST / HTTP/1.0\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n"),
    ("bad_content_length", b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length:\r\n\r\n"),
    ("bad_content_length", b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: +5\r\n\r\nhello"),
    ("bad_content_length", b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: -5\r\n\r\nhello"),
    ("bad_content_length", b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5 5\r\n\r\nhello"),
    ("bad_content_length", b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5,5\r\n\r\nhello"),
    ("bad_content_length", b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5, 6\r\n\r\nhello"),
    ("bad_content_length", b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0x5\r\n\r\nhello"),
    ("bad_content_length", b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5_0\r\n\r\nhello"),
    ("bad_content_length", b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5.0\r\n\r\nhello"),
    ("bad_content_length", b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: \"5\"\r\n\r\nhello"),
    ("bad_content_length", b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5e0\r\n\r\nhello"),
    ("bad_content_length", b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 18446744073709551616\r\n\r\n"),
    ("bad_content_length", b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 99999999999999999999\r\n\r\n"),
    ("bad_content_length", b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 000000000000000000005\r\n\r\n"),
    ("bad_content_length", b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: \xb2\r\n\r\n"),
    ("bad_content_length", b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nContent-Length: x\r\n\r\n"),
    ("differing_content_lengths", b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n"),
    ("differing_content_lengths", b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nX: y\r\ncontent-length: 0\r\n\r\n"),
    ("repeated_content_length", b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n"),
    ("bad_transfer_encoding", b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked, chunked\r\n\r\n"),
    ("bad_transfer_encoding", b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ("bad_transfer_encoding", b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n"),
    ("bad_transfer_encoding", b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked, gzip\r\n\r\n"),
    ("bad_transfer_encoding", b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked,\r\n\r\n"),
    ("bad_transfer_encoding", b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: , chunked\r\n\r\n"),
    ("bad_transfer_encoding", b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked;q=1\r\n\r\n"),
    ("bad_transfer_encoding", b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: \"chunked\"\r\n\r\n"),
    ("bad_transfer_encoding", b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked foo\r\n\r\n"),
    ("bad_transfer_encoding", b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\xa0\r\n\r\n"),
    ("bad_transfer_encoding", b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding:\r\n\r\n"),
    ("unsupported_transfer_encoding", b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: xchunked\r\n\r\n"),
    ("unsupported_transfer_encoding", b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked1\r\n\r\n"),
    ("unsupported_transfer_encoding", b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: identity\r\n\r\n"),
    ("unsupported_transfer_encoding", b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: identity, chunked\r\n\r\n"),
    ("unsupported_transfer_encoding", b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ("transfer_encoding_in_http10", b"POST / HTTP/1.0\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ("content_forbidden", b"CONNECT a.test:80 HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ("content_forbidden", b"TRACE / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello"),
];

#[rustfmt::skip]
const RESPONSES: &[Case] = &[
    ("lf_without_cr", b"HTTP/1.1 200 OK\n\r\n"),
    ("lf_without_cr", b"HTTP/1.1 200 OK\r\nX: a\n\r\n"),
    ("bare_cr", b"HTTP/1.1 200 OK\rX: a\r\n\r\n"),
    ("obs_fold", b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n"),
    ("nul_in_field", b"HTTP/1.1 200 OK\r\nX: \x00\r\n\r\n"),
    ("space_before_colon", b"HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\n"),
    ("empty_name", b"HTTP/1.1 200 OK\r\n: 5\r\n\r\n"),
    ("bad_status_line", b"\r\nHTTP/1.1 200 OK\r\n\r\n"),
    ("bad_status_line", b"HTTP\r\n\r\n"),
    ("bad_status_line", b"HTTP/1.1\r\n\r\n"),
    ("bad_status_line", b"HTTP/1.1\t200 OK\r\n\r\n"),
    ("bad_status_line", b"HTTP/1.1 200 O\x00K\r\n\r\n"),
    ("bad_status_line", b"HTTP/1.1 200 \x1b[0m\r\n\r\n"),
    ("invalid_version", b"http/1.1 200 OK\r\n\r\n"),
    ("invalid_version", b"ICY 200 OK\r\n\r\n"),
    ("unsupported_version", b"HTTP/2.0 200 OK\r\n\r\n"),
    ("unsupported_version", b"HTTP/1.2 200 OK\r\n\r\n"),
    ("invalid_status", b"HTTP/1.1  200 OK\r\n\r\n"),
    ("invalid_status", b"HTTP/1.1 99 OK\r\n\r\n"),
    ("invalid_status", b"HTTP/1.1 099 OK\r\n\r\n"),
    ("invalid_status", b"HTTP/1.1 000 OK\r\n\r\n"),
    ("invalid_status", b"HTTP/1.1 2000 OK\r\n\r\n"),
    ("invalid_status", b"HTTP/1.1 +20 OK\r\n\r\n"),
    ("invalid_status", b"HTTP/1.1 20x OK\r\n\r\n"),
    ("invalid_status", b"HTTP/1.1 200OK\r\n\r\n"),
    ("invalid_status", b"HTTP/1.1 200\tOK\r\n\r\n"),
    ("invalid_status", b"HTTP/1.1 \r\n\r\n"),
    ("content_length_and_transfer_encoding", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ("content_length_and_transfer_encoding", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ("bad_content_length", b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n"),
    ("bad_content_length", b"HTTP/1.1 304 Not Modified\r\nContent-Length: x\r\n\r\n"),
    ("differing_content_lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n"),
    ("repeated_content_length", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n"),
    ("unsupported_transfer_encoding", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n"),
    ("unsupported_transfer_encoding", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
    ("bad_transfer_encoding", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n"),
    ("transfer_encoding_in_http10", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ("bad_connection", b"HTTP/1.1 200 OK\r\nConnection: content-length\r\nContent-Length: 5\r\n\r\n"),
];

#[rustfmt::skip]
const BODIES: &[Case] = &[
    ("bad_chunk_size", b"\r\n"),
    ("bad_chunk_size", b"\n"),
    ("bad_chunk_size", b"+5\r\nhello\r\n0\r\n\r\n"),
    ("bad_chunk_size", b"-5\r\nhello\r\n0\r\n\r\n"),
    ("bad_chunk_size", b"0x5\r\nhello\r\n0\r\n\r\n"),
    ("bad_chunk_size", b" 5\r\nhello\r\n0\r\n\r\n"),
    ("bad_chunk_size", b"5 \r\nhello\r\n0\r\n\r\n"),
    ("bad_chunk_size", b"5\t\r\nhello\r\n0\r\n\r\n"),
    ("bad_chunk_size", b"5 ;a\r\nhello\r\n0\r\n\r\n"),
    ("bad_chunk_size", b"5_0\r\nhello\r\n0\r\n\r\n"),
    ("bad_chunk_size", b"5,\r\nhello\r\n0\r\n\r\n"),
    ("bad_chunk_size", b"g\r\nhello\r\n0\r\n\r\n"),
    ("bad_chunk_size", b"\x005\r\nhello\r\n0\r\n\r\n"),
    ("bad_chunk_size", b";a\r\nhello\r\n0\r\n\r\n"),
    ("bad_chunk_size", b"5\r\nhello\r\n\r\n0\r\n\r\n"),
    ("chunk_size_overflow", b"10000000000000000\r\n"),
    ("chunk_size_overflow", b"00000000000000005\r\nhello\r\n"),
    ("chunk_size_overflow", b"fffffffffffffffff\r\n"),
    ("bad_chunk_line_end", b"5\nhello\n0\n\n"),
    ("bad_chunk_line_end", b"5\r\rhello\r\n"),
    ("bad_chunk_line_end", b"5\rhello\r\n"),
    ("bad_chunk_line_end", b"5;a\r\rhello\r\n"),
    ("bad_chunk_line_end", b"0\r\n\rx"),
    ("bad_chunk_extension", b"5;\r\nhello\r\n0\r\n\r\n"),
    ("bad_chunk_extension", b"5;;\r\nhello\r\n0\r\n\r\n"),
    ("bad_chunk_extension", b"5;a\nhello\r\n0\r\n\r\n"),
    ("bad_chunk_extension", b"5;a=\r\nhello\r\n0\r\n\r\n"),
    ("bad_chunk_extension", b"5;a \r\nhello\r\n0\r\n\r\n"),
    ("bad_chunk_extension", b"5;a=b c\r\nhello\r\n0\r\n\r\n"),
    ("bad_chunk_extension", b"5;a=\"b\nc\"\r\nhello\r\n0\r\n\r\n"),
    ("bad_chunk_extension", b"5;a=\"b\r\n"),
    ("bad_chunk_extension", b"5;a=\"\x00\"\r\nhello\r\n0\r\n\r\n"),
    ("bad_chunk_extension", b"5;\x00\r\nhello\r\n0\r\n\r\n"),
    ("bad_chunk_extension", b"5;a\x7f\r\nhello\r\n0\r\n\r\n"),
    ("missing_chunk_crlf", b"5\r\nhello0\r\n\r\n"),
    ("missing_chunk_crlf", b"5\r\nhello\n0\r\n\r\n"),
    ("missing_chunk_crlf", b"5\r\nhello\r0\r\n\r\n"),
    ("missing_chunk_crlf", b"5\r\nhello!\r\n0\r\n\r\n"),
    ("missing_chunk_crlf", b"5\r\nhelloXX0\r\n\r\n"),
    ("bad_trailer", b"0\r\n\n"),
    ("bad_trailer", b"0\r\nX: a\n\r\n"),
    ("bad_trailer", b"0\r\nX: a\rb\r\n\r\n"),
    ("bad_trailer", b"0\r\n X: a\r\n\r\n"),
    ("bad_trailer", b"0\r\nX : a\r\n\r\n"),
    ("bad_trailer", b"0\r\nX\r\n\r\n"),
    ("bad_trailer", b"0\r\n: a\r\n\r\n"),
    ("bad_trailer", b"0\r\nX: \x00\r\n\r\n"),
    ("bad_trailer", b"0\r\nContent-Length: 5\r\n\r\n"),
    ("bad_trailer", b"0\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ("bad_trailer", b"0\r\nHost: b.test\r\n\r\n"),
    ("bad_trailer", b"0\r\nGET / HTTP/1.1\r\nX: a\r\n\r\n"),
];

fn requests() -> impl Iterator<Item = &'static Case> {
    [REQUEST_LINES, TARGETS, HOSTS, FIELDS, FRAMINGS].into_iter().flatten()
}

#[test]
fn hostile_requests_are_refused_for_the_right_reason() {
    let limits = HeadLimits::default();
    for (reason, input) in requests() {
        for cuts in [Vec::new(), support::byte_by_byte(input)] {
            let answer = support::request(input, &cuts, &limits).map_err(|error| error.reason());
            assert_eq!(answer, Err(*reason), "{}", input.escape_ascii());
        }
    }
    assert!(requests().count() >= 150);
}

#[test]
fn hostile_responses_are_refused_for_the_right_reason() {
    let limits = HeadLimits::default();
    for (reason, input) in RESPONSES {
        for cuts in [Vec::new(), support::byte_by_byte(input)] {
            let answer = support::response(input, &cuts, &limits).map_err(|error| error.reason());
            assert_eq!(answer, Err(*reason), "{}", input.escape_ascii());
        }
    }
}

#[test]
fn hostile_bodies_are_refused_for_the_right_reason() {
    for (reason, input) in BODIES {
        for cuts in [Vec::new(), support::byte_by_byte(input)] {
            let body = support::body(Framing::Chunked, input, &cuts);
            let end = body.end.map_err(|error| error.reason());
            assert_eq!(end, Err(*reason), "{}", input.escape_ascii());
        }
    }
}

#[test]
fn an_error_stays_until_the_head_is_cleared() {
    let limits = HeadLimits::default();
    let good = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let mut head = RequestHead::new();
    for (reason, input) in requests() {
        assert!(head.parse(input, &limits).is_err());
        let again = head.parse(good, &limits).map_err(|error| error.reason());
        assert_eq!(again, Err(*reason), "{}", input.escape_ascii());
        // What was refused can still be shown.
        assert!(!format!("{head:?} {:?} {:?}", head.method(), head.authority()).is_empty());
        head.clear();
    }
    assert_eq!(head.parse(good, &limits), Ok(Some(good.len())));
}

/// A head that goes on without end is refused at the limit, with no more input than that.
#[test]
fn limits_hold_while_the_head_is_incomplete() {
    let limits = HeadLimits { max_head_bytes: 1000, max_fields: 3, max_target_bytes: 100 };
    let target = [b"GET /".to_vec(), vec![b'a'; 2000]].concat();
    let method = vec![b'A'; 2000];
    let one_field = [b"GET / HTTP/1.1\r\nHost: a.test\r\nX: ".to_vec(), vec![b'a'; 2000]].concat();
    let many = [b"GET / HTTP/1.1\r\nHost: a.test\r\n".to_vec(), b"X: a\r\n".repeat(300)].concat();
    let empty_values = [b"GET / HTTP/1.1\r\n".to_vec(), vec![b' '; 2000]].concat();
    let cases: [(&[u8], HeadError, u16); 5] = [
        (&target, HeadError::TargetTooLong, 414),
        (&method, HeadError::TargetTooLong, 414),
        (&one_field, HeadError::HeadTooLarge, 431),
        (&many, HeadError::TooManyFields, 431),
        (&empty_values, HeadError::HeadTooLarge, 431),
    ];
    for (input, error, status) in cases {
        assert_eq!(error.status(), status);
        for cuts in [Vec::new(), support::byte_by_byte(input)] {
            assert_eq!(support::request(input, &cuts, &limits), Err(error));
        }
        assert_eq!(support::request(&input[..1000], &[], &limits), Err(error));
    }
    let long_reason = [b"HTTP/1.1 200 ".to_vec(), vec![b'a'; 2000]].concat();
    assert_eq!(support::response(&long_reason, &[], &limits), Err(HeadError::HeadTooLarge));
}

#[test]
fn limits_are_exact() {
    let head = b"GET /123456789 HTTP/1.1\r\nHost: a.test\r\nX: y\r\n\r\n";
    let exact = HeadLimits { max_head_bytes: head.len(), max_fields: 2, max_target_bytes: 10 };
    assert_eq!(RequestHead::new().parse(head, &exact), Ok(Some(head.len())));
    let tighter = [
        (HeadLimits { max_head_bytes: head.len() - 1, ..exact }, HeadError::HeadTooLarge),
        (HeadLimits { max_fields: 1, ..exact }, HeadError::TooManyFields),
        (HeadLimits { max_target_bytes: 9, ..exact }, HeadError::TargetTooLong),
    ];
    for (limits, error) in tighter {
        assert_eq!(RequestHead::new().parse(head, &limits), Err(error));
    }
}

#[test]
fn chunk_extensions_and_trailers_are_bounded() {
    let long = [b"5;a=".to_vec(), vec![b'b'; 300]].concat();
    let many = b"1;a=bcdefghijklmnopqrstuvwxyz\r\nx\r\n".repeat(1000);
    for input in [&long, &many] {
        let end = support::body(Framing::Chunked, input, &[]).end;
        assert_eq!(end.map_err(|e| e.reason()), Err("chunk_extension_too_long"));
    }
    // What a signing client sends: little extension for much data.
    let mut signed = Vec::new();
    for _ in 0..300 {
        signed.extend_from_slice(b"1000;chunk-signature=0123456789abcdef0123456789abcdef0123456789abcdef\r\n");
        signed.resize(signed.len() + 0x1000, b'x');
        signed.extend_from_slice(b"\r\n");
    }
    signed.extend_from_slice(b"0\r\n\r\n");
    assert_eq!(support::body(Framing::Chunked, &signed, &[]).end, Ok((signed.len(), true)));

    let one_line = [b"0\r\nX: ".to_vec(), vec![b'a'; 20_000]].concat();
    let many_bytes =
        [b"0\r\n".to_vec(), [b"X: ".to_vec(), vec![b'a'; 997], b"\r\n".to_vec()].concat().repeat(20)].concat();
    let many_lines = [b"0\r\n".to_vec(), b"X: a\r\n".repeat(65)].concat();
    let many_dropped = [b"0\r\n".to_vec(), b"Cookie: a\r\n".repeat(65)].concat();
    for input in [&one_line, &many_bytes, &many_lines, &many_dropped] {
        for cuts in [Vec::new(), support::byte_by_byte(input)] {
            let end = support::body(Framing::Chunked, input, &cuts).end;
            assert_eq!(end.map_err(|e| (e.reason(), e.status())), Err(("trailers_too_large", 431)));
        }
    }
}

/// Byte by byte costs linear time: were each byte to start over, half a gigabyte would be looked at here.
#[test]
fn a_dripping_client_costs_linear_time() {
    let limits = HeadLimits { max_head_bytes: 1 << 20, max_fields: 100_000, ..HeadLimits::default() };
    let input = [
        b"GET / HTTP/1.1\r\nHost: a.test\r\n".to_vec(),
        b"X-Field: value\r\n".repeat(16_000),
        b"Long: ".to_vec(),
        vec![b'a'; 300_000],
        b"\r\n\r\n".to_vec(),
    ]
    .concat();
    let start = std::time::Instant::now();
    let dripped = support::request(&input, &support::byte_by_byte(&input), &limits);
    let dripping = start.elapsed();
    assert_eq!(dripped, support::request(&input, &[], &limits));
    assert!(dripped.is_ok_and(|head| head.is_some()));
    assert!(dripping.as_secs() < 10, "took {dripping:?}");
}

#[test]
fn labels_are_unique_and_statuses_are_errors() {
    let reasons: BTreeSet<_> = HeadError::ALL.iter().map(HeadError::reason).collect();
    assert_eq!(reasons.len(), HeadError::ALL.len());
    for error in HeadError::ALL {
        assert!(matches!(error.status(), 400 | 414 | 417 | 431 | 501 | 505), "{error}");
        assert!(error.reason().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
    }
}

#[test]
fn what_is_built_by_hand_is_held_to_the_same_rules() {
    use sluicegate_http1::Version::{Http2, Http11};
    let limits = HeadLimits::default();
    let mut head = RequestHead::new();
    assert_eq!(head.begin(Http11, b"G T", b"/"), Err(HeadError::InvalidMethod));
    assert_eq!(head.begin(Http11, b"GET", b"/ "), Err(HeadError::InvalidTarget));
    assert_eq!(head.begin(Http11, b"GET", b""), Err(HeadError::InvalidTarget));
    assert_eq!(head.begin(Http11, b"CONNECT", b"/"), Err(HeadError::InvalidTarget));
    assert_eq!(head.begin(Http2, b"CONNECT", b"/chat"), Ok(()));
    assert_eq!(head.push(b"", b"x"), Err(HeadError::EmptyName));
    assert_eq!(head.push(b":path", b"x"), Err(HeadError::InvalidName));
    assert_eq!(head.push(b"X", b"x"), Err(HeadError::InvalidName));
    assert_eq!(head.push(b"x", b"a\0"), Err(HeadError::NulInField));
    assert_eq!(head.push(b"x", b"a\r\nb: c"), Err(HeadError::InvalidValue));
    assert_eq!(head.finish(&limits), Err(HeadError::MissingHost));

    for (name, value) in [
        (&b"connection"[..], &b"close"[..]),
        (b"keep-alive", b"5"),
        (b"proxy-connection", b"close"),
        (b"transfer-encoding", b"chunked"),
        (b"upgrade", b"websocket"),
        (b"te", b"gzip"),
    ] {
        head.begin(Http2, b"GET", b"/").expect("a good start");
        head.push(b"host", b"a.test").expect("a good host");
        head.push(name, value).expect("good syntax");
        assert_eq!(head.finish(&limits), Err(HeadError::ConnectionFieldInHttp2));
    }
    let mut response = ResponseHead::new();
    assert_eq!(response.begin(Http11, 99, b""), Err(HeadError::InvalidStatus));
    assert_eq!(response.begin(Http11, 1000, b""), Err(HeadError::InvalidStatus));
    assert_eq!(response.begin(Http11, 200, b"a\nb"), Err(HeadError::InvalidValue));
}
