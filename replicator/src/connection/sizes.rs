//! The size of the replicated device: what both nodes announce, what they agree on, how it is adopted
//! (drbd-wire 3.6, drbd-metadata 10).

use alloc::format;

use model::state::{ConnState, DiskState, Role};
use model::units::{MAX_BIO_BYTES, MAX_DEVICE_SECTORS, bits_of};

use crate::action::{Action, Actions, LogLevel};
use crate::event::VolIdx;
use crate::meta::superblock::MetaFlags;
use crate::planted::{self, Planted};
use crate::resource::Resource;
use crate::wire::{DdsFlags, Features, Packet, QueueLimits, Sizes, Sock};

impl Resource {
    /// `current_sectors`: what is exported now; 0 lets the peer answer with its own.
    pub(crate) fn send_sizes(
        &mut self,
        v: usize,
        dds_flags: DdsFlags,
        current_sectors: u64,
        out: &mut Actions,
    ) {
        let with_limits = self.conn.features.contains(Features::WSAME);
        let vol = &self.vols[v];
        let disk = vol.disk.as_ref();
        let limits = QueueLimits {
            physical_block_bytes: 4096,
            logical_block_bytes: 512,
            alignment_offset_bytes: 0,
            io_min_bytes: 4096,
            io_opt_bytes: 0,
            discard_enabled: true,
            discard_zeroes_data: false,
            write_same_capable: false,
        };
        let grown = disk.is_some_and(|d| d.sb.flags.has(MetaFlags::GROWN)) && self.conn.peer_is_lockstep();
        let dds_flags = if grown { dds_flags.with(DdsFlags::GROWN) } else { dds_flags };
        let p = Sizes {
            d_size_sectors: disk.map_or(0, |d| d.capacity_sectors),
            u_size_sectors: disk.map_or(0, |d| d.cfg.size_sectors),
            c_size_sectors: current_sectors,
            max_bio_bytes: disk.map_or(MAX_BIO_BYTES, |d| d.max_bio_bytes.min(MAX_BIO_BYTES)),
            queue_order_type: 0,
            dds_flags,
            limits: with_limits.then_some(limits),
        };
        let vnr = vol.vnr.0;
        self.send_on(Sock::Data, vnr, &Packet::Sizes(p), None, out);
    }

    // spec: drbd-wire 3.6
    pub(crate) fn receive_sizes(&mut self, v: usize, p: &Sizes, out: &mut Actions) {
        if self.peer_resizes(v, p, out) {
            return;
        }
        let conn = self.vols[v].state.conn;
        self.vols[v].peer_capacity_sectors = p.d_size_sectors;
        let new = if self.vols[v].disk.is_some() {
            let Some(new) = self.agreed_size(v, p, out) else { return };
            new
        } else {
            let vol = &self.vols[v];
            let candidate = [p.c_size_sectors, p.u_size_sectors, p.d_size_sectors]
                .into_iter()
                .find(|s| *s != 0)
                .unwrap_or(0);
            // A peer that resizes says what it has come to when it is asked.
            let asks = conn > ConnState::WFReportParams && p.c_size_sectors == 0;
            let ignore = candidate == 0 || (vol.size_sectors != 0 && (p.d_size_sectors == 0 || asks));
            if ignore { vol.size_sectors } else { candidate }
        };
        if self.vols[v].disk.is_none()
            && new < self.vols[v].size_sectors
            && self.vols[v].state.role == Role::Primary
        {
            self.end_in_standalone("The peer's device is smaller than this diskless Primary's", out);
            return;
        }
        if new > MAX_DEVICE_SECTORS {
            self.end_in_standalone("The peer announces an impossible device size", out);
            return;
        }
        let old = self.vols[v].size_sectors;
        self.note_growth(v, p, new);
        if new != old {
            self.set_size(v, new, p.dds_flags.contains(DdsFlags::NO_RESYNC), out);
        }
        if conn > ConnState::WFReportParams && p.c_size_sectors != new {
            self.send_sizes(v, p.dds_flags.asked_for(), new, out);
        }
        if conn > ConnState::WFReportParams && self.vols[v].has_usable_disk() {
            self.peer_has_answered(v, old != 0 && new > old, p.dds_flags, out);
        }
        self.md_sync(v, out);
    }

    /// Before a handshake: whether one of the copies has grown since they were equal. Both nodes know the same, what each
    /// announced, and come to the same conclusion.
    fn note_growth(&mut self, v: usize, p: &Sizes, new: u64) {
        let vol = &mut self.vols[v];
        let handshake = vol.state.conn == ConnState::WFReportParams;
        let is_new = |before: u64| before != 0 && before < new;
        if vol.state.disk == DiskState::Negotiating {
            // The peer knows the size that this attach has announced, and that it has grown since.
            vol.grown_before_handshake |= is_new(vol.size_at_attach_sectors);
            return;
        }
        let attaches = vol.state.pdsk < DiskState::Inconsistent;
        if vol.disk.is_none() || p.d_size_sectors == 0 || !(handshake || attaches) {
            return;
        }
        let peer_grew = is_new(p.c_size_sectors) || p.dds_flags.contains(DdsFlags::GROWN);
        vol.grown_before_handshake |= peer_grew || handshake && is_new(vol.size_sectors);
    }

    /// The size both disks and both configurations allow; None after refusing the peer.
    fn agreed_size(&mut self, v: usize, p: &Sizes, out: &mut Actions) -> Option<u64> {
        let vol = &mut self.vols[v];
        let handshake = vol.state.conn == ConnState::WFReportParams;
        let disk = vol.disk.as_mut().expect("sizes are agreed with a disk");
        let own_limit = disk.cfg.size_sectors;
        let limit = match (handshake, own_limit, p.u_size_sectors) {
            (false, _, peer) => peer,
            (true, 0, peer) => peer,
            (true, own, 0) => own,
            (true, own, peer) => own.min(peer),
        };
        disk.cfg.size_sectors = limit;
        let new = wanted_size(disk.capacity_sectors, p.d_size_sectors, disk.sb.la_size_sectors, limit);
        let connecting = vol.state.conn < ConnState::Connected || vol.state.pdsk == DiskState::Diskless;
        if new < vol.size_sectors && vol.state.disk >= DiskState::Outdated && connecting {
            let why = format!("The peer's disk size is too small! ({new} < {} sectors)", vol.size_sectors);
            self.end_in_standalone(&why, out);
            return None;
        }
        Some(new)
    }

    /// Adopts a size: bitmap, super block, exported device.
    pub(crate) fn set_size(&mut self, v: usize, sectors: u64, assume_clean: bool, out: &mut Actions) {
        let unwritten = planted::on(Planted::GrownPagesNotWritten);
        let vol = &mut self.vols[v];
        let (grew, shrinks) = (sectors > vol.size_sectors, sectors < vol.size_sectors);
        let mark = grew && !assume_clean && !planted::on(Planted::GrownAreaNotMarked);
        vol.resize_bitmap(sectors, mark);
        vol.size_sectors = sectors;
        if let Some(disk) = vol.disk.as_mut() {
            if mark && disk.sb.la_size_sectors != 0 {
                disk.sb.flags = disk.sb.flags.with(MetaFlags::GROWN);
            }
            disk.sb.la_size_sectors = sectors;
            disk.md.mark_dirty();
            if shrinks {
                // With the old size on disk and the new bitmap, it would be what the part to be cut off is.
                disk.md.sb_of_generation = disk.md.sb_latest;
            } else {
                // With the new size on disk and the old bitmap, a loss of power would forget what the new part is.
                disk.md.sb_after_pages = !unwritten;
            }
        }
        let text = format!("size = {} (resync bitmap: bits={})", human_size(sectors), bits_of(sectors));
        out.log(LogLevel::Info, Some(VolIdx(v as u8)), text);
        if self.vols[v].disk.is_some() && !unwritten {
            let text = "Writing the whole bitmap, size changed";
            out.log(LogLevel::Info, Some(VolIdx(v as u8)), text);
            self.write_bitmap_all(v, out);
        }
        out.push(Action::ExportChanged { vol: VolIdx(v as u8) });
    }
}

/// The size of the replicated device (drbd-metadata 10): own and peer's capacity (0: unknown), the last agreed
/// size and the configured limit (0: none), all in sectors.
pub(crate) fn wanted_size(own: u64, peer: u64, last_agreed: u64, limit: u64) -> u64 {
    let size = match (own, peer) {
        (0, 0) => last_agreed,
        (m, p) if m != 0 && p != 0 => m.min(p),
        (m, p) if last_agreed != 0 => {
            let known = if m != 0 { m } else { p };
            last_agreed.min(known)
        }
        (m, p) => m.max(p),
    };
    if limit != 0 && limit <= size { limit } else { size }
}

/// As the kernel prints sizes: below 10000 of a unit.
pub(crate) fn human_size(sectors: u64) -> alloc::string::String {
    let kb = sectors / 2;
    let mut value = kb;
    let mut unit = 0;
    while value >= 10_000 && unit < 5 {
        value = (value + 512) >> 10;
        unit += 1;
    }
    format!("{value} {}B ({kb} KB)", ["K", "M", "G", "T", "P", "E"][unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_is_the_smaller_disk_within_the_limit() {
        assert_eq!(wanted_size(100, 80, 0, 0), 80);
        assert_eq!(wanted_size(100, 0, 0, 0), 100);
        assert_eq!(wanted_size(100, 0, 60, 0), 60);
        assert_eq!(wanted_size(50, 0, 60, 0), 50);
        assert_eq!(wanted_size(100, 80, 0, 40), 40);
        assert_eq!(wanted_size(100, 80, 0, 90), 80);
        assert_eq!(human_size(34736), "17 MB (17368 KB)");
    }
}
