//! Loss of power at every moment of a run. Two daemons in a machine of their own (user-mode Linux) have disks that record
//! every write and flush (device-mapper target `log-writes`), under a client that remembers what it was promised. From
//! the records the disks are built as a loss of power may leave them: what was flushed is there, of the rest any part.
//!
//! Each such disk can be attached, holds everything that was written before an answered flush or with FUA, and has a bit
//! or an active extent of the activity log on every block that the peer may have in another version. Daemons started
//! on some pairs of them make both copies the same.
//!
//! `LOCKSTEP_CRASH_BATCHES` is the length of the recorded run, `LOCKSTEP_CRASH_SEED` repeats its choices. A failure keeps
//! the directory; `LOCKSTEP_CRASH_REPLAY` is a kept one, to check its records again. Needs root and the Debian packages
//! user-mode-linux, kmod, dmsetup and iproute2.

#![allow(clippy::unwrap_used, reason = "the whole file is a test")]

#[path = "support/crash_images.rs"]
mod crash_images;
#[path = "support/nbd_client.rs"]
#[allow(dead_code)]
mod nbd_client;
#[path = "support/pair.rs"]
mod pair;
#[path = "support/uml.rs"]
mod uml;
#[path = "support/verifier.rs"]
#[allow(dead_code)]
mod verifier;
#[path = "support/write_log.rs"]
mod write_log;

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crash_images::{
    BLOCK_SECTORS, Found, Image, ImageFile, Moment, Playback, Version, Versions, read_versions, sectors_of,
    write_disk,
};
use nbd_client::{Client, FUA, Replies, WRITE};
use pair::{Options, Pair, free_address};
use verifier::{Random, fill};

/// A hundred extents of the activity log, which holds 67.
const DISK_BYTES: u64 = 400 << 20;
/// Sparse.
const LOG_BYTES: u64 = 2 << 30;
const AL_EXTENT_SECTORS: u64 = (4 << 20) / 512;
/// Of a batch, and so are its extents: far fewer than the activity log holds, so that none cools down before its end.
const WRITES_MAX: u64 = 12;
const DEFAULT_BATCHES: u64 = 80;
/// A slow machine does fewer.
const BATCH_MAX: Duration = Duration::from_millis(150);
/// Pairs of disks on which daemons are started, in a run of that length.
const RECOVERIES: usize = 2;
const NET: &str = "timeout 20; ping-int 2; connect-int 1; ping-timeout 5;";
/// So slow that a resync after a crash of n1 does not fit between two batches.
const RECORDED_DISK: &str = "c-plan-ahead 0; resync-rate 100M; c-min-rate 100M; al-extents 67;";
const RECOVERED_DISK: &str = "c-plan-ahead 0; resync-rate 800M; c-min-rate 800M; al-extents 67;";
/// Everything but the batches.
const MACHINE_MAX: Duration = Duration::from_secs(120);
const SYNC_MAX: Duration = Duration::from_secs(60);

/// Set in the machine: what the test does there.
const INSIDE: &str = "LOCKSTEP_CRASH_INSIDE";

/// Writes that were under way together, all answered before the next batch.
struct Batch {
    writes: Vec<Write>,
    /// A flush was sent after their answers, and answered.
    is_flushed: bool,
    /// The peer was connected and UpToDate all the time, so that what is durable is so on both nodes.
    has_peer: bool,
    /// The peer is not there, or n1 has just been started: whatever they resync next was written before.
    is_before_resync: bool,
}

struct Write {
    first: u64,
    sectors: u64,
    version: Version,
    fua: bool,
}

fn binary() -> PathBuf {
    std::env::var_os("LOCKSTEP_BIN").map_or_else(|| env!("CARGO_BIN_EXE_lockstep").into(), PathBuf::from)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn options(disk: &str, addresses: [String; 2]) -> Options<'_> {
    Options {
        disk_bytes: DISK_BYTES,
        net: NET,
        disk,
        addresses,
        netns: [None, None],
        sections: "",
        prewritten: false,
    }
}

#[test]
fn a_loss_of_power_takes_nothing_that_was_promised() {
    let batches = number("LOCKSTEP_CRASH_BATCHES").unwrap_or(DEFAULT_BATCHES);
    let seed = number("LOCKSTEP_CRASH_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.unwrap().as_nanos() as u64 % 1_000_000_007
    });
    if std::env::var_os(INSIDE).is_some() {
        record(batches, Random(seed));
        return;
    }
    let replayed = std::env::var_os("LOCKSTEP_CRASH_REPLAY").map(PathBuf::from);
    let made = || std::env::temp_dir().join(format!("lockstep-crash-{}-{seed:x}", std::process::id()));
    let dir = replayed.clone().unwrap_or_else(made);
    println!("seed {seed}, {}", dir.display());
    let begun = Instant::now();
    if replayed.is_none() {
        run_machine(&dir, batches, seed);
    }
    let recorded = begun.elapsed();
    let mut check = Check::new(&dir, Random(seed ^ 1));
    check.run(RECOVERIES * batches as usize / DEFAULT_BATCHES as usize);
    println!(
        "{} batches recorded in {:.1} s, {} with the peer; {} images of one disk and {} pairs checked, {} pairs recovered in {:.1} s",
        check.batches.len(),
        recorded.as_secs_f64(),
        check.batches.iter().filter(|batch| batch.has_peer).count(),
        check.images,
        check.pairs,
        check.recovered,
        (begun.elapsed() - recorded).as_secs_f64()
    );
    if replayed.is_none() {
        fs::remove_dir_all(&dir).unwrap();
    }
}

/// Lets this test write for some time in a machine that has its disks and their records in `dir`.
fn run_machine(dir: &Path, batches: u64, seed: u64) {
    fs::create_dir(dir).unwrap();
    let disks = ["disk1", "log1", "disk2", "log2"].map(|name| dir.join(name));
    for (disk, bytes) in disks.iter().zip([DISK_BYTES, LOG_BYTES, DISK_BYTES, LOG_BYTES]) {
        fs::File::create(disk).unwrap().set_len(bytes).unwrap();
    }
    let sectors = DISK_BYTES / 512;
    let command = format!(
        "set -e; modprobe dm-log-writes
         dmsetup create --noudevsync n1 --table '0 {sectors} log-writes /dev/ubda /dev/ubdb'
         dmsetup create --noudevsync n2 --table '0 {sectors} log-writes /dev/ubdc /dev/ubdd'
         {INSIDE}=1 LOCKSTEP_BIN={} LOCKSTEP_CRASH_BATCHES={batches} LOCKSTEP_CRASH_SEED={seed} \
           {} --nocapture --test-threads 1
         dmsetup remove --retry --noudevsync n1; dmsetup remove --retry --noudevsync n2",
        binary().display(),
        std::env::current_exe().unwrap().display()
    );
    uml::run(&dir.join("machine"), &disks, &command, MACHINE_MAX + BATCH_MAX * batches as u32);
}

/// In the machine: writes for some time, and leaves the ledger behind.
fn record(wanted: u64, mut random: Random) {
    let disks = ["/dev/dm-0", "/dev/dm-1"].map(PathBuf::from);
    let addresses = ["127.0.0.1:7001".into(), "127.0.0.1:7002".into()];
    let mut pair =
        Pair::on_disks(&binary(), Path::new("/run/pair"), &options(RECORDED_DISK, addresses), disks);
    fs::write(pair.dir.join("lockstep.toml"), "spin-us = 0\npool-size = '32M'\n").unwrap();
    pair.up(0);
    pair.up(1);
    pair.wait_for(0, &["cstate", "r0"], "Connected", SYNC_MAX);
    pair.ok(0, &["new-current-uuid", "--clear-bitmap", "r0"]);
    pair.ok(0, &["primary", "r0"]);
    pair.wait_in_sync(0, SYNC_MAX);
    let mut client = Client::open(&pair.nbd_socket(0), "r0", Replies::Simple).unwrap();
    client.flush().unwrap();
    let mut ledger = format!("{}\n", client.size_bytes / 512);
    let mut version = 0;
    let mut batches = 0;
    let mark = |batches: u64| {
        // In this order: what the peer does in between only makes it more equal.
        write_log::mark("n1", batches);
        write_log::mark("n2", batches);
    };
    mark(0);
    let (mut was_restarted, mut has_peer) = (false, true);
    // Seldom, so that the activity log moves on before what it was hot for is flushed; or often.
    let mut flush_one_in = 40;
    let mut left_until_change = 15;
    let end = Instant::now() + BATCH_MAX * wanted as u32;
    while batches < wanted && Instant::now() < end {
        if left_until_change == 0 {
            flush_one_in = [2, 4, 40][random.below(3) as usize];
            match pair.pid(1) {
                _ if random.one_in(10) => {
                    // What a start does to the disk is recorded as well.
                    pair.kill(0);
                    pair.up(0);
                    let until = Instant::now() + SYNC_MAX;
                    while !pair.run(0, &["primary", "r0"]).status.success() {
                        assert!(Instant::now() < until, "n1 becomes Primary again");
                    }
                    client = Client::open(&pair.nbd_socket(0), "r0", Replies::Simple).unwrap();
                    (was_restarted, has_peer) = (true, false);
                    left_until_change = 1;
                }
                Some(_) if has_peer => {
                    pair.kill(1);
                    has_peer = false;
                    left_until_change = 2 + random.below(8);
                }
                Some(_) => {
                    has_peer = pair.run(0, &["dstate", "r0"]).stdout.starts_with(b"UpToDate/UpToDate");
                    left_until_change = if has_peer { 4 + random.below(16) } else { 3 };
                }
                None => {
                    pair.up(1);
                    left_until_change = 3;
                }
            }
        }
        left_until_change -= 1;
        batches += 1;
        let is_before_resync = was_restarted || pair.pid(1).is_none();
        was_restarted = false;
        let writes = write_batch(&mut client, &mut random, &mut version);
        let is_flushed = random.one_in(flush_one_in);
        if is_flushed {
            client.flush().unwrap();
        }
        mark(batches);
        let flags = [is_flushed, has_peer, is_before_resync].map(|flag| if flag { " 1" } else { " 0" });
        ledger += &format!("batch{}\n", flags.concat());
        for w in writes {
            ledger += &format!("{} {} {} {}\n", w.first, w.sectors, w.version, u8::from(w.fua));
        }
    }
    pair.kill(0);
    if pair.pid(1).is_some() {
        pair.kill(1);
    }
    fs::write(Path::new(uml::SHARE).join("ledger"), ledger).unwrap();
}

/// Sends some writes that do not overlap and takes their answers.
fn write_batch(client: &mut Client, random: &mut Random, version: &mut Version) -> Vec<Write> {
    let extents = client.size_bytes / 512 / AL_EXTENT_SECTORS;
    let mut taken = BTreeSet::new();
    let mut writes = Vec::new();
    for _ in 0..=random.below(WRITES_MAX) {
        let extent = random.below(extents);
        // Few blocks, so that they are written again and again.
        let blocks = if random.one_in(2) { 6 } else { 900 };
        let mut first = extent * AL_EXTENT_SECTORS + random.below(blocks) * 8;
        let most = if random.one_in(8) { 32 } else { 4 };
        let mut sectors = 8 * (1 + random.below(most));
        if random.one_in(4) {
            first += 1 + random.below(6);
            sectors = 1 + random.below(20);
        }
        let blocks = first / 8..(first + sectors).div_ceil(8);
        if blocks.clone().any(|block| taken.contains(&block)) {
            continue;
        }
        taken.extend(blocks);
        *version += 1;
        let fua = random.one_in(6);
        let mut data = vec![0; sectors as usize * 512];
        for (n, bytes) in data.chunks_exact_mut(512).enumerate() {
            fill(bytes, first + n as u64, *version);
        }
        client.start(WRITE, if fua { FUA } else { 0 }, (first * 512, data.len() as u32), &data);
        writes.push(Write { first, sectors, version: *version, fua });
    }
    for _ in &writes {
        let mut reply = [0; 16];
        client.socket.read_exact(&mut reply).unwrap();
        assert_eq!(reply[..8], [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0], "a write is answered well");
    }
    writes
}

/// Plays both records back, batch by batch.
struct Check {
    dir: PathBuf,
    batches: Vec<Batch>,
    /// Records of n1, the Primary, and n2.
    playback: [Playback; 2],
    /// What each sector must hold at least, on each node.
    promised: [Versions; 2],
    /// Last version of each sector that was answered.
    answered: Versions,
    /// Blocks that were ever written, each once.
    written: Vec<usize>,
    file: ImageFile,
    /// In memory, for what a tool flushes there is of no use.
    _image_dir: tempfile::TempDir,
    random: Random,
    images: usize,
    pairs: usize,
    recovered: usize,
}

impl Check {
    fn new(dir: &Path, random: Random) -> Check {
        let ledger = fs::read_to_string(dir.join("machine/share/ledger")).unwrap();
        let mut lines = ledger.lines();
        let data_sectors: usize = lines.next().unwrap().parse().unwrap();
        let mut batches: Vec<Batch> = Vec::new();
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            if words[0] == "batch" {
                let [is_flushed, has_peer, is_before_resync] = [1, 2, 3].map(|at| words[at] == "1");
                batches.push(Batch { writes: Vec::new(), is_flushed, has_peer, is_before_resync });
                continue;
            }
            let n = |i: usize| -> u64 { words[i].parse().unwrap() };
            let write = Write { first: n(0), sectors: n(1), version: n(2), fua: n(3) == 1 };
            batches.last_mut().unwrap().writes.push(write);
        }
        assert!(batches.len() > 20, "the client got to do something: {} batches", batches.len());
        let sectors = (DISK_BYTES / 512) as usize;
        let image_dir = tempfile::Builder::new().prefix("lockstep-crash-").tempdir_in("/dev/shm").unwrap();
        let play = |log| Playback::new(write_log::read(&dir.join(log)), sectors, data_sectors);
        Check {
            dir: dir.to_path_buf(),
            batches,
            playback: [play("log1"), play("log2")],
            promised: [Versions::blank(data_sectors), Versions::blank(data_sectors)],
            answered: Versions::blank(data_sectors),
            written: Vec::new(),
            file: ImageFile::create(&image_dir.path().join("image")),
            _image_dir: image_dir,
            random,
            images: 0,
            pairs: 0,
            recovered: 0,
        }
    }

    fn run(&mut self, recoveries: usize) {
        for playback in &mut self.playback {
            playback.play_to(0, 0, &mut self.random);
        }
        let mut last = 0;
        // Blocks written since what is resynced was.
        let mut since: BTreeSet<usize> = BTreeSet::new();
        let mut peer_before = self.playback[1].all_cached(0);
        let chosen: Vec<usize> =
            (0..recoveries).map(|_| self.random.below(self.batches.len() as u64) as usize).collect();
        for k in 0..self.batches.len() {
            let newest = self.batches[k].writes.iter().map(|w| w.version).max().unwrap_or(last);
            let in_batch: BTreeSet<usize> = self.batches[k]
                .writes
                .iter()
                .flat_map(|w| {
                    w.first as usize / BLOCK_SECTORS..=(w.first + w.sectors - 1) as usize / BLOCK_SECTORS
                })
                .collect();
            self.written.extend(&in_batch);
            self.written.sort_unstable();
            self.written.dedup();
            // Until n1 is killed what it sent before still counts.
            let mut replicated = since.clone();
            if self.batches[k].is_before_resync {
                since.clear();
            }
            since.extend(&in_batch);
            replicated.extend(&in_batch);
            let source = self.playback[0].all_cached(last);
            for moment in self.play(1, k, last) {
                let found = self.check_alone(1, k, moment.what, &moment.image);
                if !found.is_consistent {
                    // The source forgets a block when the target has it, be it in the cache.
                    let what = format!("batch {k}, sync target, {}", moment.what);
                    let is_due = |block: &usize| !found.is_marked(*block) && !replicated.contains(block);
                    for block in moment.in_cache.into_iter().filter(is_due) {
                        assert_same(block, &source, &moment.image, &what);
                    }
                }
            }
            let peer = self.playback[1].all_cached(newest);
            for Moment { what, image, .. } in self.play(0, k, last) {
                let found = self.check_alone(0, k, what, &image);
                let what = format!("batch {k}, {what}");
                for block in self.written.iter().copied().filter(|block| !found.is_marked(*block)) {
                    // What the peer has while the batch is under way is not known, but what it had before.
                    let peer = if in_batch.contains(&block) { &peer_before } else { &peer };
                    assert_same(block, &image, peer, &what);
                }
            }
            self.keep_promises(k);
            self.check_both(k, newest);
            let how_many = chosen.iter().filter(|chosen| **chosen == k).count();
            for _ in 0..how_many {
                self.recover(k, newest);
            }
            (last, peer_before) = (newest, peer);
        }
    }

    /// What a disk may hold on the way from the mark before batch `k` to that behind it.
    fn play(&mut self, node: usize, k: usize, answered: Version) -> Vec<Moment> {
        self.playback[node].play_to(k as u64 + 1, answered, &mut self.random)
    }

    fn check_alone(&mut self, node: usize, k: usize, what: &str, image: &Image) -> Found {
        self.images += 1;
        let found =
            self.file.attach(image).unwrap_or_else(|e| panic!("batch {k}, n{}, {what}: {e}", node + 1));
        for sectors in self.written.iter().map(|block| sectors_of(*block)) {
            let (held, promised) = (image.versions.of(sectors.clone()), self.promised[node].of(sectors));
            if held != promised && held.iter().zip(promised).any(|(held, promised)| held < promised) {
                panic!("batch {k}, n{}, {what}: {held:?} is left where {promised:?} was flushed", node + 1);
            }
        }
        found
    }

    /// After batch `k`: what was answered, and what of it is promised to last.
    fn keep_promises(&mut self, k: usize) {
        let batch = &self.batches[k];
        let nodes = if batch.has_peer { 0..2 } else { 0..1 };
        for w in &batch.writes {
            for sector in w.first as usize..(w.first + w.sectors) as usize {
                self.answered.raise(sector, w.version);
                if w.fua {
                    nodes.clone().for_each(|node| self.promised[node].raise(sector, w.version));
                }
            }
        }
        if batch.is_flushed {
            for node in nodes {
                self.promised[node].clone_from(&self.answered);
            }
        }
    }

    /// Both nodes lose power after batch `k`, or one of them.
    fn check_both(&mut self, k: usize, answered: Version) {
        let images = [0, 1].map(|node| {
            let playback = &self.playback[node];
            let some = playback.some_cached(answered, &mut self.random);
            [("nothing", playback.durable.clone()), ("some", some), ("all", playback.all_cached(answered))]
        });
        // The metadata are the same whatever is left of the data.
        let found = [0, 1].map(|node| self.check_alone(node, k, "between batches", &images[node][0].1));
        for (n1, image) in &images[0] {
            for (n2, peer) in &images[1] {
                self.pairs += 1;
                let what = format!("after batch {k}, {n1} of the cache of n1 left, {n2} of that of n2");
                let is_marked = |block: &usize| found.iter().any(|f| f.is_marked(*block));
                for block in self.written.iter().copied().filter(|block| !is_marked(block)) {
                    assert_same(block, image, peer, &what);
                }
            }
        }
    }

    /// Starts daemons after a loss of power behind batch `k`: both copies become the same and hold what was promised.
    fn recover(&mut self, k: usize, answered: Version) {
        let images = [0, 1].map(|node| self.playback[node].some_cached(answered, &mut self.random));
        let addresses = [free_address(), free_address()];
        let mut pair = Pair::create(&binary(), &self.dir.join("pair"), &options(RECOVERED_DISK, addresses));
        for (node, image) in images.iter().enumerate() {
            write_disk(image, &pair.nodes[node].disk);
        }
        pair.up(0);
        pair.up(1);
        pair.wait_in_sync(0, SYNC_MAX);
        for node in [0, 1] {
            pair.ok(node, &["down", "r0"]);
            pair.stop(node);
        }
        pair.assert_equal_and_clean();
        let versions = read_versions(&pair.nodes[0].disk, &self.written);
        for (sector, version) in versions {
            let promised = self.promised[0].of(sector..sector + 1)[0];
            let held = [0, 1].map(|node| images[node].versions.of(sector..sector + 1)[0]);
            let is_good = version >= promised && held.contains(&version);
            assert!(
                is_good,
                "batch {k}, recovered: sector {sector} holds {version} of {held:?}, {promised} was flushed"
            );
        }
        self.recovered += 1;
    }
}

/// For a block that no node would compare with its peer's.
fn assert_same(block: usize, image: &Image, peer: &Image, what: &str) {
    let sectors = sectors_of(block);
    let (own, other) = (image.versions.of(sectors.clone()), peer.versions.of(sectors));
    assert_eq!(own, other, "{what}: block {block} is not marked and differs (n1, n2)");
}
