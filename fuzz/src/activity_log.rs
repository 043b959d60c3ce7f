//! The activity log: blocks whose checksum is right but whose content is anything, and the replay of a ring of them.

use replicator::activity_log::replay::{looks_legacy, replay, replay_legacy};
use replicator::activity_log::transaction::{AL_BLOCK_BYTES, AlRing};

/// As the block has it: over everything, the field itself being zero, without the final complement.
fn seal(block: &mut [u8]) {
    let head = crc32c::crc32c_append(!0, &block[..8]);
    let field = crc32c::crc32c_append(head, &[0; 4]);
    let crc = !crc32c::crc32c_append(field, &block[12..]);
    block[8..12].copy_from_slice(&crc.to_be_bytes());
}

/// One input.
pub fn run(data: &[u8]) {
    let [stripes, size, how, bytes @ ..] = data else { return };
    let Ok(ring) = AlRing::new(u32::from(stripes % 4), u32::from(size % 16)) else { return };
    let mut area = vec![0; ring.blocks() as usize * AL_BLOCK_BYTES];
    let part = bytes.len() / ring.blocks() as usize;
    for (i, block) in area.chunks_exact_mut(AL_BLOCK_BYTES).enumerate() {
        let from = &bytes[i * part..(i + 1) * part];
        let len = from.len().min(block.len() - 4);
        block[..4].copy_from_slice(&[0x69, 0xcb, 0x65, 0xa2]);
        block[4..4 + len].copy_from_slice(&from[..len]);
        if how & (1 << (i % 8)) == 0 {
            seal(block);
        }
    }
    let _ = replay(ring, &area);
    let _ = looks_legacy(bytes);
    let _ = replay_legacy(bytes, u32::from_le_bytes([*stripes, *size, *how, *how]));
}
