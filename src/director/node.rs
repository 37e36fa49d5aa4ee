//! What the Node object of this machine says of its director. Pure: the time comes in.

use std::time::{Duration, Instant};

/// The label of a Node that is to take no traffic from outside.
const EXCLUDE_LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// What matters of the Node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeMarks {
    /// It carries the label that keeps it out of load balancing.
    pub is_excluded: bool,
    /// `kubectl cordon` was said to it.
    pub is_unschedulable: bool,
}

/// Whether the Node keeps its director from holding VIPs.
///
/// The label always does. An unschedulable Node does while another director could hold them: `kubectl cordon` is said to
/// whole clusters too, and VIPs need an owner.
#[derive(Debug, Default)]
pub struct NodeCordon {
    /// Since when there has been a successor.
    since: Option<Instant>,
}

impl NodeCordon {
    /// A successor is built on after so long.
    const SETTLED: Duration = Duration::from_secs(2);
    /// Of several that are unschedulable one goes after the other, so that the last one sees that it is.
    const TURN: Duration = Duration::from_secs(3);

    /// Why the director holds nothing. `successor` = another one is there and fit; `before` = how many directors go first.
    pub fn reason(&mut self, marks: NodeMarks, successor: bool, before: usize, now: Instant) -> Option<String> {
        let waits = marks.is_unschedulable && successor;
        self.since = waits.then(|| self.since.unwrap_or(now));
        if marks.is_excluded {
            return Some(format!("its Node has the label {EXCLUDE_LABEL}"));
        }
        let patience = Self::SETTLED + Self::TURN * u32::try_from(before).unwrap_or(u32::MAX);
        let is_over = self.since.is_some_and(|since| now.saturating_duration_since(since) >= patience);
        is_over.then(|| "its Node is unschedulable (kubectl cordon), and another director is fit".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CORDONED: NodeMarks = NodeMarks { is_excluded: false, is_unschedulable: true };

    #[test]
    fn the_label_counts_always_and_a_cordon_while_there_is_a_successor() {
        let begun = Instant::now();
        let at = |milliseconds| begun + Duration::from_millis(milliseconds);
        let mut cordon = NodeCordon::default();
        assert_eq!(cordon.reason(NodeMarks::default(), true, 0, at(0)), None);
        let excluded = NodeMarks { is_excluded: true, is_unschedulable: false };
        assert!(cordon.reason(excluded, false, 0, at(0)).is_some_and(|why| why.contains(EXCLUDE_LABEL)));
        assert_eq!(cordon.reason(CORDONED, false, 0, at(10_000)), None, "nobody else would hold its VIPs");
        assert_eq!(cordon.reason(CORDONED, true, 0, at(11_000)), None, "it has just come");
        assert!(cordon.reason(CORDONED, true, 0, at(13_000)).is_some());
        assert_eq!(cordon.reason(CORDONED, false, 0, at(13_100)), None, "it is gone");
        assert_eq!(cordon.reason(CORDONED, true, 0, at(13_200)), None, "it counts anew");
        assert_eq!(cordon.reason(NodeMarks::default(), true, 0, at(20_000)), None, "kubectl uncordon");
    }

    #[test]
    fn of_two_that_are_cordoned_at_a_time_one_goes_on() {
        let begun = Instant::now();
        let mut cordons = [NodeCordon::default(), NodeCordon::default()];
        let mut fit = [true, true];
        let mut changes = 0;
        for tick in 0..600_u64 {
            let now = begun + Duration::from_millis(100 * tick);
            let before = fit;
            for place in 0..2 {
                // Each sees the other one as it was a heartbeat ago; the second has the first one before it.
                fit[place] = cordons[place].reason(CORDONED, before[1 - place], place, now).is_none();
            }
            assert!(fit[0] || fit[1], "after {tick} ticks nobody holds VIPs");
            changes += usize::from(fit != before);
        }
        assert_eq!((fit, changes), ([false, true], 1));
    }
}
