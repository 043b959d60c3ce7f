//! heartbeat's membership over real sockets: one task that owns a [`Membership`] machine.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::failover::heartbeat::HeartbeatMembership;
use tokio::sync::{mpsc, oneshot, watch};

use crate::driver::clock;
use crate::heartbeat::{Action, Event, Membership, MembershipStatus, StartError};

mod media;

use media::Media;

/// What the driver has to know.
#[derive(Clone, Debug)]
pub struct HeartbeatSettings {
    /// The block `heartbeat`.
    pub membership: HeartbeatMembership,
    /// This node, one of those that are named there.
    pub host: String,
}

/// A running membership. When it is dropped, the node falls silent without a goodbye.
#[derive(Debug)]
pub struct HeartbeatHandle {
    stop: mpsc::UnboundedSender<oneshot::Sender<()>>,
    status: watch::Receiver<MembershipStatus>,
}

impl HeartbeatHandle {
    /// What there is to know, kept up to date.
    pub fn status(&self) -> watch::Receiver<MembershipStatus> {
        self.status.clone()
    }

    /// Says goodbye: the others need not wait for the dead time.
    pub async fn stop(&self) {
        let (answer, answered) = oneshot::channel();
        if self.stop.send(answer).is_ok() {
            let _ = answered.await;
        }
    }
}

/// Starts as a task of the [`LocalSet`](tokio::task::LocalSet) that this is called in, for the network namespace of its
/// thread. Interfaces may come and go; what the kernel refuses is logged and tried again.
///
/// # Errors
/// This node is not among those that are named, or the configuration is not complete.
pub fn start(settings: &HeartbeatSettings) -> Result<HeartbeatHandle, StartError> {
    // Later at each start, as long as nobody sets the clock back (failover 3.4, hg).
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let cfg = &settings.membership;
    let machine = Membership::new(cfg, &settings.host, clock::now(), since_epoch.as_secs())?;
    let (stop, stops) = mpsc::unbounded_channel();
    let (status, seen) = watch::channel(machine.status());
    let task = Task { machine, media: Media::new(cfg), status };
    tokio::task::spawn_local(task.run(stops));
    Ok(HeartbeatHandle { stop, status: seen })
}

struct Task {
    machine: Membership,
    media: Media,
    status: watch::Sender<MembershipStatus>,
}

impl Task {
    async fn run(mut self, mut stops: mpsc::UnboundedReceiver<oneshot::Sender<()>>) {
        self.tell(Event::Tick);
        loop {
            let wait = self.machine.deadline(clock::now()).saturating_since(clock::now());
            // What has come is heard before anybody is called silent.
            tokio::select! {
                biased;
                stop = stops.recv() => {
                    if let Some(answer) = stop {
                        self.tell(Event::Stop);
                        let _ = answer.send(());
                    }
                    return;
                }
                (bytes, source) = self.media.receive() => {
                    let source = source.to_string();
                    self.tell(Event::Datagram { source: &source, bytes: &bytes });
                }
                () = tokio::time::sleep(wait) => self.tell(Event::Tick),
            }
        }
    }

    fn tell(&mut self, event: Event<'_>) {
        let mut actions = Vec::new();
        self.machine.handle(clock::now(), event, &mut actions);
        for action in actions {
            match action {
                Action::Send(datagram) => self.media.send(&datagram),
                Action::Info(text) => tracing::info!("{text}"),
                Action::Warn(text) => tracing::warn!("{text}"),
            }
        }
        let status = self.machine.status();
        self.status.send_if_modified(|known| {
            let is_new = *known != status;
            *known = status;
            is_new
        });
    }
}
