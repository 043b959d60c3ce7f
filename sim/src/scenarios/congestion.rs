//! A link that cannot keep up with the writes of protocol A: what is answered then, what becomes of the other copy.

use model::config::settings::OnCongestion;
use model::policy::Protocol;
use model::result_code::StateResult;

use super::*;
use crate::hooks::DiskOp;

const VOL: VolIdx = VolIdx(0);
/// What the slow link carries each way: some 50 blocks a second.
const SLOW: u64 = 200_000;
/// Mirrored sectors on their way that are congestion: 16 blocks.
const FILL: u64 = 128;

fn pull_ahead() -> NetConfig {
    NetConfig {
        protocol: Protocol::A,
        on_congestion: OnCongestion::PullAhead,
        congestion_fill_sectors: FILL,
        ..net()
    }
}

fn pair_over_slow_link(seed: u64, net: &NetConfig) -> World {
    let mut w = pair_with(seed, SECTORS, net, [DiskConfig::default(), DiskConfig::default()]);
    w.weather.link_bytes_per_s = SLOW;
    w
}

fn block(w: &mut World, n: usize, block: u64) -> ClientTag {
    w.request(n, SimOp::Write { sector: block * 8, count: 8, fua: false })
}

/// Writes so many blocks one behind the other, each as soon as the one before is answered.
fn put(w: &mut World, blocks: std::ops::Range<u64>) {
    for b in blocks {
        assert_eq!(write(w, 0, b * 8, 8), ClientResult::Ok, "block {b}");
    }
}

fn conn(w: &World, n: usize) -> ConnState {
    w.volume(n).map_or(ConnState::StandAlone, |s| s.conn)
}

fn is_ahead(w: &World) -> bool {
    conn(w, 0) == ConnState::Ahead
}

/// Node 1 is Ahead, with writes that node 2 has not got, and node 2 knows.
fn ahead(seed: u64) -> World {
    let mut w = pair_over_slow_link(seed, &pull_ahead());
    put(&mut w, 0..60);
    assert!(is_ahead(&w), "{:?}", w.volume(0));
    assert!(w.run_until(secs(2), |w| conn(w, 1) == ConnState::Behind), "{:?}", w.volume(1));
    w
}

fn start(w: &mut World, n: usize) {
    w.start(n);
    w.connect(n, &pull_ahead());
}

/// The packets of a kind or another that a node has sent, in order.
fn sent(w: &World, n: usize, kinds: &[Wire]) -> Vec<Wire> {
    let of_it = w.hooks.packets.iter().filter(|p| p.from == n).map(|p| p.header.command);
    of_it.filter(|c| kinds.contains(c)).collect()
}

#[test]
fn writes_beyond_the_limit_are_answered_at_once_and_brought_later() {
    for kernel in [false, true] {
        let _peers = AsKernels::new(kernel);
        let mut w = pair_over_slow_link(1, &pull_ahead());
        let begun = w.now;
        put(&mut w, 0..200);
        assert!(w.now.saturating_since(begun) < ms(1000), "200 blocks take 4 s on this link");
        assert!(is_ahead(&w));
        let s = w.volume(0).expect("it runs");
        assert_eq!((s.disk, s.pdsk), (DiskState::UpToDate, DiskState::Consistent));
        let order = sent(&w, 0, &[Wire::Data, Wire::State, Wire::Barrier, Wire::OutOfSync]);
        let first = order.iter().position(|c| *c == Wire::State).expect("it says that it is ahead");
        assert_eq!(order[first - 1..first + 3], [Wire::Data, Wire::State, Wire::Barrier, Wire::OutOfSync]);
        assert!(!order[first..].contains(&Wire::Data), "nothing is mirrored any more");
        assert!(w.run_until(secs(2), |w| conn(w, 1) == ConnState::Behind));
        assert_eq!(disk(&w, 1), DiskState::Outdated);
        assert!(w.run_until(secs(10), |w| conn(w, 1) == ConnState::SyncTarget), "{:?}", w.state(1));
        assert_eq!(w.hooks.seen(0, Wire::Bitmap) + w.hooks.seen(0, Wire::CompressedBitmap), 0);
        heals(&mut w);
        assert_eq!(uuids(&w, 0).map(|u| u.0 >> 1), uuids(&w, 1).map(|u| u.0 >> 1), "role bits aside");
    }
}

#[test]
fn extents_in_use_are_congestion_too() {
    let net = NetConfig { congestion_fill_sectors: 0, congestion_extents: 3, ..pull_ahead() };
    let mut w = pair_with(2, LARGE, &net, [DiskConfig::default(), DiskConfig::default()]);
    w.weather.link_bytes_per_s = SLOW;
    for extent in 0..2 {
        assert_eq!(write(&mut w, 0, extent * 8192, 8), ClientResult::Ok);
    }
    assert_eq!(conn(&w, 0), ConnState::Connected);
    assert_eq!(write(&mut w, 0, 2 * 8192, 8), ClientResult::Ok);
    assert!(is_ahead(&w));
    heals(&mut w);
}

#[test]
fn a_congested_node_disconnects_if_it_is_told_to() {
    let net = NetConfig { on_congestion: OnCongestion::Disconnect, ..pull_ahead() };
    let mut w = pair_over_slow_link(3, &net);
    put(&mut w, 0..60);
    stands_alone(&w, 0, "congestion");
    assert_eq!(disk(&w, 0), DiskState::UpToDate);
    w.weather.link_bytes_per_s = 0;
    w.connect(0, &net);
    heals(&mut w);
}

#[test]
fn other_protocols_wait() {
    let mut w = pair_over_slow_link(4, &NetConfig { on_congestion: OnCongestion::Block, ..pull_ahead() });
    put(&mut w, 0..60);
    assert_eq!(conn(&w, 0), ConnState::Connected);
    let wrong = NetConfig { protocol: Protocol::C, ..pull_ahead() };
    let refused = w.command_and_wait(0, Command::NetOptions(Box::new(wrong)));
    assert_eq!(refused, CommandResult::Config(model::result_code::ConfigError::CongNotProtoA));
    heals(&mut w);
}

/// Whoever is lost, and whenever: the copy that went ahead counts, and nothing that was answered is gone.
#[test]
fn ahead_and_a_loss_of_anything() {
    for what in 0..6 {
        for k in 0..60 {
            let mut w = pair_over_slow_link(k, &pull_ahead());
            put(&mut w, 0..20);
            for b in 20..60 {
                block(&mut w, 0, b);
                w.run_for(Duration::from_micros(200));
            }
            w.run_for(ms(k * 40));
            match what {
                0 => w.reset(),
                1 => {
                    w.cut(true);
                    w.run_for(secs(10));
                    w.cut(false);
                }
                2 => w.crash(1, true),
                3 => w.crash(0, true),
                4 => {
                    w.crash(0, k % 2 == 0);
                    w.crash(1, k % 2 == 0);
                }
                _ => {
                    secondary(&mut w, 0);
                    w.crash(0, true);
                    w.crash(1, true);
                }
            }
            w.run_for(ms(50));
            for n in 0..2 {
                if w.nodes[n].core.is_none() {
                    start(&mut w, n);
                }
            }
            heals(&mut w);
        }
    }
}

/// A copy that has fallen behind does not pass for current, whatever became of the one that went ahead.
#[test]
fn a_copy_that_is_behind_is_not_promoted() {
    for k in 0..10 {
        let mut w = ahead(k);
        w.run_for(ms(k * 10));
        w.crash(0, true);
        w.run_for(secs(5));
        assert_eq!(disk(&w, 1), DiskState::Outdated);
        if k % 2 == 0 {
            w.crash(1, true);
            start(&mut w, 1);
            w.run_for(secs(1));
            assert_eq!(disk(&w, 1), DiskState::Outdated, "after a loss of power too");
        }
        let refused = CommandResult::State(StateResult::NoUpToDateDisk);
        assert_eq!(primary(&mut w, 1), refused);
        start(&mut w, 0);
        heals(&mut w);
    }
}

/// A peer that has not heard that it is behind, promoted after the node that went ahead has died, and its own writes: both
/// went on alone, and neither is overwritten.
#[test]
fn both_that_went_on_are_a_split_brain() {
    let mut w = pair_over_slow_link(5, &pull_ahead());
    w.hooks.keep(0, Wire::State);
    put(&mut w, 0..60);
    assert!(is_ahead(&w));
    w.crash(0, false);
    w.run_for(secs(5));
    assert_eq!(disk(&w, 1), DiskState::UpToDate);
    assert_eq!(primary(&mut w, 1), OK);
    assert_eq!(write(&mut w, 1, 0, 8), ClientResult::Ok);
    w.hooks.keep_nothing_of(0);
    start(&mut w, 0);
    w.run_for(secs(10));
    stands_alone(&w, 1, "Split-Brain");
}

/// Without a Primary nothing but the generation would tell which of the two copies is ahead.
#[test]
fn a_node_that_steps_down_while_ahead_stays_the_newer_one() {
    for k in 0..10 {
        let mut w = ahead(k);
        assert_eq!(secondary(&mut w, 0), OK);
        w.cut(true);
        w.run_for(secs(10));
        assert_eq!(disk(&w, 1), DiskState::Outdated);
        w.cut(false);
        heals(&mut w);
        let written = w.truth.of(0).written().count();
        assert!(written >= 60 * 8);
    }
}

#[test]
fn a_promotion_behind_waits_for_the_resync() {
    let mut w = ahead(6);
    assert_eq!(secondary(&mut w, 0), OK);
    let promotion = w.command(1, Command::Primary { force: false });
    w.run_for(ms(200));
    assert_eq!((role(&w, 1), conn(&w, 1)), (Role::Secondary, ConnState::Behind));
    let done = |w: &World| w.answers.iter().any(|(_, a)| *a == Answer::Command(promotion, OK));
    assert!(w.run_until(secs(30), done), "{:?}", w.volume(1));
    assert!(conn(&w, 1) != ConnState::Behind);
    heals(&mut w);
}

#[test]
fn what_both_nodes_have_to_do_together_is_refused_while_ahead() {
    let mut w = ahead(7);
    let busy = CommandResult::State(StateResult::ResyncRunning);
    let verify = || Command::Verify { vol: VOL, start_sector: None, stop_sector: None };
    for n in 0..2 {
        for c in [Command::Invalidate(VOL), Command::InvalidateRemote(VOL), verify()] {
            let text = format!("{c:?} on node {}", n + 1);
            assert_eq!(w.command_and_wait(n, c), busy, "{text}");
        }
    }
    heals(&mut w);
}

/// The only current copy does not go; without it the other one is no current copy either.
#[test]
fn disks_that_go_while_ahead() {
    let detach = |force| Command::Detach { vol: VOL, force };
    for kernel in [false, true] {
        let _peers = AsKernels::new(kernel);
        let mut w = ahead(8);
        let refused = CommandResult::State(StateResult::NoUpToDateDisk);
        assert_eq!(w.command_and_wait(0, detach(false)), refused);
        assert_eq!(w.command_and_wait(1, detach(false)), OK);
        assert!(w.run_until(secs(10), |w| conn(w, 0) == ConnState::Connected));
        put(&mut w, 0..10);
        w.attach(1);
        heals(&mut w);

        let mut w = ahead(9);
        assert_eq!(w.command_and_wait(0, detach(true)), OK);
        w.run_for(secs(5));
        let s = w.volume(1).expect("it runs");
        assert_eq!((s.disk, s.pdsk), (DiskState::Inconsistent, DiskState::Diskless));
        assert_eq!(write(&mut w, 0, 0, 8), ClientResult::IoError);
        w.attach(0);
        heals(&mut w);
    }
}

/// Node 2 gets 400 blocks that it lacks, slowly, from node 1.
fn in_a_resync(seed: u64) -> World {
    let slow = DiskConfig { c_plan_ahead_ds: 0, resync_rate_kib_s: 150, ..DiskConfig::default() };
    let mut w = pair_with(seed, SECTORS, &pull_ahead(), [slow.clone(), slow]);
    disconnect(&mut w, 1);
    put(&mut w, 0..400);
    w.weather.link_bytes_per_s = SLOW;
    w.connect(1, &pull_ahead());
    let runs = |w: &World| conn(w, 1) == ConnState::SyncTarget && w.hooks.seen(0, Wire::RsDataReply) > 20;
    assert!(w.run_until(secs(20), runs), "{:?} {:?}", w.state(0), w.state(1));
    w.hooks.packets.clear();
    w
}

/// Blocks that were asked for and not read are refused, on the way they are dropped, and written ones marked anew.
#[test]
fn a_resync_is_interrupted_at_any_point_of_a_request() {
    for kernel in [false, true] {
        let _peers = AsKernels::new(kernel);
        let mut cancelled = 0;
        for k in 0..60 {
            let mut w = in_a_resync(k);
            if k % 3 == 0 {
                w.hooks.slow_disk(0, DiskOp::Read, 0, SECTORS);
            } else if k % 3 == 1 {
                w.hooks.slow_disk(1, DiskOp::Write, 0, SECTORS);
            }
            w.run_for(ms(k * 7));
            for b in 300..340 {
                block(&mut w, 0, b);
                w.run_for(Duration::from_micros(200));
            }
            assert!(is_ahead(&w), "{:?}", w.volume(0));
            w.run_for(ms(20));
            w.let_go(k % 2 == 0);
            cancelled += w.hooks.seen(0, Wire::RsCancel);
            let blocks = w.now;
            heals(&mut w);
            assert!(w.now.saturating_since(blocks) < secs(40), "no more than the link needs");
        }
        assert!(cancelled > 0);
    }
}
