//! `lockstep failover`: reads the configuration of failover without touching anything (failover 6.2, 6.4).

use std::fmt::Write;
use std::path::Path;

use clap::Subcommand;
use model::config::Diagnostic;
use model::config::diagnostic::exit_code;
use model::failover::config::{FailoverConfig, Proof};
use model::failover::{HeartbeatFiles, import, load, print_import};

use super::admin;
use crate::config_files::FileSystem;
use crate::daemon::control::{FailoverRequest, Outcome, ServiceOrder};

/// Where the file is looked for unless told otherwise.
pub const DEFAULT_FILE: &str = "/etc/lockstep/failover.conf";

/// The commands.
#[derive(Subcommand, Debug)]
pub enum FailoverVerb {
    /// Reads a file in keepalived's grammar, and says what is wrong and what is in it
    Check {
        /// The file
        #[arg(default_value = DEFAULT_FILE)]
        file: String,
        /// What lines that begin with @ are compared with, as keepalived's -i
        #[arg(short = 'i', long, value_name = "ID")]
        config_id: Option<String>,
    },
    /// Says where the services are, and why
    Status,
    /// Says what happened to the services, and how long each step took
    History,
    /// Moves a service to the other node: it ends here before it begins there
    Switch {
        /// Its name
        service: String,
    },
    /// Lets nothing move by itself until 'unfreeze'
    Freeze {
        /// Name of the service
        service: String,
    },
    /// Lets a service move by itself again
    Unfreeze {
        /// Its name
        service: String,
    },
    /// Ends a service here, and keeps it away until 'clear'
    Release {
        /// Its name
        service: String,
    },
    /// Forgets that a service failed, or was released, here
    Clear {
        /// Its name
        service: String,
    },
    /// Prints what heartbeat's files become, as the node of --host reads them
    Import {
        /// Nodes, media, times
        #[arg(long, default_value = "/etc/ha.d/ha.cf", value_name = "FILE")]
        ha_cf: String,
        /// Resources and their preferred nodes
        #[arg(long, default_value = "/etc/ha.d/haresources", value_name = "FILE")]
        haresources: String,
        /// Keys of messages
        #[arg(long, default_value = "/etc/ha.d/authkeys", value_name = "FILE")]
        authkeys: String,
    },
}

/// Runs a command as the node `host`; some ask the daemon of `run_dir`.
pub fn run(verb: &FailoverVerb, host: &str, run_dir: &Path) -> Outcome {
    let order = |service: &String, order| {
        let service = service.clone();
        admin::failover(run_dir, FailoverRequest::Order { service, order })
    };
    match verb {
        FailoverVerb::Status => admin::failover(run_dir, FailoverRequest::Status),
        FailoverVerb::History => admin::failover(run_dir, FailoverRequest::History),
        FailoverVerb::Switch { service } => order(service, ServiceOrder::Switch),
        FailoverVerb::Freeze { service } => order(service, ServiceOrder::Freeze),
        FailoverVerb::Unfreeze { service } => order(service, ServiceOrder::Unfreeze),
        FailoverVerb::Release { service } => order(service, ServiceOrder::Release),
        FailoverVerb::Clear { service } => order(service, ServiceOrder::Clear),
        FailoverVerb::Check { file, config_id } => match load(&FileSystem, file, config_id.as_deref()) {
            Ok(loaded) => told(summary(&loaded.config), &loaded.warnings),
            Err(all) => told(String::new(), &all),
        },
        FailoverVerb::Import { ha_cf, haresources, authkeys } => {
            match import(&FileSystem, HeartbeatFiles { ha_cf, haresources, authkeys }, host) {
                Ok(import) => told(print_import(&import), &import.warnings),
                Err(all) => told(String::new(), &all),
            }
        }
    }
}

fn told(out: String, diagnostics: &[Diagnostic]) -> Outcome {
    let mut outcome = Outcome { exit_code: exit_code(diagnostics), out, ..Outcome::default() };
    for diagnostic in diagnostics {
        outcome.error_line(&diagnostic.to_string());
    }
    outcome
}

/// What is in the file, a line for each thing that runs.
fn summary(config: &FailoverConfig) -> String {
    let mut out = String::new();
    write_summary(config, &mut out).expect("writing to a string cannot fail");
    if out.is_empty() {
        out.push_str("nothing that runs\n");
    }
    out
}

fn write_summary(config: &FailoverConfig, out: &mut String) -> std::fmt::Result {
    for instance in &config.instances {
        let addresses: Vec<String> = instance.addresses.iter().map(|a| a.address.to_string()).collect();
        writeln!(
            out,
            "vrrp_instance {}: {} router {} priority {}, {}",
            instance.name,
            instance.interface,
            instance.virtual_router_id,
            instance.priority,
            addresses.join(" ")
        )?;
    }
    for group in &config.sync_groups {
        writeln!(out, "vrrp_sync_group {}: {}", group.name, group.members.join(" "))?;
    }
    if let Some(heartbeat) = &config.heartbeat {
        let media = heartbeat.media.len();
        writeln!(out, "heartbeat: {} over {media} media", heartbeat.nodes.join(" "))?;
    }
    for service in &config.services {
        let proof = match service.proof {
            Proof::Lease => "lease",
            Proof::Fencing => "fencing",
            Proof::Nothing => "NOTHING",
        };
        let instances = match &service.instances[..] {
            [] => "no address".to_owned(),
            names => names.join(" "),
        };
        writeln!(
            out,
            "service {}: resource {}, {} steps, {instances}; proof by {proof}",
            service.name,
            service.resource,
            service.steps.len()
        )?;
    }
    for server in &config.virtual_servers {
        writeln!(
            out,
            "virtual_server {}: {} real servers, not served yet",
            server.name, server.real_servers
        )?;
    }
    Ok(())
}
