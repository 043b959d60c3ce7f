//! Every option: name, section, kind, unit, range, default, dialect and aliases. The one table that drives
//! parsing, range checks, defaults and printing (drbd-admin 2).

use core::fmt;

use crate::config::settings::{
    AfterSb0, AfterSb1, AfterSb2, Fencing, Handler, OnCongestion, OnIoError, OnNoData, Protocol,
    ReadBalancing, RrConflict, UsageCount,
};

/// The section an option belongs to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Section {
    /// `global`.
    Global,
    /// `options`.
    Options,
    /// `net`.
    Net,
    /// `disk`.
    Disk,
    /// `startup`.
    Startup,
    /// `proxy`, and `options` inside a host's `proxy`.
    Proxy,
    /// `handlers`.
    Handlers,
}

impl Section {
    /// The keyword of the section.
    pub const fn name(self) -> &'static str {
        match self {
            Section::Global => "global",
            Section::Options => "options",
            Section::Net => "net",
            Section::Disk => "disk",
            Section::Startup => "startup",
            Section::Proxy => "proxy",
            Section::Handlers => "handlers",
        }
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Default unit of a number without a suffix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Plain.
    One,
    /// KiB.
    Kib,
    /// Sectors of 512 bytes.
    Sector,
}

impl Unit {
    /// How much one unit is.
    pub const fn factor(self) -> u64 {
        match self {
            Unit::One => 1,
            Unit::Kib => 1024,
            Unit::Sector => 512,
        }
    }

    /// The suffix that names the unit.
    pub const fn suffix(self) -> &'static str {
        match self {
            Unit::One => "",
            Unit::Kib => "k",
            Unit::Sector => "s",
        }
    }
}

/// A number with its unit and limits, all in `unit`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Number {
    /// Unit of the value without a suffix, and of the other fields.
    pub unit: Unit,
    /// What is counted, for people (`0.1 s`, `bytes`).
    pub counts: &'static str,
    /// Smallest value.
    pub min: u64,
    /// Largest value.
    pub max: u64,
    /// Value when nothing is configured.
    pub default: u64,
}

/// What an option takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `yes`, `no` or nothing (= yes); the default.
    Flag(bool),
    /// A number.
    Number(Number),
    /// One of these words; the default.
    Enum(&'static [&'static str], &'static str),
    /// A string of at most that many characters; empty by default.
    Text(usize),
    /// `off`, `majority`, `all` or a number (quorum).
    Quorum,
    /// Nothing: the word alone.
    Word,
    /// One or more words.
    Words,
    /// A number that is read and forgotten (8.3).
    Dropped,
}

/// Who knows the option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dialect {
    /// 8.4 and 9.
    Both,
    /// 8.4 only.
    Only84,
    /// 9 only.
    Only9,
}

/// One option.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct OptionDef {
    /// Name in files and on command lines.
    pub name: &'static str,
    /// Where it belongs.
    pub section: Section,
    /// What it takes.
    pub kind: Kind,
    /// Who knows it.
    pub dialect: Dialect,
    /// Other spellings.
    pub aliases: &'static [&'static str],
    /// Accepted in the 8.3 section `syncer` as well.
    pub in_syncer: bool,
    /// Legal in a file; otherwise only on command lines.
    pub in_file: bool,
    /// drbdadm 8.4 itself refuses values out of range; otherwise the driver clamps them (drbd-admin 1.4).
    pub checked: bool,
    /// It does something here; the others are kept for `dump` only.
    pub has_effect: bool,
    /// 9 counts it as a setting of the peer device (accepted in `disk` of a connection).
    pub peer_device: bool,
}

impl OptionDef {
    const fn new(section: Section, name: &'static str, kind: Kind) -> OptionDef {
        OptionDef {
            name,
            section,
            kind,
            dialect: Dialect::Both,
            aliases: &[],
            in_syncer: false,
            in_file: true,
            checked: true,
            has_effect: true,
            peer_device: false,
        }
    }
    const fn only9(mut self) -> OptionDef {
        self.dialect = Dialect::Only9;
        self.has_effect = false;
        self
    }
    const fn with_effect(mut self) -> OptionDef {
        self.has_effect = true;
        self
    }
    const fn only84(mut self) -> OptionDef {
        self.dialect = Dialect::Only84;
        self
    }
    const fn alias(mut self, aliases: &'static [&'static str]) -> OptionDef {
        self.aliases = aliases;
        self
    }
    const fn syncer(mut self) -> OptionDef {
        self.in_syncer = true;
        self
    }
    const fn command_only(mut self) -> OptionDef {
        self.in_file = false;
        self
    }
    const fn unchecked(mut self) -> OptionDef {
        self.checked = false;
        self
    }
    const fn peer_device(mut self) -> OptionDef {
        self.peer_device = true;
        self
    }

    /// `name` is this option's name or one of its aliases.
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || self.aliases.contains(&name)
    }
}

const fn flag(section: Section, name: &'static str, default: bool) -> OptionDef {
    OptionDef::new(section, name, Kind::Flag(default))
}

const fn number(
    section: Section,
    name: &'static str,
    unit: Unit,
    counts: &'static str,
    [min, max, default]: [u64; 3],
) -> OptionDef {
    assert!(min <= max && default <= max && default >= min);
    OptionDef::new(section, name, Kind::Number(Number { unit, counts, min, max, default }))
}

const fn choice(
    section: Section,
    name: &'static str,
    values: &'static [&'static str],
    default: &'static str,
) -> OptionDef {
    OptionDef::new(section, name, Kind::Enum(values, default))
}

const fn text(section: Section, name: &'static str, max_len: usize) -> OptionDef {
    OptionDef::new(section, name, Kind::Text(max_len))
}

const fn handler(handler: Handler) -> OptionDef {
    text(Section::Handlers, handler.name(), MAX_VALUE_LEN)
}

/// Longest quoted string of a file (drbd-admin 1.3).
pub const MAX_VALUE_LEN: usize = 255;
const DIGEST_LEN: usize = 63;
const GIB2: u64 = 1 << 31;

use Section::{Disk, Global, Net, Options, Proxy, Startup};
use Unit::{Kib, One, Sector};

/// The table.
pub const OPTIONS: &[OptionDef] = &[
    // 2.1 disk
    number(Disk, "size", Sector, "sectors", [0, 1 << 41, 0]),
    choice(Disk, "on-io-error", OnIoError::NAMES, "detach").unchecked(),
    choice(Disk, "fencing", Fencing::NAMES, "dont-care").unchecked(),
    flag(Disk, "disk-barrier", false),
    flag(Disk, "disk-flushes", true),
    flag(Disk, "disk-drain", true),
    flag(Disk, "md-flushes", true),
    number(Disk, "max-bio-bvecs", One, "segments", [0, 128, 0]).unchecked().only84(),
    number(Disk, "disk-timeout", One, "0.1 s", [0, 6000, 0]).unchecked(),
    choice(Disk, "read-balancing", ReadBalancing::NAMES, "prefer-local").unchecked(),
    number(Disk, "al-extents", One, "extents of 4 MiB", [67, 65534, 1237]).unchecked().syncer(),
    flag(Disk, "al-updates", true),
    number(Disk, "resync-rate", Kib, "KiB/s", [1, 4_194_304, 250]).alias(&["rate"]).syncer().peer_device(),
    text(Disk, "resync-after", MAX_VALUE_LEN).alias(&["after"]).syncer(),
    number(Disk, "c-plan-ahead", One, "0.1 s", [0, 300, 20]).syncer().peer_device(),
    number(Disk, "c-delay-target", One, "0.1 s", [1, 100, 10]).syncer().peer_device(),
    number(Disk, "c-fill-target", Sector, "sectors", [0, 1_048_576, 100]).syncer().peer_device(),
    number(Disk, "c-max-rate", Kib, "KiB/s", [250, 4_194_304, 102_400]).syncer().peer_device(),
    number(Disk, "c-min-rate", Kib, "KiB/s", [0, 4_194_304, 250]).syncer().peer_device(),
    flag(Disk, "discard-zeroes-if-aligned", true),
    flag(Disk, "disable-write-same", false),
    number(Disk, "rs-discard-granularity", One, "bytes", [0, 1_048_576, 0]).unchecked(),
    OptionDef::new(Disk, "use-bmbv", Kind::Flag(false)).only84(),
    OptionDef::new(Disk, "delay-probe-volume", Kind::Dropped).syncer().only84(),
    OptionDef::new(Disk, "delay-probe-interval", Kind::Dropped).syncer().only84(),
    OptionDef::new(Disk, "throttle-threshold", Kind::Dropped).syncer().only84(),
    OptionDef::new(Disk, "hold-off-threshold", Kind::Dropped).syncer().only84(),
    flag(Disk, "bitmap", true).only9().peer_device(),
    flag(Disk, "resync-without-replication", false).only9().peer_device(),
    flag(Disk, "peer-tiebreaker", true).only9().peer_device(),
    number(Disk, "max-bio-size", One, "bytes", [4096, 1_048_576, 1_048_576]).only9(),
    flag(Disk, "diskless", false).only9(),
    number(Disk, "block-size", One, "bytes", [512, 4096, 512]).only9(),
    number(Disk, "discard-granularity", One, "bytes", [0, 128 << 20, 0]).only9(),
    // 2.2 net
    choice(Net, "protocol", Protocol::NAMES, "C"),
    number(Net, "timeout", One, "0.1 s", [1, 600, 60]),
    number(Net, "connect-int", One, "s", [1, 120, 10]),
    number(Net, "ping-int", One, "s", [1, 120, 10]),
    number(Net, "ping-timeout", One, "0.1 s", [1, 300, 5]).unchecked(),
    number(Net, "max-epoch-size", One, "writes", [1, 20000, 2048]),
    number(Net, "max-buffers", One, "pages of 4 KiB", [32, 131_072, 2048]),
    number(Net, "unplug-watermark", One, "requests", [1, 131_072, 128]).unchecked().only84(),
    number(Net, "sndbuf-size", One, "bytes", [0, 10 << 20, 0]),
    number(Net, "rcvbuf-size", One, "bytes", [0, 10 << 20, 0]),
    number(Net, "ko-count", One, "times timeout", [0, 200, 7]),
    number(Net, "socket-check-timeout", One, "0.1 s", [0, 300, 0]).unchecked(),
    flag(Net, "allow-two-primaries", false),
    text(Net, "cram-hmac-alg", DIGEST_LEN),
    text(Net, "shared-secret", DIGEST_LEN),
    choice(Net, "after-sb-0pri", AfterSb0::NAMES, "disconnect").unchecked(),
    choice(Net, "after-sb-1pri", AfterSb1::NAMES, "disconnect").unchecked(),
    choice(Net, "after-sb-2pri", AfterSb2::NAMES, "disconnect").unchecked(),
    flag(Net, "always-asbp", false),
    choice(Net, "rr-conflict", RrConflict::NAMES, "disconnect").unchecked(),
    text(Net, "data-integrity-alg", DIGEST_LEN),
    text(Net, "csums-alg", DIGEST_LEN).syncer(),
    flag(Net, "csums-after-crash-only", false),
    text(Net, "verify-alg", DIGEST_LEN).syncer(),
    flag(Net, "use-rle", true).syncer(),
    flag(Net, "tcp-cork", true),
    choice(Net, "on-congestion", OnCongestion::NAMES, "block").unchecked(),
    number(Net, "congestion-fill", Sector, "sectors", [0, 20_971_520, 0]),
    number(Net, "congestion-extents", One, "extents of 4 MiB", [67, 65534, 1237]),
    flag(Net, "discard-my-data", false).command_only(),
    flag(Net, "tentative", false).alias(&["dry-run"]).command_only(),
    text(Net, "transport", DIGEST_LEN).only9(),
    choice(Net, "fencing", Fencing::NAMES, "dont-care").only9().with_effect(),
    flag(Net, "allow-remote-read", true).only9(),
    flag(Net, "tls", false).only9(),
    text(Net, "tls-keyring", MAX_VALUE_LEN).only9(),
    text(Net, "tls-privkey", MAX_VALUE_LEN).only9(),
    text(Net, "tls-certificate", MAX_VALUE_LEN).only9(),
    flag(Net, "load-balance-paths", false).only9(),
    number(Net, "rdma-ctrl-rcvbuf-size", One, "bytes", [0, GIB2, 0]).only9(),
    number(Net, "rdma-ctrl-sndbuf-size", One, "bytes", [0, GIB2, 0]).only9(),
    text(Net, "_name", MAX_VALUE_LEN).only9().command_only(),
    // 2.3 options
    text(Options, "cpu-mask", MAX_VALUE_LEN).syncer(),
    choice(Options, "on-no-data-accessible", OnNoData::NAMES, "io-error").unchecked().syncer(),
    flag(Options, "auto-promote", true).only9(),
    number(Options, "auto-promote-timeout", One, "0.1 s", [0, 600, 20]).only9(),
    OptionDef::new(Options, "quorum", Kind::Quorum).only9(),
    OptionDef::new(Options, "quorum-minimum-redundancy", Kind::Quorum).only9(),
    choice(Options, "on-no-quorum", OnNoData::NAMES, "suspend-io").only9(),
    choice(Options, "on-suspended-primary-outdated", &["disconnect", "force-secondary"], "disconnect")
        .only9(),
    number(Options, "peer-ack-window", Sector, "sectors", [2048, 204_800, 4096]).only9(),
    number(Options, "peer-ack-delay", One, "ms", [1, 10000, 100]).only9(),
    number(Options, "twopc-timeout", One, "0.1 s", [50, 600, 300]).only9(),
    number(Options, "twopc-retry-timeout", One, "0.1 s", [1, 50, 1]).only9(),
    number(Options, "max-io-depth", One, "requests", [4, 0xffff_ffff, 8000]).only9(),
    flag(Options, "drbd8-api-compatibility", false).only9(),
    // 2.4 startup
    number(Startup, "wfc-timeout", One, "s", [0, 300_000, 0]),
    number(Startup, "degr-wfc-timeout", One, "s", [0, 300_000, 0]),
    number(Startup, "outdated-wfc-timeout", One, "s", [0, 300_000, 0]),
    flag(Startup, "wait-after-sb", false),
    OptionDef::new(Startup, "stacked-timeouts", Kind::Word),
    OptionDef::new(Startup, "become-primary-on", Kind::Words),
    // 2.5 global, in the order of `dump`
    OptionDef::new(Global, "disable-ip-verification", Kind::Word),
    number(Global, "minor-count", One, "minors", [1, 255, 32]),
    number(Global, "dialog-refresh", One, "s", [0, 600, 1]),
    choice(Global, "usage-count", UsageCount::NAMES, "ask"),
    number(Global, "cmd-timeout-short", One, "s", [0, 900, 5]),
    number(Global, "cmd-timeout-medium", One, "s", [0, 900, 600]),
    number(Global, "cmd-timeout-long", One, "s", [0, 900, 0]),
    OptionDef::new(Global, "udev-always-use-vnr", Kind::Word),
    // 2.6 handlers
    handler(Handler::FencePeer).alias(&["outdate-peer"]),
    handler(Handler::UnfencePeer),
    handler(Handler::BeforeResyncTarget),
    handler(Handler::BeforeResyncSource),
    handler(Handler::AfterResyncTarget),
    handler(Handler::SplitBrain),
    handler(Handler::InitialSplitBrain),
    handler(Handler::PriOnInconDegr),
    handler(Handler::PriLostAfterSb),
    handler(Handler::PriLost),
    handler(Handler::LocalIoError),
    handler(Handler::OutOfSync),
    handler(Handler::QuorumLost).only9(),
    handler(Handler::Disconnected).only9(),
    // 2.7 proxy: kept for `dump`, without effect
    text(Proxy, "memlimit", MAX_VALUE_LEN),
    text(Proxy, "read-loops", MAX_VALUE_LEN),
    text(Proxy, "compression", MAX_VALUE_LEN),
    text(Proxy, "bwlimit", MAX_VALUE_LEN),
    text(Proxy, "sndbuf-size", MAX_VALUE_LEN),
    text(Proxy, "rcvbuf-size", MAX_VALUE_LEN),
    text(Proxy, "ping-timeout", MAX_VALUE_LEN),
];

/// The option of `section` with this name or alias, also those that are legal on command lines only.
pub fn find(section: Section, name: &str) -> Option<&'static OptionDef> {
    OPTIONS.iter().find(|def| def.section == section && def.is_called(name))
}

/// The option that the 8.3 section `syncer` knows under this name or alias.
pub fn find_in_syncer(name: &str) -> Option<&'static OptionDef> {
    OPTIONS.iter().find(|def| def.in_syncer && def.is_called(name))
}

/// The option of `section` with exactly this name, which our own code names and the table therefore has.
pub fn known(section: Section, name: &str) -> &'static OptionDef {
    find(section, name).expect("an option that our own code names is in the table")
}

/// Why a text is not a number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotANumber;

/// Converts `text` (decimal, optional suffix `k m g s` in any case) into `unit`, rounding up (drbd-admin 1.4).
pub fn parse_number(text: &str, unit: Unit) -> Result<u64, NotANumber> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let factor: u64 = match &text.as_bytes()[digits..] {
        [] => unit.factor(),
        [b'k' | b'K'] => 1 << 10,
        [b'm' | b'M'] => 1 << 20,
        [b'g' | b'G'] => 1 << 30,
        [b's'] => 512,
        _ => return Err(NotANumber),
    };
    let value: u64 = text[..digits].parse().map_err(|_| NotANumber)?;
    Ok(value.checked_mul(factor).ok_or(NotANumber)?.div_ceil(unit.factor()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;

    #[test]
    fn every_name_of_a_section_is_unique_and_every_default_is_legal() {
        let mut seen = BTreeSet::new();
        for def in OPTIONS {
            for name in core::iter::once(&def.name).chain(def.aliases) {
                assert!(seen.insert((def.section, *name)), "{} {name}", def.section);
                assert_eq!(find(def.section, name), Some(def));
            }
            if let Kind::Enum(values, default) = def.kind {
                assert!(values.contains(&default), "{}", def.name);
            }
        }
        let handlers = OPTIONS.iter().filter(|d| d.section == Section::Handlers);
        assert!(handlers.map(|d| Handler::from_name(d.name)).eq(Handler::ALL.iter().map(|h| Some(*h))));
    }

    #[test]
    fn syncer_names_are_unambiguous() {
        for def in OPTIONS.iter().filter(|d| d.in_syncer) {
            assert_eq!(find_in_syncer(def.name), Some(def));
        }
        assert_eq!(find_in_syncer("rate"), find(Disk, "resync-rate"));
        assert_eq!(find_in_syncer("cpu-mask"), find(Options, "cpu-mask"));
        assert_eq!(find_in_syncer("timeout"), None);
    }

    #[test]
    fn numbers_convert_and_round_up() {
        assert_eq!(parse_number("100", Unit::Kib), Ok(100));
        assert_eq!(parse_number("1s", Unit::Kib), Ok(1));
        assert_eq!(parse_number("10G", Unit::Kib), Ok(10_485_760));
        assert_eq!(parse_number("24M", Unit::Sector), Ok(49152));
        assert_eq!(parse_number("36k", Unit::One), Ok(36864));
        assert_eq!(parse_number("2m", Unit::One), Ok(2 << 20));
        for bad in
            ["", "k", "12x", "0x10", "-1", "1kk", "1.5", "99999999999999999999", "18446744073709551615k"]
        {
            assert_eq!(parse_number(bad, Unit::One), Err(NotANumber), "{bad}");
        }
    }
}
