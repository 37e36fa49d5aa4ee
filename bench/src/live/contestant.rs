//! Who takes part.

use super::katran::Katran;
use super::rig::{PORT, Rig, of};
use super::user_space::{self, UserSpace};
use crate::packet::harness::xdp;
use crate::packet::scenario::Delivery;
use crate::packet::tables::{VIP4, fill_maps};
use anyhow::{Context as _, bail};
use aya::programs::XdpMode;
use aya::programs::xdp::XdpLinkId;
use aya::{Ebpf, EbpfLoader};
use sluicegate_netlab::Attachment;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// What everything is measured against: the wire itself.
pub const BARE: &str = "bare XDP_TX";
/// The kernel's forwarding.
pub const ROUTING: &str = "kernel routing";
/// Katran.
pub const KATRAN: &str = "Katran, IPIP";
/// The engine that is expected of a driver with XDP.
pub const TUNNEL: &str = "Sluicegate, TUNNEL";
/// The engine in user space.
pub const USER_SPACE: &str = "Sluicegate, TUNNEL, AF_PACKET";

/// A contestant: what is there while it has its turn.
pub struct Contestant {
    name: &'static str,
    way: Way,
    present: Option<Present>,
}

enum Way {
    /// This XDP program.
    Xdp { object: Ebpf, program: &'static str, mode: XdpMode },
    /// Katran, with maps of its own.
    Katran(Katran),
    /// The forwarder with packet sockets.
    UserSpace,
    /// The kernel's forwarding.
    Routing,
    /// The kernel's forwarding with destination NAT over 100 real servers.
    Nat,
    /// IPVS with direct routing to 100 real servers.
    Ipvs,
}

enum Present {
    Link(XdpLinkId),
    Passing { _attached: Attachment },
    UserSpace(Box<UserSpace>),
}

/// All that can take part here, the ceiling first, and who cannot, each with the reason.
pub fn all(rig: &Rig, katran: Option<&Path>) -> anyhow::Result<(Vec<Contestant>, Vec<String>)> {
    let mut all = vec![floor(BARE, "floor_0")?, floor("bare push of 20 bytes", "floor_20")?];
    for (name, delivery, mode) in [
        ("Sluicegate, L2", Delivery::L2, XdpMode::Driver),
        (TUNNEL, Delivery::Tunnel, XdpMode::Driver),
        ("Sluicegate, L2, generic XDP", Delivery::L2, XdpMode::Skb),
        ("Sluicegate, TUNNEL, generic XDP", Delivery::Tunnel, XdpMode::Skb),
    ] {
        let mut object = EbpfLoader::new().load(sluicegate_xdp::DIRECTOR).context("the director's object")?;
        fill_maps(&mut object, &of(delivery)?)?;
        xdp(&mut object, "director")?.load()?;
        all.push(Contestant::new(name, Way::Xdp { object, program: "director", mode }));
    }
    all.push(Contestant::new(USER_SPACE, Way::UserSpace));
    let mut absent = Vec::new();
    match katran {
        Some(object) => all.push(Contestant::new(KATRAN, Way::Katran(Katran::load(object)?))),
        None => absent.push("Katran does not take part: no --katran OBJECT".to_owned()),
    }
    all.push(Contestant::new(ROUTING, Way::Routing));
    let probes: [(&str, Way, &[&str]); 2] =
        [("nftables DNAT", Way::Nat, &["nft", "list", "ruleset"]), ("IPVS, DR", Way::Ipvs, &["ipvsadm", "--list"])];
    for (name, way, probe) in probes {
        match answers(rig, probe) {
            Ok(()) => all.push(Contestant::new(name, way)),
            Err(reason) => absent.push(format!("{name} does not take part: {reason}")),
        }
    }
    Ok((all, absent))
}

fn floor(name: &'static str, program: &'static str) -> anyhow::Result<Contestant> {
    let mut object = EbpfLoader::new().load(sluicegate_xdp::REPLAY).context("the replaying object")?;
    xdp(&mut object, program)?.load()?;
    Ok(Contestant::new(name, Way::Xdp { object, program, mode: XdpMode::Driver }))
}

impl Contestant {
    fn new(name: &'static str, way: Way) -> Self {
        Self { name, way, present: None }
    }

    /// Its name in the report.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Whether it is the wire itself, which loses nothing.
    pub fn is_floor(&self) -> bool {
        self.name == BARE
    }

    /// Frames that may be under way at a time, where there is a queue to overflow.
    pub fn part(&self) -> Option<u32> {
        matches!(self.way, Way::UserSpace).then_some(user_space::PART)
    }

    /// Takes its place at the end under test.
    pub fn begin(&mut self, rig: &Rig) -> anyhow::Result<()> {
        let attach = |object: &mut Ebpf, program: &str, mode: XdpMode| -> anyhow::Result<Present> {
            let program = xdp(object, program)?;
            let link = rig.under_test.run(|| program.attach(PORT, mode));
            Ok(Present::Link(link.with_context(|| format!("cannot attach in mode {mode:?}"))?))
        };
        self.present = Some(match &mut self.way {
            Way::Xdp { object, program, mode } => {
                // Without a native program here, the frames of the other end arrive where segments are merged.
                rig.under_test.merge_received_segments(PORT, matches!(mode, XdpMode::Skb))?;
                attach(object, program, *mode)?
            }
            Way::Katran(katran) => {
                katran.send_to(rig.sender_mac)?;
                attach(katran.object(), Katran::PROGRAM, XdpMode::Driver)?
            }
            Way::UserSpace => Present::UserSpace(Box::new(UserSpace::begin(rig)?)),
            Way::Routing => Present::Passing { _attached: rig.under_test.accept_xdp_frames(PORT)? },
            Way::Nat => {
                told(rig, &["nft", "-f", "-"], &destination_nat())?;
                Present::Passing { _attached: rig.under_test.accept_xdp_frames(PORT)? }
            }
            Way::Ipvs => {
                rig.under_test.add_address("lo", &format!("{VIP4}/32"))?;
                told(rig, &["ipvsadm", "--restore"], &direct_routing())?;
                Present::Passing { _attached: rig.under_test.accept_xdp_frames(PORT)? }
            }
        });
        Ok(())
    }

    /// Gives its place up.
    pub fn end(&mut self, rig: &Rig) -> anyhow::Result<()> {
        match (&mut self.way, self.present.take()) {
            (Way::Xdp { object, program, mode }, Some(Present::Link(link))) => {
                xdp(object, program)?.detach(link)?;
                if matches!(mode, XdpMode::Skb) {
                    rig.under_test.merge_received_segments(PORT, false)?;
                }
            }
            (Way::Katran(katran), Some(Present::Link(link))) => {
                xdp(katran.object(), Katran::PROGRAM)?.detach(link)?;
            }
            (Way::UserSpace, Some(Present::UserSpace(forwarder))) => forwarder.end()?,
            (Way::Nat, _) => told(rig, &["nft", "-f", "-"], "flush ruleset\n")?,
            (Way::Ipvs, _) => {
                told(rig, &["ipvsadm", "--clear"], "")?;
                rig.under_test.remove_address("lo", &format!("{VIP4}/32"))?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// Each flow to one of 100 real servers, as kube-proxy does: picked once, remembered by connection tracking.
fn destination_nat() -> String {
    let reals: Vec<String> = (0..100).map(|real| format!("{real} : 198.51.100.{}", real + 1)).collect();
    format!(
        "table ip bench {{\n  chain prerouting {{\n    type nat hook prerouting priority -100;\n    \
         ip daddr {VIP4} tcp dport 80 dnat to numgen random mod 100 map {{ {} }}\n  }}\n}}\n",
        reals.join(", ")
    )
}

/// Each flow to one of 100 real servers by the Maglev scheduler of IPVS.
fn direct_routing() -> String {
    let reals = (1..=100).map(|real| format!("-a -t {VIP4}:80 -r 198.51.100.{real}:80 -g -w 1\n"));
    format!("-A -t {VIP4}:80 -s mh\n{}", reals.collect::<String>())
}

/// Whether a program is there and the kernel has what it asks for; else why not.
fn answers(rig: &Rig, command: &[&str]) -> Result<(), String> {
    told(rig, command, "").map_err(|error| format!("{error:#}"))
}

/// Runs a program at the end under test, with that on its standard input.
fn told(rig: &Rig, command: &[&str], input: &str) -> anyhow::Result<()> {
    let (program, arguments) = command.split_first().context("no program")?;
    rig.under_test.run(|| {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| (*program).to_owned())?;
        // One that does not read it says why when it ends.
        let _unread = child.stdin.take().context("no standard input")?.write_all(input.as_bytes());
        let ended = child.wait_with_output()?;
        if !ended.status.success() {
            bail!("{program}: {}", String::from_utf8_lossy(&ended.stderr).trim());
        }
        Ok(())
    })
}
