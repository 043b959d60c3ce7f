//! `resync-after`: pauses the resync of a volume until the one it waits for is done (drbd-states 19). The order
//! spans resources, and with them data-plane threads; so it is kept here, from what they publish.

use std::rc::Rc;
use std::time::Duration;

use model::config::settings::ResourceConfig;
use model::state::{DiskState, VolumeState};
use model::status::VolumeSnapshot;
use replicator::resync::order::{Adjustment, Device, adjustment, check_after};
use replicator::{Command, CommandResult};
use tracing::{debug, warn};

use super::control::Outcome;
use super::resources::{Resources, Running, outcome, vol_idx};

/// Looks at everything at most this often.
const PAUSE: Duration = Duration::from_millis(100);

/// Keeps the order for as long as the daemon runs.
pub async fn keep(resources: Rc<Resources>) {
    let mut changes = resources.changes();
    loop {
        let (devices, owners) = survey(&resources);
        for (device, (running, index)) in devices.iter().zip(&owners) {
            let Some(change) = adjustment(&devices, device) else { continue };
            let pause = change == Adjustment::Pause;
            debug!(minor = device.minor.0, pause, "resync-after");
            let command = Command::SetAfterDependency(vol_idx(*index), pause);
            let ended = running.command(command, &device.minor.to_string(), None).await;
            if ended.exit_code != 0 {
                warn!(minor = device.minor.0, "resync-after: {}", ended.err.trim_end());
            }
        }
        tokio::time::sleep(PAUSE).await;
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Why the disk of a volume is not attached, or `wanted` not adopted, with what is attached now: its resync would wait for
/// itself.
// spec: drbd-states 19: a chain ends at a device without disk
pub fn refused(resources: &Resources, wanted: &ResourceConfig, index: usize) -> Option<Outcome> {
    let volume = &wanted.volumes[index];
    let after = i64::from(volume.disk_options.resync_after.as_ref()?.minor.0);
    let (mut devices, _) = survey(resources);
    devices.retain(|d| d.state.disk != DiskState::Diskless && d.minor != volume.minor);
    devices.push(Device { minor: volume.minor, after: None, state: VolumeState::INITIAL });
    for own in &wanted.volumes {
        if let Some(device) = devices.iter_mut().find(|d| d.minor == own.minor) {
            device.after = own.disk_options.resync_after.as_ref().map(|a| a.minor);
        }
    }
    let error = check_after(&devices, volume.minor, after).err()?;
    Some(outcome(CommandResult::Config(error), &volume.minor.to_string(), None))
}

/// Every volume that is up, and whose it is.
fn survey(resources: &Resources) -> (Vec<Device>, Vec<(Rc<Running>, usize)>) {
    let mut devices = Vec::new();
    let mut owners = Vec::new();
    for running in resources.all() {
        for (index, volume) in running.config().volumes.iter().enumerate() {
            let VolumeSnapshot { state, .. } = running.volume_snapshot(volume);
            let after = volume.disk_options.resync_after.as_ref().map(|a| a.minor);
            devices.push(Device { minor: volume.minor, after, state });
            owners.push((running.clone(), index));
        }
    }
    (devices, owners)
}
