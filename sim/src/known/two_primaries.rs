//! Two Primaries at once, as for live migration or a cluster file system.

use super::*;
use crate::hooks::FencePeer;
use crate::rng::Rng;
use model::policy::Fencing;
use model::state::Role;

fn both_net() -> NetConfig {
    NetConfig { allow_two_primaries: true, ..net() }
}

/// A connected pair of two Primaries.
fn two_primaries(seed: u64, disk: &DiskConfig) -> World {
    let mut w = nodes(seed, SECTORS, [disk.clone(), disk.clone()], 1);
    w.two_primaries = true;
    link_up(&mut w, &both_net());
    skip_initial_sync(&mut w, 0);
    for n in 0..2 {
        assert_eq!(primary(&mut w, n), OK);
    }
    w
}

/// Line dual-primary: writes of both nodes cross, whole and in part. Each ends, and both copies hold the same.
#[test]
fn crossing_writes() {
    for k in 0..150 {
        let mut w = two_primaries(k, &DiskConfig::default());
        let mut rng = Rng::new(k);
        w.weather = Weather { disk_us: 1 + rng.below(300), net_us: 1 + rng.below(300), ..w.weather };
        for _ in 0..6 {
            let mut tags = Vec::new();
            for _ in 0..12 {
                let (sector, count) = (rng.below(6), 1 + rng.below(8));
                tags.push(
                    w.request(rng.below(2) as usize, SimOp::Write { sector, count, fua: rng.one_in(5) }),
                );
                if rng.one_in(3) {
                    events(&mut w, rng.below(20));
                }
            }
            for t in tags {
                is_done(&mut w, t);
            }
            assert!(w.run_until(secs(5), |w| w.is_idle() && w.in_sync()), "{:?}", w.volume(0));
            w.check_disks();
            for n in 0..2 {
                for sector in 0..14 {
                    read(&mut w, n, sector).expect("a good copy serves reads");
                }
            }
        }
        assert_eq!(secondary(&mut w, 1), OK);
        assert_eq!(secondary(&mut w, 0), OK);
        ends_well_with(&mut w, &[both_net(), both_net()]);
    }
}

/// A node hands the device over while both are Primary, as for live migration, and nothing is copied.
#[test]
fn handing_over() {
    let mut w = two_primaries(1, &DiskConfig::default());
    let before = uuids(&w, 0);
    for n in [0, 1, 0, 1] {
        put(&mut w, n, 5 + n as u64);
        assert_eq!(secondary(&mut w, n), OK);
        put(&mut w, 1 - n, 7);
        assert_eq!(primary(&mut w, n), OK);
    }
    assert!(uuids(&w, 0)[0].same_as(before[0]));
    assert_eq!((resync_bytes(&w, 0), resync_bytes(&w, 1)), (0, 0));
    for n in 0..2 {
        assert_eq!(secondary(&mut w, n), OK);
    }
    ends_well_with(&mut w, &[both_net(), both_net()]);
}

/// Where only one may be Primary the second one is refused, also after both could be; and that cannot be taken back while
/// they are.
#[test]
fn permission() {
    let mut w = two_primaries(2, &DiskConfig::default());
    assert_ne!(w.command_and_wait(0, Command::NetOptions(Box::new(net()))), OK);
    assert_eq!(secondary(&mut w, 1), OK);
    assert_eq!(w.command_and_wait(0, Command::NetOptions(Box::new(net()))), OK);
    w.run_for(secs(1));
    w.two_primaries = false;
    assert_ne!(primary(&mut w, 1), OK);
    ends_well(&mut w);
}

/// The link breaks between two Primaries that write: two pasts, and both say so.
#[test]
fn link_loss() {
    for k in 0..20 {
        let mut w = two_primaries(k, &DiskConfig::default());
        for n in 0..2 {
            begin(&mut w, n, 3 + n as u64);
        }
        events(&mut w, k);
        cut(&mut w);
        put(&mut w, 0, 5);
        put(&mut w, 1, 6);
        w.two_primaries = false;
        for n in 0..2 {
            assert_eq!(secondary(&mut w, n), OK);
        }
        ends_apart(&mut w, (k % 2) as usize);
    }
}

/// DRBD 8.4.7: the mark of a crashed Primary outweighed the peer, which still was Primary and only frozen.
#[test]
fn frozen_primary_made_target() {
    for k in 0..20 {
        let disk = DiskConfig { fencing: Fencing::ResourceAndStonith, ..DiskConfig::default() };
        let mut w = two_primaries(k, &disk);
        for h in &mut w.hooks.handlers {
            h.fence_peer = FencePeer::Answers { exit_code: 1, after: secs(1) };
        }
        put(&mut w, 0, 1);
        let crossing = [begin(&mut w, 0, 2), begin(&mut w, 1, 3)];
        events(&mut w, k);
        cut(&mut w);
        let tag = begin(&mut w, 0, 5);
        w.run_for(secs(2));
        assert!(w.volume(0).is_some_and(|s| s.susp_fen) && w.volume(1).is_some_and(|s| s.susp_fen));
        w.crash(1, false);
        w.start(1);
        w.connect(1, &both_net());
        w.cut(false);
        is_done(&mut w, tag);
        let _ = answer(&mut w, crossing[0]);
        assert_eq!(role(&w, 0), Role::Primary);
        heals(&mut w);
        assert_eq!(secondary(&mut w, 0), OK);
        ends_well_with(&mut w, &[both_net(), both_net()]);
    }
}
