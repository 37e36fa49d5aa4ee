//! One owner at any time: directors in a simulated network, with everything that goes wrong in one.
//!
//! Each run is a function of its seed. `SEED=n cargo test --test model` repeats one; `RUNS=n` does more.

mod network;

use network::{Fault, WITH_API, World};
use sluicegate_announce::OnIsolation;
use std::env;

fn number(name: &str, or: u64) -> u64 {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(or)
}

fn seeds(runs: u64) -> impl Iterator<Item = u64> {
    let (first, runs) = match env::var("SEED") {
        Ok(_) => (number("SEED", 0), 1),
        Err(_) => (0, number("RUNS", runs)),
    };
    first..first + runs
}

/// A world in which everything is well, after it has settled.
fn settled(seed: u64, directors: usize, on_isolation: OnIsolation) -> World {
    let mut world = World::new(seed, directors, on_isolation);
    world.run(8_000);
    world.assert_all_served("at the beginning");
    world
}

#[test]
fn never_two_owners_whatever_happens() {
    for seed in seeds(1_200) {
        let directors = 1 + usize::try_from(seed % 3).expect("small");
        let mut world = World::new(seed, directors, OnIsolation::Release);
        world.be_unlucky(12_000);
        world.heal();
        // A lease to notice, a lease until restarted voters vote, and the network's own delays.
        world.run(9_000);
        world.assert_all_served_soon("after everything has healed");
    }
}

#[test]
fn no_wall_clock_is_read() {
    // Stepping it can move nothing; clocks of other rates and offsets are what every world here has.
    fn read(folder: &std::path::Path, count: &mut usize) {
        for entry in std::fs::read_dir(folder).expect("the sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                read(&path, count);
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("a source");
            *count += text.matches("ClockId::Boottime").count();
            for clock in ["SystemTime", "UNIX_EPOCH", "Realtime"] {
                assert!(!text.contains(clock), "{} reads {clock}", path.display());
            }
        }
    }
    let mut boot_clocks = 0;
    read(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut boot_clocks);
    assert_eq!(boot_clocks, 1, "one place reads the time, and that is the time since boot");
}

#[test]
fn two_that_hold_are_two_owners_only_while_they_hear_nothing_of_each_other() {
    let faults = [Fault::Stop, Fault::Kill, Fault::Restart, Fault::Carrier, Fault::Release, Fault::Able];
    for seed in seeds(400) {
        let mut world = World::new(seed, 2, OnIsolation::Hold);
        world.be_unlucky_with(&faults, 12_000);
        world.heal();
        world.run(9_000);
        world.assert_all_served_soon("after everything has healed");
    }
}

#[test]
fn hold_keeps_an_owner_on_both_sides_and_settles_on_one() {
    let mut world = settled(1, 2, OnIsolation::Hold);
    world.allow_two_owners = true;
    world.cut(0, 1);
    world.run(5_000);
    assert!(world.most_owners() == 2, "each of the two serves its side");
    world.heal();
    world.run(3_000);
    world.allow_two_owners = false;
    world.run(3_000);
    world.assert_all_served("after the partition");
}

#[test]
fn a_visible_death_takes_less_than_a_second() {
    for seed in seeds(100) {
        for directors in [2, 3] {
            let mut world = settled(seed, directors, OnIsolation::Release);
            let victim = world.pick(directors);
            // A packet lost at this moment adds its retransmission.
            world.loses = false;
            world.run(500);
            world.kill(victim);
            world.run(1_000);
            world.assert_all_served("a second after a process was killed");
            world.restart(victim);
            world.run(8_000);
            world.assert_all_served("with the process back");
        }
    }
}

#[test]
fn silence_takes_a_lease_and_less_than_a_second() {
    for seed in seeds(100) {
        let mut world = settled(seed, 3, OnIsolation::Release);
        let victim = world.pick(3);
        match world.pick(3) {
            0 => world.stop(victim),
            1 => world.isolate(victim),
            _ => world.power_off(victim),
        }
        world.run(4_000);
        world.assert_all_served("a lease and a second after a director fell silent");
        world.heal();
        world.run(8_000);
        world.assert_all_served("with the director back");
    }
}

#[test]
fn two_survive_the_silence_of_the_one_without_the_deciding_vote() {
    let mut world = settled(7, 2, OnIsolation::Release);
    world.stop(1);
    world.run(4_000);
    world.assert_all_served("the one whose name sorts first has the deciding vote");
    let mut world = settled(7, 2, OnIsolation::Release);
    world.stop(0);
    world.run(30_000);
    assert_eq!(world.most_owners(), 0, "what the rule costs");
    world.heal();
    world.run(1_000);
    world.assert_all_served("when it goes on");
}

#[test]
fn a_release_hands_over_without_waiting() {
    for seed in seeds(100) {
        for directors in [2, 3] {
            let mut world = settled(seed, directors, OnIsolation::Release);
            world.loses = false;
            world.run(500);
            world.release(0);
            world.run(150);
            world.assert_all_served("before a fence would have run out");
        }
    }
}

/// Directors that have found each other through an API server.
fn joined(seed: u64, directors: usize) -> World {
    let mut world = World::of_cluster(seed, directors, directors);
    world.run(10_000 + 6_000 * u64::try_from(directors).expect("few"));
    assert_eq!(world.members().len(), directors, "{:?}{}", world.members(), world.trace());
    world.assert_all_served("once all have joined");
    world
}

#[test]
fn memberships_that_change_never_have_two_owners() {
    for seed in seeds(150) {
        let directors = 2 + usize::try_from(seed % 4).expect("small");
        let mut world =
            World::of_cluster(seed, directors, 1 + usize::try_from(seed % 3).expect("small").min(directors - 1));
        world.be_unlucky_every(1_500, WITH_API, 60_000);
        world.heal();
        world.run(20_000 + 8_000 * u64::try_from(directors).expect("few"));
        world.assert_all_served_soon("after everything has healed");
        assert_eq!(world.members().len(), directors, "{:?}{}", world.members(), world.trace());
    }
}

#[test]
fn one_serves_alone_and_takes_others_in_without_an_interruption() {
    // Odd ones have no failback, which would move VIPs.
    for seed in seeds(12).map(|seed| seed * 2 + 1) {
        let mut world = World::of_cluster(seed, 4, 1);
        world.loses = false;
        world.run(9_000);
        world.assert_all_served("alone");
        for next in 1..4 {
            world.restart(next);
            world.run_served(16_000, "while another one joins");
            assert_eq!(world.members().len(), next + 1, "{:?}{}", world.members(), world.trace());
        }
    }
}

#[test]
fn directors_that_start_together_share_what_there_is() {
    for seed in seeds(20).map(|seed| seed * 2 + 1) {
        let world = joined(seed, 2);
        // As rendezvous hashing has it.
        assert_eq!((world.owner(0), world.owner(1)), (Some(1), Some(0)), "{}", world.trace());
    }
}

#[test]
fn directors_go_on_for_ten_minutes_without_the_api_server() {
    for seed in seeds(1).map(|seed| seed * 2 + 1) {
        for directors in [1, 2, 3] {
            let mut world = joined(seed, directors);
            world.loses = false;
            world.set_api_down(true);
            world.run_served(300_000, "without the API server");
            if directors > 1 {
                let victim = world.owner_of_something();
                world.kill(victim);
                world.run(1_000);
            }
            world.run_served(300_000, "without the API server and an owner");
            world.set_api_down(false);
            world.run_served(30_000, "with the API server back");
            world.heal();
            world.run(20_000);
            assert_eq!(world.members().len(), directors, "{:?}{}", world.members(), world.trace());
        }
    }
}

#[test]
fn an_owner_that_dies_is_replaced_without_the_api_server() {
    for seed in seeds(6) {
        for directors in [2, 3, 5] {
            let mut world = joined(seed, directors);
            world.loses = false;
            world.set_api_down(true);
            world.run(30_000);
            let victim = world.owner_of_something();
            world.kill(victim);
            world.run(1_000);
            world.assert_all_served("a second after an owner was killed, without the API server");
            // It starts again, and knows nothing before the API server is back.
            world.restart(victim);
            world.run(30_000);
            world.assert_all_served("with its process back");
            world.set_api_down(false);
            world.run(20_000);
            world.assert_all_served("with the API server back");
            assert_eq!(world.members().len(), directors, "{:?}{}", world.members(), world.trace());
        }
    }
}

#[test]
fn an_owner_that_stops_is_replaced_without_the_api_server() {
    for seed in seeds(6) {
        let mut world = joined(seed, 3);
        world.loses = false;
        world.set_api_down(true);
        world.run(10_000);
        let victim = world.owner_of_something();
        world.stop(victim);
        world.run(4_000);
        world.assert_all_served("a lease and a second after an owner was stopped, without the API server");
        world.run(60_000);
        world.set_api_down(false);
        // Left out, it goes on, and is taken in again.
        world.run(30_000);
        assert_eq!(world.members().len(), 2, "{:?}{}", world.members(), world.trace());
        world.heal();
        world.run(20_000);
        world.assert_all_served("when it goes on");
        assert_eq!(world.members().len(), 3, "{:?}{}", world.members(), world.trace());
    }
}

#[test]
fn the_last_of_two_serves_alone_and_one_of_many_that_are_gone_too() {
    for seed in seeds(6) {
        // The others have ended by themselves, died visibly, or an operator deleted their Leases.
        for directors in [2, 3, 4] {
            let mut world = joined(seed, directors);
            for other in 1..directors {
                match (seed + u64::try_from(other).expect("few")) % 3 {
                    0 => world.end(other),
                    1 => world.kill(other),
                    _ => {
                        world.power_off(other);
                        world.delete_lease(other);
                    }
                }
            }
            world.run(60_000);
            world.assert_all_served("alone");
            assert_eq!(world.members().len(), 1, "{:?}{}", world.members(), world.trace());
        }
    }
}

#[test]
fn a_director_takes_the_place_of_one_that_has_ended() {
    for seed in seeds(6) {
        let mut world = World::of_cluster(seed, 2, 1);
        world.run(4_000);
        world.assert_all_served("the first one, alone");
        world.end(0);
        world.run(1_000);
        world.restart(1);
        world.run(20_000);
        world.assert_all_served("the second one, alone");
        assert_eq!(world.members().len(), 1);
        // One that lost its power may come back and is waited for, until an operator says that it does not.
        world.power_off(1);
        world.restart(0);
        world.run(60_000);
        assert_eq!(world.most_owners(), 0, "what the rule costs");
        world.delete_lease(1);
        world.run(20_000);
        world.assert_all_served("after an operator has deleted the Lease");
    }
}
