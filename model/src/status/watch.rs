//! `status --watch`: one screenful for a person, with progress, the reason of trouble and what to do next.
//! Plain ASCII, so that it survives serial consoles; the words of foreign origin are made harmless.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::advice::{Advice, Severity, advise, is_down, own_name, peer_name, worst};
use super::human::{clock, printable, rate, size};
use super::snapshot::{Direction, Progress, ProgressKind, ResourceSnapshot, VolumeSnapshot};
use crate::state::{ConnState, DiskState, Role};

/// The screen for `resources`, sorted by name: lines of at most `width` characters (at least 40), with SGR
/// colours if `ansi`. Clearing the screen is up to the caller.
pub fn render(resources: &[ResourceSnapshot], width: usize, ansi: bool) -> String {
    let mut sorted: Vec<&ResourceSnapshot> = resources.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    let mut screen = Screen { out: String::new(), width: width.max(MIN_WIDTH), ansi };
    summary(&mut screen, &sorted);
    for resource in sorted {
        screen.out.push('\n');
        show_resource(&mut screen, resource);
    }
    screen.out
}

fn summary(screen: &mut Screen, resources: &[&ResourceSnapshot]) {
    if resources.is_empty() {
        return screen.row(0, 2, &[(Tone::Faint, "no resources".into())]);
    }
    let count = |wanted: fn(&ResourceSnapshot) -> bool| resources.iter().filter(|r| wanted(r)).count();
    let alarms = count(|r| worst(r) == Some(Severity::Alarm));
    let warnings = count(|r| worst(r) == Some(Severity::Warning));
    let syncing = count(|r| r.volumes.iter().any(VolumeSnapshot::is_progressing));
    let down = count(is_down);
    let all = resources.len();
    let mut cells =
        alloc::vec![(Tone::Plain, format!("{all} {}", if all == 1 { "resource" } else { "resources" }))];
    if alarms > 0 {
        cells.push((Tone::Bad, format!("{alarms} {} action", if alarms == 1 { "needs" } else { "need" })));
    }
    if warnings > 0 {
        cells.push((Tone::Busy, format!("{warnings} degraded")));
    }
    if syncing > 0 {
        cells.push((Tone::Busy, format!("{syncing} syncing")));
    }
    if down > 0 {
        cells.push((Tone::Faint, format!("{down} down")));
    }
    if cells.len() == 1 {
        cells.push((Tone::Good, "all well".into()));
    }
    screen.row(0, 2, &cells);
}

fn show_resource(screen: &mut Screen, r: &ResourceSnapshot) {
    let connected = r.connection >= ConnState::WFReportParams;
    let state = if connected { "Connected" } else { r.connection.name() };
    let tone = match r.connection {
        ConnState::StandAlone => Tone::Bad,
        _ if connected => Tone::Good,
        _ => Tone::Busy,
    };
    let mut cells = alloc::vec![
        (Tone::Strong, r.name.clone()),
        (role_tone(r.role), format!("{} {}", own_name(r), r.role)),
        (tone, if connected { "<->" } else { "-x-" }.to_string()),
        (role_tone(r.peer_role), format!("{} {}", peer_name(r), r.peer_role)),
        (tone, state.to_string()),
    ];
    if let Some(letter) = r.protocol {
        cells.push((Tone::Faint, format!("protocol {letter}")));
    }
    if r.congested {
        cells.push((Tone::Busy, "congested".into()));
    }
    if r.suspended() {
        cells.push((Tone::Bad, "I/O FROZEN".into()));
    }
    screen.row(0, 2, &cells);
    for v in &r.volumes {
        show_volume(screen, r, v);
    }
    for advice in advise(r) {
        show_advice(screen, &advice);
    }
}

fn show_volume(screen: &mut Screen, r: &ResourceSnapshot, v: &VolumeSnapshot) {
    let s = &v.state;
    let mut cells = alloc::vec![(Tone::Plain, format!("volume {}", v.vnr))];
    if !v.device.is_empty() {
        cells.push((Tone::Plain, v.device.clone()));
    }
    if v.size_sectors > 0 {
        cells.push((Tone::Plain, size(v.size_kib())));
    }
    cells.push((disk_tone(s.disk), s.disk.to_string()));
    cells.push((Tone::Faint, "/".into()));
    cells.push((disk_tone(s.pdsk), s.pdsk.to_string()));
    if s.conn > ConnState::Connected {
        cells.push((Tone::Busy, s.conn.to_string()));
    }
    if v.open_count > 0 {
        cells.push((Tone::Faint, format!("open {}", v.open_count)));
    }
    screen.row(2, 2, &cells);

    let c = &v.counters;
    if [c.app_pending, c.pending, c.local_pending, c.unacked].iter().any(|n| *n > 0) {
        let text = format!(
            "in flight: {} of applications, {} at {}, {} on disk, {} for {}",
            c.app_pending,
            c.pending,
            peer_name(r),
            c.local_pending,
            c.unacked,
            peer_name(r)
        );
        screen.text(4, Tone::Faint, &text);
    }
    if (ConnState::StartingSyncS..=ConnState::WFSyncUUID).contains(&s.conn) {
        screen.text(4, Tone::Busy, "comparing bitmaps, the resync starts next");
    }
    if let (Some(p), true) = (&v.progress, v.is_progressing()) {
        show_progress(screen, r, v, p);
    }
}

fn show_progress(screen: &mut Screen, r: &ResourceSnapshot, v: &VolumeSnapshot, p: &Progress) {
    let paused = matches!(v.state.conn, ConnState::PausedSyncS | ConnState::PausedSyncT);
    let verify = p.kind == ProgressKind::Verify;
    let (from, to) = match p.direction {
        Direction::ToPeer => (own_name(r), peer_name(r)),
        Direction::FromPeer => (peer_name(r), own_name(r)),
    };
    let path = format!("{from} {} {to}", if verify { "<=>" } else { "==>" });
    let (tone, end) = match p.eta_s {
        _ if p.stalled => (Tone::Bad, "STALLED".to_string()),
        _ if paused => (Tone::Busy, "PAUSED".to_string()),
        Some(eta) => (Tone::Strong, format!("ETA {}", clock(eta))),
        None => (Tone::Faint, "ETA unknown".to_string()),
    };
    let per_mille = per_mille_done(p);
    let percent = format!("{}.{}%", per_mille / 10, per_mille % 10);
    // Indent 4, three gaps of 2, two brackets.
    let rest = 4 + path.chars().count() + percent.len() + end.len() + 6 + 2;
    let columns = screen.width.saturating_sub(rest).clamp(10, 40);
    let cells = [(Tone::Plain, path), (tone, bar(columns, per_mille)), (Tone::Strong, percent), (tone, end)];
    screen.row(4, 2, &cells);

    let kib = |blocks: u64| size(blocks.saturating_mul(4));
    let word = if verify { "compared" } else { "done" };
    let mut cells = alloc::vec![
        (Tone::Plain, format!("{word} {} of {}", kib(p.done_blocks()), kib(p.total_blocks))),
        (Tone::Plain, format!("left {}", kib(p.left_blocks))),
        (Tone::Faint, format!("running {}", clock(p.elapsed_ms / 1000))),
    ];
    if p.paused_ms >= 1000 {
        cells.push((Tone::Faint, format!("paused {}", clock(p.paused_ms / 1000))));
    }
    if verify && v.counters.out_of_sync_kib > 0 {
        cells.push((Tone::Bad, format!("differs {}", size(v.counters.out_of_sync_kib))));
    }
    screen.row(4, 2, &cells);
    if paused {
        return;
    }
    let mut cells = alloc::vec![
        (Tone::Plain, format!("now {}", rate(p.rate_now_kib_s))),
        (Tone::Plain, format!("mean {}", rate(p.rate_mean_kib_s))),
    ];
    if let Some(wanted) = p.wanted_kib_s {
        cells.push((Tone::Plain, format!("wanted {}", rate(wanted))));
    }
    if let Some(limit) = p.limited_by {
        cells.push((Tone::Faint, format!("limited by {}", limit.text())));
    }
    screen.row(4, 2, &cells);
}

fn show_advice(screen: &mut Screen, advice: &Advice) {
    let (mark, tone) = match advice.severity {
        Severity::Note => ("- ", Tone::Faint),
        Severity::Warning => ("! ", Tone::Busy),
        Severity::Alarm => ("!! ", Tone::Bad),
    };
    screen.text(2, tone, &format!("{mark}{}", advice.problem));
    if let Some(reason) = &advice.reason {
        screen.text(5, Tone::Plain, &format!("reason: {reason}"));
    }
    if let Some(next) = &advice.next {
        screen.text(5, Tone::Strong, &format!("next: {next}"));
    }
}

/// Tenths of a percent, rounded down, so that 100 % means done.
fn per_mille_done(p: &Progress) -> u64 {
    if p.total_blocks == 0 {
        return 1000;
    }
    // At most 1000, since done <= total.
    (u128::from(p.done_blocks()) * 1000 / u128::from(p.total_blocks)) as u64
}

fn bar(columns: usize, per_mille: u64) -> String {
    // At most `columns`, which is at most 40.
    let full = columns * per_mille.min(1000) as usize / 1000;
    let mut text = String::from("[");
    text.extend(core::iter::repeat_n('=', full));
    if full < columns {
        text.push('>');
        text.extend(core::iter::repeat_n('.', columns - full - 1));
    }
    text.push(']');
    text
}

fn role_tone(role: Role) -> Tone {
    match role {
        Role::Primary => Tone::Strong,
        Role::Secondary => Tone::Plain,
        Role::Unknown => Tone::Faint,
    }
}

fn disk_tone(disk: DiskState) -> Tone {
    match disk {
        DiskState::UpToDate => Tone::Good,
        DiskState::Diskless | DiskState::Failed | DiskState::Inconsistent | DiskState::Outdated => Tone::Bad,
        DiskState::Attaching | DiskState::Negotiating | DiskState::Consistent => Tone::Busy,
        DiskState::DUnknown => Tone::Faint,
    }
}

/// Narrower screens get lines of this width all the same.
const MIN_WIDTH: usize = 40;

/// What a piece of text means; becomes a colour.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tone {
    Plain,
    Strong,
    Faint,
    Good,
    Busy,
    Bad,
}

impl Tone {
    const fn sgr(self) -> Option<&'static str> {
        match self {
            Tone::Plain => None,
            Tone::Strong => Some("1"),
            Tone::Faint => Some("2"),
            Tone::Good => Some("32"),
            Tone::Busy => Some("33"),
            Tone::Bad => Some("1;31"),
        }
    }
}

struct Screen {
    out: String,
    width: usize,
    ansi: bool,
}

impl Screen {
    /// Cells with `gap` blanks between them; a cell that does not fit starts a new line, indented by two more.
    /// A cell longer than a line is cut.
    fn row(&mut self, indent: usize, gap: usize, cells: &[(Tone, String)]) {
        let mut column = 0;
        for (tone, cell) in cells {
            let cell = printable(cell);
            let length = cell.chars().count();
            if column == 0 {
                column = self.blanks(indent);
            } else if column + gap + length > self.width {
                self.out.push('\n');
                column = self.blanks(indent + 2);
            } else {
                column += self.blanks(gap);
            }
            let cut: String = cell.chars().take(self.width - column).collect();
            column += length;
            match tone.sgr() {
                Some(sgr) if self.ansi => self.out.push_str(&format!("\x1b[{sgr}m{cut}\x1b[0m")),
                _ => self.out.push_str(&cut),
            }
        }
        self.out.push('\n');
    }

    /// Words, wrapped.
    fn text(&mut self, indent: usize, tone: Tone, words: &str) {
        let words = printable(words);
        let mut lines: Vec<(Tone, String)> = Vec::new();
        let room = self.width - indent - 2;
        for word in chunks(&words, room) {
            match lines.last_mut() {
                Some((_, line)) if line.chars().count() + 1 + word.chars().count() <= room => {
                    line.push(' ');
                    line.push_str(&word);
                }
                _ => lines.push((tone, word)),
            }
        }
        // Each line is one cell; a gap of a whole line keeps them apart.
        self.row(indent, self.width, &lines);
    }

    fn blanks(&mut self, n: usize) -> usize {
        self.out.extend(core::iter::repeat_n(' ', n));
        n
    }
}

/// Words of a text; a command in quotes stays in one piece, since it is there to be copied.
fn chunks(text: &str, room: usize) -> Vec<String> {
    let words: Vec<&str> = text.split(' ').filter(|w| !w.is_empty()).collect();
    let mut out = Vec::new();
    let mut at = 0;
    while at < words.len() {
        let mut end = at + 1;
        if words[at].starts_with("'lockstep") {
            let closing = words[at..].iter().skip(1).position(|w| w.contains('\''));
            let whole =
                closing.map(|n| at + n + 2).filter(|e| words[at..*e].join(" ").chars().count() <= room);
            end = whole.unwrap_or(end);
        }
        out.push(words[at..end].join(" "));
        at = end;
    }
    out
}

#[cfg(test)]
mod tests;
