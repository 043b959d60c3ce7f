//! What boot scripts and udev call beside the ordinary commands: `wait-con-int`, `sh-b-pri`, `sh-status`, `sh-udev`,
//! `sh-mod-parms` (drbd-admin 3.6, 3.10, 4.5, 5.4).

use std::fmt::Write as _;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use model::config::settings::{BecomePrimaryOn, ResourceConfig, VolumeConfig};
use model::status::{ResourceSnapshot, sh_status};

use super::client::Client;
use super::{TOOLS_VERSION, admin};
use crate::daemon::control::{Action, Outcome, WaitLimits};
use crate::daemon::site::{Selected, Site, select};

/// `wait-con-int` prints a dot for each of these; then it explains what it waits for.
const DOT: Duration = Duration::from_secs(1);
const DOTS: u32 = 10;
/// `sh-b-pri` tries so often to become Primary, with a pause in between.
const PROMOTIONS: u32 = 5;
const PROMOTION_PAUSE: Duration = Duration::from_secs(1);

/// `sh-b-pri`: becomes Primary where `become-primary-on` names this host.
pub fn promote(site: &Site, run_dir: &Path, names: &[String]) -> Outcome {
    let selected = match site.read().and_then(|read| select(&read.resources, names, &site.host)) {
        Ok(selected) => selected,
        Err(refused) => return refused,
    };
    let mut all = Outcome::default();
    for one in selected.iter().filter(|one| becomes_primary(&one.resource, &site.host)) {
        all.absorb(promote_one(site, run_dir, &one.resource.name));
    }
    all
}

fn becomes_primary(resource: &ResourceConfig, host: &str) -> bool {
    match &resource.startup.become_primary_on {
        BecomePrimaryOn::None => false,
        BecomePrimaryOn::Both => true,
        BecomePrimaryOn::Hosts(hosts) => hosts.iter().any(|name| name == host),
    }
}

fn promote_one(site: &Site, run_dir: &Path, name: &str) -> Outcome {
    for _ in 1..PROMOTIONS {
        let outcome = admin::run(site, run_dir, Action::Primary { force: false }, &[name.to_owned()]);
        if outcome.exit_code == 0 {
            return outcome;
        }
        thread::sleep(PROMOTION_PAUSE);
    }
    admin::run(site, run_dir, Action::Primary { force: false }, &[name.to_owned()])
}

/// `wait-con-int`: waits for the peers of all resources at the same time, each as its startup section says. Whoever waits may
/// type `yes` to go on without them.
pub fn wait_for_peers(site: &Site, run_dir: &Path) -> Outcome {
    let resources = match site.read() {
        Ok(read) => read.resources,
        Err(refused) => return refused,
    };
    let (ended, ends) = channel();
    for volume in resources.iter().flat_map(|r| &r.volumes) {
        let (site, run_dir, ended) = (site.clone(), run_dir.to_path_buf(), ended.clone());
        let minor = format!("minor-{}", volume.minor);
        thread::spawn(move || {
            let action = Action::Wait { sync: false, limits: WaitLimits::default() };
            // Nobody listens once the waiting was ended.
            let _ = ended.send(admin::run(&site, &run_dir, action, &[minor]));
        });
    }
    drop(ended);
    if !all_end_within_dots(&ends)
        && let Some(first) = resources.first()
    {
        say(&explanation(first));
        wait_or_yes(ends);
    }
    Outcome::default()
}

fn all_end_within_dots(ends: &Receiver<Outcome>) -> bool {
    let mut dots = 0;
    while dots < DOTS {
        match ends.recv_timeout(DOT) {
            Ok(one) => complain(&one),
            Err(RecvTimeoutError::Disconnected) => {
                say(if dots > 0 { "\n" } else { "" });
                return true;
            }
            Err(RecvTimeoutError::Timeout) => {
                dots += 1;
                say(".");
            }
        }
    }
    false
}

/// Returns when all have ended, or at the word of a terminal.
fn wait_or_yes(ends: Receiver<Outcome>) {
    if !io::stdin().is_terminal() {
        say(&format!(
            "\n To abort waiting for DRBD connections, kill this process: kill {}\n",
            std::process::id()
        ));
        return ends.iter().for_each(|one| complain(&one));
    }
    let (done, is_done) = channel();
    let typed = done.clone();
    thread::spawn(move || {
        ends.iter().for_each(|one| complain(&one));
        let _ = done.send(());
    });
    thread::spawn(move || {
        // Without a terminal any more the others are waited for.
        if io::stdin().lock().lines().map_while(Result::ok).any(|line| line == "yes") {
            let _ = typed.send(());
        }
    });
    let _ = is_done.recv();
    say("\n");
}

// spec: drbd-admin 3.10
fn explanation(first: &ResourceConfig) -> String {
    let startup = &first.startup;
    format!(
        "\n***************************************************************\n\
         \x20DRBD's startup script waits for the peer node(s) to appear.\n\
         \x20- If this node was already a degraded cluster before the\n\
         \x20  reboot, the timeout is {} seconds. [degr-wfc-timeout]\n\
         \x20- If the peer was available before the reboot, the timeout\n\
         \x20  is {} seconds. [wfc-timeout]\n\
         \x20  (These values are for resource '{}'; 0 sec -> wait forever)\n\
         \x20To abort waiting enter 'yes' [ -- ]: ",
        startup.degr_wfc_timeout.as_secs(),
        startup.wfc_timeout.as_secs(),
        first.name
    )
}

/// A reader that has gone is no reason to wait less.
fn say(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

fn complain(one: &Outcome) {
    let _ = io::stderr().write_all(one.err.as_bytes());
}

/// `sh-status`: the assignments of `drbdsetup sh-status` for every configured volume, and where each is configured.
pub fn status(site: &Site, run_dir: &Path, names: &[String]) -> Outcome {
    let all = ["all".to_owned()];
    let names = if names.is_empty() { &all[..] } else { names };
    let selected = match site.read().and_then(|read| select(&read.resources, names, &site.host)) {
        Ok(selected) => selected,
        Err(refused) => return refused,
    };
    let snapshots = match Client::connect(run_dir) {
        Ok(mut client) => client.status(&[]),
        Err(e) => return e.outcome(),
    };
    match snapshots {
        Ok(snapshots) => Outcome::text(status_text(&site.config_file, &selected, &snapshots)),
        Err(refused) => refused,
    }
}

fn status_text(config_file: &str, selected: &[Selected], snapshots: &[ResourceSnapshot]) -> String {
    let mut out = format!("_drbd_version={TOOLS_VERSION}\n_drbd_api=1\n_config_file={config_file}\n\n\n");
    for one in selected {
        let resource = &one.resource;
        let known = snapshots.iter().find(|s| s.name == resource.name);
        let _ = write!(
            out,
            "_conf_res_name={}\n_conf_file_line={}\n\n_stacked_on=\n_stacked_on_device=\n_stacked_on_minor=\n",
            resource.name, resource.defined_at
        );
        for (_, volume) in one.volumes() {
            let _ = writeln!(out, "_conf_volume={}", volume.volume);
            out.push_str(&volume_status(known, volume));
        }
    }
    out
}

fn volume_status(resource: Option<&ResourceSnapshot>, volume: &VolumeConfig) -> String {
    let up = resource.and_then(|r| {
        let found = r.volumes.iter().find(|v| v.minor == volume.minor.0)?;
        Some(ResourceSnapshot { volumes: vec![found.clone()], ..r.clone() })
    });
    up.map_or_else(|| sh_status::render_unknown(volume.minor.0), |one| sh_status::render(&one))
}

/// `sh-udev`: what the udev rule makes names of.
pub fn udev(site: &Site, name: &str) -> Outcome {
    let selected = match site.read().and_then(|read| select(&read.resources, &[name.to_owned()], &site.host))
    {
        Ok(selected) => selected,
        Err(refused) => return refused,
    };
    let mut volumes = selected.iter().flat_map(|one| one.volumes().map(move |(_, v)| (&one.resource, v)));
    let (Some((resource, volume)), None) = (volumes.next(), volumes.next()) else {
        let text = "sh-udev requires a specific volume id, but none is specified.\n\
                    Try 'sh-udev minor-<minor_number>' or 'sh-udev RESOURCE/<vnr>'";
        return Outcome::failed(1, text);
    };
    let by_name = if volume.implicit && !resource.global.udev_always_use_vnr {
        resource.name.clone()
    } else {
        format!("{}/{}", resource.name, volume.volume)
    };
    let mut out = format!("RESOURCE={by_name}\nDEVICE=drbd{}\n", volume.minor);
    if let Some(disk) = &volume.disk {
        let _ = writeln!(out, "DISK={}", disk.strip_prefix("/dev/").unwrap_or(disk));
    }
    Outcome::text(out)
}

/// `sh-mod-parms`: what a script hands to modprobe.
pub fn module_parameters(site: &Site) -> Outcome {
    match site.read() {
        Ok(read) => {
            let minors = read.resources.iter().map(|r| r.volumes.len()).sum::<usize>();
            let wanted = read.resources.first().map_or(MINORS_DEFAULT, |r| r.global.minor_count);
            Outcome::text(format!("minor_count={}\n", wanted.max(u32::try_from(minors).unwrap_or(u32::MAX))))
        }
        Err(refused) => refused,
    }
}

/// Of a file without resources.
const MINORS_DEFAULT: u32 = 32;
