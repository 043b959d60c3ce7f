//! `resync-after`: pauses the resync of a volume until the one it waits for is done (drbd-states 19). The order
//! spans resources, and with them data-plane threads; so it is kept here, from what they publish.

use std::rc::Rc;
use std::time::Duration;

use model::status::VolumeSnapshot;
use replicator::Command;
use replicator::resync::order::{Adjustment, Device, adjustment};
use tracing::{debug, warn};

use super::resources::{Resources, Running, vol_idx};

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
            let outcome = running.command(command, &device.minor.to_string(), None).await;
            if outcome.exit_code != 0 {
                warn!(minor = device.minor.0, "resync-after: {}", outcome.err.trim_end());
            }
        }
        tokio::time::sleep(PAUSE).await;
        if changes.changed().await.is_err() {
            return;
        }
    }
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
