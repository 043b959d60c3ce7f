//! The command line. Names, options, texts and exit codes are drbdadm's (drbd-admin 3); commands of lockstep's
//! own are `daemon`, `demo` and `proc`.

pub mod admin;
pub mod arguments;
pub mod boot;
pub mod client;
pub mod failover;
pub mod handler;
pub mod meta;
pub mod metadata;
pub mod offline;
pub mod status;
pub mod terminal;
#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::path::PathBuf;

use ::failover::lease::handler::Duty;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config_files::default_config_file;
use crate::daemon::control::{Action, Outcome, WaitLimits};
use crate::daemon::settings::{Settings, Size};
use crate::daemon::site::{Site, node_name};
use crate::daemon::{self, DaemonConfig};
use crate::demo;
use meta::Opts;
use metadata::MetaCommand;
use offline::VolumeField;
use status::StatusOptions;

/// Wrong usage (drbd-admin 3.1).
const EXIT_USAGE: u8 = 1;
/// Version of the tools whose commands these are (drbd-admin 3.2).
const TOOLS_VERSION: &str = "9.22.0";
/// The command cannot be executed at all.
const EXIT_CANNOT: u8 = 20;

#[derive(Parser, Debug)]
#[command(
    name = "lockstep",
    about = "Keeps block devices identical on two nodes: DRBD 8.4 in userspace",
    after_help = "NAMES: 'all', a resource 'r0', a volume 'r0/1', a minor 'minor-10'.\n\
                  Try it without touching anything: lockstep demo",
    disable_version_flag = true
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Args, Debug)]
struct Global {
    /// Configuration file (default: /etc/drbd.conf)
    #[arg(
        short,
        long,
        visible_alias = "config-file",
        env = "LOCKSTEP_CONFIG",
        global = true,
        value_name = "FILE"
    )]
    config: Option<String>,
    /// Name of the host whose sections count (default: the node name)
    #[arg(long, env = "LOCKSTEP_HOST", global = true, value_name = "NAME")]
    host: Option<String>,
    /// Directory of the daemon's sockets (default: /run/lockstep)
    #[arg(long, env = "LOCKSTEP_RUN_DIR", global = true, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Settings that are not DRBD's (default: /etc/lockstep.toml, if it exists)
    #[arg(long, env = "LOCKSTEP_TOML", global = true, value_name = "FILE")]
    settings: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct Names {
    /// all, r0, r0/1, minor-10
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

#[derive(Args, Debug)]
struct Forced {
    #[command(flatten)]
    names: Names,
    /// Without asking anybody
    #[arg(short, long)]
    force: bool,
}

#[derive(Args, Debug)]
struct WaitArgs {
    #[command(flatten)]
    names: Names,
    /// Seconds to wait, 0 = for ever
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(0..=300_000))]
    wfc_timeout: Option<u32>,
    /// The same, if the cluster was degraded before
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(0..=300_000))]
    degr_wfc_timeout: Option<u32>,
    /// The same, if the peer is outdated
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(0..=300_000))]
    outdated_wfc_timeout: Option<u32>,
    /// Go on waiting although StandAlone
    #[arg(long)]
    wait_after_sb: bool,
}

#[derive(Args, Debug)]
struct MetaArgs {
    #[command(flatten)]
    names: Names,
    /// Answer every question with yes
    #[arg(short, long)]
    force: bool,
    /// Stripes of the activity log
    #[arg(long, value_name = "N")]
    al_stripes: Option<u32>,
    /// Size of a stripe in KiB
    #[arg(long = "al-stripe-size-kB", value_name = "KIB")]
    al_stripe_size_kib: Option<u32>,
}

#[derive(Args, Debug)]
struct DemoArgs {
    /// Where disks and configuration are kept
    #[arg(long, default_value = "./lockstep-demo", value_name = "DIR")]
    dir: PathBuf,
    /// Size of the device
    #[arg(long, default_value = "256M", value_name = "SIZE")]
    size: Size,
    /// Ends by itself after this time, for example 20s (default: at Ctrl-C)
    #[arg(long, value_name = "TIME")]
    run_for: Option<demo::RunFor>,
    /// Writes, kills both nodes in turn, and proves that nothing was lost
    #[arg(long)]
    workload: bool,
    /// First of four TCP ports
    #[arg(long, default_value_t = 7788, value_name = "PORT")]
    port_base: u16,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Runs the daemon in the foreground
    Daemon {
        /// Stop when standard input ends
        #[arg(long, hide = true)]
        exit_with_stdin: bool,
    },
    /// Shows replication and failover on this machine, with two nodes and files as disks
    Demo(DemoArgs),
    /// Creates the resource, attaches its disks, connects
    Up(Names),
    /// Demotes, disconnects, detaches, removes the resource
    Down(Names),
    /// Makes what runs equal to the configuration
    #[command(alias = "adjust-with-progress")]
    Adjust(Names),
    /// Creates the resource without disks and connection
    NewResource(Names),
    /// Does nothing: volumes come with their resource
    #[command(hide = true)]
    NewMinor(Names),
    /// Applies the activity log and attaches the disk
    Attach(Names),
    /// Gives the disk up
    Detach(Forced),
    /// Starts connecting to the peer
    Connect {
        #[command(flatten)]
        names: Names,
        /// After a split brain: the peer's data wins
        #[arg(long)]
        discard_my_data: bool,
        /// Only find out which way a resync would go
        #[arg(long, alias = "dry-run")]
        tentative: bool,
    },
    /// Ends the connection
    Disconnect(Forced),
    /// Becomes Primary: the device may be used here
    Primary {
        #[command(flatten)]
        names: Names,
        /// Take the local data as the good copy, whatever it is
        #[arg(short, long, visible_alias = "overwrite-data-of-peer")]
        force: bool,
    },
    /// Becomes Secondary
    Secondary {
        #[command(flatten)]
        names: Names,
        /// Even if it is in use or frozen: what clients have asked for fails, and they are disconnected
        #[arg(short, long)]
        force: bool,
    },
    /// Compares all blocks with the peer's; what differs is marked out of sync
    Verify {
        #[command(flatten)]
        names: Names,
        /// First sector (default: where the last run ended)
        #[arg(short = 's', long, value_name = "SECTOR")]
        start: Option<u64>,
        /// End before this sector (default: at the end of the device)
        #[arg(short = 'S', long, value_name = "SECTOR")]
        stop: Option<u64>,
    },
    /// Prints the roles, own/peer
    #[command(alias = "state")]
    Role(Names),
    /// Prints the connection state
    Cstate(Names),
    /// Prints the disk states, own/peer
    Dstate(Names),
    /// Prints the state of resources
    Status {
        /// Resources; all that are up without
        names: Vec<String>,
        /// For programs
        #[arg(long, short)]
        json: bool,
        /// Follow every change until Ctrl-C
        #[arg(long, short)]
        watch: bool,
        /// Also what is normal
        #[arg(long, short)]
        verbose: bool,
        /// Also the counters
        #[arg(long, short)]
        statistics: bool,
    },
    /// Prints the text of /proc/drbd
    Proc,
    /// Pauses the resync
    PauseSync(Names),
    /// Resumes the resync
    ResumeSync(Names),
    /// Full resync from the peer
    Invalidate(Names),
    /// Full resync to the peer
    InvalidateRemote(Names),
    /// Marks the own data as outdated
    Outdate(Names),
    /// Freezes I/O
    SuspendIo(Names),
    /// Thaws I/O
    ResumeIo(Names),
    /// Makes the device as large as both disks allow, online
    Resize {
        #[command(flatten)]
        names: Names,
        /// At most this size (K, M, G, T; sectors without a unit); all there is without
        #[arg(long, value_name = "SIZE", value_parser = sectors)]
        size: Option<u64>,
        /// What the new part holds does not matter: no resync of it
        #[arg(long)]
        assume_clean: bool,
        /// Grow although there is no connection: the peer's disk has grown too
        #[arg(long)]
        assume_peer_has_space: bool,
    },
    /// Finds the metadata of a device that has grown while it was detached
    CheckResize(Names),
    /// Starts a new data generation
    NewCurrentUuid {
        #[command(flatten)]
        names: Names,
        /// On a fresh connected pair: skip the initial sync
        #[arg(long)]
        clear_bitmap: bool,
    },
    /// Prints the data generations in one line
    GetGi(Names),
    /// Prints the data generations with explanations
    ShowGi(Names),
    /// Waits for the connection
    WaitConnect(WaitArgs),
    /// Waits for the connection and the end of a resync
    WaitSync(WaitArgs),
    /// Prints the configuration as it was understood
    Dump {
        /// Resources; everything without
        names: Vec<String>,
        /// With everything inherited
        #[arg(short = 'd', long = "dry-run", short_alias = 'v', alias = "verbose")]
        expanded: bool,
    },
    /// Writes new metadata
    CreateMd(MetaArgs),
    /// Prints the metadata
    DumpMd(MetaArgs),
    /// Writes the metadata that a dump describes
    RestoreMd {
        /// The dump, - for standard input
        file: String,
        #[command(flatten)]
        args: MetaArgs,
    },
    /// Replays the activity log after a crash
    ApplyAl(MetaArgs),
    /// Destroys the metadata
    WipeMd(MetaArgs),
    /// Services: where they are, where they are to be, and their configuration
    Failover {
        #[command(subcommand)]
        verb: failover::FailoverVerb,
    },
    /// To be a resource's fence-peer handler: strikes the peer out of the lease of its service
    FencePeer(handler::HandlerArgs),
    /// To be a resource's unfence-peer handler: the peer's copy counts again
    UnfencePeer(handler::HandlerArgs),
    /// Checks the configuration
    ShNop,
    /// Prints the names of this host's resources
    ShResources,
    /// Prints the name of the resource
    ShResource(Names),
    /// Prints the device nodes
    ShDev(Names),
    /// Prints the minors
    ShMinor(Names),
    /// Prints the backing devices
    ShLlDev(Names),
    /// Prints the metadata devices
    ShMdDev(Names),
    /// Prints the indexes on the metadata devices
    ShMdIdx(Names),
    /// Prints the own addresses
    ShIp(Names),
    /// Prints the state as shell assignments
    ShStatus {
        /// Resources; all without
        names: Vec<String>,
    },
    /// Prints what udev names a device by
    ShUdev {
        /// r0/1, minor-10
        name: String,
    },
    /// Prints module parameters
    ShModParms,
    /// Becomes Primary where become-primary-on names this host
    ShBPri(Names),
    /// Waits for the peers of all resources, at boot
    WaitConInt,
}

/// Runs the program with its arguments, the name of the program first. Returns the exit status.
pub fn main(args: Vec<String>) -> u8 {
    if args.iter().skip(1).any(|a| a == "--version" || a == "-V") {
        return emit(&Outcome::text(version()));
    }
    let args = arguments::normalize(&args, &Cli::command());
    let parsed = Cli::command().try_get_matches_from(&args).and_then(|m| Cli::from_arg_matches(&m));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(e) => {
            let help = matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            let _ = e.print();
            return if help { 0 } else { EXIT_USAGE };
        }
    };
    emit(&cli.run())
}

/// Prints; a reader that has gone is no reason to complain.
fn emit(outcome: &Outcome) -> u8 {
    let _ = io::stdout().write_all(outcome.out.as_bytes());
    let _ = io::stdout().flush();
    let _ = io::stderr().write_all(outcome.err.as_bytes());
    outcome.exit_code
}

/// Shell assignments that agents evaluate (drbd-admin 3.2): the command set is that of 8.4.
fn version() -> String {
    format!(
        "DRBDADM_BUILDTAG=lockstep\\ {version}\n\
         DRBDADM_API_VERSION=1\n\
         DRBD_KERNEL_VERSION_CODE=0x08040b\n\
         DRBDADM_VERSION_CODE=0x091600\n\
         DRBDADM_VERSION={TOOLS_VERSION}\n\
         LOCKSTEP_VERSION={version}\n",
        version = env!("CARGO_PKG_VERSION")
    )
}

impl Cli {
    fn run(self) -> Outcome {
        if let Verb::Demo(args) = self.verb {
            let demo = demo::DemoConfig {
                dir: args.dir,
                size_bytes: args.size.0,
                run_for: args.run_for.map(|r| r.0),
                workload: args.workload,
                port_base: args.port_base,
            };
            return match demo::run(&demo) {
                Ok(exit_code) => Outcome { exit_code, ..Outcome::default() },
                Err(e) => Outcome::failed(1, format!("demo: {e:#}")),
            };
        }
        let settings = match Settings::load(self.global.settings.as_deref()) {
            Ok(settings) => settings,
            Err(e) => return Outcome::failed(EXIT_CANNOT, e.to_string()),
        };
        let run_dir = settings.run_dir(self.global.run_dir.as_deref());
        let site = Site {
            config_file: self
                .global
                .config
                .or_else(|| handler::config_file(&self.verb))
                .unwrap_or_else(|| default_config_file().to_owned()),
            host: self.global.host.unwrap_or_else(node_name),
        };
        let context = Context { site, settings, run_dir };
        context.run(self.verb)
    }
}

struct Context {
    site: Site,
    settings: Settings,
    run_dir: PathBuf,
}

impl Context {
    fn run(self, verb: Verb) -> Outcome {
        match verb {
            Verb::Daemon { exit_with_stdin } => self.daemon(exit_with_stdin),
            Verb::Demo(_) => unreachable!("needs no context"),
            Verb::Status { names, json, watch, verbose, statistics } => {
                let options = StatusOptions { json, watch, verbose, statistics };
                status::run(&self.run_dir, &names, options)
            }
            Verb::Dump { names, expanded } => offline::dump(&self.site, &names, expanded),
            Verb::CreateMd(args) => self.meta(args, MetaCommand::Create),
            Verb::DumpMd(args) => self.meta(args, MetaCommand::Dump),
            Verb::RestoreMd { file, args } => self.meta(args, MetaCommand::Restore(file)),
            Verb::ApplyAl(args) => self.meta(args, MetaCommand::ApplyAl),
            Verb::WipeMd(args) => self.meta(args, MetaCommand::Wipe),
            Verb::Failover { verb } => failover::run(&verb, &self.site.host, &self.run_dir),
            Verb::FencePeer(args) => self.handler(Duty::Fence, &args),
            Verb::UnfencePeer(args) => self.handler(Duty::Unfence, &args),
            Verb::ShNop => offline::check(&self.site),
            Verb::ShResources => offline::resources(&self.site),
            Verb::ShResource(n) => offline::resource_names(&self.site, &n.names),
            Verb::ShDev(n) => offline::volumes(&self.site, &n.names, VolumeField::Device),
            Verb::ShMinor(n) => offline::volumes(&self.site, &n.names, VolumeField::Minor),
            Verb::ShLlDev(n) => offline::volumes(&self.site, &n.names, VolumeField::Disk),
            Verb::ShMdDev(n) => offline::volumes(&self.site, &n.names, VolumeField::MetaDisk),
            Verb::ShMdIdx(n) => offline::volumes(&self.site, &n.names, VolumeField::MetaIndex),
            Verb::ShIp(n) => offline::volumes(&self.site, &n.names, VolumeField::Ip),
            Verb::ShStatus { names } => boot::status(&self.site, &self.run_dir, &names),
            Verb::ShUdev { name } => boot::udev(&self.site, &name),
            Verb::ShModParms => boot::module_parameters(&self.site),
            Verb::ShBPri(n) => boot::promote(&self.site, &self.run_dir, &n.names),
            Verb::WaitConInt => boot::wait_for_peers(&self.site, &self.run_dir),
            Verb::CheckResize(n) => self.check_resize(&n.names),
            Verb::Outdate(n) => admin::outdate(&self.site, &self.run_dir, &n.names),
            Verb::Invalidate(n) => self.or_meta(Action::Invalidate, MetaCommand::Invalidate, &n),
            Verb::Dstate(n) => self.or_meta(Action::Dstate, MetaCommand::Dstate, &n),
            Verb::GetGi(n) => self.or_meta(Action::GetGi, MetaCommand::GetGi, &n),
            Verb::ShowGi(n) => self.or_meta(Action::ShowGi, MetaCommand::ShowGi, &n),
            Verb::Proc => self.ask(Action::Proc, &[]),
            online => self.online(online),
        }
    }

    fn handler(&self, duty: Duty, args: &handler::HandlerArgs) -> Outcome {
        handler::run(duty, args, &self.site, &self.settings, &self.run_dir)
    }

    /// The commands that are nothing but a request.
    fn online(&self, verb: Verb) -> Outcome {
        let (action, names) = match verb {
            Verb::Up(n) => (Action::Up, n),
            Verb::Down(n) => (Action::Down, n),
            Verb::Adjust(n) => (Action::Adjust, n),
            Verb::NewResource(n) => (Action::NewResource, n),
            Verb::NewMinor(n) => (Action::NewMinor, n),
            Verb::Attach(n) => (Action::Attach, n),
            Verb::Detach(f) => (Action::Detach { force: f.force }, f.names),
            Verb::Connect { names, discard_my_data, tentative } => {
                (Action::Connect { discard_my_data, tentative }, names)
            }
            Verb::Disconnect(f) => (Action::Disconnect { force: f.force }, f.names),
            Verb::Primary { names, force } => (Action::Primary { force }, names),
            Verb::Secondary { names, force } => (Action::Secondary { force }, names),
            Verb::Role(n) => (Action::Role, n),
            Verb::Cstate(n) => (Action::Cstate, n),
            Verb::PauseSync(n) => (Action::PauseSync, n),
            Verb::ResumeSync(n) => (Action::ResumeSync, n),
            Verb::InvalidateRemote(n) => (Action::InvalidateRemote, n),
            Verb::Resize { names, size, assume_clean, assume_peer_has_space } => {
                (Action::Resize { limit_sectors: size, assume_clean, assume_peer_has_space }, names)
            }
            Verb::SuspendIo(n) => (Action::SuspendIo, n),
            Verb::ResumeIo(n) => (Action::ResumeIo, n),
            Verb::Verify { names, start, stop } => {
                (Action::Verify { start_sector: start, stop_sector: stop }, names)
            }
            Verb::NewCurrentUuid { names, clear_bitmap } => (Action::NewCurrentUuid { clear_bitmap }, names),
            Verb::WaitConnect(w) => (Action::Wait { sync: false, limits: limits(&w) }, w.names),
            Verb::WaitSync(w) => (Action::Wait { sync: true, limits: limits(&w) }, w.names),
            other => unreachable!("handled before: {other:?}"),
        };
        self.ask(action, &names.names)
    }

    /// By the daemon, if it has the disk; else on the metadata.
    fn check_resize(&self, names: &[String]) -> Outcome {
        let asked = self.ask(Action::CheckResize, names);
        if asked.exit_code == 0 {
            return asked;
        }
        let state_dir = self.settings.state_dir(&self.run_dir);
        let what = MetaCommand::CheckResize { state_dir };
        metadata::run(&self.site, &self.run_dir, names, &what, &Opts::default())
    }

    fn ask(&self, action: Action, names: &[String]) -> Outcome {
        admin::run(&self.site, &self.run_dir, action, names)
    }

    fn or_meta(&self, action: Action, meta: MetaCommand, names: &Names) -> Outcome {
        admin::run_or_meta(&self.site, &self.run_dir, action, meta, &names.names)
    }

    fn meta(&self, args: MetaArgs, what: MetaCommand) -> Outcome {
        let opts = Opts {
            force: args.force,
            al_stripes: args.al_stripes,
            al_stripe_size_kib: args.al_stripe_size_kib,
            host: self.site.host.clone(),
            command_line: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
            ..Opts::default()
        };
        metadata::run(&self.site, &self.run_dir, &args.names.names, &what, &opts)
    }

    fn daemon(self, exit_with_stdin: bool) -> Outcome {
        let Context { site, settings, run_dir } = self;
        match daemon::run(DaemonConfig { site, settings, run_dir, exit_with_stdin }) {
            Ok(()) => Outcome::default(),
            Err(e) => Outcome::failed(EXIT_CANNOT, format!("lockstep daemon: {e:#}")),
        }
    }
}

/// Sectors of a size as DRBD's files write it.
// spec: drbd-admin 1.4, 2.1: the default unit of size is the sector
fn sectors(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| format!("'{text}' is not a size"))?;
    let factor = match &text[digits.len()..] {
        "" | "s" | "S" => return Ok(number),
        "K" | "k" => 2,
        "M" | "m" => 2 << 10,
        "G" | "g" => 2 << 20,
        "T" | "t" => 2 << 30,
        unit => return Err(format!("'{unit}' is not a unit; write K, M, G, T or s")),
    };
    number.checked_mul(factor).ok_or_else(|| format!("'{text}' is too large"))
}

fn limits(w: &WaitArgs) -> WaitLimits {
    WaitLimits {
        wfc_s: w.wfc_timeout,
        degr_wfc_s: w.degr_wfc_timeout,
        outdated_wfc_s: w.outdated_wfc_timeout,
        wait_after_sb: w.wait_after_sb,
    }
}
