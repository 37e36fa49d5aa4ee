//! The wire, who sends and counts at one end of it, and room for whoever is under test at the other.

use crate::packet::frames;
use crate::packet::harness::{loaded, pin_to, xdp};
use crate::packet::scenario::{self, Delivery, Scenario};
use crate::packet::tables::set;
use crate::report::Unit;
use anyhow::Context as _;
use aya::maps::{MapData, ProgramArray};
use aya::{Ebpf, EbpfLoader};
use rustix::time::{ClockId, clock_gettime};
use sluicegate_netlab::{Hook, Instruction, Lab, Namespace, Program, WireOptions};
use sluicegate_xdp::row::Row;
use sluicegate_xdp::test_run;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

/// The interface at both ends.
pub const PORT: &str = "eth0";
/// Who sends, and to whom everything goes back.
pub const SENDER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const XDP_DROP: i32 = 1;
/// Frames that the kernel makes at a time.
const BATCH: u32 = 64;
/// What is still under way when the last frame was sent.
const DRAIN: Duration = Duration::from_millis(5);

/// How long nothing may come back before what is missing counts as lost, where frames are sent in parts.
const SILENCE: Duration = Duration::from_millis(250);
/// From one look at what came back to the next.
const LOOK: Duration = Duration::from_millis(1);

/// What is sent: TCP segments with ACK of that many flows, and among them SYNs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// A power of two.
    pub flows: u64,
    /// 0, or one packet of so many is of these flows, and the others are SYNs of sources that never return.
    pub flood: u32,
}

/// `1,024 flows`, `SYN flood among 1,024 flows`.
impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flows = Unit::Count.number(self.flows as f64);
        let flood = if self.flood == 0 { "" } else { "SYN flood among " };
        write!(f, "{flood}{flows} flows")
    }
}

/// What one turn came to.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// Packets that came back.
    pub returned: u64,
    /// From the first to the last.
    pub elapsed: Duration,
    /// CPU time that went into it: of this process, which sends, with the soft interrupts that it was charged, and of the
    /// kernel's thread for those that it was not.
    pub busy: Duration,
}

impl Turn {
    /// Share of what was sent that came back.
    pub fn came_back(&self, packets: u32) -> f64 {
        self.returned as f64 / f64::from(packets)
    }

    /// Packets a second of CPU time: what a core takes when nobody else has it.
    pub fn rate(&self) -> f64 {
        self.returned as f64 / self.busy.as_secs_f64()
    }

    /// Share of the core that all of it had.
    pub fn share(&self) -> f64 {
        self.busy.as_secs_f64() / self.elapsed.as_secs_f64()
    }
}

/// The wire and its ends.
pub struct Rig {
    /// The end that is under test.
    pub under_test: Namespace,
    /// MAC address of the sending end.
    pub sender_mac: [u8; 6],
    sender: Namespace,
    replay: Ebpf,
    scenario: Scenario,
    template: Vec<u8>,
    cpu: usize,
    _lab: Lab,
}

impl Rig {
    /// Builds it. The end under test has an address, forwards, and knows the sender as the way to everywhere.
    pub fn build(cpu: usize) -> anyhow::Result<Self> {
        let mut lab = Lab::new("sg-bench")?;
        let (sender, under_test) = (lab.namespace("sender")?, lab.namespace("tested")?);
        lab.connect(&sender, PORT, &under_test, PORT, WireOptions::default())?;
        sender.add_address(PORT, "192.0.2.2/24")?;
        under_test.add_address(PORT, "192.0.2.1/24")?;
        under_test.become_router()?;
        under_test.set_sysctl("net/ipv4/conf/all/rp_filter", "0")?;
        under_test.set_sysctl("net/ipv4/conf/eth0/rp_filter", "0")?;
        under_test.set_sysctl("net/ipv4/conf/all/send_redirects", "0")?;
        under_test.set_sysctl("net/ipv4/conf/eth0/send_redirects", "0")?;
        let sender_mac = sender.mac(PORT)?;
        under_test.set_neighbour(PORT, IpAddr::V4(SENDER), sender_mac)?;
        under_test.add_route("0.0.0.0/0", IpAddr::V4(SENDER))?;

        let mut replay = EbpfLoader::new().btf(None).load(sluicegate_xdp::REPLAY).context("the replaying object")?;
        let bounce = loaded(&mut replay, "floor_0")?;
        let map = replay.map_mut("NEXT").context("the replaying object has no map NEXT")?;
        let mut next: ProgramArray<&mut MapData> = ProgramArray::try_from(map)?;
        next.set(0, &bounce, 0)?;
        loaded(&mut replay, "replay4")?;
        let scenario = of(Delivery::Tunnel)?;
        let mut template = frames::frame(&scenario);
        template[0..6].copy_from_slice(&under_test.mac(PORT)?);
        template[6..12].copy_from_slice(&sender_mac);
        Ok(Self { under_test, sender_mac, sender, replay, scenario, template, cpu, _lab: lab })
    }

    /// The CPU that does everything.
    pub const fn cpu(&self) -> usize {
        self.cpu
    }

    /// Sends, and counts what comes back. With `part`, no more than so many frames are under way at a time: who is under test
    /// has a queue of that length, and shares the core with who sends.
    pub fn send(&mut self, load: Load, packets: u32, part: Option<u32>) -> anyhow::Result<Turn> {
        let scenario = Scenario { flows: Some(load.flows), flood: load.flood, ..self.scenario };
        let mut script = frames::script(&scenario, &self.template);
        // The kernel gives each frame its place back.
        script.pushed = 0;
        set(&mut self.replay, "SCRIPT", 0, Row(script))?;
        let port = self.sender.ifindex(PORT)?;
        // Only for as long: who is under test asks for its neighbour in between.
        let drop = Program::new("bench_sink", vec![Instruction::set(0, XDP_DROP), Instruction::exit()]);
        let _sink = self.sender.attach(PORT, Hook::Xdp, &drop)?;
        let (replay, template, cpu) = (&mut self.replay, &self.template, self.cpu);
        self.sender.run(move || {
            pin_to(cpu)?;
            // Others on the machine are not what is measured. Refused is no reason not to measure.
            let _refused = rustix::process::setpriority_process(None, -20);
            let program = xdp(replay, "replay4")?;
            let (before, busy_before, began) = (received()?, busy(cpu)?, Instant::now());
            match part {
                None => test_run::send(program, template, packets, port, BATCH)?,
                Some(part) => {
                    let mut sent = 0;
                    while sent < packets {
                        let now = part.min(packets - sent);
                        test_run::send(program, template, now, port, BATCH)?;
                        sent += now;
                        until_returned(before + u64::from(sent))?;
                    }
                }
            }
            let elapsed = began.elapsed();
            std::thread::sleep(DRAIN);
            Ok(Turn { returned: received()? - before, elapsed, busy: busy(cpu)?.saturating_sub(busy_before) })
        })
    }
}

/// Waits until so many packets have been received, or none comes any more.
fn until_returned(wanted: u64) -> anyhow::Result<()> {
    let (mut seen, mut since) = (received()?, Instant::now());
    while seen < wanted && since.elapsed() < SILENCE {
        std::thread::sleep(LOOK);
        let more = received()?;
        if more > seen {
            (seen, since) = (more, Instant::now());
        }
    }
    Ok(())
}

/// The scenario of all frames: TCP segments with ACK to the IPv4 VIP.
pub fn of(delivery: Delivery) -> anyhow::Result<Scenario> {
    let all = scenario::all();
    let found = all.into_iter().find(|scenario| scenario.name == "tcp4_1k" && scenario.delivery == delivery);
    found.context("there is no scenario tcp4_1k")
}

/// CPU time of this process, and of the kernel's thread for soft interrupts of that CPU.
fn busy(cpu: usize) -> anyhow::Result<Duration> {
    let own = clock_gettime(ClockId::ProcessCPUTime);
    let name = format!("ksoftirqd/{cpu}\n");
    let named =
        |entry: &std::fs::DirEntry| std::fs::read_to_string(entry.path().join("comm")).is_ok_and(|is| is == name);
    let kernel = std::fs::read_dir("/proc")?.flatten().find(named).context("no ksoftirqd of that CPU is to be seen")?;
    let times = std::fs::read_to_string(kernel.path().join("schedstat"))?;
    let nanoseconds = times.split_whitespace().next().and_then(|time| time.parse().ok());
    let kernel = Duration::from_nanos(nanoseconds.context("/proc/PID/schedstat has no CPU time")?);
    Ok(kernel + Duration::new(own.tv_sec as u64, own.tv_nsec as u32))
}

/// Packets that the port of this thread's namespace has received.
fn received() -> anyhow::Result<u64> {
    let table = std::fs::read_to_string("/proc/thread-self/net/dev").context("/proc/thread-self/net/dev")?;
    let line = table.lines().find_map(|line| line.trim_start().strip_prefix("eth0:"));
    let packets = line.and_then(|line| line.split_whitespace().nth(1)).and_then(|packets| packets.parse().ok());
    packets.context("/proc/thread-self/net/dev does not count packets of eth0")
}
