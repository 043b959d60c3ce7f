//! `lockstep fence-peer` and `lockstep unfence-peer`: the handlers of a resource. The daemon answers if it has the resource;
//! beside a kernel DRBD there is none, and the lease's record is changed from here.

use std::fs::File;
use std::io::Read;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use failover::driver::handler::run as carry_out;
use failover::lease::etcd::EtcdStore;
use failover::lease::handler::{BROKEN, Duty, HandlerSettings};
use failover::lease::kernel::{self, PROC_BYTES_MAX, VolumeLook};
use model::config::settings::ResourceConfig;
use model::failover::config::{FailoverConfig, LeaseStore, Proof};
use model::failover::load;
use model::policy::{Fencing, Protocol};

use super::{Verb, admin};
use crate::config_files::FileSystem;
use crate::daemon::control::{FailoverRequest, Outcome};
use crate::daemon::settings::Settings;
use crate::daemon::site::Site;
use crate::lease_memory::MemoryFile;

/// Arguments of a handler.
#[derive(Args, Debug)]
pub struct HandlerArgs {
    /// The resource; DRBD_RESOURCE of a handler's environment unless told otherwise
    #[arg(env = "DRBD_RESOURCE")]
    resource: Option<String>,
    /// File with the service, beside a kernel DRBD (default: as in lockstep.toml, or /etc/lockstep/failover.conf)
    #[arg(long, value_name = "FILE")]
    failover: Option<PathBuf>,
    /// Seconds after which it gives up, beside a kernel DRBD; more than 9/8 of the lease's term
    #[arg(long, default_value = "5", value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=600))]
    timeout: u32,
    /// What the kernel shows of its DRBD
    #[arg(long, default_value = "/proc/drbd", value_name = "FILE", hide = true)]
    proc_drbd: PathBuf,
}

/// The configuration that a handler was called for.
pub(super) fn config_file(verb: &Verb) -> Option<String> {
    let is_handler = matches!(verb, Verb::FencePeer(_) | Verb::UnfencePeer(_));
    is_handler.then(|| std::env::var("DRBD_CONF").ok()).flatten().filter(|file| Path::new(file).is_absolute())
}

/// Carries out a handler.
pub fn run(duty: Duty, args: &HandlerArgs, site: &Site, settings: &Settings, run_dir: &Path) -> Outcome {
    let Some(resource) = args.resource.clone() else {
        return Outcome::failed(BROKEN, "which resource? Name it, or run this as a handler (DRBD_RESOURCE)");
    };
    let request = match duty {
        Duty::Fence => FailoverRequest::FencePeer { resource: resource.clone() },
        Duty::Unfence => FailoverRequest::UnfencePeer { resource: resource.clone() },
    };
    if let Some(outcome) = admin::handler(run_dir, request) {
        return outcome;
    }
    let (code, text) = match Case::find(&resource, args, site, settings) {
        Ok(case) => case.carry_out(duty, args, &settings.state_dir(run_dir)),
        Err(text) => (BROKEN, text),
    };
    let name = if duty == Duty::Fence { "fence-peer" } else { "unfence-peer" };
    let text = format!("resource {resource}: {name}: {text}");
    // The kernel shows nobody what its handlers say.
    log(&format!("{text} (exit code {code})"));
    let mut outcome = Outcome { exit_code: code, ..Outcome::default() };
    outcome.error_line(&text);
    outcome
}

/// What a handler works on.
struct Case {
    service: String,
    store: LeaseStore,
    me: String,
    peer: String,
    minors: Vec<u32>,
    is_synchronous: bool,
    freezes: bool,
}

impl Case {
    fn find(resource: &str, args: &HandlerArgs, site: &Site, settings: &Settings) -> Result<Case, String> {
        let read = site.read().map_err(|refused| last_line(&refused.err))?;
        let config = read.resources.iter().find(|r| r.name == resource);
        let config =
            config.ok_or_else(|| format!("{} has no such resource for {}", site.config_file, site.host))?;
        let default = Path::new(super::failover::DEFAULT_FILE);
        let file = args.failover.as_deref().or(settings.failover.config.as_deref()).unwrap_or(default);
        let name = file.to_str().ok_or("the path of the failover file is no text")?;
        let loaded = load(&FileSystem, name, None).map_err(|all| {
            all.first().map_or_else(|| format!("{name} cannot be read"), ToString::to_string)
        })?;
        Case::of(config, &loaded.config, name)
    }

    fn of(config: &ResourceConfig, failover: &FailoverConfig, file: &str) -> Result<Case, String> {
        let service = failover.services.iter().find(|s| s.resource == config.name);
        let service = service.ok_or_else(|| format!("{file}: it belongs to no service"))?;
        let store = failover.globals.lease.clone().filter(|_| service.proof == Proof::Lease);
        let store = store.ok_or_else(|| format!("{file}: service {} has no lease", service.name))?;
        Ok(Case {
            service: service.name.clone(),
            store,
            me: config.host.clone(),
            peer: config.peer_host.clone(),
            minors: config.volumes.iter().map(|v| v.minor.0).collect(),
            is_synchronous: config.net.protocol == Protocol::C,
            freezes: config.volumes.iter().all(|v| v.disk_options.fencing == Fencing::ResourceAndStonith),
        })
    }

    fn carry_out(&self, duty: Duty, args: &HandlerArgs, state_dir: &Path) -> (u8, String) {
        if duty == Duty::Fence && !self.freezes {
            // A Primary that goes on meanwhile may be struck out by its peer.
            return (BROKEN, "its disks need 'fencing resource-and-stonith'".into());
        }
        let file = MemoryFile::of(state_dir, &self.service);
        let kept = file.read().unwrap_or_else(|e| {
            log(&format!("service {}: {e}: what its lease said before is not known", self.service));
            None
        });
        let timeout = Duration::from_secs(args.timeout.into());
        let settings = HandlerSettings {
            duty,
            me: self.me.clone(),
            peer: self.peer.clone(),
            is_synchronous: self.is_synchronous,
            timeout,
            changes_seen: kept.as_ref().map_or(0, |m| m.changes),
        };
        // Each member of the store has its chance.
        let attempt = (timeout / 5).min(Duration::from_secs(1));
        let mut etcd = match EtcdStore::new(&self.store.endpoints, attempt) {
            Ok(etcd) => etcd,
            Err(e) => return (BROKEN, e.to_string()),
        };
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(e) => return (BROKEN, e.to_string()),
        };
        let look = || look(&args.proc_drbd, &self.minors);
        let key = self.store.key(&self.service);
        let (verdict, newest) = runtime.block_on(carry_out(settings, &mut etcd, &key, look));
        // A name that is being looked up must not keep the handler.
        runtime.shutdown_background();
        if let Some(newest) = newest.filter(|m| m.replaces(kept.as_ref()))
            && let Err(e) = file.write(&newest)
        {
            log(&format!("service {}: what its lease says cannot be kept: {e}", self.service));
        }
        (verdict.code, verdict.text)
    }
}

fn look(file: &Path, minors: &[u32]) -> Result<Vec<VolumeLook>, String> {
    let wrong = |e: std::io::Error| {
        format!("{}: {e}: no daemon answers, and no kernel DRBD is there", file.display())
    };
    let mut text = String::new();
    let limit = PROC_BYTES_MAX as u64 + 1;
    File::open(file).and_then(|f| f.take(limit).read_to_string(&mut text)).map_err(wrong)?;
    kernel::volumes(&text, minors)
}

fn last_line(text: &str) -> String {
    text.lines().last().unwrap_or("the configuration cannot be read").to_owned()
}

/// Into the system's log, if there is one (syslog(3): facility daemon, level notice).
fn log(text: &str) {
    let line = format!("<29>lockstep: {text}");
    if let Ok(socket) = UnixDatagram::unbound() {
        let _ = socket.set_nonblocking(true);
        let _ = socket.send_to(line.as_bytes(), "/dev/log");
    }
}
