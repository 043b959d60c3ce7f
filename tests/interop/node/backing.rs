//! Backing disks: how they fail, and what is on them.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;

use super::Node;
use crate::machine::host_ok;

/// Name of the device mapper's device.
pub(super) const MAPPED: &str = "backing";

impl Node {
    /// Puts a device mapper over the first disk.
    pub fn map_disk(&mut self) {
        self.map("create", "linear");
        // Nobody else makes it here.
        let said = self.sh(&format!(
            "test -b /dev/mapper/{MAPPED} || dmsetup mknodes {MAPPED}; ls -l /dev/mapper /dev/dm-0"
        ));
        assert!(said.text.contains(MAPPED), "{}: {said:?}", self.name);
        self.is_mapped = true;
    }

    /// Takes it away; DRBD is down.
    pub fn unmap_disk(&mut self) {
        if std::mem::take(&mut self.is_mapped) && self.is_on() {
            self.dmsetup(&format!("remove --retry {MAPPED}"));
        }
    }

    /// Nobody answers for udev in the machine.
    fn dmsetup(&self, args: &str) {
        self.run(&format!("dmsetup --noudevrules --noudevsync {args}"));
    }

    fn map(&self, verb: &str, target: &str) {
        let rest = if target == "linear" { format!("{} 0", self.disk_names[0]) } else { String::new() };
        let sectors = self.disk_sectors();
        self.dmsetup(&format!("{verb} {MAPPED} --table '0 {sectors} {target} {rest}'"));
    }

    /// From now on every access to its disk fails.
    pub fn break_disk(&self) {
        self.change_disk("error");
    }

    /// The same for the data alone: its metadata, at the end, is still written.
    pub fn break_data(&self) {
        let sectors = self.disk_sectors();
        let data = sectors - 512;
        self.stop_disk();
        self.dmsetup(&format!(
            "load {MAPPED} --table '0 {data} error\n{data} 512 linear {} {data}'",
            self.disk_names[0]
        ));
        self.go_on_disk();
    }

    /// The disk works again.
    pub fn mend_disk(&self) {
        self.change_disk("linear");
    }

    fn disk_sectors(&self) -> u64 {
        fs::metadata(&self.disks[0]).expect("the disk").len() / 512
    }

    fn change_disk(&self, target: &str) {
        self.stop_disk();
        self.map("load", target);
        self.go_on_disk();
    }

    /// What its disk is asked for is not answered.
    pub fn stop_disk(&self) {
        self.dmsetup(&format!("suspend --noflush {MAPPED}"));
    }

    /// A disk that stood still goes on, and fails.
    pub fn fail_what_waits(&self) {
        self.map("load", "error");
        self.go_on_disk();
    }

    /// A disk that stood still goes on.
    pub fn go_on_disk(&self) {
        self.dmsetup(&format!("resume {MAPPED}"));
    }

    /// Data area of the backing disk, whose node has it no longer open.
    pub fn disk_bytes(&self, len: u64) -> Vec<u8> {
        let mut data = vec![0; len as usize];
        let mut file = File::open(&self.disks[self.volume]).expect("the disk");
        file.seek(SeekFrom::Start(0)).expect("its start");
        file.read_exact(&mut data).expect("its data");
        data
    }

    /// Changes the backing disk behind everybody's back.
    pub fn spoil_disk(&self, offset_bytes: u64, data: &[u8]) {
        let mut file = File::options().write(true).open(&self.disks[self.volume]).expect("the disk");
        file.seek(SeekFrom::Start(offset_bytes)).expect("a place");
        file.write_all(data).expect("spoilt");
        file.sync_all().expect("on the disk");
    }

    /// Gives new metadata these generations, of a good copy: current, bitmap, history. The resource is down.
    pub fn set_generations(&self, all: [u64; 4]) {
        let device = host_ok(&["losetup", "-f", "--show", &self.disks[self.volume].display().to_string()]);
        let [current, bitmap, first, second] = all;
        let generations = format!("{current:X}:{bitmap:X}:{first:X}:{second:X}:1:1:0:0:0:0:0:0");
        let meta = ["drbdmeta", "--force", "0", "v08", &device, "internal", "set-gi", &generations];
        let said = crate::machine::host(&meta);
        host_ok(&["losetup", "-d", &device]);
        assert!(said.status == 0, "{}: drbdmeta: {}", self.name, said.text);
    }

    /// Metadata of a resource that is down, by the real drbdmeta on the host, and the same by ours.
    pub fn dump_md(&self, ours: &Path) -> String {
        let disk = self.disks[self.volume].display().to_string();
        let device = host_ok(&["losetup", "-f", "--show", &disk]);
        let meta =
            |verb| crate::machine::host(&["drbdmeta", "--force", "0", "v08", &device, "internal", verb]);
        // A node that was Primary leaves extents in its activity log; applied, they set no bit that is not set already.
        meta("apply-al");
        let dump = meta("dump-md");
        let own = self.own_dump_md(&device, ours);
        host_ok(&["losetup", "-d", &device]);
        assert!(dump.status == 0, "{}: drbdmeta: {}", self.name, dump.text);
        // Several versions of drbdmeta print flags of zero, whatever they are.
        let facts = |text: &str| {
            let lines = text.lines().filter(|l| !l.starts_with('#') && !l.trim().starts_with("flags "));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(facts(&own), facts(&dump.text), "{}: ours and drbdmeta's dump", self.name);
        dump.text
    }

    fn own_dump_md(&self, device: &str, ours: &Path) -> String {
        let file = tempfile::NamedTempFile::new().expect("a configuration");
        let hosts = [1, 2].map(|n| format!("on node{n} {{ address 10.99.0.{n}:7789; }}")).join(" ");
        let text = format!("resource r0 {{ device /dev/drbd0; disk {device}; meta-disk internal; {hosts} }}");
        fs::write(&file, text).expect("a configuration");
        let dump = Command::new(ours)
            .args(["--host", self.name, "--config"])
            .arg(file.path())
            .args(["dump-md", "r0"])
            .output()
            .expect("lockstep runs");
        let error = String::from_utf8_lossy(&dump.stderr).into_owned();
        assert!(dump.status.success(), "{}: lockstep dump-md: {error}", self.name);
        String::from_utf8(dump.stdout).expect("a text")
    }
}
