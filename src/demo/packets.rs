//! Packets through VIPs: what a client sends over each delivery and each IP version, and what the wires saw of it. A step
//! is ok when the client got its answers *and* the captures prove the way.

use super::client::{Answer, Visit};
use super::laboratory::{HTTP_PORT, Laboratory, SPARE, STORE, Tier, UDP_PORT, VIP_PAIRS, VipPair};
use super::passage::{Flow, Method, TCP, UDP, Wires, judge, judge_echo, judge_too_big};
use super::report::Part;
use anyhow::{Context as _, ensure};
use serde_json::Value;
use sluicegate_echo::client::ClientTls;
use sluicegate_netlab::traffic::{ping, udp_ask};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a change may take. It takes milliseconds, and on a busy machine what it takes to be scheduled.
const CHANGE: Duration = Duration::from_secs(20);
/// Connections of one step, and how many at most until every real server has answered one.
const CONNECTIONS: usize = 8;
const MOST_CONNECTIONS: usize = 64;
/// Bytes of an answer that does not fit into one packet of the narrow wire.
const LONG_ANSWER: usize = 20_000;
/// The MTU of the first narrow wire, in bytes; each further one is smaller, since hosts remember what they were told.
const NARROW: u32 = 1400;
const NARROWER_BY: u32 = 8;
/// What a packet needs to come to its end after its answer was read.
const AFTERMATH: Duration = Duration::from_millis(20);

const TITLE: &str = "Packets: to a VIP by way of the director, and back without it, as captures show";

/// Goes through all of it. Ends early where the laboratory is cancelled.
pub fn tour(laboratory: &Laboratory, say: &dyn Fn(&str)) -> anyhow::Result<Part> {
    let mut part = Part::new(TITLE);
    let mut mtu = NARROW;
    for pair in VIP_PAIRS {
        say(&format!("packets: {} to {}, over IPv4 and IPv6", pair.method, pair.tier));
        for vip in pair.addresses() {
            laboratory.ensure_not_cancelled()?;
            let trials = match pair.tier {
                Tier::Gateways => through_gateways(laboratory, vip),
                Tier::Near | Tier::Far => to_plain_servers(laboratory, pair, vip, mtu),
            };
            mtu -= NARROWER_BY;
            trials.with_context(|| format!("{} {vip}", pair.method))?.judge_into(laboratory, pair, &mut part);
        }
    }
    laboratory.ensure_not_cancelled()?;
    say("packets: a real server is added while packets flow");
    live_change(laboratory, &mut part);
    Ok(part)
}

/// What was tried under one watch.
struct Trials {
    vip: IpAddr,
    wires: Wires,
    trials: Vec<Trial>,
}

/// One step, done and not yet judged.
struct Trial {
    what: String,
    sent: String,
    took: Duration,
    proof: Proof,
    /// What came back, in words.
    back: anyhow::Result<String>,
}

/// What the wires have to show.
enum Proof {
    /// Requests by way of the director, replies past it.
    Bypass(Flow),
    /// As `Bypass`, and an ICMP error that found the flow's real server.
    TooBig(Flow),
    /// The director answers.
    Echo,
}

impl Trials {
    fn judge_into(self, laboratory: &Laboratory, pair: VipPair, part: &mut Part) {
        let client = laboratory.client().address_like(self.vip);
        for trial in self.trials {
            let seen = trial.back.and_then(|back| self.wires.show(&trial.proof, pair, client, self.vip, back));
            part.add_timed(trial.what, trial.sent, trial.took, seen);
        }
    }
}

impl Wires {
    /// The way that the packets took, and what came back.
    fn show(
        &self,
        proof: &Proof,
        pair: VipPair,
        client: IpAddr,
        vip: IpAddr,
        back: String,
    ) -> anyhow::Result<(String, String)> {
        let method = pair.method;
        match proof {
            Proof::Echo => {
                judge_echo(self, client, vip)?;
                Ok(("client1 -> director1 -> client1".to_owned(), back))
            }
            Proof::Bypass(flow) => {
                let passage = judge(self, flow, method)?;
                let servers = passage.servers.into_iter().collect::<Vec<_>>().join(", ");
                let way = format!("client1 -> director1 -{method}-> {servers} -> client1");
                let packets = counted(passage.to_director, "packet", "packets");
                let replies = counted(passage.replies, "reply", "replies");
                Ok((way, format!("{back}; {packets} in by director1, {replies} past it")))
            }
            Proof::TooBig(flow) => {
                let passage = judge(self, flow, method)?;
                let (server, mtu) = judge_too_big(self, flow, method)?;
                let way = format!("router -> director1 -{method}-> {server}, which has the flow");
                let replies = counted(passage.replies, "reply", "replies");
                Ok((way, format!("told MTU {mtu}; {back}, {replies} past it")))
            }
        }
    }
}

fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// TCP, UDP, and ICMP in both of its uses, to echo servers that hold the VIP.
fn to_plain_servers(laboratory: &Laboratory, pair: VipPair, vip: IpAddr, mtu: u32) -> anyhow::Result<Trials> {
    let watch = laboratory.watch(pair.tier, vip)?;
    let trials = vec![
        tcp(laboratory, pair, vip),
        udp(laboratory, pair, vip),
        echo(laboratory, pair, vip),
        too_big(laboratory, pair, vip, mtu)?,
    ];
    std::thread::sleep(AFTERMATH);
    Ok(Trials { vip, wires: watch.stop(), trials })
}

fn name(pair: VipPair, what: &str, vip: IpAddr) -> String {
    format!("{}, {what} over {}", pair.method, if vip.is_ipv4() { "IPv4" } else { "IPv6" })
}

fn http(vip: IpAddr, port: u16, path: &str) -> Visit {
    let to = SocketAddr::new(vip, port);
    Visit { to, host: to.to_string(), path: path.to_owned(), tls: None, http2: false, headers: Vec::new() }
}

/// Connections until every real server has answered.
fn tcp(laboratory: &Laboratory, pair: VipPair, vip: IpAddr) -> Trial {
    let begun = Instant::now();
    let client = laboratory.client().address_like(vip);
    let mut flow = Flow { protocol: TCP, client, client_ports: BTreeSet::new(), vip, port: HTTP_PORT };
    let mut play = || -> anyhow::Result<String> {
        let mut missing: BTreeSet<&str> = pair.tier.bound().collect();
        let request = http(vip, HTTP_PORT, "/");
        while flow.client_ports.len() < CONNECTIONS || !missing.is_empty() {
            ensure!(
                flow.client_ports.len() < MOST_CONNECTIONS,
                "{missing:?} answered none of {MOST_CONNECTIONS} requests"
            );
            let (answer, port) = laboratory.visit(&request)?;
            ensure!(answer.status == 200, "status {}", answer.status);
            let peer: SocketAddr = answer.said("peer").parse().context("whom did the server see?")?;
            ensure!(
                peer.ip().to_canonical() == client && peer.port() == port,
                "the server saw {peer} and not the client, {client}"
            );
            missing.remove(answer.said("pod").as_str());
            flow.client_ports.insert(port);
        }
        Ok(format!("{} x 200", flow.client_ports.len()))
    };
    let back = play();
    Trial {
        what: name(pair, "TCP", vip),
        sent: format!("GET http://{}/", SocketAddr::new(vip, HTTP_PORT)),
        took: begun.elapsed(),
        proof: Proof::Bypass(flow),
        back,
    }
}

fn udp(laboratory: &Laboratory, pair: VipPair, vip: IpAddr) -> Trial {
    let begun = Instant::now();
    let client = laboratory.client();
    let to = SocketAddr::new(vip, UDP_PORT);
    let mut flow =
        Flow { protocol: UDP, client: client.address_like(vip), client_ports: BTreeSet::new(), vip, port: UDP_PORT };
    let mut play = || -> anyhow::Result<String> {
        let reply = udp_ask(&client.namespace, to, b"hello", PATIENCE)?;
        ensure!(reply.payload == b"hello", "another datagram came back");
        flow.client_ports.insert(reply.client_port);
        Ok("\"hello\"".to_owned())
    };
    let back = play();
    Trial {
        what: name(pair, "UDP", vip),
        sent: format!("\"hello\" to {to}"),
        took: begun.elapsed(),
        proof: Proof::Bypass(flow),
        back,
    }
}

fn echo(laboratory: &Laboratory, pair: VipPair, vip: IpAddr) -> Trial {
    let begun = Instant::now();
    let pinged = ping(&laboratory.client().namespace, vip, 56, PATIENCE);
    Trial {
        what: name(pair, "ICMP echo", vip),
        sent: format!("ping {vip}"),
        took: begun.elapsed(),
        proof: Proof::Echo,
        back: pinged.map(|_| "director1 answers by itself, in XDP".to_owned()).map_err(Into::into),
    }
}

/// An answer that does not fit through a narrow wire on its way to the client. The router says so to the VIP, which only
/// helps where the director hands it to the very real server.
fn too_big(laboratory: &Laboratory, pair: VipPair, vip: IpAddr, mtu: u32) -> anyhow::Result<Trial> {
    laboratory.narrow(Some(mtu))?;
    let begun = Instant::now();
    let path = format!("/bytes/{LONG_ANSWER}");
    let visited = laboratory.visit(&http(vip, HTTP_PORT, &path));
    let took = begun.elapsed();
    laboratory.narrow(None)?;
    let client = laboratory.client().address_like(vip);
    let mut flow = Flow { protocol: TCP, client, client_ports: BTreeSet::new(), vip, port: HTTP_PORT };
    let back = visited.and_then(|(answer, port)| {
        flow.client_ports.insert(port);
        ensure!(answer.body.len() == LONG_ANSWER, "{} bytes came back", answer.body.len());
        Ok(format!("all {LONG_ANSWER} bytes"))
    });
    Ok(Trial {
        what: name(pair, "ICMP too big", vip),
        sent: format!("GET {path}, wire of {mtu} bytes"),
        took,
        proof: Proof::TooBig(flow),
        back,
    })
}

/// HTTP and HTTPS to the gateways behind the VIP, and on to a pod.
fn through_gateways(laboratory: &Laboratory, vip: IpAddr) -> anyhow::Result<Trials> {
    let watch = laboratory.watch(Tier::Gateways, vip)?;
    let trials = vec![store(laboratory, vip, 80)?, store(laboratory, vip, 443)?];
    std::thread::sleep(AFTERMATH);
    Ok(Trials { vip, wires: watch.stop(), trials })
}

fn store(laboratory: &Laboratory, vip: IpAddr, port: u16) -> anyhow::Result<Trial> {
    let is_tls = port == 443;
    let (scheme, tls) = match is_tls {
        true => ("https", Some(ClientTls::trust(&laboratory.certificate().pem)?)),
        false => ("http", None),
    };
    let client = laboratory.client().address_like(vip);
    let visit = Visit { host: STORE.to_owned(), tls, http2: is_tls, ..http(vip, port, "/") };
    let mut flow = Flow { protocol: TCP, client, client_ports: BTreeSet::new(), vip, port };
    let begun = Instant::now();
    let mut play = || -> anyhow::Result<String> {
        let mut words = String::new();
        for _ in 0..CONNECTIONS {
            let (answer, port) = laboratory.visit(&visit)?;
            flow.client_ports.insert(port);
            words = served_by_store(&answer, client)?;
        }
        let version = if is_tls { " over HTTP/2" } else { "" };
        Ok(format!("{CONNECTIONS} x 200{version} {words}"))
    };
    let back = play();
    Ok(Trial {
        what: format!("L7 tier, {} over {}", scheme.to_uppercase(), if vip.is_ipv4() { "IPv4" } else { "IPv6" }),
        sent: format!("GET {scheme}://{STORE}/, {vip}"),
        took: begun.elapsed(),
        proof: Proof::Bypass(flow),
        back,
    })
}

/// The gateway knows the client, though the packets came through a director, and says so to the pod.
fn served_by_store(answer: &Answer, client: IpAddr) -> anyhow::Result<String> {
    ensure!(answer.status == 200, "status {} ({})", answer.status, answer.header("x-sluicegate-reason"));
    ensure!(answer.said("service") == "store", "{:?} answered", answer.said("service"));
    let body: Value = serde_json::from_slice(&answer.body)?;
    let header = |name: &str| body["headers"][name][0].as_str().unwrap_or_default().to_owned();
    let told = header("x-forwarded-for");
    let same = told.parse::<IpAddr>().is_ok_and(|told| told.to_canonical() == client);
    ensure!(same, "the pod was told of {told:?} as the client, not of {client}");
    let trace = header("traceparent");
    let trace = if trace.is_empty() { trace } else { format!(", traceparent {trace}") };
    Ok(format!("from pod {}, which was told X-Forwarded-For {told}{trace}", answer.said("pod")))
}

/// A line more in a manifest, and a line less: when the director knows it, and when the real server answers.
fn live_change(laboratory: &Laboratory, part: &mut Part) {
    let [vip, _] = VIP_PAIRS[0].addresses();
    let play = || -> anyhow::Result<(String, String)> {
        let begun = Instant::now();
        let before = laboratory.edit("near.yaml", |text| {
            text.replacen(
                "  - addresses: [\"192.0.2.22\"]\n",
                "  - addresses: [\"192.0.2.22\"]\n  - addresses: [\"192.0.2.23\"]\n",
                1,
            )
        })?;
        until(|| Ok(laboratory.vips()?.to_string().contains("192.0.2.23")), "the director does not know it")?;
        let known = begun.elapsed();
        let request = http(vip, HTTP_PORT, "/");
        until(|| Ok(laboratory.visit(&request)?.0.said("pod") == SPARE), "it does not answer")?;
        let answers = begun.elapsed();
        laboratory.edit("near.yaml", |_| before)?;
        until(|| Ok(!laboratory.vips()?.to_string().contains("192.0.2.23")), "the director still knows it")?;
        let back = format!("known after {:.1} ms, first answer after {:.1} ms", millis(known), millis(answers));
        Ok((format!("client1 -> director1 -{}-> {SPARE} -> client1", Method::L2), back))
    };
    let begun = Instant::now();
    part.add("live change", format!("add {SPARE} to near.yaml, ask, remove it again"), begun, play());
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn until(mut is_so: impl FnMut() -> anyhow::Result<bool>, otherwise: &str) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !is_so()? {
        ensure!(begun.elapsed() < CHANGE, "{otherwise} after {CHANGE:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
