//! What this node remembers of the leases of its services: one small file for each in the state directory.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use failover::lease::memory::{MEMORY_BYTES_MAX, Memory, MemoryError};

/// The file of one service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemoryFile {
    path: PathBuf,
}

/// Why nothing is remembered.
#[derive(Debug, thiserror::Error)]
pub enum RecallError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It holds something else.
    #[error("{}: {source}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: MemoryError,
    },
}

impl MemoryFile {
    /// Of a service.
    pub fn of(state_dir: &Path, service: &str) -> MemoryFile {
        MemoryFile { path: state_dir.join(format!("lease-{}.json", as_file_name(service))) }
    }

    /// What is remembered; none: nothing was seen yet.
    ///
    /// # Errors
    /// There is something, and it is of no use.
    pub fn read(&self) -> Result<Option<Memory>, RecallError> {
        let path = || self.path.clone();
        let mut bytes = Vec::new();
        let limit = MEMORY_BYTES_MAX as u64 + 1;
        match File::open(&self.path).and_then(|f| f.take(limit).read_to_end(&mut bytes)) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(RecallError::Io { path: path(), source }),
        }
        Memory::decode(&bytes).map(Some).map_err(|source| RecallError::Content { path: path(), source })
    }

    /// Replaces what is remembered: after a loss of power there is all of the old or all of the new.
    ///
    /// # Errors
    /// What the file system reports.
    pub fn write(&self, memory: &Memory) -> io::Result<()> {
        let directory = self.path.parent().expect("it is in the state directory");
        fs::create_dir_all(directory)?;
        // A handler may write beside the daemon.
        let new = self.path.with_extension(format!("{}.new", std::process::id()));
        let mut file = File::create(&new)?;
        file.write_all(&memory.encode())?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        File::open(directory)?.sync_all()
    }
}

/// No two names become one, and none leaves the directory.
fn as_file_name(service: &str) -> String {
    let mut out = String::new();
    for byte in service.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02x}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_what_is_spoilt_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = MemoryFile::of(&dir.path().join("state"), "db");
        assert_eq!(file.read().unwrap(), None);
        let memory = Memory::new(7, vec!["a".into(), "b".into()]);
        file.write(&memory).unwrap();
        file.write(&Memory { changes: 8, ..memory.clone() }).unwrap();
        assert_eq!(file.read().unwrap(), Some(Memory { changes: 8, ..memory }));
        assert_eq!(fs::read_dir(dir.path().join("state")).unwrap().count(), 1, "nothing is left over");
        for spoilt in [&b""[..], b"{\"format\":1", &[0; MEMORY_BYTES_MAX + 10]] {
            fs::write(&file.path, spoilt).unwrap();
            let said = file.read().unwrap_err().to_string();
            assert!(said.contains("lease-db.json"), "{said}");
        }
    }

    #[test]
    fn names_of_services_stay_inside_the_directory_and_apart() {
        assert_eq!(as_file_name("db-1_A"), "db-1_A");
        assert_eq!(as_file_name("../x"), "%2e%2e%2fx");
        assert_ne!(as_file_name("a%2f"), as_file_name("a/"));
    }
}
