//! What the wires saw, and whether that is direct server return: packets of a client come in through the director, and
//! what answers them does not pass it. It captures nothing by itself.
//!
//! Every wire is looked at from the far end of the host that it is named after: an incoming frame is one that the host
//! sent, also where XDP sent it.

use anyhow::{Context as _, ensure};
use sluicegate_l4::layout::GUE_PORT;
use sluicegate_netlab::{Frame, Packet};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

/// IANA's numbers of protocols.
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
const ICMPV4: u8 = 1;
const ICMPV6: u8 = 58;

/// How a director delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// As it is, to another MAC address.
    L2,
    /// IP in IP.
    Tunnel,
    /// IP in UDP.
    Gue,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::L2 => "L2",
            Self::Tunnel => "TUNNEL",
            Self::Gue => "GUE",
        })
    }
}

/// What passed while something was tried.
#[derive(Default)]
pub struct Wires {
    pub client: Vec<Frame>,
    pub director: Vec<Frame>,
    /// Real servers by name.
    pub servers: BTreeMap<String, Vec<Frame>>,
}

/// Connections or exchanges of one client with one port of a VIP.
#[derive(Clone, Debug)]
pub struct Flow {
    pub protocol: u8,
    pub client: IpAddr,
    pub client_ports: BTreeSet<u16>,
    pub vip: IpAddr,
    pub port: u16,
}

/// Packets of a flow at the ends of its way.
#[derive(Debug, PartialEq, Eq)]
pub struct Passage {
    /// From the client into the director.
    pub to_director: usize,
    /// From the director to real servers.
    pub delivered: usize,
    /// From real servers to the client, none of them by way of the director.
    pub replies: usize,
    /// Who sent the replies.
    pub servers: BTreeSet<String>,
}

/// Judges a flow.
///
/// # Errors
/// Where it is no direct server return by that method; the message says what was seen.
pub fn judge(wires: &Wires, flow: &Flow, method: Method) -> anyhow::Result<Passage> {
    let detour =
        wires.director.iter().filter(|frame| innermost(frame).is_some_and(|(_, packet)| flow.is_reply(&packet)));
    let detour = detour.count();
    ensure!(detour == 0, "{detour} replies went by way of the director");
    let requests = |frame: &&Frame| plain(frame).is_some_and(|packet| flow.is_request(&packet));
    let to_director = wires.director.iter().filter(|frame| frame.outgoing).filter(requests).count();
    ensure!(to_director > 0, "no packet of the client came to the director");
    let delivered = deliveries(&wires.director, method, |packet| flow.is_request(packet))?;
    let replies = |frame: &&Frame| plain(frame).is_some_and(|packet| flow.is_reply(&packet));
    let sent = wires
        .servers
        .iter()
        .map(|(name, frames)| (name.clone(), frames.iter().filter(|frame| !frame.outgoing).filter(replies).count()));
    let sent: BTreeMap<String, usize> = sent.filter(|(_, count)| *count > 0).collect();
    let came = wires.client.iter().filter(|frame| frame.outgoing).filter(replies).count();
    ensure!(came > 0, "no reply came to the client");
    let from_servers: usize = sent.values().sum();
    ensure!(came <= from_servers, "{came} replies came to the client, and real servers sent {from_servers}");
    Ok(Passage { to_director, delivered, replies: came, servers: sent.into_keys().collect() })
}

/// True for packets from or to the address, in a tunnel or not.
pub fn concerns(frame: &Frame, address: IpAddr) -> bool {
    innermost(frame).is_some_and(|(_, packet)| packet.source == address || packet.destination == address)
}

/// Judges an ICMP error about a flow: "too big" has to reach the real server whose packets it is about, and no other one.
/// Returns that server and the MTU that it was told.
///
/// # Errors
/// Where it did not; the message says what was seen.
pub fn judge_too_big(wires: &Wires, flow: &Flow, method: Method) -> anyhow::Result<(String, u32)> {
    let about = |packet: &Packet<'_>| too_big(packet).is_some_and(|(_, quoted)| flow.is_reply(&quoted));
    let arrived = wires.director.iter().filter(|frame| frame.outgoing);
    let arrived = arrived.filter(|frame| plain(frame).is_some_and(|packet| about(&packet))).count();
    ensure!(arrived > 0, "no ICMP error about the flow came to the director");
    deliveries(&wires.director, method, about)?;
    let mut told = BTreeMap::new();
    let mut owners = BTreeSet::new();
    for (name, frames) in &wires.servers {
        for frame in frames {
            let Some((_, packet)) = innermost(frame) else { continue };
            if frame.outgoing && about(&packet) {
                told.extend(too_big(&packet).map(|(mtu, _)| (name.as_str(), mtu)));
            } else if !frame.outgoing && flow.is_reply(&packet) {
                owners.insert(name.as_str());
            }
        }
    }
    let names: BTreeSet<&str> = told.keys().copied().collect();
    ensure!(names == owners, "{names:?} were told, and {owners:?} have the flow");
    let (name, mtu) = told.pop_first().context("nobody was told")?;
    Ok((name.to_owned(), mtu))
}

/// Judges an echo, which the director answers for the VIP by itself.
///
/// # Errors
/// Where a real server saw it, or the director did not answer.
pub fn judge_echo(wires: &Wires, client: IpAddr, vip: IpAddr) -> anyhow::Result<()> {
    let (request, reply) = if vip.is_ipv4() { (8, 0) } else { (128, 129) };
    let is = |frame: &Frame, kind: u8, source: IpAddr, destination: IpAddr| {
        innermost(frame).is_some_and(|(_, packet)| {
            is_icmp(&packet)
                && (packet.source, packet.destination) == (source, destination)
                && packet.payload.first() == Some(&kind)
        })
    };
    let asked = wires.director.iter().any(|frame| frame.outgoing && is(frame, request, client, vip));
    let answered = wires.director.iter().any(|frame| !frame.outgoing && is(frame, reply, vip, client));
    ensure!(asked && answered, "the director did not answer the echo");
    for (name, frames) in &wires.servers {
        ensure!(!frames.iter().any(|frame| is(frame, request, client, vip)), "{name} was asked too");
    }
    Ok(())
}

impl Flow {
    fn is_request(&self, packet: &Packet<'_>) -> bool {
        let of_port = |(from, to): (u16, u16)| to == self.port && self.client_ports.contains(&from);
        packet.protocol == self.protocol
            && (packet.source, packet.destination) == (self.client, self.vip)
            && packet.ports().is_some_and(of_port)
    }

    fn is_reply(&self, packet: &Packet<'_>) -> bool {
        let of_port = |(from, to): (u16, u16)| from == self.port && self.client_ports.contains(&to);
        packet.protocol == self.protocol
            && (packet.source, packet.destination) == (self.vip, self.client)
            && packet.ports().is_some_and(of_port)
    }
}

/// Counts what the director sent on, and makes sure that it did so by that method alone.
fn deliveries(director: &[Frame], method: Method, is: impl Fn(&Packet<'_>) -> bool) -> anyhow::Result<usize> {
    let mut by_method = BTreeMap::<Method, usize>::new();
    for frame in director.iter().filter(|frame| !frame.outgoing) {
        if let Some((seen, packet)) = innermost(frame)
            && is(&packet)
        {
            *by_method.entry(seen).or_default() += 1;
        }
    }
    let delivered = by_method.remove(&method).unwrap_or_default();
    if let Some((other, count)) = by_method.first_key_value() {
        anyhow::bail!("{count} packets left the director by {other}, not by {method}");
    }
    ensure!(delivered > 0, "nothing left the director by {method}");
    Ok(delivered)
}

/// The packet in a frame, without its tunnel if it is in one.
fn innermost(frame: &Frame) -> Option<(Method, Packet<'_>)> {
    let outer = frame.packet()?;
    match outer.inner(Some(GUE_PORT)) {
        Some(inner) if outer.protocol == UDP => Some((Method::Gue, inner)),
        Some(inner) => Some((Method::Tunnel, inner)),
        None => Some((Method::L2, outer)),
    }
}

/// The packet in a frame, if it is in no tunnel.
fn plain(frame: &Frame) -> Option<Packet<'_>> {
    innermost(frame).and_then(|(method, packet)| (method == Method::L2).then_some(packet))
}

fn is_icmp(packet: &Packet<'_>) -> bool {
    packet.protocol == if packet.source.is_ipv4() { ICMPV4 } else { ICMPV6 }
}

/// The MTU that "fragmentation needed" (RFC 1191) or "packet too big" (RFC 4443) tells, and the packet that it quotes.
fn too_big<'a>(packet: &Packet<'a>) -> Option<(u32, Packet<'a>)> {
    let (head, quoted) = packet.payload.split_at_checked(8)?;
    let mtu = match (packet.source.is_ipv4(), head[0], head[1]) {
        (true, 3, 4) => u32::from(u16::from_be_bytes([head[6], head[7]])),
        (false, 2, 0) => u32::from_be_bytes([head[4], head[5], head[6], head[7]]),
        _ => return None,
    };
    if is_icmp(packet) { Some((mtu, Packet::parse(quoted)?)) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::time::SystemTime;

    const CLIENT: [u8; 4] = [198, 51, 100, 2];
    const VIP: [u8; 4] = [192, 0, 2, 100];
    const DIRECTOR: [u8; 4] = [192, 0, 2, 11];
    const SERVER: [u8; 4] = [203, 0, 113, 21];

    fn ipv4(source: [u8; 4], destination: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(20 + payload.len()).expect("short");
        let mut packet = vec![0x45, 0];
        packet.extend(length.to_be_bytes());
        packet.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
        packet.extend(source);
        packet.extend(destination);
        packet.extend(payload);
        packet
    }

    fn ports(from: u16, to: u16, more: &[u8]) -> Vec<u8> {
        [&from.to_be_bytes(), &to.to_be_bytes(), more].concat()
    }

    fn request() -> Vec<u8> {
        ipv4(CLIENT, VIP, TCP, &ports(40_000, 8080, &[0; 16]))
    }

    fn reply() -> Vec<u8> {
        ipv4(VIP, CLIENT, TCP, &ports(8080, 40_000, &[0; 16]))
    }

    fn in_tunnel(packet: &[u8]) -> Vec<u8> {
        ipv4(DIRECTOR, SERVER, 4, packet)
    }

    fn in_gue(packet: &[u8]) -> Vec<u8> {
        // Version 0, no options, IPv4 in it.
        let gue = [&[0, 4, 0, 0][..], packet].concat();
        ipv4(DIRECTOR, SERVER, UDP, &[ports(50_000, GUE_PORT, &[0; 4]), gue].concat())
    }

    fn frame(packet: &[u8], outgoing: bool) -> Frame {
        Frame { at: SystemTime::UNIX_EPOCH, outgoing, bytes: [&[0; 12][..], &[8, 0], packet].concat() }
    }

    fn flow() -> Flow {
        Flow {
            protocol: TCP,
            client: Ipv4Addr::from(CLIENT).into(),
            client_ports: BTreeSet::from([40_000]),
            vip: Ipv4Addr::from(VIP).into(),
            port: 8080,
        }
    }

    /// As it should be, delivered in that form.
    fn good(delivered: &[u8]) -> Wires {
        Wires {
            client: vec![frame(&request(), false), frame(&reply(), true)],
            director: vec![frame(&request(), true), frame(delivered, false)],
            servers: BTreeMap::from([
                ("far1".to_owned(), vec![frame(delivered, true), frame(&reply(), false)]),
                ("far2".to_owned(), Vec::new()),
            ]),
        }
    }

    #[track_caller]
    fn fails(wires: &Wires, method: Method, why: &str) {
        let error = judge(wires, &flow(), method).expect_err(why).to_string();
        assert!(error.contains(why), "{error}");
    }

    #[test]
    fn each_delivery_is_told_from_the_others() {
        let forms =
            [(Method::L2, request()), (Method::Tunnel, in_tunnel(&request())), (Method::Gue, in_gue(&request()))];
        for (method, delivered) in &forms {
            let passage = judge(&good(delivered), &flow(), *method).expect("direct server return");
            let servers = BTreeSet::from(["far1".to_owned()]);
            assert_eq!(passage, Passage { to_director: 1, delivered: 1, replies: 1, servers });
            for (other, _) in forms.iter().filter(|(other, _)| other != method) {
                fails(&good(delivered), *other, &format!("left the director by {method}, not by {other}"));
            }
        }
    }

    #[test]
    fn a_reply_by_way_of_the_director_is_a_failure() {
        for outgoing in [true, false] {
            for detour in [reply(), in_tunnel(&reply()), in_gue(&reply())] {
                let mut wires = good(&request());
                wires.director.push(frame(&detour, outgoing));
                fails(&wires, Method::L2, "by way of the director");
            }
        }
    }

    #[test]
    fn what_did_not_pass_is_a_failure() {
        let mut wires = good(&request());
        wires.client.pop();
        fails(&wires, Method::L2, "no reply came to the client");
        let mut wires = good(&request());
        wires.director.remove(0);
        fails(&wires, Method::L2, "no packet of the client came to the director");
        let mut wires = good(&request());
        wires.director.pop();
        fails(&wires, Method::L2, "nothing left the director");
        let mut wires = good(&request());
        wires.servers.clear();
        fails(&wires, Method::L2, "real servers sent 0");
        fails(&Wires::default(), Method::L2, "no packet of the client");
    }

    #[test]
    fn an_icmp_error_has_to_reach_the_owner_of_its_flow() {
        let error = |kind: u8| {
            let message = [&[kind, 4, 0, 0, 0, 0, 5, 120][..], &reply()].concat();
            ipv4([198, 51, 100, 1], VIP, ICMPV4, &message)
        };
        let mut wires = good(&request());
        wires.director.extend([frame(&error(3), true), frame(&in_tunnel(&error(3)), false)]);
        let told = wires.servers.get_mut("far1").expect("there");
        told.push(frame(&in_tunnel(&error(3)), true));
        let judged = judge_too_big(&wires, &flow(), Method::Tunnel).expect("delivered");
        assert_eq!(judged, ("far1".to_owned(), 1400));
        let stray = wires.servers.get_mut("far1").and_then(Vec::pop).expect("there");
        wires.servers.get_mut("far2").expect("there").push(stray);
        assert!(judge_too_big(&wires, &flow(), Method::Tunnel).is_err(), "the wrong server was told");
        // Another error says nothing about sizes.
        let mut wires = good(&request());
        wires.director.extend([frame(&error(11), true), frame(&error(11), false)]);
        assert!(judge_too_big(&wires, &flow(), Method::L2).is_err());
    }

    #[test]
    fn the_director_answers_echo_by_itself() {
        let echo = |kind: u8, from, to| ipv4(from, to, ICMPV4, &[kind, 0, 0, 0, 0, 1, 0, 1]);
        let (client, vip) = (Ipv4Addr::from(CLIENT).into(), Ipv4Addr::from(VIP).into());
        let mut wires = Wires {
            director: vec![frame(&echo(8, CLIENT, VIP), true), frame(&echo(0, VIP, CLIENT), false)],
            ..Wires::default()
        };
        assert!(judge_echo(&wires, client, vip).is_ok());
        wires.servers.insert("far1".to_owned(), vec![frame(&in_tunnel(&echo(8, CLIENT, VIP)), true)]);
        assert!(judge_echo(&wires, client, vip).is_err(), "a real server was asked");
        wires.servers.clear();
        wires.director.pop();
        assert!(judge_echo(&wires, client, vip).is_err(), "nobody answered");
    }
}
