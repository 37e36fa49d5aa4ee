//! Follows the kernel's links, addresses, routes and neighbours, so that [`Topology`] says what they are.
//!
//! Changes come as multicast messages. Where the kernel had to drop some (the socket's buffer was full), everything is
//! read anew. Routes are always read anew, because messages do not say which route of several equal ones they mean.

mod message;

use crate::topology::Topology;
use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::neighbour::{NeighbourFlags, NeighbourState};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::{AsyncSocket, SocketAddr};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::Pin;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// What changes are followed.
const GROUPS: &[MulticastGroup] = &[
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// Receive buffer of the socket for changes: some ten thousand neighbours at once.
const RECEIVE_BUFFER: i32 = 4 << 20;

/// Reading all routes may take at most one part in so many of the time.
const ROUTE_READ_SHARE: u32 = 10;

/// Why the network cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket.
    #[error("cannot open a netlink socket: {0}")]
    Open(#[source] io::Error),
    /// The kernel refused a question.
    #[error("the kernel refused to list {what}: {source}")]
    Refused {
        /// What was asked for.
        what: &'static str,
        /// What it answered.
        source: Box<rtnetlink::Error>,
    },
    /// The socket ended.
    #[error("the netlink socket closed")]
    Closed,
}

type Events = Pin<Box<dyn futures_util::Stream<Item = (NetlinkMessage<RouteNetlinkMessage>, SocketAddr)> + Send>>;

/// The network of the namespace that [`NetworkWatch::start`] was called in.
pub struct NetworkWatch {
    handle: Handle,
    events: Events,
    tasks: [JoinHandle<()>; 2],
    topology: Topology,
    stale_all: bool,
    stale_routes: bool,
    routes_next: Instant,
}

impl NetworkWatch {
    /// Subscribes, then reads everything: nothing that happens in between is missed.
    ///
    /// # Errors
    /// Where the kernel gives no socket or no answer.
    pub async fn start() -> Result<Self, NetlinkError> {
        let (mut changes, _, events) = rtnetlink::new_multicast_connection(GROUPS).map_err(NetlinkError::Open)?;
        // A smaller buffer than wished for costs a resync, nothing else.
        if let Err(error) = changes.socket_mut().socket_mut().set_rx_buf_sz(RECEIVE_BUFFER) {
            tracing::debug!(%error, "the receive buffer of netlink stays at its default");
        }
        let (questions, handle, _) = rtnetlink::new_connection().map_err(NetlinkError::Open)?;
        let tasks = [tokio::spawn(changes), tokio::spawn(questions)];
        let mut watch = Self {
            handle,
            events: Box::pin(events),
            tasks,
            topology: Topology::default(),
            stale_all: true,
            stale_routes: false,
            routes_next: Instant::now(),
        };
        watch.read_all().await?;
        Ok(watch)
    }

    /// The network as far as it is known.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Waits until the topology changed. It may be dropped at any await and called again: nothing is lost.
    ///
    /// # Errors
    /// Where the socket ended or the kernel refused to list something; then a new watch must be started.
    pub async fn changed(&mut self) -> Result<(), NetlinkError> {
        loop {
            if self.stale_all {
                self.read_all().await?;
                return Ok(());
            }
            let message = if self.stale_routes {
                let wait = self.routes_next.saturating_duration_since(Instant::now());
                match tokio::time::timeout(wait.max(SETTLE), self.events.next()).await {
                    Ok(message) => message,
                    Err(_) => {
                        let before = self.topology.clone();
                        self.read_routes().await?;
                        if self.topology != before {
                            return Ok(());
                        }
                        continue;
                    }
                }
            } else {
                self.events.next().await
            };
            let (message, _) = message.ok_or(NetlinkError::Closed)?;
            if self.take(message.payload) {
                return Ok(());
            }
        }
    }

    /// Makes the kernel ask for a neighbour's MAC address, or verify the one that it has: what a packet to it would do.
    /// The answer comes as a change.
    pub async fn ask_for(&self, interface: u32, address: IpAddr) {
        let asked = self
            .handle
            .neighbours()
            .add(interface, address)
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use)
            .replace()
            .execute()
            .await;
        if let Err(error) = asked {
            tracing::debug!(%address, interface, %error, "the kernel would not ask for a neighbour");
        }
    }

    /// Takes one message in. True where the topology changed by it.
    fn take(&mut self, payload: NetlinkPayload<RouteNetlinkMessage>) -> bool {
        match payload {
            NetlinkPayload::Overrun(_) => {
                tracing::warn!("netlink messages were lost, reading links, addresses, routes and neighbours anew");
                self.stale_all = true;
                false
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(_) | RouteNetlinkMessage::DelRoute(_)) => {
                self.stale_routes = true;
                false
            }
            NetlinkPayload::InnerMessage(message) => {
                // A link that goes down takes IPv4 routes with it without a message for each.
                self.stale_routes |=
                    matches!(message, RouteNetlinkMessage::NewLink(_) | RouteNetlinkMessage::DelLink(_));
                message::apply(&mut self.topology, &message)
            }
            _ => false,
        }
    }

    async fn read_all(&mut self) -> Result<(), NetlinkError> {
        let mut fresh = Topology::default();
        let mut links = Box::pin(self.handle.link().get().execute());
        while let Some(link) = links.try_next().await.map_err(refused("links"))? {
            message::apply(&mut fresh, &RouteNetlinkMessage::NewLink(link));
        }
        let mut addresses = Box::pin(self.handle.address().get().execute());
        while let Some(address) = addresses.try_next().await.map_err(refused("addresses"))? {
            message::apply(&mut fresh, &RouteNetlinkMessage::NewAddress(address));
        }
        for family in [AddressFamily::Unspec, AddressFamily::Bridge] {
            let all = self.handle.neighbours().get().set_address_family(family).execute();
            let mut neighbours = Box::pin(all);
            while let Some(neighbour) = neighbours.try_next().await.map_err(refused("neighbours"))? {
                message::apply(&mut fresh, &RouteNetlinkMessage::NewNeighbour(neighbour));
            }
        }
        self.topology = fresh;
        self.read_routes().await?;
        self.stale_all = false;
        Ok(())
    }

    async fn read_routes(&mut self) -> Result<(), NetlinkError> {
        let begun = Instant::now();
        // What comes while they are read may be missing in the answer.
        self.stale_routes = false;
        let mut routes = Vec::new();
        let questions =
            [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()];
        for question in questions {
            let mut answers = Box::pin(self.handle.route().get(question).execute());
            while let Some(route) = answers.try_next().await.map_err(refused("routes")).inspect_err(|_| {
                self.stale_all = true;
            })? {
                routes.extend(message::route(&route));
            }
        }
        self.topology.set_routes(routes);
        self.routes_next = Instant::now() + begun.elapsed() * ROUTE_READ_SHARE;
        Ok(())
    }
}

impl Drop for NetworkWatch {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Routes come in bursts; reading waits until none came for so long.
const SETTLE: Duration = Duration::from_millis(2);

fn refused(what: &'static str) -> impl Fn(rtnetlink::Error) -> NetlinkError {
    move |source| NetlinkError::Refused { what, source: Box::new(source) }
}
