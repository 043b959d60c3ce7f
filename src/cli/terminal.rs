//! The terminal: questions of the metadata commands, its size, and what Ctrl-C does.

use std::io::{self, BufRead, IsTerminal, Write};
use std::process::{Command, Stdio};

use nix::sys::signal::{SigSet, Signal};

use super::meta::Prompt;

/// Standard input, output and error.
pub struct Terminal {
    out: io::Stdout,
    err: io::Stderr,
}

impl Terminal {
    /// Those of this process.
    pub fn new() -> Terminal {
        Terminal { out: io::stdout(), err: io::stderr() }
    }
}

impl Default for Terminal {
    fn default() -> Terminal {
        Terminal::new()
    }
}

impl Prompt for Terminal {
    fn out(&mut self) -> &mut dyn Write {
        &mut self.out
    }

    fn err(&mut self) -> &mut dyn Write {
        &mut self.err
    }

    fn is_terminal(&self) -> bool {
        io::stdin().is_terminal()
    }

    fn read_line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line)?;
        Ok(line)
    }
}

/// Columns of the terminal, 80 if there is none or it does not tell.
pub fn columns() -> usize {
    const DEFAULT: usize = 80;
    let plausible = |n: &usize| (20..1000).contains(n);
    if let Some(n) = std::env::var("COLUMNS").ok().and_then(|c| c.parse().ok()).filter(plausible) {
        return n;
    }
    if !io::stdout().is_terminal() {
        return DEFAULT;
    }
    // The size is an ioctl, which needs unsafe code; the tool that everybody has is asked instead.
    let size = Command::new("stty").arg("size").stdin(Stdio::inherit()).stderr(Stdio::null()).output();
    let text = size.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|c| c.parse().ok()).filter(plausible).unwrap_or(DEFAULT)
}

/// Calls `then` on a thread of its own when SIGINT or SIGTERM arrives, each time anew. To be called before other
/// threads start, since it blocks the signals for this thread and those it starts.
///
/// # Errors
/// The signal mask cannot be changed.
pub fn on_interrupt(mut then: impl FnMut() + Send + 'static) -> io::Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        while signals.wait().is_ok() {
            then();
        }
    })?;
    Ok(())
}
