//! Reviews beside twenty thousand Ingresses: the time from the request to the answer, over TLS on a kept connection, and
//! that of the judgement alone.
//!
//! Ignored by default, because the figures mean something in release alone:
//! `cargo test --release -p sluicegate-admission --test scale -- --include-ignored --nocapture`.

#[path = "../../translate/tests/big/mod.rs"]
mod big;
mod client;

use big::{INGRESSES, NOW, everything, ingress};
use client::{Files, connect, receive, send};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use sluicegate_admission::{Judge, Unjudged, Webhook, WebhookSettings};
use sluicegate_config::Settings;
use sluicegate_telemetry::Metrics;
use sluicegate_translate::{Controller, Object, ObjectChange, WhatIf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Reviews of each case; without optimisation only their answers count.
const REVIEWS: usize = if cfg!(debug_assertions) { 50 } else { 2_000 };
/// Ingresses that share one host.
const SHARERS: usize = 1_000;

type Question = (Box<Object>, SyncSender<WhatIf>);

/// Asks the one thread that owns the controller, as in the program.
struct Loop {
    questions: SyncSender<Question>,
    judged: Arc<Mutex<Histogram<u64>>>,
}

impl Judge for Loop {
    fn judge(&self, object: Object) -> Result<WhatIf, Unjudged> {
        let (answer, answers) = sync_channel(1);
        let begun = Instant::now();
        self.questions.send((Box::new(object), answer)).map_err(|_| Unjudged::Ending)?;
        let answer = answers.recv().map_err(|_| Unjudged::Ending)?;
        self.judged.lock().expect("no panic").record(micros(begun.elapsed())).expect("it fits");
        Ok(answer)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn run(mut controller: Controller, questions: &Receiver<Question>) {
    for (object, answer) in questions {
        let _gone = answer.send(controller.what_if(*object, NOW));
    }
}

/// As an API server sends it.
fn review(operation: &str, change: ObjectChange) -> Vec<u8> {
    let ObjectChange::Set(Object::Ingress(mut ingress)) = change else { panic!("an Ingress") };
    ingress.status = None;
    let object = serde_json::to_value(ingress).expect("JSON");
    let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002", "operation": operation, "object": object, "oldObject": object,
        "kind": {"group": "networking.k8s.io", "version": "v1", "kind": "Ingress"}, "dryRun": false}});
    review.to_string().into_bytes()
}

/// An Ingress of the host that many share, with a path of its own.
fn sharer(n: usize) -> ObjectChange {
    let ObjectChange::Set(Object::Ingress(mut made)) = ingress(INGRESSES + n, &format!("/part-{n}")) else {
        panic!("an Ingress")
    };
    let spec = made.spec.as_mut().expect("a spec");
    spec.tls = None;
    for rule in spec.rules.iter_mut().flatten() {
        rule.host = Some("shared.apps.example.test".to_owned());
        rule.http.iter_mut().for_each(|http| http.paths.truncate(1));
    }
    ObjectChange::Set(Object::Ingress(made))
}

/// The Ingress of another number, with the host of this one: it is refused.
fn thief(n: usize) -> ObjectChange {
    let ObjectChange::Set(Object::Ingress(mut made)) = ingress(n, "/") else { panic!("an Ingress") };
    made.metadata.name = Some(format!("thief-{n}"));
    made.metadata.creation_timestamp = None;
    for path in
        made.spec.iter_mut().flat_map(|spec| spec.rules.iter_mut().flatten()).flat_map(|rule| rule.http.iter_mut())
    {
        for service in path.paths.iter_mut().filter_map(|path| path.backend.service.as_mut()) {
            service.name = "other".to_owned();
        }
    }
    ObjectChange::Set(Object::Ingress(made))
}

#[test]
#[ignore = "needs a release build and some seconds"]
fn reviews_beside_twenty_thousand_ingresses() {
    let mut controller = Controller::new(Settings::default());
    controller.apply(everything().into_iter().chain((0..SHARERS).map(sharer)), NOW);
    assert_eq!(controller.desired().routes.len(), INGRESSES + 1);
    let resident = resident();
    let (questions, asked) = sync_channel(16);
    let owner = std::thread::spawn(move || run(controller, &asked));
    let judged = Arc::new(Mutex::new(Histogram::<u64>::new(3).expect("a histogram")));
    let files = Files::new();
    let settings = WebhookSettings {
        address: "127.0.0.1:0".parse().expect("an address"),
        certificate: files.certificate(),
        key: files.key(),
    };
    let judge = Loop { questions, judged: Arc::clone(&judged) };
    let webhook = Webhook::start(settings, Arc::new(judge), Metrics::new(1)).expect("it starts");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for (what, operation, is_allowed, make) in [
        ("a new host", "CREATE", true, Box::new(|n| ingress(INGRESSES + 100_000 + n, "/")) as Box<dyn Fn(usize) -> _>),
        ("another path", "UPDATE", true, Box::new(|n| ingress(n * 7 % INGRESSES, "/other"))),
        ("a path that is taken", "CREATE", false, Box::new(|n| thief(n * 7 % INGRESSES))),
        ("a host of 1,000 Ingresses", "CREATE", true, Box::new(|n| sharer(SHARERS + n))),
    ] {
        judged.lock().expect("no panic").reset();
        let mut answered = Histogram::<u64>::new(3).expect("a histogram");
        runtime.block_on(async {
            let mut stream = connect(webhook.address(), &files.certificate).await.expect("TLS");
            for n in 0..REVIEWS {
                let body = review(operation, make(n));
                let begun = Instant::now();
                send(&mut stream, "POST /validate?timeout=5s", &body).await.expect("sent");
                let (status, body) = receive(&mut stream).await.expect("an answer");
                answered.record(micros(begun.elapsed())).expect("it fits");
                let answer: Value = serde_json::from_slice(&body).expect("JSON");
                assert_eq!((status, &answer["response"]["allowed"]), (200, &json!(is_allowed)), "{answer}");
            }
        });
        let line = |of: &Histogram<u64>| {
            let at = |quantile: f64| of.value_at_quantile(quantile) as f64 / 1000.0;
            format!("p50 {:.2}, p99 {:.2}, most {:.2}", at(0.5), at(0.99), of.max() as f64 / 1000.0)
        };
        println!(
            "{what}: answer, ms: {}; judgement alone: {}",
            line(&answered),
            line(&judged.lock().expect("no panic"))
        );
        if !cfg!(debug_assertions) {
            assert!(answered.value_at_quantile(0.99) <= 10_000, "{what}: more than 10 ms");
        }
    }
    println!("resident before and after all reviews: {} and {} MiB", resident >> 20, self::resident() >> 20);
    drop(webhook);
    owner.join().expect("it ends");
}

/// Bytes.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("/proc");
    let pages = text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("pages");
    pages * 4096
}
