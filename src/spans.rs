//! Where spans are sent: what flags say, else the variables of OpenTelemetry, else defaults. And who sends them.

use crate::Failure;
use crate::options::ServeOptions;
use crate::options::otlp::OtlpOptions;
use sluicegate_otlp::{Endpoint, Environment, OtlpSettings, TlsFiles};
use sluicegate_proxy::TraceSettings;

/// Reads the variables of OpenTelemetry, and warns of those that cannot be read.
pub fn environment() -> Environment {
    let environment = Environment::read(|name| std::env::var(name).ok());
    for warning in &environment.warnings {
        tracing::warn!("{warning}");
    }
    environment
}

/// The exporter's settings; `None` where nothing names a collector.
///
/// # Errors
/// Where a flag holds something else than it should.
pub fn settings(options: &OtlpOptions, environment: &Environment) -> Result<Option<OtlpSettings>, Failure> {
    let usage = |flag: &str, why: String| Failure::Usage(format!("{flag}: {why}"));
    let endpoint = match &options.otlp_endpoint {
        Some(url) => {
            let protocol = options.otlp_protocol.or(environment.protocol);
            let endpoint = Endpoint::for_all_signals(url, protocol);
            endpoint.map_err(|why| usage("--otlp-endpoint", why))?
        }
        None => match &environment.endpoint {
            Some(endpoint) => endpoint.clone(),
            None => return Ok(None),
        },
    };
    let mut settings = OtlpSettings::new(endpoint);
    settings.headers = environment.headers.clone();
    if !options.otlp_header.is_empty() {
        settings.headers = Default::default();
        for header in &options.otlp_header {
            settings.headers.add(&header.0).map_err(|why| usage("--otlp-header", why))?;
        }
    }
    settings.compression = options.otlp_compression.or(environment.compression).unwrap_or_default();
    settings.timeout = options.otlp_timeout.or(environment.timeout).unwrap_or(settings.timeout);
    settings.queue = options.otlp_queue.or(environment.queue).unwrap_or(settings.queue);
    settings.batch = options.otlp_batch.or(environment.batch).unwrap_or(settings.batch);
    settings.delay = options.otlp_delay.or(environment.delay).unwrap_or(settings.delay);
    settings.tls = TlsFiles {
        ca: options.otlp_ca.clone().or(environment.ca.clone()),
        certificate: options.otlp_cert.clone().or(environment.certificate.clone()),
        key: options.otlp_key.clone().or(environment.key.clone()),
    };
    settings.resource = resource(options, environment)?;
    Ok(Some(settings))
}

/// What becomes of trace context: what flags leave open, the variables may say. `None` = trace headers are left alone.
pub fn complete(
    by_flags: Option<TraceSettings>,
    serve: &ServeOptions,
    environment: &Environment,
    exports: bool,
) -> Option<TraceSettings> {
    let by_variables = environment.propagators.as_ref().filter(|_| serve.trace_propagation.is_empty());
    let Some(mut trace) = by_flags.filter(|_| by_variables.is_none_or(|formats| !formats.is_empty())) else {
        if exports {
            let source = if by_variables.is_some() { "OTEL_PROPAGATORS" } else { "--trace-propagation none" };
            tracing::warn!("no spans are made: by {source} requests belong to no trace");
        }
        return None;
    };
    if let Some(formats) = by_variables {
        trace.injection.formats = formats.iter().copied().collect();
    }
    if serve.trace_ratio.is_none()
        && let Some(sampling) = environment.sampling
    {
        trace.policy.sampler = sampling.sampler;
        trace.policy.parent_based = sampling.parent_based;
    }
    Some(trace)
}

/// Who sends: what the process knows of itself, over it what the environment says, over that the flags.
fn resource(options: &OtlpOptions, environment: &Environment) -> Result<Vec<(String, String)>, Failure> {
    let service = options.otlp_service_name.as_ref().or(environment.service_name.as_ref());
    let mut attributes = vec![
        ("service.name".to_owned(), service.map_or("sluicegate", String::as_str).to_owned()),
        ("service.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("service.instance.id".to_owned(), instance_id()?),
        ("host.name".to_owned(), rustix::system::uname().nodename().to_string_lossy().into_owned()),
    ];
    // As pods are commonly told of themselves, by the downward API.
    for (key, names) in [
        ("k8s.pod.name", &["POD_NAME"][..]),
        ("k8s.pod.uid", &["POD_UID"]),
        ("k8s.namespace.name", &["POD_NAMESPACE"]),
        ("k8s.node.name", &["NODE_NAME", "SLUICEGATE_NODE_NAME"]),
    ] {
        let known = names.iter().find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
        attributes.extend(known.map(|value| (key.to_owned(), value)));
    }
    for (key, value) in environment.resource.iter().chain(&options.otlp_resource) {
        attributes.retain(|(known, _)| known != key);
        attributes.push((key.clone(), value.clone()));
    }
    Ok(attributes)
}

/// A random UUID (RFC 9562, version 4): another one after each start, as the conventions want it.
fn instance_id() -> Result<String, Failure> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    let id = u128::from_be_bytes(bytes) & !(0xf << 76 | 0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let text = format!("{id:032x}");
    Ok([&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Propagator;
    use std::time::Duration;

    fn environment(list: &[(&str, &str)]) -> Environment {
        Environment::read(|name| list.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn flags_come_before_variables_and_variables_before_defaults() {
        let variables = environment(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://variable.example:4318"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "3000"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "100"),
            ("OTEL_SERVICE_NAME", "variable"),
            ("OTEL_RESOURCE_ATTRIBUTES", "team=a,host.name=other"),
        ]);
        let none = OtlpOptions::default();
        assert!(settings(&none, &Environment::default()).is_ok_and(|settings| settings.is_none()));
        let Ok(Some(by_variables)) = settings(&none, &variables) else { panic!("no exporter") };
        assert_eq!(by_variables.endpoint.shown(), "http://variable.example:4318/v1/traces");
        assert_eq!((by_variables.timeout, by_variables.queue), (Duration::from_secs(3), 100));
        assert_eq!((by_variables.batch, by_variables.delay), (512, Duration::from_secs(5)));

        let flags = OtlpOptions {
            otlp_endpoint: Some("http://flag.example:4317".to_owned()),
            otlp_timeout: Some(Duration::from_secs(1)),
            otlp_service_name: Some("flag".to_owned()),
            otlp_resource: vec![("team".to_owned(), "b".to_owned())],
            ..OtlpOptions::default()
        };
        let Ok(Some(by_flags)) = settings(&flags, &variables) else { panic!("no exporter") };
        assert!(by_flags.endpoint.shown().starts_with("http://flag.example:4317/opentelemetry"));
        assert_eq!((by_flags.timeout, by_flags.queue), (Duration::from_secs(1), 100));
        let value = |key: &str| {
            let mut found = by_flags.resource.iter().filter(|(known, _)| known == key);
            (found.next().map(|(_, value)| value.clone()).unwrap_or_default(), found.next().is_none())
        };
        for (key, expected) in [("service.name", "flag"), ("team", "b"), ("host.name", "other")] {
            assert_eq!(value(key), (expected.to_owned(), true), "{key}");
        }
        let (id, _) = value("service.instance.id");
        assert!(id.len() == 36 && id.as_bytes()[14] == b'4', "{id}");
    }

    #[test]
    fn variables_complete_what_flags_leave_open_of_trace_context() {
        use sluicegate_trace::{Format, Ratio, Sampler};
        let variables = environment(&[("OTEL_PROPAGATORS", "b3"), ("OTEL_TRACES_SAMPLER", "always_off")]);
        let open = ServeOptions::default();
        let default = || Some(TraceSettings::default());
        let Some(trace) = complete(default(), &open, &variables, false) else { panic!("no trace context") };
        assert!(trace.injection.formats.contains(Format::B3) && !trace.injection.formats.contains(Format::W3c));
        assert_eq!((trace.policy.sampler, trace.policy.parent_based), (Sampler::Never, false));

        let half = Sampler::Ratio(Ratio::new(0.5).unwrap_or_else(|error| panic!("{error}")));
        let mut by_flags = TraceSettings::default();
        by_flags.policy.sampler = half;
        let flags = ServeOptions { trace_ratio: Ratio::new(0.5).ok(), ..ServeOptions::default() };
        let Some(trace) = complete(Some(by_flags), &flags, &variables, true) else { panic!("no trace context") };
        assert_eq!((trace.policy.sampler, trace.policy.parent_based), (half, true));

        let nothing = Environment::default();
        assert!(complete(default(), &open, &nothing, false).is_some(), "it crosses unless it is turned off");
        assert!(complete(None, &open, &nothing, true).is_none());
        for off in ["none", "baggage"] {
            let variables = environment(&[("OTEL_PROPAGATORS", off)]);
            assert!(complete(default(), &open, &variables, true).is_none(), "{off}");
            let named =
                ServeOptions { trace_propagation: vec![Propagator::Format(Format::W3c)], ..ServeOptions::default() };
            assert!(complete(default(), &named, &variables, true).is_some(), "{off}: flags come first");
        }
    }
}
