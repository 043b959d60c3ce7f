//! After-split-brain policies: who gives way when both nodes have changes (drbd-wire 8.8).

use model::policy::{AfterSb0, AfterSb1, AfterSb2};
use model::state::Role;

/// The policies of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policies {
    /// Nobody is Primary.
    pub none_primary: AfterSb0,
    /// One node is Primary.
    pub one_primary: AfterSb1,
    /// Both are Primary.
    pub both_primary: AfterSb2,
}

/// What the policies look at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Input {
    /// Own role.
    pub role: Role,
    /// The peer's role.
    pub peer_role: Role,
    /// Bit 0 of the own bitmap UUID.
    pub own_bitmap_bit: bool,
    /// Bit 0 of the peer's bitmap UUID.
    pub peer_bitmap_bit: bool,
    /// Own number of changed blocks as last sent in a UUIDs packet; never a newer count, or the nodes would
    /// compare different numbers.
    pub own_changes: u64,
    /// The peer's number, from its UUIDs packet.
    pub peer_changes: u64,
    /// This node has the conflict flag.
    pub conflict_flag: bool,
    /// This node could become Secondary now.
    pub can_demote: bool,
}

/// Whose data survives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Survivor {
    /// This node's; it becomes source.
    Own,
    /// The peer's; this node becomes target.
    Peer,
}

/// What the policies say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recovery {
    /// No automatic decision.
    Undecided,
    /// Decided.
    Decided(Survivor),
    /// The peer's data survives, and this Primary has to become Secondary first.
    DemoteThenTarget,
    /// The peer's data should survive, but this Primary cannot step down: handler `pri-lost-after-sb`, and no
    /// decision.
    LostButInUse,
}

/// Applies the policy for the present number of Primaries.
pub fn recover(policies: &Policies, input: &Input) -> Recovery {
    let as_0p = || without_primary(policies.none_primary, input);
    let plain = |s: Option<Survivor>| s.map_or(Recovery::Undecided, Recovery::Decided);
    match primaries(input.role, input.peer_role) {
        0 => plain(as_0p()),
        1 => match policies.one_primary {
            AfterSb1::Disconnect => Recovery::Undecided,
            AfterSb1::Consensus => plain(as_0p().filter(|s| *s == primary_survives(input))),
            AfterSb1::ViolentlyAs0p => plain(as_0p()),
            AfterSb1::DiscardSecondary => Recovery::Decided(primary_survives(input)),
            AfterSb1::CallPriLostAfterSb => stepping_down(as_0p(), input),
        },
        _ => match policies.both_primary {
            AfterSb2::Disconnect => Recovery::Undecided,
            AfterSb2::ViolentlyAs0p => plain(as_0p()),
            AfterSb2::CallPriLostAfterSb => stepping_down(as_0p(), input),
        },
    }
}

/// Number of Primaries among the two nodes.
pub fn primaries(role: Role, peer_role: Role) -> u32 {
    u32::from(role == Role::Primary) + u32::from(peer_role == Role::Primary)
}

fn primary_survives(input: &Input) -> Survivor {
    if input.role == Role::Primary { Survivor::Own } else { Survivor::Peer }
}

fn stepping_down(decision: Option<Survivor>, input: &Input) -> Recovery {
    match decision {
        None => Recovery::Undecided,
        Some(Survivor::Peer) if input.role == Role::Primary => {
            if input.can_demote {
                Recovery::DemoteThenTarget
            } else {
                Recovery::LostButInUse
            }
        }
        Some(s) => Recovery::Decided(s),
    }
}

fn without_primary(policy: AfterSb0, input: &Input) -> Option<Survivor> {
    let bits = (input.own_bitmap_bit, input.peer_bitmap_bit);
    match policy {
        AfterSb0::Disconnect => None,
        AfterSb0::DiscardYoungerPrimary => match bits {
            (false, true) => Some(Survivor::Peer),
            (true, false) => Some(Survivor::Own),
            _ => Some(zero_changes(input).unwrap_or_else(|| least_changes(input))),
        },
        AfterSb0::DiscardOlderPrimary => match bits {
            (false, true) => Some(Survivor::Own),
            (true, false) => Some(Survivor::Peer),
            _ => Some(zero_changes(input).unwrap_or_else(|| least_changes(input))),
        },
        AfterSb0::DiscardZeroChanges => zero_changes(input),
        AfterSb0::DiscardLeastChanges => Some(least_changes(input)),
        AfterSb0::DiscardLocal => Some(Survivor::Peer),
        AfterSb0::DiscardRemote => Some(Survivor::Own),
    }
}

fn zero_changes(input: &Input) -> Option<Survivor> {
    match (input.own_changes, input.peer_changes) {
        (0, 0) => Some(tie(input)),
        (_, 0) => Some(Survivor::Own),
        (0, _) => Some(Survivor::Peer),
        _ => None,
    }
}

fn least_changes(input: &Input) -> Survivor {
    match input.own_changes.cmp(&input.peer_changes) {
        core::cmp::Ordering::Less => Survivor::Peer,
        core::cmp::Ordering::Greater => Survivor::Own,
        core::cmp::Ordering::Equal => tie(input),
    }
}

fn tie(input: &Input) -> Survivor {
    if input.conflict_flag { Survivor::Peer } else { Survivor::Own }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Input = Input {
        role: Role::Secondary,
        peer_role: Role::Secondary,
        own_bitmap_bit: false,
        peer_bitmap_bit: false,
        own_changes: 5,
        peer_changes: 7,
        conflict_flag: true,
        can_demote: true,
    };

    fn all_inputs() -> impl Iterator<Item = Input> {
        (0..128u32).flat_map(|n| {
            let bit = move |i: u32| n >> i & 1 == 1;
            let role = move |i| if bit(i) { Role::Primary } else { Role::Secondary };
            [(0, 0), (0, 3), (3, 0), (3, 3), (3, 9), (9, 3)].map(|(own_changes, peer_changes)| Input {
                role: role(0),
                peer_role: role(1),
                own_bitmap_bit: bit(2),
                peer_bitmap_bit: bit(3),
                own_changes,
                peer_changes,
                conflict_flag: bit(4),
                can_demote: bit(5),
            })
        })
    }

    fn all_policies() -> impl Iterator<Item = Policies> {
        AfterSb0::ALL.iter().flat_map(|p0| {
            AfterSb1::ALL.iter().flat_map(move |p1| {
                AfterSb2::ALL.iter().map(move |p2| Policies {
                    none_primary: *p0,
                    one_primary: *p1,
                    both_primary: *p2,
                })
            })
        })
    }

    fn at_peer(i: &Input) -> Input {
        Input {
            role: i.peer_role,
            peer_role: i.role,
            own_bitmap_bit: i.peer_bitmap_bit,
            peer_bitmap_bit: i.own_bitmap_bit,
            own_changes: i.peer_changes,
            peer_changes: i.own_changes,
            conflict_flag: !i.conflict_flag,
            can_demote: true,
        }
    }

    #[test]
    fn both_nodes_name_the_same_survivor() {
        for p in all_policies() {
            let theirs = Policies { none_primary: p.none_primary.mirrored(), ..p };
            for i in all_inputs() {
                let here = recover(&p, &Input { can_demote: true, ..i });
                let there = recover(&theirs, &at_peer(&i));
                let survivor = |r| match r {
                    Recovery::Decided(s) => Some(s),
                    Recovery::DemoteThenTarget => Some(Survivor::Peer),
                    Recovery::Undecided => None,
                    Recovery::LostButInUse => unreachable!("both can step down"),
                };
                let mirrored = survivor(there).map(|s| match s {
                    Survivor::Own => Survivor::Peer,
                    Survivor::Peer => Survivor::Own,
                });
                assert_eq!(survivor(here), mirrored, "{p:?} {i:?}");
            }
        }
    }

    #[test]
    fn policies_without_primaries() {
        use AfterSb0 as P;
        use Survivor::{Own, Peer};
        let bits = |own, peer| Input { own_bitmap_bit: own, peer_bitmap_bit: peer, ..BASE };
        let changes = |own_changes, peer_changes| Input { own_changes, peer_changes, ..BASE };
        let cases = [
            (P::Disconnect, BASE, None),
            (P::DiscardYoungerPrimary, bits(false, true), Some(Peer)),
            (P::DiscardYoungerPrimary, bits(true, false), Some(Own)),
            (P::DiscardYoungerPrimary, bits(true, true), Some(Peer)),
            (P::DiscardYoungerPrimary, changes(9, 0), Some(Own)),
            (P::DiscardOlderPrimary, bits(false, true), Some(Own)),
            (P::DiscardOlderPrimary, bits(true, false), Some(Peer)),
            (P::DiscardOlderPrimary, changes(9, 7), Some(Own)),
            (P::DiscardZeroChanges, changes(0, 0), Some(Peer)),
            (P::DiscardZeroChanges, changes(1, 0), Some(Own)),
            (P::DiscardZeroChanges, changes(0, 1), Some(Peer)),
            (P::DiscardZeroChanges, changes(1, 1), None),
            (P::DiscardLeastChanges, changes(2, 3), Some(Peer)),
            (P::DiscardLeastChanges, changes(3, 2), Some(Own)),
            (P::DiscardLeastChanges, changes(3, 3), Some(Peer)),
            (P::DiscardLocal, BASE, Some(Peer)),
            (P::DiscardRemote, BASE, Some(Own)),
        ];
        for (policy, input, want) in cases {
            assert_eq!(without_primary(policy, &input), want, "{policy} {input:?}");
        }
        let no_flag = Input { conflict_flag: false, ..changes(3, 3) };
        assert_eq!(without_primary(P::DiscardLeastChanges, &no_flag), Some(Own));
    }

    #[test]
    fn policies_with_primaries() {
        let with = |p0, p1, p2| Policies { none_primary: p0, one_primary: p1, both_primary: p2 };
        let primary = Input { role: Role::Primary, ..BASE };
        let both = Input { peer_role: Role::Primary, ..primary };
        let lose = AfterSb0::DiscardLocal;
        let win = AfterSb0::DiscardRemote;
        let one = |p0, p1, i: Input| recover(&with(p0, p1, AfterSb2::Disconnect), &i);
        let two = |p0, p2, i: Input| recover(&with(p0, AfterSb1::Disconnect, p2), &i);
        let stuck = |i: Input| Input { can_demote: false, ..i };
        let (own, peer) = (Recovery::Decided(Survivor::Own), Recovery::Decided(Survivor::Peer));

        assert_eq!(one(lose, AfterSb1::Disconnect, primary), Recovery::Undecided);
        assert_eq!(one(lose, AfterSb1::Consensus, primary), Recovery::Undecided);
        assert_eq!(one(win, AfterSb1::Consensus, primary), own);
        assert_eq!(one(lose, AfterSb1::ViolentlyAs0p, primary), peer);
        assert_eq!(one(lose, AfterSb1::DiscardSecondary, primary), own);
        assert_eq!(one(lose, AfterSb1::CallPriLostAfterSb, primary), Recovery::DemoteThenTarget);
        assert_eq!(one(lose, AfterSb1::CallPriLostAfterSb, stuck(primary)), Recovery::LostButInUse);
        assert_eq!(one(win, AfterSb1::CallPriLostAfterSb, stuck(primary)), own);
        assert_eq!(two(lose, AfterSb2::Disconnect, both), Recovery::Undecided);
        assert_eq!(two(lose, AfterSb2::ViolentlyAs0p, both), peer);
        assert_eq!(two(lose, AfterSb2::CallPriLostAfterSb, both), Recovery::DemoteThenTarget);
        assert_eq!(two(lose, AfterSb2::CallPriLostAfterSb, stuck(both)), Recovery::LostButInUse);
    }
}
