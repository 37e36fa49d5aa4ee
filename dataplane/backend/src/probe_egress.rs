//! On a director: marked packets of its own (`sluicegate_dsr::layout::mark`) go to one real server, on the way of forwarded
//! ones.
//!
//! A director does not have the VIP, so a probe needs a way out and a way back:
//!
//! - **Out:** the mark leads into a routing table of its own, whose default route is `lo`; the classifier at the egress of
//!   `lo` gives the frame its head and sends it out of the right interface. No neighbour of the VIP is asked for. The route
//!   names the director's own address as source, so probes do not have to bind one.
//! - **Back:** the real server answers from the VIP to the director's address. `rp_filter` of the interface must not be 1
//!   (strict): the way to the VIP may lead elsewhere.
//!
//! Where the machine has the VIP itself (director and real server at once), its local table comes first. It leads to the
//! egress of `lo` as well, but with the VIP for a source: probes have to bind the machine's other address. And answers come
//! from an address of its own, which IPv4 has to be told to take: [`let_answers_in`].

use crate::addresses::AddressError;
use crate::classifiers::{self, ClassifierMode};
use crate::programs::{self, ProgramError, Source};
use crate::sysctl::{self, SysctlError};
use aya::Ebpf;
use aya::programs::TcAttachType;
use futures_util::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteScope, RouteType};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{Handle, RouteMessageBuilder};
use sluicegate_dsr::Reason;
use sluicegate_dsr::layout::{MARK_BASE, MARK_MASK, map};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

/// `lo` has this index in every network namespace.
const LOOPBACK: u32 = 1;
const LO_EGRESS: (&str, TcAttachType) = ("lo", TcAttachType::Egress);

/// What does not change while it runs.
#[derive(Clone, Debug)]
pub struct ProbeEgressSettings {
    /// A folder of its own in a BPF file system.
    pub pins: PathBuf,
    /// Where the forwarder has pinned its table `BACKENDS`.
    pub backends: PathBuf,
    /// The director's addresses, of each family that VIPs have: sources of probes.
    pub sources: Vec<IpAddr>,
    /// Number of the routing table; nobody else may use it.
    pub table: u32,
    /// Priority of the rules; must come before that of the main table (32766).
    pub priority: u32,
    /// How the program is attached.
    pub classifiers: ClassifierMode,
}

/// Why probes cannot be sent the packets' way.
#[derive(Debug, thiserror::Error)]
pub enum ProbeEgressError {
    /// Programs or tables.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// Rules or routes.
    #[error(transparent)]
    Routing(#[from] AddressError),
    /// The forwarder has not pinned its table.
    #[error("the forwarder's table of backends is not pinned at {0}: start the forwarder first")]
    NoBackends(PathBuf),
}

/// The program on `lo`, and the routing that leads to it.
pub struct ProbeEgress {
    object: Ebpf,
}

impl ProbeEgress {
    /// Loads and attaches the program, or takes over the one that is there, and makes rules and routes. Needs a tokio
    /// runtime. Dropping it leaves everything as it is: [`ProbeEgress::detach`] takes it away.
    ///
    /// # Errors
    /// Missing rights, no BPF file system, no pinned table of backends.
    pub async fn start(settings: &ProbeEgressSettings) -> Result<Self, ProbeEgressError> {
        if !programs::is_pinned_map(&settings.backends) {
            return Err(ProbeEgressError::NoBackends(settings.backends.clone()));
        }
        let elsewhere = [(sluicegate_l4::layout::map::BACKENDS, settings.backends.clone())];
        let source = Source {
            object: sluicegate_xdp::EGRESS,
            what: "probe program",
            maps: &[map::PROBE_REASONS],
            elsewhere: &elsewhere,
            entries: &[],
            together: &[],
        };
        let mut object = source.load_anew(&settings.pins)?;
        let pin = settings.pins.join("probe-lo");
        classifiers::attach(&mut object, "probe", LO_EGRESS, settings.classifiers, &pin)?;
        let routing = Routing::open(settings)?;
        routing.remove_rules().await?;
        for source in &settings.sources {
            routing.add(*source).await?;
        }
        routing.close();
        Ok(Self { object })
    }

    /// Probes by what became of them; those that are 0 are left out.
    ///
    /// # Errors
    /// Where the table cannot be read.
    pub fn counters(&self) -> Result<Vec<(Reason, u64)>, ProbeEgressError> {
        Ok(programs::counters(&self.object, map::PROBE_REASONS)?)
    }

    /// Takes away what [`ProbeEgress::start`] made, also that of a gone process.
    ///
    /// # Errors
    /// Where pins or rules cannot be removed.
    pub async fn detach(settings: &ProbeEgressSettings) -> Result<(), ProbeEgressError> {
        let routing = Routing::open(settings)?;
        routing.remove_rules().await?;
        routing.remove_routes().await?;
        routing.close();
        classifiers::detach("probe", "lo", TcAttachType::Egress, &settings.pins.join("probe-lo"))?;
        programs::unpin(&settings.pins.join(map::PROBE_REASONS))?;
        match std::fs::remove_dir(&settings.pins) {
            Err(why) if why.kind() != std::io::ErrorKind::NotFound => {
                Err(ProgramError::Pin { path: settings.pins.clone(), reason: why.to_string() }.into())
            }
            _ => Ok(()),
        }
    }
}

/// Has an interface take IPv4 packets from addresses that this machine has itself (`accept_local`): answers of other
/// machines with the same VIP. True if it did not. It stays so.
///
/// # Errors
/// Where the setting cannot be written.
pub fn let_answers_in(interface: &str) -> Result<bool, SysctlError> {
    // The kernel takes what either of the two allows.
    if sysctl::read("net/ipv4/conf/all/accept_local") == Some(1) {
        return Ok(false);
    }
    sysctl::write(&format!("net/ipv4/conf/{interface}/accept_local"), 1)
}

struct Routing {
    handle: Handle,
    connection: tokio::task::JoinHandle<()>,
    table: u32,
    priority: u32,
}

impl Routing {
    fn open(settings: &ProbeEgressSettings) -> Result<Self, AddressError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(AddressError::Open)?;
        let connection = tokio::spawn(connection);
        Ok(Self { handle, connection, table: settings.table, priority: settings.priority })
    }

    fn close(self) {
        self.connection.abort();
    }

    /// The default route of the table first, then the rule that leads to it.
    async fn add(&self, source: IpAddr) -> Result<(), AddressError> {
        let request = self.handle.route().add(self.default_route(source)).replace();
        request.execute().await.map_err(refused("make the route of probes"))?;
        let mut rule = self.handle.rule().add();
        let message = rule.message_mut();
        message.header.family = family(source.is_ipv4());
        message.header.action = RuleAction::ToTable;
        message.attributes.extend([
            RuleAttribute::FwMark(MARK_BASE),
            RuleAttribute::FwMask(MARK_MASK),
            RuleAttribute::Table(self.table),
            RuleAttribute::Priority(self.priority),
        ]);
        rule.execute().await.map_err(refused("make the rule of probes"))
    }

    /// IPv6 makes every route over `lo` a refusal but those of type local, which lead to the same egress.
    fn default_route(&self, source: IpAddr) -> RouteMessage {
        match source {
            IpAddr::V4(source) => RouteMessageBuilder::<Ipv4Addr>::new()
                .output_interface(LOOPBACK)
                .table_id(self.table)
                .scope(RouteScope::Link)
                .pref_source(source)
                .build(),
            IpAddr::V6(source) => RouteMessageBuilder::<Ipv6Addr>::new()
                .output_interface(LOOPBACK)
                .table_id(self.table)
                .kind(RouteType::Local)
                .pref_source(source)
                .build(),
        }
    }

    async fn remove_rules(&self) -> Result<(), AddressError> {
        for version in [rtnetlink::IpVersion::V4, rtnetlink::IpVersion::V6] {
            let rules: Vec<RuleMessage> =
                self.handle.rule().get(version).execute().try_collect().await.map_err(refused("list rules"))?;
            for rule in rules.into_iter().filter(|rule| is_of_probes(rule, self.table)) {
                self.handle.rule().del(rule).execute().await.map_err(refused("remove the rule of probes"))?;
            }
        }
        Ok(())
    }

    async fn remove_routes(&self) -> Result<(), AddressError> {
        let four = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let six = RouteMessageBuilder::<Ipv6Addr>::new().build();
        for asked in [four, six] {
            let routes: Vec<RouteMessage> =
                self.handle.route().get(asked).execute().try_collect().await.map_err(refused("list routes"))?;
            for route in routes {
                if route.attributes.contains(&RouteAttribute::Table(self.table)) {
                    self.handle.route().del(route).execute().await.map_err(refused("remove the route of probes"))?;
                }
            }
        }
        Ok(())
    }
}

fn is_of_probes(rule: &RuleMessage, table: u32) -> bool {
    let has = |attribute| rule.attributes.contains(&attribute);
    has(RuleAttribute::FwMark(MARK_BASE)) && has(RuleAttribute::FwMask(MARK_MASK)) && has(RuleAttribute::Table(table))
}

fn family(is_ipv4: bool) -> AddressFamily {
    if is_ipv4 { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn refused(what: &'static str) -> impl FnOnce(rtnetlink::Error) -> AddressError {
    move |source| AddressError::Refused { what: what.to_owned(), source: Box::new(source) }
}
