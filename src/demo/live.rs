//! The demo without a story: shows both nodes until Ctrl-C or the end of its time.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use anyhow::Context;
use model::status::watch;

use super::pair::{Node, Pair, check_interrupt, pause};
use super::say::Say;
use super::{RESOURCE, directions};
use crate::cli::terminal::columns;

const REDRAW: Duration = Duration::from_millis(300);

/// Shows both nodes until `end`, or until Ctrl-C.
///
/// # Errors
/// [`super::pair::Interrupted`]; a daemon that ended by itself.
pub fn run(pair: &mut Pair, say: &mut Say, end: Option<Instant>) -> anyhow::Result<()> {
    say.step("Use it");
    say.tell(&directions(pair));
    say.tell(&format!("Every write to {RESOURCE} now goes to both disks. Ctrl-C stops both nodes."));
    let mut last = String::new();
    let mut drawn_lines = 0;
    loop {
        let text = picture(pair)?;
        if say.is_terminal() {
            drawn_lines = redraw(&text, drawn_lines);
        } else if text != last {
            say.tell(&text);
        }
        last = text;
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(());
        }
        pause(left.map_or(REDRAW, |left| left.min(REDRAW)))?;
    }
}

fn picture(pair: &Pair) -> anyhow::Result<String> {
    let mut text = String::new();
    for node in &pair.nodes {
        text.push_str(&format!("{}:\n{}\n", node.name, node_picture(node)?));
    }
    Ok(text)
}

fn node_picture(node: &Node) -> anyhow::Result<String> {
    let state = match node.state() {
        Ok(state) => state,
        Err(e) => {
            check_interrupt()?;
            // A person may have taken it down from another terminal.
            return Ok(format!("  {e:#}\n"));
        }
    };
    let ansi = io::IsTerminal::is_terminal(&io::stdout());
    let text = watch::render(&[state], columns().saturating_sub(4), ansi);
    // The first line counts resources, of which there is one.
    let (_, rest) = text.split_once('\n').context("a picture has lines")?;
    Ok(rest.trim_start_matches('\n').to_owned())
}

/// Draws over the picture before, which had so many lines; returns how many this one has.
fn redraw(text: &str, lines_before: usize) -> usize {
    let mut out = String::new();
    if lines_before > 0 {
        out.push_str(&format!("\x1b[{lines_before}A"));
    }
    let mut lines = 0;
    for line in text.lines() {
        out.push_str(&format!("\r   {line}\x1b[K\n"));
        lines += 1;
    }
    out.push_str("\x1b[J");
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(out.as_bytes()).and_then(|()| stdout.flush());
    lines
}
