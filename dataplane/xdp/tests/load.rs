//! The verifier takes the committed objects.

use aya::programs::{SchedClassifier, Xdp};
use aya::{EbpfLoader, VerifierLogLevel};

#[test]
#[ignore = "needs root: loads eBPF programs"]
fn the_verifier_takes_the_director() {
    let level =
        if std::env::var_os("VERIFIER_LOG").is_some() { VerifierLogLevel::DEBUG } else { VerifierLogLevel::STATS };
    let mut object = EbpfLoader::new()
        .verifier_log_level(level | VerifierLogLevel::STATS)
        .load(sluicegate_xdp::DIRECTOR)
        .expect("the object");
    for name in ["director", "director_frags", "clock"] {
        let program: &mut Xdp = object.program_mut(name).expect(name).try_into().expect("an XDP program");
        program.load().unwrap_or_else(|why| panic!("{name}: {why:?}"));
        println!("jited {} bytes", program.info().expect("info").size_jitted());
        let instructions = program.info().expect("what the kernel says of it").verified_instruction_count();
        println!("{name}: {instructions:?} instructions verified");
    }
}

/// How long a verifier looks at a program is how long it takes to load; old ones follow more ways, to a million at most.
#[test]
#[ignore = "needs root: loads eBPF programs"]
fn the_verifier_does_not_look_long_at_programs_of_pods() {
    let mut object = EbpfLoader::new().load(sluicegate_xdp::BACKEND).expect("the object");
    for name in ["to_pod", "clamp"] {
        let program: &mut SchedClassifier = object.program_mut(name).expect(name).try_into().expect("a classifier");
        program.load().unwrap_or_else(|why| panic!("{name}: {why:?}"));
        let instructions = program.info().expect("what the kernel says of it").verified_instruction_count();
        println!("{name}: {instructions:?} instructions verified");
        assert!(instructions.is_none_or(|count| count < 200_000), "{name}: {instructions:?}");
    }
}
