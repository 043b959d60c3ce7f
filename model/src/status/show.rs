//! `drbdsetup status` of DRBD 8.4 (drbd-admin 4.7): a tree of `key:value` words, broken into lines that fit.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::human::printable;
use super::snapshot::{ResourceSnapshot, VolumeSnapshot};
use crate::state::ConnState;

/// What to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShowOptions {
    /// Also what is in its normal state, and minors.
    pub verbose: bool,
    /// Also the counters.
    pub statistics: bool,
    /// Longest line; none: lines are not broken at words.
    pub width: Option<usize>,
    /// Adds a comment line with the reason of StandAlone. DRBD has no such line.
    pub reasons: bool,
}

/// The status of `resources`, sorted by name, an empty line after each; empty text if there are none.
pub fn render(resources: &[ResourceSnapshot], options: &ShowOptions) -> String {
    let mut sorted: Vec<&ResourceSnapshot> = resources.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    let mut page = Page { out: String::new(), column: 0, indent: 0, width: options.width };
    for resource in sorted {
        show_resource(&mut page, resource, options);
        page.out.push('\n');
    }
    page.out
}

fn show_resource(page: &mut Page, r: &ResourceSnapshot, o: &ShowOptions) {
    page.line(0, &r.name);
    page.word(&format!("role:{}", r.role));
    let suspended = list(&[
        (r.suspended_user, "user"),
        (r.suspended_no_data, "no-data"),
        (r.suspended_fencing, "fencing"),
        (r.suspended_lease, "lease"),
    ]);
    page.flag("suspended", &suspended, o.verbose);
    if o.verbose && o.statistics {
        page.broken_line(&format!("write-ordering:{}", r.write_ordering_word()));
    }
    page.end();

    let numbered = o.verbose || r.volumes.len() != 1 || r.volumes.iter().any(|v| v.vnr != 0);
    for v in &r.volumes {
        show_device(page, r, v, numbered, o);
    }
    // Without a network configuration there is no peer to speak of.
    if r.connection != ConnState::StandAlone {
        show_peer(page, r, numbered, o);
    } else if let (true, Some(reason)) = (o.reasons, &r.standalone_reason) {
        page.line(2, &format!("# StandAlone: {}", printable(reason)));
        page.end();
    }
}

fn show_device(page: &mut Page, r: &ResourceSnapshot, v: &VolumeSnapshot, numbered: bool, o: &ShowOptions) {
    let disk = format!("disk:{}", v.state.disk);
    if numbered {
        page.line(2, &format!("volume:{}", v.vnr));
        if o.verbose {
            page.word(&format!("minor:{}", v.minor));
        }
        page.word(&disk);
    } else {
        page.line(2, &disk);
    }
    let c = &v.counters;
    if o.statistics {
        if o.verbose {
            page.broken_line(&format!("size:{}", v.size_kib()));
            page.word(&format!("read:{}", c.disk_read_kib));
            page.word(&format!("written:{}", c.disk_written_kib));
            page.word(&format!("al-writes:{}", c.al_writes));
            page.word(&format!("bm-writes:{}", c.bm_writes));
            page.word(&format!("upper-pending:{}", c.app_pending));
            page.word(&format!("lower-pending:{}", c.local_pending));
            page.word(if v.al_suspended { "al-suspended:yes" } else { "al-suspended:no" });
        } else {
            page.broken_line(&format!("read:{}", c.disk_read_kib));
            page.word(&format!("written:{}", c.disk_written_kib));
        }
    }
    let (upper, lower) = v.blocked(r.suspended());
    page.flag("blocked", &list(&[(upper, "upper"), (lower, "lower")]), o.verbose);
    page.end();
}

fn show_peer(page: &mut Page, r: &ResourceSnapshot, numbered: bool, o: &ShowOptions) {
    let connected = r.connection >= ConnState::WFReportParams;
    page.line(2, "peer");
    if o.verbose || !connected {
        page.word(&format!("connection:{}", r.connection.connection_word()));
    }
    if o.verbose || connected {
        page.word(&format!("role:{}", r.peer_role));
    }
    page.flag("congested", if r.congested { "yes" } else { "" }, o.verbose);
    page.end();
    for v in &r.volumes {
        if o.verbose || v.state.conn >= ConnState::Connected {
            show_peer_device(page, v, numbered, o);
        }
    }
}

fn show_peer_device(page: &mut Page, v: &VolumeSnapshot, numbered: bool, o: &ShowOptions) {
    let replication = format!("replication:{}", v.state.conn.replication_word());
    if numbered {
        page.line(4, &format!("volume:{}", v.vnr));
        page.word(&replication);
    } else {
        page.line(4, &replication);
    }
    page.word(&format!("peer-disk:{}", v.state.pdsk));
    if v.is_progressing() {
        let done = v.in_sync_per_myriad();
        page.word(&format!("done:{}.{:02}", done / 100, done % 100));
    }
    page.flag("resync-suspended", &resync_suspended(v), o.verbose);
    let c = &v.counters;
    if o.statistics {
        page.broken_line(&format!("received:{}", c.received_kib));
        page.word(&format!("sent:{}", c.sent_kib));
        page.word(&format!("out-of-sync:{}", c.out_of_sync_kib));
        if o.verbose {
            page.word(&format!("pending:{}", c.pending));
            page.word(&format!("unacked:{}", c.unacked));
        }
    }
    page.end();
}

/// `user,peer,dependency` or a part of it; empty if the resync is not paused.
pub(super) fn resync_suspended(v: &VolumeSnapshot) -> String {
    list(&[(v.state.user_isp, "user"), (v.state.peer_isp, "peer"), (v.state.aftr_isp, "dependency")])
}

/// The names whose condition holds, with commas between them.
fn list(items: &[(bool, &str)]) -> String {
    let set: Vec<&str> = items.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
    set.join(",")
}

/// A text under construction whose lines are broken before the word that would not fit.
struct Page {
    out: String,
    column: usize,
    /// Of the object's first line; its other lines are indented by four more.
    indent: usize,
    width: Option<usize>,
}

impl Page {
    /// Starts the first line of an object.
    fn line(&mut self, indent: usize, word: &str) {
        self.indent = indent;
        self.start(indent, word);
    }

    /// Goes on with the same object in a new line.
    fn broken_line(&mut self, word: &str) {
        self.out.push('\n');
        self.start(self.indent + 4, word);
    }

    fn word(&mut self, word: &str) {
        if self.width.is_some_and(|w| self.column + 1 + word.len() > w) {
            return self.broken_line(word);
        }
        self.out.push(' ');
        self.out.push_str(word);
        self.column += 1 + word.len();
    }

    /// A word that is left out if nothing is set, unless everything is wanted.
    fn flag(&mut self, key: &str, set: &str, always: bool) {
        if !set.is_empty() {
            self.word(&format!("{key}:{set}"));
        } else if always {
            self.word(&format!("{key}:no"));
        }
    }

    fn end(&mut self) {
        self.out.push('\n');
    }

    fn start(&mut self, indent: usize, word: &str) {
        self.out.extend(core::iter::repeat_n(' ', indent));
        self.out.push_str(word);
        self.column = indent + word.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_configured_prints_nothing() {
        assert_eq!(render(&[], &ShowOptions::default()), "");
    }

    #[test]
    fn the_reason_of_standalone_is_an_extra() {
        let mut r = ResourceSnapshot::new("r0");
        r.volumes.push(VolumeSnapshot::new(0, 0));
        r.standalone_reason = Some("Split-Brain detected but unresolved".into());
        let plain = "r0 role:Secondary\n  disk:Diskless\n\n";
        assert_eq!(render(&[r.clone()], &ShowOptions::default()), plain);
        let with = render(&[r], &ShowOptions { reasons: true, ..ShowOptions::default() });
        assert_eq!(
            with,
            "r0 role:Secondary\n  disk:Diskless\n  # StandAlone: Split-Brain detected but unresolved\n\n"
        );
    }

    #[test]
    fn congestion_letters_block() {
        let mut v = VolumeSnapshot::new(0, 0);
        for (letter, want) in
            [('-', (false, false)), ('d', (true, false)), ('a', (false, true)), ('n', (false, false))]
        {
            v.congestion = letter;
            assert_eq!(v.blocked(false), want);
        }
        assert_eq!(v.blocked(true), (true, false));
    }
}
