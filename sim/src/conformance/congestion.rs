//! A link that is too slow for the writes of protocol A.

use super::*;
use model::config::settings::OnCongestion;
use model::policy::Protocol;

fn congested(policy: OnCongestion) -> (World, NetConfig) {
    let net =
        NetConfig { protocol: Protocol::A, on_congestion: policy, congestion_fill_sectors: 128, ..net() };
    let mut w = pair_with(9, SMALL, &net, [DiskConfig::default(), DiskConfig::default()]);
    w.weather.link_bytes_per_s = 200_000;
    for i in 0..100 {
        wrote(&mut w, 0, i * 16);
    }
    (w, net)
}

/// Writes go on at the speed of the own disk; the peer gets what it lacks by a resync without an exchange of bitmaps.
#[test]
pub(super) fn ahead_behind() {
    let (mut w, net) = congested(OnCongestion::PullAhead);
    assert_eq!(conn(&w, 0), ConnState::Ahead);
    for wanted in [
        [ConnState::Ahead, ConnState::Behind],
        [ConnState::SyncSource, ConnState::SyncTarget],
        [ConnState::Connected; 2],
    ] {
        let there = |w: &World| [conn(w, 0), conn(w, 1)] == wanted;
        assert!(w.run_until(secs(30), there), "{wanted:?}: {:?}", states(&w));
    }
    assert_eq!(w.hooks.seen(0, Wire::Bitmap) + w.hooks.seen(0, Wire::CompressedBitmap), 0);
    ends(&mut w, &net);
}

/// The connection ends, writes stay here and are marked, and the next connection brings them.
#[test]
pub(super) fn congestion_disconnect() {
    let (mut w, net) = congested(OnCongestion::Disconnect);
    stands_alone(&w, 0, "congestion");
    assert!(marked(&w, 0) > 50);
    ends(&mut w, &net);
}
