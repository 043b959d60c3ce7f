//! Failures that replicated block devices had, each as a short script that would show it here; README.md beside this
//! file has the whole list, with what is not covered and why.
//!
//! A script leaves no interleaving to chance where its steps leave one open: it tries each of them. In the end faults
//! are off and the link works; both copies have to become equal, and again after both processes were killed.

mod congestion;
mod crash;
mod errors;
mod fencing;
mod freezes;
mod handshake;
mod resync;
mod split_brain;
mod two_primaries;
mod waiting;
mod writes;

use crate::hooks::Blocked;
use crate::node::Faults;
use crate::scenarios::*;
use crate::world::{Answer, SimOp, Weather, World};
use model::policy::OnNoData;
use model::state::{ConnState, DiskState};
use model::time::Duration;
use replicator::activity_log::transaction::AL_SLOTS_MIN;
use replicator::wire::Command as Wire;
use replicator::{
    ClientResult, ClientTag, Command, CommandId, CommandResult, DiskConfig, NetConfig, ResizeWish, VolIdx,
};

const VOL: VolIdx = VolIdx(0);
const DETACH: Command = Command::Detach { vol: VOL, force: false };
const TEAR_OFF: Command = Command::Detach { vol: VOL, force: true };

/// A device of 140 activity log extents.
const HUGE: u64 = 140 * 8192;
/// Blocks of an activity log extent.
const EXTENT: u64 = 1024;
/// Fewest slots that may be configured.
const SLOTS: u64 = AL_SLOTS_MIN as u64;

/// First sector of a block of 4 KiB, the size of a bit.
fn at(block: u64) -> u64 {
    block * 8
}

/// A pair whose devices have six activity log extents.
fn large_pair(seed: u64) -> World {
    pair_with(seed, LARGE, &net(), [DiskConfig::default(), DiskConfig::default()])
}

/// A pair with a full activity log: each slot holds an extent.
fn crowded_pair(seed: u64) -> World {
    let d = DiskConfig { al_extents: SLOTS as u16, ..DiskConfig::default() };
    let mut w = pair_with(seed, HUGE, &net(), [d.clone(), d]);
    for extent in 0..SLOTS {
        put(&mut w, 0, extent * EXTENT);
    }
    w.run_for(ms(100));
    w
}

/// A pair that freezes requests when no good data is within reach.
fn freezing_pair(seed: u64, disk: &DiskConfig) -> World {
    let mut w = nodes(seed, SECTORS, [disk.clone(), disk.clone()], 1);
    for n in 0..2 {
        w.crash(n, false);
        w.nodes[n].on_no_data = OnNoData::SuspendIo;
        w.start(n);
    }
    link_up(&mut w, &net());
    skip_initial_sync(&mut w, 0);
    assert_eq!(primary(&mut w, 0), OK);
    w.hooks.record = true;
    w
}

/// Begins to write a block.
fn begin(w: &mut World, n: usize, block: u64) -> ClientTag {
    w.request(n, SimOp::Write { sector: at(block), count: 8, fua: false })
}

/// Writes a block; its completion is reported.
fn put(w: &mut World, n: usize, block: u64) {
    assert_eq!(write(w, n, at(block), 8), ClientResult::Ok, "block {block}");
}

/// The request was answered and is done.
fn is_done(w: &mut World, tag: ClientTag) {
    assert_eq!(wait(w, tag).0, ClientResult::Ok);
}

fn conn(w: &World, n: usize) -> ConnState {
    w.state(n).0
}

/// The link swallows everything, until both nodes have noticed.
fn cut(w: &mut World) {
    w.cut(true);
    let noticed = w.run_until(secs(30), |w| (0..2).all(|n| conn(w, n) < ConnState::Connected));
    assert!(noticed, "{:?} {:?}", w.state(0), w.state(1));
}

/// Node 1 (index 0) writes blocks that node 2 does not get; the link is still cut.
fn missed(w: &mut World, blocks: &[u64]) {
    w.run_for(ms(100));
    cut(w);
    for block in blocks {
        put(w, 0, *block);
    }
    w.hooks.packets.clear();
}

/// The bitmap of a node, however coded, stays in the network.
fn keep_bitmap(w: &mut World, n: usize) {
    w.hooks.keep(n, Wire::Bitmap);
    w.hooks.keep(n, Wire::CompressedBitmap);
}

/// So many events happen.
fn events(w: &mut World, n: u64) {
    let until = w.steps + n;
    w.run_until(secs(60), |w| w.steps >= until);
}

fn kept(w: &mut World, n: usize) {
    assert!(w.run_until(secs(30), |w| w.keeps_from(n)), "{:?} {:?}", w.state(0), w.state(1));
}

/// Node 1 (index 0) disconnects gracefully when the link is dead: it knows that already, or the link dies so many events
/// behind the question.
fn disconnect_on_dead_link(w: &mut World, known: bool, later: u64) {
    if known {
        cut(w);
    }
    let id = w.command(0, Command::Disconnect { force: false });
    if !known {
        events(w, later);
        w.cut(true);
    }
    let is_it = |a: &Answer| matches!(a, Answer::Command(i, _) if *i == id);
    assert!(w.run_until(secs(10), |w| w.answers.iter().any(|(_, a)| is_it(a))), "it ends");
    w.run_for(secs(3));
}

/// Node 2 (index 1), which fences, has lost its Primary and started again: what it has is Consistent at best.
fn consistent_and_alone(w: &mut World) {
    cut(w);
    put(w, 0, 5);
    w.crash(1, false);
    w.start(1);
    w.run_for(ms(100));
    assert_eq!(disk(w, 1), DiskState::Consistent);
    assert_ne!(primary(w, 1), OK);
}

/// Faults off, and the link works.
fn mend(w: &mut World) {
    (w.hooks.cut_at, w.hooks.tamper) = (None, None);
    w.hooks.bad_meta_write = None;
    w.hooks.mend_disks();
    w.let_go(false);
    for n in 0..2 {
        w.hold_disk(n, false);
        w.pass(n);
        w.block(n, Blocked::No);
        w.nodes[n].faults = Faults::default();
    }
    w.weather = Weather { disk_us: 100, net_us: 50, ..w.weather };
    w.cut(false);
}

/// An operator of little imagination starts what is down, attaches, and connects.
fn all_up(w: &mut World, nets: &[NetConfig; 2]) {
    for (n, net) in nets.iter().enumerate() {
        if w.nodes[n].core.is_none() {
            w.start(n);
        }
        w.attach(n);
        if conn(w, n) == ConnState::StandAlone {
            w.connect(n, net);
        }
    }
}

/// Both copies become equal, and no block is left marked.
fn settles(w: &mut World, nets: &[NetConfig; 2]) {
    mend(w);
    for _ in 0..20 {
        all_up(w, nets);
        if w.run_until(secs(5), |w| w.in_sync() && w.is_idle()) {
            break;
        }
        // A copy that passed on errors is only brought again by a new connection.
        let bad = |s: (ConnState, DiskState)| s == (ConnState::Connected, DiskState::Inconsistent);
        if (0..2).any(|n| bad(w.state(n))) {
            w.command_and_wait(1, Command::Disconnect { force: true });
        }
    }
    heals(w);
}

/// Everything is well in the end, and again after both processes were killed.
fn ends_well(w: &mut World) {
    ends_well_with(w, &[net(), net()]);
}

fn ends_well_with(w: &mut World, nets: &[NetConfig; 2]) {
    settles(w, nets);
    for n in 0..2 {
        w.crash(n, false);
    }
    w.run_for(secs(1));
    settles(w, nets);
    let wrong = |l: &&String| l.contains("protocol error");
    assert_eq!(w.trace.iter().flatten().find(wrong), None, "both nodes are sound");
}

/// Both nodes found that each went on without the other, and nothing was overwritten.
fn is_split(w: &World) -> bool {
    (0..2).all(|n| reason(w, n).is_some_and(|r| r.contains("Split-Brain")))
}

/// The nodes had the time for every verdict.
fn meets(w: &mut World) {
    mend(w);
    all_up(w, &[net(), net()]);
    w.run_for(secs(20));
}

/// Two pasts: both nodes say so, also after both processes were killed; an operator's word against one of them mends it.
fn ends_apart(w: &mut World, loser: usize) {
    meets(w);
    assert!(is_split(w), "{:?} {:?}", w.volume(0), w.volume(1));
    for n in 0..2 {
        w.crash(n, false);
    }
    w.run_for(secs(1));
    meets(w);
    assert!(is_split(w), "{:?} {:?}", w.volume(0), w.volume(1));
    operator_decides(w, loser);
}

/// The data of one node is given up.
fn operator_decides(w: &mut World, loser: usize) {
    w.command_and_wait(loser, Command::Secondary { open: 0, force: false });
    for n in 0..2 {
        w.command_and_wait(n, Command::Disconnect { force: true });
    }
    w.truth.word[loser] = true;
    let mut nets = [net(), net()];
    nets[loser].discard_my_data = true;
    settles(w, &nets);
    ends_well(w);
}

/// One or the other; true: two pasts were reported.
fn ends_well_or_apart(w: &mut World, loser: usize) -> bool {
    meets(w);
    let split = is_split(w);
    if split {
        ends_apart(w, loser);
    } else {
        ends_well(w);
    }
    split
}
