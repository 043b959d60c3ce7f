//! `lockstep.toml`: what DRBD's files have no word for.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use blockdev::pool::CAP_BYTES_MAX;
use serde::Deserialize;

/// Where the settings are looked for unless told otherwise.
pub const DEFAULT_FILE: &str = "/etc/lockstep.toml";
/// Where sockets are kept unless told otherwise.
pub const DEFAULT_RUN_DIR: &str = "/run/lockstep";

/// Where is noted what has to outlive the daemon, unless told otherwise.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/lockstep";

/// Settings of the daemon. Unknown keys are errors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Settings {
    /// Directory of the sockets.
    pub run_dir: Option<PathBuf>,
    /// Directory where the sizes of devices are noted, so that metadata at their end is found when they have grown, and what was
    /// seen of the leases of services.
    pub state_dir: Option<PathBuf>,
    /// What is logged, in the words of the `tracing` filter (`info`, `lockstep=debug`).
    pub log: Option<String>,
    /// Largest sum of data buffers of one resource.
    pub pool_size: Option<Size>,
    /// How long a resource's thread looks for more work before it sleeps, in microseconds.
    pub spin_us: Option<u32>,
    /// NBD export over TCP.
    pub nbd: NbdSettings,
    /// Services that move to the right node.
    pub failover: FailoverSettings,
    /// Role checks over HTTP.
    pub http: HttpSettings,
    /// Role checks for HAProxy's agent-check.
    pub agent_check: AgentCheckSettings,
    /// Settings of one resource.
    pub resource: BTreeMap<String, ResourceSettings>,
}

/// Table `[failover]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct FailoverSettings {
    /// File in keepalived's grammar, with services; none: no failover.
    pub config: Option<PathBuf>,
    /// A gate of nftables in front of the addresses of services; yes unless told otherwise.
    pub gate: Option<bool>,
}

/// Table `[nbd]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct NbdSettings {
    /// Every resource listens here too, at this port plus its lowest minor.
    pub listen_base: Option<SocketAddr>,
    /// Volumes become block devices by the kernel's nbd driver, where that is loaded; yes unless told otherwise.
    pub kernel_device: Option<bool>,
    /// How long requests of such a device wait for a daemon that has gone, in seconds.
    pub dead_conn_timeout_s: Option<u32>,
}

/// Table `[http]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct HttpSettings {
    /// Where role checks are answered over HTTP; nowhere unless set.
    pub listen: Option<SocketAddr>,
}

/// Table `[agent-check]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct AgentCheckSettings {
    /// Where HAProxy's agent-check is answered for all resources together; nowhere unless set.
    pub listen: Option<SocketAddr>,
}

/// Table `[resource.NAME]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ResourceSettings {
    /// Where this resource listens for NBD over TCP.
    pub nbd_listen: Option<SocketAddr>,
    /// Where HAProxy's agent-check is answered for this resource.
    pub agent_check_listen: Option<SocketAddr>,
}

/// A number of bytes, written as a number or with `K`, `M`, `G`, `T` (powers of 1024; `MB` and `MiB` are the same).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "SizeText")]
pub struct Size(pub u64);

#[derive(Deserialize)]
#[serde(untagged)]
enum SizeText {
    Number(u64),
    Text(String),
}

impl TryFrom<SizeText> for Size {
    type Error = String;

    fn try_from(text: SizeText) -> Result<Size, String> {
        match text {
            SizeText::Number(n) => Ok(Size(n)),
            SizeText::Text(t) => t.parse(),
        }
    }
}

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let wrong = || format!("'{text}' is not a size; write for example 256M");
        let trimmed = text.trim();
        let digits = trimmed.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let factor: u64 = match trimmed[digits.len()..].to_ascii_lowercase().as_str() {
            "" => 1,
            "k" | "kb" | "kib" => 1 << 10,
            "m" | "mb" | "mib" => 1 << 20,
            "g" | "gb" | "gib" => 1 << 30,
            "t" | "tb" | "tib" => 1 << 40,
            _ => return Err(wrong()),
        };
        let number: u64 = digits.trim().parse().map_err(|_| wrong())?;
        number.checked_mul(factor).map(Size).ok_or_else(wrong)
    }
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Not readable.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not understood; the text names line and key.
    #[error("{}: {message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}

impl Settings {
    /// The settings of `file`, or of [`DEFAULT_FILE`] if that exists, else the defaults.
    ///
    /// # Errors
    /// A file that was asked for and is not there, that cannot be read, or that has unknown or wrong keys.
    pub fn load(file: Option<&Path>) -> Result<Settings, SettingsError> {
        let path = file.unwrap_or(Path::new(DEFAULT_FILE));
        match fs::read_to_string(path) {
            Ok(text) => Settings::parse(path, &text),
            Err(e) if e.kind() == io::ErrorKind::NotFound && file.is_none() => Ok(Settings::default()),
            Err(source) => Err(SettingsError::Read { path: path.to_path_buf(), source }),
        }
    }

    fn parse(path: &Path, text: &str) -> Result<Settings, SettingsError> {
        let wrong = |message: String| SettingsError::Parse { path: path.to_path_buf(), message };
        let settings: Settings =
            toml::from_str(text).map_err(|e| wrong(e.to_string().trim_end().to_owned()))?;
        if settings.pool_bytes() < POOL_BYTES_MIN {
            return Err(wrong(format!("pool-size: at least {} MiB are needed", POOL_BYTES_MIN >> 20)));
        }
        if settings.pool_bytes() > CAP_BYTES_MAX {
            return Err(wrong(format!("pool-size: at most {} MiB are possible", CAP_BYTES_MAX >> 20)));
        }
        if settings.spin() > SPIN_MAX {
            return Err(wrong(format!("spin-us: at most {} are allowed", SPIN_MAX.as_micros())));
        }
        Ok(settings)
    }

    /// The run directory: as given on the command line, else as set, else [`DEFAULT_RUN_DIR`].
    pub fn run_dir(&self, given: Option<&Path>) -> PathBuf {
        given.or(self.run_dir.as_deref()).unwrap_or(Path::new(DEFAULT_RUN_DIR)).to_path_buf()
    }

    /// Where is noted what has to outlive the daemon: as set, else [`DEFAULT_STATE_DIR`], or inside a run directory of one's own.
    pub fn state_dir(&self, run_dir: &Path) -> PathBuf {
        let own = run_dir != Path::new(DEFAULT_RUN_DIR);
        let default = || if own { run_dir.join("state") } else { PathBuf::from(DEFAULT_STATE_DIR) };
        self.state_dir.clone().unwrap_or_else(default)
    }

    /// Largest sum of data buffers of one resource, in bytes.
    pub fn pool_bytes(&self) -> usize {
        self.pool_size.map_or(POOL_BYTES_DEFAULT, |size| usize::try_from(size.0).unwrap_or(usize::MAX))
    }

    /// How long a resource's thread looks for more work before it sleeps.
    pub fn spin(&self) -> Duration {
        self.spin_us.map_or(SPIN_DEFAULT, |us| Duration::from_micros(u64::from(us)))
    }

    /// How long requests of the kernel's device wait for a daemon that has gone; None: there is to be no such device.
    pub fn dead_conn_timeout(&self) -> Option<Duration> {
        let wanted = self.nbd.kernel_device.unwrap_or(true);
        let set = self.nbd.dead_conn_timeout_s.map(|s| Duration::from_secs(u64::from(s)));
        wanted.then(|| set.unwrap_or(DEAD_CONN_TIMEOUT_DEFAULT))
    }

    /// Where a resource listens for NBD over TCP; `lowest_minor` is its smallest minor.
    ///
    /// # Errors
    /// The base port plus the minor is no port.
    pub fn nbd_tcp(&self, resource: &str, lowest_minor: u32) -> Result<Option<SocketAddr>, String> {
        if let Some(own) = self.resource.get(resource).and_then(|r| r.nbd_listen) {
            return Ok(Some(own));
        }
        let Some(mut address) = self.nbd.listen_base else { return Ok(None) };
        let port = u32::from(address.port()).checked_add(lowest_minor).and_then(|p| u16::try_from(p).ok());
        let Some(port) = port else {
            return Err(format!(
                "nbd.listen-base port {} plus minor {lowest_minor} of {resource} is no port; \
                 set [resource.{resource}] nbd-listen",
                address.port()
            ));
        };
        address.set_port(port);
        Ok(Some(address))
    }
}

/// Enough for the largest requests of a few clients.
const POOL_BYTES_MIN: usize = 16 << 20;
const POOL_BYTES_DEFAULT: usize = 256 << 20;
/// Time to restart a daemon, and to make its node Primary again.
const DEAD_CONN_TIMEOUT_DEFAULT: Duration = Duration::from_secs(300);
const SPIN_DEFAULT: Duration = Duration::from_micros(50);
/// Longer would be a busy loop.
const SPIN_MAX: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, String> {
        Settings::parse(Path::new("x.toml"), text).map_err(|e| e.to_string())
    }

    #[test]
    fn everything_has_a_default() {
        let s = parse("").unwrap();
        assert_eq!(s, Settings::default());
        assert_eq!(s.run_dir(None), Path::new("/run/lockstep"));
        assert_eq!(s.pool_bytes(), 256 << 20);
        assert_eq!(s.spin(), Duration::from_micros(50));
        assert_eq!(s.nbd_tcp("r0", 0), Ok(None));
    }

    #[test]
    fn all_keys() {
        let s = parse(
            "run-dir = '/x'\nlog = 'debug'\npool-size = '64M'\nspin-us = 0\n\
             [nbd]\nlisten-base = '127.0.0.1:10809'\nkernel-device = true\n\
             dead-conn-timeout-s = 60\n[resource.r1]\nnbd-listen = '[::1]:9'\nagent-check-listen = '[::1]:10'\n\
             [http]\nlisten = '127.0.0.1:8008'\n[agent-check]\nlisten = '0.0.0.0:8009'\n",
        )
        .unwrap();
        assert_eq!(s.run_dir(None), Path::new("/x"));
        assert_eq!(s.run_dir(Some(Path::new("/y"))), Path::new("/y"));
        assert_eq!(s.pool_bytes(), 64 << 20);
        assert_eq!(s.spin(), Duration::ZERO);
        assert_eq!(s.dead_conn_timeout(), Some(Duration::from_secs(60)));
        assert_eq!(parse("[nbd]\nkernel-device = false").unwrap().dead_conn_timeout(), None);
        assert_eq!(s.nbd_tcp("r0", 3).unwrap().unwrap().to_string(), "127.0.0.1:10812");
        assert_eq!(s.nbd_tcp("r1", 3).unwrap().unwrap().to_string(), "[::1]:9");
        assert!(s.nbd_tcp("r0", 60_000).is_err());
        let text = |address: Option<SocketAddr>| address.map(|a| a.to_string());
        assert_eq!(text(s.http.listen).as_deref(), Some("127.0.0.1:8008"));
        assert_eq!(text(s.agent_check.listen).as_deref(), Some("0.0.0.0:8009"));
        assert_eq!(text(s.resource["r1"].agent_check_listen).as_deref(), Some("[::1]:10"));
    }

    #[test]
    fn unknown_keys_are_named() {
        for (text, key) in [
            ("run_dir = '/x'", "run_dir"),
            ("[nbd]\nlistn = 'x'", "listn"),
            ("[resource.r0]\nport = 1", "port"),
            ("[http]\nlisten = '8008'", "listen"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with("x.toml: ") && error.contains(key), "{error}");
        }
        assert!(parse("pool-size = '3X'").unwrap_err().contains("3X"));
        assert!(parse("pool-size = '1M'").unwrap_err().contains("16 MiB"));
        assert!(parse("pool-size = '4G'").unwrap_err().contains("at most 4080 MiB"));
        let largest = parse("pool-size = '4080M'").unwrap().pool_bytes();
        assert_eq!(blockdev::pool::BufferPool::new(largest).unwrap().cap_bytes(), 4080 << 20);
        assert!(parse("spin-us = 1000000").unwrap_err().contains("spin-us"));
    }

    #[test]
    fn sizes() {
        let size = |t: &str| t.parse::<Size>().map(|s| s.0);
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("256M"), Ok(256 << 20));
        assert_eq!(size("1 GiB"), Ok(1 << 30));
        assert_eq!((size("16MB"), size("2tb")), (Ok(16 << 20), Ok(2 << 40)));
        assert!(size("").is_err() && size("M").is_err() && size("-1").is_err());
        assert!(size("99999999999G").is_err());
    }

    #[test]
    fn a_missing_file_is_fine_only_if_nobody_asked_for_it() {
        let error = Settings::load(Some(Path::new("/nonexistent/lockstep.toml"))).unwrap_err();
        assert!(error.to_string().starts_with("cannot read /nonexistent/lockstep.toml: "));
    }
}
