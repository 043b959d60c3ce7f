//! Handler scripts of the nodes, as the hooks want them to behave.

use model::config::settings::Handler;

use super::*;
use crate::hooks::FencePeer;
use replicator::meta::superblock::MetaFlags;

/// What a script does when its time is over.
#[derive(Clone, Copy, Debug)]
pub(super) enum Means {
    Answer(i32),
    OutdatePeer,
    StonithPeer,
}

/// Ordinary scripts end soon.
const SOON: Duration = Duration::from_millis(1);

impl World {
    pub(super) fn run_handler(&mut self, n: usize, run: HandlerRun, handler: Handler, vol: Option<VolIdx>) {
        self.tally.handlers += 1;
        let script = &mut self.hooks.handlers[n];
        script.calls.push((self.now, handler, vol));
        let before = script.before_resync;
        if let (Handler::BeforeResyncSource | Handler::BeforeResyncTarget, Some(v)) = (handler, vol) {
            self.before_resync[usize::from(v.0)][n] = Some(run);
        }
        let (after, means) = match script.fence_peer {
            _ if matches!(handler, Handler::BeforeResyncSource | Handler::BeforeResyncTarget) => {
                (before.after, Means::Answer(before.exit_code))
            }
            FencePeer::Asks if matches!(handler, Handler::FencePeer | Handler::UnfencePeer) => {
                script.asked.push((handler, run));
                return;
            }
            _ if handler != Handler::FencePeer => (SOON, Means::Answer(0)),
            FencePeer::Asks => unreachable!("asked above"),
            FencePeer::Answers { exit_code, after } => (after, Means::Answer(exit_code)),
            FencePeer::Outdates { after } => (after, Means::OutdatePeer),
            FencePeer::Stonith { after } => (after, Means::StonithPeer),
        };
        self.at(n, self.now + after, Later::Handler { run, means });
    }

    pub(super) fn handler_ends(&mut self, n: usize, run: HandlerRun, means: Means) {
        let peer = 1 - n;
        match means {
            Means::Answer(code) => self.handler_answers(n, run, code),
            Means::StonithPeer => {
                self.crash(peer, true);
                // It will believe what it has written of its peer, and cannot know that this one is taking over.
                let node = &self.nodes[peer];
                let trusts = |v| {
                    node.super_block(&node.found_layout(VolIdx(v)), VolIdx(v))
                        .flags
                        .has(MetaFlags::PEER_OUT_DATED)
                };
                self.one_writer &= !(0..node.volumes).any(trusts);
                self.handler_answers(n, run, 7);
            }
            Means::OutdatePeer => match self.volume(peer).map(|s| s.role) {
                // Without a process nobody writes; it starts with a copy that is at most Consistent.
                None => self.handler_answers(n, run, 5),
                Some(Role::Primary) => self.handler_answers(n, run, 6),
                Some(_) => self.outdate_peer(n, run),
            },
        }
    }

    /// The script of `n` tells the peer to outdate each volume.
    fn outdate_peer(&mut self, n: usize, run: HandlerRun) {
        let peer = 1 - n;
        let volumes = self.nodes[peer].volumes;
        for v in 0..volumes {
            let id = self.command(peer, Command::Outdate(VolIdx(v)));
            if self.nodes[peer].core.is_none() {
                // It died of it: no command will answer.
                self.fencing.retain(|f| f.run != run || f.by != n);
                self.at(n, self.now + SOON, Later::Handler { run, means: Means::Answer(5) });
                return;
            }
            self.fencing.push(Outdating { by: n, run, id, last: v + 1 == volumes });
            let its = |a: &Answer| matches!(a, Answer::Command(i, _) if *i == id);
            if let Some(Answer::Command(_, result)) = self.take_answer(its) {
                self.outdated_by_handler(id, result);
            }
        }
    }

    /// A command has ended: perhaps one by which a script outdates the peer.
    pub(super) fn outdated_by_handler(&mut self, id: CommandId, result: CommandResult) {
        let Some(i) = self.fencing.iter().position(|f| f.id == id) else { return };
        let Outdating { by, run, last, .. } = self.fencing.remove(i);
        if !last {
            return;
        }
        let code = match result {
            CommandResult::Ok => 4,
            CommandResult::State(model::result_code::StateResult::LowerThanOutdated) => 3,
            _ => 1,
        };
        self.at(by, self.now + SOON, Later::Handler { run, means: Means::Answer(code) });
    }

    /// A script that outdates it finds nobody there; one that ran on it is gone too.
    pub(super) fn outdated_node_died(&mut self, n: usize) {
        for Outdating { by, run, last, .. } in std::mem::take(&mut self.fencing) {
            if by != n && last {
                self.at(by, self.now + SOON, Later::Handler { run, means: Means::Answer(5) });
            }
        }
    }

    /// A handler has ended.
    pub fn handler_answers(&mut self, n: usize, run: HandlerRun, exit_code: i32) {
        self.note(n, || format!("handler {} ends with {exit_code}", run.0));
        for called in &mut self.before_resync {
            called[n] = called[n].filter(|r| *r != run);
        }
        let now = self.clock(n);
        let node = &mut self.nodes[n];
        if let Some(core) = node.core.as_mut() {
            core.handle(now, Event::HandlerDone { run, exit_code }, &mut node.out);
        }
        self.settle(n);
    }
}

/// A peer that a script has told to outdate a volume.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outdating {
    by: usize,
    run: HandlerRun,
    id: CommandId,
    /// Its answer counts for all.
    last: bool,
}
