//! AdmissionReview of `admission.k8s.io/v1`: bytes in, bytes out. It knows no clock and no network.

use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sluicegate_config::{Rejection, Verdict};
use sluicegate_telemetry::ReviewEnd;
use sluicegate_translate::{Object, WhatIf};

/// The one version that is spoken.
const VERSION: &str = "admission.k8s.io/v1";
/// Characters of a warning; clients show no more of it (Kubernetes API, `AdmissionResponse.warnings`).
const WARNING: usize = 120;
/// Warnings of one answer. An API server passes on 4096 bytes of all of them.
const MOST_WARNINGS: usize = 16;
/// Reasons that a refusal names one by one.
const MOST_REASONS: usize = 8;
/// Characters of each.
const REASON: usize = 512;
/// A UUID has 36 characters.
const LONGEST_UID: usize = 128;

/// Says what would become of an object.
pub trait Judge: Send + Sync + 'static {
    /// It may block, for as long as an API server waits: 3 seconds at most.
    ///
    /// # Errors
    /// Where there is nobody to say it; the object may be written then.
    fn judge(&self, object: Object) -> Result<WhatIf, Unjudged>;
}

/// Why nobody has judged an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unjudged {
    /// Paths that are taken are not known yet.
    #[error("the gateway has not read the cluster yet")]
    NotReady,
    /// It did not answer in time.
    #[error("the gateway is busy")]
    Busy,
    /// It is ending.
    #[error("the gateway is shutting down")]
    Ending,
}

/// What is no AdmissionReview. The API server takes it for a failure of the webhook.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// Broken JSON, or a field of a wrong type.
    #[error("the body is no AdmissionReview: {0}")]
    Json(#[from] serde_json::Error),
    /// It is something else, or of another version.
    #[error(
        "the body is of apiVersion {api_version:?} and kind {kind:?}; send AdmissionReview of {VERSION} (admissionReviewVersions: [v1])"
    )]
    OtherKind {
        /// As it says.
        api_version: String,
        /// As it says.
        kind: String,
    },
    /// An answer needs the uid of its request.
    #[error("the review has no request with a uid of 1 to {LONGEST_UID} characters")]
    NoRequest,
    /// An operation that has one.
    #[error("the review of {0} has no object")]
    NoObject(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review<'a> {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(borrow)]
    request: Option<Request<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    #[serde(default)]
    uid: String,
    #[serde(default)]
    kind: GroupVersionKind,
    sub_resource: Option<String>,
    #[serde(default)]
    operation: String,
    #[serde(borrow)]
    object: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct GroupVersionKind {
    group: String,
    version: String,
    kind: String,
}

/// The bytes of the answer, and how it ended.
#[derive(Debug)]
pub struct Answer {
    /// An AdmissionReview with a response.
    pub body: Vec<u8>,
    /// For the metric.
    pub end: ReviewEnd,
}

/// A review that can be answered.
#[derive(Debug)]
pub struct Question {
    uid: String,
    subject: Subject,
}

/// What is asked about.
#[derive(Debug)]
enum Subject {
    /// It is to be judged.
    Object(Box<Object>),
    /// It may be written, whatever it is.
    Passed,
    /// It may be written, because nobody can judge it.
    Unreadable(String),
}

/// Reads a review. `now_unix`, in seconds since the Unix epoch, stands in for the time of making of an object that is new
/// and does not say it: no other one is younger.
///
/// # Errors
/// Where it cannot be answered as one.
pub fn read(body: &[u8], now_unix: i64) -> Result<Question, Malformed> {
    let Review { api_version, kind, request } = serde_json::from_slice(body)?;
    if api_version != VERSION || kind != "AdmissionReview" {
        return Err(Malformed::OtherKind { api_version: brief(&api_version, 80), kind: brief(&kind, 80) });
    }
    let Some(request) = request.filter(|request| (1..=LONGEST_UID).contains(&request.uid.len())) else {
        return Err(Malformed::NoRequest);
    };
    let now = Timestamp::from_second(now_unix).unwrap_or(Timestamp::MAX);
    let subject = subject(&request, now)?;
    Ok(Question { uid: request.uid, subject })
}

fn subject(request: &Request<'_>, now: Timestamp) -> Result<Subject, Malformed> {
    let is_written = matches!(request.operation.as_str(), "CREATE" | "UPDATE");
    if !is_written || request.sub_resource.as_deref().is_some_and(|name| !name.is_empty()) {
        return Ok(Subject::Passed);
    }
    let Some(object) = request.object else { return Err(Malformed::NoObject(brief(&request.operation, 80))) };
    let GroupVersionKind { group, version, kind } = &request.kind;
    let read = match (group.as_str(), version.as_str(), kind.as_str()) {
        ("networking.k8s.io", "v1", "Ingress") => of::<Ingress>(object, Object::Ingress, now, |of| &mut of.metadata),
        ("", "v1", "Service") => of::<Service>(object, Object::Service, now, |of| &mut of.metadata),
        ("", "v1", "ConfigMap") => of::<ConfigMap>(object, Object::ConfigMap, now, |of| &mut of.metadata),
        _ => return Ok(Subject::Passed),
    };
    Ok(read.unwrap_or_else(|error| Subject::Unreadable(error.to_string())))
}

fn of<'a, T: Deserialize<'a>>(
    object: &'a RawValue,
    wrap: impl FnOnce(T) -> Object,
    now: Timestamp,
    metadata: impl FnOnce(&mut T) -> &mut ObjectMeta,
) -> Result<Subject, serde_json::Error> {
    let mut object: T = serde_json::from_str(object.get())?;
    let metadata = metadata(&mut object);
    // What is on its way out only loses its finalizers, and must not be kept from that.
    if metadata.deletion_timestamp.is_some() {
        return Ok(Subject::Passed);
    }
    metadata.creation_timestamp.get_or_insert(Time(now));
    Ok(Subject::Object(Box::new(wrap(object))))
}

impl Question {
    /// The object to be judged, once. `None` where there is none: the answer is known.
    pub fn take_object(&mut self) -> Option<Object> {
        match std::mem::replace(&mut self.subject, Subject::Passed) {
            Subject::Object(object) => Some(*object),
            other => {
                self.subject = other;
                None
            }
        }
    }

    /// The answer: to what was judged, or without a judgement where there was no object.
    #[must_use]
    pub fn answer(&self, judged: Option<&Result<WhatIf, Unjudged>>) -> Answer {
        let (end, refusal, warnings) = match (judged, &self.subject) {
            (Some(Ok(what_if)), _) => {
                let refusal = refusal(&what_if.refused);
                let end = if refusal.is_some() { ReviewEnd::Refused } else { ReviewEnd::Allowed };
                (end, refusal, warnings(what_if))
            }
            (Some(Err(why)), _) => (ReviewEnd::Unchecked, None, vec![unchecked(&why.to_string())]),
            (None, Subject::Unreadable(why)) => (ReviewEnd::Unchecked, None, vec![unchecked(why)]),
            (None, Subject::Passed | Subject::Object(_)) => (ReviewEnd::Allowed, None, Vec::new()),
        };
        let response = Response {
            uid: &self.uid,
            allowed: refusal.is_none(),
            status: refusal.map(|message| Status { code: 422, reason: "Invalid", message }),
            warnings,
        };
        let review = Answered { api_version: VERSION, kind: "AdmissionReview", response };
        // Strings and lists of strings do not fail to become JSON.
        Answer { body: serde_json::to_vec(&review).unwrap_or_default(), end }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answered<'a> {
    api_version: &'static str,
    kind: &'static str,
    response: Response<'a>,
}

#[derive(Serialize)]
struct Response<'a> {
    uid: &'a str,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Status {
    code: u16,
    reason: &'static str,
    message: String,
}

/// Object, field, reason and remedy of each; `None` where nothing is refused.
fn refusal(refused: &[Rejection]) -> Option<String> {
    let object = &refused.first()?.object;
    let reasons = refused.iter().take(MOST_REASONS).map(|rejection| {
        let Rejection { field, reason, remedy, .. } = rejection;
        brief(&format!("{field}: {reason}; {remedy}"), REASON)
    });
    let mut message = format!("{object}: {}", reasons.collect::<Vec<_>>().join(". "));
    if let more @ 1.. = refused.len().saturating_sub(MOST_REASONS) {
        message.push_str(&format!(". And {more} more, which `sluicegate check` names"));
    }
    Some(message)
}

/// What others lose first, then what is graver.
fn warnings(what_if: &WhatIf) -> Vec<String> {
    let of_others = what_if.effects.iter().map(|rejection| {
        let Rejection { object, field, reason, .. } = rejection;
        brief(&format!("{object}: {field}: {reason}"), WARNING)
    });
    let of_verdict = |verdict: Verdict| what_if.remarks.iter().filter(move |rejection| rejection.verdict == verdict);
    let own = [Verdict::Rejected, Verdict::Warning, Verdict::Ignored].into_iter().flat_map(of_verdict);
    let own = own.map(|rejection| brief(&format!("{}: {}", rejection.field, rejection.reason), WARNING));
    let mut warnings: Vec<String> = of_others.chain(own).take(MOST_WARNINGS).collect();
    let all = what_if.effects.len() + what_if.remarks.len();
    if all > MOST_WARNINGS {
        warnings.pop();
        warnings.push(format!("and {} more, which `sluicegate check` names", all - warnings.len()));
    }
    warnings
}

fn unchecked(why: &str) -> String {
    brief(&format!("not checked by sluicegate: {why}"), WARNING)
}

/// At most so many characters, none of them a control character: warnings travel in a header field, messages to terminals.
fn brief(text: &str, most: usize) -> String {
    let mut characters = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c });
    let mut brief: String = characters.by_ref().take(most).collect();
    if characters.next().is_some() {
        brief.pop();
        brief.push('…');
    }
    brief
}
