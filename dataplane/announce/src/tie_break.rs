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
}

impl TieBreak {
    pub(crate) fn deciding(&self) -> Deciding {
        self.deciding
    }

    /// Whether the vote of this director decides at this moment.
    pub(crate) fn is_mine(&self, now: Moment) -> bool {
        self.deciding == Deciding::Mine && self.from <= now
    }

    pub(crate) fn conceded_to(&self, peer: Incarnation) -> bool {
        self.deciding == Deciding::Conceded(peer)
    }

    /// When `Mine` may be used.
    pub(crate) fn next(&self) -> Option<Moment> {
        (self.deciding == Deciding::Mine).then_some(self.from)
    }

    /// The other one has said how it sees it.
    pub(crate) fn heard(&mut self, word: Word, usable: Moment, now: Moment) {
        let Word { peer, theirs, .. } = word;
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
        if self.deciding == Deciding::Conceded(peer) {
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
