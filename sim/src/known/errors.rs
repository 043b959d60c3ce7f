//! I/O errors, suspended I/O, and requests that have to be answered once.

use super::*;
use crate::hooks::DiskOp;
use model::policy::{OnIoError, Protocol};
use model::result_code::ConfigError;

fn pair_on_error(seed: u64, policy: OnIoError) -> World {
    let d = DiskConfig { on_io_error: policy, ..DiskConfig::default() };
    pair_with(seed, SECTORS, &net(), [d.clone(), DiskConfig::default()])
}

fn command_ends(w: &mut World, id: CommandId, limit: Duration) -> CommandResult {
    let is_it = |a: &Answer| matches!(a, Answer::Command(i, _) if *i == id);
    assert!(w.run_until(limit, |w| w.answers.iter().any(|(_, a)| is_it(a))), "it ends");
    match w.take_answer(is_it) {
        Some(Answer::Command(_, result)) => result,
        other => panic!("{other:?}"),
    }
}

/// DRBD 9.0.29: a request was split, and the success of its last part hid the failure of another. Here one request is
/// one operation; a block in any part of it fails.
#[test]
fn part_error_overwritten() {
    for policy in [OnIoError::PassOn, OnIoError::Detach] {
        for bad in [0, 17, 40, 63] {
            for op in [DiskOp::Read, DiskOp::Write] {
                let mut w = pair_on_error(bad, policy);
                assert_eq!(write(&mut w, 0, 0, 512), ClientResult::Ok);
                w.run_for(ms(100));
                let wanted = w.nodes[1].disk.read(0);
                w.hooks.break_disk(0, op, at(bad), 8);
                if op == DiskOp::Read {
                    let tag = w.request(0, SimOp::Read { sector: 0, count: 512 });
                    assert_eq!(wait(&mut w, tag), (ClientResult::Ok, vec![wanted; 512]));
                } else {
                    assert_eq!(write(&mut w, 0, 0, 512), ClientResult::Ok);
                }
                assert!(w.run_until(secs(1), |w| disk(w, 0) <= DiskState::Inconsistent));
                ends_well(&mut w);
            }
        }
    }
}

/// DRBD 8.3.8 and 8.4.2: a local read error reached the client, or nobody did.
#[test]
fn failed_read_not_retried() {
    for policy in [OnIoError::PassOn, OnIoError::Detach] {
        let mut w = pair_on_error(1, policy);
        put(&mut w, 0, 0);
        w.run_for(ms(100));
        w.hooks.break_disk(0, DiskOp::Read, 0, 8);
        assert_eq!(read(&mut w, 0, 0), Ok(1), "the client does not notice");
        assert_eq!(w.hooks.seen(0, Wire::DataRequest), 1);
        assert_eq!(marked(&w, 0), 1, "the block is marked");
        w.run_for(ms(100));
        if policy == OnIoError::Detach {
            assert_eq!(disk(&w, 0), DiskState::Diskless);
            w.hooks.mend_disks();
            w.attach(0);
        } else {
            assert_eq!(disk(&w, 0), DiskState::Inconsistent);
            assert_eq!(read(&mut w, 0, 64), Ok(0), "other blocks are still read here");
            assert_eq!(w.hooks.seen(0, Wire::DataRequest), 1);
            w.hooks.mend_disks();
            // A Primary would not let the only good copy go.
            assert_eq!(w.command_and_wait(1, Command::Disconnect { force: true }), OK);
            w.connect(1, &net());
        }
        heals(&mut w);
        ends_well(&mut w);
    }
}

/// The peer goes before its answer, or has no disk: an error, but an answer.
#[test]
fn failed_read_not_retried_when_the_peer_has_none() {
    for policy in [OnIoError::PassOn, OnIoError::Detach] {
        for k in 0..12 {
            let mut w = pair_on_error(k, policy);
            put(&mut w, 0, 0);
            w.run_for(ms(100));
            if k == 0 {
                assert_eq!(w.command_and_wait(1, DETACH), OK);
            } else {
                w.hooks.slow_disk(1, DiskOp::Read, 0, 8);
            }
            w.hooks.break_disk(0, DiskOp::Read, 0, 8);
            let tag = w.request(0, SimOp::Read { sector: 0, count: 8 });
            events(&mut w, k);
            if k > 0 {
                w.reset();
            }
            w.run_for(ms(500));
            let result = answer(&mut w, tag);
            assert_eq!(result.map(|(r, _)| r), Some(ClientResult::IoError), "k = {k}");
            w.run_for(secs(5));
            // The peer began a generation of its own if it heard of the failed disk; attached too early, the disk has
            // one too.
            ends_well_or_apart(&mut w, 1);
        }
    }
}

/// Crucible and Longhorn: a copy that had been skipped counted as success. The peer's disk has failed without the
/// Primary knowing, then its own fails.
#[test]
fn failed_copy_counts_as_good() {
    for own_first in [false, true] {
        let mut w = pair(4);
        put(&mut w, 0, 5);
        w.run_for(ms(100));
        w.hooks.keep(1, Wire::State);
        w.command(1, TEAR_OFF);
        w.run_for(ms(5));
        w.hooks.slow_disk(0, DiskOp::Write, at(5), 8);
        w.hooks.break_disk(0, DiskOp::Write, at(5), 8);
        let tag = begin(&mut w, 0, 5);
        if own_first {
            w.let_go(false);
        }
        w.run_for(ms(5));
        if !own_first {
            assert_eq!(w.hooks.seen(1, Wire::NegAck), 1);
            w.let_go(false);
        }
        assert_eq!(wait(&mut w, tag).0, ClientResult::IoError, "no copy has it");
        ends_well(&mut w);
    }
}

/// HAST: the receive acknowledgement and the final one shared a counter; requests were completed twice, or never.
#[test]
fn two_acks_complete_twice() {
    let n = NetConfig { protocol: Protocol::B, ..net() };
    for own_is_slow in [false, true] {
        for peer_fails in [false, true] {
            for k in 0..24 {
                let mut w = pair_with(k, SECTORS, &n, [DiskConfig::default(), DiskConfig::default()]);
                put(&mut w, 0, 0);
                if own_is_slow {
                    w.hooks.slow_disk(0, DiskOp::Write, at(5), 8);
                }
                if peer_fails {
                    w.hooks.break_disk(1, DiskOp::Write, at(5), 8);
                }
                let tag = begin(&mut w, 0, 5);
                events(&mut w, k);
                if k % 4 != 0 {
                    w.reset();
                }
                w.run_for(ms(50));
                w.let_go(false);
                is_done(&mut w, tag);
                ends_well_with(&mut w, &[n.clone(), n.clone()]);
            }
        }
    }
}

/// DRBD 8.4.2 and 9.1.7: requests were completed while I/O was frozen, or forgotten if their last part ended then, or
/// timed out when they thawed. Frozen by the operator here, for longer than any timeout.
#[test]
fn frozen_requests_mishandled() {
    for k in 0..40 {
        let mut w = pair(k);
        put(&mut w, 0, 0);
        w.hooks.slow_disk(0, DiskOp::Write, at(3), 8 * 3);
        w.hooks.slow_disk(1, DiskOp::Write, at(5), 8 * 3);
        let tags: Vec<ClientTag> = (1..9).map(|b| begin(&mut w, 0, b)).collect();
        events(&mut w, k);
        let mut open = Vec::new();
        for tag in tags {
            if answer(&mut w, tag).is_none() {
                open.push(tag);
            }
        }
        // It waits for the disks, and freezes at once.
        let frozen = w.command(0, Command::SuspendIo);
        // What had its last answer before the freeze was taken.
        open.retain(|t| answer(&mut w, *t).is_none());
        open.push(begin(&mut w, 0, 20));
        cut(&mut w);
        w.let_go(false);
        w.run_for(secs(20));
        for tag in &open {
            assert_eq!(answer(&mut w, *tag), None, "frozen");
        }
        assert_eq!(w.nodes[0].disk.read(at(20)), 0, "not even begun");
        assert_eq!(command_ends(&mut w, frozen, secs(1)), OK);
        if k % 2 == 0 {
            w.cut(false);
            assert!(w.run_until(secs(20), |w| conn(w, 0) >= ConnState::Connected));
            w.run_for(secs(1));
            for tag in &open {
                assert_eq!(answer(&mut w, *tag), None, "still frozen");
            }
        }
        assert_eq!(w.command_and_wait(0, Command::ResumeIo), OK);
        for tag in open {
            is_done(&mut w, tag);
        }
        ends_well(&mut w);
    }
}

/// The same where I/O froze by itself for want of data.
#[test]
fn frozen_requests_mishandled_without_data() {
    for k in 0..20 {
        let mut w = freezing_pair(k, &DiskConfig::default());
        put(&mut w, 0, 0);
        assert_eq!(w.command_and_wait(0, DETACH), OK);
        // It has heard of the generation in which the peer goes on.
        w.run_for(ms(5));
        let tags: Vec<ClientTag> = (1..9).map(|b| begin(&mut w, 0, b)).collect();
        events(&mut w, k);
        w.crash(1, false);
        // What was acknowledged before that is still read.
        assert!(w.run_until(secs(5), |w| conn(w, 0) < ConnState::Connected));
        let open: Vec<ClientTag> = tags.into_iter().filter(|t| answer(&mut w, *t).is_none()).collect();
        w.run_for(secs(20));
        for tag in &open {
            assert_eq!(answer(&mut w, *tag), None, "frozen");
        }
        w.start(1);
        w.connect(1, &net());
        for tag in open {
            is_done(&mut w, tag);
        }
        ends_well(&mut w);
    }
}

/// DRBD 8.4.3, 8.4.4, 8.4.7, 8.4.11: commands or handshakes waited for I/O that was frozen until they ended.
#[test]
fn wait_cycles_with_frozen_io() {
    for what in 0..5 {
        let mut w = crowded_pair(what);
        assert_eq!(w.command_and_wait(0, Command::SuspendIo), OK);
        let tags: Vec<ClientTag> = (60..80).map(|e| begin(&mut w, 0, e * EXTENT + 1)).collect();
        cut(&mut w);
        let limit = secs(20);
        match what {
            0 => w.cut(false),
            1 => {
                w.cut(false);
                assert!(w.run_until(limit, |w| conn(w, 0) >= ConnState::Connected));
                let id = w.command(0, Command::Disconnect { force: false });
                assert_eq!(command_ends(&mut w, id, limit), OK);
                w.connect(0, &net());
            }
            2 => {
                let id = w.command(0, Command::Disconnect { force: false });
                assert_eq!(command_ends(&mut w, id, limit), OK);
                w.cut(false);
                w.connect(0, &net());
            }
            3 => {
                let cfg = DiskConfig { al_extents: 1237, ..DiskConfig::default() };
                let id = w.command(0, Command::DiskOptions(VOL, Box::new(cfg)));
                command_ends(&mut w, id, limit);
                w.cut(false);
            }
            _ => {
                w.cut(false);
                let id = w.command(1, Command::Disconnect { force: false });
                assert_eq!(command_ends(&mut w, id, limit), OK);
                let id = w.command(1, DETACH);
                assert_eq!(command_ends(&mut w, id, limit), OK);
                w.attach(1);
                w.connect(1, &net());
            }
        }
        assert!(w.run_until(limit, |w| conn(w, 0) >= ConnState::Connected), "case {what}");
        w.run_for(secs(2));
        for tag in &tags {
            assert_eq!(answer(&mut w, *tag), None, "frozen");
        }
        let id = w.command(0, Command::ResumeIo);
        assert_eq!(command_ends(&mut w, id, secs(1)), OK);
        for tag in tags {
            is_done(&mut w, tag);
        }
        settles(&mut w, &[net(), net()]);
        assert_eq!(secondary(&mut w, 0), OK);
        ends_well(&mut w);
    }
}

/// DRBD 8.3.9, 8.4.10, 9.2.19: writers that wait for the activity log or for a resync, while another path wants the
/// same.
#[test]
fn al_wait_vs_disk_failure_or_resize() {
    for what in 0..5 {
        for k in [0, 40, 150] {
            let mut w = crowded_pair(what + k);
            if what == 4 {
                w.grow(0, EXTENT * 8);
                w.grow(1, EXTENT * 8);
            }
            missed(&mut w, &[1, 2000, 5000, 70_000]);
            w.cut(false);
            assert!(w.run_until(secs(20), |w| conn(w, 0) == ConnState::SyncSource));
            let tags: Vec<ClientTag> = (0..100).map(|e| begin(&mut w, 0, e * EXTENT + 1)).collect();
            events(&mut w, k);
            let command = match what {
                0 => {
                    w.hooks.break_disk(0, DiskOp::Write, at(30 * EXTENT), 8192);
                    None
                }
                1 => Some(w.command(0, DETACH)),
                2 => {
                    w.reset();
                    Some(w.command(0, DETACH))
                }
                // Refused in the resync, and done after it.
                4 => {
                    let wish =
                        ResizeWish { limit_sectors: 0, assume_clean: false, assume_peer_has_space: false };
                    Some(w.command(0, Command::Resize(VOL, wish)))
                }
                // A handshake, while the log is full.
                _ => {
                    w.reset();
                    None
                }
            };
            for tag in tags {
                // Without a good copy left it is an error; what counts is the answer.
                wait(&mut w, tag);
            }
            if let Some(id) = command {
                command_ends(&mut w, id, secs(20));
            }
            settles(&mut w, &[net(), net()]);
            assert_eq!(secondary(&mut w, 0), OK);
            ends_well(&mut w);
        }
    }
}

/// Reports about DRBD: a command that waits for the peer never returned, and nothing behind it either.
#[test]
fn silent_peer_blocks_command() {
    type Make = fn() -> Command;
    let commands: [(bool, Make); 6] = [
        (false, || Command::Primary { force: false }),
        (true, || DETACH),
        (true, || Command::Disconnect { force: false }),
        (true, || Command::Invalidate(VOL)),
        (true, || Command::InvalidateRemote(VOL)),
        (true, || Command::Verify { vol: VOL, start_sector: None, stop_sector: None }),
    ];
    for (as_primary, command) in commands {
        for which in [Blocked::Meta, Blocked::Data, Blocked::Both] {
            let mut w = pair(10);
            put(&mut w, 0, 1);
            if !as_primary {
                assert_eq!(secondary(&mut w, 0), OK);
            }
            w.run_for(ms(100));
            w.block(1, which);
            let id = w.command(0, command());
            let behind = w.command(0, Command::ResumeSync(VOL));
            command_ends(&mut w, id, secs(10));
            let clear = CommandResult::Config(ConfigError::PauseIsClear);
            assert_eq!(command_ends(&mut w, behind, secs(1)), clear, "the next one is served");
            ends_well_or_apart(&mut w, 1);
        }
    }
}

/// Crucible, Longhorn: both copies were too slow, and one of them was kept as good. Whichever disk takes longer than
/// disk-timeout is given up, also for what the peer asked it; a client hears `ok` only of what a good copy has.
#[test]
fn failed_copy_counts_as_good_when_both_time_out() {
    for (first, second) in [(0, 1), (1, 0)] {
        for later in [0, 300, 1500, 4000] {
            let d = DiskConfig { disk_timeout: secs(2), ..DiskConfig::default() };
            let net = NetConfig { ko_count: 20, ..net() };
            let mut w = pair_with(12, SECTORS, &net, [d.clone(), d]);
            put(&mut w, 0, 5);
            w.run_for(ms(100));
            let seen = w.nodes[0].disk.read(at(5));
            w.hooks.slow_disk(first, DiskOp::Write, at(5), 8);
            let tag = begin(&mut w, 0, 5);
            w.run_for(ms(later));
            w.hooks.slow_disk(second, DiskOp::Write, at(5), 8);
            let again = begin(&mut w, 0, 5);
            let mut ok = Vec::new();
            for t in [tag, again] {
                let (result, _) = wait(&mut w, t);
                ok.push(result == ClientResult::Ok);
            }
            w.run_for(secs(6));
            let gone = [0, 1].map(|n| disk(&w, n) < DiskState::Inconsistent);
            assert!(gone[0] || gone[1], "the slow one, {later} ms: {:?}", w.volume(0));
            if ok == [false, false] {
                assert!(!read(&mut w, 0, at(5)).is_ok_and(|v| v != seen), "nothing was promised");
            }
            w.let_go(later % 200 == 0);
            w.run_for(ms(200));
            // The peer has begun a generation for clients that it could not serve in the end: two pasts may be reported.
            ends_well_or_apart(&mut w, 1);
        }
    }
}

/// The disk of the Secondary ends nothing of what the Primary asks: it is given up there, the Primary hears that its write
/// failed on that side, and its client is answered. What the disk does later harms nobody.
#[test]
fn aborted_request_of_the_peer_completes_later() {
    for newest_first in [false, true] {
        let d = DiskConfig { disk_timeout: secs(2), ..DiskConfig::default() };
        let net = NetConfig { ko_count: 20, ..net() };
        let mut w = pair_with(13, SECTORS, &net, [d.clone(), d]);
        put(&mut w, 0, 5);
        w.run_for(ms(100));
        w.hooks.packets.clear();
        w.hooks.slow_disk(1, DiskOp::Write, at(5), 8);
        let stuck = begin(&mut w, 0, 5);
        // The rest of the disk is well: its age alone tells.
        for block in 20..40 {
            put(&mut w, 0, block);
            w.run_for(ms(80));
        }
        assert!(w.run_until(secs(3), |w| disk(w, 1) < DiskState::Inconsistent), "given up");
        is_done(&mut w, stuck);
        assert_eq!(w.hooks.seen(1, Wire::NegAck), 1);
        assert_eq!(conn(&w, 0), ConnState::Connected);
        for block in 10..20 {
            put(&mut w, 0, block);
        }
        put(&mut w, 0, 5);
        w.let_go(newest_first);
        w.run_for(ms(100));
        ends_well_with(&mut w, &[net.clone(), net]);
    }
}

/// A read of a Primary without a disk that its peer's disk does not end: refused when that is given up, and the buffer is
/// free when the disk has ended it.
#[test]
fn aborted_read_of_the_peer_completes_later() {
    let d = DiskConfig { disk_timeout: secs(2), ..DiskConfig::default() };
    let net = NetConfig { ko_count: 20, ..net() };
    let mut w = pair_with(14, SECTORS, &net, [d.clone(), d]);
    put(&mut w, 0, 5);
    assert_eq!(w.command_and_wait(0, DETACH), OK);
    w.hooks.slow_disk(1, DiskOp::Read, at(5), 8);
    let tag = w.request(0, SimOp::Read { sector: at(5), count: 8 });
    assert!(w.run_until(secs(3), |w| disk(w, 1) < DiskState::Inconsistent), "given up");
    assert_ne!(wait(&mut w, tag).0, ClientResult::Ok, "there is no copy left");
    w.let_go(false);
    w.run_for(ms(100));
    for n in 0..2 {
        assert!(w.nodes[n].buffers.is_empty(), "node {}", n + 1);
    }
    ends_well_with(&mut w, &[net.clone(), net]);
}

/// DRBD 8.4.2 and 8.4.6: disk-timeout gave up requests, their buffers were used again, and then the disk ended them.
/// The simulator counts the references of a buffer, and what the disk writes late is what the request said.
#[test]
fn aborted_request_completes_later() {
    let d = DiskConfig { disk_timeout: secs(2), ..DiskConfig::default() };
    let mut w = pair_with(11, SECTORS, &net(), [d.clone(), d]);
    put(&mut w, 0, 5);
    w.run_for(ms(100));
    w.hooks.slow_disk(0, DiskOp::Write, at(5), 8);
    w.hooks.slow_disk(0, DiskOp::Read, at(900), 8);
    let written = begin(&mut w, 0, 5);
    let seen = w.request(0, SimOp::Read { sector: at(900), count: 8 });
    assert!(w.run_until(secs(4), |w| disk(w, 0) == DiskState::Diskless), "given up");
    is_done(&mut w, written);
    is_done(&mut w, seen);
    for block in 10..40 {
        put(&mut w, 0, block);
    }
    w.attach(0);
    w.run_for(secs(1));
    assert_eq!(disk(&w, 0), DiskState::Diskless, "not attached before it has ended everything");
    w.let_go(true);
    w.run_for(ms(100));
    ends_well(&mut w);
}
