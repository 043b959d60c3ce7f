//! The 4 KiB transaction block of the activity log and its place in the ring (drbd-metadata 6.2, 6.3).

use thiserror::Error;

/// Bytes of one transaction block, which is written as a whole.
pub const AL_BLOCK_BYTES: usize = 4096;
/// Most slots one transaction can change.
pub const AL_UPDATES_MAX: usize = 64;
/// Slots whose content one transaction repeats.
pub const AL_CONTEXT_SLOTS: usize = 919;
/// Fewest slots (`al-extents`) that may be configured: the longest request, 128 MiB, touches 33 extents.
pub const AL_SLOTS_MIN: u16 = 67;
/// Fewest slots a log works with, if no request touches more extents.
pub const AL_SLOTS_LEAST: u16 = 2;
/// Slots when nothing is configured.
pub const AL_SLOTS_DEFAULT: u16 = 1237;
/// Most slots a log may have, given a ring that is large enough.
pub const AL_SLOTS_MAX: u16 = 65534;
/// Content of a slot that holds no extent.
pub const EXTENT_FREE: u32 = 0xFFFF_FFFF;
/// Slot number of an unused update entry.
pub const SLOT_UNUSED: u16 = 0xFFFF;

const MAGIC: u32 = 0x69CB_65A2;
const TYPE_UPDATE: u16 = 0;
const TYPE_INITIALIZED: u16 = 0xFFFF;
const RING_BLOCKS_MIN: u64 = 8;
const RING_BLOCKS_MAX: u64 = 4_194_304;

const OFFSET_MAGIC: usize = 0;
const OFFSET_NUMBER: usize = 4;
const OFFSET_CRC: usize = 8;
const OFFSET_TYPE: usize = 12;
const OFFSET_UPDATE_COUNT: usize = 14;
const OFFSET_CONTEXT_SIZE: usize = 16;
const OFFSET_CONTEXT_START: usize = 18;
const OFFSET_UPDATE_SLOTS: usize = 36;
const OFFSET_UPDATE_EXTENTS: usize = OFFSET_UPDATE_SLOTS + 2 * AL_UPDATES_MAX;
const OFFSET_CONTEXT: usize = OFFSET_UPDATE_EXTENTS + 4 * AL_UPDATES_MAX;

const _: () = assert!(OFFSET_UPDATE_EXTENTS == 164 && OFFSET_CONTEXT == 420);
const _: () = assert!(OFFSET_CONTEXT + 4 * AL_CONTEXT_SLOTS == AL_BLOCK_BYTES);

/// Geometry of the ring of transaction blocks: `stripes * stripe_size_4k` blocks of 4 KiB.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AlRing {
    stripes: u32,
    stripe_size_4k: u32,
}

/// The two striping fields do not describe a usable ring (drbd-metadata 5, check 5).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("invalid activity log striping: al_stripes={stripes}, al_stripe_size_4k={stripe_size_4k}")]
pub struct StripingError {
    /// Number of stripes found.
    pub stripes: u32,
    /// 4 KiB blocks per stripe found.
    pub stripe_size_4k: u32,
}

impl AlRing {
    /// One stripe of 32 KiB, what create-md makes unless told otherwise.
    pub const DEFAULT: AlRing = AlRing { stripes: 1, stripe_size_4k: 8 };

    /// Checks the two fields of a super block. Both zero means an old super block: the default.
    pub const fn new(stripes: u32, stripe_size_4k: u32) -> Result<AlRing, StripingError> {
        if stripes == 0 && stripe_size_4k == 0 {
            return Ok(AlRing::DEFAULT);
        }
        let blocks = stripes as u64 * stripe_size_4k as u64;
        if blocks < RING_BLOCKS_MIN || blocks > RING_BLOCKS_MAX {
            return Err(StripingError { stripes, stripe_size_4k });
        }
        Ok(AlRing { stripes, stripe_size_4k })
    }

    /// Number of stripes.
    pub const fn stripes(self) -> u32 {
        self.stripes
    }

    /// 4 KiB blocks per stripe.
    pub const fn stripe_size_4k(self) -> u32 {
        self.stripe_size_4k
    }

    /// Number of transaction blocks in the ring.
    pub const fn blocks(self) -> u32 {
        self.stripes * self.stripe_size_4k
    }

    /// Size of the activity log area in sectors.
    pub const fn sectors(self) -> u32 {
        self.blocks() * 8
    }

    /// 4 KiB block, counted from the start of the area, of ring position `position < blocks()`.
    pub const fn block_of_position(self, position: u32) -> u32 {
        (position % self.stripes) * self.stripe_size_4k + position / self.stripes
    }

    /// 4 KiB block, counted from the start of the area, where transaction `number` is written.
    // spec: drbd-metadata 6.3
    pub const fn block_of_transaction(self, number: u32) -> u32 {
        self.block_of_position(number % self.blocks())
    }

    /// Number of the transaction behind `number`. Where it wraps, those are left out that would not go on in the ring: replay
    /// follows positions, and what the ring does not hold in one piece is lost.
    pub const fn number_after(self, number: u32) -> u32 {
        match number.checked_add(1) {
            Some(next) => next,
            None => (number % self.blocks() + 1) % self.blocks(),
        }
    }

    /// Most slots this ring can carry, so that it always holds every slot's content (drbd-metadata 6.1).
    pub const fn slots_max(self) -> u16 {
        if self.blocks() > 72 {
            return AL_SLOTS_MAX;
        }
        let by_context = (self.blocks() - 1) * AL_CONTEXT_SLOTS as u32;
        if by_context < AL_SLOTS_MAX as u32 { by_context as u16 } else { AL_SLOTS_MAX }
    }

    /// The configured `al-extents`, silently moved into the range this ring allows. Whoever takes it from a user raises
    /// it to [`AL_SLOTS_MIN`] before.
    pub fn clamp_slots(self, configured: u32) -> u16 {
        configured.clamp(u32::from(AL_SLOTS_LEAST), u32::from(self.slots_max())) as u16
    }
}

/// Why a block of the ring is not a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum AlBlockError {
    /// The magic is missing.
    #[error("no activity log magic")]
    Magic,
    /// The checksum is wrong: a torn write, or rot.
    #[error("activity log checksum is 0x{found:08x}, computed 0x{computed:08x}")]
    Checksum {
        /// Stored in the block.
        found: u32,
        /// Computed over the block.
        computed: u32,
    },
    /// A type this version of the format does not have.
    #[error("unknown activity log transaction type 0x{0:04x}")]
    Type(u16),
}

/// What a valid block says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AlBlockKind {
    /// Changes of slots.
    Update,
    /// Written when the ring was made; no content.
    Initialized,
}

/// A slot gets a new content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AlUpdate {
    /// Slot, below the number of slots.
    pub slot: u16,
    /// 4 MiB extent, or [`EXTENT_FREE`].
    pub extent: u32,
}

/// A valid transaction block. Magic, checksum and type have been checked; slot numbers and extents have not.
#[derive(Clone, Copy)]
pub struct AlBlock<'a> {
    raw: &'a [u8; AL_BLOCK_BYTES],
    kind: AlBlockKind,
}

impl<'a> AlBlock<'a> {
    /// Checks magic, checksum and type.
    pub fn decode(raw: &'a [u8; AL_BLOCK_BYTES]) -> Result<AlBlock<'a>, AlBlockError> {
        if be32(raw, OFFSET_MAGIC) != MAGIC {
            return Err(AlBlockError::Magic);
        }
        let (found, computed) = (be32(raw, OFFSET_CRC), checksum(raw));
        if found != computed {
            return Err(AlBlockError::Checksum { found, computed });
        }
        let kind = match be16(raw, OFFSET_TYPE) {
            TYPE_UPDATE => AlBlockKind::Update,
            TYPE_INITIALIZED => AlBlockKind::Initialized,
            other => return Err(AlBlockError::Type(other)),
        };
        Ok(AlBlock { raw, kind })
    }

    /// What the block says.
    pub fn kind(&self) -> AlBlockKind {
        self.kind
    }

    /// Transaction number.
    pub fn number(&self) -> u32 {
        be32(self.raw, OFFSET_NUMBER)
    }

    /// Number of slots of the log that wrote the block.
    pub fn context_size(&self) -> u16 {
        be16(self.raw, OFFSET_CONTEXT_SIZE)
    }

    /// Number of updates, as written.
    pub fn update_count(&self) -> u16 {
        be16(self.raw, OFFSET_UPDATE_COUNT)
    }

    /// Stored checksum.
    pub fn crc(&self) -> u32 {
        be32(self.raw, OFFSET_CRC)
    }

    /// Updates that carry something: the counted ones, and any entry beyond with a slot number.
    pub fn updates(&self) -> impl Iterator<Item = AlUpdate> + use<'a> {
        let (raw, count) = (self.raw, self.update_count() as usize);
        (0..AL_UPDATES_MAX).filter_map(move |i| {
            let slot = be16(raw, OFFSET_UPDATE_SLOTS + 2 * i);
            let extent = be32(raw, OFFSET_UPDATE_EXTENTS + 4 * i);
            (i < count || slot != SLOT_UNUSED).then_some(AlUpdate { slot, extent })
        })
    }

    /// Contents of slots before the updates: `(slot, extent)`, without the filler behind the last slot. The slot
    /// is a `u32` because a damaged start can lead beyond 65535.
    pub fn context(&self) -> impl Iterator<Item = (u32, u32)> + use<'a> {
        let raw = self.raw;
        let start = u32::from(be16(raw, OFFSET_CONTEXT_START));
        let size = u32::from(self.context_size());
        (0..AL_CONTEXT_SLOTS).filter_map(move |i| {
            let slot = start + i as u32;
            let extent = be32(raw, OFFSET_CONTEXT + 4 * i);
            (extent != EXTENT_FREE || slot < size).then_some((slot, extent))
        })
    }
}

/// Writes an update transaction. `context(slot)` gives the content of a slot *before* `updates`.
///
/// Panics if there are more than 64 updates or `context_start` is not below `context_size`.
// spec: drbd-metadata 6.4 step 3
pub fn encode_update(
    block: &mut [u8; AL_BLOCK_BYTES],
    number: u32,
    context_size: u16,
    context_start: u16,
    updates: &[AlUpdate],
    context: impl Fn(u16) -> u32,
) {
    assert!(updates.len() <= AL_UPDATES_MAX, "too many updates");
    assert!(context_start < context_size, "context starts behind the last slot");
    block.fill(0);
    put32(block, OFFSET_MAGIC, MAGIC);
    put32(block, OFFSET_NUMBER, number);
    put16(block, OFFSET_TYPE, TYPE_UPDATE);
    put16(block, OFFSET_UPDATE_COUNT, updates.len() as u16);
    put16(block, OFFSET_CONTEXT_SIZE, context_size);
    put16(block, OFFSET_CONTEXT_START, context_start);
    for i in 0..AL_UPDATES_MAX {
        let update = updates.get(i).copied().unwrap_or(AlUpdate { slot: SLOT_UNUSED, extent: EXTENT_FREE });
        put16(block, OFFSET_UPDATE_SLOTS + 2 * i, update.slot);
        put32(block, OFFSET_UPDATE_EXTENTS + 4 * i, update.extent);
    }
    for i in 0..AL_CONTEXT_SLOTS {
        let slot = u32::from(context_start) + i as u32;
        let extent = if slot < u32::from(context_size) { context(slot as u16) } else { EXTENT_FREE };
        put32(block, OFFSET_CONTEXT + 4 * i, extent);
    }
    let crc = checksum(block);
    put32(block, OFFSET_CRC, crc);
}

/// Writes the block every position of a fresh ring holds.
pub fn encode_initialized(block: &mut [u8; AL_BLOCK_BYTES]) {
    block.fill(0);
    put32(block, OFFSET_MAGIC, MAGIC);
    put16(block, OFFSET_TYPE, TYPE_INITIALIZED);
    let crc = checksum(block);
    put32(block, OFFSET_CRC, crc);
}

/// CRC-32C over the block with the checksum field as zero, initial value 0 and no inversion at the end: the two
/// inversions here undo those of the crate.
// spec: drbd-metadata 6.2
fn checksum(block: &[u8; AL_BLOCK_BYTES]) -> u32 {
    let head = crc32c::crc32c_append(!0, &block[..OFFSET_CRC]);
    let field = crc32c::crc32c_append(head, &[0; 4]);
    !crc32c::crc32c_append(field, &block[OFFSET_CRC + 4..])
}

/// Makes the checksum right after a test changed something.
#[cfg(test)]
pub(super) fn seal(block: &mut [u8; AL_BLOCK_BYTES]) {
    let crc = checksum(block);
    put32(block, OFFSET_CRC, crc);
}

fn be16(raw: &[u8; AL_BLOCK_BYTES], at: usize) -> u16 {
    u16::from_be_bytes([raw[at], raw[at + 1]])
}

fn be32(raw: &[u8; AL_BLOCK_BYTES], at: usize) -> u32 {
    u32::from_be_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]])
}

fn put16(raw: &mut [u8; AL_BLOCK_BYTES], at: usize, value: u16) {
    raw[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

fn put32(raw: &mut [u8; AL_BLOCK_BYTES], at: usize, value: u32) {
    raw[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn initialized_block_has_the_published_checksum() {
        let mut block = [0xAA; AL_BLOCK_BYTES];
        encode_initialized(&mut block);
        assert_eq!(be32(&block, OFFSET_CRC), 0x709C_C651);
        let decoded = AlBlock::decode(&block).unwrap();
        assert_eq!((decoded.kind(), decoded.number()), (AlBlockKind::Initialized, 0));
        assert!(block[16..].iter().all(|b| *b == 0));
    }

    #[test]
    fn update_round_trips_and_every_flipped_byte_is_noticed() {
        let mut block = [0; AL_BLOCK_BYTES];
        let updates = [AlUpdate { slot: 66, extent: 4 }, AlUpdate { slot: 65, extent: EXTENT_FREE }];
        encode_update(&mut block, 0xFFFF_FFFF, 67, 3, &updates, |slot| u32::from(slot) * 10);
        let decoded = AlBlock::decode(&block).unwrap();
        assert_eq!(decoded.number(), 0xFFFF_FFFF);
        assert_eq!((decoded.context_size(), decoded.update_count()), (67, 2));
        assert_eq!(decoded.updates().collect::<Vec<_>>(), updates);
        let context: Vec<_> = decoded.context().collect();
        assert_eq!(context, (3..67).map(|s| (s, s * 10)).collect::<Vec<_>>());
        for at in 0..AL_BLOCK_BYTES {
            let mut torn = block;
            torn[at] ^= 0x10;
            assert!(AlBlock::decode(&torn).is_err(), "byte {at}");
        }
    }

    #[test]
    fn unknown_type_is_refused() {
        let mut block = [0; AL_BLOCK_BYTES];
        encode_initialized(&mut block);
        put16(&mut block, OFFSET_TYPE, 7);
        let crc = checksum(&block);
        put32(&mut block, OFFSET_CRC, crc);
        assert_eq!(AlBlock::decode(&block).err(), Some(AlBlockError::Type(7)));
    }

    #[test]
    fn positions_follow_the_stripes() {
        let ring = AlRing::new(4, 4).unwrap();
        // golden images, table C
        for (number, block) in [(0, 0), (1, 4), (2, 8), (3, 12), (4, 1), (14, 11), (15, 15), (16, 0), (20, 1)]
        {
            assert_eq!(ring.block_of_transaction(number), block);
        }
        for (number, block) in [(4294967293, 5), (4294967295, 7), (0, 0)] {
            assert_eq!(AlRing::DEFAULT.block_of_transaction(number), block);
        }
        let mut seen: Vec<u32> = (0..16).map(|p| ring.block_of_position(p)).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..16).collect::<Vec<_>>());
    }

    #[test]
    fn ring_limits() {
        assert_eq!(AlRing::new(0, 0), Ok(AlRing::DEFAULT));
        for (stripes, size) in [(0, 8), (1, 0), (1, 7), (4_194_305, 1), (u32::MAX, u32::MAX)] {
            assert!(AlRing::new(stripes, size).is_err());
        }
        assert!(AlRing::new(1, 4_194_304).is_ok());
        assert_eq!(AlRing::DEFAULT.slots_max(), 6433);
        assert_eq!(AlRing::new(1, 72).unwrap().slots_max(), 65249);
        assert_eq!(AlRing::new(1, 73).unwrap().slots_max(), 65534);
        assert_eq!(AlRing::DEFAULT.clamp_slots(0), 2);
        assert_eq!(AlRing::DEFAULT.clamp_slots(65534), 6433);
        assert_eq!(AlRing::DEFAULT.sectors(), 64);
    }
}
