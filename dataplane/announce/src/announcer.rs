//! The shell: one thread that feeds the state machine and does what it says.

use crate::fitness::{Fitness, Unfit};
use crate::frame::Mac;
use crate::heartbeat::Beat;
use crate::lease::Timing;
use crate::membership::{Membership, Standing};
use crate::moment::Moment;
use crate::owner::{
    Action, Event, MembershipView, OnIsolation, Ownership, OwnershipSettings, PeerView, Report, SettingsError, VipView,
};
use crate::peers::{Addresses, LinkId, News, Terms};
use crate::raw::{Port, PortError, PortListener, PortSender};
use crate::rendezvous::{DirectorId, Incarnation};
use crate::session::Secret;
use crate::tie_break::Deciding;
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// Why a fence could not be written.
pub type FenceError = Box<dyn Error + Send + Sync>;

/// Where fences are kept: the table that the packet path looks into before it answers ARP and NDP.
pub trait FenceSink: Send + 'static {
    /// ARP and NDP are answered for the VIP until then; a moment that is not in the future ends it. When this returns, it is
    /// so.
    ///
    /// The process may be stopped anywhere. Where the table counts jiffies, read them *before* [`Moment::now`], add
    /// `until - Moment::now()` and round down: a stop in between then makes the deadline earlier, never later.
    ///
    /// # Errors
    /// If the table cannot be written. It is tried again with the next push.
    fn set_fence(&mut self, vip: IpAddr, until: Moment) -> Result<(), FenceError>;
}

/// Who takes part, and where.
#[derive(Clone, Debug)]
pub struct AnnounceSettings {
    /// The name of this director.
    pub me: DirectorId,
    /// The others, each with its addresses: one per path, the VIP network first. Without peers this director owns everything.
    pub peers: BTreeMap<DirectorId, Vec<SocketAddr>>,
    /// Directors come from the record of a cluster instead.
    pub joins: Option<Joins>,
    /// Where this director listens for others; only needed where there are peers.
    pub listen: Vec<SocketAddr>,
    /// What all directors know and nobody else.
    pub secret: Secret,
    /// The interfaces of the VIP network. The first one's MAC address tells this director from strangers.
    pub ports: Vec<Port>,
    /// The times of the protocol, equal on all directors.
    pub timing: Timing,
    /// VIPs go back to the director that should hold them.
    pub failback: bool,
    /// What two directors do that do not hear each other.
    pub on_isolation: OnIsolation,
}

/// How a director takes part where a cluster says who the directors are.
#[derive(Clone)]
pub struct Joins {
    /// Where the others find this one. Without any it is alone, or stays outside.
    pub addresses: Vec<SocketAddr>,
    /// Takes what is to be written as the next record ([`Action::Propose`]). It must not block.
    pub propose: Arc<dyn Fn(Membership) + Send + Sync>,
}

impl fmt::Debug for Joins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Joins").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// Why nothing is announced.
#[derive(Debug, Error)]
pub enum StartError {
    /// The settings contradict themselves.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The address for other directors is not to be had.
    #[error("listening for directors on {address}: {source}; give an address of this machine and a free port")]
    Listen {
        /// Which one.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// An interface is not to be had.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The system refuses a thread, a timer or randomness.
    #[error("starting the announcer: {0}")]
    System(io::Error),
}

/// What an operator sees.
#[derive(Clone, Debug)]
pub struct Status {
    /// This director.
    pub me: DirectorId,
    /// Why it may hold nothing, where that is so.
    pub fitness: Result<(), Unfit>,
    /// Who has the deciding vote, where there are two directors.
    pub deciding: Option<Deciding>,
    /// All VIPs.
    pub vips: Vec<VipView>,
    /// All peers.
    pub peers: Vec<PeerView>,
    /// The cluster's directors, where they come from its record and it was read.
    pub membership: Option<MembershipView>,
    /// How often this director became the owner of a VIP.
    pub take_overs: u64,
    /// How often it ceased to be.
    pub losses: u64,
    /// How many stations said that they have a VIP that is not theirs, each counted once for each VIP while it goes on.
    pub conflicts: u64,
    /// How often a fence could not be written.
    pub fence_failures: u64,
}

/// Announces VIPs until it is dropped. Dropping it is a visible death: [`Announcer::release`] first hands over.
pub struct Announcer {
    commands: Option<mpsc::Sender<Command>>,
    status: Arc<Mutex<Status>>,
    listening: Vec<SocketAddr>,
    incarnation: Incarnation,
    thread: Option<JoinHandle<()>>,
}

enum Command {
    Event(Event),
    Ports(Vec<Port>),
    Release(std::sync::mpsc::Sender<()>),
}

/// Commands that wait; who sends more waits as well.
const QUEUE: usize = 64;

impl Announcer {
    /// Starts the thread. It owns nothing before [`Announcer::set_vips`] and [`Announcer::set_fitness`].
    ///
    /// # Errors
    /// If the settings contradict themselves, or a socket or thread is not to be had.
    pub fn start(settings: AnnounceSettings, sink: impl FenceSink) -> Result<Self, StartError> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::System)?;
        let (commands, inbox) = mpsc::channel(QUEUE);
        let (announcing, listeners) = runtime.block_on(async { Loop::new(settings, Box::new(sink)) })?;
        let listening = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
        let status = announcing.status.clone();
        let incarnation = announcing.terms.incarnation;
        let run = move || runtime.block_on(announcing.run(listeners, inbox));
        let thread = thread::Builder::new().name("announce".to_owned()).spawn(run).map_err(StartError::System)?;
        Ok(Self { commands: Some(commands), status, listening, incarnation, thread: Some(thread) })
    }

    /// Where it listens for other directors.
    #[must_use]
    pub fn listening(&self) -> &[SocketAddr] {
        &self.listening
    }

    /// This life of this director.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// The record of the cluster's directors, as [`Event::Record`] has it. Not to be called from an asynchronous task.
    pub fn set_record(&self, record: Option<Membership>) {
        self.command(Command::Event(Event::Record(record)));
    }

    /// The Leases of the cluster's directors, as [`Event::Leases`] has them. Not to be called from an asynchronous task.
    pub fn set_leases(&self, leases: BTreeMap<DirectorId, Standing>) {
        self.command(Command::Event(Event::Leases(leases)));
    }

    /// The VIPs to own, each with whether it can be served: a real server answers, or it is bound to nothing. Others are given up.
    /// Not to be called from an asynchronous task.
    pub fn set_vips(&self, vips: BTreeMap<IpAddr, bool>) {
        self.command(Command::Event(Event::Vips(vips)));
    }

    /// The health of this director. Not to be called from an asynchronous task.
    pub fn set_fitness(&self, fitness: Fitness) {
        self.command(Command::Event(Event::Fitness(fitness)));
    }

    /// The interfaces. Those that were among them before stay as they are; one that cannot be opened is logged, and tried
    /// again when it is named again. Not to be called from an asynchronous task.
    pub fn set_ports(&self, ports: Vec<Port>) {
        self.command(Command::Ports(ports));
    }

    /// Gives all VIPs up for good: fences end, then the peers hear of it. True once every peer that is there has heard, false
    /// if that took too long; then they wait for the fence or the lease as after a death. Not to be called from an
    /// asynchronous task.
    pub fn release(&self, patience: Duration) -> bool {
        let (done, is_done) = std::sync::mpsc::channel();
        self.command(Command::Release(done));
        is_done.recv_timeout(patience).is_ok()
    }

    /// The state a heartbeat ago at most.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn command(&self, command: Command) {
        if let Some(commands) = &self.commands {
            // Only a thread that has died does not listen, and it has said why.
            let _ = commands.blocking_send(command);
        }
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the thread owns.
struct Loop {
    ownership: Ownership,
    sink: Box<dyn FenceSink>,
    timing: Timing,
    terms: Terms,
    peers: watch::Sender<Addresses>,
    joins: Option<Joins>,
    news: mpsc::Receiver<News>,
    links: BTreeMap<LinkId, Link>,
    ports: Vec<OpenPort>,
    /// Ports that could not be opened, which was said.
    refused: Vec<Port>,
    claim_sender: mpsc::Sender<(IpAddr, Mac)>,
    claims: mpsc::Receiver<(IpAddr, Mac)>,
    /// The VIPs whose groups are joined.
    members: BTreeSet<IpAddr>,
    /// A fence that should have ended may not have: peers must not hear that it did before it runs out.
    mute_until: Moment,
    releasing: Vec<std::sync::mpsc::Sender<()>>,
    status: Arc<Mutex<Status>>,
}

/// An interface on which VIPs are announced and claims of others heard.
struct OpenPort {
    sender: PortSender,
    listening: tokio::task::JoinHandle<()>,
}

impl Drop for OpenPort {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// A connection to a peer.
struct Link {
    peer: DirectorId,
    incarnation: Incarnation,
    writer: mpsc::Sender<Beat>,
    /// When it was made or last heard.
    fresh: Moment,
    was_heard: bool,
    is_broken: bool,
}

impl Loop {
    fn new(settings: AnnounceSettings, sink: Box<dyn FenceSink>) -> Result<(Self, Vec<TcpListener>), StartError> {
        let mut life = [0; 8];
        aws_lc_rs::rand::fill(&mut life).map_err(|_| StartError::System(io::Error::other("no randomness")))?;
        let incarnation = Incarnation(u64::from_be_bytes(life));
        let ownership = OwnershipSettings {
            me: settings.me.clone(),
            peers: settings.peers.keys().cloned().collect(),
            joins: settings.joins.as_ref().map(|joins| joins.addresses.clone()),
            mac: settings.ports.first().map(|port| port.mac).unwrap_or_default(),
            timing: settings.timing,
            failback: settings.failback,
            on_isolation: settings.on_isolation,
        };
        let ownership = Ownership::new(ownership, incarnation, Moment::now())?;
        let listeners = settings.listen.iter().map(|address| listen(*address)).collect::<Result<_, _>>()?;
        let (tell, news) = mpsc::channel(QUEUE);
        let (claim_sender, claims) = mpsc::channel(QUEUE);
        let status = Status {
            me: settings.me.clone(),
            fitness: ownership.fitness(),
            deciding: None,
            vips: Vec::new(),
            peers: Vec::new(),
            membership: None,
            take_overs: 0,
            losses: 0,
            conflicts: 0,
            fence_failures: 0,
        };
        let (peers, known) = watch::channel(settings.peers);
        let terms = Terms::new(settings.me, incarnation, settings.secret, settings.timing.lease, known, tell);
        let mut announcing = Self {
            ownership,
            sink,
            timing: settings.timing,
            terms,
            peers,
            joins: settings.joins,
            news,
            links: BTreeMap::new(),
            ports: Vec::new(),
            refused: Vec::new(),
            claim_sender,
            claims,
            members: BTreeSet::new(),
            mute_until: Moment::default(),
            releasing: Vec::new(),
            status: Arc::new(Mutex::new(status)),
        };
        for port in settings.ports {
            announcing.open(port)?;
        }
        Ok((announcing, listeners))
    }

    async fn run(mut self, listeners: Vec<TcpListener>, mut commands: mpsc::Receiver<Command>) {
        let mut connecting = JoinSet::new();
        connecting.spawn(self.terms.clone().keep_connected(listeners));
        loop {
            self.act();
            let wait = self.ownership.next_poll() - Moment::now();
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                Some(news) = self.news.recv() => self.learn(news),
                Some((vip, mac)) = self.claims.recv() => self.ownership.handle(Event::Claimed { vip, mac }, Moment::now()),
                () = tokio::time::sleep(wait) => {}
            }
            // What waits already is taken in before anything is decided: after a stop the news of peers come first.
            while let Ok(news) = self.news.try_recv() {
                self.learn(news);
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Event(event) => self.ownership.handle(event, Moment::now()),
            Command::Release(done) => {
                self.ownership.handle(Event::Release, Moment::now());
                self.releasing.push(done);
            }
            Command::Ports(ports) => self.set_ports(&ports),
        }
    }

    /// Leaves open what stays: the kernel takes tens of milliseconds to close a packet socket, heartbeats wait for that,
    /// and whoever joins a group again has every switch told.
    fn set_ports(&mut self, ports: &[Port]) {
        self.ports.retain(|open| ports.contains(&open.sender.port()));
        self.refused.retain(|refused| ports.contains(refused));
        for port in ports {
            if self.ports.iter().any(|open| open.sender.port() == *port) {
                continue;
            }
            match self.open(*port) {
                Ok(()) => self.refused.retain(|refused| refused != port),
                Err(_) if self.refused.contains(port) => {}
                Err(why) => {
                    tracing::error!(%why, "VIPs are not announced on an interface");
                    self.refused.push(*port);
                }
            }
        }
    }

    fn learn(&mut self, news: News) {
        let now = Moment::now();
        match news {
            // It may have been under way when its peer was left out.
            News::Up { peer, .. } if !self.peers.borrow().contains_key(&peer) => {}
            News::Up { link, peer, incarnation, writer } => {
                let made = Link { peer, incarnation, writer, fresh: now, was_heard: false, is_broken: false };
                self.links.insert(link, made);
            }
            News::Beat { link, beat } => {
                let Some(known) = self.links.get_mut(&link) else { return };
                known.fresh = now;
                known.was_heard = true;
                let from = known.peer.clone();
                let stays = |id: &LinkId, other: &mut Link| {
                    let is_older = *id < link && other.peer == from;
                    !(is_older && (other.is_broken || other.incarnation != beat.incarnation))
                };
                self.links.retain(stays);
                self.ownership.handle(Event::Beat { from, beat }, now);
            }
            News::Ended { link } => {
                let Some(ended) = self.links.remove(&link) else { return };
                let is_fresh = |link: &Link| now - link.fresh < self.timing.lease;
                let is_same = |link: &&Link| link.peer == ended.peer && link.incarnation == ended.incarnation;
                let speaks_elsewhere = self.links.values().filter(is_same).any(is_fresh);
                if ended.was_heard && is_fresh(&ended) && !speaks_elsewhere {
                    let gone = Event::Gone { peer: ended.peer, incarnation: ended.incarnation };
                    self.ownership.handle(gone, now);
                }
            }
            News::Failed { link } => drop(self.links.remove(&link)),
            News::Broken { link } => {
                if let Some(link) = self.links.get_mut(&link) {
                    link.is_broken = true;
                }
            }
        }
    }

    fn act(&mut self) {
        let now = Moment::now();
        for action in self.ownership.poll(now) {
            match action {
                Action::Fence { vip, until } => self.fence(vip, until, now),
                Action::Send { to, beat } => self.send(&to, &beat, now),
                Action::Announce(vip) => self.on_ports(|port| port.announce(vip)),
                Action::Probe(vip) => self.on_ports(|port| port.probe(vip)),
                Action::JoinMulticast(vip) => {
                    self.members.insert(vip);
                    self.on_ports(|port| port.join(vip));
                }
                Action::LeaveMulticast(vip) => {
                    self.members.remove(&vip);
                    self.on_ports(|port| port.leave(vip));
                }
                Action::Connect(peers) => {
                    self.links.retain(|_, link| peers.contains_key(&link.peer));
                    self.peers.send_replace(peers);
                }
                Action::Propose(next) => {
                    if let Some(joins) = &self.joins {
                        (joins.propose)(next);
                    }
                }
                Action::Report(report) => self.report(&report),
            }
        }
        if self.ownership.is_handed_over() {
            for done in self.releasing.drain(..) {
                // Who asked may have lost patience.
                let _ = done.send(());
            }
        }
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.fitness = self.ownership.fitness();
        status.deciding = self.ownership.deciding();
        status.vips = self.ownership.vips(now);
        status.peers = self.ownership.peers(now);
        status.membership = self.ownership.membership_view();
    }

    fn fence(&mut self, vip: IpAddr, until: Moment, now: Moment) {
        let Err(why) = self.sink.set_fence(vip, until) else { return };
        tracing::error!(%vip, %why, "the fence of a VIP cannot be written");
        self.count(|status| &mut status.fence_failures);
        if until <= now {
            self.mute_until = now + self.timing.fenced();
        }
    }

    fn send(&self, to: &DirectorId, beat: &Beat, now: Moment) {
        if now < self.mute_until {
            return;
        }
        for link in self.links.values().filter(|link| link.peer == *to && !link.is_broken) {
            // A connection that is full has not moved for several heartbeats: another one more helps nobody.
            let _ = link.writer.try_send(beat.clone());
        }
    }

    fn report(&self, report: &Report) {
        match report {
            Report::TookOver(vip) => {
                tracing::info!(%vip, "owns the VIP");
                self.count(|status| &mut status.take_overs);
            }
            Report::Lost { vip, because } => {
                let because = because
                    .map_or_else(|| "another director has it, or the votes ran out".to_owned(), |why| why.to_string());
                tracing::info!(%vip, because, "owns the VIP no more");
                self.count(|status| &mut status.losses);
            }
            Report::PeerHeard(peer) => tracing::info!(%peer, "hears a director"),
            Report::PeerGone(peer) => tracing::warn!(%peer, "the process of a director is gone"),
            Report::PeerSilent(peer) => tracing::warn!(%peer, "a director has fallen silent"),
            Report::Membership { number, members, is_in } => {
                let members = members.iter().map(DirectorId::as_str).collect::<Vec<_>>().join(", ");
                tracing::info!(number, members, is_in, "the cluster's directors are others");
            }
            Report::Conflict { vip, mac, by_director } => {
                let [a, b, c, d, e, f] = mac;
                let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
                tracing::error!(%vip, mac, by_director, "somebody else says that it has the VIP: find the station with this MAC address");
                self.count(|status| &mut status.conflicts);
            }
        }
    }

    fn count(&self, counter: impl Fn(&mut Status) -> &mut u64) {
        *counter(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner)) += 1;
    }

    fn on_ports(&mut self, act: impl Fn(&mut PortSender) -> io::Result<()>) {
        for OpenPort { sender, .. } in &mut self.ports {
            if let Err(why) = act(sender) {
                tracing::warn!(interface = sender.port().index, %why, "cannot tell the network about a VIP");
            }
        }
    }

    fn open(&mut self, port: Port) -> Result<(), PortError> {
        let mut sender = PortSender::open(port)?;
        let listener = PortListener::open(port)?;
        for vip in &self.members {
            if let Err(why) = sender.join(*vip) {
                tracing::warn!(interface = port.index, %vip, %why, "cannot join the group of a VIP");
            }
        }
        let claims = self.claim_sender.clone();
        let listening = tokio::spawn(async move {
            loop {
                match listener.claim().await {
                    // Claims come as fast as strangers send: what does not fit is left out.
                    Ok(claim) => drop(claims.try_send(claim)),
                    // The interface is down. It may come back.
                    Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
                }
            }
        });
        self.ports.push(OpenPort { sender, listening });
        Ok(())
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    let failed = |source| StartError::Listen { address, source };
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM.nonblocking(), None);
    let socket = socket.map_err(failed)?;
    // A director that is started again finds connections of its former life on this port.
    socket.set_reuse_address(true).map_err(failed)?;
    socket.bind(&address.into()).map_err(failed)?;
    socket.listen(128).map_err(failed)?;
    TcpListener::from_std(socket.into()).map_err(failed)
}
