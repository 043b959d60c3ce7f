//! Administrator's commands: what they carry and how they end.

use alloc::boxed::Box;

use model::result_code::{ConfigError, StateResult};

use crate::authority::Authority;
use crate::config::NetConfig;
use crate::event::VolIdx;
use crate::volume::AttachedDisk;

/// The driver's name of a command; comes back in `Action::CommandDone`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct CommandId(pub u64);

/// A command. Those that need the peer or metadata writes finish later, by `Action::CommandDone`.
#[derive(Debug)]
pub enum Command {
    /// Attach a disk whose metadata was loaded (and whose activity log was applied).
    Attach(VolIdx, Box<AttachedDisk>),
    /// Detach the disk.
    Detach {
        /// Which volume.
        vol: VolIdx,
        /// Without asking the peer, aborting local requests.
        force: bool,
    },
    /// Take a network configuration and start connecting.
    Connect(Box<NetConfig>),
    /// Change network options of a configured connection.
    NetOptions(Box<NetConfig>),
    /// Change disk options of an attached volume.
    DiskOptions(VolIdx, Box<crate::config::DiskConfig>),
    /// Disconnect.
    Disconnect {
        /// Without asking the peer.
        force: bool,
    },
    /// Become Primary on every volume.
    Primary {
        /// Take the local data as UpToDate.
        force: bool,
    },
    /// Become Secondary on every volume.
    Secondary {
        /// Volumes that a client holds open, one bit each.
        open: u64,
        /// Also while clients hold it open or requests are frozen: those fail.
        force: bool,
    },
    /// Bound the right to serve clients in time, or lift the bound.
    SetAuthority(Option<Authority>),
    /// Pause resync here.
    PauseSync(VolIdx),
    /// Resume resync here.
    ResumeSync(VolIdx),
    /// Full resync from the peer.
    Invalidate(VolIdx),
    /// Full resync to the peer.
    InvalidateRemote(VolIdx),
    /// Compare the blocks with the peer's.
    Verify {
        /// Which volume.
        vol: VolIdx,
        /// First sector, rounded down to a block; None: where the last run ended.
        start_sector: Option<u64>,
        /// End before this sector; None: at the end of the device.
        stop_sector: Option<u64>,
    },
    /// Mark own data as outdated.
    Outdate(VolIdx),
    /// Freeze I/O.
    SuspendIo,
    /// Thaw I/O.
    ResumeIo,
    /// Start a new data generation; with `clear_bitmap` on a fresh connected pair: skip the initial sync.
    NewCurrentUuid {
        /// Which volume.
        vol: VolIdx,
        /// Clear the bitmap too.
        clear_bitmap: bool,
    },
    /// Adopt what both disks can hold, up to a limit.
    Resize(VolIdx, crate::resize::ResizeWish),
    /// A resync-after dependency became unfulfilled (true) or fulfilled (false).
    SetAfterDependency(VolIdx, bool),
}

/// How a command ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CommandResult {
    /// Done (also when there was nothing to do).
    Ok,
    /// A state change was refused.
    State(StateResult),
    /// The request itself was refused.
    Config(ConfigError),
}
