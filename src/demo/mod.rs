//! stub
use std::path::PathBuf;
use std::time::Duration;
#[derive(Clone, Copy, Debug)]
pub struct RunFor(pub Duration);
impl std::str::FromStr for RunFor { type Err = String; fn from_str(_: &str) -> Result<RunFor, String> { Err(String::new()) } }
pub struct DemoConfig { pub dir: PathBuf, pub size_bytes: u64, pub run_for: Option<Duration>, pub workload: bool, pub port_base: u16 }
pub fn run(_: &DemoConfig) -> anyhow::Result<u8> { Ok(0) }
