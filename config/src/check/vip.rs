//! Virtual IPs: which Service gets which port, and which endpoints can be its real servers.

use super::{Checker, pods};
use crate::draft::{RealServerDraft, SourceKey, VipDraft, VipPortDraft, VipServiceDraft};
use crate::object::ObjectRef;
use crate::rejection::{Rejection, Verdict};
use crate::vip::{
    MAX_REAL_SERVERS, MAX_VIP_PORTS, Method, Readiness, RealServer, TransportProtocol, VipBinding, VipPort, VipService,
    unreachable,
};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;

/// The ports of a VIP that are given away, and to which Service.
type Taken = BTreeMap<(TransportProtocol, u16), Arc<str>>;

/// What is wrong, and the remedy.
pub(super) struct Problem {
    verdict: Verdict,
    reason: String,
    remedy: &'static str,
}

impl Problem {
    pub(super) fn new(reason: String, remedy: &'static str) -> Self {
        Self { verdict: Verdict::Rejected, reason, remedy }
    }

    pub(super) fn warning(reason: String, remedy: &'static str) -> Self {
        Self { verdict: Verdict::Warning, reason, remedy }
    }
}

impl Checker<'_> {
    /// `None` where every Service was rejected: announced alone, the address would draw traffic and drop it.
    pub(super) fn vip(&mut self, address: IpAddr, draft: VipDraft) -> Option<VipBinding> {
        if let Some(why) = unreachable(address) {
            let reason = format!("{address} cannot be a virtual IP: {why}");
            let problem = Problem::new(reason, "use a unicast address that clients can reach");
            self.vip_note(address, &draft.origin, &draft.field, problem);
            return None;
        }
        let mut taken = Taken::new();
        let mut services = Vec::with_capacity(draft.services.len());
        for service in draft.services {
            let ports = self.vip_ports(address, &service, &mut taken);
            if !ports.is_empty() || service.ports.is_empty() {
                let VipServiceDraft { namespace, service, method, into_pods, mut options, origin, field, .. } = service;
                if into_pods {
                    options.health = pods::askable(options.health, &ports).unwrap_or_else(|problem| {
                        self.vip_note(address, &origin, &field, problem);
                        None
                    });
                }
                services.push(VipService { namespace, service, method, into_pods, options, ports });
            }
        }
        let bound = draft.alone || !services.is_empty();
        bound.then_some(VipBinding { address, services, origin: draft.origin })
    }

    fn vip_ports(&mut self, address: IpAddr, service: &VipServiceDraft, taken: &mut Taken) -> Vec<VipPort> {
        let mut ports = Vec::with_capacity(service.ports.len());
        for draft in &service.ports {
            match self.vip_port(address, service, draft, taken) {
                Ok(port) => ports.push(port),
                Err(problem) => self.vip_note(address, &service.origin, &service.field, problem),
            }
        }
        ports.sort_unstable_by_key(|port| (port.protocol, port.port));
        ports
    }

    /// A port that cannot be served is not taken: the next Service that asks for it may have it.
    fn vip_port(
        &mut self,
        address: IpAddr,
        service: &VipServiceDraft,
        draft: &VipPortDraft,
        taken: &mut Taken,
    ) -> Result<VipPort, Problem> {
        match service.into_pods {
            true => pods::carried(draft)?,
            false => translatable(service.method, draft)?,
        }
        let number = taken.len();
        match taken.entry((draft.protocol, draft.port)) {
            Entry::Occupied(by) => Err(Problem::new(
                format!("{} of {address} is already bound to {}", label(draft), by.get()),
                "give the Services of one VIP ports that do not overlap",
            )),
            Entry::Vacant(_) if number >= MAX_VIP_PORTS => Err(Problem::new(
                format!("{} would be more than {MAX_VIP_PORTS} ports of {address}", label(draft)),
                "bind some of the Services to another VIP",
            )),
            Entry::Vacant(free) => {
                free.insert(format!("{}/{}", service.namespace, service.service).into());
                let (reals, problems) = real_servers(address, service, draft);
                for problem in problems {
                    self.vip_note(address, &service.origin, &service.field, problem);
                }
                Ok(VipPort { protocol: draft.protocol, port: draft.port, reals })
            }
        }
    }

    fn vip_note(&mut self, address: IpAddr, origin: &ObjectRef, field: &str, problem: Problem) {
        let rejection = Rejection {
            object: origin.clone(),
            field: field.to_owned(),
            verdict: problem.verdict,
            reason: problem.reason,
            remedy: problem.remedy.to_owned(),
        };
        self.note(SourceKey::Vip(address), rejection);
    }
}

pub(super) fn label(port: &VipPortDraft) -> String {
    format!("port {}/{}", port.port, port.protocol)
}

/// A real server that answers the client directly must see the port that the client sent to.
fn translatable(method: Option<Method>, port: &VipPortDraft) -> Result<(), Problem> {
    let fits = |target: u16| target == port.port;
    let wrong = match port.target {
        Some(target) => Some(target).filter(|target| !fits(*target)),
        None if port.reals.iter().any(|draft| fits(draft.port)) => None,
        None => port.reals.first().map(|draft| draft.port),
    };
    match wrong {
        None => Ok(()),
        Some(target) => Err(Problem::new(
            format!("{}, and {} has targetPort {target}", cannot_translate(method), label(port)),
            "make port and targetPort equal, or use POD where the endpoints are pods",
        )),
    }
}

fn cannot_translate(method: Option<Method>) -> String {
    match method {
        Some(method) => format!("method {method} cannot translate ports"),
        None => "direct server return cannot translate ports".to_owned(),
    }
}

/// Sorted, each address once; and what was left out.
fn real_servers(vip: IpAddr, service: &VipServiceDraft, port: &VipPortDraft) -> (Vec<RealServer>, Vec<Problem>) {
    let (mut reals, left_out, problem) = match service.into_pods {
        true => pods::nodes(vip, service.options.when_all_fail, port),
        false => {
            let (reals, left_out) = endpoints(vip, service.method, port);
            (reals, left_out, None)
        }
    };
    let mut problems = left_out.problems(port);
    problems.extend(problem);
    if reals.len() > MAX_REAL_SERVERS {
        problems.push(Problem::new(
            format!("{} has {} real servers: those after {MAX_REAL_SERVERS} are left out", label(port), reals.len()),
            "split the Service, or put a tier of gateways in front of it",
        ));
        reals.truncate(MAX_REAL_SERVERS);
    }
    reals.shrink_to_fit();
    (reals, problems)
}

/// Endpoints that take packets by themselves: all of one family, and what was left out.
///
/// Families may differ: a tunnel's outer header has its own, and on one link only the MAC address of the neighbour
/// matters. But a dual-stack Service lists each of its hosts in both, and a host must count once: those of the VIP's own
/// family stand for it, and where there are none, the others.
fn endpoints(vip: IpAddr, method: Option<Method>, port: &VipPortDraft) -> (Vec<RealServer>, LeftOut) {
    const REMEDY: &str = "let the Service select hosts that hold the VIP and listen on its port";
    let mut left_out = LeftOut::default();
    let mut reals: Vec<RealServer> = Vec::with_capacity(port.reals.len());
    for RealServerDraft { real, port: target, node: _ } in &port.reals {
        let address = real.address;
        if address == vip {
            left_out.add("it is the virtual IP itself".to_owned(), REMEDY, address);
        } else if let Some(why) = unreachable(address) {
            left_out.add(why.to_owned(), REMEDY, address);
        } else if *target != port.port {
            let why = format!("it listens on port {target}, and {}", cannot_translate(method));
            left_out.add(why, REMEDY, address);
        } else {
            reals.push(real.clone());
        }
    }
    let same_family = |real: &RealServer| real.address.is_ipv4() == vip.is_ipv4();
    if reals.iter().any(same_family) {
        reals.retain(same_family);
    }
    let mut reals = one_of_each(reals);
    if reals.iter().all(|real| real.readiness == Readiness::Draining) {
        // Kubernetes sends traffic to what still serves where nothing else is left (KEP-1669).
        reals.iter_mut().for_each(|real| real.readiness = Readiness::Ready);
    }
    (reals, left_out)
}

/// Two slices may name one address while it moves between them: it is ready if one of them says so.
fn one_of_each(mut reals: Vec<RealServer>) -> Vec<RealServer> {
    reals.sort_unstable_by(|a, b| (a.address, a.readiness, &b.node).cmp(&(b.address, b.readiness, &a.node)));
    reals.dedup_by(|later, kept| {
        let same = later.address == kept.address;
        if same && kept.node.is_none() {
            kept.node = later.node.take();
        }
        same
    });
    reals
}

/// Real servers that were left out, by the reason: the lowest address, and how many more.
#[derive(Default)]
pub(super) struct LeftOut(BTreeMap<(String, &'static str), (IpAddr, usize)>);

impl LeftOut {
    pub(super) fn add(&mut self, reason: String, remedy: &'static str, address: IpAddr) {
        let (lowest, count) = self.0.entry((reason, remedy)).or_insert((address, 0));
        *lowest = address.min(*lowest);
        *count += 1;
    }

    fn problems(self, port: &VipPortDraft) -> Vec<Problem> {
        let problem = |((reason, remedy), (address, count)): ((String, &'static str), (IpAddr, usize))| {
            let others = match count - 1 {
                0 => String::new(),
                1 => " (and 1 other)".to_owned(),
                others => format!(" (and {others} others)"),
            };
            Problem::new(format!("endpoint {address}{others} of {} is left out: {reason}", label(port)), remedy)
        };
        self.0.into_iter().map(problem).collect()
    }
}
