//! The control plane: configuration, control socket, resources and their order. It runs on one tokio thread and
//! is never on the path of data; each resource has a thread of its own (`crate::dataplane`).

pub mod commands;
pub mod control;
mod devices;
pub mod disk;
mod failover;
mod handlers;
pub mod http;
mod log;
mod proc_drbd;
pub mod resources;
mod resync_after;
mod server;
pub mod settings;
pub mod site;
pub mod translate;

use std::fs::{self, File, TryLockError};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::SigSet;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::LocalSet;
use tracing::info;
use tracing_subscriber::EnvFilter;

use commands::Commands;
use control::SOCKET_NAME;
use failover::Failover;
use log::Log;
use resources::Resources;
use settings::Settings;
use site::Site;

/// What the daemon is started with.
#[derive(Clone, Debug)]
pub struct DaemonConfig {
    /// Configuration and host.
    pub site: Site,
    /// `lockstep.toml`.
    pub settings: Settings,
    /// Directory of the sockets; made if it is not there.
    pub run_dir: PathBuf,
    /// Stop when standard input ends: the daemon then never outlives the program that started it.
    pub exit_with_stdin: bool,
}

/// How long the end waits for those who read the log.
const LOG_PATIENCE: Duration = Duration::from_secs(1);
/// Name of the lock file in the run directory.
const LOCK_NAME: &str = "lock";
/// Longest path of a unix socket, without its ending zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Room for `/<resource>-<volume>.nbd`.
const SOCKET_NAME_ROOM_BYTES: usize = 16;

/// Runs the daemon until SIGTERM or SIGINT, then stops everything cleanly.
///
/// # Errors
/// The run directory cannot be used, or another daemon uses it.
pub fn run(config: DaemonConfig) -> anyhow::Result<()> {
    // Whoever started us may have blocked the signals we wait for.
    SigSet::empty().thread_set_mask().context("cannot set the signal mask")?;
    let filter = config.settings.log.as_deref().unwrap_or("info");
    let filter = EnvFilter::try_new(filter).with_context(|| format!("log: '{filter}' is no filter"))?;
    let log = Log::to(std::io::stderr()).context("cannot start the thread of the log")?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(log.clone())
        .with_ansi(false)
        .with_target(false)
        .init();
    raise_descriptor_limit();
    let _lock = claim(&config.run_dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = LocalSet::new().block_on(&runtime, serve(&config));
    // Threads that read devices may hang; they must not keep the daemon.
    runtime.shutdown_background();
    let _ = fs::remove_file(config.run_dir.join(SOCKET_NAME));
    log.drain(LOG_PATIENCE);
    result
}

/// Allows as many descriptors as an ordinary start permits: hundreds of clients of several resources need more than
/// the usual 1024. Fewer than that work as well, so a failure is none.
fn raise_descriptor_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        info!("the limit of open files stays {soft}: {error}");
    }
}

async fn serve(config: &DaemonConfig) -> anyhow::Result<()> {
    let socket = config.run_dir.join(SOCKET_NAME);
    let listener =
        server::listen(&socket).with_context(|| format!("cannot listen on {}", socket.display()))?;
    let checks = http::Listeners::bind(&config.settings).await?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::task::spawn_local(async move {
        // Nobody who closes a terminal, or wants the file read again, means to take the disks from their clients.
        while hangup.recv().await.is_some() {
            info!("SIGHUP: ignored; 'lockstep adjust all' takes over what has changed in the file");
        }
    });
    let failover = Rc::new(Failover::load(&config.settings.failover)?);
    let resources = Resources::new(config.settings.clone(), &config.site.config_file, &config.run_dir);
    let resources = Rc::new(resources.governed_by(failover.clone()));
    failover.start(&resources, &config.site.host).await?;
    let commands = Rc::new(Commands {
        site: config.site.clone(),
        resources: resources.clone(),
        failover: failover.clone(),
    });
    tokio::task::spawn_local(server::serve(listener, commands));
    checks.serve(resources.clone());
    tokio::task::spawn_local(resync_after::keep(resources.clone()));
    info!(
        host = config.site.host,
        config = config.site.config_file,
        socket = %socket.display(),
        "ready; nothing is up until 'lockstep up'"
    );
    let stdin_ended = stdin_end(config.exit_with_stdin);
    tokio::select! {
        _ = terminate.recv() => info!("SIGTERM: stopping"),
        _ = interrupt.recv() => info!("SIGINT: stopping"),
        () = stdin_ended => info!("standard input ended: stopping"),
    }
    failover.stop().await;
    stop(&resources).await;
    failover.say_goodbye().await;
    info!("stopped");
    Ok(())
}

/// Stops all resources at the same time.
async fn stop(resources: &Resources) {
    let tasks: Vec<_> = resources
        .all()
        .into_iter()
        .map(|running| tokio::task::spawn_local(async move { running.stop().await }))
        .collect();
    for task in tasks {
        let _ = task.await;
    }
}

async fn stdin_end(wanted: bool) {
    if !wanted {
        return std::future::pending().await;
    }
    let (sender, ended) = oneshot::channel();
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut discarded = [0; 256];
        while matches!(stdin.read(&mut discarded), Ok(n) if n > 0) {}
        let _ = sender.send(());
    });
    let _ = ended.await;
}

/// Makes the run directory and locks it for as long as the file lives.
fn claim(run_dir: &Path) -> anyhow::Result<File> {
    let longest = run_dir.as_os_str().len() + 1 + SOCKET_NAME.len().max(SOCKET_NAME_ROOM_BYTES);
    if longest > SOCKET_PATH_BYTES_MAX {
        bail!("run directory {}: the path is too long for sockets, use a shorter one", run_dir.display());
    }
    fs::create_dir_all(run_dir).with_context(|| format!("cannot make {}", run_dir.display()))?;
    let path = run_dir.join(LOCK_NAME);
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => {
            bail!("another lockstep daemon uses {}; stop it, or choose another --run-dir", run_dir.display())
        }
        Err(TryLockError::Error(e)) => Err(e).with_context(|| format!("cannot lock {}", path.display())),
    }
}
