//! Which data is newer: presets, fresh and old disks, generations that change while nodes meet.

use super::*;
use model::ids::DataUuid;
use replicator::meta::superblock::MetaFlags;
use replicator::meta::uuids::Uuids;

const GOOD: MetaFlags = MetaFlags(MetaFlags::CONSISTENT.0 | MetaFlags::WAS_UP_TO_DATE.0);
/// The whole device in bytes.
const ALL: u64 = SECTORS * 512;

fn current(text: u64) -> Uuids {
    Uuids { current: DataUuid(text), ..Uuids::default() }
}

/// Two nodes that are down; the first one's disk has data from a time without a peer.
fn first_has_data(seed: u64) -> World {
    let mut w = nodes(seed, SECTORS, [DiskConfig::default(), DiskConfig::default()], 1);
    assert_eq!(w.command_and_wait(0, Command::Primary { force: true }), OK);
    for i in 0..20 {
        wrote(&mut w, 0, i * 128);
    }
    assert_eq!(secondary(&mut w, 0), OK);
    for n in 0..2 {
        w.crash(n, false);
    }
    w.hooks.record = true;
    w
}

fn up(w: &mut World) {
    for n in 0..2 {
        if w.nodes[n].core.is_none() {
            w.start(n);
            w.connect(n, &net());
        }
    }
    assert!(w.run_until(secs(30), both_connected), "{:?}", states(w));
}

/// Metadata that was prepared as UpToDate with a generation, and a fresh peer: a full sync in this direction.
#[test]
pub(super) fn initial_uuid_uptodate() {
    for n in 0..2 {
        let mut w = first_has_data(1);
        if n == 1 {
            w.nodes.swap(0, 1);
        }
        w.nodes[1 - n] = Node::new(SECTORS, DiskConfig::default());
        w.nodes[1 - n].incarnation = 7;
        preset(&mut w, n, |sb| (sb.uuids, sb.flags) = (current(0x1234_5678_9abc_def0), GOOD));
        up(&mut w);
        assert!(w.run_until(secs(60), all_current), "{:?}", states(&w));
        let mut wanted = [0; 2];
        wanted[n] = ALL;
        assert_eq!(brought(&w), wanted);
        assert!(uuids(&w, 0)[0].same_as(uuids(&w, 1)[0]));
        ends_as_usual(&mut w);
    }
}

/// Two disks with equal contents, prepared with the same generation, UpToDate and clean: nothing is copied.
#[test]
pub(super) fn pre_existing_data() {
    let mut w = first_has_data(1);
    w.nodes[1].disk = w.nodes[0].disk.clone();
    for n in 0..2 {
        preset(&mut w, n, |sb| (sb.uuids, sb.flags) = (current(0x1234_5678_9abc_def0), GOOD));
        let node = &mut w.nodes[n];
        node.disk.write_md(place(VOL, node.layout.bitmap_sector()), &[0; 4096], true);
    }
    up(&mut w);
    assert!(w.run_until(secs(5), all_current), "{:?}", states(&w));
    w.run_for(secs(5));
    assert_eq!((marked(&w, 0), marked(&w, 1)), (0, 0));
    assert_eq!(brought(&w), [0, 0]);
    assert_eq!(primary(&mut w, 0), OK);
    wrote(&mut w, 0, 64);
    ends_as_usual(&mut w);
}

/// Two fresh, connected nodes skip the first sync: both UpToDate, one generation, no bits.
#[test]
pub(super) fn skip_initial_sync() {
    for n in 0..2 {
        let mut w = fresh(11);
        link_up(&mut w, &net());
        w.run_for(ms(100));
        assert_eq!(w.command_and_wait(n, Command::NewCurrentUuid { vol: VOL, clear_bitmap: true }), OK);
        w.run_for(ms(100));
        assert!(all_current(&w), "{:?}", states(&w));
        let (a, b) = (uuids(&w, 0), uuids(&w, 1));
        assert!(a[0].same_as(b[0]) && !a[0].same_as(DataUuid::JUST_CREATED));
        assert_eq!((a[1], b[1]), (DataUuid::ZERO, DataUuid::ZERO));
        assert_eq!((marked(&w, 0), marked(&w, 1)), (0, 0));
        assert_eq!(primary(&mut w, 0), OK);
        scribble(&mut w, 0, 50, SECTORS);
        assert_eq!(brought(&w), [0, 0]);
        ends_as_usual(&mut w);
    }
}

/// A fresh node is forced to Primary alone and written; the peer joins and gets everything while the writes go on.
#[test]
pub(super) fn resync_initial() {
    for seed in 0..5 {
        let mut w = fresh(seed);
        assert_eq!(w.command_and_wait(0, Command::Primary { force: true }), OK);
        scribble(&mut w, 0, 50, SECTORS);
        for n in 0..2 {
            w.connect(n, &net());
        }
        assert!(w.run_until(secs(30), |w| conn(w, 1) == ConnState::SyncTarget), "{:?}", states(&w));
        scribble(&mut w, 0, 200, SECTORS);
        assert!(w.run_until(secs(60), all_current), "{:?}", states(&w));
        assert_eq!(roles(&w), [Role::Primary, Role::Secondary]);
        assert_eq!(brought(&w), [ALL, 0]);
        ends_as_usual(&mut w);
    }
}

/// A node comes back with a new disk: it gets everything and is never the source.
#[test]
pub(super) fn replaced_disk() {
    for n in 0..2 {
        let mut w = pair(2);
        scribble(&mut w, 0, 50, SECTORS);
        w.run_for(secs(1));
        w.crash(n, false);
        w.run_for(secs(2));
        if n == 0 {
            assert_eq!(primary(&mut w, 1), OK);
        }
        wrote(&mut w, 1 - n, 800);
        let incarnation = w.nodes[n].incarnation;
        w.nodes[n] = Node::new(SECTORS, DiskConfig::default());
        w.nodes[n].incarnation = incarnation;
        w.hooks.packets.clear();
        up(&mut w);
        assert!(w.run_until(secs(60), all_current), "{:?}", states(&w));
        let mut wanted = [0; 2];
        wanted[1 - n] = ALL;
        assert_eq!(brought(&w), wanted);
        ends_as_usual(&mut w);
    }
}

/// Equal generations, but one disk is Inconsistent or Outdated: the better one is the source, if there is anything to
/// bring; nobody refuses, nothing loops.
#[test]
pub(super) fn resync_based_on_disk_states() {
    for n in 0..2 {
        for (flags, bits) in [(MetaFlags(0), true), (MetaFlags(0), false), (MetaFlags::CONSISTENT, false)] {
            let mut w = pair(3);
            wrote(&mut w, 0, 64);
            assert_eq!(secondary(&mut w, 0), OK);
            w.run_for(secs(1));
            for m in 0..2 {
                w.crash(m, false);
            }
            preset(&mut w, n, |sb| sb.flags = flags);
            if bits {
                let node = &mut w.nodes[n];
                let mut page = [0; 4096];
                page[0] = 0xff;
                node.disk.write_md(place(VOL, node.layout.bitmap_sector()), &page, true);
            }
            w.hooks.packets.clear();
            up(&mut w);
            assert!(w.run_until(secs(30), all_current), "{flags:?} on node {}: {:?}", n + 1, states(&w));
            let mut wanted = [0; 2];
            wanted[1 - n] = if bits { 8 * 4096 } else { 0 };
            assert_eq!(brought(&w), wanted, "{flags:?} on node {}", n + 1);
            let loops = w.hooks.seen(0, Wire::ConnectionFeatures);
            assert_eq!(loops, 1, "one handshake is enough");
            ends_as_usual(&mut w);
        }
    }
}

/// A node is put back, metadata and all, to how its disk was one generation ago: it gets what it lacks from the peer,
/// and nobody speaks of unrelated data.
#[test]
pub(super) fn revert_older_data() {
    for n in 0..2 {
        let mut w = pair(4);
        wrote(&mut w, 0, 64);
        if n == 0 {
            assert_eq!(secondary(&mut w, 0), OK);
        }
        w.run_for(secs(1));
        w.crash(n, false);
        let snapshot = w.nodes[n].disk.clone();
        w.run_for(secs(2));
        if n == 0 {
            assert_eq!(primary(&mut w, 1), OK);
        }
        // A new generation, which both have later.
        wrote(&mut w, 1 - n, 128);
        up(&mut w);
        assert!(w.run_until(secs(60), all_current), "{:?}", states(&w));
        wrote(&mut w, 1 - n, 256);
        w.run_for(secs(1));
        w.crash(n, false);
        w.run_for(secs(2));
        wrote(&mut w, 1 - n, 512);
        w.nodes[n].disk = snapshot;
        w.hooks.packets.clear();
        up(&mut w);
        assert!(w.run_until(secs(60), all_current), "{:?}", states(&w));
        assert_eq!(brought(&w)[n], 0);
        ends_as_usual(&mut w);
    }
}

/// A node's own generation changes after it told the peer and before it compares: both still decide on the same sets.
#[test]
pub(super) fn uuid_send_receive_race() {
    type Act = fn(&mut World);
    // With the role of node 1 at the time.
    let acts: [(Role, Act); 7] = [
        (Role::Secondary, |w| _ = w.command(0, Command::Primary { force: false })),
        (Role::Secondary, |w| _ = w.command(1, Command::Primary { force: false })),
        (Role::Secondary, |w| _ = w.command(0, Command::Primary { force: true })),
        (Role::Primary, |w| _ = w.command(0, Command::Secondary { open: 0, force: false })),
        (Role::Primary, |w| _ = w.command(1, Command::Outdate(VOL))),
        (Role::Secondary, |w| _ = w.command(0, Command::Detach { vol: VOL, force: true })),
        (Role::Primary, |w| w.block(1, Blocked::Both)),
    ];
    for (i, (role_before, act)) in acts.into_iter().enumerate() {
        for packets in 2..20 {
            let mut w = small_pair(packets);
            wrote(&mut w, 0, 64);
            w.cut(true);
            w.run_for(secs(5));
            wrote(&mut w, 0, 128);
            if role_before == Role::Secondary {
                assert_eq!(secondary(&mut w, 0), OK);
            }
            let before = w.hooks.sent;
            w.cut(false);
            w.run_until(secs(20), |w| w.hooks.sent >= before + packets || both_connected(w));
            // A promotion before the handshake would be one without the peer.
            if i == 1 && conn(&w, 1) < ConnState::WFReportParams {
                continue;
            }
            act(&mut w);
            w.run_for(secs(5));
            w.block(1, Blocked::No);
            let met = |w: &World| both_connected(w) && w.same_connection();
            assert!(w.run_until(secs(30), met), "act {i} after {packets}: {:?}", states(&w));
            if states(&w)[0].1 != DiskState::Diskless {
                let (a, b) = (last_compared(&w, 0), last_compared(&w, 1));
                assert_eq!((&a[0], &a[1]), (&b[1], &b[0]), "act {i} after {packets}");
            }
            ends_as_usual(&mut w);
        }
    }
}

/// The own generations and those of the peer as a node compared them last.
fn last_compared(w: &World, n: usize) -> [String; 2] {
    let trace = w.trace.as_ref().expect("scenarios are traced");
    ["self ", "peer "].map(|whose| {
        let node = format!("node{} {whose}", n + 1);
        let line = trace.iter().rfind(|l| l.contains(&node)).expect("it compared");
        let sets = line.split(&node).nth(1).expect("it contains that");
        sets.split(" bits").next().expect("the first part").to_string()
    })
}

/// What happens in mid resync.
#[derive(Clone, Copy, Debug)]
enum Leaves {
    Disconnects,
    Detaches,
}

/// In mid resync from node 1 to node 2 one of them leaves, the data that is left gets a new generation, and the node
/// comes back: a resync by bitmap in the right direction.
fn leaves_in_mid_resync(leaves: Leaves) {
    for (n, promoted) in [(0, false), (0, true), (1, false), (1, true)] {
        for seed in 0..3 {
            let mut w = pair(seed);
            disconnect(&mut w, 1);
            for i in 0..200 {
                wrote(&mut w, 0, i * 16);
            }
            w.hooks.packets.clear();
            w.weather.net_us = 2000;
            w.connect(1, &net());
            assert!(w.run_until(secs(20), |w| brought(w)[0] > 20 * 4096), "{:?}", states(&w));
            let halfway = brought(&w)[0];
            assert!(halfway < 200 * 4096);
            let command = match leaves {
                Leaves::Disconnects => Command::Disconnect { force: false },
                Leaves::Detaches => Command::Detach { vol: VOL, force: n == 0 },
            };
            assert_eq!(w.command_and_wait(n, command), OK, "{leaves:?} of node {}", n + 1);
            // Without its disk the source has no copy to go on with.
            let lost_all = n == 0 && matches!(leaves, Leaves::Detaches);
            w.weather.net_us = 50;
            if promoted && matches!(leaves, Leaves::Disconnects) {
                // Primary again, after a pause: a generation of its own.
                assert_eq!(secondary(&mut w, 0), OK);
                assert_eq!(primary(&mut w, 0), OK);
            }
            if !lost_all {
                wrote(&mut w, 0, 4000);
            }
            w.run_for(secs(1));
            match leaves {
                Leaves::Disconnects => w.connect(n, &net()),
                Leaves::Detaches => w.attach(n),
            }
            assert!(w.run_until(secs(60), all_current), "{leaves:?} {n}: {:?}", states(&w));
            let [forth, back] = brought(&w);
            assert_eq!(back, 0, "{leaves:?} {n}");
            // The hot extent of a detached Primary counts as changed; it is the whole device here.
            assert!(forth < 2 * 201 * 4096 || lost_all, "{leaves:?} {n}: by bitmap, not {forth} bytes");
            ends_as_usual(&mut w);
        }
    }
}

/// Source or target disconnects in mid resync, the source begins a new generation: the rest comes by bitmap.
#[test]
pub(super) fn uuid_disconnect_resync() {
    leaves_in_mid_resync(Leaves::Disconnects);
}

/// Source or target is detached in mid resync, the data gets a new generation: the rest comes by bitmap.
#[test]
pub(super) fn uuid_detach_resync() {
    leaves_in_mid_resync(Leaves::Detaches);
}
