//! How a collector answers.

use prost::Message;
use std::time::Duration;

/// One answer.
#[derive(Clone, Debug, Default)]
pub enum Reply {
    /// The spans are taken.
    #[default]
    Take,
    /// As [`Reply::Take`], after a while.
    Slowly(Duration),
    /// The spans are taken but for some.
    Partly {
        /// So many are refused.
        refused: i64,
        /// Why.
        words: &'static str,
    },
    /// A status of HTTP, over either protocol, as a proxy before the collector would answer.
    Http {
        /// The status.
        status: u16,
        /// `Retry-After`.
        retry_after: Option<&'static str>,
    },
    /// A status of gRPC.
    Grpc {
        /// The code.
        code: i32,
        /// The words that go with it.
        message: &'static str,
        /// `RetryInfo`.
        retry_after: Option<Duration>,
    },
    /// Nothing, ever.
    Never,
    /// A page, with 200.
    Page,
    /// The connection is closed without an answer.
    Close,
}

/// `google.rpc.Status` with `RetryInfo`.
pub(crate) fn details(code: i32, message: &str, delay: Duration) -> Vec<u8> {
    let delay = Delay { seconds: delay.as_secs() as i64, nanos: delay.subsec_nanos() as i32 };
    let info = RetryInfo { delay: Some(delay) }.encode_to_vec();
    let detail = Any { type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(), value: info };
    Status { code, message: message.to_owned(), details: vec![detail] }.encode_to_vec()
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    delay: Option<Delay>,
}

#[derive(Clone, PartialEq, Message)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}
