//! What the control plane sees of a worker: its configuration, and a handle to command and watch it.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use blockdev::backing::Backing;
use blockdev::nbd::export::ExportInfo;
use blockdev::ring::{Mailbox, Waker};
use model::config::settings::Handler;
use model::status::snapshot::ResourceSnapshot;
use replicator::{AttachedDisk, Command, CommandResult, HandlerRun, VolIdx};
use tokio::sync::{mpsc, oneshot, watch};

use super::snapshot::Board;
use super::worker;

/// Everything a worker needs to start.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// Name, volumes, on-no-data.
    pub core: replicator::Config,
    /// Where the peer finds us; connections go out from this address too.
    pub own_address: SocketAddr,
    /// Where the peer listens.
    pub peer_address: SocketAddr,
    /// SO_SNDBUF of the peer sockets; 0 leaves it to the kernel.
    pub sndbuf_bytes: u32,
    /// SO_RCVBUF of the peer sockets; 0 leaves it to the kernel.
    pub rcvbuf_bytes: u32,
    /// Name of this node, for status.
    pub node_name: String,
    /// Name of the peer, for status.
    pub peer_name: String,
    /// Device name per volume, for status.
    pub devices: Vec<String>,
    /// Unix socket per volume on which NBD clients reach it.
    pub nbd_unix: Vec<PathBuf>,
    /// One listener for all volumes; export names `<resource>` and `<resource>/<volume>`.
    pub nbd_tcp: Option<SocketAddr>,
    /// Block buffers.
    pub pool_cap_bytes: usize,
    /// Longest look for completions before sleeping, while requests are in flight.
    pub spin: Duration,
    /// Who runs handler scripts. Where nobody listens, no handler is configured.
    pub handlers: mpsc::UnboundedSender<HandlerCall>,
}

/// A handler script that the core wants run; [`WorkerHandle::handler_ended`] answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HandlerCall {
    /// Key of the answer.
    pub run: HandlerRun,
    /// Which one.
    pub handler: Handler,
    /// The volume it is about; none: the connection.
    pub vol: Option<VolIdx>,
}

/// Default of [`WorkerConfig::pool_cap_bytes`].
pub const POOL_CAP_BYTES: usize = 256 << 20;
/// Default of [`WorkerConfig::spin`].
pub const SPIN: Duration = Duration::from_micros(50);

/// A disk that the control plane opened and checked (metadata loaded, activity log applied).
#[derive(Debug)]
pub struct OpenedDisk {
    /// What the core has to know.
    pub attached: AttachedDisk,
    /// The data.
    pub data: Backing,
    /// The metadata device; `None`: internal metadata.
    pub meta: Option<Backing>,
}

/// The kernel is served as a client.
#[derive(Debug)]
pub struct Device {
    /// What is exported to it.
    pub export: ExportInfo,
    /// Resolves when it is not any more.
    pub ended: oneshot::Receiver<()>,
}

/// The answer to [`WorkerHandle::serve_device`].
type Served = Result<ExportInfo, String>;

/// Reaches one worker thread. Clones reach the same one. The thread ends by [`shutdown`](Self::shutdown), not
/// when the last handle is dropped.
#[derive(Clone)]
pub struct WorkerHandle {
    pub(super) shared: Arc<Shared>,
    pub(super) mailbox: Mailbox<Message>,
}

/// What both sides see.
pub(super) struct Shared {
    pub board: Arc<Board>,
    /// Cleared by the thread before it empties the mailbox for the last time.
    pub alive: AtomicBool,
    /// Why the thread ended, when it was not asked to.
    pub failure: Mutex<Option<String>>,
    pub resource: String,
}

/// What the thread is asked to do; dropping the sender of an answer tells that there will be none.
pub(super) enum Message {
    Command(Command, oneshot::Sender<CommandResult>),
    Attach(VolIdx, Box<OpenedDisk>, oneshot::Sender<CommandResult>),
    HandlerEnded(HandlerRun, i32),
    ServeDevice {
        vol: VolIdx,
        socket: OwnedFd,
        ended: oneshot::Sender<()>,
        answer: oneshot::Sender<Served>,
    },
    Shutdown(oneshot::Sender<()>),
    Kill(oneshot::Sender<()>),
    /// An invariant of the core turns out to be violated.
    #[cfg(test)]
    Break,
}

impl WorkerHandle {
    /// Starts the thread and waits until it serves (sockets for clients exist, the peer's do not yet).
    ///
    /// # Errors
    /// No io_uring, no memory, or a socket for clients could not be made.
    pub fn spawn(config: WorkerConfig) -> anyhow::Result<WorkerHandle> {
        let waker = Waker::new()?;
        let mailbox = Mailbox::new(MAILBOX_MESSAGES, waker.clone());
        let shared = Arc::new(Shared {
            board: Board::new(&config.core.name),
            alive: AtomicBool::new(true),
            failure: Mutex::new(None),
            resource: config.core.name.clone(),
        });
        let handle = WorkerHandle { shared: Arc::clone(&shared), mailbox: mailbox.clone() };
        let (ready, started) = std::sync::mpsc::sync_channel(1);
        std::thread::Builder::new()
            .name(thread_name(&config.core.name))
            .spawn(move || worker::main(config, shared, mailbox, waker, ready))?;
        started.recv().map_err(|_| handle.gone())??;
        Ok(handle)
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// The worker is gone. A refusal is not an error but a [`CommandResult`].
    pub async fn command(&self, command: Command) -> anyhow::Result<CommandResult> {
        let (answer, answered) = oneshot::channel();
        self.post(Message::Command(command, answer)).await;
        answered.await.map_err(|_| self.gone())
    }

    /// Gives a disk to a volume and attaches it. Refused, the disk is closed.
    ///
    /// # Errors
    /// The worker is gone.
    pub async fn attach(&self, vol: VolIdx, disk: OpenedDisk) -> anyhow::Result<CommandResult> {
        let (answer, answered) = oneshot::channel();
        self.post(Message::Attach(vol, Box::new(disk), answer)).await;
        answered.await.map_err(|_| self.gone())
    }

    /// A handler script has ended with this exit code.
    pub async fn handler_ended(&self, run: HandlerRun, exit_code: i32) {
        self.post(Message::HandlerEnded(run, exit_code)).await;
    }

    /// Serves the kernel as a client of a volume, by one end of a socket pair, in NBD's transmission phase. `ended` of the
    /// result resolves when that is over.
    ///
    /// # Errors
    /// The worker is gone; or, in the inner result, why the volume is not exported now.
    pub async fn serve_device(&self, vol: VolIdx, socket: OwnedFd) -> anyhow::Result<Result<Device, String>> {
        let (answer, answered) = oneshot::channel();
        let (sender, ended) = oneshot::channel();
        self.post(Message::ServeDevice { vol, socket, ended: sender, answer }).await;
        let served = answered.await.map_err(|_| self.gone())?;
        Ok(served.map(|export| Device { export, ended }))
    }

    /// What was published last: at once after a state change, and every 200 ms while anything moves.
    pub fn snapshot(&self) -> Arc<ResourceSnapshot> {
        self.shared.board.current.load_full()
    }

    /// The thread has not ended.
    pub fn is_alive(&self) -> bool {
        self.shared.alive.load(Ordering::SeqCst)
    }

    /// Bumped with every publication.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.board.changes.subscribe()
    }

    /// Ends the thread cleanly: clients and peer are disconnected, what is in flight to the disks is finished,
    /// the disks are flushed and closed. The state in the metadata stays what it is; commands change it before.
    pub async fn shutdown(&self) {
        let (answer, answered) = oneshot::channel();
        self.post(Message::Shutdown(answer)).await;
        // An error is the same news: the thread has ended.
        let _ = answered.await;
    }

    /// Ends the thread as a crash would: nothing is finished, flushed or said to anyone. For tests of recovery.
    #[doc(hidden)]
    pub async fn kill(&self) {
        let (answer, answered) = oneshot::channel();
        self.post(Message::Kill(answer)).await;
        let _ = answered.await;
    }

    /// Makes the worker panic as a violated invariant does.
    #[cfg(test)]
    pub(super) async fn break_invariant(&self) {
        self.post(Message::Break).await;
    }

    /// Leaves a message, waiting while the mailbox is full. A message to a dead worker is dropped.
    async fn post(&self, mut message: Message) {
        while let Err(back) = self.mailbox.post(message) {
            message = back;
            if !self.shared.alive.load(Ordering::SeqCst) {
                return;
            }
            tokio::time::sleep(MAILBOX_RETRY).await;
        }
        // The thread clears the mark first and empties the mailbox then: one of us drops the message.
        if !self.shared.alive.load(Ordering::SeqCst) {
            while self.mailbox.take().is_some() {}
        }
    }

    fn gone(&self) -> anyhow::Error {
        let failure = self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner);
        match &*failure {
            Some(why) => anyhow::anyhow!("resource {}: {why}", self.shared.resource),
            None => anyhow::anyhow!("resource {}: its worker has ended", self.shared.resource),
        }
    }
}

impl std::fmt::Debug for WorkerHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerHandle").field("resource", &self.shared.resource).finish_non_exhaustive()
    }
}

/// Thread names are cut after 15 bytes by the kernel.
fn thread_name(resource: &str) -> String {
    format!("w-{}", &resource[..resource.floor_char_boundary(13)])
}

const MAILBOX_MESSAGES: usize = 64;
const MAILBOX_RETRY: Duration = Duration::from_millis(1);
