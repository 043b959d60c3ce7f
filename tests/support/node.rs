//! Two nodes in one process: workers on loopback addresses with files as disks.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use blockdev::backing::OpenOptions;
use lockstep::cli::meta::apply::{apply_al_if_needed, load_for_attach};
use lockstep::cli::meta::create::create_md;
use lockstep::cli::meta::{MetaTarget, Opts, Prompt};
use lockstep::dataplane::worker_api::SPIN;
use lockstep::dataplane::{OpenedDisk, WorkerConfig, WorkerHandle};
use model::ids::{Minor, VolumeNo};
use model::policy::OnNoData;
use model::status::snapshot::ResourceSnapshot;
use replicator::meta::layout::MetaKind;
use replicator::{AttachedDisk, Command, CommandResult, Config, DiskConfig, NetConfig, VolIdx, VolumeConfig};

/// One node: where its things are, and its worker while it runs.
pub struct Node {
    pub image: PathBuf,
    pub socket: PathBuf,
    pub config: WorkerConfig,
    worker: Option<WorkerHandle>,
    runtime: tokio::runtime::Runtime,
}

pub const V0: VolIdx = VolIdx(0);

impl Node {
    /// A node that runs, with fresh metadata and no disk attached yet.
    pub fn new(dir: &Path, name: &str, size_bytes: u64, own: SocketAddr, peer: SocketAddr) -> Node {
        // RUST_LOG=debug shows what the nodes say; the second node finds it set up already.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_thread_names(true).try_init();
        let image = dir.join(format!("{name}.img"));
        std::fs::File::create(&image).unwrap().set_len(size_bytes).unwrap();
        let target = target(&image);
        create_md(&target, &Opts { force: true, ..Opts::default() }, &mut Silent(Vec::new())).unwrap();
        let socket = dir.join(format!("{name}.nbd"));
        let volume = VolumeConfig { vnr: VolumeNo(0), minor: Minor(0), disk: disk_config() };
        let config = WorkerConfig {
            core: Config {
                name: "r0".into(),
                volumes: vec![volume],
                on_no_data: OnNoData::IoError,
                serves_by_leave: false,
            },
            own_address: own,
            peer_address: peer,
            sndbuf_bytes: 0,
            rcvbuf_bytes: 0,
            node_name: name.into(),
            peer_name: "peer".into(),
            devices: vec!["/dev/drbd0".into()],
            nbd_unix: vec![socket.clone()],
            nbd_tcp: None,
            pool_cap_bytes: 64 << 20,
            spin: SPIN,
            handlers: tokio::sync::mpsc::unbounded_channel().0,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut node = Node { image, socket, config, worker: None, runtime };
        node.start();
        node
    }

    pub fn start(&mut self) {
        assert!(self.worker.is_none());
        self.worker = Some(WorkerHandle::spawn(self.config.clone()).unwrap());
    }

    pub fn worker(&self) -> &WorkerHandle {
        self.worker.as_ref().unwrap()
    }

    pub fn attach(&self) -> CommandResult {
        let target = target(&self.image);
        apply_al_if_needed(&target).unwrap();
        let meta = load_for_attach(&target).unwrap();
        let attached = AttachedDisk {
            super_block: meta.superblock,
            layout: meta.layout,
            capacity_sectors: meta.usable_sectors,
            bitmap_words: meta.bitmap,
            config: disk_config(),
            max_bio_bytes: 1 << 20,
        };
        drop(meta.claim);
        let data = OpenOptions::default().open(&self.image).unwrap();
        self.runtime.block_on(self.worker().attach(V0, OpenedDisk { attached, data, meta: None })).unwrap()
    }

    pub fn command(&self, command: Command) -> CommandResult {
        self.runtime.block_on(self.worker().command(command)).unwrap()
    }

    pub fn connect(&self) -> CommandResult {
        self.command(Command::Connect(Box::new(net_config())))
    }

    pub fn primary(&self, force: bool) -> CommandResult {
        self.command(Command::Primary { force })
    }

    /// As a crash.
    pub fn kill(&mut self) {
        let worker = self.worker.take().unwrap();
        self.runtime.block_on(worker.kill());
    }

    pub fn shutdown(&mut self) {
        let worker = self.worker.take().unwrap();
        self.runtime.block_on(worker.shutdown());
    }

    /// Waits for a published state; fails with the last one after half a minute.
    pub fn wait_for(&self, what: &str, condition: impl Fn(&ResourceSnapshot) -> bool) {
        let worker = self.worker();
        let mut changes = worker.changes();
        let wait = async {
            while !condition(&worker.snapshot()) {
                changes.changed().await.unwrap();
            }
        };
        let waited =
            self.runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), wait).await });
        assert!(waited.is_ok(), "{} never was {what}: {:#?}", self.config.node_name, worker.snapshot());
    }

    /// The replicated part of the disk, as it is on the file.
    pub fn data(&self) -> Vec<u8> {
        let mut bytes = std::fs::read(&self.image).unwrap();
        let usable = self.worker().snapshot().volumes[0].size_sectors * 512;
        assert!(usable > 0);
        bytes.truncate(usable as usize);
        bytes
    }
}

/// Two nodes that know each other, attached, not connected.
pub fn pair(dir: &Path, size_bytes: u64) -> (Node, Node) {
    let (a, b) = (free_address(), free_address());
    let nodes = (Node::new(dir, "alpha", size_bytes, a, b), Node::new(dir, "beta", size_bytes, b, a));
    for node in [&nodes.0, &nodes.1] {
        assert_eq!(node.attach(), CommandResult::Ok);
    }
    nodes
}

/// A port that nobody uses right now.
pub fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap()
}

fn net_config() -> NetConfig {
    NetConfig {
        connect_int: Duration::from_secs(1),
        ping_timeout: Duration::from_millis(200),
        ..NetConfig::default()
    }
}

fn disk_config() -> DiskConfig {
    DiskConfig {
        resync_rate_kib_s: 400_000,
        c_plan_ahead_ds: 0,
        c_min_rate_kib_s: 0,
        ..DiskConfig::default()
    }
}

fn target(image: &Path) -> MetaTarget {
    MetaTarget { data: image.into(), meta: image.into(), kind: MetaKind::Internal }
}

/// Nobody is asked, nothing is shown.
struct Silent(Vec<u8>);

impl Prompt for Silent {
    fn out(&mut self) -> &mut dyn Write {
        &mut self.0
    }
    fn err(&mut self) -> &mut dyn Write {
        &mut self.0
    }
    fn is_terminal(&self) -> bool {
        false
    }
    fn read_line(&mut self) -> std::io::Result<String> {
        Ok(String::new())
    }
}
