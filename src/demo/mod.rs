//! `lockstep demo`: two nodes on one machine that replicate a device, to be looked at and played with; with
//! `--workload` a story that kills both nodes in turn and proves that nothing was lost.

mod ledger;
mod live;
mod nbd_client;
mod pair;
mod say;
mod story;
mod workload;

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::ensure;
use model::state::DiskState;
use model::status::human::size;

use crate::cli::terminal::on_interrupt;
use crate::daemon::control::Action;
use pair::{INTERRUPTED, Interrupted, Pair, RESOURCE, in_sync};
use say::Say;
use story::Verdict;

/// What the demo is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DemoConfig {
    /// Where disks and configuration are kept.
    pub dir: PathBuf,
    /// Size of the device; that of an earlier run stays.
    pub size_bytes: u64,
    /// Ends by itself after this time.
    pub run_for: Option<Duration>,
    /// Tell the story of the failures.
    pub workload: bool,
    /// First of four TCP ports: two for replication, two for NBD.
    pub port_base: u16,
}

/// A time on the command line: `20s`, `500ms`, `2m`, `20`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunFor(pub Duration);

impl FromStr for RunFor {
    type Err = String;

    fn from_str(text: &str) -> Result<RunFor, String> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit_ms = match &text[digits.len()..] {
            "ms" => Some(1),
            "" | "s" => Some(1000),
            "m" | "min" => Some(60_000),
            _ => None,
        };
        let number: Option<u64> = digits.parse().ok();
        let time = unit_ms.zip(number).and_then(|(unit, n)| n.checked_mul(unit));
        let time = time.filter(|ms| *ms <= RUN_MAX_MS).map(Duration::from_millis);
        time.map(RunFor).ok_or_else(|| format!("'{text}' is not a time; write for example 20s"))
    }
}

/// A week.
const RUN_MAX_MS: u64 = 7 * 24 * 3600 * 1000;
/// Smaller devices show nothing.
const SIZE_BYTES_MIN: u64 = 8 << 20;
/// Larger ones are no demo.
const SIZE_BYTES_MAX: u64 = 1 << 40;
/// Length of the story if none is given.
const STORY: Duration = Duration::from_secs(20);

const CONNECT_MAX: Duration = Duration::from_secs(60);
const SYNC_MAX: Duration = Duration::from_secs(3600);

/// Runs the demo; the daemons it starts are stopped when it ends, whatever happens.
///
/// # Errors
/// Something did not work as it must; it is said in plain words.
pub fn run(config: &DemoConfig) -> anyhow::Result<u8> {
    ensure!(
        (SIZE_BYTES_MIN..=SIZE_BYTES_MAX).contains(&config.size_bytes),
        "--size must be between {} and {}",
        size(SIZE_BYTES_MIN / 1024),
        size(SIZE_BYTES_MAX / 1024)
    );
    on_interrupt(|| INTERRUPTED.store(true, Ordering::Relaxed))?;
    let mut say = Say::new();
    let mut pair = Pair::prepare(&config.dir, config.size_bytes, config.port_base)?;
    let played = play(config, &mut pair, &mut say);
    let stopped = stop(&mut pair, &mut say);
    match played {
        Ok(None) => stopped.map(|()| 0),
        Ok(Some(verdict)) => {
            stopped?;
            say.verdict(verdict.good, &verdict.text);
            Ok(u8::from(!verdict.good))
        }
        // Without the story Ctrl-C is the good end.
        Err(e) if e.is::<Interrupted>() && !config.workload => stopped.map(|()| 0),
        Err(e) => Err(e),
    }
}

fn play(config: &DemoConfig, pair: &mut Pair, say: &mut Say) -> anyhow::Result<Option<Verdict>> {
    bring_up(pair, say)?;
    if config.workload {
        return story::tell(pair, say, config.run_for.unwrap_or(STORY)).map(Some);
    }
    live::run(pair, say, config.run_for.map(|time| Instant::now() + time))?;
    Ok(None)
}

/// From files to a replicated pair with node1 as Primary.
fn bring_up(pair: &mut Pair, say: &mut Say) -> anyhow::Result<()> {
    say.step("Two nodes, each with a disk of its own");
    say.tell(&format!(
        "Directory {}: the configuration is r0.res, one directory per node has its disk (a file),\n\
         its settings and the log of its daemon. Both nodes run on this machine and talk over loopback.",
        pair.dir.display()
    ));
    for node in &mut pair.nodes {
        node.start()?;
        let (name, pid) = (node.name, node.pid().unwrap_or(0));
        say.tell(&format!(
            "{name}: daemon started (process {pid}), control socket in {}",
            node.run_dir().display()
        ));
    }
    if pair.is_new {
        say.step("Metadata: what each node remembers about its copy");
        say.tell("Which blocks the peer misses, which were being written when the power failed, whose data is newer.");
        for node in &pair.nodes {
            node.create_md(say)?;
        }
    }
    say.step("Connect");
    for node in &pair.nodes {
        node.must(say, "up", Action::Up)?;
    }
    let [one, two] = &pair.nodes;
    let connected = |v: &model::status::VolumeSnapshot| v.state.conn >= model::state::ConnState::Connected;
    for node in [one, two] {
        node.wait("Connected", CONNECT_MAX, connected, |_| {})?;
    }
    if pair.is_new {
        say.tell(
            "Connected. Neither disk is better than the other: both are Inconsistent. Somebody has to decide whose\n\
             content counts. That is '--force', needed once in the life of a device:",
        );
        one.must(say, "primary --force", Action::Primary { force: true })?;
    } else {
        say.tell("Connected. The nodes compared what they remember, and copy only what differs:");
    }
    let synced = follow_sync(pair, say)?;
    if pair.is_new {
        pair.mark_ready()?;
        say.tell(&format!("First sync done: {} are the same on both nodes.", size(synced)));
    } else {
        say.tell(if synced == 0 { "Nothing differs: no resync was needed." } else { "Resync done." });
        let [one, _] = &pair.nodes;
        one.must(say, "primary", Action::Primary { force: false })?;
    }
    Ok(())
}

/// Shows a running resync until both copies are good. Returns how much was copied, in KiB.
fn follow_sync(pair: &Pair, say: &mut Say) -> anyhow::Result<u64> {
    let mut copied_kib = 0;
    for node in &pair.nodes {
        let volume = node.wait("in sync", SYNC_MAX, in_sync, |v| {
            if let Some(progress) = &v.progress {
                copied_kib = copied_kib.max(progress.total_blocks.saturating_mul(4));
                say.bar(v, progress);
            }
        })?;
        debug_assert_eq!(volume.state.disk, DiskState::UpToDate);
    }
    Ok(copied_kib)
}

/// In order: nobody uses the device, then the nodes go.
fn stop(pair: &mut Pair, say: &mut Say) -> anyhow::Result<()> {
    if pair.nodes.iter().any(|n| n.pid().is_some()) {
        say.step("Stop");
    }
    for node in pair.nodes.iter().filter(|n| n.pid().is_some()) {
        let _ = node.run(Action::Secondary { force: false });
    }
    let mut result = Ok(());
    for node in &mut pair.nodes {
        if let Err(e) = node.stop() {
            result = Err(e);
        }
    }
    say.tell(&format!(
        "Both daemons have ended. The data stays in {}; the next run goes on with it.",
        pair.dir.display()
    ));
    result
}

/// How a person reaches the device of a node.
fn directions(pair: &Pair) -> String {
    let socket = pair.nodes[0].device();
    let mount = pair.dir.join("device");
    let quoted = |path: &std::path::Path| format!("'{}'", path.display().to_string().replace('\'', "'\\''"));
    format!(
        "The device of node1, as an NBD export:\n\
         \x20 nbd+unix:///{RESOURCE}?socket={socket}\n\
         As a block device without any kernel module but loop:\n\
         \x20 mkdir -p {mount} && nbdfuse {mount} 'nbd+unix:///{RESOURCE}?socket={socket}' &\n\
         \x20 losetup --find --show {file}\n\
         Or with the kernel's NBD client:\n\
         \x20 nbd-client -unix {plain} -N {RESOURCE} /dev/nbd0\n\
         Then for example: mkfs.ext4, mount, copy files, and look at the other node's disk.\n\
         Commands for each node, from another terminal:\n\
         \x20 lockstep --run-dir {run1} status\n\
         \x20 lockstep --run-dir {run2} status --watch",
        socket = socket.display(),
        mount = quoted(&mount),
        file = quoted(&mount.join("nbd")),
        plain = quoted(&socket),
        run1 = quoted(&pair.nodes[0].run_dir()),
        run2 = quoted(&pair.nodes[1].run_dir()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        let time = |t: &str| t.parse::<RunFor>().map(|r| r.0);
        assert_eq!(time("20s"), Ok(Duration::from_secs(20)));
        assert_eq!(time("20"), Ok(Duration::from_secs(20)));
        assert_eq!(time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(time("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "s", "-1s", "20h", "99999999999999999999s", "9999999m"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }
}
