//! A socket for ready-made frames, such as gratuitous ARP: packet(7).

#![allow(unsafe_code, reason = "system calls that no crate wraps")]

use std::io;
use std::os::fd::AsRawFd;

use socket2::{Domain, Socket, Type};

use crate::vip::netlink::LinkIndex;

/// Octets of an Ethernet header.
const ETHERNET_HEADER_BYTES: usize = 14;

/// Sends frames on any interface of a network namespace; receives nothing.
pub struct FrameSocket {
    socket: Socket,
}

impl FrameSocket {
    /// Opens a socket in the network namespace of this thread.
    ///
    /// # Errors
    /// No socket can be had.
    pub fn open() -> io::Result<FrameSocket> {
        // Without a protocol nothing is received.
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), None)?;
        Ok(FrameSocket { socket })
    }

    /// Sends one frame, Ethernet header included; never waits.
    ///
    /// # Errors
    /// No Ethernet header (EINVAL), the interface is down (ENETDOWN) or gone (ENXIO), and what else the kernel says.
    pub fn send(&self, link: LinkIndex, frame: &[u8]) -> io::Result<()> {
        let Some(header) = frame.first_chunk::<ETHERNET_HEADER_BYTES>() else {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        };
        let mut address = [0; 8];
        address[..6].copy_from_slice(&header[..6]);
        let address = libc::sockaddr_ll {
            sll_family: u16::try_from(libc::AF_PACKET).unwrap_or_default(),
            sll_protocol: u16::from_ne_bytes([header[12], header[13]]),
            sll_ifindex: i32::try_from(link.0).unwrap_or_default(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr: address,
        };
        let length = libc::socklen_t::try_from(size_of_val(&address)).unwrap_or_default();
        // SAFETY: the descriptor is open; both pointers are to memory that outlives the call and has the lengths said.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const address).cast(),
                length,
            )
        };
        match usize::try_from(sent) {
            Ok(bytes) if bytes == frame.len() => Ok(()),
            Ok(_) => Err(io::Error::from(io::ErrorKind::WriteZero)),
            Err(_) => Err(io::Error::last_os_error()),
        }
    }
}
