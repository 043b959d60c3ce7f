//! All packets behind one type, and putting them on the wire.

use super::*;
use alloc::vec::Vec;

/// Something that can be sent: which packet, and its body.
pub trait Body {
    /// The packet.
    fn command(&self) -> Command;

    /// Appends the body.
    fn encode(&self, out: &mut Vec<u8>);
}

/// Appends header 100 and body. The header's length includes `payload_bytes` (digest and block data), which the
/// caller sends directly behind.
///
/// # Panics
/// If the packet cannot have that much payload, or none: an own mistake.
pub fn put<P: Body>(out: &mut Vec<u8>, vnr: u16, packet: &P, payload_bytes: u32) {
    put_framed(out, HeaderForm::H100, vnr, packet, payload_bytes);
}

/// Appends header 80 and body: the initial packets and P_CONNECTION_FEATURES.
pub fn put80<P: Body>(out: &mut Vec<u8>, packet: &P) {
    put_framed(out, HeaderForm::H80, 0, packet, 0);
}

fn put_framed<P: Body>(out: &mut Vec<u8>, form: HeaderForm, vnr: u16, packet: &P, payload_bytes: u32) {
    let command = packet.command();
    assert_eq!(command.row().tail == Tail::Payload, payload_bytes > 0, "{}", command.name());
    let start = out.len();
    Header { form, vnr, command, len: 0 }.encode(out);
    let body_start = out.len();
    packet.encode(out);
    let len = u32::try_from(out.len() - body_start).expect("bodies are short") + payload_bytes;
    assert!(len <= MAX_FRAME_BYTES, "{} of {len} bytes", command.name());
    // The length field is 8 bytes into a header 100, the last two bytes of a header 80.
    match form {
        HeaderForm::H100 => out[start + 8..start + 12].copy_from_slice(&len.to_be_bytes()),
        HeaderForm::H80 | HeaderForm::H95 => {
            let short = u16::try_from(len).expect("long frames are not sent with short headers");
            out[start + 6..start + 8].copy_from_slice(&short.to_be_bytes());
        }
    }
}

macro_rules! packets {
    (bodies { $($variant:ident($body:ty),)+ } empty { $($unit:ident,)+ }) => {
        /// Any packet, decoded. Borrows digests, names, bitmap pieces and secrets from the received bytes.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Packet<'a> {
            $(#[doc = concat!("See [`Command::", stringify!($variant), "`].")] $variant($body),)+
            $(#[doc = concat!("See [`Command::", stringify!($unit), "`].")] $unit,)+
        }

        impl Packet<'_> {
            /// The packet's number.
            pub const fn command(&self) -> Command {
                match self {
                    $(Packet::$variant(_) => Command::$variant,)+
                    $(Packet::$unit => Command::$unit,)+
                }
            }

            /// Appends the body.
            pub fn encode(&self, out: &mut Vec<u8>) {
                match self {
                    $(Packet::$variant(body) => body.encode(out),)+
                    $(Packet::$unit => {})+
                }
            }
        }

        impl<'a> Packet<'a> {
            fn decode_body(command: Command, body: &'a [u8]) -> Result<Packet<'a>, WireError> {
                match command {
                    $(Command::$variant => <$body>::decode(body).map(Packet::$variant),)+
                    $(Command::$unit => match body {
                        [] => Ok(Packet::$unit),
                        _ => Err(WireError::Body { layout: "empty", len: body.len() }),
                    },)+
                }
            }
        }
    };
}

packets! {
    bodies {
        Data(Data),
        DataReply(Data),
        RsDataReply(Data),
        Barrier(Barrier),
        Bitmap(BitmapPiece<'a>),
        DataRequest(Request),
        RsDataRequest(Request),
        SyncParam(SyncParam<'a>),
        Protocol(Protocol<'a>),
        Uuids(Uuids),
        Sizes(Sizes),
        State(State),
        SyncUuid(SyncUuid),
        AuthChallenge(AuthChallenge<'a>),
        AuthResponse(AuthResponse<'a>),
        StateChgReq(ChangeRequest),
        RecvAck(Ack),
        WriteAck(Ack),
        RsWriteAck(Ack),
        Superseded(Ack),
        NegAck(Ack),
        NegDreply(Ack),
        NegRsDreply(Ack),
        BarrierAck(BarrierAck),
        StateChgReply(ChangeReply),
        OvRequest(Request),
        OvReply(DigestRequest<'a>),
        OvResult(Ack),
        CsumRsRequest(DigestRequest<'a>),
        RsIsInSync(Ack),
        SyncParam89(SyncParam89<'a>),
        CompressedBitmap(CompressedBitmap<'a>),
        DelayProbe(DelayProbe),
        OutOfSync(BlockDesc),
        RsCancel(Ack),
        ConnStChgReq(ChangeRequest),
        ConnStChgReply(ChangeReply),
        RetryWrite(Ack),
        ProtocolUpdate(Protocol<'a>),
        Trim(Trim),
        RsThinReq(Request),
        RsDeallocated(BlockDesc),
        Wsame(Trim),
        Zeroes(Trim),
        ConnectionFeatures(ConnectionFeatures),
    }
    empty {
        UnplugRemote,
        Ping,
        PingAck,
        InitialMeta,
        InitialData,
    }
}

impl<'a> Packet<'a> {
    /// Reads the body of the packet that `header` announced, as cut out by [`frame_shape`]. Digest and block data
    /// of the four packets that carry them are not part of `body`.
    ///
    /// # Errors
    /// Lengths or values that the packet cannot have.
    pub fn decode(header: &Header, body: &'a [u8], features: Features) -> Result<Packet<'a>, WireError> {
        let row = header.command.row();
        let impossible = WireError::Length { command: header.command, len: header.len };
        let len_agrees = match row.tail {
            Tail::Payload => body.len() < header.len as usize,
            Tail::Ignored => body.is_empty(),
            Tail::None | Tail::Body { .. } | Tail::Words => body.len() == header.len as usize,
            Tail::SizesExtension => {
                let extension_bytes = if features.contains(Features::WSAME) { 24 } else { 0 };
                body.len() == header.len as usize && header.len == row.fixed_bytes + extension_bytes
            }
        };
        if len_agrees { Packet::decode_body(header.command, body) } else { Err(impossible) }
    }
}

impl Body for Packet<'_> {
    fn command(&self) -> Command {
        Packet::command(self)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        Packet::encode(self, out);
    }
}

macro_rules! single_command {
    ($($body:ty => $command:ident,)+) => {
        $(impl Body for $body {
            fn command(&self) -> Command {
                Command::$command
            }

            fn encode(&self, out: &mut Vec<u8>) {
                self.encode(out);
            }
        })+
    };
}

// Layouts that more than one packet uses are sent as a `Packet`, which knows the command.
single_command! {
    Barrier => Barrier,
    BarrierAck => BarrierAck,
    BitmapPiece<'_> => Bitmap,
    CompressedBitmap<'_> => CompressedBitmap,
    SyncParam<'_> => SyncParam,
    SyncParam89<'_> => SyncParam89,
    Uuids => Uuids,
    Sizes => Sizes,
    State => State,
    SyncUuid => SyncUuid,
    AuthChallenge<'_> => AuthChallenge,
    AuthResponse<'_> => AuthResponse,
    DelayProbe => DelayProbe,
    ConnectionFeatures => ConnectionFeatures,
}

// Packets travel by value in events and actions.
const _: () = assert!(size_of::<Packet<'_>>() <= 64);
