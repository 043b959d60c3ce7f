//! Keepalive, and the ping round trip as a fence (drbd-wire 6.9, 10.2).

use model::state::ConnState;

use super::{Fence, Phase};
use crate::action::{Actions, LogLevel};
use crate::resource::Resource;
use crate::timers::Timer;
use crate::wire::{Packet, Sock};

impl Resource {
    pub(crate) fn arm_ping_idle(&mut self) {
        let at = self.conn.last_rx + self.net().ping_int;
        self.timers.set(Timer::PingIdle, at);
    }

    pub(crate) fn send_ping(&mut self, out: &mut Actions) {
        if self.conn.phase != Phase::Established {
            return;
        }
        self.conn.pings_sent += 1;
        self.ping_is_sent();
        self.send_on(Sock::Meta, 0, &Packet::Ping, None, out);
        let at = self.now + self.net().ping_timeout;
        self.timers.set_if_idle(Timer::PingAck, at);
    }

    /// Runs `fence` once the peer has processed everything sent on the meta socket so far.
    pub(crate) fn ping_fence(&mut self, fence: Fence, out: &mut Actions) {
        self.send_ping(out);
        self.conn.fences.push((self.conn.pings_sent, fence));
    }

    pub(crate) fn ping_idle_timer(&mut self, out: &mut Actions) {
        if self.conn.phase != Phase::Established {
            return;
        }
        let idle = self.now.saturating_since(self.conn.last_rx);
        if idle >= self.net().ping_int {
            self.send_ping(out);
            self.timers.set(Timer::PingIdle, self.now + self.net().ping_int);
        } else {
            self.arm_ping_idle();
        }
    }

    pub(crate) fn receive_ping_ack(&mut self, out: &mut Actions) {
        if self.conn.pings_acked >= self.conn.pings_sent {
            return;
        }
        self.conn.pings_acked += 1;
        self.ping_is_answered();
        self.timers.stop(Timer::PingAck);
        if self.conn.pings_acked < self.conn.pings_sent {
            let at = self.now + self.net().ping_timeout;
            self.timers.set(Timer::PingAck, at);
        }
        let acked = self.conn.pings_acked;
        while let Some(i) = self.conn.fences.iter().position(|(n, _)| *n <= acked) {
            let (_, fence) = self.conn.fences.remove(i);
            match fence {
                Fence::EndOfResync { vol } => self.end_of_resync_fenced(vol as usize, out),
                Fence::EndOfVerify { vol, run } => self.end_of_verify_fenced(vol as usize, run, out),
                Fence::Behind { vol } => self.vols[vol as usize].ahead.peer_is_behind = true,
            }
        }
    }

    /// No answer: the peer may still be sending data, which counts as a sign of life.
    pub(crate) fn ping_ack_timer(&mut self, out: &mut Actions) {
        if self.conn.phase != Phase::Established {
            return;
        }
        let silent = self.now.saturating_since(self.conn.last_rx);
        if silent < self.net().ping_timeout {
            self.timers.set(Timer::PingAck, self.conn.last_rx + self.net().ping_timeout);
            return;
        }
        self.log_conn(LogLevel::Error, "PingAck did not arrive in time.", out);
        self.lose_connection(ConnState::NetworkFailure, out);
    }
}
