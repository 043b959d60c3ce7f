//! Compares what the core sends with what the recorded node sent, and translates what the recorded peer says for
//! the core.

use std::collections::{BTreeSet, HashMap, HashSet};

use hmac::{Hmac, KeyInit, Mac};
use model::ids::DataUuid;
use replicator::wire::{
    Ack, AuthResponse, BlockId, Command, Data, DpFlags, Features, Packet, Request, SyncUuid, Trim, Uuids,
};
use sha1::Sha1;

use super::node::Sent;
use crate::support::capture::Captured;

/// The shared secret of the recorded resources.
pub const SECRET: &[u8] = b"test";

/// In what the core may differ from the recorded node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Allowed {
    RandomNumbers,
    BitOfSyncUuid,
    BlockIds,
    BarrierNumbers,
    FeatureBit,
    NoZeroesWithDigests,
    DeviceLimits,
    RwSync,
    MaySetInSync,
    NoFlushInC,
    MoreFlushes,
    Unplug,
    Pings,
    UuidsAtDisconnect,
    ZeroesAsData,
    EarlyResyncRequest,
    EarlyRead,
}

/// Why it may. Each entry occurs in at least one replay.
#[rustfmt::skip]
pub const ALLOWED: &[(Allowed, &str)] = &[
    (Allowed::RandomNumbers, "challenges and UUIDs are random; UUIDs are mapped one to one, role bits have to agree"),
    (Allowed::BitOfSyncUuid, "bit 0 of a random sync UUID: random in the kernel, cleared by the core, never compared"),
    (Allowed::BlockIds, "chosen by the sender, opaque to the peer (drbd-wire 4.2); mapped"),
    (Allowed::BarrierNumbers, "chosen by the sender, opaque to the peer (drbd-wire 4.6)"),
    (Allowed::FeatureBit, "by bit 30 two lockstep nodes know each other; it vanishes in the AND with a kernel"),
    (Allowed::NoZeroesWithDigests, "P_ZEROES is not offered beside data-integrity-alg: trap 14 of drbd-wire"),
    (Allowed::DeviceLimits, "queue limits in P_SIZES are those of the backing device"),
    (Allowed::RwSync, "DP_RW_SYNC is a hint for the peer's I/O scheduler (drbd-wire 4.2)"),
    (Allowed::MaySetInSync, "DP_MAY_SET_IN_SYNC permits to clear bits early, which the core never does; so capture 28, \
        whose target did, is replayed as its source alone and ends with those blocks still marked"),
    (Allowed::NoFlushInC, "no DP_FLUSH in protocol C: a flush is answered when the epochs before it are acknowledged"),
    (Allowed::MoreFlushes, "in A and B DP_FLUSH also where a client's flush came before: stricter than a barrier"),
    (Allowed::Unplug, "P_UNPLUG_REMOTE is a hint; how many are sent is free"),
    (Allowed::Pings, "when to ping is free; every ping of the peer is answered"),
    (Allowed::UuidsAtDisconnect, "P_UUIDS made by the peer's disconnect, if a socket still takes it: in 07, not in 06"),
    (Allowed::ZeroesAsData, "a source may answer P_RS_THIN_REQ with data (drbd-wire 6.3); the core does not look at it"),
    (Allowed::EarlyResyncRequest, "the core asks when answers make room, not in steps alone; order and sizes agree"),
    (Allowed::EarlyRead, "a read that failed here is asked for at once, not when the disk is Diskless in the end"),
];

/// What the recorded node chose at random, and what the core chose in its place.
#[derive(Default)]
pub struct Mapping {
    uuids: HashMap<u64, u64>,
    taken: HashMap<u64, u64>,
    /// Recorded sync UUIDs of random origin: the kernel leaves their bit 0 random, too.
    odd: HashSet<u64>,
    ids: HashMap<(u64, u64), u64>,
    /// What was allowed so far.
    pub allowed: BTreeSet<Allowed>,
}

impl Mapping {
    /// The core's name of a recorded generation.
    pub fn translate(&self, recorded: DataUuid) -> DataUuid {
        let role = recorded.0 & 1;
        let id = recorded.masked();
        if let Some(own) = self.uuids.get(&id) {
            return DataUuid(own | role);
        }
        // A sync UUID is made from the bitmap UUID, which may be one of ours.
        let base = id.wrapping_sub(DataUuid::SYNC_OFFSET);
        match self.uuids.get(&base) {
            Some(own) => DataUuid(own.wrapping_add(DataUuid::SYNC_OFFSET) | role),
            None => recorded,
        }
    }

    /// True; notes that a difference was allowed, if there is one.
    pub fn allow(&mut self, what: Allowed, differs: bool) -> bool {
        if differs {
            self.allowed.insert(what);
        }
        true
    }

    /// Whether `own` may stand where the recorded node has `recorded`; learns the pair if it is new.
    pub fn agree(&mut self, recorded: DataUuid, own: DataUuid) -> bool {
        let fixed = |u: DataUuid| u.is_zero() || u == DataUuid::JUST_CREATED;
        if fixed(recorded) || fixed(own) {
            return recorded == own;
        }
        self.allow(Allowed::RandomNumbers, !recorded.same_as(own));
        if recorded.primary_bit() != own.primary_bit() {
            if !self.odd.contains(&recorded.masked()) {
                return false;
            }
            self.allow(Allowed::BitOfSyncUuid, true);
        }
        let known = self.translate(recorded);
        if known != recorded || self.uuids.contains_key(&recorded.masked()) {
            return known.same_as(own);
        }
        match self.taken.insert(own.masked(), recorded.masked()) {
            Some(other) if other != recorded.masked() => return false,
            _ => {}
        }
        self.uuids.insert(recorded.masked(), own.masked());
        true
    }

    /// Made from a generation that was seen, not from random bytes.
    fn is_derived(&self, recorded: DataUuid) -> bool {
        self.uuids.contains_key(&recorded.masked().wrapping_sub(DataUuid::SYNC_OFFSET))
    }

    fn learn_peers(&mut self, recorded: DataUuid) {
        let own = self.translate(recorded).masked();
        if !recorded.is_zero() {
            self.uuids.entry(recorded.masked()).or_insert(own);
            self.taken.entry(own).or_insert(recorded.masked());
        }
    }

    fn id(&self, sector: u64, recorded: BlockId) -> BlockId {
        let own = self.ids.get(&(sector, recorded.0));
        BlockId(own.copied().unwrap_or(recorded.0))
    }

    /// What the recorded peer would say to the core in place of the recorded node.
    pub fn for_core<'a>(&mut self, packet: Packet<'a>, mac: &'a [u8]) -> Packet<'a> {
        let ack = |m: &Mapping, a: Ack| Ack { block_id: m.id(a.sector, a.block_id), ..a };
        match packet {
            Packet::AuthResponse(_) => Packet::AuthResponse(AuthResponse(mac)),
            Packet::Uuids(u) => {
                for slot in [u.current, u.bitmap, u.history[0], u.history[1]] {
                    self.learn_peers(slot);
                }
                Packet::Uuids(Uuids {
                    current: self.translate(u.current),
                    bitmap: self.translate(u.bitmap),
                    history: u.history.map(|h| self.translate(h)),
                    ..u
                })
            }
            Packet::SyncUuid(u) => {
                self.learn_peers(u.0);
                Packet::SyncUuid(SyncUuid(self.translate(u.0)))
            }
            Packet::WriteAck(a) => Packet::WriteAck(ack(self, a)),
            Packet::RecvAck(a) => Packet::RecvAck(ack(self, a)),
            Packet::RsWriteAck(a) => Packet::RsWriteAck(ack(self, a)),
            Packet::NegAck(a) => Packet::NegAck(ack(self, a)),
            Packet::NegDreply(a) => Packet::NegDreply(ack(self, a)),
            Packet::DataReply(d) => Packet::DataReply(Data { block_id: self.id(d.sector, d.block_id), ..d }),
            other => other,
        }
    }

    /// Compares a packet of the core with the recorded one in its place.
    pub fn compare(&mut self, recorded: &Captured, own: &Sent) -> Result<(), String> {
        let theirs = recorded.packet();
        let features =
            if recorded.features.contains(Features::WSAME) { Features::ALL } else { recorded.features };
        let ours = Packet::decode(&own.header, &own.body, features).map_err(|e| e.to_string())?;
        let same_header = recorded.header.form == own.header.form
            && recorded.header.vnr == own.header.vnr
            && recorded.header.len == own.header.len;
        if let (Packet::RsDeallocated(t), Packet::RsDataReply(o)) = (theirs, ours)
            && (t.sector, t.size_bytes as usize) == (o.sector, own.payload.len())
            && own.payload.iter().all(|b| *b == 0)
        {
            self.allow(Allowed::ZeroesAsData, true);
            return Ok(());
        }
        let same_data = recorded.payload == own.payload && recorded.digest == own.digest;
        if same_header && same_data && self.same_body(&theirs, &ours) {
            return Ok(());
        }
        let what = if !same_header {
            "header"
        } else if !same_data {
            "block data"
        } else {
            "fields"
        };
        Err(format!(
            "{what} differ\n  recorded {:?} {theirs:?}\n  core     {:?} {ours:?}",
            recorded.header, own.header
        ))
    }

    fn same_body(&mut self, theirs: &Packet<'_>, ours: &Packet<'_>) -> bool {
        match (*theirs, *ours) {
            (Packet::ConnectionFeatures(t), Packet::ConnectionFeatures(o)) => {
                let own = o.features.0 & !(1 << 30);
                let zeroes = Features::WZEROES.0;
                (t.version_min, t.version_max) == (o.version_min, o.version_max)
                    && own | zeroes == t.features.0
                    && self.allow(Allowed::FeatureBit, o.features != t.features)
                    && self.allow(Allowed::NoZeroesWithDigests, own != t.features.0)
            }
            (Packet::AuthChallenge(t), Packet::AuthChallenge(o)) => {
                self.allow(Allowed::RandomNumbers, t != o)
            }
            (Packet::Sizes(t), Packet::Sizes(o)) => {
                let size = (o.d_size_sectors, o.u_size_sectors, o.c_size_sectors);
                size == (t.d_size_sectors, t.u_size_sectors, t.c_size_sectors)
                    && (t.queue_order_type, t.dds_flags) == (o.queue_order_type, o.dds_flags)
                    && t.max_bio_bytes == o.max_bio_bytes
                    && t.limits.is_some() == o.limits.is_some()
                    && self.allow(Allowed::DeviceLimits, t.limits != o.limits)
            }
            (Packet::Uuids(t), Packet::Uuids(o)) => {
                (t.dirty_bits, t.flags) == (o.dirty_bits, o.flags)
                    && self.agree(t.current, o.current)
                    && self.agree(t.bitmap, o.bitmap)
                    && self.agree(t.history[0], o.history[0])
                    && self.agree(t.history[1], o.history[1])
            }
            (Packet::SyncUuid(t), Packet::SyncUuid(o)) => {
                if !self.is_derived(t.0) {
                    self.odd.insert(t.0.masked());
                }
                self.agree(t.0, o.0)
            }
            (Packet::Data(t), Packet::Data(o)) => {
                self.same_id(t.sector, t.block_id, o.block_id);
                (t.sector, t.seq_num) == (o.sector, o.seq_num) && self.same_flags(t.dp_flags, o.dp_flags)
            }
            (Packet::Trim(t), Packet::Trim(o)) | (Packet::Zeroes(t), Packet::Zeroes(o)) => {
                self.same_id(t.sector, t.block_id, o.block_id);
                let place = |t: &Trim| (t.sector, t.size_bytes, t.seq_num);
                place(&t) == place(&o) && self.same_flags(t.dp_flags, o.dp_flags)
            }
            (Packet::DataRequest(t), Packet::DataRequest(o)) => {
                self.same_id(t.sector, t.block_id, o.block_id);
                (t.sector, t.size_bytes) == (o.sector, o.size_bytes)
            }
            (Packet::OvRequest(t), Packet::OvRequest(o)) => same_request(&t, &o),
            // The kernel's id is garbage here (drbd-wire 6.3).
            (Packet::RsIsInSync(t), Packet::RsIsInSync(o)) => t == Ack { block_id: t.block_id, ..o },
            (Packet::CsumRsRequest(t), Packet::CsumRsRequest(o))
            | (Packet::OvReply(t), Packet::OvReply(o)) => {
                same_request(&t.request, &o.request) && t.digest == o.digest
            }
            (Packet::Barrier(t), Packet::Barrier(o)) => self.allow(Allowed::BarrierNumbers, t != o),
            (t, o) => t == o,
        }
    }

    fn same_id(&mut self, sector: u64, recorded: BlockId, own: BlockId) {
        self.ids.insert((sector, recorded.0), own.0);
        self.allow(Allowed::BlockIds, recorded != own);
    }

    fn same_flags(&mut self, recorded: DpFlags, own: DpFlags) -> bool {
        let protocol_c = recorded.contains(DpFlags::SEND_WRITE_ACK);
        let (less, more) = (recorded.0 & !own.0, own.0 & !recorded.0);
        let missing = |flag: DpFlags| less & flag.0 != 0;
        self.allow(Allowed::RwSync, missing(DpFlags::RW_SYNC));
        self.allow(Allowed::MaySetInSync, missing(DpFlags::MAY_SET_IN_SYNC));
        self.allow(Allowed::NoFlushInC, protocol_c && missing(DpFlags::FLUSH));
        self.allow(Allowed::MoreFlushes, !protocol_c && more & DpFlags::FLUSH.0 != 0);
        let hints = DpFlags::RW_SYNC | DpFlags::MAY_SET_IN_SYNC;
        let (may_lack, may_add) = match protocol_c {
            true => (hints | DpFlags::FLUSH, DpFlags::NONE),
            false => (hints, DpFlags::FLUSH),
        };
        less & !may_lack.0 == 0 && more & !may_add.0 == 0
    }
}

/// What is behind the size means nothing.
fn same_request(recorded: &Request, own: &Request) -> bool {
    *own == Request { pad: own.pad, ..*recorded }
}

/// Packets whose number and place are free.
pub fn is_hint(command: Command) -> Option<Allowed> {
    match command {
        Command::UnplugRemote => Some(Allowed::Unplug),
        Command::Ping | Command::PingAck => Some(Allowed::Pings),
        _ => None,
    }
}

/// Requests that the core may send earlier than the recorded node, in front of another packet.
pub fn may_overtake(own: Command, recorded: Command) -> Option<Allowed> {
    match (own, recorded) {
        (Command::RsDataRequest, Command::SyncParam89) => Some(Allowed::EarlyResyncRequest),
        (Command::DataRequest, Command::State) => Some(Allowed::EarlyRead),
        _ => None,
    }
}

/// The response to a challenge.
pub fn mac(secret: &[u8], challenge: &[u8]) -> Vec<u8> {
    let mut h = <Hmac<Sha1>>::new_from_slice(secret).expect("any key length is taken");
    h.update(challenge);
    h.finalize().into_bytes().to_vec()
}
