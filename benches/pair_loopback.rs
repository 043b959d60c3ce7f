//! Side by side on one machine, in one run: a replicated pair over loopback TCP (protocol C) against
//! (a) qemu-storage-daemon exporting the same kind of file alone, and
//! (b) qemu-storage-daemon with `quorum` over its own file and a second qemu-storage-daemon, reached by NBD over
//!     loopback TCP: today's userspace way to two copies.
//!
//! `cargo bench --bench pair_loopback [-- SECONDS_PER_JOB]`; needs fio and qemu-utils. Prints means, p50, p99 and
//! ratios. Nothing is asserted: figures belong to the machine they were taken on.

#[path = "../tests/support/pair.rs"]
mod pair;

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use pair::{Options, Pair};
use serde_json::Value;

const DISK_BYTES: u64 = 1 << 30;
/// The jobs stay inside this, so that every contender has the same area.
const USED_BYTES: u64 = 900 << 20;

struct Job {
    name: &'static str,
    rw: &'static str,
    bs: &'static str,
    depth: u32,
}

const JOBS: &[Job] = &[
    Job { name: "4k randwrite QD1", rw: "randwrite", bs: "4k", depth: 1 },
    Job { name: "4k randwrite QD32", rw: "randwrite", bs: "4k", depth: 32 },
    Job { name: "128k write QD8", rw: "write", bs: "128k", depth: 8 },
    Job { name: "1m write QD4", rw: "write", bs: "1m", depth: 4 },
    Job { name: "4k randread QD32", rw: "randread", bs: "4k", depth: 32 },
];

#[derive(Clone, Copy, Default)]
struct Figures {
    iops: f64,
    mib_s: f64,
    mean_us: f64,
    p50_us: f64,
    p99_us: f64,
}

fn fio(uri: &str, job: &Job, seconds: u32) -> Figures {
    let out = Command::new("fio")
        .args(["--name=j", "--ioengine=nbd", "--time_based", "--group_reporting", "--output-format=json"])
        .args([
            format!("--uri={uri}"),
            format!("--rw={}", job.rw),
            format!("--bs={}", job.bs),
            format!("--iodepth={}", job.depth),
            format!("--runtime={seconds}"),
            "--ramp_time=1".into(),
            format!("--size={USED_BYTES}"),
        ])
        .output()
        .expect("fio (package fio)");
    assert!(out.status.success(), "fio: {}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8_lossy(&out.stdout);
    let start = text.find('{').expect("JSON");
    let v: Value = serde_json::from_str(&text[start..]).expect("JSON of fio");
    let side = if job.rw.ends_with("read") { "read" } else { "write" };
    let r = &v["jobs"][0][side];
    let us = |v: &Value| v.as_f64().unwrap_or(0.0) / 1000.0;
    Figures {
        iops: r["iops"].as_f64().unwrap_or(0.0),
        mib_s: r["bw_bytes"].as_f64().unwrap_or(0.0) / 1_048_576.0,
        mean_us: us(&r["clat_ns"]["mean"]),
        p50_us: us(&r["clat_ns"]["percentile"]["50.000000"]),
        p99_us: us(&r["clat_ns"]["percentile"]["99.000000"]),
    }
}

struct Qsd(Child);

impl Drop for Qsd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Exports a file on a unix socket; with `second`, quorum over the file and the export at that TCP port.
fn qsd(file: &Path, socket: &Path, second: Option<u16>) -> Qsd {
    let mut c = Command::new("qemu-storage-daemon");
    c.arg("--blockdev")
        .arg(format!("driver=file,node-name=f,filename={},cache.direct=on,aio=io_uring", file.display()));
    let node = match second {
        Some(port) => {
            c.arg("--blockdev").arg(format!(
                "driver=nbd,node-name=n,server.type=inet,server.host=127.0.0.1,server.port={port},export=r0"
            ));
            c.arg("--blockdev").arg("driver=quorum,node-name=top,vote-threshold=2,children.0=f,children.1=n");
            "top"
        }
        None => "f",
    };
    c.arg("--nbd-server").arg(format!("addr.type=unix,addr.path={}", socket.display()));
    c.arg("--export").arg(format!("type=nbd,id=e,node-name={node},name=r0,writable=on"));
    let q = Qsd(c.stdin(Stdio::null()).spawn().expect("qemu-storage-daemon (package qemu-utils)"));
    wait_until("qemu-storage-daemon listens", || socket.exists());
    q
}

/// Exports a file over TCP: the far end of the quorum.
fn far_qsd(file: &Path, port: u16) -> Qsd {
    let child = Command::new("qemu-storage-daemon")
        .arg("--blockdev")
        .arg(format!("driver=file,node-name=f,filename={},cache.direct=on,aio=io_uring", file.display()))
        .arg("--nbd-server")
        .arg(format!("addr.type=inet,addr.host=127.0.0.1,addr.port={port}"))
        .arg("--export")
        .arg("type=nbd,id=e,node-name=f,name=r0,writable=on")
        .stdin(Stdio::null())
        .spawn()
        .expect("qemu-storage-daemon (package qemu-utils)");
    let q = Qsd(child);
    wait_until("the far qemu-storage-daemon listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    q
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < until, "{what}: not within 10 s");
        sleep(Duration::from_millis(20));
    }
}

fn file(dir: &Path, name: &str) -> PathBuf {
    let p = dir.join(name);
    let status = Command::new("fallocate")
        .args(["-l", &DISK_BYTES.to_string()])
        .arg(&p)
        .status()
        .expect("fallocate (package util-linux)");
    assert!(status.success());
    // Written once, as a disk in use is.
    let status = Command::new("dd")
        .args(["if=/dev/zero", "bs=1M", "conv=notrunc", "status=none", "oflag=direct"])
        .arg(format!("of={}", p.display()))
        .arg(format!("count={}", DISK_BYTES >> 20))
        .status()
        .expect("dd");
    assert!(status.success());
    p
}

fn main() {
    let seconds = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(8);
    let base = PathBuf::from("target/bench-pair");
    let _ = fs::remove_dir_all(&base);
    fs::create_dir_all(&base).expect("a directory");
    let base = base.canonicalize().expect("the directory exists");
    let mut rows: Vec<[Figures; 3]> = Vec::new();
    for job in JOBS {
        let mut row = [Figures::default(); 3];
        {
            let dir = base.join("a");
            fs::create_dir_all(&dir).expect("a directory");
            let f = file(&dir, "a.img");
            let s = dir.join("a.sock");
            let _q = qsd(&f, &s, None);
            row[0] = fio(&format!("nbd+unix:///r0?socket={}", s.display()), job, seconds);
            let _ = fs::remove_dir_all(&dir);
        }
        {
            let dir = base.join("b");
            fs::create_dir_all(&dir).expect("a directory");
            let files = [file(&dir, "b0.img"), file(&dir, "b1.img")];
            let _far = far_qsd(&files[1], 17809);
            let s = dir.join("b.sock");
            let _q = qsd(&files[0], &s, Some(17809));
            row[1] = fio(&format!("nbd+unix:///r0?socket={}", s.display()), job, seconds);
            let _ = fs::remove_dir_all(&dir);
        }
        row[2] = lockstep(&base, job, seconds);
        eprintln!("{}: done", job.name);
        rows.push(row);
    }
    print_table(&rows);
    let _ = fs::remove_dir_all(&base);
}

fn lockstep(base: &Path, job: &Job, seconds: u32) -> Figures {
    let dir = base.join("pair");
    let options = Options {
        disk_bytes: DISK_BYTES,
        net: "",
        disk: "c-max-rate 4G; resync-rate 1G; c-fill-target 8M; c-plan-ahead 0;",
        addresses: ["127.0.0.1:17789".into(), "127.0.0.1:17790".into()],
        netns: [None, None],
        sections: "",
        prewritten: true,
    };
    let mut p = Pair::create(Path::new(env!("CARGO_BIN_EXE_lockstep")), &dir, &options);
    p.up(0);
    p.up(1);
    p.wait_for(0, &["cstate", "r0"], "Connected", Duration::from_secs(30));
    p.ok(0, &["primary", "--force", "r0"]);
    p.wait_in_sync(0, Duration::from_secs(300));
    let f = fio(&p.nbd_uri(0), job, seconds);
    p.wait_in_sync(0, Duration::from_secs(10));
    p.stop(0);
    p.stop(1);
    drop(p);
    let _ = fs::remove_dir_all(&dir);
    f
}

fn print_table(rows: &[[Figures; 3]]) {
    println!(
        "\n{:<20} {:>26} {:>26} {:>26}",
        "", "(a) qemu, one file", "(b) qemu quorum, pair", "lockstep pair"
    );
    println!(
        "{:<20} {:>26} {:>26} {:>26}",
        "", "IOPS  MiB/s  p50/p99 us", "IOPS  MiB/s  p50/p99 us", "IOPS  MiB/s  p50/p99 us"
    );
    for (job, row) in JOBS.iter().zip(rows) {
        let cell = |f: &Figures| format!("{:.0} {:.0} {:.0}/{:.0}", f.iops, f.mib_s, f.p50_us, f.p99_us);
        println!("{:<20} {:>26} {:>26} {:>26}", job.name, cell(&row[0]), cell(&row[1]), cell(&row[2]));
    }
    let [qd1, qd32, _, seq, read] = rows else { return };
    println!();
    println!("QD1 4k write, mean latency: {:.2} x (b)   [wanted <= 0.90]", qd1[2].mean_us / qd1[1].mean_us);
    println!("QD32 4k write, IOPS:        {:.2} x (a)   [wanted >= 0.60]", qd32[2].iops / qd32[0].iops);
    println!("1m sequential, MiB/s:       {:.2} x (b)   [wanted >= 1.00]", seq[2].mib_s / seq[1].mib_s);
    println!("QD32 4k read, IOPS:         {:.2} x (a)", read[2].iops / read[0].iops);
}
