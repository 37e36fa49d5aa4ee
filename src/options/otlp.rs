//! The options about where spans are sent.

use super::{Either, bounded, some_time};
use clap::Args;
use sluicegate_otlp::{Compression, OtlpProtocol};
use std::convert::Infallible;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

options! {
    /// Where spans are sent, and how. What is open here may be said by the variables of OpenTelemetry.
    #[derive(Clone, Debug, Default, Args)]
    pub struct OtlpOptions {
        /// Send spans to the OpenTelemetry collector at this URL, such as http://collector.example:4317 [default: nowhere]
        #[arg(long, env = "SLUICEGATE_OTLP_ENDPOINT", value_name = "URL", help_heading = "Tracing")]
        pub otlp_endpoint: Option<String>,
        /// grpc or http/protobuf [default: grpc on port 4317, else http/protobuf]
        #[arg(long, env = "SLUICEGATE_OTLP_PROTOCOL", value_name = "PROTOCOL", help_heading = "Tracing")]
        pub otlp_protocol: Option<OtlpProtocol>,
        /// Header for the collector, such as authorization=Bearer…; repeatable
        #[arg(long, env = "SLUICEGATE_OTLP_HEADER", hide_env_values = true, value_name = "NAME=VALUE", help_heading = "Tracing")]
        pub otlp_header: Vec<Unshown>,
        /// gzip or none [default: none]
        #[arg(long, env = "SLUICEGATE_OTLP_COMPRESSION", value_name = "METHOD", help_heading = "Tracing")]
        pub otlp_compression: Option<Compression>,
        /// For one request to the collector [default: 10s]
        #[arg(long, env = "SLUICEGATE_OTLP_TIMEOUT", value_name = "TIME", value_parser = some_time, help_heading = "Tracing")]
        pub otlp_timeout: Option<Duration>,
        /// File with the CA of the collector's certificate [default: whom the system trusts]
        #[arg(long, env = "SLUICEGATE_OTLP_CA", value_name = "FILE", help_heading = "Tracing")]
        pub otlp_ca: Option<PathBuf>,
        /// File with the certificate to show the collector, with its chain
        #[arg(long, env = "SLUICEGATE_OTLP_CERT", value_name = "FILE", help_heading = "Tracing")]
        pub otlp_cert: Option<PathBuf>,
        /// File with its key
        #[arg(long, env = "SLUICEGATE_OTLP_KEY", value_name = "FILE", help_heading = "Tracing")]
        pub otlp_key: Option<PathBuf>,
        /// Name of the service that spans come from [default: sluicegate]
        #[arg(long, env = "SLUICEGATE_OTLP_SERVICE_NAME", value_name = "NAME", help_heading = "Tracing")]
        pub otlp_service_name: Option<String>,
        /// Further attribute of the resource that spans come from; repeatable
        #[arg(long, env = "SLUICEGATE_OTLP_RESOURCE", value_name = "NAME=VALUE", value_delimiter = ',', value_parser = pair, help_heading = "Tracing")]
        pub otlp_resource: Vec<(String, String)>,
        /// Most spans that wait to be sent; beyond it they are dropped and counted [default: 2048]
        #[arg(long, env = "SLUICEGATE_OTLP_QUEUE", value_name = "N", value_parser = bounded(16, 1 << 20), help_heading = "Tracing")]
        pub otlp_queue: Option<usize>,
        /// Most spans of a request to the collector [default: 512]
        #[arg(long, env = "SLUICEGATE_OTLP_BATCH", value_name = "N", value_parser = bounded(1, 1 << 20), help_heading = "Tracing")]
        pub otlp_batch: Option<usize>,
        /// Longest time until spans are sent [default: 5s]
        #[arg(long, env = "SLUICEGATE_OTLP_DELAY", value_name = "TIME", value_parser = some_time, help_heading = "Tracing")]
        pub otlp_delay: Option<Duration>,
    }
}

/// A text that may be a secret, and is read later: what reads flags would show it where it is wrong.
#[derive(Clone)]
pub struct Unshown(pub String);

impl FromStr for Unshown {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Unshown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.trim().to_owned())),
        _ => Err("NAME=VALUE is expected".to_owned()),
    }
}
