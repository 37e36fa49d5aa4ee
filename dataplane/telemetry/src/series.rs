//! Series that come and go with what is configured: rows of labels, the cells that threads count in for each, and what
//! remains of cells that are gone.
//!
//! A thread makes its cells for a row when it first counts there and hands them in (`Book::hand_in`); from then on it
//! writes to them alone. Whoever scrapes adds them up. There are never more than `Book::limit` rows: what comes beyond
//! is counted in one row, which says so by its labels.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Rows of one kind, where nobody says how many.
pub const DEFAULT_SERIES_LIMIT: usize = 20_000;

/// How long a row is shown after what it counts has left: three scrapes at the slowest pace that is common.
const KEPT: Duration = Duration::from_secs(600);

/// What one thread counts for one row.
pub(crate) trait Cells {
    /// The row's labels; rows are shown in their order.
    type Labels: Ord;
    /// What all threads counted.
    type Totals: Clone + Default;

    fn labels(&self) -> &Arc<Self::Labels>;
    /// True once nobody can write to them any more.
    fn are_over(cells: &Arc<Self>) -> bool;
    fn add_to(&self, totals: &mut Self::Totals, now: Instant);
    /// As they stand between the braces of a sample.
    fn text(labels: &Self::Labels) -> String;
}

/// One row as it is shown.
pub(crate) struct Shown<C: Cells> {
    pub(crate) labels: Arc<C::Labels>,
    pub(crate) text: Arc<str>,
    pub(crate) totals: C::Totals,
}

/// All rows of one kind.
pub(crate) struct Book<C: Cells> {
    limit: usize,
    /// The row of what is beyond the limit.
    rest: Arc<C::Labels>,
    incoming: Mutex<Incoming<C>>,
    /// Touched by who scrapes alone.
    rows: Mutex<Rows<C>>,
}

type Rows<C> = BTreeMap<Arc<<C as Cells>::Labels>, Row<C>>;

struct Incoming<C> {
    cells: Vec<Arc<C>>,
    /// Where nobody scrapes, cells that are over are dropped when there are so many.
    prune_at: usize,
}

struct Row<C: Cells> {
    text: Arc<str>,
    cells: Vec<Arc<C>>,
    /// What cells counted that are over.
    past: C::Totals,
    left: Option<Instant>,
    is_permanent: bool,
}

impl<C: Cells> Book<C> {
    /// `permanent` rows do not count against the limit (of one row at least) and are always shown.
    pub(crate) fn new(limit: usize, rest: &Arc<C::Labels>, permanent: &[Arc<C::Labels>]) -> Self {
        let permanent = permanent.iter().chain([rest]).map(|labels| {
            let row = Row { is_permanent: true, ..Row::<C>::new(labels) };
            (Arc::clone(labels), row)
        });
        Self {
            limit: limit.max(1),
            rest: Arc::clone(rest),
            incoming: Mutex::new(Incoming { cells: Vec::new(), prune_at: 1_024 }),
            rows: Mutex::new(permanent.collect()),
        }
    }

    /// Rows that may be shown besides the permanent ones.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Takes cells that a thread has just made. It waits for other threads that hand in, never for a scrape.
    pub(crate) fn hand_in(&self, cells: Arc<C>) {
        let mut incoming = lock(&self.incoming);
        if incoming.cells.len() >= incoming.prune_at {
            incoming.cells.retain(|cells| !C::are_over(cells));
            incoming.prune_at = incoming.cells.len() * 2 + 1_024;
        }
        incoming.cells.push(cells);
    }

    /// All rows in the order of their labels, after those that left [`KEPT`] ago are dropped.
    pub(crate) fn show(&self, now: Instant) -> Vec<Shown<C>> {
        let rows = self.settled(now);
        let shown = rows.iter().map(|(labels, row)| {
            let mut totals = row.past.clone();
            row.cells.iter().for_each(|cells| cells.add_to(&mut totals, now));
            Shown { labels: Arc::clone(labels), text: Arc::clone(&row.text), totals }
        });
        shown.collect()
    }

    /// As [`Self::show`], for who wants little of each: the labels, what cells counted that are over, and those that are
    /// not.
    pub(crate) fn visit(&self, now: Instant, mut each: impl FnMut(&C::Labels, &C::Totals, &[Arc<C>])) {
        self.settled(now).iter().for_each(|(labels, row)| each(labels, &row.past, &row.cells));
    }

    fn settled(&self, now: Instant) -> MutexGuard<'_, Rows<C>> {
        let incoming = std::mem::take(&mut lock(&self.incoming).cells);
        let mut rows = lock(&self.rows);
        rows.retain(|_, row| row.settle(now));
        self.admit(&mut rows, incoming);
        rows
    }

    fn admit(&self, rows: &mut Rows<C>, incoming: Vec<Arc<C>>) {
        let mut count = rows.values().filter(|row| !row.is_permanent).count();
        // Rows that left make room where it is short; those that left last come last.
        let mut leaving: Option<Vec<Arc<C::Labels>>> = None;
        for cells in incoming {
            let labels = cells.labels();
            if !rows.contains_key(labels) {
                if count >= self.limit {
                    let leaving = leaving.get_or_insert_with(|| longest_gone_last(rows));
                    count -= leaving.pop().and_then(|gone| rows.remove(&gone)).map_or(0, |_| 1);
                }
                if count < self.limit {
                    rows.insert(Arc::clone(labels), Row::<C>::new(labels));
                    count += 1;
                }
            }
            let row = if rows.contains_key(labels) { labels } else { &self.rest };
            if let Some(row) = rows.get_mut(row) {
                row.left = None;
                row.cells.push(cells);
            }
        }
    }
}

fn longest_gone_last<C: Cells>(rows: &Rows<C>) -> Vec<Arc<C::Labels>> {
    let left = rows.iter().filter_map(|(labels, row)| row.left.map(|left| (left, labels)));
    let mut left: Vec<_> = left.collect();
    left.sort_by(|one, other| other.cmp(one));
    left.into_iter().map(|(_, labels)| Arc::clone(labels)).collect()
}

impl<C: Cells> Row<C> {
    fn new(labels: &C::Labels) -> Self {
        let text = C::text(labels).into();
        Self { text, cells: Vec::new(), past: C::Totals::default(), left: None, is_permanent: false }
    }

    /// Keeps what cells counted that are over, and nothing else of them. False where the row has been without cells
    /// for long enough.
    fn settle(&mut self, now: Instant) -> bool {
        let past = &mut self.past;
        self.cells.retain(|cells| {
            let over = C::are_over(cells);
            if over {
                cells.add_to(past, now);
            }
            !over
        });
        if !self.cells.is_empty() || self.is_permanent {
            self.left = None;
            return true;
        }
        let left = *self.left.get_or_insert(now);
        now.saturating_duration_since(left) < KEPT
    }
}

/// A thread that panicked with the lock left whole values.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
