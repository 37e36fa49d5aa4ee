//! A switch: a namespace with one Linux bridge that snoops IGMP and MLD. It routes nothing and has no address but its
//! link-local one, which its queries need.

use crate::bpf::{Attachment, Hook, Program};
use crate::fault::{self, Direction, Fault};
use crate::names::LONGEST_INTERFACE;
use crate::slow_wire::SlowWire;
use crate::{Capture, Frame, LabError, Namespace, WireOptions, netlink, wire};

const INTERFACE: &str = "br0";

/// A switch with its ports. Hosts are found by their label.
#[derive(Debug)]
pub struct Bridge {
    namespace: Namespace,
    ports: Vec<Port>,
}

#[derive(Debug)]
struct Port {
    host: String,
    interface: String,
    index: u32,
    /// Makes frames arrive that the host sends by `XDP_TX`.
    _accepts: Attachment,
    _slow_wire: Option<SlowWire>,
}

impl Bridge {
    pub(crate) fn create(namespace: Namespace) -> Result<Self, LabError> {
        namespace.ask(|| netlink::add_snooping_bridge(INTERFACE))?;
        Ok(Self { namespace, ports: Vec::new() })
    }

    /// Attaches a host by a wire, at an interface of that name on the host's side. Of a host that is attached twice, the
    /// first port is the one that the other functions mean.
    pub fn attach(&mut self, host: &Namespace, interface: &str, options: WireOptions) -> Result<(), LabError> {
        let port = self.free_port_name(host.label());
        let slow_wire = self.join(&port, host, interface, options)?;
        let accepts = self.namespace.attach(&port, Hook::Xdp, &Program::pass())?;
        self.namespace.ask(|| netlink::enslave(&port, INTERFACE))?;
        let index = self.namespace.ifindex(&port)?;
        self.ports.push(Port {
            host: host.label().to_owned(),
            interface: port,
            index,
            _accepts: accepts,
            _slow_wire: slow_wire,
        });
        Ok(())
    }

    /// The namespace of the switch.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The name of the interface in the switch's namespace that leads to the host: the host's label where that is free
    /// and short enough.
    pub fn port(&self, host: &Namespace) -> Result<&str, LabError> {
        Ok(&self.find(host)?.interface)
    }

    /// Captures what passes between the host and the switch, at the switch, where frames are seen that the host sends
    /// by `XDP_TX`. Incoming frames are those from the host.
    pub fn capture(&self, host: &Namespace) -> Result<Capture, LabError> {
        self.namespace.capture(self.port(host)?)
    }

    /// As [`capture`](Self::capture), of the frames that `wanted` is true for.
    pub fn capture_if(
        &self,
        host: &Namespace,
        wanted: impl Fn(&Frame) -> bool + Send + 'static,
    ) -> Result<Capture, LabError> {
        self.namespace.capture_if(self.port(host)?, wanted)
    }

    /// Takes the host's carrier away, as a pulled cable does.
    pub fn unplug(&self, host: &Namespace) -> Result<(), LabError> {
        self.namespace.set_link(self.port(host)?, false)
    }

    /// Gives the host its carrier back.
    pub fn plug(&self, host: &Namespace) -> Result<(), LabError> {
        self.namespace.set_link(self.port(host)?, true)
    }

    /// Lets no frame pass between the two hosts, while both keep their carrier and hear everyone else. It ends when the
    /// [`Fault`] is dropped.
    pub fn partition(&self, one: &Namespace, other: &Namespace) -> Result<Fault, LabError> {
        let (one, other) = (self.find(one)?, self.find(other)?);
        let there = self.namespace.attach(&one.interface, Hook::Egress, &fault::drop_from_ports(&[other.index]))?;
        let back = self.namespace.attach(&other.interface, Hook::Egress, &fault::drop_from_ports(&[one.index]))?;
        Ok(Fault::new(vec![there, back]))
    }

    /// Lets nothing pass between the host and the switch, while the host keeps its carrier: it is cut off and does not
    /// notice. It ends when the [`Fault`] is dropped.
    pub fn cut_off(&self, host: &Namespace) -> Result<Fault, LabError> {
        self.lose(host, Direction::Both, 1.0)
    }

    /// Loses that share (0 to 1) of the frames between the host and the switch, at random. It ends when the [`Fault`]
    /// is dropped.
    pub fn lose(&self, host: &Namespace, direction: Direction, share: f64) -> Result<Fault, LabError> {
        self.namespace.lose(self.port(host)?, direction.as_the_switch_sees_it(), share)
    }

    /// Keeps ICMP "fragmentation needed" and ICMPv6 "packet too big" away from the host, and from all others if it
    /// sends them, as careless firewalls do. It ends when the [`Fault`] is dropped.
    pub fn drop_too_big_errors(&self, host: &Namespace) -> Result<Fault, LabError> {
        self.namespace.drop_too_big_errors(self.port(host)?)
    }

    /// Keeps the host's reports of the IPv6 groups that it is in from the switch, so that its snooping does not know of
    /// them. It ends when the [`Fault`] is dropped.
    pub fn drop_multicast_reports(&self, host: &Namespace) -> Result<Fault, LabError> {
        let dropped = self.namespace.attach(self.port(host)?, Hook::Ingress, &fault::multicast_report_filter())?;
        Ok(Fault::new(vec![dropped]))
    }

    fn join(
        &self,
        port: &str,
        host: &Namespace,
        interface: &str,
        options: WireOptions,
    ) -> Result<Option<SlowWire>, LabError> {
        let (here, there) = ((&self.namespace, port), (host, interface));
        if options.delay.is_zero() {
            return wire::join(here, there, options.mtu).map(|()| None);
        }
        let number = self.ports.len() + 1;
        let inner = [format!("wire{number}-near"), format!("wire{number}-far")];
        let middle = (&self.namespace, [inner[0].as_str(), inner[1].as_str()]);
        SlowWire::join(here, there, middle, options).map(Some)
    }

    fn find(&self, host: &Namespace) -> Result<&Port, LabError> {
        let port = self.ports.iter().find(|port| port.host == host.label());
        port.ok_or_else(|| LabError::NoPort {
            bridge: self.namespace.label().to_owned(),
            host: host.label().to_owned(),
        })
    }

    fn free_port_name(&self, label: &str) -> String {
        let taken =
            |name: &str| name == INTERFACE || name == "lo" || self.ports.iter().any(|port| port.interface == name);
        if label.len() <= LONGEST_INTERFACE && !taken(label) {
            return label.to_owned();
        }
        format!("port{}", self.ports.len() + 1)
    }
}
