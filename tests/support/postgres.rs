//! A client of PostgreSQL that writes numbered rows through one address and never gives up: as little of the protocol (version 3,
//! no password, simple queries) as it needs to notice at once that a connection is dead.

#![allow(dead_code)] // each test uses its part
#![allow(clippy::unwrap_used, reason = "helpers of tests only")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

/// How long the client waits for a connection, and for an answer.
pub const PATIENCE: Duration = Duration::from_millis(500);

/// One connection.
pub struct Session {
    stream: TcpStream,
}

impl Session {
    /// Connects as `postgres` to the database of that name.
    pub fn open(at: SocketAddr, patience: Duration) -> io::Result<Session> {
        let stream = TcpStream::connect_timeout(&at, patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        let mut session = Session { stream };
        let words = b"\x00\x03\x00\x00user\0postgres\0database\0postgres\0\0";
        let length = u32::try_from(words.len() + 4).unwrap();
        session.stream.write_all(&length.to_be_bytes())?;
        session.stream.write_all(words)?;
        session.answer()?;
        Ok(session)
    }

    /// The first column of what a statement returns.
    pub fn query(&mut self, sql: &str) -> io::Result<Vec<String>> {
        let mut message = vec![b'Q'];
        message.extend(u32::try_from(sql.len() + 5).unwrap().to_be_bytes());
        message.extend(sql.as_bytes());
        message.push(0);
        self.stream.write_all(&message)?;
        self.answer()
    }

    /// Everything until the server is ready for the next statement.
    fn answer(&mut self) -> io::Result<Vec<String>> {
        let mut rows = Vec::new();
        loop {
            let mut head = [0; 5];
            self.stream.read_exact(&mut head)?;
            let length = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize;
            let mut body = vec![0; length.saturating_sub(4).min(1 << 24)];
            self.stream.read_exact(&mut body)?;
            match head[0] {
                b'Z' => return Ok(rows),
                b'E' => return Err(io::Error::other(String::from_utf8_lossy(&body).replace('\0', " "))),
                // Columns, then the length of the first.
                b'D' if body.len() >= 6 => {
                    let length = i32::from_be_bytes(body[2..6].try_into().unwrap()).max(0) as usize;
                    rows.push(String::from_utf8_lossy(&body[6..6 + length]).into_owned());
                }
                _ => {}
            }
        }
    }
}

/// What the client was told.
#[derive(Default)]
struct Told {
    /// When each number was confirmed, beginning with 1.
    confirmed: Vec<Instant>,
    failures: u64,
}

/// Writes one row after the other, each until it is confirmed.
pub struct Writer {
    told: Arc<Mutex<Told>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// From within a network namespace; the table is `ledger (n bigint primary key)`.
    pub fn start(namespace: File, at: SocketAddr) -> Writer {
        let (told, ends) = (Arc::<Mutex<Told>>::default(), Arc::<AtomicBool>::default());
        let (t, e) = (told.clone(), ends.clone());
        let thread = std::thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            let mut session = None;
            while !e.load(Ordering::Relaxed) {
                let n = t.lock().unwrap().confirmed.len() + 1;
                match write_row(&mut session, at, n) {
                    Ok(()) => t.lock().unwrap().confirmed.push(Instant::now()),
                    Err(_) => {
                        session = None;
                        t.lock().unwrap().failures += 1;
                        sleep(Duration::from_millis(10));
                    }
                }
            }
        });
        Writer { told, ends, thread: Some(thread) }
    }

    /// So many rows were confirmed: those of the numbers from 1.
    pub fn count(&self) -> usize {
        self.told.lock().unwrap().confirmed.len()
    }

    /// The longest time without a confirmation that ended after that time.
    pub fn longest_gap(&self, after: Instant) -> Duration {
        let told = self.told.lock().unwrap();
        let pairs = told.confirmed.windows(2).filter(|pair| pair[1] >= after);
        pairs.map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// Ends it; so many rows were confirmed.
    pub fn end(mut self) -> usize {
        self.ends.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        self.count()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
    }
}

fn write_row(session: &mut Option<Session>, at: SocketAddr, n: usize) -> io::Result<()> {
    if session.is_none() {
        *session = Some(Session::open(at, PATIENCE)?);
    }
    let session = session.as_mut().unwrap();
    // It may have been written before, and the confirmation lost.
    session.query(&format!("insert into ledger values ({n}) on conflict do nothing")).map(drop)
}

/// Asks once, from within a network namespace.
pub fn ask(namespace: File, at: SocketAddr, sql: &str) -> io::Result<Vec<String>> {
    let sql = sql.to_owned();
    let asked = std::thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        Session::open(at, 20 * PATIENCE)?.query(&sql)
    });
    asked.join().unwrap()
}
