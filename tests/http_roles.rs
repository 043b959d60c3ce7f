//! Role checks of two daemons: asked by a plain client, by HAProxy, and by those who mean harm.
//!
//! Needs from Debian: haproxy.

#![allow(clippy::unwrap_used, reason = "the whole file is a test")]

#[path = "support/haproxy.rs"]
mod haproxy;
#[path = "support/pair.rs"]
mod pair;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use haproxy::{Backend, HaProxy, is_cut, session};
use pair::{Options, Pair};

const LONG: Duration = Duration::from_secs(60);

/// A pair whose daemons answer role checks.
struct Nodes {
    pair: Pair,
    http: [SocketAddr; 2],
    /// For all resources.
    agent: [SocketAddr; 2],
    /// For r0.
    agent_r0: [SocketAddr; 2],
    _dir: tempfile::TempDir,
}

impl Nodes {
    /// Disks and configuration; nothing runs.
    fn new() -> Nodes {
        let dir = tempfile::Builder::new().prefix("lockstep-").tempdir().unwrap();
        let [a, b, c, d, e, f, g, h] = free_addresses();
        let options = Options {
            disk_bytes: 24 << 20,
            net: "ping-timeout 20; connect-int 1;",
            disk: "c-plan-ahead 0; resync-rate 400M;",
            addresses: [a, b].map(|address| address.to_string()),
            netns: [None, None],
            sections: "",
            prewritten: false,
        };
        let binary = PathBuf::from(env!("CARGO_BIN_EXE_lockstep"));
        let pair = Pair::create(&binary, &dir.path().join("pair"), &options);
        Nodes { pair, http: [c, d], agent: [e, f], agent_r0: [g, h], _dir: dir }
    }

    /// Both up and in sync, `n1` Primary.
    fn start() -> Nodes {
        let mut nodes = Nodes::new();
        for i in 0..2 {
            nodes.up(i);
        }
        nodes.pair.ok(0, &["primary", "--force", "r0"]);
        nodes.pair.wait_in_sync(0, LONG);
        nodes.pair.wait_in_sync(1, LONG);
        nodes
    }

    fn up(&mut self, i: usize) {
        self.settings(i);
        self.pair.up(i);
    }

    /// Writes what the daemon of this node is to be started with.
    fn settings(&self, i: usize) {
        let text = format!(
            "[http]\nlisten = '{}'\n[agent-check]\nlisten = '{}'\n[resource.r0]\nagent-check-listen = '{}'\n",
            self.http[i], self.agent[i], self.agent_r0[i]
        );
        fs::write(self.pair.dir.join("lockstep.toml"), text).unwrap();
    }

    /// What a node answers to GET: status and body.
    fn get(&self, i: usize, path: &str) -> (u16, String) {
        let reply = talk(self.http[i], format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes());
        parse(&reply).unwrap_or_else(|| panic!("n{} {path}: {reply:?}", i + 1))
    }

    fn status(&self, i: usize, path: &str) -> u16 {
        self.get(i, path).0
    }

    /// The status of each path, on both nodes; a state may take a moment to be published there.
    fn expect(&self, table: &[(&str, u16, u16)]) {
        for (path, n1, n2) in table {
            until(&format!("{path} is {n1} and {n2}"), || {
                (self.status(0, path), self.status(1, path)) == (*n1, *n2)
            });
        }
    }

    fn expect_agents(&self, n1: &str, n2: &str) {
        for addresses in [self.agent, self.agent_r0] {
            until(&format!("the agents say {n1:?} and {n2:?}"), || {
                addresses.map(|address| talk(address, b"")) == [n1, n2]
            });
        }
    }

    fn switch_over(&self, from: usize, to: usize) {
        self.pair.ok(from, &["secondary", "r0"]);
        self.pair.ok(to, &["primary", "r0"]);
    }

    /// Open descriptors of the daemon of `n1`, and its resident memory (KiB).
    fn load(&self) -> (usize, u64) {
        let pid = self.pair.pid(0).unwrap();
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = text.lines().find(|l| l.starts_with("VmRSS")).unwrap();
        (descriptors, line.split_whitespace().nth(1).unwrap().parse().unwrap())
    }
}

/// Addresses that nobody uses right now, all different.
fn free_addresses<const N: usize>() -> [SocketAddr; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap())
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

/// Everything that comes back until the other side closes, which it has to do.
fn talk(address: SocketAddr, question: &[u8]) -> String {
    let mut stream = connect(address);
    // Who is refused early may not get everything said, nor hear everything.
    let _ = stream.write_all(question);
    rest(&mut stream)
}

fn rest(stream: &mut TcpStream) -> String {
    let mut reply = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => reply.extend_from_slice(&buffer[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => panic!("it does not close"),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&reply).into_owned()
}

/// Status and body of a reply.
fn parse(reply: &str) -> Option<(u16, String)> {
    let (head, body) = reply.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?;
    Some((status.parse().ok()?, body.to_owned()))
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let limit = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < limit, "not within {LONG:?}: {what}");
        sleep(Duration::from_millis(20));
    }
}

const N1_IS_PRIMARY: &[(&str, u16, u16)] = &[
    ("/primary", 200, 503),
    ("/", 200, 503),
    ("/leader", 200, 503),
    ("/read-write", 200, 503),
    ("/r0/primary", 200, 503),
    ("/primary?resource=r0", 200, 503),
    ("/primary?resource=r1", 503, 503),
    ("/replica", 503, 200),
    ("/replica?lag=16MB", 503, 200),
    ("/sync", 503, 200),
    ("/async", 503, 503),
    ("/standby-leader", 503, 503),
    ("/read-only", 200, 200),
    ("/health", 200, 200),
    ("/liveness", 200, 200),
    ("/readiness", 200, 200),
    ("/status", 200, 200),
    ("/nothing", 404, 404),
];

#[test]
fn checks_follow_the_roles() {
    let mut nodes = Nodes::new();
    nodes.settings(0);
    nodes.pair.start(0);
    assert_eq!((nodes.status(0, "/health"), nodes.status(0, "/liveness")), (503, 200), "nothing is up");
    assert_eq!(talk(nodes.agent[0], b""), "down #not up\n");
    nodes.pair.ok(0, &["up", "r0"]);
    nodes.up(1);
    nodes.expect(&[("/primary", 503, 503), ("/replica", 503, 503), ("/health", 200, 200)]);
    nodes.expect_agents("down #secondary, not current\n", "down #secondary, not current\n");

    nodes.pair.ok(0, &["primary", "--force", "r0"]);
    nodes.pair.wait_in_sync(0, LONG);
    nodes.pair.wait_in_sync(1, LONG);
    nodes.expect(N1_IS_PRIMARY);
    nodes.expect_agents("up 100%\n", "down #secondary\n");
    let (_, body) = nodes.get(1, "/replica");
    for part in [r#""role":"replica""#, r#""state":"running""#, r#""disk_state":"UpToDate""#, r#""lag":0"#] {
        assert!(body.contains(part), "{part} in {body}");
    }
    assert!(nodes.get(0, "/status").1.contains(r#""percent-in-sync":100"#));
    for method in ["HEAD", "OPTIONS"] {
        let question = format!("{method} /primary HTTP/1.0\r\n\r\n");
        let replies = nodes.http.map(|address| parse(&talk(address, question.as_bytes())));
        assert_eq!(replies, [Some((200, String::new())), Some((503, String::new()))], "{method}");
    }

    nodes.pair.ok(0, &["suspend-io", "r0"]);
    nodes.expect(&[("/primary", 503, 503), ("/health", 200, 200)]);
    nodes.expect_agents("down #suspended\n", "down #secondary\n");
    nodes.pair.ok(0, &["resume-io", "r0"]);
    nodes.expect(N1_IS_PRIMARY);

    nodes.switch_over(0, 1);
    let swapped: Vec<_> = N1_IS_PRIMARY.iter().map(|(path, n1, n2)| (*path, *n2, *n1)).collect();
    nodes.expect(&swapped);
    nodes.expect_agents("down #secondary\n", "up 100%\n");

    // Alone, the copy may be old: it is good enough for who does not ask how old.
    nodes.pair.kill(1);
    until("n1 does not know how old it is", || nodes.status(0, "/replica?lag=1TB") == 503);
    assert_eq!((nodes.status(0, "/replica"), nodes.status(0, "/readiness")), (200, 503));
    nodes.pair.ok(0, &["primary", "r0"]);
    until("n1 has taken over", || nodes.status(0, "/primary") == 200);
    nodes.pair.ok(0, &["down", "r0"]);
    assert_eq!((nodes.status(0, "/primary"), nodes.status(0, "/health")), (503, 503));
    nodes.pair.stop(0);
    assert!(TcpStream::connect(nodes.http[0]).is_err(), "nobody listens any more");
}

#[test]
fn haproxy_sends_clients_to_the_primary() {
    let mut nodes = Nodes::start();
    let servers = [Backend::start("n1"), Backend::start("n2")];
    let [by_http, by_agent] = free_addresses();
    let config = format!(
        "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 5m\n  timeout server 5m\n  \
         default-server inter 200ms fall 2 rise 2 on-marked-down shutdown-sessions\n\
         listen by-http\n  bind {by_http}\n  option httpchk OPTIONS /primary\n  http-check expect status 200\n  \
         server n1 {s1} check port {h1}\n  server n2 {s2} check port {h2}\n\
         listen by-agent\n  bind {by_agent}\n  option httpchk OPTIONS /health\n  \
         server n1 {s1} check port {h1} agent-check agent-inter 200ms agent-port {a1} agent-send hello\\n\n  \
         server n2 {s2} check port {h2} agent-check agent-inter 200ms agent-port {a2}\n",
        h1 = nodes.http[0].port(),
        h2 = nodes.http[1].port(),
        a1 = nodes.agent_r0[0].port(),
        a2 = nodes.agent_r0[1].port(),
        s1 = servers[0].address,
        s2 = servers[1].address,
    );
    let _proxy = HaProxy::start(&nodes.pair.dir.join("haproxy.cfg"), &config);
    let leads_to = |proxy, name: &str| session(proxy).is_some_and(|(_, who)| who == name);
    let all_lead_to = |name: &str| {
        for proxy in [by_http, by_agent] {
            // HAProxy takes a server for good until its first checks have failed.
            until(&format!("{proxy} leads to {name}"), || (0..4).all(|_| leads_to(proxy, name)));
        }
    };
    all_lead_to("n1");
    let held = [by_http, by_agent].map(|proxy| session(proxy).unwrap().0);
    nodes.switch_over(0, 1);
    held.into_iter().for_each(is_cut);
    all_lead_to("n2");

    // An agent that has gone changes nothing for HAProxy; its check of /health does.
    let held = [by_http, by_agent].map(|proxy| session(proxy).unwrap().0);
    nodes.pair.kill(1);
    held.into_iter().for_each(is_cut);
    nodes.pair.ok(0, &["primary", "r0"]);
    all_lead_to("n1");
    nodes.up(1);
    nodes.pair.wait_in_sync(0, LONG);
    nodes.expect(N1_IS_PRIMARY);
    all_lead_to("n1");
}

#[test]
fn an_address_in_use_is_named_at_the_start() {
    let nodes = Nodes::new();
    let keys = ["[http] listen", "[agent-check] listen", "[resource.r0] agent-check-listen"];
    for (key, address) in keys.into_iter().zip([nodes.http[0], nodes.agent[0], nodes.agent_r0[0]]) {
        let _taken = TcpListener::bind(address).unwrap();
        nodes.settings(0);
        let ended = nodes.pair.run_within(0, &["daemon"], LONG).expect("the daemon gives up");
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(!ended.status.success(), "{said}");
        assert!(
            said.contains(key) && said.contains(&address.to_string()) && said.contains("in use"),
            "{said}"
        );
    }
}

/// Requests that nobody should send, whole as they are.
fn nonsense() -> Vec<Vec<u8>> {
    let head = |text: &str| text.as_bytes().to_vec();
    let mut all = vec![
        head("GET /primary\r\n\r\n"),
        head("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        head("OPTIONS * HTTP/1.1\r\n\r\n"),
        head("CONNECT 127.0.0.1:22 HTTP/1.1\r\n\r\n"),
        head("GET http://elsewhere/primary/../../../etc/passwd HTTP/1.1\r\n\r\n"),
        head("GET /%00%ff/primary HTTP/1.1\r\n\r\n"),
        head("GET /primary?resource=%F0%9F&lag=99999999999999999999 HTTP/1.1\r\n\r\n"),
        head("GET /x HTTP/1.1\r\nbad header\r\n: x\r\n\r\n"),
        head("POST /primary HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n"),
        head("POST /primary HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n"),
        head("DELETE /primary HTTP/1.1\r\ncontent-length: 18446744073709551615\r\n\r\n"),
        [&b"GET /"[..], &[b'a'; 1 << 20], b" HTTP/1.1\r\n\r\n"].concat(),
        [&b"GET /x HTTP/1.1\r\nx: "[..], &[b'a'; 1 << 20], b"\r\n\r\n"].concat(),
        [&b"GET /x HTTP/1.1\r\n"[..], &b"x: y\r\n".repeat(100_000), b"\r\n"].concat(),
        vec![0; 1 << 20],
        vec![b'\n'; 1 << 20],
    ];
    for seed in 1..20u32 {
        let byte = |i: u32| (i.wrapping_mul(seed.wrapping_mul(2_654_435_761)) >> 13) as u8;
        all.push((0..seed * 400).map(byte).collect());
    }
    all
}

#[test]
fn who_means_harm_keeps_no_check_waiting() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let mut nodes = Nodes::start();
    let listeners = [nodes.http[0], nodes.agent[0], nodes.agent_r0[0]];
    let works = || {
        assert_eq!((nodes.status(0, "/primary"), nodes.status(0, "/liveness")), (200, 200));
        for agent in &listeners[1..] {
            assert_eq!(talk(*agent, b"hello\n"), "up 100%\n");
        }
    };
    works();
    let (descriptors, resident_kib) = nodes.load();

    for question in nonsense() {
        let reply = talk(nodes.http[0], &question);
        let status = parse(&reply).map(|(status, _)| status);
        assert!(!matches!(status, Some(200..400 | 500..)), "{status:?}: {reply}");
        // The answer may be lost with what was not read of the question.
        let line = talk(nodes.agent[0], &question);
        assert!("up 100%\n".starts_with(&line), "{line:?}");
    }
    let whole = b"GET /primary HTTP/1.1\r\nhost: x\r\n\r\n";
    for len in 0..whole.len() {
        for listener in listeners {
            connect(listener).write_all(&whole[..len]).unwrap();
        }
    }
    works();

    // Half a request, then silence; and one that comes so slowly that it never ends: both are closed.
    let mut halves: Vec<_> = (1..whole.len()).map(|_| connect(nodes.http[0])).collect();
    for (len, half) in halves.iter_mut().enumerate() {
        half.write_all(&whole[..len]).unwrap();
    }
    let mut slow = connect(nodes.http[0]);
    slow.write_all(b"GET /primary HTTP/1.1\r\nx: ").unwrap();
    until("the slow one is cut off", || slow.write_all(b"x").is_err());
    for half in &mut halves {
        assert_eq!(rest(half), "", "nothing was asked");
    }

    // None of these leaves by itself.
    let mut crowd: Vec<TcpStream> = Vec::new();
    for n in 0..1000 {
        crowd.extend(listeners.map(connect));
        if n % 100 == 0 {
            works();
        }
    }
    works();
    let (crowded, _) = nodes.load();
    assert!(crowded < descriptors + 3 * 150, "{crowded} descriptors, {descriptors} before");
    for silent in &crowd {
        let _ = silent.shutdown(Shutdown::Write);
    }
    drop(crowd);
    until("all connections are closed", || nodes.load().0 <= descriptors);
    let grown_kib = nodes.load().1.saturating_sub(resident_kib);
    assert!(grown_kib < 32 << 10, "{grown_kib} KiB more than before");
    works();
    nodes.pair.stop(0);
}
