//! Commands that change roles and disk states: who may, who may not, and with which answer.

use super::*;
use model::result_code::{ConfigError, StateResult};

fn state(e: StateResult) -> CommandResult {
    CommandResult::State(e)
}

/// Invalidate on either node brings every block in the stated direction; without a connection it is a note for later, or
/// refused with its code.
#[test]
pub(super) fn invalidate() {
    let cases: [(usize, Command, usize); 4] = [
        (1, Command::Invalidate(VOL), 0),
        (0, Command::Invalidate(VOL), 1),
        (0, Command::InvalidateRemote(VOL), 0),
        (1, Command::InvalidateRemote(VOL), 1),
    ];
    for (n, command, source) in cases {
        let mut w = pair(6);
        wrote(&mut w, 0, 64);
        w.run_for(ms(100));
        let text = format!("{command:?} on node {}", n + 1);
        assert_eq!(w.command_and_wait(n, command), OK, "{text}");
        assert!(w.run_until(secs(5), |w| conn(w, source) == ConnState::SyncSource), "{text}");
        let again = w.command_and_wait(n, Command::Invalidate(VOL));
        assert_eq!(again, state(StateResult::ResyncRunning), "{text}");
        assert!(w.run_until(secs(60), all_current), "{text}: {:?}", states(&w));
        assert_eq!(brought(&w)[source], SECTORS * 512, "{text}");
        assert_eq!(brought(&w)[1 - source], 0, "{text}");
        ends_as_usual(&mut w);
    }
    let mut w = pair(7);
    disconnect(&mut w, 0);
    let refused = state(StateResult::NeedConnection);
    assert_eq!(w.command_and_wait(0, Command::Invalidate(VOL)), refused);
    assert_eq!(w.command_and_wait(1, Command::Invalidate(VOL)), refused, "it waits for the peer");
    disconnect(&mut w, 1);
    assert_eq!(w.command_and_wait(1, Command::InvalidateRemote(VOL)), refused);
    // A Secondary that stands alone gives up its data; a Primary that stands alone that of the peer.
    assert_eq!(w.command_and_wait(1, Command::Invalidate(VOL)), OK);
    assert_eq!((disk(&w, 1), marked(&w, 1)), (DiskState::Inconsistent, SECTORS / 8));
    assert_eq!(w.command_and_wait(0, Command::InvalidateRemote(VOL)), OK);
    assert_eq!(marked(&w, 0), SECTORS / 8);
    w.hooks.packets.clear();
    w.connect(0, &net());
    w.connect(1, &net());
    assert!(w.run_until(secs(60), all_current), "{:?}", states(&w));
    assert_eq!(brought(&w), [SECTORS * 512, 0]);
    ends_as_usual(&mut w);
}

/// A Secondary without a connection can be outdated, and cannot be promoted then; a Primary refuses, and a connected
/// node stays UpToDate.
#[test]
pub(super) fn outdate() {
    let mut w = pair(1);
    wrote(&mut w, 0, 64);
    for n in 0..2 {
        assert_eq!(w.command_and_wait(n, Command::Outdate(VOL)), OK);
    }
    assert!(all_current(&w), "no effect while connected: {:?}", states(&w));
    disconnect(&mut w, 0);
    assert_eq!(w.command_and_wait(0, Command::Outdate(VOL)), state(StateResult::NoUpToDateDisk));
    assert_eq!(disk(&w, 0), DiskState::UpToDate);
    for alone in [false, true] {
        if alone {
            assert_eq!(w.command_and_wait(1, Command::Disconnect { force: true }), OK);
        }
        assert_eq!(w.command_and_wait(1, Command::Outdate(VOL)), OK);
        assert_eq!(disk(&w, 1), DiskState::Outdated);
        assert_eq!(primary(&mut w, 1), state(StateResult::NoUpToDateDisk));
    }
    // It is still so after a crash.
    w.crash(1, false);
    w.start(1);
    w.run_for(secs(1));
    assert_eq!(disk(&w, 1), DiskState::Outdated);
    assert_eq!(primary(&mut w, 1), state(StateResult::NoUpToDateDisk));
    w.connect(0, &net());
    w.connect(1, &net());
    assert!(w.run_until(secs(30), all_current), "{:?}", states(&w));
    assert_eq!(w.command_and_wait(1, Command::Detach { vol: VOL, force: false }), OK);
    assert_eq!(w.command_and_wait(1, Command::Outdate(VOL)), state(StateResult::IsDiskless));
    ends_as_usual(&mut w);
}

/// The role goes back and forth with writes in between: no resync and no new generation while Connected.
#[test]
pub(super) fn switch_primaries() {
    let mut w = pair(14);
    let before = uuids(&w, 0)[0];
    for i in 0..20 {
        let n = i % 2;
        scribble(&mut w, n, 20, SECTORS);
        assert_eq!(secondary(&mut w, n), OK);
        assert_eq!(primary(&mut w, 1 - n), OK);
        for m in 0..2 {
            assert!(uuids(&w, m)[0].same_as(before), "round {i}: no new generation");
        }
    }
    assert_eq!(brought(&w), [0, 0]);
    ends_as_usual(&mut w);
}

/// Both nodes are promoted at once, or one while the other is demoted, at every delay: one Primary at most at any time,
/// every command ends, and whoever is refused is accepted once the other one is Secondary.
#[test]
pub(super) fn concurrent_promote_demote() {
    for seed in 0..60 {
        let mut w = small_pair(seed);
        w.weather.net_us = 1 + w.rng.below(500);
        assert_eq!(secondary(&mut w, 0), OK);
        let (a, b) = (seed as usize % 2, 1 - seed as usize % 2);
        let first = w.command(a, Command::Primary { force: false });
        let us = w.rng.below(600);
        w.run_for(Duration::from_micros(us));
        let second = w.command(b, Command::Primary { force: false });
        // The oracle panics at once if both are Primary.
        let results = [answered_within(&mut w, first, secs(5)), answered_within(&mut w, second, secs(5))];
        w.run_for(secs(2));
        let is = |n: usize| roles(&w)[n] == Role::Primary;
        assert_eq!([is(a), is(b)], results.map(|r| r == OK), "seed {seed}: {results:?}");
        assert!(is(a) != is(b), "seed {seed}: exactly one, not {results:?}");
        let (winner, loser) = if is(a) { (a, b) } else { (b, a) };
        wrote(&mut w, winner, 64);
        // Promotion while the other one is demoted.
        let demotion = w.command(winner, Command::Secondary { open: 0, force: false });
        let us = w.rng.below(600);
        w.run_for(Duration::from_micros(us));
        let promotion = w.command(loser, Command::Primary { force: false });
        assert_eq!(answered_within(&mut w, demotion, secs(5)), OK);
        let result = answered_within(&mut w, promotion, secs(5));
        if result != OK {
            assert_eq!(primary(&mut w, loser), OK, "seed {seed}: after {result:?}");
        }
        wrote(&mut w, loser, 128);
        ends_as_usual(&mut w);
    }
}

/// Without force, a node becomes Primary only with UpToDate data in reach: its own, or that of a connected peer.
#[test]
pub(super) fn promote_needs_data() {
    use DiskState::*;
    use replicator::meta::superblock::MetaFlags;
    let none = state(StateResult::NoUpToDateDisk);
    for own in [Diskless, Inconsistent, Outdated, Consistent, UpToDate] {
        for peer_is_there in [false, true] {
            let what = format!("{own:?}, peer {peer_is_there}");
            let mut w = pair(3);
            wrote(&mut w, 0, 64);
            w.run_for(ms(100));
            assert_eq!(secondary(&mut w, 0), OK);
            w.crash(1, false);
            w.run_for(secs(1));
            let flags = match own {
                Inconsistent => MetaFlags(0),
                Outdated => MetaFlags::CONSISTENT,
                Consistent => MetaFlags::CONSISTENT.with(MetaFlags::WAS_UP_TO_DATE),
                _ => MetaFlags::CONSISTENT.with(MetaFlags::WAS_UP_TO_DATE).with(MetaFlags::PEER_OUT_DATED),
            };
            preset(&mut w, 1, |sb| sb.flags = flags);
            if own == Diskless {
                w.nodes[1].start(5);
            } else {
                w.start(1);
            }
            w.run_for(secs(1));
            if peer_is_there {
                w.connect(1, &net());
                assert!(w.run_until(secs(30), both_connected), "{what}: {:?}", states(&w));
            } else {
                // With fencing dont-care a Consistent disk is taken as current at once.
                let shown = if own == Consistent { UpToDate } else { own };
                assert_eq!(disk(&w, 1), shown, "{what}");
            }
            let wanted = if peer_is_there || own >= Consistent { OK } else { none };
            assert_eq!(primary(&mut w, 1), wanted, "{what}");
            if wanted == OK && peer_is_there {
                assert_eq!(read(&mut w, 1, 64), Ok(1), "{what}");
                wrote(&mut w, 1, 128);
            }
            if wanted != OK {
                let forced = w.command_and_wait(1, Command::Primary { force: true });
                assert_eq!(forced == OK, own != Diskless, "{what}: {forced:?}");
            }
            if peer_is_there {
                ends_as_usual(&mut w);
            }
        }
    }
}

/// A device that is open is not demoted, with its code; once it is closed the node becomes Secondary, and the bitmap is
/// on disk.
#[test]
pub(super) fn demote_open() {
    let mut w = pair(13);
    disconnect(&mut w, 1);
    for i in 0..10 {
        wrote(&mut w, 0, i * 24);
    }
    let held = w.command_and_wait(0, Command::Secondary { open: 1, force: false });
    assert_eq!(held, state(StateResult::DeviceInUse));
    assert_eq!(role(&w, 0), Role::Primary);
    wrote(&mut w, 0, 800);
    w.nodes[0].core.as_mut().expect("it runs").set_open(VOL, false);
    assert_eq!(secondary(&mut w, 0), OK);
    w.run_for(ms(5));
    let node = &w.nodes[0];
    let page = node.disk.read_md(place(VOL, node.layout.bitmap_sector()), 8);
    let bits: u32 = page.iter().map(|b| b.count_ones()).sum();
    assert_eq!(bits, 11, "the blocks that the peer lacks");
    assert_eq!(write(&mut w, 0, 0, 8), ClientResult::ReadOnly);
    let missing = w.command_and_wait(
        1,
        Command::Attach(VOL, Box::new(Node::new(SECTORS, DiskConfig::default()).load(VOL))),
    );
    assert_eq!(missing, CommandResult::Config(ConfigError::DiskConfigured));
    ends_as_usual(&mut w);
}
