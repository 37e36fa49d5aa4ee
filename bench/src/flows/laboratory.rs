//! The network: two directors, real servers that hold the VIP of real sockets, and a client.

use super::programmer::Wish;
use anyhow::Context as _;
use sluicegate_netlab::topology::{DsrLab, DsrTopology, Host};
use sluicegate_netlab::traffic::{TcpClient, TcpEcho};
use sluicegate_netlab::{Lab, Namespace};
use std::net::IpAddr;
use std::time::Duration;

/// Real servers.
pub const REALS: usize = 6;
/// Where real sockets connect to.
pub const SOCKET_PORT: u16 = 8080;
/// For one answer of a socket.
const PATIENCE: Duration = Duration::from_secs(10);

/// Removes what it made when it is dropped.
pub struct Laboratory {
    network: DsrLab,
    _servers: Vec<TcpEcho>,
}

impl Laboratory {
    /// Builds it.
    ///
    /// # Errors
    /// Where namespaces cannot be made.
    pub fn new() -> anyhow::Result<Self> {
        let topology = DsrTopology { directors: 2, backends: REALS as u8, ..DsrTopology::default() };
        let network = Lab::dsr("sg-bench-flows", topology)?;
        let mut servers = Vec::new();
        for (number, host) in network.backends.iter().enumerate() {
            for vip in Self::socket_vips() {
                host.namespace.hold_vip(vip)?;
                servers.push(TcpEcho::start(&host.namespace, &number.to_string(), (vip, SOCKET_PORT).into())?);
            }
        }
        Ok(Self { network, _servers: servers })
    }

    fn socket_vips() -> [IpAddr; 2] {
        [DsrLab::vip4(0).into(), DsrLab::vip6(0).into()]
    }

    /// The host of a director.
    pub fn director(&self, number: usize) -> &Host {
        &self.network.directors[number]
    }

    /// The hosts of the real servers, by number.
    pub fn reals(&self) -> &[Host] {
        &self.network.backends
    }

    /// Who sends the packets of clients to directors.
    pub fn router(&self) -> &Namespace {
        &self.network.router
    }

    /// The address of a real server for a VIP.
    pub fn real(&self, number: usize, vip: IpAddr) -> IpAddr {
        self.network.backends[number].address_like(vip)
    }

    /// The MAC addresses of the real servers.
    ///
    /// # Errors
    /// Where the kernel does not say.
    pub fn macs(&self) -> anyhow::Result<Vec<[u8; 6]>> {
        self.network.backends.iter().map(|host| Ok(host.namespace.mac("eth0")?)).collect()
    }

    /// All VIPs with the real servers that have a weight.
    pub fn wish(&self, weights: &[u16; REALS]) -> Wish {
        let weighed = || (0..REALS).zip(weights).filter(|(_, weight)| **weight > 0);
        let of = |vip: IpAddr| weighed().map(|(number, weight)| (self.real(number, vip), *weight)).collect();
        let vips = |vips: [IpAddr; 2]| vips.map(|vip| (vip, of(vip)));
        Wish { flows: vips(super::frames::vips()).into(), sockets: vips(Self::socket_vips()).into() }
    }

    /// Connections of a client through the first director.
    ///
    /// # Errors
    /// Where one fails.
    pub fn connect(&self, count: u32) -> anyhow::Result<Vec<TcpClient>> {
        let client = &self.network.clients[0].namespace;
        let vips = Self::socket_vips().into_iter().cycle().take(count as usize);
        vips.map(|vip| {
            TcpClient::connect(client, (vip, SOCKET_PORT).into(), PATIENCE)
                .with_context(|| format!("connecting to {vip}"))
        })
        .collect()
    }

    /// The number of the real server that greets with this name.
    pub fn number(&self, name: &str) -> usize {
        name.parse::<usize>().unwrap_or(0).min(REALS - 1)
    }
}
