//! From the configuration of a resource to what the core runs, with a refusal for everything that this version
//! cannot do: it is better not to start than to run differently than the file says.

use model::config::settings::{DiskOptions, NetOptions, OnCongestion, ResourceConfig, VolumeConfig};
use model::policy::{Fencing, Protocol};
use replicator::activity_log::transaction::AL_SLOTS_MIN;
use replicator::{Auth, DigestAlg, HmacAlg};

/// Longest shared secret (drbd-admin 2.2).
const SECRET_BYTES_MAX: usize = 63;
/// Paths of sockets are short.
const NAME_BYTES_MAX: usize = 64;
/// The core numbers volumes with a byte and marks them in 64 bits.
const VOLUMES_MAX: usize = 64;

/// Something in the configuration that cannot be run. All of them are for the administrator to solve.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{defined_at}: resource {resource}: {problem}\n    = help: {remedy}")]
pub struct Refusal {
    /// `FILE:LINE` of the resource.
    pub defined_at: String,
    /// Its name.
    pub resource: String,
    /// The option and what is wrong with it.
    pub problem: String,
    /// What to write instead.
    pub remedy: String,
}

/// A resource in the core's words.
#[derive(Clone, Debug, PartialEq)]
pub struct Translated {
    /// The resource and its volumes.
    pub core: replicator::Config,
    /// Its connection, without the options of a single `connect`.
    pub net: replicator::NetConfig,
}

/// Translates `resource`.
///
/// # Errors
/// Every option that keeps it from running, not only the first.
pub fn translate(resource: &ResourceConfig) -> Result<Translated, Vec<Refusal>> {
    let mut found = Vec::new();
    let mut refuse = |problem: String, remedy: &str| {
        found.push(Refusal {
            defined_at: resource.defined_at.clone(),
            resource: resource.name.clone(),
            problem,
            remedy: remedy.to_owned(),
        });
    };
    // The name becomes the name of a socket.
    if resource.name.contains(['/', '\0'])
        || resource.name.starts_with('.')
        || resource.name.len() > NAME_BYTES_MAX
    {
        refuse(
            "the name cannot be used for a file".into(),
            "use letters, digits, '-' and '_', at most 64 of them",
        );
    }
    check_net(&resource.net, &mut refuse);
    for volume in &resource.volumes {
        check_volume(volume, &mut refuse);
    }
    let freezes = |v: &VolumeConfig| v.disk_options.fencing == Fencing::ResourceAndStonith;
    if resource.net.protocol == Protocol::A && resource.volumes.iter().any(freezes) {
        refuse(
            "fencing policy resource-and-stonith only with protocol B or C allowed".into(),
            "protocol A answers writes before anything could be frozen; write 'protocol C'",
        );
    }
    if resource.volumes.len() > VOLUMES_MAX {
        let problem = format!("{} volumes, more than {VOLUMES_MAX}", resource.volumes.len());
        refuse(problem, "spread them over several resources");
    }
    let auth = auth(&resource.net, &mut refuse);
    if !found.is_empty() {
        return Err(found);
    }
    Ok(Translated { core: core_config(resource), net: net_config(&resource.net, auth) })
}

fn check_net(net: &NetOptions, refuse: &mut impl FnMut(String, &str)) {
    let algorithms = [
        ("verify-alg", &net.verify_alg),
        ("csums-alg", &net.csums_alg),
        ("data-integrity-alg", &net.data_integrity_alg),
    ];
    for (option, alg) in algorithms {
        let Some(alg) = alg.as_ref().filter(|a| DigestAlg::from_name(a).is_none()) else { continue };
        refuse(
            format!("'{option} {alg}' is not known"),
            "write crc32c, md5, sha1, sha256 or sha512, the same on both nodes",
        );
    }
    if net.allow_two_primaries && net.protocol != Protocol::C {
        refuse("'allow-two-primaries' without protocol C".into(), "write 'protocol C'");
    }
    if net.on_congestion != OnCongestion::Block && net.protocol != Protocol::A {
        refuse(
            format!("'on-congestion {}' without protocol A", net.on_congestion),
            "write 'protocol A', or 'on-congestion block'",
        );
    }
}

fn check_volume(volume: &VolumeConfig, refuse: &mut impl FnMut(String, &str)) {
    if u16::try_from(volume.disk_options.al_extents).is_err() {
        refuse(
            format!("volume {}: al-extents {}", volume.volume, volume.disk_options.al_extents),
            "write at most 65534",
        );
    }
}

fn auth(net: &NetOptions, refuse: &mut impl FnMut(String, &str)) -> Option<Auth> {
    let name = net.cram_hmac_alg.as_ref()?;
    let Some(alg) = HmacAlg::from_name(name) else {
        refuse(
            format!("'cram-hmac-alg {name}' is not known"),
            "write md5, sha1, sha256 or sha512, the same on both nodes",
        );
        return None;
    };
    match &net.shared_secret {
        None => {
            refuse("'cram-hmac-alg' without 'shared-secret'".into(), "write both, or neither");
            None
        }
        Some(secret) if secret.len() > SECRET_BYTES_MAX => {
            let problem = format!("'shared-secret' has {} bytes", secret.len());
            refuse(problem, "use at most 63");
            None
        }
        Some(secret) => Some(Auth { alg, secret: secret.clone().into_bytes() }),
    }
}

fn core_config(resource: &ResourceConfig) -> replicator::Config {
    let volumes = resource.volumes.iter().map(|v| replicator::VolumeConfig {
        vnr: v.volume,
        minor: v.minor,
        disk: disk_config(&v.disk_options),
    });
    replicator::Config {
        name: resource.name.clone(),
        volumes: volumes.collect(),
        on_no_data: resource.options.on_no_data_accessible,
        serves_by_leave: false,
    }
}

/// The disk options of a volume; they were checked by [`translate`].
pub fn disk_config(o: &DiskOptions) -> replicator::DiskConfig {
    replicator::DiskConfig {
        size_sectors: o.size_sectors,
        on_io_error: o.on_io_error,
        fencing: o.fencing,
        disk_flushes: o.disk_flushes,
        md_flushes: o.md_flushes,
        al_extents: u16::try_from(o.al_extents).unwrap_or(u16::MAX).max(AL_SLOTS_MIN),
        al_updates: o.al_updates,
        resync_rate_kib_s: o.resync_rate_kib_s,
        c_plan_ahead_ds: deciseconds(o.c_plan_ahead),
        c_delay_target_ds: deciseconds(o.c_delay_target),
        c_fill_target_sectors: o.c_fill_target_sectors,
        c_max_rate_kib_s: o.c_max_rate_kib_s,
        c_min_rate_kib_s: o.c_min_rate_kib_s,
        disk_timeout: o.disk_timeout,
    }
}

fn net_config(o: &NetOptions, auth: Option<Auth>) -> replicator::NetConfig {
    let name = |alg: &Option<String>| alg.clone().unwrap_or_default();
    replicator::NetConfig {
        protocol: o.protocol,
        timeout: o.timeout,
        connect_int: o.connect_int,
        ping_int: o.ping_int,
        ping_timeout: o.ping_timeout,
        socket_check_timeout: o.socket_check_timeout,
        ko_count: o.ko_count,
        max_buffers: o.max_buffers_pages,
        max_epoch_size: o.max_epoch_size,
        auth,
        after_sb_0pri: o.after_sb_0pri,
        after_sb_1pri: o.after_sb_1pri,
        after_sb_2pri: o.after_sb_2pri,
        always_asbp: o.always_asbp,
        rr_conflict: o.rr_conflict,
        allow_two_primaries: o.allow_two_primaries,
        on_congestion: o.on_congestion,
        congestion_fill_sectors: o.congestion_fill_sectors,
        congestion_extents: o.congestion_extents,
        data_integrity_alg: name(&o.data_integrity_alg),
        verify_alg: name(&o.verify_alg),
        csums_alg: name(&o.csums_alg),
        csums_after_crash_only: o.csums_after_crash_only,
        use_rle: o.use_rle,
        discard_my_data: false,
        tentative: false,
    }
}

fn deciseconds(time: std::time::Duration) -> u32 {
    u32::try_from(time.as_millis() / 100).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use model::config::{LoadError, LoadedFile, Loader};

    use super::*;
    use model::policy;

    struct OneFile(String);

    impl Loader for OneFile {
        fn read(&self, path: &str) -> Result<LoadedFile, LoadError> {
            let text = self.0.clone().into_bytes();
            Ok(LoadedFile { name: path.into(), identity: path.into(), text })
        }

        fn glob(&self, _pattern: &str) -> Vec<String> {
            Vec::new()
        }
    }

    fn resource(sections: &str) -> ResourceConfig {
        let text = format!(
            "resource r0 {{ device /dev/drbd0; meta-disk internal; {sections}\n\
             on a {{ disk /dev/x; address 127.0.0.1:7788; }}\n\
             on b {{ disk /dev/y; address 127.0.0.1:7789; }} }}"
        );
        let config = model::config::load(&OneFile(text), &["r0.res"]).unwrap();
        model::config::resolve(&config, "a", None).unwrap().remove(0)
    }

    fn problems(sections: &str) -> Vec<String> {
        let Err(found) = translate(&resource(sections)) else { return Vec::new() };
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn defaults_of_the_files_are_the_defaults_of_the_core() {
        let t = translate(&resource("")).unwrap();
        assert_eq!(t.net, replicator::NetConfig::default());
        assert_eq!(t.core.volumes.len(), 1);
        assert_eq!(t.core.volumes[0].disk, replicator::DiskConfig::default());
        assert_eq!(t.core.on_no_data, policy::OnNoData::IoError);
    }

    #[test]
    fn values_arrive() {
        let t = translate(&resource(
            "net { protocol A; timeout 30; cram-hmac-alg sha1; shared-secret s; verify-alg crc32c; \
             csums-alg md5; after-sb-0pri discard-zero-changes; after-sb-1pri discard-secondary; \
             rr-conflict violently; ping-timeout 9; max-epoch-size 30; max-buffers 40; ko-count 3; \
             on-congestion pull-ahead; congestion-fill 1M; congestion-extents 500; } \
             disk { resync-rate 5M; c-plan-ahead 7; c-delay-target 8; c-fill-target 0; on-io-error pass_on; \
             al-extents 67; disk-flushes no; disk-timeout 20; }",
        ))
        .unwrap();
        assert_eq!(t.net.protocol, policy::Protocol::A);
        assert_eq!(t.net.timeout, Duration::from_secs(3));
        assert_eq!(t.net.auth, Some(Auth { alg: HmacAlg::Sha1, secret: b"s".to_vec() }));
        assert_eq!((t.net.verify_alg.as_str(), t.net.csums_alg.as_str()), ("crc32c", "md5"));
        assert_eq!(t.net.after_sb_0pri, policy::AfterSb0::DiscardZeroChanges);
        assert_eq!(t.net.after_sb_1pri, policy::AfterSb1::DiscardSecondary);
        assert_eq!(t.net.rr_conflict, policy::RrConflict::Violently);
        assert_eq!(t.net.ping_timeout, Duration::from_millis(900));
        assert_eq!((t.net.max_epoch_size, t.net.max_buffers, t.net.ko_count), (30, 40, 3));
        assert_eq!(t.net.on_congestion, OnCongestion::PullAhead);
        assert_eq!((t.net.congestion_fill_sectors, t.net.congestion_extents), (2048, 500));
        let disk = &t.core.volumes[0].disk;
        assert_eq!(disk.resync_rate_kib_s, 5 << 10);
        assert_eq!((disk.c_plan_ahead_ds, disk.c_delay_target_ds, disk.c_fill_target_sectors), (7, 8, 0));
        assert_eq!(disk.on_io_error, policy::OnIoError::PassOn);
        assert_eq!((disk.al_extents, disk.disk_flushes), (67, false));
        assert_eq!(disk.disk_timeout, Duration::from_secs(2));
    }

    #[test]
    fn what_cannot_run_is_refused_with_place_and_remedy() {
        for (sections, word) in [
            ("net { data-integrity-alg whirl; }", "data-integrity-alg whirl"),
            ("net { verify-alg crc32; }", "verify-alg crc32"),
            ("net { csums-alg SHA1; }", "csums-alg SHA1"),
            ("net { allow-two-primaries; protocol B; }", "allow-two-primaries"),
            ("net { on-congestion pull-ahead; }", "on-congestion pull-ahead"),
            ("net { protocol A; } disk { fencing resource-and-stonith; }", "resource-and-stonith"),
            ("net { cram-hmac-alg whirl; shared-secret s; }", "whirl"),
            ("net { cram-hmac-alg sha1; }", "shared-secret"),
        ] {
            let found = problems(sections);
            assert_eq!(found.len(), 1, "{sections}: {found:?}");
            assert!(found[0].starts_with("r0.res:1: resource r0: "), "{}", found[0]);
            assert!(found[0].contains(word) && found[0].contains("= help: "), "{}", found[0]);
        }
        let two = "net { protocol A; allow-two-primaries; } disk { fencing resource-and-stonith; }";
        assert_eq!(problems(two).len(), 2);
    }
}
