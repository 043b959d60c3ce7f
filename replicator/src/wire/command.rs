//! THE packet catalogue (drbd-wire 2.3): one row per packet, from which the numbers, the names and the framing
//! rules come.

use super::WireError;

/// One of the two TCP connections.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Sock {
    /// Bulk data, parameters, requests.
    Data,
    /// Acknowledgements and keepalive.
    Meta,
}

/// On which socket a packet may arrive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SockSet {
    /// Data socket only.
    Data,
    /// Meta socket only.
    Meta,
    /// Either.
    Both,
}

impl SockSet {
    /// `sock` is one of them.
    pub const fn contains(self, sock: Sock) -> bool {
        matches!((self, sock), (SockSet::Both, _) | (SockSet::Data, Sock::Data) | (SockSet::Meta, Sock::Meta))
    }
}

/// What the volume field of the header means for a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// The packet is about that volume.
    Volume,
    /// The packet is about the connection; the field is 0 and ignored.
    Connection,
}

/// What may follow the fixed part. Limits are in bytes and inclusive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tail {
    /// Nothing.
    None,
    /// More body, from `min` to `max` bytes.
    Body {
        /// Shortest tail.
        min: u32,
        /// Longest tail.
        max: u32,
    },
    /// Whole 8-byte words of bitmap, possibly none.
    Words,
    /// The 24-byte extension of P_SIZES, exactly if FF_WSAME was agreed.
    SizesExtension,
    /// An integrity digest if configured, then block data.
    Payload,
    /// Whatever the length field says, nothing follows (initial packets).
    Ignored,
}

/// A row of the catalogue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    /// The packet.
    pub command: Command,
    /// Name as users of packet dumps know it.
    pub name: &'static str,
    /// Where it may arrive.
    pub socks: SockSet,
    /// Meaning of the volume field.
    pub scope: Scope,
    /// Length of the fixed part, in bytes.
    pub fixed_bytes: u32,
    /// What may follow the fixed part.
    pub tail: Tail,
}

impl Row {
    /// Longest body (fixed part and tail, without digest and block data), in bytes.
    pub const fn body_bytes_max(&self) -> u32 {
        self.fixed_bytes
            + match self.tail {
                Tail::None | Tail::Payload | Tail::Ignored => 0,
                Tail::Body { max, .. } => max,
                // With 8-byte headers a piece is 8 bytes longer than with header 100.
                Tail::Words => super::BITMAP_PIECE_BYTES_MAX + 8,
                Tail::SizesExtension => 24,
            }
    }
}

macro_rules! catalogue {
    ($($(#[$doc:meta])* $variant:ident = $num:literal $name:literal $socks:ident $scope:ident $fixed:literal $tail:expr;)+) => {
        /// Every packet of protocol 101. Numbers that the protocol once used and no longer handles, and those
        /// of DRBD 9, are not in here: they are unknown commands.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u16)]
        pub enum Command { $($(#[$doc])* $variant = $num,)+ }

        impl Command {
            /// The catalogue, ascending by number.
            pub const CATALOGUE: &'static [Row] = &[$(Row {
                command: Command::$variant,
                name: $name,
                socks: SockSet::$socks,
                scope: Scope::$scope,
                fixed_bytes: $fixed,
                tail: $tail,
            },)+];

            /// This packet's row of the catalogue.
            pub const fn row(self) -> &'static Row {
                match self { $(Command::$variant => const { &Row {
                    command: Command::$variant,
                    name: $name,
                    socks: SockSet::$socks,
                    scope: Scope::$scope,
                    fixed_bytes: $fixed,
                    tail: $tail,
                } },)+ }
            }
        }

        impl TryFrom<u16> for Command {
            type Error = WireError;

            fn try_from(number: u16) -> Result<Command, WireError> {
                match number {
                    $($num => Ok(Command::$variant),)+
                    _ => Err(WireError::UnknownCommand(number)),
                }
            }
        }
    };
}

const DIGEST: Tail = Tail::Body { min: 1, max: 64 };

catalogue! {
    /// Mirrored write.
    Data = 0x00 "P_DATA" Data Volume 24 Tail::Payload;
    /// Answer to an application read.
    DataReply = 0x01 "P_DATA_REPLY" Data Volume 24 Tail::Payload;
    /// Resync block.
    RsDataReply = 0x02 "P_RS_DATA_REPLY" Data Volume 24 Tail::Payload;
    /// End of a write epoch.
    Barrier = 0x03 "P_BARRIER" Data Connection 8 Tail::None;
    /// Plain bitmap piece; the empty one terminates.
    Bitmap = 0x04 "P_BITMAP" Data Volume 0 Tail::Words;
    /// Hint to submit queued I/O.
    UnplugRemote = 0x07 "P_UNPLUG_REMOTE" Data Volume 0 Tail::None;
    /// Application read from the peer.
    DataRequest = 0x08 "P_DATA_REQUEST" Data Volume 24 Tail::None;
    /// Resync read.
    RsDataRequest = 0x09 "P_RS_DATA_REQUEST" Data Volume 24 Tail::None;
    /// Resync parameters of versions up to 88.
    SyncParam = 0x0a "P_SYNC_PARAM" Data Volume 4 Tail::Body { min: 0, max: 64 };
    /// Connection settings.
    Protocol = 0x0b "P_PROTOCOL" Data Connection 24 Tail::Body { min: 1, max: 64 };
    /// Data generation identifiers.
    Uuids = 0x0c "P_UUIDS" Data Volume 48 Tail::None;
    /// Device sizes and limits.
    Sizes = 0x0d "P_SIZES" Data Volume 32 Tail::SizesExtension;
    /// The sender's state word.
    State = 0x0e "P_STATE" Data Volume 4 Tail::None;
    /// Starts the resync on the target.
    SyncUuid = 0x0f "P_SYNC_UUID" Data Volume 8 Tail::None;
    /// Random bytes to be authenticated.
    AuthChallenge = 0x10 "P_AUTH_CHALLENGE" Data Connection 0 Tail::Body { min: 64, max: 128 };
    /// Keyed hash of the challenge.
    AuthResponse = 0x11 "P_AUTH_RESPONSE" Data Connection 0 Tail::Body { min: 0, max: 64 };
    /// State change request for one volume.
    StateChgReq = 0x12 "P_STATE_CHG_REQ" Data Volume 8 Tail::None;
    /// Keepalive and fence.
    Ping = 0x13 "P_PING" Meta Connection 0 Tail::None;
    /// Answer to a ping.
    PingAck = 0x14 "P_PING_ACK" Meta Connection 0 Tail::None;
    /// Write received (protocol B).
    RecvAck = 0x15 "P_RECV_ACK" Meta Volume 24 Tail::None;
    /// Write done (protocol C).
    WriteAck = 0x16 "P_WRITE_ACK" Meta Volume 24 Tail::None;
    /// Write done and bits cleared; also for resync blocks.
    RsWriteAck = 0x17 "P_RS_WRITE_ACK" Meta Volume 24 Tail::None;
    /// Two primaries: the write counts as overwritten.
    Superseded = 0x18 "P_SUPERSEDED" Meta Volume 24 Tail::None;
    /// Write failed or no disk.
    NegAck = 0x19 "P_NEG_ACK" Meta Volume 24 Tail::None;
    /// Application read failed.
    NegDreply = 0x1a "P_NEG_DREPLY" Meta Volume 24 Tail::None;
    /// Resync or verify read failed.
    NegRsDreply = 0x1b "P_NEG_RS_DREPLY" Meta Volume 24 Tail::None;
    /// Write epoch done.
    BarrierAck = 0x1c "P_BARRIER_ACK" Meta Connection 8 Tail::None;
    /// Answer to a state change request for one volume.
    StateChgReply = 0x1d "P_STATE_CHG_REPLY" Meta Volume 4 Tail::None;
    /// Verify: ask for the digest of a block.
    OvRequest = 0x1e "P_OV_REQUEST" Data Volume 24 Tail::None;
    /// Verify: digest of a block.
    OvReply = 0x1f "P_OV_REPLY" Data Volume 24 DIGEST;
    /// Verify: result for one block.
    OvResult = 0x20 "P_OV_RESULT" Meta Volume 24 Tail::None;
    /// Resync read with the digest of what the target has.
    CsumRsRequest = 0x21 "P_CSUM_RS_REQUEST" Data Volume 24 DIGEST;
    /// The digests are equal.
    RsIsInSync = 0x22 "P_RS_IS_IN_SYNC" Meta Volume 24 Tail::None;
    /// Resync parameters and algorithm names, versions 95 and later.
    SyncParam89 = 0x23 "P_SYNC_PARAM89" Data Volume 148 Tail::None;
    /// Run-length coded bitmap piece.
    CompressedBitmap = 0x24 "P_COMPRESSED_BITMAP" Data Volume 1 Tail::Body { min: 1, max: 4079 };
    /// Accepted and ignored.
    DelayProbe = 0x27 "P_DELAY_PROBE" Both Connection 8 Tail::None;
    /// Set these bits.
    OutOfSync = 0x28 "P_OUT_OF_SYNC" Data Volume 16 Tail::None;
    /// Resync read not served because the sender is Ahead.
    RsCancel = 0x29 "P_RS_CANCEL" Meta Volume 24 Tail::None;
    /// Connection-wide state change request.
    ConnStChgReq = 0x2a "P_CONN_ST_CHG_REQ" Data Connection 8 Tail::None;
    /// Answer to a connection-wide state change request.
    ConnStChgReply = 0x2b "P_CONN_ST_CHG_REPLY" Meta Connection 4 Tail::None;
    /// Two primaries: submit the write again.
    RetryWrite = 0x2c "P_RETRY_WRITE" Meta Volume 24 Tail::None;
    /// Settings changed while connected.
    ProtocolUpdate = 0x2d "P_PROTOCOL_UPDATE" Data Connection 24 Tail::Body { min: 1, max: 64 };
    /// Discard a range.
    Trim = 0x31 "P_TRIM" Data Volume 28 Tail::None;
    /// Resync read that may be answered by "all zeroes".
    RsThinReq = 0x32 "P_RS_THIN_REQ" Data Volume 24 Tail::None;
    /// Resync answer: the range is all zeroes.
    RsDeallocated = 0x33 "P_RS_DEALLOCATED" Data Volume 16 Tail::None;
    /// Write one logical block repeatedly.
    Wsame = 0x34 "P_WSAME" Data Volume 28 Tail::Payload;
    /// Zero a range.
    Zeroes = 0x36 "P_ZEROES" Data Volume 28 Tail::None;
    /// First packet on the meta socket.
    InitialMeta = 0xfff1 "P_INITIAL_META" Meta Connection 0 Tail::Ignored;
    /// First packet on the data socket.
    InitialData = 0xfff2 "P_INITIAL_DATA" Data Connection 0 Tail::Ignored;
    /// Version and feature negotiation.
    ConnectionFeatures = 0xfffe "P_CONNECTION_FEATURES" Data Connection 72 Tail::None;
}

impl Command {
    /// The number in the header.
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// The name, `P_DATA` and so on.
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// Belongs to the phase before the protocol version is agreed; never inside a header 100.
    pub const fn is_initial(self) -> bool {
        matches!(self, Command::InitialMeta | Command::InitialData | Command::ConnectionFeatures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_ascend_and_numbers_round_trip() {
        let mut known = 0;
        for w in Command::CATALOGUE.windows(2) {
            assert!(w[0].command < w[1].command);
        }
        for n in 0..=u16::MAX {
            match Command::try_from(n) {
                Ok(c) => {
                    assert_eq!(c.number(), n);
                    assert_eq!(c.row().command, c);
                    known += 1;
                }
                Err(e) => assert_eq!(e, WireError::UnknownCommand(n)),
            }
        }
        assert_eq!(known, Command::CATALOGUE.len());
        for row in Command::CATALOGUE {
            assert_eq!(row.command.row(), row);
            assert_eq!(row.name, row.command.name());
            assert!(row.body_bytes_max() <= 4096);
        }
    }

    #[test]
    fn numbers_that_nobody_handles_are_unknown() {
        for n in [0x05, 0x06, 0x25, 0x26, 0x2e, 0x2f, 0x30, 0x35, 0x37, 0x40, 0xfff0, 0xffff] {
            assert_eq!(Command::try_from(n), Err(WireError::UnknownCommand(n)));
        }
    }

    #[test]
    fn fixed_lengths_on_the_meta_socket_are_exact() {
        for row in Command::CATALOGUE {
            if row.socks != SockSet::Data {
                assert!(matches!(row.tail, Tail::None | Tail::Ignored), "{}", row.name);
            }
        }
    }
}
