//! Two daemons on real files that are killed again and again, at every moment of their lives: while they start,
//! attach, shake hands, resync, and while the other one does; one of them, both at once, the Primary with its peer
//! taking over. Nobody cleans up behind a kill: the daemon is started and the resource brought up, that is all.
//!
//! After each volley of kills every acknowledged write is there, both copies are the same, and no resync was a full one.
//!
//! `LOCKSTEP_KILLS` is the number of kills (instead of a time), `LOCKSTEP_KILL_SEED` repeats the choices of another
//! run (not its timing). A failure keeps the directory of the pair with both logs.

#[path = "support/pair.rs"]
mod pair;
#[path = "support/verifier.rs"]
#[allow(dead_code)]
mod verifier;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::process::Child;
use std::thread::sleep;
use std::time::{Duration, Instant};

use pair::{Options, Pair, flags, free_address, generation};
use verifier::{Random, Writers};

/// Eleven extents of the activity log.
const DISK_BYTES: u64 = 44 << 20;
const AL_EXTENT_SECTORS: u64 = (4 << 20) / 512;
/// Each writes around a border of two extents. The last extent stays blank: only a full resync goes there.
const WRITERS: u64 = 5;
const WRITTEN_SECTORS: u64 = (1 << 20) / 512;
const DEFAULT_TIME: Duration = Duration::from_secs(20);
const KILLS_PER_VOLLEY_MAX: u64 = 12;
const COMMAND_MAX: Duration = Duration::from_secs(20);
const CONVERGE_MAX: Duration = Duration::from_secs(40);
/// A kill that waits for the log to say something waits no longer.
const SIGN_MAX: Duration = Duration::from_millis(1500);
/// What a log says at the moments where a kill is worth most.
const SIGNS: [&str; 12] = [
    "ready;",
    "created",
    "Diskless -> Attaching",
    "attached to UUIDs",
    "Handshake successful",
    "drbd_sync_handshake",
    "WFReportParams -> ",
    "WFBitMapT",
    "WFBitMapS",
    "Began resync",
    "Resync done",
    "Creating new current UUID",
];

fn binary() -> PathBuf {
    std::env::var_os("LOCKSTEP_BIN").map_or_else(|| env!("CARGO_BIN_EXE_lockstep").into(), PathBuf::from)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// What is being done to bring a node back.
#[derive(Default)]
struct Return {
    /// The command under way, and since when.
    command: Option<(Child, Instant)>,
    is_up: bool,
    is_promoted: bool,
    /// Where the log of the present daemon begins.
    log_from: u64,
}

#[derive(Default, Debug)]
struct Tally {
    kills: u64,
    volleys: u64,
    both_at_once: u64,
    takeovers: u64,
    resyncs: u64,
    /// Kills by role and by what the daemon was doing.
    during: BTreeMap<String, u64>,
}

struct KillLoop {
    pair: Pair,
    writers: Writers,
    random: Random,
    seed: u64,
    primary: usize,
    returns: [Return; 2],
    /// Lengths of the logs when both nodes were last found to be the same.
    checked: [u64; 2],
    begun: Instant,
    history: Vec<String>,
    tally: Tally,
}

impl KillLoop {
    fn new(seed: u64) -> KillLoop {
        let dir = std::env::temp_dir().join(format!("lockstep-kills-{}-{seed:x}", std::process::id()));
        let options = Options {
            disk_bytes: DISK_BYTES,
            net: "timeout 10; ping-int 1; connect-int 1; ping-timeout 3; ko-count 3;",
            disk: "c-plan-ahead 0; resync-rate 120M; c-min-rate 120M;",
            addresses: [free_address(), free_address()],
            netns: [None, None],
            sections: "",
            prewritten: false,
        };
        let mut pair = Pair::create(&binary(), &dir, &options);
        println!("seed {seed}, {}", dir.display());
        pair.up(0);
        pair.up(1);
        pair.wait_for(0, &["cstate", "r0"], "Connected", CONVERGE_MAX);
        pair.ok(0, &["new-current-uuid", "--clear-bitmap", "r0"]);
        pair.ok(0, &["primary", "r0"]);
        pair.wait_in_sync(0, CONVERGE_MAX);
        let around = |n| ((2 * n + 1) * AL_EXTENT_SECTORS - WRITTEN_SECTORS / 2, WRITTEN_SECTORS);
        let writers = Writers::on((0..WRITERS).map(around), seed);
        writers.aim(&pair.nbd_socket(0));
        let there = |is_promoted| Return { is_up: true, is_promoted, ..Return::default() };
        let mut kills = KillLoop {
            pair,
            writers,
            random: Random(seed),
            seed,
            primary: 0,
            returns: [there(true), there(false)],
            checked: [0; 2],
            begun: Instant::now(),
            history: Vec::new(),
            tally: Tally::default(),
        };
        kills.checked = [0, 1].map(|i| kills.log_bytes(i));
        kills
    }

    fn note(&mut self, text: String) {
        let line = format!("{:9.3} {text}", self.begun.elapsed().as_secs_f64());
        if std::env::var_os("LOCKSTEP_KILL_VERBOSE").is_some() {
            println!("{line}");
        }
        self.history.push(line);
    }

    fn fail(&self, why: &str) -> ! {
        let from = self.history.len().saturating_sub(60);
        panic!(
            "seed {} volley {}: {why}\n{}\n{}\nkept: {}",
            self.seed,
            self.tally.volleys,
            self.history[from..].join("\n"),
            self.pair.logs(),
            self.pair.dir.display()
        );
    }

    fn log_bytes(&self, i: usize) -> u64 {
        fs::metadata(self.pair.log_file(i)).map_or(0, |m| m.len())
    }

    fn log_since(&self, i: usize, from: u64) -> String {
        let mut text = Vec::new();
        let mut file = fs::File::open(self.pair.log_file(i)).expect("a log");
        file.seek(SeekFrom::Start(from)).expect("a place in the log");
        file.read_to_end(&mut text).expect("its end");
        String::from_utf8_lossy(&text).into_owned()
    }

    /// What the present daemon of a node has said.
    fn own_log(&self, i: usize) -> String {
        self.log_since(i, self.returns[i].log_from)
    }

    /// Some kills, with what they interrupt; then everything has to be well again.
    fn volley(&mut self) {
        self.tally.volleys += 1;
        for _ in 0..=self.random.below(KILLS_PER_VOLLEY_MAX) {
            let victim = if self.random.one_in(5) { 1 - self.primary } else { self.primary };
            let victim = if self.random.one_in(3) { 1 - victim } else { victim };
            self.wait_for_moment(victim);
            match self.random.below(8) {
                0 | 1 => self.kill_both(),
                2 | 3 if victim == self.primary => self.kill_primary(),
                _ => {
                    self.kill(victim);
                    self.launch(victim);
                }
            }
        }
        self.check();
    }

    /// A random time, or shortly after a node said something that a kill may spoil.
    fn wait_for_moment(&mut self, victim: usize) {
        if self.random.one_in(3) {
            // From at once to a second, short ones as likely as long ones.
            let most = 1 << self.random.below(11);
            let until = Instant::now() + Duration::from_millis(self.random.below(most));
            self.tend_until(until);
            return;
        }
        let watched = if self.random.one_in(4) { 1 - victim } else { victim };
        let sign = SIGNS[self.random.below(SIGNS.len() as u64) as usize];
        let seen = self.own_log(watched).matches(sign).count();
        let until = Instant::now() + SIGN_MAX;
        while Instant::now() < until && self.own_log(watched).matches(sign).count() == seen {
            // Nothing more will be said.
            if self.is_settled() {
                break;
            }
            self.tend();
            sleep(Duration::from_millis(1));
        }
        let spread = 1 << self.random.below(9);
        let until = Instant::now() + Duration::from_micros(self.random.below(spread) * 250);
        self.tend_until(until);
    }

    /// Both are up and connected and no resync runs.
    fn is_settled(&self) -> bool {
        (0..2).all(|i| {
            let own = &self.returns[i];
            own.is_up && own.command.is_none() && doing(&self.own_log(i)) == "Connected"
        })
    }

    fn kill(&mut self, i: usize) {
        self.strike(i);
        self.bury(i);
    }

    fn strike(&mut self, i: usize) {
        let role = if self.returns[i].is_promoted { "Primary" } else { "Secondary" };
        let log = self.own_log(i);
        let doing = doing(&log);
        self.note(format!("n{} is killed: {role}, {doing}", i + 1));
        if !self.pair.is_alive(i) {
            self.fail(&format!("the daemon of n{} has ended by itself", i + 1));
        }
        self.pair.strike(i);
        self.tally.kills += 1;
        *self.tally.during.entry(format!("{role} {doing}")).or_default() += 1;
    }

    fn bury(&mut self, i: usize) {
        self.pair.kill(i);
        if let Some((mut child, _)) = self.returns[i].command.take() {
            let until = Instant::now() + COMMAND_MAX;
            while child.try_wait().expect("its state").is_none() {
                if Instant::now() > until {
                    let _ = child.kill();
                    self.fail(&format!("a command of n{} does not end with its daemon", i + 1));
                }
                sleep(Duration::from_millis(1));
            }
        }
    }

    fn launch(&mut self, i: usize) {
        self.note(format!("n{} starts", i + 1));
        self.returns[i] = Return { log_from: self.log_bytes(i), ..Return::default() };
        self.pair.launch(i);
    }

    fn kill_both(&mut self) {
        self.tally.both_at_once += 1;
        // So close together that the second knows nothing of the first, more often than not.
        let first = self.random.below(2) as usize;
        self.strike(first);
        sleep(Duration::from_micros(self.random.below(3) * 300));
        self.strike(1 - first);
        self.bury(first);
        self.bury(1 - first);
        if self.random.one_in(2) {
            self.take_over_if_complete();
        }
        let first = self.random.below(2) as usize;
        self.launch(first);
        let most = 1 << self.random.below(10);
        let until = Instant::now() + Duration::from_millis(self.random.below(most));
        self.tend_until(until);
        self.launch(1 - first);
    }

    /// The Primary goes, and its peer takes over if it has everything.
    fn kill_primary(&mut self) {
        let old = self.primary;
        self.kill(old);
        if self.returns[1 - old].is_up {
            self.take_over_if_complete();
        }
        if self.primary != old {
            // The clients write on for a while before it comes back.
            let until = Instant::now() + Duration::from_millis(self.random.below(600));
            self.tend_until(until);
        }
        self.launch(old);
    }

    /// Makes the peer of the dead Primary the Primary to be. Whoever went on alone has a generation of its own: in that
    /// case its peer may lack writes, and stays what it is.
    fn take_over_if_complete(&mut self) {
        let (old, new) = (self.primary, 1 - self.primary);
        let dump = self.pair.ok(old, &["dump-md", "--force", "r0"]);
        let (peer, is_current) = if self.pair.pid(new).is_some() {
            let gi = self.pair.run(new, &["get-gi", "r0"]);
            let gi = String::from_utf8_lossy(&gi.stdout).into_owned();
            let peer = u64::from_str_radix(gi.split(':').next().unwrap_or(""), 16).unwrap_or(0) & !1;
            let dstate = self.pair.run(new, &["dstate", "r0"]);
            (peer, dstate.stdout.starts_with(b"UpToDate/"))
        } else {
            let dump = self.pair.ok(new, &["dump-md", "--force", "r0"]);
            (generation(&dump), flags(&dump) & CONSISTENT != 0 && flags(&dump) & WAS_UP_TO_DATE != 0)
        };
        let is_complete = is_current && generation(&dump) == peer && flags(&dump) & CONSISTENT != 0;
        self.note(format!(
            "{:x} and {peer:x}, n{} has everything: {is_complete}",
            generation(&dump),
            new + 1
        ));
        if is_complete {
            self.tally.takeovers += 1;
            self.primary = new;
        }
    }

    fn tend_until(&mut self, until: Instant) {
        self.tend();
        while Instant::now() < until {
            sleep(Duration::from_millis(1));
            self.tend();
        }
    }

    /// Goes on with what brings the nodes back, without waiting for anything.
    fn tend(&mut self) {
        for i in 0..2 {
            if self.pair.pid(i).is_none() {
                continue;
            }
            if let Some((child, since)) = &mut self.returns[i].command {
                let overdue = since.elapsed() > COMMAND_MAX;
                match child.try_wait().expect("its state") {
                    Some(_) => self.command_ended(i),
                    None if overdue => {
                        let _ = child.kill();
                        self.fail(&format!("a command of n{} does not end", i + 1));
                    }
                    None => {}
                }
            }
            let own = &self.returns[i];
            let wants_promotion = i == self.primary && !own.is_promoted;
            if own.command.is_none() && (!own.is_up || wants_promotion) {
                let verb = if own.is_up { "primary" } else { "up" };
                self.returns[i].command = Some((self.pair.begin(i, &[verb, "r0"]), Instant::now()));
            }
        }
    }

    fn command_ended(&mut self, i: usize) {
        let (child, _) = self.returns[i].command.take().expect("the caller looked");
        let output = child.wait_with_output().expect("what it said");
        let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let own = &mut self.returns[i];
        if output.status.success() {
            own.is_promoted = own.is_up;
            own.is_up = true;
            let what = if own.is_promoted { "Primary" } else { "up" };
            self.note(format!("n{} is {what}", i + 1));
            if self.returns[i].is_promoted {
                self.writers.aim(&self.pair.nbd_socket(i));
            }
            return;
        }
        // Its data are not complete yet, or the peer still counts as Primary.
        let is_refused = own.is_up && matches!(output.status.code(), Some(11 | 17));
        if !is_refused && !text.contains("no daemon at") {
            self.fail(&format!("n{} does not come back: {} {text}", i + 1, output.status));
        }
    }

    /// Lets both nodes come back and looks whether everything is there.
    fn check(&mut self) {
        self.note("kills end".into());
        let until = Instant::now() + CONVERGE_MAX;
        while !self.is_in_sync() {
            if Instant::now() > until {
                self.fail("not in sync again");
            }
            let soon = Instant::now() + Duration::from_millis(20);
            self.tend_until(soon);
        }
        self.note("in sync".into());
        if let Err(e) = self.writers.rest() {
            self.fail(&e);
        }
        self.note("at rest".into());
        if let Some(text) = self.writers.complaint() {
            self.fail(&text);
        }
        let socket = self.pair.nbd_socket(self.primary);
        if let Err(e) = self.writers.verify(&socket, false) {
            self.fail(&format!("n{}: {e}", self.primary + 1));
        }
        self.note("verified".into());
        self.compare();
        self.check_logs();
        self.writers.aim(&socket);
        self.note("everything is there".into());
    }

    fn is_in_sync(&self) -> bool {
        let promoted = &self.returns[self.primary];
        promoted.is_promoted
            && [0, 1].iter().all(|i| self.proc(*i).contains("cs:Connected ro:"))
            && self.proc(self.primary).contains("ro:Primary/Secondary ds:UpToDate/UpToDate")
            && self.proc(1 - self.primary).contains("ro:Secondary/Primary ds:UpToDate/UpToDate")
    }

    fn proc(&self, i: usize) -> String {
        String::from_utf8_lossy(&self.pair.run(i, &["proc"]).stdout).into_owned()
    }

    /// Both disks, byte for byte, while nobody writes; and nothing is marked as different.
    fn compare(&self) {
        let bytes = self.pair.device_bytes(self.primary) as usize;
        let disks = [0, 1].map(|i| fs::read(&self.pair.nodes[i].disk).expect("a backing file"));
        if disks[0][..bytes] != disks[1][..bytes] {
            let at = (0..bytes).find(|at| disks[0][*at] != disks[1][*at]).unwrap_or(0);
            self.fail(&format!("both are UpToDate and differ, first in sector {}", at / 512));
        }
        for i in 0..2 {
            let proc = self.proc(i);
            if !proc.contains("oos:0") {
                self.fail(&format!("n{} has marked blocks of equal copies\n{proc}", i + 1));
            }
        }
    }

    /// No fault of the daemon and no full resync since both nodes were the same.
    fn check_logs(&mut self) {
        let device_kib = self.pair.device_bytes(self.primary) / 1024;
        for i in 0..2 {
            let log = self.log_since(i, self.checked[i]);
            self.checked[i] += log.len() as u64;
            for line in log.lines() {
                let kib = line.split_once("(will sync ").and_then(|(_, rest)| rest.split(' ').next());
                let kib = kib.map(|kib| kib.parse::<u64>().expect("a number of KB"));
                let is_full = line.contains("full sync required") || kib.is_some_and(|kib| kib >= device_kib);
                if is_full || line.contains("internal error") || line.contains("panicked") {
                    self.fail(&format!("n{}: {line}", i + 1));
                }
                self.tally.resyncs += u64::from(kib.is_some() && line.contains("as SyncSource"));
            }
        }
    }

    /// A clean end after all that.
    fn finish(mut self) {
        if let Err(e) = self.writers.rest() {
            self.fail(&e);
        }
        // The daemon sees a moment later that the last client went.
        let until = Instant::now() + Duration::from_secs(5);
        while !self.pair.run(self.primary, &["secondary", "r0"]).status.success() {
            assert!(Instant::now() < until, "the Primary cannot be demoted");
            sleep(Duration::from_millis(50));
        }
        for i in [1 - self.primary, self.primary] {
            self.pair.ok(i, &["down", "r0"]);
            self.pair.stop(i);
        }
        self.pair.assert_equal_and_clean();
        let (acked, refused, lost) = self.writers.counts();
        let seconds = self.begun.elapsed().as_secs_f64();
        println!("{:#?}\n{acked} acknowledged, {refused} refused, {lost} lost in {seconds:.0} s", self.tally);
        let _ = fs::remove_dir_all(&self.pair.dir);
    }
}

/// What a daemon with this log is doing.
fn doing(log: &str) -> &str {
    if !log.contains("Diskless -> Attaching") {
        return "starting";
    }
    if !log.contains("attached to UUIDs") {
        return "attaching";
    }
    let Some((_, change)) = log.rsplit_once("conn( ") else { return "StandAlone" };
    let state = change.split(" )").next().and_then(|change| change.split(" -> ").nth(1));
    if change.contains("Handshake successful") {
        return "authenticating";
    }
    state.unwrap_or("StandAlone")
}

const CONSISTENT: u32 = 1;
const WAS_UP_TO_DATE: u32 = 0x10;

#[test]
fn nothing_acknowledged_is_lost_however_often_the_daemons_are_killed() {
    let kills = number("LOCKSTEP_KILLS");
    let seed = number("LOCKSTEP_KILL_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.expect("a clock").as_nanos() as u64 % 1_000_000_007
    });
    let mut test = KillLoop::new(seed);
    let end = Instant::now() + DEFAULT_TIME;
    while kills.map_or(Instant::now() < end, |wanted| test.tally.kills < wanted) {
        test.volley();
    }
    test.finish();
}
