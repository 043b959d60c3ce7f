//! Two daemons and the clients people use: what they are told about the export, and that what they write is on
//! both disks.
//!
//! Needs from Debian: libnbd-bin, qemu-utils, fio. What is missing makes a test fail with its name.

#![allow(clippy::unwrap_used, reason = "the whole file is a test")]

#[path = "support/export.rs"]
mod export;
#[path = "support/nbd_client.rs"]
#[allow(dead_code)]
mod nbd_client;
#[path = "support/pair.rs"]
mod pair;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use export::{Export, run, tool};
use nbd_client::{Client, Refused, Replies, TRIM, WRITE_ZEROES};
use serde_json::Value;

const MIB: u64 = 1 << 20;
const EINVAL: Refused = Refused(22);
const ENOSPC: Refused = Refused(28);

/// Bytes that repeat nowhere near.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        bytes.extend_from_slice(&x.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn noise_file(path: PathBuf, seed: u64, len: u64) -> PathBuf {
    fs::write(&path, noise(seed, len as usize)).unwrap();
    path
}

fn info(uri: &str) -> Value {
    let json: Value = serde_json::from_str(&tool("libnbd-bin", "nbdinfo", &["--json", uri])).unwrap();
    assert_eq!(json["protocol"], "newstyle-fixed", "{json}");
    json["exports"][0].clone()
}

/// What clients that must fail tell their user: qemu shows the server's words, libnbd only when it is to be
/// talkative.
fn refused(uri: &str) -> String {
    let qemu = run("qemu-utils", "qemu-img", &["info", uri]);
    let debug = ["LIBNBD_DEBUG=1", "nbdinfo", uri];
    let libnbd = run("coreutils", "env", &debug);
    assert!(!qemu.status.success() && !libnbd.status.success(), "{uri} is served");
    let qemu = String::from_utf8_lossy(&qemu.stderr).into_owned();
    let libnbd = String::from_utf8_lossy(&libnbd.stderr).into_owned();
    let reason = qemu.split_once("server reported: ").unwrap_or_else(|| panic!("no reason in: {qemu}")).1;
    assert!(libnbd.contains(reason.trim()), "{libnbd}");
    reason.to_owned()
}

#[test]
fn clients_see_size_abilities_names_and_reasons() {
    let e = Export::start(2);
    for uri in [e.unix_uri(0), e.unix_uri(1), e.tcp_uri(0), format!("nbd://{}/r0/1", e.tcp[0])] {
        let x = info(&uri);
        for able in
            ["can_multi_conn", "can_flush", "can_fua", "can_trim", "can_zero", "can_df"].map(|k| &x[k])
        {
            assert_eq!(able, true, "{uri}: {x}");
        }
        assert_eq!(x["is_read_only"], false, "{x}");
        assert_eq!(x["block_size_minimum"], 512, "{x}");
        assert_eq!(x["block_size_preferred"], 4096, "{x}");
        assert_eq!(x["block_size_maximum"], 32 * MIB, "{x}");
        let size = x["export-size"].as_u64().unwrap();
        assert!(size > 40 * MIB && size < export::DISK_BYTES && size.is_multiple_of(512), "{size}");
        // No context is offered: the client says so and nothing worse happens.
        let map = run("libnbd-bin", "nbdinfo", &["--map", &uri]);
        let said = String::from_utf8_lossy(&map.stderr).into_owned();
        assert!(said.contains("does not support metadata context"), "{said}");
    }
    assert_eq!(info(&e.unix_uri(1))["export-name"], "r0/1");
    let list = tool("libnbd-bin", "nbdinfo", &["--list", "--json", &format!("nbd://{}", e.tcp[0])]);
    let list: Value = serde_json::from_str(&list).unwrap();
    let names: Vec<&str> =
        list["exports"].as_array().unwrap().iter().map(|x| x["export-name"].as_str().unwrap()).collect();
    assert_eq!(names, ["r0/0", "r0/1"]);

    assert!(refused(&e.tcp_uri(1)).contains("Secondary on this node"), "{}", refused(&e.tcp_uri(1)));
    assert!(refused(&e.pair.nbd_uri(1)).contains("lockstep primary r0"));
    assert!(refused(&format!("nbd://{}/nobody", e.tcp[0])).contains("no such export; resource r0"));
    assert!(
        refused(&format!("nbd+unix:///r0/1?socket={}", e.socket(0).display())).contains("no such export")
    );

    // Each volume is a disk of its own.
    for (volume, seed) in [(0, 1), (1, 2)] {
        let mut c = Client::open(&e.socket(volume), ["r0", "r0/1"][volume], Replies::Structured).unwrap();
        c.write(4096, &noise(seed, 8192), 0).unwrap();
        c.close();
    }
    for (volume, seed) in [(0, 1), (1, 2)] {
        let mut c = Client::open(&e.socket(volume), "", Replies::Simple).unwrap();
        assert!(c.read(4096, 8192).unwrap() == noise(seed, 8192));
        c.close();
    }
    e.assert_equal();
}

#[test]
fn copies_to_and_from_the_export_are_equal() {
    let e = Export::start(1);
    let size = e.size_bytes(0);
    let dir = e.pair.dir.clone();
    for (n, uri) in [e.unix_uri(0), e.tcp_uri(0)].iter().enumerate() {
        // Connections and requests at once are as many as the client dares.
        let source = noise_file(dir.join("source"), n as u64 + 1, size);
        let back = dir.join("back");
        let (source, back) = (source.to_str().unwrap(), back.to_str().unwrap());
        tool("libnbd-bin", "nbdcopy", &["--connections=4", "--requests=16", "--flush", source, uri]);
        e.assert_equal();
        tool("libnbd-bin", "nbdcopy", &["--connections=4", "--requests=16", uri, back]);
        tool("diffutils", "cmp", &[source, back]);
        tool("libnbd-bin", "nbdcopy", &["--synchronous", uri, back]);
        tool("diffutils", "cmp", &[source, back]);

        let image = noise_file(dir.join("image"), n as u64 + 10, size);
        let image = image.to_str().unwrap();
        let told = tool("qemu-utils", "qemu-img", &["info", "--output=json", uri]);
        let told: Value = serde_json::from_str(&told).unwrap();
        assert_eq!(told["virtual-size"], size);
        tool("qemu-utils", "qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", "-W", image, uri]);
        e.assert_equal();
        tool("qemu-utils", "qemu-img", &["compare", "-f", "raw", "-F", "raw", image, uri]);
        let q = dir.join("copy.qcow2");
        let q = q.to_str().unwrap();
        tool("qemu-utils", "qemu-img", &["convert", "-f", "raw", "-O", "qcow2", uri, q]);
        tool("qemu-utils", "qemu-img", &["compare", "-f", "raw", "-F", "qcow2", image, q]);
    }
}

#[test]
fn qemu_io_reads_what_it_wrote() {
    let e = Export::start(1);
    let size = e.size_bytes(0);
    let last = size - 512;
    for uri in [e.unix_uri(0), e.tcp_uri(0)] {
        let script = [
            "write -P 0x11 0 1M".to_owned(),
            "write -f -P 0x22 1M 4k".to_owned(),
            "write -P 0x33 1025k 512".to_owned(),
            format!("write -P 0x44 {last} 512"),
            "flush".to_owned(),
            "read -P 0x11 0 1M".to_owned(),
            "read -P 0x22 1M 1k".to_owned(),
            "read -P 0x33 1049600 512".to_owned(),
            format!("read -P 0x44 {last} 512"),
            "write -P 0x55 4M 8M".to_owned(),
            "write -z 5M 1M".to_owned(),
            "write -z -u 6M 64k".to_owned(),
            "write -z -f 7M 4k".to_owned(),
            "discard 8M 1M".to_owned(),
            "aio_write -P 0x66 20M 2M".to_owned(),
            "aio_write -P 0x77 22M 2M".to_owned(),
            "aio_flush".to_owned(),
            "flush".to_owned(),
            "read -P 0x55 4M 1M".to_owned(),
            "read -P 0 5M 1M".to_owned(),
            "read -P 0 6M 64k".to_owned(),
            "read -P 0x55 6356992 64k".to_owned(),
            "read -P 0 7M 4k".to_owned(),
            "read -P 0 8M 1M".to_owned(),
            "read -P 0x55 9M 3M".to_owned(),
            "read -P 0x66 20M 2M".to_owned(),
            "read -P 0x77 22M 2M".to_owned(),
        ];
        let mut args = vec!["-f", "raw", "-d", "unmap"];
        script.iter().for_each(|line| args.extend(["-c", line]));
        args.push(&uri);
        let said = tool("qemu-utils", "qemu-io", &args);
        assert!(!said.contains("failed") && !said.contains("error"), "{said}");
        assert_eq!(said.matches("bytes at offset").count(), script.len() - 3, "{said}");
        e.assert_equal();
    }
}

#[test]
fn fio_finds_no_wrong_byte() {
    let e = Export::start(1);
    for (n, uri) in [e.unix_uri(0), e.tcp_uri(0)].iter().enumerate() {
        fio(
            &e.pair.dir,
            uri,
            &["--rw=randwrite", "--bsrange=512-64k", "--bs_unaligned=0", "--blockalign=512"],
        );
        e.assert_equal();
        fio(&e.pair.dir, uri, &["--rw=randrw", "--bs=4k", "--fsync=32", &format!("--randseed={}", n + 7)]);
        e.assert_equal();
    }
}

/// Writes all of 24 MiB in random order, 16 at once, then reads it again and compares checksums.
fn fio(dir: &Path, uri: &str, job: &[&str]) {
    let uri = format!("--uri={uri}");
    let mut args = vec![
        "--name=verify",
        "--ioengine=nbd",
        &uri,
        "--iodepth=16",
        "--size=24M",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--do_verify=1",
        "--output-format=json",
    ];
    args.extend(job);
    let directory = format!("--aux-path={}", dir.display());
    args.push(&directory);
    let text = tool("fio", "fio", &args);
    let start = text.find('{').unwrap();
    let result: Value = serde_json::from_str(&text[start..]).unwrap();
    let job = &result["jobs"][0];
    assert_eq!(job["error"], 0, "{text}");
    assert!(job["write"]["io_bytes"].as_u64().unwrap() > 8 * MIB, "{text}");
    assert!(job["read"]["io_bytes"].as_u64().unwrap() > 8 * MIB, "{text}");
}

#[test]
fn requests_at_every_limit() {
    let e = Export::start(1);
    let socket = e.socket(0);
    for replies in [Replies::Simple, Replies::Structured] {
        let mut c = Client::open(&socket, "r0", replies).unwrap();
        let size = c.size_bytes;
        let longest = info(&e.unix_uri(0))["block_size_maximum"].as_u64().unwrap() as usize;

        // The longest request, and odd ones that touch the end.
        let data = noise(size, longest);
        c.write(512, &data, 0).unwrap();
        assert!(c.read(512, longest as u32).unwrap() == data);
        for sectors in [1, 3, 7, 129, 2047, 2049] {
            let data = noise(sectors, sectors as usize * 512);
            let offset = size - data.len() as u64;
            c.write(offset, &data, nbd_client::FUA).unwrap();
            assert!(c.read(offset, data.len() as u32).unwrap() == data);
        }

        // What is refused leaves the connection usable.
        let sector = noise(3, 512);
        assert_eq!(c.write(size, &sector, 0), Err(ENOSPC));
        assert_eq!(c.write(size - 512, &noise(4, 1024), 0), Err(ENOSPC));
        assert_eq!(c.write(u64::MAX - 511, &sector, 0), Err(ENOSPC));
        assert_eq!(c.read(size - 512, 1024), Err(EINVAL));
        assert_eq!(c.read(u64::MAX, 512), Err(EINVAL));
        assert_eq!(c.read(1, 512), Err(EINVAL));
        assert_eq!(c.write(0, &noise(5, 100), 0), Err(EINVAL));
        assert_eq!(c.read(0, 0), Err(EINVAL));
        assert_eq!(c.plain(TRIM, 0, size - 512, 1024), Err(EINVAL));
        assert_eq!(c.plain(WRITE_ZEROES, 0, size, !511), Err(ENOSPC));
        assert_eq!(c.plain(77, 0, 0, 0), Err(EINVAL));
        assert!(c.read(512, longest as u32).unwrap() == data[..longest], "nothing of that was written");

        // A write beyond the limit is refused before its data comes, and that is the end of the connection.
        let mut greedy = Client::open(&socket, "r0", replies).unwrap();
        let cookie = greedy.start(nbd_client::WRITE, 0, (0, longest as u32 + 512), &[]);
        assert_eq!(greedy.finish(cookie, None), Err(EINVAL));
        assert_eq!(greedy.socket.read(&mut [0]).unwrap(), 0);

        // The whole device at once.
        c.plain(TRIM, 0, 0, u32::try_from(size).unwrap()).unwrap();
        c.flush().unwrap();
        assert!(c.read(512, longest as u32).unwrap().iter().all(|b| *b == 0));
        c.write(0, &data, 0).unwrap();
        c.plain(WRITE_ZEROES, nbd_client::FUA, 0, u32::try_from(size).unwrap()).unwrap();
        assert!(c.read(0, longest as u32).unwrap().iter().all(|b| *b == 0));
        c.write(1024, &data, 0).unwrap();
        c.close();
        e.assert_equal();
    }
}

#[test]
fn a_flush_on_one_connection_covers_what_another_reads() {
    let e = Export::start(1);
    let mut writer = Client::open(&e.socket(0), "r0", Replies::Structured).unwrap();
    let mut reader = Client::open(&e.socket(0), "r0", Replies::Simple).unwrap();
    for round in 0..50u64 {
        let data = noise(round, 12 << 10);
        writer.write(round * 5120, &data, 0).unwrap();
        if round % 2 == 0 {
            writer.flush().unwrap()
        } else {
            reader.flush().unwrap()
        }
        assert!(reader.read(round * 5120, 12 << 10).unwrap() == data);
        let uri = e.tcp_uri(0);
        if round % 10 == 0 {
            let byte = format!("read -P {} {} 1", data[0], round * 5120);
            tool("qemu-utils", "qemu-io", &["-f", "raw", "-c", &byte, &uri]);
        }
    }
    e.assert_equal();
}
