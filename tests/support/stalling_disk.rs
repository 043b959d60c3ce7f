//! A block device that stops answering when the test wants it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A device that can be made to answer nothing: what is behind it lives on a filesystem that can be frozen. Needs root.
pub struct StallingDisk {
    /// Where the filesystem is mounted.
    mount: PathBuf,
    under: String,
    /// The block device, of 24 MiB.
    pub device: String,
}

/// No write or flush of the disk ends before this is dropped.
pub struct Stall<'a>(&'a StallingDisk);

impl StallingDisk {
    /// In a directory that stays until it is dropped.
    pub fn new(dir: &Path) -> StallingDisk {
        let mount = dir.join("mount");
        std::fs::create_dir_all(&mount).expect("a mount point");
        let (image, at) = (dir.join("image"), mount.display());
        let under =
            sh(&format!("truncate -s 64M {0}; mkfs.ext4 -q {0}; losetup -f --show {0}", image.display()));
        let mut disk = StallingDisk { mount: mount.clone(), under, device: String::new() };
        sh(&format!("mount {} {at}; fallocate -l 24M {at}/disk", disk.under));
        disk.device = sh(&format!("losetup -f --show {at}/disk"));
        disk
    }

    /// From now on.
    pub fn stall(&self) -> Stall<'_> {
        sh(&format!("fsfreeze -f {}", self.mount.display()));
        Stall(self)
    }
}

impl Drop for Stall<'_> {
    fn drop(&mut self) {
        quietly(&format!("fsfreeze -u {}", self.0.mount.display()));
    }
}

impl Drop for StallingDisk {
    fn drop(&mut self) {
        // The kernel lets go of what is above a moment later.
        quietly(&format!(
            "losetup -d {}; for i in $(seq 50); do umount {} && break; sleep 0.1; done",
            self.device,
            self.mount.display()
        ));
        quietly(&format!("losetup -d {}", self.under));
    }
}

fn sh(line: &str) -> String {
    let o = Command::new("sh").args(["-ec", line]).output().expect("a shell");
    assert!(o.status.success(), "{line}: {}", String::from_utf8_lossy(&o.stderr));
    String::from_utf8_lossy(&o.stdout).trim().to_owned()
}

fn quietly(line: &str) {
    let _ = Command::new("sh").args(["-c", line]).stdout(Stdio::null()).stderr(Stdio::null()).status();
}
