//! A small blocking NBD client that checks every byte of the answers.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How replies shall look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replies {
    Simple,
    Structured,
}

/// A connection in the transmission phase.
pub struct Client {
    pub socket: UnixStream,
    replies: Replies,
    cookie: u64,
    pub size_bytes: u64,
    pub flags: u16,
}

/// Error number of a refused request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused(pub u32);

pub const READ: u16 = 0;
pub const WRITE: u16 = 1;
pub const DISCONNECT: u16 = 2;
pub const FLUSH: u16 = 3;
pub const TRIM: u16 = 4;
pub const WRITE_ZEROES: u16 = 6;
pub const FUA: u16 = 1;

impl Client {
    /// Connects to `name`; an error is the text of the server's refusal.
    pub fn open(path: &Path, name: &str, replies: Replies) -> Result<Client, String> {
        let mut socket = UnixStream::connect(path).map_err(|e| e.to_string())?;
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut greeting = [0; 18];
        socket.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
        assert_eq!(greeting[16..], [0, 3]);
        socket.write_all(&3u32.to_be_bytes()).unwrap();
        if replies == Replies::Structured {
            option(&mut socket, 8, &[]);
            assert_eq!(option_reply(&mut socket, 8).0, 1);
        }
        let mut go = (name.len() as u32).to_be_bytes().to_vec();
        go.extend_from_slice(name.as_bytes());
        go.extend_from_slice(&[0, 0]);
        option(&mut socket, 7, &go);
        let (mut size_bytes, mut flags) = (0, 0);
        loop {
            let (kind, data) = option_reply(&mut socket, 7);
            match kind {
                1 => break,
                3 if data[..2] == [0, 0] => {
                    size_bytes = u64::from_be_bytes(data[2..10].try_into().unwrap());
                    flags = u16::from_be_bytes(data[10..12].try_into().unwrap());
                }
                3 => {}
                _ => return Err(String::from_utf8(data).unwrap()),
            }
        }
        Ok(Client { socket, replies, cookie: 0, size_bytes, flags })
    }

    /// Sends a request's header and data; the answer is taken by [`finish`](Self::finish).
    pub fn start(&mut self, command: u16, flags: u16, (offset, len): (u64, u32), data: &[u8]) -> u64 {
        self.cookie += 1;
        let mut header = 0x2560_9513u32.to_be_bytes().to_vec();
        header.extend_from_slice(&flags.to_be_bytes());
        header.extend_from_slice(&command.to_be_bytes());
        header.extend_from_slice(&self.cookie.to_be_bytes());
        header.extend_from_slice(&offset.to_be_bytes());
        header.extend_from_slice(&len.to_be_bytes());
        self.socket.write_all(&header).unwrap();
        self.socket.write_all(data).unwrap();
        self.cookie
    }

    /// Takes the answer of the only request under way.
    pub fn finish(&mut self, cookie: u64, read: Option<(u64, u32)>) -> Result<Vec<u8>, Refused> {
        match self.replies {
            Replies::Simple => self.finish_simple(cookie, read),
            Replies::Structured => self.finish_structured(cookie, read),
        }
    }

    fn finish_simple(&mut self, cookie: u64, read: Option<(u64, u32)>) -> Result<Vec<u8>, Refused> {
        let header: [u8; 16] = self.take();
        assert_eq!(header[..4], 0x6744_6698u32.to_be_bytes());
        assert_eq!(header[8..], cookie.to_be_bytes());
        let errno = u32::from_be_bytes(header[4..8].try_into().unwrap());
        if errno != 0 {
            return Err(Refused(errno));
        }
        let mut data = vec![0; read.map_or(0, |(_, len)| len as usize)];
        self.socket.read_exact(&mut data).unwrap();
        Ok(data)
    }

    fn finish_structured(&mut self, cookie: u64, read: Option<(u64, u32)>) -> Result<Vec<u8>, Refused> {
        let (start, len) = read.unwrap_or((0, 0));
        let mut data = vec![0; len as usize];
        let mut missing = len;
        loop {
            let header: [u8; 20] = self.take();
            assert_eq!(header[..4], 0x668e_33efu32.to_be_bytes());
            assert_eq!(header[8..16], cookie.to_be_bytes());
            let done = header[5] == 1;
            let kind = u16::from_be_bytes(header[6..8].try_into().unwrap());
            let mut payload = vec![0; u32::from_be_bytes(header[16..].try_into().unwrap()) as usize];
            self.socket.read_exact(&mut payload).unwrap();
            match kind {
                0 => assert!(payload.is_empty()),
                1 => {
                    let at = (u64::from_be_bytes(payload[..8].try_into().unwrap()) - start) as usize;
                    data[at..at + payload.len() - 8].copy_from_slice(&payload[8..]);
                    missing -= payload.len() as u32 - 8;
                }
                _ => return Err(Refused(u32::from_be_bytes(payload[..4].try_into().unwrap()))),
            }
            if done {
                assert_eq!(missing, 0, "a read is answered completely");
                return Ok(data);
            }
        }
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.socket.read_exact(&mut bytes).unwrap();
        bytes
    }

    pub fn write(&mut self, offset: u64, data: &[u8], flags: u16) -> Result<(), Refused> {
        let cookie = self.start(WRITE, flags, (offset, data.len() as u32), data);
        self.finish(cookie, None).map(|_| ())
    }

    pub fn read(&mut self, offset: u64, len: u32) -> Result<Vec<u8>, Refused> {
        let cookie = self.start(READ, 0, (offset, len), &[]);
        self.finish(cookie, Some((offset, len)))
    }

    /// A request without data.
    pub fn plain(&mut self, command: u16, flags: u16, offset: u64, len: u32) -> Result<(), Refused> {
        let cookie = self.start(command, flags, (offset, len), &[]);
        self.finish(cookie, None).map(|_| ())
    }

    pub fn flush(&mut self) -> Result<(), Refused> {
        self.plain(FLUSH, 0, 0, 0)
    }

    /// Says goodbye and waits until the server has closed.
    pub fn close(mut self) {
        self.start(DISCONNECT, 0, (0, 0), &[]);
        let mut rest = Vec::new();
        self.socket.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty());
    }
}

fn option(socket: &mut UnixStream, option: u32, data: &[u8]) {
    let mut bytes = b"IHAVEOPT".to_vec();
    bytes.extend_from_slice(&option.to_be_bytes());
    bytes.extend_from_slice(&(data.len() as u32).to_be_bytes());
    bytes.extend_from_slice(data);
    socket.write_all(&bytes).unwrap();
}

fn option_reply(socket: &mut UnixStream, option: u32) -> (u32, Vec<u8>) {
    let mut header = [0; 20];
    socket.read_exact(&mut header).unwrap();
    assert_eq!(header[..8], 0x0003_e889_0455_65a9u64.to_be_bytes());
    assert_eq!(header[8..12], option.to_be_bytes());
    let mut data = vec![0; u32::from_be_bytes(header[16..].try_into().unwrap()) as usize];
    socket.read_exact(&mut data).unwrap();
    (u32::from_be_bytes(header[12..16].try_into().unwrap()), data)
}
