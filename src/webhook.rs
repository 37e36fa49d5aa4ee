//! The judge behind the webhook: the controller loop, which is asked and changes nothing.

use crate::control::{Message, Status};
use sluicegate_admission::{Judge, Unjudged};
use sluicegate_config::Kind;
use sluicegate_translate::{Object, WhatIf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

/// Shorter than any API server waits by default (10 s): an object that could not be judged in time may be written, with a
/// warning that says so.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two tries at a loop whose queue is full.
const PAUSE: Duration = Duration::from_millis(5);

/// Asks the loop.
pub struct LoopJudge {
    pub messages: SyncSender<Message>,
    pub status: Arc<Status>,
    /// The kinds that this role serves; others are somebody else's to judge.
    pub kinds: &'static [Kind],
}

impl Judge for LoopJudge {
    fn judge(&self, object: Object) -> Result<WhatIf, Unjudged> {
        if !self.kinds.contains(&object.reference().kind) {
            return Ok(WhatIf::default());
        }
        if !self.status.is_applied() {
            return Err(Unjudged::NotReady);
        }
        let deadline = Instant::now() + PATIENCE;
        let (answer, answers) = sync_channel(1);
        let mut question = Message::WhatIf(Box::new(object), answer);
        loop {
            match self.messages.try_send(question) {
                Ok(()) => break,
                Err(TrySendError::Disconnected(_)) => return Err(Unjudged::Ending),
                Err(TrySendError::Full(_)) if Instant::now() >= deadline => return Err(Unjudged::Busy),
                Err(TrySendError::Full(again)) => question = again,
            }
            std::thread::sleep(PAUSE);
        }
        answers.recv_timeout(deadline.saturating_duration_since(Instant::now())).map_err(|error| match error {
            RecvTimeoutError::Timeout => Unjudged::Busy,
            RecvTimeoutError::Disconnected => Unjudged::Ending,
        })
    }
}
