//! Whether real servers answer. It changes no table: who programs the forwarder reads its verdicts.
