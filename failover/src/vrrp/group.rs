//! Sync groups: instances that are Master together or not at all (failover 1.12). Faults are shared before they get to the
//! routers; here the roles are.

use std::sync::Arc;

use model::failover::config::SyncGroup;
use model::time::Instant;

use super::action::{Action, State};
use super::machine::Router;
use super::notify::{Notification, Transition, Who};
use super::status::GroupStatus;

/// One sync group.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub name: Arc<str>,
    pub config: SyncGroup,
    /// Its members among the routers.
    pub members: Vec<usize>,
    /// What was told last.
    told: Option<Transition>,
}

impl Group {
    pub fn new(config: &SyncGroup, routers: &[Router]) -> Group {
        let position = |name: &String| routers.iter().position(|r| **r.name() == **name);
        Group {
            name: config.name.as_str().into(),
            members: config.members.iter().filter_map(position).collect(),
            config: config.clone(),
            told: None,
        }
    }

    /// Goes on where the group was before the configuration was read again.
    pub fn inherit(&mut self, old: &Group) {
        self.told = old.told;
    }

    fn all(&self, routers: &[Router], holds: impl Fn(&Router) -> bool) -> bool {
        !self.members.is_empty() && self.members.iter().all(|m| holds(&routers[*m]))
    }

    /// The state of all members, if they agree.
    fn state(&self, routers: &[Router]) -> Option<State> {
        let state = routers[*self.members.first()?].state();
        self.all(routers, |r| r.state() == state).then_some(state)
    }

    /// Brings the members together and tells what became of the group.
    pub fn settle(&self, now: Instant, routers: &mut [Router], out: &mut Vec<Action>) {
        if self.all(routers, |r| r.state() == State::Backup && r.wants_master()) {
            self.members.iter().for_each(|m| routers[*m].follow_to_master(now, out));
        } else if !self.all(routers, |r| r.state() == State::Master) {
            for member in &self.members {
                if routers[*member].state() == State::Master {
                    routers[*member].follow_to_backup(now, out);
                }
            }
        }
    }

    /// Tells a new common state, once, after its members have told theirs.
    pub fn tell(&mut self, routers: &[Router], out: &mut Vec<Action>) {
        let transition = match self.state(routers) {
            Some(State::Master) => Transition::Master,
            Some(State::Backup) => Transition::Backup,
            Some(State::Fault) => Transition::Fault,
            Some(State::Initialize) if self.told.is_some() => Transition::Stop,
            Some(State::Initialize) | None => return,
        };
        if self.told != Some(transition) {
            self.told = Some(transition);
            let who = Who::Group(self.name.clone());
            out.push(Action::Notify(Notification::new(who, transition, 0, &self.config.notify)));
        }
    }

    pub fn status(&self, routers: &[Router]) -> GroupStatus {
        let members = self.members.iter().map(|m| routers[*m].name().clone()).collect();
        GroupStatus { name: self.name.clone(), state: self.state(routers), members }
    }
}
