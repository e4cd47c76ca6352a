//! Credentials: the token we gave a gateway, and the gateway's signatures.
//!
//! Walk 1, step 2. *Source:* livepeer-wire §3.2, §3.4, §3.6.
use std::fmt;

use zeroize::Zeroizing;

use crate::address::{Address, H256, keccak256};
use crate::recipient_rand::hmac_sha256;
use crate::units::Timestamp;

/// How long a token is good for.
pub const TOKEN_LIFETIME_SECONDS: i64 = 30 * 60;

/// The credential of one session: an HMAC over its id and its end.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthToken {
    /// The HMAC.
    pub token: Vec<u8>,
    /// The session this is for.
    pub session_id: String,
    /// When it ends.
    pub expiration: Timestamp,
}

impl fmt::Debug for AuthToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuthToken({}, until {}, [redacted])", self.session_id, self.expiration.0)
    }
}

/// Why a token is refused, in the network's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum AuthTokenError {
    /// There is none.
    #[error("missing auth token")]
    Missing,
    /// Not ours, or changed.
    #[error("invalid auth token")]
    Invalid,
    /// Its time is over.
    #[error("expired auth token")]
    Expired,
}

/// The key tokens are made with.
#[derive(Clone)]
pub struct TokenKey(Zeroizing<[u8; 32]>);

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey([redacted])")
    }
}

impl TokenKey {
    /// From 32 secret bytes.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        Self(Zeroizing::new(key))
    }

    /// Makes the token of a session.
    #[must_use]
    pub fn issue(&self, session_id: &str, expiration: Timestamp) -> AuthToken {
        AuthToken { token: self.hmac(session_id, expiration).to_vec(), session_id: session_id.to_owned(), expiration }
    }

    /// Is this token one of ours? Says nothing about its time.
    ///
    /// # Errors
    /// [`AuthTokenError::Missing`] or [`AuthTokenError::Invalid`].
    pub fn check_authentic(&self, token: Option<&AuthToken>) -> Result<(), AuthTokenError> {
        let token = token.ok_or(AuthTokenError::Missing)?;
        let expected = self.hmac(&token.session_id, token.expiration);
        let equal_length = token.token.len() == expected.len();
        let difference = expected.iter().zip(&token.token).fold(0, |sum, (a, b)| sum | (a ^ b));
        if equal_length && difference == 0 { Ok(()) } else { Err(AuthTokenError::Invalid) }
    }

    /// Is this token one of ours and still good?
    ///
    /// # Errors
    /// [`AuthTokenError`].
    pub fn check(&self, token: Option<&AuthToken>, now: Timestamp) -> Result<(), AuthTokenError> {
        self.check_authentic(token)?;
        if token.is_some_and(|token| token.expiration > now) { Ok(()) } else { Err(AuthTokenError::Expired) }
    }

    fn hmac(&self, session_id: &str, expiration: Timestamp) -> [u8; 32] {
        let end = expiration.0.unsigned_abs().to_be_bytes();
        let minimal: Vec<u8> = end.iter().skip_while(|b| **b == 0).copied().collect();
        hmac_sha256(&*self.0, &[session_id.as_bytes(), &minimal])
    }
}

/// What a gateway signs to ask for an offer: its own address as text.
#[must_use]
pub fn orchestrator_request_message(gateway: Address) -> Vec<u8> {
    gateway.to_checksum().into_bytes()
}

/// What a gateway signs for a segment: stream, number, content and the names of the profiles.
#[must_use]
pub fn segment_message<'a>(
    manifest_id: &[u8],
    seq: i64,
    hash: &[u8],
    profile_names: impl IntoIterator<Item = &'a str>,
) -> Vec<u8> {
    let mut number = [0; 32];
    number[24..].copy_from_slice(&seq.unsigned_abs().to_be_bytes());
    let tags: Vec<u8> = profile_names.into_iter().flat_map(profile_tag).collect();
    [manifest_id, &number, hash, hex::encode(tags).as_bytes()].concat()
}

/// The four bytes that stand for a profile in signatures.
#[must_use]
pub fn profile_tag(name: &str) -> [u8; 4] {
    let hash = keccak256(name.as_bytes());
    let mut tag = [0; 4];
    tag.copy_from_slice(&hash.as_bytes()[..4]);
    tag
}

/// What an orchestrator signs for a result: the hash of the renditions' hashes, in order.
#[must_use]
pub fn result_digest(rendition_hashes: &[H256]) -> H256 {
    let all: Vec<u8> = rendition_hashes.iter().flat_map(|hash| hash.0).collect();
    keccak256(&all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_its_session_until_its_end() {
        let key = TokenKey::new([7; 32]);
        let token = key.issue("0123abcd", Timestamp(100));
        assert_eq!(key.check(Some(&token), Timestamp(99)), Ok(()));
        assert_eq!(key.check(Some(&token), Timestamp(100)), Err(AuthTokenError::Expired));
        assert_eq!(key.check(None, Timestamp(0)), Err(AuthTokenError::Missing));
        let other = AuthToken { session_id: "0123abce".into(), ..token.clone() };
        assert_eq!(key.check(Some(&other), Timestamp(0)), Err(AuthTokenError::Invalid));
        let longer = AuthToken { expiration: Timestamp(1000), ..token.clone() };
        assert_eq!(key.check(Some(&longer), Timestamp(0)), Err(AuthTokenError::Invalid));
        let cut = AuthToken { token: token.token[..31].to_vec(), ..token };
        assert_eq!(key.check(Some(&cut), Timestamp(0)), Err(AuthTokenError::Invalid));
    }
}
