//! Directors on clocks of their own, connections that delay and break, and an observer who sees every fence.

mod api;

use api::{Api, Client};
use sluicegate_announce::{
    Action, DirectorId, Event, Fitness, Incarnation, Moment, OnIsolation, Ownership, OwnershipSettings, Timing,
};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// What can happen to a director or a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Stop,
    Kill,
    Restart,
    PowerOff,
    Cut,
    Mend,
    Carrier,
    Release,
    Able,
    /// A process gives everything up and ends by itself.
    End,
    ApiDown,
    ApiCut,
    /// An operator deletes the Lease of a director that does not run.
    DeleteLease,
}

/// Those of a world whose directors come from an API server.
pub const WITH_API: &[Fault] = &[
    Fault::Stop,
    Fault::Kill,
    Fault::Restart,
    Fault::Restart,
    Fault::PowerOff,
    Fault::Cut,
    Fault::Cut,
    Fault::Mend,
    Fault::Mend,
    Fault::End,
    Fault::ApiDown,
    Fault::ApiCut,
    Fault::DeleteLease,
];

const ALL: &[Fault] = &[
    Fault::Stop,
    Fault::Kill,
    Fault::Restart,
    Fault::PowerOff,
    Fault::Cut,
    Fault::Cut,
    Fault::Mend,
    Fault::Carrier,
    Fault::Release,
    Fault::Able,
];

/// Time of the observer, in ms.
type Millis = u64;

pub struct World {
    seed: u64,
    random: u64,
    now: Millis,
    vips: Vec<IpAddr>,
    directors: Vec<Director>,
    /// Cut until someone mends them: from, to. A cut of one direction alone is a fault as well.
    cuts: BTreeMap<(usize, usize), bool>,
    wire: Vec<Parcel>,
    on_isolation: OnIsolation,
    pub allow_two_owners: bool,
    /// Processes are stopped anywhere.
    is_hostile: bool,
    /// Some packets are lost, and sent again.
    pub loses: bool,
    history: Vec<String>,
    /// Where directors come from, if they do not know each other by flags.
    api: Option<Api>,
}

struct Director {
    id: DirectorId,
    /// Local nanoseconds per observer's millisecond, and at the observer's zero.
    rate: u64,
    offset: u64,
    process: Option<Process>,
    carrier: bool,
    able: BTreeMap<IpAddr, bool>,
    /// The table in the kernel, by place of the VIP: it outlives the process. In the observer's time, exclusive.
    fences: Vec<Millis>,
}

struct Process {
    incarnation: Incarnation,
    ownership: Ownership,
    stopped_until: Option<Millis>,
    /// What the process was about to do when it was stopped.
    undone: Vec<Action>,
    inbox: Vec<Event>,
    is_released: bool,
    /// It ends by itself then.
    ends_at: Option<Millis>,
    next_poll: Moment,
    client: Client,
}

struct Parcel {
    at: Millis,
    from: usize,
    to: usize,
    what: Event,
}

impl World {
    pub fn new(seed: u64, directors: usize, on_isolation: OnIsolation) -> Self {
        let mut world = Self::empty(seed, directors, on_isolation);
        for number in 0..directors {
            world.restart(number);
        }
        world
    }

    /// Directors that find each other through an API server. Those from `running` on are not started yet.
    pub fn of_cluster(seed: u64, directors: usize, running: usize) -> Self {
        let mut world = Self::empty(seed, directors, OnIsolation::Release);
        world.api = Some(Api::default());
        for number in 0..running {
            world.restart(number);
        }
        world
    }

    fn empty(seed: u64, directors: usize, on_isolation: OnIsolation) -> Self {
        let vips = ["192.0.2.10", "192.0.2.11", "2001:db8::10"].map(|text| text.parse().expect("an address")).to_vec();
        let mut world = Self {
            seed,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5eed,
            now: 0,
            vips,
            directors: Vec::new(),
            cuts: BTreeMap::new(),
            wire: Vec::new(),
            on_isolation,
            allow_two_owners: false,
            is_hostile: false,
            loses: true,
            history: Vec::new(),
            api: None,
        };
        for number in 0..directors {
            let director = Director {
                id: DirectorId::new(&format!("director-{number}")).expect("a name"),
                rate: 990_000 + world.below(20_001),
                offset: world.below(1 << 40),
                process: None,
                carrier: true,
                able: world.vips.iter().map(|vip| (*vip, true)).collect(),
                fences: vec![0; world.vips.len()],
            };
            world.directors.push(director);
        }
        world
    }

    /// A number below the bound.
    pub fn pick(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).expect("small")
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    pub fn run(&mut self, millis: Millis) {
        for _ in 0..millis {
            self.step();
        }
    }

    /// Nothing goes without an owner meanwhile.
    pub fn run_served(&mut self, millis: Millis, when: &str) {
        for _ in 0..millis {
            self.step();
            self.assert_all_served(when);
        }
    }

    /// Random faults, one every 400 ms on average.
    pub fn be_unlucky(&mut self, millis: Millis) {
        self.be_unlucky_with(ALL, millis);
    }

    pub fn be_unlucky_with(&mut self, faults: &[Fault], millis: Millis) {
        self.be_unlucky_every(400, faults, millis);
    }

    /// Random faults, one every so many milliseconds on average.
    pub fn be_unlucky_every(&mut self, pause: Millis, faults: &[Fault], millis: Millis) {
        self.is_hostile = true;
        for _ in 0..millis {
            if self.below(pause) == 0 {
                let fault = faults[self.pick(faults.len())];
                self.strike(fault);
            }
            self.step();
        }
        self.is_hostile = false;
    }

    fn strike(&mut self, fault: Fault) {
        let victim = self.pick(self.directors.len());
        let other = self.pick(self.directors.len());
        match fault {
            Fault::Stop => {
                let for_ = 1 + self.below(5_000);
                self.stop(victim);
                if let Some(process) = &mut self.directors[victim].process {
                    process.stopped_until = Some(self.now + for_);
                }
            }
            Fault::Kill => self.kill(victim),
            Fault::Restart => self.restart(victim),
            Fault::PowerOff => self.power_off(victim),
            Fault::Cut if victim != other => self.cut_one_way(victim, other),
            Fault::Cut => self.isolate(victim),
            Fault::Mend => self.mend(),
            Fault::Carrier => {
                let carrier = !self.directors[victim].carrier;
                self.directors[victim].carrier = carrier;
                self.note(format!("carrier of {victim}: {carrier}"));
                self.tell_fitness(victim);
            }
            Fault::Release => self.release(victim),
            Fault::Able => {
                let vip = self.vips[self.random as usize % self.vips.len()];
                let able = self.directors[victim].able.entry(vip).or_default();
                *able = !*able;
                self.note(format!("{vip} at {victim} toggled"));
                self.tell_vips(victim);
            }
            Fault::End => {
                self.release(victim);
                let ends_at = self.now + 1 + self.below(2_000);
                if let Some(process) = &mut self.directors[victim].process {
                    process.ends_at = Some(ends_at);
                }
            }
            Fault::ApiDown => {
                let is_down = !self.api().is_down;
                self.set_api_down(is_down);
            }
            Fault::ApiCut => self.cut_from_api(victim),
            Fault::DeleteLease if self.directors[victim].process.is_none() => self.delete_lease(victim),
            Fault::DeleteLease => {}
        }
    }

    /// SIGSTOP. Sometimes in the middle of doing what was decided.
    pub fn stop(&mut self, victim: usize) {
        self.note(format!("stop {victim}"));
        if let Some(process) = &mut self.directors[victim].process {
            process.stopped_until = Some(Millis::MAX);
        }
    }

    /// SIGKILL: the kernel closes the connections, behind everything that was sent before.
    pub fn kill(&mut self, victim: usize) {
        self.note(format!("kill {victim}"));
        let Some(process) = self.directors[victim].process.take() else { return };
        let gone = Event::Gone { peer: self.directors[victim].id.clone(), incarnation: process.incarnation };
        for other in 0..self.directors.len() {
            if other != victim {
                self.post(victim, other, gone.clone());
            }
        }
    }

    /// No close, no fences: the kernel is gone too.
    pub fn power_off(&mut self, victim: usize) {
        self.note(format!("power off {victim}"));
        self.directors[victim].process = None;
        self.directors[victim].fences.fill(0);
    }

    /// A new life, with what there was killed before.
    pub fn restart(&mut self, victim: usize) {
        if self.directors[victim].process.is_some() {
            self.kill(victim);
        }
        self.note(format!("start {victim}"));
        let number = u8::try_from(victim).expect("few directors");
        let others = self.directors.iter().map(|director| director.id.clone());
        let joins = self.api.as_ref().map(|_| api::address(victim));
        let gone = if joins.is_some() { Duration::from_secs(7) } else { Timing::default().gone };
        let settings = OwnershipSettings {
            me: self.directors[victim].id.clone(),
            peers: others.filter(|id| joins.is_none() && *id != self.directors[victim].id).collect(),
            joins,
            mac: [2, 0, 0, 0, 0, number],
            timing: Timing { gone, ..Timing::default() },
            failback: self.seed.is_multiple_of(2),
            on_isolation: self.on_isolation,
        };
        let incarnation = Incarnation(self.below(u64::MAX));
        let now = self.local(victim, self.now);
        let ownership = Ownership::new(settings, incarnation, now).expect("good settings");
        let process = Process {
            incarnation,
            ownership,
            stopped_until: None,
            undone: Vec::new(),
            inbox: Vec::new(),
            is_released: false,
            ends_at: None,
            next_poll: now,
            client: Client::default(),
        };
        self.directors[victim].process = Some(process);
        self.tell_vips(victim);
        self.tell_fitness(victim);
    }

    pub fn release(&mut self, victim: usize) {
        self.note(format!("release {victim}"));
        if let Some(process) = &mut self.directors[victim].process {
            process.inbox.push(Event::Release);
            process.is_released = true;
        }
    }

    pub fn cut(&mut self, one: usize, other: usize) {
        self.cut_one_way(one, other);
        self.cut_one_way(other, one);
    }

    fn cut_one_way(&mut self, from: usize, to: usize) {
        self.note(format!("cut {from} -> {to}"));
        // What is sent meanwhile is delivered later, or lost with the connection.
        let is_lossy = self.below(2) == 0;
        self.cuts.insert((from, to), is_lossy);
    }

    pub fn isolate(&mut self, victim: usize) {
        for other in 0..self.directors.len() {
            if other != victim {
                self.cut(victim, other);
            }
        }
    }

    fn mend(&mut self) {
        self.note("mend".to_owned());
        self.cuts.clear();
        if let Some(api) = &mut self.api {
            (api.is_down, _) = (false, api.cut.clear());
        }
    }

    /// Everything goes on: links, processes, carriers, real servers.
    pub fn heal(&mut self) {
        self.mend();
        for number in 0..self.directors.len() {
            self.directors[number].carrier = true;
            self.directors[number].able.values_mut().for_each(|able| *able = true);
            let is_well = self.directors[number].process.as_mut().is_some_and(|process| {
                process.stopped_until = process.stopped_until.map(|_| 0);
                !process.is_released
            });
            if is_well {
                self.tell_vips(number);
                self.tell_fitness(number);
            } else {
                self.restart(number);
            }
        }
    }

    /// The most owners that any VIP has.
    pub fn most_owners(&self) -> usize {
        (0..self.vips.len()).map(|place| self.owners(place)).max().unwrap_or_default()
    }

    /// A director that owns at least one VIP.
    pub fn owner_of_something(&self) -> usize {
        let owns = |director: &Director| director.fences.iter().any(|fence| self.now < *fence);
        self.directors.iter().position(owns).expect("an owner")
    }

    /// Who owns the VIP at this place.
    pub fn owner(&self, place: usize) -> Option<usize> {
        self.directors.iter().position(|director| self.now < director.fences[place])
    }

    pub fn assert_all_served(&self, when: &str) {
        for (place, vip) in self.vips.iter().enumerate() {
            assert!(self.owners(place) > 0, "{vip} has no owner {when}{}", self.trace());
        }
    }

    /// As [`World::assert_all_served`], but for a hand-over that may be under way.
    pub fn assert_all_served_soon(&mut self, when: &str) {
        for _ in 0..1_000 {
            if (0..self.vips.len()).all(|place| self.owners(place) > 0) {
                return;
            }
            self.step();
        }
        self.assert_all_served(when);
    }

    fn step(&mut self) {
        self.now += 1;
        self.run_api();
        if self.wire.iter().any(|parcel| parcel.at <= self.now) {
            self.deliver();
        }
        for number in 0..self.directors.len() {
            self.run_process(number);
        }
        if !self.allow_two_owners {
            for (place, vip) in self.vips.iter().enumerate() {
                if self.owners(place) > 1 {
                    panic!("{vip} has {} owners{}", self.owners(place), self.trace());
                }
            }
        }
    }

    fn deliver(&mut self) {
        let mut still = Vec::new();
        for parcel in std::mem::take(&mut self.wire) {
            let cut = self.cuts.get(&(parcel.from, parcel.to)).copied();
            match cut {
                Some(true) => {}
                Some(false) => still.push(parcel),
                None if parcel.at > self.now => still.push(parcel),
                None => {
                    if let Some(process) = &mut self.directors[parcel.to].process {
                        process.inbox.push(parcel.what);
                    }
                }
            }
        }
        self.wire = still;
    }

    fn run_process(&mut self, number: usize) {
        let now = self.local(number, self.now);
        let Some(process) = &mut self.directors[number].process else { return };
        if process.stopped_until.is_none() && process.ends_at.is_some_and(|at| at <= self.now) {
            return self.end(number);
        }
        if process.stopped_until.is_none() && process.inbox.is_empty() && now < process.next_poll {
            return;
        }
        let mut actions = Vec::new();
        if let Some(until) = process.stopped_until {
            if self.now < until {
                return;
            }
            process.stopped_until = None;
            actions = std::mem::take(&mut process.undone);
        }
        let has_news = !process.inbox.is_empty();
        for event in process.inbox.drain(..) {
            process.ownership.handle(event, now);
        }
        if has_news || process.next_poll <= now {
            actions.extend(process.ownership.poll(now));
        }
        process.next_poll = process.ownership.next_poll();
        // Sometimes there is no CPU between deciding and doing.
        if self.is_hostile && self.below(50) == 0 {
            let until = self.now + 1 + self.below(4_000) * self.below(2);
            if let Some(process) = &mut self.directors[number].process {
                process.undone = actions;
                process.stopped_until = Some(until);
            }
            return;
        }
        for action in actions {
            self.act(number, action);
        }
    }

    fn act(&mut self, number: usize, action: Action) {
        match action {
            Action::Fence { vip, until } => {
                let place = self.vips.iter().position(|known| *known == vip).expect("a known VIP");
                let director = &mut self.directors[number];
                let nanos = u64::try_from(until.since_boot().as_nanos()).unwrap_or(u64::MAX);
                director.fences[place] = nanos.saturating_sub(director.offset).div_ceil(director.rate);
            }
            Action::Send { to, beat } => {
                let from = self.directors[number].id.clone();
                if let Some(other) = self.directors.iter().position(|director| director.id == to) {
                    self.post(number, other, Event::Beat { from, beat });
                }
            }
            Action::Propose(next) => self.propose(number, next),
            Action::Report(report) => self.note(format!("{number}: {report:?}")),
            _ => {}
        }
    }

    /// In order, as TCP delivers; a loss is a delay of a retransmission.
    fn post(&mut self, from: usize, to: usize, what: Event) {
        let delay = if self.loses && self.below(50) == 0 { 200 + self.below(200) } else { 1 + self.below(20) };
        let ahead = self.wire.iter().filter(|parcel| (parcel.from, parcel.to) == (from, to)).map(|parcel| parcel.at);
        let at = ahead.max().unwrap_or_default().max(self.now + delay);
        self.wire.push(Parcel { at, from, to, what });
    }

    fn tell_vips(&mut self, number: usize) {
        let able = self.directors[number].able.clone();
        if let Some(process) = &mut self.directors[number].process {
            process.inbox.push(Event::Vips(able));
        }
    }

    fn tell_fitness(&mut self, number: usize) {
        let carrier = self.directors[number].carrier;
        if let Some(process) = &mut self.directors[number].process {
            process.inbox.push(Event::Fitness(Fitness { carrier, ..Fitness::FIT }));
        }
    }

    fn owners(&self, place: usize) -> usize {
        self.directors.iter().filter(|director| self.now < director.fences[place]).count()
    }

    fn local(&self, number: usize, at: Millis) -> Moment {
        let director = &self.directors[number];
        Moment::from_boot(Duration::from_nanos(director.offset + at * director.rate))
    }

    fn note(&mut self, what: String) {
        self.history.push(format!("{:>6} {what}", self.now));
    }

    pub fn trace(&self) -> String {
        let last = self.history.len().saturating_sub(40);
        format!(" at {} ms; SEED={} repeats it\n{}", self.now, self.seed, self.history[last..].join("\n"))
    }
}
