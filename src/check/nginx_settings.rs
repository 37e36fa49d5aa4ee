//! Tracing in the ConfigMap of ingress-nginx. The gateway reads no such ConfigMap: it has flags for what stands there, and
//! `check` names them, so that whoever comes from there loses nothing silently.

use sluicegate_config::{ObjectRef, Rejection, Verdict};
use sluicegate_translate::{Object, ObjectChange};

/// What is to be said of a ConfigMap with settings of tracing, key by key.
pub fn notes(changes: &[ObjectChange]) -> Vec<Rejection> {
    let mut notes = Vec::new();
    for change in changes {
        let ObjectChange::Set(object) = change else { continue };
        let reference = object.reference();
        if let Object::ConfigMap(configmap) = object {
            let data = configmap.data.iter().flatten();
            notes.extend(data.filter_map(|(key, value)| note(&reference, key, value.trim())));
        }
    }
    notes
}

fn note(object: &ObjectRef, key: &str, value: &str) -> Option<Rejection> {
    let refused = "a file with settings of another program's tracer is not read";
    let (verdict, reason) = match key {
        "opentelemetry-config" => (Verdict::Rejected, refused),
        _ => (Verdict::Ignored, "tracing is set by flags, not by a ConfigMap"),
    };
    Some(Rejection {
        object: object.clone(),
        field: format!("data.{key}"),
        verdict,
        reason: reason.to_owned(),
        remedy: remedy(key, value)?,
    })
}

/// The flag for a key; `None` for keys that are not about tracing.
fn remedy(key: &str, value: &str) -> Option<String> {
    let flag = |flag: &str| Some(format!("give `{flag} {value}`"));
    match (key, value) {
        ("enable-opentelemetry", "true") => Some("give `--otlp-endpoint URL`, which turns spans on".to_owned()),
        ("enable-opentelemetry", _) => Some("leave it out; spans are off without `--otlp-endpoint`".to_owned()),
        ("opentelemetry-config", _) => {
            Some("leave it out; the flags that begin with --otlp- and --trace- say what stands in it".to_owned())
        }
        ("otlp-collector-host", host) => Some(format!("give `--otlp-endpoint http://{host}:4317`, or its own port")),
        ("otlp-collector-port", port) => {
            Some(format!("put {port} into the URL of `--otlp-endpoint`, with `--otlp-protocol grpc`"))
        }
        ("otel-service-name", _) => flag("--otlp-service-name"),
        ("otel-sampler", "AlwaysOff") => Some("give `--trace-ratio 0`".to_owned()),
        ("otel-sampler", "TraceIdRatioBased") => {
            Some("give `--trace-ratio` with the value of otel-sampler-ratio".to_owned())
        }
        ("otel-sampler", _) => Some("leave it out; all traces are recorded without `--trace-ratio`".to_owned()),
        ("otel-sampler-ratio", _) => flag("--trace-ratio"),
        ("otel-sampler-parent-based", "false") => {
            Some("set OTEL_TRACES_SAMPLER in the environment to a sampler without parentbased_".to_owned())
        }
        ("otel-sampler-parent-based", _) => Some("leave it out; the decision of a caller holds".to_owned()),
        ("otel-max-queuesize", _) => flag("--otlp-queue"),
        ("otel-max-export-batch-size", _) => flag("--otlp-batch"),
        ("otel-schedule-delay-millis", _) => Some(format!("give `--otlp-delay {value}ms`")),
        ("opentelemetry-trust-incoming-span", "false") => Some("give `--trace-trust restart`".to_owned()),
        ("opentelemetry-trust-incoming-span", _) => Some("leave it out; traces from outside go on".to_owned()),
        ("opentelemetry-operation-name", _) => Some(
            "leave it out; spans are called by the conventions of OpenTelemetry: method and path of the Ingress"
                .to_owned(),
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluicegate_config::Kind;

    fn of(key: &str, value: &str) -> Option<Rejection> {
        note(&ObjectRef::new(Kind::ConfigMap, "ingress-nginx", "ingress-nginx-controller"), key, value)
    }

    #[test]
    fn keys_of_tracing_name_their_flag_and_no_other_key_is_spoken_of() {
        for (key, value, flag) in [
            ("otlp-collector-host", "otel.example", "--otlp-endpoint http://otel.example:4317"),
            ("otel-sampler-ratio", "0.01", "--trace-ratio 0.01"),
            ("otel-schedule-delay-millis", "5000", "--otlp-delay 5000ms"),
            ("opentelemetry-trust-incoming-span", "false", "--trace-trust restart"),
        ] {
            let note = of(key, value).expect(key);
            assert_eq!((note.verdict, note.field.as_str()), (Verdict::Ignored, &*format!("data.{key}")));
            assert!(note.remedy.contains(flag), "{key}: {}", note.remedy);
        }
        assert_eq!(of("opentelemetry-config", "/etc/nginx/otel.toml").expect("a note").verdict, Verdict::Rejected);
        for other in ["proxy-body-size", "192.0.2.10", "8080"] {
            assert_eq!(of(other, "x"), None);
        }
    }
}
