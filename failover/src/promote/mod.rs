//! Making this node the home of a service, and undoing it: the chain of steps, and the decision when to begin with it.

pub mod chain;
mod watch;

pub use watch::Ailment;
