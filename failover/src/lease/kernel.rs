//! What a kernel DRBD says of its volumes in `/proc/drbd`. A handler cannot ask by netlink: the kernel waits for its end, and
//! what a command would wait for may wait for the kernel.

use model::state::{ConnState, DiskState, Role};

/// Longest text that is read, in octets.
pub const PROC_BYTES_MAX: usize = 1 << 20;

/// One volume as its node sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VolumeLook {
    /// The connection.
    pub conn: ConnState,
    /// Own role.
    pub role: Role,
    /// The peer's role.
    pub peer_role: Role,
    /// Own disk.
    pub disk: DiskState,
    /// The peer's disk.
    pub peer_disk: DiskState,
}

/// The volumes with these minors, in their order.
///
/// # Errors
/// One of them is not there, or not configured, or its line is not understood.
pub fn volumes(text: &str, minors: &[u32]) -> Result<Vec<VolumeLook>, String> {
    if text.len() > PROC_BYTES_MAX {
        return Err(format!("{} octets are too many for the state of DRBD", text.len()));
    }
    minors.iter().map(|minor| volume(text, *minor)).collect()
}

fn volume(text: &str, minor: u32) -> Result<VolumeLook, String> {
    let head = format!("{minor}:");
    let mut lines = text.lines().filter(|line| line.split_whitespace().next() == Some(&head));
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return Err(format!("the kernel's DRBD does not show minor {minor}"));
    };
    let unclear = || format!("minor {minor} of the kernel's DRBD: '{}' is not understood", line.trim());
    let value =
        |key: &str| line.split_whitespace().find_map(|word| word.strip_prefix(key)).ok_or_else(unclear);
    let pair = |key| value(key)?.split_once('/').ok_or_else(unclear);
    let (role, peer_role) = pair("ro:")?;
    let (disk, peer_disk) = pair("ds:")?;
    let roles = |name| Role::from_name(name).ok_or_else(unclear);
    let disks = |name| DiskState::from_name(name).ok_or_else(unclear);
    Ok(VolumeLook {
        conn: ConnState::from_name(value("cs:")?).ok_or_else(unclear)?,
        role: roles(role)?,
        peer_role: roles(peer_role)?,
        disk: disks(disk)?,
        peer_disk: disks(peer_disk)?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "version: 8.4.11 (api:1/proto:86-101)\nsrcversion: 1 \n \
        0: cs:WFConnection ro:Primary/Unknown ds:UpToDate/DUnknown C s---F-\n    \
        ns:0 nr:0 dw:0 dr:0 al:8 bm:0 lo:0 pe:0 ua:0 ap:0 ep:1 wo:f oos:0\n\n \
        1: cs:Unconfigured\n\
        10: cs:StandAlone ro:Secondary/Unknown ds:Consistent/DUnknown   r----s\n";

    #[test]
    fn lines_of_a_kernel_are_read() {
        let all = volumes(TEXT, &[10, 0]).unwrap();
        let first = VolumeLook {
            conn: ConnState::StandAlone,
            role: Role::Secondary,
            peer_role: Role::Unknown,
            disk: DiskState::Consistent,
            peer_disk: DiskState::DUnknown,
        };
        let second = VolumeLook {
            conn: ConnState::WFConnection,
            role: Role::Primary,
            disk: DiskState::UpToDate,
            ..first
        };
        assert_eq!(all, [first, second]);
    }

    #[test]
    fn what_is_not_there_or_not_clear_is_no_state() {
        for minor in [1, 2, 100] {
            assert!(volumes(TEXT, &[0, minor]).is_err(), "{minor}");
        }
        for text in [
            "",
            " 0: cs:Connected ro:Primary ds:UpToDate/UpToDate C r-----",
            " 0: cs:Connected ro:Primary/Secondary ds:UpToDate/Good C r-----",
            " 0: ro:Primary/Secondary ds:UpToDate/UpToDate C r-----",
            " 0: cs:Connected ro:Primary/Secondary ds:UpToDate/UpToDate C\n 0: cs:Connected ro:Primary/Secondary ds:UpToDate/UpToDate C",
        ] {
            assert!(volumes(text, &[0]).is_err(), "{text}");
        }
        assert!(volumes(&" ".repeat(PROC_BYTES_MAX + 1), &[]).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".{0,300}", minor in any::<u32>()) {
            let _ = volumes(&text, &[minor]);
            let _ = volumes(&format!(" {minor}: {text}"), &[minor]);
        }
    }
}
