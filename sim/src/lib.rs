//! Two cores in one thread.
