//! Who takes part.

use super::katran::Katran;
use super::rig::{PORT, Rig, of};
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

/// A contestant: what is there while it has its turn.
pub struct Contestant {
    name: &'static str,
    way: Way,
    present: Option<Present>,
}

enum Way {
    /// This native XDP program.
    Xdp { object: Ebpf, program: &'static str },
    /// Katran, with maps of its own.
    Katran(Katran),
    /// The kernel's forwarding.
    Routing,
    /// The kernel's forwarding with destination NAT over 100 real servers.
    Nat,
}

enum Present {
    Link(XdpLinkId),
    Passing { _attached: Attachment },
}

/// All that can take part here, the ceiling first.
pub fn all(katran: Option<&Path>) -> anyhow::Result<Vec<Contestant>> {
    let mut replay = EbpfLoader::new().load(sluicegate_xdp::REPLAY).context("the replaying object")?;
    xdp(&mut replay, "floor_0")?.load()?;
    let mut push = EbpfLoader::new().load(sluicegate_xdp::REPLAY).context("the replaying object")?;
    xdp(&mut push, "floor_20")?.load()?;
    let mut all = vec![
        Contestant::new("bare XDP_TX", Way::Xdp { object: replay, program: "floor_0" }),
        Contestant::new("bare push of 20 bytes", Way::Xdp { object: push, program: "floor_20" }),
    ];
    for (name, delivery) in [("Sluicegate, L2", Delivery::L2), ("Sluicegate, TUNNEL", Delivery::Tunnel)] {
        let mut director = EbpfLoader::new().load(sluicegate_xdp::DIRECTOR).context("the director's object")?;
        fill_maps(&mut director, &of(delivery)?)?;
        xdp(&mut director, "director")?.load()?;
        all.push(Contestant::new(name, Way::Xdp { object: director, program: "director" }));
    }
    match katran {
        Some(object) => all.push(Contestant::new("Katran, IPIP", Way::Katran(Katran::load(object)?))),
        None => eprintln!("Katran does not take part: no --katran OBJECT"),
    }
    all.push(Contestant::new("kernel routing", Way::Routing));
    match Command::new("nft").arg("--version").stdout(Stdio::null()).status() {
        Ok(_) => all.push(Contestant::new("nftables DNAT", Way::Nat)),
        Err(error) => eprintln!("nftables does not take part: nft: {error}"),
    }
    Ok(all)
}

impl Contestant {
    fn new(name: &'static str, way: Way) -> Self {
        Self { name, way, present: None }
    }

    /// Its name in the report.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Takes its place at the end under test.
    pub fn begin(&mut self, rig: &Rig) -> anyhow::Result<()> {
        let attach = |object: &mut Ebpf, program: &str| -> anyhow::Result<Present> {
            let program = xdp(object, program)?;
            let link = rig.under_test.run(|| program.attach(PORT, XdpMode::Driver));
            Ok(Present::Link(link.context("cannot attach in native mode")?))
        };
        self.present = Some(match &mut self.way {
            Way::Xdp { object, program } => attach(object, program)?,
            Way::Katran(katran) => {
                katran.send_to(rig.sender_mac)?;
                attach(katran.object(), Katran::PROGRAM)?
            }
            Way::Routing => Present::Passing { _attached: rig.under_test.accept_xdp_frames(PORT)? },
            Way::Nat => {
                nft(rig, &destination_nat())?;
                Present::Passing { _attached: rig.under_test.accept_xdp_frames(PORT)? }
            }
        });
        Ok(())
    }

    /// Gives its place up.
    pub fn end(&mut self, rig: &Rig) -> anyhow::Result<()> {
        let present = self.present.take();
        match (&mut self.way, present) {
            (Way::Xdp { object, program }, Some(Present::Link(link))) => xdp(object, program)?.detach(link)?,
            (Way::Katran(katran), Some(Present::Link(link))) => {
                xdp(katran.object(), Katran::PROGRAM)?.detach(link)?;
            }
            (Way::Nat, _) => nft(rig, "flush ruleset\n")?,
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

fn nft(rig: &Rig, rules: &str) -> anyhow::Result<()> {
    rig.under_test.run(|| {
        let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        nft.stdin.take().context("nft has no standard input")?.write_all(rules.as_bytes())?;
        let ended = nft.wait_with_output()?;
        if !ended.status.success() {
            bail!("nft: {}", String::from_utf8_lossy(&ended.stderr).trim());
        }
        Ok(())
    })
}
