//! HAProxy's agent-check: whoever connects gets one line about the server behind this node (failover 5.4, 8.6).

use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tracing::debug;

use super::roles::{RoleFacts, RoleSource, Standing};

/// Takes connections.
const UP: &str = "up 100%\n";
/// Keeps those it has and takes no more. By its weight, as `drain` is a state of HAProxy's administrator: it stays through the
/// next `up`, and `ready`, which ends it, would also end what an operator has set there by hand.
const DRAINING: &str = "up 0% #demoting\n";
/// What HAProxy may send (`agent-send`) is read up to here, so that closing does not take back the answer.
const QUESTION_BYTES_MAX: u64 = 1024;

/// Says the line for `resource`, or for all that are up together.
pub async fn converse(mut stream: TcpStream, source: Rc<dyn RoleSource>, resource: Option<Rc<str>>) {
    let mut roles = source.roles();
    roles.retain(|facts| resource.as_ref().is_none_or(|name| facts.snapshot.name == **name));
    if let Err(e) = say(&mut stream, line(&roles)).await {
        debug!("agent-check: {e}");
    }
}

async fn say(stream: &mut TcpStream, line: &str) -> std::io::Result<()> {
    stream.write_all(line.as_bytes()).await?;
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(QUESTION_BYTES_MAX), &mut tokio::io::sink()).await?;
    Ok(())
}

/// The worst of the resources counts.
pub fn line(roles: &[RoleFacts]) -> &'static str {
    let worst = roles.iter().map(|facts| of(facts.standing())).max_by_key(|(rank, _)| *rank);
    worst.map_or("down #not up\n", |(_, line)| line)
}

/// How bad it is, and the line. Where the state belongs to a Primary its clients are cut off too: they get no answers, or
/// the wrong ones.
const fn of(standing: Standing) -> (u8, &'static str) {
    match standing {
        Standing::Serving => (0, UP),
        Standing::Demoting => (1, DRAINING),
        Standing::Replica => (2, "down #secondary\n"),
        Standing::Syncing => (2, "down #secondary, syncing\n"),
        Standing::NotCurrent => (2, "down #secondary, not current\n"),
        Standing::ServiceAway => (3, "down #service not at home\n"),
        Standing::Suspended => (3, "down #suspended\n"),
        Standing::NoData => (3, "down #no data\n"),
        Standing::Stopped => (4, "down #stopped\n"),
    }
}
