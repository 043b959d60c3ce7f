//! The settings of failover after parsing and checking: every default filled in, every number within its range. Times are
//! [`Duration`]s. Sources: keepalived.conf(5), failover 1 and 6.2.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;

use super::heartbeat::HeartbeatMembership;

/// Everything that one file, with what it includes, says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FailoverConfig {
    /// Block `global_defs`.
    pub globals: Globals,
    /// Blocks `vrrp_instance`, in the order of the file; names are unique, and so is (interface, family, router id).
    pub instances: Vec<VrrpInstance>,
    /// Blocks `vrrp_sync_group`; an instance is in one of them at most.
    pub sync_groups: Vec<SyncGroup>,
    /// Blocks `vrrp_script`.
    pub scripts: Vec<TrackScript>,
    /// Blocks `track_file` and `vrrp_track_file` of the top level.
    pub track_files: Vec<TrackFile>,
    /// Blocks `vrrp_track_process`.
    pub track_processes: Vec<TrackProcess>,
    /// Block `heartbeat`: by which nodes know of each other beside the replication.
    pub heartbeat: Option<HeartbeatMembership>,
    /// Blocks `service`: what failover is for.
    pub services: Vec<Service>,
    /// Blocks `virtual_server`: checked and kept, not served yet.
    pub virtual_servers: Vec<VirtualServer>,
}

/// Block `global_defs`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Globals {
    /// `router_id`, formerly `lvs_id`: the name in messages.
    pub router_id: Option<String>,
    /// `notification_email { }`: recipients.
    pub email_to: Vec<String>,
    /// `notification_email_from`.
    pub email_from: Option<String>,
    /// `smtp_server HOST [PORT]`.
    pub smtp_server: Option<SmtpServer>,
    /// `smtp_connect_timeout`: for connecting, and for each answer of the server.
    pub smtp_connect_timeout: Option<Duration>,
    /// `smtp_helo_name`: how this node calls itself; the name of the host unless told otherwise.
    pub smtp_helo_name: Option<String>,
    /// `no_email_faults`: no mail when a fault begins.
    pub no_email_faults: bool,
    /// `script_user USER [GROUP]`.
    pub script_user: Option<String>,
    /// `enable_script_security`.
    pub script_security: bool,
    /// `notify_fifo` and `vrrp_notify_fifo`: paths that get one line for each transition.
    pub notify_fifos: Vec<String>,
    /// `vrrp_notify_priority_changes`.
    pub notify_priority_changes: bool,
    /// The lease by which the nodes agree who may be a service's home.
    pub lease: Option<LeaseStore>,
}

/// Who takes mails.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SmtpServer {
    /// A name or an address.
    pub host: String,
    /// 1 to 65535.
    pub port: u16,
}

impl SmtpServer {
    /// The port if none is said.
    pub const PORT: u16 = 25;
}

/// Where the lease of services is kept, and for how long it is good: `lease_store`, `lease_ttl`, `lease_prefix`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaseStore {
    /// `lease_store URL...`: client addresses of the members of one etcd cluster, tried in order.
    pub endpoints: Vec<String>,
    /// `lease_ttl SECONDS`, 0.2 to 60, default 0.6: for how long a home may act without having renewed its lease.
    pub ttl: Duration,
    /// `lease_prefix TEXT`, default `/lockstep`: what the names of the keys begin with.
    pub prefix: String,
}

impl LeaseStore {
    /// Name of a service's record in the store.
    pub fn key(&self, service: &str) -> String {
        format!("{}/service/{service}", self.prefix.trim_end_matches('/'))
    }
}

/// Version of VRRP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VrrpVersion {
    /// RFC 3768: IPv4 only, whole seconds, plain text password.
    V2,
    /// RFC 5798: IPv4 and IPv6, hundredths of a second, no authentication.
    V3,
}

/// Block `vrrp_instance NAME`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VrrpInstance {
    /// NAME.
    pub name: String,
    /// `version`, or `vrrp_version` of the globals; always 3 for IPv6.
    pub version: VrrpVersion,
    /// `state MASTER`: matters with priority 255 only.
    pub starts_as_master: bool,
    /// `interface`.
    pub interface: String,
    /// `virtual_router_id`, 1 to 255.
    pub virtual_router_id: u8,
    /// `priority`, 1 to 255, default 100; 255 is the owner of the addresses.
    pub priority: u8,
    /// `advert_int`: version 2 whole seconds, 1 to 255; version 3 0.01 to 40.95 s.
    pub advert_interval: Duration,
    /// `authentication`.
    pub authentication: Authentication,
    /// `virtual_ipaddress`: advertised in this order; all of one family, at least one.
    pub addresses: Vec<VirtualAddress>,
    /// `virtual_ipaddress_excluded`: not in adverts; any family.
    pub excluded_addresses: Vec<VirtualAddress>,
    /// `virtual_routes`.
    pub routes: Vec<VirtualRoute>,
    /// `virtual_rules`.
    pub rules: Vec<VirtualRule>,
    /// `nopreempt`, `preempt_delay`.
    pub preempt: Preempt,
    /// Multicast or unicast.
    pub sending: Sending,
    /// `garp_*`, or the `vrrp_garp_*` of the globals.
    pub announce: AnnouncePolicy,
    /// `use_vmac [NAME]`.
    pub virtual_mac: Option<VirtualMac>,
    /// `accept`; false by `no_accept`: traffic to the addresses is dropped unless this node is their owner.
    pub accept: bool,
    /// `down_timer_adverts`, 1 to 100, default 3: adverts missed until the master counts as gone.
    pub down_timer_adverts: u8,
    /// `lower_prio_no_advert`: a master does not answer an advert of a lower priority.
    pub lower_prio_no_advert: bool,
    /// `higher_prio_send_advert`: a master that yields sends one more advert.
    pub higher_prio_send_advert: bool,
    /// False by `dont_track_primary`: whether [`VrrpInstance::interface`] itself is tracked.
    pub tracks_own_interface: bool,
    /// `track_interface`, `track_script`, `track_file`, `track_process`, `track_resource`.
    pub trackers: Vec<Tracker>,
    /// `notify*`.
    pub notify: Notify,
}

/// How adverts are authenticated. AH is refused while parsing (failover 1.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Authentication {
    /// None.
    None,
    /// `auth_type PASS`: the first eight octets of the password, padded with zeros; version 2 only.
    Password([u8; 8]),
}

/// Who may take the addresses from whom (failover 1.10).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Preempt {
    /// The higher priority, as soon as it can.
    Always,
    /// `nopreempt`: nobody from a living master.
    Never,
    /// `preempt_delay`: the higher priority, this long after it heard the lower one first.
    After(Duration),
}

/// One line of `virtual_ipaddress`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VirtualAddress {
    /// The address.
    pub address: IpAddr,
    /// Length of the prefix; 32 or 128 unless told otherwise.
    pub prefix_len: u8,
    /// `dev`; the interface of the instance unless told otherwise.
    pub interface: Option<String>,
    /// `brd X`, `brd +`, `brd -`.
    pub broadcast: Broadcast,
    /// `scope`, as rtnetlink numbers it: 0 global, 200 site, 253 link, 254 host.
    pub scope: u8,
    /// `label`, 15 characters at most.
    pub label: Option<String>,
    /// `peer ADDRESS/LEN`: the other end of a link of two.
    pub peer: Option<(IpAddr, u8)>,
    /// `home` (IPv6).
    pub home: bool,
    /// `-nodad` (IPv6): no duplicate address detection.
    pub no_dad: bool,
    /// `noprefixroute`.
    pub no_prefix_route: bool,
    /// `no_track`: not put back when somebody deletes it.
    pub no_track: bool,
    /// `preferred_lft`.
    pub preferred_lifetime: Option<Duration>,
}

/// Broadcast address of a virtual address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Broadcast {
    /// None said.
    #[default]
    Unset,
    /// `brd +`: all bits of the host part set.
    AllOnes,
    /// `brd -`: all bits of the host part clear.
    AllZeroes,
    /// `brd ADDRESS`.
    Address(IpAddr),
}

/// One line of `virtual_routes`; protocol 18 (keepalived) in the kernel's table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VirtualRoute {
    /// What to reach; `default` is the address without bits and length 0.
    pub destination: (IpAddr, u8),
    /// `via`.
    pub gateway: Option<IpAddr>,
    /// `dev`.
    pub interface: Option<String>,
    /// `src`.
    pub source: Option<IpAddr>,
    /// `table`.
    pub table: Option<u32>,
    /// `metric`.
    pub metric: Option<u32>,
    /// `scope`, as for addresses.
    pub scope: Option<u8>,
    /// `blackhole`, `unreachable`, `prohibit` instead of a way.
    pub kind: RouteKind,
}

/// What a route does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RouteKind {
    /// Leads somewhere.
    #[default]
    Unicast,
    /// Drops in silence.
    Blackhole,
    /// Answers "unreachable".
    Unreachable,
    /// Answers "prohibited".
    Prohibit,
}

/// One line of `virtual_rules`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VirtualRule {
    /// `from`.
    pub from: Option<(IpAddr, u8)>,
    /// `to`.
    pub to: Option<(IpAddr, u8)>,
    /// `iif`.
    pub incoming: Option<String>,
    /// `fwmark`.
    pub mark: Option<u32>,
    /// `table` or `lookup`.
    pub table: u32,
    /// `preference` or `priority`; the kernel's numbering from 16384 down if none is said.
    pub preference: Option<u32>,
}

/// How adverts get to the other routers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Sending {
    /// To a group.
    Multicast {
        /// `mcast_src_ip`; the first address of the interface unless told otherwise.
        source: Option<IpAddr>,
        /// `mcast_dst_ip`, `vrrp_mcast_group4`, `vrrp_mcast_group6`: 224.0.0.18 or ff02::12.
        group: IpAddr,
    },
    /// `unicast_peer`: to each of these.
    Unicast {
        /// `unicast_src_ip`.
        source: Option<IpAddr>,
        /// The others.
        peers: Vec<UnicastPeer>,
        /// `unicast_ttl`, default 255.
        ttl: u8,
        /// `check_unicast_src`: adverts of others are dropped.
        checks_source: bool,
    },
}

/// One line of `unicast_peer`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnicastPeer {
    /// Its address.
    pub address: IpAddr,
    /// `min_ttl` and `max_ttl`: what its packets must have left, both ends included.
    pub ttl_range: Option<(u8, u8)>,
}

/// Gratuitous ARP and unsolicited neighbour advertisements (failover 1.14).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AnnouncePolicy {
    /// `garp_master_repeat`, default 5: packets in a burst.
    pub repeat: u32,
    /// `garp_master_delay`, default 5 s: when the second burst comes; zero: never.
    pub second_burst_after: Duration,
    /// `garp_master_refresh`, default zero: how often a master announces again; zero: never.
    pub refresh: Duration,
    /// `garp_master_refresh_repeat`, default 1: packets then.
    pub refresh_repeat: u32,
    /// `garp_lower_prio_repeat`: packets after an advert of a lower priority.
    pub lower_priority_repeat: u32,
    /// `garp_lower_prio_delay`: when the second burst comes then.
    pub lower_priority_second_burst_after: Duration,
    /// `garp_extra_if all SECONDS`, default zero: how often a master announces one address on each interface other than
    /// the instance's own; zero: never.
    pub extra_refresh: Duration,
    /// `vrrp_garp_interval`: pause between two ARP packets.
    pub arp_interval: Duration,
    /// `vrrp_gna_interval`: pause between two neighbour advertisements.
    pub na_interval: Duration,
}

/// `use_vmac`: the addresses live on a macvlan with the MAC of the virtual router.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VirtualMac {
    /// Name of the macvlan; `vrrp.VRID` (or `vrrp6.VRID`) unless told otherwise.
    pub name: String,
    /// `vmac_xmit_base`: adverts leave by the interface below.
    pub sends_from_base: bool,
}

/// Something that an instance or a group looks at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tracker {
    /// What.
    pub target: TrackTarget,
    /// Added to the priority: positive while the target is well, negative while it is not; 0: the target's failure is a fault.
    /// For a file: what its number is multiplied with.
    pub weight: i16,
    /// `reverse`: well and not well change places.
    pub reverse: bool,
}

/// What can be tracked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TrackTarget {
    /// An interface: up and running.
    Interface(String),
    /// A `vrrp_script` by name.
    Script(String),
    /// A `track_file` by name.
    File(String),
    /// A `vrrp_track_process` by name.
    Process(String),
    /// A replicated resource by name (`track_resource`): well while its disk is UpToDate.
    Resource(String),
}

/// Block `vrrp_sync_group NAME`: instances that change their state together (failover 1.12).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SyncGroup {
    /// NAME.
    pub name: String,
    /// Names of the members.
    pub members: Vec<String>,
    /// Trackers of the group.
    pub trackers: Vec<Tracker>,
    /// `notify*` of the group.
    pub notify: Notify,
}

/// Block `vrrp_script NAME`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TrackScript {
    /// NAME.
    pub name: String,
    /// `script`.
    pub command: Command,
    /// `interval`, default 1 s.
    pub interval: Duration,
    /// `timeout`; the interval unless told otherwise.
    pub timeout: Duration,
    /// `rise`, default 1: successes in a row until it is well.
    pub rise: u32,
    /// `fall`, default 1: failures in a row until it is not.
    pub fall: u32,
    /// `weight`, default 0: for trackers that name none.
    pub weight: i16,
    /// `reverse` with the weight.
    pub reverse: bool,
    /// `init_fail`: not well before its first run.
    pub starts_failed: bool,
    /// `user USER [GROUP]`.
    pub user: Option<String>,
}

/// Block `track_file NAME`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TrackFile {
    /// NAME.
    pub name: String,
    /// `file`: a path, holding one number.
    pub path: String,
    /// `weight`, default 1.
    pub weight: i16,
    /// `reverse` with the weight.
    pub reverse: bool,
    /// `init_file [VALUE] [overwrite]`: what is written at the start, and whether over a file that is there.
    pub init: Option<(i64, bool)>,
}

/// Block `vrrp_track_process NAME`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TrackProcess {
    /// NAME.
    pub name: String,
    /// `process`: what to look for.
    pub process: String,
    /// `quorum`, default 1: so many have to run.
    pub quorum: u32,
    /// `quorum_max`: and not more than that.
    pub quorum_max: Option<u32>,
    /// `weight`, default 1.
    pub weight: i16,
    /// `reverse` with the weight.
    pub reverse: bool,
    /// `delay`, `fork_delay`: how long enough of them have to run until that counts.
    pub rise_delay: Duration,
    /// `delay`, `terminate_delay`: how long too few of them have to run until that counts.
    pub fall_delay: Duration,
}

/// A command: words, run without a shell unless it is one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Command {
    /// Program and its arguments; never empty.
    pub words: Vec<String>,
    /// User and group that it runs as; that of the globals unless told otherwise.
    pub user: Option<String>,
}

/// `notify*` (failover 1.13).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Notify {
    /// `notify_master`.
    pub master: Option<Command>,
    /// `notify_backup`.
    pub backup: Option<Command>,
    /// `notify_fault`.
    pub fault: Option<Command>,
    /// `notify_stop`: the only one that is waited for.
    pub stop: Option<Command>,
    /// `notify_deleted`.
    pub deleted: Option<Command>,
    /// `notify_master_rx_lower_pri`.
    pub master_rx_lower_priority: Option<Command>,
    /// `notify`: for every transition, with three more arguments and the priority.
    pub any: Option<Command>,
    /// `smtp_alert`.
    pub mails: bool,
}

/// Block `service NAME`: storage, what runs on it and the addresses it is reached by, as one unit with one home.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    /// NAME.
    pub name: String,
    /// `resource NAME`: a replicated resource; promoted first, demoted last.
    pub resource: String,
    /// `vrrp_instance NAME...`: instances that are Master exactly where the service is at home.
    pub instances: Vec<String>,
    /// `mount`, `start` and `run` in the order of the file: between promotion and addresses.
    pub steps: Vec<Step>,
    /// `preferred_node NAME`: where it is when both nodes could have it.
    pub preferred_node: Option<String>,
    /// `failback yes`: it moves to the preferred node when that is able to have it; no unless told otherwise.
    pub failback: bool,
    /// `proof`: what shows that the peer is not the home when it cannot be asked.
    pub proof: Proof,
    /// `promote_timeout SECONDS`, default 30: for fencing and promotion together.
    pub promote_timeout: Duration,
    /// `release_timeout SECONDS`, default 10: how long a home that has lost its right waits with frozen I/O to get it back
    /// before it demotes itself.
    pub release_timeout: Duration,
}

/// What has to be shown before a node becomes the home of a service without its peer. VRRP and silence never do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proof {
    /// `proof lease`: the lease in the store of the globals. The default if there is one.
    Lease,
    /// `proof fencing`: the resource's fence-peer handler has succeeded. The default without a store.
    Fencing,
    /// `promote-without-proof yes`: nothing. Two homes are possible.
    Nothing,
}

/// One step of a service, between promotion and addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// What it does.
    pub kind: StepKind,
    /// `timeout SECONDS` of the step: for starting, for stopping, and for each look. Zero: none.
    pub timeout: Duration,
    /// `retry N`, default 0: how often a start that has failed is tried again, and how often a step that has failed while it
    /// ran is started again, before the service gives way.
    pub retries: u32,
    /// `monitor SECONDS`: how often it is looked at while the service is at home. Zero, unless told otherwise: never.
    pub monitor: Duration,
}

/// Kinds of steps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StepKind {
    /// `mount DEVICE DIR [TYPE [OPTIONS]]`.
    Mount {
        /// The device; a word `resource` means that of the resource's first volume.
        device: String,
        /// Where to.
        directory: String,
        /// Type of filesystem; found out by mount(8) if none is said.
        filesystem: Option<String>,
        /// Options, as after `mount -o`.
        options: Option<String>,
        /// `check yes`: fsck(8) -p before.
        checks_first: bool,
    },
    /// `start UNIT`: a unit of systemd, started and stopped by systemctl(1).
    Unit(String),
    /// `start "COMMAND"` with `stop`, `status`: commands.
    Command {
        /// Name in status and messages: the first word of the command without its directory, or `name`.
        name: String,
        /// Starts it; has succeeded with exit code 0.
        start: Command,
        /// `stop`: stops it, or succeeds if it is not running.
        stop: Option<Command>,
        /// `status`: exit code 0 while it runs and serves.
        status: Option<Command>,
    },
    /// `start ocf:PROVIDER:AGENT [PARAMETER=VALUE...]`: a resource agent.
    Ocf {
        /// `heartbeat`, for example.
        provider: String,
        /// `pgsql`, for example.
        agent: String,
        /// `OCF_RESKEY_*` without that prefix, in the order of the file.
        parameters: Vec<(String, String)>,
    },
}

/// Block `virtual_server`: kept for `status` until there is a director.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VirtualServer {
    /// `ADDRESS PORT`, `fwmark N` or `group NAME`, as written.
    pub name: String,
    /// Number of its `real_server` blocks.
    pub real_servers: usize,
}
