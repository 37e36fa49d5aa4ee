//! Running a loaded XDP program once, without an interface (`BPF_PROG_TEST_RUN`).

use aya::programs::{ProgramError, TestRun, Xdp};
use aya::{TestRunAttrs, TestRunOptions};
use std::time::Duration;

/// Room for what a program may put in front of a frame.
const HEADROOM: usize = 256;

/// What an XDP program made of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// `XDP_ABORTED` 0, `XDP_DROP` 1, `XDP_PASS` 2, `XDP_TX` 3, `XDP_REDIRECT` 4.
    pub action: u32,
    /// The frame as the program left it.
    pub frame: Vec<u8>,
    /// Time of one run, the mean over all repeats.
    pub duration: Duration,
}

/// Runs a program on one frame, as if it had come in on the loopback interface of this network namespace.
///
/// With `repeat` above 1 each run gets what the one before left: the kernel does not restore the frame.
///
/// # Errors
/// The kernel refuses frames below 14 bytes and above a page (less headroom), and callers without CAP_BPF and
/// CAP_NET_ADMIN.
pub fn run(program: &Xdp, frame: &[u8], repeat: u32) -> Result<Ran, ProgramError> {
    run_from(program, frame, repeat, None)
}

/// The same, as if the frame had come in on queue 0 of this interface, which must have a driver with XDP.
///
/// # Errors
/// As [`run`]; also where this namespace has no such interface.
pub fn run_from(program: &Xdp, frame: &[u8], repeat: u32, ingress: Option<u32>) -> Result<Ran, ProgramError> {
    let mut out = vec![0; frame.len() + HEADROOM];
    let context = ingress.map(|ingress| context(frame.len(), ingress));
    let result = program.test_run(TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut out),
        ctx_in: context.as_ref().map(<[u8; 24]>::as_slice),
        repeat,
        ..TestRunOptions::default()
    })?;
    out.truncate(result.data_size_out as usize);
    Ok(Ran { action: result.return_value, frame: out, duration: result.duration })
}

/// Sends frames in earnest: each run's frame goes where the program says, with `XDP_TX` out of this interface, which
/// must have a driver with XDP. Frames are made `batch` at a time and used again: the program finds what an earlier run left
/// in one, at its first place and length.
///
/// # Errors
/// As [`run_from`]; also before Linux 5.18.
pub fn send(program: &Xdp, frame: &[u8], repeat: u32, ingress: u32, batch: u32) -> Result<(), ProgramError> {
    program.test_run(TestRunOptions {
        data_in: Some(frame),
        ctx_in: Some(&context(frame.len(), ingress)),
        repeat,
        attrs: TestRunAttrs::new().xdp_live_frames(batch),
        ..TestRunOptions::default()
    })?;
    Ok(())
}

/// `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
fn context(length: usize, ingress: u32) -> [u8; 24] {
    let mut bytes = [0; 24];
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    bytes[4..8].copy_from_slice(&length.to_ne_bytes());
    bytes[12..16].copy_from_slice(&ingress.to_ne_bytes());
    bytes
}
