//! The super block, its checks, and the layout that follows from it.

use replicator::meta::layout::MetaKind;
use replicator::meta::superblock::{SUPERBLOCK_BYTES, SuperBlock};

/// One input.
pub fn run(data: &[u8]) {
    let Some((head, rest)) = data.split_first_chunk::<10>() else { return };
    let sectors = u64::from_le_bytes(*head.first_chunk().expect("ten bytes"));
    let kind = [MetaKind::Internal, MetaKind::FlexibleExternal, MetaKind::Indexed(u32::from(head[9]))]
        [usize::from(head[8]) % 3];
    let mut raw = [0; SUPERBLOCK_BYTES];
    let len = rest.len().min(raw.len());
    raw[..len].copy_from_slice(&rest[..len]);
    // The magic is never found by chance.
    raw[60..64].copy_from_slice(&[0x83, 0x74, 0x02, 0x6b + (head[8] >> 7)]);
    let Ok(block) = SuperBlock::decode(&raw) else { return };
    let _ = block.check_for_attach(kind, sectors);
    let _ = block.check_for_tools(kind, sectors);
    let mut again = [0; SUPERBLOCK_BYTES];
    block.encode(&mut again);
    assert_eq!(SuperBlock::decode(&again), Ok(block));
}
