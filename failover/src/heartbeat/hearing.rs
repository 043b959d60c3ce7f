//! Which messages of a node were heard: each counts once, and none of an earlier life of the node (failover 3.4, hg and seq).

/// What a message is, by its generation and number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Heard {
    /// Not heard before.
    New,
    /// The first one of a node that has started, or started again.
    NewGeneration,
    /// Heard before, over another medium or by a replay; or so old that nobody knows.
    Again,
    /// Of an earlier life of the node: it was on its way for too long, or is a replay.
    OldGeneration,
}

/// What was heard of one node.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Hearing {
    /// None before the first message.
    generation: Option<u64>,
    highest: u64,
    /// Bit n: the message with number `highest - n` was heard.
    window: u64,
}

impl Hearing {
    /// Notes a message down.
    pub(super) fn note(&mut self, generation: u64, seq: u64) -> Heard {
        match self.generation {
            Some(known) if generation < known => return Heard::OldGeneration,
            Some(known) if generation == known => {}
            Some(_) | None => {
                *self = Hearing { generation: Some(generation), highest: seq, window: 1 };
                return Heard::NewGeneration;
            }
        }
        if seq > self.highest {
            let ahead = u32::try_from(seq - self.highest).unwrap_or(u32::MAX);
            self.window = self.window.checked_shl(ahead).unwrap_or(0) | 1;
            self.highest = seq;
            return Heard::New;
        }
        let behind = u32::try_from(self.highest - seq).unwrap_or(u32::MAX);
        let bit = 1_u64.checked_shl(behind).unwrap_or(0);
        // Further back than the window nothing is known, so nothing counts.
        if bit == 0 || self.window & bit != 0 {
            return Heard::Again;
        }
        self.window |= bit;
        Heard::New
    }

    /// The generation of the last message that counted.
    pub(super) fn generation(&self) -> Option<u64> {
        self.generation
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_may_overtake_each_other_and_count_once() {
        let mut hearing = Hearing::default();
        let order = [(7, Heard::NewGeneration), (9, Heard::New), (8, Heard::New), (8, Heard::Again)];
        for (seq, heard) in order {
            assert_eq!(hearing.note(5, seq), heard, "{seq}");
        }
        assert_eq!(hearing.note(5, 200), Heard::New);
        assert_eq!(hearing.note(5, 200 - 63), Heard::New);
        assert_eq!(hearing.note(5, 200 - 64), Heard::Again);
        assert_eq!(hearing.note(5, 9), Heard::Again);
    }

    #[test]
    fn an_earlier_generation_never_counts_and_a_later_one_begins_anew() {
        let mut hearing = Hearing::default();
        hearing.note(5, 100);
        assert_eq!(hearing.note(4, 101), Heard::OldGeneration);
        assert_eq!(hearing.note(6, 1), Heard::NewGeneration);
        assert_eq!(hearing.note(5, 101), Heard::OldGeneration);
        assert_eq!(hearing.note(6, 1), Heard::Again);
        assert_eq!(hearing.note(6, u64::MAX), Heard::New);
        assert_eq!(hearing.note(6, 0), Heard::Again);
    }

    proptest! {
        #[test]
        fn nothing_counts_twice(all in prop::collection::vec((0..3_u64, 0..200_u64), 0..300)) {
            let (mut hearing, mut counted) = (Hearing::default(), BTreeSet::new());
            for (generation, seq) in all {
                if matches!(hearing.note(generation, seq), Heard::New | Heard::NewGeneration) {
                    prop_assert!(counted.insert((generation, seq)));
                    prop_assert!(counted.last().map(|(g, _)| *g) == Some(generation));
                }
            }
        }
    }
}
