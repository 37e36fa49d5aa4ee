//! What a collector's answer means (OTLP 1.x, sections "Response" of "OTLP/gRPC" and "OTLP/HTTP").

use crate::messages::{ExportResponse, RetryInfo, RpcStatus};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use percent_encoding::percent_decode;
use prost::Message as _;
use sluicegate_telemetry::ExportFailure;
use std::time::{Duration, SystemTime};

/// Bytes of words from outside that are passed on to the log.
const LONGEST_WORDS: usize = 200;

/// What became of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It was taken.
    Taken {
        /// All but so many of its spans.
        refused: u64,
        /// The collector's words; also a warning where nothing was refused.
        words: String,
    },
    /// It was not.
    Failed(Failed),
}

/// Why a batch was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    pub failure: ExportFailure,
    pub retry: Retry,
    /// For people.
    pub words: String,
}

/// Whether it makes sense to send the batch again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    Never,
    /// Not before this, where the collector said something.
    Later(Option<Duration>),
}

/// The answer to a request over HTTP; the body is at most what was read of it.
pub fn over_http(status: StatusCode, headers: &HeaderMap, body: &[u8], now: SystemTime) -> Answer {
    if status.is_success() {
        return taken(body);
    }
    let said = RpcStatus::decode(body).map(|status| status.message).unwrap_or_default();
    let words = shortened(&format!("HTTP {status} {said}"));
    match status.as_u16() {
        429 | 502 | 503 | 504 => busy(words, retry_after(headers, now)),
        _ => refused(words),
    }
}

/// The answer to a call of gRPC: its head, the message if there was one, and its trailers.
pub fn over_grpc(
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    trailers: &HeaderMap,
    now: SystemTime,
) -> Answer {
    let field = |name| trailers.get(name).or_else(|| headers.get(name));
    let Some(code) = field("grpc-status").and_then(|value| value.to_str().ok()?.parse::<u16>().ok()) else {
        // No gRPC at all: something on the way.
        return match over_http(status, headers, &[], now) {
            Answer::Taken { .. } => malformed("the answer has no grpc-status"),
            failed => failed,
        };
    };
    if code == 0 {
        return match body {
            [0, _, _, _, _, message @ ..] => taken(message),
            _ => malformed("the answer holds no message of gRPC"),
        };
    }
    let said = field("grpc-message").map(|value| percent_decode(value.as_bytes()).decode_utf8_lossy().into_owned());
    let words = shortened(&format!("grpc-status {code} {}", said.unwrap_or_default()));
    let asked = field("grpc-status-details-bin").and_then(|value| retry_info(value.as_bytes()));
    match code {
        // CANCELLED, DEADLINE_EXCEEDED, ABORTED, OUT_OF_RANGE, UNAVAILABLE, DATA_LOSS
        1 | 4 | 10 | 11 | 14 | 15 => busy(words, asked),
        // RESOURCE_EXHAUSTED passes where the collector says when.
        8 if asked.is_some() => busy(words, asked),
        _ => refused(words),
    }
}

fn taken(message: &[u8]) -> Answer {
    match ExportResponse::decode(message) {
        Ok(response) => {
            let partial = response.partial_success.unwrap_or_default();
            Answer::Taken {
                refused: u64::try_from(partial.rejected_spans).unwrap_or_default(),
                words: shortened(&partial.error_message),
            }
        }
        Err(_) => malformed("the answer is not the message of a collector"),
    }
}

fn busy(words: String, asked: Option<Duration>) -> Answer {
    Answer::Failed(Failed { failure: ExportFailure::Busy, retry: Retry::Later(asked), words })
}

fn refused(words: String) -> Answer {
    Answer::Failed(Failed { failure: ExportFailure::Refused, retry: Retry::Never, words })
}

/// Whatever answers with success and in another language took nothing: a page of a web server, say.
fn malformed(words: &str) -> Answer {
    Answer::Failed(Failed { failure: ExportFailure::Malformed, retry: Retry::Never, words: words.to_owned() })
}

/// Seconds, or a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    Some(httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default())
}

fn retry_info(details: &[u8]) -> Option<Duration> {
    let details = details.split(|byte| *byte == b'=').next().unwrap_or_default();
    let status = RpcStatus::decode(STANDARD_NO_PAD.decode(details).ok()?.as_slice()).ok()?;
    let info = status.details.iter().find(|detail| detail.type_url.ends_with("/google.rpc.RetryInfo"))?;
    let delay = RetryInfo::decode(info.value.as_slice()).ok()?.retry_delay?;
    Some(Duration::new(u64::try_from(delay.seconds).ok()?, u32::try_from(delay.nanos).ok()?.min(999_999_999)))
}

/// On one line, and not too much of it.
pub fn shortened(words: &str) -> String {
    let line = words.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
    line.take(LONGEST_WORDS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::{Any, PartialSuccess, ProtoDuration};
    use http::HeaderValue;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)
    }

    fn fields(list: &[(&'static str, &str)]) -> HeaderMap {
        list.iter()
            .map(|(name, value)| ((*name).parse().expect("a name"), HeaderValue::from_str(value).expect("a value")))
            .collect()
    }

    fn http(status: u16, headers: &[(&'static str, &str)], body: &[u8]) -> Answer {
        over_http(StatusCode::from_u16(status).expect("a status"), &fields(headers), body, now())
    }

    fn grpc(trailers: &[(&'static str, &str)], body: &[u8]) -> Answer {
        over_grpc(StatusCode::OK, &HeaderMap::new(), body, &fields(trailers), now())
    }

    #[track_caller]
    fn kind(answer: Answer) -> (ExportFailure, Retry) {
        match answer {
            Answer::Failed(failed) => (failed.failure, failed.retry),
            taken => panic!("{taken:?}"),
        }
    }

    #[test]
    fn success_may_be_partial() {
        let whole = Answer::Taken { refused: 0, words: String::new() };
        assert_eq!(http(200, &[], b""), whole);
        assert_eq!(grpc(&[("grpc-status", "0")], &[0; 5]), whole);
        let partial = PartialSuccess { rejected_spans: 3, error_message: "too\nold".to_owned() };
        let body = ExportResponse { partial_success: Some(partial) }.encode_to_vec();
        let expected = Answer::Taken { refused: 3, words: "too old".to_owned() };
        assert_eq!(http(200, &[], &body), expected);
        assert_eq!(
            grpc(&[("grpc-status", "0")], &[&[0, 0, 0, 0, body.len() as u8], body.as_slice()].concat()),
            expected
        );
    }

    #[test]
    fn what_is_no_collector_takes_nothing() {
        let never = (ExportFailure::Malformed, Retry::Never);
        assert_eq!(kind(http(200, &[], b"<html><body>It works!</body></html>")), never);
        assert_eq!(kind(grpc(&[], b"")), never);
        assert_eq!(kind(grpc(&[("grpc-status", "0")], b"")), never);
        assert_eq!(kind(grpc(&[("grpc-status", "0")], b"\x01\0\0\0\0")), never);
    }

    #[test]
    fn what_may_pass_is_told_from_what_will_not() {
        for status in [429, 502, 503, 504] {
            assert_eq!(kind(http(status, &[], b"")), (ExportFailure::Busy, Retry::Later(None)), "{status}");
        }
        for status in [301, 400, 401, 403, 404, 413, 415, 500, 501] {
            assert_eq!(kind(http(status, &[], b"")), (ExportFailure::Refused, Retry::Never), "{status}");
        }
        for code in ["1", "4", "10", "11", "14", "15"] {
            assert_eq!(kind(grpc(&[("grpc-status", code)], b"")), (ExportFailure::Busy, Retry::Later(None)), "{code}");
        }
        for code in ["2", "3", "5", "7", "8", "12", "13", "16", "99"] {
            assert_eq!(kind(grpc(&[("grpc-status", code)], b"")), (ExportFailure::Refused, Retry::Never), "{code}");
        }
        // A proxy before the collector answers as HTTP.
        let unavailable = over_grpc(StatusCode::SERVICE_UNAVAILABLE, &HeaderMap::new(), b"", &HeaderMap::new(), now());
        assert_eq!(kind(unavailable), (ExportFailure::Busy, Retry::Later(None)));
    }

    #[test]
    fn a_collector_says_when_to_come_back() {
        let after = |value| match kind(http(429, &[("retry-after", value)], b"")) {
            (ExportFailure::Busy, Retry::Later(pause)) => pause,
            other => panic!("{other:?}"),
        };
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        assert_eq!(after("Sun, 09 Sep 2001 01:47:10 GMT"), Some(Duration::from_secs(30)));
        assert_eq!(after("Sun, 09 Sep 2001 01:46:00 GMT"), Some(Duration::ZERO));
        assert_eq!(after("soon"), None);

        let delay = RetryInfo { retry_delay: Some(ProtoDuration { seconds: 2, nanos: 500_000_000 }) };
        let detail =
            Any { type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(), value: delay.encode_to_vec() };
        let status = RpcStatus { code: 8, message: String::new(), details: vec![detail] };
        let text = STANDARD_NO_PAD.encode(status.encode_to_vec());
        for text in [text.clone(), format!("{text}==")] {
            let answer = grpc(&[("grpc-status", "8"), ("grpc-status-details-bin", &text)], b"");
            assert_eq!(kind(answer), (ExportFailure::Busy, Retry::Later(Some(Duration::from_millis(2500)))));
        }
    }

    #[test]
    fn words_are_passed_on_within_bounds() {
        let Answer::Failed(failed) = grpc(&[("grpc-status", "16"), ("grpc-message", "no%20key%0a")], b"") else {
            panic!()
        };
        assert_eq!(failed.words, "grpc-status 16 no key");
        assert_eq!(shortened(&"x".repeat(1000)).len(), LONGEST_WORDS);
    }
}
