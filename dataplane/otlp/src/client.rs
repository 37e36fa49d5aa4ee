//! One HTTP client for both protocols: gRPC's single calls are a frame of five bytes in front of the message, and trailers
//! behind the answer.

use crate::answer::{self, Answer, Failed, Retry, shortened};
use crate::settings::{Compression, Endpoint, Headers, OtlpError, OtlpProtocol, OtlpSettings};
use crate::tls;
use bytes::Bytes;
use flate2::write::GzEncoder;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE, USER_AGENT};
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use sluicegate_telemetry::ExportFailure;
use std::error::Error;
use std::io::Write as _;
use std::time::{Duration, SystemTime};

/// Bytes of an answer that are read; those of collectors have a few dozen.
const LARGEST_ANSWER: usize = 64 * 1024;
/// A connection on which nothing comes back is given up, so that a collector that has moved is found again.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Sends batches to one collector.
pub struct Client {
    http: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    endpoint: Endpoint,
    fields: HeaderMap,
    /// For their values, which no error may show.
    headers: Headers,
    compression: Compression,
    timeout: Duration,
}

impl Client {
    /// Nothing is connected before the first batch.
    pub fn new(settings: &OtlpSettings) -> Result<Self, OtlpError> {
        let protocol = settings.endpoint.protocol;
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls::config(&settings.tls)?).https_or_http();
        let connector = match protocol {
            OtlpProtocol::Grpc => connector.enable_http2().build(),
            OtlpProtocol::HttpProtobuf => connector.enable_http1().build(),
        };
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .http2_only(protocol == OtlpProtocol::Grpc)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .http2_keep_alive_timeout(KEEP_ALIVE)
            .build(connector);
        Ok(Self {
            http,
            fields: fields(protocol, settings.compression, &settings.headers),
            headers: settings.headers.clone(),
            endpoint: settings.endpoint.clone(),
            compression: settings.compression,
            timeout: settings.timeout,
        })
    }

    /// The body that carries a message, made once for all attempts.
    pub fn body(&self, message: Vec<u8>) -> Bytes {
        let message = match self.compression {
            Compression::None => message,
            Compression::Gzip => compressed(&message),
        };
        match self.endpoint.protocol {
            OtlpProtocol::HttpProtobuf => message.into(),
            OtlpProtocol::Grpc => {
                let mut frame = Vec::with_capacity(5 + message.len());
                frame.push(u8::from(self.compression == Compression::Gzip));
                // A batch has a few megabytes at most.
                frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
                frame.extend_from_slice(&message);
                frame.into()
            }
        }
    }

    /// Sends a batch once.
    pub async fn send(&self, body: Bytes) -> Answer {
        let failed = match tokio::time::timeout(self.timeout, self.exchange(body)).await {
            Ok(Ok(Answer::Failed(failed))) => failed,
            Ok(Ok(taken)) => return taken,
            Ok(Err(failed)) => failed,
            Err(_) => {
                let words = format!("no answer within {:?}", self.timeout);
                Failed { failure: ExportFailure::Timeout, retry: Retry::Later(None), words }
            }
        };
        Answer::Failed(Failed { words: self.headers.redact(&failed.words), ..failed })
    }

    async fn exchange(&self, body: Bytes) -> Result<Answer, Failed> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        request.uri_mut().clone_from(&self.endpoint.uri);
        request.headers_mut().clone_from(&self.fields);
        let response = self.http.request(request).await.map_err(|error| unanswered(&error))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let (body, trailers) = read(response).await?;
        let now = SystemTime::now();
        Ok(match self.endpoint.protocol {
            OtlpProtocol::HttpProtobuf => answer::over_http(status, &headers, &body, now),
            OtlpProtocol::Grpc => answer::over_grpc(status, &headers, &body, &trailers, now),
        })
    }
}

fn fields(protocol: OtlpProtocol, compression: Compression, headers: &Headers) -> HeaderMap {
    let mut fields = headers.map().clone();
    let (kind, encoding) = match protocol {
        OtlpProtocol::Grpc => ("application/grpc", HeaderName::from_static("grpc-encoding")),
        OtlpProtocol::HttpProtobuf => ("application/x-protobuf", CONTENT_ENCODING),
    };
    fields.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    fields.insert(USER_AGENT, HeaderValue::from_static(concat!("sluicegate/", env!("CARGO_PKG_VERSION"))));
    if protocol == OtlpProtocol::Grpc {
        // Proxies that drop trailers have to say so.
        fields.insert(TE, HeaderValue::from_static("trailers"));
    }
    if compression == Compression::Gzip {
        fields.insert(encoding, HeaderValue::from_static("gzip"));
    }
    fields
}

fn compressed(message: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(message.len() / 4), flate2::Compression::fast());
    // Writing into memory does not fail.
    encoder.write_all(message).and_then(|()| encoder.finish()).unwrap_or_default()
}

async fn read(response: Response<Incoming>) -> Result<(Bytes, HeaderMap), Failed> {
    let body = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            let words = format!("the answer has more than {LARGEST_ANSWER} bytes");
            return Failed { failure: ExportFailure::Malformed, retry: Retry::Never, words };
        }
        Failed { failure: ExportFailure::Malformed, retry: Retry::Later(None), words: chain(&*error) }
    })?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    Ok((body.to_bytes(), trailers))
}

fn unanswered(error: &legacy::Error) -> Failed {
    let failure = if error.is_connect() { ExportFailure::Connect } else { ExportFailure::Malformed };
    Failed { failure, retry: Retry::Later(None), words: chain(error) }
}

/// An error with its causes, of which the last says most.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words.push_str(": ");
        words.push_str(&error.to_string());
        cause = error.source();
    }
    shortened(&words)
}
