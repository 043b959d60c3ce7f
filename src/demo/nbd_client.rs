//! A small blocking NBD client: one connection, one request at a time. It exists to look at the exported device
//! from outside, with eyes that share no code with the server.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A connection to an export, ready for requests.
#[derive(Debug)]
pub struct NbdClient {
    stream: UnixStream,
    size_bytes: u64,
    cookie: u64,
}

/// Why a request has no good answer.
#[derive(Debug, thiserror::Error)]
pub enum NbdError {
    /// The connection broke: whether the request was carried out is unknown.
    #[error("connection to the device lost: {0}")]
    Lost(#[from] io::Error),
    /// The device answered with an error.
    #[error("the device answered with error {0}")]
    Refused(u32),
    /// The server does not speak NBD as expected.
    #[error("unexpected answer of the NBD server: {0}")]
    Protocol(&'static str),
}

const GREETING: u64 = 0x4e42_444d_4147_4943;
const OPTION: u64 = 0x4948_4156_454F_5054;
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const REQUEST: u32 = 0x2560_9513;
const SIMPLE_REPLY: u32 = 0x6744_6698;

const FIXED_NEWSTYLE: u16 = 1;
const CLIENT_FIXED_NEWSTYLE_NO_ZEROES: u32 = 3;
const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const INFO_EXPORT: u16 = 0;
/// Longest answer to an option that makes sense.
const OPTION_BYTES_MAX: u32 = 64 << 10;

const CMD_READ: u16 = 0;
const CMD_WRITE: u16 = 1;
const CMD_DISCONNECT: u16 = 2;
const CMD_FLUSH: u16 = 3;

/// A device that does not answer for so long counts as lost.
const ANSWER_MAX: Duration = Duration::from_secs(60);

impl NbdClient {
    /// Connects to the unix socket and opens the export.
    ///
    /// # Errors
    /// Nobody listens, or the export is refused (a Secondary refuses).
    pub fn open(socket: &Path, export: &str) -> Result<NbdClient, NbdError> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.set_write_timeout(Some(ANSWER_MAX))?;
        let mut client = NbdClient { stream, size_bytes: 0, cookie: 0 };
        client.greet()?;
        client.go(export)?;
        Ok(client)
    }

    /// Size of the device.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Reads `buffer.len()` bytes at `offset_bytes`.
    ///
    /// # Errors
    /// See [`NbdError`].
    pub fn read(&mut self, offset_bytes: u64, buffer: &mut [u8]) -> Result<(), NbdError> {
        self.request(CMD_READ, offset_bytes, length(buffer)?, &[])?;
        self.reply()?;
        Ok(self.stream.read_exact(buffer)?)
    }

    /// Writes `data` at `offset_bytes`; `Ok` means acknowledged.
    ///
    /// # Errors
    /// See [`NbdError`].
    pub fn write(&mut self, offset_bytes: u64, data: &[u8]) -> Result<(), NbdError> {
        self.request(CMD_WRITE, offset_bytes, length(data)?, data)?;
        self.reply()
    }

    /// Everything acknowledged is on stable storage.
    ///
    /// # Errors
    /// See [`NbdError`].
    pub fn flush(&mut self) -> Result<(), NbdError> {
        self.request(CMD_FLUSH, 0, 0, &[])?;
        self.reply()
    }

    /// Says goodbye.
    pub fn close(mut self) {
        let _ = self.request(CMD_DISCONNECT, 0, 0, &[]);
    }

    fn greet(&mut self) -> Result<(), NbdError> {
        if self.u64()? != GREETING || self.u64()? != OPTION {
            return Err(NbdError::Protocol("not an NBD server"));
        }
        if self.u16()? & FIXED_NEWSTYLE == 0 {
            return Err(NbdError::Protocol("an old server"));
        }
        Ok(self.stream.write_all(&CLIENT_FIXED_NEWSTYLE_NO_ZEROES.to_be_bytes())?)
    }

    fn go(&mut self, export: &str) -> Result<(), NbdError> {
        let name_bytes = length(export.as_bytes())?;
        let mut option = Vec::new();
        option.extend(OPTION.to_be_bytes());
        option.extend(OPT_GO.to_be_bytes());
        option.extend((name_bytes + 6).to_be_bytes());
        option.extend(name_bytes.to_be_bytes());
        option.extend(export.as_bytes());
        option.extend(0u16.to_be_bytes());
        self.stream.write_all(&option)?;
        loop {
            if self.u64()? != OPTION_REPLY || self.u32()? != OPT_GO {
                return Err(NbdError::Protocol("an answer to another option"));
            }
            let kind = self.u32()?;
            let len = self.u32()?;
            if len > OPTION_BYTES_MAX {
                return Err(NbdError::Protocol("an endless answer to an option"));
            }
            let mut body = vec![0; len as usize];
            self.stream.read_exact(&mut body)?;
            match kind {
                REP_ACK if self.size_bytes > 0 => return Ok(()),
                REP_ACK => return Err(NbdError::Protocol("an export without a size")),
                REP_INFO => self.take_info(&body),
                refused => return Err(NbdError::Refused(refused)),
            }
        }
    }

    fn take_info(&mut self, body: &[u8]) {
        let Some((kind, rest)) = body.split_first_chunk::<2>() else { return };
        if u16::from_be_bytes(*kind) == INFO_EXPORT
            && let Some((size, _)) = rest.split_first_chunk::<8>()
        {
            self.size_bytes = u64::from_be_bytes(*size);
        }
    }

    fn request(&mut self, kind: u16, offset: u64, len_bytes: u32, data: &[u8]) -> Result<(), NbdError> {
        self.cookie += 1;
        let mut bytes = Vec::with_capacity(28 + data.len());
        bytes.extend(REQUEST.to_be_bytes());
        bytes.extend(0u16.to_be_bytes());
        bytes.extend(kind.to_be_bytes());
        bytes.extend(self.cookie.to_be_bytes());
        bytes.extend(offset.to_be_bytes());
        bytes.extend(len_bytes.to_be_bytes());
        bytes.extend(data);
        Ok(self.stream.write_all(&bytes)?)
    }

    fn reply(&mut self) -> Result<(), NbdError> {
        if self.u32()? != SIMPLE_REPLY {
            return Err(NbdError::Protocol("not a simple reply"));
        }
        let error = self.u32()?;
        if self.u64()? != self.cookie {
            return Err(NbdError::Protocol("an answer to another request"));
        }
        if error == 0 { Ok(()) } else { Err(NbdError::Refused(error)) }
    }

    fn u16(&mut self) -> io::Result<u16> {
        self.bytes().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> io::Result<u32> {
        self.bytes().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> io::Result<u64> {
        self.bytes().map(u64::from_be_bytes)
    }

    fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

fn length(data: &[u8]) -> Result<u32, NbdError> {
    u32::try_from(data.len()).map_err(|_| NbdError::Protocol("a request of more than 4 GiB"))
}
