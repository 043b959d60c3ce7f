//! Both nodes are Primary: writes of both to the same blocks get the same order on both copies (drbd-wire 4.3, 4.9).
//!
//! Of two writes that cross, that of the node with the conflict flag comes first. This node does not write the other one:
//! it tells the peer that it is overwritten already, or has to be sent again. The peer waits for this word before it writes
//! ours. A write that the peer sent after it had acknowledged ours does not cross it: it comes after it.

use model::units::SectorRange;

use crate::action::{Action, Actions};
use crate::requests::flag;
use crate::resource::Resource;
use crate::wire::{Ack, Command, DpFlags};

/// What becomes of a write of the peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// What the peer said before it has not all arrived, or what overwrites it is not on the own disk yet.
    Unknown,
    /// It crosses an own write: the peer was told.
    Refused,
    /// It is written, after the own writes that it overlaps.
    Written,
}

impl Resource {
    pub(crate) fn may_both_be_primary(&self) -> bool {
        self.conn.net.as_ref().is_some_and(|n| n.allow_two_primaries)
    }

    /// The peer has come so far in what it says on either socket.
    pub(crate) fn peer_said(&mut self, v: usize, seq: u32) {
        let vol = &mut self.vols[v];
        let known = &mut vol.peer_seq;
        if !is_later(seq, *known) {
            return;
        }
        *known = seq;
        let ahead = &mut vol.peer_seqs_ahead;
        while let Some(next) = ahead.pop_front_if(|next| !is_later(next.wrapping_sub(1), *known)) {
            if is_later(next, *known) {
                *known = next;
            }
        }
        self.peer_pump |= !self.peer.waiting.is_empty();
    }

    /// A write of the peer about which nothing has to be decided: for a disk that has failed or is gone, or because only
    /// one node may be Primary. It has its place in what the peer says like any other.
    pub(crate) fn peer_wrote(&mut self, v: usize, seq: u32) {
        if !self.conn.conflict_flag {
            return;
        }
        let vol = &mut self.vols[v];
        if is_later(seq.wrapping_sub(1), vol.peer_seq) {
            vol.peer_seqs_ahead.push_back(seq);
        } else {
            self.peer_said(v, seq);
        }
    }

    pub(crate) fn decide_conflict(&mut self, slot: u32, out: &mut Actions) -> Verdict {
        let w = &self.peer.writes[slot];
        let (v, range, seq) = (w.vol as usize, w.range(), w.seq);
        if self.conn.conflict_flag {
            if is_later(seq.wrapping_sub(1), self.vols[v].peer_seq) {
                return Verdict::Unknown;
            }
            let own = self.crosses(v, range);
            if let Some(own) = own
                && self.reqs.table[own].has(flag::LOCAL_PENDING)
                && self.supersedes(own, slot)
            {
                // The peer's client is answered for the sake of what overwrites its write, which a client here may read next.
                return Verdict::Unknown;
            }
            self.peer_said(v, seq);
            if let Some(own) = own {
                let command =
                    if self.supersedes(own, slot) { Command::Superseded } else { Command::RetryWrite };
                self.refuse_crossing_write(slot, command, out);
                return Verdict::Refused;
            }
        }
        self.peer.writes[slot].undecided = false;
        Verdict::Written
    }

    /// An own write that the peer had not acknowledged when it sent one for this range; the one that covers all of it if
    /// there is one.
    fn crosses(&self, v: usize, range: SectorRange) -> Option<u32> {
        let own = self.reqs.active.iter().filter(|(o, r, slot)| {
            usize::from(*o) == v && r.overlaps(range) && self.reqs.table[*slot].has(flag::NET_PENDING)
        });
        own.max_by_key(|(_, r, _)| covers(*r, range)).map(|(_, _, slot)| *slot)
    }

    /// Nothing of the peer's write is left once the own one is done. What has to be durable is not left to one that need
    /// not be.
    fn supersedes(&self, own: u32, slot: u32) -> bool {
        let w = &self.peer.writes[slot];
        covers(self.reqs.table[own].range(), w.range()) && !w.dp.contains(DpFlags::FUA)
    }

    fn refuse_crossing_write(&mut self, slot: u32, command: Command, out: &mut Actions) {
        let w = self.peer.take_write(slot);
        if let Some(buf) = w.buf {
            out.push(Action::Release { buf });
        }
        self.send_ack(command, usize::from(w.vol), (w.sector, w.len_bytes, w.block_id), out);
        let epoch = self.peer.epochs.iter_mut().find(|e| e.number == w.epoch);
        let epoch = epoch.expect("an epoch lives as long as its writes");
        assert!(epoch.active > 0, "every active write is counted");
        epoch.active -= 1;
        self.epochs_advance(out);
    }

    /// An own write to these blocks is under way to a disk, or the peer has not said whether it comes first.
    pub(crate) fn overlaps_own_write(&self, v: usize, range: SectorRange) -> bool {
        self.may_both_be_primary()
            && self.reqs.active.iter().any(|(o, r, slot)| {
                let open = self.reqs.table[*slot].has(flag::LOCAL_PENDING | flag::NET_PENDING);
                usize::from(*o) == v && r.overlaps(range) && open
            })
    }

    /// A write of the peer to these blocks is not finished.
    pub(crate) fn overlaps_peer_write(&self, v: usize, range: SectorRange) -> bool {
        self.may_both_be_primary() && self.peer.writes.iter().any(|(_, w)| w.is_in(v, range))
    }

    /// P_RETRY_WRITE: the write leaves the transfer log, and is begun anew when the own disk has finished it.
    pub(crate) fn receive_retry(&mut self, v: usize, a: &Ack, out: &mut Actions) {
        let found = self.request_of(v, a.sector, a.block_id);
        let crossed =
            |s: &u32| self.reqs.table[*s].has(flag::IN_LOG) && self.reqs.table[*s].has(flag::NET_PENDING);
        let Some(slot) = found.filter(|s| self.may_both_be_primary() && crossed(s)) else {
            self.protocol_error("P_RETRY_WRITE for no known request", out);
            return;
        };
        self.reqs.log.retain(|s| *s != slot);
        let r = &mut self.reqs.table[slot];
        self.vols[v].mirrored_sectors -= u64::from(r.len_bytes / 512);
        let epoch = self.reqs.epochs.iter_mut().find(|e| e.number == r.epoch);
        epoch.expect("an epoch lives as long as its writes").postponed += 1;
        r.clear(flag::IN_LOG | flag::NET_WANTED | flag::NET_PENDING);
        if r.has(flag::LOCAL_PENDING) {
            r.set(flag::POSTPONED);
        } else {
            self.restart(slot);
        }
        self.close_epoch();
        self.peer_pump = true;
        self.vols[v].pump = true;
    }
}

fn covers(outer: SectorRange, inner: SectorRange) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

/// `a` comes behind `b`; the counters wrap.
fn is_later(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() > 0
}
