//! Role checks for clients and proxies: over HTTP as Patroni has them, and by HAProxy's agent-check (failover 8.6). They run
//! as tasks of the control plane, and are off unless `lockstep.toml` says where to listen.

mod agent;
mod listen;
pub mod roles;
mod routes;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use model::state::Role;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use tracing::{debug, info};

use super::resources::{Resources, Running};
use super::settings::Settings;
use roles::{RoleFacts, RoleSource, ServiceFacts};
use routes::Picture;

/// A request head longer than this is refused.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// The sockets, before anybody is served.
pub struct Listeners {
    http: Option<TcpListener>,
    /// Each for one resource, or for all together.
    agents: Vec<(TcpListener, Option<Rc<str>>)>,
}

impl Listeners {
    /// Listens wherever the settings say so.
    ///
    /// # Errors
    /// An address cannot be listened on; the text names the key.
    pub async fn bind(settings: &Settings) -> anyhow::Result<Listeners> {
        let http = match settings.http.listen {
            Some(address) => Some(bind("[http] listen", address).await?),
            None => None,
        };
        let mut agents = Vec::new();
        if let Some(address) = settings.agent_check.listen {
            agents.push((bind("[agent-check] listen", address).await?, None));
        }
        for (name, resource) in &settings.resource {
            let Some(address) = resource.agent_check_listen else { continue };
            let listener = bind(&format!("[resource.{name}] agent-check-listen"), address).await?;
            agents.push((listener, Some(Rc::from(name.as_str()))));
        }
        Ok(Listeners { http, agents })
    }

    /// Answers for as long as the daemon runs. Must run in a `LocalSet`.
    pub fn serve(self, source: Rc<dyn RoleSource>) {
        if let Some(listener) = self.http {
            let source = source.clone();
            let router = routes::router();
            spawn_local(listen::accept(listener, move |stream| {
                converse(stream, router.clone(), source.clone())
            }));
        }
        for (listener, resource) in self.agents {
            let source = source.clone();
            spawn_local(listen::accept(listener, move |stream| {
                agent::converse(stream, source.clone(), resource.clone())
            }));
        }
    }
}

async fn bind(key: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("{key} = \"{address}\": cannot listen there (see lockstep.toml)"))?;
    info!("{key}: role checks are answered on {}", listener.local_addr().unwrap_or(address));
    Ok(listener)
}

/// One request and its answer. The facts are taken here, where resources may be touched: the routes run as if on any thread.
async fn converse(stream: TcpStream, router: Router, source: Rc<dyn RoleSource>) {
    let routes = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Arc::new(Picture(source.roles())));
        routes.call(request)
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .half_close(true)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(e) = connection.await {
        debug!("role check over HTTP: {e}");
    }
}

impl RoleSource for Resources {
    fn roles(&self) -> Vec<RoleFacts> {
        let facts = |running: Rc<Running>| {
            let snapshot = running.snapshot();
            let is_demoting = running.is_demoting() && snapshot.role == Role::Primary;
            let is_home = self.is_home_of_service(&snapshot.name);
            let service = is_home.map(|is_home| ServiceFacts { is_home, answers: is_home });
            RoleFacts { is_alive: running.is_alive(), is_demoting, service, snapshot }
        };
        self.all().into_iter().map(facts).collect()
    }
}
