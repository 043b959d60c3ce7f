//! What happened in a run, by kind.

/// Counts of one run, or of many.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Requests of clients.
    pub requests: u64,
    /// Commands of operators.
    pub commands: u64,
    /// Processes killed.
    pub kills: u64,
    /// Power failures.
    pub power_failures: u64,
    /// Of both: in the middle of a batch of actions.
    pub within_a_batch: u64,
    /// The link was cut.
    pub cuts: u64,
    /// Sockets reset.
    pub resets: u64,
    /// One direction went dead.
    pub half_open: u64,
    /// Packets that arrived as garbage.
    pub garbage: u64,
    /// Strangers at the port.
    pub strangers: u64,
    /// Connections with the wrong secret.
    pub wrong_secrets: u64,
    /// Nodes that stood still.
    pub freezes: u64,
    /// Clocks that jumped.
    pub clock_jumps: u64,
    /// Slow disk operations.
    pub latency_spikes: u64,
    /// Data reads that failed.
    pub read_errors: u64,
    /// Data writes that failed.
    pub write_errors: u64,
    /// Flushes that failed.
    pub flush_errors: u64,
    /// Metadata writes that failed.
    pub metadata_errors: u64,
    /// Writes torn by a crash.
    pub torn_writes: u64,
    /// Resyncs that began.
    pub resyncs: u64,
    /// Times both copies went on alone.
    pub splits: u64,
}

impl Tally {
    /// Every count with its name.
    pub fn named(&self) -> [(&'static str, u64); 21] {
        [
            ("requests", self.requests),
            ("commands", self.commands),
            ("kills", self.kills),
            ("power failures", self.power_failures),
            ("crashes within a batch", self.within_a_batch),
            ("link cuts", self.cuts),
            ("socket resets", self.resets),
            ("half-open links", self.half_open),
            ("garbage", self.garbage),
            ("strangers", self.strangers),
            ("wrong secrets", self.wrong_secrets),
            ("freezes", self.freezes),
            ("clock jumps", self.clock_jumps),
            ("latency spikes", self.latency_spikes),
            ("read errors", self.read_errors),
            ("write errors", self.write_errors),
            ("flush errors", self.flush_errors),
            ("metadata errors", self.metadata_errors),
            ("torn writes", self.torn_writes),
            ("resyncs", self.resyncs),
            ("splits", self.splits),
        ]
    }

    /// Adds those of another run.
    pub fn add(&mut self, o: &Tally) {
        self.requests += o.requests;
        self.commands += o.commands;
        self.kills += o.kills;
        self.power_failures += o.power_failures;
        self.within_a_batch += o.within_a_batch;
        self.cuts += o.cuts;
        self.resets += o.resets;
        self.half_open += o.half_open;
        self.garbage += o.garbage;
        self.strangers += o.strangers;
        self.wrong_secrets += o.wrong_secrets;
        self.freezes += o.freezes;
        self.clock_jumps += o.clock_jumps;
        self.latency_spikes += o.latency_spikes;
        self.read_errors += o.read_errors;
        self.write_errors += o.write_errors;
        self.flush_errors += o.flush_errors;
        self.metadata_errors += o.metadata_errors;
        self.torn_writes += o.torn_writes;
        self.resyncs += o.resyncs;
        self.splits += o.splits;
    }
}
