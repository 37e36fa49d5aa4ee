//! An HTTP/1.1 GET that is answered with 200 to 399.
//!
//! It reads as little of the answer as decides: the status line, and the heads of interim answers before it. That is why the
//! strict codec of the proxy is not used here: a head that the codec refuses is not a real server that is down, and clients
//! of an L4 service may well take it.

use crate::failure::{Failure, Step};
use crate::probe::Attempt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest beginning of an answer in which the status must be found, in bytes.
const LONGEST_HEAD: usize = 16 << 10;
/// What is read of the rest, in bytes and time, so that most servers can end in order and log no reset.
const LONGEST_REST: u64 = 64 << 10;
const REST_WITHIN: Duration = Duration::from_millis(50);

pub(crate) async fn probe(attempt: &Attempt<'_>, path: &str, host: Option<&str>, tls: bool) -> Result<(), Failure> {
    let request = request(path, host, SocketAddr::new(attempt.vip, attempt.address.port()), tls)?;
    let stream = attempt.connect().await?;
    let status = if tls {
        let stream = attempt.tls.handshake(attempt, stream, host).await?;
        exchange(attempt, stream, &request).await?
    } else {
        exchange(attempt, stream, &request).await?
    };
    if (200..400).contains(&status) { Ok(()) } else { Err(Failure::HttpStatus(status)) }
}

/// The bytes of the request, unless they would not be one.
fn request(path: &str, host: Option<&str>, vip: SocketAddr, tls: bool) -> Result<Vec<u8>, Failure> {
    let visible = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    if !path.starts_with('/') || !visible(path) || !host.is_none_or(visible) {
        return Err(Failure::Local(
            "path or host of the check cannot stand in a request; correct the annotation".into(),
        ));
    }
    let host = host.map_or_else(|| authority(vip, if tls { 443 } else { 80 }), str::to_owned);
    let agent = concat!("sluicegate-health/", env!("CARGO_PKG_VERSION"));
    Ok(format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {agent}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    )
    .into_bytes())
}

/// Address and port as a URL has them, without the port that goes without saying (RFC 9110 section 7.2).
pub(crate) fn authority(address: SocketAddr, default_port: u16) -> String {
    match (address.ip(), address.port()) {
        (_, port) if port != default_port => address.to_string(),
        (IpAddr::V4(ip), _) => ip.to_string(),
        (IpAddr::V6(ip), _) => format!("[{ip}]"),
    }
}

async fn exchange(
    attempt: &Attempt<'_>,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &[u8],
) -> Result<u16, Failure> {
    attempt.enter(Step::Answer);
    let sent = async {
        stream.write_all(request).await?;
        stream.flush().await
    };
    sent.await.map_err(|error| attempt.tls_failed(&error))?;
    let mut answer = Vec::with_capacity(1024);
    let status = loop {
        match read_status(&answer) {
            Reading::Status(status) => break status,
            Reading::NotHttp => return Err(Failure::NotHttp),
            Reading::Incomplete if answer.len() >= LONGEST_HEAD => return Err(Failure::HeadTooLong(LONGEST_HEAD)),
            Reading::Incomplete => {}
        }
        let room = (LONGEST_HEAD - answer.len()) as u64;
        match (&mut stream).take(room).read_buf(&mut answer).await {
            Ok(0) => return Err(attempt.closed()),
            Ok(_) => {}
            Err(error) => return Err(attempt.tls_failed(&error)),
        }
    };
    let rest = async { tokio::io::copy(&mut stream.take(LONGEST_REST), &mut tokio::io::sink()).await };
    // Whatever comes of it: the status has decided.
    let _ = tokio::time::timeout(REST_WITHIN, rest).await;
    Ok(status)
}

/// What the beginning of an answer says.
#[derive(Debug, PartialEq, Eq)]
enum Reading {
    Status(u16),
    Incomplete,
    NotHttp,
}

/// The status of the final answer: interim ones (RFC 9110 section 15.2) are passed over, but for 101, which is none.
fn read_status(answer: &[u8]) -> Reading {
    const VERSION: &[u8] = b"HTTP/1.";
    let mut rest = answer;
    loop {
        let common = rest.len().min(VERSION.len());
        if rest[..common] != VERSION[..common] {
            return Reading::NotHttp;
        }
        let Some(line_end) = rest.iter().position(|byte| *byte == b'\n') else { return Reading::Incomplete };
        let [b'0' | b'1', b' ', digits @ ..] = &rest[VERSION.len().min(line_end)..line_end] else {
            return Reading::NotHttp;
        };
        let (Some(code), None | Some(b' ' | b'\r')) = (digits.get(..3), digits.get(3)) else { return Reading::NotHttp };
        let status = code
            .iter()
            .try_fold(0_u16, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + u16::from(digit - b'0')));
        match status {
            Some(101 | 200..=999) => return Reading::Status(status.unwrap_or_default()),
            Some(100..=199) => match end_of_head(&rest[line_end..]) {
                Some(end) => rest = &rest[line_end + end..],
                None => return Reading::Incomplete,
            },
            _ => return Reading::NotHttp,
        }
    }
}

/// Where the head ends: after the first empty line. `fields` begins with the line feed of the line before.
fn end_of_head(fields: &[u8]) -> Option<usize> {
    let crlf = fields.windows(3).position(|end| end == b"\n\r\n").map(|at| at + 3);
    let lf = fields.windows(2).position(|end| end == b"\n\n").map(|at| at + 2);
    match (crlf, lf) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}
