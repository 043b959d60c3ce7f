//! Named situations, each a short script on the world.

use model::time::Duration;
use replicator::{Command, CommandResult, DiskConfig, NetConfig};

use crate::world::{SimOp, World};

/// Network options with short times, so that virtual minutes suffice; and with what a verify needs.
pub fn net() -> NetConfig {
    NetConfig {
        connect_int: Duration::from_secs(1),
        ping_int: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        verify_alg: "crc32c".into(),
        ..NetConfig::default()
    }
}

/// A pair after its first full sync, node 1 Primary.
pub fn fresh_pair(seed: u64, sectors: u64) -> World {
    fresh_pair_with(seed, sectors, DiskConfig::default())
}

/// The same with other disk options.
pub fn fresh_pair_with(seed: u64, sectors: u64, disk: DiskConfig) -> World {
    let mut w = World::new(seed, sectors, disk);
    w.start(0);
    w.start(1);
    w.connect(0, &net());
    w.connect(1, &net());
    let connected = w.run_until(Duration::from_secs(30), |w| {
        (0..2).all(|n| w.state(n).0 == model::state::ConnState::Connected)
    });
    assert!(connected, "two nodes find each other");
    assert_eq!(w.command_and_wait(0, Command::Primary { force: true }), CommandResult::Ok);
    let synced = w.run_until(Duration::from_secs(120), World::in_sync);
    assert!(synced, "the first sync ends: {:?} {:?}", w.state(0), w.state(1));
    w
}

/// Issues `n` random writes (and now and then a read or a flush) on the Primary `node`.
pub fn scribble(w: &mut World, node: usize, n: u64, sectors: u64) {
    for _ in 0..n {
        let count = 1 + w.rng.below(16);
        let sector = w.rng.below(sectors - count);
        let op = match w.rng.below(10) {
            0 => SimOp::Flush,
            1 => SimOp::Read { sector, count },
            _ => SimOp::Write { sector, count, fua: w.rng.one_in(8) },
        };
        w.request(node, op);
        let pause = w.rng.below(300);
        w.run_for(Duration::from_micros(pause));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::policy::Protocol;
    use model::state::{ConnState, DiskState};
    use replicator::{ClientResult, VolIdx};

    use crate::world::Answer;

    const VOLUME: VolIdx = VolIdx(0);
    const SECTORS: u64 = 40_000;

    #[test]
    fn first_sync_makes_the_copies_equal() {
        let mut w = fresh_pair(1, SECTORS);
        w.check_disks();
    }

    #[test]
    fn writes_are_on_both_copies() {
        let mut w = fresh_pair(2, SECTORS);
        scribble(&mut w, 0, 300, SECTORS);
        w.run_for(Duration::from_secs(2));
        assert!(w.in_sync());
        assert!(w.truth.of(0).acknowledged > 200);
        w.check_disks();
    }

    #[test]
    fn secondary_killed_comes_back_by_bitmap() {
        let mut w = fresh_pair(3, SECTORS);
        scribble(&mut w, 0, 100, SECTORS);
        w.crash(1, false);
        scribble(&mut w, 0, 100, SECTORS);
        w.run_for(Duration::from_secs(3));
        w.start(1);
        w.connect(1, &net());
        assert!(w.run_until(Duration::from_secs(60), World::in_sync), "{:?} {:?}", w.state(0), w.state(1));
        w.run_for(Duration::from_secs(1));
        w.check_disks();
    }

    #[test]
    fn primary_killed_and_the_other_promoted() {
        let mut w = fresh_pair(4, SECTORS);
        scribble(&mut w, 0, 200, SECTORS);
        w.crash(0, true);
        w.run_for(Duration::from_secs(5));
        assert_eq!(w.command_and_wait(1, Command::Primary { force: false }), CommandResult::Ok);
        scribble(&mut w, 1, 50, SECTORS);
        w.start(0);
        w.connect(0, &net());
        assert!(w.run_until(Duration::from_secs(60), World::in_sync), "{:?} {:?}", w.state(0), w.state(1));
        w.run_for(Duration::from_secs(1));
        w.check_disks();
    }

    #[test]
    fn link_cut_and_healed() {
        let mut w = fresh_pair(5, SECTORS);
        scribble(&mut w, 0, 50, SECTORS);
        w.cut(true);
        scribble(&mut w, 0, 50, SECTORS);
        w.run_for(Duration::from_secs(20));
        assert_eq!(w.state(0).1, DiskState::UpToDate);
        assert!(w.state(0).0 < ConnState::Connected);
        scribble(&mut w, 0, 50, SECTORS);
        w.cut(false);
        assert!(w.run_until(Duration::from_secs(60), World::in_sync), "{:?} {:?}", w.state(0), w.state(1));
        w.run_for(Duration::from_secs(1));
        w.check_disks();
    }

    /// A Primary lost its disk, took it back, and lost its peer in mid resync. The writes on their way were answered
    /// because the own disk had them; but it was Inconsistent, and the peer, back with its good copy, overwrote them.
    #[test]
    fn a_write_only_on_an_inconsistent_disk_is_not_acknowledged() {
        let mut w = fresh_pair(7, SECTORS);
        assert_eq!(w.command_and_wait(0, Command::Detach { vol: VOLUME, force: false }), CommandResult::Ok);
        scribble(&mut w, 0, 20, SECTORS);
        w.attach(0);
        let syncing = w.run_until(Duration::from_secs(10), |w| w.state(0).0 == ConnState::SyncTarget);
        assert!(syncing, "{:?} {:?}", w.state(0), w.state(1));
        assert_eq!(w.command_and_wait(1, Command::PauseSync(VOLUME)), CommandResult::Ok);
        let write = |w: &mut World| w.request(0, SimOp::Write { sector: 1024, count: 8, fua: false });
        write(&mut w);
        w.run_for(Duration::from_millis(500));
        // Its extent is hot, so this one goes to the disk at once, but not beyond.
        let lost = write(&mut w);
        // Before anything arrives.
        w.crash(1, false);
        w.run_for(Duration::from_secs(5));
        assert_eq!(w.state(0).1, DiskState::Inconsistent);
        let answer = w.take_answer(|a| matches!(a, Answer::Client(t, ..) if *t == lost));
        assert!(matches!(answer, Some(Answer::Client(_, ClientResult::IoError, _))), "{answer:?}");
        w.start(1);
        w.connect(1, &net());
        assert!(w.run_until(Duration::from_secs(60), World::in_sync), "{:?} {:?}", w.state(0), w.state(1));
        w.run_for(Duration::from_secs(1));
        w.check_disks();
    }

    /// In protocol B a write is answered when the peer has received it. Then the Primary lost its disk, and its read
    /// on the peer overtook the write there.
    #[test]
    fn a_read_on_the_peer_sees_what_was_written_before() {
        let mut w = fresh_pair(8, SECTORS);
        for n in 0..2 {
            assert_eq!(w.command_and_wait(n, Command::Disconnect { force: true }), CommandResult::Ok);
        }
        let net = NetConfig { protocol: Protocol::B, timeout: Duration::from_secs(20), ..net() };
        for n in 0..2 {
            w.connect(n, &net);
        }
        assert!(w.run_until(Duration::from_secs(60), World::in_sync), "{:?} {:?}", w.state(0), w.state(1));
        for sector in [512, 1024] {
            w.request(0, SimOp::Write { sector, count: 8, fua: false });
            w.run_for(Duration::from_millis(500));
        }
        let acknowledged = w.truth.of(0).acknowledged;
        w.request(0, SimOp::Write { sector: 1024, count: 8, fua: false });
        w.weather.disk_us = 8_000_000;
        // The own disk has it, the peer has received it.
        while w.truth.of(0).acknowledged == acknowledged {
            w.run_for(Duration::from_micros(100));
        }
        w.weather.disk_us = 100;
        assert_eq!(w.command_and_wait(0, Command::Detach { vol: VOLUME, force: false }), CommandResult::Ok);
        let tag = w.request(0, SimOp::Read { sector: 1024, count: 8 });
        w.run_for(Duration::from_secs(30));
        let answer = w.take_answer(|a| matches!(a, Answer::Client(t, ..) if *t == tag));
        assert!(matches!(answer, Some(Answer::Client(_, ClientResult::Ok, _))), "{answer:?}");
    }

    /// The peer's new generation came while the last I/O of the detached disk was still under way, and was not
    /// noted: later the old disk could be attached as if it were current.
    #[test]
    fn a_primary_does_not_take_back_a_disk_that_its_peer_has_overtaken() {
        let mut w = fresh_pair(9, SECTORS);
        w.request(0, SimOp::Write { sector: 512, count: 8, fua: false });
        w.run_for(Duration::from_secs(1));
        // A read that keeps the failed disk open for longer than the peer takes to react.
        w.weather.disk_us = 3_000_000;
        w.request(0, SimOp::Read { sector: 512, count: 8 });
        w.weather.disk_us = 100;
        assert_eq!(w.command_and_wait(0, Command::Detach { vol: VOLUME, force: false }), CommandResult::Ok);
        scribble(&mut w, 0, 20, SECTORS);
        w.cut(true);
        w.run_for(Duration::from_secs(20));
        w.attach(0);
        w.run_for(Duration::from_secs(1));
        assert_eq!(w.state(0).1, DiskState::Diskless, "its data is old");
        w.cut(false);
        let together = |w: &World| (0..2).all(|n| w.state(n).0 == ConnState::Connected);
        assert!(w.run_until(Duration::from_secs(60), together), "{:?} {:?}", w.state(0), w.state(1));
        w.attach(0);
        assert!(w.run_until(Duration::from_secs(60), World::in_sync), "{:?} {:?}", w.state(0), w.state(1));
        w.run_for(Duration::from_secs(1));
        w.check_disks();
    }

    /// What the dead Primary had sent was still waiting for the disk when its peer took over: it came behind the new
    /// Primary's own write and replaced it.
    #[test]
    fn a_new_primary_waits_for_the_last_writes_of_the_old_one() {
        let mut w = fresh_pair(10, SECTORS);
        w.request(0, SimOp::Write { sector: 1024, count: 8, fua: false });
        w.run_for(Duration::from_secs(1));
        w.weather.disk_us = 20_000_000;
        w.request(0, SimOp::Write { sector: 1024, count: 8, fua: false });
        w.run_for(Duration::from_millis(20));
        w.weather.disk_us = 100;
        w.crash(0, false);
        let lost = w.run_until(Duration::from_secs(10), |w| w.state(1).0 < ConnState::Connected);
        assert!(lost, "{:?}", w.state(1));
        assert_eq!(w.command_and_wait(1, Command::Primary { force: false }), CommandResult::Ok);
        w.request(1, SimOp::Write { sector: 1024, count: 8, fua: false });
        w.run_for(Duration::from_secs(1));
        w.request(1, SimOp::Read { sector: 1024, count: 8 });
        w.run_for(Duration::from_secs(60));
        w.request(1, SimOp::Read { sector: 1024, count: 8 });
        w.run_for(Duration::from_secs(1));
        w.start(0);
        w.connect(0, &net());
        assert!(w.run_until(Duration::from_secs(60), World::in_sync), "{:?} {:?}", w.state(0), w.state(1));
        w.run_for(Duration::from_secs(1));
        w.check_disks();
    }

    #[test]
    fn same_seed_same_run() {
        let run = |seed| {
            let mut w = fresh_pair(seed, SECTORS);
            scribble(&mut w, 0, 50, SECTORS);
            w.run_for(Duration::from_secs(1));
            (w.steps, w.now, w.truth.of(0).acknowledged)
        };
        assert_eq!(run(7), run(7));
    }
}
