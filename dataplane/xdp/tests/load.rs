//! The verifier takes the committed objects.

use aya::programs::Xdp;
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
