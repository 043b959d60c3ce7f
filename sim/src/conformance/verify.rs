//! Online verify: what it finds, where it begins and ends, what ends it early.

use super::*;
use model::ids::Minor;
use model::policy::{OnIoError, Protocol};
use model::result_code::StateResult;
use model::status::snapshot::{Progress, ProgressKind};

const BLOCKS: u64 = SMALL / 8;

/// The usual options with a verify algorithm.
fn verifying() -> NetConfig {
    NetConfig { verify_alg: "sha1".into(), ..net() }
}

/// A small pair that can verify, with these disk options.
fn verify_pair(seed: u64, net: &NetConfig, disk: &DiskConfig) -> World {
    let mut w = pair_with(seed, SMALL, net, [disk.clone(), disk.clone()]);
    for block in 0..BLOCKS {
        wrote(&mut w, 0, block * 8);
    }
    w.run_for(ms(100));
    w.hooks.packets.clear();
    w
}

/// Changes blocks of a node's disk behind its back.
fn change(w: &mut World, n: usize, blocks: &[u64]) {
    for block in blocks {
        w.nodes[n].disk.rot(block * 8 + 3, 2);
    }
}

fn verify(start_sector: Option<u64>, stop_sector: Option<u64>) -> Command {
    Command::Verify { vol: VOL, start_sector, stop_sector }
}

fn is_verifying(w: &World) -> bool {
    (0..2).any(|n| matches!(conn(w, n), ConnState::VerifyS | ConnState::VerifyT))
}

/// Begins on node `n` and waits for the end.
fn verified(w: &mut World, n: usize, command: Command) {
    assert_eq!(w.command_and_wait(n, command), OK);
    let both = [conn(w, n), conn(w, 1 - n)];
    assert_eq!(both, [ConnState::VerifyS, ConnState::VerifyT]);
    assert!(w.run_until(secs(60), |w| !is_verifying(w)), "{:?}", states(w));
    assert!(all_current(w), "{:?}", states(w));
}

fn bits(w: &World, n: usize) -> Vec<u64> {
    let core = w.nodes[n].core.as_ref().expect("it runs");
    (0..BLOCKS).filter(|b| core.is_marked(VOL, b * 8)).collect()
}

fn out_of_sync_kib(w: &World, n: usize) -> u64 {
    w.nodes[n].core.as_ref().expect("it runs").snapshot(w.now).volumes[0].counters.out_of_sync_kib
}

/// Log lines of a node so far that contain a text.
fn lines(w: &World, n: usize, text: &str) -> Vec<String> {
    let node = format!("node{} ", n + 1);
    let said = |l: &&String| l.contains(&node) && l.contains(text);
    let trace = w.trace.as_ref().expect("scenarios are traced");
    trace.iter().filter(said).map(|l| l.split(&node).nth(1).expect("just seen").into()).collect()
}

fn asked(w: &World, n: usize) -> Vec<u64> {
    let mine = w.hooks.packets.iter().filter(|p| p.from == n && p.header.command == Wire::OvRequest);
    mine.map(|p| u64::from(p.word(0)) << 32 | u64::from(p.word(4))).collect()
}

/// Four blocks are changed behind the program's back, two of them neighbours. Exactly these are marked on both nodes and
/// shown, whoever asks and whoever is Primary; a reconnect of a Primary repairs them.
#[test]
pub(super) fn verify_marks_what_differs() {
    for (asks, changed, alg) in [(0, 1, "sha1"), (1, 1, "crc32c"), (0, 1, "md5"), (1, 1, "sha256")] {
        let net = NetConfig { verify_alg: alg.into(), ..net() };
        let mut w = verify_pair(1, &net, &DiskConfig::default());
        verified(&mut w, asks, verify(None, None));
        assert_eq!([marked(&w, 0), marked(&w, 1)], [0, 0], "nothing differs yet");
        assert_eq!(asked(&w, asks), (0..BLOCKS).map(|b| b * 8).collect::<Vec<_>>());
        let damaged = [5, 6, 100, BLOCKS - 1];
        change(&mut w, changed, &damaged);
        verified(&mut w, asks, verify(None, None));
        for n in 0..2 {
            assert_eq!(bits(&w, n), damaged);
            assert_eq!(out_of_sync_kib(&w, n), 16);
            let ranges = ["start=40, size=16", "start=800, size=8", "start=2040, size=8"];
            let expected = ranges.map(|r| format!("Out of sync: {r} (sectors)"));
            assert_eq!(lines(&w, n, "Out of sync: "), expected);
            assert_eq!(lines(&w, n, "Online verify found"), ["Online verify found 4 4k block out of sync!"]);
        }
        disconnect(&mut w, 1);
        w.connect(1, &net);
        assert!(w.run_until(secs(20), |w| all_current(w) && marked(w, 0) == 0), "{:?}", states(&w));
        assert_eq!(brought(&w), [4 * 4096, 0]);
        ends(&mut w, &net);
    }
}

/// Without a start sector a run goes on where the one before ended; a stop sector ends it early.
#[test]
pub(super) fn verify_start_stop() {
    let net = verifying();
    let mut w = verify_pair(2, &net, &fixed_rate(100));
    change(&mut w, 1, &[10, 50, 90]);
    // Rounded down to a block.
    verified(&mut w, 0, verify(Some(8 * 20 + 5), Some(8 * 60)));
    assert_eq!(asked(&w, 0), (20..60).map(|b| b * 8).collect::<Vec<_>>());
    assert_eq!(lines(&w, 0, "Online Verify reached"), ["Online Verify reached sector 480"]);
    assert_eq!([bits(&w, 0), bits(&w, 1)], [[50], [50]]);
    w.hooks.packets.clear();
    verified(&mut w, 0, verify(None, Some(8 * 80)));
    assert_eq!(asked(&w, 0), (60..80).map(|b| b * 8).collect::<Vec<_>>());
    // An interruption.
    w.hooks.packets.clear();
    assert_eq!(w.command_and_wait(0, verify(None, None)), OK);
    let some = w.run_until(secs(10), |w| w.hooks.seen(0, Wire::OvResult) > 30);
    assert!(some);
    disconnect(&mut w, 0);
    let compared = 80 + w.hooks.seen(0, Wire::OvResult) as u64;
    w.connect(0, &net);
    assert!(w.run_until(secs(20), all_current), "{:?}", states(&w));
    assert_eq!(marked(&w, 0), 0, "the Primary has repaired what was found");
    w.hooks.packets.clear();
    verified(&mut w, 0, verify(None, None));
    let first = asked(&w, 0)[0] / 8;
    assert!(first <= compared && first > 80, "goes on at {first}, {compared} were compared");
    assert_eq!(asked(&w, 0).last(), Some(&(SMALL - 8)));
    // After the end of the device the next run begins at its beginning.
    w.hooks.packets.clear();
    verified(&mut w, 0, verify(None, Some(64)));
    assert_eq!(asked(&w, 0)[0], 0);
    verified(&mut w, 0, verify(Some(8), None));
    assert_eq!([bits(&w, 0), bits(&w, 1)], [[10], [10]], "found in what was left out");
    disconnect(&mut w, 0);
    w.connect(0, &net);
    ends(&mut w, &net);
}

/// Writes to the very blocks that are compared: nothing is found, whoever asks, in every protocol, with disks and links
/// of any speed; and the writes go on.
#[test]
pub(super) fn verify_under_load() {
    for (i, protocol) in [Protocol::C, Protocol::A, Protocol::B].into_iter().enumerate() {
        for (asks, disk_us, net_us) in [(0, 100, 50), (1, 100, 50), (0, 3000, 20), (1, 20, 3000)] {
            let net = NetConfig { protocol, ..verifying() };
            let mut w = verify_pair(30 + i as u64, &net, &fixed_rate(8000));
            (w.weather.disk_us, w.weather.net_us) = (disk_us, net_us);
            for _ in 0..2 {
                assert_eq!(w.command_and_wait(asks, verify(None, None)), OK);
                let before = w.truth.of(0).acknowledged;
                while is_verifying(&w) {
                    let sector = w.rng.below(SMALL - 20);
                    let count = 1 + w.rng.below(16);
                    w.request(0, SimOp::Write { sector, count, fua: false });
                    let pause = w.rng.below(1000);
                    w.run_for(Duration::from_micros(pause));
                }
                assert!(w.truth.of(0).acknowledged > before + 20, "writes go on");
            }
            assert_eq!([marked(&w, 0), marked(&w, 1)], [0, 0], "no false alarm");
            assert_eq!(lines(&w, 0, "Out of sync"), [""; 0]);
            ends(&mut w, &net);
        }
    }
}

/// The verify ends on both sides when a disk fails, is detached, or the link goes, at any point of it.
#[test]
pub(super) fn verify_target_becomes_inconsistent() {
    for policy in [OnIoError::Detach, OnIoError::PassOn] {
        for (asks, fails) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let net = verifying();
            let disk = DiskConfig { on_io_error: policy, ..DiskConfig::default() };
            let mut w = verify_pair(4, &net, &disk);
            w.hooks.break_disk(fails, crate::hooks::DiskOp::Read, 80, 8);
            assert_eq!(w.command_and_wait(asks, verify(None, None)), OK);
            assert!(w.run_until(secs(20), |w| !is_verifying(w)), "{policy}: {:?}", states(&w));
            w.run_for(secs(1));
            let expected =
                if policy == OnIoError::Detach { DiskState::Diskless } else { DiskState::Inconsistent };
            assert_eq!(states(&w)[fails].1, expected, "{policy}");
            assert_eq!(states(&w)[1 - fails], (ConnState::Connected, DiskState::UpToDate, expected));
            again(&mut w, fails, &net);
            ends(&mut w, &net);
        }
    }
    for (asks, goes) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let net = verifying();
        let mut w = verify_pair(5, &net, &DiskConfig::default());
        assert_eq!(w.command_and_wait(asks, verify(None, None)), OK);
        w.run_for(ms(1));
        assert_eq!(w.command_and_wait(goes, Command::Detach { vol: VOL, force: false }), OK);
        assert!(w.run_until(secs(20), |w| !is_verifying(w)), "{:?}", states(&w));
        ends(&mut w, &net);
    }
    for asks in 0..2 {
        let net = verifying();
        let mut w = verify_pair(6, &net, &DiskConfig::default());
        assert_eq!(w.command_and_wait(asks, verify(None, None)), OK);
        w.run_for(ms(1));
        w.cut(true);
        assert!(w.run_until(secs(20), |w| !is_verifying(w)), "{:?}", states(&w));
        ends(&mut w, &net);
    }
}

/// A copy that passed on an error is only brought again by a new connection.
fn again(w: &mut World, n: usize, net: &NetConfig) {
    faults_off(w);
    if states(w)[n].1 == DiskState::Inconsistent {
        w.command_and_wait(1, Command::Disconnect { force: true });
        w.run_for(secs(1));
        w.connect(1, net);
    }
}

/// Commands in the middle of a verify: those that need the connection for themselves are refused, the others change
/// nothing about it.
#[test]
fn verify_goes_on_through_role_changes_pauses_and_suspended_io() {
    let net = verifying();
    for asks in 0..2 {
        let mut w = verify_pair(7, &net, &fixed_rate(400));
        change(&mut w, 1, &[BLOCKS - 2]);
        assert_eq!(w.command_and_wait(asks, verify(None, None)), OK);
        let refused = CommandResult::State(StateResult::ResyncRunning);
        for n in 0..2 {
            for c in [Command::Invalidate(VOL), Command::InvalidateRemote(VOL)] {
                assert_eq!(w.command_and_wait(n, c), refused);
            }
            // The requester is there already.
            let second = if n == asks { OK } else { refused };
            assert_eq!(w.command_and_wait(n, verify(Some(0), None)), second);
            assert_eq!(w.command_and_wait(n, Command::PauseSync(VOL)), OK);
            assert_eq!(w.command_and_wait(n, Command::ResumeSync(VOL)), OK);
        }
        assert_eq!(w.command_and_wait(0, Command::SuspendIo), OK);
        let held = issue(&mut w, 0, 8);
        w.run_for(ms(500));
        assert!(is_verifying(&w));
        assert_eq!(w.command_and_wait(0, Command::ResumeIo), OK);
        assert_eq!(wait(&mut w, held).0, ClientResult::Ok);
        assert_eq!(secondary(&mut w, 0), OK);
        assert_eq!(primary(&mut w, 1), OK);
        assert!(is_verifying(&w));
        assert!(w.run_until(secs(60), |w| !is_verifying(w)), "{:?}", states(&w));
        assert_eq!([bits(&w, 0), bits(&w, 1)], [[BLOCKS - 2]; 2]);
        assert_eq!(secondary(&mut w, 1), OK);
        assert_eq!(primary(&mut w, 0), OK);
        disconnect(&mut w, 0);
        w.connect(0, &net);
        ends(&mut w, &net);
    }
}

/// What a verify needs before it begins; nothing else changes if it does not have it.
#[test]
fn verify_is_refused_without_algorithm_connection_or_good_copies() {
    let state = |r| CommandResult::State(r);
    let without = NetConfig { verify_alg: String::new(), ..net() };
    let mut w = pair_with(8, SMALL, &without, [DiskConfig::default(), DiskConfig::default()]);
    assert_eq!(w.command_and_wait(0, verify(None, None)), state(StateResult::NoVerifyAlg));
    let with_alg = verifying();
    for n in 0..2 {
        assert_eq!(w.command_and_wait(n, Command::NetOptions(Box::new(with_alg.clone()))), OK);
    }
    verified(&mut w, 1, verify(None, None));
    disconnect(&mut w, 0);
    assert_eq!(w.command_and_wait(0, verify(None, None)), state(StateResult::NeedConnection));
    w.connect(0, &with_alg);
    assert!(w.run_until(secs(20), all_current));
    assert_eq!(w.command_and_wait(1, Command::Detach { vol: VOL, force: false }), OK);
    w.run_for(ms(100));
    assert_eq!(w.command_and_wait(0, verify(None, None)), OK, "nothing to compare, as with DRBD");
    assert_eq!(conn(&w, 0), ConnState::Connected);
    w.attach(1);
    assert!(w.run_until(secs(20), all_current));
    ends(&mut w, &with_alg);
    // Fresh copies, both Inconsistent: a verify would call them good.
    let mut w = nodes(9, SMALL, [DiskConfig::default(), DiskConfig::default()], 1);
    link_up(&mut w, &with_alg);
    assert_eq!(w.command_and_wait(0, verify(None, None)), state(StateResult::NoUpToDateDisk));
    assert_eq!(states(&w)[0].1, DiskState::Inconsistent);
}

/// A verify obeys the limits of a resync, and is shown while it runs.
#[test]
fn verify_keeps_to_the_rate_and_shows_its_progress() {
    let net = verifying();
    let disk = fixed_rate(400);
    let mut w = verify_pair(10, &net, &disk);
    let begun = w.now;
    assert_eq!(w.command_and_wait(1, verify(None, None)), OK);
    w.run_for(ms(1050));
    for n in 0..2 {
        let shot = w.nodes[n].core.as_ref().expect("it runs").snapshot(w.now);
        let volume = &shot.volumes[0];
        assert_eq!(volume.minor, Minor(0).0);
        let p: Progress = volume.progress.expect("it is shown");
        assert_eq!(
            (p.kind, p.total_blocks, p.wanted_kib_s.is_some()),
            (ProgressKind::Verify, BLOCKS, n == 1)
        );
        let done_kib = p.done_blocks() * 4;
        assert!((400..=440).contains(&done_kib), "node {}: {done_kib} KiB in 1.05 s", n + 1);
    }
    assert!(w.run_until(secs(60), |w| !is_verifying(w)));
    let took_ms = w.now.saturating_since(begun).as_millis();
    assert!((2400..=2700).contains(&took_ms), "1 MiB in {took_ms} ms at 400 KiB/s");
    ends(&mut w, &net);
}
