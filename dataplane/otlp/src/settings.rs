//! Where spans go, and how.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Where HTTP exporters send traces to, below an endpoint that is for all signals.
const TRACES_PATH: &str = "/v1/traces";
/// The method of gRPC.
const GRPC_PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// The port that collectors listen on for gRPC; for HTTP it is 4318.
const GRPC_PORT: u16 = 4317;

/// Everything that [`crate::Exporter::start`] needs.
#[derive(Clone, Debug)]
pub struct OtlpSettings {
    /// Where the collector is.
    pub endpoint: Endpoint,
    /// Sent with each request; they may hold secrets.
    pub headers: Headers,
    /// What is done to bodies.
    pub compression: Compression,
    /// For one request, the connection included.
    pub timeout: Duration,
    /// Whom to believe, and as whom to come.
    pub tls: TlsFiles,
    /// Attributes of the resource: who sends.
    pub resource: Vec<(String, String)>,
    /// Most spans that wait.
    pub queue: usize,
    /// Most spans of a request.
    pub batch: usize,
    /// Longest wait until what is there is sent.
    pub delay: Duration,
}

impl OtlpSettings {
    /// The defaults of OpenTelemetry's SDKs.
    pub fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            headers: Headers::default(),
            compression: Compression::default(),
            timeout: Duration::from_secs(10),
            tls: TlsFiles::default(),
            resource: Vec::new(),
            queue: 2048,
            batch: 512,
            delay: Duration::from_secs(5),
        }
    }
}

/// How a collector is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtlpProtocol {
    /// gRPC.
    Grpc,
    /// Protobuf in HTTP/1.1.
    HttpProtobuf,
}

impl FromStr for OtlpProtocol {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "grpc" => Ok(Self::Grpc),
            "http/protobuf" => Ok(Self::HttpProtobuf),
            _ => Err("grpc or http/protobuf is expected".to_owned()),
        }
    }
}

/// What is done to the bodies of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Nothing.
    #[default]
    None,
    /// gzip.
    Gzip,
}

impl FromStr for Compression {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "none" => Ok(Self::None),
            "gzip" => Ok(Self::Gzip),
            _ => Err("gzip or none is expected".to_owned()),
        }
    }
}

/// Files of TLS, in PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Who signs the collector's certificate; without it, whom the system trusts.
    pub ca: Option<PathBuf>,
    /// The certificate to show, with its chain; with a key.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

/// The address of a collector and how it is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub(crate) uri: Uri,
    pub(crate) protocol: OtlpProtocol,
}

impl Endpoint {
    /// Reads a URL that is for all signals: over HTTP, `/v1/traces` is put behind its path unless it is there. Without a
    /// protocol it is gRPC where the port is 4317, else HTTP.
    ///
    /// # Errors
    /// Where it is no URL of `http` or `https`.
    pub fn for_all_signals(url: &str, protocol: Option<OtlpProtocol>) -> Result<Self, String> {
        Self::read(url, protocol, true)
    }

    /// Reads a URL that is for traces alone, and taken as it is.
    ///
    /// # Errors
    /// As [`Endpoint::for_all_signals`].
    pub fn for_traces(url: &str, protocol: Option<OtlpProtocol>) -> Result<Self, String> {
        Self::read(url, protocol, false)
    }

    fn read(url: &str, protocol: Option<OtlpProtocol>, append: bool) -> Result<Self, String> {
        let expected = || "a URL of http or https is expected, such as http://collector.example:4317".to_owned();
        let mut parts = url.parse::<Uri>().map_err(|_| expected())?.into_parts();
        if !parts.scheme.as_ref().is_some_and(|scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS) {
            return Err(expected());
        }
        let authority = parts.authority.as_ref().ok_or_else(expected)?;
        if authority.as_str().contains('@') {
            // They would stand in logs and state.
            return Err("credentials do not belong into the URL; give them as a header".to_owned());
        }
        let by_port = match authority.port_u16() {
            Some(GRPC_PORT) => OtlpProtocol::Grpc,
            _ => OtlpProtocol::HttpProtobuf,
        };
        let protocol = protocol.unwrap_or(by_port);
        let path = parts.path_and_query.as_ref().map_or("/", PathAndQuery::as_str);
        let path = match protocol {
            // The method has its place; a path before it is for proxies.
            OtlpProtocol::Grpc => format!("{}{GRPC_PATH}", path.trim_end_matches('/')),
            OtlpProtocol::HttpProtobuf if append && !path.contains('?') && !path.ends_with(TRACES_PATH) => {
                format!("{}{TRACES_PATH}", path.trim_end_matches('/'))
            }
            OtlpProtocol::HttpProtobuf => path.to_owned(),
        };
        parts.path_and_query = Some(path.parse().map_err(|_| expected())?);
        Ok(Self { uri: Uri::from_parts(parts).map_err(|_| expected())?, protocol })
    }

    /// How it is spoken to.
    pub fn protocol(&self) -> OtlpProtocol {
        self.protocol
    }

    /// For people: without what stands behind a `?`, which may be a key.
    pub fn shown(&self) -> String {
        let scheme = self.uri.scheme_str().unwrap_or_default();
        let authority = self.uri.authority().map_or("", Authority::as_str);
        format!("{scheme}://{authority}{}", self.uri.path())
    }
}

/// Header fields for a collector. Their values appear nowhere but in requests.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(HeaderMap);

impl Headers {
    /// Reads `NAME=VALUE`.
    ///
    /// # Errors
    /// Where it is none, or the name is one that the protocol sets. The message does not hold the value.
    pub fn add(&mut self, text: &str) -> Result<(), String> {
        let (name, value) = text.split_once('=').ok_or("NAME=VALUE is expected")?;
        let name = name.trim();
        let parsed = HeaderName::from_str(name).map_err(|_| format!("`{name}` is not the name of a header"))?;
        if [http::header::HOST, http::header::CONTENT_LENGTH, http::header::CONTENT_TYPE, http::header::TE]
            .contains(&parsed)
        {
            return Err(format!("`{name}` is set by the protocol"));
        }
        let mut value = HeaderValue::from_str(value.trim())
            .map_err(|_| format!("the value of `{name}` holds characters that no header may have"))?;
        value.set_sensitive(true);
        self.0.append(parsed, value);
        Ok(())
    }

    /// True where there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn map(&self) -> &HeaderMap {
        &self.0
    }

    /// A text in which no value of these is left.
    pub(crate) fn redact(&self, text: &str) -> String {
        // What is shorter is no secret, and would take words apart.
        let secrets = self.0.values().filter_map(|value| value.to_str().ok()).filter(|value| value.len() >= 4);
        let tokens = secrets.flat_map(|value| std::iter::once(value).chain(value.rsplit(' ').next()));
        tokens.filter(|token| token.len() >= 4).fold(text.to_owned(), |text, token| text.replace(token, "***"))
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Why there is no exporter.
#[derive(Debug, thiserror::Error)]
pub enum OtlpError {
    /// A file of TLS cannot be read.
    #[error("{what} {path}: cannot be read")]
    File {
        /// Which one.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file of TLS holds something else.
    #[error("{what} {path}: {why}; PEM is expected")]
    Pem {
        /// Which one.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A certificate without its key, or a key without its certificate.
    #[error("a client certificate for the collector needs both --otlp-cert FILE and --otlp-key FILE")]
    HalfPair,
    /// The system trusts nobody.
    #[error("the system's trusted certificates cannot be read ({0}); name the collector's CA with --otlp-ca FILE")]
    NoRoots(String),
    /// The TLS library refuses the settings.
    #[error("TLS towards the collector: {0}")]
    Tls(#[from] rustls::Error),
    /// The system gave no thread.
    #[error("the exporter's thread cannot be started")]
    Thread(#[source] io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_completed_by_the_protocol() {
        let all = |url, protocol| Endpoint::for_all_signals(url, protocol).map(|endpoint| endpoint.uri.to_string());
        let http = Some(OtlpProtocol::HttpProtobuf);
        for (url, protocol, expected) in [
            ("http://c.example:4318", None, "http://c.example:4318/v1/traces"),
            ("http://c.example:4318/", http, "http://c.example:4318/v1/traces"),
            ("https://c.example/otlp/", None, "https://c.example/otlp/v1/traces"),
            ("https://c.example/v1/traces", None, "https://c.example/v1/traces"),
            ("http://c.example:4317", http, "http://c.example:4317/v1/traces"),
            ("http://[2001:db8::1]:4318", None, "http://[2001:db8::1]:4318/v1/traces"),
        ] {
            assert_eq!(all(url, protocol).as_deref(), Ok(expected), "{url}");
        }
        let grpc = all("http://c.example:4317", None);
        assert_eq!(grpc.as_deref(), Ok(&*format!("http://c.example:4317{GRPC_PATH}")));
        let traces = Endpoint::for_traces("http://c.example:4318/x", None).map(|endpoint| endpoint.uri.to_string());
        assert_eq!(traces.as_deref(), Ok("http://c.example:4318/x"));
        for bad in ["", "c.example:4317", "ftp://c.example", "http://", "https://user:word@c.example", "http:///x"] {
            assert!(all(bad, None).is_err(), "{bad}");
        }
    }

    #[test]
    fn values_of_headers_are_shown_nowhere() {
        let mut headers = Headers::default();
        headers.add("Authorization=Bearer abcdef123").expect("a header");
        headers.add("x-scope = tenant-7").expect("a header");
        for bad in ["authorization", "a b=c", "host=x", "x=\u{1}secret"] {
            let error = headers.add(bad).expect_err(bad);
            assert!(!error.contains("secret"), "{error}");
        }
        assert_eq!(format!("{headers:?}"), r#"{"authorization", "x-scope"}"#);
        let settings = OtlpSettings {
            headers,
            ..OtlpSettings::new(Endpoint::for_traces("http://c.example/?key=hidden", None).expect("a URL"))
        };
        assert!(!format!("{:?}", settings.headers).contains("abcdef"));
        assert_eq!(settings.headers.redact("token abcdef123 of tenant-7 is unknown"), "token *** of *** is unknown");
        assert_eq!(settings.endpoint.shown(), "http://c.example/");
    }
}
