//! Never two owners of a VIP, whatever becomes of directors and of the network between them: real directors
//! (`sluicegate run`), a switch that snoops, a host that asks for every VIP fifty times a second by ARP and neighbour
//! solicitation, and captures of who answers.

mod ownership_site;

use ownership_site::{LEASE, PATIENCE, Plan, Since, Site, TENURE, distinct, signal};
use rustix::process::Signal;
use sluicegate_announce::{DirectorId, frame, ranking};
use sluicegate_netlab::{Direction, WireOptions};
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

/// Between a visible death and a claim of another director: no earlier than the fence can end, which is pushed every 100 ms.
const VISIBLE: [Duration; 2] = [Duration::from_millis(350), Duration::from_secs(1)];
/// The same where a director falls silent: nobody gives its vote away before the lease has run out, counted from its last
/// heartbeat, which may be some old on a loaded machine.
const SILENT: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(4)];

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn three_directors_replace_one_that_dies_stops_or_is_cut_off() {
    let mut site = Site::new(Plan { directors: 3, vips: 3, ..Plan::default() });
    let at_first = site.owners();
    println!("spread: {at_first:?}");
    assert!(distinct(&at_first).len() > 1, "VIPs are spread: {at_first:?}");

    // Killed: its VIPs move and no others, and they stay when it comes back.
    let victim = *at_first.values().max().expect("owners");
    let witness = (victim + 1) % 3;
    let vips = site.vips_of(victim);
    let since = Since::now();
    site.directors[victim].kill().expect("killed");
    site.assert_taken_over("killed", &vips, victim, since, VISIBLE);
    for (vip, owner) in at_first.iter().filter(|(_, owner)| **owner != victim) {
        let moved =
            site.claims_since(since.wall).into_iter().find(|claim| claim.vip == *vip && claim.director != *owner);
        assert!(moved.is_none(), "{vip} of director{owner} has nothing to do with it: {moved:?}");
    }
    site.come_back(victim);
    site.wait_until_fit(victim, witness);
    site.assert_silent("no failback", victim, &site.vips, Duration::from_secs(2));

    // Stopped for longer than the lease: replaced, and silent when it goes on.
    let victim = *site.owners().values().next().expect("owners");
    let vips = site.vips_of(victim);
    let since = Since::now();
    site.directors[victim].freeze().expect("stopped");
    site.assert_taken_over("stopped", &vips, victim, since, SILENT);
    site.directors[victim].thaw().expect("goes on");
    site.assert_silent("goes on", victim, &vips, Duration::from_secs(3));

    // Its cable is pulled: the carrier says so to itself alone.
    let victim = *site.owners().values().next().expect("owners");
    let vips = site.vips_of(victim);
    let since = Since::now();
    site.lab.lan.unplug(site.namespace(victim)).expect("unplugged");
    site.assert_taken_over("cable pulled", &vips, victim, since, SILENT);
    site.lab.lan.plug(site.namespace(victim)).expect("plugged in");
    site.wait_until_fit(victim, (victim + 1) % 3);
    site.assert_silent("plugged in again", victim, &vips, Duration::from_secs(2));

    // Cut off from the other directors, while all of them reach clients: the majority serves.
    let victim = *site.owners().values().next().expect("owners");
    let vips = site.vips_of(victim);
    let others: Vec<usize> = (0..3).filter(|other| *other != victim).collect();
    let since = Since::now();
    let cuts: Vec<_> = others
        .iter()
        .map(|other| site.lab.lan.partition(site.namespace(victim), site.namespace(*other)).expect("a partition"))
        .collect();
    site.assert_taken_over("cut off from both", &vips, victim, since, SILENT);
    site.assert_silent("the minority", victim, &site.vips, Duration::from_secs(1));
    drop(cuts);
    site.wait_until_fit(victim, others[0]);
    site.assert_silent("healed", victim, &vips, Duration::from_secs(2));

    // Two of three do not hear each other, and the third hears both: nothing moves.
    let before = site.owners();
    let since = SystemTime::now();
    let cut = site.lab.lan.partition(site.namespace(others[0]), site.namespace(others[1])).expect("a partition");
    std::thread::sleep(LEASE + Duration::from_secs(2));
    let moved = site.claims_since(since).into_iter().find(|claim| before.get(&claim.vip) != Some(&claim.director));
    assert!(moved.is_none(), "{moved:?}\n{}", site.log());
    drop(cut);
    site.assert_never_two_owners();
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn failback_returns_vips_between_machines_with_other_clocks() {
    let mut site = Site::new(Plan { directors: 3, vips: 3, failback: true, shifted_clocks: true, ..Plan::default() });
    let names: Vec<DirectorId> =
        (0..3).map(|number| DirectorId::new(&format!("director{number}")).expect("a name")).collect();
    let best = |vip: &IpAddr| names.iter().position(|name| name == ranking(*vip, &names)[0]);
    let is_home = |site: &Site| site.vips.iter().all(|vip| site.owner(*vip) == best(vip));
    site.wait("every VIP is where it should be", is_home);
    // The one whose clocks are far ahead: nothing of it may last longer or shorter for that.
    let victim = 2;
    let vips = site.vips_of(victim);
    assert!(!vips.is_empty() && vips.len() < site.vips.len(), "VIPs are spread: {:?}", site.owners());
    let since = Since::now();
    site.directors[victim].freeze().expect("stopped");
    site.assert_taken_over("stopped, with other clocks", &vips, victim, since, SILENT);
    site.directors[victim].kill().expect("killed");
    site.come_back(victim);
    let begun = Instant::now();
    site.wait("every VIP is back where it should be", is_home);
    println!("failback after {} ms, of which it settles for 10 s", begun.elapsed().as_millis());
    assert!(begun.elapsed() >= Duration::from_secs(10), "it has to be fit for 10 s");
    for (vip, pulse) in &site.pulses {
        let silence = pulse.longest_silence_since(begun);
        assert!(silence < Duration::from_secs(3), "{vip}: no answer for {silence:?} during failback");
    }
    site.assert_never_two_owners();
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn two_directors_that_release_leave_one_owner_or_none() {
    let mut site = Site::new(Plan::default());
    // The first name has the deciding vote: under a partition it serves everything, the other one nothing.
    site.move_all_to(1);
    assert_eq!(site.state(0)["director"]["deciding_vote"], "mine");
    let since = Since::now();
    let cut = site.lab.lan.partition(site.namespace(0), site.namespace(1)).expect("a partition");
    site.assert_taken_over("partition of two, release", &site.vips, 1, since, SILENT);
    site.assert_silent("partition of two, release", 1, &site.vips, Duration::from_secs(2));
    site.wait("director0 serves every VIP", |site| site.vips_of(0) == site.vips);
    drop(cut);
    site.wait_until_fit(1, 0);
    site.assert_silent("healed", 1, &site.vips, Duration::from_secs(1));

    // The one with the deciding vote is stopped: nothing is served, which is the price, until it goes on.
    site.directors[0].freeze().expect("stopped");
    std::thread::sleep(Duration::from_secs(1));
    site.assert_silent("the other one stopped", 0, &site.vips, Duration::from_secs(1));
    site.assert_silent("without the deciding vote", 1, &site.vips, LEASE);
    let since = SystemTime::now();
    site.directors[0].thaw().expect("goes on");
    site.wait("somebody serves every VIP", |site| site.vips.iter().all(|vip| site.owner(*vip).is_some()));
    let claims = site.claims_since(since);
    let first = claims.first().expect("claims");
    println!("goes on: claimed after {} ms", first.at.duration_since(since).unwrap_or_default().as_millis());

    // It dies visibly: the deciding vote passes, and stays where it is when the dead one comes back.
    site.wait("director0 serves every VIP", |site| site.vips_of(0) == site.vips);
    site.wait_until_fit(0, 1);
    let since = Since::now();
    site.directors[0].kill().expect("killed");
    site.assert_taken_over("killed, of two", &site.vips, 0, since, VISIBLE);
    site.come_back(0);
    site.wait_until_fit(0, 1);
    assert_eq!(site.state(1)["director"]["deciding_vote"], "mine");
    site.assert_silent("no failback", 0, &site.vips, Duration::from_secs(1));
    site.assert_never_two_owners();
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn two_directors_that_hold_serve_both_sides_and_settle_on_one() {
    let mut site = Site::new(Plan { hold: true, ..Plan::default() });
    // Stopped, with the deciding vote: the other one goes on alone, and the stopped one does not answer again.
    site.move_all_to(0);
    let since = Since::now();
    site.directors[0].freeze().expect("stopped");
    site.assert_taken_over("stopped, hold", &site.vips, 0, since, SILENT);
    site.directors[0].thaw().expect("goes on");
    site.assert_silent("goes on, hold", 0, &site.vips, Duration::from_secs(3));
    site.wait_until_fit(0, 1);

    // Between two that live, a partition gives two owners: that is what was asked for. Healed, one of them lets go.
    let begun = SystemTime::now();
    let cut = site.lab.lan.partition(site.namespace(0), site.namespace(1)).expect("a partition");
    site.wait("both sides are served", |site| {
        let claims = site.claims_since(SystemTime::now() - Duration::from_secs(1));
        let served = |vip: IpAddr, by: usize| claims.iter().any(|claim| claim.vip == vip && claim.director == by);
        site.vips.iter().all(|vip| served(*vip, 0) && served(*vip, 1))
    });
    println!("partition of two, hold: both serve after {} ms", begun.elapsed().unwrap_or_default().as_millis());
    drop(cut);
    let healed = Instant::now();
    let is_one = |site: &Site| {
        let claims = site.claims_since(SystemTime::now() - Duration::from_secs(1));
        let owners = |vip: IpAddr| {
            (0..2).filter(|by| claims.iter().any(|claim| claim.vip == vip && claim.director == *by)).count()
        };
        let owners: Vec<usize> = site.vips.iter().map(|vip| owners(*vip)).collect();
        owners.iter().all(|owners| *owners == 1)
    };
    site.wait("one of them serves", is_one);
    println!("healed, hold: one owner after {} ms", healed.elapsed().as_millis());
    site.excuse(begun);
    std::thread::sleep(Duration::from_secs(2));
    assert!(is_one(&site), "one owner, and it stays so: {:?}", site.owners());
    site.assert_never_two_owners();
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_second_path_carries_heartbeats_through_delay_and_loss() {
    let slow = WireOptions { delay: Duration::from_millis(40), ..WireOptions::default() };
    let site = Site::new(Plan { second_path: Some(slow), ..Plan::default() });
    let _loss = site.namespace(0).lose("eth1", Direction::Both, 0.05).expect("loss");
    site.move_all_to(1);
    // Both paths have to be there.
    std::thread::sleep(Duration::from_secs(2));
    let before = site.owners();
    let since = SystemTime::now();
    let cut = site.lab.lan.partition(site.namespace(0), site.namespace(1)).expect("a partition");
    std::thread::sleep(LEASE * 2 + Duration::from_secs(2));
    let moved = site.claims_since(since).into_iter().find(|claim| before.get(&claim.vip) != Some(&claim.director));
    assert!(moved.is_none(), "the slow path alone, and something moved: {moved:?}\n{}", site.log());
    assert!(site.vips.iter().all(|vip| site.owner(*vip).is_some()), "{:?}", site.owners());
    // Without the second path too, the one with the deciding vote goes on.
    let since = Since::now();
    site.namespace(0).set_link("eth1", false).expect("down");
    site.assert_taken_over("the second path cut too", &site.vips, 1, since, SILENT);
    drop(cut);
    // The first path heals: nothing moves back.
    site.wait_until_fit(1, 0);
    site.assert_silent("healed", 1, &site.vips, Duration::from_secs(1));
    site.assert_never_two_owners();
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_cordoned_director_hands_over_and_strangers_are_reported() {
    let mut site = Site::new(Plan::default());
    // Cordoned: everything is with the other one, and no client has noticed.
    site.move_all_to(0);
    let lost_before = site.unanswered();
    let asked = |site: &Site| site.pulses.values().map(|pulse| pulse.counts().0).sum::<u64>();
    let asked_before = asked(&site);
    site.pulses.values().for_each(|pulse| pulse.rest(false));
    std::thread::sleep(TENURE);
    let since = Since::now();
    let vips = site.vips_of(0);
    let (ok, said) = site.ask(0, &["cordon"]);
    assert!(ok && said.contains("director0 is cordoned and holds no virtual IP"), "{said}");
    for vip in &vips {
        let (_, after) = site.taken_over(*vip, 0, since.wall);
        println!("cordoned: {vip} to director1 {} ms after the command began", after.as_millis());
    }
    site.assert_silent("cordoned", 0, &site.vips, Duration::from_secs(1));
    site.wait("director1 serves every VIP", |site| site.vips_of(1) == site.vips);
    let lost = site.unanswered().saturating_sub(lost_before);
    println!("cordoned: {lost} of {} questions were not answered", asked(&site) - asked_before);
    assert_eq!(lost, 0, "questions were lost\n{}", site.log());
    site.pulses.values().for_each(|pulse| pulse.rest(false));
    let state = site.state(0);
    assert_eq!((&state["director"]["cordoned"], &state["director"]["fit"]), (&true.into(), &false.into()), "{state:#}");
    assert!(state["vips"].as_array().expect("VIPs").iter().all(|vip| vip["owner"] == "director1"), "{state:#}");

    // The last one that is fit is not cordoned by mistake.
    let (ok, said) = site.ask(1, &["cordon"]);
    assert!(!ok && said.contains("no other director is there and fit"), "{said}");
    assert!(site.ask(0, &["uncordon"]).0);
    site.wait_until_fit(0, 1);
    site.assert_silent("uncordoned, no failback", 0, &site.vips, Duration::from_secs(1));

    snooping_switch_needs_the_report(&site);
    strangers_are_reported(&mut site);
    site.assert_never_two_owners();
}

/// A switch that snoops delivers solicitations to those that reported the group: without the report the owner is not asked.
fn snooping_switch_needs_the_report(site: &Site) {
    let vip: IpAddr = *site.vips.iter().find(|vip| vip.is_ipv6()).expect("a VIP");
    let unheard = site.lab.lan.drop_multicast_reports(site.namespace(0)).expect("a fault");
    let IpAddr::V6(target) = vip else { return };
    let asked = move |frame: &sluicegate_netlab::Frame| frame.outgoing && frame.is_neighbor_solicitation_for(target);
    let capture = site.lab.lan.capture_if(site.namespace(0), asked).expect("a capture");
    let to_all = |frame: &sluicegate_netlab::Frame| frame.destination_mac().is_some_and(|mac| mac[0] & 1 == 1);
    // It was in the group before; without a report the switch forgets it after its membership interval.
    site.wait("the switch has forgotten director0", |_| {
        let before = capture.count(to_all);
        std::thread::sleep(Duration::from_secs(1));
        capture.count(to_all) == before
    });
    let capture = site.lab.lan.capture_if(site.namespace(0), asked).expect("a capture");
    let since = SystemTime::now();
    assert!(site.ask(1, &["cordon"]).0);
    // Announced, so that those who know the VIP find it; but never asked.
    site.taken_over(vip, 1, since);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(capture.count(to_all), 0, "solicitations reached a director whose reports are lost");
    drop(unheard);
    // The switch asks who is in the group every 2 s, and is told.
    let reached = capture.wait_for(to_all, PATIENCE);
    assert!(reached.is_some(), "no solicitation reaches the director that joined");
    site.wait("the director answers for it", |site| site.owner(vip) == Some(0));
    assert!(site.ask(1, &["uncordon"]).0);
    site.wait_until_fit(1, 0);
}

/// A host that has taken a VIP for itself is shown by the owner and by the one that stands by, and logged once.
fn strangers_are_reported(site: &mut Site) {
    let [vip4, vip6] = [site.vips[0], site.vips[1]];
    let stranger = site.lab.lab.namespace("stranger").expect("a host");
    site.lab.lan.attach(&stranger, "eth0", WireOptions::default()).expect("a port");
    for vip in [vip4, vip6] {
        let length = if vip.is_ipv4() { 32 } else { 128 };
        stranger.add_address("eth0", &format!("{vip}/{length}")).expect("an address");
    }
    let mac = stranger.mac("eth0").expect("a MAC address");
    let shown = mac.map(|byte| format!("{byte:02x}")).join(":");
    let sees = |site: &Site, director: usize, vip: IpAddr| {
        let state = site.state(director);
        let vips = state["vips"].as_array().cloned().unwrap_or_default();
        vips.iter().any(|known| known["address"] == vip.to_string() && known["conflict"]["mac"] == shown)
    };
    // Who stands by asks every ten seconds; the owner hears of it when the stranger announces itself.
    site.wait("the director that stands by sees both", |site| sees(site, 1, vip4) && sees(site, 1, vip6));
    let sender = stranger.frame_sender("eth0").expect("a sender");
    for frame in [vip4, vip6].iter().flat_map(|vip| frame::announcement(mac, *vip)) {
        sender.send(&frame).expect("sent");
    }
    site.wait("the owner sees both", |site| sees(site, 0, vip4) && sees(site, 0, vip6));
    let (_, table) = site.ask(0, &["vips"]);
    assert!(table.contains(&format!("CLAIMED BY {shown}")), "{table}");
    std::thread::sleep(Duration::from_secs(12));
    for director in 0..2 {
        let log = site.log_of(director);
        let said = log.lines().filter(|line| line.contains("somebody else says") && line.contains(&shown)).count();
        assert_eq!(said, 2, "once for each VIP\n{log}");
    }
    signal(&site.directors[1], Signal::TERM);
    site.directors[1].wait(PATIENCE).expect("it has ended");
}
