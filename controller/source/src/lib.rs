//! Where objects come from: a watched folder.
