//! Making the two sockets of a connection (drbd-wire 1.2): attempts and passive waits alternate until both
//! sockets exist and stay for the settle time.

use model::state::ConnState;
use model::state_word::StateChange;
use model::time::Duration;

use super::{FF_LOCKSTEP, Phase, TxBytes};
use crate::action::{Action, Actions, Closing};
use crate::event::SockId;
use crate::resource::Resource;
use crate::state::Kind;
use crate::timers::Timer;
use crate::wire::{Command, ConnectionFeatures, Features, PROTOCOL_VERSION_MAX, Packet, Sock};

/// Accepted sockets that may wait for their first packet at once. With one more the oldest is closed: a peer speaks
/// at once, and must not be kept out by connections that say nothing.
const NEWCOMERS_MAX: usize = 8;

impl Resource {
    /// Unconnected -> WFConnection: opens the listener and makes the first attempt.
    pub(crate) fn start_connecting(&mut self, out: &mut Actions) {
        assert!(self.conn.data.is_none() && self.conn.meta.is_none(), "a new attempt starts without sockets");
        if self.conn.state == ConnState::Unconnected {
            let change = StateChange::NONE.conn(ConnState::WFConnection);
            if self.change_connection(change, Kind::Soft, out).is_err() {
                return;
            }
        }
        out.push(Action::Listen);
        self.attempt_connect(out);
    }

    fn attempt_connect(&mut self, out: &mut Actions) {
        self.conn.attempt += 1;
        self.conn.phase = Phase::Active { attempt: self.conn.attempt };
        self.timers.stop(Timer::Connect);
        let timeout_ns = self.net().connect_int.as_nanos() as u64;
        out.push(Action::Connect { attempt: self.conn.attempt, timeout_ns });
    }

    fn wait_passively(&mut self) {
        let int = self.net().connect_int;
        let seventh = int / 7;
        let wait = if self.rng.coin() { int + seventh } else { int - seventh };
        self.conn.phase = Phase::Passive;
        self.timers.set(Timer::Connect, self.now + wait);
    }

    /// Waits on, or makes the next attempt: the toss that keeps two nodes from colliding for ever.
    fn coin(&mut self, out: &mut Actions) {
        if self.rng.coin() {
            self.wait_passively();
        } else {
            self.attempt_connect(out);
        }
    }

    /// An own attempt succeeded: the socket becomes whichever is missing.
    pub(crate) fn connected(&mut self, attempt: u32, sock: SockId, out: &mut Actions) {
        if self.conn.phase != (Phase::Active { attempt }) {
            out.push(Action::CloseSocket { sock, closing: Closing::AtOnce });
            return;
        }
        if self.conn.data.is_none() {
            self.use_socket(Sock::Data, sock);
            self.send_early(sock, &Packet::InitialData, out);
        } else if self.conn.meta.is_none() {
            self.use_socket(Sock::Meta, sock);
            self.conn.conflict_flag = false;
            self.send_early(sock, &Packet::InitialMeta, out);
        } else {
            out.push(Action::CloseSocket { sock, closing: Closing::AtOnce });
        }
        self.established_check_or_wait();
    }

    /// Takes a socket for data or meta; returns the one it replaces. What that had still to send, and when, is over.
    fn use_socket(&mut self, which: Sock, sock: SockId) -> Option<SockId> {
        let (slot, tx, stall) = match which {
            Sock::Data => (&mut self.conn.data, &mut self.conn.data_tx, Timer::SendStallData),
            Sock::Meta => (&mut self.conn.meta, &mut self.conn.meta_tx, Timer::SendStallMeta),
        };
        *tx = TxBytes::default();
        self.timers.stop(stall);
        slot.replace(sock)
    }

    pub(crate) fn connect_failed(&mut self, attempt: u32) {
        if self.conn.phase == (Phase::Active { attempt }) {
            self.established_check_or_wait();
        }
    }

    fn established_check_or_wait(&mut self) {
        if self.conn.data.is_some() && self.conn.meta.is_some() {
            self.conn.phase = Phase::Settling;
            self.timers.stop(Timer::Connect);
            let net = self.net();
            let settle =
                if net.socket_check_timeout.is_zero() { net.ping_timeout } else { net.socket_check_timeout };
            self.timers.set(Timer::Settle, self.now + settle);
        } else {
            self.wait_passively();
        }
    }

    /// The passive wait (or the pause after a failure) is over.
    pub(crate) fn connect_timer(&mut self, out: &mut Actions) {
        match self.conn.phase {
            Phase::Passive => self.attempt_connect(out),
            Phase::Pausing => self.reconnect_if_clean(out),
            _ => {}
        }
    }

    pub(crate) fn accepted(&mut self, sock: SockId, out: &mut Actions) {
        let connecting = matches!(self.conn.phase, Phase::Active { .. } | Phase::Passive | Phase::Settling);
        if !connecting {
            out.push(Action::CloseSocket { sock, closing: Closing::AtOnce });
            return;
        }
        if self.conn.newcomers.len() >= NEWCOMERS_MAX {
            let oldest = self.conn.newcomers.remove(0);
            out.push(Action::CloseSocket { sock: oldest, closing: Closing::AtOnce });
        }
        self.conn.newcomers.push(sock);
        let at = self.now + self.net().ping_timeout * 4;
        self.timers.set_if_idle(Timer::Newcomer, at);
    }

    /// An accepted socket said what it is (or something else).
    pub(crate) fn newcomer_spoke(&mut self, sock: SockId, command: Option<Command>, out: &mut Actions) {
        self.conn.newcomers.retain(|s| *s != sock);
        if self.conn.newcomers.is_empty() {
            self.timers.stop(Timer::Newcomer);
        }
        let crossed = match command {
            Some(Command::InitialData) => self.use_socket(Sock::Data, sock),
            Some(Command::InitialMeta) => {
                self.conn.conflict_flag = true;
                self.use_socket(Sock::Meta, sock)
            }
            // Whoever it was, it was not the peer: what goes on goes on.
            _ => {
                out.push(Action::CloseSocket { sock, closing: Closing::AtOnce });
                return;
            }
        };
        if let Some(old) = crossed {
            out.push(Action::CloseSocket { sock: old, closing: Closing::AtOnce });
        }
        if matches!(self.conn.phase, Phase::Active { .. }) && crossed.is_none() {
            // The own attempt is still under way; it takes whichever socket is missing, or is closed.
            if self.conn.data.is_some() && self.conn.meta.is_some() {
                self.established_check_or_wait();
            }
            return;
        }
        if self.conn.data.is_some() && self.conn.meta.is_some() {
            self.established_check_or_wait();
        } else if crossed.is_some() {
            self.coin(out);
        } else {
            self.attempt_connect(out);
        }
    }

    /// Accepted sockets that stayed silent are closed.
    pub(crate) fn newcomer_timer(&mut self, out: &mut Actions) {
        for sock in core::mem::take(&mut self.conn.newcomers) {
            out.push(Action::CloseSocket { sock, closing: Closing::AtOnce });
        }
    }

    /// One of the two sockets went away before the handshake began.
    pub(crate) fn early_socket_down(&mut self) {
        self.timers.stop(Timer::Settle);
        if self.conn.phase == Phase::Settling {
            self.wait_passively();
            // The peer closed it because its own attempts crossed ours: it will try again soon.
            let soon = self.now + self.net().ping_timeout;
            self.timers.set(Timer::Connect, soon);
        }
    }

    /// Both sockets stayed: the connection begins with the features.
    pub(crate) fn settled(&mut self, out: &mut Actions) {
        let (Some(data), Some(_)) = (self.conn.data, self.conn.meta) else { return };
        for sock in core::mem::take(&mut self.conn.newcomers) {
            out.push(Action::CloseSocket { sock, closing: Closing::AtOnce });
        }
        self.timers.stop(Timer::Newcomer);
        out.push(Action::Unlisten);
        self.conn.phase = Phase::Features;
        let p = ConnectionFeatures {
            version_min: 86,
            features: self.offered_features(),
            version_max: PROTOCOL_VERSION_MAX,
        };
        self.send_early(data, &Packet::ConnectionFeatures(p), out);
        self.arm_handshake();
    }

    /// A kernel peer that checks digests expects one in P_ZEROES, where none is sent (drbd-wire trap 14): with digests
    /// nobody may send P_ZEROES.
    pub(crate) fn offered_features(&self) -> Features {
        let all = Features::ALL.0 | FF_LOCKSTEP.0;
        let digests = !self.net().data_integrity_alg.is_empty();
        Features(if digests { all & !Features::WZEROES.0 } else { all })
    }

    /// Time for the next packet of the handshake.
    pub(crate) fn arm_handshake(&mut self) {
        let at = self.now + self.net().ping_timeout * 4;
        self.timers.set(Timer::Handshake, at);
    }

    /// The peer was silent in the handshake: try again.
    pub(crate) fn handshake_timer(&mut self, out: &mut Actions) {
        if self.says_goodbye() && !self.asks_peer_to_outdate_itself() {
            self.peer_closed_after_request(out);
            return;
        }
        self.handshake_retry("no answer in the handshake", out);
    }

    /// The handshake failed for a reason that may pass: reconnect after a second.
    pub(crate) fn handshake_retry(&mut self, why: &str, out: &mut Actions) {
        self.log_conn(crate::action::LogLevel::Warn, alloc::format!("{why}, will retry"), out);
        self.conn.retry_slowly = true;
        self.lose_connection(ConnState::NetworkFailure, out);
    }

    /// How long to pause before the next attempt.
    pub(crate) fn reconnect_pause(&mut self) -> Duration {
        if core::mem::take(&mut self.conn.retry_slowly) { Duration::from_secs(1) } else { Duration::ZERO }
    }
}
