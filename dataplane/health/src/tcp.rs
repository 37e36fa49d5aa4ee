//! A TCP connection that opens.

use crate::failure::Failure;
use crate::probe::Attempt;

pub(crate) async fn probe(attempt: &Attempt<'_>) -> Result<(), Failure> {
    attempt.connect().await.map(drop)
}
