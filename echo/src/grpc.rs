//! The gRPC services: `sluicegate.echo.v1.Echo` in its four call types and
//! `grpc.health.v1.Health`.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::stream::{self, Stream, StreamExt};
use http::header;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tonic::metadata::{KeyAndValueRef, MetadataMap};
use tonic::server::{ClientStreamingService, Grpc, ServerStreamingService, StreamingService, UnaryService};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::backend::{Boxed, Connection, Shared};
use crate::body::EchoBody;
use crate::message::{EchoReply, EchoRequest, HealthCheckRequest, HealthCheckResponse, MAX_REPEAT, ServingStatus};

/// Full name of the echo service.
pub(crate) const SERVICE: &str = "sluicegate.echo.v1.Echo";

/// Largest reply of a unary call, which repeats its message inside one frame.
const MAX_REPLY: usize = 4 << 20;

type Replies<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

/// gRPC is told by its content type; it exists over HTTP/2 alone.
pub(crate) fn is_grpc<B>(request: &http::Request<B>) -> bool {
    let content_type = request.headers().get(header::CONTENT_TYPE).map(|value| value.as_bytes());
    let rest = content_type.and_then(|value| value.strip_prefix(b"application/grpc"));
    request.version() == http::Version::HTTP_2
        && rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// Answers one call.
pub(crate) async fn answer(connection: &Connection, request: http::Request<Incoming>) -> http::Response<EchoBody> {
    let echo = Echo { shared: Arc::clone(&connection.shared) };
    let path = request.uri().path().to_owned();
    let mut codec = Grpc::new(ProstCodec::default());
    let response = match path.as_str() {
        "/sluicegate.echo.v1.Echo/Unary" => codec.unary(Unary(echo), request).await,
        "/sluicegate.echo.v1.Echo/ClientStream" => codec.client_streaming(ClientStream(echo), request).await,
        "/sluicegate.echo.v1.Echo/ServerStream" => codec.server_streaming(ServerStream(echo), request).await,
        "/sluicegate.echo.v1.Echo/Bidi" => codec.streaming(Bidi(echo), request).await,
        "/grpc.health.v1.Health/Check" => Grpc::new(ProstCodec::default()).unary(Check(echo), request).await,
        "/grpc.health.v1.Health/Watch" => Grpc::new(ProstCodec::default()).server_streaming(Watch(echo), request).await,
        _ => Status::unimplemented(format!("{path}: no such method")).into_http(),
    };
    response.map(|body| body.map_err(Into::into).boxed_unsync())
}

#[derive(Clone)]
struct Echo {
    shared: Arc<Shared>,
}

impl Echo {
    fn reply(&self, message: String, metadata: BTreeMap<String, String>) -> EchoReply {
        EchoReply { message, service: self.shared.service.clone(), pod: self.shared.pod.clone(), metadata }
    }

    /// All replies to one streamed request, and the failure that ends them.
    fn replies(&self, asked: EchoRequest, metadata: BTreeMap<String, String>) -> Replies<EchoReply> {
        let failure = match check(&asked) {
            Ok(()) => failure(&asked),
            Err(refusal) => return Box::pin(stream::once(async { Err(refusal) })),
        };
        let count = if failure.is_some() { asked.repeat } else { asked.repeat.max(1) };
        let reply = self.reply(asked.message, metadata);
        let pause = Duration::from_millis(asked.delay_ms.into());
        let replies = stream::iter(0..count).then(move |_| {
            let reply = reply.clone();
            async move {
                wait(pause).await;
                Ok(reply)
            }
        });
        Box::pin(replies.chain(stream::iter(failure.map(Err))))
    }
}

struct Unary(Echo);

impl UnaryService<EchoRequest> for Unary {
    type Response = EchoReply;
    type Future = Boxed<Result<Response<EchoReply>, Status>>;

    fn call(&mut self, request: Request<EchoRequest>) -> Self::Future {
        let echo = self.0.clone();
        Box::pin(async move {
            let metadata = readable(request.metadata());
            let asked = request.into_inner();
            check(&asked)?;
            wait(Duration::from_millis(asked.delay_ms.into())).await;
            if let Some(failure) = failure(&asked) {
                return Err(failure);
            }
            let times = asked.repeat.max(1) as usize;
            if asked.message.len().saturating_mul(times) > MAX_REPLY {
                return Err(Status::resource_exhausted("repeat: the reply would pass 4 MiB; ask ServerStream"));
            }
            Ok(Response::new(echo.reply(asked.message.repeat(times), metadata)))
        })
    }
}

struct ClientStream(Echo);

impl ClientStreamingService<EchoRequest> for ClientStream {
    type Response = EchoReply;
    type Future = Boxed<Result<Response<EchoReply>, Status>>;

    fn call(&mut self, request: Request<Streaming<EchoRequest>>) -> Self::Future {
        let echo = self.0.clone();
        Box::pin(async move {
            let metadata = readable(request.metadata());
            let mut requests = request.into_inner();
            let mut joined = String::new();
            let mut first = true;
            while let Some(asked) = requests.message().await? {
                check(&asked)?;
                wait(Duration::from_millis(asked.delay_ms.into())).await;
                if let Some(failure) = failure(&asked) {
                    return Err(failure);
                }
                if !std::mem::take(&mut first) {
                    joined.push(',');
                }
                joined.push_str(&asked.message);
                if joined.len() > MAX_REPLY {
                    return Err(Status::resource_exhausted("the joined messages pass 4 MiB"));
                }
            }
            Ok(Response::new(echo.reply(joined, metadata)))
        })
    }
}

struct ServerStream(Echo);

impl ServerStreamingService<EchoRequest> for ServerStream {
    type Response = EchoReply;
    type ResponseStream = Replies<EchoReply>;
    type Future = Boxed<Result<Response<Replies<EchoReply>>, Status>>;

    fn call(&mut self, request: Request<EchoRequest>) -> Self::Future {
        let metadata = readable(request.metadata());
        let replies = self.0.replies(request.into_inner(), metadata);
        Box::pin(async { Ok(Response::new(replies)) })
    }
}

struct Bidi(Echo);

impl StreamingService<EchoRequest> for Bidi {
    type Response = EchoReply;
    type ResponseStream = Replies<EchoReply>;
    type Future = Boxed<Result<Response<Replies<EchoReply>>, Status>>;

    fn call(&mut self, request: Request<Streaming<EchoRequest>>) -> Self::Future {
        let echo = self.0.clone();
        let metadata = readable(request.metadata());
        let answered = request.into_inner().flat_map(move |asked| match asked {
            Ok(asked) => echo.replies(asked, metadata.clone()),
            Err(broken) => Box::pin(stream::once(async { Err(broken) })),
        });
        Box::pin(async { Ok(Response::new(Box::pin(until_error(answered)) as Replies<EchoReply>)) })
    }
}

struct Check(Echo);

impl UnaryService<HealthCheckRequest> for Check {
    type Response = HealthCheckResponse;
    type Future = Boxed<Result<Response<HealthCheckResponse>, Status>>;

    fn call(&mut self, request: Request<HealthCheckRequest>) -> Self::Future {
        let status = status_of(&self.0.shared, &request.get_ref().service);
        Box::pin(async move {
            match status {
                ServingStatus::ServiceUnknown => Err(Status::not_found("no such service")),
                known => Ok(Response::new(HealthCheckResponse { status: known.into() })),
            }
        })
    }
}

struct Watch(Echo);

impl ServerStreamingService<HealthCheckRequest> for Watch {
    type Response = HealthCheckResponse;
    type ResponseStream = Replies<HealthCheckResponse>;
    type Future = Boxed<Result<Response<Replies<HealthCheckResponse>>, Status>>;

    /// The status, then each change of it, until the caller leaves or the backend drains.
    fn call(&mut self, request: Request<HealthCheckRequest>) -> Self::Future {
        const LOOK: Duration = Duration::from_millis(100);
        let shared = Arc::clone(&self.0.shared);
        let service = request.into_inner().service;
        let changes = stream::unfold((shared, service, None), |(shared, service, told)| async move {
            loop {
                let status = status_of(&shared, &service);
                if told != Some(status) {
                    let response = HealthCheckResponse { status: status.into() };
                    return Some((Ok(response), (shared, service, Some(status))));
                }
                tokio::select! {
                    () = shared.drain.cancelled() => return None,
                    () = tokio::time::sleep(LOOK) => {}
                }
            }
        });
        Box::pin(async { Ok(Response::new(Box::pin(changes) as Replies<HealthCheckResponse>)) })
    }
}

fn status_of(shared: &Shared, service: &str) -> ServingStatus {
    match service {
        "" | SERVICE if shared.healthy.load(Ordering::Acquire) => ServingStatus::Serving,
        "" | SERVICE => ServingStatus::NotServing,
        _ => ServingStatus::ServiceUnknown,
    }
}

fn check(asked: &EchoRequest) -> Result<(), Status> {
    if asked.repeat > MAX_REPEAT {
        return Err(Status::invalid_argument(format!("repeat: {} is above {MAX_REPEAT}", asked.repeat)));
    }
    if asked.fail_with > 16 {
        return Err(Status::invalid_argument(format!("fail_with: {} is no grpc-status", asked.fail_with)));
    }
    if asked.delay_ms > 600_000 {
        return Err(Status::invalid_argument("delay_ms: at most 600000"));
    }
    Ok(())
}

/// The message comes back in `grpc-message`, so that its percent-encoding is exercised too.
fn failure(asked: &EchoRequest) -> Option<Status> {
    let code = i32::try_from(asked.fail_with).ok().filter(|code| *code != 0)?;
    Some(Status::new(Code::from_i32(code), format!("asked to fail: {}", asked.message)))
}

async fn wait(pause: Duration) {
    if !pause.is_zero() {
        tokio::time::sleep(pause).await;
    }
}

fn readable(metadata: &MetadataMap) -> BTreeMap<String, String> {
    let mut readable: BTreeMap<String, String> = BTreeMap::new();
    for entry in metadata.iter() {
        let (name, value) = match entry {
            KeyAndValueRef::Ascii(name, value) => (name.as_str(), value.as_encoded_bytes()),
            KeyAndValueRef::Binary(name, value) => (name.as_str(), value.as_encoded_bytes()),
        };
        let value = String::from_utf8_lossy(value);
        readable
            .entry(name.to_owned())
            .and_modify(|joined| {
                joined.push_str(", ");
                joined.push_str(&value);
            })
            .or_insert_with(|| value.clone().into_owned());
    }
    readable
}

/// The items up to and with the first error: after a status nothing follows.
fn until_error<M: Send + 'static>(
    replies: impl Stream<Item = Result<M, Status>> + Send + 'static,
) -> impl Stream<Item = Result<M, Status>> + Send {
    replies.scan(false, |ended, reply| {
        let item = (!*ended).then_some(reply);
        *ended = matches!(item, Some(Err(_)));
        std::future::ready(item)
    })
}
