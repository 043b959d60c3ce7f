//! The failover side of the daemon: one task for each service, which runs its machine and does what that wants.

mod addresses;
mod heartbeat;
mod keeper;
mod service;
mod steps;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use failover::driver::mail::Mailer;
use failover::service::Order;
use model::failover::config::{FailoverConfig, Proof};
use model::failover::load;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::control::{FailoverRequest, NOT_MINE, Outcome, ServiceOrder};
use super::resources::Resources;
use super::settings::FailoverSettings;
use crate::config_files::FileSystem;
use addresses::Addresses;
use service::{Message, ServiceHandle};

/// The services that this node may be the home of.
#[derive(Default)]
pub struct Failover {
    config: FailoverConfig,
    /// As far as `lockstep.toml` allows one.
    has_gate: bool,
    services: RefCell<BTreeMap<String, ServiceHandle>>,
    vrrp: RefCell<Option<addresses::Routers>>,
    heartbeat: RefCell<Option<heartbeat::Heartbeat>>,
    /// For everybody here who has something to tell to people.
    mailer: RefCell<Option<Mailer>>,
}

/// How long mails are waited for when the daemon stops.
const LAST_MAILS: Duration = Duration::from_secs(1);

impl Failover {
    /// Reads the file; without one there are no services.
    ///
    /// # Errors
    /// It cannot be read, or is wrong.
    pub fn load(settings: &FailoverSettings) -> anyhow::Result<Failover> {
        let Some(file) = &settings.config else { return Ok(Failover::default()) };
        let name = file.to_str().context("failover: the path of the configuration is no text")?;
        match load(&FileSystem, name, None) {
            Ok(loaded) => {
                loaded.warnings.iter().for_each(|w| warn!("{w}"));
                let has_gate = settings.gate.unwrap_or(true);
                Ok(Failover { config: loaded.config, has_gate, ..Failover::default() })
            }
            Err(all) => {
                let texts: Vec<String> = all.iter().map(ToString::to_string).collect();
                bail!("{}", texts.join("\n"))
            }
        }
    }

    /// The resource belongs to a service whose lease decides who may serve clients.
    pub fn governs(&self, resource: &str) -> bool {
        self.config.services.iter().any(|s| s.resource == resource && s.proof == Proof::Lease)
    }

    /// Whether the service of a resource is at home here; none: it belongs to no service.
    pub fn is_home_of(&self, resource: &str) -> Option<bool> {
        let one = self.config.services.iter().find(|s| s.resource == resource)?;
        self.services.borrow().get(&one.name).map(ServiceHandle::is_home)
    }

    /// Starts the tasks, as the node `host`. Must run in a `LocalSet`.
    ///
    /// # Errors
    /// The lease store's addresses are none; the sockets and tables of virtual routers cannot be had; or `host` is none of
    /// heartbeat's nodes.
    pub async fn start(&self, resources: &Rc<Resources>, host: &str) -> anyhow::Result<()> {
        // First of all: what an earlier daemon has left of the addresses goes.
        let mailer = Mailer::start(&self.config.globals);
        let routers = addresses::start(&self.config, self.has_gate, resources, &mailer).await?;
        self.mailer.replace(Some(mailer));
        let heartbeat = heartbeat::start(&self.config, host)?;
        for one in &self.config.services {
            info!(service = one.name, resource = one.resource, "service");
            let addresses = routers.as_ref().map_or_else(Addresses::none, |r| r.of(one));
            let alive = heartbeat.as_ref().map(heartbeat::Heartbeat::status);
            let handle = service::start(one, &self.config.globals, resources, addresses, alive)?;
            self.services.borrow_mut().insert(one.name.clone(), handle);
        }
        if let Some(routers) = &routers {
            routers.tell(&self.config, &self.services.borrow());
        }
        self.vrrp.replace(routers);
        self.heartbeat.replace(heartbeat);
        Ok(())
    }

    /// Ends every service that is at home here, in peace, for the peer.
    pub async fn stop(&self) {
        let names: Vec<String> = self.services.borrow().keys().cloned().collect();
        for name in names {
            let outcome = self.order(&name, Order::Stop).await;
            info!(service = name, "{}{}", outcome.out.trim_end(), outcome.err.trim_end());
        }
        let routers = self.vrrp.borrow().as_ref().map(addresses::Routers::commander);
        if let Some(routers) = routers {
            routers.stop().await;
        }
        let mailer = self.mailer.borrow().clone();
        if let Some(mailer) = mailer {
            mailer.flush(LAST_MAILS).await;
        }
    }

    /// Tells the other nodes that nothing is left here: not before the resources are down.
    pub async fn say_goodbye(&self) {
        let heartbeat = self.heartbeat.take();
        if let Some(heartbeat) = heartbeat {
            heartbeat.stop().await;
        }
    }

    /// Answers a request of the control socket.
    pub async fn answer(&self, request: FailoverRequest) -> Outcome {
        match request {
            FailoverRequest::Status => {
                let mut outcome = self.gather(Message::Status).await;
                if let Some(routers) = &*self.vrrp.borrow() {
                    outcome.out.push_str(&routers.status_text());
                }
                if let Some(heartbeat) = &*self.heartbeat.borrow() {
                    outcome.out.push_str(&heartbeat.status_text());
                }
                outcome
            }
            FailoverRequest::History => self.gather(Message::History).await,
            FailoverRequest::Order { service, order } => {
                let order = match order {
                    ServiceOrder::Switch => Order::Switch,
                    ServiceOrder::Freeze => Order::Freeze,
                    ServiceOrder::Unfreeze => Order::Unfreeze,
                    ServiceOrder::Release => Order::Release,
                    ServiceOrder::Clear => Order::Clear,
                };
                self.order(&service, order).await
            }
            FailoverRequest::FencePeer { resource } => self.handler(&resource, Message::FencePeer).await,
            FailoverRequest::UnfencePeer { resource } => self.handler(&resource, Message::UnfencePeer).await,
        }
    }

    async fn order(&self, service: &str, order: Order) -> Outcome {
        let Some(handle) = self.services.borrow().get(service).cloned() else {
            return Outcome::failed(10, format!("service {service}: there is none of that name"));
        };
        let (reply, answered) = oneshot::channel();
        handle.send(Message::Order(order, reply));
        match answered.await {
            Ok(Ok(text)) => Outcome { out: format!("service {service}: {text}\n"), ..Outcome::default() },
            Ok(Err(text)) => Outcome::failed(11, format!("service {service}: {text}")),
            Err(_) => Outcome::failed(20, format!("service {service}: its task has ended")),
        }
    }

    async fn gather(&self, message: impl Fn(oneshot::Sender<String>) -> Message) -> Outcome {
        let handles: Vec<ServiceHandle> = self.services.borrow().values().cloned().collect();
        let mut out = String::new();
        for handle in handles {
            let (reply, answered) = oneshot::channel();
            handle.send(message(reply));
            out.push_str(&answered.await.unwrap_or_default());
        }
        for server in &self.config.virtual_servers {
            out.push_str(&format!(
                "virtual_server {}: {} real servers, not served yet\n",
                server.name, server.real_servers
            ));
        }
        if out.is_empty() && self.config.instances.is_empty() && self.config.heartbeat.is_none() {
            out.push_str("no services (lockstep.toml, table [failover])\n");
        }
        Outcome { out, ..Outcome::default() }
    }

    /// The exit code of a handler. What is no service's resource cannot be fenced by its lease.
    async fn handler(&self, resource: &str, message: fn(oneshot::Sender<i32>) -> Message) -> Outcome {
        let one = self.config.services.iter().find(|s| s.resource == resource);
        let handle = one.and_then(|s| self.services.borrow().get(&s.name).cloned());
        let Some(handle) = handle else {
            return Outcome::failed(NOT_MINE, format!("resource {resource}: it belongs to no service"));
        };
        let (reply, answered) = oneshot::channel();
        handle.send(message(reply));
        let code = answered.await.unwrap_or(1);
        Outcome { exit_code: u8::try_from(code).unwrap_or(1), ..Outcome::default() }
    }
}
