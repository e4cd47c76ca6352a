//! Accounts of Ethereum and the hash that names them.
use std::fmt;
use std::str::FromStr;

use primitive_types::H160;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use tiny_keccak::{Hasher, Keccak};

pub use primitive_types::H256;

/// keccak-256 of some bytes.
#[must_use]
pub fn keccak256(bytes: &[u8]) -> H256 {
    keccak256_parts(&[bytes])
}

/// keccak-256 of the concatenation of some byte strings.
#[must_use]
pub fn keccak256_parts(parts: &[&[u8]]) -> H256 {
    let mut hasher = Keccak::v256();
    for part in parts {
        hasher.update(part);
    }
    let mut hash = H256::zero();
    hasher.finalize(hash.as_bytes_mut());
    hash
}

/// An account: 20 bytes on the wire, EIP-55 mixed case as text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Address(pub H160);

impl Address {
    /// The address nobody has.
    pub const NULL: Self = Self(H160::zero());

    /// From exactly 20 bytes; `None` for any other length.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == 20).then(|| Self(H160::from_slice(bytes)))
    }

    /// The 20 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Is this the address nobody has?
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.0.is_zero()
    }

    /// `0x…` with the EIP-55 checksum in its letters' case, the form that is signed.
    #[must_use]
    pub fn to_checksum(&self) -> String {
        let lower = hex::encode(self.0.as_bytes());
        let hash = keccak256(lower.as_bytes());
        let nibbles = hash.as_bytes().iter().flat_map(|b| [b >> 4, b & 15]);
        let cased = lower.chars().zip(nibbles).map(|(c, n)| if n >= 8 { c.to_ascii_uppercase() } else { c });
        std::iter::once('0').chain(std::iter::once('x')).chain(cased).collect()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_checksum())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_checksum())
    }
}

/// Why a text is not an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseAddressError {
    /// Not `0x` and 40 hex digits.
    #[error("not an address: expected 0x and 40 hex digits")]
    Shape,
    /// Mixed case that does not match the checksum: most likely a typing error.
    #[error("address checksum does not match its letters: check for a typing error")]
    Checksum,
}

impl FromStr for Address {
    type Err = ParseAddressError;

    /// Accepts all-lower or all-upper case, or mixed case with a right EIP-55 checksum.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix("0x").ok_or(ParseAddressError::Shape)?;
        let bytes = hex::decode(digits).map_err(|_| ParseAddressError::Shape)?;
        let address = Self::from_bytes(&bytes).ok_or(ParseAddressError::Shape)?;
        let uniform =
            !digits.bytes().any(|b| b.is_ascii_uppercase()) || !digits.bytes().any(|b| b.is_ascii_lowercase());
        if uniform || address.to_checksum() == text { Ok(address) } else { Err(ParseAddressError::Checksum) }
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_checksum_is_refused() {
        let good = "0x1a642f0E3c3aF545E7AcBD38b07251B3990914F1";
        assert_eq!(good.parse::<Address>().unwrap().to_string(), good);
        assert_eq!(good.to_lowercase().parse::<Address>().unwrap().to_string(), good);
        let typo = "0x1A642f0E3c3aF545E7AcBD38b07251B3990914F1";
        assert_eq!(typo.parse::<Address>(), Err(ParseAddressError::Checksum));
        assert_eq!("0x1a".parse::<Address>(), Err(ParseAddressError::Shape));
    }
}
