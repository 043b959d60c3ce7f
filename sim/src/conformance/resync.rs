//! What travels in a resync, how it is interrupted, and that it ends.

use super::*;
use model::policy::Protocol;

/// Node 2 is away; node 1 writes so many single blocks, far from each other.
fn missed(w: &mut World, blocks: u64) {
    w.run_for(ms(100));
    disconnect(w, 1);
    for i in 0..blocks {
        wrote(w, 0, i * 24);
    }
    w.hooks.packets.clear();
}

/// The node that has the writes is the source, as Primary and as Secondary, and exactly the written blocks are copied.
#[test]
pub(super) fn resync_direction() {
    for (seed, stays_primary) in [(1, true), (2, false)] {
        for use_rle in [true, false] {
            let net = NetConfig { use_rle, ..net() };
            let mut w = pair_with(seed, LARGE, &net, [DiskConfig::default(), DiskConfig::default()]);
            w.run_for(ms(100));
            w.cut(true);
            w.run_for(secs(5));
            for i in 0..20 {
                wrote(&mut w, 0, i * 24);
            }
            if !stays_primary {
                assert_eq!(secondary(&mut w, 0), OK);
            }
            w.hooks.packets.clear();
            w.cut(false);
            assert!(w.run_until(secs(30), all_current), "{:?}", states(&w));
            assert_eq!(brought(&w), [20 * 4096, 0]);
            let coded = w.hooks.seen(0, Wire::CompressedBitmap) + w.hooks.seen(1, Wire::CompressedBitmap);
            assert_eq!(coded > 0, use_rle);
            ends(&mut w, &net);
        }
    }
}

/// A pair whose resync of 20 blocks is over for the target; the source has not heard of it.
fn end_unheard(seed: u64, source: Role) -> World {
    let mut w = pair(seed);
    missed(&mut w, 20);
    if source == Role::Secondary {
        assert_eq!(secondary(&mut w, 0), OK);
    }
    w.connect(1, &net());
    let over = (ConnState::Connected, DiskState::UpToDate);
    assert!(w.run_until(secs(10), |w| w.volume(1).is_some_and(|s| (s.conn, s.disk) == over)));
    assert_eq!(conn(&w, 0), ConnState::SyncSource);
    w.cut(true);
    w.run_for(secs(5));
    w.hooks.packets.clear();
    w
}

/// The report of the end is lost, then the source, or the target once promoted, writes: the second resync brings these
/// blocks only.
#[test]
pub(super) fn resync_finish() {
    for seed in 0..10 {
        for writer in 0..2 {
            let role = if writer == 0 { Role::Primary } else { Role::Secondary };
            let mut w = end_unheard(seed, role);
            if writer == 1 {
                check_copy(&mut w, 1);
                // The oracle counts what node 1 wrote alone for lost with it; node 2 has it, as was just seen.
                w.truth.word[0] = true;
                assert_eq!(primary(&mut w, 1), OK);
            }
            for i in 0..5 {
                wrote(&mut w, writer, 4000 + i * 24);
            }
            w.cut(false);
            assert!(w.run_until(secs(30), all_current), "{:?}", states(&w));
            let mut wanted = [0; 2];
            wanted[writer] = 5 * 4096;
            assert_eq!(brought(&w), wanted);
            ends_as_usual(&mut w);
        }
    }
}

/// The report of the end is lost and nobody writes: they connect, and nothing is copied.
#[test]
pub(super) fn resync_missed_end_no_bits() {
    for seed in 0..10 {
        for source in [Role::Primary, Role::Secondary] {
            let mut w = end_unheard(seed, source);
            w.cut(false);
            assert!(w.run_until(secs(30), all_current), "{:?}", states(&w));
            assert_eq!(brought(&w), [0, 0]);
            ends_as_usual(&mut w);
        }
    }
}

/// How a resync is interrupted.
#[derive(Clone, Copy, Debug)]
enum Interruption {
    Disconnect(usize),
    Cut,
    Down(usize),
}

/// Who is Primary during the resync from node 1 to node 2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Roles {
    Source,
    /// And its clients write.
    SourceBusy,
    Target,
    Nobody,
}

/// A resync is interrupted after a fifth, in every way, whoever is Primary: in between nothing is pending, and it goes on
/// from the bitmap.
#[test]
pub(super) fn resync_interrupt_variants() {
    use Interruption::*;
    for roles in [Roles::Source, Roles::SourceBusy, Roles::Target, Roles::Nobody] {
        for interruption in [Disconnect(0), Disconnect(1), Cut, Down(0), Down(1)] {
            interrupted(roles, interruption);
        }
    }
}

fn interrupted(roles: Roles, interruption: Interruption) {
    use Interruption::*;
    let what = format!("{roles:?} {interruption:?}");
    let mut w = pair_at(3, LARGE, &fixed_rate(2000));
    missed(&mut w, 1000);
    if matches!(roles, Roles::Target | Roles::Nobody) {
        assert_eq!(secondary(&mut w, 0), OK);
    }
    w.connect(1, &net());
    assert!(w.run_until(secs(20), resyncing), "{what}: {:?}", states(&w));
    if roles == Roles::Target {
        assert_eq!(primary(&mut w, 1), OK);
    }
    let writer = match roles {
        Roles::SourceBusy => Some(0),
        Roles::Target => Some(1),
        Roles::Source | Roles::Nobody => None,
    };
    while brought(&w)[0] < 200 * 4096 {
        if let Some(n) = writer {
            scribble(&mut w, n, 5, SECTORS);
        }
        w.run_for(ms(5));
    }
    assert!(resyncing(&w), "{what}: {:?}", states(&w));
    match interruption {
        Disconnect(n) => {
            // Refused without force where it takes the only good copy from a Primary.
            let gentle = w.command_and_wait(n, Command::Disconnect { force: false });
            assert_eq!(gentle == OK, roles != Roles::Target, "{what}: {gentle:?}");
            if gentle != OK {
                assert_eq!(w.command_and_wait(n, Command::Disconnect { force: true }), OK);
            }
            w.run_for(ms(100));
        }
        Cut => w.cut(true),
        Down(n) => w.crash(n, false),
    }
    w.run_for(secs(5));
    for n in 0..2 {
        if w.nodes[n].core.is_some() {
            nothing_pending(&w, n);
        }
    }
    assert!(w.is_idle(), "{what}: {}", w.under_way());
    // Cleared bits reach the disk some time after the blocks.
    let done = if matches!(interruption, Down(_)) { 0 } else { brought(&w)[0] };
    w.hooks.packets.clear();
    w.cut(false);
    for n in 0..2 {
        bring_back(&mut w, n, &net());
    }
    assert!(w.run_until(secs(60), all_current), "{what}: {:?}", states(&w));
    // A crashed Primary brings its hot extents as well: three of 4 MiB for the writes before.
    let hot = match (roles, interruption) {
        (Roles::Source | Roles::SourceBusy, Down(0)) | (Roles::Target, Down(1)) => 3 << 22,
        _ => 0,
    };
    let [rest, back] = brought(&w);
    let requested_again = 64 * 4096;
    let scribbled = if writer.is_some() { 4 << 20 } else { 0 };
    let most = 1000 * 4096 - done + requested_again + hot + scribbled;
    assert!(rest > 0 && rest <= most, "{what}: {rest} after {done}");
    assert_eq!(back, 0, "{what}");
    ends_as_usual(&mut w);
}

/// Resync requests meet slow writes of the application on the same blocks; the link dies at each point of that. What
/// waits for each other is let go, and the resync completes.
#[test]
pub(super) fn resync_interrupt_conflict() {
    for delay_ms in 0..30 {
        for slow in 0..2 {
            let mut w = pair_at(delay_ms, SECTORS, &fixed_rate(4000));
            missed(&mut w, 100);
            w.connect(1, &net());
            assert!(w.run_until(secs(20), resyncing));
            // Writes on blocks that are about to be requested, while a disk is slow.
            w.weather.disk_us = 50_000;
            if slow == 0 {
                w.hold_disk(1, true);
            }
            let tags: Vec<ClientTag> = (0..50).map(|i| issue(&mut w, 0, i * 48 + 4)).collect();
            w.run_for(ms(delay_ms * 10));
            w.cut(true);
            w.run_for(secs(4));
            w.hold_disk(1, false);
            w.weather.disk_us = 100;
            w.run_for(secs(1));
            w.cut(false);
            for tag in tags {
                assert_eq!(wait(&mut w, tag).0, ClientResult::Ok);
            }
            assert!(w.run_until(secs(30), all_current), "{delay_ms}: {:?}", states(&w));
            ends_as_usual(&mut w);
        }
    }
}

/// A resync is interrupted again and again, by cuts and by crashes of target and source in turn: what was done stays
/// done, and it ends.
#[test]
pub(super) fn resync_multiple_interrupt() {
    for power in [false, true] {
        let mut w = pair_at(5, LARGE, &fixed_rate(1000));
        assert_eq!(secondary(&mut w, 0), OK);
        missed_by_node_2(&mut w, 800);
        let mut left = u64::MAX;
        let mut rounds = 0;
        while left > 0 {
            rounds += 1;
            assert!(rounds < 40, "it ends");
            assert!(w.run_until(secs(30), |w| resyncing(w) || all_current(w)), "{:?}", states(&w));
            // The target's bits are written to disk every few seconds.
            let done = w.run_until(secs(1), all_current);
            let now = marked(&w, 0);
            assert!(now <= left || power, "{now} after {left}: done is done");
            left = if done { 0 } else { now };
            match rounds % 3 {
                0 => w.crash(1, power),
                1 => w.crash(0, power),
                _ => w.cut(true),
            }
            w.run_for(secs(3));
            w.cut(false);
            for n in 0..2 {
                bring_back(&mut w, n, &net());
            }
        }
        assert!(rounds >= 3, "it was interrupted {rounds} times");
        assert!(brought(&w)[0] < 4 * 800 * 4096, "{:?} for 800 blocks", brought(&w));
        ends_as_usual(&mut w);
    }
}

/// Both Secondary afterwards; node 1 has blocks that node 2 has not.
fn missed_by_node_2(w: &mut World, blocks: u64) {
    assert_eq!(primary(w, 0), OK);
    missed(w, blocks);
    assert_eq!(secondary(w, 0), OK);
    w.connect(1, &net());
}

/// Writes on a paused resync, on blocks that are due and on others: all of them on both copies after it goes on.
#[test]
pub(super) fn resync_write_during_pause() {
    for n in 0..2 {
        let mut w = pair_at(5, SECTORS, &fixed_rate(200));
        missed(&mut w, 100);
        w.connect(1, &net());
        assert!(w.run_until(secs(20), resyncing));
        w.run_for(ms(500));
        assert_eq!(w.command_and_wait(n, Command::PauseSync(VOL)), OK);
        w.run_for(ms(200));
        let before = marked(&w, 0);
        assert!(before > 0);
        for i in 0..100 {
            wrote(&mut w, 0, i * 24);
            wrote(&mut w, 0, 4000 + i * 8);
        }
        w.run_for(secs(10));
        assert_eq!(conn(&w, 1), ConnState::PausedSyncT);
        assert_eq!(w.command_and_wait(n, Command::ResumeSync(VOL)), OK);
        assert!(w.run_until(secs(60), all_current), "{:?}", states(&w));
        ends_as_usual(&mut w);
    }
}

/// 8 MiB are overwritten without pause while they are brought: clients get on, and the resync ends.
#[test]
pub(super) fn busy_resync() {
    const SPAN: u64 = 16_384;
    let mut w = pair_at(7, SPAN, &fixed_rate(4000));
    assert_eq!(w.command_and_wait(1, Command::Invalidate(VOL)), OK);
    assert!(w.run_until(secs(10), resyncing));
    // A disk that takes its time: clients keep it busy without a million events.
    w.weather.disk_us = 5000;
    let (start, mut written) = (w.now, 0);
    while !all_current(&w) {
        let took = w.now.saturating_since(start);
        assert!(took < secs(10), "2 s of resync take {took:?}; {} marked", marked(&w, 1));
        let tags: Vec<ClientTag> = (0..16)
            .map(|i| w.request(0, SimOp::Write { sector: (written + i) * 64 % SPAN, count: 64, fua: false }))
            .collect();
        written += 16;
        let issued = w.now;
        for tag in tags {
            assert_eq!(wait(&mut w, tag).0, ClientResult::Ok);
        }
        assert!(w.now.saturating_since(issued) < secs(2), "clients get on");
    }
    assert!(written * 64 > 2 * SPAN, "everything was overwritten meanwhile: {written}");
    ends_as_usual(&mut w);
}

/// The link heals while writes are under way, in protocols A and C, at every moment of them.
#[test]
pub(super) fn busy_resync_start() {
    for protocol in [Protocol::A, Protocol::C] {
        let net = NetConfig { protocol, ..net() };
        for seed in 0..20 {
            let mut w = pair_with(seed, SECTORS, &net, [DiskConfig::default(), DiskConfig::default()]);
            scribble(&mut w, 0, 20, SECTORS);
            w.cut(true);
            w.run_for(secs(5));
            scribble(&mut w, 0, 50, SECTORS);
            w.weather.disk_us = 20_000;
            w.cut(false);
            while !w.run_until(ms(5 + seed), all_current) {
                scribble(&mut w, 0, 10, SECTORS);
                if resyncing(&w) {
                    w.weather.disk_us = 100;
                }
            }
            ends(&mut w, &net);
        }
    }
}
