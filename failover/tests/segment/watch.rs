//! Who has the virtual address, and since when: by rtnetlink in each namespace.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use failover::vip::netlink::{Monitor, MonitorEvent, Netlink};

use super::Segment;

/// An address came or went.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub at: Instant,
    /// Number of the node.
    pub node: usize,
    pub is_here: bool,
}

/// Watches one address on all nodes of a segment.
pub struct Watch {
    pub began: Instant,
    seen: Arc<Mutex<Vec<Seen>>>,
    ends: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    pub fn new(segment: &Segment, address: &str) -> Watch {
        let (seen, ends) = (Arc::<Mutex<Vec<Seen>>>::default(), Arc::<AtomicBool>::default());
        let address: IpAddr = address.parse().unwrap();
        let thread = |(index, namespace): (usize, &crate::support::Namespace)| {
            let namespace = namespace.file();
            let (seen, ends, node) = (seen.clone(), ends.clone(), index + 1);
            let (ready, is_ready) = std::sync::mpsc::channel();
            let thread = std::thread::spawn(move || {
                crate::support::enter(namespace);
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(watch(address, node, &seen, &ends, || ready.send(()).unwrap()));
            });
            is_ready.recv().unwrap();
            thread
        };
        let threads = segment.nodes.iter().enumerate().map(thread).collect();
        Watch { began: Instant::now(), seen, ends, threads }
    }

    /// Everything so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Whether a node has the address now, as far as is known.
    pub fn has(&self, node: usize) -> bool {
        self.seen().iter().rfind(|seen| seen.node == node).is_some_and(|seen| seen.is_here)
    }

    /// When the address came to a node (or left it), after a time; waits for it.
    pub fn after(&self, since: Instant, node: usize, is_here: bool, limit: Duration) -> Duration {
        while since.elapsed() < limit {
            let fits = |seen: &Seen| seen.at >= since && seen.node == node && seen.is_here == is_here;
            if let Some(seen) = self.seen().into_iter().find(fits) {
                return seen.at - since;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        panic!("node {node}: is_here {is_here} never came within {limit:?}: {:?}", self.told());
    }

    /// The longest time for which two nodes had the address, after a time.
    pub fn doubled(&self, since: Instant) -> Duration {
        let mut here = std::collections::BTreeSet::new();
        let (mut double_since, mut longest) = (None, Duration::ZERO);
        let end = Seen { at: Instant::now(), node: 0, is_here: false };
        for seen in self.seen().into_iter().chain([end]) {
            if let Some(start) = double_since {
                longest = longest.max(seen.at.saturating_duration_since(since.max(start)));
            }
            if seen.is_here {
                here.insert(seen.node)
            } else {
                here.remove(&seen.node)
            };
            double_since = (here.len() > 1).then(|| double_since.unwrap_or(seen.at));
        }
        longest
    }

    fn told(&self) -> Vec<(Duration, usize, bool)> {
        self.seen().iter().map(|s| (s.at.saturating_duration_since(self.began), s.node, s.is_here)).collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

async fn watch(
    address: IpAddr,
    node: usize,
    seen: &Mutex<Vec<Seen>>,
    ends: &AtomicBool,
    ready: impl FnOnce(),
) {
    let mut monitor = Monitor::open().unwrap();
    let netlink = Netlink::open().unwrap();
    let mut is_here = netlink.addresses().await.unwrap().iter().any(|found| found.address.local == address);
    if is_here {
        seen.lock().unwrap().push(Seen { at: Instant::now(), node, is_here });
    }
    ready();
    while !ends.load(Ordering::Relaxed) {
        let Ok(event) = tokio::time::timeout(Duration::from_millis(50), monitor.next()).await else {
            continue;
        };
        let now = match event.unwrap() {
            MonitorEvent::Address(found) if found.address.local == address => true,
            MonitorEvent::AddressGone(found) if found.address.local == address => false,
            _ => continue,
        };
        // A renewal is no news.
        if now != is_here {
            is_here = now;
            seen.lock().unwrap().push(Seen { at: Instant::now(), node, is_here });
        }
    }
}
