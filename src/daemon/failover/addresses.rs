//! The virtual routers of this node, and what services and they have to tell each other.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::rc::Rc;
use std::time::Duration;

use failover::driver::mail::Mailer;
use failover::driver::now;
use failover::driver::vrrp::{Command, Notice, VrrpCommander, VrrpHandle, VrrpSettings};
use failover::service::{ADDRESS_LIFETIME, Event, answer_for, gate_for};
use failover::vrrp::VrrpStatus;
use model::failover::config::{FailoverConfig, Proof, Service};
use model::state::DiskState;
use tokio::sync::watch;
use tracing::warn;

use super::service::{Message, ServiceHandle};
use crate::daemon::resources::Resources;

/// The running routers.
pub struct Routers {
    commander: VrrpCommander,
    /// How long the gate is open that is in front of the addresses of services; none: there is none.
    gate: Option<Duration>,
    wanted_gate: Option<Duration>,
    status: watch::Receiver<VrrpStatus>,
    /// Taken by the task that passes on what they tell.
    handle: RefCell<Option<VrrpHandle>>,
}

/// The instances of one service, as its task uses them.
pub struct Addresses {
    instances: Vec<String>,
    commander: Option<VrrpCommander>,
    gate: Option<Duration>,
    /// Those that are here, as far as is known.
    held: Rc<RefCell<BTreeSet<String>>>,
}

/// Starts the routers, if any are configured. Must run in a `LocalSet`.
///
/// # Errors
/// No sockets, or no access to the kernel's tables.
pub async fn start(
    config: &FailoverConfig,
    has_gate: bool,
    resources: &Rc<Resources>,
    mailer: &Mailer,
) -> anyhow::Result<Option<Routers>> {
    if config.instances.is_empty() {
        return Ok(None);
    }
    let bound = config.services.iter().flat_map(|s| s.instances.iter().cloned()).collect();
    let wanted_gate = wanted_gate(config).filter(|_| has_gate);
    let settings = VrrpSettings {
        config: config.clone(),
        bound,
        address_lifetime: ADDRESS_LIFETIME,
        gate: wanted_gate,
        mailer: Some(mailer.clone()),
    };
    let handle = failover::driver::vrrp::start(settings).await?;
    let (commander, status) = (handle.commander(), handle.status());
    tokio::task::spawn_local(tell_of_disks(commander.clone(), resources.clone()));
    let gate = handle.gate();
    Ok(Some(Routers { commander, gate, wanted_gate, status, handle: RefCell::new(Some(handle)) }))
}

/// Only the record of a lease tells the other node that there is one.
fn wanted_gate(config: &FailoverConfig) -> Option<Duration> {
    let by_lease = |s: &Service| s.proof == Proof::Lease && !s.instances.is_empty();
    let lease = config.globals.lease.as_ref().filter(|_| config.services.iter().any(by_lease));
    lease.map(|lease| gate_for(lease.ttl))
}

impl Routers {
    /// The instances of a service.
    pub fn of(&self, service: &Service) -> Addresses {
        Addresses {
            instances: service.instances.clone(),
            commander: Some(self.commander()),
            gate: self.gate,
            held: Rc::default(),
        }
    }

    /// Sends commands to them.
    pub fn commander(&self) -> VrrpCommander {
        self.commander.clone()
    }

    /// Passes on to the services what their instances tell.
    pub fn tell(&self, config: &FailoverConfig, services: &BTreeMap<String, ServiceHandle>) {
        let mut owners = BTreeMap::new();
        for service in &config.services {
            let Some(handle) = services.get(&service.name) else { continue };
            owners.extend(service.instances.iter().map(|i| (i.clone(), handle.clone())));
        }
        if let Some(handle) = self.handle.take() {
            tokio::task::spawn_local(pass_on(handle, owners));
        }
    }

    /// Each instance in a line.
    pub fn status_text(&self) -> String {
        let mut out = String::new();
        match (self.wanted_gate, self.gate) {
            (Some(_), Some(open)) => {
                let _ = writeln!(out, "gate: open for {open:?} after each renewal of an address");
            }
            (Some(_), None) => out.push_str(
                "gate: none, as nftables is not to be had (see the log): the other node waits longer for addresses\n",
            ),
            (None, _) => {}
        }
        for i in &self.status.borrow().instances {
            let _ =
                writeln!(out, "vrrp_instance {}: {:?}, priority {}", i.name, i.state, i.effective_priority);
            for alarm in &i.alarms {
                let _ = writeln!(out, "    alarm: {}", alarm.text);
            }
        }
        out
    }
}

impl Addresses {
    /// There are none.
    pub fn none() -> Addresses {
        Addresses { instances: Vec::new(), commander: None, gate: None, held: Rc::default() }
    }

    /// For how long they may answer after the decision that renewed them last.
    pub fn answer_for(&self) -> Duration {
        if self.instances.is_empty() { Duration::ZERO } else { answer_for(self.gate) }
    }

    /// They come here, as was decided now.
    ///
    /// # Errors
    /// Why one of them does not.
    pub fn grant(&self) -> impl Future<Output = Result<(), String>> + use<> {
        self.grant_some(self.instances.clone())
    }

    fn grant_some(&self, instances: Vec<String>) -> impl Future<Output = Result<(), String>> + use<> {
        let (commander, held, decided) = (self.commander.clone(), self.held.clone(), now());
        async move {
            let Some(commander) = commander else { return Ok(()) };
            let mut result = Ok(());
            for instance in instances {
                let (answer, answered) = tokio::sync::oneshot::channel();
                commander.send_decided(decided, Command::Grant(instance.clone(), answer));
                let granted = answered.await.unwrap_or_else(|_| Err("the VRRP driver has ended".into()));
                if let Err(why) = granted {
                    // A grant that is refused takes back what another one, a moment ago, has brought.
                    held.borrow_mut().remove(&instance);
                    result = result.and(Err(format!("vrrp_instance {instance}: {why}")));
                } else {
                    held.borrow_mut().insert(instance);
                }
            }
            result
        }
    }

    /// They go.
    pub fn revoke(&self) -> impl Future<Output = Result<(), String>> + use<> {
        let (instances, commander) = (self.instances.clone(), self.commander.clone());
        self.held.borrow_mut().clear();
        async move {
            let Some(commander) = commander else { return Ok(()) };
            for instance in &instances {
                commander.revoke(instance).await;
            }
            Ok(())
        }
    }

    /// They may stay for another lifetime; what is not here any more comes back.
    pub fn renew(&self) {
        let Some(commander) = &self.commander else { return };
        let is_held = |i: &&String| self.held.borrow().contains(*i);
        let (held, missing): (Vec<&String>, Vec<&String>) = self.instances.iter().partition(is_held);
        held.into_iter().for_each(|i| commander.renew(i));
        if missing.is_empty() {
            return;
        }
        let granted = self.grant_some(missing.into_iter().cloned().collect());
        tokio::task::spawn_local(async move {
            if let Err(why) = granted.await {
                warn!("{why}");
            }
        });
    }

    /// A router has lost its role by itself.
    pub fn lost(&self, instance: &str) {
        self.held.borrow_mut().remove(instance);
    }
}

async fn pass_on(mut handle: VrrpHandle, owners: BTreeMap<String, ServiceHandle>) {
    let mut speaking = BTreeSet::new();
    while let Some(notice) = handle.notice().await {
        let (instance, message) = match notice {
            Notice::PeerSpeaks { instance, speaks } => {
                if speaks {
                    speaking.insert(instance.clone())
                } else {
                    speaking.remove(&instance)
                };
                let of_service = |i: &&String| {
                    owners.get(*i).map(ServiceHandle::id) == owners.get(&instance).map(ServiceHandle::id)
                };
                let any = speaking.iter().any(|i| of_service(&i));
                (instance, Message::Event(Event::PeerSpeaks(any)))
            }
            Notice::Fault { instance, fault } => {
                let fault = fault.map(|f| format!("vrrp_instance {instance}: {f}"));
                (instance, Message::Event(Event::Fault(fault)))
            }
            Notice::RoleLost { instance, why } => {
                warn!("vrrp_instance {instance}: its addresses are gone: {why}");
                (instance.clone(), Message::AddressesLost(instance))
            }
        };
        if let Some(owner) = owners.get(&instance) {
            owner.send(message);
        }
    }
}

/// For `track_resource`: which disks are UpToDate.
async fn tell_of_disks(commander: VrrpCommander, resources: Rc<Resources>) {
    let mut told: BTreeMap<String, bool> = BTreeMap::new();
    let mut changes = resources.changes();
    loop {
        for running in resources.all() {
            let snapshot = running.snapshot();
            let good = !snapshot.volumes.is_empty()
                && snapshot.volumes.iter().all(|v| v.state.disk == DiskState::UpToDate);
            if told.insert(snapshot.name.clone(), good) != Some(good) {
                commander.send(Command::Resource { name: snapshot.name.clone(), is_up_to_date: good });
            }
        }
        for (name, good) in told.iter_mut().filter(|(name, _)| resources.get(name).is_none()) {
            if std::mem::take(good) {
                commander.send(Command::Resource { name: name.clone(), is_up_to_date: false });
            }
        }
        tokio::time::sleep(PAUSE).await;
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);
