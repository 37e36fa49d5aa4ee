//! `tap`: what passes through the running gateway, live.

mod packets;
mod requests;

pub use packets::TapLines;
pub use requests::RequestLines;

use crate::Failure;
use crate::cli::TapArguments;

/// Shows requests, or packets where they are asked for.
pub fn tap(arguments: &TapArguments) -> Result<(), Failure> {
    if arguments.packet { packets::watch(arguments) } else { requests::watch(arguments) }
}
