//! Sends packets through the program that is attached to a director's port, without the wire.

use super::laboratory::Laboratory;
use super::programmer::ROOT;
use anyhow::{Context as _, bail};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{Xdp, loaded_programs};
use aya_obj::programs::XdpAttachType;
use sluicegate_xdp::test_run;
use std::collections::BTreeMap;

/// `XDP_TX` and `XDP_REDIRECT`: the packet was delivered.
const SENT: [u32; 2] = [3, 4];

/// The program of a director.
pub struct Probe {
    director: usize,
    program: Xdp,
    interface: u32,
    reals: BTreeMap<[u8; 6], usize>,
}

impl Probe {
    /// The program behind the director's pinned link, as it is at this moment.
    ///
    /// # Errors
    /// Where there is none.
    pub fn of(laboratory: &Laboratory, director: usize) -> anyhow::Result<Self> {
        let namespace = &laboratory.director(director).namespace;
        let interface = namespace.ifindex("eth0")?;
        let pin = namespace.bpf_directory().join(ROOT).join(format!("links/{interface}-native"));
        let pinned = PinnedLink::from_pin(&pin).with_context(|| format!("no link at {}", pin.display()))?;
        let id = FdLink::from(pinned).info()?.program_id();
        let program = loaded_programs().filter_map(Result::ok).find(|program| program.id() == id);
        let program = program.with_context(|| format!("program {id} is gone"))?;
        let program = Xdp::from_program_info(program, "director".into(), XdpAttachType::Interface)?;
        let reals = laboratory.macs()?.into_iter().zip(0..).collect();
        Ok(Self { director, program, interface, reals })
    }

    /// The number of the real server that each frame goes to; `None` where it goes to none.
    ///
    /// # Errors
    /// Where the kernel does not run the program.
    pub fn pick(&self, laboratory: &Laboratory, frames: &[Vec<u8>]) -> anyhow::Result<Vec<Option<usize>>> {
        let namespace = &laboratory.director(self.director).namespace;
        let mac = namespace.mac("eth0")?;
        namespace.run(|| frames.iter().map(|frame| self.pick_one(frame, mac)).collect())
    }

    fn pick_one(&self, frame: &[u8], mac: [u8; 6]) -> anyhow::Result<Option<usize>> {
        let mut frame = frame.to_vec();
        let Some(addresses) = frame.first_chunk_mut::<12>() else { bail!("a frame without addresses") };
        addresses[..6].copy_from_slice(&mac);
        addresses[6..].copy_from_slice(&[0x02, 0, 0, 0, 0, 1]);
        let ran = test_run::run_from(&self.program, &frame, 1, Some(self.interface))?;
        let to = ran.frame.first_chunk::<6>().filter(|_| SENT.contains(&ran.action));
        Ok(to.and_then(|mac| self.reals.get(mac).copied()))
    }
}
