//! What was done to the recorded nodes: configuration, commands, and the states seen at the end.

use model::policy::{AfterSb0, AfterSb1, OnIoError as OnError, Protocol};
use model::result_code::StateResult;
use model::state::{ConnState, DiskState, Role};
use model::time::Duration;
use replicator::{Auth, ClientOp, Command, CommandResult, DiskConfig, HmacAlg, NetConfig, SockId, VolIdx};

use super::Replay;
use super::compare::SECRET;
use super::node::DATA_SECTORS;

/// A command given to a node, or what its `/proc/drbd` said.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// `up`: attach and connect.
    Up,
    /// `up` with another network option.
    UpWith(Other),
    /// `down`: disconnect and detach.
    Down,
    Attach,
    Detach,
    Connect,
    /// `connect --discard-my-data`
    ConnectDiscard,
    Disconnect,
    Primary,
    PrimaryForce,
    Secondary,
    /// `new-current-uuid --clear-bitmap` of a volume.
    SkipSync(u8),
    Invalidate,
    InvalidateRemote,
    PauseSync,
    ResumeSync,
    Verify,
    /// `net-options --data-integrity-alg=`
    NoDigests,
    /// Blocks of the device are zeroed behind the program's back.
    Zeroed(&'static [u64]),
    Outdate,
    SuspendIo,
    ResumeIo,
    /// `disk-options --resync-rate=200M`
    FastResync,
    /// `secondary` while a program has the device open; closed afterwards.
    SecondaryOpen,
    /// The peer has another secret.
    PeerSecret(&'static [u8]),
    /// The disk begins or ceases to fail.
    Disk(Faults),
    /// `disk-options --on-io-error=...`
    OnIoError(OnError),
    /// A client reads a block, which its own disk refuses and the peer has.
    Read(u64),
    /// The command before was refused.
    Refused(StateResult),
    /// Nothing of the peer arrives any more; it is not told so.
    LinkDown,
    /// It does again.
    LinkUp,
    /// A client writes while there is no peer: first 4 KiB block on the device, first block of the test data,
    /// number of blocks.
    Write(u64, u32, u32),
    /// Volume 0: connection, own role, peer's role, own disk, peer's disk, KiB out of sync.
    See(ConnState, Role, Role, DiskState, DiskState, u64),
    /// The process is killed.
    Crash,
}

/// A network option that is not the conversation's.
#[derive(Clone, Copy, Debug)]
pub enum Other {
    Secret(&'static [u8]),
    NoSecret,
    Protocol(Protocol),
    TwoPrimaries,
    VerifyAlg(&'static str),
}

/// What the disk of a node refuses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Faults {
    None,
    Writes,
    Reads,
}

/// A recorded conversation.
pub struct Conversation {
    pub number: u32,
    /// Zero of the times in `script`, in microseconds since the epoch.
    pub base_us: u64,
    pub net: NetConfig,
    pub disk: DiskConfig,
    /// Node 1's device held a pattern at first.
    pub filled: bool,
    pub volumes: usize,
    /// Where the replay of each node ends, in milliseconds; the end of the recording if nothing is said.
    pub until: [Option<u64>; 2],
    /// Milliseconds, node, what was done.
    pub script: Vec<(u64, u8, Step)>,
}

impl Conversation {
    /// Configuration "C" of the recordings, without commands.
    pub fn new(number: u32, base_us: u64, script: &[(u64, u8, Step)]) -> Conversation {
        let net = NetConfig {
            auth: Some(Auth { alg: HmacAlg::Sha1, secret: SECRET.to_vec() }),
            verify_alg: "sha1".into(),
            ..NetConfig::default()
        };
        let disk = DiskConfig { resync_rate_kib_s: 204_800, c_plan_ahead_ds: 0, ..DiskConfig::default() };
        let script = script.to_vec();
        Conversation { number, base_us, net, disk, filled: false, volumes: 1, until: [None; 2], script }
    }

    /// The content of each volume before the recording.
    pub fn initial_data(&self, side: u8) -> Vec<Vec<u8>> {
        let blocks = DATA_SECTORS as u32 / 8;
        let one = |_| match self.filled && side == 1 {
            true => (0..blocks).flat_map(|b| pattern("block", b)).collect(),
            false => vec![0; DATA_SECTORS as usize * 512],
        };
        (0..self.volumes).map(one).collect()
    }

    pub fn protocol(mut self, protocol: Protocol) -> Conversation {
        self.net.protocol = protocol;
        self
    }
}

/// 4 KiB of the test data.
fn pattern(word: &str, number: u32) -> Vec<u8> {
    format!("{word} {number:09}\n").into_bytes().repeat(256)
}

impl Replay<'_> {
    pub(super) fn step(&mut self, step: &Step) {
        let v = VolIdx(0);
        match *step {
            Step::Up => {
                self.attach_all();
                self.good(Command::Connect(Box::new(self.conversation.net.clone())));
            }
            Step::UpWith(other) => {
                let mut net = self.conversation.net.clone();
                match other {
                    Other::Secret(s) => net.auth = Some(Auth { alg: HmacAlg::Sha1, secret: s.to_vec() }),
                    Other::NoSecret => net.auth = None,
                    Other::Protocol(p) => net.protocol = p,
                    Other::TwoPrimaries => net.allow_two_primaries = true,
                    Other::VerifyAlg(name) => net.verify_alg = name.into(),
                }
                self.attach_all();
                self.good(Command::Connect(Box::new(net)));
            }
            Step::PeerSecret(secret) => self.peer_secret = secret,
            Step::Disk(faults) => self.node.faults = faults,
            Step::OnIoError(on_io_error) => {
                let disk = DiskConfig { on_io_error, ..self.conversation.disk.clone() };
                self.good(Command::DiskOptions(v, Box::new(disk)));
            }
            Step::Read(sector) => {
                let tag = self.node.request(0, sector, 4096, ClientOp::Read);
                self.pending_read = Some(tag);
            }
            Step::Down => {
                if self.node.core.snapshot(self.node.now).connection != ConnState::StandAlone {
                    self.good(Command::Disconnect { force: false });
                }
                self.good(Command::Detach { vol: v, force: false });
            }
            Step::Attach => self.attach_all(),
            Step::Detach => self.good(Command::Detach { vol: v, force: false }),
            Step::Connect => self.good(Command::Connect(Box::new(self.conversation.net.clone()))),
            Step::ConnectDiscard => {
                let net = NetConfig { discard_my_data: true, ..self.conversation.net.clone() };
                self.good(Command::Connect(Box::new(net)));
            }
            Step::Disconnect => self.good(Command::Disconnect { force: false }),
            Step::Primary => self.good(Command::Primary { force: false }),
            Step::PrimaryForce => self.good(Command::Primary { force: true }),
            Step::Secondary => self.good(Command::Secondary { open: 0, force: false }),
            Step::SkipSync(vol) => {
                self.good(Command::NewCurrentUuid { vol: VolIdx(vol), clear_bitmap: true });
            }
            Step::Invalidate => self.good(Command::Invalidate(v)),
            Step::InvalidateRemote => self.good(Command::InvalidateRemote(v)),
            Step::PauseSync => self.good(Command::PauseSync(v)),
            Step::ResumeSync => self.good(Command::ResumeSync(v)),
            Step::Verify => {
                self.good(Command::Verify { vol: v, start_sector: None, stop_sector: None });
            }
            Step::NoDigests => {
                let net = NetConfig { data_integrity_alg: String::new(), ..self.conversation.net.clone() };
                self.good(Command::NetOptions(Box::new(net)));
            }
            Step::Zeroed(blocks) => blocks.iter().for_each(|b| self.node.zero(0, b * 8)),
            Step::Outdate => self.good(Command::Outdate(v)),
            Step::SuspendIo => self.good(Command::SuspendIo),
            Step::ResumeIo => self.good(Command::ResumeIo),
            Step::FastResync => {
                let disk = DiskConfig { resync_rate_kib_s: 204_800, ..self.conversation.disk.clone() };
                self.good(Command::DiskOptions(v, Box::new(disk)));
            }
            Step::SecondaryOpen => self.good(Command::Secondary { open: 1, force: false }),
            Step::Refused(why) => {
                let last = self.node.results.last().map(|r| r.1);
                if last != Some(CommandResult::State(why)) {
                    self.deviates(&format!("the command before ended with {last:?}"));
                }
                self.node.core.set_open(v, false);
            }
            Step::LinkDown => {
                self.cut = true;
                let socks: Vec<SockId> = self.node.open.keys().copied().collect();
                self.node.mute.extend(socks);
            }
            Step::LinkUp => self.cut = false,
            Step::Write(block, data, count) => {
                self.node.hold_writes = false;
                for i in 0..count {
                    let content = pattern("write", data + i);
                    let sector = (block + u64::from(i)) * 8;
                    let buf = self.node.buffer(&content);
                    let tag = self.node.request(0, sector, 4096, ClientOp::Write { buf, fua: false });
                    if !self.node.completed.contains_key(&tag) {
                        self.deviates("the write is not finished");
                    }
                    self.expect_data(0, sector, &content);
                }
            }
            Step::See(conn, role, peer, disk, pdsk, out_of_sync_kib) => {
                let shot = self.node.core.snapshot(self.node.now);
                let vol = &shot.volumes[0];
                let s = &vol.state;
                let seen = (s.conn, s.role, s.peer, s.disk, s.pdsk, vol.counters.out_of_sync_kib);
                if seen != (conn, role, peer, disk, pdsk, out_of_sync_kib) {
                    self.deviates(&format!("the core is {seen:?}"));
                }
            }
            Step::Crash => {
                self.node.crash();
                // The kernel's log begins with its second life.
                self.log.clear();
                self.tags.clear();
            }
        }
    }

    fn attach_all(&mut self) {
        for v in 0..self.conversation.volumes {
            let id = self.node.attach(v);
            self.check_result(id);
        }
    }

    fn good(&mut self, command: Command) {
        let id = self.node.command(command);
        self.check_result(id);
    }

    /// Commands that need the peer end later; those that ended did so well, or the script says so.
    fn check_result(&mut self, id: replicator::CommandId) {
        let next_is_refusal = matches!(self.steps.front(), Some((_, _, Step::Refused(_))));
        let result = self.node.results.iter().find(|r| r.0 == id).map(|r| r.1);
        match result {
            Some(CommandResult::Ok) | None => {}
            Some(_) if next_is_refusal => {}
            Some(other) => self.deviates(&format!("the command ended with {other:?}")),
        }
    }
}

/// The recorded conversations by number.
pub fn conversation(number: u32) -> Conversation {
    use ConnState::{Connected, StandAlone, WFConnection};
    use DiskState::{DUnknown, Diskless, Inconsistent, Outdated, UpToDate};
    use Role::{Primary as P, Secondary as S, Unknown as U};
    use Step::*;
    let seen_by = |ms, node, role, peer| (ms, node, See(Connected, role, peer, UpToDate, UpToDate, 0));
    match number {
        1 => {
            let both_inconsistent = See(Connected, S, S, Inconsistent, Inconsistent, 17368);
            let script = [
                (5051, 1, Up),
                (5436, 2, Up),
                (6797, 1, both_inconsistent),
                (6902, 2, both_inconsistent),
                (7005, 1, PrimaryForce),
                seen_by(9861, 1, P, S),
                seen_by(9962, 2, S, P),
            ];
            Conversation { filled: true, ..Conversation::new(1, 1_795_209_527_072_468, &script) }
        }
        2 => synced(2, 1_795_209_542_065_674, [4940, 5323, 6223, 6833], &[]),
        3 => synced(3, 1_795_209_554_060_833, [5131, 5606, 6698, 7443], &[]),
        4 => synced(4, 1_795_209_569_065_090, [4690, 5027, 5860, 6462], &[]).protocol(Protocol::B),
        5 => synced(5, 1_795_209_583_095_217, [6693, 7074, 7957, 8736], &[]).protocol(Protocol::A),
        6 => synced(6, 1_795_209_600_092_223, [5180, 5664, 6657, 7307], &away(7455, 7653, 8150, 8381)),
        7 => {
            let c = synced(7, 1_795_209_615_082_805, [5131, 5619, 6586, 7305], &away(7497, 7668, 8131, 8359));
            Conversation { net: NetConfig { use_rle: false, ..c.net }, ..c }
        }
        8 => synced(8, 1_795_209_630_092_432, [5951, 6434, 7445, 8162], &[(8485, 1, Verify)]),
        9 => {
            let found = |role, peer| See(Connected, role, peer, UpToDate, UpToDate, 20);
            let script = [
                (8029, 2, Zeroed(&[5, 6, 7, 300, 1000])),
                (8197, 1, Verify),
                (10_110, 1, found(P, S)),
                (10_226, 2, found(S, P)),
                (10_317, 1, Disconnect),
                (10_583, 1, Connect),
                (12_390, 1, Verify),
                seen_by(60_000, 1, P, S),
                seen_by(60_000, 2, S, P),
            ];
            synced(9, 1_795_209_646_102_505, [5853, 6189, 7029, 7673], &script)
        }
        10 => {
            let script = [
                (7771, 2, Disconnect),
                (7953, 1, Write(0, 0, 32)),
                (8055, 1, Write(32, 0, 32)),
                (8168, 2, Connect),
                seen_by(60_000, 1, P, S),
                seen_by(60_000, 2, S, P),
            ];
            let c = synced(10, 1_795_209_667_127_773, [5338, 5856, 6774, 7392], &script);
            Conversation { net: NetConfig { csums_alg: "sha1".into(), ..c.net }, ..c }
        }
        15 => {
            let script = [
                (8818, 1, InvalidateRemote),
                (10_958, 1, NoDigests),
                (11_124, 2, NoDigests),
                seen_by(60_000, 1, P, S),
                seen_by(60_000, 2, S, P),
            ];
            let c = synced(15, 1_795_209_750_225_627, [6177, 6726, 7661, 8368], &script);
            Conversation { net: NetConfig { data_integrity_alg: "sha1".into(), ..c.net }, ..c }
        }
        11 => synced(11, 1_795_209_682_121_199, [6839, 7302, 8348, 9058], &[]),
        12 => {
            let script = [
                (6759, 2, Primary),
                (7550, 2, Refused(StateResult::TwoPrimaries)),
                (7579, 1, Secondary),
                (7713, 2, Primary),
                (7921, 2, Secondary),
                (8052, 1, Primary),
                (8250, 1, SecondaryOpen),
                (8380, 1, Refused(StateResult::DeviceInUse)),
                (8393, 1, Secondary),
                (8526, 1, Down),
                (8696, 2, Down),
                (60_000, 1, See(StandAlone, S, U, Diskless, DUnknown, 0)),
                (60_000, 2, See(StandAlone, S, U, Diskless, DUnknown, 0)),
            ];
            synced(12, 1_795_209_698_154_211, [4680, 5000, 5842, 6451], &script)
        }
        13 => {
            let alone = |kib| See(StandAlone, S, U, UpToDate, DUnknown, kib);
            let script = [
                (9501, 2, Disconnect),
                (9730, 1, Disconnect),
                (9922, 1, Write(0, 0, 2)),
                (10082, 1, Secondary),
                (10313, 2, Primary),
                (10561, 2, Write(10, 0, 3)),
                (10634, 2, Secondary),
                (10788, 1, Connect),
                (11000, 2, Connect),
                (13300, 1, alone(8)),
                (13400, 2, alone(12)),
                (13813, 2, ConnectDiscard),
                (13934, 1, Connect),
                seen_by(16000, 1, S, S),
                seen_by(16000, 2, S, S),
            ];
            synced(13, 1_795_209_712_165_998, [7241, 7642, 8589, 9315], &script)
        }
        14 => {
            let script = [
                (7342, 2, Disconnect),
                (7548, 1, Disconnect),
                (7728, 1, Write(0, 0, 2)),
                (7937, 1, Secondary),
                (8166, 2, Primary),
                (8294, 2, Write(10, 0, 3)),
                (8396, 2, Secondary),
                (8619, 1, Connect),
                (8885, 2, Connect),
                seen_by(12000, 1, S, S),
                seen_by(12000, 2, S, S),
            ];
            let c = synced(14, 1_795_209_733_180_145, [5037, 5508, 6444, 7063], &script);
            let net = NetConfig {
                after_sb_0pri: AfterSb0::DiscardLeastChanges,
                after_sb_1pri: AfterSb1::DiscardSecondary,
                ..c.net
            };
            Conversation { net, ..c }
        }
        16 => {
            let alone = See(StandAlone, S, U, Inconsistent, DUnknown, 17368);
            let script = [
                (5353, 1, PeerSecret(b"tost")),
                (5434, 1, Up),
                (5862, 2, UpWith(Other::Secret(b"tost"))),
                (10_400, 1, alone),
                (10_400, 2, alone),
                (10_503, 1, Down),
                (10_642, 2, Down),
                (10_891, 1, Up),
                (11_311, 2, UpWith(Other::NoSecret)),
                (60_000, 1, alone),
                (60_000, 2, See(WFConnection, S, U, Inconsistent, DUnknown, 17368)),
            ];
            Conversation::new(16, 1_795_209_768_266_315, &script)
        }
        17 => {
            let alone = See(StandAlone, S, U, Inconsistent, DUnknown, 17368);
            let script = [
                (5584, 1, Up),
                (6026, 2, UpWith(Other::Protocol(Protocol::A))),
                (9700, 1, alone),
                (9700, 2, alone),
                (9801, 1, Down),
                (10_024, 2, Down),
                (10_306, 1, UpWith(Other::TwoPrimaries)),
                (10_738, 2, Up),
                (14_100, 1, alone),
                (14_100, 2, alone),
                (14_171, 1, Down),
                (14_335, 2, Down),
                (14_717, 1, Up),
                (15_223, 2, UpWith(Other::VerifyAlg("md5"))),
                (60_000, 1, alone),
                (60_000, 2, alone),
            ];
            Conversation::new(17, 1_795_209_789_255_361, &script)
        }
        18 => {
            let script = [
                (7738, 1, Detach),
                (8000, 1, See(Connected, P, S, Diskless, UpToDate, 0)),
                (8446, 1, Attach),
                seen_by(60_000, 1, P, S),
                seen_by(60_000, 2, S, P),
            ];
            synced(18, 1_795_209_813_250_715, [5282, 5783, 6702, 7347], &script)
        }
        19 => {
            let alone = |role, kib| See(WFConnection, role, U, UpToDate, DUnknown, kib);
            let script = [
                (14_295, 1, LinkDown),
                (14_295, 2, LinkDown),
                (17_000, 1, alone(P, 4)),
                (17_000, 2, alone(S, 0)),
                (18_091, 1, LinkUp),
                (18_091, 2, LinkUp),
                seen_by(60_000, 1, P, S),
                seen_by(60_000, 2, S, P),
            ];
            impatient(synced(19, 1_795_209_829_290_011, [5148, 5534, 6442, 7156], &script))
        }
        20 => {
            let script = [(8439, 1, InvalidateRemote), seen_by(60_000, 1, P, S)];
            synced(20, 1_795_209_861_281_836, [5770, 6293, 7542, 8206], &script)
        }
        22 => {
            let c = synced(22, 1_795_209_892_358_112, [4957, 5349, 6214, 6874], &[]).protocol(Protocol::A);
            Conversation { net: NetConfig { max_buffers: 32, ..c.net }, ..c }
        }
        23 => {
            let (detach, pass_on) = (OnIoError(OnError::Detach), OnIoError(OnError::PassOn));
            let script = [
                (13_052, 2, Disk(Faults::Writes)),
                (14_364, 2, Disk(Faults::None)),
                (14_000, 1, Write(9, 1, 1)),
                (14_500, 1, See(Connected, P, S, UpToDate, Diskless, 8)),
                // The kernel's bitmap in memory does not show the block that the disk refused.
                (14_500, 2, See(Connected, S, P, Diskless, UpToDate, 4)),
                (15_136, 2, Attach),
                (17_225, 1, pass_on),
                (17_398, 2, pass_on),
                (17_578, 1, Disk(Faults::Reads)),
                (17_662, 1, InvalidateRemote),
                (19_842, 1, Disk(Faults::None)),
                (19_900, 1, See(ConnState::SyncSource, P, S, UpToDate, Inconsistent, 17368)),
                seen_by(22_100, 1, P, S),
                (22_165, 1, detach),
                (22_419, 1, Disk(Faults::Reads)),
                (22_502, 1, Read(0)),
                (23_605, 1, Disk(Faults::None)),
                // Nor the block that it could not read.
                (23_800, 1, See(Connected, P, S, Diskless, UpToDate, 4)),
                (24_300, 1, See(Connected, P, S, Diskless, Inconsistent, 4)),
                seen_by(17_550, 2, S, P),
            ];
            // The kernel reads once more from a peer that it shows as Inconsistent, the core does not. As a target
            // to which every block is refused the core goes on asking, the kernel does not.
            let until = [Some(24_300), Some(17_600)];
            let c = synced(23, 1_795_209_921_407_597, [9456, 10_185, 11_477, 12_452], &script);
            Conversation { until, ..c }
        }
        24 => {
            let paused = |conn, role, peer, disk, pdsk| See(conn, role, peer, disk, pdsk, 15084);
            let paused_s = paused(ConnState::PausedSyncS, P, S, UpToDate, Inconsistent);
            let paused_t = paused(ConnState::PausedSyncT, S, P, Inconsistent, UpToDate);
            let script = [
                (7712, 1, InvalidateRemote),
                (9080, 1, PauseSync),
                (9200, 1, paused_s),
                (9200, 2, paused_t),
                (9470, 2, PauseSync),
                (9685, 1, ResumeSync),
                (9900, 1, paused_s),
                (9900, 2, paused_t),
                (10_138, 2, ResumeSync),
                (10_309, 1, FastResync),
                (10_556, 2, FastResync),
                (12_330, 1, Secondary),
                (12_501, 1, Invalidate),
                (14_259, 1, SuspendIo),
                seen_by(14_500, 1, S, S),
                (14_560, 1, ResumeIo),
                (14_722, 2, Outdate),
                seen_by(14_900, 2, S, S),
                (14_947, 1, Disconnect),
                (15_083, 2, Outdate),
                (15_300, 1, See(StandAlone, S, U, UpToDate, DUnknown, 0)),
                (15_300, 2, See(WFConnection, S, U, Outdated, DUnknown, 0)),
                (15_379, 1, Connect),
                seen_by(60_000, 1, S, S),
                seen_by(60_000, 2, S, S),
            ];
            let c = synced(24, 1_795_209_953_408_971, [5450, 5827, 6788, 7488], &script);
            Conversation { disk: DiskConfig { resync_rate_kib_s: 2048, ..c.disk }, ..c }
        }
        26 => {
            let script = [
                (10_361, 1, Crash),
                (10_361, 2, LinkDown),
                (16_000, 2, See(WFConnection, S, U, UpToDate, DUnknown, 0)),
                (16_827, 2, LinkUp),
                (18_000, 1, Up),
                seen_by(60_000, 1, S, S),
                seen_by(60_000, 2, S, S),
            ];
            impatient(synced(26, 1_795_213_527_198_600, [5846, 6364, 7342, 8040], &script))
        }
        27 => {
            let script = [(7940, 1, SkipSync(1)), seen_by(60_000, 1, P, S), seen_by(60_000, 2, S, P)];
            let mut c = synced(27, 1_795_210_025_456_749, [6219, 6614, 7763, 8532], &script);
            c.script.sort_by_key(|step| step.0);
            Conversation { volumes: 2, ..c }
        }
        28 => {
            // 181 blocks were cleared on the target when they were written, without the core's permission.
            let marked = See(ConnState::SyncSource, P, S, UpToDate, Inconsistent, 724);
            let script = [(7246, 1, InvalidateRemote), (8850, 1, FastResync), (60_000, 1, marked)];
            let c = synced(28, 1_795_210_039_474_878, [5146, 5500, 6381, 7042], &script);
            Conversation { disk: DiskConfig { resync_rate_kib_s: 4096, ..c.disk }, ..c }
        }
        other => panic!("no script for capture {other}"),
    }
}

/// A pair that was connected, marked as in sync and made Primary on node 1 at these milliseconds; both are
/// Connected and UpToDate in the end unless the script says otherwise.
fn synced(number: u32, base_us: u64, at: [u64; 4], more: &[(u64, u8, Step)]) -> Conversation {
    let mut script = vec![(at[0], 1, Step::Up), (at[1], 2, Step::Up), (at[2], 1, Step::SkipSync(0))];
    script.push((at[3], 1, Step::Primary));
    script.extend_from_slice(more);
    let (up, p, s) = (DiskState::UpToDate, Role::Primary, Role::Secondary);
    if !more.iter().any(|step| matches!(step.2, Step::See(..))) {
        script.push((60_000, 1, Step::See(ConnState::Connected, p, s, up, up, 0)));
        script.push((60_000, 2, Step::See(ConnState::Connected, s, p, up, up, 0)));
    }
    Conversation::new(number, base_us, &script)
}

/// With the short times of captures 19 and 26.
fn impatient(c: Conversation) -> Conversation {
    let net = NetConfig {
        ping_int: Duration::from_secs(2),
        timeout: Duration::from_secs(2),
        ping_timeout: Duration::from_millis(500),
        connect_int: Duration::from_secs(2),
        ..c.net
    };
    Conversation { net, ..c }
}

/// Node 2 disconnects, node 1 writes 140 blocks, node 2 comes back.
fn away(leaves: u64, writes: u64, more: u64, returns: u64) -> Vec<(u64, u8, Step)> {
    let mut script = vec![(leaves, 2, Step::Disconnect)];
    for block in [0, 1, 2, 10, 100, 101, 1000, 2000, 2001, 2002, 2003, 4000] {
        script.push((writes, 1, Step::Write(block, block as u32 % 1024, 1)));
    }
    script.push((more, 1, Step::Write(512, 0, 128)));
    let (up, lost) = (DiskState::UpToDate, DiskState::DUnknown);
    let (p, s, u) = (Role::Primary, Role::Secondary, Role::Unknown);
    script.push((more + 100, 1, Step::See(ConnState::WFConnection, p, u, up, lost, 560)));
    script.push((returns, 2, Step::Connect));
    script.push((60_000, 1, Step::See(ConnState::Connected, p, s, up, up, 0)));
    script.push((60_000, 2, Step::See(ConnState::Connected, s, p, up, up, 0)));
    script
}
