//! `sh-status`: shell assignments that the OCF agent evaluates (drbd-admin 4.5).

use alloc::string::String;
use core::fmt::{self, Write};

use super::snapshot::{ResourceSnapshot, VolumeSnapshot, coarse_per_mille_done};
use crate::state::{ConnState, DiskState};
use crate::units::bits_of;

/// The assignments of every volume of `resource`, in order.
pub fn render(resource: &ResourceSnapshot) -> String {
    let mut out = String::new();
    for volume in &resource.volumes {
        write_volume(&mut out, resource, volume).expect("writing to a string cannot fail");
    }
    out
}

/// The assignments for a minor that does not exist.
pub fn render_unknown(minor: u32) -> String {
    let mut out = String::new();
    let known = "NA # not available or not yet created";
    write_nothing(&mut out, minor, "", -1, known).expect("writing to a string cannot fail");
    out
}

fn write_volume(out: &mut String, r: &ResourceSnapshot, v: &VolumeSnapshot) -> fmt::Result {
    let s = &v.state;
    if s.conn == ConnState::StandAlone && s.disk == DiskState::Diskless {
        return write_nothing(out, v.minor, &r.name, i32::from(v.vnr), "Unconfigured");
    }
    let flag = |set: bool| if set { "1" } else { "" };
    write!(
        out,
        "_minor={}\n_res_name={}\n_volume={}\n_known=Configured\n\n\
         _cstate={}\n_role={}\n_peer={}\n_disk={}\n_pdsk={}\n\n\
         _flags_susp={}\n_flags_aftr_isp={}\n_flags_peer_isp={}\n_flags_user_isp={}\n\n_resynced_percent=",
        v.minor,
        r.name,
        v.vnr,
        s.conn,
        s.role,
        s.peer,
        s.disk,
        s.pdsk,
        // Only the administrator's suspension; fencing and lost data are not shown here (golden/status 32).
        flag(r.suspended_user),
        flag(s.aftr_isp),
        flag(s.peer_isp),
        flag(s.user_isp),
    )?;
    if v.is_progressing() {
        let total = v.progress.map_or(bits_of(v.size_sectors), |p| p.total_blocks);
        let per_mille = coarse_per_mille_done(total, v.counters.out_of_sync_kib / 4);
        write!(out, "{}.{}", per_mille / 10, per_mille % 10)?;
    }
    out.push_str("\n\n_sh_status_process\n\n\n");
    Ok(())
}

fn write_nothing(out: &mut String, minor: u32, name: &str, volume: i32, known: &str) -> fmt::Result {
    write!(
        out,
        "_minor={minor}\n_res_name={name}\n_volume={volume}\n_known={known}\n\n\
         _cstate=Unconfigured\n_role=\n_peer=\n_disk=\n_pdsk=\n\
         _flags_susp=\n_flags_aftr_isp=\n_flags_peer_isp=\n_flags_user_isp=\n_resynced_percent=\n\n\
         _sh_status_process\n\n\n"
    )
}
