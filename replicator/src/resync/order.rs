//! `resync-after`: which devices may resync now (drbd-states 19).

use model::ids::Minor;
use model::result_code::ConfigError;
use model::state::{ConnState, DiskState, VolumeState};

/// Largest minor that may be named.
pub const MAX_MINOR: i64 = 1_048_575;

/// What the order of resyncs depends on, for one device of this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Device {
    /// Its minor.
    pub minor: Minor,
    /// The minor it waits for.
    pub after: Option<Minor>,
    /// Its state.
    pub state: VolumeState,
}

/// What to do with `aftr_isp` of a device, as a hard change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Adjustment {
    /// Set it.
    Pause,
    /// Clear it.
    Continue,
}

/// The device may resync: nobody up its chain is syncing, verifying or paused. The chain ends at a device
/// that is missing or has no disk.
pub fn may_sync_now(devices: &[Device], device: &Device) -> bool {
    let mut at = *device;
    // a chain has at most as many links as there are devices; more would be a cycle, which set-up refuses
    for _ in 0..devices.len() {
        if at.state.disk == DiskState::Diskless {
            return true;
        }
        let Some(next) = at.after.and_then(|minor| find(devices, minor)) else { return true };
        let conn = next.state.conn;
        let active = conn >= ConnState::SyncSource && conn <= ConnState::PausedSyncT;
        if next.state.disk != DiskState::Diskless && (active || next.state.any_isp()) {
            return false;
        }
        at = *next;
    }
    true
}

/// What is to be done about `aftr_isp` of the device, if anything. After a resync started or a device got its
/// first pause flag only the `Pause` ones count, after one ended or lost a flag only the `Continue` ones; after
/// an attach or a change of options both, again and again until nothing is left to do.
pub fn adjustment(devices: &[Device], device: &Device) -> Option<Adjustment> {
    let state = &device.state;
    let unconfigured = state.conn == ConnState::StandAlone && state.disk == DiskState::Diskless;
    match may_sync_now(devices, device) {
        false if !unconfigured && !state.aftr_isp => Some(Adjustment::Pause),
        true if state.aftr_isp => Some(Adjustment::Continue),
        _ => None,
    }
}

/// Checks a new `resync-after` of `minor`; -1 stands for none. The error is 132 for a number that no minor can
/// have and 133 for a cycle.
pub fn check_after(devices: &[Device], minor: Minor, after: i64) -> Result<Option<Minor>, ConfigError> {
    if after == -1 {
        return Ok(None);
    }
    if !(0..=MAX_MINOR).contains(&after) {
        return Err(ConfigError::ResyncAfter);
    }
    let named = Minor(u32::try_from(after).map_err(|_| ConfigError::ResyncAfter)?);
    let mut at = Some(named);
    for _ in 0..=devices.len() {
        match at {
            Some(m) if m == minor => return Err(ConfigError::ResyncAfterCycle),
            Some(m) => at = find(devices, m).and_then(|d| d.after),
            None => return Ok(Some(named)),
        }
    }
    Err(ConfigError::ResyncAfterCycle)
}

fn find(devices: &[Device], minor: Minor) -> Option<&Device> {
    devices.iter().find(|d| d.minor == minor)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::*;
    use ConnState as C;

    fn device(minor: u32, after: Option<u32>, conn: C) -> Device {
        let state = VolumeState { conn, disk: DiskState::UpToDate, ..VolumeState::INITIAL };
        Device { minor: Minor(minor), after: after.map(Minor), state }
    }

    fn verdicts(devices: &[Device]) -> Vec<bool> {
        devices.iter().map(|d| may_sync_now(devices, d)).collect()
    }

    #[test]
    fn a_device_waits_for_everything_up_its_chain() {
        for conn in C::ALL {
            let waits = matches!(conn.number(), 16..=21);
            let chain =
                [device(0, None, *conn), device(1, Some(0), C::Connected), device(2, Some(1), C::Connected)];
            assert_eq!(verdicts(&chain), [true, !waits, !waits], "{conn}");
        }
    }

    #[test]
    fn pause_flags_up_the_chain_hold_as_well() {
        for flag in 0..3 {
            let mut first = device(0, None, C::Connected);
            first.state.aftr_isp = flag == 0;
            first.state.peer_isp = flag == 1;
            first.state.user_isp = flag == 2;
            assert_eq!(verdicts(&[first, device(1, Some(0), C::SyncTarget)]), [true, false]);
        }
    }

    #[test]
    fn a_chain_ends_where_there_is_no_device_or_no_disk() {
        assert_eq!(verdicts(&[device(1, Some(7), C::SyncTarget)]), [true]);
        let mut gone = device(1, Some(0), C::Connected);
        gone.state.disk = DiskState::Diskless;
        gone.state.user_isp = true;
        let chain = [device(0, None, C::SyncSource), gone, device(2, Some(1), C::SyncTarget)];
        assert_eq!(verdicts(&chain), [true, true, true]);
    }

    #[test]
    fn adjustments_settle_and_undo_themselves() {
        let mut devices = [
            device(0, None, C::SyncTarget),
            device(1, Some(0), C::SyncTarget),
            device(2, Some(1), C::SyncTarget),
        ];
        let settle = |devices: &mut [Device; 3]| {
            let mut changes = 0;
            while let Some((i, a)) = (0..3).find_map(|i| adjustment(devices, &devices[i]).map(|a| (i, a))) {
                devices[i].state.aftr_isp = a == Adjustment::Pause;
                changes += 1;
                assert!(changes < 10);
            }
            devices.map(|d| d.state.aftr_isp)
        };
        assert_eq!(settle(&mut devices), [false, true, true]);
        devices[0].state.conn = C::Connected;
        assert_eq!(settle(&mut devices), [false, false, true]);
        devices[1].state.conn = C::Connected;
        assert_eq!(settle(&mut devices), [false, false, false]);
    }

    #[test]
    fn unconfigured_devices_are_left_alone() {
        let waiting = Device { minor: Minor(1), after: Some(Minor(0)), state: VolumeState::INITIAL };
        let devices = [device(0, None, C::SyncSource), waiting];
        assert_eq!(adjustment(&devices, &waiting), None);
    }

    #[test]
    fn wrong_numbers_and_cycles_are_refused() {
        let devices = [
            device(0, None, C::Connected),
            device(1, Some(0), C::Connected),
            device(2, Some(1), C::Connected),
        ];
        let check = |minor, after| check_after(&devices, Minor(minor), after);
        assert_eq!(check(0, -1), Ok(None));
        assert_eq!(check(0, 9), Ok(Some(Minor(9))));
        assert_eq!(check(0, MAX_MINOR), Ok(Some(Minor(1_048_575))));
        assert_eq!(check(2, 0), Ok(Some(Minor(0))));
        for wrong in [-2, MAX_MINOR + 1, i64::MAX, i64::MIN] {
            assert_eq!(check(0, wrong), Err(ConfigError::ResyncAfter));
        }
        for (minor, after) in [(0, 0), (0, 1), (0, 2), (1, 2)] {
            assert_eq!(check(minor, after), Err(ConfigError::ResyncAfterCycle), "{minor} after {after}");
        }
    }
}
