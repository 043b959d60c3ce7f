//! One volume of the resource: its state, its local disk, what is known of the peer's copy.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use model::ids::{DataUuid, Minor, VolumeNo};
use model::policy::Fencing;
use model::state::{DiskState, VolumeState};
use model::time::Instant;
use model::units::{SECTORS_PER_BIT, SectorRange, bits_of};

use crate::activity_log::extents::ActivityLog;
use crate::bitmap::Bitmap;
use crate::config::{DiskConfig, VolumeConfig};
use crate::meta::layout::Layout;
use crate::meta::superblock::SuperBlock;
use crate::meta::uuids::Uuids;
use crate::meta_io::MetaIo;
use crate::planted::{self, Planted::ClearedBitsWithoutFlush};
use crate::requests::congestion::Ahead;
use crate::resync::run::ResyncRun;
use crate::verify::run::VerifyRun;
use crate::wire::UuidFlags;

/// A backing disk whose metadata was loaded and is clean (activity log applied).
#[derive(Debug)]
pub struct AttachedDisk {
    /// The super block as read.
    pub super_block: SuperBlock,
    /// Where the metadata is on the metadata device.
    pub layout: Layout,
    /// Usable data sectors of the backing device (metadata already subtracted).
    pub capacity_sectors: u64,
    /// Words of the on-disk bitmap for the last agreed size; may be shorter or longer than needed.
    pub bitmap_words: Vec<u64>,
    /// Disk options.
    pub config: DiskConfig,
    /// Largest request the disk takes, in bytes (at most 1 MiB is used).
    pub max_bio_bytes: u32,
}

/// The peer's data generations as last received (drbd-wire 8.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PeerUuids {
    pub set: Uuids,
    pub dirty_bits: u64,
    pub flags: u64,
}

/// The local disk while it is attached (Attaching and above, until Diskless).
pub(crate) struct LocalDisk {
    pub cfg: DiskConfig,
    pub sb: SuperBlock,
    pub layout: Layout,
    pub al: ActivityLog,
    pub capacity_sectors: u64,
    pub max_bio_bytes: u32,
    /// Data operations submitted and not ended, except those that were given up.
    pub io_pending: u32,
    /// One of them ended then, or the first of those under way began.
    pub io_moved_at: Instant,
    /// Flushes carry it; those that were given up carry an older one.
    pub data_epoch: u32,
    /// What was under way on it was given up; at this time the disk is, whatever its metadata writes do.
    pub given_up_at: Option<Instant>,
    /// It fails because something on it did, not because somebody gives it up.
    pub goes_by_itself: bool,
    /// It was better than Inconsistent when it failed: its bitmap is as good as ever, whatever its cache loses.
    pub was_good: bool,
    pub md: MetaIo,
    /// Which attach this is; metadata operations carry it.
    pub epoch: u32,
}

impl LocalDisk {
    /// A data operation is submitted.
    pub(crate) fn io_begins(&mut self, now: Instant) {
        if self.io_pending == 0 {
            self.io_moved_at = now;
        }
        self.io_pending += 1;
    }
}

/// Traffic counters of `/proc/drbd`, in sectors or counts.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Counters {
    pub sent_sectors: u64,
    pub received_sectors: u64,
    pub written_sectors: u64,
    pub read_sectors: u64,
    pub al_writes: u64,
    pub bm_writes: u64,
}

/// Which data clients see or saw last, here or on the peer (drbd-states 12, the exposed data UUID).
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Exposed {
    /// Its generation; zero: nobody has seen anything.
    pub uuid: DataUuid,
    /// It was the own disk's; otherwise the peer's.
    own: bool,
    /// They have seen writes that the peer alone answered after the own disk was gone. The peer has begun a new
    /// generation for them, but its name may not have arrived: the own disk does not belong to `uuid` any more.
    beyond: bool,
    /// This node was promoted without a disk, for which the peer begins a new generation; its name has not arrived.
    promoted: bool,
    /// The generation that the own disk had before `uuid`, until that is stable: nothing is answered in it before, and if
    /// the disk goes first, it comes back with this one and lacks nothing.
    before: DataUuid,
}

impl Exposed {
    /// Clients see the own disk, which is of this generation.
    pub(crate) fn shows_own(&mut self, uuid: DataUuid) {
        *self = Exposed { uuid, own: true, ..Exposed::default() };
    }

    /// The own disk, which clients see, begins this generation.
    pub(crate) fn begins_own(&mut self, uuid: DataUuid) {
        let unstored = self.own && !self.before.is_zero();
        let before = if unstored { self.before } else { self.uuid };
        let before = if self.own { before } else { DataUuid::ZERO };
        *self = Exposed { uuid, own: true, before, ..Exposed::default() };
    }

    /// The generation of the own disk is stable.
    pub(crate) fn is_stored(&mut self) {
        self.before = DataUuid::ZERO;
    }

    /// Clients see the peer's disk.
    pub(crate) fn shows_peer(&mut self, uuid: DataUuid) {
        *self = Exposed { uuid, ..Exposed::default() };
    }

    /// Clients have seen the peer's disk last.
    pub(crate) fn is_the_peers(&self) -> bool {
        !self.own && !self.uuid.is_zero()
    }

    /// As far as is known it is the own disk that clients have seen last.
    pub(crate) fn is_own(&self) -> bool {
        self.own
    }

    /// The peer has a write, answered or about to be, that the own disk, which is gone, does not have.
    pub(crate) fn goes_beyond(&mut self) {
        self.beyond |= self.own || self.promoted;
    }

    /// This node becomes Primary, its own disk is not there, and the peer hears of it.
    pub(crate) fn is_promoted_without_disk(&mut self) {
        self.promoted |= !self.own;
    }

    /// The own disk, attached with this current generation, has what they saw last, as far as is known.
    pub(crate) fn is(&self, current: DataUuid) -> bool {
        self.uuid.is_zero() || self.names(current) && !self.beyond
    }

    /// Clients of this process saw this generation of the own disk last.
    pub(crate) fn is_still_own(&self, current: DataUuid) -> bool {
        self.own && self.names(current) && !self.beyond
    }

    fn names(&self, current: DataUuid) -> bool {
        self.uuid.same_as(current) || !self.before.is_zero() && self.before.same_as(current)
    }

    /// The peer's data is what they saw, or the generation that took what was written beyond it.
    pub(crate) fn is_at(&self, peer: &Uuids) -> bool {
        let same = self.uuid.is_zero() || self.uuid.same_as(peer.current);
        same || self.beyond && self.uuid.same_as(peer.bitmap)
    }
}

/// Tells the answer to this attach from that to an earlier one which ended before its handshake did: that answer may
/// still be on its way, with a decision and a bitmap that are no longer true.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct AttachNumbers {
    /// Own attaches on established connections, wrapping.
    pub own: u16,
    /// The last number of the peer's that was seen on this connection.
    pub peer: u16,
    /// The peer has seen `own`, or is one that does not count.
    pub answered: bool,
}

/// A volume.
pub(crate) struct Volume {
    pub vnr: VolumeNo,
    pub minor: Minor,
    /// Assigned by `state::change` only.
    pub state: VolumeState,
    pub disk: Option<LocalDisk>,
    /// Size of the replicated device; 0 while unknown.
    pub size_sectors: u64,
    /// Kept after a detach, like the size.
    pub bitmap: Bitmap,
    pub peer_uuids: Option<PeerUuids>,
    /// Size as the own disk had it when it was attached, before it followed the peer's.
    pub size_at_attach_sectors: u64,
    /// Since the last handshake one of the copies has grown: what their new parts hold is to be made the same.
    pub grown_before_handshake: bool,
    /// A resize under way; its command finds the result here when it is over.
    pub resizing: Option<crate::resize::Resizing>,
    pub resize_result: Option<crate::command::CommandResult>,
    /// This node has grown by command, and the peer has not said that it follows.
    pub growth_announced: bool,
    /// Capacity of the peer's disk as announced, 0: unknown or none.
    pub peer_capacity_sectors: u64,
    /// Generation of the data that clients see or saw.
    pub exposed: Exposed,
    /// Own generations as they were before this handshake corrected them. The peer of an established connection has
    /// not seen them yet: shown the corrected ones it would come to another decision.
    pub uncorrected_uuids: Option<Uuids>,
    /// The own disk as it was shown when this handshake began.
    pub shown_disk: DiskState,
    /// Own dirty bits as last sent in P_UUIDS; after-sb-0pri compares these.
    pub sent_dirty_bits: u64,
    pub crashed_primary: bool,
    /// The generation begun for a Primary that had just lost its disk, while nothing is written in it; else zero.
    pub empty_generation: DataUuid,
    /// The generation that the own disk had when this Primary, whose clients have seen nothing else, took it back, and then
    /// the one begun for it; else zero.
    pub taken_back: DataUuid,
    /// What the last P_UUIDS said of that.
    pub sent_word: UuidFlags,
    /// Disk states found at attach, for Negotiating.
    pub attach_states: (DiskState, DiskState),
    /// Counts the attaches on an established connection; see [`AttachNumbers`].
    pub attach_numbers: AttachNumbers,
    /// The peer was forced to Primary while both were Inconsistent.
    pub consider_resync: bool,
    /// While the own copy is Inconsistent: what is not marked is good. The bitmap was united with that of the source, or
    /// the copy was good but for what failed here.
    pub unmarked_is_good: bool,
    /// The peer was told to skip the initial sync, and has not said yet that it is UpToDate. What it said before may still
    /// be on its way, and passes for Inconsistent; but whatever is sent now, it gets as a good copy.
    pub skip_unconfirmed: bool,
    /// Source of a full sync by command, and the peer has neither said that its copy is bad nor asked for a block: a Primary
    /// that did not hear the answer to its question goes on with that copy.
    pub invalidation_unconfirmed: bool,
    /// The peer had no disk when its state was last known: what it still sends while it says goodbye, this copy alone has.
    pub peer_without_disk: bool,
    /// The peer had a good copy when this process last heard of it. What a disk says that was away meanwhile is older.
    pub peer_was_good: bool,
    /// Invalidated by command and not yet SyncTarget: whatever comes between, the copy is Inconsistent.
    pub invalidated: bool,
    /// All bits set and no connection: writes need no activity log.
    pub al_suspended: bool,
    /// Own sequence counter (drbd-wire 4.3).
    pub seq: u32,
    /// The peer's, as far as it is known to have come.
    pub peer_seq: u32,
    /// Those of its writes about which nothing had to be decided, and that came before what it said earlier.
    pub peer_seqs_ahead: VecDeque<u32>,
    pub resync: ResyncRun,
    pub verify: VerifyRun,
    pub counters: Counters,
    /// Sectors moved for the application here, for the resync's throttle.
    pub app_sectors: u64,
    /// Sectors of the writes in the transfer log.
    pub mirrored_sectors: u64,
    /// What has to happen before a node that is Ahead returns.
    pub ahead: Ahead,
    /// Requests that wait for admission, oldest first (slots of the request table).
    pub waiting: Vec<u32>,
    /// Writes that wait for an activity log transaction.
    pub waiting_al: Vec<u32>,
    /// Completions held back until the new data generation is stable.
    pub held_completions: Vec<u32>,
    /// Super block generation that has to be stable before writes are acknowledged.
    pub completion_gate: Option<u64>,
    /// A new data generation is due, which begins when it is known that clients go on with this copy alone; until then
    /// I/O is frozen (drbd-states 11.2, 13.2).
    pub generation_due: bool,
    /// When the peer, whose disk is said to be good, has refused a write: what it says of that disk comes by the other socket.
    pub peer_refused_at: Option<Instant>,
    /// As source of a resync that has not begun, in a generation that the target has too, it took writes of its own.
    pub wrote_ahead: bool,
    /// What went wrong with the disk last.
    pub last_error: Option<String>,
    /// Something that waits may go on: to be looked at before the batch ends.
    pub pump: bool,
}

impl Volume {
    pub(crate) fn new(cfg: &VolumeConfig) -> Volume {
        Volume {
            vnr: cfg.vnr,
            minor: cfg.minor,
            state: VolumeState::INITIAL,
            disk: None,
            size_sectors: 0,
            bitmap: Bitmap::new(0),
            peer_uuids: None,
            size_at_attach_sectors: 0,
            grown_before_handshake: false,
            resizing: None,
            resize_result: None,
            growth_announced: false,
            peer_capacity_sectors: 0,
            exposed: Exposed::default(),
            uncorrected_uuids: None,
            shown_disk: DiskState::Diskless,
            sent_dirty_bits: 0,
            crashed_primary: false,
            empty_generation: DataUuid::ZERO,
            taken_back: DataUuid::ZERO,
            sent_word: UuidFlags::NONE,
            attach_states: (DiskState::Diskless, DiskState::DUnknown),
            attach_numbers: AttachNumbers::default(),
            consider_resync: false,
            unmarked_is_good: false,
            skip_unconfirmed: false,
            invalidation_unconfirmed: false,
            peer_without_disk: false,
            peer_was_good: false,
            invalidated: false,
            al_suspended: false,
            seq: 0,
            peer_seq: 0,
            peer_seqs_ahead: VecDeque::new(),
            resync: ResyncRun::default(),
            verify: VerifyRun::default(),
            counters: Counters::default(),
            app_sectors: 0,
            mirrored_sectors: 0,
            ahead: Ahead::default(),
            waiting: Vec::with_capacity(256),
            waiting_al: Vec::with_capacity(256),
            held_completions: Vec::new(),
            completion_gate: None,
            generation_due: false,
            peer_refused_at: None,
            wrote_ahead: false,
            last_error: None,
            pump: false,
        }
    }

    /// Fencing policy of the disk; dont-care without one.
    pub(crate) fn cfg_fencing(&self) -> Fencing {
        self.disk.as_ref().map_or(Fencing::DontCare, |d| d.cfg.fencing)
    }

    /// The local disk is usable for I/O and metadata.
    pub(crate) fn has_usable_disk(&self) -> bool {
        self.disk.is_some() && self.state.disk >= DiskState::Inconsistent
    }

    /// Next value of the own sequence counter.
    pub(crate) fn next_seq(&mut self) -> u32 {
        self.seq = self.seq.wrapping_add(1);
        self.seq
    }

    /// Sets the bits of all touched blocks; returns how many were clear.
    pub(crate) fn set_out_of_sync(&mut self, range: SectorRange) -> u64 {
        let (first, last) = range.bits_touched();
        let end = bits_of(self.size_sectors).min(self.bitmap.bits());
        if range.start >= self.size_sectors || first >= end {
            return 0;
        }
        self.bitmap.set_range(first, last.min(end - 1))
    }

    /// The bitmap for another size; `mark`: the new part differs. Without a disk there is none: an attach brings that of its
    /// disk, and a peer can name a size whose bitmap fits into no memory.
    pub(crate) fn resize_bitmap(&mut self, sectors: u64, mark: bool) {
        if self.disk.is_none() {
            self.bitmap = Bitmap::new(0);
            return;
        }
        let before = self.size_sectors;
        self.bitmap.resize(bits_of(sectors), mark);
        if mark && sectors > before && !before.is_multiple_of(SECTORS_PER_BIT) {
            // The new part begins in the middle of a block.
            let last = before / SECTORS_PER_BIT;
            self.bitmap.set_range(last, last);
        }
    }

    /// Clears the bits of fully covered blocks; returns how many were set.
    pub(crate) fn set_in_sync(&mut self, range: SectorRange) -> u64 {
        let (first, end) = range.bits_covered(self.size_sectors);
        let end = end.min(self.bitmap.bits());
        if first >= end {
            return 0;
        }
        let is_target = self.state.disk <= DiskState::Inconsistent;
        if let Some(disk) = self.disk.as_mut()
            && (is_target || disk.md.wrote_unlogged)
            && !planted::on(ClearedBitsWithoutFlush)
        {
            disk.md.unflushed.cleared(first..=end - 1);
        }
        self.bitmap.clear_range(first, end - 1)
    }

    /// Any block of the range is out of sync.
    pub(crate) fn any_out_of_sync(&self, range: SectorRange) -> bool {
        let (first, last) = range.bits_touched();
        self.bitmap.next_set(first).is_some_and(|b| b <= last)
    }

    /// The bits that clients' data path must not exceed.
    pub(crate) fn range_is_inside(&self, range: SectorRange) -> bool {
        range.start < range.end && range.end <= self.size_sectors
    }

    /// The state shown is Negotiating, and the data found at attach is Inconsistent.
    pub(crate) fn really_inconsistent(&self) -> bool {
        self.state.disk == DiskState::Negotiating && self.attach_states.0 == DiskState::Inconsistent
    }

    /// What a lockstep peer is told of the current generation.
    pub(crate) fn word_on_generation(&self) -> UuidFlags {
        let current = self.uuids().current;
        let is = |g: DataUuid| !g.is_zero() && g.same_as(current);
        match (is(self.empty_generation), is(self.taken_back)) {
            (true, _) => UuidFlags::EMPTY,
            (false, true) => UuidFlags::TAKEN_BACK,
            (false, false) => UuidFlags::NONE,
        }
    }

    /// Own data generations; all zero without a disk.
    pub(crate) fn uuids(&self) -> Uuids {
        self.disk.as_ref().map(|d| d.sb.uuids).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::ids::{Minor, VolumeNo};
    use model::units::MAX_DEVICE_SECTORS;

    #[test]
    fn a_volume_without_a_disk_keeps_no_bitmap_of_what_a_peer_names() {
        let cfg = VolumeConfig { vnr: VolumeNo(0), minor: Minor(0), disk: Default::default() };
        let mut vol = Volume::new(&cfg);
        vol.resize_bitmap(MAX_DEVICE_SECTORS, true);
        vol.size_sectors = MAX_DEVICE_SECTORS;
        assert_eq!(vol.bitmap.bits(), 0);
        let range = SectorRange::new(8, 4096);
        assert_eq!((vol.set_out_of_sync(range), vol.set_in_sync(range)), (0, 0));
        assert!(!vol.any_out_of_sync(range));
    }
}
