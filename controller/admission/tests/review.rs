//! Reviews as API servers send them, and as nobody should.

use proptest::prelude::*;
use serde_json::{Value, json};
use sluicegate_admission::Unjudged;
use sluicegate_admission::review::{Answer, Malformed, read};
use sluicegate_config::{Kind, ObjectRef, Rejection, Verdict};
use sluicegate_telemetry::ReviewEnd;
use sluicegate_translate::{Object, WhatIf};

/// 2027-06-01T00:00:00Z.
const NOW: i64 = 1_811_808_000;

fn ingress() -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"namespace": "shop", "name": "web"},
        "spec": {"defaultBackend": {"service": {"name": "web", "port": {"number": 80}}}}})
}

/// As an API server writes it.
fn review(operation: &str, object: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": {"group": "networking.k8s.io", "version": "v1", "kind": "Ingress"},
            "resource": {"group": "networking.k8s.io", "version": "v1", "resource": "ingresses"},
            "requestKind": {"group": "networking.k8s.io", "version": "v1", "kind": "Ingress"},
            "name": "web", "namespace": "shop", "operation": operation,
            "userInfo": {"username": "admin", "groups": ["system:masters"]},
            "object": object, "oldObject": null, "dryRun": false,
            "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
        },
    })
}

fn with(mut review: Value, pointer: &str, value: Value) -> Value {
    *review.pointer_mut(pointer).expect("a field") = value;
    review
}

/// Reads, judges what there is to judge, and answers.
fn answered(review: &Value, judged: Result<WhatIf, Unjudged>) -> (Option<Object>, Answer, Value) {
    let mut question = read(&serde_json::to_vec(review).expect("JSON"), NOW).expect("a review");
    let object = question.take_object();
    let answer = question.answer(object.as_ref().map(|_| &judged));
    let body: Value = serde_json::from_slice(&answer.body).expect("JSON");
    assert_eq!(body["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(body["kind"], "AdmissionReview");
    assert_eq!(body["response"]["uid"], review["request"]["uid"]);
    (object, answer, body["response"].clone())
}

fn rejection(verdict: Verdict, name: &str, reason: &str) -> Rejection {
    Rejection {
        object: ObjectRef::new(Kind::Ingress, "shop", name),
        field: "spec.rules[0].host".to_owned(),
        verdict,
        reason: reason.to_owned(),
        remedy: "write another one".to_owned(),
    }
}

fn judged(refused: Vec<Rejection>, remarks: Vec<Rejection>, effects: Vec<Rejection>) -> Result<WhatIf, Unjudged> {
    Ok(WhatIf { refused, remarks, effects })
}

#[test]
fn what_is_written_is_judged() {
    for operation in ["CREATE", "UPDATE"] {
        let (object, answer, response) = answered(&review(operation, &ingress()), Ok(WhatIf::default()));
        assert_eq!(object.map(|object| object.reference()), Some(ObjectRef::new(Kind::Ingress, "shop", "web")));
        assert_eq!((answer.end, &response["allowed"]), (ReviewEnd::Allowed, &json!(true)));
        assert!(response.get("warnings").is_none() && response.get("status").is_none(), "{response}");
    }
}

#[test]
fn the_other_kinds_that_matter_are_judged() {
    for kind in ["Service", "ConfigMap"] {
        let object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"namespace": "shop", "name": "web"}});
        let asked =
            with(review("CREATE", &object), "/request/kind", json!({"group": "", "version": "v1", "kind": kind}));
        let (object, ..) = answered(&asked, Ok(WhatIf::default()));
        assert_eq!(object.map(|object| object.reference().kind.to_string()).as_deref(), Some(kind));
    }
}

#[test]
fn what_is_nobodys_business_passes_without_a_word() {
    let status = with(review("UPDATE", &ingress()), "/request", {
        let mut request = review("UPDATE", &ingress())["request"].clone();
        request["subResource"] = json!("status");
        request
    });
    let mut leaving = ingress();
    leaving["metadata"]["deletionTimestamp"] = json!("2027-01-01T00:00:00Z");
    let other = json!({"group": "apps", "version": "v1", "kind": "Deployment"});
    let old = json!({"group": "networking.k8s.io", "version": "v1beta1", "kind": "Ingress"});
    for asked in [
        review("DELETE", &Value::Null),
        review("CONNECT", &Value::Null),
        status,
        review("UPDATE", &leaving),
        with(review("CREATE", &ingress()), "/request/kind", other),
        with(review("CREATE", &ingress()), "/request/kind", old),
    ] {
        let (object, answer, response) = answered(&asked, judged(vec![], vec![], vec![]));
        assert!(object.is_none(), "{asked}");
        assert_eq!((answer.end, &response["allowed"]), (ReviewEnd::Allowed, &json!(true)), "{asked}");
        assert!(response.get("warnings").is_none(), "{asked}");
    }
}

#[test]
fn a_refusal_says_object_field_reason_and_remedy() {
    let refused = vec![rejection(Verdict::Rejected, "web", "\"bad host\" is no host")];
    let (_, answer, response) = answered(&review("CREATE", &ingress()), judged(refused, vec![], vec![]));
    assert_eq!((answer.end, &response["allowed"]), (ReviewEnd::Refused, &json!(false)));
    let message = "Ingress shop/web: spec.rules[0].host: \"bad host\" is no host; write another one";
    assert_eq!(response["status"], json!({"code": 422, "reason": "Invalid", "message": message}));
}

#[test]
fn warnings_are_short_and_few_and_the_gravest_come_first() {
    let remarks: Vec<Rejection> = (0..40)
        .map(|number| rejection(Verdict::Ignored, "web", &format!("{number} \u{1b}[31m {}", "ü".repeat(200))))
        .chain([rejection(Verdict::Warning, "web", "the warning"), rejection(Verdict::Rejected, "web", "as before")])
        .collect();
    let effects = vec![rejection(Verdict::Rejected, "other", "it loses")];
    let (_, answer, response) = answered(&review("UPDATE", &ingress()), judged(vec![], remarks, effects));
    assert_eq!(answer.end, ReviewEnd::Allowed);
    let warnings: Vec<&str> =
        response["warnings"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    assert_eq!(warnings.len(), 16);
    assert_eq!(warnings[0], "Ingress shop/other: spec.rules[0].host: it loses");
    assert_eq!(warnings[1], "spec.rules[0].host: as before");
    assert_eq!(warnings[2], "spec.rules[0].host: the warning");
    assert_eq!(warnings[15], "and 28 more, which `sluicegate check` names");
    for warning in &warnings {
        assert!(warning.chars().count() <= 120 && !warning.chars().any(char::is_control), "{warning:?}");
    }
    assert!(warnings[3].ends_with('…'));
    assert!(warnings.iter().map(|warning| warning.len()).sum::<usize>() <= 4096);
}

#[test]
fn many_refusals_are_counted() {
    let refused = (0..50).map(|number| rejection(Verdict::Rejected, "web", &format!("{number}{}", "x".repeat(5000))));
    let (_, _, response) = answered(&review("CREATE", &ingress()), judged(refused.collect(), vec![], vec![]));
    let message = response["status"]["message"].as_str().expect("a message");
    assert!(message.ends_with("And 42 more, which `sluicegate check` names") && message.len() < 8192, "{message}");
}

#[test]
fn who_cannot_judge_lets_it_pass_and_says_so() {
    for (why, part) in [
        (Unjudged::NotReady, "has not read the cluster yet"),
        (Unjudged::Busy, "busy"),
        (Unjudged::Ending, "shutting down"),
    ] {
        let (_, answer, response) = answered(&review("CREATE", &ingress()), Err(why));
        assert_eq!((answer.end, &response["allowed"]), (ReviewEnd::Unchecked, &json!(true)));
        let warning = response["warnings"][0].as_str().expect("a warning");
        assert!(warning.starts_with("not checked by sluicegate: ") && warning.contains(part), "{warning}");
    }
}

#[test]
fn an_object_that_cannot_be_read_passes_with_a_warning() {
    let mut wrong = ingress();
    wrong["spec"]["rules"] = json!("none");
    let (object, answer, response) = answered(&review("CREATE", &wrong), Ok(WhatIf::default()));
    assert!(object.is_none());
    assert_eq!((answer.end, &response["allowed"]), (ReviewEnd::Unchecked, &json!(true)));
    assert!(response["warnings"][0].as_str().is_some_and(|warning| warning.contains("not checked")), "{response}");
}

#[test]
fn an_object_without_a_time_is_the_newest() {
    let (object, ..) = answered(&review("CREATE", &ingress()), Ok(WhatIf::default()));
    let Some(Object::Ingress(ingress)) = object else { panic!("an Ingress") };
    let made = ingress.metadata.creation_timestamp.expect("a time");
    assert_eq!(made.0.as_second(), NOW);
}

#[test]
fn what_is_no_review_cannot_be_answered() {
    let good = review("CREATE", &ingress());
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for (body, part) in [
        (String::new(), "no AdmissionReview"),
        ("{".to_owned(), "no AdmissionReview"),
        ("null".to_owned(), "no AdmissionReview"),
        (deep, "no AdmissionReview"),
        (r#"{"apiVersion":"v1","kind":"Pod"}"#.to_owned(), "kind \"Pod\""),
        (with(good.clone(), "/apiVersion", json!("admission.k8s.io/v1beta1")).to_string(), "admissionReviewVersions"),
        (with(good.clone(), "/request", Value::Null).to_string(), "uid"),
        (with(good.clone(), "/request/uid", json!("")).to_string(), "uid"),
        (with(good.clone(), "/request/uid", json!("x".repeat(1000))).to_string(), "uid"),
        (with(good.clone(), "/request/uid", json!(7)).to_string(), "no AdmissionReview"),
        (with(good, "/request/object", Value::Null).to_string(), "no object"),
    ] {
        let error: Malformed = read(body.as_bytes(), NOW).expect_err("it is none");
        assert!(error.to_string().contains(part) && error.to_string().len() < 500, "{error}");
    }
    assert!(read(b"\xff\xfe{}", NOW).is_err());
}

proptest! {
    /// Whatever is cut out of a review, put in or turned around: it is refused, or answered under its uid.
    #[test]
    fn a_damaged_review_is_refused_or_answered(
        at in any::<prop::sample::Index>(), length in 0..40_usize, put in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let mut body = review("CREATE", &ingress()).to_string().into_bytes();
        let from = at.index(body.len());
        let to = (from + length).min(body.len());
        body.splice(from..to, put);
        if let Ok(mut question) = read(&body, NOW) {
            let judged: Option<Result<WhatIf, Unjudged>> = question.take_object().map(|_| Ok(WhatIf::default()));
            let answer: Value = serde_json::from_slice(&question.answer(judged.as_ref()).body).expect("JSON");
            prop_assert!(answer["response"]["uid"].is_string());
            prop_assert_eq!(&answer["response"]["allowed"], &json!(true));
        }
    }
}
