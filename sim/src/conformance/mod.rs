//! The conformance list: what any two nodes that replicate a block device have to get right. One test for each line
//! of README.md in this folder, named like it. Every scenario ends with [`ends`].

mod congestion;
mod connecting;
mod digests;
mod disks;
mod generations;
mod io;
mod resizing;
mod resync;
mod resync_control;
mod split_brain;
mod states;
mod upgrade;
mod verify;

use model::state::{ConnState, DiskState, Role};
use model::time::Duration;
use replicator::meta::superblock::SuperBlock;
use replicator::wire::Command as Wire;
use replicator::{ClientResult, ClientTag, Command, CommandResult, DiskConfig, NetConfig, VolIdx};

use crate::hooks::Blocked;
use crate::node::{Faults, Node, place};
use crate::scenarios::*;
use crate::world::{Answer, SimOp, World};

const VOL: VolIdx = VolIdx(0);
/// Size of the devices in long loops: 1 MiB.
const SMALL: u64 = 2048;

/// The end of every scenario: no fault is left, the link is whole, both nodes run, have their disks and are connected.
/// They come in sync, nothing is pending, nothing differs, no packet was out of place. Then both processes die, and all
/// of it holds again.
fn ends(w: &mut World, net: &NetConfig) {
    settle(w, net);
    check_all(w);
    for n in 0..2 {
        w.crash(n, false);
    }
    w.run_for(secs(1));
    settle(w, net);
    check_all(w);
    let out_of_place = |l: &&String| l.contains("rotocol error") || l.contains("ProtocolError");
    let trace = w.trace.as_ref().expect("scenarios are traced");
    assert_eq!(trace.iter().find(out_of_place), None);
}

/// Faults off, link whole; an operator brings back what is down until both copies are current and nothing is under way.
fn settle(w: &mut World, net: &NetConfig) {
    faults_off(w);
    for _ in 0..60 {
        for n in 0..2 {
            bring_back(w, n, net);
        }
        if w.run_until(secs(5), at_rest) {
            return;
        }
    }
    panic!("does not settle: {:?} {:?} {}", w.volume(0), w.volume(1), w.under_way());
}

fn faults_off(w: &mut World) {
    w.hooks.cut_at = None;
    w.hooks.garbled_at = None;
    w.hooks.mend_disks();
    for n in 0..2 {
        w.nodes[n].faults = Faults::default();
        w.hold_disk(n, false);
        w.block(n, Blocked::No);
    }
    w.weather.disk_us = 100;
    w.weather.net_us = 50;
    w.cut(false);
}

/// What an operator does about a node that is down or stands alone.
fn bring_back(w: &mut World, n: usize, net: &NetConfig) {
    if w.nodes[n].core.is_none() {
        w.start(n);
        w.connect(n, net);
        return;
    }
    for v in 0..w.nodes[n].volumes {
        let s = w.volume_of(n, v).expect("it runs");
        if s.disk == DiskState::Diskless {
            w.attach(n);
        }
        if s.user_isp {
            w.command(n, Command::ResumeSync(VolIdx(v)));
        }
        if s.susp && v == 0 {
            w.command(n, Command::ResumeIo);
        }
        if s.conn == ConnState::StandAlone && v == 0 {
            w.connect(n, net);
        }
    }
}

/// All volumes are Connected and UpToDate on both nodes.
fn all_current(w: &World) -> bool {
    (0..2).all(|n| {
        (0..w.nodes[n].volumes).all(|v| {
            w.volume_of(n, v).is_some_and(|s| {
                (s.conn, s.disk, s.pdsk) == (ConnState::Connected, DiskState::UpToDate, DiskState::UpToDate)
            })
        })
    })
}

fn at_rest(w: &World) -> bool {
    all_current(w) && w.is_idle()
}

/// What holds whenever nothing is under way.
fn check_all(w: &mut World) {
    w.run_for(secs(2));
    assert!(at_rest(w), "stays at rest: {:?} {:?} {}", w.volume(0), w.volume(1), w.under_way());
    w.check_disks();
    for n in 0..2 {
        nothing_pending(w, n);
        for v in &w.nodes[n].core.as_ref().expect("it runs").snapshot(w.now).volumes {
            assert_eq!(
                v.counters.out_of_sync_kib,
                0,
                "node {} volume {}: a block is left marked",
                n + 1,
                v.vnr
            );
        }
    }
}

/// No counter of an idle node is stuck.
fn nothing_pending(w: &World, n: usize) {
    for v in &w.nodes[n].core.as_ref().expect("it runs").snapshot(w.now).volumes {
        let c = &v.counters;
        let counters = [c.local_pending, c.pending, c.unacked, c.app_pending];
        assert_eq!(counters, [0; 4], "node {} volume {}: local, pending, unacked, client", n + 1, v.vnr);
        assert!(c.epochs <= 1, "node {} volume {}: {} epochs", n + 1, v.vnr, c.epochs);
    }
}

/// The usual end, with the usual network options.
fn ends_as_usual(w: &mut World) {
    ends(w, &net());
}

/// Two fresh nodes that are not connected.
fn fresh(seed: u64) -> World {
    let mut w = nodes(seed, SECTORS, [DiskConfig::default(), DiskConfig::default()], 1);
    w.hooks.record = true;
    w
}

/// The usual pair with a small device.
fn small_pair(seed: u64) -> World {
    pair_with(seed, SMALL, &net(), [DiskConfig::default(), DiskConfig::default()])
}

/// Disk options with a fixed rate of resync.
fn fixed_rate(kib_s: u32) -> DiskConfig {
    DiskConfig { c_plan_ahead_ds: 0, resync_rate_kib_s: kib_s, ..DiskConfig::default() }
}

/// The usual pair with these disk options.
fn pair_at(seed: u64, sectors: u64, disk: &DiskConfig) -> World {
    pair_with(seed, sectors, &net(), [disk.clone(), disk.clone()])
}

/// Changes the super block of a node that is down.
fn preset(w: &mut World, n: usize, change: impl FnOnce(&mut SuperBlock)) {
    assert!(w.nodes[n].core.is_none(), "metadata is changed while the node is down");
    let at = place(VOL, w.nodes[n].layout.superblock_sector());
    let raw: [u8; 4096] = w.nodes[n].disk.read_md(at, 8).try_into().expect("eight sectors");
    let mut sb = SuperBlock::decode(&raw).expect("it has metadata");
    change(&mut sb);
    let mut block = [0u8; 4096];
    sb.encode(&mut block);
    w.nodes[n].disk.write_md(at, &block, true);
}

/// Both connections, own disks and disks of the peer.
fn states(w: &World) -> [(ConnState, DiskState, DiskState); 2] {
    [0, 1].map(|n| {
        w.volume(n).map_or((ConnState::StandAlone, DiskState::Diskless, DiskState::DUnknown), |s| {
            (s.conn, s.disk, s.pdsk)
        })
    })
}

fn conn(w: &World, n: usize) -> ConnState {
    w.volume(n).map_or(ConnState::StandAlone, |s| s.conn)
}

fn both_connected(w: &World) -> bool {
    (0..2).all(|n| conn(w, n) >= ConnState::Connected)
}

/// Node 2 gets blocks from node 1.
fn resyncing(w: &World) -> bool {
    conn(w, 0) == ConnState::SyncSource && conn(w, 1) == ConnState::SyncTarget
}

fn roles(w: &World) -> [Role; 2] {
    [role(w, 0), role(w, 1)]
}

/// Bytes of resync data that went in the direction `[from 1 to 2, from 2 to 1]` since packets were recorded.
fn brought(w: &World) -> [u64; 2] {
    [resync_bytes(w, 0), resync_bytes(w, 1)]
}

/// The answer to a command if it came.
fn command_answer(w: &mut World, id: replicator::CommandId) -> Option<CommandResult> {
    match w.take_answer(|a| matches!(a, Answer::Command(i, _) if *i == id)) {
        Some(Answer::Command(_, r)) => Some(r),
        _ => None,
    }
}

/// The answer to a command, which comes within a time.
fn answered_within(w: &mut World, id: replicator::CommandId, limit: Duration) -> CommandResult {
    let here = |w: &World| w.answers.iter().any(|(_, a)| matches!(a, Answer::Command(i, _) if *i == id));
    assert!(w.run_until(limit, here), "a command ends: {:?} {:?}", w.volume(0), w.volume(1));
    command_answer(w, id).expect("it is there")
}

fn issue(w: &mut World, n: usize, sector: u64) -> ClientTag {
    w.request(n, SimOp::Write { sector, count: 8, fua: false })
}

fn wrote(w: &mut World, n: usize, sector: u64) {
    assert_eq!(write(w, n, sector, 8), ClientResult::Ok);
}
