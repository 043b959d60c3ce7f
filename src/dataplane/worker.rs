//! The thread of one resource: its loop, its messages, its end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, PoisonError};

use blockdev::pool::BufferPool;
use blockdev::ring::{Completion, Mailbox, Ring, RingOptions, Waker};
use blockdev::socket::SocketBuffers;
use model::ids::Minor;
use model::result_code::ConfigError;
use model::status::snapshot::ResourceSnapshot;
use model::time::{Duration, Instant};
use nix::sys::resource::{UsageWho, getrusage};
use replicator::{Command, CommandId, CommandResult, Event, HandlerRun, Resource, VolIdx};
use tokio::sync::{mpsc, oneshot};

use super::core_side::Core;
use super::disks::Disks;
use super::nbd_sessions::NbdServer;
use super::peer_sockets::PeerSockets;
use super::snapshot::Publisher;
use super::spin::SpinPolicy;
use super::token::Token;
use super::worker_api::{HandlerCall, Message, OpenedDisk, Shared, WorkerConfig};

/// Everything the thread owns. The ring comes first: it is dropped first, and with it ends every operation on
/// what the others own.
pub(super) struct Worker {
    pub(super) ring: Ring<Token>,
    pub(super) core: Core,
    pub(super) disks: Disks,
    pub(super) peers: PeerSockets,
    pub(super) nbd: NbdServer,
    pub(super) publisher: Publisher,
    pub(super) resource: String,
    pub(super) minors: Vec<Minor>,
    waker: Waker,
    mailbox: Mailbox<Message>,
    commands: Vec<(CommandId, oneshot::Sender<CommandResult>)>,
    commands_made: u64,
    handlers: mpsc::UnboundedSender<HandlerCall>,
    /// Handlers that nobody runs.
    handlers_missing: Vec<HandlerRun>,
    spin: SpinPolicy,
    seen_data_events: u64,
    seen_state_changes: u64,
    seen_peer_word: Option<Instant>,
    stopping: Option<Stopping>,
}

/// The thread is to end.
struct Stopping {
    /// When to stop waiting for what is in flight.
    deadline: Instant,
    /// As after a crash: nothing is waited for.
    at_once: bool,
    answer: oneshot::Sender<()>,
}

/// Body of the thread.
pub(super) fn main(
    config: WorkerConfig,
    shared: Arc<Shared>,
    mailbox: Mailbox<Message>,
    waker: Waker,
    ready: SyncSender<anyhow::Result<()>>,
) {
    let mut worker = match Worker::new(&config, &shared, mailbox.clone(), waker) {
        Ok(worker) => {
            // The one who waits may have given up; the handle is gone then too, and nobody will ask for more.
            let _ = ready.send(Ok(()));
            worker
        }
        Err(error) => {
            shared.alive.store(false, Ordering::SeqCst);
            let _ = ready.send(Err(error));
            return;
        }
    };
    // A wrong state must not reach the disks: whatever panics ends this resource, and only this one.
    let outcome = catch_unwind(AssertUnwindSafe(|| worker.run()));
    let (failure, answer) = match outcome {
        Ok(Ok(answer)) => (None, Some(answer)),
        Ok(Err(error)) => (Some(format!("its event loop failed: {error}")), None),
        Err(panic) => {
            let why = panic_text(panic.as_ref());
            (Some(format!("internal error: {why}; stopped before it could corrupt data")), None)
        }
    };
    if let Some(why) = &failure {
        tracing::error!(resource = config.core.name.as_str(), "resource {}: {why}", config.core.name);
        *shared.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.clone());
        shared.board.publish(failed_snapshot(&shared, why));
    }
    // Closes sockets and disks, and drops the senders of all answers that were not given.
    let closed = catch_unwind(AssertUnwindSafe(move || drop(worker)));
    if closed.is_err() {
        tracing::error!(resource = config.core.name.as_str(), "closing the resource failed too");
    }
    shared.alive.store(false, Ordering::SeqCst);
    while mailbox.take().is_some() {}
    if let Some(answer) = answer {
        let _ = answer.send(());
    }
}

impl Worker {
    fn new(
        config: &WorkerConfig,
        shared: &Shared,
        mailbox: Mailbox<Message>,
        waker: Waker,
    ) -> anyhow::Result<Worker> {
        let pool = BufferPool::new(config.pool_cap_bytes)?;
        let mut ring = Ring::new(RingOptions::default(), pool)?;
        let disks = Disks::new(config.core.volumes.len(), ring.pool_mut())
            .ok_or_else(|| anyhow::anyhow!("pool of {} bytes is too small", config.pool_cap_bytes))?;
        let nbd = NbdServer::new(&mut ring, &config.core, &config.nbd_unix, config.nbd_tcp)?;
        ring.watch(Token::Wake, &waker);
        let buffers = SocketBuffers { send_bytes: config.sndbuf_bytes, recv_bytes: config.rcvbuf_bytes };
        let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
        let mut worker = Worker {
            ring,
            core: Core::new(Resource::new(config.core.clone(), random_seed()?), failover::driver::now()),
            disks,
            peers: PeerSockets::new(config.own_address, config.peer_address, buffers),
            nbd,
            publisher: Publisher::new(Arc::clone(&shared.board), config),
            resource: config.core.name.clone(),
            minors: config.core.volumes.iter().map(|v| v.minor).collect(),
            waker,
            mailbox,
            commands: Vec::new(),
            commands_made: 0,
            handlers: config.handlers.clone(),
            handlers_missing: Vec::new(),
            spin: SpinPolicy::new(config.spin, processors),
            seen_data_events: 0,
            seen_state_changes: 0,
            seen_peer_word: None,
            stopping: None,
        };
        worker.publish();
        Ok(worker)
    }

    fn run(&mut self) -> anyhow::Result<oneshot::Sender<()>> {
        loop {
            self.turn()?;
            if let Some(answer) = self.finished() {
                return Ok(answer);
            }
        }
    }

    /// One turn: wait, take what came, let the core decide, do what it asks for. What is queued for the kernel
    /// is submitted by the wait of the next turn.
    fn turn(&mut self) -> std::io::Result<()> {
        self.wait()?;
        self.core.now = failover::driver::now();
        let mut woken = false;
        for _ in 0..COMPLETIONS_PER_TURN {
            let Some(completion) = self.ring.next_completion() else { break };
            woken |= completion.token == Token::Wake;
            self.dispatch(completion);
        }
        self.disks.deliver_ended(&mut self.core);
        self.peers.deliver_failed(&mut self.core);
        self.on_time();
        if woken {
            // Armed again before the mailbox is read, so that no message is missed.
            self.ring.watch(Token::Wake, &self.waker);
            while let Some(message) = self.mailbox.take() {
                self.take_message(message);
            }
        }
        self.settle();
        self.publish();
        Ok(())
    }

    /// Submits, and waits for completions or the next deadline.
    fn wait(&mut self) -> std::io::Result<()> {
        let timeout = self.timeout();
        let moving = self.core.data_events != self.seen_data_events;
        self.seen_data_events = self.core.data_events;
        let busy = moving || self.nbd.requests.in_flight() > 0 || self.disks.in_flight() > 0;
        match self.spin.plan(busy) {
            Some(limit) => {
                let start = std::time::Instant::now();
                self.ring.wait_spinning(limit, timeout)?;
                self.spin.learn(start.elapsed() < limit);
                if self.spin.wants_switches() {
                    self.spin.learn_switches(switches_of_thread());
                }
            }
            None => {
                self.ring.wait(timeout)?;
            }
        }
        Ok(())
    }

    fn timeout(&self) -> Option<Duration> {
        if self.core.pending || self.disks.has_ended() || self.peers.has_failed() {
            return Some(Duration::ZERO);
        }
        let deadlines = [
            self.core.resource.deadline(),
            self.peers.deadline(),
            self.nbd.deadline(),
            self.publisher.due(),
            self.stopping.as_ref().map(|s| s.deadline),
        ];
        deadlines.into_iter().flatten().min().map(|at| at.saturating_since(self.core.now))
    }

    fn dispatch(&mut self, completion: Completion<Token>) {
        let (ring, core, result) = (&mut self.ring, &mut self.core, completion.result);
        match completion.token {
            Token::Wake => {}
            Token::Disk(index) => self.disks.completed(ring, core, index, result),
            Token::PeerRecv(sock) => self.peers.recv_completed(ring, core, sock, (result, false)),
            Token::PeerPayload(sock) => self.peers.recv_completed(ring, core, sock, (result, true)),
            Token::PeerSend(sock) => self.peers.send_completed(ring, core, sock, result),
            Token::PeerAccept { listener } => self.peers.accept_completed(ring, core, listener, completion),
            Token::PeerConnect { attempt } => self.peers.connect_completed(ring, core, attempt, result),
            Token::NbdRecv(key) => self.nbd.recv_completed(ring, core, key, (result, false)),
            Token::NbdPayload(key) => self.nbd.recv_completed(ring, core, key, (result, true)),
            Token::NbdSend(key) => self.nbd.send_completed(ring, core, key, result),
            Token::NbdAccept { listener } => self.nbd.accept_completed(ring, core, listener, completion),
        }
    }

    fn on_time(&mut self) {
        let now = self.core.now;
        if self.core.resource.deadline().is_some_and(|at| at <= now) {
            self.core.event(Event::Deadline);
        }
        if self.peers.deadline().is_some_and(|at| at <= now) {
            self.peers.on_time(&mut self.ring, now);
        }
        if self.nbd.deadline().is_some_and(|at| at <= now) {
            self.nbd.on_time(&mut self.ring, &mut self.core, now);
        }
    }

    /// Ends the batch and carries out its actions; what these made possible is a batch of its own.
    fn settle(&mut self) {
        for _ in 0..BATCHES_PER_TURN {
            // Completions alone may have released the buffers that these wait for.
            self.disks.resume(&mut self.ring);
            self.peers.resume(&mut self.ring, &mut self.core);
            self.nbd.resume(&mut self.ring, &mut self.core);
            for run in self.handlers_missing.drain(..) {
                self.core.event(Event::HandlerDone { run, exit_code: 0 });
            }
            if !std::mem::take(&mut self.core.pending) {
                break;
            }
            self.publisher.note_movement();
            self.core.resource.end_batch(self.core.now, &mut self.core.out);
            self.drain_actions();
        }
        self.peers.flush(&mut self.ring);
        self.nbd.flush(&mut self.ring);
    }

    fn publish(&mut self) {
        let changes = self.core.resource.state_changes();
        if changes != self.seen_state_changes {
            self.seen_state_changes = changes;
            self.publisher.note_change();
        }
        let word = self.core.resource.peer_word_at();
        if word != self.seen_peer_word {
            // Addresses are renewed by it.
            self.seen_peer_word = word;
            self.publisher.note_change();
        }
        self.publisher.publish(self.core.now, &self.core.resource, self.nbd.open_counts());
    }

    fn take_message(&mut self, message: Message) {
        match message {
            Message::Command(command, answer) => {
                let command = match command {
                    Command::Secondary { open, force } => {
                        Command::Secondary { open: open | self.nbd.open_mask(), force }
                    }
                    other => other,
                };
                self.command(command, answer);
            }
            Message::Attach(vol, disk, answer) => self.attach(vol, *disk, answer),
            Message::HandlerEnded(run, exit_code) => self.core.event(Event::HandlerDone { run, exit_code }),
            Message::ServeDevice { vol, socket, ended, answer } => {
                let _ =
                    answer.send(self.nbd.serve_device(&mut self.ring, &mut self.core, vol, socket, ended));
            }
            Message::Shutdown(answer) => self.stop(answer, false),
            Message::Kill(answer) => self.stop(answer, true),
            #[cfg(test)]
            Message::Break => panic!("a row of the table is wrong"),
        }
    }

    fn command(&mut self, command: Command, answer: oneshot::Sender<CommandResult>) {
        self.commands_made += 1;
        let id = CommandId(self.commands_made);
        self.commands.push((id, answer));
        self.core.pending = true;
        self.core.resource.command(self.core.now, id, command, &mut self.core.out);
    }

    fn attach(&mut self, vol: VolIdx, disk: OpenedDisk, answer: oneshot::Sender<CommandResult>) {
        // A detach of this very batch closes its disk first.
        self.settle();
        let refusal = if vol.0 as usize >= self.minors.len() {
            Some(ConfigError::MinorInvalid)
        } else if self.disks.is_open(vol) {
            Some(ConfigError::DiskConfigured)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            let _ = answer.send(CommandResult::Config(refusal));
            return;
        }
        // The number that `command` gives it.
        let attach = self.commands_made + 1;
        let attached = self.disks.open(&mut self.ring, vol, disk, attach);
        self.command(Command::Attach(vol, Box::new(attached)), answer);
    }

    /// `Action::RunHandler`.
    pub(super) fn run_handler(&mut self, call: HandlerCall) {
        // The script looks at the state that made it necessary.
        self.publisher.note_change();
        self.publish();
        if self.handlers.send(call).is_err() {
            self.handlers_missing.push(call.run);
        }
    }

    /// `Action::CommandDone`.
    pub(super) fn answer(&mut self, id: CommandId, result: CommandResult) {
        let Some(at) = self.commands.iter().position(|(known, _)| *known == id) else { return };
        // What the command did shall be visible to the one who asked for it.
        self.publisher.note_change();
        self.publish();
        // Nobody waits any more if the receiver is gone.
        let _ = self.commands.swap_remove(at).1.send(result);
    }

    fn stop(&mut self, answer: oneshot::Sender<()>, at_once: bool) {
        if self.stopping.is_some() {
            return;
        }
        if !at_once {
            self.settle();
            self.nbd.stop(&mut self.ring, &mut self.core);
            self.peers.stop(&mut self.ring, self.core.now);
        }
        self.stopping = Some(Stopping { deadline: self.core.now + STOP_PATIENCE, at_once, answer });
    }

    /// When the thread may end: who waits for that.
    fn finished(&mut self) -> Option<oneshot::Sender<()>> {
        let stopping = self.stopping.as_ref()?;
        let quiet = self.disks.in_flight() == 0 && self.peers.is_quiet();
        if !stopping.at_once && !quiet && self.core.now < stopping.deadline {
            return None;
        }
        if !stopping.at_once {
            self.disks.flush_and_close_all(&mut self.ring);
        }
        self.stopping.take().map(|s| s.answer)
    }
}

/// What readers see of a resource that stopped by itself.
fn failed_snapshot(shared: &Shared, why: &str) -> ResourceSnapshot {
    let last = shared.board.current.load();
    let mut snapshot = ResourceSnapshot::new(&last.name);
    snapshot.node_name.clone_from(&last.node_name);
    snapshot.peer_name.clone_from(&last.peer_name);
    snapshot.volumes.clone_from(&last.volumes);
    for volume in &mut snapshot.volumes {
        volume.state = model::state::VolumeState::INITIAL;
        volume.last_error = Some(why.to_owned());
        volume.nbd_uri = None;
        volume.open_count = 0;
        volume.progress = None;
    }
    snapshot
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("unknown")
}

/// How often the scheduler gave this thread's processor to another that wanted it.
fn switches_of_thread() -> i64 {
    let usage = getrusage(UsageWho::RUSAGE_THREAD);
    usage.map_or(0, |usage| usage.involuntary_context_switches())
}

/// Seed of random numbers: data generations must never repeat, nor what tells two lives of a daemon apart.
pub(crate) fn random_seed() -> std::io::Result<[u8; 32]> {
    let mut seed = [0; 32];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut seed)?;
    Ok(seed)
}

/// Completions taken before the core decides, so that acknowledgements do not wait for ever newer requests.
const COMPLETIONS_PER_TURN: usize = 256;
/// Batches that may follow from one another in a turn.
const BATCHES_PER_TURN: usize = 8;
/// How long the end waits for disks and for last words to the peer.
const STOP_PATIENCE: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::dataplane::WorkerHandle;
    use crate::dataplane::nbd_sessions::tests::config;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn a_violated_invariant_stops_this_resource_only_and_tells_why() {
        let dir = tempfile::tempdir().unwrap();
        let (broken, sound) = (config(dir.path(), "broken"), config(dir.path(), "sound"));
        let socket = broken.nbd_unix[0].clone();
        let (broken, sound) = (WorkerHandle::spawn(broken).unwrap(), WorkerHandle::spawn(sound).unwrap());
        let mut client = UnixStream::connect(socket).unwrap();
        block_on(async {
            broken.break_invariant().await;
            let error = broken.command(Command::SuspendIo).await.unwrap_err().to_string();
            assert!(
                error.contains("resource broken: internal error: a row of the table is wrong"),
                "{error}"
            );
            assert!(error.contains("stopped before it could corrupt data"), "{error}");
            assert!(broken.snapshot().volumes[0].last_error.is_some());
            broken.shutdown().await;
            assert_eq!(sound.command(Command::Primary { force: false }).await.unwrap(), {
                CommandResult::State(model::result_code::StateResult::NoUpToDateDisk)
            });
            sound.shutdown().await;
            assert!(sound.command(Command::SuspendIo).await.is_err());
        });
        // The greeting, then the end.
        assert_eq!(client.read_to_end(&mut Vec::new()).unwrap(), 18);
    }

    #[test]
    fn a_socket_that_cannot_be_made_is_an_error_of_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path(), "r0");
        config.nbd_unix[0] = dir.path().join("missing").join("r0.nbd");
        let error = WorkerHandle::spawn(config).unwrap_err().to_string();
        assert!(error.contains("missing"), "{error}");
    }
}
