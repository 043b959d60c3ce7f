//! The gate of this node: which addresses it guards, and that its rules are there.
//!
//! What is guarded and not renewed is dropped. So rules that a killed daemon has left keep its addresses closed, which is what
//! they are for; a daemon that starts replaces them, and one that is stopped removes them after its addresses. Rules that
//! somebody else has removed are put back when they are missed: before an address comes, when it is renewed, and with a look
//! each second. nft takes its time on a busy machine, so it runs beside everything else.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;
use std::time::Duration;

use model::failover::config::FailoverConfig;
use model::time::Instant;
use tokio::sync::Notify;

use super::ACT_WITHIN;
use super::kernel::{Put, addresses_of};
use crate::driver::clock;
use crate::vip::gate::{GateError, Guarded, Replace, Rules, TABLE, Tables, load, ruleset};

mod keeper;

use keeper::{Keeper, Opening};

/// `priority` of the owner of the addresses.
const OWNER: u8 = 255;

/// For how long an answer is waited for. The elements have expired by then.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// The gate, or none.
pub(super) struct Gate {
    /// For how long a decision keeps an address open; none: nothing is guarded.
    good_for: Option<Duration>,
    keeper: Option<Keeper>,
    wanted: RefCell<Rules>,
    /// What the kernel has, as far as is known.
    installed: RefCell<Option<Rules>>,
    /// The tables that this is in; none: not known yet.
    tables: Cell<Option<Tables>>,
    /// Tables are there or should be: they are looked after, and removed in the end.
    is_up: Cell<bool>,
    /// Rules are looked after right now; what comes of it is told to who waits.
    working: Cell<bool>,
    settled: Notify,
    ended: Cell<bool>,
    /// What went wrong last: one line in the log for a row of the same.
    trouble: RefCell<Option<String>>,
}

impl Gate {
    /// No gate.
    pub(super) fn none() -> Gate {
        Gate {
            good_for: None,
            keeper: None,
            wanted: RefCell::default(),
            installed: RefCell::default(),
            tables: Cell::new(None),
            is_up: Cell::new(false),
            working: Cell::new(false),
            settled: Notify::new(),
            ended: Cell::new(false),
            trouble: RefCell::default(),
        }
    }

    /// Puts up the gate, closed, in place of one that an earlier run has left. If that cannot be, there is none: it says so,
    /// and [`Gate::good_for`] too.
    pub(super) async fn start(good_for: Option<Duration>, config: &FailoverConfig, bound: &[String]) -> Gate {
        let mut gate = Gate { good_for, ..Gate::none() };
        gate.wanted = RefCell::new(gate.rules(&[(config, bound)]));
        let is_needed = good_for.is_some() || !gate.wanted.borrow().silent.is_empty();
        let result = match Keeper::start() {
            Ok(keeper) => {
                gate.keeper = Some(keeper);
                if is_needed { gate.put_up().await } else { gate.take_down().await }
            }
            Err(e) => Err(e),
        };
        match result {
            Ok(()) => {}
            // A kernel without nf_tables has nothing to take down.
            Err(e) if !is_needed => tracing::debug!("{e}"),
            Err(e) => {
                if good_for.is_some() {
                    tracing::warn!(
                        "there is no gate in front of the addresses of services: {e}; a killed daemon's address answers \
                         until the kernel takes it, and another node waits for as long before it shows it (install \
                         nftables, on a kernel with nf_tables, and start the daemon again)"
                    );
                }
                gate.good_for = None;
                gate.tell_of_silent(&e);
                gate.wanted.borrow_mut().guarded.clear();
                // Rules of an earlier run would keep addresses closed that nobody opens.
                if let Err(e) = gate.take_down().await {
                    tracing::debug!("{e}");
                }
            }
        }
        gate
    }

    /// For how long an address answers after it was opened; none: there is no gate.
    pub(super) fn good_for(&self) -> Option<Duration> {
        self.good_for
    }

    fn rules(&self, configs: &[(&FailoverConfig, &[String])]) -> Rules {
        let mut rules = Rules::default();
        for (config, bound) in configs {
            for instance in &config.instances {
                let addresses = addresses_of(instance).into_iter();
                let addresses: Vec<Guarded> = addresses
                    .map(|a| Guarded::new(a.address, a.interface.as_deref().unwrap_or_default()))
                    .collect();
                if !instance.accept && instance.priority != OWNER {
                    rules.silent.extend(addresses.iter().cloned());
                }
                if self.good_for.is_some() && bound.contains(&instance.name) {
                    rules.guarded.extend(addresses);
                }
            }
        }
        rules
    }

    async fn put_up(&self) -> Result<(), GateError> {
        let rules = self.wanted.borrow().clone();
        self.is_up.set(true);
        load(&ruleset(&rules, Replace::Everything)).await?;
        // Every set is tried: no gate is better than one that cannot be opened.
        let probes = [IpAddr::V4(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into(), LINK_LOCAL.into()];
        let probes = probes.map(|address| Guarded::new(address, "lo"));
        self.keeper()?.close(probes.to_vec(), ANSWER_TIMEOUT).await?;
        self.is_loaded(rules).await
    }

    async fn take_down(&self) -> Result<(), GateError> {
        self.installed.replace(None);
        if let Some(keeper) = &self.keeper {
            keeper.remove(ANSWER_TIMEOUT).await?;
        }
        self.is_up.set(false);
        Ok(())
    }

    fn keeper(&self) -> Result<&Keeper, GateError> {
        self.keeper.as_ref().ok_or(GateError::Gone)
    }

    /// Guards what these configurations have, from when [`Gate::settled`] returns: the one before too, as long as something of
    /// that is held. What is open stays open.
    pub(super) fn configure(self: &Rc<Gate>, configs: &[(&FailoverConfig, &[String])]) {
        let rules = self.rules(configs);
        self.is_up.set(self.is_up.get() || rules != Rules::default());
        self.wanted.replace(rules);
        self.look_after();
    }

    /// Waits until rules are as they should be, or cannot be.
    pub(super) async fn settled(&self) {
        while self.working.get() {
            self.settled.notified().await;
        }
    }

    fn tell(&self, result: &Result<(), GateError>) {
        let trouble = result.as_ref().err().map(ToString::to_string);
        if *self.trouble.borrow() == trouble {
            return;
        }
        match result {
            Err(e) => {
                if self.good_for.is_some() {
                    tracing::error!(
                        "the gate in front of addresses is not as it should be, and opens no more: {e}"
                    );
                }
                self.tell_of_silent(e);
            }
            Ok(()) => tracing::info!("the rules in front of addresses are there again"),
        }
        self.trouble.replace(trouble);
    }

    fn tell_of_silent(&self, e: &GateError) {
        if !self.wanted.borrow().silent.is_empty() {
            tracing::warn!("no_accept is without effect, virtual addresses answer: {e}");
        }
    }

    fn is_as_wanted(&self) -> bool {
        self.installed.borrow().as_ref() == Some(&*self.wanted.borrow())
    }

    /// Whether these addresses are closed unless somebody opens them, as far as is known.
    fn guards(&self, addresses: &[Guarded]) -> bool {
        let all = |rules: &Rules| addresses.iter().all(|address| rules.guarded.contains(address));
        self.installed.borrow().as_ref().is_some_and(all)
    }

    /// Opens the gate for these addresses until then, on a decision made at `decided`.
    pub(super) async fn open(
        self: &Rc<Gate>,
        addresses: Vec<Guarded>,
        decided: Instant,
        until: Instant,
    ) -> Put {
        assert!(decided <= until, "a gate that is opened for less than no time");
        if addresses.is_empty() || self.good_for.is_none() {
            return Put::Done;
        }
        // What is open and not guarded would have no end.
        let mut guarded = self.wait_for(&addresses, decided).await;
        let mut is_first = true;
        while guarded == Put::Done {
            let Ok(keeper) = self.keeper() else { return failed(&GateError::Gone) };
            match keeper.open(addresses.clone(), decided, until, ANSWER_TIMEOUT).await {
                Ok(Opening::Open) => return Put::Done,
                Ok(Opening::Late) => return Put::Late,
                Err(GateError::Gone) if is_first => self.miss(),
                Err(e) => return failed(&e),
            }
            is_first = false;
            guarded = self.wait_for(&addresses, decided).await;
        }
        guarded
    }

    /// Makes sure that these addresses are guarded, before they come.
    pub(super) async fn guard(self: &Rc<Gate>, addresses: &[Guarded], decided: Instant) -> Put {
        if self.good_for.is_none() {
            return Put::Done;
        }
        match self.find().await {
            Ok(true) => {}
            Ok(false) => self.miss(),
            Err(e) => return failed(&e),
        }
        self.wait_for(addresses, decided).await
    }

    /// Waits until these addresses are guarded, no longer than the decision is good.
    async fn wait_for(self: &Rc<Gate>, addresses: &[Guarded], decided: Instant) -> Put {
        let mut has_waited = false;
        loop {
            let settled = self.settled.notified();
            if self.guards(addresses) {
                return Put::Done;
            }
            let trouble = self.trouble.borrow().clone();
            match trouble {
                // It is tried again each second.
                Some(why) if has_waited || !self.working.get() => return Put::Failed(does_not_open(&why)),
                _ => self.look_after(),
            }
            let left = (decided + ACT_WITHIN).saturating_since(clock::now());
            if tokio::time::timeout(left, settled).await.is_err() {
                return Put::Late;
            }
            has_waited = true;
        }
    }

    /// Closes the gate in front of those of these addresses that are guarded.
    pub(super) async fn close(&self, addresses: Vec<Guarded>) {
        let guarded = |address: &Guarded| {
            let is_in = |rules: &Rules| rules.guarded.contains(address);
            self.installed.borrow().as_ref().is_some_and(is_in) || is_in(&self.wanted.borrow())
        };
        let addresses: Vec<Guarded> = addresses.into_iter().filter(guarded).collect();
        let (Some(good_for), false) = (self.good_for, addresses.is_empty()) else { return };
        let Ok(keeper) = self.keeper() else { return };
        // After this time it has closed by itself.
        match keeper.close(addresses, good_for).await {
            Ok(()) => {}
            Err(GateError::Gone) => {
                tracing::warn!("{}: addresses are removed without a gate", GateError::Gone)
            }
            Err(e) => tracing::error!("{e}; it closes by itself"),
        }
    }

    /// Whether the tables are still there, and as they should be, is found out beside everything else, and mended.
    pub(super) fn look_after(self: &Rc<Gate>) {
        if !self.is_up.get() || self.ended.get() || self.working.replace(true) {
            return;
        }
        let gate = self.clone();
        tokio::task::spawn_local(async move {
            loop {
                let result = gate.be_as_wanted().await;
                gate.tell(&result);
                // Meanwhile something else may be wanted.
                if result.is_err() || gate.is_as_wanted() || gate.ended.get() {
                    break;
                }
            }
            gate.working.set(false);
            gate.settled.notify_waiters();
        });
    }

    /// Whether the tables are there, and those that were loaded.
    async fn find(&self) -> Result<bool, GateError> {
        let found = self.keeper()?.look(ANSWER_TIMEOUT).await?;
        let known = self.tables.get();
        Ok(found.is_some() && (known.is_none() || found == known))
    }

    /// Somebody has removed the rules.
    fn miss(&self) {
        if self.installed.replace(None).is_some() {
            tracing::warn!(
                "nftables' tables {TABLE} are gone, or others are in their place: somebody has flushed or loaded a ruleset; puts \
                 them back"
            );
        }
    }

    async fn be_as_wanted(&self) -> Result<(), GateError> {
        if !self.find().await? {
            self.miss();
        }
        if self.is_as_wanted() {
            return Ok(());
        }
        let rules = self.wanted.borrow().clone();
        match load(&ruleset(&rules, Replace::RulesOnly)).await {
            // Tables of that name that are not as ours.
            Err(GateError::Load(why)) => {
                tracing::warn!("{}; replaces them", GateError::Load(why));
                load(&ruleset(&rules, Replace::Everything)).await?;
            }
            result => result?,
        }
        self.is_loaded(rules).await
    }

    /// Knows these rules and the tables that they are in.
    async fn is_loaded(&self, rules: Rules) -> Result<(), GateError> {
        let tables = self.keeper()?.look(ANSWER_TIMEOUT).await?;
        self.tables.set(Some(tables.ok_or(GateError::Gone)?));
        self.installed.replace(Some(rules));
        Ok(())
    }

    /// Removes the gate, for good.
    pub(super) async fn stop(&self) {
        self.ended.set(true);
        self.settled().await;
        if self.is_up.get()
            && let Err(e) = self.take_down().await
        {
            tracing::error!(
                "{e}; virtual addresses stay closed (nft delete table inet lockstep; nft delete table arp lockstep)"
            );
        }
    }
}

fn failed(e: &GateError) -> Put {
    Put::Failed(does_not_open(&e.to_string()))
}

fn does_not_open(why: &str) -> String {
    format!("the gate in front of its addresses does not open: {why}")
}

/// Any link-local address.
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
