//! Virtual routers over real sockets and the kernel's tables: one task that owns a [`Vrrp`] machine.
//!
//! An address is on an interface only with a lifetime (failover 8.7): a daemon that is killed, stopped or paused loses it
//! without anybody's help. Addresses of free instances are renewed here, those of bound ones only by [`Command::Renew`],
//! whose sender knows whether the service may have them.
//!
//! Whoever decides that an address is to be added or renewed may be paused before it is. So every decision has a time, and
//! one that is older than [`ACT_WITHIN`] is not acted on: a free instance looks again, a bound one has to be told again.
//! What is left is a pause between that look and the kernel, which the lifetime bounds.
//!
//! The kernel counts whole seconds. With a gate ([`crate::vip::gate`]) an address of a bound instance answers for a shorter
//! time after a decision, whatever the kernel shows.

use std::time::Duration;

use model::failover::config::FailoverConfig;
use model::time::Instant;
use tokio::sync::{mpsc, oneshot, watch};

use crate::driver::clock;
use crate::driver::mail::Mailer;
use crate::vip::netlink::NetlinkError;
pub use crate::vrrp::ACT_WITHIN;
#[cfg(doc)]
use crate::vrrp::Vrrp;
use crate::vrrp::VrrpStatus;

mod gate;
mod kernel;
mod notify;
mod sockets;
mod speaker;
mod task;
mod track;

/// How long the kernel keeps an address of a free instance that is not renewed (failover 8.7), and how often it is.
const FREE_LIFETIME: Duration = Duration::from_secs(3);
const RENEW_EVERY: Duration = Duration::from_secs(1);

/// What the driver has to know.
#[derive(Clone, Debug)]
pub struct VrrpSettings {
    /// Instances, groups, trackers.
    pub config: FailoverConfig,
    /// Names of instances that services own.
    pub bound: Vec<String>,
    /// How long the kernel keeps an address of a bound instance after [`Command::Grant`] or [`Command::Renew`]; whole
    /// seconds, as the kernel counts them.
    pub address_lifetime: Duration,
    /// For how long after a decision to [`Command::Grant`] or [`Command::Renew`] the addresses of a bound instance answer, in
    /// milliseconds; more than [`ACT_WITHIN`]. None: as long as the kernel keeps them. [`VrrpHandle::gate`] says whether it
    /// is so.
    pub gate: Option<Duration>,
    /// Who sends the mails of `smtp_alert`; none: nobody. What waits when the driver has stopped is for its owner to
    /// [flush](Mailer::flush).
    pub mailer: Option<Mailer>,
}

/// What the driver is told.
#[derive(Debug)]
pub enum Command {
    /// A bound instance, and with it its group, is Master at once. The answer comes when its addresses are there; after a
    /// refusal none is.
    Grant(String, oneshot::Sender<Result<(), String>>),
    /// A bound instance, and with it its group, is Backup. The answer comes when its addresses are gone.
    Revoke(String, oneshot::Sender<()>),
    /// A bound Master, and with it its group, may keep its addresses for another lifetime. If that ends without this word it
    /// is Backup, and [`Notice::RoleLost`] says so.
    Renew(String),
    /// The disk of a resource changed, for `track_resource`.
    Resource {
        /// Its name.
        name: String,
        /// Whether it is UpToDate.
        is_up_to_date: bool,
    },
    /// Another configuration, and the names of the instances that services own in it.
    Reload(Box<FailoverConfig>, Vec<String>),
    /// The end. The answer comes when all addresses are gone and the peers know.
    Stop(oneshot::Sender<()>),
}

/// What the driver tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// Another master of a bound instance is heard, or has not been for MasterDown.
    PeerSpeaks {
        /// The instance.
        instance: String,
        /// Whether it is heard.
        speaks: bool,
    },
    /// What keeps an instance from taking part has changed.
    Fault {
        /// The instance.
        instance: String,
        /// In words; none: nothing.
        fault: Option<String>,
    },
    /// A bound Master is none any more, and not because its service said so. Its addresses are gone.
    RoleLost {
        /// The instance.
        instance: String,
        /// Why.
        why: String,
    },
}

/// Why the driver cannot start.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The kernel's tables cannot be read or changed.
    #[error("{0}")]
    Netlink(#[from] NetlinkError),
    /// No socket for gratuitous ARP can be had.
    #[error("cannot open a socket for gratuitous ARP: {0}")]
    Frames(#[source] std::io::Error),
    /// The kernel counts lifetimes in whole seconds.
    #[error("an address lifetime of {0:?} is not a whole number of seconds from 1 on")]
    Lifetime(Duration),
    /// A gate that closes before a decision is too old to be acted on.
    #[error("a gate that is open for {0:?} is not open for more than {ACT_WITHIN:?}")]
    Gate(Duration),
}

/// A command, and when it was decided on.
type Decided = (Instant, Command);

/// A running driver. When it and all its [`VrrpCommander`]s are dropped, the driver stops as with [`Command::Stop`].
#[derive(Debug)]
pub struct VrrpHandle {
    commands: mpsc::UnboundedSender<Decided>,
    notices: mpsc::UnboundedReceiver<Notice>,
    status: watch::Receiver<VrrpStatus>,
    gate: Option<Duration>,
}

/// Sends commands to a driver that somebody else holds.
#[derive(Clone, Debug)]
pub struct VrrpCommander(mpsc::UnboundedSender<Decided>);

impl VrrpCommander {
    /// Sends a command that is decided on now.
    pub fn send(&self, command: Command) {
        self.send_decided(clock::now(), command);
    }

    /// Sends a command that was decided on earlier, by [`now`](crate::driver::now): a decision that has waited for too
    /// long is not acted on.
    pub fn send_decided(&self, at: Instant, command: Command) {
        // A driver that has ended answers by dropping the sender in the command.
        let _ = self.0.send((at, command));
    }

    /// [`Command::Grant`].
    ///
    /// # Errors
    /// Why the instance has no addresses.
    pub async fn grant(&self, instance: &str) -> Result<(), String> {
        let (answer, answered) = oneshot::channel();
        self.send(Command::Grant(instance.to_owned(), answer));
        answered.await.unwrap_or_else(|_| Err("the VRRP driver has ended".to_owned()))
    }

    /// [`Command::Revoke`].
    pub async fn revoke(&self, instance: &str) {
        let (answer, answered) = oneshot::channel();
        self.send(Command::Revoke(instance.to_owned(), answer));
        let _ = answered.await;
    }

    /// [`Command::Renew`].
    pub fn renew(&self, instance: &str) {
        self.send(Command::Renew(instance.to_owned()));
    }

    /// [`Command::Stop`].
    pub async fn stop(&self) {
        let (answer, answered) = oneshot::channel();
        self.send(Command::Stop(answer));
        let _ = answered.await;
    }
}

impl VrrpHandle {
    /// Sends commands to this driver.
    pub fn commander(&self) -> VrrpCommander {
        VrrpCommander(self.commands.clone())
    }

    /// The next notice; none after the end of the driver. Nothing is lost when the future is dropped.
    pub async fn notice(&mut self) -> Option<Notice> {
        self.notices.recv().await
    }

    /// For how long after a decision the addresses of bound instances answer at most; none: as long as the kernel keeps them,
    /// since no gate was asked for, or there can be none here. It does not change.
    pub fn gate(&self) -> Option<Duration> {
        self.gate
    }

    /// What there is to know, kept up to date.
    pub fn status(&self) -> watch::Receiver<VrrpStatus> {
        self.status.clone()
    }
}

/// Removes what an earlier run has left of the configured addresses, routes and rules, and starts the driver as a task of
/// the [`LocalSet`](tokio::task::LocalSet) that this is called in, for the network namespace of its thread.
///
/// # Errors
/// No sockets, or the kernel refuses to tell its tables. Afterwards the driver lives with what the kernel refuses.
pub async fn start(settings: VrrpSettings) -> Result<VrrpHandle, DriverError> {
    let (commands, to_task) = mpsc::unbounded_channel();
    let (to_handle, notices) = mpsc::unbounded_channel();
    let (task, status) = task::Task::new(settings, to_task, to_handle).await?;
    let gate = task.gate();
    tokio::task::spawn_local(task.run());
    Ok(VrrpHandle { commands, notices, status, gate })
}
