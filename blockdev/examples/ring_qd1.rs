//! What the ring and the disk below it are good for: 4 KiB writes to a file, one at a time and 32 at a time.
//!
//! `cargo run --release -p blockdev --example ring_qd1 -- FILE [register] [spin-microseconds]`
//! FILE is overwritten from the start; 256 MiB are used.

use std::path::Path;
use std::time::{Duration, Instant};

use blockdev::backing::OpenOptions;
use blockdev::pool::{BufSpan, BufferPool};
use blockdev::ring::{FileRef, Ring, RingOptions};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

const FILE_BYTES: u64 = 256 << 20;
const BLOCK_BYTES: u32 = 4096;
const WRITES: u64 = 50_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: ring_qd1 FILE [register] [spin-microseconds]")?;
    let rest: Vec<String> = arguments.collect();
    let register_buffers = rest.iter().any(|word| word == "register");
    let spin = Duration::from_micros(rest.iter().find_map(|word| word.parse().ok()).unwrap_or(50));

    let path = Path::new(&path);
    if !path.exists() {
        // Written, not just extended: the first write to a hole measures the filesystem's allocator.
        std::fs::write(path, vec![0u8; FILE_BYTES as usize])?;
    }
    let disk = OpenOptions::default().open(path)?;
    let options = RingOptions { register_buffers, ..RingOptions::default() };
    let mut ring: Ring<Instant> = Ring::new(options, BufferPool::new(16 << 20)?)?;
    println!("{:?}, buffers registered: {}, spin {spin:?}", disk.io_path(), ring.buffers_registered());
    let file = ring.register_file(std::os::fd::AsFd::as_fd(&disk));
    for depth in [1, 32] {
        run(&mut ring, file, depth, spin)?;
    }
    Ok(())
}

fn run(ring: &mut Ring<Instant>, file: FileRef, depth: u64, spin: Duration) -> std::io::Result<()> {
    let buf = ring.pool_mut().alloc(BLOCK_BYTES as usize).expect("the pool is empty");
    let span = BufSpan::head(buf, BLOCK_BYTES);
    let mut nanos: Vec<u64> = Vec::with_capacity(WRITES as usize);
    let (mut started, mut block) = (0, 1u64);
    let (cpu, start) = (cpu_micros(), Instant::now());
    while (nanos.len() as u64) < WRITES {
        while started < WRITES && ring.in_flight() < depth as usize {
            block = block.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (block >> 33) % (FILE_BYTES / u64::from(BLOCK_BYTES));
            ring.write_at(Instant::now(), file, span, at * u64::from(BLOCK_BYTES), false);
            started += 1;
        }
        ring.wait_spinning(spin, None)?;
        while let Some(completion) = ring.next_completion() {
            assert_eq!(completion.outcome(), Ok(BLOCK_BYTES));
            nanos.push(completion.token.elapsed().as_nanos() as u64);
        }
    }
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu_micros() - cpu);
    nanos.sort_unstable();
    let at = |percent: usize| nanos[(nanos.len() - 1) * percent / 100] as f64 / 1000.0;
    println!(
        "depth {depth:2}: {:8.0} writes/s, {:5.2} us CPU per write; latency p50 {:.1} p99 {:.1} max {:.1} us",
        WRITES as f64 / seconds,
        cpu as f64 / WRITES as f64,
        at(50),
        at(99),
        at(100),
    );
    ring.pool_mut().release(buf);
    Ok(())
}

fn cpu_micros() -> i64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("own usage is always available");
    usage.user_time().num_microseconds() + usage.system_time().num_microseconds()
}
