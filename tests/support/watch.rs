//! Who answers for the address of a segment, as its clients see it.

#![allow(dead_code)] // each test uses its part
#![allow(clippy::unwrap_used, reason = "helpers of tests only")]

use std::fs::File;
use std::io::Error;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns};

use crate::segment::{ADDRESS, Segment};

/// See [`Watch::longest_double`].
pub const A_MOMENT: Duration = Duration::from_millis(20);

/// A node began to answer for the address, or ended that.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub at: Instant,
    /// 0 or 1.
    pub node: usize,
    pub is_here: bool,
}

/// Asks by ARP who has the address, from the third machine, again and again, and writes down who answers. That is what counts: a kernel
/// may still show an address that a gate has closed.
pub struct Watch {
    answers: Arc<Mutex<Answers>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Answers {
    seen: Vec<Seen>,
    /// When each node answered last, while it does.
    last: [Option<Instant>; 2],
}

/// Between two questions.
const ASK_EVERY: Duration = Duration::from_millis(5);
/// Who has not answered for so long does not any more.
const SILENT_AFTER: Duration = Duration::from_millis(100);

impl Watch {
    /// From now on.
    pub fn new(segment: &Segment) -> Watch {
        let macs = [0, 1].map(|node| segment.mac(node));
        let (answers, ends) = (Arc::<Mutex<Answers>>::default(), Arc::new(AtomicBool::new(false)));
        let (its_answers, its_ends) = (answers.clone(), ends.clone());
        let (namespace, own_mac) = (segment.file("3"), segment.mac(2));
        let thread = std::thread::spawn(move || {
            let (answers, arp) = (its_answers, Arp::open(namespace, own_mac));
            while !its_ends.load(Ordering::Relaxed) {
                arp.ask();
                let next = Instant::now() + ASK_EVERY;
                while let Some(mac) = arp.answer(next) {
                    let node = macs.iter().position(|m| *m == mac).expect("one of the nodes answers");
                    answers.lock().unwrap().heard(node, Instant::now());
                }
                answers.lock().unwrap().time(Instant::now());
            }
        });
        let watch = Watch { answers, ends, thread: Some(thread) };
        sleep(SILENT_AFTER);
        watch
    }

    /// Everything so far.
    pub fn seen(&self) -> Vec<Seen> {
        let mut seen = self.answers.lock().unwrap().seen.clone();
        // The end of answers is known later than the answers of somebody else.
        seen.sort_by_key(|s| s.at);
        seen
    }

    /// Who has it now.
    pub fn holders(&self) -> Vec<usize> {
        let seen = self.seen();
        let has = |node: &usize| seen.iter().rfind(|s| s.node == *node).is_some_and(|s| s.is_here);
        (0..2).filter(has).collect()
    }

    /// When it first came to a node after a time.
    pub fn came(&self, node: usize, after: Instant) -> Option<Duration> {
        let seen = self.seen();
        seen.iter().find(|s| s.node == node && s.is_here && s.at >= after).map(|s| s.at - after)
    }

    /// For how long two nodes answered at once, at most. Up to [`A_MOMENT`] is none: answers may be read late, and a daemon that is
    /// stopped between its last look at the clock and the kernel lets the address answer when it goes on, sees what it did and takes it
    /// away.
    pub fn longest_double(&self) -> Duration {
        let mut here = [false; 2];
        let (mut since, mut longest) = (None, Duration::ZERO);
        for s in self.seen() {
            here[s.node] = s.is_here;
            match (here, since) {
                ([true, true], None) => since = Some(s.at),
                ([true, true], Some(_)) => {}
                (_, Some(begun)) => {
                    longest = longest.max(s.at - begun);
                    since = None;
                }
                (_, None) => {}
            }
        }
        longest.max(since.map_or(Duration::ZERO, |s: Instant| s.elapsed()))
    }
}

impl Answers {
    fn heard(&mut self, node: usize, at: Instant) {
        if self.last[node].replace(at).is_none() {
            self.seen.push(Seen { at, node, is_here: true });
        }
    }

    fn time(&mut self, now: Instant) {
        for node in 0..2 {
            if let Some(at) = self.last[node].take_if(|at| now - *at > SILENT_AFTER) {
                self.seen.push(Seen { at, node, is_here: false });
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

const ETH_P_ARP: u16 = 0x0806;
/// An ARP packet of Ethernet and IPv4 (RFC 826).
const ARP_BYTES: usize = 28;

/// Asks for the address, without naming one of its own: nobody learns anything by it (RFC 5227 2.1.1).
struct Arp {
    socket: OwnedFd,
    everybody: libc::sockaddr_ll,
    question: [u8; ARP_BYTES],
}

impl Arp {
    fn open(namespace: File, mac: [u8; 6]) -> Arp {
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        let index = if_nametoindex("eth0").unwrap();
        let protocol = ETH_P_ARP.to_be();
        // SAFETY: no memory is passed; the descriptor is nobody else's.
        let socket = unsafe {
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, protocol.into());
            assert!(fd >= 0, "an ARP socket: {}", Error::last_os_error());
            OwnedFd::from_raw_fd(fd)
        };
        let everybody = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: protocol,
            sll_ifindex: index.try_into().unwrap(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr: [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
        };
        let address: Ipv4Addr = ADDRESS.parse().unwrap();
        let mut question = [0; ARP_BYTES];
        // Ethernet, IPv4, lengths of their addresses, a request.
        question[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
        question[8..14].copy_from_slice(&mac);
        question[24..].copy_from_slice(&address.octets());
        Arp { socket, everybody, question }
    }

    fn ask(&self) {
        // SAFETY: both pointers are good for the lengths that go with them.
        let _ = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                self.question.as_ptr().cast(),
                ARP_BYTES,
                0,
                (&raw const self.everybody).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        };
    }

    /// The next answer until then: who gives it.
    fn answer(&self, until: Instant) -> Option<[u8; 6]> {
        let address: Ipv4Addr = ADDRESS.parse().unwrap();
        loop {
            let left_ms = until.saturating_duration_since(Instant::now()).as_millis();
            let fd = self.socket.as_raw_fd();
            let mut ready = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
            let mut packet = [0; 64];
            // SAFETY: both pointers are good for the lengths that go with them.
            let got = unsafe {
                if libc::poll(&raw mut ready, 1, left_ms.try_into().unwrap()) != 1 {
                    return None;
                }
                libc::recv(fd, packet.as_mut_ptr().cast(), packet.len(), libc::MSG_DONTWAIT)
            };
            let is_reply = packet[..8] == [0, 1, 8, 0, 6, 4, 0, 2] && packet[14..18] == address.octets();
            if got >= ARP_BYTES.try_into().unwrap() && is_reply {
                return packet[8..14].try_into().ok();
            }
        }
    }
}
