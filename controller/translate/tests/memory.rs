//! Memory of twenty thousand Ingresses. It is a file of its own because it looks at its own process.

mod big;

use big::{INGRESSES, NOW, class, ingress, secrets, service, slice};
use sluicegate_config::Settings;
use sluicegate_translate::Controller;

#[test]
#[ignore = "needs /proc and some seconds"]
fn memory_per_thousand_ingresses() {
    let mut controller = Controller::new(Settings::default());
    controller.apply([class()].into_iter().chain(secrets()), NOW);
    let before = resident();
    // Small batches, as from a watch: what is measured is what is kept, not what was handed over.
    for n in 0..INGRESSES {
        controller.apply([service(n), slice(n, 0), ingress(n, "/")], NOW);
    }
    let grown = resident().saturating_sub(before);
    let per_thousand = grown / (INGRESSES / 1000);
    println!("objects and desired state: {} KiB per 1,000 Ingresses (to reach: 4096)", per_thousand / 1024);
    assert!(per_thousand <= 4 << 20, "{per_thousand} bytes per 1,000 Ingresses");
    assert_eq!(controller.desired().routes.len(), INGRESSES);
}

/// Resident memory in bytes. The workspace forbids unsafe code, and with it a counting allocator.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    let kib: usize = line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number");
    kib << 10
}
