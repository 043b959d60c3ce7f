//! What instances look at, and what it means for them: faults and weights. The sources are elsewhere; here are their
//! results (failover 1.11).

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use model::failover::config::{FailoverConfig, TrackProcess, TrackScript, TrackTarget, Tracker};
use model::time::Instant;

/// Below this a file's contribution is a fault: no priority can make up for it.
const FILE_FAULT_BELOW: i64 = -253;

/// Why a router cannot take part.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Fault {
    /// Its interface has no address of its own to send from.
    SourceAddress(String),
    /// An interface is down.
    Interface(String),
    /// A script has failed.
    Script(String),
    /// A file holds a number that says so.
    File(String),
    /// Too few or too many processes run.
    Process(String),
    /// The disk of a resource is not UpToDate.
    Resource(String),
    /// A tracker has not had a result yet.
    NoResult(String),
    /// Another member of its group has a fault.
    Member(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::SourceAddress(name) => write!(f, "interface {name} has no address to send from"),
            Fault::Interface(name) => write!(f, "interface {name} is down"),
            Fault::Script(name) => write!(f, "script {name} fails"),
            Fault::File(name) => write!(f, "file {name} says so"),
            Fault::Process(name) => write!(f, "the number of processes {name} is out of range"),
            Fault::Resource(name) => write!(f, "the disk of resource {name} is not UpToDate"),
            Fault::NoResult(what) => write!(f, "{what} has no result yet"),
            Fault::Member(name) => write!(f, "{name}, of the same group, has one"),
        }
    }
}

/// An interface as the kernel has it now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Up and running.
    pub is_up: bool,
    /// Its first IPv4 address that is no virtual one.
    pub ipv4: Option<Ipv4Addr>,
    /// Its link-local IPv6 address that is no virtual one.
    pub ipv6: Option<Ipv6Addr>,
}

/// A result of a tracker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TrackerResult {
    /// A `vrrp_script` has run.
    Script {
        /// Its name.
        name: String,
        /// Exit code 0 in time.
        success: bool,
    },
    /// A `track_file` was read.
    File {
        /// Its name.
        name: String,
        /// The number in it; 0 if there is none.
        value: i64,
    },
    /// Processes of a `vrrp_track_process` were counted.
    Process {
        /// Its name.
        name: String,
        /// How many run.
        running: u32,
    },
    /// The disk of a resource changed.
    Resource {
        /// Its name.
        name: String,
        /// Whether it is UpToDate.
        is_up_to_date: bool,
    },
}

/// What a tracker does to an instance now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Effect {
    Points(i32),
    Fault(Fault),
}

/// The last results.
#[derive(Clone, Debug, Default)]
pub(super) struct Trackers {
    interfaces: BTreeMap<String, Interface>,
    scripts: BTreeMap<String, Script>,
    files: BTreeMap<String, i64>,
    processes: BTreeMap<String, Process>,
    resources: BTreeMap<String, bool>,
}

/// A script with its counts in a row.
#[derive(Clone, Debug)]
struct Script {
    rise: u32,
    fall: u32,
    /// Results in a row that contradict `is_well`.
    streak: u32,
    is_well: Option<bool>,
}

#[derive(Clone, Debug)]
struct Process {
    config: TrackProcess,
    is_well: Option<bool>,
    /// What it becomes, unless that changes before.
    pending: Option<(Instant, bool)>,
}

impl Script {
    fn new(config: &TrackScript) -> Script {
        let is_well = config.starts_failed.then_some(false);
        Script { rise: config.rise, fall: config.fall, streak: 0, is_well }
    }

    fn result(&mut self, success: bool) {
        let Some(is_well) = self.is_well else {
            self.is_well = Some(success);
            return;
        };
        if is_well == success {
            self.streak = 0;
            return;
        }
        self.streak += 1;
        if self.streak >= if success { self.rise } else { self.fall } {
            self.is_well = Some(success);
            self.streak = 0;
        }
    }
}

impl Process {
    fn counted(&mut self, now: Instant, running: u32) {
        let config = &self.config;
        let in_range = running >= config.quorum && config.quorum_max.is_none_or(|max| running <= max);
        match self.is_well {
            None => self.is_well = Some(in_range),
            Some(is_well) if is_well == in_range => self.pending = None,
            Some(_) => {
                let delay = if in_range { config.rise_delay } else { config.fall_delay };
                self.pending.get_or_insert((now + delay, in_range));
                self.tick(now);
            }
        }
    }

    fn tick(&mut self, now: Instant) {
        if let Some((_, is_well)) = self.pending.take_if(|(at, _)| *at <= now) {
            self.is_well = Some(is_well);
        }
    }
}

impl Trackers {
    /// Those of a configuration; results of those that were there before are kept.
    pub fn configure(&mut self, config: &FailoverConfig) {
        let scripts = config.scripts.iter().map(|new| {
            let mut script = Script::new(new);
            if let Some(old) = self.scripts.get(&new.name) {
                script.is_well = old.is_well;
            }
            (new.name.clone(), script)
        });
        self.scripts = scripts.collect();
        let processes = config.track_processes.iter().map(|new| {
            let old = self.processes.get(&new.name);
            let is_well = old.and_then(|p| p.is_well);
            let pending = old.and_then(|p| p.pending);
            (new.name.clone(), Process { config: new.clone(), is_well, pending })
        });
        self.processes = processes.collect();
        let files = config.track_files.iter();
        self.files = files.map(|f| (f.name.clone(), self.files.get(&f.name).copied().unwrap_or(0))).collect();
    }

    pub fn set_interface(&mut self, interface: &Interface) {
        self.interfaces.insert(interface.name.clone(), interface.clone());
    }

    pub fn interface(&self, name: &str) -> Option<&Interface> {
        self.interfaces.get(name)
    }

    /// The address to send from, in the family of `like`.
    pub fn source(&self, interface: &str, like: IpAddr) -> Option<IpAddr> {
        let interface = self.interface(interface)?;
        match like {
            IpAddr::V4(_) => interface.ipv4.map(IpAddr::V4),
            IpAddr::V6(_) => interface.ipv6.map(IpAddr::V6),
        }
    }

    /// Takes a result; one of a tracker that is not in the configuration is nothing.
    pub fn apply(&mut self, now: Instant, result: &TrackerResult) {
        match result {
            TrackerResult::Script { name, success } => {
                if let Some(script) = self.scripts.get_mut(name) {
                    script.result(*success);
                }
            }
            TrackerResult::File { name, value } => {
                if let Some(file) = self.files.get_mut(name) {
                    *file = *value;
                }
            }
            TrackerResult::Process { name, running } => {
                if let Some(process) = self.processes.get_mut(name) {
                    process.counted(now, *running);
                }
            }
            TrackerResult::Resource { name, is_up_to_date } => {
                self.resources.insert(name.clone(), *is_up_to_date);
            }
        }
    }

    /// Lets delays end.
    pub fn tick(&mut self, now: Instant) {
        self.processes.values_mut().for_each(|process| process.tick(now));
    }

    /// When the next delay ends.
    pub fn deadline(&self) -> Option<Instant> {
        self.processes.values().filter_map(|process| process.pending).map(|(at, _)| at).min()
    }

    /// What a tracker does; `weightless`: as if its weight were 0 (failover 1.12).
    pub fn effect(&self, tracker: &Tracker, weightless: bool) -> Effect {
        let weight = if weightless { 0 } else { i32::from(tracker.weight) };
        let of = |is_well: Option<bool>, what: &str, fault: Fault| match is_well.map(|w| w != tracker.reverse)
        {
            None if weight == 0 => Effect::Fault(Fault::NoResult(what.to_owned())),
            Some(false) if weight == 0 => Effect::Fault(fault),
            Some(true) if weight > 0 => Effect::Points(weight),
            Some(false) if weight < 0 => Effect::Points(weight),
            None | Some(_) => Effect::Points(0),
        };
        match &tracker.target {
            TrackTarget::Interface(name) => {
                let is_up = self.interface(name).is_some_and(|i| i.is_up);
                of(Some(is_up), "", Fault::Interface(name.clone()))
            }
            TrackTarget::Script(name) => {
                let is_well = self.scripts.get(name).and_then(|s| s.is_well);
                of(is_well, &format!("script {name}"), Fault::Script(name.clone()))
            }
            TrackTarget::Process(name) => {
                let is_well = self.processes.get(name).and_then(|p| p.is_well);
                of(is_well, &format!("process {name}"), Fault::Process(name.clone()))
            }
            TrackTarget::Resource(name) => {
                let is_well = self.resources.get(name).copied();
                of(is_well, &format!("resource {name}"), Fault::Resource(name.clone()))
            }
            TrackTarget::File(name) => {
                let value = self.files.get(name).copied().unwrap_or(0);
                if weight == 0 {
                    return of(Some(value == 0), "", Fault::File(name.clone()));
                }
                let sign = if tracker.reverse { -1 } else { 1 };
                let points = value.saturating_mul(i64::from(weight)).saturating_mul(sign);
                if points < FILE_FAULT_BELOW {
                    return Effect::Fault(Fault::File(name.clone()));
                }
                Effect::Points(i32::try_from(points.min(254)).expect("between -253 and 254"))
            }
        }
    }
}

#[cfg(test)]
mod tests;
