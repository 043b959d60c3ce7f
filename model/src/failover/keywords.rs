//! The keywords of each place: what they take, and what they are good for here (failover 1, 5.1 and 6.2;
//! keepalived.conf(5)).

/// What a keyword takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shape {
    /// Nothing.
    Bare,
    /// `on`, `off`, `true`, `false`, `yes`, `no`, or nothing, which means yes.
    Flag,
    /// A whole number within these limits.
    Int(i64, i64),
    /// Seconds, with a fraction if need be, within these limits in microseconds.
    Time(u64, u64),
    /// One of these words, in capitals or not.
    OneOf(&'static [&'static str]),
    /// One word.
    Word,
    /// So many words.
    Words(usize, usize),
    /// A command in one word or in quotes, then perhaps the user and the group that it runs as.
    Command,
    /// The same, or nothing.
    PerhapsCommand,
    /// An address.
    Address,
    /// An address and perhaps a port.
    Endpoint,
    /// `weight N` with `reverse`, as [`Shape::Int`].
    Weight(i64, i64),
    /// Lines in braces.
    Lines,
    /// Keywords in braces.
    Block(&'static Place),
    /// The same behind an address and perhaps a port.
    EndpointBlock(&'static Place),
    /// Words and perhaps a block; may stand more than once.
    Step,
}

/// What becomes of a keyword.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Effect {
    /// It counts.
    Used,
    /// It is known and has no effect, for this reason.
    None(&'static str),
    /// It is an old name of this one.
    Formerly(&'static str),
    /// The file is refused, for this reason.
    Refused(&'static str),
}

/// A keyword.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Keyword {
    /// Its name.
    pub(super) name: &'static str,
    /// What it takes.
    pub(super) shape: Shape,
    /// What becomes of it.
    pub(super) effect: Effect,
}

/// Where keywords stand.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Place {
    /// As messages call it.
    pub(super) name: &'static str,
    /// The keywords.
    pub(super) keywords: &'static [Keyword],
}

impl Place {
    /// The keyword of this name, whether old or new.
    pub(super) fn keyword(&self, name: &str) -> Option<&'static Keyword> {
        let keyword = self.keywords.iter().find(|k| k.name == name)?;
        match keyword.effect {
            Effect::Formerly(today) => self.keywords.iter().find(|k| k.name == today),
            Effect::Used | Effect::None(_) | Effect::Refused(_) => Some(keyword),
        }
    }
}

pub(super) const fn used(name: &'static str, shape: Shape) -> Keyword {
    Keyword { name, shape, effect: Effect::Used }
}

pub(super) const fn idle(name: &'static str, why: &'static str) -> Keyword {
    Keyword { name, shape: Shape::Words(0, usize::MAX), effect: Effect::None(why) }
}

pub(super) const fn formerly(name: &'static str, today: &'static str) -> Keyword {
    Keyword { name, shape: Shape::Bare, effect: Effect::Formerly(today) }
}

const fn refused(name: &'static str, why: &'static str) -> Keyword {
    Keyword { name, shape: Shape::Flag, effect: Effect::Refused(why) }
}

/// A second in microseconds.
pub(super) const S: u64 = 1_000_000;
/// The longest time of settings without a limit of their own.
pub(super) const DAY: u64 = 86_400 * S;

const PROCESSES: &str = "one process does everything";
const SCHEDULING: &str = "how the daemon is scheduled is not set here";
const BUFFERS: &str = "the sizes of buffers are not set here";
const FIREWALL: &str = "the rules that lockstep gives nftables have no options";
const SNMP: &str = "there is no SNMP and no D-Bus";
const DIRECTOR: &str = "there is no director yet";
const BFD: &str = "there is no BFD";
const STATIC: &str = "what stays on the node is set up by its network configuration";
const RELOAD: &str = "the configuration is read again when it is told to";
const INTERFACES: &str = "interfaces may come and go";
const STRICT: &str = "strict mode is not there: leave out what RFC 5798 forbids, and this line";

/// The top level.
pub(super) const TOP: Place = Place {
    name: "at the top level",
    keywords: &[
        used("global_defs", Shape::Lines),
        used("vrrp_instance", Shape::Lines),
        used("vrrp_sync_group", Shape::Lines),
        used("vrrp_script", Shape::Lines),
        used("track_file", Shape::Lines),
        used("vrrp_track_process", Shape::Lines),
        used("heartbeat", Shape::Lines),
        used("service", Shape::Lines),
        used("virtual_server", Shape::Lines),
        used("virtual_server_group", Shape::Lines),
        formerly("vrrp_track_file", "track_file"),
        idle("static_ipaddress", STATIC),
        idle("static_routes", STATIC),
        idle("static_rules", STATIC),
        idle("track_group", STATIC),
        idle("garp_group", "the pauses of the globals hold for all interfaces"),
        idle("linkbeat_interfaces", "links are watched by netlink"),
        idle("linkbeat_use_polling", "links are watched by netlink"),
        idle("interface_up_down_delays", INTERFACES),
        idle("bfd_instance", BFD),
        idle("SSL", DIRECTOR),
        idle("net_namespace", "start the daemon in the namespace"),
        idle("net_namespace_ipvs", DIRECTOR),
        idle("namespace_with_ipsets", FIREWALL),
        idle("instance", "--run-dir tells daemons of one machine apart"),
        idle("use_pid_dir", "there are no files with process ids"),
        idle("child_wait_time", PROCESSES),
    ],
};

/// `global_defs`.
pub(super) const GLOBALS: Place = Place {
    name: "in global_defs",
    keywords: &[
        used("router_id", Shape::Word),
        formerly("lvs_id", "router_id"),
        used("notification_email", Shape::Lines),
        used("notification_email_from", Shape::Word),
        used("smtp_server", Shape::Words(1, 2)),
        used("smtp_connect_timeout", Shape::Time(S, DAY)),
        used("smtp_helo_name", Shape::Word),
        used("smtp_alert", Shape::Flag),
        used("smtp_alert_vrrp", Shape::Flag),
        used("no_email_faults", Shape::Bare),
        used("script_user", Shape::Words(1, 2)),
        used("enable_script_security", Shape::Bare),
        used("notify_fifo", Shape::Words(1, 3)),
        used("vrrp_notify_fifo", Shape::Words(1, 3)),
        used("vrrp_notify_priority_changes", Shape::Flag),
        used("lease_store", Shape::Words(1, 16)),
        used("lease_ttl", Shape::Time(S / 5, 60 * S)),
        used("lease_prefix", Shape::Word),
        used("vrrp_version", Shape::Int(2, 3)),
        used("vrrp_garp_master_delay", Shape::Time(0, DAY)),
        used("vrrp_garp_master_repeat", Shape::Int(1, 65_535)),
        used("vrrp_garp_master_refresh", Shape::Time(0, DAY)),
        used("vrrp_garp_master_refresh_repeat", Shape::Int(1, 65_535)),
        used("vrrp_garp_lower_prio_delay", Shape::Time(0, DAY)),
        used("vrrp_garp_lower_prio_repeat", Shape::Int(0, 65_535)),
        used("vrrp_garp_extra_if", Shape::Words(1, 2)),
        used("vrrp_garp_interval", Shape::Time(0, 3600 * S)),
        used("vrrp_gna_interval", Shape::Time(0, 3600 * S)),
        used("vrrp_min_garp", Shape::Flag),
        used("vrrp_mcast_group4", Shape::Address),
        used("vrrp_mcast_group6", Shape::Address),
        used("vrrp_down_timer_adverts", Shape::Int(1, 100)),
        used("vrrp_lower_prio_no_advert", Shape::Flag),
        used("vrrp_higher_prio_send_advert", Shape::Flag),
        used("vrrp_check_unicast_src", Shape::Flag),
        refused("vrrp_strict", STRICT),
        idle("vrrp_skip_check_adv_addr", "the addresses of every advert are compared"),
        idle("smtp_alert_checker", DIRECTOR),
        idle("checker_log_all_failures", DIRECTOR),
        idle("no_checker_emails", DIRECTOR),
        idle("rs_init_notifies", DIRECTOR),
        idle("default_interface", STATIC),
        idle("lvs_sync_daemon", DIRECTOR),
        idle("lvs_timeouts", DIRECTOR),
        idle("lvs_flush", DIRECTOR),
        idle("lvs_flush_on_stop", DIRECTOR),
        idle("lvs_notify_fifo", DIRECTOR),
        idle("lvs_notify_fifo_script", DIRECTOR),
        idle("lvs_netlink_cmd_rcv_bufs", DIRECTOR),
        idle("lvs_netlink_cmd_rcv_bufs_force", DIRECTOR),
        idle("lvs_netlink_monitor_rcv_bufs", DIRECTOR),
        idle("lvs_netlink_monitor_rcv_bufs_force", DIRECTOR),
        idle("notify_fifo_script", "start the reader of the FIFO as a service of its own"),
        idle("vrrp_notify_fifo_script", "start the reader of the FIFO as a service of its own"),
        idle("fifo_write_vrrp_states_on_reload", RELOAD),
        idle("startup_script", "let systemd order what comes before and after"),
        idle("startup_script_timeout", "let systemd order what comes before and after"),
        idle("shutdown_script", "let systemd order what comes before and after"),
        idle("shutdown_script_timeout", "let systemd order what comes before and after"),
        idle("nftables", FIREWALL),
        idle("nftables_priority", FIREWALL),
        idle("nftables_counters", FIREWALL),
        idle("nftables_ifindex", FIREWALL),
        idle("nftables_ipvs", FIREWALL),
        idle("nftables_ipvs_priority", FIREWALL),
        idle("nftables_ipvs_start_fwmark", FIREWALL),
        idle("vrrp_iptables", FIREWALL),
        idle("vrrp_ipsets", FIREWALL),
        idle("disable_local_igmp", FIREWALL),
        idle("max_auto_priority", SCHEDULING),
        idle("min_auto_priority_delay", SCHEDULING),
        idle("vrrp_priority", SCHEDULING),
        idle("checker_priority", SCHEDULING),
        idle("bfd_priority", SCHEDULING),
        idle("vrrp_no_swap", SCHEDULING),
        idle("checker_no_swap", SCHEDULING),
        idle("bfd_no_swap", SCHEDULING),
        idle("vrrp_cpu_affinity", SCHEDULING),
        idle("checker_cpu_affinity", SCHEDULING),
        idle("bfd_cpu_affinity", SCHEDULING),
        idle("vrrp_rt_priority", SCHEDULING),
        idle("checker_rt_priority", SCHEDULING),
        idle("bfd_rt_priority", SCHEDULING),
        idle("vrrp_rlimit_rttime", SCHEDULING),
        idle("checker_rlimit_rttime", SCHEDULING),
        idle("bfd_rlimit_rttime", SCHEDULING),
        idle("vrrp_netlink_cmd_rcv_bufs", BUFFERS),
        idle("vrrp_netlink_cmd_rcv_bufs_force", BUFFERS),
        idle("vrrp_netlink_monitor_rcv_bufs", BUFFERS),
        idle("vrrp_netlink_monitor_rcv_bufs_force", BUFFERS),
        idle("process_monitor_rcv_bufs", BUFFERS),
        idle("process_monitor_rcv_bufs_force", BUFFERS),
        idle("vrrp_rx_bufs_policy", BUFFERS),
        idle("vrrp_rx_bufs_multiplier", BUFFERS),
        idle("snmp_socket", SNMP),
        idle("enable_snmp_vrrp", SNMP),
        idle("enable_snmp_checker", SNMP),
        idle("enable_snmp_rfc", SNMP),
        idle("enable_snmp_rfcv2", SNMP),
        idle("enable_snmp_rfcv3", SNMP),
        idle("enable_traps", SNMP),
        idle("enable_dbus", SNMP),
        idle("dbus_service_name", SNMP),
        idle("process_names", PROCESSES),
        idle("process_name", PROCESSES),
        idle("vrrp_process_name", PROCESSES),
        idle("checker_process_name", PROCESSES),
        idle("bfd_process_name", PROCESSES),
        idle("child_wait_time", PROCESSES),
        idle("dynamic_interfaces", INTERFACES),
        idle("linkbeat_use_polling", "links are watched by netlink"),
        idle("vmac_prefix", "the name of the macvlan can be said in use_vmac"),
        idle("vmac_addr_prefix", "the name of the macvlan can be said in use_vmac"),
        idle("vrrp_startup_delay", "VRRP starts when the interfaces are up"),
        idle("log_unknown_vrids", "adverts of other routers are not logged"),
        idle("umask", "files are written for their owner only"),
        idle("random_seed", "nothing here is random that this could repeat"),
        idle("tmp_config_directory", RELOAD),
        idle("config_save_dir", RELOAD),
        idle("reload_check_config", RELOAD),
        idle("reload_time_file", RELOAD),
        idle("reload_repeat", RELOAD),
        idle("reload_file", RELOAD),
        idle("include_check", "a file that cannot be read is an error"),
        idle("data_use_instance", "'lockstep status' shows what runs"),
        idle("net_namespace", "start the daemon in the namespace"),
        idle("net_namespace_ipvs", DIRECTOR),
        idle("namespace_with_ipsets", FIREWALL),
        idle("instance", "--run-dir tells daemons of one machine apart"),
        idle("use_pid_dir", "there are no files with process ids"),
    ],
};

/// `vrrp_instance`.
pub(super) const INSTANCE: Place = Place {
    name: "in vrrp_instance",
    keywords: &[
        used("state", Shape::OneOf(&["MASTER", "BACKUP"])),
        used("interface", Shape::Word),
        used("virtual_router_id", Shape::Int(1, 255)),
        used("priority", Shape::Int(1, 255)),
        used("advert_int", Shape::Time(S / 100, 255 * S)),
        used("version", Shape::Int(2, 3)),
        used("authentication", Shape::Block(&AUTHENTICATION)),
        used("virtual_ipaddress", Shape::Lines),
        used("virtual_ipaddress_excluded", Shape::Lines),
        used("virtual_routes", Shape::Lines),
        used("virtual_rules", Shape::Lines),
        used("nopreempt", Shape::Bare),
        used("preempt", Shape::Bare),
        used("preempt_delay", Shape::Time(0, 1000 * S)),
        used("unicast_src_ip", Shape::Address),
        used("mcast_src_ip", Shape::Address),
        used("mcast_dst_ip", Shape::Address),
        used("unicast_peer", Shape::Lines),
        used("unicast_ttl", Shape::Int(0, 255)),
        used("check_unicast_src", Shape::Flag),
        used("garp_master_delay", Shape::Time(0, DAY)),
        used("garp_master_repeat", Shape::Int(1, 65_535)),
        used("garp_master_refresh", Shape::Time(0, DAY)),
        used("garp_master_refresh_repeat", Shape::Int(1, 65_535)),
        used("garp_lower_prio_delay", Shape::Time(0, DAY)),
        used("garp_lower_prio_repeat", Shape::Int(0, 65_535)),
        used("garp_extra_if", Shape::Words(1, 2)),
        used("use_vmac", Shape::Words(0, 2)),
        used("vmac_xmit_base", Shape::Bare),
        used("accept", Shape::Bare),
        used("no_accept", Shape::Bare),
        used("down_timer_adverts", Shape::Int(1, 100)),
        used("lower_prio_no_advert", Shape::Flag),
        used("higher_prio_send_advert", Shape::Flag),
        used("dont_track_primary", Shape::Bare),
        used("track_interface", Shape::Lines),
        used("track_script", Shape::Lines),
        used("track_file", Shape::Lines),
        formerly("vrrp_track_file", "track_file"),
        used("track_process", Shape::Lines),
        used("track_resource", Shape::Lines),
        used("notify_master", Shape::Command),
        used("notify_backup", Shape::Command),
        used("notify_fault", Shape::Command),
        used("notify_stop", Shape::Command),
        used("notify_deleted", Shape::PerhapsCommand),
        used("notify_master_rx_lower_pri", Shape::Command),
        used("notify", Shape::Command),
        used("smtp_alert", Shape::Flag),
        refused("strict_mode", STRICT),
        idle("track_bfd", BFD),
        idle("track_src_ip", "the source address is not watched"),
        idle("skip_check_adv_addr", "the addresses of every advert are compared"),
        idle("notify_priority_changes", "vrrp_notify_priority_changes of global_defs holds for all"),
        idle("unicast_fault_no_peer", "without peers adverts go to the group"),
        idle("old_unicast_checksum", "checksums are those of RFC 5798"),
        idle("use_vmac_addr", "addresses with 'dev' stay on that interface"),
        idle("use_ipvlan", "there is no ipvlan; use_vmac is"),
        idle("vrf", "name an interface"),
        idle("native_ipv6", "the addresses tell the family"),
        idle("promote_secondaries", "addresses are removed one by one"),
        idle("linkbeat_use_polling", "links are watched by netlink"),
        idle("kernel_rx_buf_size", BUFFERS),
        idle("debug", "the level of the log is a setting of the daemon"),
    ],
};

/// `authentication`.
pub(super) const AUTHENTICATION: Place = Place {
    name: "in authentication",
    keywords: &[used("auth_type", Shape::OneOf(&["PASS", "AH"])), used("auth_pass", Shape::Word)],
};

/// `vrrp_sync_group`.
pub(super) const GROUP: Place = Place {
    name: "in vrrp_sync_group",
    keywords: &[
        used("group", Shape::Lines),
        used("track_interface", Shape::Lines),
        used("track_script", Shape::Lines),
        used("track_file", Shape::Lines),
        formerly("vrrp_track_file", "track_file"),
        used("track_process", Shape::Lines),
        used("track_resource", Shape::Lines),
        used("notify_master", Shape::Command),
        used("notify_backup", Shape::Command),
        used("notify_fault", Shape::Command),
        used("notify_stop", Shape::Command),
        used("notify_deleted", Shape::PerhapsCommand),
        used("notify", Shape::Command),
        used("smtp_alert", Shape::Flag),
        idle("track_bfd", BFD),
        idle("notify_priority_changes", "vrrp_notify_priority_changes of global_defs holds for all"),
        idle("global_tracking", "trackers of the group say what its members need"),
        idle("sync_group_tracking_weight", "the weights of members count as 0: they change together"),
    ],
};

/// `vrrp_script`.
pub(super) const SCRIPT: Place = Place {
    name: "in vrrp_script",
    keywords: &[
        used("script", Shape::Words(1, 64)),
        used("interval", Shape::Time(S / 1000, DAY)),
        used("timeout", Shape::Time(S / 1000, DAY)),
        used("weight", Shape::Weight(-253, 253)),
        used("rise", Shape::Int(1, 1_000_000)),
        used("fall", Shape::Int(1, 1_000_000)),
        used("user", Shape::Words(1, 2)),
        used("init_fail", Shape::Bare),
    ],
};

/// `track_file`.
pub(super) const FILE: Place = Place {
    name: "in track_file",
    keywords: &[
        used("file", Shape::Word),
        used("weight", Shape::Weight(-254, 254)),
        used("init_file", Shape::Words(0, 2)),
    ],
};

/// `vrrp_track_process`.
pub(super) const PROCESS: Place = Place {
    name: "in vrrp_track_process",
    keywords: &[
        used("process", Shape::Words(1, 64)),
        used("weight", Shape::Weight(-254, 254)),
        used("quorum", Shape::Int(0, 65_535)),
        used("quorum_max", Shape::Int(0, 65_535)),
        used("delay", Shape::Time(0, 3600 * S)),
        used("fork_delay", Shape::Time(0, 3600 * S)),
        used("terminate_delay", Shape::Time(0, 3600 * S)),
        idle("param_match", "parameters are compared from the first to the last"),
        idle("full_command", "the name of the process is compared, and its parameters if there are any"),
    ],
};

/// `heartbeat`: what ha.cf says, as far as it matters between nodes (failover 3.1), and the lines of authkeys (3.3).
pub(super) const HEARTBEAT: Place = Place {
    name: "in heartbeat",
    keywords: &[
        used("keepalive", Shape::Words(1, 1)),
        used("deadtime", Shape::Words(1, 1)),
        used("warntime", Shape::Words(1, 1)),
        used("initdead", Shape::Words(1, 1)),
        used("udpport", Shape::Step),
        used("bcast", Shape::Step),
        formerly("udp", "bcast"),
        used("mcast", Shape::Step),
        used("ucast", Shape::Step),
        used("node", Shape::Step),
        used("hopfudge", Shape::Words(1, 1)),
        used("msgfmt", Shape::Words(1, 1)),
        used("authkeys", Shape::Lines),
        idle("auto_failback", "each service says it for itself, by 'failback'"),
    ],
};

/// `service`.
pub(super) const SERVICE: Place = Place {
    name: "in service",
    keywords: &[
        used("resource", Shape::Word),
        used("vrrp_instance", Shape::Words(1, 64)),
        used("preferred_node", Shape::Word),
        used("failback", Shape::Flag),
        used("proof", Shape::OneOf(&["lease", "fencing"])),
        used("promote-without-proof", Shape::Flag),
        formerly("promote_without_proof", "promote-without-proof"),
        used("promote_timeout", Shape::Time(S / 10, DAY)),
        used("release_timeout", Shape::Time(0, DAY)),
        used("mount", Shape::Step),
        used("start", Shape::Step),
    ],
};

/// The block of `mount`.
pub(super) const MOUNT: Place = Place {
    name: "in mount",
    keywords: &[
        used("timeout", Shape::Time(0, DAY)),
        used("retry", Shape::Int(0, 1000)),
        used("monitor", Shape::Time(S, DAY)),
        used("check", Shape::Flag),
    ],
};

/// The block of `start`.
pub(super) const START: Place = Place {
    name: "in start",
    keywords: &[
        used("timeout", Shape::Time(0, DAY)),
        used("retry", Shape::Int(0, 1000)),
        used("monitor", Shape::Time(S, DAY)),
        used("name", Shape::Word),
        used("stop", Shape::Words(1, 64)),
        used("status", Shape::Words(1, 64)),
    ],
};

#[cfg(test)]
mod tests {
    use super::super::keywords_lvs;
    use super::*;

    #[test]
    fn every_name_stands_once_and_every_old_name_has_a_new_one() {
        let mut places = alloc::vec![
            &TOP,
            &GLOBALS,
            &INSTANCE,
            &AUTHENTICATION,
            &GROUP,
            &SCRIPT,
            &FILE,
            &PROCESS,
            &HEARTBEAT,
            &SERVICE,
            &MOUNT,
            &START,
        ];
        places.extend(keywords_lvs::PLACES);
        for place in places {
            for (at, keyword) in place.keywords.iter().enumerate() {
                assert!(place.keywords[..at].iter().all(|k| k.name != keyword.name), "{}", keyword.name);
                if let Effect::Formerly(today) = keyword.effect {
                    assert_eq!(place.keyword(keyword.name).map(|k| k.name), Some(today));
                    assert!(place.keywords.iter().any(|k| k.name == today && k.effect == Effect::Used));
                }
            }
        }
    }
}
