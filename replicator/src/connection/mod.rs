//! The connection to the peer: sockets, handshake progress, keepalive, and what is sent on it.

pub(crate) mod auth;
pub(crate) mod connect;
pub(crate) mod goodbye;
pub(crate) mod params;
pub(crate) mod peer_state;
pub(crate) mod ping;
pub(crate) mod send;
pub(crate) mod sizes;
pub(crate) mod teardown;

use alloc::string::String;
use alloc::vec::Vec;

use model::state::ConnState;
use model::time::Instant;

use crate::config::NetConfig;
use crate::digest::DigestAlg;
use crate::event::SockId;
use crate::wire::{Features, Sock};

use goodbye::Goodbye;

/// Feature bit by which two lockstep nodes know each other; it disappears in the AND with any other peer. The
/// receiver may then start writes of the next epoch before the flush of the one before is done: a flush of the
/// application is answered only after the barrier acknowledgement, so nothing that was promised depends on it.
pub(crate) const FF_LOCKSTEP: Features = Features(1 << 30);

/// How far the handshake is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// Not connecting.
    Idle,
    /// Waits until received writes are done before it may connect again, or pauses after a failure.
    Pausing,
    /// An own attempt is under way.
    Active { attempt: u32 },
    /// Waits for the peer to connect.
    Passive,
    /// Both sockets exist; waits whether they stay.
    Settling,
    /// Features sent, waits for the peer's.
    Features,
    /// Own challenge sent, waits for the peer's.
    Challenge,
    /// Own response sent, waits for the peer's.
    Response,
    /// WFReportParams and above: the peer's packets are processed.
    Established,
}

/// Bytes of one direction of one socket.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct TxBytes {
    pub queued_total: u64,
    pub sent_total: u64,
}

/// What has to happen when the ping sent with this number is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fence {
    /// Resync of the volume is done here; the peer has processed all acknowledgements.
    EndOfResync { vol: u8 },
    /// The peer has heard of every block of this run of verify.
    EndOfVerify { vol: u8, run: u32 },
    /// The peer is Behind, and has said everything it had to say of the resync before.
    Behind { vol: u8 },
}

/// The connection.
pub(crate) struct Connection {
    /// 0..=WFReportParams; volumes go on alone above that. Assigned by `state::change` only.
    pub state: ConnState,
    pub net: Option<NetConfig>,
    pub phase: Phase,
    pub data: Option<SockId>,
    pub meta: Option<SockId>,
    /// Accepted sockets that have not said what they are.
    pub newcomers: Vec<SockId>,
    /// Volumes that the peer has announced and this node does not have.
    pub foreign_volumes: Vec<u16>,
    pub attempt: u32,
    pub conflict_flag: bool,
    pub agreed_version: u32,
    pub features: Features,
    /// Digest in front of the block data that the peer sends, and of that which goes to it.
    pub integrity_in: Option<DigestAlg>,
    pub integrity_out: Option<DigestAlg>,
    pub challenge: [u8; 64],
    pub data_tx: TxBytes,
    pub meta_tx: TxBytes,
    pub ko_left: u32,
    /// Last time something arrived.
    pub last_rx: Instant,
    pub pings_sent: u64,
    pub pings_acked: u64,
    pub fences: Vec<(u64, Fence)>,
    /// Own sizes, UUIDs and state were sent, the peer's are not processed on every volume.
    pub handshake_in_progress: bool,
    /// The peer asked for a dry run.
    pub peer_tentative: bool,
    /// Why the connection ended in StandAlone, for people.
    pub standalone_reason: Option<String>,
    /// The peer's, until it is answered.
    pub goodbye: Option<Goodbye>,
    /// Own part of the current attempt asked to discard own data.
    pub discard_my_data: bool,
    /// Number of connections made so far.
    pub generation: u32,
    pub retry_slowly: bool,
}

impl Connection {
    pub(crate) fn new() -> Connection {
        Connection {
            state: ConnState::StandAlone,
            net: None,
            phase: Phase::Idle,
            data: None,
            meta: None,
            newcomers: Vec::new(),
            foreign_volumes: Vec::new(),
            attempt: 0,
            conflict_flag: false,
            agreed_version: 0,
            features: Features::NONE,
            integrity_in: None,
            integrity_out: None,
            challenge: [0; 64],
            data_tx: TxBytes::default(),
            meta_tx: TxBytes::default(),
            ko_left: 0,
            last_rx: Instant(0),
            pings_sent: 0,
            pings_acked: 0,
            fences: Vec::new(),
            handshake_in_progress: false,
            peer_tentative: false,
            standalone_reason: None,
            goodbye: None,
            discard_my_data: false,
            generation: 0,
            retry_slowly: false,
        }
    }

    /// Packets may be exchanged with the peer. Also when one of the sockets has gone and the other one is still listened to for
    /// an answer: until the connection is given up, whatever is sent waits for the peer, and nothing is done without it.
    pub(crate) fn is_established(&self) -> bool {
        self.phase == Phase::Established
    }

    /// Which of the two sockets this is.
    pub(crate) fn role_of(&self, sock: SockId) -> Option<Sock> {
        if self.data == Some(sock) {
            Some(Sock::Data)
        } else if self.meta == Some(sock) {
            Some(Sock::Meta)
        } else {
            None
        }
    }

    /// Both nodes run this program.
    pub(crate) fn peer_is_lockstep(&self) -> bool {
        self.features.contains(FF_LOCKSTEP)
    }
}
