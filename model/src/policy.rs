//! Policies an operator chooses: their names in the configuration and their numbers on the wire
//! (drbd-wire 8.8, drbd-states 14).

use crate::word_enum::word_enum;

word_enum! {
    /// `after-sb-0pri`: split brain found while nobody is Primary. Numbers as in the protocol packet.
    AfterSb0 {
        /// No automatic decision.
        Disconnect = 0 => "disconnect",
        /// The node that became Primary later loses its changes.
        DiscardYoungerPrimary = 1 => "discard-younger-primary",
        /// The node that became Primary earlier loses its changes.
        DiscardOlderPrimary = 2 => "discard-older-primary",
        /// A node without changes becomes target.
        DiscardZeroChanges = 3 => "discard-zero-changes",
        /// The node with fewer changes becomes target.
        DiscardLeastChanges = 4 => "discard-least-changes",
        /// This node becomes target.
        DiscardLocal = 5 => "discard-local",
        /// The peer becomes target.
        DiscardRemote = 6 => "discard-remote",
    }
}

word_enum! {
    /// `after-sb-1pri`: split brain found while one node is Primary. Numbers as in the protocol packet.
    AfterSb1 {
        /// No automatic decision.
        Disconnect = 0 => "disconnect",
        /// Decide as without Primaries, if that makes the Secondary the target.
        Consensus = 7 => "consensus",
        /// The Secondary becomes target.
        DiscardSecondary = 8 => "discard-secondary",
        /// Decide as without Primaries; a losing Primary has to step down first.
        CallPriLostAfterSb = 9 => "call-pri-lost-after-sb",
        /// Decide as without Primaries, even against the Primary.
        ViolentlyAs0p = 10 => "violently-as0p",
    }
}

word_enum! {
    /// `after-sb-2pri`: split brain found while both nodes are Primary. Numbers as in the protocol packet.
    AfterSb2 {
        /// No automatic decision.
        Disconnect = 0 => "disconnect",
        /// Decide as without Primaries; the losing Primary has to step down first.
        CallPriLostAfterSb = 9 => "call-pri-lost-after-sb",
        /// Decide as without Primaries, even against a Primary.
        ViolentlyAs0p = 10 => "violently-as0p",
    }
}

word_enum! {
    /// `rr-conflict`: a Primary would become resync target. Not transmitted; the numbers are our own.
    RrConflict {
        /// Refuse the connection.
        Disconnect = 0 => "disconnect",
        /// Refuse, after calling the `pri-lost` handler.
        CallPriLost = 1 => "call-pri-lost",
        /// Become target anyway.
        Violently = 2 => "violently",
    }
}

word_enum! {
    /// `fencing`: what a Primary does about a peer it lost. Ordered from weak to strong; the policy of a
    /// connection is the highest of its volumes (drbd-states 14.1).
    Fencing {
        /// Nothing.
        DontCare = 0 => "dont-care",
        /// Call `fence-peer`, go on with I/O.
        ResourceOnly = 1 => "resource-only",
        /// Call `fence-peer`, freeze I/O until it succeeded.
        ResourceAndStonith = 2 => "resource-and-stonith",
    }
}

word_enum! {
    /// `on-io-error`: what follows an error of the backing disk (drbd-states 14.2).
    OnIoError {
        /// Mark the disk Inconsistent and go on.
        PassOn = 0 => "pass_on",
        /// Detach and call the `local-io-error` handler.
        CallLocalIoError = 1 => "call-local-io-error",
        /// Detach.
        Detach = 2 => "detach",
    }
}

word_enum! {
    /// `on-no-data-accessible`: no path to UpToDate data (drbd-states 14.4).
    OnNoData {
        /// Fail requests.
        IoError = 0 => "io-error",
        /// Freeze requests.
        SuspendIo = 1 => "suspend-io",
    }
}

word_enum! {
    /// Replication protocol: when a write counts as done. Numbers as in the protocol packet.
    Protocol {
        /// Written locally and handed to the network.
        A = 1 => "A",
        /// Written locally and received by the peer.
        B = 2 => "B",
        /// Written by both nodes.
        C = 3 => "C",
    }
}

impl AfterSb0 {
    /// The setting the peer must have for the two to agree: `discard-local` here is `discard-remote` there.
    pub const fn mirrored(self) -> AfterSb0 {
        match self {
            AfterSb0::DiscardLocal => AfterSb0::DiscardRemote,
            AfterSb0::DiscardRemote => AfterSb0::DiscardLocal,
            AfterSb0::Disconnect
            | AfterSb0::DiscardYoungerPrimary
            | AfterSb0::DiscardOlderPrimary
            | AfterSb0::DiscardZeroChanges
            | AfterSb0::DiscardLeastChanges => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    macro_rules! round_trip {
        ($($t:ident: $count:literal),+ $(,)?) => { $(
            assert_eq!($t::ALL.len(), $count);
            for p in $t::ALL {
                assert_eq!($t::from_number(u32::from(p.number())), Some(*p));
                assert_eq!($t::from_name(p.name()), Some(*p));
            }
            assert_eq!($t::from_name("nonsense"), None);
            assert_eq!($t::from_number(11), None);
            assert_eq!($t::from_number(0x100), None);
        )+ };
    }

    #[test]
    fn names_and_numbers_round_trip() {
        round_trip!(AfterSb0: 7, AfterSb1: 5, AfterSb2: 3, RrConflict: 3, Fencing: 3, OnIoError: 3,
            OnNoData: 2, Protocol: 3);
    }

    #[test]
    fn fencing_is_ordered_by_strength() {
        assert!(Fencing::DontCare < Fencing::ResourceOnly);
        assert!(Fencing::ResourceOnly < Fencing::ResourceAndStonith);
    }

    #[test]
    fn only_the_two_one_sided_policies_are_mirrored() {
        for p in AfterSb0::ALL {
            assert_eq!(p.mirrored().mirrored(), *p);
            assert_eq!(p.mirrored() != *p, matches!(p, AfterSb0::DiscardLocal | AfterSb0::DiscardRemote));
        }
    }
}
