//! Two daemons, clients that know what every sector may hold, and everything that can happen to them, in random
//! order: nodes killed and frozen, connections cut, disks taken away, resyncs paused and repeated, roles swapped,
//! settings changed. After every round both copies are the same and hold what was acknowledged.
//!
//! `LOCKSTEP_TORTURE_SECONDS` is the length of the run, `LOCKSTEP_TORTURE_SEED` repeats the choices of another one
//! (not its timing). A failure keeps the directory of the pair with both logs.

#[path = "support/pair.rs"]
mod pair;
#[path = "support/verifier.rs"]
mod verifier;

use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use pair::{Options, Pair, flags, free_address, generation};
use verifier::{Random, Writers};

const DISK_BYTES: u64 = 24 << 20;
const WRITERS: usize = 3;
const DEFAULT_SECONDS: u64 = 25;
/// Every command ends within this time, whatever the peer does.
const COMMAND_MAX: Duration = Duration::from_secs(20);
/// From a healed pair to one that is in sync, with clients writing.
const CONVERGE_MAX: Duration = Duration::from_secs(60);

fn binary() -> PathBuf {
    std::env::var_os("LOCKSTEP_BIN").map_or_else(|| env!("CARGO_BIN_EXE_lockstep").into(), PathBuf::from)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

struct Torture {
    pair: Pair,
    writers: Writers,
    random: Random,
    primary: usize,
    frozen: [bool; 2],
    /// In this round the Primary was without its disk, so that only its peer has everything.
    was_diskless: bool,
    /// Protocol of the configuration, and whether another than C was used in this round.
    protocol: char,
    was_lossy: bool,
    begun: Instant,
    history: Vec<String>,
    seed: u64,
    tally: Tally,
}

#[derive(Default, Debug)]
struct Tally {
    rounds: u32,
    actions: u32,
    takeovers: u32,
    split_brains: u32,
}

impl Torture {
    fn new(seed: u64) -> Torture {
        let mut random = Random(seed);
        let timeouts = [
            "timeout 20; ping-int 3; connect-int 3; ping-timeout 5; ko-count 3;",
            "timeout 9; ping-int 1; connect-int 1; ping-timeout 5; ko-count 3;",
            "timeout 5; ping-int 1; connect-int 1; ping-timeout 1; ko-count 2;",
            "",
        ];
        let speeds = [
            "c-plan-ahead 0; resync-rate 8M; c-min-rate 8M; al-extents 7;",
            "c-plan-ahead 0; resync-rate 60M; c-min-rate 60M;",
            "c-max-rate 200M; c-min-rate 20M;",
            "disk-flushes no; md-flushes no; c-plan-ahead 0; resync-rate 16M; c-min-rate 0;",
        ];
        let net = timeouts[random.below(4) as usize];
        let disk = speeds[random.below(4) as usize];
        let dir = std::env::temp_dir().join(format!("lockstep-torture-{}-{seed:x}", std::process::id()));
        let options = Options {
            disk_bytes: DISK_BYTES,
            net,
            disk,
            addresses: [free_address(), free_address()],
            netns: [None, None],
            sections: "",
            prewritten: false,
        };
        let mut pair = Pair::create(&binary(), &dir, &options);
        println!("seed {seed}, {net} {disk} {}", dir.display());
        pair.up(0);
        pair.up(1);
        pair.wait_for(0, &["cstate", "r0"], "Connected", CONVERGE_MAX);
        pair.ok(0, &["primary", "--force", "r0"]);
        pair.wait_in_sync(0, CONVERGE_MAX);
        let sectors = pair.device_bytes(0) / 512;
        let writers = Writers::new(WRITERS, sectors, seed);
        writers.aim(&pair.nbd_socket(0));
        Torture {
            pair,
            writers,
            random,
            primary: 0,
            frozen: [false; 2],
            was_diskless: false,
            protocol: 'C',
            was_lossy: false,
            begun: Instant::now(),
            history: Vec::new(),
            seed,
            tally: Tally::default(),
        }
    }

    fn note(&mut self, text: String) {
        let line = format!("{:9.3} {text}", self.begun.elapsed().as_secs_f64());
        if std::env::var_os("LOCKSTEP_TORTURE_VERBOSE").is_some() {
            println!("{line}");
        }
        self.history.push(line);
    }

    fn fail(&self, why: &str) -> ! {
        let from = self.history.len().saturating_sub(60);
        panic!(
            "seed {} round {}: {why}\n{}\n{}\nkept: {}",
            self.seed,
            self.tally.rounds,
            self.history[from..].join("\n"),
            self.pair.logs(),
            self.pair.dir.display()
        );
    }

    /// Runs a command that may be refused but has to end; `Ok` is what it printed.
    fn command(&mut self, i: usize, args: &[&str]) -> Result<String, String> {
        if self.frozen[i] || self.pair.pid(i).is_none() {
            return Err("nobody there".into());
        }
        let start = Instant::now();
        let Some(o) = self.pair.run_within(i, args, COMMAND_MAX) else {
            self.note(format!("n{} {args:?} hangs", i + 1));
            self.fail(&format!("n{} {args:?} does not end", i + 1));
        };
        let err = String::from_utf8_lossy(&o.stderr).trim().to_owned();
        let quiet = matches!(args[0], "dstate" | "cstate" | "role" | "proc" | "get-gi");
        if !quiet {
            let ms = start.elapsed().as_millis();
            self.note(format!("n{} {} -> {} in {ms} ms {err}", i + 1, args.join(" "), o.status));
        }
        match o.status.code() {
            Some(0) => Ok(String::from_utf8_lossy(&o.stdout).trim().to_owned()),
            Some(_) if !err.contains("internal error") && !err.contains("panicked") => Err(err),
            _ => self.fail(&format!("n{} {args:?}: {}", i + 1, o.status)),
        }
    }

    fn state(&mut self, i: usize) -> [String; 3] {
        ["cstate", "dstate", "role"].map(|verb| self.command(i, &[verb, "r0"]).unwrap_or_default())
    }

    fn pause(&mut self, most_ms: u64) {
        let time = millis(self.random.below(most_ms + 1));
        sleep(time);
    }

    fn secondary(&self) -> usize {
        1 - self.primary
    }

    fn start(&mut self, i: usize) {
        self.note(format!("n{} starts", i + 1));
        self.pair.start(i);
        let _ = self.command(i, &["up", "r0"]);
    }

    fn kill(&mut self, i: usize) {
        self.note(format!("n{} is killed", i + 1));
        self.frozen[i] = false;
        self.pair.kill(i);
    }

    fn freeze(&mut self, i: usize, frozen: bool) {
        if self.frozen[i] != frozen && self.pair.pid(i).is_some() {
            self.note(format!("n{} {}", i + 1, if frozen { "freezes" } else { "thaws" }));
            self.pair.signal(i, if frozen { "STOP" } else { "CONT" });
            self.frozen[i] = frozen;
        }
    }

    fn act(&mut self) {
        self.tally.actions += 1;
        let (p, s) = (self.primary, self.secondary());
        let any = self.random.below(2) as usize;
        match self.random.below(20) {
            0 | 1 if self.pair.pid(s).is_some() => self.kill(s),
            2..=4 => self.lose_primary(),
            5 => {
                let _ = self.command(any, &["disconnect", "r0"]);
                self.pause(800);
                if !self.random.one_in(4) {
                    let _ = self.command(any, &["connect", "r0"]);
                }
            }
            6 => {
                let _ = self.command(any, &["pause-sync", "r0"]);
                self.pause(500);
                if self.random.one_in(2) {
                    let _ = self.command(any, &["resume-sync", "r0"]);
                }
            }
            7 | 8 => {
                if self.command(any, &["detach", "r0"]).is_ok() {
                    self.was_diskless |= any == p;
                    self.pause(600);
                }
                if !self.random.one_in(4) {
                    let _ = self.command(any, &["attach", "r0"]);
                }
            }
            9 | 10 => {
                let _ = self.command(s, &["invalidate", "r0"]);
            }
            11 => {
                let _ = self.command(p, &["invalidate-remote", "r0"]);
            }
            12..=14 => {
                self.freeze(any, true);
                self.pause(4000);
                self.freeze(any, false);
            }
            15 => self.swap_roles(),
            16 => self.change_protocol(),
            17 if self.pair.pid(s).is_some() && self.pair.pid(p).is_some() => {
                self.kill(p);
                self.kill(s);
            }
            18 => {
                let _ = self.command(s, &["down", "r0"]);
                self.pause(300);
                let _ = self.command(s, &["up", "r0"]);
            }
            _ => {
                if self.pair.pid(s).is_none() {
                    self.start(s);
                }
            }
        }
    }

    /// Kills the Primary. It comes back as Primary, or its peer takes over.
    fn lose_primary(&mut self) {
        let (p, s) = (self.primary, self.secondary());
        if self.pair.pid(p).is_none() {
            return;
        }
        self.kill(p);
        self.freeze(s, false);
        if self.pair.pid(s).is_none() {
            self.start(p);
            if !self.was_diskless {
                self.promote(p);
            }
            return;
        }
        if self.random.one_in(3) {
            self.pause(500);
            self.start(p);
            return;
        }
        // Whoever went on alone has a generation of its own: then its peer may not have everything.
        let dump = self.pair.ok(p, &["dump-md", "--force", "r0"]);
        let own = generation(&dump);
        let peer = self.command(s, &["get-gi", "r0"]).unwrap_or_default();
        let peer = u64::from_str_radix(peer.split(':').next().unwrap_or(""), 16).unwrap_or(0) & !1;
        let consistent = flags(&dump) & 1 != 0;
        let complete = own == peer || self.was_diskless || !consistent;
        self.note(format!("generations {own:x} {peer:x}, n{} has everything: {complete}", s + 1));
        if !complete && !self.random.one_in(2) {
            self.start(p);
            return;
        }
        if !self.promote(s) {
            self.start(p);
            return;
        }
        self.primary = s;
        self.tally.takeovers += 1;
        self.rest();
        self.verify(!complete || self.was_lossy);
        if !complete {
            self.split_brain(p, s);
        }
    }

    /// Both went on alone: that has to be found, and the administrator decides.
    fn split_brain(&mut self, victim: usize, survivor: usize) {
        self.tally.split_brains += 1;
        self.writers.aim(&self.pair.nbd_socket(survivor));
        sleep(millis(300));
        self.start(victim);
        let _ = self.command(survivor, &["connect", "r0"]);
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let states = [self.state(0), self.state(1)];
            if states.iter().any(|s| s[0] == "StandAlone") {
                break;
            }
            if states.iter().any(|s| s[0] == "Connected" || s[0].starts_with("Sync")) {
                self.fail(&format!("a split brain was not noticed: {states:?}"));
            }
            if Instant::now() > until {
                self.fail(&format!("a split brain is not found: {states:?}"));
            }
            sleep(millis(30));
        }
        let _ = self.command(victim, &["disconnect", "r0"]);
        if let Err(e) = self.command(victim, &["connect", "--discard-my-data", "r0"]) {
            self.fail(&format!("the victim cannot give up its data: {e}"));
        }
        if self.state(survivor)[0] == "StandAlone" {
            let _ = self.command(survivor, &["connect", "r0"]);
        }
        self.converge();
    }

    /// Tries for a while to become Primary.
    fn promote(&mut self, i: usize) -> bool {
        let until = Instant::now() + Duration::from_secs(15);
        loop {
            match self.command(i, &["primary", "r0"]) {
                Ok(_) => {
                    let socket = self.pair.nbd_socket(i);
                    self.writers.aim(&socket);
                    return true;
                }
                Err(_) if Instant::now() > until => return false,
                Err(_) => sleep(millis(300)),
            }
        }
    }

    /// Clients go, the roles change, clients come back; only between nodes that are in sync.
    fn swap_roles(&mut self) {
        let (p, s) = (self.primary, self.secondary());
        self.rest();
        let ready = self.state(p) == ["Connected", "UpToDate/UpToDate", "Primary/Secondary"];
        if ready && self.demote(p) {
            if self.promote(s) {
                self.primary = s;
            } else if !self.promote(p) {
                self.fail("nobody can become Primary");
            }
        }
        let socket = self.pair.nbd_socket(self.primary);
        self.writers.aim(&socket);
    }

    fn demote(&mut self, i: usize) -> bool {
        // The daemon sees a moment later that the last client went.
        let until = Instant::now() + Duration::from_secs(5);
        while self.command(i, &["secondary", "r0"]).is_err() {
            if Instant::now() > until {
                return false;
            }
            sleep(millis(100));
        }
        true
    }

    fn change_protocol(&mut self) {
        let wanted = ['A', 'B', 'C'][self.random.below(3) as usize];
        let text = fs::read_to_string(&self.pair.config).expect("the configuration");
        let text = text.replace(&format!("protocol {};", self.protocol), &format!("protocol {wanted};"));
        fs::write(&self.pair.config, text).expect("the configuration");
        self.note(format!("protocol {wanted}"));
        self.protocol = wanted;
        self.was_lossy |= wanted != 'C';
        let first = self.random.below(2) as usize;
        for i in [first, 1 - first] {
            let _ = self.command(i, &["adjust", "r0"]);
            self.pause(200);
        }
    }

    fn rest(&mut self) {
        if let Err(e) = self.writers.rest() {
            self.fail(&e);
        }
        self.check_writers();
    }

    fn check_writers(&self) {
        if let Some(text) = self.writers.complaint() {
            self.fail(&text);
        }
    }

    fn verify(&mut self, lossy: bool) {
        let socket = self.pair.nbd_socket(self.primary);
        if let Err(e) = self.writers.verify(&socket, lossy) {
            self.fail(&format!("n{} (lossy {lossy}): {e}", self.primary + 1));
        }
    }

    /// Undoes every fault.
    fn heal(&mut self) {
        for i in 0..2 {
            self.freeze(i, false);
        }
        for i in 0..2 {
            if self.pair.pid(i).is_none() {
                self.start(i);
            }
        }
        for i in 0..2 {
            let [cstate, dstate, _] = self.state(i);
            if cstate == "StandAlone" || cstate == "Unconfigured" {
                let _ = self.command(i, &["adjust", "r0"]);
            }
            let _ = self.command(i, &["resume-sync", "r0"]);
            if dstate.starts_with("Diskless") {
                // A Primary takes its disk back when its peer, which has the data, is there.
                let until = Instant::now() + Duration::from_secs(20);
                while self.command(i, &["attach", "r0"]).is_err() && Instant::now() < until {
                    sleep(millis(500));
                }
            }
        }
    }

    /// Waits until both are in sync.
    fn converge(&mut self) {
        let until = Instant::now() + CONVERGE_MAX;
        loop {
            let states = [self.state(0), self.state(1)];
            if states.iter().all(|s| s[0] == "Connected" && s[1] == "UpToDate/UpToDate") {
                return;
            }
            self.check_writers();
            if Instant::now() > until {
                let proc = [0, 1].map(|i| self.command(i, &["proc"]).unwrap_or_default());
                self.fail(&format!("not in sync again: {states:?}\n{}\n{}", proc[0], proc[1]));
            }
            sleep(millis(50));
        }
    }

    fn round(&mut self) {
        self.tally.rounds += 1;
        self.was_diskless = false;
        self.was_lossy = self.protocol != 'C';
        self.note(format!("round {}, n{} is Primary", self.tally.rounds, self.primary + 1));
        self.pause(300);
        for _ in 0..=self.random.below(4) {
            self.act();
            self.pause(400);
            for i in 0..2 {
                if self.pair.pid(i).is_some() && !self.pair.is_alive(i) {
                    self.fail(&format!("the daemon of n{} has ended", i + 1));
                }
            }
        }
        self.note("heals".into());
        self.heal();
        self.converge();
        if !self.state(self.primary)[2].starts_with("Primary") && !self.promote(self.primary) {
            self.fail("nobody can become Primary");
        }
        self.rest();
        self.verify(self.was_lossy);
        self.compare();
        for i in 0..2 {
            let log = fs::read_to_string(self.pair.dir.join(self.pair.nodes[i].name).join("log"));
            let log = log.expect("a log");
            if let Some(line) = log.lines().find(|l| l.contains("internal error") || l.contains("panicked")) {
                self.fail(&format!("n{}: {line}", i + 1));
            }
        }
        let socket = self.pair.nbd_socket(self.primary);
        self.writers.aim(&socket);
    }

    /// Both disks, byte for byte, while the daemons run and nobody writes; and nothing is marked as different.
    fn compare(&mut self) {
        let bytes = (self.pair.device_bytes(self.primary)) as usize;
        // With protocols A and B the last writes may be on their way.
        let until = Instant::now() + Duration::from_secs(3);
        loop {
            let disks = [0, 1].map(|i| fs::read(&self.pair.nodes[i].disk).expect("a backing file"));
            let differs = (0..bytes).find(|at| disks[0][*at] != disks[1][*at]);
            let proc = [0, 1].map(|i| self.command(i, &["proc"]).unwrap_or_default());
            let marked = proc.iter().any(|p| !p.contains("oos:0"));
            if differs.is_none() && !marked {
                return;
            }
            if Instant::now() > until {
                self.fail(&format!(
                    "both are UpToDate; first difference at sector {:?}\n{}\n{}",
                    differs.map(|at| at / 512),
                    proc[0],
                    proc[1]
                ));
            }
            sleep(millis(100));
        }
    }

    /// Clean end: both down, both stopped, equal disks and clean metadata.
    fn finish(mut self) {
        self.rest();
        if !self.demote(self.primary) {
            self.fail("the Primary cannot be demoted");
        }
        self.converge();
        for i in [self.secondary(), self.primary] {
            if let Err(e) = self.command(i, &["down", "r0"]) {
                self.fail(&format!("down is refused: {e}"));
            }
        }
        self.pair.stop(0);
        self.pair.stop(1);
        self.pair.assert_equal_and_clean();
        let (acked, refused, lost) = self.writers.counts();
        println!("{:?}: {acked} acknowledged, {refused} refused, {lost} lost", self.tally);
        let _ = fs::remove_dir_all(&self.pair.dir);
    }
}

#[test]
fn nothing_acknowledged_is_lost_whatever_happens() {
    let seconds = number("LOCKSTEP_TORTURE_SECONDS").unwrap_or(DEFAULT_SECONDS);
    let seed = number("LOCKSTEP_TORTURE_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.expect("a clock").as_nanos() as u64 % 1_000_000_007
    });
    let mut torture = Torture::new(seed);
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        torture.round();
    }
    torture.finish();
}
