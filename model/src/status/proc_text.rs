//! The text of `/proc/drbd`, byte for byte as DRBD 8.4 prints it: many monitoring tools parse it with strict
//! expressions (drbd-admin 4.11, 5.5).

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write};

use super::snapshot::{CacheUse, Progress, ResourceSnapshot, VolumeSnapshot, coarse_per_mille_done};
use crate::state::ConnState;

/// The file: `version: RELEASE (api:1/proto:86-101)`, `line2` as it is (a GIT-hash or srcversion line without
/// its line end), then every minor of `resources`, ascending.
pub fn render(release: &str, line2: &str, resources: &[ResourceSnapshot]) -> String {
    let mut out = String::new();
    write_all(&mut out, release, line2, resources).expect("writing to a string cannot fail");
    out
}

fn write_all(out: &mut String, release: &str, line2: &str, resources: &[ResourceSnapshot]) -> fmt::Result {
    writeln!(out, "version: {release} (api:1/proto:86-101)")?;
    writeln!(out, "{line2}")?;
    let mut minors: Vec<(&ResourceSnapshot, &VolumeSnapshot)> =
        resources.iter().flat_map(|r| r.volumes.iter().map(move |v| (r, v))).collect();
    minors.sort_by_key(|(_, v)| v.minor);
    let mut expected = 0;
    for (resource, volume) in minors {
        if volume.minor != expected {
            out.push('\n');
        }
        write_minor(out, resource, volume)?;
        expected = volume.minor.saturating_add(1);
    }
    Ok(())
}

fn write_minor(out: &mut String, r: &ResourceSnapshot, v: &VolumeSnapshot) -> fmt::Result {
    let s = &v.state;
    if s.is_unconfigured() {
        return writeln!(out, "{:2}: cs:Unconfigured", v.minor);
    }
    let flag = |set: bool, letter: char| if set { letter } else { '-' };
    writeln!(
        out,
        "{:2}: cs:{} ro:{}/{} ds:{}/{} {} {}{}{}{}{}{}",
        v.minor,
        s.conn,
        s.role,
        s.peer,
        s.disk,
        s.pdsk,
        r.protocol.unwrap_or(' '),
        if r.suspended() { 's' } else { 'r' },
        flag(s.aftr_isp, 'a'),
        flag(s.peer_isp, 'p'),
        flag(s.user_isp, 'u'),
        v.congestion,
        flag(v.al_suspended, 's'),
    )?;
    let c = &v.counters;
    writeln!(
        out,
        "    ns:{} nr:{} dw:{} dr:{} al:{} bm:{} lo:{} pe:{} ua:{} ap:{} ep:{} wo:{} oos:{}",
        c.sent_kib,
        c.received_kib,
        c.disk_written_kib,
        c.disk_read_kib,
        c.al_writes,
        c.bm_writes,
        c.local_pending,
        c.pending,
        c.unacked,
        c.app_pending,
        c.epochs,
        r.write_ordering,
        c.out_of_sync_kib
    )?;
    if let (Some(p), true) = (&v.progress, has_progress_lines(s.conn)) {
        write_progress(out, s.conn, p)?;
    }
    if let Some(d) = &v.proc_details {
        write_cache(out, "resync", &d.resync)?;
        write_cache(out, "act_log", &d.act_log)?;
        if let Some(n) = d.blocked_on_act_log {
            writeln!(out, "\tblocked on activity log: {n}")?;
        }
    }
    Ok(())
}

/// Not while paused and not in Ahead or Behind, although something is out of sync there too.
const fn has_progress_lines(conn: ConnState) -> bool {
    matches!(conn, ConnState::SyncSource | ConnState::SyncTarget | ConnState::VerifyS | ConnState::VerifyT)
}

fn write_progress(out: &mut String, conn: ConnState, p: &Progress) -> fmt::Result {
    let per_mille = coarse_per_mille_done(p.total_blocks, p.left_blocks);
    out.push_str("\t[");
    let steps = per_mille / 50;
    for _ in 1..steps {
        out.push('=');
    }
    out.push('>');
    for _ in 0..20u64.saturating_sub(steps) {
        out.push('.');
    }
    let verify = matches!(conn, ConnState::VerifyS | ConnState::VerifyT);
    out.push_str(if verify { "] verified:" } else { "] sync'ed:" });
    write!(out, "{:3}.{}% ", per_mille / 10, per_mille % 10)?;
    // Above 4 GiB both numbers are MiB, cut to whole multiples of 4.
    if p.total_blocks > 1 << 20 {
        writeln!(out, "({}/{})M", (p.left_blocks >> 10) << 2, (p.total_blocks >> 10) << 2)?;
    } else {
        writeln!(out, "({}/{})K", p.left_blocks << 2, p.total_blocks << 2)?;
    }

    let eta = p.eta_s.unwrap_or_else(|| p.left_blocks.saturating_mul(4) / p.rate_now_kib_s.max(1));
    write!(out, "\tfinish: {}:{:02}:{:02} speed: ", eta / 3600, eta / 60 % 60, eta % 60)?;
    write!(out, "{} ({})", Thousands(p.rate_now_kib_s), Thousands(p.rate_mean_kib_s))?;
    if matches!(conn, ConnState::SyncTarget | ConnState::VerifyS) {
        write!(out, " want: {}", Thousands(p.wanted_kib_s.unwrap_or(0)))?;
    }
    out.push_str(if p.stalled { " K/sec (stalled)\n" } else { " K/sec\n" });
    Ok(())
}

fn write_cache(out: &mut String, name: &str, c: &CacheUse) -> fmt::Result {
    writeln!(
        out,
        "\t{name}: used:{}/{} hits:{} misses:{} starving:{} locked:{} changed:{}",
        c.used, c.capacity, c.hits, c.misses, c.starving, c.locked, c.changed
    )
}

/// A number with `,` between groups of three digits.
struct Thousands(u64);

impl fmt::Display for Thousands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 1000 {
            return self.0.fmt(f);
        }
        write!(f, "{},{:03}", Thousands(self.0 / 1000), self.0 % 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{DiskState, Role};
    use crate::status::snapshot::{Direction, ProgressKind};

    fn syncing(total_blocks: u64, left_blocks: u64) -> ResourceSnapshot {
        let mut r = ResourceSnapshot::new("r0");
        r.protocol = Some('C');
        let mut v = VolumeSnapshot::new(0, 0);
        v.state.conn = ConnState::SyncTarget;
        v.state.peer = Role::Primary;
        v.state.disk = DiskState::Inconsistent;
        v.state.pdsk = DiskState::UpToDate;
        v.progress = Some(Progress {
            direction: Direction::FromPeer,
            kind: ProgressKind::Resync,
            total_blocks,
            left_blocks,
            failed_blocks: 0,
            elapsed_ms: 0,
            paused_ms: 0,
            rate_now_kib_s: 1_234_567,
            rate_mean_kib_s: 999,
            wanted_kib_s: None,
            limited_by: None,
            eta_s: Some(360_061),
            stalled: true,
        });
        r.volumes.push(v);
        r
    }

    fn progress_of(total_blocks: u64, left_blocks: u64) -> String {
        let text = render("8.4.11", "x", &[syncing(total_blocks, left_blocks)]);
        text.split_once("oos:0\n").expect("counters come first").1.into()
    }

    #[test]
    fn large_totals_switch_to_mib_and_stalled_is_said() {
        assert_eq!(
            progress_of((1 << 20) + 1, (1 << 20) - 1),
            "\t[>....................] sync'ed:  0.2% (4092/4096)M\n\
             \tfinish: 100:01:01 speed: 1,234,567 (999) want: 0 K/sec (stalled)\n"
        );
        assert!(progress_of(1 << 20, 1 << 20).contains("sync'ed:  0.1% (4194304/4194304)K\n"));
    }

    #[test]
    fn bar_is_twenty_columns_from_five_percent_on() {
        let mut seen = [false; 21];
        for left in (0..=1000).map(|i| i * 1024) {
            let text = progress_of(1000 * 1024, left);
            let (bar, rest) = text[2..].split_once(']').expect("bar");
            let percent: u64 = rest[9..12].trim().parse().expect("percent");
            assert_eq!(bar.len(), if percent < 5 { 21 } else { 20 }, "{text}");
            seen[bar.matches('=').count()] = true;
        }
        assert_eq!(seen.iter().filter(|s| **s).count(), 20);
    }

    #[test]
    fn gaps_between_minors_are_empty_lines() {
        let mut r = ResourceSnapshot::new("r0");
        r.volumes = [12, 3, 4].map(|m| VolumeSnapshot::new(0, m)).into();
        let want = "\n 3: cs:Unconfigured\n 4: cs:Unconfigured\n\n12: cs:Unconfigured\n";
        assert_eq!(render("8.4.11", "y", &[r])["version: 8.4.11 (api:1/proto:86-101)\ny\n".len()..], *want);
    }
}
