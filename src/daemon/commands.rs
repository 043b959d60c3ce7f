//! What the daemon does for each command, in the order and with the results of drbdadm (drbd-admin 3.4 to 3.8).

use std::rc::Rc;

use model::config::settings::{ResourceConfig, StartupOptions, VolumeConfig};
use model::state::{ConnState, DiskState};
use model::status::{ResourceSnapshot, VolumeSnapshot, one_line};
use replicator::{Command, CommandResult, ResizeWish};
use tokio::time::{Duration, Instant, timeout_at};

use super::control::{Action, Outcome, WaitLimits};
use super::failover::Failover;
use super::proc_drbd;
use super::resources::{self, Adjusted, Resources, Running, unknown_minor, unknown_resource, vol_idx};
use super::resync_after;
use super::site::{Selected, Site, select, unknown};

/// A status of this or more ends a command at once (drbd-admin 3.4).
const EXIT_CANNOT: u8 = 20;
/// A step of `up` or `adjust` failed.
const EXIT_STEP_FAILED: u8 = 1;
/// A waiting command timed out.
const EXIT_TIMEOUT: u8 = 5;

/// Runs commands against the resources of this daemon.
pub struct Commands {
    /// Configuration and host.
    pub site: Site,
    /// What is up.
    pub resources: Rc<Resources>,
    /// The services.
    pub failover: Rc<Failover>,
}

impl Commands {
    /// Runs `action` for the resources and volumes named by `targets`.
    pub async fn run(&self, action: Action, targets: &[String]) -> Outcome {
        if action == Action::Proc {
            return Outcome::text(proc_drbd::text(&self.resources));
        }
        if targets.is_empty() {
            return Outcome::failed(1, "which resource? name one, or 'all'");
        }
        let selected = match self.select(action, targets) {
            Ok(selected) => selected,
            Err(refused) => return refused,
        };
        if let Some(refused) = scope_error(action, &selected) {
            return refused;
        }
        match action {
            Action::Up => self.up(&selected).await,
            Action::Adjust => self.adjust(&selected).await,
            _ => {
                let mut all = Outcome::default();
                for one in &selected {
                    all.absorb(self.run_one(action, one).await);
                    if all.exit_code >= EXIT_CANNOT {
                        break;
                    }
                }
                all
            }
        }
    }

    /// State of the named resources, of all that are up without names.
    ///
    /// # Errors
    /// A resource that is not up: exit 10 (drbd-admin 4.3).
    pub fn snapshots(&self, names: &[String]) -> Result<Vec<ResourceSnapshot>, Outcome> {
        let everything = names.is_empty() || names.iter().any(|n| n == "all");
        if everything {
            return Ok(self.resources.all().iter().map(|r| (*r.snapshot()).clone()).collect());
        }
        let mut found = Vec::new();
        for name in names {
            let Some(running) = self.resources.get(name) else {
                let known = self.site.read().is_ok_and(|c| c.resources.iter().any(|r| r.name == *name));
                let no_such = Outcome::failed(10, format!("{name}: No such resource"));
                return Err(if known { no_such } else { unknown(name) });
            };
            found.push((*running.snapshot()).clone());
        }
        Ok(found)
    }

    /// What is named: up with what it runs with, or as configured. `up` and `adjust` always read the file; the
    /// others do so only for names of resources that are not up, so that a broken file stops nobody who has to
    /// manage what is up.
    fn select(&self, action: Action, targets: &[String]) -> Result<Vec<Selected>, Outcome> {
        if matches!(action, Action::Up | Action::Adjust | Action::NewResource) {
            let config = self.site.read()?;
            config.check_addresses()?;
            let selected = select(&config.resources, targets, &self.site.host)?;
            return config.refuse_proxy(selected);
        }
        let mut known: Vec<ResourceConfig> =
            self.resources.all().iter().map(|r| (*r.config()).clone()).collect();
        let wants_all = targets.iter().any(|t| t == "all");
        if !wants_all && let Ok(selected) = select(&known, targets, &self.site.host) {
            return Ok(selected);
        }
        match self.site.read() {
            Ok(config) => {
                let more = config.resources.into_iter().filter(|r| known.iter().all(|k| k.name != r.name));
                let more: Vec<_> = more.collect();
                known.extend(more);
                select(&known, targets, &self.site.host)
            }
            Err(_) if wants_all && !known.is_empty() => select(&known, targets, &self.site.host),
            Err(refused) => Err(refused),
        }
    }

    /// Stage by stage. Each resource is locked for its own part of a stage only: a disk that does not answer keeps nobody from
    /// managing the others.
    async fn up(&self, selected: &[Selected]) -> Outcome {
        let mut all = Outcome::default();
        let mut created = Vec::new();
        for one in selected {
            all.absorb(self.resources.warnings(&one.resource));
            let lock = self.resources.lock(&one.resource.name);
            let _guard = lock.lock().await;
            match self.create(one).await {
                Ok(running) => created.push((one, running, lock.clone())),
                Err(refused) => all.absorb(refused),
            }
        }
        if all.exit_code == 0 {
            for (one, running, lock) in &created {
                let _guard = lock.lock().await;
                all.absorb(self.attach_all(one, running).await);
            }
        }
        if all.exit_code == 0 {
            for (one, running, lock) in &created {
                let _guard = lock.lock().await;
                running.follow(&one.resource, None);
                all.absorb(running.connect(false, false).await);
            }
        }
        step_failed(all)
    }

    /// The same for one resource, which is locked.
    async fn up_locked(&self, one: &Selected) -> Outcome {
        let running = match self.create(one).await {
            Ok(running) => running,
            Err(refused) => return step_failed(refused),
        };
        let mut all = self.resources.warnings(&one.resource);
        all.absorb(self.attach_all(one, &running).await);
        if all.exit_code == 0 {
            all.absorb(running.connect(false, false).await);
        }
        step_failed(all)
    }

    async fn create(&self, one: &Selected) -> Result<Rc<Running>, Outcome> {
        let old = self.resources.get(&one.resource.name);
        // Left by an `up` that failed; the file may have changed since.
        if old.is_some_and(|old| *old.config() != one.resource && old.is_bare()) {
            self.resources.remove(&one.resource.name).await;
        }
        self.resources.create(&one.resource)
    }

    async fn attach_all(&self, one: &Selected, running: &Running) -> Outcome {
        let mut all = Outcome::default();
        for index in 0..running.config().volumes.len() {
            // It may have been there.
            running.follow(&one.resource, Some(index));
            all.absorb(self.attach(running, index).await);
        }
        all
    }

    async fn adjust(&self, selected: &[Selected]) -> Outcome {
        let mut all = Outcome::default();
        for one in selected {
            let name = &one.resource.name;
            let lock = self.resources.lock(name);
            let _guard = lock.lock().await;
            let Some(running) = self.resources.get(name) else {
                all.absorb(self.up_locked(one).await);
                continue;
            };
            let volumes = 0..one.resource.volumes.len();
            let mut cycles = volumes.filter_map(|v| resync_after::refused(&self.resources, &one.resource, v));
            if let Some(refused) = cycles.next() {
                all.absorb(Outcome { exit_code: EXIT_STEP_FAILED, ..refused });
                continue;
            }
            match running.adjust(&one.resource).await {
                Ok(Adjusted::Done(outcome)) | Err(outcome) => all.absorb(outcome),
                Ok(Adjusted::NeedsRestart(what)) => {
                    let used = is_used(&running.snapshot());
                    if used {
                        all.absorb(Outcome::failed(
                            EXIT_STEP_FAILED,
                            format!(
                                "{name}: {what} changed, which needs a restart of the resource, and it is in use \
                                 here: 'lockstep down {name}' and 'lockstep up {name}' when it is not"
                            ),
                        ));
                        continue;
                    }
                    if let Some(refused) = self.resources.taken(&one.resource) {
                        // It would not come up again.
                        all.absorb(Outcome { exit_code: EXIT_STEP_FAILED, ..refused });
                        continue;
                    }
                    let ended = self.down_locked(&running, name).await;
                    let is_down = ended.exit_code == 0;
                    all.absorb(ended);
                    if is_down {
                        all.absorb(self.up_locked(one).await);
                    }
                }
            }
        }
        all
    }

    async fn run_one(&self, action: Action, one: &Selected) -> Outcome {
        let name = &one.resource.name;
        let running = self.resources.get(name);
        match action {
            Action::NewResource => {
                let lock = self.resources.lock(name);
                let _guard = lock.lock().await;
                let created = self.resources.create(&one.resource);
                return created.map_or_else(|refused| refused, |_| Outcome::default());
            }
            Action::Down => {
                let lock = self.resources.lock(name);
                let _guard = lock.lock().await;
                return match self.resources.get(name) {
                    Some(running) => self.down_locked(&running, name).await,
                    None => Outcome::default(),
                };
            }
            _ => {}
        }
        let Some(running) = running else { return not_up(action, one) };
        match action {
            Action::NewMinor => Outcome::default(),
            Action::Connect { discard_my_data, tentative } => {
                self.follow_file(&running, None);
                running.connect(discard_my_data, tentative).await
            }
            Action::Disconnect { force } => running.disconnect(force).await,
            Action::Primary { force } => running.primary(force, &first_minor(one)).await,
            Action::Secondary { force } => running.secondary(force, &first_minor(one), None).await,
            Action::SuspendIo => running.command(Command::SuspendIo, &first_minor(one), None).await,
            Action::ResumeIo => running.command(Command::ResumeIo, &first_minor(one), None).await,
            _ => self.run_volumes(action, one, &running).await,
        }
    }

    /// Volumes of one resource stop at the first failure.
    async fn run_volumes(&self, action: Action, one: &Selected, running: &Running) -> Outcome {
        let mut all = Outcome::default();
        for (_, volume) in one.volumes() {
            // The resource may have been restarted with other volumes since this one was named.
            let config = running.config();
            let same = |v: &VolumeConfig| (v.volume, v.minor) == (volume.volume, volume.minor);
            all.absorb(match config.volumes.iter().position(same) {
                Some(index) => self.run_volume(action, running, index, volume).await,
                None => unknown_minor(volume),
            });
            if all.exit_code != 0 {
                break;
            }
        }
        all
    }

    async fn run_volume(
        &self,
        action: Action,
        running: &Running,
        index: usize,
        volume: &VolumeConfig,
    ) -> Outcome {
        let vol = vol_idx(index);
        let command = match action {
            Action::Attach => {
                let lock = self.resources.lock(&running.config().name);
                let _guard = lock.lock().await;
                self.follow_file(running, Some(index));
                return self.attach(running, index).await;
            }
            Action::Role | Action::Cstate | Action::Dstate | Action::GetGi | Action::ShowGi => {
                return print(action, &running.volume_snapshot(volume));
            }
            Action::Wait { sync, limits } => {
                // The section has no meaning but here: it counts as the file has it now.
                let startup =
                    self.in_file(running).map_or_else(|| running.config().startup.clone(), |r| r.startup);
                return wait(&self.resources, running, volume, sync, limits, startup).await;
            }
            Action::Resize { limit_sectors, assume_clean, assume_peer_has_space } => {
                let limit_sectors = limit_sectors.unwrap_or_else(|| self.configured_limit(running, volume));
                let wish = ResizeWish { limit_sectors, assume_clean, assume_peer_has_space };
                return running.resize(index, wish).await;
            }
            Action::CheckResize => {
                running.remember(index).await;
                return Outcome::default();
            }
            Action::Detach { force } => Command::Detach { vol, force },
            Action::PauseSync => Command::PauseSync(vol),
            Action::ResumeSync => Command::ResumeSync(vol),
            Action::Invalidate => Command::Invalidate(vol),
            Action::InvalidateRemote => Command::InvalidateRemote(vol),
            Action::Verify { start_sector, stop_sector } => {
                Command::Verify { vol, start_sector, stop_sector }
            }
            Action::Outdate => Command::Outdate(vol),
            Action::NewCurrentUuid { clear_bitmap } => Command::NewCurrentUuid { vol, clear_bitmap },
            Action::Up
            | Action::Down
            | Action::Adjust
            | Action::NewResource
            | Action::NewMinor
            | Action::Connect { .. }
            | Action::Disconnect { .. }
            | Action::Primary { .. }
            | Action::Secondary { .. }
            | Action::SuspendIo
            | Action::ResumeIo
            | Action::Proc => unreachable!("not a command for one volume"),
        };
        running.command(command, &volume.minor.to_string(), None).await
    }

    /// What begins anew begins as the file has it now; as it was, if the file cannot be read.
    // spec: drbd-admin 3.6: connect and attach come with the options of the configuration
    fn follow_file(&self, running: &Running, volume: Option<usize>) {
        if let Some(wanted) = self.in_file(running) {
            running.follow(&wanted, volume);
        }
    }

    /// A resource as the file has it now, if that can be read and has it.
    fn in_file(&self, running: &Running) -> Option<ResourceConfig> {
        let read = self.site.read().ok()?;
        read.resources.into_iter().find(|r| r.name == running.config().name)
    }

    /// The `size` of a volume as the file has it now; as it runs, if the file cannot be read.
    fn configured_limit(&self, running: &Running, volume: &VolumeConfig) -> u64 {
        let resource = self.in_file(running);
        let found = resource.as_ref().and_then(|r| r.volumes.iter().find(|v| v.volume == volume.volume));
        found.unwrap_or(volume).disk_options.size_sectors
    }

    async fn attach(&self, running: &Running, index: usize) -> Outcome {
        match resync_after::refused(&self.resources, &running.config(), index) {
            Some(refused) => refused,
            None => running.attach(index).await,
        }
    }

    async fn down_locked(&self, running: &Running, name: &str) -> Outcome {
        let outcome = running.take_down().await;
        if outcome.exit_code == 0 || outcome.exit_code >= EXIT_CANNOT {
            self.resources.remove(name).await;
        }
        outcome
    }
}

// spec: drbd-admin 3.5: whatever failed, the status is 1
fn step_failed(outcome: Outcome) -> Outcome {
    let exit_code = if outcome.exit_code == 0 { 0 } else { EXIT_STEP_FAILED };
    Outcome { exit_code, ..outcome }
}

fn is_used(snapshot: &ResourceSnapshot) -> bool {
    snapshot.role == model::state::Role::Primary || snapshot.volumes.iter().any(|v| v.open_count > 0)
}

fn first_minor(one: &Selected) -> String {
    one.volumes().next().map_or(one.resource.name.clone(), |(_, v)| v.minor.to_string())
}

fn is_whole_resource(action: Action) -> bool {
    matches!(
        action,
        Action::Up
            | Action::Down
            | Action::Adjust
            | Action::NewResource
            | Action::Connect { .. }
            | Action::Disconnect { .. }
    )
}

/// A volume where only resources make sense, or the other way round (drbd-admin 3.3).
fn scope_error(action: Action, selected: &[Selected]) -> Option<Outcome> {
    for one in selected {
        let implicit = one.resource.volumes.iter().all(|v| v.implicit);
        if is_whole_resource(action) && one.volume.is_some() && !implicit {
            let text = "this command operates on whole resources, but you specified a specific volume!";
            return Some(Outcome::failed(1, text));
        }
        if matches!(action, Action::NewCurrentUuid { .. }) && one.volume.is_none() && !implicit {
            let name = &one.resource.name;
            let text = format!(
                "new-current-uuid requires a specific volume id, but none is specified.\n\
                 Try 'new-current-uuid minor-<minor_number>' or 'new-current-uuid {name}/<vnr>'"
            );
            return Some(Outcome::failed(1, text));
        }
    }
    None
}

/// What a command says about a resource that is configured and not up.
fn not_up(action: Action, one: &Selected) -> Outcome {
    match action {
        Action::Disconnect { .. } => {
            let error = CommandResult::Config(model::result_code::ConfigError::InvalidRequest);
            resources::outcome(error, "??", Some("unknown connection"))
        }
        Action::Connect { .. } | Action::NewMinor => unknown_resource(&one.resource.name),
        _ => one
            .volumes()
            .next()
            .map_or_else(|| unknown_resource(&one.resource.name), |(_, volume)| unknown_minor(volume)),
    }
}

fn print(action: Action, volume: &VolumeSnapshot) -> Outcome {
    let line = |text: String| Outcome::text(text.trim_end_matches('\n').to_owned() + "\n");
    let identifiers = |text: Result<String, one_line::NoIdentifiers>| match text {
        Ok(text) => line(text),
        Err(e) => Outcome::failed(1, e.to_string()),
    };
    match action {
        Action::Role => line(one_line::role(volume)),
        Action::Cstate => line(one_line::cstate(volume)),
        Action::Dstate => line(one_line::dstate(volume)),
        Action::GetGi => identifiers(one_line::get_gi(volume)),
        Action::ShowGi => match one_line::show_gi(volume) {
            Ok(picture) => Outcome::text(picture),
            Err(e) => Outcome::failed(1, e.to_string()),
        },
        _ => unreachable!("not a command that prints a volume"),
    }
}

// spec: drbd-admin 4.8, drbd-states 18
async fn wait(
    resources: &Resources,
    running: &Running,
    volume: &VolumeConfig,
    sync: bool,
    given: WaitLimits,
    startup: StartupOptions,
) -> Outcome {
    let mut outcome = Outcome::default();
    let limits = Limits::new(given, &startup, &mut outcome);
    let wait_after_sb = given.wait_after_sb || startup.wait_after_sb;
    let started = Instant::now();
    let (mut changes, mut removals) = (running.changes(), resources.changes());
    let mut told = false;
    loop {
        changes.borrow_and_update();
        removals.borrow_and_update();
        if !resources.get(&running.config().name).is_some_and(|now| std::ptr::eq(&*now, running)) {
            outcome.absorb(unknown_minor(volume));
            return outcome;
        }
        let state = running.volume_snapshot(volume).state;
        let connected =
            if sync { state.conn == ConnState::Connected } else { state.conn >= ConnState::Connected };
        if connected {
            return outcome;
        }
        if state.conn < ConnState::Unconnected {
            if !wait_after_sb {
                return outcome;
            }
            if !std::mem::replace(&mut told, true) {
                let (name, vnr) = (&running.config().name, volume.volume);
                let text = format!(
                    "drbd{} ({name}[{vnr}]) is {}, but I'm configured to wait anways (--wait-after-sb)",
                    volume.minor, state.conn
                );
                outcome.error_line(&text);
            }
        }
        let limit = match () {
            () if state.pdsk == DiskState::Outdated => limits.outdated,
            () if running.is_degraded() => limits.degraded,
            () => limits.normal,
        };
        let next = async {
            tokio::select! {
                next = changes.changed() => next,
                next = removals.changed() => next,
            }
        };
        let next = match limit {
            None => next.await,
            Some(limit) => match timeout_at(started + limit, next).await {
                Ok(next) => next,
                Err(_) => {
                    outcome.exit_code = EXIT_TIMEOUT;
                    return outcome;
                }
            },
        };
        if next.is_err() {
            return outcome;
        }
    }
}

struct Limits {
    normal: Option<Duration>,
    degraded: Option<Duration>,
    outdated: Option<Duration>,
}

impl Limits {
    /// None of them may be longer than the one before it (0 = for ever).
    fn new(given: WaitLimits, startup: &StartupOptions, outcome: &mut Outcome) -> Limits {
        let seconds =
            |given: Option<u32>, configured: Duration| given.map_or(configured.as_secs(), u64::from);
        let wfc = seconds(given.wfc_s, startup.wfc_timeout);
        let mut degr = seconds(given.degr_wfc_s, startup.degr_wfc_timeout);
        let mut outdated = seconds(given.outdated_wfc_s, startup.outdated_wfc_timeout);
        if wfc > 0 && (wfc < degr || degr == 0) {
            if degr != 0 {
                outcome.error_line("degr-wfc-timeout has to be shorter than wfc-timeout");
                outcome.error_line(&format!("degr-wfc-timeout implicitly set to wfc-timeout ({wfc}s)"));
            }
            degr = wfc;
        }
        if degr > 0 && (degr < outdated || outdated == 0) {
            if outdated != 0 {
                outcome.error_line("outdated-wfc-timeout has to be shorter than degr-wfc-timeout");
                outcome.error_line(&format!(
                    "outdated-wfc-timeout implicitly set to degr-wfc-timeout ({degr}s)"
                ));
            }
            outdated = degr;
        }
        let limit = |seconds: u64| (seconds > 0).then(|| Duration::from_secs(seconds));
        Limits { normal: limit(wfc), degraded: limit(degr), outdated: limit(outdated) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shorter_limits_follow_the_longer_ones() {
        let startup = StartupOptions::default();
        let mut said = Outcome::default();
        let none = Limits::new(WaitLimits::default(), &startup, &mut said);
        assert_eq!((none.normal, none.degraded, none.outdated), (None, None, None));
        let given = WaitLimits { wfc_s: Some(3), degr_wfc_s: Some(9), ..WaitLimits::default() };
        let lowered = Limits::new(given, &startup, &mut said);
        let three = Some(Duration::from_secs(3));
        assert_eq!((lowered.normal, lowered.degraded, lowered.outdated), (three, three, three));
        assert!(said.err.contains("degr-wfc-timeout implicitly set to wfc-timeout (3s)"), "{}", said.err);
    }

    #[test]
    fn the_states_are_printed_as_drbdadm_does() {
        let fresh = VolumeSnapshot::new(0, 0);
        assert_eq!(print(Action::Cstate, &fresh).out, "Unconfigured\n");
        let gi = print(Action::GetGi, &fresh);
        assert_eq!((gi.exit_code, gi.err.as_str()), (1, "Device is unconfigured\n"));
    }
}
