//! Serves whoever connects, without letting those who only connect keep out those who ask.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, spawn_local, yield_now};
use tokio::time::{sleep, timeout};
use tracing::warn;

/// Connections of one listener at a time. A check is over in milliseconds, so nobody in earnest needs as many.
const CONNECTIONS_MAX: usize = 128;
/// Longest life of a connection: a question and its answer, however slowly they come and go.
const CONNECTION_MAX: Duration = Duration::from_secs(5);
/// After an accept that failed (too many open files), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Runs `serve` for each connection, for as long as the daemon runs. Must run in a `LocalSet`.
pub async fn accept<F: Future<Output = ()> + 'static>(listener: TcpListener, serve: impl Fn(TcpStream) -> F) {
    let mut crowd = Crowd::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let life = timeout(CONNECTION_MAX, serve(stream));
                crowd.admit(
                    spawn_local(async move {
                        let _ = life.await;
                    })
                    .abort_handle(),
                );
                // It has to get a look at its socket before a flood can push it out.
                yield_now().await;
            }
            Err(e) => {
                warn!("role checks: cannot accept a connection: {e}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The connections that are served, oldest first. When there are too many the oldest goes: it had its time to ask, while to
/// let the newest wait would hand all places to those who say nothing.
#[derive(Default)]
struct Crowd(VecDeque<AbortHandle>);

impl Crowd {
    fn admit(&mut self, newest: AbortHandle) {
        if self.0.len() >= CONNECTIONS_MAX {
            self.0.retain(|task| !task.is_finished());
        }
        if self.0.len() >= CONNECTIONS_MAX
            && let Some(oldest) = self.0.pop_front()
        {
            oldest.abort();
        }
        self.0.push_back(newest);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::LocalSet;

    use super::*;

    /// Answers one byte with another.
    async fn echo(mut stream: TcpStream) {
        let mut byte = [0];
        if stream.read_exact(&mut byte).await.is_ok() {
            let _ = stream.write_all(&byte).await;
        }
    }

    #[test]
    fn whoever_asks_is_answered_beside_many_who_do_not() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            spawn_local(accept(listener, echo));
            let mut idle = VecDeque::new();
            for round in 0..4 * CONNECTIONS_MAX {
                let mut client = TcpStream::connect(address).await.unwrap();
                if round % 16 == 0 {
                    client.write_all(b"x").await.unwrap();
                    let mut byte = [0];
                    client.read_exact(&mut byte).await.unwrap();
                } else {
                    idle.push_back(client);
                }
            }
            // The first of the silent ones had to go.
            let mut first = idle.pop_front().unwrap();
            assert!(!matches!(first.read(&mut [0]).await, Ok(n) if n > 0));
        });
    }
}
