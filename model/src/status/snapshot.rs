//! What is known about a resource at one moment, as plain data for people and programs that look at it.

use alloc::string::String;
use alloc::vec::Vec;

use crate::state::{ConnState, Role, VolumeState};

/// One resource with its connection and its volumes.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ResourceSnapshot {
    /// Name in the configuration.
    pub name: String,
    /// Name of this node, if known; only for people.
    pub node_name: Option<String>,
    /// Own node id; DRBD 8.4 has none, so it is only printed in the JSON form.
    pub node_id: u32,
    /// The peer's node id, only printed in the JSON form.
    pub peer_node_id: u32,
    /// Own role, shared by all volumes.
    pub role: Role,
    /// Protocol letter A, B or C; none without a network configuration.
    pub protocol: Option<char>,
    /// I/O suspended by the administrator.
    pub suspended_user: bool,
    /// I/O suspended: no data accessible.
    pub suspended_no_data: bool,
    /// I/O suspended: the peer has to be fenced first.
    pub suspended_fencing: bool,
    /// I/O suspended: the lease of this Primary has run out, and the peer does not answer for it either.
    pub suspended_lease: bool,
    /// When the last ping was sent that the peer, connected as Secondary, has answered; in nanoseconds of the node's clock.
    pub peer_word_at_ns: Option<u64>,
    /// How write order is kept on the backing disk: `f` flush, `d` drain, `n` none.
    pub write_ordering: char,
    /// State of the connection; at WFReportParams or above the volumes carry their own.
    pub connection: ConnState,
    /// Name of the peer's node, if known.
    pub peer_name: Option<String>,
    /// The peer's role.
    pub peer_role: Role,
    /// The send queue to the peer is congested.
    pub congested: bool,
    /// Application data sent to the peer and not acknowledged, in sectors.
    pub ap_in_flight_sectors: u64,
    /// Resync data in flight, in sectors.
    pub rs_in_flight_sectors: u64,
    /// Own end of the connection, as configured (`10.0.0.1:7789`); empty without a network configuration.
    pub local_addr: String,
    /// The peer's end of the connection.
    pub peer_addr: String,
    /// Why the connection ended in StandAlone, in words.
    pub standalone_reason: Option<String>,
    /// The kind of that reason, if the producer knows it; otherwise it is looked for in the words.
    pub standalone_cause: Option<StandAloneCause>,
    /// Outcome of the last handshake or connection attempt, in words.
    pub handshake_note: Option<String>,
    /// How many connections there have been: one that came and went between two snapshots shows here.
    pub connections: u32,
    /// The volumes, ascending by number.
    pub volumes: Vec<VolumeSnapshot>,
}

/// One volume of a resource.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct VolumeSnapshot {
    /// Number inside the resource.
    pub vnr: u16,
    /// Device minor.
    pub minor: u32,
    /// Path of the device as configured (`/dev/drbd0`).
    pub device: String,
    /// Roles, connection, disks and flags.
    pub state: VolumeState,
    /// Size of the replicated device; 0 if not known yet.
    pub size_sectors: u64,
    /// The activity log is not kept, because everything is out of sync.
    pub al_suspended: bool,
    /// Why no more I/O is taken: `-`, `d` ourselves, `c` a handler is running, `b` backing device,
    /// `n` network, `a` both (drbd-states 3.1).
    pub congestion: char,
    /// Statistics.
    pub counters: Counters,
    /// Current, bitmap, younger and older history UUID.
    pub uuids: [u64; 4],
    /// Flags of the metadata as `get-gi` prints them.
    pub meta_flags: MetaFlags,
    /// The running or paused resync, or the running verify.
    pub progress: Option<Progress>,
    /// Why the disk was lost, in words.
    pub disk_error: Option<String>,
    /// The most recent error of any kind, in words.
    pub last_error: Option<String>,
    /// How often the exported device is open.
    pub open_count: u32,
    /// Where clients reach the volume.
    pub nbd_uri: Option<String>,
    /// Extra lines of `/proc/drbd`; none unless asked for.
    pub proc_details: Option<ProcDetails>,
}

/// Counters of a volume; the names of `/proc/drbd` in parentheses. Everything is since attach (traffic
/// with the peer: since connect) or the present value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Counters {
    /// Sent to the peer (ns).
    pub sent_kib: u64,
    /// Received from the peer (nr).
    pub received_kib: u64,
    /// Written to the local disk (dw).
    pub disk_written_kib: u64,
    /// Read from the local disk (dr).
    pub disk_read_kib: u64,
    /// Activity log writes (al).
    pub al_writes: u64,
    /// Bitmap writes (bm).
    pub bm_writes: u64,
    /// Open requests to the local disk (lo).
    pub local_pending: u64,
    /// Requests sent to the peer and not answered (pe).
    pub pending: u64,
    /// The peer's requests not answered yet (ua).
    pub unacked: u64,
    /// Application requests not completed (ap).
    pub app_pending: u64,
    /// Epochs in flight (ep).
    pub epochs: u64,
    /// Out of sync (oos).
    pub out_of_sync_kib: u64,
}

/// The flags of the metadata that `get-gi` prints, in its order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct MetaFlags {
    /// The data is consistent.
    pub consistent: bool,
    /// The data was or is up to date.
    pub was_up_to_date: bool,
    /// The node was or is Primary.
    pub primary: bool,
    /// The node was or is connected.
    pub connected: bool,
    /// All bits were being set.
    pub full_sync: bool,
    /// The peer's disk was outdated or inconsistent.
    pub peer_outdated: bool,
    /// The node was a crashed Primary and has not seen its peer since.
    pub crashed_primary: bool,
}

impl MetaFlags {
    /// The seven flags in the order of `get-gi`.
    pub const fn in_order(&self) -> [bool; 7] {
        [
            self.consistent,
            self.was_up_to_date,
            self.primary,
            self.connected,
            self.full_sync,
            self.peer_outdated,
            self.crashed_primary,
        ]
    }

    /// The inverse of [`MetaFlags::in_order`].
    pub const fn from_order(f: [bool; 7]) -> MetaFlags {
        MetaFlags {
            consistent: f[0],
            was_up_to_date: f[1],
            primary: f[2],
            connected: f[3],
            full_sync: f[4],
            peer_outdated: f[5],
            crashed_primary: f[6],
        }
    }
}

/// Where the data of a resync goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Direction {
    /// This node is the source (or started the verify).
    ToPeer,
    /// The peer is the source (or started the verify).
    FromPeer,
}

/// What is progressing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum ProgressKind {
    /// Blocks are being copied.
    Resync,
    /// Blocks are being compared.
    Verify,
}

/// What holds the rate of a resync down at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum RateLimit {
    /// The fixed rate (controller switched off).
    ResyncRate,
    /// The ceiling of the controller.
    MaxRate,
    /// Application I/O: the resync steps back to its guaranteed minimum.
    MinRate,
    /// The controller's goal for data in flight.
    FillTarget,
    /// The controller's goal for the delay.
    DelayTarget,
    /// The limit on buffers.
    MaxBuffers,
    /// The disk of this node.
    LocalDisk,
    /// The disk of the peer.
    PeerDisk,
    /// The link.
    Network,
}

impl RateLimit {
    /// The option to turn or the part to look at, in words.
    pub const fn text(self) -> &'static str {
        match self {
            RateLimit::ResyncRate => "resync-rate",
            RateLimit::MaxRate => "c-max-rate",
            RateLimit::MinRate => "application I/O, c-min-rate",
            RateLimit::FillTarget => "c-fill-target",
            RateLimit::DelayTarget => "c-delay-target",
            RateLimit::MaxBuffers => "max-buffers",
            RateLimit::LocalDisk => "local disk",
            RateLimit::PeerDisk => "peer's disk",
            RateLimit::Network => "network",
        }
    }
}

/// Progress of a resync or verify. Blocks are 4 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Progress {
    /// Where the data goes.
    pub direction: Direction,
    /// Resync or verify.
    pub kind: ProgressKind,
    /// Blocks to do when it started.
    pub total_blocks: u64,
    /// Blocks not done yet.
    pub left_blocks: u64,
    /// Blocks that could not be copied.
    pub failed_blocks: u64,
    /// Time since the start, without pauses.
    pub elapsed_ms: u64,
    /// Time spent paused.
    pub paused_ms: u64,
    /// Rate over the last about 20 seconds.
    pub rate_now_kib_s: u64,
    /// Rate since the start.
    pub rate_mean_kib_s: u64,
    /// The controller's goal; none on the node that does not request.
    pub wanted_kib_s: Option<u64>,
    /// What holds the rate down, if known.
    pub limited_by: Option<RateLimit>,
    /// Time until the end at the present rate, see [`finish_s`].
    pub eta_s: Option<u64>,
    /// No progress for three minutes.
    pub stalled: bool,
}

/// Use counters of one extent cache, as in the detail lines of `/proc/drbd`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct CacheUse {
    /// Elements with a user.
    pub used: u64,
    /// Elements in all.
    pub capacity: u64,
    /// Requests served from the cache.
    pub hits: u64,
    /// Requests that had to change it.
    pub misses: u64,
    /// Requests refused because others starved.
    pub starving: u64,
    /// Requests refused because of a change in progress.
    pub locked: u64,
    /// Changes committed.
    pub changed: u64,
}

/// The extra lines of `/proc/drbd` (drbd-admin 4.11, proc_details).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ProcDetails {
    /// Extents locked for the resync.
    pub resync: CacheUse,
    /// Extents of the activity log.
    pub act_log: CacheUse,
    /// Requests waiting for the activity log; printed at level 2 only.
    pub blocked_on_act_log: Option<u64>,
}

/// Why a connection ended in StandAlone, as far as the remedy differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum StandAloneCause {
    /// The administrator disconnected, here or on the peer.
    Operator,
    /// Both nodes changed data without the other.
    SplitBrain,
    /// The two disks never held the same data.
    UnrelatedData,
    /// Wrong shared secret, or only one side has one.
    Authentication,
    /// Options that must be equal differ.
    Settings,
    /// The disk of one node is too small.
    Size,
    /// on-congestion disconnect.
    Congestion,
    /// Something else; see the words.
    Other,
}

/// Which words of a reason tell its cause; the first row that matches wins. Lower case.
const CAUSE_WORDS: &[(&str, StandAloneCause)] = &[
    ("split-brain", StandAloneCause::SplitBrain),
    ("split brain", StandAloneCause::SplitBrain),
    ("unrelated data", StandAloneCause::UnrelatedData),
    ("authentication", StandAloneCause::Authentication),
    ("shared secret", StandAloneCause::Authentication),
    ("incompatible", StandAloneCause::Settings),
    ("too small", StandAloneCause::Size),
    ("congestion", StandAloneCause::Congestion),
    ("disconnected by", StandAloneCause::Operator),
];

impl ResourceSnapshot {
    /// A resource without volumes and without a network configuration.
    pub fn new(name: &str) -> ResourceSnapshot {
        ResourceSnapshot {
            name: name.into(),
            node_name: None,
            node_id: 0,
            peer_node_id: 1,
            role: Role::Secondary,
            protocol: None,
            suspended_user: false,
            suspended_no_data: false,
            suspended_fencing: false,
            suspended_lease: false,
            peer_word_at_ns: None,
            write_ordering: 'f',
            connection: ConnState::StandAlone,
            peer_name: None,
            peer_role: Role::Unknown,
            congested: false,
            ap_in_flight_sectors: 0,
            rs_in_flight_sectors: 0,
            local_addr: String::new(),
            peer_addr: String::new(),
            standalone_reason: None,
            standalone_cause: None,
            handshake_note: None,
            connections: 0,
            volumes: Vec::new(),
        }
    }

    /// Any of the suspensions.
    pub const fn suspended(&self) -> bool {
        self.suspended_user || self.suspended_no_data || self.suspended_fencing || self.suspended_lease
    }

    /// The cause of StandAlone: the typed one, else what the words tell, else none.
    pub fn cause(&self) -> Option<StandAloneCause> {
        if self.standalone_cause.is_some() {
            return self.standalone_cause;
        }
        let words = self.standalone_reason.as_ref()?.to_ascii_lowercase();
        let row = CAUSE_WORDS.iter().find(|(needle, _)| words.contains(needle));
        Some(row.map_or(StandAloneCause::Other, |(_, cause)| *cause))
    }

    /// The word for `write-ordering:`.
    pub const fn write_ordering_word(&self) -> &'static str {
        match self.write_ordering {
            'd' => "drain",
            'n' => "none",
            'b' => "barrier",
            _ => "flush",
        }
    }
}

impl VolumeSnapshot {
    /// A volume as just created: no disk, no connection, one epoch.
    pub fn new(vnr: u16, minor: u32) -> VolumeSnapshot {
        VolumeSnapshot {
            vnr,
            minor,
            device: String::new(),
            state: VolumeState::INITIAL,
            size_sectors: 0,
            al_suspended: false,
            congestion: '-',
            counters: Counters { epochs: 1, ..Counters::default() },
            uuids: [0; 4],
            meta_flags: MetaFlags::default(),
            progress: None,
            disk_error: None,
            last_error: None,
            open_count: 0,
            nbd_uri: None,
            proc_details: None,
        }
    }

    /// Size of the replicated device.
    pub const fn size_kib(&self) -> u64 {
        self.size_sectors / 2
    }

    /// Share of the device that is in sync, in hundredths of a percent, rounded to nearest. 10000 for a
    /// device of unknown size.
    pub fn in_sync_per_myriad(&self) -> u64 {
        per_myriad_done(self.size_kib(), self.counters.out_of_sync_kib)
    }

    /// A resync that runs or is paused, or a verify: the states for which `done:` is printed.
    pub const fn is_progressing(&self) -> bool {
        let n = self.state.conn.number();
        n >= ConnState::SyncSource.number() && n <= ConnState::PausedSyncT.number()
    }

    /// Why I/O waits, for `blocked:`: by us, and by the backing device.
    pub const fn blocked(&self, suspended: bool) -> (bool, bool) {
        (suspended || matches!(self.congestion, 'd' | 'c'), matches!(self.congestion, 'b' | 'a'))
    }
}

impl Progress {
    /// Blocks done so far.
    pub const fn done_blocks(&self) -> u64 {
        self.total_blocks.saturating_sub(self.left_blocks)
    }
}

/// Done part of `total` in hundredths of a percent, rounded to nearest; 10000 if there is nothing to do.
pub fn per_myriad_done(total: u64, left: u64) -> u64 {
    if total == 0 {
        return 10_000;
    }
    let done = u128::from(total.saturating_sub(left));
    let total = u128::from(total);
    // At most 10000, since done <= total.
    ((done * 20_000 + total) / (total * 2)) as u64
}

/// Done part in tenths of a percent with the coarse arithmetic of `/proc/drbd`: on small devices one step
/// is many percent, and programs compare the text (drbd-admin 4.11).
pub fn coarse_per_mille_done(total_blocks: u64, left_blocks: u64) -> u64 {
    let shift = if total_blocks > u64::from(u32::MAX) { 16 } else { 10 };
    let left = left_blocks >> shift;
    let total = (total_blocks >> shift) + 1;
    1000u64.saturating_sub(left.saturating_mul(1000) / total)
}

/// Rate as DRBD computes it: whole blocks per second, times 4 KiB. `seconds` 0 counts as 1.
pub fn rate_kib_s(done_blocks: u64, seconds: u64) -> u64 {
    (done_blocks / seconds.max(1)).saturating_mul(4)
}

/// Seconds until the end, if `done_blocks` took `seconds`; in the integer arithmetic that the recordings of
/// `finish:` show (hundredths, the divisor rounded up, so it never divides by zero).
pub fn finish_s(left_blocks: u64, done_blocks: u64, seconds: u64) -> u64 {
    (left_blocks / (done_blocks / 100 + 1)).saturating_mul(seconds.max(1)) / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_as_recorded() {
        assert_eq!(coarse_per_mille_done(58080 / 4, 46816 / 4), 267);
        assert_eq!(coarse_per_mille_done(65496 / 4, 58904 / 4), 125);
        assert_eq!(coarse_per_mille_done(100, 48), 1000);
        assert_eq!(coarse_per_mille_done(0, 0), 1000);
        assert_eq!(coarse_per_mille_done(u64::MAX, u64::MAX), 1);
        assert_eq!(per_myriad_done(33752, 21396), 3661);
        assert_eq!(per_myriad_done(33752, 12), 9996);
        assert_eq!(per_myriad_done(0, 5), 10_000);
        assert_eq!(per_myriad_done(5, 9), 0);
    }

    #[test]
    fn shift_grows_above_32_bits() {
        let total = 1u64 << 32;
        assert_eq!(coarse_per_mille_done(total, total / 2), 1000 - (1 << 15) * 1000 / ((1 << 16) + 1));
        assert_eq!(coarse_per_mille_done(total - 1, total / 2), 500);
    }

    #[test]
    fn cause_comes_from_the_type_or_the_words() {
        let mut r = ResourceSnapshot::new("r0");
        assert_eq!(r.cause(), None);
        r.standalone_reason = Some("Split-Brain detected but unresolved, dropping connection!".into());
        assert_eq!(r.cause(), Some(StandAloneCause::SplitBrain));
        r.standalone_reason = Some("the dog ate it".into());
        assert_eq!(r.cause(), Some(StandAloneCause::Other));
        r.standalone_cause = Some(StandAloneCause::Size);
        assert_eq!(r.cause(), Some(StandAloneCause::Size));
    }

    #[test]
    fn meta_flags_keep_their_order() {
        for bits in 0u8..128 {
            let f = core::array::from_fn(|i| bits >> i & 1 == 1);
            assert_eq!(MetaFlags::from_order(f).in_order(), f);
        }
    }
}
