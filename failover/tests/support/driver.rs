//! A driver of virtual routers in the namespace of a test's thread.

use std::time::Duration;

use failover::driver::vrrp::{Notice, VrrpHandle, VrrpSettings};
use failover::vrrp::State;
use model::config::{LoadError, LoadedFile, Loader};
use model::failover::config::FailoverConfig;
use model::failover::load;
use tokio::task::LocalSet;

use crate::support::{Namespace, run, until};

struct Text(String);

impl Loader for Text {
    fn read(&self, path: &str) -> Result<LoadedFile, LoadError> {
        Ok(LoadedFile { name: path.to_owned(), identity: path.to_owned(), text: self.0.clone().into_bytes() })
    }

    fn glob(&self, _pattern: &str) -> Vec<String> {
        Vec::new()
    }
}

/// A configuration in words.
pub fn config_of(text: &str) -> FailoverConfig {
    let loaded = load(&Text(text.to_owned()), "/f", None);
    loaded.unwrap_or_else(|all| panic!("{}", all.iter().map(ToString::to_string).collect::<String>())).config
}

/// An instance `VI_1` on `eth0`, with more lines in it, and blocks in front of it.
pub fn config(more: &str, blocks: &str) -> FailoverConfig {
    config_of(&format!(
        "{blocks}\nvrrp_instance VI_1 {{\n interface eth0\n version 3\n virtual_router_id 51\n priority 100\n \
         advert_int 0.5\n {more}\n}}\n"
    ))
}

/// Addresses that live for a second, without a gate.
pub fn settings(config: FailoverConfig, bound: &[&str]) -> VrrpSettings {
    let bound = bound.iter().map(|name| (*name).to_owned()).collect();
    VrrpSettings { config, bound, address_lifetime: Duration::from_secs(1), gate: None, mailer: None }
}

/// Runs a test in a thread of its own, with tasks on it.
pub fn local(test: impl AsyncFnOnce() + Send + 'static) {
    run(async || LocalSet::new().run_until(test()).await);
}

/// Whether an address, or what else ip(8) shows of one, is in a namespace.
pub fn has(namespace: &Namespace, text: &str) -> bool {
    namespace.ip(&["-o", "addr", "show"]).contains(text)
}

/// Waits for a state of the first instance.
pub async fn is(handle: &VrrpHandle, state: State) {
    let status = handle.status();
    until(&format!("{state}"), async || status.borrow().instances[0].state == state).await;
}

/// The next notice that fits.
pub async fn notice(handle: &mut VrrpHandle, fits: impl Fn(&Notice) -> bool) -> Notice {
    loop {
        let next = tokio::time::timeout(Duration::from_secs(10), handle.notice());
        let notice = next.await.expect("a notice").expect("a driver");
        if fits(&notice) {
            return notice;
        }
    }
}
