//! Rules are loaded by nft(8).

use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::GateError;

/// How long nft may take. It ends within some milliseconds, unless somebody else loads a large ruleset.
pub const LOAD_TIMEOUT: Duration = Duration::from_secs(2);

/// Letters of nft's complaint that are told.
const COMPLAINT_MAX: usize = 300;

/// Loads a [`ruleset`](super::ruleset()) in the network namespace of this thread: all of it or nothing.
///
/// # Errors
/// nft is not there, does not end, or does not load it.
pub async fn load(text: &str) -> Result<(), GateError> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).env("LC_ALL", "C").kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(GateError::Start)?;
    let mut input = child.stdin.take();
    let run = async {
        if let Some(input) = &mut input {
            // One that ends before it has read everything says why.
            let _ = input.write_all(text.as_bytes()).await;
        }
        drop(input.take());
        child.wait_with_output().await
    };
    let output = match tokio::time::timeout(LOAD_TIMEOUT, run).await {
        Ok(output) => output.map_err(GateError::Start)?,
        Err(_) => return Err(GateError::Slow),
    };
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let complaint: String = complaint.trim().replace('\n', " ").chars().take(COMPLAINT_MAX).collect();
    Err(GateError::Load(if complaint.is_empty() { output.status.to_string() } else { complaint }))
}
