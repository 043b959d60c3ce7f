//! Typed settings of one resource as this host runs it: everything merged, converted and checked. The daemon
//! reads these structs and never looks at the text again (drbd-admin 2, merge rules 1.9).
//!
//! Units: durations are `Duration`; everything else carries its unit last (`_sectors` of 512 bytes, `_bytes`,
//! `_kib_s` = KiB per second, `_pages` of 4 KiB). `Default` of every options struct is what drbd-admin 2
//! calls the default, taken from the table in [`crate::options`].

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::SocketAddr;

use crate::ids::{Minor, VolumeNo};
pub use crate::policy::{AfterSb0, AfterSb1, AfterSb2, Fencing, OnIoError, OnNoData, Protocol, RrConflict};
use crate::time::Duration;
use crate::word_enum::word_enum;

/// One resource of this host, complete. Made by [`crate::config::resolve`].
#[derive(Clone, Debug, PartialEq)]
pub struct ResourceConfig {
    /// Name of the resource.
    pub name: String,
    /// Name of the own host section (for a floating section `ADDRESS:PORT`).
    pub host: String,
    /// Name of the peer's host section (for a floating section `ADDRESS:PORT`).
    pub peer_host: String,
    /// Where this host listens and connects from.
    pub own_address: SocketAddr,
    /// Where the peer is.
    pub peer_address: SocketAddr,
    /// Node id of this host, if the file gives one; used in outputs of the 9 form only.
    pub own_node_id: Option<u8>,
    /// Node id of the peer, if the file gives one.
    pub peer_node_id: Option<u8>,
    /// The volumes, ascending by number, at least one.
    pub volumes: Vec<VolumeConfig>,
    /// Settings of the connection.
    pub net: NetOptions,
    /// Settings of the resource as a whole.
    pub options: ResourceOptions,
    /// How long to wait for the peer at start.
    pub startup: StartupOptions,
    /// Shell commands to run on events.
    pub handlers: BTreeMap<Handler, String>,
    /// The `global` section, the same for all resources.
    pub global: GlobalOptions,
    /// `FILE:LINE` of the resource.
    pub defined_at: String,
}

/// One volume of a resource on this host.
#[derive(Clone, Debug, PartialEq)]
pub struct VolumeConfig {
    /// Number inside the resource.
    pub volume: VolumeNo,
    /// Written without a `volume` block; `sh-udev` and `dump` treat it differently.
    pub implicit: bool,
    /// Minor number.
    pub minor: Minor,
    /// Device node as users name it, `/dev/drbd1` if only the minor is given.
    pub device: String,
    /// Backing device; `None` for an intentionally diskless volume (`disk none`).
    pub disk: Option<String>,
    /// Where the metadata is.
    pub meta_disk: MetaDisk,
    /// Minor of the same volume on the peer, if the file names it.
    pub peer_minor: Option<Minor>,
    /// Settings of the disk.
    pub disk_options: DiskOptions,
}

/// Place of the metadata (drbd-admin 1.11).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetaDisk {
    /// At the end of the backing device.
    Internal,
    /// A device of its own, as large as needed (`flex-external`).
    FlexibleExternal(String),
    /// Slot `n` of 128 MiB on a shared device.
    Indexed(String, u32),
}

/// `net` section (drbd-admin 2.2).
#[derive(Clone, Debug, PartialEq)]
pub struct NetOptions {
    /// Replication protocol.
    pub protocol: Protocol,
    /// Answer to a packet; unit of the request timeout (default 6 s).
    pub timeout: Duration,
    /// Pause between connection attempts.
    pub connect_int: Duration,
    /// Idle time before a keep-alive.
    pub ping_int: Duration,
    /// Answer to a keep-alive.
    pub ping_timeout: Duration,
    /// How many `timeout`s a request may be unanswered; 0 = for ever.
    pub ko_count: u32,
    /// Receive buffers, pages of 4 KiB.
    pub max_buffers_pages: u32,
    /// Writes between two barriers.
    pub max_epoch_size: u32,
    /// Pending requests before an unplug hint.
    pub unplug_watermark: u32,
    /// Socket send buffer; 0 = automatic.
    pub sndbuf_bytes: u32,
    /// Socket receive buffer; 0 = automatic.
    pub rcvbuf_bytes: u32,
    /// Settle time of the established check; zero = use `ping_timeout`.
    pub socket_check_timeout: Duration,
    /// Both nodes may be Primary.
    pub allow_two_primaries: bool,
    /// Digest of the peer authentication (`sha1`); `None` = no authentication.
    pub cram_hmac_alg: Option<String>,
    /// Secret of the peer authentication.
    pub shared_secret: Option<String>,
    /// Split brain, no Primary.
    pub after_sb_0pri: AfterSb0,
    /// Split brain, one Primary.
    pub after_sb_1pri: AfterSb1,
    /// Split brain, two Primaries.
    pub after_sb_2pri: AfterSb2,
    /// Apply the policies although the UUIDs are unrelated to a split brain.
    pub always_asbp: bool,
    /// Resync direction contradicts the roles.
    pub rr_conflict: RrConflict,
    /// Digest over every data packet.
    pub data_integrity_alg: Option<String>,
    /// Digest of online verify.
    pub verify_alg: Option<String>,
    /// Digest of checksum based resync.
    pub csums_alg: Option<String>,
    /// Use `csums_alg` only after a Primary crash.
    pub csums_after_crash_only: bool,
    /// Compress bitmaps.
    pub use_rle: bool,
    /// Collect packets in the socket before sending.
    pub tcp_cork: bool,
    /// What to do when congested (protocol A only).
    pub on_congestion: OnCongestion,
    /// Data in flight that counts as congestion; 0 = off.
    pub congestion_fill_sectors: u64,
    /// Active activity log extents that count as congestion.
    pub congestion_extents: u32,
}

/// `disk` section of one volume (drbd-admin 2.1).
#[derive(Clone, Debug, PartialEq)]
pub struct DiskOptions {
    /// Use only that much of the backing device; 0 = all.
    pub size_sectors: u64,
    /// What to do on an I/O error.
    pub on_io_error: OnIoError,
    /// What to do when a Primary loses its peer.
    pub fencing: Fencing,
    /// Order writes by barriers.
    pub disk_barrier: bool,
    /// Order writes by flushes.
    pub disk_flushes: bool,
    /// Order writes by waiting.
    pub disk_drain: bool,
    /// Flush after metadata writes.
    pub md_flushes: bool,
    /// Segments per request; 0 = no limit.
    pub max_bio_bvecs: u32,
    /// The backing device counts as failed after this; zero = never.
    pub disk_timeout: Duration,
    /// Where a Primary reads.
    pub read_balancing: ReadBalancing,
    /// Active activity log extents of 4 MiB.
    pub al_extents: u32,
    /// Write the activity log.
    pub al_updates: bool,
    /// Fixed rate of resync without the controller, start value with it.
    pub resync_rate_kib_s: u32,
    /// Resync only when that volume has finished.
    pub resync_after: Option<ResyncAfter>,
    /// Horizon of the rate controller; zero = fixed rate.
    pub c_plan_ahead: Duration,
    /// Delay the controller aims at (when `c_fill_target_sectors` is 0).
    pub c_delay_target: Duration,
    /// Data in flight the controller aims at; 0 = use `c_delay_target`.
    pub c_fill_target_sectors: u32,
    /// Upper limit of the controller.
    pub c_max_rate_kib_s: u32,
    /// Up to this rate resync does not yield to application I/O.
    pub c_min_rate_kib_s: u32,
    /// Discards may be taken as zeroing.
    pub discard_zeroes_if_aligned: bool,
    /// Never send write-same.
    pub disable_write_same: bool,
    /// Resync zeroes as discards of this size; 0 = off.
    pub rs_discard_granularity_bytes: u32,
}

/// Target of `resync-after`, known on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResyncAfter {
    /// Resource to wait for.
    pub resource: String,
    /// Its volume.
    pub volume: VolumeNo,
    /// Minor of that volume on this host.
    pub minor: Minor,
}

/// `options` section of the resource (drbd-admin 2.3).
#[derive(Clone, Debug, PartialEq)]
pub struct ResourceOptions {
    /// A Primary without any UpToDate disk.
    pub on_no_data_accessible: OnNoData,
    /// CPUs for the resource's threads, hexadecimal, commas between 32-bit groups; empty = any.
    pub cpu_mask: String,
}

/// `startup` section (drbd-admin 2.4). Zero = wait for ever.
#[derive(Clone, Debug, PartialEq)]
pub struct StartupOptions {
    /// Wait for the peer.
    pub wfc_timeout: Duration,
    /// The same, if the cluster was degraded before.
    pub degr_wfc_timeout: Duration,
    /// The same, if the peer was outdated.
    pub outdated_wfc_timeout: Duration,
    /// Go on waiting although StandAlone.
    pub wait_after_sb: bool,
    /// The upper resource uses the time-outs above.
    pub stacked_timeouts: bool,
    /// Who becomes Primary at boot.
    pub become_primary_on: BecomePrimaryOn,
}

/// Who becomes Primary at boot (`become-primary-on`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BecomePrimaryOn {
    /// Nobody.
    None,
    /// Every host.
    Both,
    /// These hosts.
    Hosts(Vec<String>),
}

/// `global` section (drbd-admin 2.5).
#[derive(Clone, Debug, PartialEq)]
pub struct GlobalOptions {
    /// Answer to the statistics question; nothing is ever sent.
    pub usage_count: UsageCount,
    /// Number of minors that scripts are told.
    pub minor_count: u32,
    /// Redraw interval of `wait-con-int`; zero = never.
    pub dialog_refresh: Duration,
    /// Do not check that the own address exists on an interface.
    pub disable_ip_verification: bool,
    /// Links with a volume number also for implicit volumes. `dump` of 8.4 leaves it out.
    pub udev_always_use_vnr: bool,
    /// Limit of quick requests; zero = none.
    pub cmd_timeout_short: Duration,
    /// Limit of attach, wipe and so on; zero = none.
    pub cmd_timeout_medium: Duration,
    /// Limit of create-md, apply-al, handlers; zero = none.
    pub cmd_timeout_long: Duration,
}

word_enum! {
    /// What to do when congested.
    OnCongestion {
        /// Let the application wait.
        Block = 0 => "block",
        /// Go Ahead: only mark blocks.
        PullAhead = 1 => "pull-ahead",
        /// Give up the connection.
        Disconnect = 2 => "disconnect",
    }
}

word_enum! {
    /// Where a Primary reads.
    ReadBalancing {
        /// From the own disk.
        PreferLocal = 0 => "prefer-local",
        /// From the peer.
        PreferRemote = 1 => "prefer-remote",
        /// In turn.
        RoundRobin = 2 => "round-robin",
        /// Where fewer requests wait.
        LeastPending = 3 => "least-pending",
        /// From the peer when the own disk is congested.
        WhenCongestedRemote = 4 => "when-congested-remote",
        /// In turn per stripe of 32 KiB.
        Striping32K = 5 => "32K-striping",
        /// In turn per stripe of 64 KiB.
        Striping64K = 6 => "64K-striping",
        /// In turn per stripe of 128 KiB.
        Striping128K = 7 => "128K-striping",
        /// In turn per stripe of 256 KiB.
        Striping256K = 8 => "256K-striping",
        /// In turn per stripe of 512 KiB.
        Striping512K = 9 => "512K-striping",
        /// In turn per stripe of 1 MiB.
        Striping1M = 10 => "1M-striping",
    }
}

word_enum! {
    /// Answer to the statistics question.
    UsageCount {
        /// Take part.
        Yes = 0 => "yes",
        /// Do not take part.
        No = 1 => "no",
        /// Not answered.
        Ask = 2 => "ask",
    }
}

word_enum! {
    /// Handler scripts (drbd-admin 2.6).
    Handler {
        /// Primary lost the peer, or becomes Primary alone.
        FencePeer = 0 => "fence-peer",
        /// Resync done, peer UpToDate.
        UnfencePeer = 1 => "unfence-peer",
        /// Before a resync, on the target.
        BeforeResyncTarget = 2 => "before-resync-target",
        /// Before a resync, on the source.
        BeforeResyncSource = 3 => "before-resync-source",
        /// After a resync, on the target.
        AfterResyncTarget = 4 => "after-resync-target",
        /// Split brain, not solved automatically.
        SplitBrain = 5 => "split-brain",
        /// Split brain, before the policies.
        InitialSplitBrain = 6 => "initial-split-brain",
        /// Primary lost its last good disk.
        PriOnInconDegr = 7 => "pri-on-incon-degr",
        /// Primary lost the election.
        PriLostAfterSb = 8 => "pri-lost-after-sb",
        /// Primary lost by rr-conflict.
        PriLost = 9 => "pri-lost",
        /// The backing device failed.
        LocalIoError = 10 => "local-io-error",
        /// Verify found differences.
        OutOfSync = 11 => "out-of-sync",
        /// Quorum lost (9; never called here).
        QuorumLost = 12 => "quorum-lost",
        /// Disconnected (9; never called here).
        Disconnected = 13 => "disconnected",
    }
}
