//! Serves the control socket: one task per connection, one request after the other.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use nix::sys::stat::{Mode, umask};
use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::commands::Commands;
use super::control::{
    Action, CONTROL_VERSION, ControlError, Envelope, FailoverRequest, REPLY_BYTES_MAX, REQUEST_BYTES_MAX,
    Reply, Request, TARGETS_MAX, receive, send,
};

/// Connections served at a time; more wait in the backlog.
const CONNECTIONS_MAX: usize = 64;
/// Connections beside them that wait or watch, which may take for ever.
const WAITING_MAX: usize = 1024;
/// Connections beside those with a command under way, which may take its time.
const RUNNING_MAX: usize = 1024;
/// Smallest time between two pictures of a watcher.
const WATCH_PAUSE: Duration = Duration::from_millis(100);
/// Time for a request to come and for a reply to be taken. Who connects and says nothing, or asks and does not
/// read, must not keep a place from others.
const MESSAGE_MAX: Duration = Duration::from_secs(10);
/// After an accept that failed (too many open files), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Listens on `path`, for root (the own user) only.
///
/// # Errors
/// The socket cannot be made.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let before = umask(Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    umask(before);
    listener
}

/// Places of requests that are not answered at once.
struct Beside {
    waiting: Arc<Semaphore>,
    running: Arc<Semaphore>,
}

impl Beside {
    /// The places for such a request, and who has them when there is none left.
    fn of(&self, request: &Request) -> Option<(&Arc<Semaphore>, String)> {
        match request {
            Request::Hello | Request::Status { .. } => None,
            Request::Run { action, .. } if action.only_prints() => None,
            Request::Failover(FailoverRequest::Status | FailoverRequest::History) => None,
            // A handler waits for as long as nobody knows.
            Request::Watch { .. }
            | Request::Run { action: Action::Wait { .. }, .. }
            | Request::Failover(FailoverRequest::FencePeer { .. }) => {
                Some((&self.waiting, format!("{WAITING_MAX} others wait or watch")))
            }
            Request::Run { .. } | Request::Failover(_) => {
                Some((&self.running, format!("{RUNNING_MAX} other commands are under way")))
            }
        }
    }
}

/// Accepts for as long as the daemon runs. Must run in a `LocalSet`.
pub async fn serve(listener: UnixListener, commands: Rc<Commands>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let beside = Arc::new(Beside {
        waiting: Arc::new(Semaphore::new(WAITING_MAX)),
        running: Arc::new(Semaphore::new(RUNNING_MAX)),
    });
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (commands, beside) = (commands.clone(), beside.clone());
                tokio::task::spawn_local(async move {
                    match converse(stream, &commands, place, &beside).await {
                        Ok(()) | Err(ControlError::Closed) => {}
                        Err(e) => debug!("control connection ended: {e}"),
                    }
                });
            }
            Err(e) => {
                warn!("control socket: {e}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn converse(
    mut stream: UnixStream,
    commands: &Commands,
    mut place: OwnedSemaphorePermit,
    beside: &Beside,
) -> Result<(), ControlError> {
    loop {
        let envelope = match in_time(receive::<Envelope>(&mut stream, REQUEST_BYTES_MAX)).await {
            Ok(envelope) => envelope,
            Err(e @ (ControlError::Garbage(_) | ControlError::TooLong(..))) => {
                let message = format!("this daemon does not understand the request: {e}");
                reply_to(&mut stream, &Reply::Refused { message }).await?;
                return Err(e);
            }
            Err(e) => return Err(e),
        };
        if let Some(message) = objection(&envelope) {
            reply_to(&mut stream, &Reply::Refused { message }).await?;
            return Ok(());
        }
        if let Some((places, others)) = beside.of(&envelope.request) {
            // What it waits for may need a command; so may the peer's handler, for which its own waits.
            let Ok(other) = places.clone().try_acquire_owned() else {
                let message = format!("{others}, and no more are served");
                return reply_to(&mut stream, &Reply::Refused { message }).await;
            };
            drop(std::mem::replace(&mut place, other));
        }
        let reply = match envelope.request {
            Request::Watch { targets } => return watch(stream, commands, &targets).await,
            Request::Hello => hello(commands),
            Request::Status { targets } => status(commands, &targets),
            Request::Failover(request) => {
                debug!(?request, "failover");
                tokio::select! {
                    outcome = commands.failover.answer(request) => Reply::Done(outcome),
                    () = closed(&mut stream) => return Ok(()),
                }
            }
            Request::Run { action, targets } => {
                debug!(?action, ?targets, "command");
                let run = commands.run(action, &targets);
                if matches!(action, Action::Wait { .. }) {
                    // Waiting ends with the one who waits.
                    tokio::select! {
                        outcome = run => Reply::Done(outcome),
                        () = closed(&mut stream) => return Ok(()),
                    }
                } else {
                    Reply::Done(run.await)
                }
            }
        };
        reply_to(&mut stream, &reply).await?;
    }
}

async fn reply_to(stream: &mut UnixStream, reply: &Reply) -> Result<(), ControlError> {
    in_time(send(stream, reply, REPLY_BYTES_MAX)).await
}

async fn in_time<T>(message: impl Future<Output = Result<T, ControlError>>) -> Result<T, ControlError> {
    match timeout(MESSAGE_MAX, message).await {
        Ok(result) => result,
        Err(_) => Err(ControlError::Io(io::ErrorKind::TimedOut.into())),
    }
}

fn objection(envelope: &Envelope) -> Option<String> {
    if envelope.version != CONTROL_VERSION {
        return Some(format!(
            "the daemon speaks version {CONTROL_VERSION} of the control protocol, the command version {}: \
             restart the daemon with the installed program",
            envelope.version
        ));
    }
    let targets = match &envelope.request {
        Request::Hello | Request::Failover(_) => 0,
        Request::Run { targets, .. } | Request::Status { targets } | Request::Watch { targets } => {
            targets.len()
        }
    };
    (targets > TARGETS_MAX).then(|| format!("{targets} names in one request, more than {TARGETS_MAX}"))
}

fn hello(commands: &Commands) -> Reply {
    Reply::Hello {
        program: env!("CARGO_PKG_VERSION").to_owned(),
        host: commands.site.host.clone(),
        config: commands.site.config_file.clone(),
        pid: std::process::id(),
    }
}

fn status(commands: &Commands, targets: &[String]) -> Reply {
    match commands.snapshots(targets) {
        Ok(snapshots) => Reply::Snapshots(snapshots),
        Err(refused) => Reply::Done(refused),
    }
}

/// Sends pictures until the watcher goes.
async fn watch(mut stream: UnixStream, commands: &Commands, targets: &[String]) -> Result<(), ControlError> {
    let mut changes = commands.resources.changes();
    loop {
        changes.borrow_and_update();
        let reply = status(commands, targets);
        let refused = matches!(reply, Reply::Done(_));
        // A watcher may pause as long as it likes.
        send(&mut stream, &reply, REPLY_BYTES_MAX).await?;
        if refused {
            return Ok(());
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return Ok(()) },
            () = closed(&mut stream) => return Ok(()),
        }
        sleep(WATCH_PAUSE).await;
    }
}

/// Returns when the other side closes, or sends what nobody expects now.
async fn closed(stream: &mut UnixStream) {
    let mut byte = [0];
    let _ = stream.read(&mut byte).await;
}
