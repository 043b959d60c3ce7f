//! The commands' end of the control socket.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::status::ResourceSnapshot;

use crate::daemon::control::{
    Action, ControlError, Envelope, Outcome, REPLY_BYTES_MAX, REQUEST_BYTES_MAX, Reply, Request, SOCKET_NAME,
    receive_blocking, send_blocking,
};

/// Exit status when the daemon cannot be asked.
pub const EXIT_NO_DAEMON: u8 = 20;

/// A connection to a daemon.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    socket: PathBuf,
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
    /// Connects to the daemon of a run directory.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`].
    pub fn connect(run_dir: &Path) -> Result<Client, ClientError> {
        let socket = run_dir.join(SOCKET_NAME);
        match UnixStream::connect(&socket) {
            Ok(stream) => Ok(Client { stream, socket }),
            Err(source) => Err(ClientError::Unreachable { socket, source }),
        }
    }

    /// Gives up waiting for an answer after this time.
    pub fn set_timeout(&self, limit: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(limit))
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

    /// Runs a command in the daemon.
    pub fn run(&mut self, action: Action, targets: &[String]) -> Outcome {
        match self.ask(Request::Run { action, targets: targets.to_vec() }) {
            Ok(Reply::Done(outcome)) => outcome,
            Ok(_) => unexpected(),
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
        ClientError::Broken { socket: self.socket.clone(), source }
    }
}

fn unexpected() -> Outcome {
    Outcome::failed(EXIT_NO_DAEMON, "the daemon gave an answer to another question")
}

#[cfg(test)]
mod tests {
    use super::*;

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
