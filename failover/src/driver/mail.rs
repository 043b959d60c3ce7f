//! Mails over TCP: a queue, and one task that empties it. Whoever has something to say never waits, and a server that hangs
//! holds up nothing but other mails.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::failover::config::{Globals, SmtpServer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use crate::mail::{Delivered, Dialogue, MailError, Message};

/// So many mails wait at most; then the oldest falls out.
const QUEUE_MAX: usize = 64;
/// Pauses after an attempt that has failed; after the last one the mail is given up.
const PAUSES: [Duration; 3] = [Duration::from_secs(5), Duration::from_secs(30), Duration::from_secs(120)];
/// For connecting and for each answer, unless `smtp_connect_timeout` says otherwise (failover 6.2).
const TIMEOUT: Duration = Duration::from_secs(30);
/// The answer to QUIT is not waited for longer: what became of the mail is known by then.
const GOODBYE: Duration = Duration::from_millis(300);

/// From whom, to whom and by whom.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Settings {
    server: SmtpServer,
    from: String,
    to: Vec<String>,
    /// How this node calls itself towards the server.
    helo: String,
    /// How it calls itself in subjects.
    node: String,
    timeout: Duration,
}

impl Settings {
    /// None if nobody is to get mails, or nobody takes them.
    fn of(globals: &Globals) -> Option<Settings> {
        let host = host();
        let is_word = |word: &String| !word.is_empty() && word.bytes().all(|b| b.is_ascii_graphic());
        let to: Vec<String> = globals.email_to.iter().filter(|to| is_word(to)).cloned().collect();
        let server = globals.smtp_server.clone().filter(|_| !to.is_empty())?;
        let from = globals.email_from.clone().filter(is_word);
        Some(Settings {
            server,
            from: from.unwrap_or_else(|| format!("lockstep@{host}")),
            to,
            node: globals.router_id.clone().unwrap_or_else(|| host.clone()),
            helo: globals.smtp_helo_name.clone().filter(is_word).unwrap_or(host),
            timeout: globals.smtp_connect_timeout.unwrap_or(TIMEOUT),
        })
    }
}

/// The name of this host, as far as it can stand in an address.
fn host() -> String {
    let system = nix::sys::utsname::uname().ok();
    let name = system.as_ref().map(|system| system.nodename().to_string_lossy()).unwrap_or_default();
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    let name: String = name.chars().filter(is_plain).collect();
    if name.is_empty() { "localhost".to_owned() } else { name }
}

/// Sends mails. All clones share one queue; when the last one is gone, what waits is sent, but nothing is tried again.
#[derive(Clone, Debug)]
pub struct Mailer {
    shared: Arc<Mutex<Shared>>,
    wake: mpsc::Sender<()>,
}

#[derive(Debug, Default)]
struct Shared {
    settings: Option<Arc<Settings>>,
    queue: VecDeque<Job>,
    /// One is on its way.
    is_busy: bool,
    /// Nothing is waited for any more: these want to know when the queue is empty.
    flushing: Vec<oneshot::Sender<()>>,
}

#[derive(Clone, Debug)]
struct Job {
    at_s: u64,
    id: String,
    subject: String,
    text: String,
    /// Those who have not got it yet; none: everybody.
    to: Option<Vec<String>>,
}

/// Why a mail was not delivered.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    #[error("cannot connect within {0:?}")]
    ConnectTime(Duration),
    #[error("{0}")]
    Dialogue(#[from] MailError),
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Mailer {
    /// Starts the task in the [`LocalSet`](tokio::task::LocalSet) that this is called in, for the network namespace of its
    /// thread. Without a server or recipients mails are dropped in silence.
    pub fn start(globals: &Globals) -> Mailer {
        Mailer::start_with(globals, &PAUSES)
    }

    fn start_with(globals: &Globals, pauses: &'static [Duration]) -> Mailer {
        let (wake, woken) = mpsc::channel(1);
        let mailer = Mailer { shared: Arc::default(), wake };
        mailer.configure(globals);
        tokio::task::spawn_local(Task { shared: mailer.shared.clone(), woken, pauses }.run());
        mailer
    }

    /// Another server, or other recipients: also for what waits.
    pub fn configure(&self, globals: &Globals) {
        lock(&self.shared).settings = Settings::of(globals).map(Arc::new);
    }

    /// Sends a mail to all recipients. The name of this node is put in front of the subject.
    pub fn send(&self, subject: &str, text: &str) {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let mut shared = lock(&self.shared);
        let Some(settings) = shared.settings.clone() else { return };
        let subject = format!("[{}] {subject}", settings.node);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let id =
            format!("{}.{}.{}.{count}@{}", now.as_secs(), now.subsec_nanos(), std::process::id(), host());
        if shared.queue.len() == QUEUE_MAX
            && let Some(lost) = shared.queue.pop_front()
        {
            tracing::warn!("mail '{}' is not sent: more than {QUEUE_MAX} of them wait", lost.subject);
        }
        shared.queue.push_back(Job { at_s: now.as_secs(), id, subject, text: text.to_owned(), to: None });
        assert!(shared.queue.len() <= QUEUE_MAX, "the queue has an end");
        drop(shared);
        self.wake();
    }

    /// Waits until all is sent, or given up, but not for longer than `limit`. Meanwhile nothing is tried a second time.
    pub async fn flush(&self, limit: Duration) {
        let (done, is_done) = oneshot::channel();
        lock(&self.shared).flushing.push(done);
        self.wake();
        if timeout(limit, is_done).await.is_err() {
            let shared = lock(&self.shared);
            let count = shared.queue.len() + usize::from(shared.is_busy);
            tracing::warn!("mails: {count} are not sent within {limit:?}, and not waited for any longer");
        }
    }

    fn wake(&self) {
        // One word that nobody has heard yet is enough.
        let _ = self.wake.try_send(());
    }
}

struct Task {
    shared: Arc<Mutex<Shared>>,
    woken: mpsc::Receiver<()>,
    pauses: &'static [Duration],
}

impl Task {
    async fn run(mut self) {
        loop {
            let next = {
                let mut shared = lock(&self.shared);
                let next = shared.queue.pop_front();
                shared.is_busy = next.is_some();
                if next.is_none() {
                    // Who waits no longer does not hear it.
                    shared.flushing.drain(..).for_each(|done| done.send(()).unwrap_or_default());
                }
                next
            };
            match next {
                Some(job) => self.deliver(job).await,
                None => {
                    if self.woken.recv().await.is_none() {
                        return;
                    }
                }
            }
        }
    }

    /// Tries until it is delivered, refused for good, or has been tried often enough.
    async fn deliver(&mut self, mut job: Job) {
        for attempt in 0..=self.pauses.len() {
            let Some(settings) = lock(&self.shared).settings.clone() else { return };
            let server = format!("{}:{}", settings.server.host, settings.server.port);
            let (why, is_permanent) = match attempt_once(&settings, &job).await {
                Ok(Delivered { refused }) => {
                    let (never, later): (Vec<_>, Vec<_>) =
                        refused.into_iter().partition(|refusal| refusal.reply.is_permanent());
                    for refusal in never {
                        let (code, text) = (refusal.reply.code, refusal.reply.text);
                        tracing::warn!(
                            "mail '{}': {server} refuses it for {}: {code} {text}",
                            job.subject,
                            refusal.to
                        );
                    }
                    let Some(first) = later.first() else {
                        return tracing::debug!("mail '{}': sent", job.subject);
                    };
                    let why =
                        format!("it is refused for {}: {} {}", first.to, first.reply.code, first.reply.text);
                    job.to = Some(later.into_iter().map(|refusal| refusal.to).collect());
                    (why, false)
                }
                Err(SendError::Dialogue(error)) => (error.to_string(), error.is_permanent()),
                Err(error) => (error.to_string(), false),
            };
            let pause = self.pauses.get(attempt).copied().filter(|_| !is_permanent && !self.is_last_chance());
            let Some(pause) = pause else {
                return tracing::warn!("mail '{}' is given up: {server}: {why}", job.subject);
            };
            tracing::warn!("mail '{}' is tried again in {pause:?}: {server}: {why}", job.subject);
            self.pause(pause).await;
        }
    }

    /// Waits, unless nothing is waited for any more.
    async fn pause(&mut self, pause: Duration) {
        let end = Instant::now() + pause;
        while !self.is_last_chance() {
            match timeout_at(end, self.woken.recv()).await {
                Ok(Some(())) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn is_last_chance(&self) -> bool {
        self.woken.is_closed() || !lock(&self.shared).flushing.is_empty()
    }
}

async fn attempt_once(settings: &Settings, job: &Job) -> Result<Delivered, SendError> {
    let to = job.to.as_ref().unwrap_or(&settings.to);
    let message = Message {
        at_s: job.at_s,
        id: job.id.clone(),
        from: settings.from.clone(),
        to: settings.to.clone(),
        subject: job.subject.clone(),
        text: job.text.clone(),
    };
    let connected = timeout(settings.timeout, connect(&settings.server)).await;
    let mut stream =
        connected.map_err(|_| SendError::ConnectTime(settings.timeout))?.map_err(SendError::Connect)?;
    let mut dialogue = Dialogue::new(&settings.helo, &settings.from, to, &message.encode());
    while !dialogue.is_over() {
        let wait = if dialogue.outcome().is_some() { GOODBYE } else { settings.timeout };
        // One answer has so much time, however many octets it comes in.
        match timeout(wait, exchange(&mut stream, &mut dialogue)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => dialogue.closed(),
            Err(_) => dialogue.timed_out(),
        }
    }
    let outcome = dialogue.outcome().cloned().expect("a dialogue that is over has an outcome");
    outcome.map_err(SendError::Dialogue)
}

/// Says what is to be said, and takes octets until there is more to say.
async fn exchange(stream: &mut TcpStream, dialogue: &mut Dialogue) -> io::Result<()> {
    let said = dialogue.take_output();
    stream.write_all(&said).await?;
    let mut octets = [0; 1024];
    loop {
        let length = stream.read(&mut octets).await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        dialogue.receive(&octets[..length]);
        if dialogue.has_output() || dialogue.is_over() {
            return Ok(());
        }
    }
}

/// Any of the server's addresses that takes the connection.
async fn connect(server: &SmtpServer) -> io::Result<TcpStream> {
    let SmtpServer { host, port } = server;
    let addresses: Vec<SocketAddr> = match host.parse::<IpAddr>() {
        Ok(ip) => vec![(ip, *port).into()],
        Err(_) => tokio::net::lookup_host((host.as_str(), *port)).await?.collect(),
    };
    TcpStream::connect(&addresses[..]).await
}

#[cfg(test)]
mod tests;
