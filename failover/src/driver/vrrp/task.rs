//! The task: takes what happens, gives it to the machine, and does what that wants, in its order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU32;
use std::rc::Rc;
use std::time::Duration;

use model::failover::config::FailoverConfig;
use model::time::Instant;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::gate::Gate;
use super::kernel::{Decision, Kernel, Lost, Put, Renewal};
use super::notify::Notifier;
use super::sockets::{Packet, Sockets};
use super::speaker::Speaker;
use super::track::Sources;
use super::{ACT_WITHIN, Command, Decided, DriverError, FREE_LIFETIME, Notice, RENEW_EVERY, VrrpSettings};
use crate::driver::clock;
use crate::driver::command::Policy;
use crate::vip::netlink::{Lifetime, Monitor, MonitorEvent, Netlink, NetlinkError};
use crate::vrrp::packet::{ChecksumForm, PRIORITY_STOP};
use crate::vrrp::socket::FrameSocket;
use crate::vrrp::{
    Action, AlarmChange, AlarmKind, Binding, Event, Interface, Level, Name, RoleLost, State, TrackerResult,
    Transition, Vrrp, VrrpStatus, Who,
};

mod bound;

/// So many packets and events are taken in a row before timers have their turn. They come first so that a Backup that was a
/// little late hears what has come meanwhile before it believes that nothing has.
const EVENTS_IN_A_ROW: u32 = 64;

/// The driver.
pub(super) struct Task {
    vrrp: Vrrp,
    config: FailoverConfig,
    bound: BTreeSet<Name>,
    bound_lifetime: Lifetime,
    /// For how long a renewal is good that is decided on now: as long as the gate is open by it, or the addresses live.
    renewal_is_good_for: Duration,
    kernel: Kernel,
    monitor: Monitor,
    sockets: Sockets,
    speaker: Speaker,
    notifier: Notifier,
    sources: Sources,
    results: (mpsc::UnboundedSender<TrackerResult>, mpsc::UnboundedReceiver<TrackerResult>),
    /// What the machine wants, and since when.
    actions: VecDeque<(Instant, Action)>,
    commands: mpsc::UnboundedReceiver<Decided>,
    notices: mpsc::UnboundedSender<Notice>,
    status: watch::Sender<VrrpStatus>,
    /// Free instances that hold addresses are looked at then.
    renew_at: Instant,
    /// Renewals on their way to the kernel: adverts do not wait until it has time.
    renewals: JoinSet<Renewal>,
    renewing: BTreeMap<Name, AbortHandle>,
    /// The newest configuration that is waited for, and the one that the gate is prepared for.
    next_config: Option<NextConfig>,
    preparations: JoinSet<NextConfig>,
    /// What the machine was told of each interface.
    interfaces: BTreeMap<String, Interface>,
    told: Told,
    /// Why a bound instance that was granted its role has no addresses.
    refused: BTreeMap<Name, String>,
}

/// What the service was told last of each instance.
#[derive(Default)]
struct Told {
    speaks: BTreeMap<Name, bool>,
    faults: BTreeMap<Name, String>,
}

/// Another configuration, and the names of the instances that services own in it.
type NextConfig = (Box<FailoverConfig>, Vec<String>);

enum Happened {
    Command(Option<Decided>),
    Monitor(Result<MonitorEvent, NetlinkError>),
    Packet(Packet),
    Result(Option<TrackerResult>),
    Renewal(Option<Result<Renewal, tokio::task::JoinError>>),
    Prepared(Option<Result<NextConfig, tokio::task::JoinError>>),
    Time,
}

impl Task {
    pub(super) async fn new(
        settings: VrrpSettings,
        commands: mpsc::UnboundedReceiver<Decided>,
        notices: mpsc::UnboundedSender<Notice>,
    ) -> Result<(Task, watch::Receiver<VrrpStatus>), DriverError> {
        let VrrpSettings { config, bound, address_lifetime, gate, mailer } = settings;
        let bound_lifetime = lifetime(address_lifetime).ok_or(DriverError::Lifetime(address_lifetime))?;
        if let Some(gate) = gate.filter(|gate| *gate <= ACT_WITHIN) {
            return Err(DriverError::Gate(gate));
        }
        let mut monitor = Monitor::open()?;
        let mut kernel = Kernel::new(Netlink::open_apart()?);
        kernel.read().await?;
        kernel.configure(&config);
        kernel.remove_leftovers(&config).await?;
        kernel.gate = Rc::new(Gate::start(gate, &config, &bound).await);
        kernel.make_macvlans(&config).await;
        monitor.knows(&kernel.read().await?);
        let mut sockets = Sockets::default();
        sockets.configure(&[&config], &kernel.links);
        let interfaces = kernel.interfaces();
        let now = clock::now();
        let vrrp = Vrrp::new(now, &config, &interfaces, &bound);
        let policy = policy(&config);
        let mut notifier = Notifier::new(mailer);
        notifier.configure(&config, policy.clone());
        let results = mpsc::unbounded_channel();
        let sources = Sources::start(&config, &policy, &results.0);
        let (status, watched) = watch::channel(vrrp.status());
        let speaker = Speaker::new(FrameSocket::open().map_err(DriverError::Frames)?);
        let renewal_is_good_for =
            kernel.gate.good_for().map_or(address_lifetime, |gate| gate.min(address_lifetime));
        let mut task = Task {
            vrrp,
            config,
            bound: BTreeSet::new(),
            bound_lifetime,
            renewal_is_good_for,
            kernel,
            monitor,
            sockets,
            speaker,
            notifier,
            sources,
            results,
            actions: VecDeque::new(),
            commands,
            notices,
            status,
            renew_at: now + RENEW_EVERY,
            renewals: JoinSet::new(),
            renewing: BTreeMap::new(),
            next_config: None,
            preparations: JoinSet::new(),
            interfaces: interfaces.into_iter().map(|i| (i.name.clone(), i)).collect(),
            told: Told::default(),
            refused: BTreeMap::new(),
        };
        task.learn_bound();
        task.handle(Event::Start);
        task.settle().await;
        Ok((task, watched))
    }

    /// For how long the addresses of bound instances answer; none: there is no gate.
    pub(super) fn gate(&self) -> Option<Duration> {
        self.kernel.gate.good_for()
    }

    pub(super) async fn run(mut self) {
        let mut in_a_row = 0;
        loop {
            let deadline = self.deadline();
            let left = deadline.saturating_since(clock::now());
            let happened = if in_a_row >= EVENTS_IN_A_ROW && left.is_zero() {
                Happened::Time
            } else {
                tokio::select! {
                    biased;
                    command = self.commands.recv() => Happened::Command(command),
                    event = self.monitor.next() => Happened::Monitor(event),
                    packet = self.sockets.receive() => Happened::Packet(packet),
                    () = tokio::time::sleep(left) => Happened::Time,
                    renewal = self.renewals.join_next(), if !self.renewals.is_empty() => {
                        Happened::Renewal(renewal)
                    }
                    prepared = self.preparations.join_next(), if !self.preparations.is_empty() => {
                        Happened::Prepared(prepared)
                    }
                    result = self.results.1.recv() => Happened::Result(result),
                }
            };
            in_a_row = if matches!(happened, Happened::Time) { 0 } else { in_a_row + 1 };
            match happened {
                Happened::Command(Some((at, Command::Stop(answer)))) => {
                    tracing::debug!("told to stop {:?} ago", clock::now().saturating_since(at));
                    self.stop().await;
                    let _ = answer.send(());
                    return;
                }
                Happened::Command(None) => return self.stop().await,
                Happened::Command(Some((at, command))) => self.command(at, command).await,
                Happened::Monitor(event) => self.kernel_changed(event).await,
                Happened::Packet(Packet { interface, ip, payload }) => {
                    self.handle(Event::Packet { interface: &interface, ip: &ip, payload: &payload });
                }
                Happened::Result(Some(result)) => self.handle(Event::Tracker(&result)),
                Happened::Renewal(Some(Ok(renewal))) => self.renewed(renewal).await,
                Happened::Prepared(Some(Ok((config, bound)))) => {
                    self.reload(*config, &bound).await;
                    self.prepare_reload();
                }
                // It was given up.
                Happened::Result(None) | Happened::Renewal(_) | Happened::Prepared(_) => {}
                Happened::Time => self.time().await,
            }
            self.settle().await;
        }
    }

    fn deadline(&self) -> Instant {
        let others = [self.vrrp.deadline(), self.speaker.deadline()];
        others.into_iter().flatten().fold(self.renew_at, Instant::min)
    }

    async fn time(&mut self) {
        self.handle(Event::Tick);
        self.settle().await;
        let now = clock::now();
        self.speaker.speak(now, &self.kernel.links);
        if now >= self.renew_at {
            self.renew_at = now + RENEW_EVERY;
            self.kernel.gate.look_after();
            for instance in self.kernel.holders() {
                if !self.bound.contains(&instance) && self.is_master(&instance) {
                    self.renew(&instance, now, now);
                }
            }
        }
    }

    /// Gives an event to the machine. What it wants is done by [`Task::settle`].
    fn handle(&mut self, event: Event<'_>) {
        let now = clock::now();
        let mut out = Vec::new();
        self.vrrp.handle(now, event, &mut out);
        self.actions.extend(out.into_iter().map(|action| (now, action)));
    }

    /// Does what the machine wants, and tells what has become of it.
    async fn settle(&mut self) {
        while let Some((decided, action)) = self.actions.pop_front() {
            self.act(decided, action).await;
        }
        self.tell();
    }

    async fn act(&mut self, decided: Instant, action: Action) {
        if clock::now().saturating_since(decided) > ACT_WITHIN {
            // A Master that was stopped since then is perhaps none any more (failover 1.16).
            if let Some(instance) = master_of(&action) {
                self.handle(Event::Tick);
                if !self.is_master(instance) {
                    return;
                }
            }
        }
        match action {
            Action::Send { instance: _, interface, source, destination, ttl, advert } => {
                let bytes = advert.encode(source, destination, ChecksumForm::PseudoHeader);
                self.sockets.send(&interface, source, destination, ttl, &bytes);
            }
            // What comes with the role is left out if the role was lost on the way to it.
            Action::AddAddresses { instance, addresses } if self.is_master(&instance) => {
                let is_bound = self.bound.contains(&instance);
                let lifetime = if is_bound { self.bound_lifetime } else { free_lifetime() };
                self.kernel.hold(&instance, &addresses, lifetime);
                // What is there already stays as it is: only a renewal renews.
                let never = Instant::default();
                if is_bound {
                    self.put_bound(&instance, never, decided).await;
                } else {
                    self.put_free(&instance, never, decided).await;
                }
            }
            Action::AddRoutes { instance, routes } if self.is_master(&instance) => {
                self.kernel.add_routes(&instance, &routes).await;
            }
            Action::AddRules { instance, rules } if self.is_master(&instance) => {
                self.kernel.add_rules(&instance, &rules).await;
            }
            Action::StartAnnouncing { instance, addresses, extra } if self.is_master(&instance) => {
                let Some(policy) = self.vrrp.config(&instance).map(|config| config.announce) else { return };
                let held = self.kernel.addresses_held(&instance);
                let now = clock::now();
                self.speaker.start(now, &instance, policy, (&addresses, &extra), &held);
                self.speaker.speak(now, &self.kernel.links);
            }
            Action::AddAddresses { .. }
            | Action::AddRoutes { .. }
            | Action::AddRules { .. }
            | Action::StartAnnouncing { .. } => {}
            Action::RemoveAddresses { instance, addresses } => {
                if let Some(renewing) = self.renewing.remove(&instance) {
                    renewing.abort();
                }
                self.kernel.remove_addresses(&instance, &addresses).await;
            }
            Action::RemoveRoutes { instance, routes } => self.kernel.remove_routes(&instance, &routes).await,
            Action::RemoveRules { instance, rules } => self.kernel.remove_rules(&instance, &rules).await,
            Action::AnnounceAgain { instance } => self.speaker.again(clock::now(), &instance),
            Action::AnnounceSource { interface, source, .. } => {
                self.speaker.say(&self.kernel.links, &interface, source);
            }
            Action::StopAnnouncing { instance } => self.speaker.stop(&instance),
            Action::Notify(notification) => {
                log_transition(&notification.who, notification.transition, notification.priority);
                self.notifier.tell(&notification);
            }
            Action::PeerSilent { instance, .. } => self.tell_speaks(&instance, false),
            Action::RoleLost { instance, why } => {
                let why = match why {
                    RoleLost::Fault => "it cannot take part any more",
                    RoleLost::NotRenewed => "it was not renewed in time",
                    RoleLost::Slept => "it did not run for so long that others may have taken over",
                    RoleLost::Stopped => "it was stopped",
                };
                self.notice(Notice::RoleLost { instance: instance.to_string(), why: why.to_owned() });
            }
            Action::Alarm { instance, change, alarm } => {
                let text = &alarm.text;
                match (change, alarm.kind) {
                    (AlarmChange::Cleared, _) => tracing::info!("vrrp_instance {instance}: is over: {text}"),
                    (_, AlarmKind::HeldByMismatch | AlarmKind::Stranger) => {
                        tracing::error!("vrrp_instance {instance}: {text}");
                    }
                    (_, AlarmKind::Mismatch(_) | AlarmKind::TwoOwners | AlarmKind::OwnAddress) => {
                        tracing::warn!("vrrp_instance {instance}: {text}");
                    }
                }
            }
            Action::Log { name, level: Level::Info, text } => tracing::info!("{name}: {text}"),
            Action::Log { name, level: Level::Warning, text } => tracing::warn!("{name}: {text}"),
        }
    }

    fn is_master(&self, instance: &str) -> bool {
        self.vrrp.state(instance) == Some(State::Master)
    }

    /// Adds or renews what a free instance holds, and looks again whenever that takes time.
    async fn put_free(&mut self, instance: &Name, since: Instant, mut decided: Instant) {
        let put = |at| Decision { at, since, open_until: None };
        while self.is_master(instance) && self.kernel.put(instance, put(decided)).await == Put::Late {
            decided = clock::now();
            self.handle(Event::Tick);
        }
    }

    async fn command(&mut self, at: Instant, command: Command) {
        match command {
            Command::Grant(instance, answer) => {
                let result = self.grant(at, &instance).await;
                if let Err(why) = &result {
                    tracing::warn!("vrrp_instance {instance}: does not become master: {why}");
                }
                let _ = answer.send(result);
            }
            Command::Revoke(instance, answer) => {
                self.revoke(&instance).await;
                let _ = answer.send(());
            }
            Command::Renew(instance) => self.renew_bound(at, &instance).await,
            Command::Resource { name, is_up_to_date } => {
                self.handle(Event::Tracker(&TrackerResult::Resource { name, is_up_to_date }));
            }
            Command::Reload(config, bound) => {
                self.next_config = Some((config, bound));
                self.prepare_reload();
            }
            Command::Stop(answer) => drop(answer),
        }
    }

    /// What comes with another configuration is guarded before it is there, what goes until it is gone; adverts do not wait
    /// for that.
    fn prepare_reload(&mut self) {
        if !self.preparations.is_empty() {
            return;
        }
        let Some((config, bound)) = self.next_config.take() else { return };
        let before: Vec<String> = self.bound.iter().map(ToString::to_string).collect();
        let gate = self.kernel.gate.clone();
        gate.configure(&[(&self.config, &before), (&config, &bound)]);
        self.preparations.spawn_local(async move {
            gate.settled().await;
            (config, bound)
        });
    }

    async fn reload(&mut self, config: FailoverConfig, bound: &[String]) {
        // Instances that end say so by their old sockets.
        self.sources.stop();
        self.kernel.make_macvlans(&config).await;
        self.sockets.configure(&[&self.config, &config], &self.kernel.links);
        self.kernel.configure(&config);
        let policy = policy(&config);
        self.notifier.configure(&config, policy.clone());
        self.interfaces_changed();
        self.handle(Event::Reload { config: &config, bound });
        self.learn_bound();
        self.settle().await;
        self.kernel.gate.configure(&[(&config, bound)]);
        self.kernel.remove_macvlans(Some(&config)).await;
        self.sockets.configure(&[&config], &self.kernel.links);
        self.sources = Sources::start(&config, &policy, &self.results.0);
        self.config = config;
        self.interfaces_changed();
    }

    async fn stop(&mut self) {
        self.sources.stop();
        self.handle(Event::Stop);
        self.settle().await;
        self.sockets = Sockets::default();
        self.kernel.gate.stop().await;
        self.kernel.remove_macvlans(None).await;
        self.notifier.finish().await;
    }

    async fn kernel_changed(&mut self, event: Result<MonitorEvent, NetlinkError>) {
        match event {
            Ok(MonitorEvent::Missed) => self.read_again().await,
            Ok(event) => {
                if !self.kernel.concerns(&event) {
                    return self.kernel.learn(event);
                }
                let is_link = matches!(event, MonitorEvent::Link { .. } | MonitorEvent::LinkGone(_));
                let lost = self.kernel.changed(event);
                if is_link {
                    self.kernel.make_missing_macvlans(&self.config).await;
                    self.sockets.links_changed(&self.kernel.links);
                }
                self.interfaces_changed();
                self.settle().await;
                if is_link {
                    for instance in self.kernel.holders() {
                        self.kernel.restore_ways(&instance).await;
                    }
                }
                if let Some(lost) = lost {
                    self.lost(lost).await;
                }
            }
            Err(e) => {
                tracing::error!("the monitor of the kernel's tables has failed and is opened again: {e}");
                // A failure that stays would be met without end.
                tokio::time::sleep(Duration::from_millis(10)).await;
                match Monitor::open() {
                    Ok(monitor) => self.monitor = monitor,
                    Err(e) => tracing::error!("{e}"),
                }
                self.read_again().await;
            }
        }
    }

    /// Nobody knows what has happened.
    async fn read_again(&mut self) {
        match self.kernel.read().await {
            Ok(links) => self.monitor.knows(&links),
            Err(e) => return tracing::error!("{e}"),
        }
        self.sockets.links_changed(&self.kernel.links);
        self.interfaces_changed();
        self.settle().await;
        // What is missing comes back with the renewal.
        self.renew_at = clock::now();
    }

    async fn lost(&mut self, lost: Lost) {
        let (instance, why) = match lost {
            Lost::Expired(instance) => (instance, "has ended, as nobody has renewed it"),
            Lost::Removed(instance) => (instance, "was removed by somebody"),
        };
        if !self.is_master(&instance) {
            return;
        }
        if self.bound.contains(&instance) {
            tracing::warn!(
                "vrrp_instance {instance}: an address {why}; it comes back when its service renews it"
            );
            return;
        }
        tracing::warn!("vrrp_instance {instance}: an address {why}; puts it back");
        self.handle(Event::Tick);
        self.settle().await;
        let now = clock::now();
        self.put_free(&instance, now, now).await;
        self.kernel.restore_ways(&instance).await;
        self.speaker.again(clock::now(), &instance);
    }

    /// Tells the machine what it does not know of the interfaces.
    fn interfaces_changed(&mut self) {
        let now: BTreeMap<String, Interface> =
            self.kernel.interfaces().into_iter().map(|i| (i.name.clone(), i)).collect();
        // One that only the configuration has forgotten is still there.
        let is_gone = |name: &&String| !now.contains_key(*name) && self.kernel.links.by_name(name).is_none();
        let gone = self.interfaces.keys().filter(is_gone);
        let gone = gone.map(|name| Interface { name: name.clone(), is_up: false, ipv4: None, ipv6: None });
        let changed = now.values().filter(|i| self.interfaces.get(&i.name) != Some(i)).cloned();
        let all: Vec<Interface> = gone.chain(changed).collect();
        self.interfaces = now;
        all.iter().for_each(|interface| self.handle(Event::Interface(interface)));
    }

    fn learn_bound(&mut self) {
        let status = self.vrrp.status();
        let bound = status.instances.into_iter().filter(|i| i.binding == Binding::Bound);
        self.bound = bound.map(|i| i.name).collect();
    }

    fn notice(&self, notice: Notice) {
        // Nobody listens any more when the handle is gone, and then this ends too.
        let _ = self.notices.send(notice);
    }

    fn tell_speaks(&mut self, instance: &Name, speaks: bool) {
        if self.told.speaks.insert(instance.clone(), speaks) != Some(speaks) {
            self.notice(Notice::PeerSpeaks { instance: instance.to_string(), speaks });
        }
    }

    /// Publishes the status, and what in it the service has to be told.
    fn tell(&mut self) {
        let status = self.vrrp.status();
        for instance in &status.instances {
            let name = &instance.name;
            let faults = instance.faults.join(", ");
            if self.told.faults.get(name).map_or("", String::as_str) != faults {
                let fault = (!faults.is_empty()).then(|| faults.clone());
                self.told.faults.insert(name.clone(), faults);
                self.notice(Notice::Fault { instance: name.to_string(), fault });
            }
            if instance.binding != Binding::Bound {
                continue;
            }
            match instance.state {
                State::Backup if instance.peer_heard.is_some() && !instance.peer_silent => {
                    self.tell_speaks(name, true);
                }
                // Afterwards its peers are heard anew.
                State::Master => drop(self.told.speaks.remove(name)),
                State::Backup | State::Fault | State::Initialize => {}
            }
        }
        self.status.send_if_modified(|old| {
            let changed = *old != status;
            *old = status;
            changed
        });
    }
}

fn policy(config: &FailoverConfig) -> Policy {
    Policy { user: config.globals.script_user.clone(), security: config.globals.script_security }
}

/// A lifetime that the kernel can count.
fn lifetime(time: Duration) -> Option<Lifetime> {
    let seconds = u32::try_from(time.as_secs()).ok().and_then(NonZeroU32::new);
    seconds.filter(|_| time.subsec_nanos() == 0).map(Lifetime::seconds)
}

fn free_lifetime() -> Lifetime {
    lifetime(FREE_LIFETIME).expect("it is a whole number of seconds")
}

/// Who says or announces something that only a Master may.
fn master_of(action: &Action) -> Option<&Name> {
    match action {
        Action::Send { instance, advert, .. } if advert.priority != PRIORITY_STOP => Some(instance),
        Action::StartAnnouncing { instance, .. } => Some(instance),
        _ => None,
    }
}

fn log_transition(who: &Who, transition: Transition, priority: u8) {
    let word = transition.word();
    match who {
        Who::Instance(name) => tracing::info!("vrrp_instance {name}: {word}, priority {priority}"),
        Who::Group(name) => tracing::info!("vrrp_sync_group {name}: {word}"),
    }
}
