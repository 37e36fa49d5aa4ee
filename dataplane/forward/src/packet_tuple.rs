//! The five things that a packet is told apart by, as an operator writes them:
//! `tcp,198.51.100.7:40000,192.0.2.10:80`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketProtocol {
    /// TCP: taken to open a connection.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP: taken to open an association.
    Sctp,
    /// ICMP or ICMPv6: taken to be an echo request.
    Icmp,
}

impl PacketProtocol {
    const ALL: [Self; 4] = [Self::Tcp, Self::Udp, Self::Sctp, Self::Icmp];

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
            Self::Icmp => "icmp",
        }
    }

    const fn has_ports(self) -> bool {
        !matches!(self, Self::Icmp)
    }
}

/// A packet of a client. Both addresses are of one family; ports are 0 where the protocol has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketTuple {
    /// What it carries.
    pub protocol: PacketProtocol,
    /// The client.
    pub source: SocketAddr,
    /// The virtual IP.
    pub destination: SocketAddr,
}

/// The text describes no packet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?}: {reason}; write tcp,198.51.100.7:40000,192.0.2.10:80 (also udp, sctp, icmp,198.51.100.7,192.0.2.10, and \
     IPv6 in brackets)"
)]
pub struct NoPacket {
    text: String,
    reason: &'static str,
}

impl PacketTuple {
    /// True for a text that means a packet and not a URL: it begins with a protocol and a comma.
    #[must_use]
    pub fn is_meant_by(text: &str) -> bool {
        text.split_once(',').is_some_and(|(protocol, _)| protocol_named(protocol).is_some())
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        let parts: Vec<&str> = text.split(',').map(str::trim).collect();
        let [protocol, source, destination] = parts.as_slice() else {
            return Err("a packet is a protocol, a source and a destination, with commas between them");
        };
        let protocol = protocol_named(protocol).ok_or("the protocol is none of tcp, udp, sctp and icmp")?;
        let source = end(source, protocol)?;
        let destination = end(destination, protocol)?;
        if source.is_ipv4() != destination.is_ipv4() {
            return Err("source and destination are of different families");
        }
        Ok(Self { protocol, source, destination })
    }
}

impl FromStr for PacketTuple {
    type Err = NoPacket;

    fn from_str(text: &str) -> Result<Self, NoPacket> {
        // What is echoed is bounded: the text may come from the network.
        Self::parse(text).map_err(|reason| NoPacket { text: text.chars().take(120).collect(), reason })
    }
}

impl fmt::Display for PacketTuple {
    /// As it is parsed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.protocol.as_str();
        if self.protocol.has_ports() {
            write!(f, "{name},{},{}", self.source, self.destination)
        } else {
            write!(f, "{name},{},{}", self.source.ip(), self.destination.ip())
        }
    }
}

fn protocol_named(name: &str) -> Option<PacketProtocol> {
    PacketProtocol::ALL.into_iter().find(|protocol| protocol.as_str().eq_ignore_ascii_case(name.trim()))
}

fn end(text: &str, protocol: PacketProtocol) -> Result<SocketAddr, &'static str> {
    let end = if protocol.has_ports() {
        text.parse::<SocketAddr>().map_err(|_| "an end is no ADDRESS:PORT")?
    } else {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        SocketAddr::new(bare.parse::<IpAddr>().map_err(|_| "an end is no address (ICMP has no ports)")?, 0)
    };
    Ok(SocketAddr::new(end.ip().to_canonical(), end.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_read_as_they_are_written() {
        for text in [
            "tcp,198.51.100.7:40000,192.0.2.10:80",
            "udp,198.51.100.7:0,192.0.2.10:53",
            "sctp,[2001:db8::7]:40000,[2001:db8::10]:80",
            "icmp,198.51.100.7,192.0.2.10",
            "icmp,2001:db8::7,2001:db8::10",
        ] {
            assert!(PacketTuple::is_meant_by(text), "{text}");
            assert_eq!(text.parse::<PacketTuple>().expect(text).to_string(), text);
        }
        let loose: PacketTuple = "TCP, [::ffff:198.51.100.7]:1, 192.0.2.10:80".parse().expect("a packet");
        assert_eq!(loose.to_string(), "tcp,198.51.100.7:1,192.0.2.10:80");
        assert_eq!("icmp,[2001:db8::7],[2001:db8::10]".parse::<PacketTuple>().expect("one").source.port(), 0);
    }

    #[test]
    fn what_is_no_packet_is_refused_with_an_example() {
        for (text, reason) in [
            ("tcp,", "with commas"),
            ("tcp,198.51.100.7,192.0.2.10:80", "ADDRESS:PORT"),
            ("tcp,198.51.100.7:1,192.0.2.10:80,x", "with commas"),
            ("tcp,198.51.100.7:1,[2001:db8::10]:80", "families"),
            ("tcp,198.51.100.7:65536,192.0.2.10:80", "ADDRESS:PORT"),
            ("icmp,198.51.100.7:8,192.0.2.10", "no ports"),
            ("gre,198.51.100.7,192.0.2.10", "none of"),
        ] {
            let error = text.parse::<PacketTuple>().expect_err(text).to_string();
            assert!(error.contains(reason) && error.contains("tcp,198.51.100.7:40000,192.0.2.10:80"), "{error}");
        }
        assert!(!PacketTuple::is_meant_by("http://shop.example/tcp,1") && !PacketTuple::is_meant_by("shop.example"));
        let long = "tcp,".to_owned() + &"x".repeat(10_000);
        assert!(long.parse::<PacketTuple>().expect_err("too long").to_string().len() < 400);
    }
}
