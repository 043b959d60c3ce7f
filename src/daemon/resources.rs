//! The resources that are up, and what is done to one of them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use model::config::settings::{DiskOptions, ResourceConfig, VolumeConfig};
use model::result_code::{self, ConfigError, StateResult};
use model::state::{ConnState, DiskState, Role};
use model::status::{ResourceSnapshot, VolumeSnapshot};
use replicator::meta::superblock::MetaFlags;
use replicator::{Command, CommandResult, HandlerRun, ResizeWish, VolIdx};
use tokio::sync::{Mutex, mpsc, watch};
use tracing::{info, warn};

use super::control::Outcome;
use super::devices::{self, Devices};
use super::disk;
use super::failover::Failover;
use super::handlers;
use super::proc_drbd;
use super::settings::Settings;
use super::translate::{self, Translated};
use crate::dataplane::{HandlerCall, WorkerConfig, WorkerHandle};

/// A resource with its data-plane thread.
pub struct Running {
    /// What it runs with. Replaced as a whole by `adjust`.
    config: RefCell<Rc<ResourceConfig>>,
    handle: WorkerHandle,
    /// Where sizes of devices are noted.
    state_dir: PathBuf,
    /// The cluster was degraded when a disk was attached, and no peer was seen since (drbd-states 18).
    degraded: Cell<bool>,
    /// Commands under way that make a Primary Secondary.
    demotions: Cell<u32>,
    devices: Devices,
}

/// Counts a demotion for as long as it lives: a command may also end by being dropped.
struct Demotion<'a>(&'a Cell<u32>);

impl<'a> Demotion<'a> {
    fn begin(under_way: &'a Cell<u32>) -> Demotion<'a> {
        under_way.set(under_way.get() + 1);
        Demotion(under_way)
    }
}

impl Drop for Demotion<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Everything that is up on this node.
pub struct Resources {
    settings: Settings,
    config_file: String,
    run_dir: PathBuf,
    running: RefCell<BTreeMap<String, Rc<Running>>>,
    /// One lock per name: bringing up, taking down and adjusting exclude each other.
    locks: RefCell<BTreeMap<String, Rc<Mutex<()>>>>,
    changed: watch::Sender<u64>,
    /// Knows which resources serve only by its leave.
    failover: Rc<Failover>,
}

impl Resources {
    /// Nothing is up. Handler scripts are told of `config_file`.
    pub fn new(settings: Settings, config_file: &str, run_dir: &Path) -> Resources {
        Resources {
            settings,
            config_file: config_file.to_owned(),
            run_dir: run_dir.to_path_buf(),
            running: RefCell::default(),
            locks: RefCell::default(),
            changed: watch::Sender::new(0),
            failover: Rc::default(),
        }
    }

    /// With services that decide over their resources.
    pub fn governed_by(mut self, failover: Rc<Failover>) -> Resources {
        self.failover = failover;
        self
    }

    /// The resource of that name, if it is up.
    pub fn get(&self, name: &str) -> Option<Rc<Running>> {
        self.running.borrow().get(name).cloned()
    }

    /// Every resource that is up, by name.
    pub fn all(&self) -> Vec<Rc<Running>> {
        self.running.borrow().values().cloned().collect()
    }

    /// Bumped whenever the state of anything may have changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The lock that `up`, `down`, `adjust` and `attach` of that resource hold.
    pub fn lock(&self, name: &str) -> Rc<Mutex<()>> {
        self.locks.borrow_mut().entry(name.to_owned()).or_default().clone()
    }

    /// Starts the thread of a resource, without disks and connection; nothing happens if it is there.
    ///
    /// # Errors
    /// What this version cannot run, or what another resource that is up has (exit 10), or the thread does not start (exit
    /// 20).
    pub fn create(self: &Rc<Self>, config: &ResourceConfig) -> Result<Rc<Running>, Outcome> {
        if let Some(running) = self.get(&config.name) {
            return Ok(running);
        }
        let translated = translated(config)?;
        if let Some(refused) = self.taken(config) {
            return Err(refused);
        }
        let (handlers, calls) = mpsc::unbounded_channel();
        let worker = self.worker_config(config, &translated, handlers)?;
        let handle = WorkerHandle::spawn(worker)
            .map_err(|e| Outcome::failed(20, format!("{}: cannot start the resource: {e:#}", config.name)))?;
        let running = Rc::new(Running {
            config: RefCell::new(Rc::new(config.clone())),
            handle,
            state_dir: self.state_dir(),
            degraded: Cell::new(false),
            demotions: Cell::new(0),
            devices: Devices::new(config, &self.run_dir, self.settings.dead_conn_timeout()),
        });
        self.running.borrow_mut().insert(config.name.clone(), running.clone());
        self.bump();
        tokio::task::spawn_local(forward_changes(Rc::downgrade(self), Rc::downgrade(&running)));
        let (resources, up) = (Rc::downgrade(self), Rc::downgrade(&running));
        tokio::task::spawn_local(handlers::serve(calls, up, resources, self.config_file.clone()));
        tokio::task::spawn_local(devices::keep(Rc::downgrade(&running)));
        info!(resource = config.name, "created");
        Ok(running)
    }

    /// What is to be said of a resource that comes up. Logged too.
    pub fn warnings(&self, config: &ResourceConfig) -> Outcome {
        let mut outcome = Outcome::default();
        for text in proc_drbd::warnings(config, &self.run_dir) {
            warn!(resource = config.name, "{text}");
            outcome.error_line(&format!("warning: {text}"));
        }
        outcome
    }

    /// Writes the state of everything that is up where handler scripts find it; gives the path of the file.
    pub fn write_proc_drbd(&self) -> io::Result<PathBuf> {
        proc_drbd::write(self, &self.run_dir)
    }

    /// Whether the service of a resource is at home here; none: it belongs to no service.
    pub fn is_home_of_service(&self, resource: &str) -> Option<bool> {
        self.failover.is_home_of(resource)
    }

    /// Where this node notes what it has to know after a restart.
    pub fn state_dir(&self) -> PathBuf {
        self.settings.state_dir(&self.run_dir)
    }

    /// Where the sockets of this daemon are.
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// Ends the thread of a resource and forgets it.
    pub async fn remove(&self, name: &str) {
        let removed = self.running.borrow_mut().remove(name);
        if let Some(running) = removed {
            running.handle.shutdown().await;
            info!(resource = name, "removed");
        }
        self.bump();
    }

    /// The answer if another resource that is up has a minor or an address of this one. In the file they differ, but that may
    /// have changed since the other one came up.
    // spec: drbd-states 15, new-minor and connect
    pub fn taken(&self, config: &ResourceConfig) -> Option<Outcome> {
        let refused = |error, info| Some(outcome(CommandResult::Config(error), &config.name, info));
        // Port 0 is no address, for the check of the file either.
        let same = |a: SocketAddr, b: SocketAddr| a == b && a.port() != 0;
        let all = self.all();
        all.iter().map(|other| other.config()).filter(|other| other.name != config.name).find_map(|other| {
            if config.volumes.iter().any(|own| other.volumes.iter().any(|v| v.minor == own.minor)) {
                refused(ConfigError::InvalidRequest, Some("minor exists in different resource"))
            } else if same(config.own_address, other.own_address) {
                refused(ConfigError::LocalAddr, None)
            } else if same(config.peer_address, other.peer_address) {
                refused(ConfigError::PeerAddr, None)
            } else {
                None
            }
        })
    }

    fn bump(&self) {
        self.changed.send_modify(|n| *n = n.wrapping_add(1));
    }

    fn worker_config(
        &self,
        config: &ResourceConfig,
        translated: &Translated,
        handlers: mpsc::UnboundedSender<HandlerCall>,
    ) -> Result<WorkerConfig, Outcome> {
        let name = &config.name;
        let lowest_minor = config.volumes.iter().map(|v| v.minor.0).min().unwrap_or(0);
        let nbd_tcp = self.settings.nbd_tcp(name, lowest_minor).map_err(|e| Outcome::failed(10, e))?;
        // It serves nobody until its service says so.
        let serves_by_leave = self.failover.governs(name);
        Ok(WorkerConfig {
            core: replicator::Config { serves_by_leave, ..translated.core.clone() },
            own_address: config.own_address,
            peer_address: config.peer_address,
            sndbuf_bytes: config.net.sndbuf_bytes,
            rcvbuf_bytes: config.net.rcvbuf_bytes,
            node_name: config.host.clone(),
            peer_name: config.peer_host.clone(),
            devices: config.volumes.iter().map(|v| v.device.clone()).collect(),
            nbd_unix: config.volumes.iter().map(|v| nbd_socket(&self.run_dir, name, v.volume.0)).collect(),
            nbd_tcp,
            pool_cap_bytes: self.settings.pool_bytes(),
            spin: self.settings.spin(),
            handlers,
        })
    }
}

/// The NBD socket of a volume in the run directory.
pub fn nbd_socket(run_dir: &Path, resource: &str, volume: u16) -> PathBuf {
    match volume {
        0 => run_dir.join(format!("{resource}.nbd")),
        n => run_dir.join(format!("{resource}-{n}.nbd")),
    }
}

async fn forward_changes(resources: std::rc::Weak<Resources>, running: std::rc::Weak<Running>) {
    let Some(mut changes) = running.upgrade().map(|r| r.handle.changes()) else { return };
    let mut sizes = Vec::new();
    while changes.changed().await.is_ok() {
        let (Some(resources), Some(running)) = (resources.upgrade(), running.upgrade()) else { return };
        if running.snapshot().connection >= ConnState::Connected {
            running.degraded.set(false);
        }
        let attached = |v: &VolumeSnapshot| v.state.disk >= DiskState::Inconsistent;
        let size = |v: &VolumeSnapshot| if attached(v) { v.size_sectors } else { 0 };
        let now: Vec<u64> = running.snapshot().volumes.iter().map(size).collect();
        if sizes != now {
            // By command of the peer too: the metadata may have moved.
            for (index, size) in now.iter().enumerate() {
                if *size != 0 && sizes.get(index) != Some(size) {
                    running.remember(index).await;
                }
            }
            sizes = now;
        }
        resources.bump();
    }
}

/// Checks and translates; all that is wrong at once.
pub fn translated(config: &ResourceConfig) -> Result<Translated, Outcome> {
    translate::translate(config).map_err(|refusals| {
        let mut outcome = Outcome { exit_code: 10, ..Outcome::default() };
        for refusal in refusals {
            outcome.error_line(&format!("error: {refusal}"));
        }
        outcome
    })
}

/// What the user sees of a result; `object` is the minor or the resource.
pub fn outcome(result: CommandResult, object: &str, info: Option<&str>) -> Outcome {
    let number = match result {
        CommandResult::Ok => return Outcome::default(),
        CommandResult::State(state) => state.number(),
        CommandResult::Config(error) => error.number(),
    };
    let exit_code = result_code::exit_code(number);
    let info = info.filter(|_| exit_code != 0);
    let err = result_code::message(number, object, info).map_or(String::new(), |text| text + "\n");
    Outcome { exit_code, out: String::new(), err }
}

impl Running {
    /// What it runs with.
    pub fn config(&self) -> Rc<ResourceConfig> {
        self.config.borrow().clone()
    }

    /// Its state as last published.
    pub fn snapshot(&self) -> Arc<ResourceSnapshot> {
        self.handle.snapshot()
    }

    /// A handler script has ended.
    pub async fn handler_ended(&self, run: HandlerRun, exit_code: i32) {
        self.handle.handler_ended(run, exit_code).await;
    }

    /// Bumped with every publication.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.handle.changes()
    }

    /// The cluster was degraded at attach, and no peer was seen since.
    pub fn is_degraded(&self) -> bool {
        self.degraded.get()
    }

    /// Its thread has not ended.
    pub fn is_alive(&self) -> bool {
        self.handle.is_alive()
    }

    /// A command is under way that makes it Secondary.
    pub fn is_demoting(&self) -> bool {
        self.demotions.get() > 0
    }

    /// State of one volume.
    pub fn volume_snapshot(&self, volume: &VolumeConfig) -> VolumeSnapshot {
        let found = self.snapshot().volumes.iter().find(|v| v.vnr == volume.volume.0).cloned();
        found.unwrap_or_else(|| VolumeSnapshot::new(volume.volume.0, volume.minor.0))
    }

    /// Gives the core a command and says how it ended.
    pub async fn command(&self, command: Command, object: &str, info: Option<&str>) -> Outcome {
        match self.handle.command(command).await {
            Ok(result) => outcome(result, object, info),
            Err(e) => Outcome::failed(20, format!("{object}: the thread of the resource has ended: {e:#}")),
        }
    }

    /// Applies the activity log and attaches the disk of a volume.
    pub async fn attach(&self, index: usize) -> Outcome {
        let config = self.config();
        let volume = &config.volumes[index];
        let Some(target) = disk::meta_target(volume) else { return Outcome::default() };
        if self.volume_snapshot(volume).state.disk != DiskState::Diskless {
            return Outcome::failed(20, format!("Device '{}' is configured!", volume.minor));
        }
        let (settings, state_dir) = (volume.clone(), self.state_dir.clone());
        let opened = tokio::task::spawn_blocking(move || disk::open(&settings, &target, &state_dir)).await;
        let (opened, mut outcome) = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(refused)) => return refused,
            Err(e) => {
                return Outcome::failed(20, format!("{}: reading the metadata failed: {e}", volume.minor));
            }
        };
        let flags = opened.attached.super_block.flags;
        // spec: drbd-states 18: a Primary that takes its disk back has not been away
        let is_primary = self.snapshot().role == Role::Primary;
        if !is_primary && flags.has(MetaFlags::PRIMARY_IND) && !flags.has(MetaFlags::CONNECTED_IND) {
            self.degraded.set(true);
        }
        let object = volume.minor.to_string();
        match self.handle.attach(vol_idx(index), opened).await {
            Ok(result) => outcome.absorb(self::outcome(result, &object, None)),
            Err(e) => outcome.absorb(Outcome::failed(20, format!("{object}: the resource has ended: {e:#}"))),
        }
        outcome
    }

    /// Adopts what both disks can hold now, up to a limit.
    pub async fn resize(&self, index: usize, wish: ResizeWish) -> Outcome {
        let config = self.config();
        let volume = &config.volumes[index];
        let object = volume.minor.to_string();
        let outcome = self.command(Command::Resize(vol_idx(index), wish), &object, None).await;
        if outcome.exit_code == 0 {
            self.remember(index).await;
            self.update_devices().await;
        }
        outcome
    }

    /// Notes where the metadata of a volume is, for the time when its device has grown.
    pub async fn remember(&self, index: usize) {
        let Some(target) = disk::meta_target(&self.config().volumes[index]) else { return };
        let state_dir = self.state_dir.clone();
        // Nothing is to be done about a failure that has not been said.
        let _ = tokio::task::spawn_blocking(move || disk::remember(&target, &state_dir)).await;
    }

    /// Takes over what the file says now of the connection that is about to begin, or of the volume whose disk is about to
    /// be attached. What cannot run, or needs a restart, is as it was.
    pub fn follow(&self, wanted: &ResourceConfig, volume: Option<usize>) {
        let present = self.config();
        if needs_restart(&present, wanted).is_some() {
            return;
        }
        let mut config = (*present).clone();
        match volume {
            Some(index) if self.volume_snapshot(&wanted.volumes[index]).state.disk == DiskState::Diskless => {
                config.volumes[index].clone_from(&wanted.volumes[index]);
            }
            None if self.snapshot().connection == ConnState::StandAlone => config.net.clone_from(&wanted.net),
            Some(_) | None => return,
        }
        if translated(&config).is_ok() {
            *self.config.borrow_mut() = Rc::new(config);
        }
    }

    /// Starts connecting with the configured options.
    // spec: drbd-states 15: a connection in use is found by its addresses, before anything else is looked at
    pub async fn connect(&self, discard_my_data: bool, tentative: bool) -> Outcome {
        let config = self.config();
        if self.snapshot().connection != ConnState::StandAlone {
            return outcome(CommandResult::Config(ConfigError::LocalAddr), &config.name, None);
        }
        let net = match translated(&config) {
            Ok(t) => replicator::NetConfig { discard_my_data, tentative, ..t.net },
            Err(refused) => return refused,
        };
        self.command(Command::Connect(Box::new(net)), &config.name, None).await
    }

    /// Ends the connection.
    // spec: drbd-states 15: the addresses are forgotten with the connection
    pub async fn disconnect(&self, force: bool) -> Outcome {
        if self.snapshot().connection == ConnState::StandAlone {
            let error = CommandResult::Config(ConfigError::InvalidRequest);
            return outcome(error, "??", Some("unknown connection"));
        }
        let name = self.config().name.clone();
        match self.handle.command(Command::Disconnect { force }).await {
            Ok(CommandResult::State(StateResult::AlreadyStandalone)) => Outcome::default(),
            Ok(result) => outcome(result, &name, None),
            Err(e) => Outcome::failed(20, format!("{name}: the thread of the resource has ended: {e:#}")),
        }
    }

    /// Becomes Primary; the block devices are there then.
    pub async fn primary(&self, force: bool, object: &str) -> Outcome {
        let outcome = self.command(Command::Primary { force }, object, None).await;
        self.devices.look_again();
        self.update_devices().await;
        outcome
    }

    /// Becomes Secondary unless a client has a volume open, or somebody uses a block device; the data plane knows best.
    /// By force in any case: the requests of clients fail, and their sessions end.
    pub async fn secondary(&self, force: bool, object: &str, info: Option<&str>) -> Outcome {
        let _demotion = Demotion::begin(&self.demotions);
        self.devices.release(force).await;
        let outcome = self.command(Command::Secondary { open: 0, force }, object, info).await;
        self.devices.resume();
        self.update_devices().await;
        outcome
    }

    /// The block devices of its volumes.
    pub(super) fn devices(&self) -> &Devices {
        &self.devices
    }

    /// See [`Devices::update`].
    pub(super) async fn update_devices(&self) -> bool {
        self.devices.update(self, &self.handle).await
    }

    /// Everything up to the removal of the resource: demotes, disconnects, detaches. Stops at the first refusal.
    // spec: drbd-states 15, down
    pub async fn take_down(&self) -> Outcome {
        let config = self.config();
        let demoted = self.secondary(false, &config.name, Some("failed to demote")).await;
        if demoted.exit_code != 0 {
            return demoted;
        }
        if self.snapshot().connection != ConnState::StandAlone {
            let ended = self.disconnect(false).await;
            if ended.exit_code != 0 && self.snapshot().connection != ConnState::StandAlone {
                return ended;
            }
        }
        for (index, volume) in config.volumes.iter().enumerate() {
            if self.volume_snapshot(volume).state.disk == DiskState::Diskless {
                continue;
            }
            let detach = Command::Detach { vol: vol_idx(index), force: false };
            let detached = self.command(detach, &config.name, Some("failed to detach")).await;
            if detached.exit_code != 0 {
                return detached;
            }
        }
        Outcome::default()
    }

    /// Makes a resource that is up equal to `wanted`. What cannot be changed while it is up needs a restart,
    /// which is done if nobody uses the resource here; see [`Adjusted`].
    // spec: drbd-admin 3.8
    pub async fn adjust(&self, wanted: &ResourceConfig) -> Result<Adjusted, Outcome> {
        let translated = translated(wanted)?;
        let present = self.config();
        if let Some(what) = needs_restart(&present, wanted) {
            return Ok(Adjusted::NeedsRestart(what));
        }
        *self.config.borrow_mut() = Rc::new(wanted.clone());
        let mut reached = (*present).clone();
        let mut all = Outcome::default();
        for (index, volume) in wanted.volumes.iter().enumerate() {
            all.absorb(self.adjust_volume(index, &mut reached.volumes[index], volume).await);
        }
        if all.exit_code == 0 {
            if self.snapshot().connection == ConnState::StandAlone {
                all.absorb(self.connect(false, false).await);
            } else if present.net != wanted.net {
                let options = Command::NetOptions(Box::new(translated.net));
                all.absorb(self.command(options, &wanted.name, None).await);
            }
        }
        if all.exit_code != 0 {
            // What was not done differs the next time too, and what was done from a file that is as it was before.
            *self.config.borrow_mut() = Rc::new(reached);
            all.exit_code = 1;
            return Err(all);
        }
        Ok(Adjusted::Done(all))
    }

    /// Neither disk nor connection nor clients: nothing is lost when it is made anew.
    pub fn is_bare(&self) -> bool {
        let snapshot = self.snapshot();
        let bare = |v: &VolumeSnapshot| v.state.disk == DiskState::Diskless && v.open_count == 0;
        snapshot.connection == ConnState::StandAlone && snapshot.volumes.iter().all(bare)
    }

    /// Brings a volume to what is wanted, step by step; `now` is how it runs before and after each.
    async fn adjust_volume(&self, index: usize, now: &mut VolumeConfig, wanted: &VolumeConfig) -> Outcome {
        let object = wanted.minor.to_string();
        let mut all = Outcome::default();
        let moved = now.disk != wanted.disk || now.meta_disk != wanted.meta_disk;
        if self.volume_snapshot(wanted).state.disk != DiskState::Diskless {
            if !moved {
                let size_sectors = now.disk_options.size_sectors;
                if now.disk_options != wanted.disk_options {
                    let options = Box::new(translate::disk_config(&wanted.disk_options));
                    let command = Command::DiskOptions(vol_idx(index), options);
                    all.absorb(self.command(command, &object, None).await);
                    if all.exit_code == 0 {
                        now.disk_options = DiskOptions { size_sectors, ..wanted.disk_options.clone() };
                    }
                }
                let limit_sectors = wanted.disk_options.size_sectors;
                if size_sectors != limit_sectors && all.exit_code == 0 {
                    let wish =
                        ResizeWish { limit_sectors, assume_clean: false, assume_peer_has_space: false };
                    all.absorb(self.resize(index, wish).await);
                    if all.exit_code == 0 {
                        now.disk_options.size_sectors = limit_sectors;
                    }
                }
                return all;
            }
            let detach = Command::Detach { vol: vol_idx(index), force: false };
            all.absorb(self.command(detach, &object, None).await);
            if all.exit_code != 0 {
                return all;
            }
        }
        all.absorb(self.attach(index).await);
        if all.exit_code == 0 {
            now.clone_from(wanted);
        }
        all
    }

    /// Ends it when the daemon stops: cleanly if possible, in any case soon.
    pub async fn stop(&self) {
        let name = self.config().name.clone();
        match tokio::time::timeout(STOP_MAX, self.take_down()).await {
            Ok(outcome) if outcome.exit_code != 0 => {
                warn!(resource = name, "stopping without a clean end: {}", outcome.err.trim_end());
            }
            Ok(_) => {}
            Err(_) => warn!(resource = name, "stopping without a clean end: it takes too long"),
        }
        if tokio::time::timeout(STOP_MAX, self.handle.shutdown()).await.is_err() {
            warn!(resource = name, "the thread of the resource does not end");
        }
    }
}

/// How an adjustment ended.
pub enum Adjusted {
    /// Equal now.
    Done(Outcome),
    /// This cannot be changed while the resource is up.
    NeedsRestart(&'static str),
}

/// The core's index of a volume.
pub fn vol_idx(index: usize) -> VolIdx {
    VolIdx(u8::try_from(index).expect("translate allows at most 64 volumes"))
}

fn needs_restart(present: &ResourceConfig, wanted: &ResourceConfig) -> Option<&'static str> {
    let volumes = |r: &ResourceConfig| -> Vec<_> {
        r.volumes.iter().map(|v| (v.volume, v.minor, v.device.clone())).collect()
    };
    let addresses =
        |r: &ResourceConfig| (r.own_address, r.peer_address, r.net.sndbuf_bytes, r.net.rcvbuf_bytes);
    let checks = [
        (volumes(present) != volumes(wanted), "the volumes"),
        (addresses(present) != addresses(wanted), "the addresses or socket buffers"),
        (present.options != wanted.options, "the options of the resource"),
        ((&present.host, &present.peer_host) != (&wanted.host, &wanted.peer_host), "the names of the hosts"),
    ];
    checks.into_iter().find(|(differs, _)| *differs).map(|(_, what)| what)
}

/// The answer about a resource that is configured but not up.
pub fn unknown_resource(name: &str) -> Outcome {
    outcome(CommandResult::Config(ConfigError::ResNotKnown), name, Some("unknown resource"))
}

/// The answer about a volume of a resource that is not up.
pub fn unknown_minor(volume: &VolumeConfig) -> Outcome {
    let object = volume.minor.to_string();
    outcome(CommandResult::Config(ConfigError::MinorInvalid), &object, Some("unknown minor"))
}

/// A clean end and the end of a thread may each take this long when the daemon stops.
const STOP_MAX: Duration = Duration::from_secs(8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_named_after_resource_and_volume() {
        let dir = Path::new("/run/lockstep");
        assert_eq!(nbd_socket(dir, "r0", 0), dir.join("r0.nbd"));
        assert_eq!(nbd_socket(dir, "r0", 3), dir.join("r0-3.nbd"));
    }

    #[test]
    fn results_become_texts_and_exit_codes() {
        let fine = outcome(CommandResult::State(StateResult::NothingToDo), "0", Some("x"));
        assert_eq!(fine, Outcome::default());
        let refused = outcome(CommandResult::State(StateResult::NoUpToDateDisk), "0", None);
        assert_eq!(
            (refused.exit_code, refused.err.as_str()),
            (17, "0: State change failed: (-2) Need access to UpToDate data\n")
        );
        let wrong = unknown_resource("r0");
        assert_eq!(
            (wrong.exit_code, wrong.err.as_str()),
            (10, "r0: Failure: (158) Unknown resource\nadditional info from kernel:\nunknown resource\n")
        );
    }
}
