//! Writers: several NBD connections that write numbered versions of their blocks and read them back.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use super::ledger::{BLOCK_BYTES, Entry, fill, next_random, version_of};
use super::nbd_client::{NbdClient, NbdError};

/// Connections that write at the same time.
pub const WRITERS: usize = 4;
/// Blocks that are used.
const SLOTS_MAX: u64 = 2048;
/// They lie in this part of the device, as the data of most applications does.
const USED_PART: u64 = 4;
/// Between two operations of a writer, so that the machine is left some time.
const PAUSE: Duration = Duration::from_micros(500);
/// One operation in so many reads back instead of writing.
const READ_EVERY: u64 = 4;
/// One in so many is a flush.
const FLUSH_EVERY: u64 = 64;

/// The blocks of a run and everything that is known of them.
pub struct Workload {
    run: u64,
    export: String,
    size_bytes: u64,
    stride_blocks: u64,
    /// Block `slot * stride` belongs to writer `slot % WRITERS`; index is the slot.
    slots: Arc<Mutex<Vec<Entry>>>,
    counts: Arc<Counts>,
}

/// What was done so far.
#[derive(Debug, Default)]
pub struct Counts {
    /// Writes that the device acknowledged.
    pub acked: AtomicU64,
    /// Blocks read and found right.
    pub checked: AtomicU64,
}

/// Running writers.
pub struct Writers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<(), Failure>>>,
}

/// How a writer ended before it was told to.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Nbd(#[from] NbdError),
    #[error("block {block} holds {found:?}, which was never acknowledged or is older than what was")]
    Wrong { block: u64, found: Option<u64> },
}

impl Workload {
    /// Blocks of a device of `size_bytes` that is exported as `export`; `run` tells this run from earlier ones.
    pub fn new(export: &str, size_bytes: u64, run: u64) -> Workload {
        let blocks = size_bytes / BLOCK_BYTES as u64 / USED_PART;
        // Every writer has the same number of blocks of its own.
        let slots = blocks.min(SLOTS_MAX) / WRITERS as u64 * WRITERS as u64;
        assert!(slots > 0, "the device of the demo has some MiB");
        Workload {
            run,
            export: export.to_owned(),
            size_bytes,
            stride_blocks: blocks / slots,
            slots: Arc::new(Mutex::new(vec![Entry::default(); slots as usize])),
            counts: Arc::default(),
        }
    }

    /// What was done so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Starts the writers on the device behind `socket`.
    ///
    /// # Errors
    /// The device cannot be opened.
    pub fn start(&self, socket: &Path) -> anyhow::Result<Writers> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = Writers { stop: stop.clone(), threads: Vec::new() };
        for index in 0..WRITERS {
            let client = NbdClient::open(socket, &self.export)
                .with_context(|| format!("cannot open the device at {}", socket.display()))?;
            ensure!(
                client.size_bytes() == self.size_bytes,
                "the device has {} bytes now, not {}",
                client.size_bytes(),
                self.size_bytes
            );
            let writer = Writer {
                client,
                index,
                run: self.run,
                stride_blocks: self.stride_blocks,
                slots: self.slots.clone(),
                counts: self.counts.clone(),
                random: self.run ^ (index as u64) << 56 ^ self.counts.acked.load(Ordering::Relaxed),
            };
            let stop = stop.clone();
            writers.threads.push(std::thread::spawn(move || writer.work(&stop)));
        }
        Ok(writers)
    }

    /// Reads every block that anything is known of and says how many were wrong; each is explained to `complain`.
    ///
    /// # Errors
    /// The device cannot be read.
    pub fn check_all(&self, socket: &Path, mut complain: impl FnMut(String)) -> anyhow::Result<Checked> {
        let mut client = NbdClient::open(socket, &self.export)
            .with_context(|| format!("cannot open the device at {}", socket.display()))?;
        let mut slots = locked(&self.slots);
        let mut result = Checked::default();
        let mut block = [0; BLOCK_BYTES];
        for (slot, entry) in slots.iter_mut().enumerate().filter(|(_, e)| e.is_known()) {
            let number = slot as u64 * self.stride_blocks;
            client.read(number * BLOCK_BYTES as u64, &mut block).context("reading back")?;
            let found = version_of(&block, self.run, number);
            let before = *entry;
            result.blocks += 1;
            if !entry.settle(found) {
                result.wrong += 1;
                complain(format!("block {number} holds {found:?}, known is {before:?}"));
            }
        }
        client.close();
        self.counts.checked.fetch_add(result.blocks - result.wrong, Ordering::Relaxed);
        Ok(result)
    }
}

/// Result of [`Workload::check_all`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Blocks read.
    pub blocks: u64,
    /// Blocks that hold what they may not.
    pub wrong: u64,
}

impl Writers {
    /// Stops them; a writer that failed before is an error.
    ///
    /// # Errors
    /// The device lost a connection, refused a request or gave wrong data.
    pub fn stop(self) -> anyhow::Result<()> {
        self.end(false)
    }

    /// Waits for the end of writers whose device was taken away: lost connections are what is expected.
    ///
    /// # Errors
    /// The device gave wrong data before.
    pub fn stop_after_crash(self) -> anyhow::Result<()> {
        self.end(true)
    }

    fn end(mut self, crashed: bool) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(Failure::Nbd(_))) if crashed => {}
                Ok(Err(e)) => bail!("a writer failed: {e}"),
                Err(_) => bail!("a writer panicked"),
            }
        }
        Ok(())
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Writer {
    client: NbdClient,
    index: usize,
    run: u64,
    stride_blocks: u64,
    slots: Arc<Mutex<Vec<Entry>>>,
    counts: Arc<Counts>,
    random: u64,
}

impl Writer {
    fn work(mut self, stop: &AtomicBool) -> Result<(), Failure> {
        while !stop.load(Ordering::Relaxed) {
            let dice = next_random(&mut self.random);
            let slot = self.own_slot(dice >> 16);
            if dice.is_multiple_of(FLUSH_EVERY) {
                self.client.flush()?;
            } else if dice.is_multiple_of(READ_EVERY) {
                self.read_back(slot)?;
            } else {
                self.write(slot)?;
            }
            std::thread::sleep(PAUSE);
        }
        self.client.close();
        Ok(())
    }

    /// A slot that only this writer writes.
    fn own_slot(&self, random: u64) -> usize {
        let own = locked(&self.slots).len() / WRITERS;
        // A remainder of `own`, which is at most the number of slots.
        let nth = (random % own as u64) as usize;
        nth * WRITERS + self.index
    }

    fn write(&mut self, slot: usize) -> Result<(), Failure> {
        let number = slot as u64 * self.stride_blocks;
        let version = locked(&self.slots)[slot].begin_write();
        let mut block = [0; BLOCK_BYTES];
        fill(&mut block, self.run, number, version);
        self.client.write(number * BLOCK_BYTES as u64, &block)?;
        locked(&self.slots)[slot].acknowledge();
        self.counts.acked.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn read_back(&mut self, slot: usize) -> Result<(), Failure> {
        if !locked(&self.slots)[slot].is_known() {
            return Ok(());
        }
        let number = slot as u64 * self.stride_blocks;
        let mut block = [0; BLOCK_BYTES];
        self.client.read(number * BLOCK_BYTES as u64, &mut block)?;
        let found = version_of(&block, self.run, number);
        if !locked(&self.slots)[slot].settle(found) {
            return Err(Failure::Wrong { block: number, found });
        }
        self.counts.checked.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

fn locked(slots: &Mutex<Vec<Entry>>) -> MutexGuard<'_, Vec<Entry>> {
    slots.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where the NBD socket of the demo's device is.
pub fn device_socket(run_dir: &Path, resource: &str) -> PathBuf {
    crate::daemon::resources::nbd_socket(run_dir, resource, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_spread_over_a_quarter_of_the_device() {
        let w = Workload::new("r0", 256 << 20, 1);
        assert_eq!(w.stride_blocks, 8);
        assert_eq!(locked(&w.slots).len(), 2048);
        let tiny = Workload::new("r0", 4 * 7 * 4096, 1);
        assert_eq!((tiny.stride_blocks, locked(&tiny.slots).len()), (1, 4));
    }
}
