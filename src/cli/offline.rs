//! The commands that only read the configuration: `dump` and the `sh-` family for scripts (drbd-admin 1.15, 3.6).

use std::fmt::Write;

use model::config::settings::{MetaDisk, VolumeConfig};
use model::config::{self, Config, DumpOptions};

use crate::daemon::control::Outcome;
use crate::daemon::site::{self, Selected, Site, local_ips, select};

/// What a `sh-` command prints of each volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolumeField {
    /// `sh-dev`: device node.
    Device,
    /// `sh-minor`.
    Minor,
    /// `sh-ll-dev`: backing device, `none` without one.
    Disk,
    /// `sh-md-dev`: metadata device.
    MetaDisk,
    /// `sh-md-idx`: `internal`, `flexible` or the index.
    MetaIndex,
    /// `sh-ip`: own address.
    Ip,
}

/// `dump`: the configuration as it was understood.
pub fn dump(site: &Site, names: &[String], expanded: bool) -> Outcome {
    let config = match site.read_text() {
        Ok(config) => config,
        Err(refused) => return refused,
    };
    let ips = local_ips();
    let all = names.is_empty() || names.iter().any(|n| n == "all");
    if !all && let Some(name) = names.iter().find(|name| !is_here(&config, name, site, &ips)) {
        return site::unknown(name);
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let what = DumpOptions { expanded, resources: (!all).then_some(&names[..]) };
    let mut outcome = Outcome::text(config::dump(&config, &site.host, Some(&ips), what));
    warn(&config, &mut outcome);
    outcome
}

fn is_here(config: &Config, name: &str, site: &Site, ips: &[std::net::IpAddr]) -> bool {
    let local = |host| config::check::is_local(config, host, &site.host, Some(ips));
    config.resource(name).is_some_and(|r| r.hosts.iter().any(local))
}

/// `sh-nop`: only checks the configuration.
pub fn check(site: &Site) -> Outcome {
    site.read().map_or_else(
        |refused| refused,
        |read| {
            let mut outcome = Outcome::default();
            warn(&read.config, &mut outcome);
            outcome
        },
    )
}

/// `sh-resources`: names on one line.
pub fn resources(site: &Site) -> Outcome {
    match site.read() {
        Ok(read) => {
            let names: Vec<&str> = read.resources.iter().map(|r| r.name.as_str()).collect();
            Outcome::text(names.join(" ") + "\n")
        }
        Err(refused) => refused,
    }
}

/// `sh-resource`: the resource of each name, which may be that of a volume.
pub fn resource_names(site: &Site, names: &[String]) -> Outcome {
    each(site, names, |one, out| writeln!(out, "{}", one.resource.name))
}

/// One line per volume.
pub fn volumes(site: &Site, names: &[String], field: VolumeField) -> Outcome {
    each(site, names, |one, out| {
        one.volumes().try_for_each(|(_, volume)| print_field(one, volume, field, out))
    })
}

fn print_field(
    one: &Selected,
    volume: &VolumeConfig,
    field: VolumeField,
    out: &mut String,
) -> std::fmt::Result {
    let disk = volume.disk.as_deref().unwrap_or("none");
    match (field, &volume.meta_disk) {
        (VolumeField::Device, _) => writeln!(out, "{}", volume.device),
        (VolumeField::Minor, _) => writeln!(out, "{}", volume.minor),
        (VolumeField::Disk, _) | (VolumeField::MetaDisk, MetaDisk::Internal) => writeln!(out, "{disk}"),
        (VolumeField::MetaDisk, MetaDisk::FlexibleExternal(device) | MetaDisk::Indexed(device, _)) => {
            writeln!(out, "{device}")
        }
        (VolumeField::MetaIndex, MetaDisk::Internal) => writeln!(out, "internal"),
        (VolumeField::MetaIndex, MetaDisk::FlexibleExternal(_)) => writeln!(out, "flexible"),
        (VolumeField::MetaIndex, MetaDisk::Indexed(_, index)) => writeln!(out, "{index}"),
        (VolumeField::Ip, _) => writeln!(out, "{}", one.resource.own_address.ip()),
    }
}

fn each(
    site: &Site,
    names: &[String],
    mut print: impl FnMut(&Selected, &mut String) -> std::fmt::Result,
) -> Outcome {
    let selected = match site.read().and_then(|read| select(&read.resources, names, &site.host)) {
        Ok(selected) => selected,
        Err(refused) => return refused,
    };
    let mut out = String::new();
    for one in &selected {
        print(one, &mut out).expect("writing to a string cannot fail");
    }
    Outcome::text(out)
}

fn warn(config: &Config, outcome: &mut Outcome) {
    for warning in &config.warnings {
        outcome.error_line(&warning.to_string());
    }
}
