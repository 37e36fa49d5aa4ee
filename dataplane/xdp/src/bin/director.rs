//! The director in XDP: the packet path of `sluicegate-l4` over the kernel's frame and maps. It decides nothing itself.
//!
//! `director` and `director_frags` are the same program; the second also takes frames that lie in several parts (jumbo
//! frames), of which it asks the kernel the length. `clock` writes the jiffies of this moment into `CLOCK`, for who programs
//! the deadlines.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]
#![cfg_attr(
    target_arch = "bpf",
    allow(
        unsafe_code,
        unused_unsafe,
        missing_docs,
        reason = "frames and maps are the kernel's memory, whose verifier proves each access; the macros of maps and programs"
    )
)]

#[cfg(target_arch = "bpf")]
#[path = "director/frame.rs"]
mod frame;
#[cfg(target_arch = "bpf")]
#[path = "director/program.rs"]
mod program;
#[cfg(target_arch = "bpf")]
#[path = "director/sample.rs"]
mod sample;
#[cfg(target_arch = "bpf")]
#[path = "director/tables.rs"]
mod tables;

#[cfg(not(target_arch = "bpf"))]
fn main() {
    eprintln!("director is a program for the kernel: build it with 'cargo xtask ebpf'");
}
