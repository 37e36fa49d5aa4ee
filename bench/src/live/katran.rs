//! Katran beside: loads its balancer object as it is built from its sources, and fills its maps as its library does.
//!
//! Nothing of it is part of this repository. The layout of its maps is that of `katran/lib/bpf` at commit 19f08fe; all
//! integers are of the machine's order but addresses and ports, which lie as in the packet.

use crate::packet::tables::{VIP4, VIP6};
use anyhow::{Context as _, bail};
use aya::maps::{Array, ArrayOfMaps, HashMap, Map, MapData};
use aya::{Ebpf, EbpfLoader};
use sluicegate_l4::maglev::{Claimant, fill, identity};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// Slots of a ring.
const RING: u32 = 65_537;
/// Real servers of each family. Number 0 is nobody.
const REALS: u32 = 100;
/// Entries of the flow table of one core: its library's 8 million, shared by two cores.
const FLOWS: u32 = 4_000_000;
/// CPUs that find a flow table.
const CPUS: u32 = 128;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// The real server has an IPv6 address.
const F_IPV6: u8 = 1;

/// The loaded balancer.
pub struct Katran {
    object: Ebpf,
    /// The per-CPU tables lead to it.
    _flows: MapData,
}

impl Katran {
    /// The program's name.
    pub const PROGRAM: &'static str = "balancer_ingress";

    /// Loads the object, with 5 VIPs over 100 IPv4 and 100 IPv6 real servers.
    ///
    /// # Errors
    /// Where it is not Katran's, or of other dimensions.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
        // The flow table of a core is of the fallback table's type: this one is made large and takes its place.
        let mut object = EbpfLoader::new()
            .map_max_entries("fallback_cache", FLOWS)
            .load(&bytes)
            .with_context(|| format!("{}: not Katran's balancer, or not for this kernel", path.display()))?;
        let flows = match object.take_map("fallback_cache") {
            Some(Map::LruHashMap(flows)) => flows,
            _ => bail!("{}: has no LRU map fallback_cache", path.display()),
        };
        let mut per_cpu: ArrayOfMaps<&mut MapData, MapData> = ArrayOfMaps::try_from(map(&mut object, "lru_mapping")?)?;
        for cpu in 0..CPUS {
            per_cpu.set(cpu, &flows, 0).context("lru_mapping")?;
        }
        let mut katran = Self { object, _flows: flows };
        katran.fill_reals()?;
        for (number, (vip, protocol, port)) in (0..).zip(vips()) {
            katran.bind(number, vip, protocol, port)?;
        }
        let program = crate::packet::harness::xdp(&mut katran.object, Self::PROGRAM)?;
        program.load().context("the kernel refuses Katran's program")?;
        Ok(katran)
    }

    /// Whom encapsulated packets are sent to: the router's MAC address.
    pub fn send_to(&mut self, mac: [u8; 6]) -> anyhow::Result<()> {
        let mut value = [0; 8];
        value[..6].copy_from_slice(&mac);
        set(&mut self.object, "ctl_array", 0, value)
    }

    /// What was loaded.
    pub fn object(&mut self) -> &mut Ebpf {
        &mut self.object
    }

    /// `reals`: `struct real_definition`, 16 bytes of address and flags.
    fn fill_reals(&mut self) -> anyhow::Result<()> {
        for number in 1..=2 * REALS {
            let mut value = [0; 20];
            match real(number) {
                IpAddr::V4(address) => value[..4].copy_from_slice(&address.octets()),
                IpAddr::V6(address) => {
                    value[..16].copy_from_slice(&address.octets());
                    value[16] = F_IPV6;
                }
            }
            set(&mut self.object, "reals", number, value)?;
        }
        Ok(())
    }

    /// `vip_map`: `struct vip_definition` to `struct vip_meta`, and the ring of that number.
    fn bind(&mut self, number: u32, vip: IpAddr, protocol: u8, port: u16) -> anyhow::Result<()> {
        let mut key = [0; 20];
        match vip {
            IpAddr::V4(address) => key[..4].copy_from_slice(&address.octets()),
            IpAddr::V6(address) => key[..16].copy_from_slice(&address.octets()),
        }
        key[16..18].copy_from_slice(&port.to_be_bytes());
        key[18] = protocol;
        let mut meta = [0; 8];
        meta[4..].copy_from_slice(&number.to_ne_bytes());
        let mut bound: HashMap<&mut MapData, [u8; 20], [u8; 8]> = HashMap::try_from(map(&mut self.object, "vip_map")?)?;
        bound.insert(key, meta, 0).context("vip_map")?;
        let first = if vip.is_ipv4() { 1 } else { 1 + REALS };
        let claimant = |real_number: u32| {
            let address = match real(real_number) {
                IpAddr::V4(address) => address.to_ipv6_mapped(),
                IpAddr::V6(address) => address,
            };
            Claimant::new(real_number as u16, 1, identity(address.octets()))
        };
        let mut claimants: Vec<Claimant> = (first..first + REALS).map(claimant).collect();
        let mut slots = vec![0; RING as usize];
        fill(&mut claimants, &mut slots);
        for (slot, real) in (0..).zip(slots) {
            set(&mut self.object, "ch_rings", number * RING + slot, u32::from(real).to_ne_bytes())?;
        }
        Ok(())
    }
}

/// The VIPs of the measurement: the first one is asked.
fn vips() -> [(IpAddr, u8, u16); 5] {
    [
        (VIP4.into(), TCP, 80),
        (VIP4.into(), UDP, 80),
        (VIP6.into(), TCP, 80),
        (Ipv4Addr::new(10, 200, 1, 3).into(), TCP, 80),
        (Ipv4Addr::new(10, 200, 1, 5).into(), UDP, 443),
    ]
}

fn real(number: u32) -> IpAddr {
    match number.checked_sub(REALS + 1) {
        None => Ipv4Addr::new(198, 51, 100, number as u8).into(),
        Some(number) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number as u16 + 1).into(),
    }
}

fn map<'a>(object: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut Map> {
    object.map_mut(name).with_context(|| format!("the object has no map {name}: is it Katran's balancer?"))
}

fn set<const N: usize>(object: &mut Ebpf, name: &str, index: u32, value: [u8; N]) -> anyhow::Result<()> {
    let mut array: Array<&mut MapData, [u8; N]> =
        Array::try_from(map(object, name)?).with_context(|| format!("map {name}: Katran has changed its layout"))?;
    array.set(index, value, 0).with_context(|| format!("map {name}, index {index}"))
}
