//! The two ConfigMaps: TCP services and virtual IPs. Each bad line is rejected alone.

use super::note;
use crate::annotations::service::{self, Wrong};
use k8s_openapi::api::core::v1 as api;
use sluicegate_config::vip::MAX_VIPS;
use sluicegate_config::{
    BackendId, Balance, Method, NamespacedName, ObjectRef, PortRef, Rejection, StreamListener, StreamPort, Verdict,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

/// What the TCP services ConfigMap says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TcpServices {
    pub(crate) listeners: BTreeMap<StreamPort, StreamListener>,
    pub(crate) notes: Vec<Rejection>,
}

/// What the VIP ConfigMap says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Vips {
    pub(crate) bindings: BTreeMap<IpAddr, VipLines>,
    pub(crate) notes: Vec<Rejection>,
}

/// What one VIP is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VipLines {
    /// The key, as a field.
    pub(crate) field: String,
    /// The good lines; none where the value is empty, which asks for the address alone.
    pub(crate) lines: Vec<VipLine>,
}

/// One line of a VIP's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VipLine {
    pub(crate) service: NamespacedName,
    pub(crate) method: Option<Method>,
    pub(crate) field: String,
}

fn wrong<T>(reason: impl Into<String>, remedy: &'static str) -> Result<T, Wrong> {
    Err(Wrong { reason: reason.into(), remedy })
}

const TCP_FORM: &str = "write it as in 5432: default/db:5432, optionally followed by :PROXY to accept and :PROXY to send the PROXY protocol";
const VIP_FORM: &str = "write NAMESPACE/SERVICE, optionally followed by :POD, :DR, :TUNNEL or :GUE";

impl TcpServices {
    pub(crate) fn read(object: &api::ConfigMap, reference: &ObjectRef, reserved: &BTreeSet<u16>) -> Self {
        let mut read = Self::default();
        for (key, value) in object.data.iter().flatten() {
            match tcp_service(key, value, reference, reserved) {
                Ok(listener) => {
                    // `80` and `080` are two keys and one port; the first in order of keys has it.
                    if let Some(first) = read.listeners.get(&listener.port) {
                        read.notes.push(note(
                            reference,
                            Verdict::Rejected,
                            field(key),
                            format!("port {} is already given to {}", first.port, first.backend),
                            "remove one of the two keys",
                        ));
                    } else {
                        read.listeners.insert(listener.port, listener);
                    }
                }
                Err(Wrong { reason, remedy }) => {
                    read.notes.push(note(reference, Verdict::Rejected, field(key), reason, remedy));
                }
            }
        }
        read
    }
}

/// The path of one key of a ConfigMap.
pub(crate) fn field(key: &str) -> String {
    format!("data[\"{key}\"]")
}

fn tcp_service(
    key: &str,
    value: &str,
    reference: &ObjectRef,
    reserved: &BTreeSet<u16>,
) -> Result<StreamListener, Wrong> {
    let Some(port) = key.parse::<u16>().ok().filter(|port| *port != 0) else {
        return wrong(format!("{key:?} is not a port"), "use a port from 1 to 65535 as the key");
    };
    if reserved.contains(&port) {
        return wrong(format!("port {port} is the gateway's own"), "choose another port");
    }
    let mut parts = value.trim().split(':');
    let (service, backend_port) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let Ok(service) = service.parse::<NamespacedName>() else {
        return wrong(format!("{service:?} is not NAMESPACE/SERVICE"), TCP_FORM);
    };
    let backend_port = match backend_port.parse::<u16>() {
        Ok(number) if number != 0 => PortRef::Number(number),
        _ if is_port_name(backend_port) => PortRef::Name(backend_port.into()),
        _ => return wrong(format!("{backend_port:?} is neither a port nor the name of one"), TCP_FORM),
    };
    let mut option = || match parts.next() {
        None | Some("") => Ok(false),
        Some(text) if text.eq_ignore_ascii_case("PROXY") => Ok(true),
        Some(other) => wrong(format!("{other:?} is not PROXY"), TCP_FORM),
    };
    let (accept_proxy_protocol, send_proxy_protocol) = (option()?, option()?);
    if parts.next().is_some() {
        return wrong(format!("{:?} has too many parts", value.trim()), TCP_FORM);
    }
    Ok(StreamListener {
        port,
        backend: BackendId {
            namespace: service.namespace,
            service: service.name,
            port: backend_port,
            protocol: None,
            balance: Balance::RoundRobin,
        },
        accept_proxy_protocol,
        send_proxy_protocol,
        origin: reference.clone(),
    })
}

/// IANA service names (RFC 6335): at most 15 of `[a-z0-9-]` with a letter among them.
fn is_port_name(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && text.bytes().any(|byte| byte.is_ascii_lowercase())
}

impl Vips {
    pub(crate) fn read(object: &api::ConfigMap, reference: &ObjectRef) -> Self {
        let mut read = Self::default();
        for (key, value) in object.data.iter().flatten() {
            let address = match vip_address(key) {
                Ok(address) => address,
                Err(Wrong { reason, remedy }) => {
                    read.notes.push(note(reference, Verdict::Rejected, field(key), reason, remedy));
                    continue;
                }
            };
            if read.bindings.contains_key(&address) {
                read.notes.push(note(
                    reference,
                    Verdict::Rejected,
                    field(key),
                    format!("{address} is already bound by another spelling of the key"),
                    "put all Services of one address under one key, on lines of their own",
                ));
                continue;
            }
            if read.bindings.len() == MAX_VIPS {
                read.notes.push(note(
                    reference,
                    Verdict::Rejected,
                    field(key),
                    format!("{MAX_VIPS} virtual IPs are bound already, and more are not taken"),
                    "spread the virtual IPs over several groups of directors",
                ));
                continue;
            }
            read.bind(address, key, value, reference);
        }
        read
    }

    /// Takes the good lines. A VIP that has only bad ones is not bound: announced alone it would draw traffic and drop it.
    fn bind(&mut self, address: IpAddr, key: &str, value: &str, reference: &ObjectRef) {
        let lines: Vec<&str> = value.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let mut services = Vec::with_capacity(lines.len());
        for (index, line) in lines.iter().enumerate() {
            let field = if lines.len() == 1 { field(key) } else { format!("{} line {}", field(key), index + 1) };
            match vip_service(line) {
                Ok((service, method)) => services.push(VipLine { service, method, field }),
                Err(Wrong { reason, remedy }) => {
                    self.notes.push(note(reference, Verdict::Rejected, field, reason, remedy));
                }
            }
        }
        if lines.is_empty() || !services.is_empty() {
            self.bindings.insert(address, VipLines { field: field(key), lines: services });
        }
    }
}

/// An IPv4 address, or an IPv6 address with `-` for `:` (keys of a ConfigMap have no colon).
fn vip_address(key: &str) -> Result<IpAddr, Wrong> {
    if let Ok(address) = key.parse::<IpAddr>() {
        return Ok(address);
    }
    key.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6).or_else(|_| {
        wrong(
            format!("{key:?} is not an IP address"),
            "use an address as the key, IPv6 with - for :, as in 2001-db8--10",
        )
    })
}

/// `namespace/service`, optionally with `:METHOD`.
fn vip_service(line: &str) -> Result<(NamespacedName, Option<Method>), Wrong> {
    let (service, method) = match line.split_once(':') {
        Some((service, method)) => (service.trim(), Some(method.trim())),
        None => (line, None),
    };
    let Ok(name) = service.parse::<NamespacedName>() else {
        return wrong(format!("{service:?} is not NAMESPACE/SERVICE"), VIP_FORM);
    };
    Ok((name, service::method(method.unwrap_or_default())?))
}
