//! Keeps the kernel from merging received segments (GRO) on a port while it is attached: a merged frame is longer than the
//! MTU, and could not be sent on. It changes nothing else, and puts back what it found.

use crate::offload::Offload;
use std::io;

/// A port on which segments were merged before. Dropped, it lets that be again.
#[derive(Debug)]
pub struct Unmerged {
    interface: String,
}

impl Unmerged {
    /// Switches merging off; `None` where it was off.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn switch_off(interface: &str) -> io::Result<Option<Self>> {
        if !Offload::GenericReceive.is_on(interface)? {
            return Ok(None);
        }
        Offload::GenericReceive.switch(interface, false)?;
        Ok(Some(Self { interface: interface.to_owned() }))
    }
}

impl Drop for Unmerged {
    fn drop(&mut self) {
        if let Err(error) = Offload::GenericReceive.switch(&self.interface, true) {
            tracing::debug!(interface = %self.interface, %error, "merging of segments stays off");
        }
    }
}
