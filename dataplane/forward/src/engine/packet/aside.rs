//! Keeps the kernel from handling what the packet engine handles too: a packet socket gets a copy of each frame, and the
//! kernel goes on with its own.
//!
//! The VIP is not assigned on a director, so all that the kernel could do is to route the packet on or to refuse it with an
//! ICMP message. A route of type *blackhole* for the VIP alone, in the table that is looked at first (`local`), makes it
//! do neither, silently. It needs no BPF, which this engine is there to do without, no nftables, and no queueing
//! discipline, and it leaves ARP, neighbour discovery and every other address as they were. The routes carry a protocol
//! number of their own, by which those of a process that died are found again.

use futures_util::TryStreamExt;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{Handle, RouteMessageBuilder};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::mpsc;
use std::thread::JoinHandle;

/// Who made a route (`rtm_protocol`): a number that neither the kernel nor a known routing daemon has.
const PROTOCOL: u8 = 0xd5;
/// The table `local`.
const TABLE: u32 = 255;

/// The blackhole routes of this process. Dropped, it removes them.
#[derive(Debug)]
pub struct Aside {
    orders: Option<mpsc::Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

/// What is to be done, and where to tell how it went.
struct Order {
    what: What,
    done: mpsc::SyncSender<io::Result<()>>,
}

#[derive(Clone, Copy)]
enum What {
    Add(IpAddr),
    Remove(IpAddr),
    RemoveAll,
}

impl Aside {
    /// Starts in the network namespace of the caller, and removes what a process before this one left.
    ///
    /// # Errors
    /// Where the kernel gives no thread or socket, or refuses (`CAP_NET_ADMIN`).
    pub fn start() -> io::Result<Self> {
        let (orders, queue) = mpsc::channel();
        // A thread of its own: whoever calls may be inside of a runtime, which must not wait for another one.
        let thread = std::thread::Builder::new().name("packet-routes".to_owned()).spawn(move || serve(&queue))?;
        let aside = Self { orders: Some(orders), thread: Some(thread) };
        aside.order(What::RemoveAll)?;
        Ok(aside)
    }

    /// From here on the kernel drops what comes for the VIP.
    ///
    /// # Errors
    /// Where it refuses.
    pub fn add(&self, vip: IpAddr) -> io::Result<()> {
        self.order(What::Add(vip))
    }

    /// From here on the kernel treats the VIP as any address.
    ///
    /// # Errors
    /// Where it refuses.
    pub fn remove(&self, vip: IpAddr) -> io::Result<()> {
        self.order(What::Remove(vip))
    }

    fn order(&self, what: What) -> io::Result<()> {
        let (done, answer) = mpsc::sync_channel(1);
        let ended = || io::Error::other("the thread that sets routes has ended");
        self.orders.as_ref().ok_or_else(ended)?.send(Order { what, done }).map_err(|_| ended())?;
        answer.recv().map_err(|_| ended())?
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if let Err(error) = self.order(What::RemoveAll) {
            tracing::warn!(%error, "blackhole routes of VIPs stay: remove them with `sluicegate detach`");
        }
        self.orders = None;
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the thread that set routes had ended by a panic");
        }
    }
}

fn serve(queue: &mpsc::Receiver<Order>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let opened = runtime.and_then(|runtime| {
        let _inside = runtime.enter();
        let (connection, handle, _) = rtnetlink::new_connection()?;
        runtime.spawn(connection);
        drop(_inside);
        Ok((runtime, handle))
    });
    for order in queue {
        let result = match &opened {
            Ok((runtime, handle)) => runtime.block_on(carry_out(handle, order.what)),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        // Nobody waits any more: then nobody needs to know.
        let _told = order.done.send(result);
    }
}

async fn carry_out(handle: &Handle, what: What) -> io::Result<()> {
    match what {
        What::Add(vip) => handle.route().add(blackhole(vip)).replace().execute().await.map_err(io::Error::other),
        What::Remove(vip) => match handle.route().del(blackhole(vip)).execute().await {
            // Gone already is as good.
            Err(rtnetlink::Error::NetlinkError(message)) if message.raw_code() == -3 => Ok(()),
            other => other.map_err(io::Error::other),
        },
        What::RemoveAll => remove_all(handle).await.map_err(io::Error::other),
    }
}

async fn remove_all(handle: &Handle) -> Result<(), rtnetlink::Error> {
    let questions = [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()];
    for question in questions {
        let routes: Vec<RouteMessage> = handle.route().get(question).execute().try_collect().await?;
        let ours = |route: &&RouteMessage| {
            route.header.protocol == RouteProtocol::Other(PROTOCOL) && route.header.kind == RouteType::BlackHole
        };
        for vip in routes.iter().filter(ours).filter_map(destination) {
            handle.route().del(blackhole(vip)).execute().await?;
        }
    }
    Ok(())
}

fn destination(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some((*address).into()),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some((*address).into()),
        _ => None,
    })
}

fn blackhole(vip: IpAddr) -> RouteMessage {
    match vip {
        IpAddr::V4(vip) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(vip, 32)
            .table_id(TABLE)
            .protocol(RouteProtocol::Other(PROTOCOL))
            .scope(RouteScope::Universe)
            .kind(RouteType::BlackHole)
            .build(),
        IpAddr::V6(vip) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(vip, 128)
            .table_id(TABLE)
            .protocol(RouteProtocol::Other(PROTOCOL))
            .scope(RouteScope::Universe)
            .kind(RouteType::BlackHole)
            .build(),
    }
}
