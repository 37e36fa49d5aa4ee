//! Counters of one worker: it alone writes, anybody reads. What a worker that ended counted is kept, and its successor
//! goes on from there.

use sluicegate_l4::layout::{MAX_BACKENDS, MAX_SERVICES, Traffic};
use sluicegate_l4::verdict::Reason;
use std::sync::atomic::{AtomicU64, Ordering};

/// The counters.
#[derive(Debug)]
pub struct Counters {
    reasons: Box<[AtomicU64]>,
    services: Box<[Cells]>,
    backends: Box<[Cells]>,
    turns: Box<[AtomicU64]>,
    /// Packets that found a ring full, or that were to be sent and no interface took.
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct Cells {
    packets: AtomicU64,
    bytes: AtomicU64,
    flows: AtomicU64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            reasons: zeros(Reason::ALL.len()),
            services: zeros(MAX_SERVICES as usize + 1),
            backends: zeros(MAX_BACKENDS as usize + 1),
            turns: zeros(MAX_SERVICES as usize + 1),
            lost: AtomicU64::default(),
        }
    }
}

impl Counters {
    /// Counts a reason.
    #[inline]
    pub fn reason(&self, reason: Reason) {
        if let Some(cell) = self.reasons.get(reason.index() as usize) {
            add(cell, 1);
        }
    }

    /// Counts a packet of a service to a backend.
    #[inline]
    pub fn traffic(&self, service: u16, backend: u16, bytes: usize, selected: bool) {
        for cells in [self.services.get(usize::from(service)), self.backends.get(usize::from(backend))] {
            let Some(cells) = cells else { continue };
            add(&cells.packets, 1);
            add(&cells.bytes, bytes as u64);
            add(&cells.flows, u64::from(selected));
        }
    }

    /// Counts packets that were not taken, or not sent.
    pub fn lost(&self, packets: u64) {
        add(&self.lost, packets);
    }

    /// The turn of round robin of a service.
    #[inline]
    pub fn turn(&self, service: u16) -> u64 {
        self.turns.get(usize::from(service)).map_or(0, |turn| add(turn, 1))
    }

    /// How often a reason was counted.
    #[must_use]
    pub fn of_reason(&self, reason: Reason) -> u64 {
        self.reasons.get(reason.index() as usize).map_or(0, |cell| cell.load(Ordering::Relaxed))
    }

    /// Traffic of a service.
    #[must_use]
    pub fn of_service(&self, id: u16) -> Traffic {
        read(&self.services, id)
    }

    /// Traffic of a backend.
    #[must_use]
    pub fn of_backend(&self, id: u16) -> Traffic {
        read(&self.backends, id)
    }

    /// Packets that were not taken, or not sent.
    #[must_use]
    pub fn lost_so_far(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// Adds with one writer, which needs no locked instruction; what was there before.
#[inline]
fn add(cell: &AtomicU64, by: u64) -> u64 {
    let before = cell.load(Ordering::Relaxed);
    cell.store(before.wrapping_add(by), Ordering::Relaxed);
    before
}

fn read(table: &[Cells], id: u16) -> Traffic {
    table.get(usize::from(id)).map_or_else(Traffic::default, |cells| Traffic {
        packets: cells.packets.load(Ordering::Relaxed),
        bytes: cells.bytes.load(Ordering::Relaxed),
        flows: cells.flows.load(Ordering::Relaxed),
    })
}

fn zeros<T: Default>(count: usize) -> Box<[T]> {
    std::iter::repeat_with(T::default).take(count).collect()
}
