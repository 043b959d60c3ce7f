//! Network namespaces for tests: made by root, entered by one thread, removed whatever happens.

use std::fs::File;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

/// A network namespace with a unique name.
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one.
    pub fn new() -> Namespace {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("lsf-{}-{count}", std::process::id());
        ip(&["netns", "add", &name]);
        let namespace = Namespace { name };
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace
    }

    /// Runs ip(8) in it and gives what it prints.
    pub fn ip(&self, arguments: &[&str]) -> String {
        let mut all = vec!["-n", &self.name];
        all.extend(arguments);
        ip(&all)
    }

    /// This thread is in it from now on.
    #[allow(dead_code, reason = "some tests leave that to programs")]
    pub fn enter(&self) {
        enter(self.file());
    }

    /// Its name.
    #[allow(dead_code, reason = "for tests that start programs in it")]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What another thread can enter it by.
    pub fn file(&self) -> File {
        File::open(format!("/run/netns/{}", self.name)).unwrap()
    }
}

/// This thread is in that namespace from now on.
pub fn enter(namespace: File) {
    setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// Two namespaces and a cable: `eth0` of each, 10.77.0.1 and 10.77.0.2, fe80::ff:fe00:1 and :2.
#[allow(dead_code, reason = "some tests have a switch instead")]
pub fn pair() -> (Namespace, Namespace) {
    let (a, b) = (Namespace::new(), Namespace::new());
    connect(&a, &b);
    (a, b)
}

/// Lays the cable of [`pair`].
#[allow(dead_code, reason = "some tests have a switch instead")]
pub fn connect(a: &Namespace, b: &Namespace) {
    let mac = ["02:00:00:00:00:01", "02:00:00:00:00:02"];
    #[rustfmt::skip]
    a.ip(&[
        "link", "add", "eth0", "address", mac[0], "type", "veth",
        "peer", "name", "eth0", "address", mac[1], "netns", &b.name,
    ]);
    for (namespace, number) in [(a, 1), (b, 2)] {
        namespace.ip(&["link", "set", "eth0", "addrgenmode", "none", "up"]);
        namespace.ip(&["addr", "add", &format!("10.77.0.{number}/24"), "brd", "+", "dev", "eth0"]);
        let v6 = format!("fe80::ff:fe00:{number}/64");
        namespace.ip(&["addr", "add", &v6, "dev", "eth0", "scope", "link", "nodad"]);
    }
    [a, b].into_iter().for_each(wait_for_carrier);
}

/// The kernel tells of a carrier when it has the time.
pub fn wait_for_carrier(namespace: &Namespace) {
    let end = Instant::now() + Duration::from_secs(20);
    while !namespace.ip(&["-o", "link", "show", "dev", "eth0"]).contains("state UP") {
        assert!(Instant::now() < end, "the cable has a carrier");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn ip(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {error}", arguments.join(" "));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a test in a thread of its own, which may enter namespaces, with a runtime of one thread.
#[allow(dead_code, reason = "some tests start programs instead")]
pub fn run(test: impl AsyncFnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Looks again and again until something is so, for ten seconds.
#[allow(dead_code, reason = "not every test waits")]
pub async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !is_so().await {
        assert!(Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
