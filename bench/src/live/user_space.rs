//! The engine in user space, on the same wire and the same core.

use super::rig::{PORT, Rig};
use crate::memory::{Sets, apply, binding, vip};
use crate::packet::harness::pin_to;
use anyhow::bail;
use sluicegate_forward::forwarder::{ForwardMode, Forwarder, ForwarderSettings};
use sluicegate_netlab::Attachment;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Frames that may be under way: half of its receive ring.
pub const PART: u32 = 2_048;

/// It forwards for as long as this lives.
pub struct UserSpace {
    forwarder: Forwarder,
    _passing: Attachment,
}

impl UserSpace {
    /// One VIP over 100 real servers by TUNNEL, as the program would serve it.
    ///
    /// # Errors
    /// Where packet sockets or routes are refused.
    pub fn begin(rig: &Rig) -> anyhow::Result<Self> {
        let passing = rig.under_test.accept_xdp_frames(PORT)?;
        let settings = ForwarderSettings {
            mode: ForwardMode::Packet,
            interfaces: vec![PORT.to_owned()],
            ..ForwarderSettings::default()
        };
        let cpu = rig.cpu();
        // Its threads inherit the core and the priority, and it has as many workers as it may use cores.
        let forwarder = rig.under_test.run(move || -> anyhow::Result<Forwarder> {
            pin_to(cpu)?;
            // As who sends: others on the machine are not what is measured. Refused is no reason not to measure.
            let _refused = rustix::process::setpriority_process(None, -20);
            Ok(Forwarder::start(settings)?)
        })?;
        let serving = Self { forwarder, _passing: passing };
        apply(&serving.forwarder, &BTreeMap::from([(vip(0), Arc::new(binding(Sets::Equal, 0, None)))]))?;
        let status = serving.forwarder.status();
        match status.failures.first() {
            Some(failure) => bail!("the engine in user space does not serve: {failure:?}"),
            None => Ok(serving),
        }
    }

    /// # Errors
    /// Where the forwarder does not end as it should.
    pub fn end(self) -> anyhow::Result<()> {
        Ok(self.forwarder.detach()?)
    }
}
