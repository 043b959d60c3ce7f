//! What a service says of its instances: they are Master, still are, or are no more.

use model::time::Instant;
use tokio::task::AbortHandle;

use super::super::kernel::{Decision, Put, Renewal};
use super::super::{ACT_WITHIN, Notice};
use super::Task;
use crate::driver::clock;
use crate::vrrp::{Event, Name};

impl Task {
    /// Adds what a bound instance gets with its role, or by another configuration while it has it.
    pub(super) async fn put_bound(&mut self, instance: &Name, since: Instant, decided: Instant) {
        // Another configuration is no word of the service: what is new answers no longer than what was there.
        let kept_until = self.vrrp.kept_until(instance);
        let open_until = self.open_until(instance, decided);
        let open_until = open_until.map(|until| kept_until.map_or(until, |kept| kept.min(until)));
        let decision = Decision { at: decided, since, open_until };
        let why = match self.kernel.put(instance, decision).await {
            Put::Done => return,
            Put::Late => "too much time has gone by since that was decided".to_owned(),
            Put::Failed(why) => why,
        };
        self.refused.insert(instance.clone(), why);
    }

    pub(super) async fn grant(&mut self, at: Instant, instance: &str) -> Result<(), String> {
        self.refused.clear();
        let mut out = Vec::new();
        let now = clock::now();
        if now.saturating_since(at) > ACT_WITHIN {
            return Err("too much time has gone by since that was decided".to_owned());
        }
        let before: Vec<Name> = self.together(instance).into_iter().filter(|n| self.is_master(n)).collect();
        let result = self.vrrp.grant(now, instance, &mut out);
        // The decision is the service's, which was before this.
        self.actions.extend(out.into_iter().map(|action| (at, action)));
        self.settle().await;
        result.map_err(|e| e.to_string())?;
        let failed = std::mem::take(&mut self.refused).into_iter().next();
        match failed {
            Some((_, why)) => {
                self.revoke(instance).await;
                Err(why)
            }
            None if self.is_master(instance) => {
                let until = at + self.renewal_is_good_for;
                for name in self.together(instance) {
                    if before.contains(&name) {
                        // It has its addresses from before; this is another word for them.
                        self.renew(&name, at, at);
                    } else {
                        self.vrrp.keep_until(&name, until);
                    }
                }
                Ok(())
            }
            None => Err("it has lost its role at once".to_owned()),
        }
    }

    pub(super) async fn revoke(&mut self, instance: &str) {
        let now = clock::now();
        let mut out = Vec::new();
        if let Err(e) = self.vrrp.revoke(now, instance, &mut out) {
            tracing::warn!("{e}");
        }
        self.actions.extend(out.into_iter().map(|action| (now, action)));
        self.settle().await;
    }

    /// The clock is looked at by [`Kernel::put`], which does nothing on a word that has waited.
    pub(super) async fn renew_bound(&mut self, at: Instant, instance: &str) {
        // Who has slept is not Master any more, and finds that out here.
        self.handle(Event::Tick);
        self.settle().await;
        for name in self.together(instance) {
            if !self.bound.contains(&name) {
                continue;
            }
            if self.is_master(&name) {
                self.renew(&name, at, at);
            } else {
                // Whoever renews takes it for Master, perhaps by an answer that crossed the end of that.
                let why = "it has no role that could be renewed".to_owned();
                self.notice(Notice::RoleLost { instance: name.to_string(), why });
            }
        }
    }

    /// An instance and the others of its group.
    fn together(&self, instance: &str) -> Vec<Name> {
        let group = self.config.sync_groups.iter().find(|g| g.members.iter().any(|m| m == instance));
        group.map_or_else(
            || vec![Name::from(instance)],
            |g| g.members.iter().map(|m| m.as_str().into()).collect(),
        )
    }

    /// Until when the gate of an instance is open by a decision; none: it has no gate.
    fn open_until(&self, instance: &Name, decided: Instant) -> Option<Instant> {
        let gate = self.kernel.gate.good_for().filter(|_| self.bound.contains(instance));
        gate.map(|gate| decided + gate)
    }

    /// Begins to renew what an instance holds; nothing, if that is on its way already.
    pub(super) fn renew(&mut self, instance: &Name, since: Instant, decided: Instant) {
        if self.renewing.get(instance).is_none_or(AbortHandle::is_finished) {
            let open_until = self.open_until(instance, decided);
            let renewal = self.kernel.renewal(instance, Decision { at: decided, since, open_until });
            self.renewing.insert(instance.clone(), self.renewals.spawn_local(renewal));
        }
    }

    pub(super) async fn renewed(&mut self, renewal: Renewal) {
        let Renewal { instance, decided, .. } = &renewal;
        self.kernel.renewed(&renewal);
        if !self.bound.contains(instance) {
            if renewal.outcome == Put::Late {
                self.handle(Event::Tick);
                self.settle().await;
                if self.is_master(instance) {
                    self.renew(instance, *decided, clock::now());
                }
            }
            return;
        }
        if !self.is_master(instance) {
            return;
        }
        if clock::now().saturating_since(*decided) > self.renewal_is_good_for {
            tracing::warn!("vrrp_instance {instance}: a renewal took so long that it is taken back");
            return self.kernel.withdraw(instance).await;
        }
        match renewal.outcome {
            Put::Done => {
                self.vrrp.keep_until(instance, *decided + self.renewal_is_good_for);
                self.kernel.restore_ways(instance).await;
            }
            Put::Late => tracing::warn!(
                "vrrp_instance {instance}: a renewal came too late; its addresses may end by themselves"
            ),
            Put::Failed(_) => {}
        }
    }
}
