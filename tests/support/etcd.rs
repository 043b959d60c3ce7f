//! The real etcd, one member, as the store of leases.

#![allow(dead_code)] // each test uses its part

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// An etcd of its own, ended with the test.
pub struct Etcd {
    process: Child,
    /// Where clients reach it.
    pub url: String,
}

impl Etcd {
    /// On loopback at free ports, or at an address in a network namespace.
    pub fn start(dir: &Path, at: Option<(&str, Ipv4Addr)>) -> Etcd {
        let [client, peer] = match at {
            None => [0, 1]
                .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())
                .map(|port| port.local_addr().unwrap()),
            Some((_, ip)) => [2379, 2380].map(|port| SocketAddr::from((ip, port))),
        };
        let (url, peer_url) = (format!("http://{client}"), format!("http://{peer}"));
        let mut command = match at {
            None => Command::new("etcd"),
            Some((netns, _)) => {
                let mut c = Command::new("nsenter");
                c.arg(format!("--net=/run/netns/{netns}")).arg("etcd");
                c
            }
        };
        let process = command
            .args(["--log-level", "error", "--data-dir"])
            .arg(dir.join("etcd"))
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &format!("default={peer_url}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd (package etcd-server)");
        let etcd = Etcd { process, url };
        let end = Instant::now() + Duration::from_secs(60);
        // One in a namespace is not reached from here; its clients wait for it themselves.
        while at.is_none() && TcpStream::connect(client).is_err() {
            assert!(Instant::now() < end, "etcd listens");
            sleep(Duration::from_millis(20));
        }
        etcd
    }

    /// Sends it a signal, by name.
    pub fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
