//! Runs one call of fence-peer or unfence-peer against the store.

use model::time::Duration;

use super::now;
use crate::lease::etcd::EtcdStore;
use crate::lease::handler::{Handler, HandlerSettings, Turn, Verdict};
use crate::lease::kernel::VolumeLook;
use crate::lease::machine::StoreAnswer;
use crate::lease::memory::Memory;

/// To its end, which comes within the time of `settings`; `look` tells what the kernel shows. With the verdict comes what is to
/// be remembered of the record, if that is new.
pub async fn run(
    settings: HandlerSettings,
    etcd: &mut EtcdStore,
    key: &str,
    look: impl Fn() -> Result<Vec<VolumeLook>, String>,
) -> (Verdict, Option<Memory>) {
    let mut handler = Handler::new(settings, now());
    loop {
        match handler.turn(now()) {
            Turn::Look => handler.looked(look()),
            Turn::Ask(op, limit) => {
                let asked = tokio::time::timeout(limit, etcd.carry_out(key, &op)).await;
                let answer = match asked {
                    Ok(Ok(answer)) => answer,
                    Ok(Err(e)) => e.answer(),
                    // A change that was dropped on its way may be made yet.
                    Err(_) => StoreAnswer::Unknown("the lease store does not answer".into()),
                };
                handler.answered(now(), answer);
            }
            Turn::Wait(until) => {
                let wait = until.saturating_since(now());
                tokio::time::sleep(wait.max(Duration::from_millis(1))).await;
            }
            Turn::End(verdict) => return (verdict, handler.newest().cloned()),
        }
    }
}
