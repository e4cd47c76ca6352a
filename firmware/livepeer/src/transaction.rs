//! The one kind of transaction we send: type 2 (EIP-1559), without an access list.
//!
//! Pure: its hash for signing, its signed bytes. The signer checks and signs it without any chain library.
use serde::{Deserialize, Serialize};

use crate::address::{Address, H256, keccak256};
use crate::signature::Signature;
use crate::units::{Wei, u256_to_minimal_bytes};
use primitive_types::U256;

/// A type-2 transaction before it is signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transaction {
    /// The chain it is good for.
    pub chain_id: u64,
    /// Its number among the sender's transactions.
    pub nonce: u64,
    /// Tip per gas.
    pub max_priority_fee_per_gas: Wei,
    /// Most paid per gas, tip included.
    pub max_fee_per_gas: Wei,
    /// Most gas used.
    pub gas_limit: u64,
    /// Contract called, or account paid.
    pub to: Address,
    /// Ether sent along.
    pub value: Wei,
    /// Call data.
    #[serde(with = "hex_bytes")]
    pub data: Vec<u8>,
}

impl Transaction {
    /// The hash that is signed.
    #[must_use]
    pub fn sighash(&self) -> H256 {
        keccak256(&typed(&list(&self.fields())))
    }

    /// The bytes that are broadcast.
    #[must_use]
    pub fn encode_signed(&self, signature: &Signature) -> Vec<u8> {
        let (r, s, odd) = signature.parts();
        let mut fields = self.fields();
        fields.push(number(U256::from(u64::from(odd))));
        fields.push(number(U256::from_big_endian(&r)));
        fields.push(number(U256::from_big_endian(&s)));
        typed(&list(&fields))
    }

    /// Most this transaction can cost its sender.
    #[must_use]
    pub fn max_cost(&self) -> Option<Wei> {
        self.max_fee_per_gas.checked_mul(self.gas_limit)?.checked_add(self.value)
    }

    fn fields(&self) -> Vec<Vec<u8>> {
        vec![
            number(self.chain_id.into()),
            number(self.nonce.into()),
            number(self.max_priority_fee_per_gas.0),
            number(self.max_fee_per_gas.0),
            number(self.gas_limit.into()),
            string(self.to.as_bytes()),
            number(self.value.0),
            string(&self.data),
            list(&[]),
        ]
    }
}

/// The hash by which signed bytes are known on chain.
#[must_use]
pub fn transaction_hash(signed: &[u8]) -> H256 {
    keccak256(signed)
}

fn typed(payload: &[u8]) -> Vec<u8> {
    [&[2], payload].concat()
}

fn number(value: U256) -> Vec<u8> {
    string(&u256_to_minimal_bytes(value))
}

fn string(bytes: &[u8]) -> Vec<u8> {
    match bytes {
        [single] if *single < 0x80 => vec![*single],
        _ => [header(0x80, bytes.len()), bytes.to_vec()].concat(),
    }
}

fn list(items: &[Vec<u8>]) -> Vec<u8> {
    let body = items.concat();
    [header(0xc0, body.len()), body].concat()
}

fn header(base: u8, length: usize) -> Vec<u8> {
    let short = u8::try_from(length).ok().filter(|length| *length <= 55);
    if let Some(length) = short {
        return vec![base + length];
    }
    let length = u256_to_minimal_bytes(U256::from(length));
    let width = u8::try_from(length.len()).unwrap_or(8);
    [vec![base + 55 + width], length].concat()
}

/// Bytes as hex text in records.
mod hex_bytes {
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        hex::decode(String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}
