//! A daemon of its own for a test, and commands for it.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{LIMIT, program, said};
use lockstep::daemon::control::{Envelope, REQUEST_BYTES_MAX, Request, send_blocking};

/// A directory with a configuration, a disk, and a daemon for it. The peer does not exist.
pub struct Node {
    pub dir: tempfile::TempDir,
    pub daemon: Child,
    _stdin: ChildStdin,
}

impl Node {
    pub fn start(net_section: &str) -> Node {
        Node::start_with(net_section, tempfile::tempdir().unwrap(), log_to_file)
    }

    pub fn start_with(
        net_section: &str,
        dir: tempfile::TempDir,
        prepare: impl FnOnce(&Path, &mut Command),
    ) -> Node {
        let ports: Vec<TcpListener> =
            (0..2).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).collect();
        let port = |n: usize| ports[n].local_addr().unwrap().port();
        File::create(dir.path().join("disk.img")).unwrap().set_len(16 << 20).unwrap();
        let config = format!(
            "resource r0 {{ net {{ {net_section} }} device /dev/drbd0; meta-disk internal;\n\
             on one {{ disk {disk}; address 127.0.0.1:{own}; }}\n\
             on two {{ disk /nonexistent; address 127.0.0.1:{peer}; }} }}\n\
             resource other {{ net {{ protocol C; on-congestion pull-ahead; }} device /dev/drbd5; meta-disk internal; disk /dev/x;\n\
             on one {{ address 127.0.0.1:1; }} on two {{ address 127.0.0.2:1; }} }}\n",
            disk = dir.path().join("disk.img").display(),
            own = port(0),
            peer = port(1),
        );
        fs::write(dir.path().join("drbd.conf"), config).unwrap();
        drop(ports);
        let (daemon, stdin) = Node::spawn(dir.path(), prepare);
        let node = Node { dir, daemon, _stdin: stdin };
        node.until("the daemon answers", |node| node.run(&["proc"]).0 == 0);
        node
    }

    fn spawn(dir: &Path, prepare: impl FnOnce(&Path, &mut Command)) -> (Child, ChildStdin) {
        let mut command = Node::command_in(dir);
        command.args(["daemon", "--exit-with-stdin"]).stdin(Stdio::piped());
        prepare(dir, &mut command);
        let mut daemon = command.spawn().unwrap();
        let stdin = daemon.stdin.take().unwrap();
        (daemon, stdin)
    }

    /// Kills the daemon and starts it again.
    pub fn restart(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
        (self.daemon, self._stdin) = Node::spawn(self.dir.path(), log_to_file);
        self.until("the daemon answers again", |node| node.run(&["proc"]).0 == 0);
    }

    /// Changes one place of the configuration.
    pub fn configure(&self, from: &str, to: &str) {
        let file = self.dir.path().join("drbd.conf");
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(&file, text.replacen(from, to, 1)).unwrap();
    }

    /// New metadata, and the resource is up.
    pub fn create_and_up(&self) {
        assert_eq!(self.run(&["create-md", "--force", "r0"]).0, 0);
        self.good(&["up", "r0"]);
    }

    pub fn command_in(dir: &Path) -> Command {
        let mut command = program();
        command
            .arg("-c")
            .arg(dir.join("drbd.conf"))
            .args(["--host", "one", "--run-dir"])
            .arg(dir.join("run"));
        command
    }

    pub fn run(&self, args: &[&str]) -> (i32, String, String) {
        let mut command = Node::command_in(self.dir.path());
        let mut child = command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let end = Instant::now() + LIMIT;
        while child.try_wait().unwrap().is_none() && Instant::now() < end {
            sleep(Duration::from_millis(3));
        }
        // What is killed here has no exit code.
        let _ = child.kill();
        said(&child.wait_with_output().unwrap())
    }

    pub fn good(&self, args: &[&str]) -> String {
        let (exit, out, err) = self.run(args);
        assert_eq!((exit, err.as_str()), (0, ""), "{args:?}");
        out
    }

    pub fn until(&self, what: &str, reached: impl Fn(&Node) -> bool) {
        let end = Instant::now() + LIMIT;
        while !reached(self) {
            assert!(Instant::now() < end, "{what}: {}", self.log());
            sleep(Duration::from_millis(30));
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Where the answer will come.
    pub fn ask(&self, request: &Request) -> UnixStream {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        send_blocking(&mut stream, &Envelope::new(request.clone()), REQUEST_BYTES_MAX).unwrap();
        stream
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("run/control.sock")
    }
}

fn log_to_file(dir: &Path, daemon: &mut Command) {
    let log = File::options().create(true).append(true).open(dir.join("log"));
    daemon.stderr(log.unwrap());
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}
