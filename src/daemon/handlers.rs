//! Runs the handler scripts of a resource (drbd-states 17): `/bin/sh -c COMMAND` with the environment that scripts made
//! for DRBD expect. No script holds up the data plane, the control plane, or another script.

use std::net::IpAddr;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::rc::Weak;

use model::config::settings::{Handler, ResourceConfig};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{ChildStderr, Command};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::resources::{Resources, Running};
use crate::dataplane::HandlerCall;

/// Tells a script of the file with the text of `/proc/drbd`.
const PROC_DRBD: &str = "LOCKSTEP_PROC_DRBD";
/// Tells a script where this daemon is reached.
const RUN_DIR: &str = "LOCKSTEP_RUN_DIR";
/// What a script says beyond that is not logged.
const SAID_BYTES_MAX: u64 = 16 << 10;

/// Runs what the core of a resource calls for, until the resource is gone.
pub async fn serve(
    mut calls: mpsc::UnboundedReceiver<HandlerCall>,
    resource: Weak<Running>,
    all: Weak<Resources>,
    config_file: String,
) {
    while let Some(call) = calls.recv().await {
        let (Some(running), Some(all)) = (resource.upgrade(), all.upgrade()) else { return };
        let config = running.config();
        let resource = resource.clone();
        let mut environment = environment(&config, &call, &config_file);
        if config.handlers.contains_key(&call.handler) {
            environment.push((RUN_DIR, all.run_dir().display().to_string()));
            match all.write_proc_drbd() {
                Ok(path) => environment.push((PROC_DRBD, path.display().to_string())),
                Err(e) => warn!("the state cannot be written for handlers: {e}"),
            }
        }
        tokio::task::spawn_local(async move {
            let exit_code = match config.handlers.get(&call.handler) {
                Some(script) => run(script, &environment, &config, &call).await,
                None => 0,
            };
            if let Some(running) = resource.upgrade() {
                running.handler_ended(call.run, exit_code).await;
            }
        });
    }
}

/// The exit code; 0 if the script cannot be started (drbd-states 17.1).
async fn run(
    script: &str,
    environment: &[(&str, String)],
    config: &ResourceConfig,
    call: &HandlerCall,
) -> i32 {
    let (name, handler) = (config.name.as_str(), call.handler);
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(script).env_clear();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.envs(environment.iter().map(|(key, value)| (*key, value)));
    let ended = match command.spawn() {
        Ok(mut child) => {
            if let Some(stderr) = child.stderr.take() {
                tokio::task::spawn_local(pass_on(stderr, config.name.clone(), handler));
            }
            child.wait().await
        }
        Err(e) => Err(e),
    };
    match ended {
        Ok(status) => {
            info!(resource = name, "handler {handler} ({script}): {status}");
            exit_code(status)
        }
        Err(e) => {
            warn!(resource = name, "resource {name}: handler {handler} ({script}) cannot be started: {e}");
            0
        }
    }
}

/// Logs what a script says. The rest of too much is read as well: a script, or what it leaves running, is neither held up nor
/// ended because nobody reads.
async fn pass_on(stderr: ChildStderr, resource: String, handler: Handler) {
    let mut said = BufReader::new(stderr).take(SAID_BYTES_MAX);
    let mut line = Vec::new();
    while matches!(said.read_until(b'\n', &mut line).await, Ok(1..)) {
        info!(resource, "handler {handler}: {}", String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
    // It ends when it cannot be read any more, whatever the reason.
    let _ = tokio::io::copy(&mut said.into_inner(), &mut tokio::io::sink()).await;
}

/// As a shell tells it of a script that was killed: with 0 a resync would begin without what its handler was to do before.
fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

// spec: drbd-states 17.1
fn environment(
    config: &ResourceConfig,
    call: &HandlerCall,
    config_file: &str,
) -> Vec<(&'static str, String)> {
    let family = if config.peer_address.is_ipv4() { "ipv4" } else { "ipv6" };
    let minors: Vec<String> = config.volumes.iter().map(|v| v.minor.to_string()).collect();
    let mut list = vec![
        ("HOME", "/".to_owned()),
        ("TERM", "linux".to_owned()),
        ("PATH", "/sbin:/usr/sbin:/bin:/usr/bin:/lib/drbd".to_owned()),
        ("DRBD_RESOURCE", config.name.clone()),
        ("DRBD_CONF", config_file.to_owned()),
        ("DRBD_PEER", config.peer_host.clone()),
        ("DRBD_PEERS", config.peer_host.clone()),
        ("DRBD_PEER_AF", family.to_owned()),
        ("DRBD_PEER_ADDRESS", address_text(config.peer_address.ip())),
        ("DRBD_MINOR", minors.join(" ")),
    ];
    if let Some(volume) = call.vol.and_then(|v| config.volumes.get(usize::from(v.0))) {
        list.retain(|(key, _)| *key != "DRBD_MINOR");
        list.push(("DRBD_MINOR", volume.minor.to_string()));
        list.push(("DRBD_VOLUME", volume.volume.0.to_string()));
        list.push(("DRBD_LL_DISK", volume.disk.clone().unwrap_or_else(|| "none".into())));
    }
    list
}

/// IPv6 addresses come with all their eight groups, as the kernel prints them.
fn address_text(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => ip.segments().map(|s| format!("{s:04x}")).join(":"),
    }
}

#[cfg(test)]
mod tests {
    use replicator::{HandlerRun, VolIdx};

    use super::*;
    use crate::daemon::site::Site;

    /// Whether the shell has become the command, or waits for it.
    #[test]
    fn a_script_that_is_killed_has_not_succeeded() {
        for script in ["kill -KILL $$", "sh -c 'kill -KILL $$'; exit $?"] {
            let status = std::process::Command::new("/bin/sh").args(["-c", script]).status().unwrap();
            assert_eq!(exit_code(status), 137, "{script}");
        }
    }

    #[test]
    fn addresses_are_written_in_full() {
        assert_eq!(address_text("10.1.2.3".parse().unwrap()), "10.1.2.3");
        let full = "fe80:0000:0000:0000:0000:0000:0000:0001";
        assert_eq!(address_text("fe80::1".parse().unwrap()), full);
    }

    // recorded from DRBD 8.4 and drbd-utils 9.22
    #[test]
    fn a_script_finds_what_it_finds_under_drbd() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("drbd.conf");
        let text = "resource r0 { device /dev/drbd0; disk /dev/ubda; meta-disk internal;\n\
            on node1 { address 10.99.0.1:7788; } on node2 { address 10.99.0.2:7788; } }\n";
        std::fs::write(&file, text).unwrap();
        let site = Site { config_file: file.to_str().unwrap().into(), host: "node1".into() };
        let config = site.read().unwrap().resources.remove(0);
        let of = |vol| {
            let call = HandlerCall { run: HandlerRun(1), handler: Handler::FencePeer, vol };
            let found = environment(&config, &call, "/etc/drbd.conf");
            let mut lines: Vec<String> = found.iter().map(|(key, value)| format!("{key}={value}")).collect();
            lines.sort();
            lines
        };
        let common = [
            "DRBD_CONF=/etc/drbd.conf",
            "DRBD_MINOR=0",
            "DRBD_PEER=node2",
            "DRBD_PEERS=node2",
            "DRBD_PEER_ADDRESS=10.99.0.2",
            "DRBD_PEER_AF=ipv4",
            "DRBD_RESOURCE=r0",
            "HOME=/",
            "PATH=/sbin:/usr/sbin:/bin:/usr/bin:/lib/drbd",
            "TERM=linux",
        ];
        let sorted = |more: &[&str]| {
            let mut all: Vec<String> = common.iter().chain(more).map(|line| line.to_string()).collect();
            all.sort();
            all
        };
        assert_eq!(of(None), sorted(&[]));
        assert_eq!(of(Some(VolIdx(0))), sorted(&["DRBD_LL_DISK=/dev/ubda", "DRBD_VOLUME=0"]));
    }
}
