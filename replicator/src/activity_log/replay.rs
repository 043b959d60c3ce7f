//! What the activity log said at the crash: the extents whose blocks have to be taken as out of sync
//! (drbd-metadata 6.6). Pure: the bytes of the ring in, extents out.

use alloc::vec::Vec;

use thiserror::Error;

use super::transaction::{AL_BLOCK_BYTES, AL_SLOTS_MAX, AlBlock, AlBlockKind, AlRing, EXTENT_FREE};

/// Result of reading a ring.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Replay {
    /// Extents that may have had writes in flight, ascending, each once.
    pub hot: Vec<u32>,
    /// The ring holds at least one update transaction, so it has to be made anew once `hot` is in the bitmap.
    pub has_updates: bool,
    /// Number of the newest update transaction.
    pub newest: Option<u32>,
    /// Blocks that are no valid transaction. One is normal: the block being written at the crash.
    pub corrupt_blocks: u32,
    /// Entries with a slot number no log can have; reported and ignored.
    pub bad_slots: u32,
}

/// The ring does not tell which extents were hot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum ReplayError {
    /// Not one valid block.
    #[error("No usable activity log found. Do you need to create-md?")]
    NoUsableLog,
    /// Valid blocks, but none of them an update, and not because nothing was ever written.
    #[error("No valid AL update transaction found.")]
    NoUpdate,
}

/// Reads a ring. `area` holds all its blocks in disk order.
///
/// Panics if `area` is not exactly `ring.blocks()` blocks long.
pub fn replay(ring: AlRing, area: &[u8]) -> Result<Replay, ReplayError> {
    let (blocks, rest) = area.as_chunks::<AL_BLOCK_BYTES>();
    assert!(rest.is_empty() && blocks.len() == ring.blocks() as usize, "ring bytes and geometry disagree");
    let at = |position: u32| AlBlock::decode(&blocks[ring.block_of_position(position) as usize]);

    let survey = survey(ring, at);
    if survey.valid == 0 {
        return Err(ReplayError::NoUsableLog);
    }
    let corrupt_blocks = ring.blocks() - survey.valid;
    let Some((oldest, newest)) = survey.updates else {
        // Only the very first transaction can be torn without leaving another one: nothing was hot before it.
        let first_was_torn = corrupt_blocks == 1 && at(0).is_err();
        return if corrupt_blocks == 0 || first_was_torn {
            Ok(Replay { corrupt_blocks, ..Replay::default() })
        } else {
            Err(ReplayError::NoUpdate)
        };
    };

    // As long as the highest slot that is named: a small log does not pay for the largest one.
    let mut table = Vec::new();
    let mut bad_slots = 0;
    let mut position = oldest.position;
    loop {
        if let Ok(block) = at(position)
            && block.kind() == AlBlockKind::Update
        {
            bad_slots += apply(&block, &mut table);
        }
        if position == newest.position {
            break;
        }
        position = (position + 1) % ring.blocks();
    }
    Ok(Replay {
        hot: sorted(table),
        has_updates: true,
        newest: Some(newest.number),
        corrupt_blocks,
        bad_slots,
    })
}

/// The log of DRBD 8.3: `area` is the log area, `slot_count` the `al_nr_extents` of the super block. Every extent
/// any valid sector names is taken as hot, whatever its age: that contains what a replay in order would find.
// spec: drbd-metadata 6.6, old AL format
pub fn replay_legacy(area: &[u8], slot_count: u32) -> Result<Replay, ReplayError> {
    const SECTOR: usize = 512;
    const PAIRS: usize = 62;
    let (sectors, _) = area.as_chunks::<SECTOR>();
    let used = 1 + slot_count.div_ceil(61) as usize;
    let word =
        |s: &[u8; SECTOR], i: usize| u32::from_be_bytes([s[4 * i], s[4 * i + 1], s[4 * i + 2], s[4 * i + 3]]);
    let mut found = Replay::default();
    let mut valid = 0;
    for sector in sectors.iter().take(used) {
        let extents = (0..PAIRS).map(|pair| word(sector, 3 + 2 * pair));
        let sum = extents.clone().fold(0, |sum, extent| sum ^ extent);
        if word(sector, 0) != LEGACY_MAGIC || word(sector, 2 + 2 * PAIRS) != sum {
            found.corrupt_blocks += 1;
            continue;
        }
        valid += 1;
        found.hot.extend(extents.filter(|extent| *extent != EXTENT_FREE));
    }
    if valid == 0 {
        return Err(ReplayError::NoUsableLog);
    }
    found.has_updates = true;
    found.hot.sort_unstable();
    found.hot.dedup();
    Ok(found)
}

/// Neither of the first two blocks has the magic of the present format: the area was last written by DRBD 8.3
/// (only to be asked for the default ring and the clean-looking super block magic).
pub fn looks_legacy(area: &[u8]) -> bool {
    let (blocks, _) = area.as_chunks::<AL_BLOCK_BYTES>();
    blocks.iter().take(2).all(|block| block[..4] != [0x69, 0xCB, 0x65, 0xA2])
        && blocks.first().is_some_and(|block| block[..4] == LEGACY_MAGIC.to_be_bytes())
}

const LEGACY_MAGIC: u32 = 0x8374_0267;

#[derive(Clone, Copy)]
struct Found {
    position: u32,
    number: u32,
}

struct Survey {
    valid: u32,
    /// Oldest and newest update transaction.
    updates: Option<(Found, Found)>,
}

fn survey<'a>(
    ring: AlRing,
    at: impl Fn(u32) -> Result<AlBlock<'a>, super::transaction::AlBlockError>,
) -> Survey {
    let mut survey = Survey { valid: 0, updates: None };
    for position in 0..ring.blocks() {
        let Ok(block) = at(position) else { continue };
        survey.valid += 1;
        if block.kind() != AlBlockKind::Update {
            continue;
        }
        let found = Found { position, number: block.number() };
        let (oldest, newest) = survey.updates.get_or_insert((found, found));
        // The number wraps: only differences have a sign.
        if (found.number.wrapping_sub(oldest.number) as i32) < 0 {
            *oldest = found;
        }
        if (found.number.wrapping_sub(newest.number) as i32) > 0 {
            *newest = found;
        }
    }
    survey
}

/// Applies one transaction; returns how many entries named an impossible slot.
fn apply(block: &AlBlock<'_>, table: &mut Vec<u32>) -> u32 {
    let mut bad_slots = 0;
    let updates = block.updates().map(|u| (u32::from(u.slot), u.extent));
    for (slot, extent) in block.context().chain(updates) {
        let slot = slot as usize;
        if slot >= AL_SLOTS_MAX as usize {
            bad_slots += 1;
            continue;
        }
        if slot >= table.len() {
            table.resize(slot + 1, EXTENT_FREE);
        }
        table[slot] = extent;
    }
    bad_slots
}

fn sorted(table: Vec<u32>) -> Vec<u32> {
    let mut hot: Vec<u32> = table.into_iter().filter(|extent| *extent != EXTENT_FREE).collect();
    hot.sort_unstable();
    hot.dedup();
    hot
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::super::transaction::{AlUpdate, encode_initialized, encode_update};
    use super::*;

    fn fresh(ring: AlRing) -> Vec<u8> {
        let mut block = [0; AL_BLOCK_BYTES];
        encode_initialized(&mut block);
        block.repeat(ring.blocks() as usize)
    }

    fn block_mut(area: &mut [u8], block: u32) -> &mut [u8; AL_BLOCK_BYTES] {
        &mut area.as_chunks_mut::<AL_BLOCK_BYTES>().0[block as usize]
    }

    fn write(area: &mut [u8], number: u32, slots: u16, table: &mut [u32], updates: &[(u16, u32)]) {
        let updates: Vec<AlUpdate> =
            updates.iter().map(|&(slot, extent)| AlUpdate { slot, extent }).collect();
        let block = block_mut(area, AlRing::DEFAULT.block_of_transaction(number));
        encode_update(block, number, slots, 0, &updates, |slot| table[slot as usize]);
        for u in &updates {
            table[u.slot as usize] = u.extent;
        }
    }

    #[test]
    fn fresh_ring_has_nothing_hot() {
        let area = fresh(AlRing::DEFAULT);
        assert_eq!(replay(AlRing::DEFAULT, &area), Ok(Replay::default()));
    }

    #[test]
    fn blank_area_is_no_log() {
        assert_eq!(replay(AlRing::DEFAULT, &[0; 8 * AL_BLOCK_BYTES]), Err(ReplayError::NoUsableLog));
    }

    #[test]
    fn only_the_first_transaction_may_be_torn_alone() {
        let mut area = fresh(AlRing::DEFAULT);
        area[600] ^= 1;
        let found = replay(AlRing::DEFAULT, &area).unwrap();
        assert_eq!((found.hot.len(), found.corrupt_blocks, found.has_updates), (0, 1, false));

        let mut area = fresh(AlRing::DEFAULT);
        area[AL_BLOCK_BYTES + 600] ^= 1;
        assert_eq!(replay(AlRing::DEFAULT, &area), Err(ReplayError::NoUpdate));
        area[600] ^= 1;
        assert_eq!(replay(AlRing::DEFAULT, &area), Err(ReplayError::NoUpdate));
    }

    #[test]
    fn numbers_that_wrap_are_followed_in_order() {
        // golden images, table B
        let mut area = fresh(AlRing::DEFAULT);
        let mut table = [EXTENT_FREE; 67];
        write(&mut area, 4294967293, 67, &mut table, &[(66, 1)]);
        write(&mut area, 4294967294, 67, &mut table, &[(65, 2)]);
        write(&mut area, 4294967295, 67, &mut table, &[(64, 3)]);
        write(&mut area, 0, 67, &mut table, &[(66, 4), (65, 5)]);
        write(&mut area, 1, 67, &mut table, &[(63, 6)]);
        assert_eq!(replay(AlRing::DEFAULT, &area).unwrap().hot, [3, 4, 5, 6]);
        // the newest one torn: what it would have added is missing, what it would have replaced is still there
        block_mut(&mut area, 1)[4000] ^= 0xFF;
        let torn = replay(AlRing::DEFAULT, &area).unwrap();
        assert_eq!((torn.hot.as_slice(), torn.corrupt_blocks), (&[3, 4, 5][..], 1));
    }

    #[test]
    fn impossible_slots_are_counted_and_ignored() {
        let mut area = fresh(AlRing::DEFAULT);
        let updates = [AlUpdate { slot: 65534, extent: 9 }, AlUpdate { slot: 5, extent: 8 }];
        encode_update(block_mut(&mut area, 0), 0, 67, 0, &updates, |_| EXTENT_FREE);
        let found = replay(AlRing::DEFAULT, &area).unwrap();
        assert_eq!((found.hot.as_slice(), found.bad_slots), (&[8][..], 1));
    }

    #[test]
    fn old_format_names_every_extent_it_knows() {
        let mut area = vec![0u8; 8 * AL_BLOCK_BYTES];
        let mut sector = [0u32; 128];
        sector[0] = LEGACY_MAGIC;
        sector[1] = 17;
        for pair in 0..62 {
            sector[2 + 2 * pair] = pair as u32;
            sector[3 + 2 * pair] = if pair < 2 { 40 + pair as u32 } else { EXTENT_FREE };
        }
        sector[126] = (0..62).fold(0, |sum, pair| sum ^ sector[3 + 2 * pair]);
        for (i, word) in sector.iter().enumerate() {
            area[4 * i..4 * i + 4].copy_from_slice(&word.to_be_bytes());
        }
        assert!(looks_legacy(&area));
        assert_eq!(replay_legacy(&area, 67).unwrap().hot, [40, 41]);
        assert!(!looks_legacy(&fresh(AlRing::DEFAULT)));
        area[13] ^= 1;
        assert_eq!(replay_legacy(&area, 67), Err(ReplayError::NoUsableLog));
    }

    proptest::proptest! {
        /// Valid checksums around hostile content: every slot, extent and count value.
        #[test]
        fn any_content_is_replayed_without_a_panic(
            words in proptest::collection::vec(proptest::num::u32::ANY, 64), start: u16, size: u16, count: u16,
            number: u32,
        ) {
            let mut area = fresh(AlRing::DEFAULT);
            for position in 0..8u32 {
                let block = block_mut(&mut area, position);
                encode_update(block, number.wrapping_mul(position), 67, 0, &[], |slot| words[slot as usize % 64]);
                block[14..16].copy_from_slice(&count.to_be_bytes());
                block[16..18].copy_from_slice(&size.to_be_bytes());
                block[18..20].copy_from_slice(&start.to_be_bytes());
                for (i, word) in words.iter().enumerate() {
                    block[36 + 2 * i..38 + 2 * i].copy_from_slice(&(*word as u16).to_be_bytes());
                }
                super::super::transaction::seal(block);
            }
            let found = replay(AlRing::DEFAULT, &area).unwrap();
            proptest::prop_assert_eq!(found.corrupt_blocks, 0);
            proptest::prop_assert!(found.hot.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }
}
