//! Devices that grow with their metadata at the end: it moves, and whatever a loss of power leaves is looked at in both
//! places.

use replicator::{Command, CommandResult, ResizeWish, VolIdx};

use super::pair::{Pair, net};
use super::station::BLOCK_SECTORS;
use crate::rng::Rng;

const VOLUME: VolIdx = VolIdx(0);
/// By so much the devices grow: old and new place overlap, a little or by most of it, or do not.
const GROWTHS: [u64; 4] = [16, 72, 104, 3000];

fn resize() -> Command {
    let wish = ResizeWish { limit_sectors: 0, assume_clean: false, assume_peer_has_space: false };
    Command::Resize(VOLUME, wish)
}

fn sizes(pair: &Pair) -> [u64; 2] {
    [0, 1].map(|n: usize| pair.nodes[n].core.size_sectors(VOLUME))
}

/// A pair with some extents hot, both devices larger, a few writes under way.
fn grown(seed: u64, by: u64) -> Pair {
    let mut pair = Pair::internal(seed);
    for i in 0..12 {
        pair.write(i * 1024 + seed, 1);
        pair.answered();
    }
    let junk = 1 << 40;
    for n in 0..2 {
        pair.nodes[n].grow(by, junk + n as u64);
    }
    for i in 0..3 {
        pair.write(i * 1024 + 500, 2);
    }
    pair
}

/// Everything is as it should be, in the new part too.
fn ends(pair: &mut Pair) {
    let measured = pair.nodes[0].measured().capacity_sectors;
    pair.until("the copies are equal again, and larger", |p| p.in_sync() && sizes(p) == [measured; 2]);
    pair.answered();
    pair.settle();
    pair.compare(measured / BLOCK_SECTORS - 1);
    pair.check_equal();
}

#[test]
fn no_loss_of_power_finds_less_than_one_whole_place() {
    for by in GROWTHS {
        for seed in 0..3 {
            let mut pair = grown(seed, by);
            let id = pair.nodes[seed as usize % 2].command(pair.now, resize());
            let (mut full_sync, mut steps) = (false, 0);
            while sizes(&pair) != [pair.nodes[0].measured().capacity_sectors; 2] {
                pair.step();
                full_sync |= pair.may_need_full_sync();
                steps += 1;
                assert!(steps < 10_000, "the nodes grow");
            }
            assert_eq!(full_sync, by < 100, "only where the new place destroys the old one");
            assert_eq!(pair.nodes[seed as usize % 2].commands.get(&id), Some(&CommandResult::Ok));
            for i in 0..20 {
                pair.write(i * 1024 + 700, 1);
            }
            ends(&mut pair);
            pair.write(pair.nodes[0].measured().capacity_sectors / BLOCK_SECTORS - 1, 1);
            pair.answered();
            ends(&mut pair);
        }
    }
}

#[test]
fn a_node_that_loses_power_in_a_resize_comes_back_with_the_old_size_or_the_new_one() {
    for by in GROWTHS {
        for k in 0..24 {
            let mut pair = grown(k, by);
            pair.nodes[k as usize % 2].command(pair.now, resize());
            for _ in 0..k * 7 {
                pair.step();
            }
            let mut rng = Rng::new(k);
            let lost: &[usize] = [&[0][..], &[1], &[0, 1]][k as usize / 2 % 3];
            pair.checking = false;
            for n in lost {
                pair.lose_power(
                    *n,
                    |found| *found.first().expect("never empty"),
                    |found| *found.iter().nth(rng.below(found.len() as u64) as usize).expect("in range"),
                );
            }
            for n in lost {
                pair.attach(*n);
                pair.run(*n, Command::Connect(Box::new(net())));
            }
            pair.until("the nodes meet", Pair::in_sync);
            pair.settle();
            if sizes(&pair) != [pair.nodes[0].measured().capacity_sectors; 2] {
                // It came to nothing; an operator asks again, on a Primary.
                pair.run(0, Command::Primary { force: false });
                assert_eq!(pair.run(0, resize()), CommandResult::Ok);
            }
            ends(&mut pair);
        }
    }
}
