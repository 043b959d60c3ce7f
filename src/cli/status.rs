//! `status` in its forms: as drbdadm prints it, as JSON, and as a picture that follows every change.

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use model::status::show::{self, ShowOptions};
use model::status::{ResourceSnapshot, json, watch};

use super::client::{Client, ClientError, EXIT_NO_DAEMON};
use super::terminal;
use crate::daemon::control::{Outcome, Reply, Request};

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatusOptions {
    /// For programs.
    pub json: bool,
    /// Go on until Ctrl-C.
    pub watch: bool,
    /// Also what is normal.
    pub verbose: bool,
    /// Also the counters.
    pub statistics: bool,
}

/// Prints the state of the named resources, of all without names.
pub fn run(run_dir: &Path, names: &[String], options: StatusOptions) -> Outcome {
    if options.watch {
        return follow(run_dir, names, options);
    }
    let snapshots = match Client::connect(run_dir) {
        Ok(mut client) => client.status(names),
        Err(e) => return e.outcome(),
    };
    match snapshots {
        Ok(snapshots) => Outcome::text(render(&snapshots, options)),
        Err(refused) => refused,
    }
}

fn render(snapshots: &[ResourceSnapshot], options: StatusOptions) -> String {
    if options.json {
        return json::render(snapshots);
    }
    let width = Some(terminal::columns());
    // DRBD prints no reasons; programs that read its form shall not meet them.
    let reasons = io::stdout().is_terminal();
    let shown = ShowOptions { verbose: options.verbose, statistics: options.statistics, width, reasons };
    show::render(snapshots, &shown)
}

fn follow(run_dir: &Path, names: &[String], options: StatusOptions) -> Outcome {
    let screen = io::stdout().is_terminal() && !options.json;
    let mut client = match Client::connect(run_dir) {
        Ok(client) => client,
        Err(e) => return e.outcome(),
    };
    // Watching ends by Ctrl-C: that is its good end.
    let leave = move || {
        if screen {
            print!("{SHOW_CURSOR}");
        }
        let _ = io::stdout().flush();
        std::process::exit(0);
    };
    if let Err(e) = terminal::on_interrupt(leave) {
        return Outcome::failed(EXIT_NO_DAEMON, format!("cannot wait for signals: {e}"));
    }
    let width = terminal::columns();
    if screen {
        put(&format!("{HIDE_CURSOR}{CLEAR}"));
    }
    let ended = pictures(&mut client, names, |snapshots| {
        if screen {
            put(&redraw(&watch::render(snapshots, width, true)))
        } else if options.json {
            put(&json::render(snapshots))
        } else {
            put(&(watch::render(snapshots, width, false) + "\n"))
        }
    });
    if screen {
        put(SHOW_CURSOR);
    }
    ended
}

/// Shows each picture that differs from the one before, until `show` fails (nobody reads) or the daemon goes.
fn pictures(
    client: &mut Client,
    names: &[String],
    mut show: impl FnMut(&[ResourceSnapshot]) -> bool,
) -> Outcome {
    let mut reply = client.ask(Request::Watch { targets: names.to_vec() });
    // The next change may be far away.
    if let Err(e) = client.set_timeout(None) {
        return Outcome::failed(EXIT_NO_DAEMON, format!("cannot wait for changes: {e}"));
    }
    let mut last = None;
    loop {
        match reply {
            Ok(Reply::Snapshots(snapshots)) => {
                if last.as_ref() != Some(&snapshots) && !show(&snapshots) {
                    return Outcome::default();
                }
                last = Some(snapshots);
            }
            Ok(Reply::Done(refused)) => return refused,
            Ok(_) => return Outcome::failed(EXIT_NO_DAEMON, "the daemon gave an unexpected answer"),
            Err(ClientError::Broken { socket, .. }) => {
                return Outcome::failed(
                    EXIT_NO_DAEMON,
                    format!("the daemon at {} has gone", socket.display()),
                );
            }
            Err(e) => return e.outcome(),
        }
        reply = client.next_reply();
    }
}

/// The screen is written over line by line, which does not flicker.
fn redraw(text: &str) -> String {
    let mut out = String::from(HOME);
    for line in text.lines() {
        out.push_str(line);
        out.push_str(CLEAR_TO_END_OF_LINE);
        out.push('\n');
    }
    out.push_str(CLEAR_BELOW);
    out
}

/// False if nobody reads any more.
fn put(text: &str) -> bool {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
}

const HOME: &str = "\x1b[H";
const CLEAR: &str = "\x1b[2J";
const CLEAR_TO_END_OF_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";
const HIDE_CURSOR: &str = "\x1b[?25l";
const SHOW_CURSOR: &str = "\x1b[?25h";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_drawn_over_the_one_before() {
        assert_eq!(redraw("a\nb\n"), "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J");
    }

    #[test]
    fn nothing_up_prints_nothing() {
        assert_eq!(render(&[], StatusOptions::default()), "");
    }
}
