#![allow(missing_docs)]
use blockdev::backing::Backing;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
pub struct WorkerConfig {
    pub core: replicator::Config,
    pub own_address: SocketAddr,
    pub peer_address: SocketAddr,
    pub sndbuf_bytes: u32,
    pub rcvbuf_bytes: u32,
    pub node_name: String,
    pub peer_name: String,
    pub devices: Vec<String>,
    pub nbd_unix: Vec<PathBuf>,
    pub nbd_tcp: Option<SocketAddr>,
    pub pool_cap_bytes: usize,
    pub spin: Duration,
}
pub struct OpenedDisk {
    pub attached: replicator::AttachedDisk,
    pub data: Backing,
    pub meta: Option<Backing>,
}
#[derive(Clone)]
pub struct WorkerHandle {}
impl WorkerHandle {
    pub fn spawn(_c: WorkerConfig) -> anyhow::Result<WorkerHandle> {
        Ok(WorkerHandle {})
    }
    pub async fn command(&self, _c: replicator::Command) -> anyhow::Result<replicator::CommandResult> {
        todo!()
    }
    pub async fn attach(
        &self,
        _v: replicator::VolIdx,
        _d: OpenedDisk,
    ) -> anyhow::Result<replicator::CommandResult> {
        todo!()
    }
    pub fn snapshot(&self) -> Arc<model::status::snapshot::ResourceSnapshot> {
        todo!()
    }
    pub fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        todo!()
    }
    pub async fn shutdown(&self) {}
}
