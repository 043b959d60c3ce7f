//! Settings as a file in the grammar that they are read from: what is printed means the same when it is read again. Only
//! virtual servers are not kept in a form that could be printed; they become comments.

mod heartbeat;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::{self, Write};
use core::time::Duration;

use super::config::{
    AnnouncePolicy, Authentication, Broadcast, Command, FailoverConfig, Globals, Notify, Preempt, Proof,
    RouteKind, Sending, Service, Step, StepKind, SyncGroup, TrackFile, TrackProcess, TrackScript,
    TrackTarget, Tracker, VirtualAddress, VirtualRoute, VirtualRule, VrrpInstance, VrrpVersion,
};
use super::parse::{
    ANNOUNCE, GROUPS, LEASE_PREFIX, LEASE_TTL, PROMOTE_TIMEOUT, RELEASE_TIMEOUT, STEP_TIMEOUT, default_name,
};
use super::value::seconds_of;

/// The file that says `config`.
pub fn print(config: &FailoverConfig) -> String {
    let mut printer = Printer { out: String::new(), depth: 0 };
    // A string takes everything.
    let _ = printer.file(config);
    printer.out
}

struct Printer {
    out: String,
    depth: usize,
}

/// A word as the lexer reads it back: as it is if nothing in it means anything, else in quotes.
fn word(text: &str) -> String {
    let is_plain = |b: u8| {
        b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/' | b':' | b'=' | b',' | b'+')
    };
    if !text.is_empty() && text.bytes().all(is_plain) && !text.starts_with("include") {
        return text.to_string();
    }
    quoted(text)
}

/// A text in quotes. A dollar could name a parameter, so it is written as a number.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '$' => out.push_str("\\044"),
            c if c.is_ascii_control() => out.push_str(&format!("\\{:03o}", c as u32)),
            c => out.push(c),
        }
    }
    out + "\""
}

/// Words that were joined with blanks, each as the lexer reads it back.
fn words(text: &str) -> String {
    if text.split(' ').count() > 8 {
        return quoted(text);
    }
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// A command in one quoted string.
fn command(words: &[String]) -> String {
    let is_plain = |b: u8| {
        b.is_ascii_alphanumeric()
            || matches!(b, b'.' | b'_' | b'-' | b'/' | b':' | b'=' | b',' | b'+' | b'@' | b'%')
    };
    let each = words.iter().map(|text| {
        if !text.is_empty() && text.bytes().all(is_plain) {
            text.clone()
        } else {
            format!("'{}'", text.replace('\'', "'\\''"))
        }
    });
    quoted(&each.collect::<Vec<_>>().join(" "))
}

fn seconds(time: Duration) -> String {
    seconds_of(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}

fn yes_no(flag: bool) -> &'static str {
    if flag { "yes" } else { "no" }
}

impl Printer {
    fn line(&mut self, line: impl fmt::Display) -> fmt::Result {
        writeln!(self.out, "{:indent$}{line}", "", indent = self.depth * 4)
    }

    /// A block if there is something in it.
    fn list<T>(&mut self, head: &str, items: &[T], mut print: impl FnMut(&T) -> String) -> fmt::Result {
        if items.is_empty() {
            return Ok(());
        }
        self.block(head, |p| items.iter().try_for_each(|item| p.line(print(item))))
    }

    fn block(&mut self, head: &str, body: impl FnOnce(&mut Self) -> fmt::Result) -> fmt::Result {
        self.line(format!("{head} {{"))?;
        self.depth += 1;
        body(self)?;
        self.depth -= 1;
        self.line("}")
    }

    fn file(&mut self, config: &FailoverConfig) -> fmt::Result {
        let announce = config.instances.first().map_or(ANNOUNCE, |instance| instance.announce);
        if config.globals != Globals::default()
            || announce.arp_interval != Duration::ZERO
            || announce.na_interval != Duration::ZERO
        {
            self.block("global_defs", |p| p.globals(&config.globals, &announce))?;
        }
        for script in &config.scripts {
            self.block(&format!("vrrp_script {}", word(&script.name)), |p| p.script(script))?;
        }
        for file in &config.track_files {
            self.block(&format!("track_file {}", word(&file.name)), |p| p.track_file(file))?;
        }
        for process in &config.track_processes {
            self.block(&format!("vrrp_track_process {}", word(&process.name)), |p| p.process(process))?;
        }
        for group in &config.sync_groups {
            self.block(&format!("vrrp_sync_group {}", word(&group.name)), |p| p.group(config, group))?;
        }
        for instance in &config.instances {
            self.block(&format!("vrrp_instance {}", word(&instance.name)), |p| p.instance(config, instance))?;
        }
        if let Some(membership) = &config.heartbeat {
            self.block("heartbeat", |p| p.heartbeat(membership))?;
        }
        for service in &config.services {
            self.block(&format!("service {}", word(&service.name)), |p| p.service(config, service))?;
        }
        for server in &config.virtual_servers {
            let name: String = server.name.chars().filter(|c| !c.is_control()).collect();
            self.line(format!("# virtual_server {name}: {} real servers, not printed", server.real_servers))?;
        }
        Ok(())
    }

    fn globals(&mut self, globals: &Globals, announce: &AnnouncePolicy) -> fmt::Result {
        if let Some(id) = &globals.router_id {
            self.line(format!("router_id {}", word(id)))?;
        }
        self.list("notification_email", &globals.email_to, |to| word(to))?;
        if let Some(from) = &globals.email_from {
            self.line(format!("notification_email_from {}", word(from)))?;
        }
        if let Some(server) = &globals.smtp_server {
            self.line(format!("smtp_server {} {}", word(&server.host), server.port))?;
        }
        if let Some(timeout) = globals.smtp_connect_timeout {
            self.line(format!("smtp_connect_timeout {}", seconds(timeout)))?;
        }
        if let Some(name) = &globals.smtp_helo_name {
            self.line(format!("smtp_helo_name {}", word(name)))?;
        }
        if globals.no_email_faults {
            self.line("no_email_faults")?;
        }
        if let Some(user) = &globals.script_user {
            self.line(format!("script_user {}", words(user)))?;
        }
        if globals.script_security {
            self.line("enable_script_security")?;
        }
        for fifo in &globals.notify_fifos {
            self.line(format!("vrrp_notify_fifo {}", word(fifo)))?;
        }
        if globals.notify_priority_changes {
            self.line("vrrp_notify_priority_changes yes")?;
        }
        if announce.arp_interval != Duration::ZERO {
            self.line(format!("vrrp_garp_interval {}", seconds(announce.arp_interval)))?;
        }
        if announce.na_interval != Duration::ZERO {
            self.line(format!("vrrp_gna_interval {}", seconds(announce.na_interval)))?;
        }
        let Some(lease) = &globals.lease else { return Ok(()) };
        let endpoints: Vec<String> = lease.endpoints.iter().map(|url| word(url)).collect();
        self.line(format!("lease_store {}", endpoints.join(" ")))?;
        if lease.ttl != LEASE_TTL {
            self.line(format!("lease_ttl {}", seconds(lease.ttl)))?;
        }
        if lease.prefix != LEASE_PREFIX {
            self.line(format!("lease_prefix {}", word(&lease.prefix)))?;
        }
        Ok(())
    }

    fn script(&mut self, script: &TrackScript) -> fmt::Result {
        self.line(format!("script {}", command(&script.command.words)))?;
        self.line(format!("interval {}", seconds(script.interval)))?;
        if script.timeout != script.interval {
            self.line(format!("timeout {}", seconds(script.timeout)))?;
        }
        if script.rise != 1 {
            self.line(format!("rise {}", script.rise))?;
        }
        if script.fall != 1 {
            self.line(format!("fall {}", script.fall))?;
        }
        if script.weight != 0 || script.reverse {
            self.weight(script.weight, script.reverse)?;
        }
        if script.starts_failed {
            self.line("init_fail")?;
        }
        match &script.user {
            Some(user) => self.line(format!("user {}", words(user))),
            None => Ok(()),
        }
    }

    fn weight(&mut self, weight: i16, reverse: bool) -> fmt::Result {
        self.line(format!("weight {weight}{}", if reverse { " reverse" } else { "" }))
    }

    fn track_file(&mut self, file: &TrackFile) -> fmt::Result {
        self.line(format!("file {}", word(&file.path)))?;
        self.weight(file.weight, file.reverse)?;
        match file.init {
            Some((value, overwrite)) => {
                self.line(format!("init_file {value}{}", if overwrite { " overwrite" } else { "" }))
            }
            None => Ok(()),
        }
    }

    fn process(&mut self, process: &TrackProcess) -> fmt::Result {
        self.line(format!("process {}", words(&process.process)))?;
        self.weight(process.weight, process.reverse)?;
        self.line(format!("quorum {}", process.quorum))?;
        if let Some(max) = process.quorum_max {
            self.line(format!("quorum_max {max}"))?;
        }
        if process.rise_delay != Duration::ZERO {
            self.line(format!("fork_delay {}", seconds(process.rise_delay)))?;
        }
        if process.fall_delay != Duration::ZERO {
            self.line(format!("terminate_delay {}", seconds(process.fall_delay)))?;
        }
        Ok(())
    }

    fn group(&mut self, config: &FailoverConfig, group: &SyncGroup) -> fmt::Result {
        self.list("group", &group.members, |member| word(member))?;
        self.trackers(config, &group.trackers)?;
        self.notify(&group.notify)
    }

    fn instance(&mut self, config: &FailoverConfig, instance: &VrrpInstance) -> fmt::Result {
        let is_v3 = instance.version == VrrpVersion::V3;
        self.line(format!("version {}", if is_v3 { 3 } else { 2 }))?;
        if instance.starts_as_master {
            self.line("state MASTER")?;
        }
        self.line(format!("interface {}", word(&instance.interface)))?;
        self.line(format!("virtual_router_id {}", instance.virtual_router_id))?;
        self.line(format!("priority {}", instance.priority))?;
        self.line(format!("advert_int {}", seconds(instance.advert_interval)))?;
        if let Authentication::Password(octets) = instance.authentication {
            self.block("authentication", |p| {
                p.line("auth_type PASS")?;
                p.line(format!("auth_pass {}", password(&octets)))
            })?;
        }
        self.list("virtual_ipaddress", &instance.addresses, address)?;
        self.list("virtual_ipaddress_excluded", &instance.excluded_addresses, address)?;
        self.list("virtual_routes", &instance.routes, route)?;
        self.list("virtual_rules", &instance.rules, rule)?;
        match instance.preempt {
            Preempt::Always => {}
            Preempt::Never => self.line("nopreempt")?,
            Preempt::After(delay) => self.line(format!("preempt_delay {}", seconds(delay)))?,
        }
        self.sending(&instance.sending)?;
        self.announce(&instance.announce)?;
        if let Some(vmac) = &instance.virtual_mac {
            self.line(format!("use_vmac {}", word(&vmac.name)))?;
            if vmac.sends_from_base {
                self.line("vmac_xmit_base")?;
            }
        }
        if !instance.accept {
            self.line("no_accept")?;
        }
        if instance.down_timer_adverts != 3 {
            self.line(format!("down_timer_adverts {}", instance.down_timer_adverts))?;
        }
        if instance.lower_prio_no_advert {
            self.line("lower_prio_no_advert yes")?;
        }
        if instance.higher_prio_send_advert {
            self.line("higher_prio_send_advert yes")?;
        }
        if !instance.tracks_own_interface {
            self.line("dont_track_primary")?;
        }
        self.trackers(config, &instance.trackers)?;
        self.notify(&instance.notify)
    }

    fn sending(&mut self, sending: &Sending) -> fmt::Result {
        match sending {
            Sending::Multicast { source, group } => {
                if let Some(source) = source {
                    self.line(format!("mcast_src_ip {source}"))?;
                }
                if *group != GROUPS.0 && *group != GROUPS.1 {
                    self.line(format!("mcast_dst_ip {group}"))?;
                }
                Ok(())
            }
            Sending::Unicast { source, peers, ttl, checks_source } => {
                if let Some(source) = source {
                    self.line(format!("unicast_src_ip {source}"))?;
                }
                self.list("unicast_peer", peers, |peer| match peer.ttl_range {
                    Some((min, max)) => format!("{} min_ttl {min} max_ttl {max}", peer.address),
                    None => peer.address.to_string(),
                })?;
                if *ttl != 255 {
                    self.line(format!("unicast_ttl {ttl}"))?;
                }
                if *checks_source {
                    self.line("check_unicast_src yes")?;
                }
                Ok(())
            }
        }
    }

    fn announce(&mut self, announce: &AnnouncePolicy) -> fmt::Result {
        let lines = [
            ("garp_master_repeat", announce.repeat.to_string(), announce.repeat == ANNOUNCE.repeat),
            (
                "garp_master_delay",
                seconds(announce.second_burst_after),
                announce.second_burst_after == ANNOUNCE.second_burst_after,
            ),
            ("garp_master_refresh", seconds(announce.refresh), announce.refresh == ANNOUNCE.refresh),
            (
                "garp_master_refresh_repeat",
                announce.refresh_repeat.to_string(),
                announce.refresh_repeat == ANNOUNCE.refresh_repeat,
            ),
            (
                "garp_lower_prio_repeat",
                announce.lower_priority_repeat.to_string(),
                announce.lower_priority_repeat == announce.repeat,
            ),
            (
                "garp_lower_prio_delay",
                seconds(announce.lower_priority_second_burst_after),
                announce.lower_priority_second_burst_after == announce.second_burst_after,
            ),
            (
                "garp_extra_if",
                format!("all {}", announce.extra_refresh.as_secs()),
                announce.extra_refresh == ANNOUNCE.extra_refresh,
            ),
        ];
        lines
            .iter()
            .filter(|line| !line.2)
            .try_for_each(|(name, value, _)| self.line(format!("{name} {value}")))
    }

    fn trackers(&mut self, config: &FailoverConfig, trackers: &[Tracker]) -> fmt::Result {
        // One block for each run of one kind keeps their order.
        for run in trackers.chunk_by(|a, b| target(&a.target).0 == target(&b.target).0) {
            let Some(first) = run.first() else { continue };
            self.list(target(&first.target).0, run, |tracker| {
                let name = word(target(&tracker.target).1);
                let direction = match (tracker.reverse, is_reversed(config, &tracker.target)) {
                    (true, _) => " reverse",
                    (false, true) => " noreverse",
                    (false, false) => "",
                };
                format!("{name} weight {}{direction}", tracker.weight)
            })?;
        }
        Ok(())
    }

    fn notify(&mut self, notify: &Notify) -> fmt::Result {
        let commands = [
            ("notify_master", &notify.master),
            ("notify_backup", &notify.backup),
            ("notify_fault", &notify.fault),
            ("notify_stop", &notify.stop),
            ("notify_deleted", &notify.deleted),
            ("notify_master_rx_lower_pri", &notify.master_rx_lower_priority),
            ("notify", &notify.any),
        ];
        for (keyword, run) in commands {
            if let Some(Command { words: run, user }) = run {
                let user = user.as_ref().map_or(String::new(), |user| format!(" {}", words(user)));
                self.line(format!("{keyword} {}{user}", command(run)))?;
            }
        }
        if notify.mails { self.line("smtp_alert yes") } else { Ok(()) }
    }

    fn service(&mut self, config: &FailoverConfig, service: &Service) -> fmt::Result {
        self.line(format!("resource {}", word(&service.resource)))?;
        if !service.instances.is_empty() {
            let names: Vec<String> = service.instances.iter().map(|name| word(name)).collect();
            self.line(format!("vrrp_instance {}", names.join(" ")))?;
        }
        if let Some(node) = &service.preferred_node {
            self.line(format!("preferred_node {}", word(node)))?;
            self.line(format!("failback {}", yes_no(service.failback)))?;
        } else if service.failback {
            self.line("failback yes")?;
        }
        match service.proof {
            Proof::Lease => self.line("proof lease")?,
            Proof::Fencing if config.globals.lease.is_some() => self.line("proof fencing")?,
            Proof::Fencing => {}
            Proof::Nothing => self.line("promote-without-proof yes")?,
        }
        if service.promote_timeout != PROMOTE_TIMEOUT {
            self.line(format!("promote_timeout {}", seconds(service.promote_timeout)))?;
        }
        if service.release_timeout != RELEASE_TIMEOUT {
            self.line(format!("release_timeout {}", seconds(service.release_timeout)))?;
        }
        service.steps.iter().try_for_each(|step| self.step(step))
    }

    fn step(&mut self, step: &Step) -> fmt::Result {
        let mut inner: Vec<String> = Vec::new();
        let mut default_timeout = STEP_TIMEOUT;
        let head = match &step.kind {
            StepKind::Mount { device, directory, filesystem, options, checks_first } => {
                default_timeout = Duration::ZERO;
                if *checks_first {
                    inner.push("check yes".into());
                }
                let parts = [Some(device), Some(directory), filesystem.as_ref(), options.as_ref()];
                let parts: Vec<String> = parts.into_iter().flatten().map(|part| word(part)).collect();
                format!("mount {}", parts.join(" "))
            }
            StepKind::Unit(unit) => format!("start {unit}"),
            StepKind::Command { name, start, stop, status } => {
                if *name != default_name(&start.words) {
                    inner.push(format!("name {}", word(name)));
                }
                inner.extend(stop.iter().map(|stop| format!("stop {}", command(&stop.words))));
                inner.extend(status.iter().map(|status| format!("status {}", command(&status.words))));
                format!("start {}", command(&start.words))
            }
            StepKind::Ocf { provider, agent, parameters } => {
                let parameters: String = parameters
                    .iter()
                    .map(|(name, value)| format!(" {}", word(&format!("{name}={value}"))))
                    .collect();
                format!("start ocf:{provider}:{agent}{parameters}")
            }
        };
        if step.timeout != default_timeout {
            inner.push(format!("timeout {}", seconds(step.timeout)));
        }
        if step.retries != 0 {
            inner.push(format!("retry {}", step.retries));
        }
        if !step.monitor.is_zero() {
            inner.push(format!("monitor {}", seconds(step.monitor)));
        }
        if inner.is_empty() {
            return self.line(head);
        }
        self.list(&head, &inner, Clone::clone)
    }
}

/// The list that it stands in, and its name there.
fn target(target: &TrackTarget) -> (&'static str, &str) {
    match target {
        TrackTarget::Interface(name) => ("track_interface", name),
        TrackTarget::Script(name) => ("track_script", name),
        TrackTarget::File(name) => ("track_file", name),
        TrackTarget::Process(name) => ("track_process", name),
        TrackTarget::Resource(name) => ("track_resource", name),
    }
}

/// The block of what is tracked says `reverse`.
fn is_reversed(config: &FailoverConfig, target: &TrackTarget) -> bool {
    match target {
        TrackTarget::Interface(_) | TrackTarget::Resource(_) => false,
        TrackTarget::Script(name) => config.scripts.iter().any(|s| s.name == *name && s.reverse),
        TrackTarget::File(name) => config.track_files.iter().any(|f| f.name == *name && f.reverse),
        TrackTarget::Process(name) => config.track_processes.iter().any(|p| p.name == *name && p.reverse),
    }
}

/// A password without the zeros that fill it up; octets that are no text cannot come from a file.
fn password(octets: &[u8; 8]) -> String {
    let len = octets.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
    word(&String::from_utf8_lossy(&octets[..len]))
}

fn scope(number: u8) -> String {
    match number {
        0 => "global".into(),
        200 => "site".into(),
        253 => "link".into(),
        254 => "host".into(),
        other => other.to_string(),
    }
}

fn address(address: &VirtualAddress) -> String {
    let mut line = format!("{}/{}", address.address, address.prefix_len);
    let mut add = |text: String| line += &format!(" {text}");
    match address.broadcast {
        Broadcast::Unset => {}
        Broadcast::AllOnes => add("brd +".into()),
        Broadcast::AllZeroes => add("brd -".into()),
        Broadcast::Address(broadcast) => add(format!("brd {broadcast}")),
    }
    if let Some(interface) = &address.interface {
        add(format!("dev {}", word(interface)));
    }
    if address.scope != 0 {
        add(format!("scope {}", scope(address.scope)));
    }
    if let Some(label) = &address.label {
        add(format!("label {}", word(label)));
    }
    if let Some((peer, len)) = address.peer {
        add(format!("peer {peer}/{len}"));
    }
    if let Some(lifetime) = address.preferred_lifetime {
        add(format!("preferred_lft {}", lifetime.as_secs()));
    }
    let flags = [
        (address.home, "home"),
        (address.no_dad, "-nodad"),
        (address.no_prefix_route, "noprefixroute"),
        (address.no_track, "no_track"),
    ];
    flags.iter().filter(|(set, _)| *set).for_each(|(_, name)| add((*name).to_string()));
    line
}

fn route(route: &VirtualRoute) -> String {
    let mut line = match route.kind {
        RouteKind::Unicast => String::new(),
        RouteKind::Blackhole => "blackhole ".to_string(),
        RouteKind::Unreachable => "unreachable ".to_string(),
        RouteKind::Prohibit => "prohibit ".to_string(),
    };
    line += &format!("{}/{}", route.destination.0, route.destination.1);
    let mut add =
        |name: &str, value: Option<String>| line.extend(value.map(|value| format!(" {name} {value}")));
    add("via", route.gateway.map(|ip| ip.to_string()));
    add("dev", route.interface.as_ref().map(|name| word(name)));
    add("src", route.source.map(|ip| ip.to_string()));
    add("table", route.table.map(|n| n.to_string()));
    add("metric", route.metric.map(|n| n.to_string()));
    add("scope", route.scope.map(scope));
    line
}

fn rule(rule: &VirtualRule) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut add =
        |name: &str, value: Option<String>| parts.extend(value.map(|value| format!("{name} {value}")));
    add("from", rule.from.map(|(ip, len)| format!("{ip}/{len}")));
    add("to", rule.to.map(|(ip, len)| format!("{ip}/{len}")));
    add("iif", rule.incoming.as_ref().map(|name| word(name)));
    add("fwmark", rule.mark.map(|n| n.to_string()));
    add("table", Some(rule.table.to_string()));
    add("preference", rule.preference.map(|n| n.to_string()));
    parts.join(" ")
}
