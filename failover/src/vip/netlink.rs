//! The kernel's interfaces, addresses, routes and rules, by rtnetlink(7).
//!
//! A [`Netlink`] belongs to the network namespace of the thread that opened it. Its requests need a tokio runtime with
//! timers; none of them waits longer than [`REQUEST_TIMEOUT`].

use std::io;
use std::time::Duration;

use futures_util::StreamExt;
use netlink_packet_core::{
    DefaultNla, ErrorMessage, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST,
    NetlinkMessage, NetlinkPayload, Nla, NlasIterator, Parseable,
};
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::sys::AsyncSocket;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

mod address;
mod apply;
mod link;
mod macvlan;
mod monitor;
mod route;
mod rule;

pub use address::{AddressOptions, FoundAddress, InterfaceAddress, Lifetime, source_among};
pub use link::{Link, LinkIndex, LinkKind};
pub use macvlan::MacvlanSpec;
pub use monitor::{Monitor, MonitorEvent};
pub use route::{MAIN_TABLE, RouteSpec};
pub use rule::RuleSpec;

/// How long the kernel may take for one request. It answers in microseconds unless somebody holds its configuration lock; an
/// answer may also be lost when the socket's buffer overflows.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a dump that was interrupted by a change is asked for again before that is an error.
pub const DUMP_ATTEMPTS: usize = 16;

/// Whose routes and rules ours are in the kernel's tables: RTPROT_KEEPALIVED (failover 1.15), which operators and their
/// routing daemons know as that of virtual addresses.
pub const ROUTE_PROTOCOL: u8 = 18;

/// IPv4 or IPv6.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// That of an address.
    pub fn of(address: std::net::IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

/// Why something could not be done with the kernel's tables.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket can be had.
    #[error("netlink: no socket: {0}")]
    Open(#[source] io::Error),
    /// The kernel refuses.
    #[error("cannot {what}: {source}{}", explained(.explanation))]
    Refused {
        /// What was asked for, and where.
        what: String,
        /// The error number and its text.
        #[source]
        source: io::Error,
        /// What the kernel adds to the number.
        explanation: String,
    },
    /// The kernel does not answer within [`REQUEST_TIMEOUT`]; what was asked for may have been done.
    #[error("cannot {what}: the kernel does not answer")]
    Timeout {
        /// What was asked for, and where.
        what: String,
    },
    /// The socket is gone.
    #[error("cannot {what}: the netlink socket is closed")]
    Closed {
        /// What was asked for, and where.
        what: String,
    },
    /// A dump was interrupted by changes [`DUMP_ATTEMPTS`] times in a row.
    #[error("cannot {what}: it keeps changing meanwhile")]
    KeepsChanging {
        /// What was asked for, and where.
        what: String,
    },
    /// Something of that name is there already and is not ours.
    #[error("cannot {what}: {why}")]
    InTheWay {
        /// What was asked for, and where.
        what: String,
        /// What is there.
        why: String,
    },
    /// A setting below /proc/sys cannot be written.
    #[error("cannot write {path}: {source}")]
    Sysctl {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl NetlinkError {
    /// The number of the kernel's refusal.
    pub fn errno(&self) -> Option<i32> {
        match self {
            NetlinkError::Refused { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// Whether the kernel says that what should be removed is not there: no interface, address, route or rule like that.
    pub fn is_absent(&self) -> bool {
        matches!(self.errno(), Some(libc::ENODEV | libc::EADDRNOTAVAIL | libc::ESRCH | libc::ENOENT))
    }
}

/// The kernel's tables of one network namespace.
pub struct Netlink {
    handle: rtnetlink::Handle,
    /// Goes on as long as it is not dropped.
    _connection: Connection,
}

/// Who writes requests and reads answers.
enum Connection {
    /// A task of the runtime that the requests are made in.
    Task(JoinHandle<()>),
    /// A thread, which ends when this is gone.
    Thread(#[allow(dead_code, reason = "it is only dropped")] oneshot::Sender<()>),
}

impl Netlink {
    /// Opens a socket in the network namespace of this thread. Has to be called within a tokio runtime.
    ///
    /// # Errors
    /// No socket can be had.
    pub fn open() -> Result<Netlink, NetlinkError> {
        let (connection, handle) = connect()?;
        Ok(Netlink { handle, _connection: Connection::Task(tokio::spawn(connection)) })
    }

    /// The same with a thread of its own for the socket. The kernel does what it is asked while the request is written, and
    /// whoever writes stands still as long as anybody on this machine holds the lock of its network configuration.
    ///
    /// # Errors
    /// No thread or no socket can be had.
    pub fn open_apart() -> Result<Netlink, NetlinkError> {
        let (tell, told) = std::sync::mpsc::channel();
        let (ends, ended) = oneshot::channel::<()>();
        let serve = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(e) => return drop(tell.send(Err(NetlinkError::Open(e)))),
            };
            runtime.block_on(async {
                match connect() {
                    Ok((connection, handle)) => {
                        let _ = tell.send(Ok(handle));
                        tokio::select! {
                            () = connection => {}
                            _ = ended => {}
                        }
                    }
                    Err(e) => drop(tell.send(Err(e))),
                }
            });
        };
        std::thread::Builder::new().name("netlink".to_owned()).spawn(serve).map_err(NetlinkError::Open)?;
        let closed = || NetlinkError::Closed { what: "open netlink".to_owned() };
        let handle = told.recv().map_err(|_| closed())??;
        Ok(Netlink { handle, _connection: Connection::Thread(ends) })
    }
    /// Has something changed, and waits until it is.
    async fn change(
        &self,
        what: impl Fn() -> String,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), NetlinkError> {
        self.transact(&what, message, NLM_F_REQUEST | NLM_F_ACK | flags).await.map(|_| ())
    }

    /// Asks for one thing.
    async fn ask(
        &self,
        what: impl Fn() -> String,
        message: RouteNetlinkMessage,
    ) -> Result<Option<RouteNetlinkMessage>, NetlinkError> {
        let answer = self.transact(&what, message, NLM_F_REQUEST).await?;
        Ok(answer.messages.into_iter().next())
    }

    /// Asks for a table, again if it has changed while it was read.
    async fn dump(
        &self,
        what: impl Fn() -> String,
        message: &RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        for _ in 0..DUMP_ATTEMPTS {
            let answer = self.transact(&what, message.clone(), NLM_F_REQUEST | NLM_F_DUMP).await?;
            if !answer.interrupted {
                return Ok(answer.messages);
            }
        }
        Err(NetlinkError::KeepsChanging { what: what() })
    }

    async fn transact(
        &self,
        what: &impl Fn() -> String,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Answer, NetlinkError> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = flags;
        let stream = self.handle.clone().request(request);
        let mut stream = stream.map_err(|_| NetlinkError::Closed { what: what() })?;
        let mut answer = Answer { messages: Vec::new(), interrupted: false };
        let collect = async {
            let mut ended = false;
            let single = flags & (NLM_F_ACK | NLM_F_DUMP) == 0;
            while let Some(message) = stream.next().await {
                answer.interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => {
                        answer.messages.push(inner);
                        ended |= single;
                    }
                    NetlinkPayload::Done(_) => ended = true,
                    NetlinkPayload::Error(e) if e.code.is_none() => ended = true,
                    NetlinkPayload::Error(e) => return Err(refused(what(), &e, message.header.flags)),
                    _ => {}
                }
            }
            if ended { Ok(()) } else { Err(NetlinkError::Closed { what: what() }) }
        };
        match tokio::time::timeout(REQUEST_TIMEOUT, collect).await {
            Ok(Ok(())) => Ok(answer),
            Ok(Err(e)) => Err(e),
            Err(_) => Err(NetlinkError::Timeout { what: what() }),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Connection::Task(task) = self {
            task.abort();
        }
    }
}

/// A socket in the network namespace of this thread, and what its requests are made by.
fn connect() -> Result<(impl Future<Output = ()> + Send + 'static, rtnetlink::Handle), NetlinkError> {
    let (mut connection, handle, _) = rtnetlink::new_connection().map_err(NetlinkError::Open)?;
    // The last message of a dump says too whether the dump was interrupted; an acknowledgement tells "done" from a
    // connection that has ended.
    connection.set_forward_done(true);
    connection.set_forward_ack(true);
    let socket = connection.socket_mut().socket_mut();
    // Both only make answers better, and older kernels lack them.
    let _ = socket.set_ext_ack(true);
    let _ = socket.set_netlink_get_strict_chk(true);
    Ok((connection, handle))
}

struct Answer {
    messages: Vec<RouteNetlinkMessage>,
    interrupted: bool,
}

/// Attribute of an acknowledgement with a text (`NLMSGERR_ATTR_MSG`).
const EXPLANATION: u16 = 1;
/// Length of the request's header, which is repeated before the attributes (`struct nlmsghdr`).
const REPEATED_HEADER_BYTES: usize = 16;

fn refused(what: String, error: &ErrorMessage, flags: u16) -> NetlinkError {
    NetlinkError::Refused { what, source: error.to_io(), explanation: explanation(error, flags) }
}

/// The kernel's own words: behind the whole request, which is repeated unless the socket asks for its header only.
fn explanation(error: &ErrorMessage, flags: u16) -> String {
    if flags & NLM_F_ACK_TLVS == 0 {
        return String::new();
    }
    let length = error.header.get(..4).and_then(|l| <[u8; 4]>::try_from(l).ok()).map(u32::from_ne_bytes);
    let repeated = match length {
        Some(length) if flags & netlink_packet_core::NLM_F_CAPPED == 0 => {
            (length as usize).next_multiple_of(4).max(REPEATED_HEADER_BYTES)
        }
        _ => REPEATED_HEADER_BYTES,
    };
    let attributes = error.header.get(repeated..).unwrap_or_default();
    for attribute in NlasIterator::new(attributes).flatten() {
        if attribute.kind() != EXPLANATION {
            continue;
        }
        let Ok(attribute) = DefaultNla::parse(&attribute) else { continue };
        let mut text = vec![0; attribute.value_len()];
        attribute.emit_value(&mut text);
        return String::from_utf8_lossy(&text).trim_end_matches('\0').to_owned();
    }
    String::new()
}

fn explained(explanation: &str) -> String {
    if explanation.is_empty() { String::new() } else { format!(": {explanation}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroI32;

    fn error_with(attributes: &[u8], request_bytes: u32) -> ErrorMessage {
        let mut header = request_bytes.to_ne_bytes().to_vec();
        header.resize(request_bytes as usize, 0);
        header.extend_from_slice(attributes);
        let mut error = ErrorMessage::default();
        error.code = NonZeroI32::new(-libc::EINVAL);
        error.header = header;
        error
    }

    #[test]
    fn the_kernels_own_words_are_in_the_error() {
        let error = error_with(&[7, 0, 1, 0, b'n', b'o', 0, 0], 24);
        let said = refused("add address 10.0.0.1/32 to eth0".into(), &error, NLM_F_ACK_TLVS).to_string();
        assert_eq!(said, "cannot add address 10.0.0.1/32 to eth0: Invalid argument (os error 22): no");
    }

    #[test]
    fn words_cut_short_are_left_out() {
        for attributes in [&[][..], &[7], &[3, 0, 1, 0], &[200, 0, 1, 0, b'n'], &[8, 0, 2, 0, 1, 1, 1, 1]] {
            let error = error_with(attributes, 16);
            assert_eq!(explanation(&error, NLM_F_ACK_TLVS), "", "{attributes:?}");
        }
        let mut lying = error_with(&[7, 0, 1, 0, b'n', b'o', 0, 0], 16);
        lying.header[..4].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(explanation(&lying, NLM_F_ACK_TLVS), "");
        assert_eq!(explanation(&ErrorMessage::default(), NLM_F_ACK_TLVS), "");
    }
}
