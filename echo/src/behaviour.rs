//! What a request asks the backend to do, read from its path or its `do=` query
//! parameter. Pure: it performs nothing.

use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{StatusCode, Uri};

/// One behaviour with its parameters, all within their bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// Describe the request in JSON.
    Describe,
    /// Describe it under another status; `unread` answers before the body was read.
    Status { status: StatusCode, unread: bool },
    /// Describe it after a pause.
    Delay(Duration),
    /// Describe it with more response headers.
    Headers(Vec<(HeaderName, HeaderValue)>),
    /// A pattern body of known length.
    Bytes(u64),
    /// A pattern body in `count` chunks of `size` bytes.
    Chunked { count: u64, size: usize, trailers: bool },
    /// A pattern body, `size` bytes at a time with a pause before each.
    Drip { bytes: u64, size: usize, every: Duration, sized: bool },
    /// Announce `bytes` (or chunks), send `sent` of them, close.
    Half { bytes: u64, sent: u64, chunked: bool },
    /// A pattern body that ends with the connection.
    UntilClose(u64),
    /// Stream the request body and its trailers back.
    Mirror,
    /// 103 with `link`, then the description after a pause.
    EarlyHints { link: HeaderValue, pause: Duration },
    /// Pause before the body is read (and so before 100), or reject without reading it.
    Continue { pause: Duration, reject: Option<StatusCode> },
    /// Close the connection without an answer.
    Close,
    /// Reset the connection, or in HTTP/2 the stream with `reason`.
    Reset { reason: u32, connection: bool },
    /// 200 or 503, as the backend was told.
    Health,
    /// A WebSocket echo; `hello` sends the description first.
    WebSocket { hello: bool },
    /// Any other upgrade: bytes come back as they are.
    Upgrade,
}

/// Why a path or parameter asks for nothing that the backend can do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadBehaviour {
    #[error("{name}={value:?}: {expected}")]
    Parameter { name: &'static str, value: String, expected: &'static str },
    #[error("do={0:?}: no such behaviour; the crate documentation of sluicegate-echo lists them")]
    Unknown(String),
    #[error("header {0:?}: not a header that a response can carry here; raw answers are what RawBackend is for")]
    Header(String),
}

const MAX_BYTES: u64 = 1 << 40;
const MAX_CHUNK: u64 = 1 << 20;
const MAX_CHUNKS: u64 = 1 << 24;
const MAX_PAUSE: Duration = Duration::from_secs(600);

impl Behaviour {
    /// Reads what `uri` asks for. A path that names no behaviour is described, so that every
    /// path can be routed to an echo backend; `do=` must name one.
    pub(crate) fn of(uri: &Uri) -> Result<Behaviour, BadBehaviour> {
        let parameters = Parameters::of(uri.query().unwrap_or(""));
        match parameters.get("do") {
            Some(asked) => Behaviour::named(asked, &parameters)?.ok_or_else(|| BadBehaviour::Unknown(asked.to_owned())),
            None => {
                let path = uri.path();
                Ok(Behaviour::named(path.strip_prefix('/').unwrap_or(path), &parameters)?
                    .unwrap_or(Behaviour::Describe))
            }
        }
    }

    fn named(name: &str, parameters: &Parameters) -> Result<Option<Behaviour>, BadBehaviour> {
        let (verb, argument) = match name.split_once('/') {
            Some((verb, argument)) => (verb, Some(argument)),
            None => (name, None),
        };
        Ok(Some(match (verb, argument) {
            ("status", Some(code)) => {
                Behaviour::Status { status: status("status", code)?, unread: parameters.flag("unread") }
            }
            ("delay", Some(pause)) => Behaviour::Delay(duration("delay", pause)?),
            ("headers", None) => Behaviour::Headers(parameters.headers()?),
            ("bytes", Some(count)) => Behaviour::Bytes(number("bytes", count, MAX_BYTES)?),
            ("chunked", Some(shape)) => chunked(shape, parameters)?,
            ("drip", None) => Behaviour::Drip {
                bytes: parameters.number("bytes", 10, MAX_BYTES)?,
                size: parameters.number("size", 1, MAX_CHUNK)?.max(1) as usize,
                every: parameters.duration("every", Duration::from_millis(100))?,
                sized: parameters.flag("length"),
            },
            ("half", None) => {
                let bytes = parameters.number("bytes", 1000, MAX_BYTES)?;
                Behaviour::Half {
                    bytes,
                    sent: parameters.number("sent", bytes / 2, bytes)?,
                    chunked: parameters.flag("chunked"),
                }
            }
            ("until-close", None) => Behaviour::UntilClose(parameters.number("bytes", 1000, MAX_BYTES)?),
            ("echo", None) => Behaviour::Mirror,
            ("early-hints", None) => {
                Behaviour::EarlyHints { link: parameters.link()?, pause: parameters.duration("delay", Duration::ZERO)? }
            }
            ("continue", None) => Behaviour::Continue {
                pause: parameters.duration("delay", Duration::ZERO)?,
                reject: parameters.get("reject").map(|code| status("reject", code)).transpose()?,
            },
            ("close", None) => Behaviour::Close,
            ("reset", None) => Behaviour::Reset {
                reason: parameters.number("reason", 2, u64::from(u32::MAX))? as u32,
                connection: parameters.flag("connection"),
            },
            ("healthz", None) => Behaviour::Health,
            ("ws", None) => Behaviour::WebSocket { hello: parameters.flag("hello") },
            ("upgrade", None) => Behaviour::Upgrade,
            _ => return Ok(None),
        }))
    }
}

fn chunked(shape: &str, parameters: &Parameters) -> Result<Behaviour, BadBehaviour> {
    let bad = || BadBehaviour::Parameter {
        name: "chunked",
        value: shape.to_owned(),
        expected: "write COUNTxSIZE, such as 10x1000",
    };
    let (count, size) = shape.split_once('x').ok_or_else(bad)?;
    Ok(Behaviour::Chunked {
        count: number("chunked", count, MAX_CHUNKS)?,
        size: number("chunked", size, MAX_CHUNK)?.max(1) as usize,
        trailers: parameters.flag("trailers"),
    })
}

/// 1xx is not a final status, and 101 promises a protocol that nobody speaks here.
fn status(name: &'static str, code: &str) -> Result<StatusCode, BadBehaviour> {
    StatusCode::from_bytes(code.as_bytes()).ok().filter(|status| !status.is_informational()).ok_or_else(|| {
        BadBehaviour::Parameter { name, value: code.to_owned(), expected: "write a final status, 200 to 999" }
    })
}

fn number(name: &'static str, text: &str, most: u64) -> Result<u64, BadBehaviour> {
    text.parse().ok().filter(|count| *count <= most).ok_or_else(|| BadBehaviour::Parameter {
        name,
        value: text.to_owned(),
        expected: "write a decimal number within the bounds of this behaviour",
    })
}

/// `500ms`, `2s`, `1m`, `250us`; a bare number counts milliseconds.
fn duration(name: &'static str, text: &str) -> Result<Duration, BadBehaviour> {
    let bad = || BadBehaviour::Parameter {
        name,
        value: text.to_owned(),
        expected: "write a duration of at most 10m, such as 500ms or 2s",
    };
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let count: u64 = text[..digits].parse().map_err(|_| bad())?;
    let micros = match &text[digits..] {
        "us" => Some(count),
        "" | "ms" => count.checked_mul(1_000),
        "s" => count.checked_mul(1_000_000),
        "m" => count.checked_mul(60_000_000),
        _ => None,
    };
    micros.map(Duration::from_micros).filter(|pause| *pause <= MAX_PAUSE).ok_or_else(bad)
}

/// Decoded query parameters in their order.
struct Parameters(Vec<(String, String)>);

impl Parameters {
    fn of(query: &str) -> Parameters {
        Parameters(form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| !matches!(value, "0" | "false" | "no"))
    }

    fn number(&self, name: &'static str, default: u64, most: u64) -> Result<u64, BadBehaviour> {
        self.get(name).map_or(Ok(default), |text| number(name, text, most))
    }

    fn duration(&self, name: &'static str, default: Duration) -> Result<Duration, BadBehaviour> {
        self.get(name).map_or(Ok(default), |text| duration(name, text))
    }

    fn link(&self) -> Result<HeaderValue, BadBehaviour> {
        let link = self.get("link").unwrap_or("</style.css>; rel=preload; as=style");
        header_value(link).ok_or_else(|| BadBehaviour::Header("link".to_owned()))
    }

    fn headers(&self) -> Result<Vec<(HeaderName, HeaderValue)>, BadBehaviour> {
        let wanted = self.0.iter().filter(|(name, _)| name != "do");
        wanted
            .map(|(name, value)| {
                let bad = || BadBehaviour::Header(name.clone());
                let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
                // The framing is the server library's; asking for another one would make it lie.
                if [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::UPGRADE].contains(&name) {
                    return Err(bad());
                }
                Ok((name, header_value(value).ok_or_else(bad)?))
            })
            .collect()
    }
}

fn header_value(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_maybe_shared(Bytes::copy_from_slice(text.as_bytes())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(uri: &str) -> Result<Behaviour, BadBehaviour> {
        Behaviour::of(&uri.parse().expect("a URI"))
    }

    #[test]
    fn paths_that_name_nothing_are_described() {
        for uri in ["/", "/status", "/delay", "/app/status/503", "/echo/x", "/bytes", "*", "/wsx", "//"] {
            assert_eq!(of(uri), Ok(Behaviour::Describe), "{uri}");
        }
        for uri in ["/?do", "/?do=nothing", "/bytes/1?do=/bytes/1"] {
            assert!(matches!(of(uri), Err(BadBehaviour::Unknown(_))), "{uri}");
        }
    }

    #[test]
    fn the_query_names_a_behaviour_under_any_path() {
        assert_eq!(of("/app/x?do=delay/2s"), Ok(Behaviour::Delay(Duration::from_secs(2))));
        assert_eq!(of("/status/503?do=close"), Ok(Behaviour::Close));
        assert_eq!(
            of("/app?do=drip&bytes=5&every=1ms&length=1"),
            Ok(Behaviour::Drip { bytes: 5, size: 1, every: Duration::from_millis(1), sized: true })
        );
    }

    #[test]
    fn parameters_out_of_bounds_are_named() {
        for (uri, name) in [
            ("/status/100", "status"),
            ("/status/2000", "status"),
            ("/status/", "status"),
            ("/delay/11m", "delay"),
            ("/delay/18446744073709551615m", "delay"),
            ("/delay/ms", "delay"),
            ("/bytes/-1", "bytes"),
            ("/bytes/1099511627777", "bytes"),
            ("/chunked/10", "chunked"),
            ("/chunked/10x2000000", "chunked"),
            ("/drip?every=1h", "every"),
            ("/half?bytes=10&sent=11", "sent"),
            ("/continue?reject=abc", "reject"),
        ] {
            match of(uri) {
                Err(BadBehaviour::Parameter { name: named, .. }) => assert_eq!(named, name, "{uri}"),
                other => panic!("{uri}: {other:?}"),
            }
        }
        for uri in ["/headers?content-length=1", "/headers?a%0Ab=1", "/headers?a=b%0D%0Ac"] {
            assert!(matches!(of(uri), Err(BadBehaviour::Header(_))), "{uri}");
        }
    }
}
