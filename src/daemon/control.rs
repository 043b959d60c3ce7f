//! The control socket: what the commands ask, what the daemon answers, and how both travel.
//!
//! A message is its length (4 bytes, big endian) and that many bytes of JSON. The commands and every later
//! front end use the same requests. Nothing that arrives here is trusted: lengths are limited before a byte is
//! allocated, unknown versions and unknown requests get an answer and the connection ends.

use std::io::{self, Read, Write};

use model::status::ResourceSnapshot;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Version of this protocol; a daemon serves only its own.
pub const CONTROL_VERSION: u32 = 1;
/// Largest request. Names only; the configuration is read by the daemon itself.
pub const REQUEST_BYTES_MAX: usize = 64 << 10;
/// Largest reply: the status of some thousand volumes.
pub const REPLY_BYTES_MAX: usize = 16 << 20;
/// Most names in one request.
pub const TARGETS_MAX: usize = 1024;
/// Name of the socket in the run directory.
pub const SOCKET_NAME: &str = "control.sock";

/// What goes over the socket first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// [`CONTROL_VERSION`] of the sender.
    pub version: u32,
    /// The request.
    pub request: Request,
}

impl Envelope {
    /// `request` in the present version.
    pub fn new(request: Request) -> Envelope {
        Envelope { version: CONTROL_VERSION, request }
    }
}

/// A request. One connection carries any number of them, one after the other; after [`Request::Watch`] it
/// carries snapshots until it is closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Who is there? Answered by [`Reply::Hello`].
    Hello,
    /// Do something with the named resources or volumes. Answered by [`Reply::Done`].
    Run {
        /// What.
        action: Action,
        /// Which, as typed: `all`, `r0`, `r0/1`, `minor-10`.
        targets: Vec<String>,
    },
    /// State of the named resources; of all that are up without names. Answered by [`Reply::Snapshots`].
    Status {
        /// Names of resources.
        targets: Vec<String>,
    },
    /// Failover. Answered by [`Reply::Done`].
    Failover(FailoverRequest),
    /// As [`Request::Status`], again after every change.
    Watch {
        /// Names of resources.
        targets: Vec<String>,
    },
}

/// Exit code of a handler that this daemon cannot answer for: the resource is not up in it, or belongs to no service.
pub const NOT_MINE: u8 = 255;

/// What is asked of the failover side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailoverRequest {
    /// Where the services are, and why.
    Status,
    /// What happened to them.
    History,
    /// An operator's order.
    Order {
        /// Name of the service.
        service: String,
        /// The order.
        order: ServiceOrder,
    },
    /// The fence-peer handler of a resource; the exit code is that of the handler.
    FencePeer {
        /// Name of the resource.
        resource: String,
    },
    /// The unfence-peer handler of a resource.
    UnfencePeer {
        /// Name of the resource.
        resource: String,
    },
}

/// What an operator may order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceOrder {
    /// Move it to the other node.
    Switch,
    /// Let nothing move by itself.
    Freeze,
    /// Let things move by themselves again.
    Unfreeze,
    /// End it here, and stay away.
    Release,
    /// Forget that it failed, or was released, here.
    Clear,
}

/// What the daemon can do. Names and meaning are those of drbdadm (drbd-admin 3.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Create the resource, attach its disks, connect.
    Up,
    /// Demote, disconnect, detach, remove the resource.
    Down,
    /// Make what runs equal to the configuration.
    Adjust,
    /// Create the resource without disks and connection.
    NewResource,
    /// Nothing to do here, since volumes come with their resource.
    NewMinor,
    /// Apply the activity log and attach the disk.
    Attach,
    /// Give the disk up.
    Detach {
        /// Without asking the peer.
        force: bool,
    },
    /// Start connecting.
    Connect {
        /// The peer's data wins.
        discard_my_data: bool,
        /// Only find out the direction of a resync.
        tentative: bool,
    },
    /// End the connection.
    Disconnect {
        /// Without asking the peer.
        force: bool,
    },
    /// Become Primary.
    Primary {
        /// Take the local data as UpToDate.
        force: bool,
    },
    /// Become Secondary.
    Secondary {
        /// Even if clients use it: what they have asked for fails.
        force: bool,
    },
    /// Pause resync.
    PauseSync,
    /// Resume resync.
    ResumeSync,
    /// Full resync from the peer.
    Invalidate,
    /// Full resync to the peer.
    InvalidateRemote,
    /// Compare the blocks with the peer's.
    Verify {
        /// First sector; without: where the last run ended.
        start_sector: Option<u64>,
        /// End before this sector; without: at the end of the device.
        stop_sector: Option<u64>,
    },
    /// Mark the own data as outdated.
    Outdate,
    /// Adopt what both disks can hold.
    Resize {
        /// Limit in sectors; none: that of the configuration.
        limit_sectors: Option<u64>,
        /// What the new part holds does not matter.
        assume_clean: bool,
        /// Grow although the peer cannot be asked.
        assume_peer_has_space: bool,
    },
    /// Note where the metadata is.
    CheckResize,
    /// Freeze I/O.
    SuspendIo,
    /// Thaw I/O.
    ResumeIo,
    /// Start a new data generation.
    NewCurrentUuid {
        /// On a fresh pair: skip the initial sync.
        clear_bitmap: bool,
    },
    /// Print the roles.
    Role,
    /// Print the connection state.
    Cstate,
    /// Print the disk states.
    Dstate,
    /// Print the data generations in one line.
    GetGi,
    /// Print the data generations with explanations.
    ShowGi,
    /// Wait for the connection, or for the end of a resync.
    Wait {
        /// Also for the end of a resync.
        sync: bool,
        /// Values that replace those of the configuration.
        limits: WaitLimits,
    },
    /// Print the text of `/proc/drbd`.
    Proc,
}

impl Action {
    /// It only prints what the daemon knows already.
    pub fn only_prints(self) -> bool {
        match self {
            Action::NewMinor
            | Action::Role
            | Action::Cstate
            | Action::Dstate
            | Action::GetGi
            | Action::ShowGi
            | Action::Proc => true,
            Action::Up
            | Action::Down
            | Action::Adjust
            | Action::NewResource
            | Action::Attach
            | Action::Detach { .. }
            | Action::Connect { .. }
            | Action::Disconnect { .. }
            | Action::Primary { .. }
            | Action::Secondary { .. }
            | Action::PauseSync
            | Action::ResumeSync
            | Action::Invalidate
            | Action::InvalidateRemote
            | Action::Verify { .. }
            | Action::Outdate
            | Action::Resize { .. }
            | Action::CheckResize
            | Action::SuspendIo
            | Action::ResumeIo
            | Action::NewCurrentUuid { .. }
            | Action::Wait { .. } => false,
        }
    }
}

/// Time limits of the waiting commands as given on the command line, in seconds, 0 = for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitLimits {
    /// In the normal case.
    pub wfc_s: Option<u32>,
    /// If the cluster was degraded when the disk was attached.
    pub degr_wfc_s: Option<u32>,
    /// If the peer's data is outdated.
    pub outdated_wfc_s: Option<u32>,
    /// Go on waiting although StandAlone.
    pub wait_after_sb: bool,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// Answer to [`Request::Hello`].
    Hello {
        /// Version of the program.
        program: String,
        /// Name of the host whose sections it runs.
        host: String,
        /// Its configuration file.
        config: String,
        /// Its process.
        pid: u32,
    },
    /// A command ended.
    Done(Outcome),
    /// State of resources, sorted by name.
    Snapshots(Vec<ResourceSnapshot>),
    /// The request could not be understood.
    Refused {
        /// Why.
        message: String,
    },
}

/// How a command ended: what it prints and its exit status.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Exit status (drbd-admin 3.4).
    pub exit_code: u8,
    /// Text for standard output.
    pub out: String,
    /// Text for standard error.
    pub err: String,
}

impl Outcome {
    /// Failed with one message.
    pub fn failed(exit_code: u8, message: impl Into<String>) -> Outcome {
        let mut outcome = Outcome { exit_code, ..Outcome::default() };
        outcome.error_line(&message.into());
        outcome
    }

    /// Succeeded with a text.
    pub fn text(out: impl Into<String>) -> Outcome {
        Outcome { out: out.into(), ..Outcome::default() }
    }

    /// Adds a line to standard error.
    pub fn error_line(&mut self, line: &str) {
        self.err.push_str(line.trim_end_matches('\n'));
        self.err.push('\n');
    }

    /// Adds what another step printed; the largest status wins (drbd-admin 3.4).
    pub fn absorb(&mut self, other: Outcome) {
        self.out.push_str(&other.out);
        self.err.push_str(&other.err);
        self.exit_code = self.exit_code.max(other.exit_code);
    }
}

/// Why a message could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The other side closed the connection between two messages.
    #[error("the connection was closed")]
    Closed,
    /// Longer than allowed.
    #[error("a message of {0} bytes, more than the allowed {1}")]
    TooLong(usize, usize),
    /// Not what this version speaks.
    #[error("not a message of this program: {0}")]
    Garbage(#[from] serde_json::Error),
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads one message, for the daemon.
///
/// # Errors
/// [`ControlError`]; after any of them the connection is of no more use.
pub async fn receive<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    limit_bytes: usize,
) -> Result<T, ControlError> {
    let mut head = [0; 4];
    if let Err(e) = stream.read_exact(&mut head).await {
        return Err(closed_or(e));
    }
    let mut body = vec![0; checked_length(head, limit_bytes)?];
    stream.read_exact(&mut body).await?;
    Ok(serde_json::from_slice(&body)?)
}

/// Writes one message, for the daemon.
///
/// # Errors
/// [`ControlError::TooLong`] if it cannot be sent at all, else the socket's.
pub async fn send<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &T,
    limit_bytes: usize,
) -> Result<(), ControlError> {
    stream.write_all(&encode(message, limit_bytes)?).await?;
    Ok(())
}

/// Reads one message, for the commands.
///
/// # Errors
/// As [`receive`].
pub fn receive_blocking<T: DeserializeOwned>(
    stream: &mut impl Read,
    limit_bytes: usize,
) -> Result<T, ControlError> {
    let mut head = [0; 4];
    stream.read_exact(&mut head).map_err(closed_or)?;
    let mut body = vec![0; checked_length(head, limit_bytes)?];
    stream.read_exact(&mut body)?;
    Ok(serde_json::from_slice(&body)?)
}

/// Writes one message, for the commands.
///
/// # Errors
/// As [`send`].
pub fn send_blocking<T: Serialize>(
    stream: &mut impl Write,
    message: &T,
    limit_bytes: usize,
) -> Result<(), ControlError> {
    stream.write_all(&encode(message, limit_bytes)?)?;
    Ok(())
}

fn encode<T: Serialize>(message: &T, limit_bytes: usize) -> Result<Vec<u8>, ControlError> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = bytes.len() - 4;
    let head = u32::try_from(length).ok().filter(|_| length <= limit_bytes);
    let head = head.ok_or(ControlError::TooLong(length, limit_bytes))?;
    bytes[..4].copy_from_slice(&head.to_be_bytes());
    Ok(bytes)
}

fn checked_length(head: [u8; 4], limit_bytes: usize) -> Result<usize, ControlError> {
    let length = u32::from_be_bytes(head) as usize;
    if length > limit_bytes {
        return Err(ControlError::TooLong(length, limit_bytes));
    }
    Ok(length)
}

fn closed_or(e: io::Error) -> ControlError {
    if e.kind() == io::ErrorKind::UnexpectedEof { ControlError::Closed } else { ControlError::Io(e) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(request: Request) {
        let mut bytes = Vec::new();
        send_blocking(&mut bytes, &Envelope::new(request.clone()), REQUEST_BYTES_MAX).unwrap();
        let back: Envelope = receive_blocking(&mut bytes.as_slice(), REQUEST_BYTES_MAX).unwrap();
        assert_eq!(back, Envelope::new(request));
    }

    #[test]
    fn requests_come_back_as_sent() {
        round_trip(Request::Hello);
        round_trip(Request::Status { targets: vec!["r0".into()] });
        let limits = WaitLimits { wfc_s: Some(3), ..WaitLimits::default() };
        for action in [Action::Up, Action::Primary { force: true }, Action::Wait { sync: true, limits }] {
            round_trip(Request::Run { action, targets: vec!["all".into(), "r0/1".into()] });
        }
    }

    #[test]
    fn a_long_message_is_refused_before_it_is_read() {
        let mut head: &[u8] = &[0xFF, 0xFF, 0xFF, 0xFF, 1, 2];
        let got = receive_blocking::<Envelope>(&mut head, REQUEST_BYTES_MAX);
        assert!(matches!(got, Err(ControlError::TooLong(0xFFFF_FFFF, REQUEST_BYTES_MAX))), "{got:?}");
        let targets = vec!["x".repeat(1000); 100];
        let sent = send_blocking(&mut Vec::new(), &Request::Status { targets }, REQUEST_BYTES_MAX);
        assert!(matches!(sent, Err(ControlError::TooLong(..))), "{sent:?}");
    }

    #[test]
    fn garbage_and_cut_messages_are_errors() {
        let mut garbage: &[u8] = b"\0\0\0\x05hello";
        assert!(matches!(
            receive_blocking::<Envelope>(&mut garbage, REQUEST_BYTES_MAX),
            Err(ControlError::Garbage(_))
        ));
        let mut whole = Vec::new();
        send_blocking(&mut whole, &Envelope::new(Request::Hello), REQUEST_BYTES_MAX).unwrap();
        for cut in 0..whole.len() {
            assert!(receive_blocking::<Envelope>(&mut &whole[..cut], REQUEST_BYTES_MAX).is_err(), "{cut}");
        }
        let mut nothing: &[u8] = b"";
        assert!(matches!(
            receive_blocking::<Envelope>(&mut nothing, REQUEST_BYTES_MAX),
            Err(ControlError::Closed)
        ));
    }

    #[test]
    fn outcomes_add_up() {
        let mut all = Outcome::text("a\n");
        all.absorb(Outcome::failed(11, "no"));
        all.absorb(Outcome::failed(10, "never\n"));
        assert_eq!(all, Outcome { exit_code: 11, out: "a\n".into(), err: "no\nnever\n".into() });
    }
}
