//! recipientRand: the secret number behind an offer, which decides whether its tickets win.
//!
//! It is never stored: the whole offer goes into an HMAC, so the number is recomputed from the offer a
//! gateway sends back, and any change to the offer shows as a different commitment.
//!
//! Unlike the reference we hash fields of fixed width: its minimal-length integers can be shifted into one
//! another (a longer face value, a shorter win prob) without changing the hash. Only we ever check this
//! number, so the construction is ours to choose.
use std::fmt;

use hmac::{Hmac, Mac};
use primitive_types::U256;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::address::{Address, H256, keccak256};
use crate::price::PricePerPixel;
use crate::units::{L1Block, Round, Wei, WinProb, u256_to_bytes32};

/// The secret number. Whoever knows it can pick tickets that lose, so it is redacted until redemption.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RecipientRand(U256);

impl RecipientRand {
    /// From the number itself, for records and vectors.
    #[must_use]
    pub fn new(value: U256) -> Self {
        Self(value)
    }

    /// Reveals the number: only for the draw, the redemption call and the sealed store.
    #[must_use]
    pub fn reveal(self) -> U256 {
        self.0
    }

    /// The commitment that goes into the offer: keccak-256 of the 32 bytes.
    #[must_use]
    pub fn commitment(self) -> H256 {
        keccak256(&u256_to_bytes32(self.0))
    }
}

impl fmt::Debug for RecipientRand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecipientRand([redacted])")
    }
}

/// Everything an offer says, and so everything recipientRand depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OfferTerms {
    /// Random number that makes the offer unique.
    pub seed: U256,
    /// The gateway the offer is for.
    pub sender: Address,
    /// What a winning ticket pays.
    pub face_value: Wei,
    /// How likely a ticket wins.
    pub win_prob: WinProb,
    /// First L1 block at which tickets of this offer are refused.
    pub expiration_block: L1Block,
    /// The price the offer was made at.
    pub price: PricePerPixel,
    /// Round the tickets belong to.
    pub creation_round: Round,
    /// Hash the chain stores for that round.
    pub creation_round_block_hash: H256,
}

/// Our secret, and the generation it is in.
///
/// The secret is kept across restarts so that offers survive them. Seen nonces are not synced one by one;
/// an unclean stop may lose the newest. The generation is bumped then, which voids every older offer: the
/// secret and the seen nonces share a lifetime, and no nonce counts twice.
#[derive(Clone)]
pub struct RecipientSecret {
    secret: Zeroizing<[u8; 32]>,
    generation: u64,
}

impl RecipientSecret {
    /// A secret in a generation.
    #[must_use]
    pub fn new(secret: [u8; 32], generation: u64) -> Self {
        Self { secret: Zeroizing::new(secret), generation }
    }

    /// The number behind an offer.
    #[must_use]
    pub fn recipient_rand(&self, terms: &OfferTerms) -> RecipientRand {
        let (wei, pixels) = terms.price.parts();
        RecipientRand(U256::from_big_endian(&hmac_sha256(
            &*self.secret,
            &[
                b"millrace recipientRand v1",
                &self.generation.to_be_bytes(),
                &u256_to_bytes32(terms.seed),
                terms.sender.as_bytes(),
                &u256_to_bytes32(terms.face_value.0),
                &u256_to_bytes32(terms.win_prob.0),
                &terms.expiration_block.0.to_be_bytes(),
                &wei.to_be_bytes(),
                &pixels.to_be_bytes(),
                &terms.creation_round.0.to_be_bytes(),
                terms.creation_round_block_hash.as_bytes(),
            ],
        )))
    }
}

impl fmt::Debug for RecipientSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecipientSecret([redacted], generation {})", self.generation)
    }
}

/// HMAC-SHA256 over the concatenation of some byte strings.
#[must_use]
pub fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("hmac takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms() -> OfferTerms {
        OfferTerms {
            seed: 7.into(),
            sender: Address::NULL,
            face_value: Wei::from(0x0102),
            win_prob: WinProb(0x03.into()),
            expiration_block: L1Block(40),
            price: PricePerPixel::FREE,
            creation_round: Round(3),
            creation_round_block_hash: H256::repeat_byte(9),
        }
    }

    #[test]
    fn fields_cannot_be_shifted_into_one_another() {
        let secret = RecipientSecret::new([1; 32], 0);
        let shifted = OfferTerms { face_value: Wei::from(0x01), win_prob: WinProb(0x0203.into()), ..terms() };
        assert_ne!(secret.recipient_rand(&terms()), secret.recipient_rand(&shifted));
    }

    #[test]
    fn a_new_generation_voids_old_offers() {
        let old = RecipientSecret::new([1; 32], 0).recipient_rand(&terms());
        assert_ne!(old, RecipientSecret::new([1; 32], 1).recipient_rand(&terms()));
        assert_eq!(old, RecipientSecret::new([1; 32], 0).recipient_rand(&terms()));
    }

    #[test]
    fn it_never_shows_itself() {
        assert!(!format!("{:?}", RecipientRand(0xdead_beef_u64.into())).contains("beef"));
    }
}
