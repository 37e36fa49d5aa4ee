//! `cargo xtask …`: tasks of the repository that need more than cargo itself. It is no part of the
//! product.

mod ebpf;

use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask ebpf [--check] [PROGRAM...]

  ebpf           builds the eBPF programs into dataplane/xdp/prebuilt/ and records the toolchain
  ebpf --check   builds them elsewhere and compares: 0 = equal, or another toolchain than the recorded one;
                 1 = they differ though the toolchain is the same; 2 = the toolchain is missing
  PROGRAM        only these (file names without .rs in dataplane/xdp/src/bin/)";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["ebpf", "--check", programs @ ..] => ebpf::check(programs),
        ["ebpf", programs @ ..] => ebpf::build_into_place(programs),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("cargo xtask ebpf: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}
