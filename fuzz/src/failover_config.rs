//! Failover files that include each other, and heartbeat's three files; what is accepted means the same when it is printed.

use model::failover::config::FailoverConfig;
use model::failover::{HeartbeatFiles, import, load, print, print_import};

use super::config::Parts;

/// One input: parts between zero bytes, the first of which is the file; or the first three are heartbeat's.
pub fn run(data: &[u8]) {
    let parts = Parts(data.split(|b| *b == 0).collect());
    for id in [None, Some("a")] {
        if let Ok(loaded) = load(&parts, "0", id) {
            let mut config = loaded.config;
            let printed = print(&config);
            // They are kept as names only, and printed as comments.
            config.virtual_servers.clear();
            assert_same(&printed, &config);
        }
    }
    let files = HeartbeatFiles { ha_cf: "0", haresources: "1", authkeys: "2" };
    if let Ok(import) = import(&parts, files, "alpha") {
        assert_same(&print_import(&import), &import.config);
    }
}

fn assert_same(printed: &str, config: &FailoverConfig) {
    let again = load(&Parts(vec![printed.as_bytes()]), "0", None);
    let again = again.unwrap_or_else(|all| panic!("{printed}\n{all:#?}"));
    assert!(again.config == *config, "{printed}\n{config:#?}");
}
