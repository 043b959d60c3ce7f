//! The handshake decision of a volume: who becomes source, who target, or why not (drbd-wire 8.7,
//! drbd-states 12).

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Display};

use model::config::settings::Handler;
use model::policy::RrConflict;
use model::state::{ConnState, DiskState, Role};

use super::split_brain::{self, Policies, Recovery, Survivor, primaries};
use super::uuid_rules::{self, Comparison, UuidRelation, UuidSet, compare};
use crate::state::log_line::Level;

/// UUID flag: the sender wants its data discarded.
pub const FLAG_DISCARD_MY_DATA: u64 = 0x1;
/// UUID flag: the sender is a crashed Primary.
pub const FLAG_CRASHED_PRIMARY: u64 = 0x2;

/// Everything the decision depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Input {
    /// Input of the UUID comparison. `peer_crashed` is ignored here, it comes from `peer_flags`.
    pub uuids: uuid_rules::Input,
    /// Flags of the peer's UUIDs packet as stored now.
    pub peer_flags: u64,
    /// Own number of changed blocks as last sent in a UUIDs packet.
    pub own_changes: u64,
    /// The peer's number from its UUIDs packet.
    pub peer_changes: u64,
    /// Bits set in the own bitmap now.
    pub dirty_bits: u64,
    /// Own disk state now.
    pub disk: DiskState,
    /// Own disk state as determined at attach; used while `disk` is Negotiating.
    pub attach_disk: DiskState,
    /// Effective disk state of the peer (see `peer_state`).
    pub peer_disk: DiskState,
    /// After-split-brain policies.
    pub policies: Policies,
    /// `always-asbp`: the policies apply without a common base too.
    pub always_asbp: bool,
    /// Policy for a Primary that would become target.
    pub rr_conflict: RrConflict,
    /// Own `discard-my-data`.
    pub discard_my_data: bool,
    /// A dry run was asked for, here or by the peer.
    pub dry_run: bool,
    /// This node could become Secondary now.
    pub can_demote: bool,
    /// The target of the resync that the own bitmap slot names had begun, and bits were cleared for it.
    pub target_began: bool,
    /// Bits left on copies of the same generation start a resync; both nodes have to know of this, and have told the
    /// numbers of their bits just before.
    pub brings_leftovers: bool,
}

/// What becomes of the connection of this volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// No resync.
    Connected,
    /// Become source; `full`: set and write all bits first, and refuse if that fails.
    Source {
        /// Set all bits first.
        full: bool,
    },
    /// Become target; `full` as above.
    Target {
        /// Set all bits first.
        full: bool,
    },
    /// The handshake fails; see [`on_refusal`].
    Refuse(Refusal),
}

/// Why a handshake fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The data has nothing in common (or its histories contradict each other).
    Unrelated,
    /// Both nodes would have to be newer.
    NeedsNewer,
    /// Split brain without a solution.
    SplitBrain,
    /// This node should be source, but its data is inconsistent.
    SourceInconsistent,
    /// This node should be target, but it is Primary.
    TargetIsPrimary,
    /// It was only a dry run.
    DryRun,
}

/// One thing to do while the decision is carried out, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Write a log line of this volume.
    Log(Level, Text),
    /// Call a handler; nothing waits for it.
    Handler(Handler),
    /// Become Secondary; if that fails after all, the handshake is to be refused as split brain.
    Demote,
}

/// Text of a log line. What every handshake says is formatted only when somebody reads it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Text {
    /// As it is.
    Fixed(&'static str),
    /// Made for the occasion.
    Made(String),
    /// The generations of one side.
    Known {
        /// "self" or "peer".
        side: &'static str,
        /// Its generations.
        set: UuidSet,
        /// Its number of changed blocks.
        bits: u64,
        /// Its flags.
        flags: u64,
    },
    /// Result of the comparison.
    Compared {
        /// Its number.
        number: i32,
        /// The rule that matched.
        rule: u8,
    },
}

impl From<&'static str> for Text {
    fn from(text: &'static str) -> Text {
        Text::Fixed(text)
    }
}

impl From<String> for Text {
    fn from(text: String) -> Text {
        Text::Made(text)
    }
}

impl Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Text::Fixed(text) => f.write_str(text),
            Text::Made(text) => f.write_str(text),
            Text::Known { side, set, bits, flags } => write!(f, "{side} {set} bits:{bits} flags:{flags:X}"),
            Text::Compared { number, rule } => write!(f, "uuid_compare()={number} by rule {rule}"),
        }
    }
}

/// The decision with everything that goes with it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// What becomes of the connection.
    pub decision: Decision,
    /// The comparison, with the corrected sets to keep.
    pub comparison: Comparison,
    /// Log lines and handlers, in order.
    pub steps: Vec<Step>,
}

/// Takes the decision. The peer takes the mirrored one, or one of the two refuses.
pub fn decide(input: &Input) -> Outcome {
    let uuids =
        uuid_rules::Input { peer_crashed: input.peer_flags & FLAG_CRASHED_PRIMARY != 0, ..input.uuids };
    let comparison = compare(&uuids);
    let mut deciding = Deciding { input, role: uuids.role, steps: Vec::new() };
    deciding.log_comparison(&comparison);
    let chosen = deciding.choose(comparison.relation).map(|wish| deciding.complete(wish, &comparison));
    let decision = match chosen.and_then(|wish| deciding.admit(wish)) {
        Ok(decision) => decision,
        Err(refusal) => Decision::Refuse(refusal),
    };
    Outcome { decision, comparison, steps: deciding.steps }
}

/// Who gets data, before it is known whether that may be.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Wish {
    survivor: Option<Survivor>,
    full: bool,
}

impl Wish {
    const NONE: Wish = Wish { survivor: None, full: false };

    const fn sync(survivor: Survivor, full: bool) -> Wish {
        Wish { survivor: Some(survivor), full }
    }
}

struct Deciding<'a> {
    input: &'a Input,
    role: Role,
    steps: Vec<Step>,
}

impl Deciding<'_> {
    /// Steps 1 to 4 of drbd-wire 8.7.
    fn choose(&mut self, relation: UuidRelation) -> Result<Wish, Refusal> {
        match relation {
            UuidRelation::Unrelated => {
                self.log(Level::Alert, "Unrelated data, aborting!");
                return Err(Refusal::Unrelated);
            }
            UuidRelation::NeedsNewer { version, features } => {
                let flags =
                    if features == 0 { String::new() } else { format!(" and feature flags {features:#x}") };
                let text =
                    format!("To resolve this both sides have to support at least protocol {version}{flags}");
                self.log(Level::Alert, text);
                return Err(Refusal::NeedsNewer);
            }
            UuidRelation::Same
            | UuidRelation::Source { .. }
            | UuidRelation::Target { .. }
            | UuidRelation::SplitBrain { .. } => {}
        }
        if let Some(survivor) = self.better_disk() {
            let full = matches!(
                relation,
                UuidRelation::SplitBrain { base_known: false }
                    | UuidRelation::Source { full: true }
                    | UuidRelation::Target { full: true }
            );
            self.log(Level::Info, format!("Becoming sync {} due to disk states.", side(survivor)));
            return Ok(Wish::sync(survivor, full));
        }
        if let Some(survivor) = self.primary_with_leftovers().filter(|_| relation == UuidRelation::Same) {
            self.log(
                Level::Info,
                format!("Becoming sync {} because of bits that were left.", side(survivor)),
            );
            return Ok(Wish::sync(survivor, false));
        }
        match relation {
            UuidRelation::Source { full } => Ok(Wish::sync(Survivor::Own, full)),
            UuidRelation::Target { full } => Ok(Wish::sync(Survivor::Peer, full)),
            UuidRelation::SplitBrain { base_known } => self.solve_split_brain(base_known),
            UuidRelation::Same | UuidRelation::Unrelated | UuidRelation::NeedsNewer { .. } => Ok(Wish::NONE),
        }
    }

    fn better_disk(&self) -> Option<Survivor> {
        let (own, peer) = (self.own_disk(), self.input.peer_disk);
        let bad = DiskState::Inconsistent;
        match (own, peer) {
            _ if own == bad && peer > bad => Some(Survivor::Peer),
            _ if peer == bad && own > bad => Some(Survivor::Own),
            _ => None,
        }
    }

    /// The peer has not stored the sync UUID of the last resync from here. If the target of that had, it was put back to how
    /// it was before, or another copy has come in its place: the bitmap has forgotten what this one lacks. The peer need not
    /// know, since the bitmaps are united.
    fn complete(&self, wish: Wish, comparison: &Comparison) -> Wish {
        let lacks_more = self.input.target_began && comparison.peer_has_not_begun();
        Wish { full: wish.full || lacks_more && wish.survivor.is_some(), ..wish }
    }

    /// Equal generations and bits all the same: nothing says which copy lacks what is marked. But what clients see from
    /// now on is the copy of their Primary. Without one neither copy may be overwritten.
    fn primary_with_leftovers(&self) -> Option<Survivor> {
        let i = self.input;
        let bad = DiskState::Inconsistent;
        if !i.brings_leftovers || i.own_changes + i.peer_changes == 0 {
            return None;
        }
        // One that was attached while the peer was gone waits for it; then it is what clients see, too.
        let serves = |disk| matches!(disk, DiskState::Consistent | DiskState::UpToDate);
        match (self.role, i.uuids.peer_role) {
            (Role::Primary, Role::Secondary) if serves(i.disk) && i.peer_disk > bad => Some(Survivor::Own),
            (Role::Secondary, Role::Primary) if serves(i.peer_disk) && i.disk > bad => Some(Survivor::Peer),
            _ => None,
        }
    }

    fn solve_split_brain(&mut self, base_known: bool) -> Result<Wish, Refusal> {
        self.steps.push(Step::Handler(Handler::InitialSplitBrain));
        if (base_known || self.input.always_asbp)
            && let Some(survivor) = self.recover()
        {
            let count = primaries(self.input.uuids.role, self.input.uuids.peer_role);
            let from = origin(survivor);
            let text = format!(
                "Split-Brain detected, {count} primaries, automatically solved. Sync from {from} node"
            );
            self.log(Level::Warn, text);
            return Ok(Wish::sync(survivor, !base_known));
        }
        let manual = match (self.input.discard_my_data, self.peer_discards()) {
            (true, false) => Survivor::Peer,
            (false, true) => Survivor::Own,
            _ => {
                self.log(Level::Alert, "Split-Brain detected but unresolved, dropping connection!");
                self.steps.push(Step::Handler(Handler::SplitBrain));
                return Err(Refusal::SplitBrain);
            }
        };
        let text = format!("Split-Brain detected, manually solved. Sync from {} node", origin(manual));
        self.log(Level::Warn, text);
        // Without a common base the bitmaps do not describe the difference. The specification uses them all
        // the same; a full sync is as good for the peer, since the bitmaps are united, and leaves nothing out.
        Ok(Wish::sync(manual, !base_known))
    }

    fn recover(&mut self) -> Option<Survivor> {
        let uuids = &self.input.uuids;
        let recovery = split_brain::recover(
            &self.input.policies,
            &split_brain::Input {
                role: uuids.role,
                peer_role: uuids.peer_role,
                own_bitmap_bit: uuids.own.bitmap.primary_bit(),
                peer_bitmap_bit: uuids.peer.bitmap.primary_bit(),
                own_changes: self.input.own_changes,
                peer_changes: self.input.peer_changes,
                conflict_flag: uuids.conflict_flag,
                can_demote: self.input.can_demote,
            },
        );
        match recovery {
            Recovery::Undecided => None,
            Recovery::Decided(survivor) => Some(survivor),
            Recovery::DemoteThenTarget => {
                self.steps.push(Step::Demote);
                self.role = Role::Secondary;
                Some(Survivor::Peer)
            }
            Recovery::LostButInUse => {
                self.steps.push(Step::Handler(Handler::PriLostAfterSb));
                None
            }
        }
    }

    /// Steps 5 to 9 of drbd-wire 8.7.
    fn admit(&mut self, wish: Wish) -> Result<Decision, Refusal> {
        if wish.survivor == Some(Survivor::Own) && self.own_disk() <= DiskState::Inconsistent {
            self.log(Level::Err, "I shall become SyncSource, but I am inconsistent!");
            return Err(Refusal::SourceInconsistent);
        }
        if wish.survivor == Some(Survivor::Peer)
            && self.role == Role::Primary
            && self.input.disk >= DiskState::Consistent
        {
            self.target_while_primary()?;
        }
        if self.input.dry_run {
            let what = wish.survivor.map_or("would stay connected without resync", |s| match s {
                Survivor::Own => "would become sync source",
                Survivor::Peer => "would become sync target",
            });
            let how = if wish.full { ", full sync" } else { "" };
            self.log(Level::Info, format!("Dry run: {what}{how}."));
            return Err(Refusal::DryRun);
        }
        if wish.full {
            self.log(Level::Info, "Writing the whole bitmap, full sync required after drbd_sync_handshake.");
        }
        Ok(match wish.survivor {
            Some(Survivor::Own) => Decision::Source { full: wish.full },
            Some(Survivor::Peer) => Decision::Target { full: wish.full },
            None => {
                if self.input.dirty_bits > 0 {
                    let text = format!("No resync, but {} bits in bitmap!", self.input.dirty_bits);
                    self.log(Level::Info, text);
                }
                Decision::Connected
            }
        })
    }

    fn target_while_primary(&mut self) -> Result<(), Refusal> {
        match self.input.rr_conflict {
            RrConflict::Violently => {
                self.log(Level::Warn, "Becoming SyncTarget although Primary, as rr-conflict demands!");
                return Ok(());
            }
            RrConflict::CallPriLost => self.steps.push(Step::Handler(Handler::PriLost)),
            RrConflict::Disconnect => {}
        }
        self.log(Level::Err, "I shall become SyncTarget, but I am primary!");
        Err(Refusal::TargetIsPrimary)
    }

    fn own_disk(&self) -> DiskState {
        if self.input.disk == DiskState::Negotiating { self.input.attach_disk } else { self.input.disk }
    }

    fn peer_discards(&self) -> bool {
        self.input.peer_flags & FLAG_DISCARD_MY_DATA != 0
    }

    fn log_comparison(&mut self, comparison: &Comparison) {
        let input = self.input;
        self.log(Level::Info, "drbd_sync_handshake:");
        // spec: drbd-states 22: the own flags are printed as 0 whatever they are
        let (own, peer) = (input.uuids.own, input.uuids.peer);
        self.log(Level::Info, Text::Known { side: "self", set: own, bits: input.own_changes, flags: 0 });
        let (flags, bits) = (input.peer_flags, input.peer_changes);
        self.log(Level::Info, Text::Known { side: "peer", set: peer, bits, flags });
        let number = comparison.relation.number();
        self.log(Level::Info, Text::Compared { number, rule: comparison.rule });
    }

    fn log(&mut self, level: Level, text: impl Into<Text>) {
        self.steps.push(Step::Log(level, text.into()));
    }
}

/// What a failed handshake of a volume leads to (drbd-wire 3.7 step 7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AfterRefusal {
    /// The own attach fails; the connection stays.
    FailAttach,
    /// The peer's disk counts as Diskless (log `Disk attach process on the peer node was aborted.`).
    PeerDiskless,
    /// Drop the connection and try again.
    Reconnect,
    /// Disconnecting, and no new attempt.
    StandAlone,
}

/// What follows from a refusal. `peer_dry_run`: the peer asked for a dry run in its protocol packet.
pub fn on_refusal(disk: DiskState, received_disk: DiskState, peer_dry_run: bool) -> AfterRefusal {
    if disk == DiskState::Negotiating {
        AfterRefusal::FailAttach
    } else if received_disk == DiskState::Negotiating {
        AfterRefusal::PeerDiskless
    } else if peer_dry_run {
        AfterRefusal::Reconnect
    } else {
        AfterRefusal::StandAlone
    }
}

fn side(survivor: Survivor) -> &'static str {
    match survivor {
        Survivor::Own => "source",
        Survivor::Peer => "target",
    }
}

fn origin(survivor: Survivor) -> &'static str {
    match survivor {
        Survivor::Own => "this",
        Survivor::Peer => "peer",
    }
}

impl Decision {
    /// The connection state to go to; None for a refusal.
    pub const fn conn(self) -> Option<ConnState> {
        match self {
            Decision::Connected => Some(ConnState::Connected),
            Decision::Source { .. } => Some(ConnState::WFBitMapS),
            Decision::Target { .. } => Some(ConnState::WFBitMapT),
            Decision::Refuse(_) => None,
        }
    }
}

impl core::fmt::Display for UuidSet {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}:{}:{}:{}", self.current, self.bitmap, self.history[0], self.history[1])
    }
}

#[cfg(test)]
mod tests;
