//! Deliberate bugs, one of which the simulator may switch on to show that it would be found. They exist only with the
//! feature `planted-bugs`, with which the daemon refuses to compile; without it [`on`] is `false` at compile time.

/// A deliberate bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Planted {
    /// An activity log extent is given back when the write is answered, not when its barrier is acknowledged.
    ExtentReleasedAtCompletion = 1,
    /// A write goes to the disk before its extent is in the activity log.
    ActivityLogSkipped,
    /// The bitmap pages of an evicted extent are not written before it leaves the activity log.
    EvictedPagesNotWritten,
    /// Writes begin before the super block says Primary.
    PrimaryFlagLate,
    /// When the peer is lost, a write that it had acknowledged but the own disk had not finished is forgotten.
    UnfinishedWriteForgotten,
    /// When the peer is lost, nothing that is not covered by a barrier is marked.
    LossNotMarked,
    /// A write without a peer is not marked.
    LonelyWriteNotMarked,
    /// A write during the exchange of bitmaps is marked but not announced.
    OutOfSyncNotSent,
    /// A write that failed on the own disk is not marked.
    FailedWriteNotMarked,
    /// A write that failed on the peer is acknowledged.
    NegAckForgotten,
    /// The peer acknowledges a write of protocol C when it has received it.
    AckOnReceive,
    /// A barrier is acknowledged before the flush.
    BarrierAckBeforeFlush,
    /// A barrier is counted as sent and is not.
    BarrierDropped,
    /// A client's flush does not wait for the peer.
    FlushNotForwarded,
    /// Forced unit access is forgotten on the own disk.
    FuaForgotten,
    /// Forced unit access is forgotten on the way to the peer.
    FuaNotSent,
    /// Writes of the peer that overlap are given to the disk at once.
    PeerOverlapIgnored,
    /// Writes of clients that overlap are given to the disks at once.
    OverlapIgnored,
    /// The source reads a block for the resync while a write to it is under way.
    ResyncReadOvertakesWrite,
    /// The target gives a write to the disk while the resync writes the same block.
    WriteOvertakesResyncWrite,
    /// Both sides clear a block's bit before the target has written it.
    BitClearedTooEarly,
    /// The target's disk is not flushed at the end of the resync, nor before the bits cleared until then are written.
    NoFlushAtEndOfResync,
    /// The target's cleared bits are written without a flush of the blocks they stand for.
    ClearedBitsWithoutFlush,
    /// The target ends the resync before the source has heard of the last block.
    EndOfResyncNotFenced,
    /// The target overwrites blocks before its metadata says Inconsistent.
    RequestsBeforeInconsistent,
    /// The source tells its sync UUID before it is stable.
    SyncUuidBeforeStable,
    /// Source and target are mistaken for each other.
    SyncDirectionSwapped,
    /// What only the peer has marked is not merged into the own bitmap.
    PeerBitmapIgnored,
    /// A Primary that loses its peer goes on in the same generation.
    NoNewGeneration,
    /// Completions do not wait until the new generation is stable.
    CompletionNotHeld,
    /// Reads are served by a disk that is not up to date.
    ReadFromInconsistent,
    /// A write counts as done when only a disk has it that will be overwritten.
    BadDiskCounts,
    /// Reads that the peer should have served are not retried when it is lost.
    RemoteReadForgotten,
    /// A node that crashed as Primary does not say so.
    CrashedPrimaryForgotten,
    /// Requests are answered although the peer is not fenced.
    AnsweredWhileFrozen,
    /// The generation that is due when the peer is fenced does not begin.
    DueGenerationForgotten,
    /// The part by which a device grows is not marked.
    GrownAreaNotMarked,
    /// The new size gets to the disk, and the bitmap of the new part does not.
    GrownPagesNotWritten,
    /// Verify compares blocks that are being written.
    VerifyWithoutLock,
    /// A block that verify finds different is not marked.
    MismatchNotMarked,
    /// The peer hears the opposite of what verify has found.
    VerifyResultSwapped,
    /// The source takes every block for equal to the target's digest.
    CsumsNotCompared,
    /// A resync begins although its handler has not ended.
    HandlerNotAwaited,
    /// A block that the target wrote before it heard that its source is Ahead counts as equal.
    AckClearsWhileAhead,
    /// A node that is Ahead does not wait until what it sent is acknowledged.
    AheadReturnsAtOnce,
    /// A node that goes Ahead stays in the generation that its peer has too.
    AheadInCommonGeneration,
}

impl Planted {
    /// All of them.
    pub const ALL: [Planted; 46] = [
        Planted::ExtentReleasedAtCompletion,
        Planted::ActivityLogSkipped,
        Planted::EvictedPagesNotWritten,
        Planted::PrimaryFlagLate,
        Planted::UnfinishedWriteForgotten,
        Planted::LossNotMarked,
        Planted::LonelyWriteNotMarked,
        Planted::OutOfSyncNotSent,
        Planted::FailedWriteNotMarked,
        Planted::NegAckForgotten,
        Planted::AckOnReceive,
        Planted::BarrierAckBeforeFlush,
        Planted::BarrierDropped,
        Planted::FlushNotForwarded,
        Planted::FuaForgotten,
        Planted::FuaNotSent,
        Planted::PeerOverlapIgnored,
        Planted::OverlapIgnored,
        Planted::ResyncReadOvertakesWrite,
        Planted::WriteOvertakesResyncWrite,
        Planted::BitClearedTooEarly,
        Planted::NoFlushAtEndOfResync,
        Planted::ClearedBitsWithoutFlush,
        Planted::EndOfResyncNotFenced,
        Planted::RequestsBeforeInconsistent,
        Planted::SyncUuidBeforeStable,
        Planted::SyncDirectionSwapped,
        Planted::PeerBitmapIgnored,
        Planted::NoNewGeneration,
        Planted::CompletionNotHeld,
        Planted::ReadFromInconsistent,
        Planted::BadDiskCounts,
        Planted::RemoteReadForgotten,
        Planted::CrashedPrimaryForgotten,
        Planted::AnsweredWhileFrozen,
        Planted::DueGenerationForgotten,
        Planted::GrownAreaNotMarked,
        Planted::GrownPagesNotWritten,
        Planted::VerifyWithoutLock,
        Planted::MismatchNotMarked,
        Planted::VerifyResultSwapped,
        Planted::CsumsNotCompared,
        Planted::HandlerNotAwaited,
        Planted::AckClearsWhileAhead,
        Planted::AheadReturnsAtOnce,
        Planted::AheadInCommonGeneration,
    ];
}

/// Whether this crate was compiled with the bugs.
pub const PLANTED_BUGS: bool = cfg!(feature = "planted-bugs");

#[cfg(feature = "planted-bugs")]
static ACTIVE: core::sync::atomic::AtomicU8 = core::sync::atomic::AtomicU8::new(0);

/// Switches one bug on, for all resources of the process, or all off.
#[cfg(feature = "planted-bugs")]
pub fn plant(bug: Option<Planted>) {
    ACTIVE.store(bug.map_or(0, |b| b as u8), core::sync::atomic::Ordering::Relaxed);
}

/// The bug is on.
#[cfg(feature = "planted-bugs")]
pub(crate) fn on(bug: Planted) -> bool {
    ACTIVE.load(core::sync::atomic::Ordering::Relaxed) == bug as u8
}

/// There are no planted bugs.
#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
pub(crate) const fn on(_: Planted) -> bool {
    false
}
