//! Connections and requests.

use crate::reply::{Reply, details};
use crate::{Received, Shared, lock};
use bytes::Bytes;
use flate2::read::GzDecoder;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message as _;
use rustls::ServerConfig;
use std::future::pending;
use std::io::Read as _;
use std::net::TcpListener;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;
use tonic::body::Body;
use tonic::codec::CompressionEncoding;
use tower_service::Service as _;

const GRPC_PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// The connection is to be closed.
type Closed = Box<dyn std::error::Error + Send + Sync>;

pub(crate) async fn serve(listener: TcpListener, shared: Arc<Shared>, tls: Option<ServerConfig>) {
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let tls = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (shared, tls) = (Arc::clone(&shared), tls.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&shared), request));
            let builder = auto::Builder::new(TokioExecutor::new());
            // Connections that break are part of what is tested.
            match tls {
                None => drop(builder.serve_connection(TokioIo::new(stream), service).await),
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        drop(builder.serve_connection(TokioIo::new(stream), service).await);
                    }
                }
            }
        });
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Body>, Closed> {
    let reply = lock(&shared.script).pop_front().unwrap_or_else(|| lock(&shared.otherwise).clone());
    let is_grpc = request.uri().path() == GRPC_PATH;
    match &reply {
        Reply::Http { status, retry_after } => {
            keep(&shared, request, false).await?;
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::from_u16(*status)?;
            if let Some(after) = retry_after {
                response.headers_mut().insert(RETRY_AFTER, after.parse()?);
            }
            Ok(response)
        }
        Reply::Page => {
            keep(&shared, request, false).await?;
            let page = Full::new(Bytes::from_static(b"<!doctype html><title>It works!</title>"));
            let mut response = Response::new(Body::new(page));
            response.headers_mut().insert(CONTENT_TYPE, "text/html".parse()?);
            Ok(response)
        }
        Reply::Close => {
            keep(&shared, request, false).await?;
            Err("closed, as it was told".into())
        }
        Reply::Never => {
            keep(&shared, request, false).await?;
            pending().await
        }
        _ if is_grpc => {
            let service = Grpc { shared, reply };
            let mut server = TraceServiceServer::new(service).accept_compressed(CompressionEncoding::Gzip);
            Ok(server.call(request).await?)
        }
        _ => over_http(shared, request, reply).await,
    }
}

async fn over_http(shared: Arc<Shared>, request: Request<Incoming>, reply: Reply) -> Result<Response<Body>, Closed> {
    if request.headers().get(CONTENT_TYPE).is_none_or(|kind| kind != "application/x-protobuf") {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Ok(response);
    }
    keep(&shared, request, true).await?;
    if let Reply::Slowly(time) = reply {
        tokio::time::sleep(time).await;
    }
    let body = Full::new(Bytes::from(response_to(&reply).encode_to_vec()));
    let mut response = Response::new(Body::new(body));
    response.headers_mut().insert(CONTENT_TYPE, "application/x-protobuf".parse()?);
    Ok(response)
}

/// Reads a request without the help of a library for gRPC, whatever becomes of it.
async fn keep(shared: &Shared, request: Request<Incoming>, taken: bool) -> Result<(), Closed> {
    let (head, body) = request.into_parts();
    let sent = body.collect().await?.to_bytes();
    let path = head.uri.path();
    let (is_compressed, message) = match sent.as_ref() {
        [compressed, _, _, _, _, message @ ..] if path == GRPC_PATH => (*compressed == 1, message),
        message => (head.headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding == "gzip"), message),
    };
    let mut plain = Vec::new();
    if is_compressed {
        GzDecoder::new(message).read_to_end(&mut plain)?;
    } else {
        plain.extend_from_slice(message);
    }
    let decoded = ExportTraceServiceRequest::decode(plain.as_slice())?;
    let received = Received { taken, ..Received::new(path, head.headers, sent.len(), decoded) };
    lock(&shared.received).push(received);
    Ok(())
}

fn response_to(reply: &Reply) -> ExportTraceServiceResponse {
    let partial_success = match reply {
        Reply::Partly { refused, words } => {
            Some(ExportTracePartialSuccess { rejected_spans: *refused, error_message: (*words).to_owned() })
        }
        _ => None,
    };
    ExportTraceServiceResponse { partial_success }
}

struct Grpc {
    shared: Arc<Shared>,
    reply: Reply,
}

#[tonic::async_trait]
impl TraceService for Grpc {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let (metadata, _, message) = request.into_parts();
        let headers: HeaderMap = metadata.into_headers();
        let bytes = message.encoded_len();
        let taken = !matches!(self.reply, Reply::Grpc { .. });
        let received = Received { taken, ..Received::new(GRPC_PATH, headers, bytes, message) };
        lock(&self.shared.received).push(received);
        match &self.reply {
            Reply::Grpc { code, message, retry_after: None } => {
                Err(tonic::Status::new(tonic::Code::from_i32(*code), *message))
            }
            Reply::Grpc { code, message, retry_after: Some(delay) } => {
                let details = details(*code, message, *delay).into();
                Err(tonic::Status::with_details(tonic::Code::from_i32(*code), *message, details))
            }
            Reply::Slowly(time) => {
                tokio::time::sleep(*time).await;
                Ok(tonic::Response::new(response_to(&self.reply)))
            }
            reply => Ok(tonic::Response::new(response_to(reply))),
        }
    }
}
