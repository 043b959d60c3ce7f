use super::*;
use crate::status::snapshot::{RateLimit, StandAloneCause};

fn pair(conn: ConnState) -> ResourceSnapshot {
    let mut r = ResourceSnapshot::new("r0");
    r.node_name = Some("alice".into());
    r.peer_name = Some("bob".into());
    r.peer_addr = "10.0.0.2:7789".into();
    r.role = Role::Primary;
    let mut v = VolumeSnapshot::new(0, 0);
    v.device = "/dev/drbd0".into();
    v.size_sectors = 40 << 21;
    v.state.role = Role::Primary;
    v.state.disk = DiskState::UpToDate;
    v.state.conn = conn;
    r.connection = conn.min(ConnState::WFReportParams);
    if conn >= ConnState::WFReportParams {
        r.peer_role = Role::Secondary;
        v.state.peer = Role::Secondary;
        v.state.pdsk = DiskState::UpToDate;
    }
    r.protocol = (conn != ConnState::StandAlone).then_some('C');
    r.volumes.push(v);
    r
}

fn syncing(conn: ConnState) -> ResourceSnapshot {
    let mut r = pair(conn);
    let v = &mut r.volumes[0];
    v.state.pdsk = DiskState::Inconsistent;
    v.counters.out_of_sync_kib = 30 << 20;
    v.progress = Some(Progress {
        direction: Direction::ToPeer,
        kind: ProgressKind::Resync,
        total_blocks: 10 << 20,
        left_blocks: 30 << 18,
        failed_blocks: 0,
        elapsed_ms: 105_000,
        paused_ms: 0,
        rate_now_kib_s: 110 << 10,
        rate_mean_kib_s: 100_000,
        wanted_kib_s: Some(100 << 10),
        limited_by: Some(RateLimit::MaxRate),
        eta_s: Some(279),
        stalled: false,
    });
    r
}

fn progress(r: &mut ResourceSnapshot) -> &mut Progress {
    r.volumes[0].progress.as_mut().expect("syncing")
}

#[test]
fn a_healthy_pair_is_three_lines() {
    assert_eq!(
        render(&[pair(ConnState::Connected)], 80, false),
        "\
1 resource  all well

r0  alice Primary  <->  bob Secondary  Connected  protocol C
  volume 0  /dev/drbd0  40.0 GiB  UpToDate  /  UpToDate
"
    );
    assert_eq!(render(&[], 80, false), "no resources\n");
}

#[test]
fn a_resync_shows_direction_amounts_rates_and_end() {
    assert_eq!(
        render(&[syncing(ConnState::SyncSource)], 80, false),
        "\
1 resource  1 syncing

r0  alice Primary  <->  bob Secondary  Connected  protocol C
  volume 0  /dev/drbd0  40.0 GiB  UpToDate  /  Inconsistent  SyncSource
    alice ==> bob  [=========>.............................]  25.0%  ETA 0:04:39
    done 10.0 GiB of 40.0 GiB  left 30.0 GiB  running 0:01:45
    now 110 MiB/s  mean 97.6 MiB/s  wanted 100 MiB/s  limited by c-max-rate
"
    );
}

#[test]
fn the_target_sees_the_arrow_from_the_peer_and_a_stall_is_an_alarm() {
    let mut r = syncing(ConnState::SyncTarget);
    progress(&mut r).direction = Direction::FromPeer;
    progress(&mut r).stalled = true;
    progress(&mut r).rate_now_kib_s = 0;
    progress(&mut r).limited_by = Some(RateLimit::PeerDisk);
    assert_eq!(
        render(&[r], 80, false),
        "\
1 resource  1 needs action  1 syncing

r0  alice Primary  <->  bob Secondary  Connected  protocol C
  volume 0  /dev/drbd0  40.0 GiB  UpToDate  /  Inconsistent  SyncTarget
    bob ==> alice  [==========>.............................]  25.0%  STALLED
    done 10.0 GiB of 40.0 GiB  left 30.0 GiB  running 0:01:45
    now 0 KiB/s  mean 97.6 MiB/s  wanted 100 MiB/s  limited by peer's disk
  !! volume 0 has not moved for three minutes
     next: check the disks of both nodes and the link;
       'lockstep disconnect r0' and 'lockstep connect r0' go on where it stopped
"
    );
}

#[test]
fn a_pause_names_who_paused() {
    let mut r = syncing(ConnState::PausedSyncS);
    r.volumes[0].state.peer_isp = true;
    let text = render(&[r.clone()], 80, false);
    assert!(text.contains("  25.0%  PAUSED\n"), "{text}");
    assert!(
        text.ends_with(
            "  ! resync of volume 0 paused by bob\n     next: on bob: 'lockstep resume-sync r0'\n"
        )
    );
    r.volumes[0].state.aftr_isp = true;
    let text = render(&[r.clone()], 80, false);
    assert!(text.ends_with("  - volume 0 waits for another resync (resync-after)\n"));
    r.volumes[0].state.user_isp = true;
    let text = render(&[r], 80, false);
    assert!(
        text.ends_with("  ! resync of volume 0 paused by command\n     next: 'lockstep resume-sync r0'\n")
    );
}

#[test]
fn a_verify_reports_differences_while_it_runs() {
    let mut r = syncing(ConnState::VerifyS);
    r.volumes[0].state.pdsk = DiskState::UpToDate;
    r.volumes[0].counters.out_of_sync_kib = 12;
    progress(&mut r).kind = ProgressKind::Verify;
    let text = render(&[r], 80, false);
    assert!(text.contains("    alice <=> bob  [="), "{text}");
    assert!(
        text.contains(
            "    compared 10.0 GiB of 40.0 GiB  left 30.0 GiB  running 0:01:45\n      differs 12 KiB\n"
        ),
        "{text}"
    );
}

#[test]
fn split_brain_says_which_command_on_which_node() {
    let mut r = pair(ConnState::StandAlone);
    r.standalone_reason = Some("Split-Brain detected but unresolved, dropping connection!".into());
    r.volumes[0].counters.out_of_sync_kib = 8;
    assert_eq!(
        render(&[r], 80, false),
        "\
1 resource  1 needs action

r0  alice Primary  -x-  bob Unknown  StandAlone
  volume 0  /dev/drbd0  40.0 GiB  UpToDate  /  DUnknown
  !! split brain: each node has changes that the other one lacks
     reason: Split-Brain detected but unresolved, dropping connection!
     next: run 'lockstep connect --discard-my-data r0' on the node whose
       changes may be lost (make it Secondary first), then 'lockstep connect r0'
       on the other one if it is StandAlone
  - 8 KiB of volume 0 marked out of sync with bob
"
    );
}

#[test]
fn a_lost_peer_and_frozen_io_come_before_the_volumes() {
    let mut r = pair(ConnState::WFConnection);
    r.suspended_fencing = true;
    r.handshake_note = Some("connection refused".into());
    assert_eq!(
        render(&[r], 80, false),
        "\
1 resource  1 needs action

r0  alice Primary  -x-  bob Unknown  WFConnection  protocol C  I/O FROZEN
  volume 0  /dev/drbd0  40.0 GiB  UpToDate  /  DUnknown
  ! no connection to bob (10.0.0.2:7789)
     reason: connection refused
     next: is bob up, does lockstep run there, does the network pass? Retried
       without end
  !! I/O is frozen until bob is fenced
     next: see what the fence-peer handler reports; only if bob is surely
       dead: 'lockstep resume-io r0'
"
    );
}

#[test]
fn disks_in_trouble_get_their_remedy() {
    let next_for = |disk, pdsk, conn| {
        let mut r = pair(conn);
        (r.volumes[0].state.disk, r.volumes[0].state.pdsk) = (disk, pdsk);
        advise(&r).into_iter().filter_map(|a| a.next).collect::<Vec<_>>().join("|")
    };
    use DiskState::*;
    let c = ConnState::Connected;
    assert!(next_for(Diskless, UpToDate, c).contains("'lockstep attach r0'"));
    assert!(next_for(UpToDate, Diskless, c).starts_with("on bob: repair"));
    assert!(next_for(Inconsistent, Inconsistent, c).contains("'lockstep primary --force r0'"));
    assert!(next_for(Inconsistent, UpToDate, c).contains("'lockstep invalidate r0' here"));
    assert!(next_for(Inconsistent, DUnknown, ConnState::WFConnection).contains("connect to bob; the resync"));
    assert!(next_for(Outdated, DUnknown, ConnState::WFConnection).contains("before promoting"));
    assert_eq!(next_for(UpToDate, UpToDate, c), "");
    // While a resync runs the target is Inconsistent by design.
    assert_eq!(next_for(Inconsistent, UpToDate, ConnState::SyncTarget), "");
}

#[test]
fn every_cause_of_standalone_ends_with_a_command() {
    use StandAloneCause::*;
    for cause in [Operator, SplitBrain, UnrelatedData, Authentication, Settings, Size, Congestion, Other] {
        let mut r = pair(ConnState::StandAlone);
        r.standalone_cause = Some(cause);
        let next = advise(&r)[0].next.clone().expect("a remedy");
        assert!(next.contains("'lockstep "), "{cause:?}: {next}");
    }
}

#[test]
fn a_resource_that_is_down_is_no_alarm() {
    let mut r = ResourceSnapshot::new("r1");
    r.volumes.push(VolumeSnapshot::new(0, 1));
    assert_eq!(
        render(&[r], 80, false),
        "\
1 resource  1 down

r1  this node Secondary  -x-  peer Unknown  StandAlone
  volume 0  Diskless  /  DUnknown
  - down: no disk attached, no connection
     next: 'lockstep up r1'
"
    );
}

#[test]
fn colours_only_on_request_and_lines_never_exceed_the_width() {
    let mut r = syncing(ConnState::SyncSource);
    r.name = "a-resource-with-a-very-long-name-that-fills-more-than-a-narrow-line".into();
    r.standalone_reason = Some("x".repeat(300));
    r.connection = ConnState::StandAlone;
    for width in [0, 40, 57, 80, 200] {
        let text = render(&[r.clone()], width, false);
        assert!(text.lines().all(|l| l.chars().count() <= width.max(40)), "{width}\n{text}");
        let coloured = render(&[r.clone()], width, true);
        let mut stripped = String::new();
        for (i, part) in coloured.split('\x1b').enumerate() {
            stripped.push_str(if i == 0 { part } else { part.split_once('m').expect("a complete code").1 });
        }
        assert_eq!(stripped, text);
        assert!(coloured.contains("\x1b[1;31mStandAlone\x1b[0m"));
    }
}

#[test]
fn words_of_the_peer_cannot_move_the_cursor() {
    let mut r = pair(ConnState::WFConnection);
    r.handshake_note = Some("bad\x1b[2Jfeature\r\n".into());
    let text = render(&[r], 80, false);
    assert!(text.contains("reason: bad?[2Jfeature??\n"), "{text}");
}

#[test]
fn commands_are_not_broken_across_lines() {
    let text = "alpha beta 'lockstep connect r0', then 'lockstep with no end";
    assert_eq!(
        chunks(text, 40),
        ["alpha", "beta", "'lockstep connect r0',", "then", "'lockstep", "with", "no", "end"]
    );
    assert_eq!(chunks("'lockstep connect r0'", 10), ["'lockstep", "connect", "r0'"]);
}

#[test]
fn the_summary_counts_every_resource_once_per_kind() {
    let mut lost = pair(ConnState::StandAlone);
    lost.standalone_cause = Some(StandAloneCause::SplitBrain);
    let list = [lost.clone(), lost, pair(ConnState::WFConnection), syncing(ConnState::SyncSource)];
    let text = render(&list, 80, false);
    assert!(text.starts_with("4 resources  2 need action  1 degraded  1 syncing\n"), "{text}");
}

#[test]
fn requests_in_flight_are_shown_while_there_are_any() {
    let mut r = pair(ConnState::Connected);
    r.volumes[0].counters.app_pending = 7;
    r.volumes[0].counters.pending = 5;
    let text = render(&[r], 80, false);
    assert!(text.ends_with("    in flight: 7 of applications, 5 at bob, 0 on disk, 0 for bob\n"), "{text}");
}
