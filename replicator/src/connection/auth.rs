//! Version and feature negotiation, and the challenge/response authentication (drbd-wire 3.2, 3.3).

use alloc::format;
use alloc::vec::Vec;

use hmac::{Hmac, KeyInit, Mac};
use subtle::ConstantTimeEq;

use super::Phase;
use crate::action::{Actions, LogLevel};
use crate::config::{Auth, HmacAlg};
use crate::resource::Resource;
use crate::wire::{
    AuthChallenge, AuthResponse, CHALLENGE_BYTES, ConnectionFeatures, PROTOCOL_VERSION_MAX,
    PROTOCOL_VERSION_MIN, Packet, Sock,
};

/// By net-options, while the peer's packet was waited for.
const SECRET_IS_GONE: &str = "the shared-secret was taken away in the middle of the authentication";

/// HMAC of `message` under the shared secret.
pub(crate) fn mac(auth: &Auth, message: &[u8]) -> Vec<u8> {
    macro_rules! with {
        ($hash:ty) => {{
            let mut h = <Hmac<$hash>>::new_from_slice(&auth.secret).expect("any key length is taken");
            h.update(message);
            h.finalize().into_bytes().to_vec()
        }};
    }
    match auth.alg {
        HmacAlg::Md5 => with!(md5::Md5),
        HmacAlg::Sha1 => with!(sha1::Sha1),
        HmacAlg::Sha256 => with!(sha2::Sha256),
        HmacAlg::Sha512 => with!(sha2::Sha512),
    }
}

impl Resource {
    pub(crate) fn receive_features(&mut self, f: ConnectionFeatures, out: &mut Actions) {
        let peer_max = if f.version_max == 0 { f.version_min } else { f.version_max };
        if f.version_min > peer_max {
            let why =
                format!("the peer announces the impossible protocol versions {}..{peer_max}", f.version_min);
            self.handshake_retry(&why, out);
            return;
        }
        let agreed = peer_max.min(PROTOCOL_VERSION_MAX);
        if agreed < PROTOCOL_VERSION_MIN || f.version_min > PROTOCOL_VERSION_MAX {
            let why = format!(
                "incompatible protocol versions: the peer speaks {}..{peer_max}, this node {PROTOCOL_VERSION_MIN}..\
                 {PROTOCOL_VERSION_MAX}",
                f.version_min
            );
            self.end_in_standalone(&why, out);
            return;
        }
        self.conn.agreed_version = agreed;
        self.conn.features = f.features.and(self.offered_features());
        let text = format!("Handshake successful: Agreed network protocol version {agreed}");
        self.log_conn(LogLevel::Info, text, out);
        if self.net().auth.is_none() {
            self.begin_params(out);
            return;
        }
        self.conn.challenge = self.rng.fill64();
        let challenge = self.conn.challenge;
        self.send_on(Sock::Data, 0, &Packet::AuthChallenge(AuthChallenge(&challenge)), None, out);
        self.conn.phase = Phase::Challenge;
        self.arm_handshake();
    }

    pub(crate) fn receive_challenge(&mut self, challenge: &[u8], out: &mut Actions) {
        // spec: drbd-wire 3.3, a reflected challenge would let the peer answer with our own response
        if challenge[..CHALLENGE_BYTES.min(challenge.len())] == self.conn.challenge {
            self.end_in_standalone("Authentication of peer failed: it sent our own challenge back", out);
            return;
        }
        let Some(auth) = self.net().auth.as_ref() else {
            self.handshake_retry(SECRET_IS_GONE, out);
            return;
        };
        let response = mac(auth, challenge);
        self.send_on(Sock::Data, 0, &Packet::AuthResponse(AuthResponse(&response)), None, out);
        self.conn.phase = Phase::Response;
        self.arm_handshake();
    }

    pub(crate) fn receive_response(&mut self, response: &[u8], out: &mut Actions) {
        let Some(auth) = self.net().auth.as_ref() else {
            self.handshake_retry(SECRET_IS_GONE, out);
            return;
        };
        let expected = mac(auth, &self.conn.challenge);
        if response.len() != expected.len() {
            self.handshake_retry("the peer's authentication response has another length", out);
            return;
        }
        if !bool::from(response.ct_eq(&expected)) {
            let why = "Authentication of peer failed: shared-secret differs from the peer's";
            self.end_in_standalone(why, out);
            return;
        }
        let text = format!("Peer authenticated using {} bytes HMAC", expected.len());
        self.log_conn(LogLevel::Info, text, out);
        self.begin_params(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_of_the_specification() {
        // spec: drbd-wire 14
        let challenge: Vec<u8> = (0..64).collect();
        let hex = |alg| {
            let auth = Auth { alg, secret: b"secret".to_vec() };
            mac(&auth, &challenge).iter().map(|b| format!("{b:02x}")).collect::<alloc::string::String>()
        };
        assert_eq!(hex(HmacAlg::Md5), "333142ba1db44c59d756a2bee16b906b");
        assert_eq!(hex(HmacAlg::Sha1), "afe9485a34cf04a78c4f0101a2a08974b912de08");
        assert_eq!(hex(HmacAlg::Sha256), "5f5d485f2228776ad7710aa47d15a4d61744dbb9a2a3e5647f5a1bbfcf8015e1");
    }
}
