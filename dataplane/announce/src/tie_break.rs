//! The deciding vote of two directors. The crate's documentation has the rule.

use crate::moment::Moment;
use crate::rendezvous::Incarnation;

/// Who has the deciding vote, as one of two directors sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Deciding {
    /// The two have not spoken since this process started.
    #[default]
    Unknown,
    /// This director.
    Mine,
    /// This life of the other one.
    Conceded(Incarnation),
    /// This director, and it does not use it: a third one is being taken in.
    Changing,
}

/// What the other one says of the deciding vote.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Word {
    pub(crate) peer: Incarnation,
    pub(crate) theirs: Deciding,
    pub(crate) me: Incarnation,
    /// Its name sorts before this director's.
    pub(crate) peer_is_first: bool,
    /// It had heard of this director since this one last ran without a long stop.
    pub(crate) is_fresh: bool,
}

/// What one of two directors knows of the deciding vote.
#[derive(Debug, Default)]
pub(crate) struct TieBreak {
    deciding: Deciding,
    /// From when on `Mine` may be used: the fences of the other one may have to run out first.
    from: Moment,
    /// The life of the other one that had it and is thought dead: if it speaks before `from`, it was not.
    bereaved: Option<Incarnation>,
    /// The two have not spoken since they are the two.
    is_unmet: bool,
    /// Majorities of the directors before these two may still have an owner.
    settled_from: Moment,
    /// It is this director's, and a third one is being taken in.
    is_changing: bool,
    /// The same, said by the other one.
    is_suspended: bool,
}

impl TieBreak {
    /// Of two that were something else before: they have to meet first.
    pub(crate) fn among_new() -> Self {
        Self { is_unmet: true, ..Self::default() }
    }

    /// Of one that was alone, and another one.
    pub(crate) fn of_the_first(now: Moment) -> Self {
        Self { deciding: Deciding::Mine, from: now, ..Self::default() }
    }

    pub(crate) fn deciding(&self) -> Deciding {
        if self.deciding == Deciding::Mine && self.is_changing { Deciding::Changing } else { self.deciding }
    }

    /// Whether the vote of this director decides at this moment.
    pub(crate) fn is_mine(&self, now: Moment) -> bool {
        self.deciding == Deciding::Mine && !self.is_changing && self.usable_from().is_some_and(|from| from <= now)
    }

    fn usable_from(&self) -> Option<Moment> {
        (!self.is_unmet).then(|| self.from.max(self.settled_from))
    }

    /// The two have spoken; what others may own by votes of before is over then.
    pub(crate) fn meet(&mut self, settled_from: Moment) {
        if self.is_unmet {
            self.is_unmet = false;
            self.settled_from = settled_from;
        }
    }

    /// Lets the deciding vote of this director rest, or takes it up again.
    pub(crate) fn set_changing(&mut self, is_changing: bool) {
        self.is_changing = is_changing;
    }

    pub(crate) fn is_changing(&self) -> bool {
        self.deciding == Deciding::Mine && self.is_changing
    }

    /// The other one lets it rest, and this one cannot take it.
    pub(crate) fn is_suspended(&self) -> bool {
        self.is_suspended
    }

    /// The same two, in another membership: what was to be changed is not changed any more.
    pub(crate) fn resume(&mut self) {
        (self.is_changing, self.is_suspended) = (false, false);
    }

    pub(crate) fn conceded_to(&self, peer: Incarnation) -> bool {
        self.deciding == Deciding::Conceded(peer)
    }

    /// When `Mine` may be used.
    pub(crate) fn next(&self) -> Option<Moment> {
        self.usable_from().filter(|_| self.deciding == Deciding::Mine)
    }

    /// The other one has said how it sees it.
    pub(crate) fn heard(&mut self, word: Word, usable: Moment, now: Moment) {
        let Word { peer, theirs, .. } = word;
        self.is_suspended = theirs == Deciding::Changing;
        let theirs = if self.is_suspended { Deciding::Mine } else { theirs };
        if let Some(bereaved) = self.bereaved.take()
            && bereaved == peer
            && now < self.from
        {
            self.deciding = Deciding::Conceded(peer);
        }
        match (self.deciding, theirs) {
            // Two that went on alone have met: the one that sorts first keeps it.
            (Deciding::Mine, Deciding::Mine) if !word.peer_is_first => {}
            (_, Deciding::Mine) => self.deciding = Deciding::Conceded(peer),
            (Deciding::Unknown, Deciding::Conceded(to)) if to == word.me && word.is_fresh => self.take(now),
            (Deciding::Unknown, Deciding::Unknown) if word.peer_is_first => self.deciding = Deciding::Conceded(peer),
            // A new life of the one that had it: the former one is gone, and this one knows nothing.
            (Deciding::Conceded(to), _) if to != peer => self.take(usable),
            _ => {}
        }
    }

    /// The process of the other one is gone.
    pub(crate) fn bereave(&mut self, peer: Incarnation, usable: Moment) {
        if self.deciding == Deciding::Conceded(peer) && !self.is_suspended {
            self.take(usable);
            self.bereaved = Some(peer);
        }
    }

    /// This process was stopped for so long that the other one may have gone on alone.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    /// By the isolation rule `hold`.
    pub(crate) fn go_alone(&mut self, now: Moment) {
        if self.deciding != Deciding::Mine {
            self.take(now);
        }
    }

    fn take(&mut self, from: Moment) {
        self.deciding = Deciding::Mine;
        self.from = from;
        self.bereaved = None;
    }
}
