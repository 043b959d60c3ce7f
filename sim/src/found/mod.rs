//! Situations that random schedules ran into, as short scripts; what went wrong is said above each.

#[cfg(test)]
mod attach;
#[cfg(test)]
mod bad_copies;
#[cfg(test)]
mod commands;
#[cfg(test)]
mod crossing;
#[cfg(test)]
mod failed_writes;
#[cfg(test)]
mod generations;
#[cfg(test)]
mod given_up;
#[cfg(test)]
mod late_replies;
#[cfg(test)]
mod lives;
#[cfg(test)]
mod outdated;
#[cfg(test)]
mod resizing;
#[cfg(test)]
mod restored;
#[cfg(test)]
mod sources;
#[cfg(test)]
mod two_primaries;
#[cfg(test)]
mod unflushed;

#[cfg(test)]
mod healing {
    use model::state::{ConnState, DiskState};
    use model::time::Duration;
    use replicator::ClientResult;

    use crate::scenario::net;
    use crate::world::{Answer, SimOp, World};

    pub(crate) fn both_again(w: &mut World) {
        for n in 0..2 {
            if w.nodes[n].core.is_none() {
                w.start(n);
            }
        }
        // A Primary without a disk takes its old one back only beside the copy that its clients have seen.
        for _ in 0..3 {
            for n in 0..2 {
                w.attach(n);
                if w.state(n).0 == ConnState::StandAlone {
                    w.connect(n, &net());
                }
            }
            w.run_for(Duration::from_secs(5));
        }
        assert!(w.run_until(Duration::from_secs(60), World::in_sync), "{:?} {:?}", w.state(0), w.state(1));
        w.run_for(Duration::from_secs(1));
        w.check_marks();
        w.check_disks();
    }

    pub(crate) fn write(w: &mut World, node: usize, sector: u64) {
        let tag = w.request(node, SimOp::Write { sector, count: 8, fua: true });
        w.run_for(Duration::from_millis(20));
        let answer = w.take_answer(|a| matches!(a, Answer::Client(t, ..) if *t == tag));
        assert!(matches!(answer, Some(Answer::Client(_, ClientResult::Ok, _))), "{answer:?}");
    }

    /// The Secondary dies, `blocks` are written without it, and it connects again.
    pub(crate) fn peer_missed(w: &mut World, blocks: u64) {
        w.crash(1, false);
        w.run_for(Duration::from_secs(3));
        for i in 1..=blocks {
            write(w, 0, i * 64);
        }
        w.start(1);
        w.connect(1, &net());
    }

    /// The target calls itself finished; the source need not have heard of it.
    pub(crate) fn target_finishes(w: &mut World) {
        let finished = |w: &World| w.state(1) == (ConnState::Connected, DiskState::UpToDate);
        assert!(w.run_until(Duration::from_secs(60), finished));
    }

    pub(crate) fn outcome(w: &mut World, node: usize, op: SimOp) -> ClientResult {
        let tag = w.request(node, op);
        let is_it = |a: &Answer| matches!(a, Answer::Client(t, ..) if *t == tag);
        assert!(w.run_until(Duration::from_secs(30), |w| w.answers.iter().any(|(_, a)| is_it(a))));
        match w.take_answer(is_it) {
            Some(Answer::Client(_, result, _)) => result,
            other => panic!("{other:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use model::policy::{OnIoError, Protocol};
    use model::state::{ConnState, DiskState};
    use model::time::Duration;
    use replicator::{ClientResult, Command, CommandResult, DiskConfig, NetConfig, VolIdx};

    use super::healing::{both_again, write};
    use crate::scenario::{fresh_pair, fresh_pair_with, net, scribble};
    use crate::world::{Answer, SimOp, World};

    const SECTORS: u64 = 40_000;

    /// Two fresh nodes that were just told that their copies are the same.
    fn skipped_initial_sync(seed: u64) -> World {
        let mut w = World::new(seed, SECTORS, DiskConfig::default());
        for n in 0..2 {
            w.start(n);
            w.connect(n, &net());
        }
        let met = |w: &World| (0..2).all(|n| w.state(n).0 == ConnState::Connected);
        assert!(w.run_until(Duration::from_secs(30), met));
        w.run_for(Duration::from_secs(1));
        let skip = Command::NewCurrentUuid { vol: VolIdx(0), clear_bitmap: true };
        assert_eq!(w.command_and_wait(0, skip), CommandResult::Ok);
        w
    }

    /// The initiator kept the peer's generation from before, and took it over as target of the next resync.
    #[test]
    fn full_sync_after_a_skipped_initial_sync() {
        let mut w = skipped_initial_sync(20);
        w.run_for(Duration::from_secs(1));
        assert_eq!(w.command_and_wait(0, Command::Invalidate(VolIdx(0))), CommandResult::Ok);
        assert!(w.run_until(Duration::from_secs(60), World::in_sync));
        let current = |w: &World, n: usize| {
            w.nodes[n].core.as_ref().expect("up").snapshot(w.now).volumes[0].uuids[0] & !1
        };
        assert_eq!(current(&w, 0), current(&w, 1));
    }

    /// The common generation was stable before the bits were cleared on the medium: a loss of power left all of them set
    /// on equal copies, and nothing took them away.
    #[test]
    fn power_fails_after_a_skipped_initial_sync() {
        for seed in 60..80 {
            let mut w = skipped_initial_sync(seed);
            assert!(w.run_until(Duration::from_secs(1), World::in_sync));
            let delay = w.rng.below(2000);
            w.run_for(Duration::from_micros(delay));
            for n in 0..2 {
                w.crash(n, true);
            }
            for n in 0..2 {
                w.start(n);
                w.connect(n, &net());
            }
            w.run_for(Duration::from_secs(5));
            for n in 0..2 {
                let core = w.nodes[n].core.as_ref().expect("it runs");
                let good = w.state(n).1 == DiskState::UpToDate;
                assert!(!good || core.marked_blocks(VolIdx(0)) == 0, "seed {seed}, node {}", n + 1);
            }
        }
    }

    /// The source cleared bits for blocks that the target lost with its cache; the target's own bits were never
    /// on its disk.
    #[test]
    fn target_loses_power_in_the_middle_of_a_resync() {
        let mut w = fresh_pair(21, SECTORS);
        w.crash(1, false);
        scribble(&mut w, 0, 200, SECTORS);
        w.run_for(Duration::from_secs(3));
        w.start(1);
        w.connect(1, &net());
        let half = |w: &World| {
            let left = w.nodes[0].core.as_ref().expect("up").marked_blocks(VolIdx(0));
            w.state(0).0 == ConnState::SyncSource && left < 100
        };
        assert!(w.run_until(Duration::from_secs(60), half));
        w.crash(1, true);
        w.run_for(Duration::from_secs(3));
        both_again(&mut w);
    }

    /// A disk of the old generation was accepted for a Primary without a disk that had seen newer data.
    #[test]
    fn diskless_primary_refuses_an_older_copy() {
        let mut w = fresh_pair(22, SECTORS);
        w.command_and_wait(1, Command::Detach { vol: VolIdx(0), force: false });
        write(&mut w, 0, 64);
        w.command_and_wait(0, Command::Detach { vol: VolIdx(0), force: true });
        w.attach(1);
        w.run_for(Duration::from_secs(2));
        let tag = w.request(0, SimOp::Read { sector: 64, count: 8 });
        w.run_for(Duration::from_secs(1));
        let answer = w.take_answer(|a| matches!(a, Answer::Client(t, ..) if *t == tag));
        assert!(matches!(answer, Some(Answer::Client(_, ClientResult::IoError, _))), "{answer:?}");
        assert_eq!(w.state(0).0, ConnState::StandAlone);
        both_again(&mut w);
    }

    /// The peer's new generation arrived while the own disk was still on its way out, and was not remembered.
    #[test]
    fn diskless_primary_reattaches_its_own_old_disk_alone() {
        let mut w = fresh_pair(23, SECTORS);
        w.command_and_wait(0, Command::Detach { vol: VolIdx(0), force: false });
        write(&mut w, 0, 128);
        w.cut(true);
        w.run_for(Duration::from_secs(20));
        w.attach(0);
        w.run_for(Duration::from_secs(1));
        assert_eq!(w.state(0).1, DiskState::Diskless, "it is not what clients have seen");
        w.cut(false);
        both_again(&mut w);
    }

    /// Bits of the only copy and the mark that its activity log counts were lost in the cache, in this order.
    #[test]
    fn only_copy_loses_power_after_its_diskless_primary() {
        for seed in 24..34 {
            let mut w = fresh_pair(seed, SECTORS);
            w.command_and_wait(0, Command::Detach { vol: VolIdx(0), force: false });
            scribble(&mut w, 0, 40, SECTORS);
            w.crash(0, true);
            w.run_for(Duration::from_secs(5));
            w.crash(1, true);
            both_again(&mut w);
        }
    }

    /// Entering StartingSyncS called an Inconsistent copy UpToDate.
    #[test]
    fn no_full_sync_from_a_bad_copy() {
        let disk = DiskConfig { on_io_error: OnIoError::PassOn, ..DiskConfig::default() };
        let mut w = fresh_pair_with(35, SECTORS, disk);
        w.nodes[0].faults.writes = 1;
        w.request(0, SimOp::Write { sector: 0, count: 8, fua: false });
        w.run_for(Duration::from_secs(1));
        w.nodes[0].faults.writes = 0;
        assert_eq!(w.state(0), (ConnState::Connected, DiskState::Inconsistent));
        let refused = w.command_and_wait(1, Command::Invalidate(VolIdx(0)));
        assert_ne!(refused, CommandResult::Ok);
        assert_eq!(w.state(1).1, DiskState::UpToDate);
        let repaired = w.command_and_wait(0, Command::Invalidate(VolIdx(0)));
        assert_eq!(repaired, CommandResult::Ok);
        both_again(&mut w);
    }

    /// A write that only the local disk gets was marked when it ended; the bitmap had been sent by then.
    #[test]
    fn write_under_way_while_the_peer_attaches() {
        for seed in 36..56 {
            let mut w = fresh_pair(seed, SECTORS);
            w.command_and_wait(1, Command::Detach { vol: VolIdx(0), force: false });
            scribble(&mut w, 0, 5, SECTORS);
            w.attach(1);
            scribble(&mut w, 0, 5, SECTORS);
            both_again(&mut w);
        }
    }

    /// Protocols A and B answer before the peer has written; a read behind the write saw the old block.
    #[test]
    fn diskless_primary_reads_what_it_has_written() {
        for protocol in [Protocol::A, Protocol::B] {
            let mut w = World::new(57, SECTORS, DiskConfig::default());
            w.truth.protocol_c = false;
            let net = NetConfig { protocol, ..net() };
            for n in 0..2 {
                w.start(n);
                w.connect(n, &net);
            }
            let met = |w: &World| (0..2).all(|n| w.state(n).0 == ConnState::Connected);
            assert!(w.run_until(Duration::from_secs(30), met));
            w.command_and_wait(0, Command::Primary { force: true });
            assert!(w.run_until(Duration::from_secs(60), World::in_sync));
            w.command_and_wait(0, Command::Detach { vol: VolIdx(0), force: false });
            let before = w.reads_checked;
            for i in 0..200 {
                let sector = i % 7 * 8;
                w.request(0, SimOp::Write { sector, count: 8, fua: false });
                w.run_for(Duration::from_micros(60));
                w.request(0, SimOp::Read { sector, count: 8 });
            }
            w.run_for(Duration::from_secs(1));
            assert!(w.reads_checked > before);
        }
    }

    /// The target had finished, the source did not know: both went on from one generation and nobody saw a split.
    #[test]
    fn source_dies_when_the_target_has_finished() {
        let mut w = fresh_pair(58, SECTORS);
        w.crash(1, false);
        w.run_for(Duration::from_secs(3));
        write(&mut w, 0, 64);
        w.start(1);
        w.connect(1, &net());
        assert!(w.run_until(Duration::from_secs(60), |w| w.state(1)
            == (ConnState::Connected, DiskState::UpToDate)));
        // What the source has to hear comes late, what the target has to write does not.
        w.weather.net_us = 50_000;
        w.run_for(Duration::from_millis(2));
        assert_eq!(w.state(0).0, ConnState::SyncSource);
        w.weather.net_us = 50;
        w.crash(0, false);
        w.crash(1, false);
        for n in 0..2 {
            w.start(n);
            w.run_for(Duration::from_secs(1));
            assert_eq!(w.command_and_wait(n, Command::Primary { force: false }), CommandResult::Ok);
            write(&mut w, n, 64);
            w.command_and_wait(n, Command::Secondary { open: 0, force: false });
        }
        for n in 0..2 {
            w.connect(n, &net());
        }
        w.run_for(Duration::from_secs(10));
        let resyncs = (0..2).any(|n| w.state(n).0 > ConnState::Connected);
        assert!(!w.in_sync() && !resyncs, "{:?} {:?}", w.state(0), w.state(1));
    }
}
