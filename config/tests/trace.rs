//! Names of spans with variables, and how the rules of an Ingress for traces are shown.

use sluicegate_config::{InvalidOperationName, OperationName, OperationPart, OperationVariable, TracePolicy};
use sluicegate_trace::{Format, Ratio, Sampler, Trust};

#[test]
fn an_operation_name_is_text_and_variables() {
    let name = OperationName::parse("HTTP $request_method ${location_path}s of $service_name").expect("a name");
    let text = |text: &str| OperationPart::Text(text.into());
    let expected = [
        text("HTTP "),
        OperationPart::Variable(OperationVariable::Method),
        text(" "),
        OperationPart::Variable(OperationVariable::Location),
        text("s of "),
        OperationPart::Variable(OperationVariable::Service),
    ];
    assert_eq!(name.parts(), expected);
    assert_eq!(name.to_string(), "HTTP $request_method ${location_path}s of $service_name");
    for (variable, known) in OperationVariable::ALL {
        let name = OperationName::parse(&format!("${known}")).expect("a name");
        assert_eq!(name.parts(), [OperationPart::Variable(variable)]);
    }
}

#[test]
fn what_is_no_operation_name_is_refused_by_name() {
    for (text, variable) in [("$request_uri", "request_uri"), ("a $", ""), ("${host", ""), ("$hosts", "hosts")] {
        assert_eq!(OperationName::parse(text), Err(InvalidOperationName::Variable(variable.to_owned())), "{text}");
    }
    assert_eq!(OperationName::parse(&"x".repeat(257)), Err(InvalidOperationName::TooLong));
    assert!(OperationName::parse(&"x".repeat(256)).is_ok());
}

#[test]
fn rules_are_shown_by_the_words_of_their_settings() {
    let policy = TracePolicy {
        off: true,
        trust: Some(Trust::Restart),
        sampler: Some(Sampler::Ratio(Ratio::new(0.05).expect("a ratio"))),
        formats: Some([Format::W3c, Format::B3].into_iter().collect()),
        operation: Some(OperationName::parse("$host").expect("a name")),
    };
    let shown = serde_json::to_value(&policy).expect("JSON");
    let expected = serde_json::json!({
        "off": true, "trust": "restart", "sampler": "0.05", "formats": "tracecontext,b3", "operation": "$host",
    });
    assert_eq!(shown, expected);
    assert!(!policy.is_default() && TracePolicy::default().is_default());
    assert_eq!(serde_json::to_value(TracePolicy::default()).expect("JSON"), serde_json::json!({}));
}
