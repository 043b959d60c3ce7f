//! Compares the core's log with the kernel's: the lines about states, handshakes and generations.

use model::ids::DataUuid;

use super::Replay;
use super::compare::Mapping;
use crate::support::pcap::golden_dir;

/// How the lines begin that are compared.
const COMPARED: &[&str] = &[
    "role( ",
    "peer( ",
    "conn( ",
    "disk( ",
    "pdsk( ",
    "susp( ",
    "user_isp( ",
    "peer_isp( ",
    "drbd_sync_handshake:",
    "self ",
    "peer ",
    "uuid_compare()=",
    "Becoming sync ",
    "No resync, but ",
    "Began resync as ",
    "Resync done ",
    "updated UUIDs ",
    "updated sync UUID ",
    "updated sync uuid ",
    "new current UUID ",
    "receiver updated UUIDs to ",
    "Accepted new current UUID",
    "Preparing to skip ",
    "Forced to consider local data as UpToDate!",
    "Handshake successful: ",
    "Peer authenticated using ",
    "Split-Brain detected",
    "PingAck did not arrive in time.",
    "Connection closed",
    "attached to UUIDs ",
    "cleared bitmap UUID ",
    "State change failed: ",
    " wanted = ",
    "  state = ",
    "Discarding network configuration.",
    "Suspended AL updates",
    "Resumed AL updates",
    "real peer disk state = ",
    "Writing the whole bitmap",
    "Starting Online Verify from sector ",
    "Online Verify start sector: ",
    "Out of sync: ",
    "Online verify ",
];

/// Where the core took another course than the recorded kernel: capture, node, line of the kernel, line of the
/// core in its place (none if empty), reason.
const OTHERWISE: &[(u32, u8, &str, &str, &str)] = &[
    (13, 2, "conn( WFReportParams -> NetworkFailure )", "", RACE),
    (13, 2, "conn( NetworkFailure -> Disconnecting )", "conn( WFReportParams -> Disconnecting )", RACE),
    (28, 1, "Resync done (total 1 sec; paused 0 sec; 17368 K/sec)", "", UNFINISHED),
    (28, 1, "updated UUIDs 4A11B12D375EA0C3:", "", UNFINISHED),
    (28, 1, "conn( SyncSource -> Connected ) pdsk( Inconsistent -> UpToDate )", "", UNFINISHED),
];
const RACE: &str = "the kernel was busy with its split-brain handler when the peer closed the connection";
const UNFINISHED: &str =
    "the recorded target cleared bits on permission of the source, which the core never gives";

type Line = (Option<u8>, String);

fn compared(line: &Line) -> bool {
    COMPARED.iter().any(|start| line.1.starts_with(start)) || line.1.contains(" % had equal checksums")
}

/// Lines of the recorded node.
fn recorded(number: u32, side: u8) -> Vec<Line> {
    let prefix = format!("{number:02}-");
    let path = std::fs::read_dir(golden_dir())
        .expect("the directory of the captures")
        .map(|entry| entry.expect("an entry").path())
        .find(|p| {
            let name = p.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            name.starts_with(&prefix) && name.ends_with(".log")
        })
        .unwrap_or_else(|| panic!("no log of capture {number}"));
    let text = std::fs::read_to_string(&path).expect("a readable log");
    let node = format!("{side} ");
    let lines = text.lines().filter_map(|l| l.strip_prefix(&node));
    lines
        .map(|l| {
            let (volume, text) = l.split_once(' ').expect("volume and text");
            (volume.parse().ok(), text.to_string())
        })
        .filter(compared)
        .filter_map(|(volume, text)| {
            let other = OTHERWISE.iter().find(|o| (o.0, o.1) == (number, side) && text.starts_with(o.2));
            match other {
                None => Some((volume, text)),
                Some((_, _, _, "", _)) => None,
                Some((_, _, _, instead, _)) => Some((volume, instead.to_string())),
            }
        })
        .collect()
}

impl Replay<'_> {
    /// Both logs, line by line.
    pub(super) fn compare_log(&mut self) {
        let theirs = recorded(self.conversation.number, self.side);
        let cut_short = self.conversation.until[usize::from(self.side) - 1].is_some();
        let own: Vec<Line> = self.log.iter().filter(|l| compared(l)).cloned().collect();
        let lines = if cut_short { own.len() } else { theirs.len().max(own.len()) };
        for i in 0..lines {
            let (t, o) = (theirs.get(i), own.get(i));
            let same = match (t, o) {
                (Some(t), Some(o)) => t.0 == o.0 && same_text(&mut self.mapping, &t.1, &o.1),
                _ => false,
            };
            if !same {
                self.deviates(&format!("log line {i}\n  recorded {t:?}\n  core     {o:?}"));
            }
        }
    }
}

/// Equal but for UUIDs, which have to correspond, and durations.
fn same_text(mapping: &mut Mapping, recorded: &str, own: &str) -> bool {
    for done in ["Resync done (total ", "Online verify done (total "] {
        if recorded.starts_with(done) {
            return own.starts_with(done) && own.ends_with(" K/sec)");
        }
    }
    let split = |text: &str| -> Vec<String> {
        text.split_inclusive(|c: char| !c.is_ascii_alphanumeric()).map(str::to_string).collect()
    };
    let (t, o) = (split(recorded), split(own.trim_end()));
    // The kernel prints the generation as it was stored, the core with the role bit of this node.
    let any_role = recorded.starts_with("attached to UUIDs ");
    t.len() == o.len() && t.iter().zip(&o).all(|(t, o)| t == o || same_uuid(mapping, t, o, any_role))
}

fn same_uuid(mapping: &mut Mapping, recorded: &str, own: &str, any_role: bool) -> bool {
    let parse = |text: &str| {
        let (hex, rest) = text.split_at_checked(16)?;
        Some((DataUuid(u64::from_str_radix(hex, 16).ok()?), rest.to_string()))
    };
    match (parse(recorded), parse(own)) {
        (Some((t, t_rest)), Some((o, o_rest))) => {
            let t = if any_role { t.with_primary_bit(o.primary_bit()) } else { t };
            t_rest == o_rest && mapping.agree(t, o)
        }
        _ => false,
    }
}
