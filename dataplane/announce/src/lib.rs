//! Who holds a VIP, and telling the network so. It forwards no packet and assigns no address: the packet path answers
//! ARP and NDP for a VIP, and only before a deadline (the fence) that the owner keeps pushing forward.
//!
//! The deciding part is pure: [`Ownership`] takes events and the time, and gives [`Action`]s. [`Announcer`] is the shell
//! around it: connections to the other directors, raw frames, group memberships, the clock.
//!
//! # Never two owners
//!
//! Every configured director has a vote on every VIP and gives it to one director at a time. A director owns a VIP while
//! it has the votes of a majority, its own among them, so two owners would need one vote twice. A vote of a peer counts
//! for [`Timing::lease`] from the *sending* of the request, on the clock of the asker; the voter keeps it for longer, from
//! the *arrival* on its own clock: clocks whose rates differ by up to 1 % each way cannot make the two overlap, and no
//! wall clock is read. The fence ends with the votes, and never lies more than [`Timing::fence`] ahead.
//!
//! - **Silence**: the voter waits until the lease has run out.
//! - **Positive death** (the connection of the peer's process was closed or reset, and it has no other): the voter waits
//!   for [`Timing::fence`] alone, because nothing pushes the fence any more. This trusts TCP: a middle box that forges
//!   resets between directors can make a voter give its vote away early.
//! - **Release** (SIGTERM, lost fitness): the owner ends its fence first and says so afterwards: nobody waits.
//! - **A restarted voter** has forgotten its votes, so it gives none before all others have spoken to it, or a lease
//!   has passed.
//!
//! # Two directors
//!
//! Two have no majority. One of them has the *deciding vote*: at the first contact the one whose name sorts first gets it, the
//! other concedes. It passes to the other only with positive death, never back. Under a partition the one that has it
//! serves every VIP (after the other's lease), the other none; [`OnIsolation::Release`] has never two owners. What that
//! costs: where the director with the deciding vote falls silent without dying visibly (power, cable, SIGSTOP), and where
//! only one of the two starts at all, nothing is served until the other one speaks. [`OnIsolation::Hold`] pays the other
//! price: after a lease of silence each goes on alone, so a partition between two living directors gives two owners.
//! A third voter ([`Fitness::cordoned`], on any machine) gives both, and is what to run.
//!
//! A director without peers owns everything.
//!
//! # Directors of a cluster
//!
//! Flags name the directors ([`OwnershipSettings::peers`]), or a record on an API server does ([`OwnershipSettings::joins`]). Each
//! record ([`Membership`]) is made from the one before by compare-and-swap and has one director more or less, so that majorities
//! of neighbours share a voter. Three rules keep it at neighbours: a voter renews nothing for a director that knows an older record than
//! itself, directors tell each other the newest one with their heartbeats, and the next change is proposed only when a
//! majority has known the last one for a lease. While the API server is away the record stays as it is, and all of the above goes on.
//! The source of `membership.rs` has the whole argument, and `tests/model.rs` tries it.
//!
//! # Who should own what
//!
//! Rendezvous hashing ranks the directors for each VIP, and the best one that is fit and able asks for it. A VIP stays where it
//! is unless failback is asked for. Directors that start together leave a VIP for 2 s to a better one that is not able yet, so
//! that the first one does not end up with everything.

mod announcement;
mod announcer;
mod clock;
mod fitness;
pub mod frame;
mod heartbeat;
mod lease;
mod membership;
mod moment;
mod owner;
mod peers;
mod raw;
mod rendezvous;
mod session;
mod tie_break;
mod vote;

pub use announcer::{AnnounceSettings, Announcer, FenceError, FenceSink, Joins, StartError, Status};
pub use fitness::{Fitness, Unfit};
pub use heartbeat::{Beat, BeatError, VipState};
pub use lease::Timing;
pub use membership::{LeaseState, Member, Membership, Standing};
pub use moment::Moment;
pub use owner::{
    Action, Conflict, Event, MembershipView, OnIsolation, Ownership, OwnershipSettings, PeerView, Report,
    SettingsError, VipView,
};
pub use raw::{Port, PortError};
pub use rendezvous::{DirectorId, DirectorIdError, Incarnation, ranking};
pub use session::{Secret, SecretError};
pub use tie_break::Deciding;
