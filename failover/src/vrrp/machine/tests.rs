//! One router, row by row.

use model::failover::config::{Authentication, Preempt, VrrpVersion};
use model::time::{Duration, Instant};

use super::super::action::{Action, AlarmChange, State};
use super::super::alarm::AlarmKind;
use super::super::check::Reason;
use super::super::lab::{GROUP, MS, S, VIP, advert_of, at, instance, node, packet, virtual_address};
use super::super::notify::Transition;
use super::super::packet::Advert;
use super::*;

mod bound;
mod changes;
mod mismatch;
mod table;
mod time;

const V2: VrrpVersion = VrrpVersion::V2;
const V3: VrrpVersion = VrrpVersion::V3;
/// MasterDown and Skew of priority 100 at 1 s (failover 1.8).
const DOWN_100: Duration = Duration::from_nanos(3_609_375_000);
const SKEW_100: Duration = Duration::from_nanos(609_375_000);

/// A router at 10.77.0.1 whose actions are kept.
struct Test {
    router: Router,
    out: Vec<Action>,
    now: Instant,
}

impl Test {
    fn new(config: VrrpInstance, binding: Binding) -> Test {
        let now = at(Duration::ZERO);
        let router = Router::new(now, config, Some(node(1)), binding, Options::default());
        Test { router, out: vec![], now }
    }

    fn started(config: VrrpInstance) -> Test {
        let mut test = Test::new(config, Binding::Free);
        test.router.start(test.now, &mut test.out);
        test
    }

    fn bound(config: VrrpInstance) -> Test {
        let mut test = Test::new(config, Binding::Bound);
        test.router.start(test.now, &mut test.out);
        test
    }

    /// A Master of priority 100, version 2, 1 s, that has just become it, and nothing in its actions.
    fn master(config: VrrpInstance) -> Test {
        let mut test = Test::started(config);
        test.tick();
        assert_eq!(test.router.state(), State::Master);
        test.out.clear();
        test
    }

    /// Goes to the next deadline.
    fn tick(&mut self) {
        self.now = self.router.deadline().expect("there is a deadline");
        self.router.tick(self.now, &mut self.out);
        self.router.check_invariants();
    }

    /// Does everything that is due until then.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.router.deadline().is_some_and(|deadline| deadline <= end) {
            self.tick();
        }
        self.now = end;
    }

    fn hear_advert(&mut self, from: u8, advert: &Advert) {
        let (ip, payload) = packet(node(from), GROUP, advert);
        self.router.receive(self.now, &ip, &payload, &mut self.out);
        self.router.check_invariants();
    }

    /// An advert like our own, of another priority and sender.
    fn hear(&mut self, from: u8, priority: u8) {
        self.hear_advert(from, &advert_of(self.router.config(), priority));
    }

    /// What happened since the last call, in short words.
    fn did(&mut self) -> Vec<String> {
        let words = self.out.drain(..).filter_map(|action| match action {
            Action::Send { destination, advert, .. } if destination == GROUP => {
                Some(format!("advert {}", advert.priority))
            }
            Action::Send { destination, advert, .. } => {
                Some(format!("advert {} to {destination}", advert.priority))
            }
            Action::AddAddresses { addresses, .. } => Some(format!("add {}", addresses.len())),
            Action::RemoveAddresses { addresses, .. } => Some(format!("remove {}", addresses.len())),
            Action::AddRoutes { .. } => Some("add routes".into()),
            Action::RemoveRoutes { .. } => Some("remove routes".into()),
            Action::AddRules { .. } => Some("add rules".into()),
            Action::RemoveRules { .. } => Some("remove rules".into()),
            Action::StartAnnouncing { .. } => Some("announce".into()),
            Action::AnnounceSource { interface, source, .. } => {
                Some(format!("announce {source} on {interface}"))
            }
            Action::AnnounceAgain { .. } => Some("announce again".into()),
            Action::StopAnnouncing { .. } => Some("no more announcing".into()),
            Action::Notify(n) => Some(n.transition.word().to_owned()),
            Action::PeerSilent { last_heard, .. } => Some(format!("silent since {last_heard:?}")),
            Action::RoleLost { why, .. } => Some(format!("role lost: {why:?}")),
            Action::Alarm { change, alarm, .. } => Some(format!("{change:?} {:?}", alarm.kind)),
            Action::Log { .. } => None,
        });
        words.collect()
    }

    fn timer(&self) -> Duration {
        self.router.timer.expect("the timer runs").saturating_since(self.now)
    }
}

fn v2(priority: u8) -> VrrpInstance {
    instance(V2, priority, S)
}
