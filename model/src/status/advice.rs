//! What is wrong with a resource and what an administrator does next. The rules look at the snapshot only,
//! so every page that shows status can give the same advice.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::human::size;
use super::snapshot::{ResourceSnapshot, StandAloneCause, VolumeSnapshot};
use crate::state::{ConnState, DiskState};

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Good to know; nothing has to be done.
    Note,
    /// Redundancy or service is reduced, in a way that was asked for or usually heals by itself.
    Warning,
    /// Somebody has to act.
    Alarm,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    /// How much it matters.
    pub severity: Severity,
    /// What is wrong.
    pub problem: String,
    /// The recorded reason behind it, as it was logged; may contain bytes of the peer.
    pub reason: Option<String>,
    /// What to do; none if there is nothing to do but to wait.
    pub next: Option<String>,
}

/// All findings about `r`: first the connection, then I/O, then the volumes in order.
pub fn advise(r: &ResourceSnapshot) -> Vec<Advice> {
    let mut out = Vec::new();
    let name = &r.name;
    if is_down(r) {
        let next = format!("'lockstep up {name}'");
        out.push(finding(Severity::Note, "down: no disk attached, no connection", None, Some(next)));
        return out;
    }
    if r.connection == ConnState::StandAlone {
        out.push(standalone(r));
    } else if r.connection < ConnState::WFReportParams {
        out.push(unconnected(r));
    }
    suspensions(r, &mut out);
    for v in &r.volumes {
        volume(r, v, &mut out);
    }
    out
}

/// The worst of all findings.
pub fn worst(r: &ResourceSnapshot) -> Option<Severity> {
    advise(r).iter().map(|a| a.severity).max()
}

/// Neither disks nor connection, and nothing that would explain it but a command.
pub fn is_down(r: &ResourceSnapshot) -> bool {
    let unused = r.volumes.iter().all(|v| v.state.is_unconfigured());
    r.connection == ConnState::StandAlone
        && unused
        && matches!(r.cause(), None | Some(StandAloneCause::Operator))
}

/// The peer's name for people.
pub fn peer_name(r: &ResourceSnapshot) -> &str {
    r.peer_name.as_deref().unwrap_or("peer")
}

/// Own name for people.
pub fn own_name(r: &ResourceSnapshot) -> &str {
    r.node_name.as_deref().unwrap_or("this node")
}

fn finding(severity: Severity, problem: &str, reason: Option<&String>, next: Option<String>) -> Advice {
    Advice { severity, problem: problem.to_string(), reason: reason.cloned(), next }
}

fn standalone(r: &ResourceSnapshot) -> Advice {
    let (name, peer) = (&r.name, peer_name(r));
    let connect = format!("'lockstep connect {name}'");
    let (severity, problem, next) = match r.cause() {
        None | Some(StandAloneCause::Operator) => {
            (Severity::Warning, format!("disconnected by command: {peer} gets no changes"), connect)
        }
        Some(StandAloneCause::SplitBrain) => (
            Severity::Alarm,
            "split brain: each node has changes that the other one lacks".to_string(),
            format!(
                "run 'lockstep connect --discard-my-data {name}' on the node whose changes may be lost \
                 (make it Secondary first), then {connect} on the other one if it is StandAlone"
            ),
        ),
        Some(StandAloneCause::UnrelatedData) => (
            Severity::Alarm,
            format!("the disks here and on {peer} never held the same data"),
            format!(
                "check that both nodes use the disks they should; to give up one copy, run there \
                 'lockstep down {name}', 'lockstep create-md {name}' and 'lockstep up {name}' (full resync)"
            ),
        ),
        Some(StandAloneCause::Authentication) => (
            Severity::Alarm,
            format!("authentication with {peer} failed"),
            format!(
                "make cram-hmac-alg and shared-secret equal on both nodes, run 'lockstep adjust {name}' \
                 on both, then {connect}"
            ),
        ),
        Some(StandAloneCause::Settings) => (
            Severity::Alarm,
            format!("the settings here and on {peer} do not go together"),
            format!(
                "compare the net sections of both nodes, run 'lockstep adjust {name}' where one changed, \
                 then {connect}"
            ),
        ),
        Some(StandAloneCause::Size) => (
            Severity::Alarm,
            "the disk of one node is too small".to_string(),
            format!("enlarge the smaller disk, then {connect}"),
        ),
        Some(StandAloneCause::Congestion) => (
            Severity::Alarm,
            format!("the link to {peer} was congested and on-congestion is disconnect"),
            format!("when the link has room again: {connect}"),
        ),
        Some(StandAloneCause::Other) => (
            Severity::Alarm,
            format!("the connection to {peer} was given up"),
            format!("remove the cause, then {connect}"),
        ),
    };
    finding(severity, &problem, r.standalone_reason.as_ref(), Some(next))
}

fn unconnected(r: &ResourceSnapshot) -> Advice {
    let peer = peer_name(r);
    let at = if r.peer_addr.is_empty() { String::new() } else { format!(" ({})", r.peer_addr) };
    let next = format!("is {peer} up, does lockstep run there, does the network pass? Retried without end");
    let problem = format!("no connection to {peer}{at}");
    finding(Severity::Warning, &problem, r.handshake_note.as_ref(), Some(next))
}

fn suspensions(r: &ResourceSnapshot, out: &mut Vec<Advice>) {
    let (name, peer) = (&r.name, peer_name(r));
    if r.suspended_fencing {
        let next = format!(
            "see what the fence-peer handler reports; only if {peer} is surely dead: 'lockstep resume-io {name}'"
        );
        out.push(finding(
            Severity::Alarm,
            &format!("I/O is frozen until {peer} is fenced"),
            None,
            Some(next),
        ));
    }
    if r.suspended_lease {
        let next = format!(
            "see 'lockstep failover status'; I/O goes on when the lease store or {peer} can be reached, and fails when {peer} has taken over"
        );
        let problem = "I/O is frozen: the lease has run out";
        out.push(finding(Severity::Alarm, problem, None, Some(next)));
    }
    if r.suspended_no_data {
        let next =
            format!("bring {peer} back or attach the local disk; frozen requests then go on by themselves");
        out.push(finding(
            Severity::Alarm,
            "I/O is frozen: no up-to-date data within reach",
            None,
            Some(next),
        ));
    }
    if r.suspended_user {
        let next = format!("'lockstep resume-io {name}'");
        out.push(finding(Severity::Warning, "I/O is frozen by command", None, Some(next)));
    }
}

fn volume(r: &ResourceSnapshot, v: &VolumeSnapshot, out: &mut Vec<Advice>) {
    if v.state.is_unconfigured() {
        return;
    }
    own_disk(r, v, out);
    peer_disk(r, v, out);
    sync(r, v, out);
    if let Some(error) = &v.last_error {
        out.push(finding(Severity::Note, &format!("last error of volume {}", v.vnr), Some(error), None));
    }
}

fn own_disk(r: &ResourceSnapshot, v: &VolumeSnapshot, out: &mut Vec<Advice>) {
    let (peer, object, vnr) = (peer_name(r), object(r, v), v.vnr);
    let connected = v.state.conn >= ConnState::Connected;
    match v.state.disk {
        DiskState::Failed | DiskState::Diskless => {
            let problem = if connected && v.state.pdsk == DiskState::UpToDate {
                format!("volume {vnr} has no disk here, all I/O goes to {peer}")
            } else {
                format!("volume {vnr} has no disk here")
            };
            let next = format!(
                "repair or replace the disk, then 'lockstep attach {object}' \
                 (a new disk needs 'lockstep create-md {object}' before)"
            );
            out.push(finding(Severity::Alarm, &problem, v.disk_error.as_ref(), Some(next)));
        }
        DiskState::Inconsistent if !connected => {
            let problem = format!("the copy of volume {vnr} is not usable: its resync has not finished");
            let next = format!("connect to {peer}; the resync goes on by itself");
            out.push(finding(Severity::Alarm, &problem, None, Some(next)));
        }
        DiskState::Inconsistent if v.state.conn == ConnState::Connected => {
            let (problem, next) = if v.state.pdsk == DiskState::Inconsistent {
                let next = format!("on the node whose data counts: 'lockstep primary --force {}'", r.name);
                (format!("volume {vnr} has valid data on neither node"), next)
            } else {
                let next = format!("'lockstep invalidate {object}' here copies everything from {peer}");
                (format!("the copy of volume {vnr} is not usable and no resync runs"), next)
            };
            out.push(finding(Severity::Alarm, &problem, None, Some(next)));
        }
        DiskState::Outdated if !connected => {
            let problem = format!("the copy of volume {vnr} is older than the one on {peer}");
            let next = format!(
                "connect to {peer} before promoting; 'lockstep primary --force {}' gives up the newer changes",
                r.name
            );
            out.push(finding(Severity::Warning, &problem, None, Some(next)));
        }
        DiskState::Attaching
        | DiskState::Negotiating
        | DiskState::Inconsistent
        | DiskState::Outdated
        | DiskState::DUnknown
        | DiskState::Consistent
        | DiskState::UpToDate => {}
    }
}

fn peer_disk(r: &ResourceSnapshot, v: &VolumeSnapshot, out: &mut Vec<Advice>) {
    let connected = v.state.conn >= ConnState::Connected;
    if connected && matches!(v.state.pdsk, DiskState::Failed | DiskState::Diskless) {
        let peer = peer_name(r);
        let problem = format!("{peer} has no disk for volume {}: this is the only copy", v.vnr);
        let next = format!("on {peer}: repair or replace the disk, then 'lockstep attach {}'", object(r, v));
        out.push(finding(Severity::Alarm, &problem, None, Some(next)));
    }
}

fn sync(r: &ResourceSnapshot, v: &VolumeSnapshot, out: &mut Vec<Advice>) {
    let (peer, object, vnr) = (peer_name(r), object(r, v), v.vnr);
    let oos = size(v.counters.out_of_sync_kib);
    let s = &v.state;
    if let Some(p) = v.progress.filter(|_| v.is_progressing()) {
        if p.failed_blocks > 0 {
            let problem =
                format!("{} of volume {vnr} could not be copied", size(p.failed_blocks.saturating_mul(4)));
            let next = "look for disk errors in the logs of both nodes".to_string();
            out.push(finding(Severity::Alarm, &problem, None, Some(next)));
        }
        if p.stalled {
            let problem = format!("volume {vnr} has not moved for three minutes");
            let next = format!(
                "check the disks of both nodes and the link; 'lockstep disconnect {0}' and \
                 'lockstep connect {0}' go on where it stopped",
                r.name
            );
            out.push(finding(Severity::Alarm, &problem, None, Some(next)));
        }
    }
    if matches!(s.conn, ConnState::PausedSyncS | ConnState::PausedSyncT) {
        out.push(pause(v, peer, &object));
    }
    if v.counters.out_of_sync_kib == 0 {
        return;
    }
    if s.conn == ConnState::Ahead {
        let problem =
            format!("the link is congested: {peer} lacks {oos} of volume {vnr}, only marked so far");
        out.push(finding(Severity::Warning, &problem, None, None));
    } else if s.conn == ConnState::Connected && s.disk == DiskState::UpToDate && s.pdsk == DiskState::UpToDate
    {
        let problem = format!("{oos} of volume {vnr} differ between the nodes");
        let next = format!("'lockstep invalidate {object}' on the node with the wrong copy (full resync)");
        out.push(finding(Severity::Alarm, &problem, None, Some(next)));
    } else if s.conn < ConnState::Connected && s.disk == DiskState::UpToDate {
        let problem = format!("{oos} of volume {vnr} marked out of sync with {peer}");
        out.push(finding(Severity::Note, &problem, None, None));
    }
}

fn pause(v: &VolumeSnapshot, peer: &str, object: &str) -> Advice {
    let (s, vnr) = (&v.state, v.vnr);
    // A dependency pauses on both nodes, so the peer's flag says nothing more then.
    if s.user_isp {
        let next = format!("'lockstep resume-sync {object}'");
        finding(Severity::Warning, &format!("resync of volume {vnr} paused by command"), None, Some(next))
    } else if s.aftr_isp {
        finding(Severity::Note, &format!("volume {vnr} waits for another resync (resync-after)"), None, None)
    } else {
        let next = format!("on {peer}: 'lockstep resume-sync {object}'");
        finding(Severity::Warning, &format!("resync of volume {vnr} paused by {peer}"), None, Some(next))
    }
}

/// How commands name the volume.
fn object(r: &ResourceSnapshot, v: &VolumeSnapshot) -> String {
    if r.volumes.len() == 1 { r.name.clone() } else { format!("{}/{}", r.name, v.vnr) }
}
