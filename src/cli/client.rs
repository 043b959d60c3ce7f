//! The commands' end of the control socket.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::status::ResourceSnapshot;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::time::TimeVal;
use serde_json::Value;

use crate::daemon::control::{
    Action, ControlError, Envelope, Outcome, REPLY_BYTES_MAX, REQUEST_BYTES_MAX, Reply, Request, SOCKET_NAME,
    receive_blocking, send_blocking,
};

/// Exit status when the daemon cannot be asked.
pub const EXIT_NO_DAEMON: u8 = 20;

/// How long the daemon may take to say that it is there, or what it knows. All its places may be taken by connections that
/// say nothing, which it drops after ten seconds.
pub const ANSWER_MAX: Duration = Duration::from_secs(30);

/// A connection to a daemon.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    socket: PathBuf,
    /// How long an answer may take; none: for ever.
    limit: Option<Duration>,
}

/// Why the daemon could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no daemon at {}: {source}; start it with 'lockstep daemon', or name its directory with --run-dir",
        socket.display()
    )]
    Unreachable {
        /// The control socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The daemon ended or the connection broke.
    #[error("the daemon at {} did not answer: {source}", socket.display())]
    Broken {
        /// The control socket.
        socket: PathBuf,
        /// Why.
        source: ControlError,
    },
    /// It is there, and says nothing.
    #[error("the daemon at {} did not answer within {} seconds", socket.display(), limit.as_secs())]
    Silent {
        /// The control socket.
        socket: PathBuf,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The daemon does not understand this program.
    #[error("{0}")]
    Refused(String),
}

impl ClientError {
    /// As the end of a command.
    pub fn outcome(&self) -> Outcome {
        Outcome::failed(EXIT_NO_DAEMON, self.to_string())
    }
}

impl Client {
    /// Connects to the daemon of a run directory, and makes sure that it answers.
    ///
    /// # Errors
    /// Nobody is there, or nobody who answers; or the daemon does not understand this program.
    pub fn connect(run_dir: &Path) -> Result<Client, ClientError> {
        Client::connect_within(run_dir, ANSWER_MAX)
    }

    fn connect_within(run_dir: &Path, limit: Duration) -> Result<Client, ClientError> {
        let socket = run_dir.join(SOCKET_NAME);
        let stream = match reach(&socket, limit) {
            Ok(stream) => stream,
            Err(e) if is_late(&e) => return Err(ClientError::Silent { socket, limit }),
            Err(source) => return Err(ClientError::Unreachable { socket, source }),
        };
        let mut client = Client { stream, socket, limit: Some(limit) };
        // The kernel takes connections and requests for a process that is stopped or stuck.
        client.ask(Request::Hello)?;
        Ok(client)
    }

    /// Gives up waiting for an answer after this time, which is not zero; never without one.
    ///
    /// # Errors
    /// What setsockopt(2) reports.
    pub fn set_timeout(&mut self, limit: Option<Duration>) -> io::Result<()> {
        self.stream.set_read_timeout(limit)?;
        self.limit = limit;
        Ok(())
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// The connection broke, or the daemon does not understand.
    pub fn ask(&mut self, request: Request) -> Result<Reply, ClientError> {
        send_blocking(&mut self.stream, &Envelope::new(request), REQUEST_BYTES_MAX)
            .map_err(|e| self.broken(e))?;
        self.next_reply()
    }

    /// Waits for one more answer of [`Request::Watch`].
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn next_reply(&mut self) -> Result<Reply, ClientError> {
        match receive_blocking(&mut self.stream, REPLY_BYTES_MAX) {
            Ok(Reply::Refused { message }) => Err(ClientError::Refused(message)),
            Ok(reply) => Ok(reply),
            Err(e) => Err(self.broken(e)),
        }
    }

    /// Runs a command in the daemon, which goes on with it should nobody wait any longer.
    pub fn run(&mut self, action: Action, targets: &[String]) -> Outcome {
        match self.ask(Request::Run { action, targets: targets.to_vec() }) {
            Ok(Reply::Done(outcome)) => outcome,
            Ok(_) => unexpected(),
            // spec: drbd-admin 3.4
            Err(ClientError::Silent { limit, .. }) => {
                let (command, seconds) = (words(action, targets), limit.as_secs());
                let text = format!("Command '{command}' did not terminate within {seconds} seconds");
                Outcome::failed(EXIT_NO_DAEMON, text)
            }
            Err(e) => e.outcome(),
        }
    }

    /// State of resources; of all that are up without names.
    ///
    /// # Errors
    /// The end of the command: no such resource, or the daemon could not be asked.
    pub fn status(&mut self, names: &[String]) -> Result<Vec<ResourceSnapshot>, Outcome> {
        match self.ask(Request::Status { targets: names.to_vec() }) {
            Ok(Reply::Snapshots(snapshots)) => Ok(snapshots),
            Ok(Reply::Done(refused)) => Err(refused),
            Ok(_) => Err(unexpected()),
            Err(e) => Err(e.outcome()),
        }
    }

    fn broken(&self, source: ControlError) -> ClientError {
        let socket = self.socket.clone();
        match (source, self.limit) {
            (ControlError::Io(e), Some(limit)) if is_late(&e) => ClientError::Silent { socket, limit },
            (source, _) => ClientError::Broken { socket, source },
        }
    }
}

/// Connects to a socket whose backlog may be full, and sets the limit for what is written and read.
fn reach(path: &Path, limit: Duration) -> io::Result<UnixStream> {
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // The limit of connect(2), too.
    let seconds = i64::try_from(limit.as_secs()).unwrap_or(i64::MAX);
    setsockopt(&fd, sockopt::SendTimeout, &TimeVal::new(seconds, limit.subsec_micros().into()))?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    let stream = UnixStream::from(fd);
    stream.set_read_timeout(Some(limit))?;
    Ok(stream)
}

/// What a socket with a limit reports when that has passed.
fn is_late(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// A command and its names, as they are typed.
fn words(action: Action, targets: &[String]) -> String {
    let verb = match serde_json::to_value(action) {
        Ok(Value::String(verb)) => verb,
        Ok(Value::Object(with_options)) => with_options.into_iter().map(|(verb, _)| verb).collect(),
        _ => String::new(),
    };
    std::iter::once(verb).chain(targets.iter().cloned()).collect::<Vec<_>>().join(" ")
}

fn unexpected() -> Outcome {
    Outcome::failed(EXIT_NO_DAEMON, "the daemon gave an answer to another question")
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use nix::sys::socket::{Backlog, bind, listen};

    use super::*;

    const SHORT: Duration = Duration::from_secs(1);

    /// A daemon that was stopped, or whose thread hangs.
    #[test]
    fn a_daemon_that_does_not_answer_is_not_waited_for_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(fd.as_raw_fd(), &UnixAddr::new(&dir.path().join(SOCKET_NAME)).unwrap()).unwrap();
        listen(&fd, Backlog::new(0).unwrap()).unwrap();
        // The first one is taken by the kernel and not answered; the second finds the backlog full.
        for _ in 0..2 {
            let outcome = Client::connect_within(dir.path(), SHORT).unwrap_err().outcome();
            assert_eq!(outcome.exit_code, EXIT_NO_DAEMON);
            assert!(outcome.err.contains("did not answer within 1 seconds"), "{}", outcome.err);
        }
    }

    /// A fence-peer handler that hangs, a disk that stands still while it is attached.
    #[test]
    fn a_command_that_does_not_end_is_given_up_with_the_words_of_drbdadm() {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join(SOCKET_NAME)).unwrap();
        let daemon = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _hello: Envelope = receive_blocking(&mut stream, REQUEST_BYTES_MAX).unwrap();
            let text = String::new;
            let reply = Reply::Hello { program: text(), host: text(), config: text(), pid: 1 };
            send_blocking(&mut stream, &reply, REPLY_BYTES_MAX).unwrap();
            let _command: Envelope = receive_blocking(&mut stream, REQUEST_BYTES_MAX).unwrap();
            // Until the other end is closed.
            assert!(receive_blocking::<Envelope>(&mut stream, REQUEST_BYTES_MAX).is_err());
        });
        let mut client = Client::connect(dir.path()).unwrap();
        client.set_timeout(Some(SHORT)).unwrap();
        let outcome = client.run(Action::Primary { force: true }, &["r0".to_owned()]);
        let text = "Command 'primary r0' did not terminate within 1 seconds\n";
        assert_eq!((outcome.exit_code, outcome.err.as_str()), (20, text));
        drop(client);
        daemon.join().unwrap();
    }

    #[test]
    fn nobody_there_is_one_line_that_helps() {
        let error = Client::connect(Path::new("/nonexistent")).unwrap_err();
        let outcome = error.outcome();
        assert_eq!(outcome.exit_code, 20);
        assert_eq!(outcome.err.lines().count(), 1);
        for word in ["/nonexistent/control.sock", "lockstep daemon", "--run-dir"] {
            assert!(outcome.err.contains(word), "{}", outcome.err);
        }
    }
}
