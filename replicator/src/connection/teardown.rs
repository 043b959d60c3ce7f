//! Loss of the connection and its clean-up (drbd-wire 1.6, drbd-states 9).

use alloc::string::ToString;
use model::state::ConnState;
use model::state_word::StateChange;

use super::{Phase, TxBytes};
use crate::action::{Action, Actions, Closing, LogLevel};
use crate::event::SockId;
use crate::resource::Resource;
use crate::state::Kind;
use crate::timers::Timer;
use crate::volume::{LocalDisk, Volume};

const CONNECTION_TIMERS: [Timer; 14] = [
    Timer::Connect,
    Timer::Settle,
    Timer::Handshake,
    Timer::Newcomer,
    Timer::PingIdle,
    Timer::PingAck,
    Timer::SendStallData,
    Timer::SendStallMeta,
    Timer::RequestAge,
    Timer::ResyncStep,
    Timer::Barrier,
    Timer::EpochFlush,
    Timer::Ahead,
    Timer::Goodbye,
];

impl Resource {
    /// The connection failed: passes through `reason` and goes on to reconnect (or to StandAlone if it was
    /// already Disconnecting).
    pub(crate) fn lose_connection(&mut self, reason: ConnState, out: &mut Actions) {
        if matches!(self.conn.state, ConnState::StandAlone | ConnState::Unconnected) {
            return;
        }
        if self.conn.state == ConnState::WFConnection && self.conn.phase != Phase::Established {
            self.drop_attempt(out);
            return;
        }
        // First the fact, which starts a new data generation on a Primary; then the requests end, and what they
        // answer is held back until that generation is stable.
        let _ = self.change_connection(StateChange::NONE.conn(reason), Kind::Hard, out);
        self.clean_up(out);
    }

    /// A connection attempt failed before the parameters: pause, then connect again.
    fn drop_attempt(&mut self, out: &mut Actions) {
        self.close_sockets([Closing::AtOnce; 2], out);
        let _ = self.change_connection(StateChange::NONE.conn(ConnState::NetworkFailure), Kind::Hard, out);
        let _ = self.change_connection(StateChange::NONE.conn(ConnState::Unconnected), Kind::Hard, out);
        self.conn.phase = Phase::Pausing;
        let pause = self.reconnect_pause();
        self.timers.set(Timer::Connect, self.now + pause);
    }

    /// `closing` is of the data and of the meta socket.
    fn close_sockets(&mut self, closing: [Closing; 2], out: &mut Actions) {
        for t in CONNECTION_TIMERS {
            self.timers.stop(t);
        }
        let newcomers = core::mem::take(&mut self.conn.newcomers);
        let socks = [self.conn.data.take(), self.conn.meta.take()];
        for (sock, closing) in socks.into_iter().zip(closing) {
            out.list.extend(sock.map(|sock| Action::CloseSocket { sock, closing }));
        }
        for sock in newcomers {
            out.push(Action::CloseSocket { sock, closing: Closing::AtOnce });
        }
        out.push(Action::Unlisten);
        self.conn.phase = Phase::Idle;
        self.conn.data_tx = TxBytes::default();
        self.conn.meta_tx = TxBytes::default();
        self.conn.fences.clear();
        self.conn.foreign_volumes.clear();
        self.conn.pings_sent = 0;
        self.conn.pings_acked = 0;
        self.forget_pings();
        self.conn.handshake_in_progress = false;
        self.conn.goodbye = None;
        self.conn.integrity_in = None;
        self.conn.integrity_out = None;
    }

    /// Everything that ends with the connection; then Unconnected, or StandAlone if that was asked for.
    pub(crate) fn clean_up(&mut self, out: &mut Actions) {
        let graceful = matches!(self.conn.state, ConnState::TearDown | ConnState::Disconnecting);
        // A kernel peer reads its meta socket beside the data socket: it would see the end there before our last packets,
        // reconnect, and never come to the verdict that keeps it StandAlone too.
        let closing = if graceful { [Closing::WhenSent, Closing::AfterPeer] } else { [Closing::AtOnce; 2] };
        self.clean_up_closing(closing, out);
    }

    /// The same, with a say in how the data and the meta socket are closed.
    pub(crate) fn clean_up_closing(&mut self, closing: [Closing; 2], out: &mut Actions) {
        let was_established = self.conn.phase == Phase::Established;
        self.close_sockets(closing, out);
        self.peer_requests_orphaned(out);
        for v in 0..self.vols.len() {
            self.cancel_resync(v, out);
            self.vols[v].resync.forget_unanswered();
            self.vols[v].peer_uuids = None;
            self.vols[v].peer_capacity_sectors = 0;
            self.vols[v].consider_resync = false;
            self.vols[v].growth_announced = false;
        }
        self.clear_transfer_log(out);
        if was_established {
            for v in 0..self.vols.len() {
                self.write_bitmap_dirty(v, out);
                self.md_sync(v, out);
            }
        }
        self.log_conn(LogLevel::Info, "Connection closed".to_string(), out);
        self.commands_connection_lost(out);
        self.fence_lost_peer(out);
        if self.conn.state == ConnState::Disconnecting {
            let _ = self.change_connection(StateChange::NONE.conn(ConnState::StandAlone), Kind::Hard, out);
            self.conn.net = None;
            return;
        }
        let _ = self.change_connection(StateChange::NONE.conn(ConnState::Unconnected), Kind::Hard, out);
        self.conn.phase = Phase::Pausing;
        let pause = self.reconnect_pause();
        self.timers.set(Timer::Connect, self.now + pause);
    }

    /// Connects again once writes received on the old connection are on disk, and so are the data generations: the peer
    /// forgets those that this node has left behind.
    pub(crate) fn reconnect_if_clean(&mut self, out: &mut Actions) {
        if self.conn.phase != Phase::Pausing || self.timers.is_set(Timer::Connect) {
            return;
        }
        if self.conn.state != ConnState::Unconnected || !self.peer.writes.is_empty() {
            return;
        }
        if self.vols.iter().any(|v| v.resizing.is_some()) {
            return;
        }
        for v in 0..self.vols.len() {
            self.md_sync(v, out);
        }
        let is_stored = |v: &Volume| {
            let stored = |d: &LocalDisk| d.md.failed || d.md.sb_stable >= d.md.sb_latest;
            !v.has_usable_disk() || v.disk.as_ref().is_none_or(stored)
        };
        if self.vols.iter().all(is_stored) {
            self.start_connecting(out);
        }
    }

    /// The handshake found something that only an operator can mend.
    pub(crate) fn end_in_standalone(&mut self, why: &str, out: &mut Actions) {
        self.log_conn(LogLevel::Error, why.to_string(), out);
        self.end_in_standalone_quietly(why, out);
    }

    /// The same where the log says already why.
    pub(crate) fn end_in_standalone_quietly(&mut self, why: &str, out: &mut Actions) {
        self.conn.standalone_reason = Some(why.to_string());
        self.log_attempt_given_up(out);
        let _ = self.change_connection(StateChange::NONE.conn(ConnState::Disconnecting), Kind::Hard, out);
        self.clean_up(out);
    }

    /// A connection attempt, not a connection, ends for good.
    pub(crate) fn log_attempt_given_up(&mut self, out: &mut Actions) {
        if self.conn.phase != Phase::Established {
            self.log_conn(LogLevel::Info, "Discarding network configuration.".to_string(), out);
        }
    }

    pub(crate) fn socket_down(&mut self, sock: SockId, out: &mut Actions) {
        if self.conn.newcomers.contains(&sock) {
            self.conn.newcomers.retain(|s| *s != sock);
            return;
        }
        let was_data = self.conn.data == Some(sock);
        let was_meta = self.conn.meta == Some(sock);
        if was_data {
            self.conn.data = None;
            self.timers.stop(Timer::SendStallData);
        } else if was_meta {
            self.conn.meta = None;
            self.timers.stop(Timer::SendStallMeta);
        } else {
            return;
        }
        match self.conn.phase {
            Phase::Established => {
                if self.says_goodbye() && was_data && self.conn.meta.is_some() {
                    // What it has acknowledged, and its answer, is still in the meta socket; or it has died without one.
                    let at = self.now + self.net().ping_timeout;
                    self.timers.set(Timer::Handshake, at);
                    return;
                }
                if self.graceful_close_expected() && !self.asks_peer_to_outdate_itself() {
                    self.peer_closed_after_request(out);
                    return;
                }
                if was_meta && self.conn.handshake_in_progress {
                    // A peer that refuses us closes both sockets; what it sent before on the data socket lets this
                    // node come to the same verdict, and say why (drbd-wire 1.6).
                    let at = self.now + self.net().ping_timeout;
                    self.timers.set(Timer::Handshake, at);
                    return;
                }
                let reason = if was_data { ConnState::BrokenPipe } else { ConnState::NetworkFailure };
                self.lose_connection(reason, out);
            }
            // What the peer said last is still in the data socket: a wrong response, for instance.
            Phase::Features | Phase::Challenge | Phase::Response if was_meta => {}
            Phase::Features | Phase::Challenge | Phase::Response => {
                self.handshake_retry("the peer closed the connection in the handshake", out);
            }
            Phase::Active { .. } | Phase::Passive | Phase::Settling => self.early_socket_down(),
            Phase::Idle | Phase::Pausing => {}
        }
    }

    /// The kernel accepted bytes: the send timeout starts anew; protocol A writes may complete.
    pub(crate) fn bytes_sent(&mut self, sock: SockId, total: u64, out: &mut Actions) {
        let (is_data, timer) = match self.conn.role_of(sock) {
            Some(crate::wire::Sock::Data) => (true, Timer::SendStallData),
            Some(crate::wire::Sock::Meta) => (false, Timer::SendStallMeta),
            None => return,
        };
        let at = self.conn.net.as_ref().map(|n| self.now + n.timeout);
        let ko = self.conn.net.as_ref().map_or(0, |n| n.ko_count);
        let tx = if is_data { &mut self.conn.data_tx } else { &mut self.conn.meta_tx };
        assert!(total <= tx.queued_total, "no more is sent than was queued");
        tx.sent_total = tx.sent_total.max(total);
        let idle = tx.sent_total == tx.queued_total;
        match at {
            Some(at) if !idle => self.timers.set(timer, at),
            _ => self.timers.stop(timer),
        }
        if is_data {
            self.conn.ko_left = ko;
            self.protocol_a_progress(total, out);
        }
    }

    fn protocol_a_progress(&mut self, total: u64, out: &mut Actions) {
        use crate::requests::flag;
        while let Some((slot, generation)) = self.reqs.unsent.front().copied() {
            // The peer may have answered it before, and its slot belong to another request.
            let live = self.reqs.table.is_live(slot, generation);
            let Some(r) = self.reqs.table.get_mut(slot).filter(|_| live) else {
                self.reqs.unsent.pop_front();
                continue;
            };
            if r.sent_pos > total {
                break;
            }
            self.reqs.unsent.pop_front();
            r.clear(flag::NET_PENDING);
            r.set(flag::NET_OK);
            self.try_complete(slot, out);
        }
    }

    /// A send made no progress for `timeout` (drbd-wire 1.4).
    pub(crate) fn send_stalled(&mut self, data: bool, out: &mut Actions) {
        let established = self.conn.phase == Phase::Established;
        let ko_count = self.net().ko_count;
        if data && established && ko_count == 0 {
            self.send_ping(out);
            let at = self.now + self.net().timeout;
            self.timers.set(Timer::SendStallData, at);
            return;
        }
        if data && established && self.conn.ko_left > 1 {
            self.conn.ko_left -= 1;
            let text = alloc::format!("sending stalled, ko = {}", self.conn.ko_left);
            self.log_conn(LogLevel::Warn, text, out);
            self.send_ping(out);
            let at = self.now + self.net().timeout;
            self.timers.set(Timer::SendStallData, at);
            return;
        }
        self.log_conn(LogLevel::Error, "the peer did not take data in time".to_string(), out);
        self.lose_connection(ConnState::Timeout, out);
    }

    /// Looks at the age of the oldest unanswered request.
    pub(crate) fn request_age_timer(&mut self, out: &mut Actions) {
        if self.conn.phase != Phase::Established || self.net().ko_count == 0 {
            return;
        }
        if self.request_too_old() {
            self.log_conn(
                LogLevel::Error,
                "Remote failed to finish a request within ko-count * timeout".to_string(),
                out,
            );
            self.lose_connection(ConnState::Timeout, out);
        } else if self.requests_unanswered() {
            self.arm_request_age();
        }
    }
}
