//! Comparison of two nodes' data generations (drbd-wire 8.5, 8.6): a table, first match wins.

use model::ids::DataUuid;
use model::state::Role;

/// The four generation slots of one node, with the role bits as stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UuidSet {
    /// The present data.
    pub current: DataUuid,
    /// What the bitmap describes the difference to; zero if it describes none.
    pub bitmap: DataUuid,
    /// Previous generations, the younger first.
    pub history: [DataUuid; 2],
}

/// What the comparison depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Input {
    /// Own generations.
    pub own: UuidSet,
    /// The peer's, as stored from its UUIDs packet.
    pub peer: UuidSet,
    /// Own mark: was Primary when it went down.
    pub own_crashed: bool,
    /// The peer's mark (UUID flag 0x2).
    pub peer_crashed: bool,
    /// Own current generation has nothing that the peer lacks, if the peer's is `taken back` (see `UuidFlags`).
    pub own_empty: bool,
    /// The same for the peer's.
    pub peer_empty: bool,
    /// Own current generation was begun with the own disk taken back (see `UuidFlags`).
    pub own_taken_back: bool,
    /// The same for the peer's.
    pub peer_taken_back: bool,
    /// Own role.
    pub role: Role,
    /// The peer's role, from the state packet being processed.
    pub peer_role: Role,
    /// This node has the conflict flag; exactly one of the two has it.
    pub conflict_flag: bool,
    /// FF_WSAME was agreed.
    pub write_same_agreed: bool,
    /// Agreed protocol version.
    pub agreed_version: u32,
}

/// How the data of the two nodes is related.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UuidRelation {
    /// Equal.
    Same,
    /// The peer lacks changes of this node; `full`: the bitmap does not say which.
    Source {
        /// All blocks have to be sent.
        full: bool,
    },
    /// This node lacks changes of the peer.
    Target {
        /// All blocks have to be received.
        full: bool,
    },
    /// Both have changes the other lacks. `base_known`: both bitmaps start at the same generation, so
    /// automatic policies always apply.
    SplitBrain {
        /// Both bitmaps start at the same generation.
        base_known: bool,
    },
    /// Nothing in common.
    Unrelated,
    /// The situation is known, but only newer nodes can solve it.
    NeedsNewer {
        /// Protocol version both would need.
        version: u32,
        /// Feature flags both would need.
        features: u32,
    },
}

/// Result of [`compare`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Comparison {
    /// The relation.
    pub relation: UuidRelation,
    /// Number of the rule that matched, for the log.
    pub rule: u8,
    /// Own set; to be persisted if it differs from the input.
    pub own: UuidSet,
    /// The peer's set to keep for the update at the end of the resync.
    pub peer: UuidSet,
}

impl Comparison {
    /// The own bitmap slot names a sync UUID that the peer has not stored.
    pub const fn peer_has_not_begun(&self) -> bool {
        matches!(self.rule, 36 | 71)
    }
}

/// Compares own and peer's generations.
///
/// The result is the mirror image of what the peer finds with the same facts: never two sources, never two
/// targets. Sets that do not allow that (each is an ancestor of the other, or neither has a generation at all)
/// contradict each other and count as unrelated; no history of writes and resyncs produces them.
pub fn compare(input: &Input) -> Comparison {
    let row = matching_row(input);
    let relation = row.map_or(UuidRelation::Unrelated, |r| r.relation);
    let at_peer = matching_row(&input.seen_by_peer()).map_or(UuidRelation::Unrelated, |r| r.relation);
    let rule = row.map_or(LAST_RULE, |r| r.rule);
    let mut result = Comparison { relation, rule, own: input.own, peer: input.peer };
    if at_peer != relation.mirrored() {
        result.relation = UuidRelation::Unrelated;
        return result;
    }
    match row.map_or(Correction::None, |r| r.correction) {
        Correction::None => {}
        Correction::OwnEndMissed => end_of_sync(&mut result.own),
        Correction::PeerEndMissed => end_of_sync(&mut result.peer),
        Correction::OwnSyncUuidLost => undo_sync_uuid(&mut result.own, input.peer.current),
        Correction::PeerSyncUuidLost => undo_sync_uuid(&mut result.peer, input.own.current),
        Correction::OwnEndMissedAlone => end_of_earlier_sync(&mut result.own, input.peer.current),
        Correction::PeerEndMissedAlone => end_of_earlier_sync(&mut result.peer, input.own.current),
    }
    result
}

fn matching_row(input: &Input) -> Option<&'static Row> {
    let facts = Facts::of(input);
    ROWS.iter().find(|row| (row.applies)(&facts))
}

fn end_of_sync(set: &mut UuidSet) {
    set.history = [set.bitmap, set.history[0]];
    set.bitmap = DataUuid::ZERO;
}

/// `base`: the target's generation, which the sync UUID in the bitmap slot is the successor of. It is the youngest of the
/// history unless the source went on alone after that.
fn undo_sync_uuid(set: &mut UuidSet, base: DataUuid) {
    if set.history[0].same_as(base) {
        set.bitmap = set.history[0];
        set.history[0] = set.history[1];
    } else {
        set.bitmap = base.with_primary_bit(false);
    }
}

/// The source went on alone after a resync whose end it did not notice. What was current then (`base`) is what the target
/// has now, and what the bitmap describes the difference to. It is the youngest of the history, if the source did not
/// begin more generations than one.
fn end_of_earlier_sync(set: &mut UuidSet, base: DataUuid) {
    let older = set.history[usize::from(set.history[0].same_as(base))];
    let base = if set.history[0].same_as(base) { set.history[0] } else { base.with_primary_bit(false) };
    set.history = [set.bitmap, older];
    set.bitmap = base;
}

#[derive(Clone, Copy)]
enum Correction {
    None,
    OwnEndMissed,
    PeerEndMissed,
    OwnSyncUuidLost,
    PeerSyncUuidLost,
    OwnEndMissedAlone,
    PeerEndMissedAlone,
}

struct Row {
    rule: u8,
    applies: fn(&Facts) -> bool,
    relation: UuidRelation,
    correction: Correction,
}

const fn row(rule: u8, relation: UuidRelation, applies: fn(&Facts) -> bool) -> Row {
    Row { rule, applies, relation, correction: Correction::None }
}

const fn correcting(
    rule: u8,
    relation: UuidRelation,
    correction: Correction,
    applies: fn(&Facts) -> bool,
) -> Row {
    Row { rule, applies, relation, correction }
}

/// The values with bit 0 masked, own ones in capitals as in the specification (`o` for own, `p` for peer).
struct Facts {
    o: [u64; 4],
    p: [u64; 4],
    own_bitmap_set: bool,
    peer_bitmap_set: bool,
    input: Input,
}

const C: usize = 0;
const B: usize = 1;
const H1: usize = 2;
const H2: usize = 3;
const JUST_CREATED: u64 = DataUuid::JUST_CREATED.0;
const FF_WSAME: u32 = 0x4;
const LAST_RULE: u8 = 100;

const SOURCE: UuidRelation = UuidRelation::Source { full: false };
const SOURCE_FULL: UuidRelation = UuidRelation::Source { full: true };
const TARGET: UuidRelation = UuidRelation::Target { full: false };
const TARGET_FULL: UuidRelation = UuidRelation::Target { full: true };
const SPLIT_BRAIN: UuidRelation = UuidRelation::SplitBrain { base_known: true };
const SPLIT_BRAIN_NO_BASE: UuidRelation = UuidRelation::SplitBrain { base_known: false };
const NEEDS_91: UuidRelation = UuidRelation::NeedsNewer { version: 91, features: 0 };
const NEEDS_WSAME: UuidRelation = UuidRelation::NeedsNewer { version: 101, features: FF_WSAME };

// spec: drbd-wire 8.6
#[rustfmt::skip]
const ROWS: &[Row] = &[
    row(10, UuidRelation::Same, |f| f.o[C] == JUST_CREATED && f.p[C] == JUST_CREATED),
    row(20, TARGET_FULL,        |f| fresh(f.o[C]) && f.p[C] != JUST_CREATED),
    row(30, SOURCE_FULL,        |f| f.o[C] != JUST_CREATED && fresh(f.p[C])),

    // same current; one node has not noticed the end of the last resync
    row(34, NEEDS_91,           |f| f.same() && f.only_own_bitmap() && f.input.agreed_version < 91),
    correcting(34, SOURCE, Correction::OwnEndMissed,
                                |f| f.same() && f.only_own_bitmap()
                                    && f.o[B] == f.p[H1] && f.o[H1] == f.p[H2]),
    row(36, SOURCE,             |f| f.same() && f.only_own_bitmap()),
    row(35, NEEDS_91,           |f| f.same() && f.only_peer_bitmap() && f.input.agreed_version < 91),
    correcting(35, TARGET, Correction::PeerEndMissed,
                                |f| f.same() && f.only_peer_bitmap()
                                    && f.o[H1] == f.p[B] && f.o[H2] == f.p[H1]),
    row(37, TARGET,             |f| f.same() && f.only_peer_bitmap()),

    // same current; a Primary that crashed may have blocks the other lacks
    row(40, UuidRelation::Same, |f| f.same() && !f.any_crashed()),
    row(41, NEEDS_WSAME,        |f| f.same() && f.any_primary() && !f.input.write_same_agreed),
    row(41, SPLIT_BRAIN_NO_BASE,
                                |f| f.same() && f.own_primary() && f.peer_primary()),
    row(41, SOURCE,             |f| f.same() && f.own_primary()),
    row(41, TARGET,             |f| f.same() && f.peer_primary()),
    row(40, SOURCE,             |f| f.same() && !f.input.peer_crashed),
    row(40, TARGET,             |f| f.same() && !f.input.own_crashed),
    row(40, TARGET,             |f| f.same() && f.input.conflict_flag),
    row(40, SOURCE,             |f| f.same()),

    // one is an ancestor of the other
    row(50, TARGET,             |f| f.o[C] == f.p[B]),
    row(51, NEEDS_91,           |f| f.peer_sync_uuid_lost() && f.input.agreed_version < 91),
    correcting(51, TARGET, Correction::PeerSyncUuidLost, Facts::peer_sync_uuid_lost),
    correcting(52, TARGET, Correction::PeerEndMissedAlone, Facts::peer_end_missed_alone),
    row(53, TARGET,             Facts::own_sync_undone),
    // what a target had before may be younger than its source: the states of the disks had the last word
    row(60, TARGET_FULL,        |f| f.p[H1..].contains(&f.o[C]) && !f.peer_is_own_target()),
    row(70, SOURCE,             |f| f.o[B] == f.p[C]),
    row(71, NEEDS_91,           |f| f.own_sync_uuid_lost() && f.input.agreed_version < 91),
    correcting(71, SOURCE, Correction::OwnSyncUuidLost, Facts::own_sync_uuid_lost),
    correcting(72, SOURCE, Correction::OwnEndMissedAlone, Facts::own_end_missed_alone),
    row(73, SOURCE,             Facts::peer_sync_undone),
    row(80, SOURCE_FULL,        |f| f.o[H1] == f.p[C] || f.o[H2] == f.p[C]),

    // A Primary took its disk back before it heard that its peer had begun a generation for its clients.
    row(85, TARGET,             |f| f.same_base() && f.own_yields() && !f.peer_yields()),
    row(86, SOURCE,             |f| f.same_base() && f.peer_yields() && !f.own_yields()),

    // both went on from something
    // masked here as well: a lone role bit is no generation, and both nodes have to agree on that
    row(90, SPLIT_BRAIN,        Facts::same_base),
    // The specification looks at the history alone, and takes two empty slots for a common generation.
    row(100, SPLIT_BRAIN_NO_BASE, Facts::common_past),
];

fn successor(generation: u64) -> u64 {
    generation.wrapping_add(DataUuid::SYNC_OFFSET)
}

fn fresh(current: u64) -> bool {
    current == JUST_CREATED || current == 0
}

impl Facts {
    fn of(input: &Input) -> Facts {
        let masked = |s: &UuidSet| [s.current, s.bitmap, s.history[0], s.history[1]].map(DataUuid::masked);
        Facts {
            o: masked(&input.own),
            p: masked(&input.peer),
            own_bitmap_set: !input.own.bitmap.is_zero(),
            peer_bitmap_set: !input.peer.bitmap.is_zero(),
            input: *input,
        }
    }

    fn same(&self) -> bool {
        self.o[C] == self.p[C]
    }

    fn same_base(&self) -> bool {
        self.o[B] == self.p[B] && self.o[B] != 0
    }

    /// Every copy was created once: that stands in the history of strangers too. In a bitmap slot it is the base of what has
    /// been written since.
    fn common_past(&self) -> bool {
        let created_counts = self.o[B] == JUST_CREATED || self.p[B] == JUST_CREATED;
        let tells = |g: u64| g != 0 && (g != JUST_CREATED || created_counts);
        self.o[B..].iter().any(|g| tells(*g) && self.p[B..].contains(g))
    }

    fn own_yields(&self) -> bool {
        self.input.own_empty && self.input.peer_taken_back
    }

    fn peer_yields(&self) -> bool {
        self.input.peer_empty && self.input.own_taken_back
    }

    fn only_own_bitmap(&self) -> bool {
        self.own_bitmap_set && !self.peer_bitmap_set
    }

    fn only_peer_bitmap(&self) -> bool {
        !self.own_bitmap_set && self.peer_bitmap_set
    }

    fn any_crashed(&self) -> bool {
        self.input.own_crashed || self.input.peer_crashed
    }

    fn own_primary(&self) -> bool {
        self.input.role == Role::Primary
    }

    fn peer_primary(&self) -> bool {
        self.input.peer_role == Role::Primary
    }

    fn any_primary(&self) -> bool {
        self.own_primary() || self.peer_primary()
    }

    /// The peer started as source and rotated; its sync UUID never arrived here.
    fn peer_sync_uuid_lost(&self) -> bool {
        if self.input.agreed_version < 96 {
            self.o[C] == self.p[H1] && self.o[H1] == self.p[H2]
        } else {
            let named = self.p[H1..].contains(&self.o[C]) || !self.o[B..].contains(&self.p[C]);
            named && successor(self.o[C]) == self.p[B]
        }
    }

    /// This node started as source and rotated; its sync UUID never arrived there. In the specification the
    /// base of the sync UUID is the youngest of the history; but if the source crashed and went on alone, it has moved on,
    /// and after some generations it is gone. The sync UUID tells by itself that it is the successor of that base.
    /// The bitmap has not moved: bits are cleared for a target only that has stored the sync UUID.
    fn own_sync_uuid_lost(&self) -> bool {
        if self.input.agreed_version < 96 {
            self.o[H1] == self.p[C] && self.o[H2] == self.p[H1]
        } else {
            let named = self.o[H1..].contains(&self.p[C]) || !self.p[B..].contains(&self.o[C]);
            named && successor(self.p[C]) == self.o[B]
        }
    }

    /// This node became target of a resync that the source took for one that had not begun (rules 51 and 71), since the sync
    /// UUID was still on its way. What the bitmap is relative to there has not moved.
    fn own_sync_undone(&self) -> bool {
        // A target's own bitmap is relative to nothing.
        let goes_back = self.o[B..].contains(&self.p[C]);
        self.only_peer_bitmap() && successor(self.p[B]) == self.o[C] && !goes_back
    }

    /// The same with the peer as target.
    fn peer_sync_undone(&self) -> bool {
        let goes_back = self.p[B..].contains(&self.o[C]);
        self.only_own_bitmap() && successor(self.o[B]) == self.p[C] && !goes_back
    }

    /// The peer is in the middle of a resync from this node: it has the sync UUID, and its own bitmap is relative to nothing.
    /// The peer finds this by rule 50.
    fn peer_is_own_target(&self) -> bool {
        self.only_own_bitmap() && self.o[B] == self.p[C]
    }

    /// The resync to this node ended without the peer's notice, and the peer went on alone from there.
    fn peer_end_missed_alone(&self) -> bool {
        let named = self.o[C] == self.p[H1] || !self.o[B..].contains(&self.p[C]);
        named && self.p[B] != 0 && self.o[B..=H1] == [0, self.p[B]]
    }

    /// The resync from this node ended without its notice, and it went on alone from there. Its bitmap has whatever the
    /// target did not acknowledge, and everything since. The sync UUID, which both have, tells so even when the generation
    /// that the target has is no longer in the history here.
    fn own_end_missed_alone(&self) -> bool {
        let named = self.p[C] == self.o[H1] || !self.p[B..].contains(&self.o[C]);
        named && self.o[B] != 0 && self.p[B..=H1] == [0, self.o[B]]
    }
}

impl Input {
    /// The same facts as the peer has them.
    pub fn seen_by_peer(&self) -> Input {
        Input {
            own: self.peer,
            peer: self.own,
            own_crashed: self.peer_crashed,
            peer_crashed: self.own_crashed,
            own_empty: self.peer_empty,
            peer_empty: self.own_empty,
            own_taken_back: self.peer_taken_back,
            peer_taken_back: self.own_taken_back,
            role: self.peer_role,
            peer_role: self.role,
            conflict_flag: !self.conflict_flag,
            ..*self
        }
    }
}

impl UuidRelation {
    /// The number in logs; its sign is the direction.
    pub const fn number(self) -> i32 {
        match self {
            UuidRelation::Same => 0,
            UuidRelation::Source { full: false } => 1,
            UuidRelation::Source { full: true } => 2,
            UuidRelation::Target { full: false } => -1,
            UuidRelation::Target { full: true } => -2,
            UuidRelation::SplitBrain { base_known: true } => 100,
            UuidRelation::SplitBrain { base_known: false } => -100,
            UuidRelation::Unrelated => -1000,
            UuidRelation::NeedsNewer { version, .. } => -1000 - version as i32,
        }
    }

    /// The same relation as the peer has to see it.
    pub const fn mirrored(self) -> UuidRelation {
        match self {
            UuidRelation::Source { full } => UuidRelation::Target { full },
            UuidRelation::Target { full } => UuidRelation::Source { full },
            UuidRelation::Same
            | UuidRelation::SplitBrain { .. }
            | UuidRelation::Unrelated
            | UuidRelation::NeedsNewer { .. } => self,
        }
    }
}

#[cfg(test)]
mod tests;
