//! A socket that speaks with nf_tables.

use std::io;
use std::time::Duration;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

use super::message::{BATCH_MAX_ELEMENTS, Part, Request, answers, table_handle};
use super::{GateError, Guarded, TableFamily};

/// Octets of one datagram that is read at most: an answer without what it answers, or a table.
const DATAGRAM_MAX_BYTES: usize = 8 << 10;

/// Datagrams that are read after a request at most; the kernel sends one for each message, and what tells of a table.
const DATAGRAMS_MAX: usize = 64;

/// The elements of the gate, in the network namespace of the thread that opened it. Every call is done when it returns, and
/// stands still as long as somebody else changes a ruleset there.
pub struct NfTables {
    socket: Socket,
    next: u32,
    /// Of the table that was told of last.
    handle: Option<u64>,
}

/// Both tables, as the kernel tells them from all others: somebody may load a ruleset with tables of the same name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tables([u64; 2]);

impl NfTables {
    /// Opens a socket.
    ///
    /// # Errors
    /// No socket can be had.
    pub fn open() -> Result<NfTables, GateError> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            // The kernel answers while it is asked: what cannot be read then does not come.
            socket.set_non_blocking(true)?;
            // Else an error would come with the whole request.
            socket.set_cap_ack(true)?;
            Ok(socket)
        };
        Ok(NfTables { socket: open().map_err(GateError::Open)?, next: 1, handle: None })
    }

    /// These answer for `time` from now on.
    ///
    /// # Errors
    /// [`GateError::Gone`], if the sets are not there, and what else the kernel says. Some may answer then.
    pub fn renew(&mut self, addresses: &[Guarded], time: Duration) -> Result<(), GateError> {
        let what = "renew an element";
        addresses
            .chunks(BATCH_MAX_ELEMENTS)
            .try_for_each(|some| self.elements(what, |first| Request::renew(first, some, time)))
    }

    /// These answer no more.
    ///
    /// # Errors
    /// [`GateError::Gone`], if the sets are not there: then nothing is guarded.
    pub fn close(&mut self, addresses: &[Guarded]) -> Result<(), GateError> {
        let what = "delete an element";
        addresses
            .chunks(BATCH_MAX_ELEMENTS)
            .try_for_each(|some| self.elements(what, |first| Request::close(first, some)))
    }

    /// Which tables are there; none: not both.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn look(&mut self) -> Result<Option<Tables>, GateError> {
        let what = "find one";
        let mut tables = Tables([0; 2]);
        for (handle, family) in tables.0.iter_mut().zip(TableFamily::ALL) {
            self.handle = None;
            match self.ask(what, &Request::look(self.next, family))? {
                None => *handle = self.handle.ok_or(GateError::NoAnswer { what })?,
                Some((_, libc::ENOENT)) => return Ok(None),
                Some((_, errno)) => return Err(refused(what, errno)),
            }
        }
        Ok(Some(tables))
    }

    /// Removes both tables, if they are there.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remove(&mut self) -> Result<(), GateError> {
        for family in TableFamily::ALL {
            let what = "delete one";
            match self.ask(what, &Request::delete_table(self.next, family))? {
                None | Some((_, libc::ENOENT)) => {}
                Some((_, errno)) => return Err(refused(what, errno)),
            }
        }
        Ok(())
    }

    fn elements(&mut self, what: &'static str, request: impl Fn(u32) -> Request) -> Result<(), GateError> {
        for attempt in 0.. {
            match self.ask(what, &request(self.next))? {
                None => break,
                // It expired after it had been found there, which cannot happen twice within a moment.
                Some((Some(Part::DeleteElements), libc::ENOENT)) if attempt == 0 => {}
                Some((_, libc::ENOENT)) => return Err(GateError::Gone),
                Some((_, errno)) => return Err(refused(what, errno)),
            }
        }
        Ok(())
    }

    /// Sends a request; gives the first refusal.
    fn ask(
        &mut self,
        what: &'static str,
        request: &Request,
    ) -> Result<Option<(Option<Part>, i32)>, GateError> {
        self.next = request.next;
        if request.parts.is_empty() {
            return Ok(None);
        }
        let failed = |source| GateError::Refused { what, source };
        let sent_bytes = self.socket.send(&request.bytes, 0).map_err(failed)?;
        let mut missing = request.parts.clone();
        let mut refusal = None;
        for _ in 0..DATAGRAMS_MAX {
            let mut datagram = Vec::with_capacity(DATAGRAM_MAX_BYTES);
            match self.socket.recv_from(&mut datagram, 0) {
                // Only the kernel is believed.
                Ok((_, sender)) if sender.port_number() != 0 => continue,
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(failed(e)),
            }
            let (Ok(answers), Ok(handle)) = (answers(&datagram), table_handle(&datagram)) else {
                return Err(GateError::NoAnswer { what });
            };
            self.handle = handle.or(self.handle);
            for answer in answers {
                let part = missing.iter().position(|(number, _)| *number == answer.number);
                let part = part.map(|at| missing.swap_remove(at).1);
                if answer.errno != 0 && refusal.is_none() {
                    refusal = Some((part, answer.errno));
                }
            }
        }
        match refusal {
            None if !missing.is_empty() || sent_bytes != request.bytes.len() => {
                Err(GateError::NoAnswer { what })
            }
            refusal => Ok(refusal),
        }
    }
}

fn refused(what: &'static str, errno: i32) -> GateError {
    GateError::Refused { what, source: io::Error::from_raw_os_error(errno) }
}
