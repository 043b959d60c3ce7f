//! The keywords of virtual servers: checked, so that a file is either right or told where it is not, and kept for a director
//! (failover 5.1 and 6.2; keepalived.conf(5)).

use super::keywords::{DAY, Keyword, Place, S, Shape, formerly, idle, used};

const SCHEDULERS: &[&str] =
    &["rr", "wrr", "lc", "wlc", "lblc", "sh", "mh", "dh", "fo", "ovf", "lblcr", "sed", "nq", "twos"];
const METHODS: Shape = Shape::Words(1, 6);
const RETRIES: Shape = Shape::Int(0, 1_000_000);
const TIMER: Shape = Shape::Time(0, DAY);
const LOOP: Shape = Shape::Time(1, DAY);
const TIMEOUT: Shape = Shape::Time(S / 1000, DAY);
const PORT: Shape = Shape::Int(1, 65_535);
const NAT_MASK: &str = "it belongs to Linux 2.2, which masqueraded whole networks";

/// All places of this file.
#[cfg(test)]
pub(super) const PLACES: [&Place; 13] = [
    &VIRTUAL_SERVER,
    &REAL_SERVER,
    &TCP_CHECK,
    &HTTP_GET,
    &SSL_GET,
    &URL,
    &SMTP_CHECK,
    &HOST,
    &DNS_CHECK,
    &UDP_CHECK,
    &MISC_CHECK,
    &FILE_CHECK,
    &BFD_CHECK,
];

/// `virtual_server`.
pub(super) const VIRTUAL_SERVER: Place = Place {
    name: "in virtual_server",
    keywords: &[
        used("lvs_sched", Shape::OneOf(SCHEDULERS)),
        formerly("lb_algo", "lvs_sched"),
        used("lvs_method", METHODS),
        formerly("lb_kind", "lvs_method"),
        used("delay_loop", LOOP),
        used("protocol", Shape::OneOf(&["TCP", "UDP", "SCTP"])),
        used("persistence_timeout", Shape::Words(0, 1)),
        used("persistence_granularity", Shape::Word),
        used("persistence_engine", Shape::Word),
        used("virtualhost", Shape::Word),
        used("sorry_server", Shape::Endpoint),
        used("sorry_server_inhibit", Shape::Bare),
        used("sorry_server_lvs_method", METHODS),
        used("quorum", Shape::Int(1, 4_294_967_295)),
        used("hysteresis", Shape::Int(0, 4_294_967_295)),
        used("quorum_up", Shape::Command),
        used("quorum_down", Shape::Command),
        used("alpha", Shape::Flag),
        used("omega", Shape::Flag),
        used("ha_suspend", Shape::Bare),
        used("ops", Shape::Bare),
        used("flag-1", Shape::Bare),
        used("flag-2", Shape::Bare),
        used("flag-3", Shape::Bare),
        used("sh-port", Shape::Bare),
        used("sh-fallback", Shape::Bare),
        used("mh-port", Shape::Bare),
        used("mh-fallback", Shape::Bare),
        used("ip_family", Shape::OneOf(&["inet", "inet6"])),
        used("smtp_alert", Shape::Flag),
        used("inhibit_on_failure", Shape::Flag),
        used("connect_timeout", TIMEOUT),
        used("retry", RETRIES),
        formerly("nb_get_retry", "retry"),
        used("delay_before_retry", TIMER),
        used("warmup", TIMER),
        used("real_server", Shape::EndpointBlock(&REAL_SERVER)),
        idle("nat_mask", NAT_MASK),
        idle("snmp_name", "there is no SNMP"),
    ],
};

/// `real_server`.
pub(super) const REAL_SERVER: Place = Place {
    name: "in real_server",
    keywords: &[
        used("weight", Shape::Int(0, 2_147_483_647)),
        used("lvs_method", METHODS),
        formerly("lb_kind", "lvs_method"),
        used("inhibit_on_failure", Shape::Flag),
        used("uthreshold", Shape::Int(0, 4_294_967_295)),
        used("lthreshold", Shape::Int(0, 4_294_967_295)),
        used("notify_up", Shape::Command),
        used("notify_down", Shape::Command),
        used("smtp_alert", Shape::Flag),
        used("virtualhost", Shape::Word),
        used("alpha", Shape::Flag),
        used("connect_timeout", TIMEOUT),
        used("retry", RETRIES),
        formerly("nb_get_retry", "retry"),
        used("delay_before_retry", TIMER),
        used("warmup", TIMER),
        used("delay_loop", LOOP),
        used("TCP_CHECK", Shape::Block(&TCP_CHECK)),
        used("PING_CHECK", Shape::Block(&TCP_CHECK)),
        formerly("ICMP_CHECK", "PING_CHECK"),
        used("HTTP_GET", Shape::Block(&HTTP_GET)),
        used("SSL_GET", Shape::Block(&SSL_GET)),
        used("SMTP_CHECK", Shape::Block(&SMTP_CHECK)),
        used("DNS_CHECK", Shape::Block(&DNS_CHECK)),
        used("UDP_CHECK", Shape::Block(&UDP_CHECK)),
        used("MISC_CHECK", Shape::Block(&MISC_CHECK)),
        used("FILE_CHECK", Shape::Block(&FILE_CHECK)),
        used("BFD_CHECK", Shape::Block(&BFD_CHECK)),
        idle("snmp_name", "there is no SNMP"),
    ],
};

/// What all checkers have that connect, with what they have in addition.
macro_rules! checker {
    ($name:literal $(, $own:expr)*) => {
        Place {
            name: $name,
            keywords: &[
                used("connect_ip", Shape::Address),
                used("connect_port", PORT),
                used("bindto", Shape::Address),
                used("bind_if", Shape::Word),
                used("bind_port", PORT),
                used("fwmark", Shape::Int(0, 4_294_967_295)),
                used("alpha", Shape::Flag),
                used("connect_timeout", TIMEOUT),
                used("retry", RETRIES),
                formerly("nb_get_retry", "retry"),
                used("delay_before_retry", TIMER),
                used("warmup", TIMER),
                used("delay_loop", LOOP),
                used("log_all_failures", Shape::Flag),
                $($own),*
            ],
        }
    };
}

const PROTOCOL: Keyword = used("http_protocol", Shape::OneOf(&["1.0", "1.0C", "1.1"]));
const VIRTUALHOST: Keyword = used("virtualhost", Shape::Word);
const FAST: Keyword = used("fast_recovery", Shape::Flag);
const URLS: Keyword = used("url", Shape::Block(&URL));

/// `TCP_CHECK` and `PING_CHECK`.
pub(super) const TCP_CHECK: Place = checker!("in this checker");
/// `HTTP_GET`.
pub(super) const HTTP_GET: Place = checker!("in HTTP_GET", PROTOCOL, VIRTUALHOST, FAST, URLS);
/// `SSL_GET`.
pub(super) const SSL_GET: Place =
    checker!("in SSL_GET", PROTOCOL, VIRTUALHOST, FAST, URLS, used("enable_sni", Shape::Bare));
/// `SMTP_CHECK`.
pub(super) const SMTP_CHECK: Place =
    checker!("in SMTP_CHECK", used("helo_name", Shape::Word), used("host", Shape::Block(&HOST)));
/// `host` of `SMTP_CHECK`.
pub(super) const HOST: Place = checker!("in host");
/// `DNS_CHECK`.
pub(super) const DNS_CHECK: Place = checker!(
    "in DNS_CHECK",
    used("type", Shape::OneOf(&["A", "NS", "CNAME", "SOA", "MX", "TXT", "AAAA"])),
    used("name", Shape::Word)
);
/// `UDP_CHECK`.
pub(super) const UDP_CHECK: Place = checker!(
    "in UDP_CHECK",
    used("payload", Shape::Words(1, 1024)),
    used("require_reply", Shape::Words(0, 1024)),
    used("min_reply_length", Shape::Int(0, 65_535)),
    used("max_reply_length", Shape::Int(0, 65_535))
);

/// `url`.
pub(super) const URL: Place = Place {
    name: "in url",
    keywords: &[
        used("path", Shape::Word),
        used("digest", Shape::Word),
        used("status_code", Shape::Words(1, 64)),
        VIRTUALHOST,
        used("regex", Shape::Word),
        used("regex_no_match", Shape::Bare),
        used("regex_options", Shape::Words(1, 64)),
        used("regex_stack", Shape::Words(2, 2)),
        used("regex_min_offset", Shape::Int(0, 4_294_967_295)),
        used("regex_max_offset", Shape::Int(0, 4_294_967_295)),
    ],
};

/// `MISC_CHECK`.
pub(super) const MISC_CHECK: Place = Place {
    name: "in MISC_CHECK",
    keywords: &[
        used("misc_path", Shape::Words(1, 64)),
        used("misc_timeout", TIMEOUT),
        used("misc_dynamic", Shape::Flag),
        used("user", Shape::Words(1, 2)),
        used("alpha", Shape::Flag),
        used("retry", RETRIES),
        used("delay_before_retry", TIMER),
        used("warmup", TIMER),
        used("delay_loop", LOOP),
        used("log_all_failures", Shape::Flag),
    ],
};

/// `FILE_CHECK`.
pub(super) const FILE_CHECK: Place = Place {
    name: "in FILE_CHECK",
    keywords: &[
        used("track_file", Shape::Word),
        used("dynamic", Shape::Bare),
        used("weight", Shape::Weight(-2_147_483_647, 2_147_483_647)),
    ],
};

/// `BFD_CHECK`.
pub(super) const BFD_CHECK: Place = Place { name: "in BFD_CHECK", keywords: &[used("name", Shape::Word)] };
