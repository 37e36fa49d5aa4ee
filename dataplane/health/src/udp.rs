//! A datagram to the port that no ICMP error answers.
//!
//! The datagram is empty, because that says nothing in any protocol. An answer is good at once; silence until the timeout is
//! good as well, for few services answer an empty datagram. Hosts limit how many ICMP errors they send (Linux: about one
//! a second to each peer), so a closed port that is probed more often than that can pass for an open one for a while.

use crate::failure::Failure;
use crate::probe::Attempt;
use socket2::{Protocol, Type};

pub(crate) async fn probe(attempt: &Attempt<'_>) -> Result<(), Failure> {
    let socket =
        attempt.socket(Type::DGRAM, Protocol::UDP).map_err(|error| Failure::local("cannot open a socket", &error))?;
    let socket = attempt.datagrams(socket)?;
    socket.send(&[]).await.map_err(|error| attempt.failed(&error))?;
    // One byte is enough: what the answer says does not matter.
    socket.recv(&mut [0]).await.map(drop).map_err(|error| attempt.failed(&error))
}
