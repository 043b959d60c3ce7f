//! What a node knows after a loss of power, over every image of its metadata that can be found then.
//!
//! Sectors survive each on their own, so that the images are the product of what super block, ring and every sector
//! of the bitmap may hold. Super block and ring are taken through the production decoders in every combination of
//! their sectors; a bit is looked up in every version of its sector. A block is covered when no combination of the
//! three leaves it out, which needs no list of the combinations.

use std::collections::BTreeSet;

use replicator::activity_log::replay::replay;
use replicator::meta::layout::{Layout, MetaKind};
use replicator::meta::superblock::{MetaFlags, SuperBlock};

use super::media::Raw;
use super::station::{BLOCK_SECTORS, Station};

/// More combinations than this in super block or ring are refused rather than sampled.
const COMBINATIONS_MAX: usize = 1 << 16;
/// Sectors of the metadata device of a station.
const META_SECTORS: u64 = 4096;
const BITS_PER_SECTOR: u64 = 4096;
const BLOCKS_PER_EXTENT: u64 = 1024;

/// What one image of the super block says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Head {
    primary: bool,
    full_sync: bool,
}

/// What may be found at one place.
struct Found {
    layout: Layout,
    heads: BTreeSet<Head>,
    /// Extents that are hot in every image of the ring.
    always_hot: BTreeSet<u32>,
}

/// Everything that can be found.
#[derive(Default)]
pub struct Images {
    /// Version of the metadata that this was made from.
    version: Option<u64>,
    found: Vec<Found>,
    /// Combinations looked at so far.
    pub combinations: u64,
}

impl Images {
    /// Looks at all images, if something changed since the last time.
    pub fn look(&mut self, node: &Station) {
        let version = Some(node.media.meta.version);
        if self.version == version {
            return;
        }
        self.version = version;
        self.found.clear();
        for layout in &node.places {
            let (heads, absent) = self.look_at_heads(node, layout);
            let counts = heads.iter().any(|h| !h.full_sync);
            let always_hot = if counts { self.look_at_rings(node, layout) } else { BTreeSet::new() };
            self.found.push(Found { layout: *layout, heads, always_hot });
            if !absent {
                return;
            }
        }
        panic!("some image has no metadata at any place");
    }

    /// What the super block may say, and whether in some images there is none, and the next place counts.
    fn look_at_heads(&mut self, node: &Station, layout: &Layout) -> (BTreeSet<Head>, bool) {
        let (mut heads, mut absent) = (BTreeSet::new(), false);
        let mut raw = vec![0; 4096];
        let sectors = match layout.kind() {
            MetaKind::Internal => layout.superblock_sector() + 8,
            MetaKind::FlexibleExternal | MetaKind::Indexed(_) => META_SECTORS,
        };
        self.combinations += every(node, layout.superblock_sector(), &mut raw, |raw| {
            let Ok(sb) = SuperBlock::decode(raw.try_into().expect("eight sectors")) else {
                absent = true;
                return;
            };
            sb.check_for_tools(layout.kind(), sectors).expect("that fits the device");
            heads.insert(Head {
                primary: sb.flags.has(MetaFlags::PRIMARY_IND),
                full_sync: sb.flags.has(MetaFlags::FULL_SYNC),
            });
        });
        (heads, absent)
    }

    fn look_at_rings(&mut self, node: &Station, layout: &Layout) -> BTreeSet<u32> {
        let ring = layout.ring();
        let mut area = vec![0; ring.blocks() as usize * 4096];
        let mut always: Option<BTreeSet<u32>> = None;
        self.combinations += every(node, layout.al_sector(), &mut area, |area| {
            let found = replay(ring, area).expect("the activity log always replays");
            assert_eq!(found.bad_slots, 0);
            assert!(found.corrupt_blocks <= 1, "one transaction is under way at most");
            let hot: BTreeSet<u32> = found.hot.into_iter().collect();
            if let Some(stranger) = hot.difference(&node.ever_hot).next() {
                panic!("extent {stranger} is hot though nobody wrote to it");
            }
            always = Some(match always.take() {
                None => hot,
                Some(before) => &before & &hot,
            });
        });
        always.expect("there is one image at least")
    }

    /// The bit of a block is set in every version of its sector.
    fn always_marked(node: &Station, layout: &Layout, block: u64) -> bool {
        let sector = layout.bitmap_sector() + block / BITS_PER_SECTOR;
        let bit = (block % BITS_PER_SECTOR) as usize;
        node.media.meta.after_power_loss(sector).iter().all(|raw| raw[bit / 8] >> (bit % 8) & 1 == 1)
    }

    /// Whatever is found, it says that the block may differ.
    pub fn covers(&self, node: &Station, block: u64) -> bool {
        let extent = (block / BLOCKS_PER_EXTENT) as u32;
        self.found.iter().all(|f| {
            let by_log = f.always_hot.contains(&extent);
            let marked = Images::always_marked(node, &f.layout, block);
            f.heads.iter().all(|head| head.full_sync || marked || head.primary && by_log)
        })
    }

    /// A loss of power may leave nothing but the wish for a full sync.
    pub fn asks_for_full_sync(&self) -> bool {
        self.found.iter().any(|f| f.heads.iter().any(|h| h.full_sync))
    }
}

/// Calls `look` with every combination of what the sectors from `first` on may hold; returns how many there are.
/// Sectors whose versions are equal count once.
fn every(node: &Station, first: u64, bytes: &mut [u8], mut look: impl FnMut(&[u8])) -> u64 {
    let mut loose: Vec<(usize, Vec<Raw>)> = Vec::new();
    for (i, place) in bytes.chunks_mut(512).enumerate() {
        let versions: Vec<Raw> = node.media.meta.after_power_loss(first + i as u64).into_iter().collect();
        place.copy_from_slice(&versions[0]);
        if versions.len() > 1 {
            loose.push((i, versions));
        }
    }
    let combinations: usize = loose.iter().map(|(_, versions)| versions.len()).product();
    assert!(combinations <= COMBINATIONS_MAX, "{combinations} combinations");
    for mut number in 0..combinations {
        for (i, versions) in &loose {
            bytes[i * 512..][..512].copy_from_slice(&versions[number % versions.len()]);
            number /= versions.len();
        }
        look(bytes);
    }
    combinations as u64
}

/// First block of the extent of a block, and the number of its extent.
pub fn extent_of(block: u64) -> u32 {
    (block / BLOCKS_PER_EXTENT) as u32
}

/// Sectors of so many activity log extents.
pub const fn sectors_of_extents(extents: u64) -> u64 {
    extents * BLOCKS_PER_EXTENT * BLOCK_SECTORS
}
