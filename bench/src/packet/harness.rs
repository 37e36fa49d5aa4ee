//! Loads the programs, runs them in turn, and checks that they did what they are timed for.

use super::frames;
use super::scenario::Scenario;
use super::tables::{fill_maps, set};
use anyhow::{Context as _, bail};
use aya::maps::{MapData, PerCpuArray, ProgramArray};
use aya::programs::{ProgramFd, Xdp};
use aya::{Ebpf, EbpfLoader};
use rustix::thread::{CpuSet, sched_setaffinity};
use sluicegate_l4::layout::map;
use sluicegate_l4::verdict::Reason;
use sluicegate_xdp::replay::Script;
use sluicegate_xdp::row::Row;
use sluicegate_xdp::test_run;
use std::path::{Path, PathBuf};

/// Where `--keep` pins.
const PINS: &str = "/sys/fs/bpf/sluicegate-bench";
/// Packets of each flow before anything is timed: those of a handshake and of a request.
const ESTABLISHING: u64 = 4;
/// Share of packets that must end for the reason that a scenario is about.
const MOST: f64 = 0.95;

/// The programs of one scenario with their tables filled.
pub struct Harness {
    director: Ebpf,
    timed: ProgramFd,
    replay: Ebpf,
    scenario: Scenario,
    frame: Vec<u8>,
    script: Script,
}

/// What was measured.
pub struct Runs {
    /// Nanoseconds a packet of each round: with the director, and with the floor in its place.
    pub rounds: Vec<(f64, f64)>,
    /// How packets ended, most frequent first.
    pub reasons: Vec<(Reason, u64)>,
    /// Under a flood: the share of packets of established flows that found their flow.
    pub kept: Option<f64>,
}

/// Keeps this thread on one CPU: per-CPU rows and caches stay warm.
pub fn pin_to(cpu: usize) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    if cpu >= CpuSet::MAX_CPU {
        bail!("--cpu {cpu}: there is no such CPU");
    }
    set.set(cpu);
    sched_setaffinity(None, &set).with_context(|| format!("--cpu {cpu}: this process may not run there"))
}

impl Harness {
    /// Loads and fills.
    pub fn set_up(scenario: &Scenario) -> anyhow::Result<Self> {
        let mut director = EbpfLoader::new().load(sluicegate_xdp::DIRECTOR).context("the director's object")?;
        fill_maps(&mut director, scenario)?;
        let timed = loaded(&mut director, "director")?;
        let mut replay = EbpfLoader::new().load(sluicegate_xdp::REPLAY).context("the replaying object")?;
        let frame = frames::frame(scenario);
        let script = frames::script(scenario, &frame);
        set(&mut replay, "SCRIPT", 0, Row(script))?;
        Ok(Self { director, timed, replay, scenario: *scenario, frame, script })
    }

    /// Times director and floor in turn, after some passes over all flows.
    pub fn measure(&mut self, rounds: u32, packets: u32) -> anyhow::Result<Runs> {
        let floor = format!("floor_{}", self.floor());
        let floor = loaded(&mut self.replay, &floor)?;
        let replay = if self.scenario.v6 { "replay6" } else { "replay4" };
        loaded(&mut self.replay, replay)?;
        let timed = self.timed.try_clone().context("the director's descriptor")?;
        let warm = u32::try_from(self.scenario.flows.unwrap_or(0) * ESTABLISHING).unwrap_or(u32::MAX).max(packets / 4);
        if self.scenario.flood != 0 {
            // Flows are established before the flood comes.
            set(&mut self.replay, "SCRIPT", 0, Row(Script { flood: 0, ..self.script }))?;
            self.time(replay, &timed, warm)?;
            set(&mut self.replay, "SCRIPT", 0, Row(self.script))?;
        }
        self.time(replay, &timed, warm)?;
        let before = self.reasons()?;
        let mut measured = Vec::new();
        for _ in 0..rounds {
            let floor = self.time(replay, &floor, packets)?;
            let whole = self.time(replay, &timed, packets)?;
            measured.push((whole, floor));
        }
        let reasons = self.judged(&before)?;
        let kept = (self.scenario.flood != 0).then(|| kept(&reasons, self.scenario.flood));
        Ok(Runs { rounds: measured, reasons, kept })
    }

    /// Pins the director and its maps.
    pub fn keep(&mut self) -> anyhow::Result<PathBuf> {
        let folder = Path::new(PINS);
        std::fs::create_dir_all(folder).with_context(|| format!("{PINS}: is the BPF file system mounted there?"))?;
        for (name, map) in self.director.maps() {
            let path = folder.join(name);
            // What an earlier run left has no further use.
            let _absent = std::fs::remove_file(&path);
            map.pin(&path).with_context(|| format!("cannot pin {}", path.display()))?;
        }
        let path = folder.join("director");
        let _absent = std::fs::remove_file(&path);
        xdp(&mut self.director, "director")?.pin(&path).with_context(|| format!("cannot pin {}", path.display()))?;
        Ok(folder.to_owned())
    }

    /// Bytes that the floor pushes.
    fn floor(&self) -> u32 {
        match self.scenario.pushed() {
            known @ (0 | 20 | 28 | 40) => known,
            _ => 40,
        }
    }

    fn time(&mut self, replay: &str, next: &ProgramFd, packets: u32) -> anyhow::Result<f64> {
        let map = self.replay.map_mut("NEXT").context("the replaying object has no map NEXT")?;
        let mut array: ProgramArray<&mut MapData> = ProgramArray::try_from(map)?;
        array.set(0, next, 0).context("the program cannot be called by the replaying one")?;
        let ran = test_run::run(xdp(&mut self.replay, replay)?, &self.frame, packets)?;
        if ran.action == 0 {
            bail!("the replaying program gave up: the frame could not be restored to {} bytes", self.script.length);
        }
        Ok(ran.duration.as_secs_f64() * 1e9)
    }

    fn reasons(&self) -> anyhow::Result<Vec<u64>> {
        let map = self.director.map(map::REASONS).context("the director has no map of reasons")?;
        let counters: PerCpuArray<&MapData, u64> = PerCpuArray::try_from(map)?;
        let count = |reason: &Reason| Ok(counters.get(&reason.index(), 0)?.iter().sum::<u64>());
        Reason::ALL.iter().map(count).collect()
    }

    /// How packets ended since then; an error if not as the scenario says.
    fn judged(&self, before: &[u64]) -> anyhow::Result<Vec<(Reason, u64)>> {
        let mut ended: Vec<(Reason, u64)> = Reason::ALL
            .iter()
            .zip(self.reasons()?.iter().zip(before))
            .map(|(reason, (after, before))| (*reason, after - before))
            .filter(|(_, packets)| *packets > 0)
            .collect();
        ended.sort_by_key(|(reason, packets)| (std::cmp::Reverse(*packets), *reason));
        let all: u64 = ended.iter().map(|(_, packets)| packets).sum();
        let meant: u64 =
            ended.iter().filter(|(reason, _)| self.scenario.reasons.contains(reason)).map(|(_, packets)| packets).sum();
        if all == 0 || (meant as f64) < MOST * all as f64 {
            let said: Vec<String> =
                ended.iter().map(|(reason, packets)| format!("{} {packets}", reason.as_str())).collect();
            bail!("packets did not end as the scenario says, but: {}", said.join(", "));
        }
        Ok(ended)
    }
}

/// Share of the packets of established flows, one of `flood`, that found their flow: packets of the flood never do.
fn kept(reasons: &[(Reason, u64)], flood: u32) -> f64 {
    let all: u64 = reasons.iter().map(|(_, packets)| packets).sum();
    let found: u64 = reasons.iter().filter(|(reason, _)| *reason == Reason::FlowHit).map(|(_, packets)| packets).sum();
    (found as f64 * f64::from(flood) / all.max(1) as f64).min(1.0)
}

/// A program of an object.
pub fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name).with_context(|| format!("the object has no program {name}"))?;
    program.try_into().with_context(|| format!("program {name}"))
}

/// A program of an object, loaded.
pub fn loaded(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<ProgramFd> {
    let program = xdp(ebpf, name)?;
    program.load().with_context(|| format!("the kernel refuses program {name}"))?;
    program.fd()?.try_clone().context("a program's descriptor")
}
