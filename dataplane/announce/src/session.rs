//! A connection between two directors that know the same secret: who is there, and records that nobody else could have
//! written. It owns no socket.
//!
//! Both sides say hello (name, life, nonce) and prove with HMAC-SHA256 over both hellos that they know the secret. Each direction then has a
//! key of its own, and the tag of every record covers its number, so nothing can be replayed, reordered or
//! reflected. Heartbeats are not secret: nothing is encrypted.

use crate::heartbeat::{Beat, BeatError};
use crate::rendezvous::{DirectorId, Incarnation};
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use aws_lc_rs::rand;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The secret that all directors share.
#[derive(Clone)]
pub struct Secret(hmac::Key);

/// Why there is no secret; the operator must give one.
#[derive(Debug, Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("the file {path} with the secret of the directors: {source}")]
    Unreadable {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Too short to be a secret, or too long to be meant.
    #[error("a secret of {0} bytes: give 16 to 1024 random ones (head -c 32 /dev/urandom | base64)")]
    Length(usize),
}

impl Secret {
    /// Shortest secret, in bytes.
    pub const SHORTEST: usize = 16;
    /// Longest secret, in bytes.
    pub const LONGEST: usize = 1024;

    /// # Errors
    /// If it has the wrong length.
    pub fn new(bytes: &[u8]) -> Result<Self, SecretError> {
        if !(Self::SHORTEST..=Self::LONGEST).contains(&bytes.len()) {
            return Err(SecretError::Length(bytes.len()));
        }
        Ok(Self(hmac::Key::new(HMAC_SHA256, bytes)))
    }

    /// The content of a file, without white space around it.
    ///
    /// # Errors
    /// If the file cannot be read or the secret has the wrong length.
    pub fn read(path: &Path) -> Result<Self, SecretError> {
        let bytes = fs::read(path).map_err(|source| SecretError::Unreadable { path: path.to_owned(), source })?;
        Self::new(bytes.trim_ascii())
    }

    fn tag(&self, label: &[u8], transcript: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(label);
        context.update(transcript);
        context.sign()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The peer broke the protocol, or is not who it says.
#[derive(Debug, Error)]
pub(crate) enum SessionError {
    #[error("no greeting of a director: something else connected, or another version")]
    Greeting,
    #[error("it does not know the secret: give all directors the same one")]
    Secret,
    #[error("no randomness: {0}")]
    Randomness(&'static str),
    #[error("a record of {0} bytes")]
    RecordLength(usize),
    #[error("a record that the peer did not write")]
    Forged,
    #[error("{0}")]
    Beat(#[from] BeatError),
}

const MAGIC: [u8; 4] = *b"SGD1";
pub(crate) const TAG: usize = 32;
const NONCE: usize = 32;
/// A greeting, always as long as this.
pub(crate) const HELLO: usize = 4 + 1 + DirectorId::LONGEST + 8 + NONCE;
/// Longest record, without the two lengths around it.
const LONGEST_RECORD: usize = Beat::LONGEST;

/// Which side of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Dialer,
    Acceptor,
}

/// What a side says first.
#[derive(Clone, Debug)]
pub(crate) struct Hello {
    pub(crate) id: DirectorId,
    pub(crate) incarnation: Incarnation,
    bytes: [u8; HELLO],
}

impl Hello {
    pub(crate) fn new(id: &DirectorId, incarnation: Incarnation) -> Result<Self, SessionError> {
        let mut nonce = [0; NONCE];
        rand::fill(&mut nonce).map_err(|_| SessionError::Randomness("the system gave none"))?;
        let name = id.as_str().as_bytes();
        let mut bytes = [0; HELLO];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = name.len() as u8;
        bytes[5..5 + name.len()].copy_from_slice(name);
        bytes[68..76].copy_from_slice(&incarnation.0.to_be_bytes());
        bytes[76..].copy_from_slice(&nonce);
        Ok(Self { id: id.clone(), incarnation, bytes })
    }

    pub(crate) fn decode(bytes: [u8; HELLO]) -> Result<Self, SessionError> {
        let name = bytes.get(5..5 + usize::from(bytes[4])).filter(|name| name.len() <= DirectorId::LONGEST);
        let name = name.and_then(|name| std::str::from_utf8(name).ok()).filter(|_| bytes[..4] == MAGIC);
        let id = name.and_then(|name| DirectorId::new(name).ok()).ok_or(SessionError::Greeting)?;
        let life: [u8; 8] = *bytes[68..].first_chunk().ok_or(SessionError::Greeting)?;
        Ok(Self { id, incarnation: Incarnation(u64::from_be_bytes(life)), bytes })
    }

    pub(crate) fn bytes(&self) -> &[u8; HELLO] {
        &self.bytes
    }
}

/// Both greetings, in the order dialer, acceptor.
pub(crate) struct Handshake {
    secret: Secret,
    transcript: [u8; 2 * HELLO],
}

impl Handshake {
    pub(crate) fn new(secret: &Secret, dialer: &Hello, acceptor: &Hello) -> Self {
        let mut transcript = [0; 2 * HELLO];
        transcript[..HELLO].copy_from_slice(&dialer.bytes);
        transcript[HELLO..].copy_from_slice(&acceptor.bytes);
        Self { secret: secret.clone(), transcript }
    }

    /// What proves that a side knows the secret.
    pub(crate) fn proof(&self, side: Side) -> [u8; TAG] {
        let label: &[u8] = match side {
            Side::Dialer => b"proof of dialer\0",
            Side::Acceptor => b"proof of acceptor\0",
        };
        tag_bytes(&self.secret.tag(label, &self.transcript))
    }

    pub(crate) fn check(&self, side: Side, proof: &[u8; TAG]) -> Result<(), SessionError> {
        let expected = self.proof(side);
        let equal = aws_lc_rs::constant_time::verify_slices_are_equal(&expected, proof);
        equal.map_err(|_| SessionError::Secret)
    }

    /// The keys of what `me` seals and opens.
    pub(crate) fn channels(&self, me: Side) -> (Sealer, Opener) {
        let key = |label: &[u8]| hmac::Key::new(HMAC_SHA256, self.secret.tag(label, &self.transcript).as_ref());
        let from_dialer = key(b"records of dialer\0");
        let from_acceptor = key(b"records of acceptor\0");
        let (mine, theirs) = match me {
            Side::Dialer => (from_dialer, from_acceptor),
            Side::Acceptor => (from_acceptor, from_dialer),
        };
        (Sealer { key: mine, number: 0 }, Opener { key: theirs, number: 0 })
    }
}

fn tag_bytes(tag: &hmac::Tag) -> [u8; TAG] {
    let mut bytes = [0; TAG];
    bytes.copy_from_slice(tag.as_ref());
    bytes
}

/// Writes records: length, heartbeat, tag.
pub(crate) struct Sealer {
    key: hmac::Key,
    number: u64,
}

impl Sealer {
    pub(crate) fn seal(&mut self, beat: &Beat) -> Vec<u8> {
        let body = beat.encode();
        let mut record = Vec::with_capacity(4 + body.len() + TAG);
        record.extend((body.len() as u32).to_be_bytes());
        record.extend(&body);
        let tag = record_tag(&self.key, self.number, &record);
        self.number += 1;
        record.extend(tag.as_ref());
        record
    }
}

/// Reads records.
pub(crate) struct Opener {
    key: hmac::Key,
    number: u64,
}

impl Opener {
    /// How many bytes follow after the length.
    pub(crate) fn rest(length: [u8; 4]) -> Result<usize, SessionError> {
        let body = u32::from_be_bytes(length) as usize;
        if body > LONGEST_RECORD { Err(SessionError::RecordLength(body)) } else { Ok(body + TAG) }
    }

    pub(crate) fn open(&mut self, record: &[u8]) -> Result<Beat, SessionError> {
        let (signed, tag) = record.split_last_chunk::<TAG>().ok_or(SessionError::RecordLength(record.len()))?;
        let expected = record_tag(&self.key, self.number, signed);
        aws_lc_rs::constant_time::verify_slices_are_equal(expected.as_ref(), tag).map_err(|_| SessionError::Forged)?;
        self.number += 1;
        let body = signed.get(4..).ok_or(SessionError::RecordLength(record.len()))?;
        Ok(Beat::decode(body)?)
    }
}

fn record_tag(key: &hmac::Key, number: u64, signed: &[u8]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    context.update(&number.to_be_bytes());
    context.update(signed);
    context.sign()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tie_break::Deciding;

    fn hello(name: &str) -> Hello {
        Hello::new(&DirectorId::new(name).expect("a name"), Incarnation(7)).expect("randomness")
    }

    fn beat(sequence: u64) -> Beat {
        let vips = Vec::new();
        let (incarnation, mac) = (Incarnation(7), [2, 0, 0, 0, 0, 1]);
        Beat {
            incarnation,
            sequence,
            acknowledged: None,
            deciding: Deciding::Mine,
            fit: true,
            mac,
            vips,
            granted: Vec::new(),
            number: 0,
            membership: None,
        }
    }

    fn handshakes(one: &[u8], other: &[u8]) -> (Handshake, Handshake) {
        let (dialer, acceptor) = (hello("a"), hello("b"));
        let heard = Hello::decode(*dialer.bytes()).expect("a greeting");
        assert_eq!((heard.id, heard.incarnation), (dialer.id.clone(), dialer.incarnation));
        let make = |secret| Handshake::new(&Secret::new(secret).expect("a secret"), &dialer, &acceptor);
        (make(one), make(other))
    }

    #[test]
    fn records_are_bound_to_their_place_and_direction() {
        let (dialer, acceptor) = handshakes(&[1; 32], &[1; 32]);
        acceptor.check(Side::Dialer, &dialer.proof(Side::Dialer)).expect("the same secret");
        assert!(acceptor.check(Side::Acceptor, &dialer.proof(Side::Dialer)).is_err(), "reflected");
        let (mut sealer, mut own_opener) = dialer.channels(Side::Dialer);
        let (_, mut opener) = acceptor.channels(Side::Acceptor);
        let (first, second) = (sealer.seal(&beat(1)), sealer.seal(&beat(2)));
        assert_eq!(first.len(), 4 + Opener::rest(*first.first_chunk().expect("a length")).expect("short"));
        assert!(matches!(own_opener.open(&first), Err(SessionError::Forged)), "reflected");
        assert!(matches!(opener.open(&second), Err(SessionError::Forged)), "out of order");
        assert_eq!(opener.open(&first).expect("genuine"), beat(1));
        assert!(matches!(opener.open(&first), Err(SessionError::Forged)), "replayed");
        for place in 0..second.len() {
            let mut changed = second.clone();
            changed[place] ^= 1;
            assert!(opener.open(&changed).is_err(), "byte {place}");
        }
        assert_eq!(opener.open(&second).expect("genuine"), beat(2));
    }

    #[test]
    fn another_secret_proves_nothing() {
        let (dialer, acceptor) = handshakes(&[1; 32], &[2; 32]);
        assert!(matches!(acceptor.check(Side::Dialer, &dialer.proof(Side::Dialer)), Err(SessionError::Secret)));
    }

    #[test]
    fn greetings_of_others_are_refused() {
        let good = *hello("director-1").bytes();
        assert!(Hello::decode(good).is_ok());
        for (place, byte) in [(0, b'X'), (4, 0), (4, 64), (4, 255), (5, b' '), (5, 0xff)] {
            let mut bad = good;
            bad[place] = byte;
            assert!(Hello::decode(bad).is_err(), "{byte} at {place}");
        }
        assert!(Opener::rest(u32::MAX.to_be_bytes()).is_err());
    }
}
