//! Sends packets through a director and sees whom they reach: through the program that is attached to its port, without the
//! wire, or over the wire, where the engine is in user space.

use super::frames::{Flow, vips};
use super::laboratory::Laboratory;
use super::programmer::Engine;
use super::programmer::ROOT;
use anyhow::Context as _;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{Xdp, loaded_programs};
use aya_obj::programs::XdpAttachType;
use sluicegate_netlab::{Capture, Frame, FrameSender};
use sluicegate_xdp::test_run;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// `XDP_TX` and `XDP_REDIRECT`: the packet was delivered.
const SENT: [u32; 2] = [3, 4];

/// From one look at what has arrived to the next; nothing new in between means that all has.
const SETTLED: Duration = Duration::from_millis(300);
/// Packets that are lost on the wire are sent again so often.
const TRIES: u32 = 5;
/// Frames that are sent in a row.
const BURST: usize = 100;

/// The way through a director.
pub enum Probe {
    Program(Box<Program>),
    Wire(Wire),
}

impl Probe {
    /// Through the director as it is at this moment.
    ///
    /// # Errors
    /// Where there is no program, or no way to send frames.
    pub fn of(laboratory: &Laboratory, director: usize, engine: Engine) -> anyhow::Result<Self> {
        Ok(match engine {
            Engine::Xdp => Self::Program(Box::new(Program::of(laboratory, director)?)),
            Engine::Packet => Self::Wire(Wire::to(laboratory, director)?),
        })
    }

    /// The number of the real server that each flow's packet goes to; `None` where it goes to none.
    ///
    /// # Errors
    /// Where packets cannot be sent.
    pub fn pick(&self, laboratory: &Laboratory, flows: &[Flow], opens: bool) -> anyhow::Result<Vec<Option<usize>>> {
        match self {
            Self::Program(program) => program.pick(laboratory, flows, opens),
            Self::Wire(wire) => wire.pick(laboratory, flows, opens),
        }
    }
}

/// The program of a director.
pub struct Program {
    director: usize,
    program: Xdp,
    interface: u32,
    reals: BTreeMap<[u8; 6], usize>,
}

impl Program {
    /// The program behind the director's pinned link, as it is at this moment.
    ///
    /// # Errors
    /// Where there is none.
    fn of(laboratory: &Laboratory, director: usize) -> anyhow::Result<Self> {
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

    fn pick(&self, laboratory: &Laboratory, flows: &[Flow], opens: bool) -> anyhow::Result<Vec<Option<usize>>> {
        let namespace = &laboratory.director(self.director).namespace;
        let mac = namespace.mac("eth0")?;
        namespace.run(|| flows.iter().map(|flow| self.pick_one(&flow.frame(mac, opens))).collect())
    }

    fn pick_one(&self, frame: &[u8]) -> anyhow::Result<Option<usize>> {
        let ran = test_run::run_from(&self.program, frame, 1, Some(self.interface))?;
        let to = ran.frame.first_chunk::<6>().filter(|_| SENT.contains(&ran.action));
        Ok(to.and_then(|mac| self.reals.get(mac).copied()))
    }
}

/// The wire between router and director.
pub struct Wire {
    director: usize,
    sender: FrameSender,
}

impl Wire {
    fn to(laboratory: &Laboratory, director: usize) -> anyhow::Result<Self> {
        Ok(Self { director, sender: laboratory.router().frame_sender("lan")? })
    }

    fn pick(&self, laboratory: &Laboratory, flows: &[Flow], opens: bool) -> anyhow::Result<Vec<Option<usize>>> {
        let mac = laboratory.director(self.director).namespace.mac("eth0")?;
        let numbers: HashMap<Flow, usize> = flows.iter().copied().zip(0..).collect();
        let mut picked = vec![None; flows.len()];
        for _ in 0..TRIES {
            let captures = laboratory.reals().iter().map(|host| {
                let wanted =
                    |frame: &Frame| !frame.outgoing && frame.ip_destination().is_some_and(|to| vips().contains(&to));
                host.namespace.capture_if("eth0", wanted)
            });
            let captures: Vec<Capture> = captures.collect::<Result<_, _>>()?;
            let missing = flows.iter().zip(&picked).filter(|(_, real)| real.is_none()).map(|(flow, _)| flow);
            for (number, flow) in missing.enumerate() {
                self.sender.send(&flow.frame(mac, opens))?;
                if number % BURST == 0 {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            settle(&captures);
            for (real, capture) in captures.into_iter().enumerate() {
                for frame in capture.stop() {
                    if let Some(number) = Flow::of(&frame).and_then(|flow| numbers.get(&flow)) {
                        picked[*number] = Some(real);
                    }
                }
            }
            if picked.iter().all(Option::is_some) {
                break;
            }
        }
        Ok(picked)
    }
}

/// Waits until nothing more arrives.
fn settle(captures: &[Capture]) {
    let count = || captures.iter().map(|capture| capture.count(|_| true)).sum::<usize>();
    let mut before = usize::MAX;
    while before != count() {
        before = count();
        std::thread::sleep(SETTLED);
    }
}
