//! The built eBPF objects, and how to run one once. It decides nothing: the programs (`src/bin/`) are the packet path of
//! `sluicegate-l4` over the kernel's maps.
//!
//! The objects are committed, so that building Sluicegate needs no eBPF toolchain. `cargo xtask ebpf` builds them anew,
//! `prebuilt/TOOLCHAIN` names what they were built with.
#![cfg_attr(target_arch = "bpf", no_std)]

pub mod replay;
#[cfg(not(target_arch = "bpf"))]
pub mod row;
#[cfg(not(target_arch = "bpf"))]
pub mod test_run;

/// The director: program `director` (XDP, also for frames of several parts) over the maps of `sluicegate_l4::layout::map`,
/// and program `clock`.
#[cfg(not(target_arch = "bpf"))]
pub static DIRECTOR: &[u8] = aya::include_bytes_aligned!("../prebuilt/director.o");

/// Programs `replay4`, `replay6` and the floors `floor_*`, to time another program with: maps `SCRIPT` ([`replay::Script`]),
/// `TURN` and `NEXT` (the program that is timed).
#[cfg(not(target_arch = "bpf"))]
pub static REPLAY: &[u8] = aya::include_bytes_aligned!("../prebuilt/replay.o");

/// The real server: programs `unwrap` (XDP, also for frames of several parts) and `clamp` (classifier) over the maps of
/// `sluicegate_dsr::layout::map`.
#[cfg(not(target_arch = "bpf"))]
pub static BACKEND: &[u8] = aya::include_bytes_aligned!("../prebuilt/backend.o");

/// The director's own packets: program `probe` (classifier) over the director's map `BACKENDS`.
#[cfg(not(target_arch = "bpf"))]
pub static EGRESS: &[u8] = aya::include_bytes_aligned!("../prebuilt/egress.o");
