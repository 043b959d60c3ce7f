//! Option lists to typed settings. Every default comes from the table in [`crate::options`].

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::ast::{Config, Entry};
use super::diagnostic::{Diagnostic, Severity};
use super::parse::{DISCARD_NODE, RR_CONFLICT_ONLY9};
use super::settings::{
    AfterSb0, BecomePrimaryOn, DiskOptions, Fencing, GlobalOptions, Handler, NetOptions, Protocol,
    ResourceOptions, RrConflict, StartupOptions,
};
use crate::options::{self, Kind, OptionDef, Section};
use crate::time::Duration;

/// One merged section, read option by option.
pub(super) struct Values<'a> {
    section: Section,
    entries: &'a [Entry],
    /// What could not be converted.
    errors: Vec<(&'a Entry, String)>,
}

impl<'a> Values<'a> {
    /// The options of `section` in `entries`.
    pub(super) fn new(section: Section, entries: &'a [Entry]) -> Values<'a> {
        Values { section, entries, errors: Vec::new() }
    }

    /// The errors found while reading.
    pub(super) fn diagnostics(self, config: &Config) -> impl Iterator<Item = Diagnostic> {
        self.errors.into_iter().map(|(entry, message)| {
            Diagnostic::at(&config.sources, entry.value_span, Severity::Error, message)
        })
    }

    fn get(&self, name: &str) -> (&'static OptionDef, Option<&'a Entry>) {
        let def = options::known(self.section, name);
        (def, self.entries.iter().find(|e| e.def == def))
    }

    /// In the unit of the table, put into its range as the driver does.
    fn number(&mut self, name: &str) -> u64 {
        let (def, entry) = self.get(name);
        let Kind::Number(number) = def.kind else { unreachable!("{name} is read as what it is") };
        let Some(entry) = entry else { return number.default };
        match options::parse_number(entry.value(), number.unit) {
            Ok(value) => value.clamp(number.min, number.max),
            Err(_) => {
                self.errors.push((entry, format!("'{}' is not a valid number for {name}", entry.value())));
                number.default
            }
        }
    }

    fn u32(&mut self, name: &str) -> u32 {
        u32::try_from(self.number(name)).expect("the table's limit fits")
    }

    fn seconds(&mut self, name: &str) -> Duration {
        Duration::from_secs(self.number(name))
    }

    fn deciseconds(&mut self, name: &str) -> Duration {
        Duration::from_millis(self.number(name) * 100)
    }

    fn flag(&self, name: &str) -> bool {
        let (def, entry) = self.get(name);
        match (def.kind, entry) {
            (_, Some(entry)) => entry.value() == "yes",
            (Kind::Flag(default), None) => default,
            _ => unreachable!("{name} is read as what it is"),
        }
    }

    fn word(&self, name: &str) -> bool {
        self.get(name).1.is_some()
    }

    /// The value of an enumeration; `legal` knows its words.
    fn choice<T>(&mut self, name: &str, legal: fn(&str) -> Option<T>) -> T {
        let (def, entry) = self.get(name);
        let Kind::Enum(words, default) = def.kind else { unreachable!("{name} is read as what it is") };
        if let Some(entry) = entry {
            match legal(entry.value()) {
                Some(value) => return value,
                None => {
                    let allowed = words.join(" | ");
                    let message = format!("'{}' is not a value of {name}; allowed: {allowed}", entry.value());
                    self.errors.push((entry, message));
                }
            }
        }
        legal(default).expect("the table's default is legal")
    }

    /// A string, `None` if empty or not given.
    fn text(&mut self, name: &str) -> Option<String> {
        let (def, entry) = self.get(name);
        let Kind::Text(max_len) = def.kind else { unreachable!("{name} is read as what it is") };
        let entry = entry?;
        if entry.value().len() > max_len {
            self.errors
                .push((entry, format!("the value of {name} is too long; at most {max_len} characters")));
            return None;
        }
        (!entry.value().is_empty()).then(|| entry.value().to_string())
    }
}

/// `net`; `own_names` are the names of this host, for `discard-node-NAME`.
pub(super) fn net(v: &mut Values<'_>, own_names: &[String]) -> NetOptions {
    NetOptions {
        protocol: v.choice("protocol", |s| Protocol::from_name(&s.to_ascii_uppercase())),
        timeout: v.deciseconds("timeout"),
        connect_int: v.seconds("connect-int"),
        ping_int: v.seconds("ping-int"),
        ping_timeout: v.deciseconds("ping-timeout"),
        ko_count: v.u32("ko-count"),
        max_buffers_pages: v.u32("max-buffers"),
        max_epoch_size: v.u32("max-epoch-size"),
        unplug_watermark: v.u32("unplug-watermark"),
        sndbuf_bytes: v.u32("sndbuf-size"),
        rcvbuf_bytes: v.u32("rcvbuf-size"),
        socket_check_timeout: v.deciseconds("socket-check-timeout"),
        allow_two_primaries: v.flag("allow-two-primaries"),
        cram_hmac_alg: v.text("cram-hmac-alg"),
        shared_secret: v.text("shared-secret"),
        after_sb_0pri: after_sb_0pri(v, own_names),
        after_sb_1pri: v.choice("after-sb-1pri", super::settings::AfterSb1::from_name),
        after_sb_2pri: v.choice("after-sb-2pri", super::settings::AfterSb2::from_name),
        always_asbp: v.flag("always-asbp"),
        rr_conflict: v.choice("rr-conflict", |s| {
            if RR_CONFLICT_ONLY9.contains(&s) {
                Some(RrConflict::Disconnect)
            } else {
                RrConflict::from_name(s)
            }
        }),
        data_integrity_alg: v.text("data-integrity-alg"),
        verify_alg: v.text("verify-alg"),
        csums_alg: v.text("csums-alg"),
        csums_after_crash_only: v.flag("csums-after-crash-only"),
        use_rle: v.flag("use-rle"),
        tcp_cork: v.flag("tcp-cork"),
        on_congestion: v.choice("on-congestion", super::settings::OnCongestion::from_name),
        congestion_fill_sectors: v.number("congestion-fill"),
        congestion_extents: v.u32("congestion-extents"),
    }
}

/// drbd-admin 2.2: `discard-node-NAME` is a side, seen from here.
fn after_sb_0pri(v: &mut Values<'_>, own_names: &[String]) -> AfterSb0 {
    if let Some(name) = v.get("after-sb-0pri").1.and_then(|e| e.value().strip_prefix(DISCARD_NODE)) {
        let own = own_names.iter().any(|own| own == name);
        return if own { AfterSb0::DiscardLocal } else { AfterSb0::DiscardRemote };
    }
    v.choice("after-sb-0pri", AfterSb0::from_name)
}

/// `disk` without `resync-after`, which needs the other resources. `net_fencing` is the spelling of 9, used
/// if the section itself has no `fencing`.
pub(super) fn disk(v: &mut Values<'_>, net_fencing: Option<Fencing>) -> DiskOptions {
    let fencing = match (v.word("fencing"), net_fencing) {
        (false, Some(fencing)) => fencing,
        _ => v.choice("fencing", Fencing::from_name),
    };
    DiskOptions {
        size_sectors: v.number("size"),
        on_io_error: v.choice("on-io-error", super::settings::OnIoError::from_name),
        fencing,
        disk_barrier: v.flag("disk-barrier"),
        disk_flushes: v.flag("disk-flushes"),
        disk_drain: v.flag("disk-drain"),
        md_flushes: v.flag("md-flushes"),
        max_bio_bvecs: v.u32("max-bio-bvecs"),
        disk_timeout: v.deciseconds("disk-timeout"),
        read_balancing: v.choice("read-balancing", super::settings::ReadBalancing::from_name),
        al_extents: v.u32("al-extents"),
        al_updates: v.flag("al-updates"),
        resync_rate_kib_s: v.u32("resync-rate"),
        resync_after: None,
        c_plan_ahead: v.deciseconds("c-plan-ahead"),
        c_delay_target: v.deciseconds("c-delay-target"),
        c_fill_target_sectors: v.u32("c-fill-target"),
        c_max_rate_kib_s: v.u32("c-max-rate"),
        c_min_rate_kib_s: v.u32("c-min-rate"),
        discard_zeroes_if_aligned: v.flag("discard-zeroes-if-aligned"),
        disable_write_same: v.flag("disable-write-same"),
        rs_discard_granularity_bytes: v.u32("rs-discard-granularity"),
    }
}

/// `fencing` of a `net` section, if it has one.
pub(super) fn net_fencing(v: &mut Values<'_>) -> Option<Fencing> {
    v.word("fencing").then(|| v.choice("fencing", Fencing::from_name))
}

/// `options`.
pub(super) fn resource_options(v: &mut Values<'_>) -> ResourceOptions {
    ResourceOptions {
        on_no_data_accessible: v.choice("on-no-data-accessible", super::settings::OnNoData::from_name),
        cpu_mask: v.text("cpu-mask").unwrap_or_default(),
    }
}

/// `startup`.
pub(super) fn startup(v: &mut Values<'_>) -> StartupOptions {
    let become_primary_on = match v.get("become-primary-on").1 {
        None => BecomePrimaryOn::None,
        Some(entry) if entry.values.iter().any(|name| name == "both") => BecomePrimaryOn::Both,
        Some(entry) => BecomePrimaryOn::Hosts(entry.values.clone()),
    };
    StartupOptions {
        wfc_timeout: v.seconds("wfc-timeout"),
        degr_wfc_timeout: v.seconds("degr-wfc-timeout"),
        outdated_wfc_timeout: v.seconds("outdated-wfc-timeout"),
        wait_after_sb: v.flag("wait-after-sb"),
        stacked_timeouts: v.word("stacked-timeouts"),
        become_primary_on,
    }
}

/// `global`.
pub(super) fn global(v: &mut Values<'_>) -> GlobalOptions {
    GlobalOptions {
        usage_count: v.choice("usage-count", super::settings::UsageCount::from_name),
        minor_count: v.u32("minor-count"),
        dialog_refresh: v.seconds("dialog-refresh"),
        disable_ip_verification: v.word("disable-ip-verification"),
        udev_always_use_vnr: v.word("udev-always-use-vnr"),
        cmd_timeout_short: v.seconds("cmd-timeout-short"),
        cmd_timeout_medium: v.seconds("cmd-timeout-medium"),
        cmd_timeout_long: v.seconds("cmd-timeout-long"),
    }
}

/// `handlers`.
pub(super) fn handlers(entries: &[Entry]) -> BTreeMap<Handler, String> {
    let pairs = entries.iter().map(|e| {
        let handler = Handler::from_name(e.def.name).expect("the table's handlers are the enum's");
        (handler, e.value().to_string())
    });
    pairs.collect()
}

macro_rules! default_from_table {
    ($($settings:ty, $section:ident, $read:expr;)+) => {
        $(impl Default for $settings {
            fn default() -> Self {
                let read: fn(&mut Values<'_>) -> Self = $read;
                read(&mut Values::new(Section::$section, &[]))
            }
        })+
    };
}

default_from_table! {
    NetOptions, Net, |v| net(v, &[]);
    DiskOptions, Disk, |v| disk(v, None);
    ResourceOptions, Options, resource_options;
    StartupOptions, Startup, startup;
    GlobalOptions, Global, global;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::{OnIoError, OnNoData};

    #[test]
    fn defaults_are_those_of_the_manual() {
        let net = NetOptions::default();
        assert_eq!((net.protocol, net.timeout), (Protocol::C, Duration::from_secs(6)));
        assert_eq!((net.ping_timeout, net.ping_int), (Duration::from_millis(500), Duration::from_secs(10)));
        assert_eq!((net.ko_count, net.max_buffers_pages, net.max_epoch_size), (7, 2048, 2048));
        assert_eq!((net.use_rle, net.tcp_cork, net.cram_hmac_alg), (true, true, None));
        let disk = DiskOptions::default();
        assert_eq!((disk.on_io_error, disk.fencing), (OnIoError::Detach, Fencing::DontCare));
        assert_eq!((disk.al_extents, disk.resync_rate_kib_s, disk.c_fill_target_sectors), (1237, 250, 100));
        assert_eq!((disk.disk_barrier, disk.disk_flushes, disk.md_flushes), (false, true, true));
        assert_eq!(ResourceOptions::default().on_no_data_accessible, OnNoData::IoError);
        assert_eq!(StartupOptions::default().become_primary_on, BecomePrimaryOn::None);
        assert_eq!(GlobalOptions::default().dialog_refresh, Duration::from_secs(1));
    }
}
