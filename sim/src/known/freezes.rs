//! What a freeze promises: nothing goes on before good data is back, and nothing is under way when it is answered.

use super::*;

/// A Primary that is frozen because no data is left went on as soon as a peer connected that has none either, and
/// its clients got errors in spite of suspend-io.
#[test]
fn diskless_primary_stays_frozen_beside_a_diskless_peer() {
    let mut w = freezing_pair(6, &DiskConfig::default());
    put(&mut w, 0, 1);
    cut(&mut w);
    put(&mut w, 0, 5);
    for n in 0..2 {
        assert_eq!(w.command_and_wait(n, TEAR_OFF), OK);
    }
    let read = w.request(0, SimOp::Read { sector: at(5), count: 8 });
    let write = begin(&mut w, 0, 6);
    w.cut(false);
    assert!(w.run_until(secs(20), |w| conn(w, 0) == ConnState::Connected));
    w.run_for(secs(2));
    assert_eq!((answer(&mut w, read), answer(&mut w, write)), (None, None), "neither node has data");
    w.attach(1);
    w.run_for(secs(2));
    assert_eq!((answer(&mut w, read), answer(&mut w, write)), (None, None), "what the peer has is too old");
    w.attach(0);
    is_done(&mut w, read);
    is_done(&mut w, write);
    ends_well(&mut w);
}

/// DRBD 8.4: suspend-io returned while writes were still under way, and copies of the two disks taken then differed.
#[test]
fn suspend_returns_early() {
    for k in 0..30 {
        let mut w = pair(k);
        w.weather.disk_us = 2000;
        put(&mut w, 0, 0);
        for block in 1..9 {
            begin(&mut w, 0, block);
        }
        events(&mut w, k);
        assert_eq!(w.command_and_wait(0, Command::SuspendIo), OK);
        let differs = (0..9).any(|b| w.nodes[0].disk.read(at(b)) != w.nodes[1].disk.read(at(b)));
        assert!(!differs, "copies taken now differ, k = {k}");
        assert_eq!(w.command_and_wait(0, Command::ResumeIo), OK);
        ends_well(&mut w);
    }
}
