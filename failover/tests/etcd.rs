//! Registers in a real etcd, and in servers that pretend to be one.

#![allow(clippy::unwrap_used, reason = "the whole file is a test")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use failover::lease::etcd::{EtcdStore, VALUE_MAX_BYTES};
use failover::lease::store::{Expect, StoreError, Swap, Versioned};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Long enough for a machine that is busy with other tests.
const PATIENT: Duration = Duration::from_secs(5);
/// Short enough for tests that wait for it.
const SHORT: Duration = Duration::from_secs(1);

/// One member, which is a cluster of its own.
struct Etcd {
    process: Child,
    url: String,
    port: u16,
}

impl Etcd {
    fn start(directory: &Path, token: &str) -> Etcd {
        Etcd::start_at(free_port(), free_port(), directory, token)
    }

    fn start_at(port: u16, peer_port: u16, directory: &Path, token: &str) -> Etcd {
        let (url, peer_url) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer_port}"));
        let process = Command::new("etcd")
            .args(["--name", "n", "--log-level", "error", "--unsafe-no-fsync", "--data-dir"])
            .arg(directory)
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &format!("n={peer_url}"), "--initial-cluster-token", token])
            .env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd (Debian: etcd-server)");
        let etcd = Etcd { process, url, port };
        let end = Instant::now() + Duration::from_secs(60);
        while !etcd
            .post("/v3/kv/range", r#"{"key":"cHJvYmU="}"#)
            .is_some_and(|answer| answer.contains("200 OK"))
        {
            assert!(Instant::now() < end, "etcd does not come up");
            std::thread::sleep(Duration::from_millis(50));
        }
        etcd
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.process.id()).unwrap()), signal).unwrap();
    }

    /// A request of the test itself.
    fn post(&self, path: &str, json: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(PATIENT)).unwrap();
        let length = json.len();
        write!(stream, "POST {path} HTTP/1.0\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{json}").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    fn store(&self) -> EtcdStore {
        EtcdStore::new(std::slice::from_ref(&self.url), PATIENT).unwrap()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

fn done(swap: Result<Swap, StoreError>) -> i64 {
    match swap {
        Ok(Swap::Done { revision }) => revision,
        other => panic!("{other:?}"),
    }
}

fn value(text: &str, revision: i64) -> Option<Versioned> {
    Some(Versioned { value: text.as_bytes().to_vec(), revision })
}

#[test]
fn a_register_is_swapped_only_if_it_holds_what_is_expected() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let etcd = Etcd::start(directory.path(), "t");
        let (mut a, mut b) = (etcd.store(), etcd.store());
        let key = "/lockstep/db";
        assert_eq!(a.read(key).await, Ok(None));
        let first = done(a.swap(key, Expect::Absent, b"one").await);
        assert_eq!(b.read(key).await, Ok(value("one", first)));
        let conflict = Ok(Swap::Conflict { current: value("one", first) });
        assert_eq!(b.swap(key, Expect::Absent, b"two").await, conflict);
        assert_eq!(b.swap(key, Expect::Revision(first + 1), b"two").await, conflict);
        assert_eq!(b.delete(key, Expect::Revision(first + 1)).await, conflict);
        assert_eq!(b.delete(key, Expect::Absent).await, conflict);
        let second = done(b.swap(key, Expect::Revision(first), b"").await);
        assert!(second > first);
        assert_eq!(a.read(key).await, Ok(value("", second)));
        assert_eq!(
            a.swap(key, Expect::Revision(first), b"late").await,
            Ok(Swap::Conflict { current: value("", second) })
        );
        // Another register does not matter, and its revision is not this one's.
        let elsewhere = done(a.swap("/lockstep/db2", Expect::Absent, &[0xff; 1000]).await);
        assert!(elsewhere > second);
        assert_eq!(a.read("/lockstep/d").await, Ok(None));
        done(a.delete(key, Expect::Revision(second)).await);
        assert_eq!(b.read(key).await, Ok(None));
        assert_eq!(
            b.swap(key, Expect::Revision(second), b"three").await,
            Ok(Swap::Conflict { current: None })
        );
        assert!(done(b.swap(key, Expect::Absent, b"three").await) > elsewhere);
        assert_eq!(a.cluster(), b.cluster());
    });
}

#[test]
fn of_many_who_swap_at_once_one_succeeds() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let etcd = Etcd::start(directory.path(), "t");
        let contenders = (0..8_u8).map(|number| {
            let mut store = etcd.store();
            tokio::spawn(async move { store.swap("k", Expect::Absent, &[number]).await })
        });
        let contenders: Vec<_> = contenders.collect();
        let mut winners = Vec::new();
        let mut seen = Vec::new();
        for (number, contender) in contenders.into_iter().enumerate() {
            match contender.await.unwrap().unwrap() {
                Swap::Done { revision } => winners.push((vec![u8::try_from(number).unwrap()], revision)),
                Swap::Conflict { current } => seen.push(current.unwrap()),
            }
        }
        let [(value, revision)] = winners.try_into().unwrap();
        assert_eq!(seen, vec![Versioned { value, revision }; 7]);
    });
}

#[test]
fn limits_are_kept_before_anything_is_sent() {
    run(async {
        let mut store = EtcdStore::new(&["127.0.0.1:1".into()], SHORT).unwrap();
        let long = vec![0; VALUE_MAX_BYTES + 1];
        let said = store.swap("k", Expect::Absent, &long).await.unwrap_err().to_string();
        assert_eq!(said, "lease store: a value of 65537 octets, 65536 are allowed");
        assert!(matches!(store.read("").await, Err(StoreError::NotDone { .. })));
        assert!(matches!(store.read(&"k".repeat(2000)).await, Err(StoreError::NotDone { .. })));
        assert!(matches!(EtcdStore::new(&[], SHORT), Err(StoreError::Endpoint { .. })));
        let https = EtcdStore::new(&["https://127.0.0.1:1".into()], SHORT).err().unwrap().to_string();
        assert_eq!(https, "lease store https://127.0.0.1:1: https is not supported");
    });
}

#[test]
fn a_dead_member_is_passed_over() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let etcd = Etcd::start(directory.path(), "t");
        let dead = format!("http://127.0.0.1:{}", free_port());
        let endpoints = [dead.clone(), etcd.url.clone()];
        let mut store = EtcdStore::new(&endpoints, PATIENT).unwrap();
        // Nothing was sent to the dead one, so even a change goes on to the next.
        let revision = done(store.swap("k", Expect::Absent, b"v").await);
        assert_eq!(store.read("k").await, Ok(value("v", revision)));

        // One that takes a change and says nothing may have made it.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap());
        let mut store = EtcdStore::new(&[url.clone(), etcd.url.clone()], SHORT).unwrap();
        let lost = store.swap("k", Expect::Revision(revision), b"w").await;
        let why = "no answer within 1s".to_owned();
        assert_eq!(lost, Err(StoreError::Unknown { endpoint: url.clone(), why }));
        // The next question does not begin with it again.
        let begin = Instant::now();
        assert_eq!(store.read("k").await, Ok(value("v", revision)));
        assert!(begin.elapsed() < SHORT, "{:?}", begin.elapsed());

        let mut store = EtcdStore::new(&[url.clone(), dead.clone()], SHORT).unwrap();
        let said = store.read("k").await.unwrap_err().to_string();
        let expected = format!("lease store: {url}: no answer within 1s; {dead}: cannot connect: ");
        assert!(said.starts_with(&expected), "{said}");
    });
}

/// Whether a stopped member makes a change that lies in its socket is a matter of luck: it may notice first that nobody waits
/// for the answer. The next change settles it.
#[test]
fn a_change_sent_to_a_stopped_member_is_made_once_or_never() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let etcd = Etcd::start(directory.path(), "t");
        let mut store = EtcdStore::new(std::slice::from_ref(&etcd.url), SHORT).unwrap();
        let mut patient = etcd.store();
        let first = done(patient.swap("k", Expect::Absent, b"one").await);
        store.read("k").await.unwrap();
        etcd.signal(Signal::SIGSTOP);
        assert!(matches!(store.read("k").await, Err(StoreError::NotDone { .. })));
        let lost = store.swap("k", Expect::Revision(first), b"two").await;
        assert!(matches!(lost, Err(StoreError::Unknown { .. })), "{lost:?}");
        etcd.signal(Signal::SIGCONT);
        let mut last = first;
        let settled = loop {
            match patient.swap("k", Expect::Revision(last), b"three").await.unwrap() {
                Swap::Done { revision } => break revision,
                Swap::Conflict { current } => {
                    let current = current.unwrap();
                    assert_eq!((current.value.as_slice(), last), (&b"two"[..], first), "made once");
                    last = current.revision;
                }
            }
        };
        tokio::time::sleep(SHORT).await;
        assert_eq!(patient.read("k").await, Ok(value("three", settled)));
    });
}

#[test]
fn a_member_that_was_restarted_is_the_same_cluster() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let (port, peer_port) = (free_port(), free_port());
        let etcd = Etcd::start_at(port, peer_port, directory.path(), "t");
        let mut store = etcd.store();
        let first = done(store.swap("k", Expect::Absent, b"one").await);
        let cluster = store.cluster();
        drop(etcd);
        let said = store.read("k").await.unwrap_err();
        assert!(matches!(said, StoreError::NotDone { .. }), "{said}");
        let _etcd = Etcd::start_at(port, peer_port, directory.path(), "t");
        assert_eq!(store.read("k").await, Ok(value("one", first)));
        assert!(done(store.swap("k", Expect::Revision(first), b"two").await) > first);
        assert_eq!(store.cluster(), cluster);
    });
}

#[test]
fn a_connection_that_was_closed_meanwhile_is_replaced_even_for_a_change() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let (port, peer_port) = (free_port(), free_port());
        let etcd = Etcd::start_at(port, peer_port, directory.path(), "t");
        let mut store = etcd.store();
        let first = done(store.swap("k", Expect::Absent, b"one").await);
        drop(etcd);
        let _etcd = Etcd::start_at(port, peer_port, directory.path(), "t");
        // The runtime has to see that the old connection is closed.
        tokio::time::sleep(Duration::from_millis(50)).await;
        done(store.swap("k", Expect::Revision(first), b"two").await);
    });
}

/// What etcd does when its data is gone: with the same token and peer addresses it is the same cluster, by its number, at an
/// earlier revision. With another token it is another one.
#[test]
fn a_member_whose_data_was_wiped_is_not_believed() {
    run(async {
        let (port, peer_port) = (free_port(), free_port());
        let directory = tempfile::tempdir().unwrap();
        let etcd = Etcd::start_at(port, peer_port, directory.path(), "t");
        let mut store = etcd.store();
        let mut revision = done(store.swap("k", Expect::Absent, b"one").await);
        for _ in 0..3 {
            revision = done(store.swap("k", Expect::Revision(revision), b"more").await);
        }
        let cluster = store.cluster().unwrap();
        drop(etcd);
        let wiped = tempfile::tempdir().unwrap();
        let etcd = Etcd::start_at(port, peer_port, wiped.path(), "t");
        let back = StoreError::WentBack { endpoint: etcd.url.clone(), seen: revision, found: 1 };
        assert_eq!(store.read("k").await, Err(back.clone()));
        assert_eq!(store.swap("other", Expect::Revision(revision), b"x").await, Err(back));
        // To one who has seen nothing it is a cluster like any other.
        let mut newcomer = etcd.store();
        assert_eq!(newcomer.read("k").await, Ok(None));
        assert_eq!(newcomer.cluster(), Some(cluster));
        drop(etcd);

        let other = tempfile::tempdir().unwrap();
        let etcd = Etcd::start_at(port, peer_port, other.path(), "another");
        let said = store.read("k").await;
        let Err(StoreError::OtherCluster { endpoint, expected, found }) = said else { panic!("{said:?}") };
        assert_eq!((&endpoint, expected), (&etcd.url, cluster));
        assert_ne!(found, cluster);
    });
}

#[test]
fn compaction_changes_nothing_for_a_register() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let etcd = Etcd::start(directory.path(), "t");
        let mut store = etcd.store();
        let mut revision = done(store.swap("k", Expect::Absent, b"0").await);
        for _ in 0..10 {
            revision = done(store.swap("k", Expect::Revision(revision), b"more").await);
        }
        let json = format!(r#"{{"revision":"{revision}","physical":true}}"#);
        assert!(etcd.post("/v3/kv/compaction", &json).unwrap().contains("200 OK"));
        assert_eq!(store.read("k").await, Ok(value("more", revision)));
        let conflict = store.swap("k", Expect::Revision(revision - 1), b"x").await;
        assert_eq!(conflict, Ok(Swap::Conflict { current: value("more", revision) }));
        done(store.swap("k", Expect::Revision(revision), b"last").await);
    });
}

/// A server that gives every request the same answer, octet by octet if it is slow.
fn pretender(answer: Vec<u8>, pause: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            if pause.is_zero() {
                let _ = stream.write_all(&answer);
            } else {
                let mut octets = answer.chunks(1);
                while octets.next().is_some_and(|octet| stream.write_all(octet).is_ok()) {
                    std::thread::sleep(pause);
                }
            }
        }
    });
    url
}

fn http(status: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
        .into_bytes()
}

#[test]
fn hostile_answers_are_errors() {
    run(async {
        let header = r#""header":{"cluster_id":"1","revision":"5"}"#;
        let endless_header = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(1 << 20)).into_bytes();
        let many_headers = format!("HTTP/1.1 200 OK\r\n{}\r\n{{}}", "X: x\r\n".repeat(1000)).into_bytes();
        let huge = format!(r#"{{{header},"more":"{}"}}"#, "x".repeat(1 << 20));
        let chunked = format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{huge}\r\n0\r\n\r\n",
            huge.len()
        );
        let deep = "[".repeat(100_000);
        let answers = [
            b"".to_vec(),
            b"\0\xff\0\xff\0\xff".to_vec(),
            b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(),
            b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\n{}".to_vec(),
            b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{}".to_vec(),
            endless_header,
            many_headers,
            chunked.into_bytes(),
            http("200 OK", &huge),
            http("200 OK", ""),
            http("200 OK", "{}"),
            http("200 OK", "null"),
            http("200 OK", &deep),
            http("200 OK", "\u{0}"),
            http("200 OK", r#"{"header":{"cluster_id":"-1","revision":"5"}}"#),
            http("200 OK", r#"{"header":{"cluster_id":"1"}}"#),
            http(
                "200 OK",
                &format!(r#"{{{header},"kvs":[{{"key":"aw==","mod_revision":"x"}}],"responses":[{{}}]}}"#),
            ),
            http("204 No Content", ""),
            http("301 Moved Permanently", ""),
            http("500 Internal Server Error", "{}"),
        ];
        for answer in answers {
            let url = pretender(answer.clone(), Duration::ZERO);
            let quote = String::from_utf8_lossy(&answer).chars().take(80).collect::<String>();
            let mut store = EtcdStore::new(std::slice::from_ref(&url), PATIENT).unwrap();
            let read = store.read("k").await;
            assert!(matches!(read, Err(StoreError::NotDone { .. })), "{quote}: {read:?}");
            let swap = store.swap("k", Expect::Absent, b"v").await;
            assert!(matches!(swap, Err(StoreError::Unknown { .. })), "{quote}: {swap:?}");
            assert!(read.unwrap_err().to_string().len() < 500);
        }
        // Told apart: these say that nothing was done.
        for status in ["400 Bad Request", "401 Unauthorized", "429 Too Many Requests"] {
            let url = pretender(http(status, r#"{"message":"no"}"#), Duration::ZERO);
            let mut store = EtcdStore::new(std::slice::from_ref(&url), PATIENT).unwrap();
            let why = format!("{url}: {status}: no");
            assert_eq!(store.swap("k", Expect::Absent, b"v").await, Err(StoreError::NotDone { why }));
        }
    });
}

#[test]
fn an_answer_in_drops_takes_no_longer_than_any_other() {
    run(async {
        let url = pretender(http("200 OK", r#"{"header":{"cluster_id":"1","revision":"5"}}"#), SHORT / 4);
        let mut store = EtcdStore::new(std::slice::from_ref(&url), SHORT).unwrap();
        let begin = Instant::now();
        assert!(store.read("k").await.is_err());
        let lost = store.swap("k", Expect::Absent, b"v").await;
        assert!(matches!(lost, Err(StoreError::Unknown { .. })), "{lost:?}");
        assert!(begin.elapsed() < SHORT * 6, "{:?}", begin.elapsed());
    });
}

#[test]
fn two_clusters_in_one_list_are_noticed() {
    run(async {
        let answer =
            |cluster| http("200 OK", &format!(r#"{{"header":{{"cluster_id":"{cluster}","revision":"5"}}}}"#));
        let one = pretender(answer(1), Duration::ZERO);
        let mut store = EtcdStore::new(&[one], PATIENT).unwrap();
        assert_eq!(store.read("k").await, Ok(None));
        let dead = format!("http://127.0.0.1:{}", free_port());
        let two = pretender(answer(2), Duration::ZERO);
        let mut both = EtcdStore::new(&[dead, two.clone()], PATIENT).unwrap();
        both.expect_cluster(store.cluster().unwrap());
        let expected = StoreError::OtherCluster { endpoint: two, expected: 1, found: 2 };
        assert_eq!(both.read("k").await, Err(expected.clone()));
        assert_eq!(both.swap("k", Expect::Absent, b"v").await, Err(expected));
    });
}
