//! Changes of many watches as events: those that come together are handed on together.

use crate::directory::SourceEvent;
use sluicegate_config::Rejection;
use sluicegate_translate::ObjectChange;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout_at;

/// After the first change of a burst, a pause this long ends it.
const QUIET: Duration = Duration::from_millis(2);
/// A burst is cut off after this time, so that constant change delays nobody.
const LONGEST_BURST: Duration = Duration::from_millis(20);
/// Before the first state there is nobody to serve, and work goes in large pieces; still, all of a cluster's objects are
/// never held at once.
const LARGEST: usize = 8192;

/// What watches hand on.
#[derive(Debug)]
pub(super) enum Item {
    /// An object changed.
    Change(Box<ObjectChange>),
    /// All that is wrong with what a watch named so gave; empty = nothing any more.
    Rejected(Arc<str>, Vec<Rejection>),
    /// Hand on what there is, and say the number of the event.
    Barrier(oneshot::Sender<u64>),
    /// What was handed on before is the first state.
    First,
    /// Everything that was there when this round began has been handed on.
    Round(u64),
}

/// Waits until everything that was sent before has been taken by the sink; `None` where nobody takes it any more.
pub(super) async fn barrier(items: &mpsc::Sender<Item>) -> Option<u64> {
    let (sender, number) = oneshot::channel();
    items.send(Item::Barrier(sender)).await.ok()?;
    number.await.ok()
}

/// Gathers until there is nobody to gather from, or the sink wants no more. Blocks: it has a thread of its own.
///
/// # Errors
/// Where there is no timer to be had.
pub(super) fn gather(
    mut items: mpsc::Receiver<Item>,
    sink: impl FnMut(SourceEvent) -> bool,
) -> io::Result<impl FnOnce()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    Ok(move || {
        let mut batch = Batch { sink, is_first_over: false, number: 0, event: None };
        while let Some(item) = runtime.block_on(items.recv()) {
            let mut goes_on = batch.take(item);
            while goes_on && let Some(deadline) = batch.deadline() {
                match runtime.block_on(async { timeout_at(deadline.into(), items.recv()).await }) {
                    Ok(Some(item)) => goes_on = batch.take(item),
                    Ok(None) | Err(_) => goes_on = batch.flush(false),
                }
            }
            if !goes_on {
                return;
            }
        }
    })
}

struct Batch<S> {
    sink: S,
    is_first_over: bool,
    number: u64,
    event: Option<(SourceEvent, Instant)>,
}

impl<S: FnMut(SourceEvent) -> bool> Batch<S> {
    /// When what was gathered is handed on; `None` = there is nothing.
    fn deadline(&self) -> Option<Instant> {
        let (event, last) = self.event.as_ref()?;
        Some(if self.is_first_over {
            (*last + QUIET).min(event.noticed + LONGEST_BURST)
        } else {
            *last + LONGEST_BURST
        })
    }

    /// False where the sink wants no more.
    fn take(&mut self, item: Item) -> bool {
        match item {
            Item::Change(change) => self.event().changes.push(*change),
            Item::Rejected(name, rejections) => self.event().file_rejections.push((name, rejections)),
            Item::Barrier(answer) => {
                let goes_on = self.flush(false);
                // Whoever asked may have gone.
                let _gone = answer.send(self.number);
                return goes_on;
            }
            Item::Round(round) => {
                self.event().round = Some(round);
                return self.flush(false);
            }
            Item::First => {
                self.event();
                self.is_first_over = true;
                return self.flush(true);
            }
        }
        let is_full = self.event.as_ref().is_some_and(|(event, _)| event.changes.len() >= LARGEST);
        !is_full || self.flush(false)
    }

    fn event(&mut self) -> &mut SourceEvent {
        let now = Instant::now();
        let (event, last) = self.event.get_or_insert_with(|| {
            let event = SourceEvent {
                changes: Vec::new(),
                file_rejections: Vec::new(),
                initial: false,
                noticed: now,
                number: 0,
                round: None,
            };
            (event, now)
        });
        *last = now;
        event
    }

    fn flush(&mut self, initial: bool) -> bool {
        let Some((mut event, _)) = self.event.take() else { return true };
        self.number += 1;
        event.number = self.number;
        event.initial = initial;
        (self.sink)(event)
    }
}
