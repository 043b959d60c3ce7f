//! `drbdsetup status --json` as the 9.22 tools lay it out; some consumers read it line by line, so blanks and
//! line ends are part of the form (drbd-admin 4.7, 5.5). DRBD 8.4 itself has no JSON form.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write};

use super::show::resync_suspended;
use super::snapshot::{ResourceSnapshot, VolumeSnapshot, per_myriad_done};
use crate::state::ConnState;

/// The array of all resources, sorted by name.
pub fn render(resources: &[ResourceSnapshot]) -> String {
    let mut sorted: Vec<&ResourceSnapshot> = resources.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    let mut out = String::from("[\n");
    for (i, resource) in sorted.iter().enumerate() {
        out.push_str(if i == 0 { "{\n" } else { ",\n{\n" });
        write_resource(&mut out, resource).expect("writing to a string cannot fail");
        out.push('}');
    }
    out.push_str(if sorted.is_empty() { "]\n\n" } else { "\n]\n\n" });
    out
}

fn write_resource(out: &mut String, r: &ResourceSnapshot) -> fmt::Result {
    writeln!(out, "  \"name\": {},", Quoted(&r.name))?;
    writeln!(out, "  \"node-id\": {},", r.node_id)?;
    writeln!(out, "  \"role\": \"{}\",", r.role)?;
    writeln!(out, "  \"suspended\": {},", r.suspended())?;
    writeln!(out, "  \"suspended-user\": {},", r.suspended_user)?;
    writeln!(out, "  \"suspended-no-data\": {},", r.suspended_no_data)?;
    writeln!(out, "  \"suspended-fencing\": {},", r.suspended_fencing)?;
    writeln!(out, "  \"suspended-quorum\": false,")?;
    writeln!(out, "  \"force-io-failures\": false,")?;
    writeln!(out, "  \"write-ordering\": \"{}\",", r.write_ordering_word())?;
    out.push_str("  \"devices\": [\n");
    for (i, v) in r.volumes.iter().enumerate() {
        out.push_str(if i == 0 { "" } else { ",\n" });
        write_device(out, v)?;
    }
    out.push_str(" ],\n  \"connections\": [\n");
    if r.connection != ConnState::StandAlone {
        write_connection(out, r)?;
    }
    out.push_str(" ]\n");
    Ok(())
}

fn write_device(out: &mut String, v: &VolumeSnapshot) -> fmt::Result {
    let c = &v.counters;
    out.push_str("    {\n");
    writeln!(out, "      \"volume\": {},", v.vnr)?;
    writeln!(out, "      \"minor\": {},", v.minor)?;
    writeln!(out, "      \"disk-state\": \"{}\",", v.state.disk)?;
    // Two nodes know neither diskless clients nor a quorum that could be lost.
    writeln!(out, "      \"client\": false,")?;
    writeln!(out, "      \"quorum\": true,")?;
    writeln!(out, "      \"size\": {},", v.size_kib())?;
    writeln!(out, "      \"read\": {},", c.disk_read_kib)?;
    writeln!(out, "      \"written\": {},", c.disk_written_kib)?;
    writeln!(out, "      \"al-writes\": {},", c.al_writes)?;
    writeln!(out, "      \"bm-writes\": {},", c.bm_writes)?;
    writeln!(out, "      \"upper-pending\": {},", c.app_pending)?;
    write!(out, "      \"lower-pending\": {}\n    }}", c.local_pending)
}

fn write_connection(out: &mut String, r: &ResourceSnapshot) -> fmt::Result {
    out.push_str("    {\n");
    writeln!(out, "      \"peer-node-id\": {},", r.peer_node_id)?;
    writeln!(out, "      \"name\": {},", Quoted(r.peer_name.as_deref().unwrap_or("peer")))?;
    // The blank before the line end is in the original too.
    writeln!(out, "      \"connection-state\": \"{}\", ", r.connection.connection_word())?;
    writeln!(out, "      \"congested\": {},", r.congested)?;
    writeln!(out, "      \"peer-role\": \"{}\",", r.peer_role)?;
    writeln!(out, "      \"ap-in-flight\": {},", r.ap_in_flight_sectors)?;
    writeln!(out, "      \"rs-in-flight\": {},", r.rs_in_flight_sectors)?;
    out.push_str("      \"peer_devices\": [\n");
    for (i, v) in r.volumes.iter().enumerate() {
        out.push_str(if i == 0 { "" } else { ",\n" });
        write_peer_device(out, v)?;
    }
    out.push_str(" ]\n    }");
    Ok(())
}

fn write_peer_device(out: &mut String, v: &VolumeSnapshot) -> fmt::Result {
    let c = &v.counters;
    let suspended = resync_suspended(v);
    out.push_str("        {\n");
    writeln!(out, "          \"volume\": {},", v.vnr)?;
    writeln!(out, "          \"replication-state\": \"{}\",", v.state.conn.replication_word())?;
    writeln!(out, "          \"peer-disk-state\": \"{}\",", v.state.pdsk)?;
    writeln!(out, "          \"peer-client\": false,")?;
    let suspended = if suspended.is_empty() { "no" } else { &suspended };
    writeln!(out, "          \"resync-suspended\": \"{suspended}\",")?;
    writeln!(out, "          \"received\": {},", c.received_kib)?;
    writeln!(out, "          \"sent\": {},", c.sent_kib)?;
    writeln!(out, "          \"out-of-sync\": {},", c.out_of_sync_kib)?;
    writeln!(out, "          \"pending\": {},", c.pending)?;
    writeln!(out, "          \"unacked\": {},", c.unacked)?;
    // The marks behind DRBD 9's details do not exist in 8.4; without them only the percentage is printed.
    writeln!(out, "          \"has-sync-details\": false,")?;
    writeln!(out, "          \"has-online-verify-details\": false,")?;
    write!(out, "          \"percent-in-sync\": {}", Percent(v.in_sync_per_myriad()))?;
    if let (Some(p), true) = (&v.progress, v.is_progressing()) {
        let done = per_myriad_done(p.total_blocks, p.left_blocks);
        write!(out, ",\n          \"percent-resync-done\": {}", Percent(done))?;
    }
    out.push_str("\n        }");
    Ok(())
}

/// Hundredths of a percent as a number with two decimals.
struct Percent(u64);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

/// A JSON string.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                c if c < ' ' => write!(f, "\\u{:04x}", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn strings_are_escaped() {
        assert_eq!(format!("{}", Quoted("a\"b\\c\n\u{1}ü")), "\"a\\\"b\\\\c\\n\\u0001ü\"");
    }

    #[test]
    fn two_resources_are_one_array() {
        let text = render(&[ResourceSnapshot::new("b"), ResourceSnapshot::new("a")]);
        assert!(text.starts_with("[\n{\n  \"name\": \"a\",\n"));
        assert!(text.contains("  \"connections\": [\n ]\n},\n{\n  \"name\": \"b\",\n"));
        assert!(text.ends_with("}\n]\n\n"));
    }
}
