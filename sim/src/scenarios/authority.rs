//! A Primary whose right to serve is bounded in time serves nobody behind that bound, and can be demoted by force without
//! anything of it looking newer than what another Primary has written since.

use model::policy::Fencing;
use replicator::Authority;

use super::*;
use crate::hooks::FencePeer;

/// For how long a grant, or an answer of the peer, is good here.
const TERM: Duration = Duration::from_millis(600);

fn grant(w: &mut World, n: usize, term: Duration, by_peer: Duration) {
    let authority = Authority { until: w.clock(n) + term, by_peer };
    assert_eq!(w.command_and_wait(n, Command::SetAuthority(Some(authority))), OK);
}

fn ask_read(w: &mut World) -> ClientTag {
    w.request(0, SimOp::Read { sector: 0, count: 1 })
}

fn ask_write(w: &mut World) -> ClientTag {
    w.request(0, SimOp::Write { sector: 8, count: 8, fua: false })
}

#[test]
fn nothing_is_admitted_after_it_has_run_out_and_all_goes_on_when_it_is_renewed() {
    let mut w = pair(1);
    grant(&mut w, 0, TERM, Duration::ZERO);
    assert_eq!(write(&mut w, 0, 0, 8), ClientResult::Ok);
    w.run_for(TERM);
    let asked = [ask_read(&mut w), ask_write(&mut w)];
    w.run_for(secs(20));
    assert!(asked.iter().all(|t| answer(&mut w, *t).is_none()), "its time is over");
    grant(&mut w, 0, TERM, Duration::ZERO);
    for tag in asked {
        assert_eq!(wait(&mut w, tag).0, ClientResult::Ok);
    }
    assert_eq!(w.command_and_wait(0, Command::SetAuthority(None)), OK);
    w.run_for(secs(5));
    assert_eq!(write(&mut w, 0, 16, 8), ClientResult::Ok, "without a bound");
    heals(&mut w);
}

/// A write that was admitted in time and is done too late.
#[test]
fn nothing_is_answered_after_it_has_run_out() {
    let mut w = pair(2);
    assert_eq!(write(&mut w, 0, 8, 8), ClientResult::Ok);
    grant(&mut w, 0, TERM, Duration::ZERO);
    w.hold_disk(0, true);
    let tag = ask_write(&mut w);
    w.run_for(TERM);
    w.hold_disk(0, false);
    w.run_for(secs(2));
    assert_eq!(answer(&mut w, tag), None);
    grant(&mut w, 0, TERM, Duration::ZERO);
    assert_eq!(wait(&mut w, tag).0, ClientResult::Ok);
    heals(&mut w);
}

#[test]
fn the_word_of_a_connected_secondary_is_enough() {
    let mut w = pair(3);
    grant(&mut w, 0, Duration::ZERO, TERM);
    for i in 0..50 {
        assert_eq!(write(&mut w, 0, i * 8, 8), ClientResult::Ok);
        w.run_for(ms(100));
    }
}

/// The cut is not noticed before ping-timeout; the word of the peer ends on its own.
#[test]
fn it_ends_with_the_last_ping_that_the_peer_has_answered() {
    let mut w = pair(4);
    let silent = NetConfig { ping_timeout: secs(30), timeout: secs(60), ..net() };
    for n in 0..2 {
        assert_eq!(w.command_and_wait(n, Command::NetOptions(Box::new(silent.clone()))), OK);
    }
    grant(&mut w, 0, Duration::ZERO, TERM);
    w.run_for(secs(2));
    w.cut(true);
    w.run_for(TERM);
    let tag = ask_read(&mut w);
    w.run_for(secs(5));
    assert_eq!(answer(&mut w, tag), None, "the peer may have become Primary");
    assert_eq!(w.state(0).0, ConnState::Connected, "nobody has noticed");
    w.cut(false);
    assert_eq!(wait(&mut w, tag).0, ClientResult::Ok);
}

#[test]
fn a_node_that_stood_still_finds_its_time_over_before_it_does_anything_else() {
    let mut w = pair(5);
    assert_eq!(write(&mut w, 0, 8, 8), ClientResult::Ok);
    grant(&mut w, 0, TERM, TERM);
    w.run_for(ms(100));
    let tag = ask_write(&mut w);
    w.freeze(0, secs(30));
    w.cut(true);
    w.run_for(secs(40));
    assert_eq!(answer(&mut w, tag), None);
    w.cut(false);
    assert_eq!(w.command_and_wait(0, Command::SetAuthority(None)), OK);
    heals(&mut w);
}

/// The handler of the first node will find the other one Primary.
fn fenced_pair(seed: u64) -> World {
    let d = DiskConfig { fencing: Fencing::ResourceAndStonith, ..DiskConfig::default() };
    let mut w = pair_with(seed, SECTORS, &net(), [d.clone(), d]);
    w.hooks.handlers[0].fence_peer = FencePeer::Answers { exit_code: 6, after: ms(500) };
    w.hooks.handlers[1].fence_peer = FencePeer::Answers { exit_code: 4, after: ms(500) };
    assert_eq!(write(&mut w, 0, 0, 64), ClientResult::Ok);
    w
}

/// The other node goes on, this one is demoted by force, and comes back as target without anybody's help.
#[test]
fn a_primary_demoted_by_force_fails_what_was_frozen_and_follows_the_other_one() {
    for held in [false, true] {
        let mut w = fenced_pair(6);
        w.cut(true);
        w.hold_disk(0, held);
        let frozen = [ask_write(&mut w), w.request(0, SimOp::Flush)];
        w.run_for(secs(20));
        w.hold_disk(0, false);
        w.run_for(secs(1));
        assert!(
            frozen
                .iter()
                .all(|t| w.answers.iter().all(|(_, a)| !matches!(a, Answer::Client(x, ..) if x == t)))
        );
        assert_eq!(primary(&mut w, 1), OK);
        for i in 0..8 {
            assert_eq!(write(&mut w, 1, i * 64, 8), ClientResult::Ok);
        }
        // A client still has it open.
        assert_eq!(w.command_and_wait(0, Command::Secondary { open: 1, force: true }), OK);
        for tag in frozen {
            assert_eq!(answer(&mut w, tag).map(|a| a.0), Some(ClientResult::IoError));
        }
        assert_eq!((role(&w, 0), disk(&w, 0)), (Role::Secondary, DiskState::Outdated));
        w.cut(false);
        heals(&mut w);
        assert_eq!(role(&w, 1), Role::Primary);
    }
}

/// Not frozen, and with requests under way: they fail, and what is on the disks then is equal.
#[test]
fn a_busy_primary_is_demoted_by_force() {
    let mut w = pair(7);
    let tags: Vec<ClientTag> =
        (0..20).map(|i| w.request(0, SimOp::Write { sector: i * 8, count: 8, fua: false })).collect();
    assert_eq!(w.command_and_wait(0, Command::Secondary { open: 1, force: true }), OK);
    for tag in tags {
        assert!(answer(&mut w, tag).is_some(), "every request has an answer");
    }
    assert_eq!(write(&mut w, 0, 0, 8), ClientResult::ReadOnly);
    assert_eq!(primary(&mut w, 1), OK);
    heals(&mut w);
    assert_eq!(secondary(&mut w, 1), OK);
    assert_eq!(primary(&mut w, 0), OK);
    assert_eq!(write(&mut w, 0, 0, 8), ClientResult::Ok, "it serves again");
}
