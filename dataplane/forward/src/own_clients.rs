//! Clients on the director itself: what they send to a VIP leaves by an interface, and never passes a program where frames
//! come in. So a route leads it into a pair of virtual interfaces, at whose other end the same program takes it in: one
//! packet path, one flow table, one set of counters for all clients.
//!
//! - The route is in a table of its own, before the main one, and for packets of this machine alone (`iif lo`): what other
//!   hosts send is not led astray, and who follows the main table sees nothing of it. It names the director's own address,
//!   to which real servers answer directly.
//! - The interfaces do not resolve addresses (`NOARP`), because every frame means the program; they leave no checksum and
//!   no cutting of segments to others, because the program sends frames on as they are.
//! - The program is attached there generically: only so it can send to ports of every kind.
//! - Everything goes with the pair: routes and the attachment. The rules are removed by name.

use crate::offload::Offload;
use futures_util::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{RouteMessage, RouteScope};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{Handle, IpVersion, LinkUnspec, LinkVeth, RouteMessageBuilder};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tokio::task::JoinHandle;

/// The end at which the program takes frames in.
pub const PORT: &str = "sluicegate1";
/// The end that routes lead to.
pub const DEVICE: &str = "sluicegate0";

/// Number of the routing table.
const TABLE: u32 = 0x5348;
/// Priority of the rules: behind that of health probes (20000), before the main table (32766).
const PRIORITY: u32 = 20_001;
/// `lo`, as an incoming interface: where packets of the machine itself come from.
const OWN: &str = "lo";

/// Why clients on this machine do not reach VIPs.
#[derive(Debug, thiserror::Error)]
pub enum OwnClientsError {
    /// No netlink socket.
    #[error("cannot open a netlink socket: {0}")]
    Open(#[source] io::Error),
    /// The kernel refused.
    #[error("the kernel refused to {what}: {source} (CAP_NET_ADMIN is needed, and virtual interfaces: veth)")]
    Refused {
        /// What was asked of it.
        what: &'static str,
        /// What it answered.
        source: Box<rtnetlink::Error>,
    },
    /// An offload or a setting of the pair.
    #[error("cannot set up {DEVICE}: {0}")]
    Setting(#[source] io::Error),
}

/// The way of clients on this machine to VIPs, in the network namespace that it was opened in.
pub struct OwnClients {
    handle: Handle,
    connection: JoinHandle<()>,
    /// What the kernel has; `None` = not known.
    present: Option<Ways>,
}

/// VIPs with the address that clients on this machine have towards them, and the largest IP packet, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// `None` = the kernel chooses.
    pub vips: BTreeMap<IpAddr, Option<IpAddr>>,
    /// Smallest MTU of the ports that packets leave by.
    pub mtu: u32,
}

impl Drop for OwnClients {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl OwnClients {
    /// Opens a netlink socket; needs a tokio runtime.
    ///
    /// # Errors
    /// Where there is none.
    pub fn open() -> Result<Self, OwnClientsError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(OwnClientsError::Open)?;
        Ok(Self { handle, connection: tokio::spawn(connection), present: None })
    }

    /// Makes a way to these VIPs and to no others. Without any the pair goes too.
    ///
    /// # Errors
    /// The first thing that the kernel refuses. Asking again begins anew.
    pub async fn bring_to(&mut self, wanted: &Ways) -> Result<(), OwnClientsError> {
        if self.present.as_ref() == Some(wanted) {
            return Ok(());
        }
        let present = self.present.take();
        if wanted.vips.is_empty() {
            self.remove().await?;
        } else {
            let device = match present {
                Some(Ways { mtu, ref vips }) if mtu == wanted.mtu && !vips.is_empty() => self.index_of(DEVICE).await?,
                _ => None,
            };
            let device = match device {
                Some(device) => device,
                None => self.make_pair(wanted.mtu).await?,
            };
            self.make_routes(device, &wanted.vips).await?;
            self.make_rules(&wanted.vips).await?;
        }
        self.present = Some(wanted.clone());
        Ok(())
    }

    /// Takes away everything, also that of a process that is gone.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub async fn remove(&mut self) -> Result<(), OwnClientsError> {
        self.present = None;
        for version in [IpVersion::V4, IpVersion::V6] {
            for rule in self.rules(version).await? {
                self.handle.rule().del(rule).execute().await.map_err(refused("remove a rule"))?;
            }
        }
        match self.index_of(DEVICE).await? {
            Some(index) => self.handle.link().del(index).execute().await.map_err(refused("remove the interfaces")),
            None => Ok(()),
        }
    }

    /// The pair, made where it is missing. What is there already is brought into shape, and keeps its programs.
    async fn make_pair(&self, mtu: u32) -> Result<u32, OwnClientsError> {
        if self.index_of(DEVICE).await?.is_none() {
            let pair = LinkVeth::new(DEVICE, PORT).build();
            self.handle.link().add(pair).execute().await.map_err(refused("make the interfaces"))?;
        }
        // No addresses of its own: nothing but the routes leads there. A kernel without IPv6 has no such settings; where
        // /proc is read-only (containers), link-local addresses stay, which nobody uses.
        for (name, value) in [(format!("{DEVICE}/addr_gen_mode"), "1"), (format!("{PORT}/disable_ipv6"), "1")] {
            match fs::write(format!("/proc/sys/net/ipv6/conf/{name}"), value) {
                Ok(()) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ReadOnlyFilesystem) => {}
                Err(error) => return Err(OwnClientsError::Setting(error)),
            }
        }
        for offload in [Offload::TransmitChecksum, Offload::TcpSegmentation, Offload::GenericSegmentation] {
            for end in [DEVICE, PORT] {
                offload.switch(end, false).map_err(OwnClientsError::Setting)?;
            }
        }
        for end in [PORT, DEVICE] {
            let shape = LinkUnspec::new_with_name(end).mtu(mtu).arp(false).up().build();
            self.handle.link().set(shape).execute().await.map_err(refused("set the interfaces up"))?;
        }
        let made = self.index_of(DEVICE).await?;
        made.ok_or_else(|| OwnClientsError::Setting(io::Error::other("somebody removed it at once")))
    }

    /// New ones first, then those that are not wanted go.
    async fn make_routes(&self, device: u32, vips: &BTreeMap<IpAddr, Option<IpAddr>>) -> Result<(), OwnClientsError> {
        let present = self.routes().await?;
        for (vip, source) in vips {
            let request = self.handle.route().add(route(*vip, *source, device)).replace();
            request.execute().await.map_err(refused("make a route"))?;
        }
        for (vip, route) in present {
            if !vips.contains_key(&vip) {
                self.handle.route().del(route).execute().await.map_err(refused("remove a route"))?;
            }
        }
        Ok(())
    }

    async fn routes(&self) -> Result<Vec<(IpAddr, RouteMessage)>, OwnClientsError> {
        use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute};
        let four = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let six = RouteMessageBuilder::<Ipv6Addr>::new().build();
        let mut found = Vec::new();
        for asked in [four, six] {
            let mut routes = Box::pin(self.handle.route().get(asked).execute());
            while let Some(route) = routes.try_next().await.map_err(refused("list routes"))? {
                if !route.attributes.contains(&RouteAttribute::Table(TABLE)) {
                    continue;
                }
                let vip = route.attributes.iter().find_map(|attribute| match attribute {
                    RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::from(*address)),
                    RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::from(*address)),
                    _ => None,
                });
                found.extend(vip.map(|vip| (vip, route)));
            }
        }
        Ok(found)
    }

    async fn make_rules(&self, vips: &BTreeMap<IpAddr, Option<IpAddr>>) -> Result<(), OwnClientsError> {
        for (version, family) in [(IpVersion::V4, AddressFamily::Inet), (IpVersion::V6, AddressFamily::Inet6)] {
            let is_needed = vips.keys().any(|vip| vip.is_ipv4() == (family == AddressFamily::Inet));
            if !is_needed || !self.rules(version).await?.is_empty() {
                continue;
            }
            let mut rule = self.handle.rule().add();
            let message = rule.message_mut();
            message.header.family = family;
            message.header.action = RuleAction::ToTable;
            message.attributes.extend([
                RuleAttribute::Iifname(OWN.to_owned()),
                RuleAttribute::Table(TABLE),
                RuleAttribute::Priority(PRIORITY),
            ]);
            rule.execute().await.map_err(refused("make a rule"))?;
        }
        Ok(())
    }

    async fn rules(&self, version: IpVersion) -> Result<Vec<RuleMessage>, OwnClientsError> {
        let listed: Result<Vec<RuleMessage>, _> = self.handle.rule().get(version).execute().try_collect().await;
        let rules = match listed {
            // A kernel without IPv6 has no rules of it.
            Err(rtnetlink::Error::NetlinkError(message))
                if [-libc::EAFNOSUPPORT, -libc::EOPNOTSUPP].contains(&message.raw_code()) =>
            {
                Vec::new()
            }
            listed => listed.map_err(refused("list rules"))?,
        };
        Ok(rules.into_iter().filter(|rule| rule.attributes.contains(&RuleAttribute::Table(TABLE))).collect())
    }

    async fn index_of(&self, name: &str) -> Result<Option<u32>, OwnClientsError> {
        let mut found = Box::pin(self.handle.link().get().match_name(name.to_owned()).execute());
        match found.try_next().await {
            Ok(link) => Ok(link.map(|link| link.header.index)),
            Err(rtnetlink::Error::NetlinkError(message)) if message.raw_code() == -libc::ENODEV => Ok(None),
            Err(error) => Err(refused("find the interfaces")(error)),
        }
    }
}

/// Takes away what a process that is gone left, in the network namespace of the caller.
///
/// # Errors
/// What the kernel refuses.
pub fn detach() -> Result<(), OwnClientsError> {
    // A thread of its own: whoever calls may be inside of a runtime, which must not wait for another one.
    let removed = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(OwnClientsError::Open)?.block_on(async { OwnClients::open()?.remove().await })
    });
    removed.join().unwrap_or_else(|_| Err(OwnClientsError::Open(io::Error::other("its thread ended by a panic"))))
}

fn route(vip: IpAddr, source: Option<IpAddr>, device: u32) -> RouteMessage {
    match vip {
        IpAddr::V4(vip) => {
            let route = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(vip, 32)
                .output_interface(device)
                .table_id(TABLE)
                .scope(RouteScope::Link);
            match source {
                Some(IpAddr::V4(source)) => route.pref_source(source).build(),
                _ => route.build(),
            }
        }
        IpAddr::V6(vip) => {
            let route = RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(vip, 128)
                .output_interface(device)
                .table_id(TABLE);
            match source {
                Some(IpAddr::V6(source)) => route.pref_source(source).build(),
                _ => route.build(),
            }
        }
    }
}

fn refused(what: &'static str) -> impl Fn(rtnetlink::Error) -> OwnClientsError {
    move |source| OwnClientsError::Refused { what, source: Box::new(source) }
}
