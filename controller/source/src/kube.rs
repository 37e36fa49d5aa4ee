//! The shell around an API server: it watches the kinds that the gateway reads and hands on what changed.
//!
//! Each kind has a watch of its own (in each namespace, where they are named). A watch lists what there is, follows it with
//! bookmarks, begins anew where the server has forgotten its version, and comes back after whatever goes wrong. What was
//! handed on stays in force meanwhile: an API server that is away changes nothing.
//!
//! Secrets are read only where something asks for them by name ([`Wishes`]), by a watch for each of a few, and of the
//! namespace where they are many.

mod access;
mod batch;
mod client;
mod contact;
mod raw;
mod reflector;
mod request;
mod scope;
mod secrets;

pub use access::ClusterFacts;
pub(crate) use client::innermost;
pub use client::{ClientError, KubeClient, Login};
pub use contact::{Answered, ApiContact, ApiCounts, WatchState};
pub(crate) use raw::Raw;
pub(crate) use reflector::{Pauses, api_resource};
pub use secrets::MOST_BY_NAME;

use crate::directory::SourceEvent;
use batch::{Item, barrier, gather};
use reflector::Reflector;
use scope::Scope;
use secrets::SecretWatches;
use sluicegate_config::{CertificateId, Kind, NamespacedName};
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::{mpsc, watch};

/// Changes that may wait for the controller. Watches wait behind it, and TCP makes the API server wait behind them.
const QUEUE: usize = 4096;

/// What is watched.
#[derive(Clone, Debug, Default)]
pub struct KubeSettings {
    /// Only objects of these namespaces; empty = all. Cluster-wide kinds and named ConfigMaps are read all the same.
    pub namespaces: Vec<Arc<str>>,
    /// Only objects of namespaces whose labels match, such as `edge=yes`. Exclusive with `namespaces`.
    pub namespace_selector: Option<String>,
    /// Services whose EndpointSlices are read although `namespaces` or the selector may leave their namespace out.
    pub endpoints_of: Vec<NamespacedName>,
    /// ConfigMaps that something names, each with a watch of its own.
    pub config_maps: Vec<NamespacedName>,
    /// Read Nodes: for directors and real servers. A gateway needs none.
    pub nodes: bool,
    /// Read Namespaces for their labels, of those whose objects are read.
    pub namespace_labels: bool,
    /// Read the Secrets that are asked for. A director needs none and should have no right to them.
    pub secrets: bool,
    /// Read Services and their endpoints, and no Ingresses: all that a director has use for.
    pub services_alone: bool,
}

/// What the controller asks of the source.
#[derive(Debug)]
pub struct Wishes(watch::Sender<Wanted>, watch::Sender<u64>);

/// The source's end of [`Wishes`].
#[derive(Debug)]
pub struct Granted(watch::Receiver<Wanted>, watch::Receiver<u64>);

impl Wishes {
    /// Both ends: the source needs the one before the controller has anything to ask for.
    #[must_use]
    pub fn new() -> (Self, Granted) {
        let (sender, receiver) = watch::channel(Wanted::default());
        let (round, rounds) = watch::channel(0);
        (Self(sender, round), Granted(receiver, rounds))
    }

    /// Asks for all Services to be read anew, and returns the number of this round: an event with this
    /// [`SourceEvent::round`] comes once everything that there is from now on has been handed on. For who has to know what
    /// others wrote before it.
    pub fn read_again(&self) -> u64 {
        self.1.send_modify(|round| *round += 1);
        *self.1.borrow()
    }

    /// Asks for Secrets: these and no others are read. `through` is [`SourceEvent::number`] of the last event that was
    /// taken, so that the source knows when nothing more will be asked for by what it has handed on.
    pub fn want(&self, secrets: BTreeSet<CertificateId>, through: u64) {
        self.0.send_if_modified(|known| {
            let wanted = Wanted { secrets, through };
            let is_other = *known != wanted;
            *known = wanted;
            is_other
        });
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Wanted {
    secrets: BTreeSet<CertificateId>,
    /// The wishes take account of the event with this number.
    through: u64,
}

/// A watched API server. Dropping it ends the watches.
#[derive(Debug)]
pub struct Kube {
    contact: Arc<ApiContact>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Kube {
    /// Watches from now on, in threads of its own. The first state comes once every kind has been read, and with it the
    /// Secrets that were asked for after the event before it; a server that is away delays it for as long as that takes.
    ///
    /// `sink` takes each event and returns false to end it; it may block, and changes then gather in the meantime.
    ///
    /// # Errors
    /// Where there are no threads to be had.
    pub fn watch(
        client: KubeClient,
        settings: KubeSettings,
        wishes: Granted,
        sink: impl FnMut(SourceEvent) -> bool + Send + 'static,
    ) -> io::Result<Self> {
        let contact = client.contact();
        let (items, gathered) = mpsc::channel(QUEUE);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let reader = std::thread::Builder::new().name("kube".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = follow(client, settings, wishes, items) => {}
                    _ = stopped => {}
                }
            });
        })?;
        let gathering = gather(gathered, sink)?;
        let batcher = std::thread::Builder::new().name("kube-batch".to_owned()).spawn(gathering)?;
        Ok(Self { contact, stop: Some(stop), threads: vec![reader, batcher] })
    }

    /// How it stands with the API server.
    #[must_use]
    pub fn contact(&self) -> &Arc<ApiContact> {
        &self.contact
    }
}

impl Drop for Kube {
    fn drop(&mut self) {
        drop(self.stop.take());
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread that follows the API server panicked");
            }
        }
    }
}

/// Runs every watch until it is dropped.
async fn follow(
    client: KubeClient,
    settings: KubeSettings,
    Granted(mut wishes, mut rounds): Granted,
    changes: mpsc::Sender<Item>,
) {
    let reflector = match client.build() {
        Ok(api) => Reflector { client: api, changes, contact: client.contact(), round: rounds.clone() },
        Err(error) => return tracing::error!(%error, "nothing is read from the API server"),
    };
    let mut scope = Scope::start(&reflector, &settings);
    scope.until_read().await;
    // The controller has to see all of it before it knows which Secrets it needs.
    let Some(number) = barrier(&reflector.changes).await else { return };
    let mut secrets = settings.secrets.then(|| SecretWatches::new(reflector.clone()));
    if let Some(watches) = &mut secrets {
        let Ok(first) = wishes.wait_for(|wanted| wanted.through >= number).await.map(|wanted| wanted.clone()) else {
            return;
        };
        watches.set(&first.secrets).await;
        watches.until_read().await;
    }
    if reflector.changes.send(Item::First).await.is_err() {
        return;
    }
    loop {
        tokio::select! {
            changed = wishes.changed() => match (changed, &mut secrets) {
                (Err(_), _) => return,
                (Ok(()), Some(watches)) => {
                    let wanted = wishes.borrow_and_update().secrets.clone();
                    watches.set(&wanted).await;
                }
                (Ok(()), None) => {}
            },
            () = scope.changed() => scope.choose().await,
            // Rounds end with whoever begins them, and with the wishes.
            Ok(()) = rounds.changed() => {
                let round = *rounds.borrow_and_update();
                let (read, changes) = (scope.read_in(round), reflector.changes.clone());
                tokio::spawn(async move {
                    read.await;
                    // Whoever waited for it may have gone.
                    let _gone = changes.send(Item::Round(round)).await;
                });
            }
        }
    }
}

/// The namespaced kinds that are watched as a whole.
fn watched_kinds(services_alone: bool) -> &'static [Kind] {
    if services_alone {
        &[Kind::Service, Kind::EndpointSlice]
    } else {
        &[Kind::Ingress, Kind::Service, Kind::EndpointSlice]
    }
}
