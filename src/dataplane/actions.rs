//! Actions of the core, turned into work of the disks, the peer's sockets and the clients' sessions.

use blockdev::pool::BufSpan;
use replicator::{Action, Actions, CommandResult, LogLevel, VolIdx};

use super::worker::Worker;
use super::worker_api::HandlerCall;

impl Worker {
    /// Carries out everything the core asked for in this batch, in its order.
    pub(super) fn drain_actions(&mut self) {
        let mut out = std::mem::take(&mut self.core.out);
        for i in 0..out.list.len() {
            let action = out.list[i];
            tracing::trace!(?action);
            self.carry_out(action, &out);
        }
        out.clear();
        debug_assert!(self.core.out.list.is_empty(), "carrying out an action makes no event");
        self.core.out = out;
    }

    fn carry_out(&mut self, action: Action, out: &Actions) {
        let (ring, now) = (&mut self.ring, self.core.now);
        match action {
            Action::DiskRead { tag, vol, sector, len_bytes, digest } => {
                self.disks.read(ring, tag, (vol, sector, len_bytes), digest);
            }
            Action::DiskWrite { tag, vol, sector, len_bytes, buf, fua } => {
                self.disks.write(ring, tag, (vol, sector, len_bytes), (buf, fua));
            }
            Action::DiskFlush { tag, vol } => self.disks.flush(ring, tag, vol),
            Action::DiskZero { tag, vol, sector, len_bytes, may_unmap, fua } => {
                self.disks.zero(ring, tag, (vol, sector, len_bytes), (may_unmap, fua));
            }
            Action::MetaWrite { tag, vol, md_sector, block, flush_before, fua } => {
                self.disks.meta_write(ring, tag, (vol, md_sector), out.span(block), (flush_before, fua));
            }
            Action::MeasureDisk { vol, attach } => self.disks.measure(vol, attach),
            Action::Send { sock, bytes, payload, digest } => {
                let payload = payload.map(|(buf, len_bytes)| BufSpan::head(buf, len_bytes));
                match payload.zip(digest) {
                    None => self.peers.send(ring, sock, out.span(bytes), payload),
                    Some((span, alg)) => {
                        let data = &ring.pool_mut().bytes(span.buf)[..span.len_bytes as usize];
                        let bytes = [out.span(bytes), alg.of(data).as_bytes()].concat();
                        self.peers.send(ring, sock, &bytes, payload);
                    }
                }
            }
            Action::Release { buf } => ring.pool_mut().release(buf),
            Action::ClientDone { tag, result, buf } => {
                self.nbd.piece_done(ring, &mut self.core, (tag, result, buf));
            }
            Action::Listen => self.peers.listen(ring, now),
            Action::Unlisten => self.peers.unlisten(ring),
            Action::Connect { attempt, timeout_ns } => self.peers.connect(ring, now, attempt, timeout_ns),
            Action::CloseSocket { sock, closing } => self.peers.close(ring, now, sock, closing),
            Action::CommandDone { id, result } => {
                if result != CommandResult::Ok {
                    self.disks.attach_failed(ring, id.0);
                }
                self.answer(id, result);
            }
            Action::CloseDisk { vol } => self.disks.close(ring, vol),
            Action::ExportChanged { vol } => {
                self.nbd.export_changed(ring, &mut self.core, vol);
                self.publisher.note_change();
            }
            Action::RunHandler { run, handler, vol } => self.run_handler(HandlerCall { run, handler, vol }),
            Action::Log { level, vol, text } => self.log(level, vol, &out.texts[text as usize]),
        }
    }

    /// A line as the kernel module would have written it.
    fn log(&self, level: LogLevel, vol: Option<VolIdx>, text: &str) {
        let minor = vol.and_then(|v| self.minors.get(v.0 as usize));
        let line = match minor {
            Some(minor) => format!("block drbd{minor}: {text}"),
            None => format!("drbd {}: {text}", self.resource),
        };
        match level {
            LogLevel::Alert => tracing::error!(alert = true, "{line}"),
            LogLevel::Error => tracing::error!("{line}"),
            LogLevel::Warn => tracing::warn!("{line}"),
            LogLevel::Info => tracing::info!("{line}"),
        }
    }
}
