//! What the answer to a command promises, and what a command must not wait for.

use model::config::settings::Handler;
use model::policy::{Fencing, Protocol};
use model::result_code::StateResult;
use model::state::{ConnState, DiskState, Role, VolumeState};
use model::time::Duration;
use replicator::wire::Command as Wire;
use replicator::{
    Auth, ClientResult, Command, CommandId, CommandResult, DiskConfig, HmacAlg, NetConfig, VolIdx,
};

use crate::hooks::{Blocked, DiskOp, FencePeer};
use crate::node::{Node, place};
use crate::scenarios::*;
use crate::world::{Answer, SimOp, World};

const VOL: VolIdx = VolIdx(0);

fn ended(w: &mut World, id: CommandId) -> Option<CommandResult> {
    match w.take_answer(|a| matches!(a, Answer::Command(i, _) if *i == id)) {
        Some(Answer::Command(_, r)) => Some(r),
        _ => None,
    }
}

/// Begins to write a block.
fn begin(w: &mut World, block: u64) {
    w.request(0, SimOp::Write { sector: block * 8, count: 8, fua: false });
}

/// Outdate was answered before it was stable: a node whose power failed right behind the answer came back UpToDate,
/// though the other one went on writing because of that answer.
#[test]
fn a_copy_is_outdated_for_good_when_the_command_is_answered() {
    for again in [false, true] {
        let mut w = pair(1);
        disconnect(&mut w, 0);
        if again {
            w.command(1, Command::Outdate(VOL));
        }
        assert_eq!(w.command_and_wait(1, Command::Outdate(VOL)), OK);
        w.crash(1, true);
        w.start(1);
        w.run_for(secs(1));
        assert_eq!(disk(&w, 1), DiskState::Outdated);
        assert_eq!(primary(&mut w, 1), CommandResult::State(StateResult::NoUpToDateDisk));
        w.connect(0, &net());
        w.connect(1, &net());
        heals(&mut w);
    }
}

/// An error answers an outdate whose super block cannot be written.
#[test]
fn outdate_on_a_disk_that_takes_no_metadata() {
    let mut w = pair(2);
    disconnect(&mut w, 0);
    w.nodes[1].faults.metadata = 1;
    let result = w.command_and_wait(1, Command::Outdate(VOL));
    assert!(matches!(result, CommandResult::Config(_)), "{result:?}");
}

/// Suspend-io was answered while writes were on their way to one disk or the other: copies of the two disks taken then
/// differed.
#[test]
fn copies_are_equal_when_io_is_suspended() {
    for protocol in [Protocol::A, Protocol::B, Protocol::C] {
        let net = NetConfig { protocol, ..net() };
        for k in 0..30 {
            let mut w = pair_with(k, SECTORS, &net, [DiskConfig::default(), DiskConfig::default()]);
            w.weather.disk_us = 2000;
            assert_eq!(write(&mut w, 0, 0, 8), ClientResult::Ok);
            for block in 1..9 {
                begin(&mut w, block);
            }
            let until = w.steps + k;
            w.run_until(secs(1), |w| w.steps >= until);
            let asked = w.now;
            assert_eq!(w.command_and_wait(0, Command::SuspendIo), OK);
            assert!(w.now.saturating_since(asked) < ms(100), "nothing is waited for but disks and link");
            let differs = w.nodes[0].disk.differences(&w.nodes[1].disk).next();
            assert_eq!(differs, None, "{protocol:?}, k = {k}: copies taken now differ in this sector");
            begin(&mut w, 20);
            w.run_for(secs(1));
            assert_eq!(w.nodes[0].disk.read(160), 0, "nothing new is admitted");
            assert_eq!(w.command_and_wait(0, Command::ResumeIo), OK);
            heals(&mut w);
        }
    }
}

/// What suspend-io waits for never ends; other commands do, and resume-io ends the wait with an error.
#[test]
fn suspend_io_on_a_dead_disk_keeps_nobody() {
    let mut w = pair(3);
    w.hold_disk(0, true);
    begin(&mut w, 1);
    w.run_for(ms(10));
    let waiting = [w.command(0, Command::SuspendIo), w.command(0, Command::SuspendIo)];
    w.run_for(secs(2));
    assert!(w.volume(0).is_some_and(|s| s.susp), "nothing new is admitted in the meantime");
    assert_eq!(w.command_and_wait(0, Command::Disconnect { force: false }), OK);
    assert_eq!(waiting.map(|id| ended(&mut w, id)), [None, None], "the disk has not ended its write");
    assert_eq!(w.command_and_wait(0, Command::ResumeIo), OK);
    let aborted = CommandResult::State(StateResult::ConcurrentStateChange);
    assert_eq!(waiting.map(|id| ended(&mut w, id)), [Some(aborted); 2]);
    w.hold_disk(0, false);
    w.connect(0, &net());
    heals(&mut w);
}

/// A peer that is lost has nothing in flight any more.
#[test]
fn suspend_io_ends_with_the_connection() {
    let mut w = pair(4);
    w.hold_disk(1, true);
    begin(&mut w, 1);
    w.run_for(ms(10));
    let waiting = w.command(0, Command::SuspendIo);
    w.run_for(secs(1));
    assert_eq!(ended(&mut w, waiting), None);
    assert_eq!(w.command_and_wait(0, Command::Disconnect { force: true }), OK);
    w.run_for(ms(10));
    assert_eq!(ended(&mut w, waiting), Some(OK));
    assert_eq!(w.command_and_wait(0, Command::ResumeIo), OK);
    w.hold_disk(1, false);
    w.connect(0, &net());
    heals(&mut w);
}

/// The source of a resync let go of a Primary that read from it: its clients got errors, and the operator an "ok".
#[test]
fn a_disconnect_that_the_peer_refuses_is_refused() {
    let refused = CommandResult::State(StateResult::CwFailedByPeer);
    for diskless in [false, true] {
        let mut w = pair_with(5, LARGE, &net(), [DiskConfig::default(), DiskConfig::default()]);
        assert_eq!(write(&mut w, 0, 64, 8), ClientResult::Ok);
        w.run_for(ms(100));
        assert_eq!(secondary(&mut w, 0), OK);
        if diskless {
            assert_eq!(w.command_and_wait(1, Command::Detach { vol: VOL, force: false }), OK);
        } else {
            assert_eq!(w.command_and_wait(1, Command::Invalidate(VOL)), OK);
            assert!(w.run_until(secs(5), |w| w.state(1).0 == ConnState::SyncTarget));
        }
        assert_eq!(primary(&mut w, 1), OK);
        let before = w.state(0).1;
        assert_eq!(w.command_and_wait(0, Command::Disconnect { force: false }), refused);
        assert!(w.state(0).0 >= ConnState::Connected && w.state(1).0 >= ConnState::Connected);
        assert_eq!(w.state(0).1, before, "and nothing has changed");
        assert_eq!(read(&mut w, 1, 64), Ok(1), "its clients are served");
        assert_eq!(w.command_and_wait(0, Command::Disconnect { force: true }), OK);
        assert_eq!(w.state(0).0, ConnState::StandAlone);
        w.connect(0, &net());
        w.run_for(secs(5));
        w.attach(1);
        heals(&mut w);
    }
}

/// The peer goes away between the refusal that will come and its arrival: there is nobody left to refuse.
#[test]
fn a_disconnect_from_a_peer_that_is_gone() {
    for us in 0..40 {
        let mut w = pair(6);
        assert_eq!(secondary(&mut w, 0), OK);
        assert_eq!(w.command_and_wait(1, Command::Detach { vol: VOL, force: false }), OK);
        assert_eq!(primary(&mut w, 1), OK);
        let id = w.command(0, Command::Disconnect { force: false });
        w.run_for(Duration::from_micros(us * 10));
        w.crash(1, false);
        w.run_for(secs(5));
        let result = ended(&mut w, id).expect("it ends");
        let alone = w.state(0).0 == ConnState::StandAlone;
        assert_eq!(alone, result == OK, "{us}: {result:?}, {:?}", w.state(0));
    }
}

/// A resync that is paused while it waits for a write to a block keeps new writes from that block only as long as it runs;
/// a node that steps down waits for those, and whoever resumes the resync for the node.
#[test]
fn a_paused_resync_waits_for_nothing() {
    let mut w = pair(7);
    w.hold_disk(1, true);
    let first = w.request(0, SimOp::Write { sector: 0, count: 8, fua: false });
    w.run_for(ms(5));
    w.command(1, Command::InvalidateRemote(VOL));
    assert!(w.run_until(secs(5), |w| w.state(0).0 == ConnState::SyncTarget));
    w.run_for(ms(200));
    assert_eq!(w.command_and_wait(0, Command::PauseSync(VOL)), OK);
    let second = w.request(0, SimOp::Write { sector: 0, count: 8, fua: false });
    let down = w.command(0, Command::Secondary { open: 0, force: false });
    w.hold_disk(1, false);
    w.run_for(secs(5));
    for tag in [first, second] {
        assert_eq!(answer(&mut w, tag).map(|a| a.0), Some(ClientResult::Ok));
    }
    assert!(ended(&mut w, down).is_some());
}

/// The peer died of being outdated, and the script that had told it to never ended: the Primary stayed frozen, and a
/// promotion was never answered.
#[test]
fn the_peer_dies_of_the_command_of_a_fencing_script() {
    let d = DiskConfig { fencing: Fencing::ResourceAndStonith, ..DiskConfig::default() };
    let mut died = 0;
    for k in 0..8 {
        let mut w = pair_with(k, SECTORS, &net(), [d.clone(), d.clone()]);
        w.hooks.handlers[0].fence_peer = FencePeer::Outdates { after: ms(300) };
        w.cut(true);
        assert!(w.run_until(secs(30), |w| !w.hooks.handlers[0].calls.is_empty()));
        begin(&mut w, 1);
        let called = w.hooks.handlers[0].calls[0].0;
        w.run_for(ms(299).saturating_sub(w.now.saturating_since(called)));
        w.crash_after(1, k, k % 2 == 0);
        w.run_for(ms(500));
        died += u32::from(w.nodes[1].core.is_none());
        assert!(!w.volume(0).expect("it runs").susp_fen, "the peer is out of the way");
        w.no_fuse();
        w.cut(false);
        if w.nodes[1].core.is_none() {
            w.start(1);
            w.connect(1, &net());
        }
        heals(&mut w);
    }
    assert!(died > 1);
}

/// A node steps down and up again at once: the super block that says that it is no Primary is still being written when the
/// next write begins. A crash then was not that of a Primary, and nothing told which blocks may differ.
#[test]
fn down_and_up_again_and_a_crash() {
    for k in 0..100 {
        let mut w = pair(k);
        w.weather.disk_us = 300;
        w.command(0, Command::Secondary { open: 0, force: false });
        w.run_for(Duration::from_micros(k * 13 % 400));
        w.command(0, Command::Primary { force: false });
        assert!(w.run_until(secs(1), |w| role(w, 0) == Role::Primary));
        w.block(0, Blocked::Data);
        w.request(0, SimOp::Write { sector: 64, count: 8, fua: false });
        w.run_for(Duration::from_micros(400));
        w.crash(0, false);
        w.run_for(ms(100));
        w.block(0, Blocked::No);
        w.start(0);
        w.connect(0, &net());
        heals(&mut w);
    }
}

/// Generations that node 1 (index 0) names, without their role bits, and whether it calls its copy UpToDate.
fn generations(w: &World) -> Vec<([u64; 4], bool)> {
    let s = w.nodes[0].core.as_ref().expect("it runs").snapshot(w.now);
    let good = |v: u8| w.volume_of(0, v).expect("it runs").disk == DiskState::UpToDate;
    (0..).zip(&s.volumes).map(|(v, s)| (s.uuids.map(|u| u & !1), good(v))).collect()
}

/// Three volumes in sync, nobody Primary.
fn three_volumes(seed: u64) -> World {
    let mut w = nodes(seed, SECTORS, [DiskConfig::default(), DiskConfig::default()], 3);
    link_up(&mut w, &net());
    (0..3).for_each(|v| skip_initial_sync(&mut w, v));
    w
}

/// Node 1 (index 0) does, and comes back without a connection.
fn loses_power(w: &mut World) {
    w.crash(0, true);
    w.start(0);
    w.run_for(secs(1));
}

/// A new-current-uuid that skips the first sync was answered before it was stable: the copy came back as it was made, beside
/// a peer that had gone on (life 4003796).
#[test]
fn the_first_sync_is_skipped_for_good_when_the_command_is_answered() {
    for seed in 0..20 {
        let mut w = nodes(seed, SECTORS, [DiskConfig::default(), DiskConfig::default()], 1);
        link_up(&mut w, &net());
        w.run_for(ms(100));
        let skip = Command::NewCurrentUuid { vol: VOL, clear_bitmap: true };
        assert_eq!(w.command_and_wait(0, skip), OK);
        let before = generations(&w);
        assert!(before[0].1);
        loses_power(&mut w);
        assert_eq!(generations(&w)[0].0, before[0].0);
        w.connect(0, &net());
        heals(&mut w);
    }
}

/// A promotion of several volumes was answered when the last one's super block was stable: the generations that the others
/// had begun were gone after a crash (life 4003796).
#[test]
fn a_promotion_is_stable_on_every_volume_when_it_is_answered() {
    for seed in 0..40 {
        let mut w = three_volumes(seed);
        disconnect(&mut w, 1);
        let common = generations(&w);
        w.weather.disk_spikes = 3;
        assert_eq!(primary(&mut w, 0), OK);
        w.weather.disk_spikes = 0;
        let before = generations(&w);
        assert!(common.iter().zip(&before).all(|(c, b)| c.0[0] != b.0[0]), "each began one of its own");
        loses_power(&mut w);
        assert_eq!(generations(&w), before);
    }
}

/// A demotion of several volumes, likewise: a node that had stepped down came back as a crashed Primary.
#[test]
fn a_demotion_is_stable_on_every_volume_when_it_is_answered() {
    for seed in 0..40 {
        let mut w = three_volumes(seed);
        assert_eq!(primary(&mut w, 0), OK);
        for v in 0..3 {
            assert_eq!(write(&mut w, 0, place(VolIdx(v), 64), 8), ClientResult::Ok);
        }
        w.weather.disk_spikes = 3;
        assert_eq!(secondary(&mut w, 0), OK);
        w.weather.disk_spikes = 0;
        loses_power(&mut w);
        let core = w.nodes[0].core.as_ref().expect("it runs");
        let left: Vec<u64> = (0..3).map(|v| core.marked_blocks(VolIdx(v))).collect();
        assert_eq!(left, [0, 0, 0], "nothing says that blocks may differ");
    }
}

/// The answer came at once: after a loss of power the copy that an operator had given up was as good as before.
#[test]
fn a_copy_that_was_invalidated_alone_stays_so() {
    for k in 0..10 {
        let mut w = pair(k);
        disconnect(&mut w, 1);
        assert_eq!(w.command_and_wait(1, Command::Invalidate(VolIdx(0))), OK);
        w.crash(1, true);
        w.start(1);
        w.run_for(ms(100));
        assert_eq!(disk(&w, 1), DiskState::Inconsistent, "seed {k}");
        let mut w = pair(k);
        disconnect(&mut w, 0);
        assert_eq!(w.command_and_wait(0, Command::InvalidateRemote(VolIdx(0))), OK);
        w.crash(0, true);
        w.start(0);
        w.run_for(ms(100));
        assert_eq!(marked(&w, 0), SECTORS / 8, "seed {k}");
    }
}

/// The name of what clients see was forgotten, and the disk was refused to them as another one.
#[test]
fn a_primary_takes_its_disk_back_after_a_new_generation_by_command() {
    let mut w = pair(1);
    disconnect(&mut w, 0);
    let new = Command::NewCurrentUuid { vol: VolIdx(0), clear_bitmap: false };
    assert_eq!(w.command_and_wait(0, new), OK);
    assert_eq!(w.command_and_wait(0, Command::Detach { vol: VolIdx(0), force: true }), OK);
    w.attach(0);
    w.run_for(ms(100));
    assert_eq!(disk(&w, 0), DiskState::UpToDate);
}

/// Options without a secret came while the challenge of the peer was waited for: the core stopped at it.
#[test]
fn the_secret_is_taken_away_in_the_handshake() {
    let secret = Some(Auth { alg: HmacAlg::Sha1, secret: b"between us".to_vec() });
    let with_secret = NetConfig { auth: secret, ..net() };
    for k in 0..60 {
        let mut w = nodes(k, SECTORS, [DiskConfig::default(), DiskConfig::default()], 1);
        w.connect(0, &with_secret);
        w.connect(1, &with_secret);
        assert!(w.run_until(secs(30), |w| w.steps > 30 + k));
        assert_eq!(w.command_and_wait(0, Command::NetOptions(Box::new(net()))), OK);
        w.run_for(secs(5));
        for n in 0..2 {
            if w.state(n).0 != ConnState::StandAlone {
                disconnect(&mut w, n);
            }
        }
        link_up(&mut w, &net());
    }
}

/// The peer was asked to outdate itself and died before it did. Its sockets closed as they do when it has, and this Primary
/// went on in the belief that nobody would go on with that copy.
#[test]
fn a_peer_that_died_before_it_was_outdated_is_fenced() {
    let d = DiskConfig { fencing: Fencing::ResourceOnly, ..DiskConfig::default() };
    let mut fenced = 0;
    for us in 0..60 {
        let mut w = pair_with(8, SECTORS, &net(), [d.clone(), d.clone()]);
        w.run_for(secs(1));
        let id = w.command(0, Command::Disconnect { force: false });
        w.run_for(Duration::from_micros(us * 10));
        w.crash(1, false);
        w.run_for(secs(5));
        assert_eq!(ended(&mut w, id), Some(OK));
        assert_eq!(w.state(0).0, ConnState::StandAlone);
        w.start(1);
        w.run_for(secs(1));
        let called = w.hooks.handlers[0].calls.iter().any(|c| c.1 == Handler::FencePeer);
        assert!(called || disk(&w, 1) == DiskState::Outdated, "after {us}0 us it is {}", disk(&w, 1));
        fenced += u32::from(called);
    }
    assert!((1..60).contains(&fenced), "{fenced}: before and after");
}

/// A Primary that disconnects has the copies of the other node outdated. That was confirmed when the first one's super block
/// was stable, and at once if there was none: the other copies came back from a loss of power as good ones.
#[test]
fn a_disconnect_has_outdated_every_volume_when_it_is_answered() {
    let d = DiskConfig { fencing: Fencing::ResourceOnly, ..DiskConfig::default() };
    for seed in 0..40 {
        let first_is_gone = seed % 2 == 0;
        let mut w = nodes(seed, SECTORS, [d.clone(), d.clone()], 3);
        link_up(&mut w, &net());
        (0..3).for_each(|v| skip_initial_sync(&mut w, v));
        assert_eq!(primary(&mut w, 0), OK);
        if first_is_gone {
            assert_eq!(w.command_and_wait(1, Command::Detach { vol: VOL, force: false }), OK);
        }
        w.run_for(secs(1));
        w.weather.disk_spikes = 3;
        assert_eq!(w.command_and_wait(0, Command::Disconnect { force: false }), OK);
        w.weather.disk_spikes = 0;
        w.crash(1, true);
        w.start(1);
        w.run_for(secs(1));
        for v in u8::from(first_is_gone)..3 {
            let disk = w.volume_of(1, v).expect("it runs").disk;
            assert_eq!(disk, DiskState::Outdated, "seed {seed}, volume {v}");
        }
    }
}

/// The first volume was Secondary, and the second one, which a client has open, stayed Primary: the resource passed for a
/// Secondary, and did not fence a lost peer.
#[test]
fn a_volume_in_use_forbids_the_demotion_of_all() {
    let mut w = three_volumes(1);
    assert_eq!(primary(&mut w, 0), OK);
    let in_use = CommandResult::State(StateResult::DeviceInUse);
    assert_eq!(w.command_and_wait(0, Command::Secondary { open: 0b010, force: false }), in_use);
    let roles = |w: &World| [0, 1, 2].map(|v| w.volume_of(0, v).expect("it runs").role);
    assert_eq!(roles(&w), [Role::Primary; 3]);
    w.nodes[0].core.as_mut().expect("it runs").set_open(VolIdx(1), false);
    assert_eq!(secondary(&mut w, 0), OK);
    assert_eq!(roles(&w), [Role::Secondary; 3]);
}

/// Node 1 (index 0) is Primary of two volumes, node 2 has the first one only.
fn one_has_two_volumes(seed: u64) -> World {
    let mut w = World::with_volumes(seed, SECTORS, [DiskConfig::default(), DiskConfig::default()], 2);
    w.nodes[1] = Node::with_volumes(SECTORS, DiskConfig::default(), 1);
    w.start(0);
    w.start(1);
    w.run_for(ms(10));
    assert_eq!(w.command_and_wait(0, Command::Primary { force: true }), OK);
    link_up(&mut w, &net());
    assert!(w.run_until(secs(60), is_synced));
    w
}

fn is_synced(w: &World) -> bool {
    let good = |s: VolumeState| {
        (s.conn, s.disk, s.pdsk) == (ConnState::Connected, DiskState::UpToDate, DiskState::UpToDate)
    };
    (0..2).all(|n| w.volume(n).is_some_and(good))
}

/// A flush of a volume that the peer does not have hurried the peer by the name of that volume, which ended the connection.
#[test]
fn a_flush_of_a_volume_that_the_peer_does_not_have() {
    let mut w = one_has_two_volumes(9);
    w.hooks.record = true;
    for block in 0..10 {
        begin(&mut w, block);
        w.request(0, SimOp::FlushVolume { vol: VolIdx(1) });
        w.run_for(secs(1));
        assert!(is_synced(&w), "after {block} flushes");
    }
    assert!(w.hooks.seen(0, Wire::UnplugRemote) > 0);
    assert_eq!(w.hooks.seen(0, Wire::SyncParam89), 0, "it is still the same connection");
}

/// The peer says nothing of a volume that it does not have: the handshake of that volume did not end, and whatever waits for
/// the end of the handshake waited for ever, and everything behind it.
#[test]
fn a_volume_that_the_peer_does_not_have_keeps_no_command_waiting() {
    let mut w = one_has_two_volumes(10);
    let ends = |w: &mut World, n, command| {
        let id = w.command(n, command);
        w.run_for(secs(60));
        assert_eq!(ended(w, id), Some(OK));
    };
    ends(&mut w, 0, Command::Secondary { open: 0, force: false });
    ends(&mut w, 0, Command::Primary { force: false });
    for n in [1, 0] {
        ends(&mut w, n, Command::Disconnect { force: false });
        w.connect(n, &net());
        assert!(w.run_until(secs(60), is_synced));
    }
}

/// A peer that is connected is not fenced for the sake of a volume that it does not have.
#[test]
fn a_connected_peer_is_not_fenced() {
    let mut w = one_has_two_volumes(11);
    let fences = DiskConfig { fencing: Fencing::ResourceAndStonith, ..DiskConfig::default() };
    for v in 0..2 {
        let command = Command::DiskOptions(VolIdx(v), Box::new(fences.clone()));
        assert_eq!(w.command_and_wait(0, command), OK);
    }
    assert_eq!(secondary(&mut w, 0), OK);
    assert_eq!(primary(&mut w, 0), CommandResult::State(StateResult::PrimaryNop));
    assert!(w.hooks.handlers[0].calls.iter().all(|c| c.1 != Handler::FencePeer));
    assert!(is_synced(&w));
}

/// The peer is back before it was fenced. It does not have one of the volumes, which is never connected: all of them stayed
/// frozen for as long as the connection, and the handler, whose answer came too late, counted for nothing.
#[test]
fn a_volume_that_the_peer_does_not_have_keeps_nothing_frozen() {
    for vol in [0, 1] {
        let mut w = one_has_two_volumes(12);
        let fences = DiskConfig { fencing: Fencing::ResourceAndStonith, ..DiskConfig::default() };
        for v in 0..2 {
            let command = Command::DiskOptions(VolIdx(v), Box::new(fences.clone()));
            assert_eq!(w.command_and_wait(0, command), OK);
        }
        w.hooks.handlers[0].fence_peer = FencePeer::Answers { exit_code: 4, after: secs(120) };
        w.cut(true);
        let frozen = |w: &World| w.volume(0).is_some_and(|s| s.susp_fen);
        assert!(w.run_until(secs(30), frozen));
        let tag = w.request(0, SimOp::Write { sector: place(VolIdx(vol), 8), count: 8, fua: false });
        w.run_for(secs(1));
        w.cut(false);
        assert!(w.run_until(secs(60), is_synced));
        w.run_for(secs(5));
        assert!(!frozen(&w));
        assert_eq!(wait(&mut w, tag).0, ClientResult::Ok);
        assert!(is_synced(&w));
    }
}

/// Of two volumes one is bad, and alone asks for fencing; the good one does not. The peer need not be fenced, and was not: the
/// promotion by force took that for the answer and was refused for want of it, again and again.
#[test]
fn a_bad_volume_alone_asks_for_fencing() {
    let mut w = World::with_volumes(13, SECTORS, [DiskConfig::default(), DiskConfig::default()], 2);
    w.start(0);
    w.run_for(ms(10));
    assert_eq!(w.command_and_wait(0, Command::Primary { force: true }), OK);
    assert_eq!(secondary(&mut w, 0), OK);
    assert_eq!(w.command_and_wait(0, Command::Invalidate(VOL)), OK);
    let fences = DiskConfig { fencing: Fencing::ResourceOnly, ..DiskConfig::default() };
    assert_eq!(w.command_and_wait(0, Command::DiskOptions(VOL, Box::new(fences))), OK);
    let id = w.command(0, Command::Primary { force: true });
    w.run_for(secs(60));
    assert_eq!(ended(&mut w, id), Some(OK));
}

/// A Primary whose disk goes while it says goodbye, and its clients write on. What its peer received after the question and
/// before it closed the connection was not marked there: it was taken for a write of a node with a disk.
#[test]
fn what_arrives_behind_the_goodbye_of_a_node_without_a_disk_is_marked() {
    let mut healed = 0;
    for k in 0..40 {
        let mut w = pair(k);
        w.weather.disk_us = 500;
        w.command(0, Command::Disconnect { force: false });
        w.command(0, Command::Detach { vol: VOL, force: true });
        // Its own question keeps that of the Primary waiting, until it has heard of the lost disk.
        w.command(1, Command::Detach { vol: VOL, force: false });
        for block in 0..10 {
            begin(&mut w, block);
            w.run_for(Duration::from_micros(10 * k));
        }
        w.run_for(secs(5));
        w.connect(0, &net());
        w.run_for(secs(5));
        if w.state(0).0 == ConnState::StandAlone || w.state(1).1 != DiskState::UpToDate {
            // Nothing was answered, and the generation that the peer has begun is unknown; or the peer's disk has gone too.
            continue;
        }
        w.attach(0);
        heals(&mut w);
        healed += 1;
    }
    assert!(healed > 0, "a goodbye without an answer is all there was");
}

/// Commands went through the volumes eight at a time, and waited for an event in between.
#[test]
fn a_command_ends_on_many_volumes_that_have_nothing_to_do() {
    let mut w = nodes(20, SECTORS, [DiskConfig::default(), DiskConfig::default()], 12);
    for _ in 0..2 {
        let id = w.command(0, Command::Secondary { open: 0, force: false });
        w.run_for(secs(60));
        assert_eq!(ended(&mut w, id), Some(OK));
    }
}

/// The peer says goodbye; the generation that is begun for that cannot be stored, and the disk goes. Its last operation let the
/// goodbye be answered, with the connection the write ended, and it was looked for once more (life 8369022: the resource stopped).
#[test]
fn a_goodbye_is_answered_by_the_last_write_of_a_failing_disk() {
    let mut w = pair(1);
    assert_eq!(write(&mut w, 0, 64, 8), ClientResult::Ok);
    w.run_for(secs(1));
    w.hold_disk(0, true);
    let tag = w.request(0, SimOp::Write { sector: 64, count: 8, fua: false });
    w.hooks.break_disk(0, DiskOp::Meta, 0, u64::MAX);
    w.command(1, Command::Disconnect { force: false });
    assert!(w.run_until(secs(1), |w| disk(w, 0) == DiskState::Failed));
    w.hold_disk(0, false);
    w.run_for(secs(1));
    assert_eq!(disk(&w, 0), DiskState::Diskless);
    assert_eq!(wait(&mut w, tag).0, ClientResult::IoError);
}
