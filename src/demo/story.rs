//! The story of `demo --workload`: a secondary dies and comes back, a primary dies in mid write, the other takes
//! over, and at the end both disks are compared byte for byte.

use std::fs::File;
use std::io::Read;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use model::state::{ConnState, DiskState, Role};
use model::status::VolumeSnapshot;
use model::status::human::size;

use super::ledger::next_random;
use super::pair::{Node, Pair, RESOURCE, check_interrupt, in_sync, pause};
use super::say::Say;
use super::workload::{Checked, WRITERS, Workload, Writers};
use crate::daemon::control::Action;

/// A dead peer is noticed, a state reached, at the latest after this.
const NOTICE_MAX: Duration = Duration::from_secs(60);
const RESYNC_MAX: Duration = Duration::from_secs(300);
const PROMOTE_MAX: Duration = Duration::from_secs(60);
/// Shares of the given time, in percent; the rest is for resyncs.
const BOTH_PERCENT: u32 = 20;
const ALONE_PERCENT: u32 = 15;
const AGAIN_PERCENT: u32 = 20;
const OTHER_PERCENT: u32 = 10;

/// How the story ended.
pub struct Verdict {
    /// Nothing was lost.
    pub good: bool,
    /// The last line.
    pub text: String,
}

/// What is counted for the last line.
#[derive(Default)]
struct Tally {
    resynced_kib: u64,
    failovers: u32,
    wrong_blocks: u64,
}

/// Plays the story with a pair that is in sync, node1 Primary.
///
/// # Errors
/// Something did not happen that must, within bounded time.
pub fn tell(pair: &mut Pair, say: &mut Say, time: Duration) -> anyhow::Result<Verdict> {
    let volume = pair.nodes[0].volume()?;
    let device_kib = volume.size_kib();
    let workload = Workload::new(RESOURCE, volume.size_sectors * 512, run_number());
    let mut tally = Tally::default();
    let share = |percent: u32| time * percent / 100;

    write_together(pair, say, &workload, share(BOTH_PERCENT), share(ALONE_PERCENT), device_kib, &mut tally)?;
    lose_primary(pair, say, &workload, share(AGAIN_PERCENT), &mut tally)?;
    take_over(pair, say, &workload, share(OTHER_PERCENT), device_kib, &mut tally)?;
    let differing = compare(pair, say, volume.size_sectors)?;

    let counts = workload.counts();
    let good = differing == 0 && tally.wrong_blocks == 0;
    let text = format!(
        "{}: {} writes acknowledged, {} blocks checked, {} wrong, {} KiB resynced of {device_kib} KiB, \
         {} failover, {differing} differing bytes",
        if good { "PASSED" } else { "FAILED" },
        counts.acked.load(Ordering::Relaxed),
        counts.checked.load(Ordering::Relaxed),
        tally.wrong_blocks,
        tally.resynced_kib,
        tally.failovers,
    );
    Ok(Verdict { good, text })
}

/// Writers on node1; node2 dies meanwhile and comes back.
fn write_together(
    pair: &mut Pair,
    say: &mut Say,
    workload: &Workload,
    both: Duration,
    alone: Duration,
    device_kib: u64,
    tally: &mut Tally,
) -> anyhow::Result<()> {
    say.step("An application writes");
    say.tell(&format!(
        "{WRITERS} clients write numbered versions of {} blocks through NBD on node1, and read them back. Protocol C:\n\
         a write is acknowledged when it is on both disks. The demo notes every acknowledgement.",
        "4 KiB"
    ));
    let writers = workload.start(&pair.nodes[0].device())?;
    work(say, workload, both)?;

    say.step("The secondary dies");
    say.command(&format!("kill -9 {}        # the daemon of node2", pair.nodes[1].pid().unwrap_or(0)));
    pair.nodes[1].kill()?;
    say.tell("node1 goes on alone. From now on it remembers in its bitmap which blocks node2 misses.");
    work(say, workload, alone)?;
    let missing = pair.nodes[0].wait(
        "the loss of the peer",
        NOTICE_MAX,
        |v| v.state.conn < ConnState::Connected,
        |_| {},
    )?;
    let changed_kib = missing.counters.out_of_sync_kib;
    say.tell(&format!(
        "node2 misses {changed_kib} KiB of {device_kib} KiB: {}. Only that will be copied.",
        share_of(changed_kib, device_kib)
    ));

    say.step("The secondary comes back");
    start_again(&mut pair.nodes[1], say)?;
    tally.resynced_kib += watch_resync(&pair.nodes[0], say, changed_kib)?;
    say.tell("Both copies are the same again, while the clients went on writing.");
    check_alive(writers, say, workload)
}

/// Writers that ran through all of it must not have failed.
fn check_alive(writers: Writers, say: &mut Say, workload: &Workload) -> anyhow::Result<()> {
    writers.stop().context("while the secondary was away")?;
    say.tell(&format!("No client noticed anything: {}.", so_far(workload)));
    Ok(())
}

/// Writers on node1, which dies in mid write.
fn lose_primary(
    pair: &mut Pair,
    say: &mut Say,
    workload: &Workload,
    time: Duration,
    tally: &mut Tally,
) -> anyhow::Result<()> {
    say.step("The primary dies in mid write");
    let writers = workload.start(&pair.nodes[0].device())?;
    work(say, workload, time)?;
    say.command(&format!("kill -9 {}        # the daemon of node1", pair.nodes[0].pid().unwrap_or(0)));
    pair.nodes[0].kill()?;
    writers.stop_after_crash()?;
    say.tell(
        "The clients lost their device. Each had at most one write in flight: that one may be on the disks or not,\n\
         nobody was told. Every other write was acknowledged, so it must be on node2's disk now.",
    );

    say.step("node2 takes over");
    let two = &pair.nodes[1];
    two.wait("the loss of the peer", NOTICE_MAX, |v| v.state.conn < ConnState::Connected, |_| {})?;
    say.tell(
        "node2 noticed that its peer is gone. Its copy is UpToDate, so it may be promoted without force:",
    );
    promote(two, say)?;
    tally.failovers += 1;
    let checked = check(two, workload, say)?;
    tally.wrong_blocks += checked.wrong;
    say.tell(&format!(
        "Read back on node2: {} blocks, {} of them not what was acknowledged.",
        checked.blocks, checked.wrong
    ));
    Ok(())
}

/// Writers on node2; node1 comes back and gets what it misses.
fn take_over(
    pair: &mut Pair,
    say: &mut Say,
    workload: &Workload,
    time: Duration,
    device_kib: u64,
    tally: &mut Tally,
) -> anyhow::Result<()> {
    let writers = workload.start(&pair.nodes[1].device())?;
    work(say, workload, time)?;
    say.step("The first node comes back");
    say.tell(
        "It was Primary when it died, and may have written what node2 never saw. Its activity log says where\n\
         that can be: those places are copied too, from node2, whose data counts now.",
    );
    let changed_kib = pair.nodes[1].volume()?.counters.out_of_sync_kib;
    start_again(&mut pair.nodes[0], say)?;
    let resynced_kib = watch_resync(&pair.nodes[1], say, changed_kib)?;
    tally.resynced_kib += resynced_kib;
    say.tell(&format!("{resynced_kib} KiB of {device_kib} KiB were copied."));
    writers.stop().context("while node1 came back")?;
    let checked = check(&pair.nodes[1], workload, say)?;
    tally.wrong_blocks += checked.wrong;
    Ok(())
}

/// Stops both nodes and compares their disks. Returns the number of bytes that differ.
fn compare(pair: &mut Pair, say: &mut Say, sectors: u64) -> anyhow::Result<u64> {
    say.step("Compare the disks, byte for byte");
    let [one, two] = &pair.nodes;
    one.wait("both in sync", NOTICE_MAX, in_sync, |_| {})?;
    demote(two, say)?;
    for node in [one, two] {
        node.wait("both Secondary", NOTICE_MAX, |v| in_sync(v) && v.state.role == Role::Secondary, |_| {})?;
    }
    for node in &pair.nodes {
        node.must(say, "down", Action::Down)?;
    }
    for node in &mut pair.nodes {
        node.stop()?;
    }
    let bytes = sectors * 512;
    let mut files = [File::open(pair.nodes[0].disk())?, File::open(pair.nodes[1].disk())?];
    let differing = differing_bytes(&mut files, bytes)?;
    say.tell(&format!("{bytes} bytes of data compared, {differing} differ."));
    Ok(differing)
}

fn differing_bytes([one, two]: &mut [File; 2], bytes: u64) -> anyhow::Result<u64> {
    const CHUNK_BYTES: u64 = 1 << 20;
    let (mut a, mut b) = (Vec::new(), Vec::new());
    let mut differing = 0;
    let mut left = bytes;
    while left > 0 {
        check_interrupt()?;
        let now = left.min(CHUNK_BYTES);
        a.resize(now as usize, 0);
        b.resize(now as usize, 0);
        one.read_exact(&mut a)?;
        two.read_exact(&mut b)?;
        if a != b {
            differing += a.iter().zip(&b).filter(|(x, y)| x != y).count() as u64;
        }
        left -= now;
    }
    Ok(differing)
}

/// Lets the writers work, and shows their progress.
fn work(say: &mut Say, workload: &Workload, time: Duration) -> anyhow::Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        pause(Duration::from_millis(200).min(end.saturating_duration_since(Instant::now())))?;
        say.ticker(&so_far(workload));
    }
    say.tell(&so_far(workload));
    Ok(())
}

fn so_far(workload: &Workload) -> String {
    let counts = workload.counts();
    format!(
        "{} writes acknowledged, {} blocks read back and right",
        counts.acked.load(Ordering::Relaxed),
        counts.checked.load(Ordering::Relaxed)
    )
}

fn start_again(node: &mut Node, say: &mut Say) -> anyhow::Result<()> {
    node.start()?;
    node.must(say, "up", Action::Up)
}

/// Follows the resync that `source` feeds; returns how much was copied, in KiB.
fn watch_resync(source: &Node, say: &mut Say, expected_kib: u64) -> anyhow::Result<u64> {
    let mut copied_kib = 0;
    source.wait("in sync again", RESYNC_MAX, in_sync, |v: &VolumeSnapshot| {
        if let Some(progress) = &v.progress {
            copied_kib = copied_kib.max(progress.total_blocks.saturating_mul(4));
            say.bar(v, progress);
        }
    })?;
    // A resync of some MiB can be over before it was seen.
    Ok(if copied_kib == 0 { expected_kib } else { copied_kib })
}

fn promote(node: &Node, say: &mut Say) -> anyhow::Result<()> {
    let end = Instant::now() + PROMOTE_MAX;
    say.command(&format!("lockstep primary {RESOURCE}        # on {}", node.name));
    loop {
        check_interrupt()?;
        let outcome = node.run(Action::Primary { force: false });
        if outcome.exit_code == 0 {
            let state = node.volume()?.state;
            ensure!(state.disk == DiskState::UpToDate, "{} is Primary with a disk {}", node.name, state.disk);
            return Ok(());
        }
        ensure!(Instant::now() < end, "{} cannot be promoted: {}", node.name, outcome.err.trim_end());
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The device counts as open until the daemon has seen the last client go, a moment after it went.
fn demote(node: &Node, say: &mut Say) -> anyhow::Result<()> {
    let end = Instant::now() + NOTICE_MAX;
    node.wait("no client", NOTICE_MAX, |v| v.open_count == 0, |_| {})?;
    say.command(&format!("lockstep secondary {RESOURCE}        # on {}", node.name));
    loop {
        check_interrupt()?;
        let outcome = node.run(Action::Secondary { force: false });
        if outcome.exit_code == 0 {
            return Ok(());
        }
        ensure!(Instant::now() < end, "{} cannot be demoted: {}", node.name, outcome.err.trim_end());
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn check(node: &Node, workload: &Workload, say: &mut Say) -> anyhow::Result<Checked> {
    let mut complaints = 0;
    workload.check_all(&node.device(), |text| {
        complaints += 1;
        if complaints <= 5 {
            say.tell(&text);
        }
    })
}

fn share_of(part_kib: u64, whole_kib: u64) -> String {
    let tenths = part_kib.saturating_mul(1000) / whole_kib.max(1);
    format!("{} of {}, {}.{} %", size(part_kib), size(whole_kib), tenths / 10, tenths % 10)
}

/// Tells the blocks of this run from those of earlier ones.
fn run_number() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut state = since.as_nanos() as u64 ^ u64::from(std::process::id()) << 40;
    next_random(&mut state)
}
