//! What clients do to a connected pair.

use crate::lab::{DISK_BYTES, Lab, Setup};
use crate::node::Io;

/// Sizes and alignments from one sector to 1 MiB, FUA, discards, zeroes, flushes.
fn writes(lab: &mut Lab, p: usize, net: &str) -> String {
    lab.pair(&Setup { net: net.to_owned(), ..Setup::default() }, p);
    let mut count = 0;
    let mut bytes = 0;
    let sizes = [512, 1024, 4096, 4608, 7168, 65536, 131_072, 262_144, 1 << 20];
    for (i, len) in sizes.into_iter().enumerate() {
        for shift in [0, 512, 3584] {
            let offset = (i as u64) * (2 << 20) + shift * 3;
            let data = lab.write(p, offset, len);
            assert!(lab.nodes[p].read(offset, len).expect("a read") == data, "{len} at {offset}");
            count += 1;
            bytes += len;
        }
    }
    let data = lab.noise(4096);
    lab.nodes[p].io(Io::WriteFua, 20 << 20, &data).expect("a write with FUA");
    lab.nodes[p].flush();
    let end = DISK_BYTES - (2 << 20);
    lab.write(p, end, 1 << 19);
    for (io, offset, len) in [(Io::Discard, end, 1 << 18), (Io::Zeroes, end + (1 << 18), 1 << 17)] {
        let none = vec![0; len];
        lab.nodes[p].io(io, offset, &none).unwrap_or_else(|e| panic!("{io:?}: {e}"));
        assert!(lab.nodes[p].read(offset, len).expect("a read") == none, "{io:?} leaves zeroes");
    }
    lab.connected(p);
    lab.finish();
    format!("{count} writes, {} KiB", bytes >> 10)
}

pub fn protocol_c(lab: &mut Lab, p: usize) -> String {
    writes(lab, p, "protocol C;")
}

pub fn protocol_b(lab: &mut Lab, p: usize) -> String {
    writes(lab, p, "protocol B;")
}

pub fn protocol_a(lab: &mut Lab, p: usize) -> String {
    writes(lab, p, "protocol A;")
}

/// Every block on the wire carries its digest.
pub fn integrity(lab: &mut Lab, p: usize) -> String {
    writes(lab, p, "protocol C; data-integrity-alg sha1;")
}

/// As few writes in an epoch, and as few buffers for the peer, as may be. In protocol B a clean disconnect, too, while the peer
/// still has much to write: all of it is acknowledged before the goodbye is.
pub fn small_limits(lab: &mut Lab, p: usize) -> String {
    let one_by_one = writes(lab, p, "protocol C; max-epoch-size 1; max-buffers 32;");
    let net = "protocol B; max-epoch-size 3; max-buffers 32;".to_owned();
    lab.pair(&Setup { net, ..Setup::default() }, p);
    let load = lab.nodes[p].load("--bs=16k --iodepth=32", 2);
    let written = load.finish();
    lab.connected(p);
    lab.finish();
    format!("{one_by_one}; then {} KiB in 2 s", written.expect("the load is not disturbed"))
}
