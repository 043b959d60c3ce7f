//! What a client may choose from: names, sizes and limits of the exported volumes.

use blockdev::nbd::export::{ExportFlags, ExportInfo, Exports, Refused, RefusedError};
use replicator::{Resource, VolIdx};

use super::nbd_sessions::SESSIONS_MAX;

/// Names and limits of the exports.
pub(super) struct ExportNames {
    pub resource: String,
    pub vnrs: Vec<u16>,
    pub max_block_bytes: u32,
}

/// The exports as one client may see them.
pub(super) struct ExportTable<'a> {
    pub names: &'a ExportNames,
    pub core: &'a Resource,
    /// The socket serves this volume alone.
    pub only: Option<VolIdx>,
    /// No further client is served.
    pub full: bool,
}

impl ExportTable<'_> {
    fn find(&self, name: &[u8]) -> Option<VolIdx> {
        let volumes = self.names.vnrs.len();
        let found = if name.is_empty() {
            self.only.or((volumes == 1).then_some(VolIdx(0)))
        } else if name == self.names.resource.as_bytes() {
            // On the socket of one volume the resource's name means that volume.
            Some(self.only.unwrap_or(VolIdx(0)))
        } else {
            (0..volumes).find(|v| self.names.export(*v).as_bytes() == name).map(|v| VolIdx(v as u8))
        };
        found.filter(|v| self.only.is_none_or(|only| only == *v))
    }
}

impl ExportNames {
    fn export(&self, v: usize) -> String {
        format!("{}/{}", self.resource, self.vnrs[v])
    }
}

impl Exports for ExportTable<'_> {
    fn lookup(&self, name: &[u8]) -> Result<ExportInfo, Refused> {
        let Some(vol) = self.find(name) else {
            let message = format!("no such export; resource {} is served here", self.names.resource);
            return Err(Refused { error: RefusedError::Unknown, message });
        };
        let state = self.core.export_state(vol);
        if !state.primary || state.size_sectors == 0 {
            let message = if state.reason.is_empty() {
                format!("the size of volume {} is not known yet", self.names.vnrs[vol.0 as usize])
            } else {
                state.reason
            };
            return Err(Refused { error: RefusedError::Policy, message });
        }
        if self.full {
            let message = format!(
                "{SESSIONS_MAX} clients use resource {}, and no more are served",
                self.names.resource
            );
            return Err(Refused { error: RefusedError::Policy, message });
        }
        let v = vol.0 as usize;
        let mut info = ExportInfo::new(u32::from(vol.0), &self.names.export(v), state.size_sectors * 512);
        info.flags = ExportFlags {
            flush: true,
            fua: true,
            trim: true,
            write_zeroes: true,
            // All sessions feed one core on one thread: a flush covers what any of them completed.
            multi_conn: true,
            ..ExportFlags::default()
        };
        info.max_block_bytes = self.names.max_block_bytes;
        Ok(info)
    }

    fn for_each(&self, each: &mut dyn FnMut(&str)) {
        for v in 0..self.names.vnrs.len() {
            if self.only.is_none_or(|only| only.0 as usize == v) {
                each(&self.names.export(v));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::dataplane::nbd_sessions::tests::config;

    #[test]
    fn names_mean_volumes_and_a_socket_of_one_volume_serves_no_other() {
        let core = Resource::new(config(Path::new("/"), "r0").core, [1; 32]);
        let names = ExportNames { resource: "r0".into(), vnrs: vec![0, 3], max_block_bytes: 1 << 20 };
        let find = |only: Option<u8>, name: &str| {
            ExportTable { names: &names, core: &core, only: only.map(VolIdx), full: false }
                .find(name.as_bytes())
                .map(|v| v.0)
        };
        let rows = [
            (None, "", None),
            (None, "r0", Some(0)),
            (None, "r0/0", Some(0)),
            (None, "r0/3", Some(1)),
            (None, "r0/1", None),
            (None, "r1", None),
            (Some(1), "", Some(1)),
            (Some(1), "r0", Some(1)),
            (Some(1), "r0/3", Some(1)),
            (Some(1), "r0/0", None),
        ];
        for (only, name, expected) in rows {
            assert_eq!(find(only, name), expected, "{only:?} {name:?}");
        }
        let table = ExportTable { names: &names, core: &core, only: None, full: false };
        let refused = table.lookup(b"r0/3").unwrap_err();
        assert_eq!(refused.error, RefusedError::Policy);
        assert!(refused.message.contains("Secondary"), "{}", refused.message);
        assert_eq!(table.lookup(b"r0/9").unwrap_err().error, RefusedError::Unknown);
        let mut listed = Vec::new();
        table.for_each(&mut |name| listed.push(name.to_owned()));
        assert_eq!(listed, ["r0/0", "r0/3"]);
    }
}
