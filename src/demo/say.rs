//! What the demo prints: steps in plain words, the commands it runs, and a bar for a running resync.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use model::status::human::{clock, rate, size};
use model::status::{Progress, VolumeSnapshot};

/// The demo's voice.
pub struct Say {
    terminal: bool,
    step: u32,
    /// A bar is on the present line.
    open_bar: bool,
    last_bar: Option<(Instant, String)>,
}

/// Without a terminal a bar is a line now and then.
const PLAIN_BAR_EVERY: Duration = Duration::from_secs(1);
const BAR_COLUMNS: u64 = 30;

impl Say {
    /// Speaks on standard output.
    pub fn new() -> Say {
        Say { terminal: io::stdout().is_terminal(), step: 0, open_bar: false, last_bar: None }
    }

    /// Standard output is a terminal.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// A new step of the story.
    pub fn step(&mut self, text: &str) {
        self.end_bar();
        self.step += 1;
        let step = self.step;
        if self.terminal {
            put(&format!("\n\x1b[1m{step}. {text}\x1b[0m\n"));
        } else {
            put(&format!("\n{step}. {text}\n"));
        }
    }

    /// What happens and why, in plain words.
    pub fn tell(&mut self, text: &str) {
        self.end_bar();
        for line in text.lines() {
            put(&format!("   {line}\n"));
        }
    }

    /// A command as a reader could type it.
    pub fn command(&mut self, line: &str) {
        self.end_bar();
        if self.terminal {
            put(&format!("   \x1b[36m$ {line}\x1b[0m\n"))
        } else {
            put(&format!("   $ {line}\n"))
        }
    }

    /// The one line at the end.
    pub fn verdict(&mut self, good: bool, text: &str) {
        self.end_bar();
        let colour = if good { "1;32" } else { "1;31" };
        if self.terminal {
            put(&format!("\n\x1b[{colour}m{text}\x1b[0m\n"))
        } else {
            put(&format!("\n{text}\n"))
        }
    }

    /// The state of a running resync, drawn over the one before.
    pub fn bar(&mut self, volume: &VolumeSnapshot, progress: &Progress) {
        let text = bar_text(volume, progress);
        if self.terminal {
            put(&format!("\r   {text}\x1b[K"));
            self.open_bar = true;
        } else if self.last_bar.as_ref().is_none_or(|(at, t)| at.elapsed() >= PLAIN_BAR_EVERY && *t != text) {
            put(&format!("   {text}\n"));
            self.last_bar = Some((Instant::now(), text));
        }
    }

    /// Something short that changes in place, for terminals only.
    pub fn ticker(&mut self, text: &str) {
        if self.terminal {
            put(&format!("\r   {text}\x1b[K"));
            self.open_bar = true;
        }
    }

    fn end_bar(&mut self) {
        self.last_bar = None;
        if std::mem::take(&mut self.open_bar) {
            put("\n");
        }
    }
}

impl Default for Say {
    fn default() -> Say {
        Say::new()
    }
}

fn bar_text(volume: &VolumeSnapshot, p: &Progress) -> String {
    let done = p.total_blocks.saturating_sub(p.left_blocks);
    let per_mille = done.saturating_mul(1000).checked_div(p.total_blocks).unwrap_or(1000);
    // At most 30.
    let full = (per_mille * BAR_COLUMNS / 1000) as usize;
    let eta = p.eta_s.map_or("?".to_owned(), clock);
    format!(
        "[{:=<full$}>{:.<rest$}] {:>3}.{}%  {} of {}  {}  ETA {eta}  ({})",
        "",
        "",
        per_mille / 10,
        per_mille % 10,
        size(done.saturating_mul(4)),
        size(p.total_blocks.saturating_mul(4)),
        rate(p.rate_now_kib_s),
        volume.state.conn,
        rest = BAR_COLUMNS as usize - full,
    )
}

/// A reader that has gone does not end the demo: it still has to stop what it started.
fn put(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use model::status::{Direction, ProgressKind};

    use super::*;

    #[test]
    fn the_bar_shows_share_rate_and_time() {
        let volume = VolumeSnapshot::new(0, 0);
        let mut progress = Progress {
            direction: Direction::ToPeer,
            kind: ProgressKind::Resync,
            total_blocks: 65536,
            left_blocks: 32768,
            failed_blocks: 0,
            elapsed_ms: 1000,
            paused_ms: 0,
            rate_now_kib_s: 131_072,
            rate_mean_kib_s: 131_072,
            wanted_kib_s: None,
            limited_by: None,
            eta_s: Some(1),
            stalled: false,
        };
        let text = bar_text(&volume, &progress);
        assert!(text.contains("50.0%") && text.contains("ETA 0:00:01"), "{text}");
        assert!(text.starts_with("[===============>...............]"), "{text}");
        progress.left_blocks = 0;
        assert!(bar_text(&volume, &progress).contains("100.0%"));
        progress.total_blocks = 0;
        assert!(bar_text(&volume, &progress).contains("100.0%"));
    }
}
