//! `grpc.health.v1.Health/Check`, over HTTP/2 by prior knowledge.

use crate::failure::{Failure, Step};
use crate::http::authority;
use crate::probe::Attempt;
use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use http::header::{CONTENT_TYPE, HeaderMap, TE, USER_AGENT};
use http::{Method, Request, StatusCode, Version};
use prost::Message;
use std::net::SocketAddr;
use std::pin::pin;

/// The answer is 7 bytes long; this much is read of another one. In bytes.
const LONGEST_ANSWER: usize = 4 << 10;
/// Largest header list of the answer, in bytes as RFC 9113 section 6.5.2 counts.
const LARGEST_HEADERS: u32 = 16 << 10;
/// Length of the prefix of a message: compression flag and length.
const PREFIX: usize = 5;

pub(crate) async fn probe(attempt: &Attempt<'_>, service: &str) -> Result<(), Failure> {
    let stream = attempt.connect().await?;
    attempt.enter(Step::Answer);
    let mut builder = h2::client::Builder::new();
    builder.enable_push(false).max_header_list_size(LARGEST_HEADERS);
    let (sender, connection) = builder.handshake(stream).await.map_err(|error| attempt.http2_failed(&error))?;
    let authority = authority(SocketAddr::new(attempt.vip, attempt.address.port()), 80);
    let mut call = pin!(call(attempt, sender, &authority, service));
    let mut connection = pin!(connection);
    tokio::select! {
        biased;
        result = &mut call => result,
        ended = &mut connection => match ended {
            Err(error) => Err(attempt.http2_failed(&error)),
            // What arrived before the end may be a whole answer.
            Ok(()) => call.await,
        },
    }
}

async fn call(
    attempt: &Attempt<'_>,
    sender: SendRequest<Bytes>,
    authority: &str,
    service: &str,
) -> Result<(), Failure> {
    let failed = |error: h2::Error| attempt.http2_failed(&error);
    let request = Request::builder()
        .method(Method::POST)
        .version(Version::HTTP_2)
        .uri(format!("http://{authority}/grpc.health.v1.Health/Check"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, concat!("sluicegate-health/", env!("CARGO_PKG_VERSION")))
        .body(())
        .map_err(|error| Failure::Local(error.to_string().into()))?;
    let (response, mut body) = sender.ready().await.map_err(failed)?.send_request(request, false).map_err(failed)?;
    body.send_data(question(service), true).map_err(failed)?;
    let response = response.await.map_err(failed)?;
    if response.status() != StatusCode::OK {
        return Err(Failure::HttpStatus(response.status().as_u16()));
    }
    // An answer without a message has its status in the head (`Trailers-Only`).
    if let Some(status) = status(response.headers())? {
        return Err(if status == 0 { Failure::NotGrpc("no message") } else { Failure::GrpcStatus(status) });
    }
    let mut body = response.into_body();
    let mut answer = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(failed)?;
        if answer.len() + data.len() > LONGEST_ANSWER {
            return Err(Failure::NotGrpc("the message is too long"));
        }
        body.flow_control().release_capacity(data.len()).map_err(failed)?;
        answer.extend_from_slice(&data);
    }
    let trailers = body.trailers().await.map_err(failed)?.unwrap_or_default();
    match status(&trailers)? {
        Some(0) => serving(&answer),
        Some(status) => Err(Failure::GrpcStatus(status)),
        None => Err(Failure::NotGrpc("no grpc-status")),
    }
}

impl Attempt<'_> {
    fn http2_failed(&self, error: &h2::Error) -> Failure {
        match error.get_io() {
            Some(error) => self.failed(error),
            None => Failure::Http2(error.to_string().into()),
        }
    }
}

/// `HealthCheckRequest` of `grpc.health.v1`.
#[derive(Clone, PartialEq, Eq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `HealthCheckResponse` of `grpc.health.v1`; `status` 1 is SERVING.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

fn question(service: &str) -> Bytes {
    let message = HealthCheckRequest { service: service.to_owned() }.encode_to_vec();
    let mut framed = BytesMut::with_capacity(PREFIX + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(&message);
    framed.freeze()
}

fn status(fields: &HeaderMap) -> Result<Option<u32>, Failure> {
    let Some(value) = fields.get("grpc-status") else { return Ok(None) };
    let status = value.to_str().ok().and_then(|text| text.parse().ok());
    status.map(Some).ok_or(Failure::NotGrpc("grpc-status is no number"))
}

fn serving(answer: &[u8]) -> Result<(), Failure> {
    let Some((&[compressed, a, b, c, d], message)) = answer.split_first_chunk::<PREFIX>() else {
        return Err(Failure::NotGrpc("no message"));
    };
    if compressed != 0 {
        return Err(Failure::NotGrpc("a compressed message, which was not asked for"));
    }
    if usize::try_from(u32::from_be_bytes([a, b, c, d])).ok() != Some(message.len()) {
        return Err(Failure::NotGrpc("more or less than one message"));
    }
    let answer = HealthCheckResponse::decode(message).map_err(|_| Failure::NotGrpc("the message is not protobuf"))?;
    match answer.status {
        1 => Ok(()),
        0 => Err(Failure::NotServing("UNKNOWN")),
        2 => Err(Failure::NotServing("NOT_SERVING")),
        3 => Err(Failure::NotServing("SERVICE_UNKNOWN")),
        _ => Err(Failure::NotServing("a status that is not defined")),
    }
}
