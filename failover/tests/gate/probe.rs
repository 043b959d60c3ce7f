//! Whether an address answers, and until when.

use std::net::{IpAddr, SocketAddr, SocketAddrV6, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use failover::driver::now;
use model::time::Instant;

use crate::support::{Namespace, enter};

const PORT: u16 = 7;
/// Octets of a question: when it was asked, and room for when it was answered.
const QUESTION_BYTES: usize = 16;

/// A thread that ends with this.
pub struct Running {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(namespace: &Namespace, serve: impl FnOnce(&AtomicBool) + Send + 'static) -> Running {
        let (file, ends) = (namespace.file(), Arc::new(AtomicBool::new(false)));
        let its_ends = ends.clone();
        let thread = std::thread::spawn(move || {
            enter(file);
            serve(&its_ends);
        });
        Running { ends, thread: Some(thread) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

fn at(address: &str, port: u16) -> SocketAddr {
    match address.parse().unwrap() {
        IpAddr::V6(v6) if v6.segments()[0] == 0xfe80 => {
            let eth0 = nix::net::if_::if_nametoindex("eth0").unwrap();
            SocketAddrV6::new(v6, port, 0, eth0).into()
        }
        address => SocketAddr::new(address, port),
    }
}

/// Answers what is asked of this address, from this address.
pub fn echo(namespace: &Namespace, address: &str) -> Running {
    let address = address.to_owned();
    Running::start(namespace, move |ends| {
        let socket = UdpSocket::bind(at(&address, PORT)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let mut question = [0; QUESTION_BYTES];
        while !ends.load(Ordering::Relaxed) {
            let Ok((QUESTION_BYTES, asker)) = socket.recv_from(&mut question) else { continue };
            question[8..].copy_from_slice(&now().as_nanos().to_be_bytes());
            // It may be dropped on its way.
            let _ = socket.send_to(&question, asker);
        }
    })
}

/// Asks an address every few milliseconds.
pub struct Probe {
    _running: Running,
    answers: Arc<AtomicU64>,
    last_ns: Arc<AtomicU64>,
}

impl Probe {
    /// Begins to ask.
    pub fn start(namespace: &Namespace, address: &str) -> Probe {
        let address = address.to_owned();
        let (answers, last_ns) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (its_answers, its_last) = (answers.clone(), last_ns.clone());
        let running = Running::start(namespace, move |ends| {
            let any = if address.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
            let socket = UdpSocket::bind(any).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(3))).unwrap();
            let (there, mut answer) = (at(&address, PORT), [0; QUESTION_BYTES]);
            while !ends.load(Ordering::Relaxed) {
                let mut question = [0; QUESTION_BYTES];
                question[..8].copy_from_slice(&now().as_nanos().to_be_bytes());
                let _ = socket.send_to(&question, there);
                while let Ok((QUESTION_BYTES, from)) = socket.recv_from(&mut answer) {
                    assert_eq!(from.ip(), there.ip(), "somebody else answers");
                    // The later one of both: neither the way there nor the way back was closed before.
                    its_last
                        .fetch_max(u64::from_be_bytes(answer[8..].try_into().unwrap()), Ordering::Relaxed);
                    its_answers.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Probe { _running: running, answers, last_ns }
    }

    /// How many questions were answered.
    pub fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    /// When the last answer was given.
    pub fn last_answer(&self) -> Instant {
        Instant(self.last_ns.load(Ordering::Relaxed))
    }
}
