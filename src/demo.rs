//! stand-in
use crate::{Failure, cli::DemoArguments};
pub fn demo(_: &DemoArguments) -> Result<(), Failure> {
    Err(Failure::Silent)
}
