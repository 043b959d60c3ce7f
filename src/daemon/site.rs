//! Which configuration file is used and which of its hosts this is, and the names users give to resources and
//! volumes.

use std::net::IpAddr;

use model::config::settings::{ResourceConfig, VolumeConfig};
use model::config::{self, Config, Diagnostic};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{SockaddrIn, SockaddrIn6};

use super::control::Outcome;
use super::translate::Refusal;
use crate::config_files::FileSystem;

/// Configuration file and host name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Site {
    /// The file, as given.
    pub config_file: String,
    /// Name of the host whose sections count.
    pub host: String,
}

/// The configuration as one host sees it.
#[derive(Debug)]
pub struct HostConfig {
    /// As written.
    pub config: Config,
    /// The host.
    pub host: String,
    /// Addresses of its interfaces.
    pub local_ips: Vec<IpAddr>,
    /// Its resources, in file order.
    pub resources: Vec<ResourceConfig>,
}

impl Site {
    /// Reads the configuration and everything it includes, and settles what this host runs. Warnings are left in
    /// [`Config::warnings`].
    ///
    /// # Errors
    /// The messages with their places, and the exit status of drbd-admin 3.4.
    pub fn read(&self) -> Result<HostConfig, Outcome> {
        let config = self.read_text()?;
        let local_ips = local_ips();
        let mut resources = Vec::new();
        let mut errors = Vec::new();
        for resource in &config.resources {
            match config::resolve_resource(&config, resource, &self.host, Some(&local_ips), None) {
                Ok(settings) => resources.extend(settings),
                Err(more) => errors.extend(more),
            }
        }
        if !errors.is_empty() {
            return Err(refused(&errors));
        }
        Ok(HostConfig { config, host: self.host.clone(), local_ips, resources })
    }

    /// Reads the configuration without asking which host this is.
    ///
    /// # Errors
    /// As [`Site::read`].
    pub fn read_text(&self) -> Result<Config, Outcome> {
        config::load(&FileSystem, &[&self.config_file]).map_err(|found| refused(&found))
    }
}

impl HostConfig {
    /// What the network needs: the own addresses exist on this host.
    ///
    /// # Errors
    /// As [`Site::read`].
    pub fn check_addresses(&self) -> Result<(), Outcome> {
        let found = config::check::check_host(&self.config, &self.host, Some(&self.local_ips));
        if found.iter().any(Diagnostic::is_error) { Err(refused(&found)) } else { Ok(()) }
    }

    /// The resources, if none of them goes through DRBD Proxy.
    ///
    /// # Errors
    /// One does: exit 10.
    pub fn refuse_proxy(&self, selected: Vec<Selected>) -> Result<Vec<Selected>, Outcome> {
        let mut outcome = Outcome::default();
        for one in &selected {
            let Some(written) = self.config.resource(&one.resource.name) else { continue };
            if written.hosts.iter().any(|host| host.proxy.is_some()) {
                let refusal = Refusal {
                    defined_at: one.resource.defined_at.clone(),
                    resource: one.resource.name.clone(),
                    problem: "'proxy' is not supported by this version".into(),
                    remedy: "remove the 'proxy' sections, so that the nodes connect to each other".into(),
                };
                outcome.exit_code = 10;
                outcome.error_line(&format!("error: {refusal}"));
            }
        }
        if outcome.exit_code == 0 { Ok(selected) } else { Err(outcome) }
    }
}

/// Name of this node, as `uname -n` prints it.
pub fn node_name() -> String {
    match nix::sys::utsname::uname() {
        Ok(system) => system.nodename().to_string_lossy().into_owned(),
        Err(_) => "localhost".to_owned(),
    }
}

/// Messages as text, and their exit status.
fn refused(found: &[Diagnostic]) -> Outcome {
    let mut outcome = Outcome { exit_code: config::diagnostic::exit_code(found), ..Outcome::default() };
    for diagnostic in found {
        outcome.error_line(&diagnostic.to_string());
    }
    outcome
}

/// The addresses of all interfaces.
pub fn local_ips() -> Vec<IpAddr> {
    let Ok(interfaces) = getifaddrs() else { return Vec::new() };
    let addresses = interfaces.filter_map(|i| i.address).filter_map(|address| {
        if let Some(v4) = address.as_sockaddr_in() {
            return Some(IpAddr::V4(SockaddrIn::ip(v4)));
        }
        address.as_sockaddr_in6().map(|v6: &SockaddrIn6| IpAddr::V6(v6.ip()))
    });
    let mut all: Vec<IpAddr> = addresses.collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// What a user named.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// Everything of this host.
    All,
    /// A resource.
    Resource(String),
    /// A volume of a resource.
    Volume(String, u16),
    /// The volume with this minor.
    Minor(u32),
}

impl Target {
    /// Parses `all`, `r0`, `r0/1` or `minor-10` (drbd-admin 3.3).
    ///
    /// # Errors
    /// A volume or minor that is no number: exit status 20.
    pub fn parse(text: &str) -> Result<Target, Outcome> {
        let not_a_number = |word: &str| Outcome::failed(20, format!("{word} is not a valid number"));
        if text == "all" {
            return Ok(Target::All);
        }
        if let Some(number) = text.strip_prefix("minor-") {
            return number.parse().map(Target::Minor).map_err(|_| not_a_number(number));
        }
        match text.split_once('/') {
            Some((name, volume)) => {
                let volume = volume.parse().map_err(|_| not_a_number(volume))?;
                Ok(Target::Volume(name.to_owned(), volume))
            }
            None => Ok(Target::Resource(text.to_owned())),
        }
    }
}

/// A resource that was named, and the volume if only one was.
#[derive(Clone, Debug, PartialEq)]
pub struct Selected {
    /// The resource.
    pub resource: ResourceConfig,
    /// Index of the volume in it, if one was named.
    pub volume: Option<usize>,
}

impl Selected {
    /// Indexes and settings of the volumes meant.
    pub fn volumes(&self) -> impl Iterator<Item = (usize, &VolumeConfig)> {
        self.resource.volumes.iter().enumerate().filter(|(index, _)| self.volume.is_none_or(|v| v == *index))
    }
}

/// Finds `names` among `resources`.
///
/// # Errors
/// A name that is not there: exit status 1 (drbd-admin 3.3).
pub fn select(resources: &[ResourceConfig], names: &[String], host: &str) -> Result<Vec<Selected>, Outcome> {
    let mut selected = Vec::new();
    for name in names {
        let unknown = || unknown(name);
        let found = match Target::parse(name)? {
            Target::All if resources.is_empty() => return Err(nothing_here(host)),
            Target::All => {
                selected.extend(resources.iter().map(|r| Selected { resource: r.clone(), volume: None }));
                continue;
            }
            Target::Resource(name) => {
                let resource = resources.iter().find(|r| r.name == name).ok_or_else(unknown)?;
                Selected { resource: resource.clone(), volume: None }
            }
            Target::Volume(name, number) => {
                let resource = resources.iter().find(|r| r.name == name).ok_or_else(unknown)?;
                let volume =
                    resource.volumes.iter().position(|v| v.volume.0 == number).ok_or_else(|| {
                        Outcome::failed(1, format!("Resource '{name}' has no volume {number}"))
                    })?;
                Selected { resource: resource.clone(), volume: Some(volume) }
            }
            Target::Minor(minor) => resources
                .iter()
                .find_map(|r| {
                    let volume = r.volumes.iter().position(|v| v.minor.0 == minor)?;
                    Some(Selected { resource: r.clone(), volume: Some(volume) })
                })
                .ok_or_else(unknown)?,
        };
        selected.push(found);
    }
    Ok(selected)
}

/// The answer to an unknown name.
pub fn unknown(name: &str) -> Outcome {
    Outcome::failed(1, format!("'{name}' not defined in your config (for this host)."))
}

fn nothing_here(host: &str) -> Outcome {
    let mut outcome =
        Outcome::failed(1, format!("WARN: no normal resources defined for this host ({host})!?"));
    outcome.error_line("Misspelled name of the local machine with the 'on' keyword ?");
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(dir: &tempfile::TempDir, host: &str) -> Site {
        let file = dir.path().join("x.conf");
        let text = "global { disable-ip-verification; }\n\
            resource r0 { device /dev/drbd0; disk /dev/x; meta-disk internal; \
              on a { address 10.0.0.1:1; } on b { address 10.0.0.2:1; } }\n\
            resource r1 { volume 0 { device /dev/drbd10; disk /dev/y; meta-disk internal; } \
              volume 1 { device /dev/drbd11; disk /dev/z; meta-disk internal; } \
              on a { address 10.0.0.1:2; } on b { address 10.0.0.2:2; } }\n";
        std::fs::write(&file, text).unwrap();
        Site { config_file: file.to_str().unwrap().into(), host: host.into() }
    }

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|n| n.to_string()).collect()
    }

    #[test]
    fn names_of_all_forms_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let all = site(&dir, "a").read().unwrap().resources;
        let found = |list: &[&str]| -> Vec<(String, Option<usize>)> {
            let found = select(&all, &names(list), "a").unwrap();
            found.into_iter().map(|s| (s.resource.name, s.volume)).collect()
        };
        assert_eq!(found(&["all"]), [("r0".into(), None), ("r1".into(), None)]);
        assert_eq!(found(&["r1", "r0/0"]), [("r1".into(), None), ("r0".into(), Some(0))]);
        assert_eq!(found(&["minor-11"]), [("r1".into(), Some(1))]);
        let both = select(&all, &names(&["r1"]), "a").unwrap();
        assert_eq!(both[0].volumes().count(), 2);
        let one = select(&all, &names(&["minor-11"]), "a").unwrap();
        assert_eq!(one[0].volumes().map(|(i, v)| (i, v.minor.0)).collect::<Vec<_>>(), [(1, 11)]);
    }

    #[test]
    fn wrong_names_end_as_in_drbdadm() {
        let dir = tempfile::tempdir().unwrap();
        let all = site(&dir, "a").read().unwrap().resources;
        for (name, exit, text) in [
            ("nosuch", 1, "'nosuch' not defined in your config (for this host).\n"),
            ("minor-5", 1, "'minor-5' not defined in your config (for this host).\n"),
            ("r1/7", 1, "Resource 'r1' has no volume 7\n"),
            ("/dev/drbd1", 20, "dev/drbd1 is not a valid number\n"),
            ("minor-x", 20, "x is not a valid number\n"),
        ] {
            let outcome = select(&all, &names(&[name]), "a").unwrap_err();
            assert_eq!((outcome.exit_code, outcome.err.as_str()), (exit, text), "{name}");
        }
    }

    #[test]
    fn another_host_has_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let all = site(&dir, "carol").read().unwrap().resources;
        let outcome = select(&all, &names(&["all"]), "carol").unwrap_err();
        assert_eq!(outcome.exit_code, 1);
        assert!(outcome.err.starts_with("WARN: no normal resources defined for this host (carol)!?\n"));
    }

    #[test]
    fn a_proxy_is_refused_by_name_and_place() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.conf");
        let text = "global { disable-ip-verification; }\n\
            resource px { device /dev/drbd0; disk /dev/x; meta-disk internal;\n\
              on a { address 127.0.0.1:1; proxy on a { inside 127.0.0.1:2; outside 10.0.0.1:3; } }\n\
              on b { address 127.0.0.1:1; proxy on b { inside 127.0.0.1:2; outside 10.0.0.2:3; } } }\n";
        std::fs::write(&file, text).unwrap();
        let read = Site { config_file: file.to_str().unwrap().into(), host: "a".into() }.read().unwrap();
        let selected = select(&read.resources, &names(&["px"]), "a").unwrap();
        let outcome = read.refuse_proxy(selected).unwrap_err();
        assert_eq!(outcome.exit_code, 10);
        assert!(outcome.err.contains("x.conf:2: resource px: 'proxy' is not supported"), "{}", outcome.err);
    }

    #[test]
    fn a_missing_file_says_so() {
        let site = Site { config_file: "/nonexistent/drbd.conf".into(), host: "a".into() };
        let outcome = site.read().unwrap_err();
        assert!(outcome.exit_code >= 10, "{outcome:?}");
        assert!(outcome.err.contains("/nonexistent/drbd.conf"), "{outcome:?}");
    }
}
