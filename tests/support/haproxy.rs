//! HAProxy and the servers behind it, which say where they are.
//!
//! Needs from Debian: haproxy.

#![allow(dead_code)] // each test uses its part
#![allow(clippy::unwrap_used, reason = "helpers of tests only")]

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

/// A server that says its name to whoever connects, and keeps the connection.
pub struct Backend {
    pub address: SocketAddr,
    /// None: it is to end.
    sessions: Arc<Mutex<Option<Vec<TcpStream>>>>,
    thread: Option<JoinHandle<()>>,
}

impl Backend {
    pub fn start(name: &'static str) -> Backend {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let sessions = Arc::new(Mutex::new(Some(Vec::new())));
        let kept = sessions.clone();
        let thread = spawn(move || {
            for session in listener.incoming() {
                let mut session = session.unwrap();
                // HAProxy's checks of the port itself leave at once.
                let _ = session.write_all(name.as_bytes());
                match &mut *kept.lock().unwrap() {
                    Some(all) => all.push(session),
                    None => return,
                }
            }
        });
        Backend { address, sessions, thread: Some(thread) }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        for session in self.sessions.lock().unwrap().take().into_iter().flatten() {
            let _ = session.shutdown(Shutdown::Both);
        }
        // It looks at what it is to do when somebody connects.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A running HAProxy; it ends with this value.
pub struct HaProxy(Child);

impl HaProxy {
    /// Runs the configuration, which is written to `file`.
    pub fn start(file: &Path, config: &str) -> HaProxy {
        fs::write(file, config).unwrap();
        let log = fs::File::create(file.with_extension("log")).unwrap();
        let child = Command::new("haproxy")
            .args(["-db", "-f"])
            .arg(file)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("haproxy (Debian package haproxy)");
        HaProxy(child)
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A session through a proxy, and who answered: nothing if nobody did.
pub fn session(proxy: SocketAddr) -> Option<(TcpStream, String)> {
    let mut stream = TcpStream::connect(proxy).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut name = [0; 2];
    stream.read_exact(&mut name).ok()?;
    Some((stream, String::from_utf8(name.to_vec()).unwrap()))
}

/// Waits for the end of a session; fails if there is none.
pub fn is_cut(mut session: TcpStream) {
    session.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let end = session.read(&mut [0]);
    let open = matches!(&end, Err(e) if e.kind() == std::io::ErrorKind::WouldBlock);
    assert!(!open && !matches!(end, Ok(n) if n > 0), "the session goes on: {end:?}");
}
