//! Options of a run, drawn from its seed.

use model::config::settings::OnCongestion;
use model::policy::{Fencing, OnIoError, Protocol};
use model::time::Duration;
use replicator::{Auth, DiskConfig, HmacAlg, NetConfig};

use super::Profile;
use super::acts::{ACTS, Act};
use crate::disk::Tearing;
use crate::hooks::{BeforeResync, FencePeer};
use crate::rng::Rng;
use crate::world::Weather;

/// How the pair comes into being.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Start {
    /// Both copies are good and the same.
    Preset,
    /// Fresh, and an operator says that they are the same.
    Skip,
    /// Fresh, and one is promoted by force.
    Full,
}

/// Options of one run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(super) net: NetConfig,
    pub(super) disk: DiskConfig,
    pub(super) volumes: u8,
    /// Size of each volume.
    pub(super) sectors: u64,
    /// Writes go to this many spots of each volume.
    pub(super) spots: u64,
    pub(super) start: Start,
    /// Does not wait for the end of the first resync.
    pub(super) impatient: bool,
    pub(super) weights: [u64; ACTS.len()],
    pub(super) acts: u64,
    /// Most requests of one burst.
    pub(super) burst: u64,
    pub(super) split_brain: bool,
    pub(super) metadata_faults: bool,
    /// Backing disks grow, and so does the device.
    pub(super) grows: bool,
    /// The metadata is at the end of the backing disk.
    pub(super) internal: bool,
    /// Beside one act in so many somebody starts a verify; 0: never.
    pub(super) verify_one_in: u64,
    /// In the end sectors of a copy decay, and a verify has to find them.
    pub(super) decay: bool,
    /// Both nodes lose power in the end, and come back.
    pub(super) last_power_failure: bool,
    pub(super) weather: Weather,
    /// Into which pieces the disks of both nodes tear writes.
    pub(super) tearing: Tearing,
    /// What the link carries each way while it is slow; 0: it never is.
    pub(super) slow_link_bytes_per_s: u64,
    /// What the fence-peer handlers of both nodes do, where the disk options ask for them.
    pub(super) fence_peer: FencePeer,
    /// What the handlers before a resync do.
    pub(super) before_resync: BeforeResync,
    /// Beside one act in so many a disk stands still, or goes on; 0: never.
    pub(super) stalls_one_in: u64,
}

/// Sectors of an extent of the activity log.
const EXTENT_SECTORS: u64 = 8192;
/// From here on a device has more pages of the bitmap than are written at once.
const WIDE_SECTORS: u64 = 1200 * EXTENT_SECTORS;

pub(super) fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.below(from.len() as u64) as usize]
}

pub(super) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

impl Plan {
    /// The plan of a seed.
    pub fn new(profile: Profile, seed: u64) -> Plan {
        let mut r = Rng::new(seed.wrapping_mul(0x9e37_79b9) ^ 0x5157_4152_4d00);
        let mut plan = match profile {
            Profile::Life => Plan::life(&mut r),
            Profile::Small => Plan::small(&mut r),
        };
        plan.congest(&mut Rng::new(seed.rotate_left(11) ^ 0x636f_6e67_6573_7400));
        plan.fence(&mut Rng::new(seed ^ 0x4645_4e43));
        plan.choose_later_options(&mut Rng::new(seed ^ 0x4752_4f57));
        // From a generator of its own, so that seeds without digests stay what they were.
        plan.digests(&mut Rng::new(seed.rotate_left(32) ^ 0x6469_6765_7374));
        plan.two_primaries(profile, &mut Rng::new(seed.rotate_left(13) ^ 0x7477_6f70));
        plan.slow_things(profile, &mut Rng::new(seed.rotate_left(23) ^ 0x736c_6f77));
        plan.tearing = pick(&mut Rng::new(seed ^ 0x7465_6172), &[Tearing::Sectors, Tearing::Blocks]);
        if plan.sectors >= WIDE_SECTORS {
            plan.keep_wide_device_quick();
        }
        plan
    }

    /// A full sync of it has to end within the bound: nothing goes block by block, and nothing is slow.
    fn keep_wide_device_quick(&mut self) {
        self.sync_in_large_requests();
        self.net.csums_alg.clear();
        self.net.verify_alg.clear();
        (self.verify_one_in, self.decay) = (0, false);
        (self.weather.disk_us, self.weather.disk_spikes, self.weather.lag) = (20, 0, [0; 2]);
        self.slow_link_bytes_per_s = 0;
    }

    /// In some runs the disks grow, and the device with them.
    fn choose_later_options(&mut self, r: &mut Rng) {
        self.grows = r.one_in(6);
        self.internal = r.one_in(2) && self.grows && self.volumes == 1;
        if self.grows {
            let at = ACTS.iter().position(|a| *a == Act::Grow).expect("one of the acts");
            self.weights[at] = 4;
        }
    }

    /// Verify, checksum resync and data integrity, each in some schedules.
    fn digests(&mut self, r: &mut Rng) {
        let some = |r: &mut Rng| String::from(pick(r, &["crc32c", "md5", "sha1", "sha256"]));
        // A verify has four packets for every block that it compares.
        if r.one_in(24) {
            self.net.verify_alg = some(r);
            self.verify_one_in = pick(r, &[2, 4, 8]);
            self.decay = r.one_in(2);
        }
        if r.one_in(4) {
            self.net.csums_alg = some(r);
            self.net.csums_after_crash_only = r.one_in(4);
        }
        if r.one_in(8) {
            self.net.data_integrity_alg = some(r);
        }
    }

    /// In some runs the nodes do something about congestion, and mostly the link is slow.
    fn congest(&mut self, r: &mut Rng) {
        let odds = if self.net.protocol == Protocol::A { 2 } else { 16 };
        if !r.one_in(odds) {
            return;
        }
        self.net.protocol = Protocol::A;
        let pulls = !r.one_in(5);
        self.net.on_congestion = if pulls { OnCongestion::PullAhead } else { OnCongestion::Disconnect };
        self.net.congestion_fill_sectors = pick(r, &[0, 8, 40, 200, 1000]);
        self.net.congestion_extents = pick(r, &[1, 2, 3, 1237]);
        self.slow_link_bytes_per_s = pick(r, &[0, 30_000, 300_000, 3_000_000]);
    }

    /// In some runs the peer is fenced, by a script that does what it says, or by one that is broken.
    fn fence(&mut self, r: &mut Rng) {
        if !r.one_in(6) {
            return;
        }
        // Protocol A answers writes that the peer may not get: freezing would be too late, and is refused.
        let may_freeze = self.net.protocol != Protocol::A;
        let freezes = may_freeze && !r.one_in(3);
        self.disk.fencing = if freezes { Fencing::ResourceAndStonith } else { Fencing::ResourceOnly };
        let after = ms(pick(r, &[1, 30, 300, 3000]));
        self.fence_peer = match r.below(5) {
            0 => FencePeer::Answers { exit_code: 1, after },
            1 | 2 => FencePeer::Stonith { after },
            _ => FencePeer::Outdates { after },
        };
    }

    /// Whoever goes on alone has made sure that the peer does not.
    pub(super) fn keeps_to_one_writer(&self) -> bool {
        self.disk.fencing == Fencing::ResourceAndStonith
    }

    fn life(r: &mut Rng) -> Plan {
        let large = r.one_in(16);
        let tiny_log = !large && r.one_in(4);
        let sectors = match () {
            () if large && r.one_in(8) => WIDE_SECTORS + EXTENT_SECTORS * r.below(400),
            () if large => EXTENT_SECTORS * (70 + r.below(20)),
            () if tiny_log => EXTENT_SECTORS * (2 + r.below(4)) + r.below(500),
            () => 512 + 8 * r.below(500) + r.below(8),
        };
        let start = if large { Start::Skip } else { pick(r, &[Start::Preset, Start::Skip, Start::Full]) };
        let mut plan = Plan {
            net: net(r),
            disk: disk(r),
            volumes: if !large && r.one_in(6) { 2 } else { 1 },
            sectors,
            spots: pick(r, &[3, 12, 100]),
            start,
            impatient: r.one_in(4),
            weights: [0; ACTS.len()],
            acts: 20 + r.below(100),
            burst: 40,
            split_brain: r.one_in(4),
            metadata_faults: r.one_in(3),
            grows: false,
            internal: false,
            verify_one_in: 0,
            decay: false,
            last_power_failure: r.one_in(4),
            weather: Weather {
                disk_us: pick(r, &[20, 100, 3000]),
                net_us: pick(r, &[20, 100, 2000]),
                disk_spikes: pick(r, &[0, 0, 0, 50, 1000]),
                ..Weather::default()
            },
            tearing: Tearing::Sectors,
            slow_link_bytes_per_s: 0,
            fence_peer: FencePeer::default(),
            before_resync: BeforeResync::default(),
            stalls_one_in: 0,
        };
        if tiny_log {
            plan.disk.al_extents = 2 + r.below(3) as u16;
        }
        for (i, w) in plan.weights.iter_mut().enumerate() {
            if ACTS[i] == Act::Grow {
                continue;
            }
            let always = matches!(ACTS[i], Act::Burst | Act::Wait | Act::Start | Act::Heal | Act::Mend);
            if always || r.one_in(3) {
                *w = 1 << r.below(5);
            }
        }
        plan.weights[0] += 8;
        plan.weights[1] += 8;
        if (large || tiny_log) && !r.one_in(8) {
            plan.sync_in_large_requests();
        }
        plan
    }

    /// On a device of several extents every crash of a Primary costs a resync of those that were hot, a thousand blocks
    /// each: block by block they would take most of the time of all schedules. One in eight does.
    fn sync_in_large_requests(&mut self) {
        self.net.max_buffers = 2048;
        self.disk.c_max_rate_kib_s = 102_400;
        if self.disk.c_fill_target_sectors > 0 {
            self.disk.c_fill_target_sectors = 8000;
        }
    }

    /// A good pair from the beginning; of the faults two kinds at most.
    fn small(r: &mut Rng) -> Plan {
        let tiny_log = r.one_in(5);
        let sectors =
            if tiny_log { EXTENT_SECTORS * (2 + r.below(2)) + 8 * r.below(64) } else { 512 + r.below(1536) };
        let mut plan = Plan {
            net: net(r),
            disk: disk(r),
            volumes: if r.one_in(10) { 2 } else { 1 },
            sectors,
            spots: pick(r, &[2, 6, 30]),
            start: Start::Preset,
            impatient: false,
            weights: [0; ACTS.len()],
            acts: 4 + r.below(10),
            burst: pick(r, &[4, 12]),
            split_brain: r.one_in(8),
            metadata_faults: r.one_in(2),
            grows: false,
            internal: false,
            verify_one_in: 0,
            decay: false,
            last_power_failure: r.one_in(4),
            weather: Weather {
                disk_us: pick(r, &[20, 100, 2000]),
                net_us: pick(r, &[20, 100, 1000]),
                disk_spikes: pick(r, &[0, 0, 20]),
                ..Weather::default()
            },
            tearing: Tearing::Sectors,
            slow_link_bytes_per_s: 0,
            fence_peer: FencePeer::default(),
            before_resync: BeforeResync::default(),
            stalls_one_in: 0,
        };
        plan.net.ping_int = ms(10_000);
        plan.disk.c_max_rate_kib_s = 102_400;
        plan.disk.resync_rate_kib_s = 10_000;
        if tiny_log {
            plan.disk.al_extents = 2;
        }
        for (i, w) in plan.weights.iter_mut().enumerate() {
            *w = match ACTS[i] {
                Act::Burst => 8,
                Act::Wait | Act::Start | Act::Heal | Act::Mend => 2,
                _ => 0,
            };
        }
        for _ in 0..1 + r.below(2) {
            plan.weights[r.below(ACTS.len() as u64 - 1) as usize] += 4;
        }
        if tiny_log && !r.one_in(8) {
            plan.sync_in_large_requests();
        }
        plan
    }
}

fn net(r: &mut Rng) -> NetConfig {
    let protocol = pick(r, &[Protocol::C, Protocol::C, Protocol::C, Protocol::C, Protocol::A, Protocol::B]);
    NetConfig {
        protocol,
        connect_int: ms(pick(r, &[300, 1000, 3000])),
        ping_int: ms(1000),
        ping_timeout: ms(pick(r, &[100, 500])),
        timeout: ms(pick(r, &[500, 1000])),
        ko_count: pick(r, &[0, 1, 2, 7]),
        max_epoch_size: pick(r, &[20, 20, 2048, 2]),
        max_buffers: pick(r, &[32, 2048, 2048]),
        use_rle: r.one_in(2),
        auth: r.one_in(6).then(|| Auth { alg: HmacAlg::Sha1, secret: b"between us".to_vec() }),
        ..NetConfig::default()
    }
}

fn disk(r: &mut Rng) -> DiskConfig {
    DiskConfig {
        al_extents: pick(r, &[67, 67, 1237]),
        on_io_error: if r.one_in(4) { OnIoError::PassOn } else { OnIoError::Detach },
        al_updates: !r.one_in(12),
        c_max_rate_kib_s: pick(r, &[102_400, 102_400, 2000]),
        resync_rate_kib_s: pick(r, &[250, 10_000]),
        c_fill_target_sectors: pick(r, &[100, 100, 0]),
        ..DiskConfig::default()
    }
}
