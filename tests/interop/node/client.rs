//! Clients of the device of a Primary.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{COMMAND_MAX, Io, Kind, Node, STEP};
use crate::nbd_client::{Client, FUA, Replies, TRIM, WRITE_ZEROES};

impl Node {
    /// A client does one thing to the device of a Primary. The error is what it was told.
    pub fn io(&self, io: Io, offset_bytes: u64, data: &[u8]) -> Result<(), String> {
        let len = data.len();
        match self.machine() {
            Some(machine) => {
                let device = self.device();
                let flags = match io {
                    Io::WriteFua => "direct,dsync",
                    _ => "direct",
                };
                let command = match io {
                    Io::Write | Io::WriteFua => {
                        fs::write(machine.directory.join("data"), data).expect("data to write");
                        format!(
                            "dd if=/run/node/data of={device} bs={len} seek={offset_bytes} oflag={flags},seek_bytes"
                        )
                    }
                    Io::Discard => format!("blkdiscard -f -o {offset_bytes} -l {len} {device}"),
                    Io::Zeroes => format!("blkdiscard -z -f -o {offset_bytes} -l {len} {device}"),
                };
                let said = self.sh(&command);
                if said.status == 0 { Ok(()) } else { Err(said.text) }
            }
            None => {
                let mut client = self.client()?;
                let answer = match io {
                    Io::Write => client.write(offset_bytes, data, 0),
                    Io::WriteFua => client.write(offset_bytes, data, FUA),
                    Io::Discard => client.plain(TRIM, 0, offset_bytes, len as u32),
                    Io::Zeroes => client.plain(WRITE_ZEROES, 0, offset_bytes, len as u32),
                };
                client.close();
                answer.map_err(|e| format!("{e:?}"))
            }
        }
    }

    /// Everything written before is durable.
    pub fn flush(&self) {
        match self.machine() {
            Some(_) => {
                assert_eq!(
                    self.sh(&format!("sync -d {0} || blockdev --flushbufs {0}", self.device())).status,
                    0
                )
            }
            None => {
                let mut client = self.client().expect("an export");
                client.flush().expect("a flush");
                client.close();
            }
        }
    }

    /// Reads from the device of a Primary.
    pub fn read(&self, offset_bytes: u64, len: usize) -> Result<Vec<u8>, String> {
        match self.machine() {
            Some(machine) => {
                let said = self.sh(&format!(
                    "dd if={} of=/run/node/read bs={len} skip={offset_bytes} count=1 iflag=direct,skip_bytes",
                    self.device()
                ));
                if said.status != 0 {
                    return Err(said.text);
                }
                Ok(fs::read(machine.directory.join("read")).expect("what was read"))
            }
            None => {
                let mut client = self.client()?;
                let data = client.read(offset_bytes, len as u32).map_err(|e| format!("{e:?}"));
                client.close();
                data
            }
        }
    }

    fn device(&self) -> String {
        format!("/dev/drbd{}", self.volume)
    }

    fn client(&self) -> Result<Client, String> {
        Client::open(&self.nbd_socket(), &format!("r0/{}", self.volume), Replies::Structured)
    }

    fn nbd_socket(&self) -> PathBuf {
        let Kind::Namespace(daemon) = &self.kind else { panic!("{}: has no export", self.name) };
        daemon.directory.join(if self.volume == 0 { "run/r0.nbd" } else { "run/r0-1.nbd" })
    }

    /// Random writes for some time, on the device of a Primary; [`Load::finish`] takes the end.
    pub fn load(&self, options: &str, seconds: u32) -> Load<'_> {
        let written_kib = self.figure("dw");
        let common = format!(
            "fio --name=load --rw=randwrite --size=24M --time_based --runtime={seconds} --minimal {options}"
        );
        match self.machine() {
            Some(machine) => {
                let id = machine
                    .begin(&format!("{common} --direct=1 --ioengine=libaio --filename={}", self.device()));
                Load { node: self, seconds, written_kib, run: Run::Kernel(id) }
            }
            None => {
                let uri =
                    format!("--uri=nbd+unix:///r0/{}?socket={}", self.volume, self.nbd_socket().display());
                let mut words = common.split_whitespace();
                let child = Command::new(words.next().expect("fio"))
                    .args(words)
                    .args(["--ioengine=nbd", &uri])
                    .stdin(Stdio::null())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()
                    .expect("fio (package fio) starts");
                Load { node: self, seconds, written_kib, run: Run::Ours(Some(child)) }
            }
        }
    }
}

/// A client at work.
pub struct Load<'a> {
    node: &'a Node,
    seconds: u32,
    /// Of this device before it.
    written_kib: u64,
    run: Run,
}

enum Run {
    Kernel(u32),
    Ours(Option<Child>),
}

impl Load<'_> {
    /// Waits until it is at work.
    pub fn begun(self) -> Self {
        let node = self.node;
        let instead = || format!("the load does not begin: {}", node.proc());
        node.until(COMMAND_MAX, || node.figure("dw") != self.written_kib, instead);
        self
    }

    /// Waits for its end: the KiB that were written. The error is what the client was told.
    pub fn finish(mut self) -> Result<u64, String> {
        let limit = Duration::from_secs(u64::from(self.seconds)) + COMMAND_MAX;
        let (status, text) = match (&mut self.run, self.node.machine()) {
            (Run::Kernel(id), Some(machine)) => {
                let said = machine.finish(*id, limit).ok_or("the load does not end")?;
                (said.status, said.text)
            }
            (Run::Ours(child), _) => {
                let mut child = child.take().expect("it was started");
                let until = Instant::now() + limit;
                while child.try_wait().expect("its state").is_none() {
                    if Instant::now() > until {
                        let _ = child.kill();
                        return Err("the load does not end".to_owned());
                    }
                    sleep(STEP);
                }
                let out = child.wait_with_output().expect("what it said");
                let text = [out.stdout, out.stderr].concat();
                (out.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
            }
            (Run::Kernel(_), None) => unreachable!("a load stays where it was started"),
        };
        if status != 0 {
            return Err(text);
        }
        // Field 47 of fio's format 3.
        let line = text.lines().find(|l| l.starts_with("3;")).ok_or_else(|| text.clone())?;
        let kib: u64 = line.split(';').nth(46).and_then(|f| f.parse().ok()).ok_or_else(|| text.clone())?;
        Ok(kib)
    }
}

impl Drop for Load<'_> {
    fn drop(&mut self) {
        if let Run::Ours(Some(child)) = &mut self.run {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
