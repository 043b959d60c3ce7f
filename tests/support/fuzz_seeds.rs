//! Seeds of the fuzz corpora, made from what the real programs wrote: captures, metadata images, configuration files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lockstep::daemon::control::{Action, Envelope, REQUEST_BYTES_MAX, Request, send_blocking};
use replicator::activity_log::transaction::AL_BLOCK_BYTES;
use replicator::meta::layout::MetaKind;
use replicator::meta::superblock::{SUPERBLOCK_BYTES, SuperBlock};
use replicator::wire::{Command as Wire, HeaderForm, Sock, Tail};

use crate::capture::{self, Capture, Captured};
use crate::targets::resource::op;

/// Captures that exist.
const CAPTURES: std::ops::RangeInclusive<u32> = 1..=28;
/// Longest seed: what is behind it repeats what came before.
const SEED_BYTES_MAX: usize = 2048;
/// Bits of the recorded devices.
const RECORDED_BITS: u16 = 4342;
/// Bytes of an activity log block that hold something: header, updates, context.
const USED_AL_BYTES: usize = 600;

/// Seeds by target.
pub fn all() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let captures: Vec<Capture> = CAPTURES.map(capture::read).collect();
    vec![
        ("activity_log", activity_log()),
        ("bitmap", bitmap()),
        ("bitmap_exchange", bitmap_exchange(&captures)),
        ("config", config()),
        ("control", control()),
        ("dump_text", dump_text()),
        ("failover_config", failover_config()),
        ("heartbeat", heartbeat()),
        ("nbd", nbd()),
        ("packet", packets(&captures)),
        ("pair", pair()),
        ("resource", resource(&captures)),
        ("smtp", smtp()),
        ("super_block", super_block()),
        ("vrrp_packet", vrrp_packets()),
        ("wire", wire(&captures)),
    ]
}

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

fn number_of(command: Wire) -> u8 {
    Wire::CATALOGUE.iter().position(|row| row.command == command).unwrap() as u8
}

/// One packet of every kind and length that was recorded.
fn packets(captures: &[Capture]) -> Vec<Vec<u8>> {
    let mut seen = BTreeSet::new();
    let mut seeds = Vec::new();
    for p in captures.iter().flat_map(|c| &c.packets) {
        if p.header.form != HeaderForm::H100 || !seen.insert((p.header.command, p.header.len)) {
            continue;
        }
        let sock = u8::from(p.sock == Sock::Meta);
        let extra = (p.header.len - p.header.command.row().fixed_bytes) as u16;
        let mut seed = vec![number_of(p.header.command), sock | (p.features.0 as u8) << 4];
        seed.extend_from_slice(&extra.to_le_bytes());
        seed.extend_from_slice(p.body());
        seed.truncate(SEED_BYTES_MAX);
        seeds.push(seed);
        if seen.len() > 80 {
            break;
        }
    }
    seeds
}

/// Lives that were recorded, as rows of datagrams: as they came, and signed again; and what only a bent one says.
fn heartbeat() -> Vec<Vec<u8>> {
    let mut seeds = BTreeSet::new();
    for entry in fs::read_dir(golden("failover/heartbeat")).unwrap() {
        let path = entry.unwrap().path();
        let file = fs::read(path).unwrap();
        let (mut rest, mut datagrams) = (&file[24..], Vec::new());
        while let Some((head, data)) = rest.split_first_chunk::<16>() {
            let len = u32::from_le_bytes([head[8], head[9], head[10], head[11]]) as usize;
            let (frame, after) = data.split_at(len);
            rest = after;
            if frame[12..15] == [0x08, 0x00, 0x45] && frame[23] == 17 {
                let bytes = usize::from(u16::from_be_bytes([frame[38], frame[39]]));
                datagrams.push(&frame[42..34 + bytes]);
            }
        }
        // The last ones are those of an end.
        let ends = datagrams.len().saturating_sub(8);
        for (how, range) in [(0, 0..datagrams.len().min(8)), (15, ends..datagrams.len())] {
            for pause in [8, 9] {
                let row =
                    datagrams[range.clone()].iter().flat_map(|d| [&[pause], *d, &[0xff, 0xff]].concat());
                seeds.insert([how].into_iter().chain(row).collect::<Vec<u8>>());
            }
        }
    }
    let beat = b"11:(0)t=status,12:(0)src=nodea,8:(0)seq=a,7:(0)hg=9,8:(0)ttl=3,";
    let ask = b"14:(0)t=NS_rexmit,12:(0)src=nodea,13:(0)dest=nodeb,7:(0)hg=9,13:(0)firstseq=1,13:(0)lastseq=ff,8:(0)ttl=3,";
    seeds.insert([&[0, 1], &beat[..], &[0xff, 0xff, 41], &ask[..]].concat());
    seeds.into_iter().collect()
}

/// Each advert that was recorded, as it came and to an instance that expects something else.
fn vrrp_packets() -> Vec<Vec<u8>> {
    let mut seeds = BTreeSet::new();
    for entry in fs::read_dir(golden("failover/vrrp")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "pcap") {
            continue;
        }
        let file = fs::read(path).unwrap();
        let mut rest = &file[24..];
        while let Some((head, data)) = rest.split_first_chunk::<16>() {
            let len = u32::from_le_bytes([head[8], head[9], head[10], head[11]]) as usize;
            let (frame, after) = data.split_at(len);
            rest = after;
            let (is_ipv6, protocol, payload) = match frame[12..14] {
                [0x08, 0x00] => (0, frame[23], &frame[34..]),
                [0x86, 0xdd] => (1, frame[20], &frame[54..]),
                _ => continue,
            };
            if protocol == 112 || protocol == 51 {
                seeds.extend([0, 8].map(|version| [&[version, is_ipv6, protocol], payload].concat()));
            }
        }
    }
    seeds.into_iter().collect()
}

/// A packet of every kind on every socket and with every set of features that was recorded, without block data.
fn wire(captures: &[Capture]) -> Vec<Vec<u8>> {
    let mut seen = BTreeSet::new();
    let mut seeds = Vec::new();
    for c in captures {
        for p in &c.packets {
            let how = 2 | u8::from(p.sock == Sock::Meta) << 2 | (p.features.0 as u8) << 4;
            if p.header.form != HeaderForm::H100 || !seen.insert((p.header.command, how)) {
                continue;
            }
            let mut seed = vec![how];
            seed.extend_from_slice(&p.bytes);
            seed.truncate(SEED_BYTES_MAX);
            seeds.push(seed);
        }
    }
    seeds
}

fn bitmap_exchange(captures: &[Capture]) -> Vec<Vec<u8>> {
    let is_bitmap = |p: &&Captured| matches!(p.header.command, Wire::Bitmap | Wire::CompressedBitmap);
    let mut seeds = BTreeSet::new();
    for c in captures {
        for node in [1, 2] {
            let mut seed = (RECORDED_BITS - 1).to_le_bytes().to_vec();
            for p in c.packets.iter().filter(is_bitmap).filter(|p| p.node == node) {
                seed.push(u8::from(p.header.command == Wire::CompressedBitmap));
                seed.extend_from_slice(&(p.body().len() as u16).to_le_bytes());
                seed.extend_from_slice(p.body());
            }
            if seed.len() > 2 && seed.len() < SEED_BYTES_MAX {
                seeds.insert(seed);
            }
        }
    }
    seeds.into_iter().take(12).collect()
}

/// The recorded peer of every conversation: what it said, with the disks, clients and answers in between.
fn resource(captures: &[Capture]) -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (i, c) in captures.iter().enumerate() {
        for node in [1u8, 2] {
            // Alternately with one volume and two, large and small, Primary and Secondary.
            let how = (i as u8 & 3) | (node & 1) << 6;
            let mut seed = vec![how, (i % 3) as u8, 0];
            let mut connections = BTreeSet::new();
            for p in &c.packets {
                if seed.len() > SEED_BYTES_MAX {
                    break;
                }
                say(&mut seed, p, node, connections.insert(p.connection));
            }
            seed.extend_from_slice(&[op::ECHO, 3, op::TIME, 5, op::DISKS]);
            if seed.len() > 60 {
                seeds.push(seed);
            }
        }
    }
    // A peer that says back what it hears.
    for how in [0u8, 1, 2, 0x40, 0x41, 0x42, 0x60] {
        let write = [op::REQUEST, 1, 9, 0, 3];
        let mut seed = vec![how, 0, 0, op::ECHO, 15];
        for _ in 0..4 {
            seed.extend_from_slice(&write);
            seed.extend_from_slice(&[op::DISKS, op::ECHO, 1, op::TIME, 1]);
        }
        seed.extend_from_slice(&[op::COMMAND, 9, 0, op::ECHO, 7, op::TIME, 2, op::ECHO, 7]);
        seeds.push(seed);
    }
    seeds
}

/// One recorded packet as operations of the target `resource`.
fn say(seed: &mut Vec<u8>, p: &Captured, peer: u8, is_new_connection: bool) {
    let sock = u8::from(p.sock == Sock::Meta);
    if is_new_connection {
        seed.extend_from_slice(&[op::ACCEPT, sock]);
        if sock == 1 {
            seed.extend_from_slice(&[op::TIME, 4]);
        }
    }
    let command = p.header.command;
    if p.node != peer {
        if command == Wire::Data {
            let sector = u64::from_be_bytes(p.body()[..8].try_into().unwrap());
            seed.extend_from_slice(&[op::REQUEST, 1, (sector / 8) as u8, 0, 7, op::DISKS]);
        }
        return;
    }
    match command {
        Wire::InitialData | Wire::InitialMeta => {}
        Wire::PingAck | Wire::WriteAck | Wire::RecvAck | Wire::BarrierAck | Wire::RsWriteAck => {
            seed.extend_from_slice(&[op::ANSWER, 0, 0, 0, 0]);
        }
        _ => {
            let row = command.row();
            let tail_bytes = p.body().len() as u32 - row.fixed_bytes;
            let tail = match row.tail {
                Tail::None | Tail::Ignored => 0,
                Tail::Body { min, .. } => tail_bytes.saturating_sub(min),
                Tail::Words => tail_bytes / 8,
                Tail::SizesExtension => tail_bytes / 24,
                Tail::Payload => p.payload.len() as u32 / 512 - 1,
            };
            seed.extend_from_slice(&[op::PACKET, sock, number_of(command), p.header.vnr as u8, tail as u8]);
            seed.extend_from_slice(&p.body()[..p.body().len().min(300)]);
            seed.push(op::DISKS);
        }
    }
}

/// Two cores that meet, write and are bent a little.
fn pair() -> Vec<Vec<u8>> {
    let quiet = [0u8; 40];
    let mut seeds = Vec::new();
    for how in [0u8, 1, 2, 4, 8, 16, 32, 64] {
        let mut seed = vec![how, 0, 0];
        seed.extend_from_slice(&quiet);
        for i in 0..20u8 {
            seed.extend_from_slice(&[i % 12, i * 7, i]);
        }
        seeds.push(seed);
    }
    seeds
}

/// Recorded metadata images with the kind of metadata they were made for.
fn images() -> Vec<(MetaKind, Vec<u8>)> {
    let mut names: Vec<PathBuf> =
        fs::read_dir(golden("metadata")).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|path| path.extension().is_some_and(|e| e == "zst"));
    names.sort();
    let unpack = |path: PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        // Larger ones differ in nothing that the targets look at.
        let large = name.starts_with("int-200m") && !name.contains("al-") || name.starts_with("indexed");
        if large {
            return None;
        }
        let kind = if name.starts_with("int") { MetaKind::Internal } else { MetaKind::FlexibleExternal };
        let output = Command::new("zstd").arg("-dcq").arg(&path).output().expect("the program zstd");
        assert!(output.status.success(), "{name}");
        Some((kind, output.stdout))
    };
    names.into_iter().filter_map(unpack).collect()
}

fn super_block_of(kind: MetaKind, image: &[u8]) -> [u8; SUPERBLOCK_BYTES] {
    let sector = replicator::meta::layout::superblock_sector(kind, image.len() as u64 / 512).unwrap();
    image[sector as usize * 512..][..SUPERBLOCK_BYTES].try_into().unwrap()
}

fn super_block() -> Vec<Vec<u8>> {
    let mut seeds = BTreeSet::new();
    for (kind, image) in images() {
        let sectors = image.len() as u64 / 512;
        let mut seed = sectors.to_le_bytes().to_vec();
        seed.extend_from_slice(&[u8::from(kind == MetaKind::FlexibleExternal), 0]);
        seed.extend_from_slice(&super_block_of(kind, &image)[..256]);
        seeds.insert(seed);
    }
    seeds.into_iter().collect()
}

fn activity_log() -> Vec<Vec<u8>> {
    let mut seeds = BTreeSet::new();
    for (kind, image) in images() {
        let Ok(sb) = SuperBlock::decode(&super_block_of(kind, &image)) else { continue };
        let Ok(layout) = sb.check_for_tools(kind, image.len() as u64 / 512) else { continue };
        let ring = layout.ring();
        let area = &image[layout.al_sector() as usize * 512..][..ring.blocks() as usize * AL_BLOCK_BYTES];
        let used: BTreeSet<&[u8]> = area.chunks(AL_BLOCK_BYTES).map(|b| &b[4..60]).collect();
        if used.len() < 3 {
            continue;
        }
        let mut seed = vec![ring.stripes() as u8, ring.stripe_size_4k() as u8, 0];
        for block in area.chunks(AL_BLOCK_BYTES) {
            seed.extend_from_slice(&block[4..4 + USED_AL_BYTES]);
        }
        seeds.insert(seed);
    }
    seeds.into_iter().take(5).collect()
}

fn bitmap() -> Vec<Vec<u8>> {
    let sizes: [[u8; 2]; 4] = [[0, 0], [63, 0], [255, 84], [255, 255]];
    let operations = |size: &[u8; 2]| {
        let mut seed = size.to_vec();
        for op in 0..40u8 {
            seed.extend_from_slice(&[op, op.wrapping_mul(37), op & 63, op.wrapping_mul(91), op >> 2]);
            seed.extend_from_slice(&[0xff, 0, op, 0x55, 0, 0, 0, 0x80]);
        }
        seed
    };
    sizes.iter().map(operations).collect()
}

fn dump_text() -> Vec<Vec<u8>> {
    let mut names: Vec<PathBuf> =
        fs::read_dir(golden("metadata")).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|p| p.to_str().is_some_and(|n| n.ends_with(".dump.txt") || n.contains("edited")));
    names.sort();
    let texts: BTreeSet<Vec<u8>> = names.iter().map(|p| fs::read(p).unwrap()).collect();
    texts.into_iter().filter(|t| t.len() < SEED_BYTES_MAX).take(20).collect()
}

fn config() -> Vec<Vec<u8>> {
    let mut seeds = BTreeSet::new();
    for folder in ["admin/conf", "admin/conf/bad", "admin/seed", "admin/conf/inc.d"] {
        for entry in fs::read_dir(golden(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                seeds.insert(fs::read(path).unwrap());
            }
        }
    }
    // Files that include each other are parts between zero bytes, by number.
    seeds.insert(b"include \"1\"; include \"2\";\0global { usage-count no; }\0include \"0\";".to_vec());
    seeds.into_iter().filter(|s| s.len() <= 2 * SEED_BYTES_MAX).collect()
}

fn failover_config() -> Vec<Vec<u8>> {
    let mut seeds = BTreeSet::new();
    for folder in ["failover/keepalived", "failover/vrrp", "../../res.d/failover"] {
        for entry in fs::read_dir(golden(folder)).unwrap() {
            seeds.insert(fs::read(entry.unwrap().path()).unwrap());
        }
    }
    let heartbeat = |name: &str| fs::read(golden("failover/heartbeat-lvs").join(name)).unwrap();
    seeds.insert(heartbeat("keepalived.conf"));
    seeds.insert([heartbeat("ha.cf"), heartbeat("haresources"), heartbeat("authkeys")].join(&0));
    let storage = b"alpha 10.0.0.9/24/eth0 drbddisk::r0 Filesystem::/dev/drbd0::/data::ext4 postgresql\n";
    seeds.insert([&b"node alpha beta\n"[..], storage, b"auth 1\n1 crc\n"].join(&0));
    seeds.insert(
        b"$N=x \\\n @a y\ninclude 1\n@^a include 2\n\0vrrp_script ${N} {\nscript $N\n}\n\0include 0\n"
            .to_vec(),
    );
    seeds.insert(fs::read(golden("../../model/tests/failover_everything.conf")).unwrap());
    seeds.into_iter().collect()
}

/// A server that takes a mail, an old one, one that takes it for one of two, and three that do not.
fn smtp() -> Vec<Vec<u8>> {
    let servers = [
        "\x00220 x ESMTP\r\n250 x\r\n250 ok\r\n250 ok\r\n251 ok\r\n354 go\r\n250 queued\r\n221 bye\r\n",
        "\x01220 x\n502 no\n250 x\n250\n550 no b\n250\n354\n250\n",
        "\x00220 x\r\n250 x\r\n250 ok\r\n450 later\r\n550 never\r\n221 bye\r\n",
        "\x40220-x\r\n220 x\r\n250 not asked\r\n",
        "\x03SSH-2.0-OpenSSH_9.2\r\n",
        "\x00421 busy\r\n",
    ];
    servers.map(|server| server.as_bytes().to_vec()).into()
}

fn control() -> Vec<Vec<u8>> {
    let targets = || vec!["r0".to_owned(), "r0/1".to_owned(), "minor-10".to_owned()];
    let run = |action| Request::Run { action, targets: targets() };
    let requests = [
        Request::Hello,
        Request::Status { targets: targets() },
        Request::Watch { targets: Vec::new() },
        run(Action::Up),
        run(Action::Detach { force: true }),
        run(Action::Connect { discard_my_data: true, tentative: false }),
        run(Action::Primary { force: false }),
        run(Action::NewCurrentUuid { clear_bitmap: true }),
    ];
    let message = |request: Request| {
        let mut framed = Vec::new();
        send_blocking(&mut framed, &Envelope::new(request), REQUEST_BYTES_MAX).unwrap();
        framed.split_off(4)
    };
    requests.into_iter().map(message).collect()
}

/// Options and requests of a client, in the notation of the target, and one stream of bytes as they are.
fn nbd() -> Vec<Vec<u8>> {
    const GO: u8 = 7;
    let option = |number: u8, data: &[u8]| [&[number, 0, data.len() as u8, 0], data].concat();
    let choose = [&[0, 0, 0, 2][..], b"r0", &[0, 1, 0, 1]].concat();
    let requests = [
        [0x80, 0, 0, 16, 1, 0].as_slice(),
        &[0x81, 1, 0, 2, 1, 0],
        &[0; 512],
        &[0x83, 0, 0, 0, 0, 0],
        &[0x84, 0, 0, 16, 8, 0],
        &[0x86, 2, 0, 16, 8, 0],
        &[0x87, 0, 0, 16, 8, 0],
        &[0x82, 0, 0, 0, 0, 0],
    ]
    .concat();
    let mut seeds = Vec::new();
    for how in [1u8, 3, 5] {
        for piece in [0u8, 20, 255] {
            let mut seed = vec![how, piece, 3];
            for number in [8, 3, 6, 9, 5] {
                let data = if number == 6 { &choose[..] } else { &[] };
                seed.extend_from_slice(&option(number, data));
            }
            seed.extend_from_slice(&option(GO, &choose));
            seed.extend_from_slice(&requests);
            seeds.push(seed);
        }
    }
    let raw = [&[0, 255, 0, 0, 0, 3][..], b"IHAVEOPT", &[0, 0, 0, 1, 0, 0, 0, 2], b"r0"].concat();
    seeds.push(raw);
    seeds
}
