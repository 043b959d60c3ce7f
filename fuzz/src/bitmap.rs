//! The bitmap as it lies on a disk: pages of any content into a bitmap of any length, then changes of all kinds,
//! compared with a list of bits.

use replicator::bitmap::{Bitmap, DirtyKind};

use super::input::Input;

const PAGE_BYTES: usize = 4096;

/// One input.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let Some(size) = input.two() else { return };
    // Up to three pages.
    let bits = 1 + u64::from(size) * 3 / 2;
    let mut bitmap = Bitmap::new(bits);
    let mut model = vec![false; bits as usize];
    while let Some(op) = input.byte() {
        let (Some(a), Some(b)) = (input.two(), input.two()) else { break };
        let (first, last) = (u64::from(a), u64::from(a) + u64::from(b));
        let len = model.len() as u64;
        let range = first.min(len) as usize..(last + 1).min(len) as usize;
        match op % 8 {
            0 => set(&mut model, range, true, |n| assert_eq!(bitmap.set_range(first, last), n)),
            1 => set(&mut model, range, false, |n| assert_eq!(bitmap.clear_range(first, last), n)),
            2 | 3 => load(&mut bitmap, &mut model, op, &mut input),
            4 => {
                let words: Vec<u64> = input.up_to(64).chunks_exact(8).map(word).collect();
                let at = usize::from(a) % (bitmap.words().len() + 1);
                let words = &words[..words.len().min(bitmap.words().len() - at)];
                bitmap.merge_words(at, words);
                for (i, bit) in model.iter_mut().enumerate().skip(at * 64).take(words.len() * 64) {
                    *bit |= words[i / 64 - at] >> (i % 64) & 1 == 1;
                }
            }
            5 => {
                let bits = 1 + u64::from(a) * 3 / 2;
                bitmap.resize(bits, op & 16 != 0);
                model.resize(bits as usize, op & 16 != 0);
            }
            6 => {
                let mut pages = Vec::new();
                bitmap.take_dirty_pages(DirtyKind::Any, usize::from(b), &mut pages);
                assert!(pages.iter().all(|p| *p < bitmap.pages()));
            }
            _ => {
                let from_there = |wanted| model.iter().skip(usize::from(a)).position(|bit| *bit == wanted);
                let found = |at: Option<usize>| at.map(|i| i as u64 + first);
                assert_eq!(bitmap.next_set(first), found(from_there(true)));
                assert_eq!(bitmap.next_clear(first), found(from_there(false)));
                let count = model[range].iter().filter(|bit| **bit).count() as u64;
                assert_eq!(bitmap.count_range(first, last), count);
            }
        }
        bitmap.check_invariants();
        assert_eq!(bitmap.bits(), model.len() as u64);
    }
    assert_eq!(bitmap.count(), model.iter().filter(|bit| **bit).count() as u64);
    assert!(model.iter().enumerate().all(|(i, bit)| bitmap.test(i as u64) == *bit));
}

fn set(model: &mut [bool], range: std::ops::Range<usize>, to: bool, check: impl FnOnce(u64)) {
    check(model[range.clone()].iter().filter(|bit| **bit != to).count() as u64);
    model[range].fill(to);
}

/// A page as an attach reads it: short input is repeated.
fn load(bitmap: &mut Bitmap, model: &mut [bool], op: u8, input: &mut Input<'_>) {
    let page = u32::from(op >> 3) % bitmap.pages();
    let len = usize::from(op >> 2) + 1;
    let part = input.up_to(len);
    if part.is_empty() {
        return;
    }
    let bytes: Vec<u8> = part.iter().copied().cycle().take(PAGE_BYTES).collect();
    bitmap.load_page(page, &bytes);
    let first = page as usize * PAGE_BYTES * 8;
    for (i, bit) in model.iter_mut().skip(first).take(PAGE_BYTES * 8).enumerate() {
        *bit = bytes[i / 8] >> (i % 8) & 1 == 1;
    }
}

fn word(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}
