//! The votes that this director gives: each VIP to one director at a time.

use crate::lease::Timing;
use crate::moment::Moment;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// What this director has given to one peer.
#[derive(Debug, Default)]
pub(crate) struct Ballot {
    granted: BTreeSet<IpAddr>,
    /// Until when they are kept, on the clock of this director.
    kept_until: Moment,
    /// The same for former lives of the peer.
    former: BTreeSet<IpAddr>,
    former_until: Moment,
}

impl Ballot {
    /// The peer has spoken.
    pub(crate) fn renew(&mut self, timing: &Timing, now: Moment) {
        self.kept_until = self.kept_until.max(now + timing.kept());
    }

    /// The process of the peer is gone: its fences run out by themselves.
    pub(crate) fn shorten(&mut self, timing: &Timing, now: Moment) {
        self.kept_until = self.kept_until.min(now + timing.fenced());
    }

    /// The peer speaks in a new life. What the former one was given is kept until it has run out.
    pub(crate) fn succeed(&mut self) {
        self.former.append(&mut self.granted);
        self.former_until = self.former_until.max(self.kept_until);
        self.kept_until = Moment::default();
    }

    pub(crate) fn lapse(&mut self, now: Moment) {
        if self.kept_until <= now {
            self.granted.clear();
        }
        if self.former_until <= now {
            self.former.clear();
        }
    }

    /// Only what is still asked for stays given. The peer ended its fence before it stopped asking.
    pub(crate) fn keep_only(&mut self, claimed: impl Fn(&IpAddr) -> bool) {
        self.granted.retain(claimed);
    }

    pub(crate) fn is_alive(&self, now: Moment) -> bool {
        now < self.kept_until
    }

    /// Whether a life of the peer other than the present one may still rely on the vote.
    pub(crate) fn has_former(&self, vip: IpAddr) -> bool {
        self.former.contains(&vip)
    }

    pub(crate) fn has(&self, vip: IpAddr) -> bool {
        self.granted.contains(&vip) || self.former.contains(&vip)
    }

    pub(crate) fn has_granted(&self, vip: IpAddr) -> bool {
        self.granted.contains(&vip)
    }

    /// True where it is news to the peer.
    pub(crate) fn grant(&mut self, vip: IpAddr) -> bool {
        self.granted.insert(vip)
    }

    pub(crate) fn granted(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.granted.iter().copied()
    }

    /// All that is given, to former lives too, and until when.
    pub(crate) fn kept(&self) -> impl Iterator<Item = (IpAddr, Moment)> + '_ {
        let own = self.granted.iter().map(|vip| (*vip, self.kept_until));
        own.chain(self.former.iter().map(|vip| (*vip, self.former_until)))
    }

    /// When something runs out next.
    pub(crate) fn next_lapse(&self) -> Option<Moment> {
        let own = (!self.granted.is_empty()).then_some(self.kept_until);
        let former = (!self.former.is_empty()).then_some(self.former_until);
        own.into_iter().chain(former).min()
    }
}
