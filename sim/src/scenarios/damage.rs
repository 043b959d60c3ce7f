//! What a stream of packets may suffer on its way: it ends in the middle of one, a header is damaged, something comes
//! that nobody sent. The connection is given up, and nothing of it is taken for anything else.

use super::*;
use crate::hooks::Damage;

/// The pair writes while the n-th packet from now suffers, comes together again, and both copies are equal.
fn under_load(seed: u64, suffers: impl Fn(&mut World)) -> World {
    let mut w = pair(seed);
    suffers(&mut w);
    let sector = seed % 40 * 8;
    let tag = w.request(0, SimOp::Write { sector, count: 1 + seed % 12, fua: false });
    let flush = w.request(0, SimOp::Flush);
    w.run_for(ms(200));
    scribble(&mut w, 0, 10, 400);
    for _ in 0..10 {
        for n in 0..2 {
            if w.state(n).0 == ConnState::StandAlone {
                w.connect(n, &net());
            }
        }
        if w.run_until(secs(5), |w| w.in_sync() && w.is_idle()) {
            break;
        }
    }
    for t in [tag, flush] {
        assert_eq!(wait(&mut w, t).0, ClientResult::Ok, "the own copy is good");
    }
    heals(&mut w);
    w
}

/// A line of the trace has this text.
fn traced(w: &World, text: &str) -> bool {
    w.trace.iter().flatten().any(|l| l.contains(text))
}

#[test]
fn a_stream_that_ends_in_the_middle_of_a_packet() {
    let mut ended = 0;
    for seed in 0..120 {
        let w = under_load(seed, |w| w.hooks.severed_at = Some((w.hooks.sent + 1 + seed % 12, seed * 7919)));
        ended += w.tally.severed;
        assert!(!traced(&w, "protocol error"), "an end is no error of the peer");
        assert!(traced(&w, "-> BrokenPipe") || traced(&w, "-> NetworkFailure"), "but it is noticed");
    }
    assert_eq!(ended, 120);
}

#[test]
fn a_bit_of_a_header_flips() {
    for seed in 0..150 {
        let w = under_load(seed, |w| {
            w.hooks.garbled_at = Some(w.hooks.sent + 1 + seed % 10);
            w.hooks.damage = Damage::Header(seed * 7);
        });
        // Of a packet that is about no volume the number of the volume says nothing.
        let refused = ["protocol error", "unknown volume", "Connection closed"];
        assert!(seed * 7 % 5 == 1 || refused.iter().any(|r| traced(&w, r)), "seed {seed}");
    }
}

#[test]
fn bytes_that_nobody_sent() {
    for seed in 0..60 {
        let w = under_load(seed, |w| {
            w.hooks.garbled_at = Some(w.hooks.sent + 1 + seed % 10);
            w.hooks.damage = Damage::Prefix(1 + seed as usize % 30);
        });
        assert!(traced(&w, "protocol error"), "seed {seed}");
    }
}

/// A resync after a cut; the i-th packet from the heal on has a damaged volume number.
fn resync_with(damaged: Option<u64>) -> World {
    let mut w = pair(1);
    w.cut(true);
    w.run_for(secs(5));
    assert_eq!(write(&mut w, 0, 40, 8), ClientResult::Ok);
    w.hooks.packets.clear();
    w.hooks.damage = Damage::Header(1);
    w.hooks.garbled_at = damaged.map(|i| w.hooks.sent + 1 + i);
    w.cut(false);
    assert!(w.run_until(secs(60), |w| w.in_sync() && w.is_idle()), "packet {damaged:?}: {:?}", w.volume(0));
    heals(&mut w);
    w
}

/// Sizes, generations and states of a volume that nobody has announced were passed over, as those of a volume that only the
/// peer has: what they said of one of ours was lost, and both nodes waited for it.
#[test]
fn the_volume_of_what_the_peer_says_of_itself_is_damaged() {
    let whole = resync_with(None);
    let mut tried = 0;
    for (i, packet) in whole.hooks.packets.iter().enumerate() {
        if matches!(packet.header.command, Wire::Sizes | Wire::Uuids | Wire::State) {
            let w = resync_with(Some(i as u64));
            assert!(traced(&w, "unknown volume"), "packet {i}, {:?}", packet.header.command);
            tried += 1;
        }
    }
    assert!(tried >= 8, "{tried}");
}
