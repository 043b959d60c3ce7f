//! The data generations of one volume and how they move (drbd-metadata 4.3, drbd-wire 6.1, 6.8, 8.2).

use model::ids::DataUuid;

/// The four persistent slots. Bit 0 of `current` is the role; elsewhere it came along from there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Uuids {
    /// Identifies the present data.
    pub current: DataUuid,
    /// Not zero: the bitmap describes the difference to this generation.
    pub bitmap: DataUuid,
    /// Previous generations, younger first.
    pub history: [DataUuid; 2],
}

impl Uuids {
    /// What create-md writes.
    pub const JUST_CREATED: Uuids =
        Uuids { current: DataUuid::JUST_CREATED, bitmap: DataUuid::ZERO, history: [DataUuid::ZERO; 2] };

    /// Stores `value` as the current generation with the role bit of this node.
    pub fn set_current(&mut self, value: DataUuid, primary: bool) {
        self.current = value.with_primary_bit(primary);
    }

    /// Promotion and demotion.
    pub fn set_primary(&mut self, primary: bool) {
        self.current = self.current.with_primary_bit(primary);
    }

    /// A new generation `random`. The bitmap describes the difference to the previous one, which moves into its slot as it
    /// is; or to an older one that is there already, and stays: then the previous one moves into the history, where that
    /// of a resync target is looked for which has finished unheard.
    pub fn new_current(&mut self, random: DataUuid, primary: bool) {
        if self.bitmap.is_zero() {
            self.bitmap = self.current;
        } else {
            // The base of a resync inside one generation is that generation itself. Next to its sync UUID it would look as
            // if the resync had just begun (see `end_of_sync_unknown`), and every promotion would start one more.
            let base_bit = self.bitmap.primary_bit();
            self.push_history(self.current.with_primary_bit(!base_bit));
        }
        self.set_current(random, primary);
    }

    /// This node is or was sync source, and does not know of the end: the target may have the current generation as
    /// its own already.
    pub fn end_of_sync_unknown(&self) -> bool {
        let base = self.history[0];
        // With the role bit: it tells what `new_current` has left, which is not unknown any more.
        let successor = DataUuid(base.0.wrapping_add(DataUuid::SYNC_OFFSET));
        !self.bitmap.is_zero()
            && (base.same_as(DataUuid::JUST_CREATED)
                || self.bitmap == successor
                || self.syncs_own_generation())
    }

    /// This node is or was source of a resync to a target that had the current generation before: invalidated by
    /// command, or the other one after a crash. A target that never heard of it still passes for current.
    pub fn syncs_own_generation(&self) -> bool {
        !self.bitmap.is_zero()
            && self.bitmap.same_as(DataUuid(self.current.0.wrapping_add(DataUuid::SYNC_OFFSET)))
    }

    /// Stores a bitmap generation without its role bit; no history.
    pub fn set_bitmap(&mut self, value: DataUuid) {
        self.bitmap = value.with_primary_bit(false);
    }

    /// Stores a bitmap generation as it is; a previous one moves into the history.
    pub fn set_bitmap_with_history(&mut self, value: DataUuid) {
        if !self.bitmap.is_zero() {
            self.push_history(self.bitmap);
        }
        self.bitmap = value;
    }

    /// The bitmap is no longer relative to anything: its generation moves into the history.
    pub fn clear_bitmap(&mut self) {
        if !self.bitmap.is_zero() {
            self.push_history(self.bitmap);
            self.bitmap = DataUuid::ZERO;
        }
    }

    /// Becoming sync source: returns the sync UUID to be sent to the target, the successor of the generation that the
    /// target had: that in the bitmap slot, or the current one if there is none. `random` is used for "just created".
    /// `target`: the target's current generation. If it is the own one, it has not heard of an earlier run inside this
    /// generation, and that run begins anew: successors of successors would drive the base out of the history.
    pub fn begin_sync_source(&mut self, target: DataUuid, random: DataUuid) -> DataUuid {
        if self.syncs_own_generation() && target.same_as(self.current) {
            return self.bitmap;
        }
        let base = if self.bitmap.is_zero() { self.current.with_primary_bit(false) } else { self.bitmap };
        let sync_uuid = if base == DataUuid::JUST_CREATED {
            random
        } else {
            DataUuid(base.0.wrapping_add(DataUuid::SYNC_OFFSET))
        };
        let older = self.history[1];
        self.set_bitmap_with_history(sync_uuid);
        let names_target = self.history.iter().any(|h| h.same_as(target));
        if older.same_as(target) && !target.same_as(DataUuid::JUST_CREATED) && !names_target {
            // Until it has stored the sync UUID, this is all that tells whose older data it has.
            self.history[1] = older;
        }
        sync_uuid
    }

    /// Becoming sync target: the received sync UUID is the current generation until the resync is done.
    pub fn begin_sync_target(&mut self, sync_uuid: DataUuid, primary: bool) {
        self.set_current(sync_uuid, primary);
        self.bitmap = DataUuid::ZERO;
    }

    /// The resync is complete on the source.
    pub fn end_sync_source(&mut self) {
        self.clear_bitmap();
    }

    /// The resync is complete on the target. `peer` is the source's set as last received, that is from before it
    /// made the sync UUID, with the corrections of the comparison rules applied.
    // spec: drbd-wire 6.8
    pub fn end_sync_target(&mut self, peer: &Uuids, primary: bool) {
        self.bitmap = peer.bitmap;
        self.history = peer.history;
        self.set_bitmap_with_history(self.current);
        self.set_current(peer.current, primary);
        self.clear_bitmap();
    }

    /// The target of the resync whose sync UUID is in the bitmap slot had finished before this node went on alone: what was
    /// current then is what it has now.
    pub fn target_had_finished(&mut self) {
        let [base, older] = self.history;
        self.history = [self.bitmap, older];
        self.bitmap = base;
    }

    /// Both sets name the same generations in every slot; role bits do not count.
    pub fn same_as(&self, other: &Uuids) -> bool {
        self.current.same_as(other.current)
            && self.bitmap.same_as(other.bitmap)
            && self.history[0].same_as(other.history[0])
            && self.history[1].same_as(other.history[1])
    }

    fn push_history(&mut self, value: DataUuid) {
        self.history = [value, self.history[0]];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const R: u64 = 0x1111_2222_3333_4440;
    const R2: u64 = 0x5555_6666_7777_8880;
    const S: u64 = 0x9999_AAAA_BBBB_CCC1;

    fn set(current: u64, bitmap: u64, h1: u64, h2: u64) -> Uuids {
        Uuids { current: DataUuid(current), bitmap: DataUuid(bitmap), history: [DataUuid(h1), DataUuid(h2)] }
    }

    /// drbd-wire 11.2: forced promotion and full sync of two fresh nodes.
    #[test]
    fn worked_example_first_full_sync() {
        let (mut k, mut d) = (Uuids::JUST_CREATED, Uuids::JUST_CREATED);
        k.new_current(DataUuid(R), true);
        assert_eq!(k, set(R | 1, 4, 0, 0));
        let as_sent = k;
        let sync = k.begin_sync_source(DataUuid(4), DataUuid(S));
        assert_eq!((sync, k), (DataUuid(S), set(R | 1, S, 4, 0)));
        d.begin_sync_target(sync, false);
        assert_eq!(d, set(S & !1, 0, 0, 0));
        d.end_sync_target(&as_sent, false);
        assert_eq!(d, set(R, 0, S & !1, 4));
        k.end_sync_source();
        assert_eq!(k, set(R | 1, 0, S, 4));
        assert!(k.same_as(&d));
    }

    /// drbd-wire 11.4 and 11.5: the link is lost, the Primary goes on, then a resync by bitmap.
    #[test]
    fn worked_example_resync_after_a_lost_link() {
        let (mut k, mut d) = (set(R | 1, 0, S, 4), set(R, 0, S, 4));
        k.new_current(DataUuid(R2), true);
        assert_eq!(k, set(R2 | 1, R | 1, S, 4));
        let as_sent = k;
        let s2 = (R | 1) + 0x0001_0000_0000_0000;
        assert_eq!(k.begin_sync_source(DataUuid(R), DataUuid(77)), DataUuid(s2));
        assert_eq!(k, set(R2 | 1, s2, R | 1, S));
        d.begin_sync_target(DataUuid(s2), false);
        assert_eq!(d, set(s2 & !1, 0, S, 4));
        d.end_sync_target(&as_sent, false);
        assert_eq!(d, set(R2, 0, s2 & !1, R | 1));
        k.end_sync_source();
        assert_eq!(k, set(R2 | 1, 0, s2, R | 1));
        assert!(k.same_as(&d) && !k.same_as(&as_sent));
    }

    #[test]
    fn sync_uuid_wraps_and_needs_a_base() {
        let mut u = set(R, 0xFFFF_0000_0000_0010, 1, 2);
        assert_eq!(u.begin_sync_source(DataUuid(0x20), DataUuid(9)), DataUuid(0x10));
        assert_eq!(u, set(R, 0x10, 0xFFFF_0000_0000_0010, 1));
        let mut u = set(R, 4, 1, 2);
        assert_eq!(u.begin_sync_source(DataUuid(0x20), DataUuid(9)), DataUuid(9));
        assert_eq!(u, set(R, 9, 4, 1));
    }

    #[test]
    fn a_full_sync_inside_one_generation_can_be_told_later() {
        let mut u = set(R | 1, 0, 8, 6);
        let sync = u.begin_sync_source(DataUuid(0x20), DataUuid(9));
        assert_eq!(sync, DataUuid(R + 0x0001_0000_0000_0000));
        assert!(u.syncs_own_generation() && u.end_of_sync_unknown());
        let begun = u;
        assert_eq!(u.begin_sync_source(DataUuid(R), DataUuid(9)), sync);
        assert_eq!(u, begun, "once more, and nothing moves");
        u.new_current(DataUuid(R2), true);
        assert_eq!(u, set(R2 | 1, sync.0, R | 1, 8));
        assert!(!u.syncs_own_generation() && !u.end_of_sync_unknown());
    }

    #[test]
    fn the_generation_of_a_target_stays_in_the_history_until_it_has_begun() {
        let mut u = set(R | 1, 0x100, 0x80, 0x60);
        u.begin_sync_source(DataUuid(0x61), DataUuid(9));
        assert_eq!(u.history, [DataUuid(0x100), DataUuid(0x60)]);
        u.begin_sync_source(DataUuid(0x60), DataUuid(9));
        assert!(u.history[1].same_as(DataUuid(0x60)), "{u:?}");
        let mut u = set(R | 1, 0x100, 0x80, 0x60);
        u.begin_sync_source(DataUuid(0x80), DataUuid(9));
        assert_eq!(u.history, [DataUuid(0x100), DataUuid(0x80)]);
        let mut u = set(R | 1, 0x100, 0x80, 4);
        u.begin_sync_source(DataUuid(4), DataUuid(9));
        assert_eq!(u.history, [DataUuid(0x100), DataUuid(0x80)], "an empty one is known by itself");
    }

    #[test]
    fn clearing_an_empty_bitmap_slot_keeps_the_history() {
        let mut u = set(R, 0, 8, 6);
        u.clear_bitmap();
        assert_eq!(u, set(R, 0, 8, 6));
        u.set_bitmap(DataUuid(0x21));
        assert_eq!(u, set(R, 0x20, 8, 6));
        u.clear_bitmap();
        assert_eq!(u, set(R, 0, 0x20, 8));
    }

    #[test]
    fn role_bit_follows_the_role() {
        let mut u = set(R, 0, 0, 0);
        u.set_primary(true);
        assert_eq!(u.current, DataUuid(R | 1));
        u.set_current(DataUuid(R2 | 1), false);
        assert_eq!(u.current, DataUuid(R2));
        u.set_primary(false);
        assert_eq!(u.current, DataUuid(R2));
    }
}
