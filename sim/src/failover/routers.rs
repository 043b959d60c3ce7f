//! The virtual routers of a node, run as their driver runs them: an instance that is bound to the service, and a free one. What they
//! say goes over the segment of the clients; their addresses are in a kernel that outlives the daemon, each with a lifetime.

use failover::vrrp::packet::{ChecksumForm, IpFacts, PRIORITY_STOP, PROTOCOL};
use failover::vrrp::{ACT_WITHIN, Binding, Event as RouterEvent, RoleLost, State as RouterState, Vrrp};
use failover::vrrp::{Action as RouterAction, InstanceStatus};
use model::config::{LoadError, LoadedFile, Loader};
use model::failover::config::FailoverConfig;

use super::segment::interface;
use super::*;

/// The instances, by their place in the configuration and in [`Side::kernel`].
pub(super) const BOUND: usize = 0;
pub(super) const FREE: usize = 1;
pub(super) const INSTANCES: [&str; 2] = ["VI_db", "VI_free"];

/// How long the kernel keeps an address of a free instance, and how often it is renewed: as the driver does.
const FREE_LIFETIME: Duration = Duration::from_secs(3);
const FREE_RENEW_EVERY: Duration = Duration::from_secs(1);

/// The routers of a running daemon.
#[derive(Debug)]
pub(super) struct Routers {
    pub vrrp: Vrrp,
    /// What the service was told last.
    speaks: Option<bool>,
    faults: Vec<String>,
    /// Its addresses are here, as far as the service's side knows.
    held: bool,
    free_renewed: Instant,
    deadline: Option<Instant>,
    /// Commands arrive in their order.
    last_command: Instant,
}

/// How the instances are configured.
#[derive(Clone, Debug)]
pub(super) struct RouterPlan {
    pub configs: [FailoverConfig; 2],
    /// Of the adverts.
    pub interval: Duration,
}

impl RouterPlan {
    /// By chance.
    pub fn new(rng: &mut Rng) -> RouterPlan {
        let interval_cs = [10, 10, 20, 50, 100][rng.below(5) as usize];
        let preempt = ["", "nopreempt", "preempt_delay 2"][rng.below(3) as usize];
        let mut priority = || 50 + rng.below(3) * 50;
        let priorities = [[priority(), priority()], [priority(), priority()]];
        let config = |n: usize| {
            let instance = |i: usize, more: &str| {
                format!(
                    "vrrp_instance {} {{\n state BACKUP\n interface eth0\n version 3\n virtual_router_id {}\n \
                     priority {}\n advert_int {}.{:02}\n {more}\n virtual_ipaddress {{\n 10.77.0.{}/24\n }}\n}}\n",
                    INSTANCES[i],
                    51 + i,
                    priorities[i][n],
                    interval_cs / 100,
                    interval_cs % 100,
                    100 + i
                )
            };
            let text = instance(BOUND, "") + &instance(FREE, preempt);
            let loaded = model::failover::load(&Text(text), "/failover", None);
            loaded.unwrap_or_else(|all| panic!("{}", all[0])).config
        };
        RouterPlan { configs: [config(0), config(1)], interval: Duration::from_millis(interval_cs * 10) }
    }
}

struct Text(String);

impl Loader for Text {
    fn read(&self, path: &str) -> Result<LoadedFile, LoadError> {
        Ok(LoadedFile { name: path.to_owned(), identity: path.to_owned(), text: self.0.clone().into_bytes() })
    }

    fn glob(&self, _pattern: &str) -> Vec<String> {
        Vec::new()
    }
}

impl Cluster {
    /// A daemon starts its routers. What an earlier one has left must not meet the next home's, so it goes first.
    pub(super) fn start_routers(&mut self, n: usize) {
        let now = self.w.clock(n);
        self.sides[n].kernel = [None; 2];
        let config = &self.router_plan.configs[n];
        let up = !self.segment.unplugged[n];
        let bound = [INSTANCES[BOUND].to_owned()];
        let vrrp = Vrrp::new(now, config, &[interface(n, up)], &bound);
        self.sides[n].routers = Some(Routers {
            vrrp,
            speaks: None,
            faults: Vec::new(),
            held: false,
            free_renewed: now,
            deadline: None,
            last_command: self.w.now,
        });
        self.routers_handle(n, RouterEvent::Start);
    }

    /// An instance of a node as it is now.
    pub(super) fn instance(&self, n: usize, i: usize) -> Option<InstanceStatus> {
        Some(self.sides[n].routers.as_ref()?.vrrp.status().instances.swap_remove(i))
    }

    /// This node's daemon runs and takes the instance for Master.
    pub(super) fn is_router_master(&self, n: usize, i: usize) -> bool {
        let vrrp = self.sides[n].routers.as_ref().map(|r| &r.vrrp);
        vrrp.is_some_and(|v| v.state(INSTANCES[i]) == Some(RouterState::Master))
    }

    /// The kernel of this node has the address of the instance.
    pub(super) fn has_address(&self, n: usize, i: usize) -> bool {
        self.sides[n].kernel[i].is_some_and(|until| self.w.now < until)
    }

    /// The service's side sends a command to the routers; it gets there a little later.
    pub(super) fn send_to_routers(&mut self, n: usize, command: RouterCommand) {
        let us = match self.slow_routers {
            Some(rate) if self.rng.one_in(rate) => 1 + self.rng.below(1_000_000),
            _ => 1 + self.rng.below(1_000),
        };
        let (decided, life) = (self.w.clock(n), self.sides[n].life);
        let now = self.w.now;
        let Some(routers) = self.sides[n].routers.as_mut() else { return };
        if matches!(command, RouterCommand::Revoke(_)) {
            routers.held = false;
        }
        let at = (now + Duration::from_micros(us)).max(routers.last_command);
        routers.last_command = at;
        self.put(n, life, at, What::ToRouters(decided, command));
    }

    /// The addresses may stay for another lifetime; what is not here any more comes back.
    pub(super) fn renew_addresses(&mut self, n: usize) {
        let held = self.sides[n].routers.as_ref().is_some_and(|r| r.held);
        let command = if held { RouterCommand::Renew } else { RouterCommand::Grant(None) };
        self.send_to_routers(n, command);
    }

    pub(super) fn router_command(&mut self, n: usize, decided: Instant, command: RouterCommand) {
        match command {
            RouterCommand::Grant(attempt) => {
                let result = self.grant_role(n, decided);
                if let Some(routers) = self.sides[n].routers.as_mut() {
                    routers.held = result.is_ok();
                }
                if let Some(attempt) = attempt {
                    self.tell(n, Event::StepDone(attempt.key, result));
                }
            }
            RouterCommand::Revoke(attempt) => {
                self.revoke_role(n);
                self.tell(n, Event::StepDone(attempt.key, Ok(())));
            }
            RouterCommand::Renew => {
                self.routers_handle(n, RouterEvent::Tick);
                if self.is_router_master(n, BOUND) && self.is_in_time(n, decided) {
                    self.put_address(n, BOUND, decided);
                    self.keep_role(n, decided);
                }
                // Its role may have been lost before it was known that it has it.
                if !self.is_router_master(n, BOUND)
                    && let Some(routers) = self.sides[n].routers.as_mut()
                {
                    routers.held = false;
                }
            }
        }
    }

    /// As long as the kernel keeps the address for certain.
    fn keep_role(&mut self, n: usize, decided: Instant) {
        if self.bug == Some(Bug::RoleWithoutEnd) {
            return;
        }
        let lifetime = self.sides[n].gate.unwrap_or(ADDRESS_LIFETIME);
        if let Some(routers) = self.sides[n].routers.as_mut() {
            routers.vrrp.keep_until(INSTANCES[BOUND], decided + lifetime);
        }
        self.arm_routers(n);
    }

    fn grant_role(&mut self, n: usize, decided: Instant) -> Result<(), String> {
        let now = self.w.clock(n);
        if !self.is_in_time(n, decided) {
            return Err("too late".into());
        }
        let mut out = Vec::new();
        let Some(routers) = self.sides[n].routers.as_mut() else { return Err("no routers".into()) };
        let result = routers.vrrp.grant(now, INSTANCES[BOUND], &mut out);
        self.routers_act(n, decided, out);
        result.map_err(|e| e.to_string())?;
        if self.failing_steps.is_some_and(|rate| self.rng.one_in(rate)) {
            self.revoke_role(n);
            return Err("the kernel refuses, by chance".into());
        }
        self.keep_role(n, decided);
        Ok(())
    }

    fn revoke_role(&mut self, n: usize) {
        let now = self.w.clock(n);
        let mut out = Vec::new();
        let Some(routers) = self.sides[n].routers.as_mut() else { return };
        routers.vrrp.revoke(now, INSTANCES[BOUND], &mut out).expect("the instance is bound");
        self.routers_act(n, now, out);
    }

    /// A decision that has waited is not acted on.
    fn is_in_time(&self, n: usize, decided: Instant) -> bool {
        self.bug == Some(Bug::DecisionsKept) || self.w.clock(n).saturating_since(decided) <= ACT_WITHIN
    }

    /// The kernel has it from now on for a lifetime, and for a little more; a gate is open for as long as was decided on.
    fn put_address(&mut self, n: usize, i: usize, decided: Instant) {
        let waited = self.w.clock(n).saturating_since(decided);
        let (lifetime, slack_us) = match self.sides[n].gate {
            _ if i == FREE => (FREE_LIFETIME, KERNEL_SLACK_US),
            Some(gate) => (gate.saturating_sub(waited), GATE_SLACK_US),
            None => (ADDRESS_LIFETIME, KERNEL_SLACK_US),
        };
        let slack = Duration::from_micros(self.rng.below(slack_us));
        let until = match self.bug {
            Some(Bug::AddressWithoutLifetime) => Instant(u64::MAX),
            _ => self.w.now + lifetime + slack,
        };
        self.sides[n].kernel[i] = Some(until);
    }

    pub(super) fn routers_deadline(&mut self, n: usize) {
        let now = self.w.clock(n);
        let Some(routers) = self.sides[n].routers.as_mut() else { return };
        routers.deadline = None;
        let renews = now.saturating_since(routers.free_renewed) >= FREE_RENEW_EVERY;
        if renews {
            routers.free_renewed = now;
        }
        self.routers_handle(n, RouterEvent::Tick);
        if renews && self.is_router_master(n, FREE) {
            self.put_address(n, FREE, now);
        }
    }

    pub(super) fn packet_arrives(&mut self, n: usize, ip: &IpFacts, payload: &[u8]) {
        let for_free = payload.get(1) == Some(&52);
        if for_free && self.bug == Some(Bug::FreeInstanceDeaf) {
            return;
        }
        self.routers_handle(n, RouterEvent::Packet { interface: "eth0", ip, payload });
    }

    pub(super) fn carrier_changed(&mut self, n: usize) {
        let interface = interface(n, !self.segment.unplugged[n]);
        self.routers_handle(n, RouterEvent::Interface(&interface));
    }

    fn routers_handle(&mut self, n: usize, event: RouterEvent<'_>) {
        let now = self.w.clock(n);
        let mut out = Vec::new();
        let Some(routers) = self.sides[n].routers.as_mut() else { return };
        routers.vrrp.handle(now, event, &mut out);
        self.routers_act(n, now, out);
    }

    /// Does what the machine wants, in its order, and tells the service what has come of it.
    fn routers_act(&mut self, n: usize, decided: Instant, actions: Vec<RouterAction>) {
        let place = |name: &str| INSTANCES.iter().position(|i| *i == name).expect("one of ours");
        let mut spoke = false;
        for action in actions {
            match action {
                RouterAction::Send { instance, source, destination, ttl, advert, .. } => {
                    spoke |= place(&instance) == BOUND && advert.priority != PRIORITY_STOP;
                    let payload = advert.encode(source, destination, ChecksumForm::PseudoHeader);
                    let total_bytes = 20 + u16::try_from(payload.len()).expect("an advert is short");
                    let protocol = PROTOCOL;
                    let ip = IpFacts { source, destination, protocol, ttl, header_bytes: 20, total_bytes };
                    self.transmit(n, ip, &payload);
                }
                RouterAction::AddAddresses { instance, .. } => self.put_address(n, place(&instance), decided),
                RouterAction::RemoveAddresses { instance, .. } => {
                    self.sides[n].kernel[place(&instance)] = None;
                }
                RouterAction::PeerSilent { .. } if self.bug == Some(Bug::GrantBeforeHome) => {
                    self.send_to_routers(n, RouterCommand::Grant(None));
                }
                RouterAction::PeerSilent { .. } => self.tell_speaks(n, false),
                RouterAction::RoleLost { why, .. } => self.role_lost(n, why),
                RouterAction::Log { text, .. } => self.note(n, &text),
                _ => {}
            }
        }
        assert!(!spoke || self.has_address(n, BOUND), "node {} speaks for an address that it lacks", n + 1);
        self.publish(n);
        self.arm_routers(n);
    }

    fn role_lost(&mut self, n: usize, why: RoleLost) {
        self.note(n, &format!("the bound instance has lost its role: {why:?}"));
        if let Some(routers) = self.sides[n].routers.as_mut() {
            routers.held = false;
        }
    }

    /// What in the status the service has to be told.
    fn publish(&mut self, n: usize) {
        let Some(bound) = self.instance(n, BOUND) else { return };
        let Some(routers) = self.sides[n].routers.as_mut() else { return };
        assert_eq!(bound.binding, Binding::Bound, "a service owns it");
        let changed = routers.faults != bound.faults;
        routers.faults.clone_from(&bound.faults);
        match bound.state {
            RouterState::Backup if bound.peer_heard.is_some() && !bound.peer_silent => {
                self.tell_speaks(n, true);
            }
            RouterState::Master => routers.speaks = None,
            RouterState::Backup | RouterState::Fault | RouterState::Initialize => {}
        }
        if changed {
            let fault = (!bound.faults.is_empty()).then(|| bound.faults.join(", "));
            self.tell(n, Event::Fault(fault));
        }
    }

    fn tell_speaks(&mut self, n: usize, speaks: bool) {
        let Some(routers) = self.sides[n].routers.as_mut() else { return };
        if routers.speaks.replace(speaks) != Some(speaks) {
            self.tell(n, Event::PeerSpeaks(speaks));
        }
    }

    fn arm_routers(&mut self, n: usize) {
        let (now, life) = (self.w.clock(n), self.sides[n].life);
        let world_now = self.w.now;
        let Some(routers) = self.sides[n].routers.as_mut() else { return };
        let renew_at = routers.free_renewed + FREE_RENEW_EVERY;
        let due = routers.vrrp.deadline().map_or(renew_at, |at| at.min(renew_at));
        let at = world_now + due.saturating_since(now).max(Duration::from_micros(10));
        if routers.deadline.is_none_or(|armed| at < armed) {
            routers.deadline = Some(at);
            self.put(n, life, at, What::RoutersDeadline);
        }
    }
}
