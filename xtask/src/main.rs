//! `cargo xtask …`: tasks of the repository that need more than cargo itself. It is no part of the
//! product.

fn main() -> std::process::ExitCode {
    eprintln!("usage: cargo xtask ebpf");
    std::process::ExitCode::from(2)
}
