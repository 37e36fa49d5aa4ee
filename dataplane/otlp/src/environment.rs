//! The variables that OpenTelemetry defines ("OpenTelemetry Environment Variable Specification" and "OpenTelemetry Protocol
//! Exporter"), as far as they are about traces. They stand below flags. What cannot be read is warned of and counts as unset,
//! as that specification demands; a value never stands in a warning.

use crate::settings::{Compression, Endpoint, Headers, OtlpProtocol};
use percent_encoding::percent_decode_str;
use sluicegate_trace::{Format, Ratio, Sampler};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// What the environment asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Environment {
    /// `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, else `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub endpoint: Option<Endpoint>,
    /// `…_PROTOCOL`; part of the endpoint already.
    pub protocol: Option<OtlpProtocol>,
    /// `…_HEADERS`.
    pub headers: Headers,
    /// `…_COMPRESSION`.
    pub compression: Option<Compression>,
    /// `…_TIMEOUT`.
    pub timeout: Option<Duration>,
    /// `…_CERTIFICATE`.
    pub ca: Option<PathBuf>,
    /// `…_CLIENT_CERTIFICATE`.
    pub certificate: Option<PathBuf>,
    /// `…_CLIENT_KEY`.
    pub key: Option<PathBuf>,
    /// `OTEL_SERVICE_NAME`, else `service.name` of the attributes.
    pub service_name: Option<String>,
    /// `OTEL_RESOURCE_ATTRIBUTES`, without `service.name`.
    pub resource: Vec<(String, String)>,
    /// `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG`.
    pub sampling: Option<Sampling>,
    /// `OTEL_PROPAGATORS`: the formats of trace context; `baggage` always crosses.
    pub propagators: Option<Vec<Format>>,
    /// `OTEL_BSP_MAX_QUEUE_SIZE`.
    pub queue: Option<usize>,
    /// `OTEL_BSP_MAX_EXPORT_BATCH_SIZE`.
    pub batch: Option<usize>,
    /// `OTEL_BSP_SCHEDULE_DELAY`.
    pub delay: Option<Duration>,
    /// What could not be read.
    pub warnings: Vec<String>,
}

/// What a sampler of the environment decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// Where nobody has decided before.
    pub sampler: Sampler,
    /// A decision that came with the request holds.
    pub parent_based: bool,
}

/// Largest queue and batch; beyond it a number is a mistake.
const MOST_SPANS: usize = 1 << 20;
/// Longest time.
const LONGEST: u64 = 600_000;

impl Environment {
    /// Reads the variables by a function that knows them.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Self {
        // "The SDK MUST interpret an empty value of an environment variable the same way as when the variable is unset."
        let variable = |name: &str| get(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let is = |name: &str, word: &str| variable(name).is_some_and(|value| value.eq_ignore_ascii_case(word));
        if is("OTEL_SDK_DISABLED", "true") {
            return Self::default();
        }
        let mut reader = Reader { variable: &variable, warnings: Vec::new() };
        let mut read = Self {
            protocol: reader.exporter("PROTOCOL", protocol),
            headers: reader.exporter("HEADERS", headers).unwrap_or_default(),
            compression: reader.exporter("COMPRESSION", Compression::from_str),
            timeout: reader.exporter("TIMEOUT", milliseconds).filter(|time| !time.is_zero()),
            ca: reader.exporter("CERTIFICATE", path),
            certificate: reader.exporter("CLIENT_CERTIFICATE", path),
            key: reader.exporter("CLIENT_KEY", path),
            resource: reader.one("OTEL_RESOURCE_ATTRIBUTES", pairs).unwrap_or_default(),
            queue: reader.one("OTEL_BSP_MAX_QUEUE_SIZE", spans),
            batch: reader.one("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", spans),
            delay: reader.one("OTEL_BSP_SCHEDULE_DELAY", milliseconds).filter(|time| !time.is_zero()),
            propagators: reader.propagators(),
            sampling: reader.sampling(),
            ..Self::default()
        };
        if !is("OTEL_TRACES_EXPORTER", "none") {
            read.endpoint = reader.endpoint(read.protocol);
        }
        let named = read.resource.iter().position(|(key, _)| key == "service.name");
        let in_attributes = named.map(|place| read.resource.remove(place).1);
        read.service_name = variable("OTEL_SERVICE_NAME").or(in_attributes);
        read.warnings = reader.warnings;
        read
    }
}

struct Reader<'a> {
    variable: &'a dyn Fn(&str) -> Option<String>,
    warnings: Vec<String>,
}

impl Reader<'_> {
    fn one<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        match parse(&(self.variable)(name)?) {
            Ok(value) => Some(value),
            Err(why) => {
                self.warnings.push(format!("{name}: {why}; it is not heeded"));
                None
            }
        }
    }

    /// That for traces, else that for all signals.
    fn exporter<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let traces = format!("OTEL_EXPORTER_OTLP_TRACES_{name}");
        if (self.variable)(&traces).is_some() {
            return self.one(&traces, parse);
        }
        self.one(&format!("OTEL_EXPORTER_OTLP_{name}"), parse)
    }

    fn endpoint(&mut self, protocol: Option<OtlpProtocol>) -> Option<Endpoint> {
        let is_insecure = self.exporter("INSECURE", boolean).unwrap_or(false);
        // Only for gRPC may the scheme be left out.
        let with_scheme = |url: &str| match (protocol, url.contains("://"), is_insecure) {
            (Some(OtlpProtocol::Grpc), false, true) => format!("http://{url}"),
            (Some(OtlpProtocol::Grpc), false, false) => format!("https://{url}"),
            _ => url.to_owned(),
        };
        if (self.variable)("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").is_some() {
            let parse = |url: &str| Endpoint::for_traces(&with_scheme(url), protocol);
            return self.one("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", parse);
        }
        let parse = |url: &str| Endpoint::for_all_signals(&with_scheme(url), protocol);
        self.one("OTEL_EXPORTER_OTLP_ENDPOINT", parse)
    }

    fn sampling(&mut self) -> Option<Sampling> {
        let name = (self.variable)("OTEL_TRACES_SAMPLER")?;
        let (name, parent_based) = match name.strip_prefix("parentbased_") {
            Some(name) => (name.to_owned(), true),
            None => (name, false),
        };
        let sampler = match name.as_str() {
            "always_on" => Sampler::Always,
            "always_off" => Sampler::Never,
            "traceidratio" => {
                let parse = |text: &str| {
                    let part = text.parse().map_err(|_| "a number from 0 to 1 is expected".to_owned())?;
                    Ratio::new(part).map_err(|error| error.to_string())
                };
                self.one("OTEL_TRACES_SAMPLER_ARG", parse).map_or(Sampler::Always, Sampler::Ratio)
            }
            _ => {
                let known = "always_on, always_off or traceidratio is expected, or one of them behind parentbased_";
                self.warnings.push(format!("OTEL_TRACES_SAMPLER: {known}; it is not heeded"));
                return None;
            }
        };
        Some(Sampling { sampler, parent_based })
    }

    fn propagators(&mut self) -> Option<Vec<Format>> {
        let list = (self.variable)("OTEL_PROPAGATORS")?;
        let mut formats = Vec::new();
        for name in list.split(',').map(str::trim).filter(|name| !matches!(*name, "" | "baggage" | "none")) {
            match name.parse() {
                Ok(format) if formats.contains(&format) => {}
                Ok(format) => formats.push(format),
                Err(error) => self.warnings.push(format!("OTEL_PROPAGATORS: {error}; this one is not heeded")),
            }
        }
        Some(formats)
    }
}

fn protocol(text: &str) -> Result<OtlpProtocol, String> {
    OtlpProtocol::from_str(text)
}

fn path(text: &str) -> Result<PathBuf, String> {
    Ok(text.into())
}

fn boolean(text: &str) -> Result<bool, String> {
    // "Any value that is not explicitly defined here as a true value ... MUST be interpreted as false."
    Ok(text.eq_ignore_ascii_case("true"))
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(number) if number <= LONGEST => Ok(Duration::from_millis(number)),
        _ => Err(format!("milliseconds up to {LONGEST} are expected")),
    }
}

fn spans(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (1..=MOST_SPANS).contains(&number) => Ok(number),
        _ => Err(format!("a number from 1 to {MOST_SPANS} is expected")),
    }
}

/// `name=value,name=value`, percent-encoded as in W3C's baggage.
pub fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let decoded = |part: &str| percent_decode_str(part.trim()).decode_utf8().map(|text| text.into_owned());
    text.split(',')
        .filter(|pair| !pair.trim().is_empty())
        .map(|pair| {
            let expected = || "NAME=VALUE,NAME=VALUE is expected, with what is special percent-encoded".to_owned();
            let (name, value) = pair.split_once('=').ok_or_else(expected)?;
            let pair = decoded(name).ok().zip(decoded(value).ok()).ok_or_else(expected)?;
            if pair.0.is_empty() { Err(expected()) } else { Ok(pair) }
        })
        .collect()
}

fn headers(text: &str) -> Result<Headers, String> {
    let mut headers = Headers::default();
    for (name, value) in pairs(text)? {
        headers.add(&format!("{name}={value}"))?;
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(list: &[(&str, &str)]) -> Environment {
        Environment::read(|name| list.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
    }

    fn shown(environment: &Environment) -> Option<String> {
        environment.endpoint.as_ref().map(Endpoint::shown)
    }

    #[test]
    fn nothing_is_asked_for_by_nothing() {
        assert_eq!(read(&[]), Environment::default());
        assert_eq!(read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", ""), ("OTEL_TRACES_SAMPLER", " ")]), Environment::default());
    }

    #[test]
    fn what_is_for_traces_comes_before_what_is_for_all() {
        let all = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all.example:4318");
        let traces = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces.example:4318/x");
        assert_eq!(shown(&read(&[all])).as_deref(), Some("http://all.example:4318/v1/traces"));
        assert_eq!(shown(&read(&[all, traces])).as_deref(), Some("http://traces.example:4318/x"));
        let both = read(&[
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1000"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "2000"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/etc/ca.pem"),
            ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "/etc/key.pem"),
            ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/etc/cert.pem"),
        ]);
        assert_eq!(both.timeout, Some(Duration::from_secs(2)));
        assert_eq!(both.compression, Some(Compression::Gzip));
        let files = [both.ca, both.certificate, both.key].map(|file| file.unwrap_or_default());
        assert_eq!(files, ["/etc/ca.pem", "/etc/cert.pem", "/etc/key.pem"].map(PathBuf::from));
    }

    #[test]
    fn grpc_may_leave_the_scheme_out() {
        let grpc = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
        let bare = ("OTEL_EXPORTER_OTLP_ENDPOINT", "c.example:4317");
        let path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
        assert_eq!(shown(&read(&[grpc, bare])), Some(format!("https://c.example:4317{path}")));
        let insecure = ("OTEL_EXPORTER_OTLP_INSECURE", "true");
        assert_eq!(shown(&read(&[grpc, bare, insecure])), Some(format!("http://c.example:4317{path}")));
        assert_eq!(read(&[bare]).warnings.len(), 1);
    }

    #[test]
    fn exporting_can_be_switched_off() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c.example:4318");
        let propagators = ("OTEL_PROPAGATORS", "b3");
        let off = read(&[endpoint, propagators, ("OTEL_TRACES_EXPORTER", "none")]);
        assert_eq!((off.endpoint, off.propagators), (None, Some(vec![Format::B3])));
        assert_eq!(read(&[endpoint, propagators, ("OTEL_SDK_DISABLED", "TRUE")]), Environment::default());
        assert!(read(&[endpoint, ("OTEL_SDK_DISABLED", "yes")]).endpoint.is_some());
    }

    #[test]
    fn resources_and_headers_are_lists() {
        let some = read(&[
            ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=a%2Cb, service.name=edge,team=x=y"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20abc,x-scope=1"),
        ]);
        assert_eq!(some.service_name.as_deref(), Some("edge"));
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(some.resource, [pair("deployment.environment", "a,b"), pair("team", "x=y")]);
        assert_eq!(some.headers.map()["authorization"], "Bearer abc");
        let named = read(&[("OTEL_SERVICE_NAME", "gw"), ("OTEL_RESOURCE_ATTRIBUTES", "service.name=edge")]);
        assert_eq!(named.service_name.as_deref(), Some("gw"));
    }

    #[test]
    fn samplers_and_propagators_have_their_names() {
        let sampling = |name, part| read(&[("OTEL_TRACES_SAMPLER", name), ("OTEL_TRACES_SAMPLER_ARG", part)]).sampling;
        let quarter = Sampler::Ratio(Ratio::new(0.25).expect("a ratio"));
        for (name, sampler, parent_based) in [
            ("always_on", Sampler::Always, false),
            ("always_off", Sampler::Never, false),
            ("traceidratio", quarter, false),
            ("parentbased_always_on", Sampler::Always, true),
            ("parentbased_always_off", Sampler::Never, true),
            ("parentbased_traceidratio", quarter, true),
        ] {
            assert_eq!(sampling(name, "0.25"), Some(Sampling { sampler, parent_based }), "{name}");
        }
        assert_eq!(sampling("jaeger_remote", ""), None);
        let formats = read(&[("OTEL_PROPAGATORS", "tracecontext,baggage, b3multi,b3multi,mystery")]);
        assert_eq!(formats.propagators, Some(vec![Format::W3c, Format::B3Multi]));
        assert_eq!(formats.warnings.len(), 1);
        assert_eq!(read(&[("OTEL_PROPAGATORS", "none")]).propagators, Some(Vec::new()));
    }

    #[test]
    fn what_cannot_be_read_is_named_and_not_shown() {
        let wrong = read(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "c.example:secret"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "secret"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "2"),
        ]);
        assert_eq!(wrong.warnings.len(), 6, "{:?}", wrong.warnings);
        assert!(wrong.warnings.iter().all(|warning| warning.starts_with("OTEL_") && !warning.contains("secret")));
        let sampling = wrong.sampling.expect("one");
        assert_eq!((sampling.sampler, sampling.parent_based), (Sampler::Always, true));
        assert_eq!(Environment { warnings: Vec::new(), sampling: None, ..wrong }, Environment::default());
    }
}
