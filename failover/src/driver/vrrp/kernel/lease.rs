//! Addresses are leases: how they come, are renewed and go.

use model::failover::config::VirtualAddress;
use model::time::Instant;

use super::super::ACT_WITHIN;
use super::{Held, HeldAddress, Kernel};
use crate::driver::clock;
use crate::vip::gate::Guarded;
use crate::vip::netlink::{InterfaceAddress, Lifetime};
use crate::vip::plan;
use crate::vrrp::Name;

/// Whose word it is that addresses are added or renewed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) struct Decision {
    /// When it was made.
    pub at: Instant,
    /// What was put later than that is left as it is.
    pub since: Instant,
    /// Until when the gate is open by it; none: the addresses have no gate.
    pub open_until: Option<Instant>,
}

/// How adding or renewing went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in super::super) enum Put {
    /// Everything is there.
    Done,
    /// Time went by; what was decided may be wrong by now.
    Late,
    /// Something is not there.
    Failed(String),
}

/// What has come of adding or renewing.
pub(in super::super) struct Renewal {
    pub instance: Name,
    /// When it was decided on.
    pub decided: Instant,
    put: Vec<(VirtualAddress, Instant)>,
    is_open: bool,
    pub outcome: Put,
}

impl Kernel {
    /// Remembers that an instance has these addresses from now on; [`Kernel::put`] adds them.
    pub(in super::super) fn hold(
        &mut self,
        instance: &Name,
        addresses: &[VirtualAddress],
        lifetime: Lifetime,
    ) {
        let held = self.held.entry(instance.clone()).or_insert_with(|| Held {
            lifetime,
            addresses: Vec::new(),
            routes: Vec::new(),
            rules: Vec::new(),
            opened: None,
            trouble: None,
        });
        held.lifetime = lifetime;
        for config in addresses {
            if !held.addresses.iter().any(|one| one.config == *config) {
                held.addresses.push(HeldAddress { config: config.clone(), put_at: None, abandoned: false });
            }
        }
    }

    /// Adds or renews every address of an instance, and opens the gate in front of them.
    pub(in super::super) async fn put(&mut self, instance: &Name, decision: Decision) -> Put {
        let renewal = self.renewal(instance, decision).await;
        self.renewed(&renewal);
        renewal.outcome
    }

    /// The same, while other things are done. What comes of it is for [`Kernel::renewed`]; it has to be dropped before an
    /// address of the instance is removed, or it might come back.
    pub(in super::super) fn renewal(
        &self,
        instance: &Name,
        decision: Decision,
    ) -> impl Future<Output = Renewal> + 'static {
        let (netlink, gate) = (self.netlink.clone(), self.gate.clone());
        let mut renewal = Renewal {
            instance: instance.clone(),
            decided: decision.at,
            put: Vec::new(),
            is_open: false,
            outcome: Put::Done,
        };
        let held = self.held.get(instance);
        let present = held.into_iter().flat_map(|held| &held.addresses).filter(|one| !one.abandoned);
        let lifetime = held.map_or(Lifetime::FOREVER, |held| held.lifetime);
        let (mut wanted, mut guarded, mut is_new) = (Vec::new(), Vec::new(), false);
        for one in present {
            guarded.push(guarded_as(&one.config));
            is_new |= one.put_at.is_none();
            if one.put_at < Some(decision.since) {
                wanted.push((one.config.clone(), self.wanted(&one.config, lifetime)));
            }
        }
        // An older word does not shorten a newer one.
        let is_newer = held.is_some_and(|held| held.opened <= Some(decision.at));
        let open_until = decision.open_until.filter(|_| is_newer);
        async move {
            // One that comes is there before it answers, behind a gate that is closed. Of one that is there, the shorter time
            // is renewed first. What has no gate is not renewed.
            match open_until {
                Some(_) if is_new => renewal.outcome = gate.guard(&guarded, decision.at).await,
                Some(until) => {
                    renewal.outcome = gate.open(guarded.clone(), decision.at, until).await;
                    renewal.is_open = renewal.outcome == Put::Done;
                }
                None => {}
            }
            if renewal.outcome != Put::Done {
                return renewal;
            }
            for (config, address) in wanted {
                // Since the decision this process may have been stopped, or the kernel have been busy.
                let now = clock::now();
                if now.saturating_since(decision.at) > ACT_WITHIN {
                    renewal.outcome = Put::Late;
                    return renewal;
                }
                let result = match address {
                    Some(address) => netlink.put_address(&address).await.map_err(|e| e.to_string()),
                    None => Err(format!(
                        "there is no interface {}",
                        config.interface.as_deref().unwrap_or_default()
                    )),
                };
                match result {
                    Ok(()) => renewal.put.push((config, now)),
                    Err(e) if renewal.outcome == Put::Done => renewal.outcome = Put::Failed(e),
                    Err(_) => {}
                }
            }
            if let (Some(until), true, Put::Done) = (open_until, is_new, &renewal.outcome) {
                renewal.outcome = gate.open(guarded, decision.at, until).await;
                renewal.is_open = renewal.outcome == Put::Done;
            }
            renewal
        }
    }

    fn wanted(&self, config: &VirtualAddress, lifetime: Lifetime) -> Option<InterfaceAddress> {
        let link = self.links.index(config.interface.as_ref())?;
        let mut address = plan::address_of(config, link, lifetime).address;
        // A master that was killed still has the address, and its kernel would object for it: duplicate address detection
        // would leave the address unusable on the new one.
        address.options.no_dad |= address.local.is_ipv6();
        Some(address)
    }

    /// Remembers what has come of a renewal.
    pub(in super::super) fn renewed(&mut self, renewal: &Renewal) {
        let instance = &renewal.instance;
        let Some(held) = self.held.get_mut(instance) else { return };
        if renewal.is_open {
            held.opened = held.opened.max(Some(renewal.decided));
        }
        for (config, at) in &renewal.put {
            if let Some(one) = held.addresses.iter_mut().find(|one| one.config == *config) {
                one.put_at = Some(*at);
            }
        }
        let failure = match &renewal.outcome {
            Put::Done => None,
            Put::Failed(why) => Some(why),
            Put::Late => return,
        };
        if held.trouble.as_ref() != failure {
            match failure {
                Some(text) => tracing::error!("vrrp_instance {instance}: {text}"),
                None => tracing::info!("vrrp_instance {instance}: its addresses are there again"),
            }
            held.trouble = failure.cloned();
        }
    }

    /// Takes the addresses of an instance away until they are renewed.
    pub(in super::super) async fn withdraw(&mut self, instance: &Name) {
        // Nobody else has taken them.
        if let Some(held) = self.held.get_mut(instance) {
            held.opened = None;
            held.addresses.iter_mut().for_each(|one| one.put_at = None);
        }
        let addresses = self.addresses_held(instance);
        self.take(instance, &addresses).await;
    }

    /// Removes addresses, held or not.
    pub(in super::super) async fn remove_addresses(&mut self, instance: &Name, addresses: &[VirtualAddress]) {
        if let Some(held) = self.held.get_mut(instance) {
            held.addresses.retain(|one| !addresses.contains(&one.config));
            if held.addresses.is_empty() {
                held.opened = None;
            }
        }
        self.take(instance, addresses).await;
    }

    async fn take(&self, instance: &Name, addresses: &[VirtualAddress]) {
        // Who is asked while they go does not answer any more.
        self.gate.close(addresses.iter().map(guarded_as).collect()).await;
        // The last one first: the first one of a subnet may take the others with it.
        for address in addresses.iter().rev() {
            let Some(link) = self.links.index(address.interface.as_ref()) else { continue };
            let wanted = plan::address_of(address, link, Lifetime::FOREVER);
            if let Err(e) = self.netlink.remove_address(&wanted.address).await {
                tracing::error!("vrrp_instance {instance}: {e}; it ends by itself");
            }
        }
    }
}

fn guarded_as(address: &VirtualAddress) -> Guarded {
    Guarded::new(address.address, address.interface.as_deref().unwrap_or_default())
}
