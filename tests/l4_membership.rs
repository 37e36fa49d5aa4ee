//! Directors of a cluster find each other by Leases, and go on without its API server: real directors (`sluicegate run`), an
//! API server beside them, and the judge of `l4_ownership`: a host that asks for every VIP all the time, and captures of who answers.

mod ownership_site;

use ownership_site::{LEASE, PATIENCE, Plan, Since, Site, TENURE, signal};
use rustix::process::Signal;
use sluicegate_apiserver::Fault;
use std::time::{Duration, SystemTime};

/// As in `l4_ownership`.
const VISIBLE: [Duration; 2] = [Duration::from_millis(350), Duration::from_secs(1)];
const SILENT: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(4)];

fn of_cluster(directors: u8, late: u8) -> Site {
    Site::new(Plan { directors, late, cluster: true, ..Plan::default() })
}

/// Waits until these directors know each other.
fn wait_for_members(site: &Site, directors: &[usize]) {
    let names: Vec<String> = directors.iter().map(|number| format!("director{number}")).collect();
    for director in directors {
        site.wait(&format!("director{director} knows {names:?}"), |site| site.members(*director) == names);
    }
}

fn holder(site: &Site, name: &str) -> String {
    let lease = site.api().object("Lease", "sluicegate-system", name).expect("a Lease");
    lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn directors_join_die_and_return_with_and_without_the_api_server() {
    let mut site = of_cluster(3, 2);
    // One serves alone, and takes the others in while it serves.
    wait_for_members(&site, &[0]);
    assert_eq!(site.vips_of(0), site.vips);
    let begun = Since::now();
    for next in 1..3 {
        site.start_next();
        wait_for_members(&site, &(0..=next).collect::<Vec<_>>());
    }
    println!("two have joined after {} ms", begun.at.elapsed().as_millis());
    site.wait_until_fit(1, 2);
    let moved = site.claims_since(begun.wall).into_iter().find(|claim| claim.director != 0);
    assert!(moved.is_none(), "nothing moves when others join: {moved:?}\n{}", site.log());
    for (vip, pulse) in &site.pulses {
        let silence = pulse.longest_silence_since(begun.at);
        assert!(silence < Duration::from_secs(1), "{vip}: no answer for {silence:?} while others joined");
    }
    assert_eq!(holder(&site, "sluicegate-director-director1"), "director1");
    assert_eq!(holder(&site, "sluicegate-directors"), "director0,director1,director2");
    // Members are known by the record a heartbeat before they are heard.
    site.wait("director1 tells of all three, and hears them", |site| {
        site.ask(1, &["vips"]).1.contains("director0, director1 (this one), director2; the Lease was renewed")
    });

    // Without the API server nothing moves, and who owns is replaced as with it.
    site.api().go_down();
    let since = SystemTime::now();
    std::thread::sleep(LEASE * 3);
    let moved = site.claims_since(since).into_iter().find(|claim| claim.director != 0);
    assert!(moved.is_none(), "nothing moves when the API server goes: {moved:?}\n{}", site.log());
    let vips = site.vips_of(0);
    let since = Since::now();
    site.directors[0].kill().expect("killed");
    site.assert_taken_over("killed, without the API server", &vips, 0, since, VISIBLE);
    // Started again it owns nothing: who the directors are it cannot know.
    site.come_back(0);
    site.assert_silent("started without the API server", 0, &site.vips, Duration::from_secs(3));

    site.api().come_back();
    site.wait_until_fit(0, 1);
    site.assert_silent("back", 0, &site.vips, Duration::from_secs(1));
    wait_for_members(&site, &[0, 1, 2]);

    // Stopped for longer than the lease, and cut off with the API server on its side: the majority serves.
    let victim = *site.owners().values().next().expect("owners");
    let vips = site.vips_of(victim);
    let since = Since::now();
    site.directors[victim].freeze().expect("stopped");
    site.assert_taken_over("stopped", &vips, victim, since, SILENT);
    site.directors[victim].thaw().expect("goes on");
    site.assert_silent("goes on", victim, &vips, Duration::from_secs(2));

    // One that ends gives its Lease back.
    signal(&site.directors[2], Signal::TERM);
    site.directors[2].wait(PATIENCE).expect("it has ended");
    assert_eq!(holder(&site, "sluicegate-director-director2"), "");
    site.wait("somebody serves every VIP", |site| site.vips.iter().all(|vip| site.owner(*vip).is_some()));
    site.assert_never_two_owners();
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn two_of_a_cluster_have_a_deciding_vote_and_one_without_rights_holds_nothing() {
    let mut site = of_cluster(2, 1);
    wait_for_members(&site, &[0]);
    // Who may not read Leases says so, and takes part in nothing.
    site.api().faults().set(|seen| {
        let is_forbidden = seen.resource == "leases" && matches!(seen.verb, "list" | "watch");
        is_forbidden.then_some(Fault::Refuse(http::StatusCode::FORBIDDEN, "Forbidden"))
    });
    site.api().cut_watches();
    site.start_next();
    site.wait("director1 says what it may not do", |site| {
        let state = site.state(1);
        let trouble = state["director"]["membership"]["trouble"].as_str().unwrap_or_default().to_owned();
        trouble
            .contains("forbids to list, watch leases in namespace sluicegate-system; give the service account the rule")
    });
    let state = site.state(1);
    assert_eq!(state["director"]["membership"]["is_member"], false, "{state:#}");
    site.wait("director1 is not ready for that", |site| {
        let reasons = site.state(1)["not_ready_reasons"].to_string();
        reasons.contains("the cluster's record of directors does not have this one yet: the API server forbids")
    });
    site.assert_silent("without rights", 1, &site.vips, Duration::from_secs(1));
    assert_eq!(site.vips_of(0), site.vips, "the other one goes on");
    site.api().faults().clear();
    wait_for_members(&site, &[0, 1]);
    site.wait_until_fit(1, 0);
    assert_eq!(site.state(0)["director"]["deciding_vote"], "mine");

    nodes_keep_their_directors_from_holding_vips(&site);

    // Without the API server, the one with the deciding vote goes on alone, and the other one after its death.
    site.api().go_down();
    let since = SystemTime::now();
    let cut = site.lab.lan.partition(site.namespace(0), site.namespace(1)).expect("a partition");
    std::thread::sleep(LEASE + Duration::from_secs(1));
    let moved = site.claims_since(since).into_iter().find(|claim| claim.director != 0);
    assert!(moved.is_none(), "{moved:?}\n{}", site.log());
    drop(cut);
    site.wait_until_fit(1, 0);
    // The deciding vote passes with the death of one that has answered within a lease: they talk for some heartbeats first.
    std::thread::sleep(Duration::from_secs(1));
    let since = Since::now();
    site.directors[0].kill().expect("killed");
    site.assert_taken_over("killed, of two, without the API server", &site.vips, 0, since, VISIBLE);

    site.api().come_back();
    site.come_back(0);
    wait_for_members(&site, &[0, 1]);
    site.wait_until_fit(0, 1);
    site.assert_silent("back", 0, &site.vips, Duration::from_secs(1));
    assert_eq!(site.vips_of(1), site.vips);
    site.assert_never_two_owners();
}

/// `kubectl cordon`, and the label, move VIPs to and fro; the last one that is cordoned goes on.
fn nodes_keep_their_directors_from_holding_vips(site: &Site) {
    const LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
    let node = |number: usize, is_cordoned: bool, is_labelled: bool| {
        let mut node = serde_json::json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("director{number}"), "labels": {}},
            "spec": {"unschedulable": is_cordoned},
        });
        if is_labelled {
            node["metadata"]["labels"][LABEL] = "".into();
        }
        site.api().put(node).expect("a Node");
    };
    let lost_before = site.unanswered();
    site.pulses.values().for_each(|pulse| pulse.rest(false));
    std::thread::sleep(TENURE);
    node(0, true, false);
    site.wait("director1 serves every VIP, as kubectl cordon wants it", |site| site.vips_of(1) == site.vips);
    let reason = site.state(0)["director"]["reason"].to_string();
    assert!(reason.contains("its Node is unschedulable"), "{reason}");
    node(1, true, false);
    site.assert_silent("both are cordoned, and one goes on", 0, &site.vips, Duration::from_secs(4));
    assert_eq!(site.vips_of(1), site.vips);
    node(0, false, false);
    site.wait("director0 serves every VIP", |site| site.vips_of(0) == site.vips);
    let lost = site.unanswered().saturating_sub(lost_before);
    assert_eq!(lost, 0, "questions were lost by cordons\n{}", site.log());
    site.pulses.values().for_each(|pulse| pulse.rest(false));
    node(1, false, true);
    site.wait("director1 is kept out by the label", |site| {
        site.state(1)["director"]["reason"].to_string().contains(LABEL)
    });
    node(0, false, true);
    site.wait("nobody serves where all have the label", |site| site.owners().is_empty());
    node(0, false, false);
    site.wait("director0 serves every VIP again", |site| site.vips_of(0) == site.vips);
    node(1, false, false);
    site.wait_until_fit(1, 0);
}
