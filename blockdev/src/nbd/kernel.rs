//! The kernel's nbd driver as a client: an export becomes a block device of this machine, `/dev/nbdN`.
//!
//! The driver is spoken to by its generic netlink family. A device is given one end of a socket pair; whoever serves the
//! export has the other end, in the transmission phase, without a handshake. When that end goes away (the process has been
//! killed, or is replaced by a newer one), requests wait in the kernel until the device is given another socket, for at most
//! `dead_conn_timeout`.
//!
//! spec: linux/nbd-netlink.h; family "nbd", version 1.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, Nla,
    NlasIterator, Parseable, ParseableParametrized,
};
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use netlink_sys::protocols::NETLINK_GENERIC;
use netlink_sys::{Socket, SocketAddr};

use super::export::ExportFlags;
use super::reply::ReplyStyle;

const FAMILY: &str = "nbd";
const VERSION: u8 = 1;

const CMD_CONNECT: u8 = 1;
const CMD_DISCONNECT: u8 = 2;
const CMD_RECONFIGURE: u8 = 3;

const ATTR_INDEX: u16 = 1;
const ATTR_SIZE_BYTES: u16 = 2;
const ATTR_BLOCK_SIZE_BYTES: u16 = 3;
const ATTR_TIMEOUT: u16 = 4;
const ATTR_SERVER_FLAGS: u16 = 5;
const ATTR_SOCKETS: u16 = 7;
const ATTR_DEAD_CONN_TIMEOUT: u16 = 8;
const ATTR_BACKEND_IDENTIFIER: u16 = 10;
const SOCK_ITEM: u16 = 1;
const SOCK_FD: u16 = 1;

/// What a device is made with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceParams {
    /// Size in bytes, a multiple of `block_bytes`.
    pub size_bytes: u64,
    /// Logical block size in bytes, a power of two from 512 to the page size.
    pub block_bytes: u32,
    /// Abilities of the export.
    pub flags: ExportFlags,
    /// How long requests wait for another socket when there is none.
    pub dead_conn_timeout: Duration,
    /// Whose device it is; another one that says the same is given a socket only by the same server. Read back by
    /// [`find`].
    pub backend: String,
}

/// The driver of this kernel.
pub struct Driver {
    socket: Socket,
    family: u16,
    sequence: u32,
}

impl Driver {
    /// The driver, or None if this kernel has none (or its module is not loaded).
    ///
    /// # Errors
    /// No netlink socket can be had.
    pub fn open() -> io::Result<Option<Driver>> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let mut driver = Driver { socket, family: 0, sequence: 0 };
        let ask = GenlCtrl {
            cmd: GenlCtrlCmd::GetFamily,
            nlas: vec![GenlCtrlAttrs::FamilyName(FAMILY.to_owned())],
        };
        let answers = match driver.transact(GenlMessage::from_payload(ask)) {
            Ok(answers) => answers,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let id = |attribute: &GenlCtrlAttrs| match attribute {
            GenlCtrlAttrs::FamilyId(id) => Some(*id),
            _ => None,
        };
        driver.family = answers
            .iter()
            .flat_map(|answer| &answer.payload.nlas)
            .find_map(id)
            .ok_or_else(|| io::Error::other("netlink: the family nbd has no number"))?;
        Ok(Some(driver))
    }

    /// Makes a device of a free number and gives it this socket; gives the number.
    ///
    /// # Errors
    /// What the kernel says: EBUSY when all devices are in use, EPERM without the right to administer the system.
    pub fn connect(&mut self, socket: BorrowedFd<'_>, params: &DeviceParams) -> io::Result<u32> {
        assert!(params.block_bytes.is_power_of_two() && params.block_bytes >= 512);
        assert!(params.size_bytes.is_multiple_of(u64::from(params.block_bytes)));
        let attributes = vec![
            number(ATTR_SIZE_BYTES, params.size_bytes),
            number(ATTR_BLOCK_SIZE_BYTES, u64::from(params.block_bytes)),
            // A request may take as long as it takes: frozen I/O is not a dead server.
            number(ATTR_TIMEOUT, 0),
            number(ATTR_SERVER_FLAGS, u64::from(params.flags.to_wire(ReplyStyle::Simple))),
            number(ATTR_DEAD_CONN_TIMEOUT, params.dead_conn_timeout.as_secs()),
            sockets(socket),
            text(ATTR_BACKEND_IDENTIFIER, &params.backend),
        ];
        let answers = self.ask(CMD_CONNECT, attributes)?;
        let index = answers.iter().flat_map(|a| &a.payload.attributes).find_map(index_of);
        index.ok_or_else(|| io::Error::other("netlink: the kernel does not say which nbd device it took"))
    }

    /// Gives an existing device another socket, and its size. The socket is taken only if the one that it had is dead;
    /// otherwise the kernel closes this one.
    ///
    /// # Errors
    /// What the kernel says: EINVAL for a device that is not set up, or is another backend's.
    pub fn reconnect(&mut self, index: u32, socket: BorrowedFd<'_>, params: &DeviceParams) -> io::Result<()> {
        let attributes = vec![
            word(ATTR_INDEX, index),
            number(ATTR_SIZE_BYTES, params.size_bytes),
            number(ATTR_DEAD_CONN_TIMEOUT, params.dead_conn_timeout.as_secs()),
            sockets(socket),
            text(ATTR_BACKEND_IDENTIFIER, &params.backend),
        ];
        self.ask(CMD_RECONFIGURE, attributes).map(|_| ())
    }

    /// Gives an existing device another size.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn resize(&mut self, index: u32, params: &DeviceParams) -> io::Result<()> {
        let attributes = vec![
            word(ATTR_INDEX, index),
            number(ATTR_SIZE_BYTES, params.size_bytes),
            text(ATTR_BACKEND_IDENTIFIER, &params.backend),
        ];
        self.ask(CMD_RECONFIGURE, attributes).map(|_| ())
    }

    /// Ends a device: requests of those who still have it open fail.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn disconnect(&mut self, index: u32) -> io::Result<()> {
        self.ask(CMD_DISCONNECT, vec![word(ATTR_INDEX, index)]).map(|_| ())
    }

    fn ask(&mut self, command: u8, attributes: Vec<DefaultNla>) -> io::Result<Vec<GenlMessage<Nbd>>> {
        let mut message = GenlMessage::from_payload(Nbd { command, attributes });
        message.set_resolved_family_id(self.family);
        self.transact(message)
    }

    /// Sends one request and takes everything up to its acknowledgement.
    fn transact<F>(&mut self, message: GenlMessage<F>) -> io::Result<Vec<GenlMessage<F>>>
    where
        F: GenlFamily + Emitable + ParseableParametrized<[u8], GenlHeader> + Clone + std::fmt::Debug,
    {
        self.sequence = self.sequence.wrapping_add(1);
        let mut packet = NetlinkMessage::from(message);
        packet.header.flags = NLM_F_REQUEST | NLM_F_ACK;
        packet.header.sequence_number = self.sequence;
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut answers = Vec::new();
        // A request has one answer and an acknowledgement; more datagrams than this are somebody else's.
        for _ in 0..ANSWERS_MAX {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let answer = NetlinkMessage::<GenlMessage<F>>::deserialize(rest).map_err(io::Error::other)?;
                let len = (answer.header.length as usize).next_multiple_of(4).max(16);
                rest = rest.get(len..).unwrap_or_default();
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::Error(e) if e.code.is_none() => return Ok(answers),
                    NetlinkPayload::Error(e) => return Err(e.to_io()),
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    _ => {}
                }
            }
        }
        Err(io::Error::other("netlink: the kernel does not acknowledge"))
    }
}

/// Number of the nbd device that was made with this [`DeviceParams::backend`], if there is one.
pub fn find(backend: &str) -> Option<u32> {
    let entries = std::fs::read_dir("/sys/block").ok()?;
    let numbers = entries.flatten().filter_map(|entry| {
        let number = entry.file_name().to_str()?.strip_prefix("nbd")?.parse().ok()?;
        let said = std::fs::read_to_string(entry.path().join("backend")).ok()?;
        (said.trim_end_matches('\n') == backend).then_some(number)
    });
    numbers.min()
}

/// The node of a device.
pub fn node(index: u32) -> PathBuf {
    Path::new("/dev").join(format!("nbd{index}"))
}

/// Limits requests of a device to what the server takes at once.
///
/// # Errors
/// The attribute of the kernel cannot be written.
pub fn limit_requests(index: u32, max_bytes: u32) -> io::Result<()> {
    let path = format!("/sys/block/nbd{index}/queue/max_sectors_kb");
    let present: u32 = std::fs::read_to_string(&path)?.trim().parse().map_err(io::Error::other)?;
    let wanted = max_bytes >> 10;
    if present > wanted { std::fs::write(path, wanted.to_string()) } else { Ok(()) }
}

/// More than any request of this file is answered with.
const ANSWERS_MAX: usize = 16;

/// A message of the family.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Nbd {
    command: u8,
    attributes: Vec<DefaultNla>,
}

impl GenlFamily for Nbd {
    fn family_name() -> &'static str {
        FAMILY
    }

    fn command(&self) -> u8 {
        self.command
    }

    fn version(&self) -> u8 {
        VERSION
    }
}

impl Emitable for Nbd {
    fn buffer_len(&self) -> usize {
        self.attributes.as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.attributes.as_slice().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Nbd {
    fn parse_with_param(bytes: &[u8], header: GenlHeader) -> Result<Nbd, DecodeError> {
        let attributes =
            NlasIterator::new(bytes).map(|nla| DefaultNla::parse(&nla?)).collect::<Result<_, _>>()?;
        Ok(Nbd { command: header.cmd, attributes })
    }
}

fn number(kind: u16, value: u64) -> DefaultNla {
    DefaultNla::new(kind, value.to_ne_bytes().to_vec())
}

fn word(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_ne_bytes().to_vec())
}

fn text(kind: u16, value: &str) -> DefaultNla {
    let mut bytes = value.as_bytes().to_vec();
    bytes.push(0);
    DefaultNla::new(kind, bytes)
}

fn sockets(socket: BorrowedFd<'_>) -> DefaultNla {
    let fd = word(SOCK_FD, socket.as_raw_fd().cast_unsigned());
    nested(ATTR_SOCKETS, &nested(SOCK_ITEM, &fd))
}

/// Nested attributes have a flag in their kind.
fn nested(kind: u16, inner: &DefaultNla) -> DefaultNla {
    let mut bytes = vec![0; inner.buffer_len()];
    inner.emit(&mut bytes);
    DefaultNla::new(kind | netlink_packet_core::NLA_F_NESTED, bytes)
}

fn index_of(attribute: &DefaultNla) -> Option<u32> {
    if attribute.kind() != ATTR_INDEX || attribute.value_len() != 4 {
        return None;
    }
    let mut bytes = [0; 4];
    attribute.emit_value(&mut bytes);
    Some(u32::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_as_the_header_of_the_kernel_has_them() {
        let message = Nbd {
            command: CMD_CONNECT,
            attributes: vec![number(ATTR_SIZE_BYTES, 1 << 20), text(ATTR_BACKEND_IDENTIFIER, "r0")],
        };
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        let mut wanted = vec![12, 0, 2, 0];
        wanted.extend(1_048_576_u64.to_ne_bytes());
        wanted.extend([7, 0, 10, 0, b'r', b'0', 0, 0]);
        assert_eq!(bytes, wanted);
        let header = GenlHeader { cmd: CMD_CONNECT, version: VERSION };
        assert_eq!(Nbd::parse_with_param(&bytes, header).unwrap(), message);
    }

    #[test]
    fn a_socket_is_an_item_of_a_list() {
        let stdin = std::io::stdin();
        let list = sockets(std::os::fd::AsFd::as_fd(&stdin));
        let mut bytes = vec![0; list.buffer_len()];
        list.emit(&mut bytes);
        assert_eq!(bytes, [16, 0, 7, 0x80, 12, 0, 1, 0x80, 8, 0, 1, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn answers_cut_short_are_refused() {
        let header = GenlHeader { cmd: CMD_CONNECT, version: VERSION };
        for bytes in [&[8, 0, 1][..], &[3, 0, 1, 0], &[200, 0, 1, 0, 1, 2, 3, 4]] {
            assert!(Nbd::parse_with_param(bytes, header).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_kernel_without_the_driver_is_no_error() {
        // Wherever the tests run: either there is a driver or there is none.
        assert!(Driver::open().is_ok());
    }
}
