//! The text of `/proc/drbd` for handler scripts that look for it there. Only a kernel module can make that file, so they find
//! it as a file of the run directory, if they are told to (docs/migrate-from-drbd.md, "Fencing scripts").

use std::path::{Path, PathBuf};
use std::{fs, io};

use model::config::settings::ResourceConfig;
use model::status::{ResourceSnapshot, proc_text};

use super::resources::Resources;

/// Release of the text: the protocol is that of this DRBD.
const RELEASE: &str = "8.4.11";
const PROC_DRBD: &str = "/proc/drbd";
/// Name of the file in the run directory.
const FILE_NAME: &str = "proc-drbd";
/// Scripts of drbd-utils that read it (drbd-admin 5.3).
const READERS: &[&str] = &[
    "crm-fence-peer.sh",
    "crm-fence-peer.9.sh",
    "crm-unfence-peer.sh",
    "crm-unfence-peer.9.sh",
    "stonith_admin-fence-peer.sh",
    "rhcs_fence",
    "snapshot-resync-target-lvm.sh",
];
/// Where they are installed. The last one is in the path of handlers.
const READERS_AT: &[&str] = &["/usr/lib/drbd", "/lib/drbd", ""];

/// The text as of now.
pub fn text(resources: &Resources) -> String {
    let all: Vec<ResourceSnapshot> = resources.all().iter().map(|r| (*r.snapshot()).clone()).collect();
    let line2 = concat!("GIT-hash: lockstep build by lockstep@", env!("CARGO_PKG_VERSION"));
    proc_text::render(RELEASE, line2, &all)
}

/// Writes it as of now, for a script that is about to run; gives the path of the file. Whoever reads it meanwhile finds all of
/// the old one or all of the new one.
///
/// # Errors
/// The run directory cannot be written to.
pub fn write(resources: &Resources, run_dir: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(run_dir.join(FILE_NAME))?;
    let new = path.with_extension("new");
    fs::write(&new, text(resources))?;
    fs::rename(&new, &path)?;
    Ok(path)
}

/// What is to be said of handlers that look for `/proc/drbd`, where there is none.
pub fn warnings(config: &ResourceConfig, run_dir: &Path) -> Vec<String> {
    if Path::new(PROC_DRBD).exists() {
        return Vec::new();
    }
    let readers = config.handlers.iter().filter_map(|(handler, command)| Some((handler, reader(command)?)));
    let text = |(handler, script)| {
        format!(
            "resource {}: handler {handler} runs {script}, which reads {PROC_DRBD}, and there is none: use a copy that reads {} \
             (docs/migrate-from-drbd.md, 'Fencing scripts')",
            config.name,
            run_dir.join(FILE_NAME).display()
        )
    };
    readers.map(text).collect()
}

/// The installed script in a command that reads `/proc/drbd`, as the command names it.
fn reader(command: &str) -> Option<&str> {
    let between = |c: char| c.is_whitespace() || "\"';&|()".contains(c);
    command.split(between).find(|word| {
        let (directory, name) = word.rsplit_once('/').unwrap_or(("", word));
        READERS_AT.contains(&directory) && READERS.contains(&name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installed_scripts_are_known_and_copies_are_not() {
        for (command, found) in [
            ("/usr/lib/drbd/crm-fence-peer.sh", Some("/usr/lib/drbd/crm-fence-peer.sh")),
            ("/usr/lib/drbd/crm-fence-peer.9.sh --timeout 60", Some("/usr/lib/drbd/crm-fence-peer.9.sh")),
            ("logger fenced; '/lib/drbd/rhcs_fence'", Some("/lib/drbd/rhcs_fence")),
            ("stonith_admin-fence-peer.sh", Some("stonith_admin-fence-peer.sh")),
            ("/usr/local/lib/crm-fence-peer.sh", None),
            ("/usr/lib/drbd/outdate-peer.sh on a b", None),
            ("", None),
        ] {
            assert_eq!(reader(command), found, "{command}");
        }
    }
}
