//! The L7 routing table. It contains no I/O and no locks.
