//! What the machines want done.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use model::failover::config::{VirtualAddress, VirtualRoute, VirtualRule};
use model::time::Instant;

use super::alarm::Alarm;
use super::notify::Notification;
use super::packet::Advert;

/// Name of a `vrrp_instance`.
pub type Name = Arc<str>;

/// One act. They are done in the order in which they come; none of them is answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Send an advert: [`Advert::encode`] with these two addresses.
    Send {
        /// The instance.
        instance: Name,
        /// Where it leaves: the interface of the instance, or its macvlan.
        interface: Name,
        /// Source address of the packet.
        source: IpAddr,
        /// A group or one peer.
        destination: IpAddr,
        /// TTL or hop limit.
        ttl: u8,
        /// What it says.
        advert: Advert,
    },
    /// Add addresses that may be there already.
    AddAddresses {
        /// The instance.
        instance: Name,
        /// Which; each has its interface.
        addresses: Vec<VirtualAddress>,
    },
    /// Remove addresses that may be gone already.
    RemoveAddresses {
        /// The instance.
        instance: Name,
        /// Which; each has its interface.
        addresses: Vec<VirtualAddress>,
    },
    /// Add routes.
    AddRoutes {
        /// The instance.
        instance: Name,
        /// Which.
        routes: Vec<VirtualRoute>,
    },
    /// Remove routes.
    RemoveRoutes {
        /// The instance.
        instance: Name,
        /// Which.
        routes: Vec<VirtualRoute>,
    },
    /// Add rules.
    AddRules {
        /// The instance.
        instance: Name,
        /// Which.
        rules: Vec<VirtualRule>,
    },
    /// Remove rules.
    RemoveRules {
        /// The instance.
        instance: Name,
        /// Which.
        rules: Vec<VirtualRule>,
    },
    /// [`Announcer::start`](crate::vip::announce::Announcer::start) with all addresses of the instance.
    StartAnnouncing {
        /// The instance.
        instance: Name,
        /// Its addresses, those outside the adverts too.
        addresses: Vec<IpAddr>,
        /// For [`Announcer::start_extra`](crate::vip::announce::Announcer::start_extra): the first address on each interface
        /// other than that of the instance.
        extra: Vec<IpAddr>,
    },
    /// [`Announcer::lower_priority_heard`](crate::vip::announce::Announcer::lower_priority_heard).
    AnnounceAgain {
        /// The instance.
        instance: Name,
    },
    /// [`Announcer::stop`](crate::vip::announce::Announcer::stop).
    StopAnnouncing {
        /// The instance.
        instance: Name,
    },
    /// Announce once where the source address of unicast adverts is (failover 1.15).
    AnnounceSource {
        /// The instance.
        instance: Name,
        /// Its interface.
        interface: Name,
        /// The source address.
        source: IpAddr,
    },
    /// Tell scripts and the FIFO.
    Notify(Notification),
    /// A bound instance has not heard a master for MasterDown, or not at all. It stays Backup; what follows is the
    /// decision of its service. Said once for each silence.
    PeerSilent {
        /// The instance.
        instance: Name,
        /// When a master was heard last.
        last_heard: Option<Instant>,
    },
    /// A bound instance is no longer Master, and not because its service said so. Its addresses are being removed.
    RoleLost {
        /// The instance.
        instance: Name,
        /// Why.
        why: RoleLost,
    },
    /// An alarm was raised, goes on, or is over.
    Alarm {
        /// The instance.
        instance: Name,
        /// Which of these.
        change: AlarmChange,
        /// As it is now.
        alarm: Alarm,
    },
    /// A line for the log.
    Log {
        /// The instance or group.
        name: Name,
        /// How bad.
        level: Level,
        /// What.
        text: String,
    },
}

/// Why a bound Master stopped being one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RoleLost {
    /// Something that it tracks is broken.
    Fault,
    /// It did not run for longer than MasterDown.
    Slept,
    /// Its service has not said in time that the addresses may stay.
    NotRenewed,
    /// It was stopped, or left the configuration.
    Stopped,
}

/// What became of an alarm.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AlarmChange {
    /// It is new.
    Raised,
    /// It is still there, a while after it was last spoken of.
    Continues,
    /// Its cause has not been seen for a while.
    Cleared,
}

/// How bad a line of the log is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// The course of things.
    Info,
    /// Somebody should look.
    Warning,
}

/// State of one virtual router (failover 1.9).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum State {
    /// Not started.
    Initialize,
    /// Waits until the master falls silent.
    Backup,
    /// Has the addresses and says so.
    Master,
    /// Cannot take part.
    Fault,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            State::Initialize => "INIT",
            State::Backup => "BACKUP",
            State::Master => "MASTER",
            State::Fault => "FAULT",
        })
    }
}
