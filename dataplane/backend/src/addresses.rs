//! VIPs on `lo`, through netlink.
//!
//! They carry a number of this program as their protocol (`IFA_PROTO`, Linux 5.18), so that what was added here is
//! known as such after a kill, and what somebody else added is never removed.

use futures_util::TryStreamExt;
use rtnetlink::Handle;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressProtocol, AddressScope, CacheInfo,
};
use rtnetlink::packet_route::link::LinkAttribute;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// `IFA_PROTO` of the VIPs that are added here.
const PROTOCOL: u8 = 0x53;
/// `lo` has this index in every network namespace.
const LOOPBACK: u32 = 1;

/// Why an address could not be listed, added or removed.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// No netlink socket.
    #[error("cannot open a netlink socket: {0}")]
    Open(#[source] std::io::Error),
    /// The kernel refused.
    #[error("the kernel refused to {what}: {source} (CAP_NET_ADMIN is needed)")]
    Refused {
        /// What was asked of it.
        what: String,
        /// What it answered.
        source: Box<rtnetlink::Error>,
    },
}

/// The addresses of the network namespace in which it was made.
pub struct Addresses {
    handle: Handle,
    connection: tokio::task::JoinHandle<()>,
}

impl Drop for Addresses {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Addresses {
    /// Opens the socket; needs a tokio runtime.
    ///
    /// # Errors
    /// Where there is no netlink.
    pub fn open() -> Result<Self, AddressError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(AddressError::Open)?;
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }

    /// Addresses of this host that other hosts can send to: all that are not loopback, link-local or on `lo`.
    ///
    /// # Errors
    /// Where the kernel does not list them.
    pub async fn reachable(&self) -> Result<Vec<IpAddr>, AddressError> {
        let messages = self.list().await?;
        let mut found: Vec<IpAddr> =
            messages.iter().filter(|message| message.header.index != LOOPBACK).filter_map(address_of).collect();
        found.retain(|address| match address {
            IpAddr::V4(address) => !address.is_loopback() && !address.is_link_local(),
            IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
        });
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// What is on `lo`, and whether it was added here.
    ///
    /// # Errors
    /// Where the kernel does not list it.
    pub async fn on_loopback(&self) -> Result<BTreeMap<IpAddr, bool>, AddressError> {
        let messages = self.list().await?;
        let messages = messages.iter().filter(|message| message.header.index == LOOPBACK);
        Ok(messages.filter_map(|message| Some((address_of(message)?, is_ours(message)))).collect())
    }

    /// Puts a VIP on `lo`: /32 or /128, of host scope or deprecated, so that no packet of the host's own gets it as source.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub async fn add(&self, vip: IpAddr) -> Result<(), AddressError> {
        let prefix = if vip.is_ipv4() { 32 } else { 128 };
        let mut request = self.handle.address().add(LOOPBACK, vip, prefix);
        let message = request.message_mut();
        message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL)));
        match vip {
            IpAddr::V4(_) => message.header.scope = AddressScope::Host,
            IpAddr::V6(_) => {
                message.header.flags |= AddressHeaderFlags::Nodad;
                message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
                let mut lifetime = CacheInfo::default();
                (lifetime.ifa_preferred, lifetime.ifa_valid) = (0, u32::MAX);
                message.attributes.push(AddressAttribute::CacheInfo(lifetime));
            }
        }
        request.execute().await.map_err(refused(|| format!("put {vip} on lo")))
    }

    /// Takes a VIP off `lo`.
    ///
    /// # Errors
    /// Where the kernel refuses, also because it is not there.
    pub async fn remove(&self, vip: IpAddr) -> Result<(), AddressError> {
        let messages = self.list().await?;
        let found =
            messages.into_iter().find(|message| message.header.index == LOOPBACK && address_of(message) == Some(vip));
        let Some(message) = found else { return Ok(()) };
        self.handle.address().del(message).execute().await.map_err(refused(|| format!("take {vip} off lo")))
    }

    /// The interfaces that have these addresses, by name, each once; `lo` is none of them.
    ///
    /// # Errors
    /// Where the kernel does not list them.
    pub async fn interfaces_with(&self, wanted: &BTreeSet<IpAddr>) -> Result<Vec<String>, AddressError> {
        let messages = self.list().await?;
        let has_one = |message: &&AddressMessage| address_of(message).is_some_and(|address| wanted.contains(&address));
        let mut indices: Vec<u32> = messages
            .iter()
            .filter(has_one)
            .map(|message| message.header.index)
            .filter(|one| *one != LOOPBACK)
            .collect();
        indices.sort_unstable();
        indices.dedup();
        let mut names = Vec::with_capacity(indices.len());
        for index in indices {
            let listed = self.handle.link().get().match_index(index).execute().try_next().await;
            let link = listed.map_err(refused(|| format!("describe interface {index}")))?;
            names.extend(link.into_iter().flat_map(|link| link.attributes).find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            }));
        }
        Ok(names)
    }

    async fn list(&self) -> Result<Vec<AddressMessage>, AddressError> {
        let listed = self.handle.address().get().execute().try_collect().await;
        listed.map_err(refused(|| "list the addresses".to_owned()))
    }
}

fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}

fn is_ours(message: &AddressMessage) -> bool {
    message.attributes.contains(&AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL)))
}

fn refused(what: impl FnOnce() -> String) -> impl FnOnce(rtnetlink::Error) -> AddressError {
    move |source| AddressError::Refused { what: what(), source: Box::new(source) }
}
