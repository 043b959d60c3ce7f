//! Signatures of messages, and the keys they are made with (failover 3.3).

use core::fmt::Write;

use hmac::{Hmac, KeyInit, Mac};
use model::failover::heartbeat::AuthKey;
use subtle::ConstantTimeEq;

/// Longest signature: that of sha1.
pub const SIGNATURE_BYTES_MAX: usize = 40;

/// The signature of `bytes` in hexadecimal digits, as it stands in messages.
pub fn sign(key: &AuthKey, bytes: &[u8]) -> String {
    macro_rules! hmac {
        ($hash:ty, $secret:expr) => {{
            let mut mac = <Hmac<$hash>>::new_from_slice($secret.as_bytes()).expect("any key length is taken");
            mac.update(bytes);
            hex(&mac.finalize().into_bytes())
        }};
    }
    let signature = match key {
        AuthKey::Crc => format!("{:x}", crc(bytes)),
        AuthKey::Md5(secret) => hmac!(md5::Md5, secret),
        AuthKey::Sha1(secret) => hmac!(sha1::Sha1, secret),
    };
    assert!(!signature.is_empty() && signature.len() <= SIGNATURE_BYTES_MAX);
    signature
}

/// Whether `signature` is that of `bytes`. How long it takes says nothing about where it differs.
pub fn is_signed(key: &AuthKey, bytes: &[u8], signature: &[u8]) -> bool {
    sign(key, bytes).as_bytes().ct_eq(signature).into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// CRC-32, most significant bit first, from zero on, inverted (failover 3.3).
fn crc(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x04c1_1db7;
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte) << 24, |crc, _| {
            if crc >> 31 == 1 { crc << 1 ^ POLYNOMIAL } else { crc << 1 }
        })
    };
    !bytes.iter().fold(0, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_of_the_standards() {
        // RFC 2202, test case 2 of each; the CRC is that of cksum(1) without the length at its end.
        let data = b"what do ya want for nothing?";
        let md5 = AuthKey::Md5("Jefe".into());
        assert_eq!(sign(&md5, data), "750c783e6ab0b503eaa86e310a5db738");
        let sha1 = AuthKey::Sha1("Jefe".into());
        assert_eq!(sign(&sha1, data), "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79");
        assert_eq!(sign(&AuthKey::Crc, b""), "ffffffff");
        assert_eq!(sign(&AuthKey::Crc, b"123456789"), "765e7680");
    }

    #[test]
    fn another_key_other_bytes_and_every_other_length_are_refused() {
        for key in [AuthKey::Crc, AuthKey::Md5("x".into()), AuthKey::Sha1("x".into())] {
            let signature = sign(&key, b"beat");
            assert!(is_signed(&key, b"beat", signature.as_bytes()));
            assert!(!is_signed(&key, b"beaT", signature.as_bytes()));
            assert!(!is_signed(&AuthKey::Sha1("y".into()), b"beat", signature.as_bytes()));
            for len in 0..signature.len() {
                assert!(!is_signed(&key, b"beat", &signature.as_bytes()[..len]));
            }
            assert!(!is_signed(&key, b"beat", (signature + "0").as_bytes()));
        }
    }
}
