//! Heartbeats: what directors tell each other, and the codec. Whether a heartbeat is genuine is decided before it gets here.

use crate::membership::{Member, Membership};
use crate::rendezvous::{DirectorId, Incarnation};
use crate::tie_break::Deciding;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use thiserror::Error;

/// One heartbeat, to one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// The life of the sender.
    pub incarnation: Incarnation,
    /// Grows with every heartbeat of this life.
    pub sequence: u64,
    /// The last heartbeat of the receiver that the sender has acted on, and of which life it was.
    pub acknowledged: Option<(Incarnation, u64)>,
    /// Who has the deciding vote of two.
    pub deciding: Deciding,
    /// The sender may hold VIPs.
    pub fit: bool,
    /// The MAC address with which the sender answers for VIPs, to tell directors from strangers.
    pub mac: [u8; 6],
    /// Every VIP that the sender knows, ascending.
    pub vips: Vec<VipState>,
    /// The VIPs for which the receiver has the vote of the sender, as of the acknowledged heartbeat; ascending.
    pub granted: Vec<IpAddr>,
    /// The number of the sender's membership; 0 where flags name the directors.
    pub number: u64,
    /// That membership, for a receiver that is behind.
    pub membership: Option<Membership>,
}

/// How the sender of a heartbeat stands to one VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VipState {
    /// Which one.
    pub vip: IpAddr,
    /// The sender can serve it.
    pub able: bool,
    /// The sender asks for the vote.
    pub claims: bool,
    /// The sender owns it.
    pub holds: bool,
}

/// Why bytes are no heartbeat. The peer that sent them runs another version or is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BeatError {
    /// The bytes end too early, or go on after the end.
    #[error("a heartbeat of {0} bytes ends at the wrong place")]
    Length(usize),
    /// An unknown version of the format.
    #[error("heartbeats of version {0}; this director speaks version {VERSION}: run the same release on all")]
    Version(u8),
    /// More VIPs than [`Beat::MOST_VIPS`].
    #[error("{0} addresses in one heartbeat")]
    TooMany(usize),
    /// A field has a value without meaning, or a list is not ascending.
    #[error("a heartbeat with a bad {0}")]
    Field(&'static str),
}

const VERSION: u8 = 2;

impl Beat {
    /// Most VIPs in one heartbeat.
    pub const MOST_VIPS: usize = 4096;
    /// Longest encoding, in bytes.
    pub const LONGEST: usize = 80 + Self::MOST_VIPS * (18 + 17) + Membership::MOST_MEMBERS * LONGEST_MEMBER;

    /// The bytes, all numbers big-endian.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64 + self.vips.len() * 18 + self.granted.len() * 17);
        bytes.push(VERSION);
        bytes.push(u8::from(self.fit));
        bytes.extend(self.incarnation.0.to_be_bytes());
        bytes.extend(self.sequence.to_be_bytes());
        let (tag, life, sequence) = self.acknowledged.map_or((0, 0, 0), |(life, sequence)| (1, life.0, sequence));
        bytes.push(tag);
        bytes.extend(life.to_be_bytes());
        bytes.extend(sequence.to_be_bytes());
        let (tag, life) = match self.deciding {
            Deciding::Unknown => (0, 0),
            Deciding::Mine => (1, 0),
            Deciding::Conceded(to) => (2, to.0),
            Deciding::Changing => (3, 0),
        };
        bytes.push(tag);
        bytes.extend(u64::to_be_bytes(life));
        bytes.extend(self.mac);
        put_count(&mut bytes, self.vips.len());
        for state in &self.vips {
            put_address(&mut bytes, state.vip);
            bytes.push(u8::from(state.able) | u8::from(state.claims) << 1 | u8::from(state.holds) << 2);
        }
        put_count(&mut bytes, self.granted.len());
        self.granted.iter().for_each(|vip| put_address(&mut bytes, *vip));
        bytes.extend(self.number.to_be_bytes());
        let members = self.membership.iter().flat_map(|membership| &membership.members);
        let members: Vec<_> = members.take(Membership::MOST_MEMBERS).collect();
        put_length(&mut bytes, members.len());
        members.into_iter().for_each(|(id, member)| put_member(&mut bytes, id, member));
        bytes
    }

    /// # Errors
    /// If the bytes are not exactly one heartbeat as [`Beat::encode`] writes it.
    pub fn decode(bytes: &[u8]) -> Result<Self, BeatError> {
        let mut reader = Reader { rest: bytes, length: bytes.len() };
        let [version] = reader.take()?;
        if version != VERSION {
            return Err(BeatError::Version(version));
        }
        let fit = reader.tag(1, "fitness")? == 1;
        let incarnation = Incarnation(reader.number()?);
        let sequence = reader.number()?;
        let acknowledged = match (reader.tag(1, "acknowledgement")?, reader.number()?, reader.number()?) {
            (0, ..) => None,
            (_, life, sequence) => Some((Incarnation(life), sequence)),
        };
        let deciding = match (reader.tag(3, "deciding vote")?, reader.number()?) {
            (0, _) => Deciding::Unknown,
            (1, _) => Deciding::Mine,
            (3, _) => Deciding::Changing,
            (_, life) => Deciding::Conceded(Incarnation(life)),
        };
        let mac = reader.take()?;
        let mut vips = Vec::new();
        for _ in 0..reader.count()? {
            let vip = reader.address()?;
            let flags = reader.tag(7, "state")?;
            let state = VipState { vip, able: flags & 1 != 0, claims: flags & 2 != 0, holds: flags & 4 != 0 };
            vips.push(state);
        }
        let mut granted = Vec::new();
        for _ in 0..reader.count()? {
            granted.push(reader.address()?);
        }
        let number = reader.number()?;
        let members = reader.members()?;
        let membership = (!members.is_empty()).then_some(Membership { number, members });
        if !reader.rest.is_empty() {
            return Err(BeatError::Length(bytes.len()));
        }
        if !vips.is_sorted_by(|one, other| one.vip < other.vip) || !granted.is_sorted_by(|one, other| one < other) {
            return Err(BeatError::Field("order"));
        }
        Ok(Self { incarnation, sequence, acknowledged, deciding, fit, mac, vips, granted, number, membership })
    }
}

fn put_count(bytes: &mut Vec<u8>, count: usize) {
    bytes.extend(u16::try_from(count).unwrap_or(u16::MAX).to_be_bytes());
}

fn put_address(bytes: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            bytes.push(4);
            bytes.extend(address.octets());
        }
        IpAddr::V6(address) => {
            bytes.push(6);
            bytes.extend(address.octets());
        }
    }
}

/// Name, life and addresses with their ports.
const LONGEST_MEMBER: usize = 1 + DirectorId::LONGEST + 8 + 1 + Membership::MOST_ADDRESSES * (17 + 2);

fn put_length(bytes: &mut Vec<u8>, length: usize) {
    bytes.push(u8::try_from(length).unwrap_or(u8::MAX));
}

fn put_member(bytes: &mut Vec<u8>, id: &DirectorId, member: &Member) {
    put_length(bytes, id.as_str().len());
    bytes.extend(id.as_str().as_bytes());
    bytes.extend(member.life.0.to_be_bytes());
    let addresses = &member.addresses[..member.addresses.len().min(Membership::MOST_ADDRESSES)];
    put_length(bytes, addresses.len());
    for address in addresses {
        put_address(bytes, address.ip());
        bytes.extend(address.port().to_be_bytes());
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    length: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], BeatError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(BeatError::Length(self.length))?;
        self.rest = rest;
        Ok(*taken)
    }

    fn number(&mut self) -> Result<u64, BeatError> {
        Ok(u64::from_be_bytes(self.take()?))
    }

    fn tag(&mut self, most: u8, field: &'static str) -> Result<u8, BeatError> {
        let [tag] = self.take()?;
        if tag > most { Err(BeatError::Field(field)) } else { Ok(tag) }
    }

    fn count(&mut self) -> Result<usize, BeatError> {
        let count = usize::from(u16::from_be_bytes(self.take()?));
        if count > Beat::MOST_VIPS { Err(BeatError::TooMany(count)) } else { Ok(count) }
    }

    fn address(&mut self) -> Result<IpAddr, BeatError> {
        match self.take()? {
            [4] => Ok(Ipv4Addr::from(self.take::<4>()?).into()),
            [6] => Ok(Ipv6Addr::from(self.take::<16>()?).into()),
            _ => Err(BeatError::Field("address family")),
        }
    }

    fn members(&mut self) -> Result<BTreeMap<DirectorId, Member>, BeatError> {
        let mut members = BTreeMap::new();
        for _ in 0..self.tag(Membership::MOST_MEMBERS as u8, "number of members")? {
            let length = usize::from(self.tag(DirectorId::LONGEST as u8, "name")?);
            let (name, rest) = self.rest.split_at_checked(length).ok_or(BeatError::Length(self.length))?;
            self.rest = rest;
            let name = str::from_utf8(name).ok().and_then(|name| DirectorId::new(name).ok());
            let id = name.ok_or(BeatError::Field("name"))?;
            let life = Incarnation(self.number()?);
            let mut addresses = Vec::new();
            for _ in 0..self.tag(Membership::MOST_ADDRESSES as u8, "number of addresses")? {
                let ip = self.address()?;
                addresses.push(SocketAddr::new(ip, u16::from_be_bytes(self.take()?)));
            }
            if members.last_key_value().is_some_and(|(last, _)| *last >= id) {
                return Err(BeatError::Field("order"));
            }
            members.insert(id, Member { life, addresses });
        }
        Ok(members)
    }
}
