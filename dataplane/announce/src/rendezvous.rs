//! Which director should hold a VIP: rendezvous hashing, so that a director that comes or goes moves only its own share.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use thiserror::Error;

/// The name of a director, equal in the configuration of all: 1 to 63 bytes of `[-._A-Za-z0-9]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirectorId(Arc<str>);

/// A name that no director can have.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{name:?} cannot name a director: give 1 to 63 letters, digits, '-', '.' or '_' (its host name, say)")]
pub struct DirectorIdError {
    name: String,
}

impl DirectorId {
    /// Longest name, in bytes.
    pub const LONGEST: usize = 63;

    /// # Errors
    /// If the name is empty, too long or has other characters.
    pub fn new(name: &str) -> Result<Self, DirectorIdError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        if name.is_empty() || name.len() > Self::LONGEST || !name.bytes().all(allowed) {
            return Err(DirectorIdError { name: name.chars().take(80).collect() });
        }
        Ok(Self(name.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DirectorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One life of a director's process: random, never zero in practice. What a former life was promised is worth nothing
/// to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

/// The directors in the order in which they should hold the VIP, best first. The order of two directors does not depend on
/// the others. It is part of what directors of different versions agree on.
pub fn ranking<'a>(vip: IpAddr, directors: impl IntoIterator<Item = &'a DirectorId>) -> Vec<&'a DirectorId> {
    let mut ranked: Vec<(u64, &DirectorId)> = directors.into_iter().map(|id| (score(vip, id), id)).collect();
    ranked.sort_by(|(score, id), (other_score, other)| other_score.cmp(score).then_with(|| id.cmp(other)));
    ranked.into_iter().map(|(_, id)| id).collect()
}

/// FNV-1a over name, a zero byte and address, finished by the mixer of splitmix64: FNV alone spreads names that differ in their
/// last letter badly.
fn score(vip: IpAddr, director: &DirectorId) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut feed = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    feed(director.0.as_bytes());
    feed(&[0]);
    match vip {
        IpAddr::V4(address) => feed(&address.octets()),
        IpAddr::V6(address) => feed(&address.octets()),
    }
    let mut mixed = hash.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
