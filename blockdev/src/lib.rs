//! Everything that touches the kernel for data: the io_uring, the buffer pool, backing disks, sockets and the
//! NBD server's protocol pieces.

pub mod backing;
pub mod nbd;
pub mod pool;
pub mod ring;
pub mod socket;
