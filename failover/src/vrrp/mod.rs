//! VRRP: who of several routers has the virtual addresses. Everything in here is free of I/O: events and the time go in,
//! [`Action`]s come out, and the same events give the same actions.
//!
//! * [`packet`]: adverts, octet by octet. [`check`]: which of them are ours.
//! * [`machine`]: one virtual router. [`tracking`]: what makes it faulty or changes its priority.
//! * [`node`]: all virtual routers of a node with their groups: what a driver holds, as [`Vrrp`].
//!
//! # Adverts that disagree with us
//!
//! keepalived drops an advert whose addresses, password or (in version 2) interval are not its own, and from then on its
//! sender is silent to it. Two routers that disagree in one of these are therefore both Master, with the addresses on
//! both, until somebody notices (failover 1.7, measured). Here such an advert is a *sign of life*, provided that it has the
//! number of our virtual router and comes from this segment or, in unicast, from a configured peer:
//!
//! * A Backup stays Backup, whatever the priority: its own adverts would not be heard by a sender that drops what
//!   disagrees with it, so taking over would make two masters. Priority 0 in such an advert is not believed: it would
//!   be another way to two masters.
//! * A free Master yields to a better one as it would to one that is accepted. A bound one yields to nobody.
//! * An alarm is raised. It stays in the status as long as the cause is seen, is repeated in the log once in a minute and
//!   cleared when the cause has not been seen for a while.
//!
//! The price: who can send packets on the segment can keep a router Backup without knowing its password. That is no new
//! power. The password goes over the same wire in clear, adverts of version 3 have none, and one packet with priority 254
//! takes the addresses from keepalived too (failover 8.4). What must not happen is that nobody knows. So besides the alarm of the
//! mismatch itself there is [`AlarmKind::HeldByMismatch`]: this router would have taken over by now, had it heard nothing
//! but what it accepts. It names the sender, and is there as long as that is so. The opposite choice, keepalived's, fails in
//! silence and into the state that costs data when storage follows the addresses; this one fails into no master at worst,
//! loudly.
//!
//! # Time
//!
//! `now` has to come from a clock that does not stand still while the machine is suspended (CLOCK_BOOTTIME): whether a
//! Master may still speak is decided by it. Time never runs backwards.
//!
//! # Storage
//!
//! See [`machine`] for routers that are bound to a service.

pub mod action;
pub mod alarm;
pub mod check;
pub mod machine;
pub mod node;
pub mod notify;
pub mod packet;
#[cfg(feature = "drivers")]
pub mod socket;
pub mod status;
pub mod timers;
pub mod tracking;

mod group;
#[cfg(test)]
mod lab;

pub use action::{Action, AlarmChange, Level, Name, RoleLost, State};
pub use alarm::{Alarm, AlarmKind};
pub use machine::{Binding, BindingError, Options, Router};
pub use node::{Event, Vrrp};
pub use notify::{Notification, Transition, Who};
pub use status::{Counters, GroupStatus, InstanceStatus, KnownMaster, VrrpStatus};
pub use timers::ACT_WITHIN;
pub use tracking::{Fault, Interface, TrackerResult};
