//! Real clients (libnbd, QEMU) against a small blocking server made of the protocol pieces, with memory as its disk.
//!
//! Needs the Debian packages `libnbd-bin` and `qemu-utils`; without them the tests fail and name the package.

#![allow(clippy::unwrap_used, reason = "the whole file is a test")]

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Output};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use blockdev::nbd::export::{ExportInfo, Exports, Refused, RefusedError};
use blockdev::nbd::handshake::{Handshake, Negotiated, ServerInfo, State};
use blockdev::nbd::reply::{self, Errno, ReplyStyle};
use blockdev::nbd::request::{
    self, Command, Fatal, MAX_DATA_PIECE_BYTES, MAX_DISCARD_PIECE_BYTES, REQUEST_BYTES, Request, split,
};

/// What the connections of a server share.
struct Shared {
    export: ExportInfo,
    server: ServerInfo,
    disk: Mutex<Vec<u8>>,
    /// Requests by command and whether they were durable, for the tests to look at.
    seen: Mutex<BTreeMap<String, u32>>,
    /// Reads that touch this byte fail.
    bad_byte: Option<u64>,
}

impl Exports for Shared {
    fn lookup(&self, name: &[u8]) -> Result<ExportInfo, Refused> {
        match name {
            b"" | b"r0" => Ok(self.export.clone()),
            b"r1" => Err(Refused { error: RefusedError::Policy, message: SECONDARY.to_owned() }),
            _ => Err(Refused { error: RefusedError::Unknown, message: "no such export".to_owned() }),
        }
    }

    fn for_each(&self, each: &mut dyn FnMut(&str)) {
        each("r0");
    }
}

impl Shared {
    fn count(&self, request: &Request) {
        let durable = if request.is_fua() { "+fua" } else { "" };
        *self.seen.lock().unwrap().entry(format!("{:?}{durable}", request.command)).or_default() += 1;
    }

    fn seen(&self, what: &str) -> u32 {
        self.seen.lock().unwrap().get(what).copied().unwrap_or(0)
    }

    fn serve(&self, mut socket: UnixStream) -> std::io::Result<()> {
        // A lost byte must end the test, not hang it.
        socket.set_read_timeout(Some(Duration::from_secs(20)))?;
        let (negotiated, mut received) = match self.negotiate(&mut socket)? {
            Some(done) => done,
            None => return Ok(()),
        };
        loop {
            let request = match request::parse(&received) {
                Ok(Some(request)) => request,
                Ok(None) => {
                    if !receive(&mut socket, &mut received)? {
                        return Ok(());
                    }
                    continue;
                }
                Err(Fatal::PayloadTooLong { cookie, .. }) => {
                    let mut out = Vec::new();
                    reply::put_failed(&mut out, negotiated.style, cookie, Errno::Invalid, "too long");
                    return socket.write_all(&out);
                }
                Err(Fatal::BadMagic { magic }) => panic!("the client sent {magic:#x}"),
            };
            received.drain(..REQUEST_BYTES);
            while received.len() < request.payload_bytes() as usize {
                if !receive(&mut socket, &mut received)? {
                    return Ok(());
                }
            }
            let payload: Vec<u8> = received.drain(..request.payload_bytes() as usize).collect();
            self.count(&request);
            if request.command == Command::Disconnect {
                return Ok(());
            }
            let mut out = Vec::new();
            self.execute(&request, &negotiated, &payload, &mut out);
            socket.write_all(&out)?;
        }
    }

    fn negotiate(&self, socket: &mut UnixStream) -> std::io::Result<Option<(Negotiated, Vec<u8>)>> {
        let mut handshake = Handshake::new(&self.server);
        let (mut received, mut out) = (Vec::new(), Vec::new());
        handshake.greeting(&mut out);
        loop {
            socket.write_all(&out)?;
            out.clear();
            if received.is_empty() && !receive(socket, &mut received)? {
                return Ok(None);
            }
            let step = handshake.feed(&received, &mut out, self);
            received.drain(..step.consumed);
            match step.state {
                State::Continue => {}
                State::Transmission(negotiated) => {
                    socket.write_all(&out)?;
                    return Ok(Some((negotiated, received)));
                }
                State::Close(_) => {
                    socket.write_all(&out)?;
                    return Ok(None);
                }
            }
        }
    }

    fn execute(&self, request: &Request, negotiated: &Negotiated, payload: &[u8], out: &mut Vec<u8>) {
        let (style, cookie) = (negotiated.style, request.cookie);
        if let Err(error) = request.validate(&negotiated.export, style) {
            assert_eq!(error.drain_bytes as usize, payload.len());
            return reply::put_failed(out, style, cookie, error.errno, error.message);
        }
        let mut disk = self.disk.lock().unwrap();
        let start = request.offset_bytes as usize;
        match request.command {
            Command::Read => self.read(request, style, &disk, out),
            Command::Write => {
                disk[start..start + payload.len()].copy_from_slice(payload);
                reply::put_ok(out, style, cookie);
            }
            Command::Trim | Command::WriteZeroes => {
                for piece in split(request.offset_bytes, request.len_bytes, MAX_DISCARD_PIECE_BYTES) {
                    let start = piece.offset_bytes as usize;
                    disk[start..start + piece.len_bytes as usize].fill(0);
                }
                reply::put_ok(out, style, cookie);
            }
            Command::Flush => reply::put_ok(out, style, cookie),
            other => panic!("{other:?} passed validation"),
        }
    }

    fn read(&self, request: &Request, style: ReplyStyle, disk: &[u8], out: &mut Vec<u8>) {
        let cookie = request.cookie;
        let bad =
            |start: u64, len: u32| self.bad_byte.filter(|bad| (start..start + u64::from(len)).contains(bad));
        let data = |start: u64, len: u32| &disk[start as usize..start as usize + len as usize];
        match style {
            ReplyStyle::Simple => {
                if bad(request.offset_bytes, request.len_bytes).is_some() {
                    return reply::put_simple(out, Some(Errno::Io), cookie);
                }
                reply::put_simple(out, None, cookie);
                out.extend_from_slice(data(request.offset_bytes, request.len_bytes));
            }
            ReplyStyle::Structured => {
                for piece in split(request.offset_bytes, request.len_bytes, MAX_DATA_PIECE_BYTES) {
                    if let Some(bad) = bad(piece.offset_bytes, piece.len_bytes) {
                        reply::put_error_offset(out, cookie, Errno::Io, "bad sector", bad, false);
                        continue;
                    }
                    reply::put_read_chunk_header(out, cookie, piece.offset_bytes, piece.len_bytes, false);
                    out.extend_from_slice(data(piece.offset_bytes, piece.len_bytes));
                }
                reply::put_none_done(out, cookie);
            }
        }
    }
}

/// Appends what has come; false at the end of the stream.
fn receive(socket: &mut UnixStream, received: &mut Vec<u8>) -> std::io::Result<bool> {
    let mut chunk = [0; 64 << 10];
    let len = socket.read(&mut chunk)?;
    received.extend_from_slice(&chunk[..len]);
    Ok(len > 0)
}

/// A running server, and a directory for its socket and the clients' files.
struct Running {
    shared: Arc<Shared>,
    connections: Arc<Mutex<Vec<JoinHandle<std::io::Result<()>>>>>,
    dir: tempfile::TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.finish();
        }
    }
}

impl Running {
    fn start(change: impl FnOnce(&mut Shared)) -> Running {
        let mut export = ExportInfo::new(0, "r0", SIZE as u64);
        export.description = "replicated volume".to_owned();
        let flags = &mut export.flags;
        (flags.flush, flags.fua, flags.trim, flags.write_zeroes, flags.multi_conn) =
            (true, true, true, true, true);
        let mut shared = Shared {
            export,
            server: ServerInfo::default(),
            disk: Mutex::new(vec![0; SIZE]),
            seen: Mutex::default(),
            bad_byte: None,
        };
        change(&mut shared);
        let shared = Arc::new(shared);
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("nbd")).unwrap();
        let connections = Arc::new(Mutex::new(Vec::new()));
        let (accepted, started) = (Arc::clone(&shared), Arc::clone(&connections));
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let (socket, shared) = (socket.unwrap(), Arc::clone(&accepted));
                started.lock().unwrap().push(std::thread::spawn(move || shared.serve(socket)));
            }
        });
        Running { shared, connections, dir }
    }

    /// Waits for the connections of clients that have ended; none may have panicked or waited in vain.
    fn finish(&self) {
        let connections = std::mem::take(&mut *self.connections.lock().unwrap());
        for connection in connections {
            // A client that goes away early is no failure: its exit status is what the tests look at.
            if let Err(error) = connection.join().expect("a connection panicked") {
                assert_ne!(
                    error.kind(),
                    ErrorKind::WouldBlock,
                    "the server waited for bytes that did not come"
                );
            }
        }
    }

    fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.dir.path().join("nbd").display())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn disk(&self) -> Vec<u8> {
        self.shared.disk.lock().unwrap().clone()
    }

    /// `qemu-io` with commands on the export; its output.
    fn qemu_io(&self, commands: &[&str]) -> String {
        let uri = self.uri("r0");
        let mut arguments = vec!["-f", "raw", "-t", "writeback"];
        commands.iter().for_each(|command| arguments.extend(["-c", command]));
        arguments.push(&uri);
        let output = run("qemu-io", &arguments);
        self.finish();
        text(&output.stdout) + &text(&output.stderr)
    }
}

/// Runs a client to its end.
fn run(program: &str, arguments: &[&str]) -> Output {
    let package = if program.starts_with("qemu") { "qemu-utils" } else { "libnbd-bin" };
    match Process::new(program).args(arguments).output() {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            panic!("{program} is missing: install the Debian package {package}")
        }
        Err(error) => panic!("{program}: {error}"),
    }
}

/// Runs a client that must succeed; its standard output.
fn succeed(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    assert!(output.status.success(), "{program} {arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Content without a period that a misplaced block could hide in, and with a stretch of zeroes.
fn pattern() -> Vec<u8> {
    let mut state = 0x1234_5678_9abc_def1u64;
    let mut bytes: Vec<u8> = (0..SIZE)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect();
    bytes[5 << 20..20 << 20].fill(0);
    bytes
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn nbdinfo_sees_the_export_as_it_is() {
    let server = Running::start(|_| {});
    let json = succeed("nbdinfo", &["--json", &server.uri("")]);
    for expected in [
        "\"protocol\": \"newstyle-fixed\"".to_owned(),
        "\"structured\": true".to_owned(),
        "\"export-name\": \"r0\"".to_owned(),
        "\"description\": \"replicated volume\"".to_owned(),
        format!("\"export-size\": {SIZE}"),
        "\"is_read_only\": false".to_owned(),
        "\"is_rotational\": false".to_owned(),
        "\"can_df\": true".to_owned(),
        "\"can_flush\": true".to_owned(),
        "\"can_fua\": true".to_owned(),
        "\"can_trim\": true".to_owned(),
        "\"can_zero\": true".to_owned(),
        "\"can_cache\": false".to_owned(),
        "\"can_fast_zero\": false".to_owned(),
        "\"can_multi_conn\": true".to_owned(),
        "\"block_size_minimum\": 512".to_owned(),
        "\"block_size_preferred\": 4096".to_owned(),
        "\"block_size_maximum\": 33554432".to_owned(),
    ] {
        assert!(json.contains(&expected), "{expected} is not in {json}");
    }
    let list = succeed("nbdinfo", &["--list", "--json", &server.uri("")]);
    assert!(list.contains("\"export-name\": \"r0\""), "{list}");
    assert!(run("nbdinfo", &[&server.uri("nobody")]).status.code() == Some(1));
}

#[test]
fn qemu_shows_why_an_export_is_refused() {
    for structured in [true, false] {
        let server = Running::start(|shared| shared.server.structured_replies = structured);
        let output = run("qemu-img", &["info", &server.uri("r1")]);
        assert_eq!(output.status.code(), Some(1));
        let message = text(&output.stderr);
        assert!(message.contains(SECONDARY), "{message}");
    }
}

#[test]
fn nbdcopy_copies_in_and_out() {
    for structured in [true, false] {
        let server = Running::start(|shared| shared.server.structured_replies = structured);
        let (source, target) = (server.file("source"), server.file("target"));
        std::fs::write(&source, pattern()).unwrap();
        succeed("nbdcopy", &["--flush", "--connections=4", path(&source), &server.uri("r0")]);
        assert!(server.disk() == pattern());
        assert!(server.shared.seen("Flush") > 0);
        succeed("nbdcopy", &["--connections=4", &server.uri("r0"), path(&target)]);
        assert!(std::fs::read(&target).unwrap() == pattern());
        // Requests of the greatest length.
        succeed("nbdcopy", &["--request-size=33554432", &server.uri("r0"), path(&target)]);
        assert!(std::fs::read(&target).unwrap() == pattern());
    }
}

#[test]
fn qemu_img_converts_in_and_out() {
    for structured in [true, false] {
        let server = Running::start(|shared| shared.server.structured_replies = structured);
        let info = succeed("qemu-img", &["info", &server.uri("r0")]);
        assert!(info.contains(&format!("({SIZE} bytes)")), "{info}");
        let (source, target) = (server.file("source"), server.file("target"));
        std::fs::write(&source, pattern()).unwrap();
        // Old content that only write-zeroes or plain zeroes can remove.
        server.shared.disk.lock().unwrap().fill(0xee);
        let uri = server.uri("r0");
        succeed("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", path(&source), &uri]);
        assert!(server.disk() == pattern());
        succeed("qemu-img", &["convert", "-f", "raw", "-O", "raw", &uri, path(&target)]);
        assert!(std::fs::read(&target).unwrap() == pattern());
        succeed("qemu-img", &["compare", "-f", "raw", "-F", "raw", &uri, path(&target)]);
    }
}

#[test]
fn qemu_io_reaches_every_command() {
    for structured in [true, false] {
        let server = Running::start(|shared| shared.server.structured_replies = structured);
        let output = server.qemu_io(&[
            "write -P 0x11 0 32M",
            "write -f -P 0x22 512 1024",
            "read -P 0x22 512 1024",
            "write -z 4M 1M",
            "write -z -u 8M 1M",
            "discard 16M 1M",
            "flush",
            "read -P 0x11 31M 1M",
            "read -P 0 4M 1M",
            "aio_read -P 0x11 24M 2M",
            "aio_write -P 0x33 26M 2M",
            "aio_flush",
        ]);
        assert!(!output.contains("rror") && !output.contains("ailed"), "{output}");
        for command in ["Write+fua", "Write", "Read", "WriteZeroes", "Trim", "Flush", "Disconnect"] {
            assert!(server.shared.seen(command) > 0, "{command} in {:?}", server.shared.seen.lock().unwrap());
        }
        let disk = server.disk();
        let all = |range: std::ops::Range<usize>, byte| disk[range].iter().all(|found| *found == byte);
        assert!(all(0..512, 0x11) && all(512..1536, 0x22) && all(1536..4 << 20, 0x11));
        assert!(all(4 << 20..5 << 20, 0) && all(16 << 20..17 << 20, 0) && all(26 << 20..28 << 20, 0x33));
    }
}

#[test]
fn an_error_ends_the_request_and_not_the_connection() {
    for structured in [true, false] {
        let server = Running::start(|shared| {
            shared.server.structured_replies = structured;
            shared.bad_byte = Some((3 << 20) + 700);
        });
        let output = server.qemu_io(&["read 1M 4M", "read -P 0 8M 1M", "read -P 0 3M 512"]);
        assert_eq!(output.matches("Input/output error").count(), 1, "{output}");
        assert_eq!(output.matches("ops;").count(), 2, "{output}");
        assert_eq!(server.shared.seen("Disconnect"), 1);
    }
}

#[test]
fn a_read_only_export_stays_as_it_is() {
    let server = Running::start(|shared| shared.export.flags.read_only = true);
    let output = server.qemu_io(&["write -P 0x11 0 4096"]);
    assert!(
        output.contains("Read-only") || output.contains("read-only") || output.contains("denied"),
        "{output}"
    );
    let file = server.file("source");
    std::fs::write(&file, pattern()).unwrap();
    assert!(!run("nbdcopy", &[path(&file), &server.uri("r0")]).status.success());
    assert!(server.disk().iter().all(|byte| *byte == 0));
    let json = succeed("nbdinfo", &["--json", &server.uri("r0")]);
    assert!(json.contains("\"is_read_only\": true"), "{json}");
}

const SIZE: usize = 48 << 20;
const SECONDARY: &str = "resource r1 is Secondary here; run 'lockstep primary r1'";
