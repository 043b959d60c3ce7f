//! Resize: from either node, with a limit, assumed clean, alone; under writes, and what is refused.

use model::result_code::ConfigError;
use replicator::ResizeWish;

use super::*;

const BY: u64 = 5 * 8192;

fn size(w: &World, n: usize) -> u64 {
    w.nodes[n].core.as_ref().expect("it runs").size_sectors(VOL)
}

fn wish() -> ResizeWish {
    ResizeWish { limit_sectors: 0, assume_clean: false, assume_peer_has_space: false }
}

fn resize(w: &mut World, n: usize, wish: ResizeWish) -> CommandResult {
    w.command_and_wait(n, Command::Resize(VOL, wish))
}

fn grown_pair(seed: u64) -> World {
    let mut w = pair(seed);
    scribble(&mut w, 0, 50, SECTORS);
    for n in 0..2 {
        w.grow(n, BY);
    }
    w.hooks.packets.clear();
    w
}

/// Both nodes have that size, good copies, and nothing is marked.
fn becomes(w: &mut World, sectors: u64) {
    let done = |w: &World| all_current(w) && w.is_idle() && [size(w, 0), size(w, 1)] == [sectors; 2];
    assert!(w.run_until(secs(60), done), "{:?} {:?} {:?}", [size(w, 0), size(w, 1)], w.state(0), w.state(1));
    w.run_for(secs(1));
    w.check_disks();
    assert_eq!((marked(w, 0), marked(w, 1)), (0, 0));
}

/// Both disks have grown: a resize on either node makes the device larger on both, under writes, and brings what is new
/// and nothing else.
#[test]
pub(super) fn resize_online() {
    for n in 0..2 {
        for busy in [false, true] {
            let mut w = grown_pair(n as u64);
            let id = w.command(n, Command::Resize(VOL, wish()));
            if busy {
                scribble(&mut w, 0, 200, SECTORS);
            }
            becomes(&mut w, SECTORS + BY);
            assert!(w.take_answer(|a| matches!(a, Answer::Command(i, OK) if *i == id)).is_some());
            let brought = resync_bytes(&w, 0) + resync_bytes(&w, 1);
            assert!((BY * 512..BY * 512 + (2 << 20)).contains(&brought), "{brought}");
            assert_eq!(resync_bytes(&w, 1), 0, "from the Primary");
            assert_eq!(write(&mut w, 0, SECTORS + BY - 8, 8), ClientResult::Ok);
            ends_as_usual(&mut w);
            assert_eq!([size(&w, 0), size(&w, 1)], [SECTORS + BY; 2]);
        }
    }
}

/// A limit is kept, a smaller one shrinks the device, and what the new part holds may be declared the same.
#[test]
pub(super) fn resize_with_a_limit() {
    let mut w = grown_pair(7);
    assert_eq!(resize(&mut w, 0, ResizeWish { limit_sectors: SECTORS + 800, ..wish() }), OK);
    becomes(&mut w, SECTORS + 800);
    for n in [1, 0] {
        let limit_sectors = SECTORS - 80 * (2 - n as u64);
        assert_eq!(resize(&mut w, n, ResizeWish { limit_sectors, ..wish() }), OK, "shrinks, asked on {n}");
        becomes(&mut w, limit_sectors);
        let beyond = w.request(0, SimOp::Write { sector: limit_sectors, count: 8, fua: false });
        assert_eq!(wait(&mut w, beyond).0, ClientResult::Invalid);
    }
    // Whoever says so has seen to it.
    let content: Vec<u64> = (0..SECTORS + BY).map(|s| w.nodes[0].disk.read(s)).collect();
    w.nodes[1].disk.write(0, &content, true);
    w.hooks.packets.clear();
    assert_eq!(resize(&mut w, 0, ResizeWish { assume_clean: true, ..wish() }), OK);
    becomes(&mut w, SECTORS + BY);
    assert_eq!(resync_bytes(&w, 0) + resync_bytes(&w, 1), 0);
    ends_as_usual(&mut w);
}

/// Without a Primary, in a resync, without a disk: refused. A peer whose disk did not grow holds the device back.
#[test]
pub(super) fn resize_refused() {
    let mut w = grown_pair(8);
    assert_eq!(secondary(&mut w, 0), OK);
    assert_eq!(resize(&mut w, 0, wish()), CommandResult::Config(ConfigError::NoPrimary));
    assert_eq!(primary(&mut w, 0), OK);
    w.command(1, Command::PauseSync(VOL));
    assert_eq!(w.command_and_wait(1, Command::Invalidate(VOL)), OK);
    w.run_for(ms(100));
    assert_eq!(resize(&mut w, 0, wish()), CommandResult::Config(ConfigError::ResizeResync));
    w.command(1, Command::ResumeSync(VOL));
    assert!(w.run_until(secs(60), all_current));
    w.run_for(secs(1));
    assert_eq!(w.command_and_wait(0, Command::Detach { vol: VOL, force: false }), OK);
    assert_eq!(resize(&mut w, 0, wish()), CommandResult::Config(ConfigError::NoDisk));
    ends_as_usual(&mut w);
    let mut w = pair(9);
    w.grow(0, BY);
    assert_eq!(resize(&mut w, 0, wish()), OK);
    becomes(&mut w, SECTORS);
    ends_as_usual(&mut w);
}

/// Alone a device grows only by somebody's word that the peer's disk did; the peer follows when it is back, and gets the
/// new part.
#[test]
pub(super) fn resize_alone() {
    let mut w = grown_pair(10);
    w.cut(true);
    assert!(
        w.run_until(secs(30), |w| w.state(0).0 < ConnState::Connected && w.state(1).0 < ConnState::Connected)
    );
    assert_eq!(resize(&mut w, 0, wish()), OK);
    assert_eq!(size(&w, 0), SECTORS, "the peer cannot be asked");
    assert_eq!(resize(&mut w, 0, ResizeWish { assume_peer_has_space: true, ..wish() }), OK);
    assert_eq!(size(&w, 0), SECTORS + BY);
    assert_eq!(write(&mut w, 0, SECTORS + 64, 8), ClientResult::Ok);
    // Its daemon looks at the disk when it attaches it.
    w.crash(1, false);
    w.cut(false);
    settle(&mut w, &net());
    becomes(&mut w, SECTORS + BY);
    ends_as_usual(&mut w);
}
