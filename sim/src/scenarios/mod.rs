//! Named situations, by subject: each promise of the protocol and of the resync once, small enough to read.

mod authority;
mod before_resync;
mod buffers;
mod completion;
mod congestion;
mod connecting;
mod damage;
mod diskless;
mod goodbye;
mod multi_volume;
mod resync;
mod split_brain;
mod timeouts;

use std::cell::Cell;

use model::config::settings::Handler;
use model::ids::DataUuid;
use model::state::{ConnState, DiskState, Role};
use model::time::Duration;
use replicator::wire::Command as Wire;
use replicator::{ClientResult, ClientTag, Command, CommandResult, DiskConfig, NetConfig, VolIdx};

use crate::node::Node;
pub(crate) use crate::scenario::{net, scribble};
use crate::world::{Answer, SimOp, World};

/// Size of the devices: 4 MiB, one activity log extent.
pub(crate) const SECTORS: u64 = 8192;
/// A device of several activity log extents: 24 MiB.
pub(crate) const LARGE: u64 = 49_152;
pub(crate) const OK: CommandResult = CommandResult::Ok;

thread_local! {
    /// Nodes made by [`nodes`] announce only what a kernel 8.4 announces, so that each takes the other for one.
    pub(crate) static KERNEL_FEATURES: Cell<bool> = const { Cell::new(false) };
}

/// Both see each other as kernel nodes while this lives.
pub(crate) struct AsKernels;

impl AsKernels {
    pub(crate) fn new(on: bool) -> Option<AsKernels> {
        KERNEL_FEATURES.set(on);
        on.then_some(AsKernels)
    }
}

impl Drop for AsKernels {
    fn drop(&mut self) {
        KERNEL_FEATURES.set(false);
    }
}

/// Leaves the four features that a kernel knows.
fn only_kernel_features(_: usize, command: Wire, body: &mut [u8]) {
    if command == Wire::ConnectionFeatures {
        body[4..8].copy_from_slice(&15u32.to_be_bytes());
    }
}

/// Two nodes, started, not connected; each with its own disk options.
pub(crate) fn nodes(seed: u64, sectors: u64, disks: [DiskConfig; 2], volumes: u8) -> World {
    let mut w = World::with_volumes(seed, sectors, disks, volumes);
    w.trace = Some(Vec::new());
    if KERNEL_FEATURES.get() {
        w.hooks.tamper = Some(only_kernel_features);
    }
    w.start(0);
    w.start(1);
    w.run_for(ms(10));
    w
}

/// Connects both nodes with the same options and waits until they are Connected.
pub(crate) fn link_up(w: &mut World, net: &NetConfig) {
    w.connect(0, net);
    w.connect(1, net);
    let up = |w: &World| (0..2).all(|n| w.state(n).0 >= ConnState::Connected);
    assert!(w.run_until(secs(30), up), "connected: {:?} {:?}", w.state(0), w.state(1));
}

/// A pair in sync without an initial sync, node 1 (index 0) Primary, packets recorded.
pub(crate) fn pair_with(seed: u64, sectors: u64, net: &NetConfig, disks: [DiskConfig; 2]) -> World {
    let mut w = nodes(seed, sectors, disks, 1);
    w.truth.protocol_c = net.protocol == model::policy::Protocol::C;
    link_up(&mut w, net);
    if KERNEL_FEATURES.get() {
        // A kernel does not answer the skip, so the state packets of the connect have to be in before it.
        w.run_for(ms(100));
    }
    skip_initial_sync(&mut w, 0);
    assert_eq!(primary(&mut w, 0), OK);
    w.run_for(ms(100));
    assert!(w.in_sync());
    w.hooks.record = true;
    w
}

/// The usual pair.
pub(crate) fn pair(seed: u64) -> World {
    pair_with(seed, SECTORS, &net(), [DiskConfig::default(), DiskConfig::default()])
}

pub(crate) fn skip_initial_sync(w: &mut World, vol: u8) {
    let skip = Command::NewCurrentUuid { vol: VolIdx(vol), clear_bitmap: true };
    assert_eq!(w.command_and_wait(0, skip), OK);
    w.run_for(ms(50));
}

pub(crate) fn primary(w: &mut World, n: usize) -> CommandResult {
    w.command_and_wait(n, Command::Primary { force: false })
}

pub(crate) fn secondary(w: &mut World, n: usize) -> CommandResult {
    w.command_and_wait(n, Command::Secondary { open: 0, force: false })
}

pub(crate) fn disconnect(w: &mut World, n: usize) {
    assert_eq!(w.command_and_wait(n, Command::Disconnect { force: false }), OK);
    w.run_for(ms(100));
}

pub(crate) fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(crate) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// The answer to a request, if it came.
pub(crate) fn answer(w: &mut World, tag: ClientTag) -> Option<(ClientResult, Vec<u64>)> {
    match w.take_answer(|a| matches!(a, Answer::Client(t, ..) if *t == tag)) {
        Some(Answer::Client(_, r, versions)) => Some((r, versions)),
        _ => None,
    }
}

/// Waits for the answer to a request.
pub(crate) fn wait(w: &mut World, tag: ClientTag) -> (ClientResult, Vec<u64>) {
    let here = |w: &World| w.answers.iter().any(|(_, a)| matches!(a, Answer::Client(t, ..) if *t == tag));
    assert!(w.run_until(secs(120), here), "a request is answered");
    answer(w, tag).expect("it is there")
}

/// Writes and waits for the answer.
pub(crate) fn write(w: &mut World, n: usize, sector: u64, count: u64) -> ClientResult {
    let tag = w.request(n, SimOp::Write { sector, count, fua: false });
    wait(w, tag).0
}

/// Reads one sector: its version, or the error.
pub(crate) fn read(w: &mut World, n: usize, sector: u64) -> Result<u64, ClientResult> {
    let tag = w.request(n, SimOp::Read { sector, count: 1 });
    match wait(w, tag) {
        (ClientResult::Ok, versions) => Ok(versions[0]),
        (e, _) => Err(e),
    }
}

/// Waits until both are in sync, then compares everything.
pub(crate) fn heals(w: &mut World) {
    let done = w.run_until(secs(120), |w| w.in_sync() && w.is_idle());
    assert!(done, "{:?} {:?} {}", w.volume(0), w.volume(1), w.under_way());
    w.run_for(secs(1));
    assert!(w.in_sync(), "stays in sync: {:?} {:?}", w.state(0), w.state(1));
    w.check_disks();
    for n in 0..2 {
        assert_eq!(marked(w, n), 0, "no block is left marked");
    }
}

pub(crate) fn marked(w: &World, n: usize) -> u64 {
    w.nodes[n].core.as_ref().expect("it runs").marked_blocks(VolIdx(0))
}

pub(crate) fn uuids(w: &World, n: usize) -> [DataUuid; 4] {
    let s = w.nodes[n].core.as_ref().expect("it runs").snapshot(w.now);
    s.volumes[0].uuids.map(DataUuid)
}

pub(crate) fn reason(w: &World, n: usize) -> Option<String> {
    w.nodes[n].core.as_ref().expect("it runs").snapshot(w.now).standalone_reason
}

/// The node is StandAlone and says why in words that contain `why`.
pub(crate) fn stands_alone(w: &World, n: usize, why: &str) {
    assert_eq!(w.state(n).0, ConnState::StandAlone, "node {}", n + 1);
    let said = reason(w, n).unwrap_or_default();
    assert!(said.contains(why), "node {} says {said:?}, not {why:?}", n + 1);
}

/// Bytes of resync data that node `n` sent since recording began.
pub(crate) fn resync_bytes(w: &World, n: usize) -> u64 {
    w.hooks.data_bytes(n, Wire::RsDataReply)
}

pub(crate) fn role(w: &World, n: usize) -> Role {
    w.volume(n).expect("it runs").role
}

pub(crate) fn disk(w: &World, n: usize) -> DiskState {
    w.state(n).1
}

/// How often node `n` has called a handler.
pub(crate) fn calls(w: &World, n: usize, handler: Handler) -> usize {
    w.hooks.handlers[n].calls.iter().filter(|(_, h, _)| *h == handler).count()
}

/// Every sector that clients wrote may hold on node `n` what it holds.
pub(crate) fn check_copy(w: &mut World, n: usize) {
    let written: Vec<u64> = w.truth.of(n).written().collect();
    for s in written {
        let v = w.nodes[n].disk.read(s);
        assert!(w.truth.of(n).allows(s, v), "sector {s} of node {} holds {v}", n + 1);
    }
}
