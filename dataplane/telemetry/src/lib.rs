//! Metrics: one table of names, per-worker counters, one exposition.
