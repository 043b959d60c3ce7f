//! What there is to know about the virtual routers: plain values for the operator's tools.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use model::time::Instant;

use super::action::{Name, State};
use super::alarm::Alarm;
use super::check::Reason;
use super::machine::Binding;

/// Everything.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VrrpStatus {
    /// Instances, in the order of the configuration.
    pub instances: Vec<InstanceStatus>,
    /// Sync groups, in the order of the configuration.
    pub groups: Vec<GroupStatus>,
    /// Packets for virtual routers that are not ours.
    pub packets_of_others: u64,
}

/// One sync group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupStatus {
    /// Its name.
    pub name: Arc<str>,
    /// State of all members, if they agree.
    pub state: Option<State>,
    /// Its members.
    pub members: Vec<Name>,
}

/// One virtual router.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InstanceStatus {
    /// Its name.
    pub name: Name,
    /// Who decides.
    pub binding: Binding,
    /// Its state.
    pub state: State,
    /// Since when.
    pub since: Instant,
    /// The configured priority, or 254 if another owner is there.
    pub base_priority: u8,
    /// What its adverts say.
    pub effective_priority: u8,
    /// The master that is heard, if it is another one.
    pub master: Option<KnownMaster>,
    /// When any master was heard last.
    pub peer_heard: Option<Instant>,
    /// Bound: no master is heard.
    pub peer_silent: bool,
    /// What is broken, in words.
    pub faults: Vec<String>,
    /// What somebody has to look at.
    pub alarms: Vec<Alarm>,
    /// Numbers since the start.
    pub counters: Counters,
}

/// Another router that is Master.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KnownMaster {
    /// Its address.
    pub address: IpAddr,
    /// The priority that it sends.
    pub priority: u8,
    /// When it was heard last.
    pub heard: Instant,
    /// Whether its adverts are accepted, and not merely a sign of life.
    pub accepted: bool,
}

/// Numbers of one virtual router.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Adverts sent; to several peers: once.
    pub sent: u64,
    /// Those with priority 0 among them.
    pub sent_priority_0: u64,
    /// Adverts that were accepted.
    pub received: u64,
    /// Those with priority 0, accepted or not.
    pub received_priority_0: u64,
    /// Adverts that only showed that their sender is alive.
    pub mismatched: BTreeMap<Reason, u64>,
    /// Packets that were nothing.
    pub dropped: BTreeMap<Reason, u64>,
    /// Changes of the state.
    pub transitions: u64,
    /// Those to Master.
    pub became_master: u64,
}
