//! Signatures: the two forms the network uses, made and checked in one place.
//!
//! `personal(x)` prefixes `x` the way wallets do, hashes and signs. A *node signature* of a message signs
//! `personal(keccak256(message))`; a *raw personal signature* of a digest signs `personal(digest)`. Mixing
//! them up is the most common interop fault, so nothing else in the product hashes for signing.
//!
//! *Source:* livepeer-wire §3.1.
use std::fmt;

use secp256k1::ecdsa::{RecoverableSignature, RecoveryId};
use secp256k1::{Message, Secp256k1, SecretKey};
use zeroize::Zeroizing;

use crate::address::{Address, H256, keccak256, keccak256_parts};

/// Half the order of the curve; a larger `s` is malleable and the contracts refuse it.
const HALF_ORDER: [u8; 32] = [
    0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x5d, 0x57, 0x6e,
    0x73, 0x57, 0xa4, 0x50, 0x1d, 0xdf, 0xe9, 0x2f, 0x46, 0x68, 0x1b, 0x20, 0xa0,
];

/// 65 bytes: `r`, `s` in the lower half of the order, `v` of 27 or 28.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signature([u8; 65]);

/// Why bytes are not a signature we accept. Each of these is permanent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Not 65 bytes.
    #[error("signature must be 65 bytes")]
    Length,
    /// `s` in the upper half of the order.
    #[error("signature s is in the upper half of the order")]
    HighS,
    /// `v` is neither 27 nor 28.
    #[error("signature v must be 27 or 28")]
    RecoveryId,
    /// No key can have made it.
    #[error("signature cannot be recovered")]
    Unrecoverable,
}

impl Signature {
    /// Checks the form: length, low `s`, `v`. Who signed is [`Signature::recover`]'s business.
    ///
    /// # Errors
    /// [`SignatureError`] naming the first fault.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SignatureError> {
        let bytes: [u8; 65] = bytes.try_into().map_err(|_| SignatureError::Length)?;
        let (s, v) = (&bytes[32..64], bytes[64]);
        if s > &HALF_ORDER[..] {
            return Err(SignatureError::HighS);
        }
        if !(27..=28).contains(&v) {
            return Err(SignatureError::RecoveryId);
        }
        Ok(Self(bytes))
    }

    /// The 65 bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 65] {
        self.0
    }

    /// `r`, `s` and the parity of `v`, as transactions carry them.
    #[must_use]
    pub fn parts(&self) -> ([u8; 32], [u8; 32], bool) {
        let (mut r, mut s) = ([0; 32], [0; 32]);
        r.copy_from_slice(&self.0[..32]);
        s.copy_from_slice(&self.0[32..64]);
        (r, s, self.0[64] == 28)
    }

    /// Who signed this finished hash.
    ///
    /// # Errors
    /// [`SignatureError::Unrecoverable`] when no key can have.
    pub fn recover(&self, hash: H256) -> Result<Address, SignatureError> {
        let id = RecoveryId::try_from(i32::from(self.0[64]) - 27).map_err(|_| SignatureError::RecoveryId)?;
        let signature =
            RecoverableSignature::from_compact(&self.0[..64], id).map_err(|_| SignatureError::Unrecoverable)?;
        let key = secp256k1::SECP256K1
            .recover_ecdsa(Message::from_digest(hash.0), &signature)
            .map_err(|_| SignatureError::Unrecoverable)?;
        Ok(address_of(&key))
    }

    /// Who made this node signature of a message.
    ///
    /// # Errors
    /// [`SignatureError::Unrecoverable`] when no key can have.
    pub fn recover_node(&self, message: &[u8]) -> Result<Address, SignatureError> {
        self.recover(personal_hash(keccak256(message)))
    }

    /// Who made this raw personal signature of a digest.
    ///
    /// # Errors
    /// [`SignatureError::Unrecoverable`] when no key can have.
    pub fn recover_personal(&self, digest: H256) -> Result<Address, SignatureError> {
        self.recover(personal_hash(digest))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{}", hex::encode(self.0))
    }
}

/// The hash a wallet signs for a 32-byte digest: prefix, the length in words, the digest.
#[must_use]
pub fn personal_hash(digest: H256) -> H256 {
    keccak256_parts(&[b"\x19Ethereum Signed Message:\n32", digest.as_bytes()])
}

/// A signing key. Only `millrace-signer` and test gateways ever hold one.
#[derive(Clone)]
pub struct SigningKey {
    secret: SecretKey,
    address: Address,
}

/// The bytes are not a key: zero, or not below the order of the curve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a secp256k1 key")]
pub struct InvalidKey;

impl SigningKey {
    /// From 32 secret bytes.
    ///
    /// # Errors
    /// [`InvalidKey`] when they are zero or not below the order.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, InvalidKey> {
        let secret = SecretKey::from_byte_array(*bytes).map_err(|_| InvalidKey)?;
        let address = address_of(&secret.public_key(secp256k1::SECP256K1));
        Ok(Self { secret, address })
    }

    /// A new key from the given source of chance.
    pub fn generate(rng: &mut impl rand::RngCore) -> Self {
        loop {
            let mut bytes = Zeroizing::new([0u8; 32]);
            rng.fill_bytes(&mut *bytes);
            if let Ok(key) = Self::from_bytes(&bytes) {
                return key;
            }
        }
    }

    /// The account this key controls.
    #[must_use]
    pub fn address(&self) -> Address {
        self.address
    }

    /// The 32 secret bytes, wiped when dropped.
    #[must_use]
    pub fn to_secret_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.secret.secret_bytes())
    }

    /// Signs a finished hash; deterministic (RFC 6979), low `s`.
    #[must_use]
    pub fn sign_hash(&self, hash: H256) -> Signature {
        let secp: &Secp256k1<secp256k1::All> = secp256k1::SECP256K1;
        let (id, compact) = secp.sign_ecdsa_recoverable(Message::from_digest(hash.0), &self.secret).serialize_compact();
        let mut bytes = [0; 65];
        bytes[..64].copy_from_slice(&compact);
        bytes[64] = if i32::from(id) & 1 == 1 { 28 } else { 27 };
        Signature(bytes)
    }

    /// Node signature of a message.
    #[must_use]
    pub fn sign_node(&self, message: &[u8]) -> Signature {
        self.sign_hash(personal_hash(keccak256(message)))
    }

    /// Raw personal signature of a digest.
    #[must_use]
    pub fn sign_personal(&self, digest: H256) -> Signature {
        self.sign_hash(personal_hash(digest))
    }
}

impl Drop for SigningKey {
    fn drop(&mut self) {
        self.secret.non_secure_erase();
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({}, [redacted])", self.address)
    }
}

fn address_of(key: &secp256k1::PublicKey) -> Address {
    let hash = keccak256(&key.serialize_uncompressed()[1..]);
    Address(primitive_types::H160::from_slice(&hash.as_bytes()[12..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[1; 32]).unwrap()
    }

    #[test]
    fn a_signature_recovers_its_signer_and_nobody_else() {
        let signature = key().sign_node(b"message");
        assert_eq!(signature.recover_node(b"message"), Ok(key().address()));
        assert_ne!(signature.recover_node(b"massage"), Ok(key().address()));
        assert_ne!(signature.recover_personal(keccak256(b"other")), Ok(key().address()));
    }

    #[test]
    fn malleable_and_odd_signatures_are_refused() {
        let good = key().sign_personal(keccak256(b"x")).to_bytes();
        assert_eq!(Signature::from_bytes(&good[..64]), Err(SignatureError::Length));
        let mut high = good;
        high[32..64].fill(0xff);
        assert_eq!(Signature::from_bytes(&high), Err(SignatureError::HighS));
        let mut v = good;
        v[64] = 0;
        assert_eq!(Signature::from_bytes(&v), Err(SignatureError::RecoveryId));
    }

    #[test]
    fn a_key_never_shows_itself() {
        assert!(!format!("{:?}", key()).contains("0101"));
    }
}
