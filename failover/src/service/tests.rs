//! When a service is taken, and when it waits. What heartbeat's word is good for: it keeps a node from replacing one that is alive, and
//! replaces no proof.

use super::*;
use crate::lease::machine::{StoreAnswer, StoreOp};
use crate::lease::record::{Holder, Record};
use crate::promote::chain::{LossRank, Verb};

const TERM: Duration = Duration::from_millis(600);

fn at(ms: u64) -> Instant {
    Instant(1_000_000_000) + Duration::from_millis(ms)
}

/// Beta, whose peer is alpha.
struct Node {
    service: Service,
    /// What the store has, and how often it was changed.
    stored: Option<(Record, i64)>,
    ms: u64,
    warned: Vec<String>,
}

/// Nothing is connected, and what is here is good.
fn alone() -> Storage {
    Storage {
        role: Role::Secondary,
        disk: DiskState::UpToDate,
        conn: ConnState::WFConnection,
        peer_role: Role::Unknown,
        peer_disk: DiskState::DUnknown,
        frozen: false,
        peer_word_at: None,
        linked: false,
        connections: 1,
        parted: None,
    }
}

fn connected() -> Storage {
    Storage {
        conn: ConnState::Connected,
        peer_role: Role::Primary,
        peer_disk: DiskState::UpToDate,
        linked: true,
        ..alone()
    }
}

impl Node {
    fn new(proof: Proof, stored: Option<Record>) -> Node {
        let step = |name: &str, loss_rank| StepPlan {
            name: name.into(),
            timeout: Duration::from_secs(5),
            retries: 0,
            look_every: Duration::ZERO,
            loss_rank,
        };
        let settings = ServiceSettings {
            name: "db".into(),
            me: "beta".into(),
            peer: "alpha".into(),
            proof,
            preferred: None,
            failback: false,
            ttl: TERM,
            addresses_answer: answer_for(None),
            steps: vec![step("promote", LossRank::Second), step("addresses", LossRank::First)],
            incarnation: 7,
            obstacle: None,
        };
        let service = Service::new(settings, at(0));
        let mut node = Node { service, stored: stored.map(|r| (r, 1)), ms: 0, warned: Vec::new() };
        node.tell(Event::Storage(Some(connected())));
        node
    }

    fn tell(&mut self, event: Event) {
        let (now, mut out) = (at(self.ms), Vec::new());
        self.service.handle(now, event, &mut out);
        for action in out {
            let ask = match action {
                Action::Ask(ask) => ask,
                // What an earlier daemon may have left ends at once; nothing that begins here ends by itself.
                Action::Run(attempt) if attempt.verb != Verb::Start => {
                    self.tell(Event::StepDone(attempt.key, Ok(())));
                    continue;
                }
                Action::Warn(text) => {
                    self.warned.push(text);
                    continue;
                }
                _ => continue,
            };
            let value = |s: &Option<(Record, i64)>| s.as_ref().map(|(r, revision)| (r.encode(), *revision));
            let answer = match ask.op {
                StoreOp::Read => StoreAnswer::Value(value(&self.stored)),
                StoreOp::Swap { value, .. } => {
                    let revision = self.stored.as_ref().map_or(0, |(_, n)| *n) + 1;
                    self.stored = Some((Record::decode(&value).unwrap(), revision));
                    StoreAnswer::Swapped(revision)
                }
            };
            self.tell(Event::Store(ask.id, answer));
        }
    }

    /// Time passes in small steps.
    fn wait(&mut self, ms: u64) {
        for _ in 0..ms / 25 {
            self.ms += 25;
            self.tell(Event::Tick);
        }
    }

    fn renewed_by_alpha(&mut self, times: u32) {
        for _ in 0..times {
            let (r, revision) = self.stored.take().unwrap();
            self.stored = Some((Record { changes: r.changes + 1, ..r }, revision + 1));
            self.wait(300);
        }
    }

    fn is_away(&self) -> bool {
        self.service.state() == &State::Away
    }

    fn obstacle(&self) -> String {
        self.service.status(at(self.ms)).obstacle.unwrap_or_default()
    }
}

fn held_by_alpha() -> Record {
    let holder = Holder { node: "alpha".into(), incarnation: 3, ttl_ms: 600, addresses_ms: None };
    Record::new(Some(holder), vec!["alpha".into(), "beta".into()])
}

#[test]
fn without_heartbeat_a_node_waits_for_a_term_of_silence() {
    let mut node = Node::new(Proof::Fencing, None);
    node.tell(Event::Storage(Some(alone())));
    node.wait(650);
    assert!(node.is_away() && node.obstacle() == "alpha was heard a moment ago", "{}", node.obstacle());
    node.wait(50);
    assert_eq!(node.service.state(), &State::Starting, "its first step calls the handler that fences");
}

#[test]
fn a_peer_that_is_alive_is_not_replaced_because_the_link_is_down() {
    for proof in [Proof::Fencing, Proof::Nothing] {
        let mut node = Node::new(proof, None);
        node.tell(Event::PeerAlive(Some(true)));
        node.tell(Event::Storage(Some(alone())));
        node.wait(60_000);
        assert!(
            node.is_away() && node.obstacle() == "heartbeat says that alpha is alive",
            "{}",
            node.obstacle()
        );
        node.tell(Event::PeerAlive(Some(false)));
        assert_eq!(node.service.state(), &State::Starting);
    }
}

#[test]
fn a_peer_that_is_dead_is_gone_as_soon_as_the_link_is() {
    let mut node = Node::new(Proof::Fencing, None);
    node.tell(Event::PeerAlive(Some(false)));
    node.wait(5000);
    assert!(node.is_away(), "the link is up: whatever heartbeat says, alpha is Primary there");
    node.tell(Event::Storage(Some(alone())));
    assert_eq!(node.service.state(), &State::Starting);
}

#[test]
fn with_the_lease_its_death_shortens_no_wait() {
    let mut node = Node::new(Proof::Lease, Some(held_by_alpha()));
    node.tell(Event::PeerAlive(Some(false)));
    // The same revision was seen for a term: only the word that was given over the link is left.
    node.wait(3000);
    node.tell(Event::Storage(Some(alone())));
    node.wait(650);
    assert!(node.is_away() && node.obstacle() == "alpha was heard a moment ago", "{}", node.obstacle());
    node.wait(100);
    assert_eq!(node.service.state(), &State::Starting);
    assert!(node.stored.unwrap().0.held_by("beta").is_some());
}

#[test]
fn with_the_lease_a_living_holder_keeps_it_and_one_that_let_go_does_not() {
    let mut node = Node::new(Proof::Lease, Some(held_by_alpha()));
    node.tell(Event::PeerAlive(Some(true)));
    node.tell(Event::Storage(Some(alone())));
    node.wait(10_000);
    assert!(node.is_away() && node.obstacle() == "heartbeat says that alpha is alive", "{}", node.obstacle());
    node.stored = Some((Record { holder: None, ..held_by_alpha() }, 2));
    node.wait(2000);
    assert_eq!(node.service.state(), &State::Starting);
}

#[test]
fn the_death_of_the_peer_is_no_proof_of_anything_else() {
    // The record is held in time, is not there, or counts this copy out: heartbeat does not matter.
    let old = Record::new(None, vec!["alpha".into()]);
    for (stored, why) in [(None, "there is no lease yet"), (Some(old), "the other copy may be newer")] {
        let mut node = Node::new(Proof::Lease, stored);
        node.tell(Event::PeerAlive(Some(false)));
        node.tell(Event::Storage(Some(alone())));
        node.wait(10_000);
        assert!(node.is_away() && node.obstacle().starts_with(why), "{}", node.obstacle());
    }
    let mut node = Node::new(Proof::Lease, Some(held_by_alpha()));
    node.tell(Event::PeerAlive(Some(false)));
    node.tell(Event::Storage(Some(alone())));
    for _ in 0..100 {
        node.wait(200);
        let (record, revision) = node.stored.take().unwrap();
        node.stored = Some((Record { changes: record.changes + 1, ..record }, revision + 1));
    }
    assert!(node.is_away() && node.obstacle().starts_with("held by alpha"), "{}", node.obstacle());
}

#[test]
fn addresses_wait_as_long_as_before() {
    let mut node = Node::new(Proof::Fencing, None);
    node.tell(Event::PeerAlive(Some(false)));
    node.tell(Event::Storage(Some(alone())));
    let now = at(node.ms);
    let home = Storage { role: Role::Primary, ..alone() };
    node.tell(Event::Storage(Some(home)));
    assert!(!node.service.addresses_may_be_added(now + Duration::from_millis(1500)));
    assert!(node.service.addresses_may_be_added(now + Duration::from_millis(1600)));
}

/// Nobody waits for addresses that a gate has closed, or that are not there; what is not known takes longest.
#[test]
fn addresses_wait_as_long_as_their_last_holder_says() {
    for (addresses_ms, free_ms) in [(None, 1550), (Some(1400), 1550), (Some(525), 675), (Some(0), 675)] {
        let mut record = held_by_alpha();
        record.holder.as_mut().unwrap().addresses_ms = addresses_ms;
        let mut node = Node::new(Proof::Lease, Some(record));
        node.wait(1000);
        node.renewed_by_alpha(2);
        let now = at(node.ms);
        node.tell(Event::Storage(Some(alone())));
        node.wait(1000);
        let record = &node.stored.as_ref().unwrap().0;
        assert!(record.held_by("beta").is_some_and(|h| h.addresses_ms == Some(1400)), "{record:?}");
        let home = Storage { role: Role::Primary, ..alone() };
        node.tell(Event::Storage(Some(home)));
        node.service.lease.as_mut().unwrap().exclude_peer(at(node.ms));
        node.wait(500);
        let added = |ms| node.service.addresses_may_be_added(now + Duration::from_millis(ms));
        assert!(!added(free_ms - 25) && added(free_ms), "{addresses_ms:?}");
    }
}

/// A daemon that has connected may be another one than that which the record tells of, and serve before it has written.
#[test]
fn what_the_record_says_of_addresses_counts_when_it_was_renewed_twice_on_this_connection() {
    let mut record = held_by_alpha();
    record.holder.as_mut().unwrap().addresses_ms = Some(525);
    let mut node = Node::new(Proof::Lease, Some(record));
    let said =
        |node: &Node| node.service.peer_claims.map_or(answer_for(None), |c| c.answer_for()).as_millis();
    node.wait(1000);
    node.renewed_by_alpha(1);
    assert_eq!(said(&node), 1400, "that may have been under way for long");
    node.renewed_by_alpha(1);
    assert_eq!(said(&node), 525);
    node.tell(Event::Storage(Some(alone())));
    assert_eq!(said(&node), 525, "nobody can have changed its mind unseen");
    node.tell(Event::Storage(Some(Storage { connections: 2, ..connected() })));
    node.wait(1000);
    assert_eq!(said(&node), 1400, "who is that?");
    node.stored.as_mut().unwrap().0.current = vec!["alpha".into()];
    node.renewed_by_alpha(1);
    assert_eq!(said(&node), 1400, "that is no renewal");
    node.renewed_by_alpha(2);
    assert_eq!(said(&node), 525);
    node.stored.as_mut().unwrap().0.holder.as_mut().unwrap().incarnation = 4;
    node.renewed_by_alpha(1);
    assert_eq!(said(&node), 1400, "another one");
}

#[test]
fn terms_that_differ_are_told_once() {
    let mut record = held_by_alpha();
    record.holder.as_mut().unwrap().ttl_ms = 2000;
    let mut node = Node::new(Proof::Lease, Some(record));
    node.wait(3000);
    assert_eq!(node.warned.len(), 1, "{:?}", node.warned);
    assert!(
        node.warned[0].starts_with("service db: lease_ttl is 600ms here and 2s at alpha"),
        "{:?}",
        node.warned
    );
}

/// Its holder is connected and Secondary, and cannot reach the store to let go of it.
#[test]
fn a_lease_that_ran_out_beside_its_holder_is_not_left_to_that() {
    let mut node = Node::new(Proof::Lease, Some(held_by_alpha()));
    node.wait(500);
    assert!(node.is_away() && node.obstacle() == "alpha is Primary", "{}", node.obstacle());
    node.tell(Event::Storage(Some(Storage { peer_role: Role::Secondary, ..connected() })));
    assert!(node.is_away() && node.obstacle().starts_with("held by alpha"), "{}", node.obstacle());
    node.wait(600);
    assert!(!node.is_away(), "{}", node.obstacle());
}

/// The peer hears this node, takes itself for connected and lives by its word, while the handshake does not end here.
#[test]
fn addresses_wait_from_when_the_peer_could_not_hear_this_node_any_more() {
    let mut node = Node::new(Proof::Fencing, None);
    let home = Storage { role: Role::Primary, ..alone() };
    node.tell(Event::Storage(Some(Storage { conn: ConnState::WFReportParams, linked: true, ..home })));
    node.wait(5000);
    assert!(!node.service.addresses_may_be_added(at(node.ms) + Duration::from_secs(60)));
    node.tell(Event::Storage(Some(home)));
    assert!(!node.service.addresses_may_be_added(at(node.ms) + Duration::from_millis(1500)));
    assert!(node.service.addresses_may_be_added(at(node.ms) + Duration::from_millis(1600)));
}
