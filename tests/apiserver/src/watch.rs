//! Watches: the log of the store as a stream of lines.

use crate::fault::Fault;
use crate::resource::{Resource, Target};
use crate::selector::Selector;
use crate::serve::Shared;
use crate::status::Refusal;
use crate::store::{Action, Change};
use bytes::Bytes;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// A line of a body, or its end by a broken connection.
pub(crate) type Line = Result<Bytes, BrokenOff>;

/// The connection is to break.
#[derive(Debug, thiserror::Error)]
#[error("the connection is cut")]
pub(crate) struct BrokenOff;

/// What a watch was asked for.
pub(crate) struct Request {
    pub target: Target,
    pub selector: Selector,
    /// From which version on; `None` = from the objects that are there.
    pub since: Option<u64>,
    /// A streaming list: a bookmark says where the objects that were there end.
    pub initial_events: bool,
    pub bookmarks: bool,
    pub timeout: Duration,
    pub fault: Option<Fault>,
}

/// Sends events until the client, the time or a fault ends it.
pub(crate) async fn watch(shared: Arc<Shared>, request: Request, lines: mpsc::Sender<Line>) {
    let mut sender = Sender { lines, sent: 0, fault: request.fault.clone() };
    // Whoever went away or was cut off is done.
    let _ended = follow(&shared, &request, &mut sender).await;
}

/// The watch is over.
struct Over;

struct Sender {
    lines: mpsc::Sender<Line>,
    sent: usize,
    fault: Option<Fault>,
}

impl Sender {
    async fn event(&mut self, kind: &str, object: &Value) -> Result<(), Over> {
        match self.fault {
            Some(Fault::CutAfter(most)) if self.sent >= most => return Err(self.cut().await),
            Some(Fault::Slow(pause)) => tokio::time::sleep(pause).await,
            _ => {}
        }
        self.sent += 1;
        let mut line = json!({"type": kind, "object": object}).to_string();
        line.push('\n');
        self.lines.send(Ok(line.into())).await.map_err(|_| Over)
    }

    async fn cut(&mut self) -> Over {
        // Where the client is gone it needs no cutting.
        let _gone = self.lines.send(Err(BrokenOff)).await;
        Over
    }
}

async fn follow(shared: &Shared, request: &Request, sender: &mut Sender) -> Result<(), Over> {
    let Request { target, selector, .. } = request;
    let deadline = Instant::now() + request.timeout;
    let (mut versions, mut cuts) = (shared.versions.subscribe(), shared.cuts.subscribe());
    let mut at = match request.since {
        Some(version) => version,
        None => {
            let (version, objects) = shared.store(|store| {
                let objects = store.list(target.resource, target.namespace.as_deref(), selector);
                (store.version(), objects.map(|(_, object)| Arc::clone(object)).collect::<Vec<_>>())
            });
            for object in objects.iter().filter(|object| is_named(object, target)) {
                sender.event("ADDED", object).await?;
            }
            if request.initial_events {
                sender.event("BOOKMARK", &bookmark(target.resource, version, true)).await?;
            }
            version
        }
    };
    loop {
        versions.mark_unchanged();
        let changes = shared.store(|store| store.since(at).map(|changes| changes.cloned().collect::<Vec<Change>>()));
        match changes {
            Err(refusal) => return fail(sender, &refusal).await,
            Ok(changes) => {
                for change in changes {
                    at = change.version;
                    if let Some((kind, object)) = seen(&change, target, selector) {
                        sender.event(kind, &object).await?;
                    }
                }
            }
        }
        let pause = shared.bookmark_every();
        tokio::select! {
            ended = timeout_at(deadline.min(Instant::now() + pause), versions.changed()) => {
                if Instant::now() >= deadline {
                    return Ok(());
                }
                if ended.is_err() && request.bookmarks {
                    at = at.max(shared.store(|store| store.version()));
                    sender.event("BOOKMARK", &bookmark(target.resource, at, false)).await?;
                }
            }
            _ = cuts.changed() => {
                sender.cut().await;
                return Err(Over);
            }
            () = sender.lines.closed() => return Err(Over),
        }
    }
}

async fn fail(sender: &mut Sender, refusal: &Refusal) -> Result<(), Over> {
    sender.event("ERROR", &refusal.to_json()).await
}

/// How a change looks through a selector: what leaves it is deleted, what enters it is added.
fn seen(change: &Change, target: &Target, selector: &Selector) -> Option<(&'static str, Arc<Value>)> {
    if change.resource != target.resource || !is_within(&change.object, target) || !is_named(&change.object, target) {
        return None;
    }
    let was = change.before.as_ref().is_some_and(|before| selector.matches(before));
    let is = change.action != Action::Deleted && selector.matches(&change.object);
    match (was, is) {
        (false, true) => Some(("ADDED", Arc::clone(&change.object))),
        (true, true) => Some(("MODIFIED", Arc::clone(&change.object))),
        (true, false) => Some(("DELETED", Arc::clone(&change.object))),
        (false, false) => None,
    }
}

fn is_within(object: &Value, target: &Target) -> bool {
    target.namespace.as_deref().is_none_or(|namespace| object["metadata"]["namespace"].as_str() == Some(namespace))
}

fn is_named(object: &Value, target: &Target) -> bool {
    target.name.as_deref().is_none_or(|name| object["metadata"]["name"].as_str() == Some(name))
}

fn bookmark(resource: &Resource, version: u64, ends_initial_events: bool) -> Value {
    let mut object = json!({
        "kind": resource.kind,
        "apiVersion": resource.api_version(),
        "metadata": {"resourceVersion": version.to_string(), "creationTimestamp": null},
    });
    if ends_initial_events {
        object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    object
}
