//! Two real cores stepped in memory in virtual time: simulated disks with a volatile cache, a network that can
//! be cut, clients whose every acknowledged write is remembered. One seed gives one run, bit for bit.
#![forbid(unsafe_code)]

#[cfg(test)]
mod conformance;
pub mod disk;
#[cfg(test)]
mod exhaustive;
pub mod failover;
pub mod found;
pub mod hooks;
#[cfg(test)]
mod known;
pub mod ledger;
#[cfg(feature = "mutants")]
pub mod mutants;
pub mod node;
pub mod ordered;
pub mod rng;
pub mod scenario;
#[cfg(test)]
mod scenarios;
pub mod swarm;
pub mod tally;
pub mod truth;
pub mod world;
