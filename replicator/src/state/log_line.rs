//! Log lines of state changes, as operators and their tools know them (drbd-states 22).

use alloc::format;
use alloc::string::String;
use core::fmt::{self, Display};

use model::result_code::{StateResult, log_text};
use model::state::{ConnState, VolumeState};
use model::state_word::{StateChange, mask};

/// Severity of a log line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// Somebody has to act.
    Alert,
    /// Something was refused or failed.
    Err,
    /// Unusual, but handled.
    Warn,
    /// The normal course of things.
    Info,
}

/// Fields that a line of a volume shows.
pub const VOLUME_FIELDS: u32 = mask::ROLE
    | mask::PEER
    | mask::CONN
    | mask::DISK
    | mask::PDSK
    | mask::AFTR_ISP
    | mask::PEER_ISP
    | mask::USER_ISP;

/// What changed between two states, as the log shows it: formatted only when somebody reads it.
#[derive(Clone, Copy, Debug)]
pub struct ChangeLine {
    old: VolumeState,
    new: VolumeState,
    fields: u32,
}

/// `conn( Unconnected -> WFConnection ) ` and so on: the changed ones of `fields` (masks of the state word),
/// each followed by a blank. Empty if none of them changed.
pub fn change_line(old: &VolumeState, new: &VolumeState, fields: u32) -> ChangeLine {
    ChangeLine { old: *old, new: *new, fields }
}

/// `susp( 0 -> 1 ) `, the connection's line when "any suspend flag is set" changes; empty if it does not.
pub fn suspend_line(old: &VolumeState, new: &VolumeState) -> ChangeLine {
    change_line(old, new, mask::SUSP)
}

/// The line of a change of the whole connection: `common` fields (see [`common_fields`]) and the suspend flag.
pub fn connection_line(old: &VolumeState, new: &VolumeState, common: u32) -> ChangeLine {
    change_line(old, new, common | mask::SUSP)
}

impl ChangeLine {
    /// Nothing that it shows has changed.
    pub fn is_empty(&self) -> bool {
        let mut empty = true;
        let changed = |_: &str, _: &dyn Display, _: &dyn Display| {
            empty = false;
            Ok(())
        };
        self.each(changed).expect("nothing is written");
        empty
    }

    /// Calls `show` with name, old and new value of every field that has changed.
    fn each(&self, mut show: impl FnMut(&str, &dyn Display, &dyn Display) -> fmt::Result) -> fmt::Result {
        let (old, new, fields) = (&self.old, &self.new, self.fields);
        let suspended = (old.any_susp(), new.any_susp());
        macro_rules! field {
            ($mask:ident, $name:literal, $old:expr, $new:expr) => {
                if fields & mask::$mask != 0 && $old != $new {
                    show($name, &$old, &$new)?;
                }
            };
        }
        field!(ROLE, "role", old.role, new.role);
        field!(PEER, "peer", old.peer, new.peer);
        field!(CONN, "conn", old.conn, new.conn);
        field!(DISK, "disk", old.disk, new.disk);
        field!(PDSK, "pdsk", old.pdsk, new.pdsk);
        field!(AFTR_ISP, "aftr_isp", u8::from(old.aftr_isp), u8::from(new.aftr_isp));
        field!(PEER_ISP, "peer_isp", u8::from(old.peer_isp), u8::from(new.peer_isp));
        field!(USER_ISP, "user_isp", u8::from(old.user_isp), u8::from(new.user_isp));
        field!(SUSP, "susp", u8::from(suspended.0), u8::from(suspended.1));
        Ok(())
    }
}

impl Display for ChangeLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.each(|name, old, new| write!(f, "{name}( {old} -> {new} ) "))
    }
}

/// The fields in which all `volumes` agree; a change of the connection prints those once, and every volume
/// prints the rest.
pub fn common_fields(volumes: &[VolumeState]) -> u32 {
    let Some((first, rest)) = volumes.split_first() else { return VOLUME_FIELDS };
    let mut fields = VOLUME_FIELDS;
    let mut keep_if = |same: bool, field: u32| {
        if !same {
            fields &= !field;
        }
    };
    for s in rest {
        keep_if(s.role == first.role, mask::ROLE);
        keep_if(s.peer == first.peer, mask::PEER);
        keep_if(s.conn == first.conn, mask::CONN);
        keep_if(s.disk == first.disk, mask::DISK);
        keep_if(s.pdsk == first.pdsk, mask::PDSK);
        keep_if(s.aftr_isp == first.aftr_isp, mask::AFTR_ISP);
        keep_if(s.peer_isp == first.peer_isp, mask::PEER_ISP);
        keep_if(s.user_isp == first.user_isp, mask::USER_ISP);
    }
    fields
}

/// The six letters: suspended, paused after another, by the peer, by the user, suspended for fencing, without
/// data (drbd-states 3.2).
pub fn flag_letters(s: &VolumeState) -> [u8; 6] {
    let letter = |set: bool, c: u8| if set { c } else { b'-' };
    [
        if s.any_susp() { b's' } else { b'r' },
        letter(s.aftr_isp, b'a'),
        letter(s.peer_isp, b'p'),
        letter(s.user_isp, b'u'),
        letter(s.susp_fen, b'F'),
        letter(s.susp_nod, b'N'),
    ]
}

/// The three lines (level err) of a refused request for a volume. Not for `InTransientState`, which is
/// retried, and not for requests that are not verbose.
pub fn refused_lines(why: StateResult, old: &VolumeState, wanted: &VolumeState) -> [String; 3] {
    [
        format!("State change failed: {}", why.text()),
        format!("  state = {}", brief(old)),
        format!(" wanted = {}", brief(wanted)),
    ]
}

/// The three lines (level err) of a refused verbose request for a connection.
pub fn refused_connection_lines(
    why: StateResult,
    change: StateChange,
    old: ConnState,
    wanted: ConnState,
) -> [String; 3] {
    [
        format!("State change failed: {}", why.text()),
        format!(" mask = {:#x} val = {:#x}", change.mask, change.value),
        format!(" old_conn:{old} wanted_conn:{wanted}"),
    ]
}

/// The line (level err) of a cluster-wide request that the peer answered with `code`.
pub fn refused_by_peer_line(code: i32) -> String {
    format!("Requested state change failed by peer: {} ({code})", log_text(code))
}

fn brief(s: &VolumeState) -> String {
    let mut text = format!("{{ cs:{} ro:{}/{} ds:{}/{} ", s.conn, s.role, s.peer, s.disk, s.pdsk);
    text.extend(flag_letters(s).map(char::from));
    text.push_str(" }");
    text
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;
    use model::state::{ConnState as C, DiskState as D, Role as R};

    fn state(role: R, peer: R, conn: C, disk: D, pdsk: D) -> VolumeState {
        VolumeState { role, peer, conn, disk, pdsk, ..VolumeState::INITIAL }
    }

    // recorded from the kernel, with the blank at the end
    #[test]
    fn lines_as_recorded() {
        let ready = state(R::Secondary, R::Unknown, C::WFReportParams, D::UpToDate, D::DUnknown);
        let target = state(R::Secondary, R::Primary, C::WFBitMapT, D::Outdated, D::UpToDate);
        assert_eq!(
            change_line(&ready, &target, VOLUME_FIELDS).to_string(),
            "peer( Unknown -> Primary ) conn( WFReportParams -> WFBitMapT ) disk( UpToDate -> Outdated ) \
             pdsk( DUnknown -> UpToDate ) "
        );
        let up = state(R::Secondary, R::Secondary, C::Connected, D::UpToDate, D::UpToDate);
        let lost = state(R::Secondary, R::Unknown, C::TearDown, D::UpToDate, D::DUnknown);
        assert_eq!(
            connection_line(&up, &lost, common_fields(&[up])).to_string(),
            "peer( Secondary -> Unknown ) conn( Connected -> TearDown ) pdsk( UpToDate -> DUnknown ) "
        );
        let running = state(R::Primary, R::Secondary, C::SyncSource, D::UpToDate, D::Inconsistent);
        let paused = VolumeState { conn: C::PausedSyncS, user_isp: true, ..running };
        assert_eq!(
            change_line(&running, &paused, VOLUME_FIELDS).to_string(),
            "conn( SyncSource -> PausedSyncS ) user_isp( 0 -> 1 ) "
        );
        let forced = state(R::Primary, R::Secondary, C::Connected, D::UpToDate, D::Inconsistent);
        let fresh = state(R::Secondary, R::Secondary, C::Connected, D::Inconsistent, D::Inconsistent);
        assert_eq!(
            change_line(&fresh, &forced, VOLUME_FIELDS).to_string(),
            "role( Secondary -> Primary ) disk( Inconsistent -> UpToDate ) "
        );
        assert_eq!(
            suspend_line(&running, &VolumeState { susp: true, ..running }).to_string(),
            "susp( 0 -> 1 ) "
        );
        assert_eq!(change_line(&up, &up, VOLUME_FIELDS).to_string(), "");
    }

    // recorded from the kernel: demotion while the device was open
    #[test]
    fn refusal_as_recorded() {
        let old = state(R::Primary, R::Secondary, C::Connected, D::UpToDate, D::UpToDate);
        let wanted = VolumeState { role: R::Secondary, ..old };
        assert_eq!(
            refused_lines(StateResult::DeviceInUse, &old, &wanted),
            [
                "State change failed: Device is held open by someone",
                "  state = { cs:Connected ro:Primary/Secondary ds:UpToDate/UpToDate r----- }",
                " wanted = { cs:Connected ro:Secondary/Secondary ds:UpToDate/UpToDate r----- }",
            ]
        );
    }

    #[test]
    fn refusals_of_connections_and_peers() {
        let change = StateChange::NONE.conn(C::WFConnection);
        assert_eq!(
            refused_connection_lines(
                StateResult::InTransientState,
                change,
                C::Disconnecting,
                C::WFConnection
            ),
            [
                "State change failed: In transient state, retry after next state change",
                " mask = 0x1f0 val = 0x80",
                " old_conn:Disconnecting wanted_conn:WFConnection",
            ]
        );
        assert_eq!(
            refused_by_peer_line(-2),
            "Requested state change failed by peer: Need access to UpToDate data (-2)"
        );
    }

    #[test]
    fn a_second_suspension_is_no_change_of_the_line() {
        let one = VolumeState { susp: true, ..VolumeState::INITIAL };
        let two = VolumeState { susp_fen: true, ..one };
        assert_eq!(suspend_line(&one, &two).to_string(), "");
        assert_eq!(flag_letters(&two), *b"s---F-");
        let all = VolumeState {
            susp_nod: true,
            aftr_isp: true,
            peer_isp: true,
            user_isp: true,
            ..VolumeState::INITIAL
        };
        assert_eq!(flag_letters(&all), *b"sapu-N");
    }

    #[test]
    fn only_fields_that_all_volumes_share_are_printed_for_the_connection() {
        let a = state(R::Secondary, R::Primary, C::Connected, D::UpToDate, D::UpToDate);
        let b = VolumeState { disk: D::Inconsistent, conn: C::SyncTarget, ..a };
        let common = common_fields(&[a, b]);
        assert_eq!(VOLUME_FIELDS & !common, mask::DISK | mask::CONN);
        let lost = VolumeState { conn: C::NetworkFailure, peer: R::Unknown, pdsk: D::DUnknown, ..b };
        assert_eq!(
            connection_line(&b, &lost, common).to_string(),
            "peer( Primary -> Unknown ) pdsk( UpToDate -> DUnknown ) "
        );
        assert_eq!(
            change_line(&b, &lost, VOLUME_FIELDS & !common).to_string(),
            "conn( SyncTarget -> NetworkFailure ) "
        );
    }
}
