//! A thread that speaks with nf_tables: whoever does so stands still as long as anybody else changes a ruleset.

use std::sync::mpsc;
use std::time::Duration;

use model::time::Instant;
use tokio::sync::oneshot;

use super::super::ACT_WITHIN;
use crate::driver::clock;
use crate::vip::gate::{GateError, Guarded, NfTables, Tables};

/// How long the kernel may have stood still when it opened the gate: for so much longer than it should an address may answer.
const OPENED_WITHIN: Duration = Duration::from_millis(10);

/// The shortest time that an element can live.
const SHORTEST: Duration = Duration::from_millis(1);

/// How opening went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Opening {
    /// They answer.
    Open,
    /// Time went by; what was decided may be wrong by now.
    Late,
}

type Job = Box<dyn FnOnce(&mut NfTables) + Send>;

/// The thread; it ends when this is dropped.
pub(super) struct Keeper(mpsc::Sender<Job>);

impl Keeper {
    /// Starts it, in the network namespace of this thread.
    pub(super) fn start() -> Result<Keeper, GateError> {
        let mut tables = NfTables::open()?;
        let (jobs, to_do) = mpsc::channel::<Job>();
        let serve = move || to_do.iter().for_each(|job| job(&mut tables));
        std::thread::Builder::new().name("nftables".to_owned()).spawn(serve).map_err(GateError::Open)?;
        Ok(Keeper(jobs))
    }

    /// What is asked for is done in the order in which it was asked for, also when nobody waits any more.
    async fn ask<T: Send + 'static>(
        &self,
        timeout: Duration,
        job: impl FnOnce(&mut NfTables) -> Result<T, GateError> + Send + 'static,
    ) -> Result<T, GateError> {
        let (answer, answered) = oneshot::channel();
        let job = Box::new(move |tables: &mut NfTables| drop(answer.send(job(tables))));
        self.0.send(job).map_err(|_| GateError::Stuck(timeout))?;
        match tokio::time::timeout(timeout, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => Err(GateError::Stuck(timeout)),
        }
    }

    pub(super) async fn open(
        &self,
        addresses: Vec<Guarded>,
        decided: Instant,
        until: Instant,
        timeout: Duration,
    ) -> Result<Opening, GateError> {
        self.ask(timeout, move |tables| open(tables, &addresses, decided, until)).await
    }

    pub(super) async fn close(&self, addresses: Vec<Guarded>, timeout: Duration) -> Result<(), GateError> {
        self.ask(timeout, move |tables| tables.close(&addresses)).await
    }

    pub(super) async fn look(&self, timeout: Duration) -> Result<Option<Tables>, GateError> {
        self.ask(timeout, NfTables::look).await
    }

    pub(super) async fn remove(&self, timeout: Duration) -> Result<(), GateError> {
        self.ask(timeout, NfTables::remove).await
    }
}

/// The kernel counts from when it does what it is asked, which may be later than the look at the clock. Whoever finds that it
/// was does it again with what is left, or closes.
fn open(
    tables: &mut NfTables,
    addresses: &[Guarded],
    decided: Instant,
    until: Instant,
) -> Result<Opening, GateError> {
    let mut is_open = false;
    loop {
        let before = clock::now();
        let left = until.saturating_since(before);
        let result = if before.saturating_since(decided) > ACT_WITHIN || left < SHORTEST {
            Ok(Opening::Late)
        } else {
            tables.renew(addresses, left).map(|()| Opening::Open)
        };
        match result {
            Ok(Opening::Open) if clock::now().saturating_since(before) <= OPENED_WITHIN => {
                return Ok(Opening::Open);
            }
            Ok(Opening::Open) => is_open = true,
            result => {
                if is_open {
                    tables.close(addresses)?;
                }
                return result;
            }
        }
    }
}
