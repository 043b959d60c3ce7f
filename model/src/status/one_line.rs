//! `role`, `cstate`, `dstate`, `get-gi` and `show-gi`: what scripts ask for one volume (drbd-admin 4.4).

use alloc::format;
use alloc::string::{String, ToString};

use super::snapshot::{MetaFlags, VolumeSnapshot};
use crate::state::{ConnState, DiskState};

/// Why there are no generation identifiers to print; the text goes to stderr, the exit code is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoIdentifiers {
    /// Neither disk nor connection.
    #[error("Device is unconfigured")]
    Unconfigured,
    /// Connected, but without a disk.
    #[error("Device has no disk")]
    NoDisk,
}

/// `Primary/Secondary`, own role first; `Unconfigured` without disk and connection.
pub fn role(v: &VolumeSnapshot) -> String {
    if unconfigured(v) { UNCONFIGURED.to_string() } else { format!("{}/{}", v.state.role, v.state.peer) }
}

/// The connection state under its 8.4 name; `Unconfigured` without disk and connection.
pub fn cstate(v: &VolumeSnapshot) -> String {
    if unconfigured(v) { UNCONFIGURED.to_string() } else { v.state.conn.to_string() }
}

/// `UpToDate/Inconsistent`, own disk first; `Unconfigured` without disk and connection.
pub fn dstate(v: &VolumeSnapshot) -> String {
    if unconfigured(v) { UNCONFIGURED.to_string() } else { format!("{}/{}", v.state.disk, v.state.pdsk) }
}

/// Four UUIDs and seven flags with colons between them.
pub fn get_gi(v: &VolumeSnapshot) -> Result<String, NoIdentifiers> {
    check_disk(v)?;
    Ok(gi_line(&v.uuids, &v.meta_flags))
}

/// The same line in its explanatory frame. The activity log of a running device always counts as in use.
pub fn show_gi(v: &VolumeSnapshot) -> Result<String, NoIdentifiers> {
    check_disk(v)?;
    Ok(gi_frame(&v.uuids, &v.meta_flags, false))
}

/// The line of `get-gi` for any metadata, without a line end.
pub fn gi_line(uuids: &[u64; 4], flags: &MetaFlags) -> String {
    let [current, bitmap, younger, older] = uuids;
    let mut line = format!("{current:016X}:{bitmap:016X}:{younger:016X}:{older:016X}");
    for flag in flags.in_order() {
        line.push_str(if flag { ":1" } else { ":0" });
    }
    line
}

/// The picture of `show-gi` for any metadata up to and including the `meta-data:` line. For metadata that is
/// not in use the size lines of drbd-metadata 11 follow; the caller adds them.
pub fn gi_frame(uuids: &[u64; 4], flags: &MetaFlags, al_clean: bool) -> String {
    let data = match (flags.consistent, flags.was_up_to_date) {
        (false, _) => "Inconsistent",
        (true, false) => "Outdated",
        (true, true) => "UpToDate",
    };
    let mut text = String::from(FRAME_TOP);
    text.push_str(&gi_line(uuids, flags));
    text.push_str(FRAME_BOTTOM);
    text.push_str(if flags.crashed_primary { "flags: crashed " } else { "flags: " });
    text.push_str(if flags.primary { "Primary, " } else { "Secondary, " });
    text.push_str(if flags.connected { "Connected, " } else { "StandAlone, " });
    text.push_str(data);
    if flags.full_sync {
        text.push_str(", need full sync");
    }
    if flags.peer_outdated {
        text.push_str(", peer Outdated");
    }
    text.push_str(if al_clean { "\nmeta-data: clean\n" } else { "\nmeta-data: need apply-al\n" });
    text
}

fn unconfigured(v: &VolumeSnapshot) -> bool {
    v.state.conn == ConnState::StandAlone && v.state.disk == DiskState::Diskless
}

fn check_disk(v: &VolumeSnapshot) -> Result<(), NoIdentifiers> {
    if unconfigured(v) {
        return Err(NoIdentifiers::Unconfigured);
    }
    if v.state.disk == DiskState::Diskless { Err(NoIdentifiers::NoDisk) } else { Ok(()) }
}

const UNCONFIGURED: &str = "Unconfigured";

const FRAME_TOP: &str = "
       +--<  Current data generation UUID  >-
       |               +--<  Bitmap's base data generation UUID  >-
       |               |                 +--<  younger history UUID  >-
       |               |                 |         +-<  older history  >-
       V               V                 V         V
";

const FRAME_BOTTOM: &str = "
                                                                    ^ ^ ^ ^ ^ ^ ^
                                      -<  Data consistency flag  >--+ | | | | | |
                             -<  Data was/is currently up-to-date  >--+ | | | | |
                                  -<  Node was/is currently primary  >--+ | | | |
                                  -<  Node was/is currently connected  >--+ | | |
         -<  Node was in the progress of setting all bits in the bitmap  >--+ | |
                        -<  The peer's disk was out-dated or inconsistent  >--+ |
      -<  This node was a crashed primary, and has not seen its peer since   >--+

";
