//! Annotations of a Service: how it is served on virtual IPs. A bad value leaves the default in force.

use crate::facts::service::ServicePort;
use crate::facts::virtual_service::{AskedMethod, Problem, VirtualService};
use sluicegate_config::vip::MAX_WEIGHT;
use sluicegate_config::{
    HealthCheck, HostName, Method, Persistence, PodTunnel, ProbeKind, Scheduler, TransportProtocol, Verdict,
    WhenAllFail,
};
use std::collections::btree_map::Entry;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

/// Longest persistence in seconds: a day, as the API has it for `sessionAffinity`.
pub(crate) const LONGEST_PERSISTENCE: u64 = 86_400;

const INTERVALS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(60);

/// The path of an annotation in its object.
pub(crate) fn field(key: &str) -> String {
    format!("metadata.annotations[\"{key}\"]")
}

/// Bad entries of one list that are named; of the others only the number is said.
pub(crate) const NAMED_ENTRIES: usize = 8;

/// Reads annotations in the order of their keys, and then what they say together.
pub(crate) struct Reader<'a> {
    /// The Service has ports of TCP, so that it is probed by default.
    tcp: bool,
    /// It has ports of UDP.
    udp: bool,
    into: &'a mut VirtualService,
    probe: Probe,
}

/// What the annotations `sluicegate.io/health-*` say; they mean something together alone.
#[derive(Default)]
struct Probe {
    kind: Option<Option<ProbeKind>>,
    interval: Option<Duration>,
    timeout: Option<Duration>,
    rise: Option<u8>,
    fall: Option<u8>,
    port: Option<u16>,
    host: Option<Arc<str>>,
    /// The keys that were there, without the kind.
    details: Vec<String>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(ports: &[ServicePort], into: &'a mut VirtualService) -> Self {
        let has = |protocol| ports.iter().any(|port| port.protocol == protocol);
        let (tcp, udp) = (has(TransportProtocol::Tcp), has(TransportProtocol::Udp));
        Self { tcp, udp, into, probe: Probe::default() }
    }

    /// One annotation; the key with its prefix.
    pub(crate) fn annotation(&mut self, key: &str, value: &str) {
        let short = key.split_once('/').map_or(key, |(_, short)| short);
        match short {
            "scheduler" => match value.parse::<Scheduler>() {
                Ok(scheduler) => self.into.options.scheduler = scheduler,
                Err(_) => self.refuse(key, value, "use mh, rr, wrr, sh, dh, lc or wlc"),
            },
            "persistence" => match persistence(value) {
                Ok(persistence) => self.into.options.persistence = persistence,
                Err(remedy) => self.refuse(key, value, remedy),
            },
            "one-packet" => {
                self.into.options.one_packet = self.boolean(key, value);
                if self.into.options.one_packet && !self.udp {
                    let reason = format!("annotation {key} has no effect on a Service without a port of UDP");
                    self.say(key, Verdict::Ignored, reason, "remove the annotation");
                }
            }
            "fragments" => self.into.options.fragments = self.boolean(key, value),
            "second-chance" => self.into.options.second_chance = self.boolean(key, value),
            "when-all-fail" => match value {
                "fail-open" => self.into.options.when_all_fail = WhenAllFail::FailOpen,
                "refuse" => self.into.options.when_all_fail = WhenAllFail::Refuse,
                _ => self.refuse(key, value, "use fail-open or refuse"),
            },
            "method" => self.method(key, value),
            "pod-tunnel" => match value {
                "gue" => self.into.options.pod_tunnel = PodTunnel::Gue,
                "ipip" => self.into.options.pod_tunnel = PodTunnel::Ipip,
                _ => self.refuse(key, value, "use gue or ipip"),
            },
            "weights" => self.weights(key, value),
            _ if short.starts_with("health-") => self.health(key, short, value),
            _ => self.say(
                key,
                Verdict::Ignored,
                format!("annotation {key} is not known on a Service"),
                "check the spelling or remove the annotation",
            ),
        }
    }

    /// What the annotations say together.
    pub(crate) fn finish(mut self) {
        let probe = std::mem::take(&mut self.probe);
        let asked = probe.kind.unwrap_or_else(|| self.tcp.then_some(ProbeKind::Tcp));
        let Some(mut kind) = asked else {
            self.into.options.health = None;
            for key in probe.details {
                self.say(
                    &key,
                    Verdict::Ignored,
                    format!("annotation {key} has no effect without a health check"),
                    "set sluicegate.io/health-check, or remove the annotation",
                );
            }
            return;
        };
        if let Some(wanted) = probe.host {
            match &mut kind {
                ProbeKind::Http { host, .. } => *host = Some(wanted),
                _ => self.say(
                    "sluicegate.io/health-host",
                    Verdict::Ignored,
                    "annotation sluicegate.io/health-host has no effect on this kind of check".to_owned(),
                    "set sluicegate.io/health-check to http:/PATH or https:/PATH",
                ),
            }
        }
        let serves = match kind {
            ProbeKind::Icmp => true,
            ProbeKind::Udp => self.udp,
            ProbeKind::Tcp | ProbeKind::Http { .. } | ProbeKind::Grpc { .. } => self.tcp,
        };
        if !serves && probe.port.is_none() {
            self.say(
                "sluicegate.io/health-check",
                Verdict::Rejected,
                format!("annotation sluicegate.io/health-check: the Service has no port that {kind} could probe"),
                "name one in sluicegate.io/health-port, or use another kind of check",
            );
            self.into.options.health = None;
            return;
        }
        let default = HealthCheck::default();
        let interval = probe.interval.unwrap_or(default.interval);
        let mut timeout = probe.timeout.unwrap_or(default.timeout.min(interval));
        if timeout > interval {
            let reason =
                "annotation sluicegate.io/health-timeout is longer than the interval, which is in force instead";
            self.say(
                "sluicegate.io/health-timeout",
                Verdict::Rejected,
                reason.to_owned(),
                "make it at most as long as sluicegate.io/health-interval",
            );
            timeout = interval;
        }
        self.into.options.health = Some(HealthCheck {
            kind,
            port: probe.port,
            interval,
            timeout,
            rise: probe.rise.unwrap_or(default.rise),
            fall: probe.fall.unwrap_or(default.fall),
        });
    }

    fn method(&mut self, key: &str, value: &str) {
        self.into.method = match method(value) {
            Ok(Some(method)) => AskedMethod::Says(method),
            Ok(None) => AskedMethod::Unsaid,
            Err(Wrong { reason, remedy }) => {
                self.say(key, Verdict::Rejected, format!("annotation {key}: {reason}"), remedy);
                AskedMethod::Refused
            }
        };
    }

    fn weights(&mut self, key: &str, value: &str) {
        let remedy = "write weights from 0 to 65535, as in 192.0.2.1=3,192.0.2.2=1";
        let mut bad = 0;
        for entry in value.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let parsed = entry.split_once('=').and_then(|(address, weight)| {
                let address = address.trim().parse::<IpAddr>().ok()?;
                let weight = number(weight.trim()).filter(|weight| *weight <= MAX_WEIGHT)?;
                Some((address, weight))
            });
            let reason = match parsed.map(|(address, weight)| (self.into.weights.entry(address), weight)) {
                Some((Entry::Vacant(free), weight)) => {
                    free.insert(weight);
                    continue;
                }
                Some((Entry::Occupied(first), _)) => {
                    format!("annotation {key} has a second weight for {}, which is not used", first.key())
                }
                None => format!("annotation {key} has the entry {:?}, which is not ADDRESS=WEIGHT", brief(entry)),
            };
            bad += 1;
            if bad <= NAMED_ENTRIES {
                self.say(key, Verdict::Rejected, reason, remedy);
            }
        }
        if bad > NAMED_ENTRIES {
            let reason = format!("annotation {key} has {} more entries that are not used", bad - NAMED_ENTRIES);
            self.say(key, Verdict::Rejected, reason, remedy);
        }
    }

    fn health(&mut self, key: &str, short: &str, value: &str) {
        if short != "health-check" {
            self.probe.details.push(key.to_owned());
        }
        match short {
            "health-check" => match probe_kind(value) {
                Some(kind) => self.probe.kind = Some(kind),
                None => {
                    self.refuse(key, value, "use off, tcp, http:/PATH, https:/PATH, grpc, grpc:SERVICE, udp or icmp")
                }
            },
            "health-interval" => {
                self.probe.interval = self.period(key, value, &INTERVALS, "write 100ms to 1h, as in 5s")
            }
            "health-timeout" => self.probe.timeout = self.period(key, value, &TIMEOUTS, "write 10ms to 60s, as in 3s"),
            "health-rise" => self.probe.rise = self.count(key, value),
            "health-fall" => self.probe.fall = self.count(key, value),
            "health-port" => match number(value).and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0) {
                Some(port) => self.probe.port = Some(port),
                None => self.refuse(key, value, "write a port from 1 to 65535"),
            },
            "health-host" => match HostName::parse(value) {
                Ok(host) => self.probe.host = Some(host.as_str().into()),
                Err(_) => self.refuse(key, value, "write a host name"),
            },
            _ => {
                self.probe.details.pop();
                self.say(
                    key,
                    Verdict::Ignored,
                    format!("annotation {key} is not known on a Service"),
                    "check the spelling or remove the annotation",
                );
            }
        }
    }

    fn period(
        &mut self,
        key: &str,
        value: &str,
        range: &RangeInclusive<Duration>,
        remedy: &'static str,
    ) -> Option<Duration> {
        let period = duration(value).filter(|period| range.contains(period));
        if period.is_none() {
            self.refuse(key, value, remedy);
        }
        period
    }

    fn count(&mut self, key: &str, value: &str) -> Option<u8> {
        let count = number(value).and_then(|count| u8::try_from(count).ok()).filter(|count| *count != 0);
        if count.is_none() {
            self.refuse(key, value, "write a number from 1 to 255");
        }
        count
    }

    fn boolean(&mut self, key: &str, value: &str) -> bool {
        match value {
            "true" => return true,
            "false" | "" => {}
            _ => self.refuse(key, value, "write \"true\" or \"false\""),
        }
        false
    }

    fn refuse(&mut self, key: &str, value: &str, remedy: &str) {
        let reason = format!(
            "annotation {key} has the value {:?}, which is not one of its values; the default is in force",
            brief(value)
        );
        self.say(key, Verdict::Rejected, reason, remedy);
    }

    fn say(&mut self, key: &str, verdict: Verdict, reason: String, remedy: &str) {
        self.into.say(Problem { field: field(key), verdict, reason, remedy: remedy.to_owned() });
    }
}

/// What is wrong with a text, and the remedy.
pub(crate) struct Wrong {
    pub(crate) reason: String,
    pub(crate) remedy: &'static str,
}

/// A method as the ConfigMap and the annotation write it; `None` = empty.
pub(crate) fn method(text: &str) -> Result<Option<Method>, Wrong> {
    let not_there = |method: &str, remedy| {
        Err(Wrong { reason: format!("method {method} is not implemented, and no other is put in its place"), remedy })
    };
    match text.to_ascii_uppercase().as_str() {
        "" => Ok(None),
        "DR" | "L2" => Ok(Some(Method::L2)),
        "TUNNEL" | "IPIP" => Ok(Some(Method::Tunnel)),
        "GUE" => Ok(Some(Method::Gue)),
        "POD" => Ok(Some(Method::Pod)),
        method @ ("NAT" | "PROXY") => {
            not_there(method, "use POD into pods, or DR, TUNNEL or GUE to real servers that hold the VIP themselves")
        }
        _ => Err(Wrong { reason: format!("{:?} is not a method", brief(text)), remedy: "use POD, DR, TUNNEL or GUE" }),
    }
}

/// `300s`, optionally with the bits of an IPv4 and of an IPv6 address that make one client: `300s,/24,/64`; `off`.
fn persistence(value: &str) -> Result<Option<Persistence>, &'static str> {
    const FORM: &str = "write 1s to 24h, optionally followed by the prefixes that make one client, as in 300s,/24,/64";
    if value == "off" {
        return Ok(None);
    }
    let mut parts = value.split(',').map(str::trim);
    let longest = Duration::from_secs(LONGEST_PERSISTENCE);
    let timeout = parts.next().and_then(duration).filter(|time| (Duration::from_secs(1)..=longest).contains(time));
    let mut prefix = |bits: u8| match parts.next() {
        None => Some(bits),
        Some(text) => number(text.strip_prefix('/')?).and_then(|n| u8::try_from(n).ok()).filter(|n| *n <= bits),
    };
    match (timeout, prefix(32), prefix(128)) {
        (Some(timeout), Some(prefix4), Some(prefix6)) if parts.next().is_none() => {
            Ok(Some(Persistence { timeout, prefix4, prefix6 }))
        }
        _ => Err(FORM),
    }
}

/// `Some(None)` = no check at all.
fn probe_kind(value: &str) -> Option<Option<ProbeKind>> {
    let (name, rest) = match value.split_once(':') {
        Some((name, rest)) => (name, Some(rest)),
        None => (value, None),
    };
    let http = |tls| {
        let path = rest.filter(|path| is_path(path))?;
        Some(ProbeKind::Http { path: path.into(), host: None, tls })
    };
    let kind = match (name, rest) {
        ("off", None) => return Some(None),
        ("tcp", None) => ProbeKind::Tcp,
        ("udp", None) => ProbeKind::Udp,
        ("icmp", None) => ProbeKind::Icmp,
        ("http", _) => http(false)?,
        ("https", _) => http(true)?,
        ("grpc", None) => ProbeKind::Grpc { service: "".into() },
        ("grpc", Some(service)) if is_grpc_service(service) => ProbeKind::Grpc { service: service.into() },
        _ => return None,
    };
    Some(Some(kind))
}

/// Origin form (RFC 9112 section 3.2.1), of the characters that need no care in a request line.
fn is_path(path: &str) -> bool {
    path.starts_with('/') && path.len() <= 1024 && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#')
}

/// A full name of protocol buffers.
fn is_grpc_service(name: &str) -> bool {
    name.len() <= 255 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte))
}

/// `500ms`, `5s`, `2m`, `1h`, or seconds without a unit.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_lowercase());
    let amount = u64::from(number(digits)?);
    match &text[digits.len()..] {
        "ms" => Some(Duration::from_millis(amount)),
        "" | "s" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_secs(amount * 60)),
        "h" => Some(Duration::from_secs(amount * 3600)),
        _ => None,
    }
}

/// The beginning of a text, for a sentence: whoever writes objects decides how long it is.
pub(crate) fn brief(text: &str) -> &str {
    text.char_indices().nth(64).map_or(text, |(end, _)| &text[..end])
}

/// Digits alone: `+5` is a number to Rust and a slip to everybody else.
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}
