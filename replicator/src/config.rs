//! What the core needs of the configuration, in the core's units. The daemon translates the resource file.

use alloc::string::String;
use alloc::vec::Vec;

use model::config::settings::OnCongestion;
use model::ids::{Minor, VolumeNo};
use model::policy::{AfterSb0, AfterSb1, AfterSb2, Fencing, OnIoError, OnNoData, Protocol, RrConflict};
use model::time::Duration;

/// Hash of the challenge/response authentication, by its Linux crypto name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HmacAlg {
    /// `md5`
    Md5,
    /// `sha1`
    Sha1,
    /// `sha256`
    Sha256,
    /// `sha512`
    Sha512,
}

impl HmacAlg {
    /// The algorithm with this name.
    pub fn from_name(name: &str) -> Option<HmacAlg> {
        match name {
            "md5" => Some(HmacAlg::Md5),
            "sha1" => Some(HmacAlg::Sha1),
            "sha256" => Some(HmacAlg::Sha256),
            "sha512" => Some(HmacAlg::Sha512),
            _ => None,
        }
    }
}

/// Shared secret and its algorithm.
#[derive(Clone, PartialEq, Eq)]
pub struct Auth {
    /// Which hash.
    pub alg: HmacAlg,
    /// At most 63 bytes.
    pub secret: Vec<u8>,
}

impl core::fmt::Debug for Auth {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Auth({:?}, ..)", self.alg)
    }
}

/// Network options of the connection (drbd-admin 2.2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NetConfig {
    /// Replication protocol.
    pub protocol: Protocol,
    /// Send timeout, unit of the request timeout.
    pub timeout: Duration,
    /// Time between connection attempts.
    pub connect_int: Duration,
    /// Idle time before a ping.
    pub ping_int: Duration,
    /// Wait for a ping's answer.
    pub ping_timeout: Duration,
    /// Settle time of the established check; zero: ping-timeout.
    pub socket_check_timeout: Duration,
    /// How many timeouts are tolerated; 0: any number.
    pub ko_count: u32,
    /// Receive buffers in 4 KiB pages.
    pub max_buffers: u32,
    /// Writes per epoch.
    pub max_epoch_size: u32,
    /// What a write does that finds the link congested; other than block in protocol A only.
    pub on_congestion: OnCongestion,
    /// So many mirrored sectors of a volume on their way are congestion; 0: no limit.
    pub congestion_fill_sectors: u64,
    /// So many activity log extents of a volume in use are congestion.
    pub congestion_extents: u32,
    /// Peer authentication.
    pub auth: Option<Auth>,
    /// Split brain, no Primary.
    pub after_sb_0pri: AfterSb0,
    /// Split brain, one Primary.
    pub after_sb_1pri: AfterSb1,
    /// Split brain, two Primaries.
    pub after_sb_2pri: AfterSb2,
    /// Apply the policies in every case.
    pub always_asbp: bool,
    /// Resync direction contradicts the roles.
    pub rr_conflict: RrConflict,
    /// Both nodes may be Primary.
    pub allow_two_primaries: bool,
    /// Name of the digest of data packets, compared with the peer's.
    pub data_integrity_alg: String,
    /// Name of the verify digest, compared with the peer's.
    pub verify_alg: String,
    /// Name of the checksum resync digest, compared with the peer's.
    pub csums_alg: String,
    /// Checksum resync only after this node has crashed as Primary.
    pub csums_after_crash_only: bool,
    /// Compress bitmaps.
    pub use_rle: bool,
    /// One shot: the peer's data wins.
    pub discard_my_data: bool,
    /// One shot: only find out the resync direction.
    pub tentative: bool,
}

impl Default for NetConfig {
    /// The defaults of drbd-admin 2.2.
    fn default() -> NetConfig {
        NetConfig {
            protocol: Protocol::C,
            timeout: Duration::from_millis(6000),
            connect_int: Duration::from_secs(10),
            ping_int: Duration::from_secs(10),
            ping_timeout: Duration::from_millis(500),
            socket_check_timeout: Duration::ZERO,
            ko_count: 7,
            max_buffers: 2048,
            max_epoch_size: 2048,
            on_congestion: OnCongestion::Block,
            congestion_fill_sectors: 0,
            congestion_extents: 1237,
            auth: None,
            after_sb_0pri: AfterSb0::Disconnect,
            after_sb_1pri: AfterSb1::Disconnect,
            after_sb_2pri: AfterSb2::Disconnect,
            always_asbp: false,
            rr_conflict: RrConflict::Disconnect,
            allow_two_primaries: false,
            data_integrity_alg: String::new(),
            verify_alg: String::new(),
            csums_alg: String::new(),
            csums_after_crash_only: false,
            use_rle: true,
            discard_my_data: false,
            tentative: false,
        }
    }
}

/// Disk options of a volume (drbd-admin 2.1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskConfig {
    /// Configured size limit in sectors, 0: all.
    pub size_sectors: u64,
    /// What an I/O error does.
    pub on_io_error: OnIoError,
    /// Fencing policy.
    pub fencing: Fencing,
    /// Flush the disk before barrier acknowledgements.
    pub disk_flushes: bool,
    /// Flush around metadata writes.
    pub md_flushes: bool,
    /// Slots of the activity log.
    pub al_extents: u16,
    /// Write the activity log.
    pub al_updates: bool,
    /// Fixed or starting resync rate, KiB/s.
    pub resync_rate_kib_s: u32,
    /// Horizon of the rate controller in 0.1 s; 0: fixed rate.
    pub c_plan_ahead_ds: u32,
    /// Aim: delay in 0.1 s.
    pub c_delay_target_ds: u32,
    /// Aim: sectors in flight.
    pub c_fill_target_sectors: u32,
    /// Upper limit, KiB/s.
    pub c_max_rate_kib_s: u32,
    /// Throttle above this when application I/O is busy, KiB/s.
    pub c_min_rate_kib_s: u32,
    /// Largest time a local request may take; zero: any.
    pub disk_timeout: Duration,
}

impl Default for DiskConfig {
    /// The defaults of drbd-admin 2.1.
    fn default() -> DiskConfig {
        DiskConfig {
            size_sectors: 0,
            on_io_error: OnIoError::Detach,
            fencing: Fencing::DontCare,
            disk_flushes: true,
            md_flushes: true,
            al_extents: 1237,
            al_updates: true,
            resync_rate_kib_s: 250,
            c_plan_ahead_ds: 20,
            c_delay_target_ds: 10,
            c_fill_target_sectors: 100,
            c_max_rate_kib_s: 102_400,
            c_min_rate_kib_s: 250,
            disk_timeout: Duration::ZERO,
        }
    }
}

/// A volume of the resource.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeConfig {
    /// Number in the resource.
    pub vnr: VolumeNo,
    /// Minor, for texts.
    pub minor: Minor,
    /// Disk options.
    pub disk: DiskConfig,
}

/// A resource.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Name.
    pub name: String,
    /// Volumes, ascending by number; at least one, at most 64.
    pub volumes: Vec<VolumeConfig>,
    /// Without access to data.
    pub on_no_data: OnNoData,
    /// As Primary it serves nobody until it is given the right to (see [`crate::authority`]).
    pub serves_by_leave: bool,
}
