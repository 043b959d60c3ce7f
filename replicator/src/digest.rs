//! Digests of block data: online verify, checksum-based resync, data integrity.
//!
//! The core names algorithms and compares digests; whoever owns the block data computes them.

use sha1::Digest as _;

/// A digest algorithm, by its Linux crypto name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DigestAlg {
    /// `crc32c`
    Crc32c,
    /// `md5`
    Md5,
    /// `sha1`
    Sha1,
    /// `sha256`
    Sha256,
    /// `sha512`
    Sha512,
}

impl DigestAlg {
    /// Every algorithm.
    pub const ALL: [DigestAlg; 5] =
        [DigestAlg::Crc32c, DigestAlg::Md5, DigestAlg::Sha1, DigestAlg::Sha256, DigestAlg::Sha512];

    /// The algorithm with this name.
    pub fn from_name(name: &str) -> Option<DigestAlg> {
        DigestAlg::ALL.into_iter().find(|a| a.name() == name)
    }

    /// The name.
    pub const fn name(self) -> &'static str {
        match self {
            DigestAlg::Crc32c => "crc32c",
            DigestAlg::Md5 => "md5",
            DigestAlg::Sha1 => "sha1",
            DigestAlg::Sha256 => "sha256",
            DigestAlg::Sha512 => "sha512",
        }
    }

    /// Length of a digest, in bytes. No two algorithms have the same.
    pub const fn len_bytes(self) -> u32 {
        match self {
            DigestAlg::Crc32c => 4,
            DigestAlg::Md5 => 16,
            DigestAlg::Sha1 => 20,
            DigestAlg::Sha256 => 32,
            DigestAlg::Sha512 => 64,
        }
    }

    /// The digest of `data`.
    pub fn of(self, data: &[u8]) -> Digest {
        match self {
            // As the kernel stores it.
            DigestAlg::Crc32c => Digest::known(&crc32c::crc32c(data).to_le_bytes()),
            DigestAlg::Md5 => Digest::known(&md5::Md5::digest(data)),
            DigestAlg::Sha1 => Digest::known(&sha1::Sha1::digest(data)),
            DigestAlg::Sha256 => Digest::known(&sha2::Sha256::digest(data)),
            DigestAlg::Sha512 => Digest::known(&sha2::Sha512::digest(data)),
        }
    }
}

/// Longest digest, in bytes.
const BYTES_MAX: usize = crate::wire::DIGEST_BYTES_MAX as usize;

/// A digest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Digest {
    len: u8,
    /// Zero behind `len`.
    bytes: [u8; BYTES_MAX],
}

impl Digest {
    /// A digest of these bytes; None if there are none, or more than any algorithm makes.
    pub fn new(from: &[u8]) -> Option<Digest> {
        if from.is_empty() || from.len() > BYTES_MAX {
            return None;
        }
        let mut bytes = [0; BYTES_MAX];
        bytes[..from.len()].copy_from_slice(from);
        Some(Digest { len: from.len() as u8, bytes })
    }

    fn known(from: &[u8]) -> Digest {
        Digest::new(from).expect("no algorithm makes longer digests")
    }

    /// What stands in place of the digest of a block that could not be read.
    pub fn unreadable(alg: DigestAlg) -> Digest {
        Digest { len: alg.len_bytes() as u8, bytes: [0; BYTES_MAX] }
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// It has the length that this algorithm makes.
    pub fn is_of(&self, alg: DigestAlg) -> bool {
        u32::from(self.len) == alg.len_bytes()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::collections::BTreeSet;
    use std::format;
    use std::string::String;

    use super::*;

    fn hex(d: Digest) -> String {
        d.as_bytes().iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn digests_of_the_usual_test_string() {
        let data = b"123456789";
        assert_eq!(hex(DigestAlg::Crc32c.of(data)), "839206e3", "0xe3069283, stored little-endian");
        assert_eq!(hex(DigestAlg::Md5.of(data)), "25f9e794323b453885f5181f1b624d0b");
        assert_eq!(hex(DigestAlg::Sha1.of(data)), "f7c3bc1d808e04732adf679965ccc34ca7ae3441");
        assert!(hex(DigestAlg::Sha256.of(data)).starts_with("15e2b0d3c33891ebb0f1ef609ec419420c20e320"));
        assert!(hex(DigestAlg::Sha512.of(data)).starts_with("d9e6762dd1c8eaf6d61b3c6192fc408d4d6d5f11"));
    }

    #[test]
    fn names_and_lengths_tell_them_apart() {
        let lengths: BTreeSet<u32> = DigestAlg::ALL.iter().map(|a| a.len_bytes()).collect();
        assert_eq!(lengths.len(), DigestAlg::ALL.len());
        for alg in DigestAlg::ALL {
            assert_eq!(DigestAlg::from_name(alg.name()), Some(alg));
            assert!(alg.of(b"").is_of(alg) && Digest::unreadable(alg).is_of(alg));
        }
        assert_eq!(DigestAlg::from_name("SHA1"), None);
        assert!(Digest::new(&[]).is_none() && Digest::new(&[0; 65]).is_none());
    }
}
