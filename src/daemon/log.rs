//! The log: its lines go to standard error by a thread of their own. Who reads them may be slow, stopped or gone, and
//! the file they go to may be on a full disk; that neither holds up nor ends what writes them. (`tracing-appender` would
//! bring nine more crates, and does not tell in the log that lines are missing.)

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

/// Where lines are left to be written. Clones are the same log.
#[derive(Clone, Debug)]
pub struct Log {
    lines: SyncSender<Vec<u8>>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    waiting: AtomicU64,
    lost: AtomicU64,
}

/// Lines that wait for a slow reader; further ones are lost.
const LINES_MAX: usize = 4096;
const DRAIN_STEP: Duration = Duration::from_millis(2);

impl Log {
    /// A log that is written to `sink`.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn to(sink: impl Write + Send + 'static) -> io::Result<Log> {
        let (lines, received) = sync_channel(LINES_MAX);
        let counts = Arc::new(Counts::default());
        let log = Log { lines, counts: Arc::clone(&counts) };
        std::thread::Builder::new().name("log".into()).spawn(move || write_all(&received, &counts, sink))?;
        Ok(log)
    }

    /// Waits until everything is written, at most `limit`.
    pub fn drain(&self, limit: Duration) {
        let end = Instant::now() + limit;
        while self.counts.waiting.load(Ordering::SeqCst) > 0 && Instant::now() < end {
            std::thread::sleep(DRAIN_STEP);
        }
    }

    /// False: there is no room.
    fn leave(&self, line: Vec<u8>) -> bool {
        self.counts.waiting.fetch_add(1, Ordering::SeqCst);
        let left = self.lines.try_send(line).is_ok();
        if !left {
            self.counts.waiting.fetch_sub(1, Ordering::SeqCst);
        }
        left
    }
}

impl Write for Log {
    /// Takes a whole line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let lost = self.counts.lost.swap(0, Ordering::SeqCst);
        let note = || format!("{lost} lines of the log were lost here: it is not read fast enough\n");
        if lost > 0 && !self.leave(note().into_bytes()) {
            self.counts.lost.fetch_add(lost + 1, Ordering::SeqCst);
        } else if !self.leave(line.to_vec()) {
            self.counts.lost.fetch_add(1, Ordering::SeqCst);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Log;

    fn make_writer(&'a self) -> Log {
        self.clone()
    }
}

fn write_all(lines: &Receiver<Vec<u8>>, counts: &Counts, mut sink: impl Write) {
    while let Ok(line) = lines.recv() {
        // A log that cannot be written has nobody to tell.
        let _ = sink.write_all(&line);
        counts.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Takes nothing while it is locked; fails at once when that is wanted.
    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>, bool);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut written = self.0.lock().unwrap();
            written.extend_from_slice(bytes);
            if self.1 { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(bytes.len()) }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_stops_holds_nobody_up_and_learns_what_it_missed() {
        let sink = Sink::default();
        let mut log = Log::to(sink.clone()).unwrap();
        let stopped = sink.0.lock().unwrap();
        for n in 0..LINES_MAX + 100 {
            log.make_writer().write_all(format!("{n}\n").as_bytes()).unwrap();
        }
        drop(stopped);
        log.drain(Duration::from_secs(30));
        log.write_all(b"behind\n").unwrap();
        log.drain(Duration::from_secs(30));
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert!(text.starts_with("0\n1\n") && text.ends_with("behind\n"), "in order");
        assert!(text.contains(" lines of the log were lost here"), "and not in silence");
    }

    #[test]
    fn a_sink_that_fails_gets_the_next_line_all_the_same() {
        let sink = Sink(Arc::default(), true);
        let mut log = Log::to(sink.clone()).unwrap();
        log.write_all(b"one\n").unwrap();
        log.write_all(b"two\n").unwrap();
        log.drain(Duration::from_secs(30));
        assert_eq!(*sink.0.lock().unwrap(), b"one\ntwo\n");
    }
}
