//! What happened in a run, by kind.

macro_rules! tally {
    ($($(#[doc = $doc:literal])+ $field:ident $name:literal)+) => {
        /// Counts of one run, or of many.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct Tally {
            $($(#[doc = $doc])+ pub $field: u64,)+
        }

        impl Tally {
            /// Every count with its name.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$(($name, self.$field)),+].into_iter()
            }

            /// Adds those of another run.
            pub fn add(&mut self, o: &Tally) {
                $(self.$field += o.$field;)+
            }
        }
    };
}

tally! {
    /// Requests of clients.
    requests "requests"
    /// Commands of operators.
    commands "commands"
    /// Handler scripts called.
    handlers "handlers"
    /// Processes killed.
    kills "kills"
    /// Power failures.
    power_failures "power failures"
    /// Of both: in the middle of a batch of actions.
    within_a_batch "crashes within a batch"
    /// The link was cut.
    cuts "link cuts"
    /// Sockets reset.
    resets "socket resets"
    /// One direction went dead.
    half_open "half-open links"
    /// Sockets lost in the middle of a packet.
    severed "cut packets"
    /// Packets that arrived as garbage.
    garbage "garbage"
    /// Strangers at the port.
    strangers "strangers"
    /// Connections with the wrong secret.
    wrong_secrets "wrong secrets"
    /// Nodes that stood still.
    freezes "freezes"
    /// Clocks that jumped.
    clock_jumps "clock jumps"
    /// Disks that stood still.
    stalls "disk stalls"
    /// Slow disk operations.
    latency_spikes "latency spikes"
    /// Data reads that failed.
    read_errors "read errors"
    /// Data writes that failed.
    write_errors "write errors"
    /// Flushes that failed.
    flush_errors "flush errors"
    /// Metadata writes that failed.
    metadata_errors "metadata errors"
    /// Writes torn by a crash.
    torn_writes "torn writes"
    /// Backing disks that grew.
    grown "grown disks"
    /// Resyncs that began.
    resyncs "resyncs"
    /// Times a node went Ahead.
    ahead "times ahead"
    /// Times both copies went on alone.
    splits "splits"
    /// Commands to verify.
    verifies "verifies"
    /// Sectors that decayed on a disk.
    rotten "rotten sectors"
    /// Packets whose block data did not match its digest.
    bad_digests "bad digests"
}
