//! Questions, answers and refusals.
//!
//! The result signature and the ping reply are bare signatures of whatever the node sends, as the network asks.
//! They give a captured node no money: tickets signed by the hot account are worthless as long as that
//! account has no deposit with the ticket broker, and the transaction policy never lets it make one.
use livepeer::address::{Address, H256};
use livepeer::signature::Signature;
use livepeer::transaction::Transaction;
use livepeer::units::Wei;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Longest value of a ping that is signed: shorter than a ticket or a segment's credentials.
pub const MAX_PING: usize = 64;

/// What may be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Who are you?
    Hello,
    /// What did you sign?
    Usage,
    /// Raw personal signature of a result's digest: the keccak of its renditions' keccaks.
    SignResult {
        /// The digest.
        digest: H256,
    },
    /// Node signature of a ping's value, of at most [`MAX_PING`] bytes.
    SignPing {
        /// The value.
        #[serde(with = "hex_bytes")]
        value: Vec<u8>,
    },
    /// Signature of a transaction that policy allows.
    SignTransaction {
        /// The transaction.
        transaction: Transaction,
    },
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Response {
    /// To [`Request::Hello`].
    Hello(Identity),
    /// To [`Request::Usage`].
    Usage(Usage),
    /// The signature asked for.
    Signature(#[serde(with = "signature")] Signature),
    /// Nothing was signed, and why.
    Refused(Refusal),
}

/// Whom the signer signs for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The account of the hot key.
    pub address: Address,
    /// The chain it signs transactions for; none when it signs no transactions.
    pub chain_id: Option<u64>,
}

/// What the signer has signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Usage {
    /// Results, since it started.
    pub results: u64,
    /// Pings, since it started.
    pub pings: u64,
    /// Transactions, since it started.
    pub transactions: u64,
    /// Requests refused, since it started.
    pub refused: u64,
    /// What the transactions signed today can cost at most.
    pub spent_today: Wei,
    /// How much that may be.
    pub daily_limit: Wei,
}

/// Why nothing was signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Refusal {
    /// The request makes no sense to this version.
    #[error("request not understood: are node and signer of the same version?")]
    Malformed,
    /// The signer was given no chain.
    #[error("no chain is configured, so no transaction is signed")]
    OffChain,
    /// For another chain.
    #[error("transaction is for chain {found}, this signer signs for {expected}")]
    WrongChain {
        /// The signer's.
        expected: u64,
        /// The transaction's.
        found: u64,
    },
    /// A contract or function that is not on the list.
    #[error("call of {selector} on {to} is not on the allow-list")]
    ForbiddenCall {
        /// The contract called.
        to: Address,
        /// The function's selector, in hex; empty when there is no call data.
        selector: String,
    },
    /// An allowed function for somebody else's benefit, or with arguments that do not decode.
    #[error("call of {selector} does not name our recipient {recipient}")]
    ForeignRecipient {
        /// The function's selector, in hex.
        selector: String,
        /// Who is paid here.
        recipient: Address,
    },
    /// Ether is sent along.
    #[error("transaction sends {value} wei along; only zero is allowed")]
    Value {
        /// How much.
        value: Wei,
    },
    /// Too much gas.
    #[error("gas limit {found} is above the cap of {cap}")]
    GasLimit {
        /// The transaction's.
        found: u64,
        /// The cap.
        cap: u64,
    },
    /// Too dear a gas price.
    #[error("fee of {found} wei per gas is above the cap of {cap}")]
    Fee {
        /// The transaction's.
        found: Wei,
        /// The cap.
        cap: Wei,
    },
    /// The day's limit would be passed.
    #[error("it could cost {cost} wei, and {spent} of today's {limit} wei are spent")]
    DailyLimit {
        /// What it can cost at most.
        cost: Wei,
        /// What was signed today already.
        spent: Wei,
        /// The limit.
        limit: Wei,
    },
    /// The value of a ping is too long.
    #[error("ping value of {found} bytes is longer than {MAX_PING}")]
    PingTooLong {
        /// Its length.
        found: usize,
    },
    /// The signer cannot record what it signs.
    #[error("signer cannot write its spending record: see its log")]
    Unrecorded,
}

mod hex_bytes {
    use super::*;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        hex::decode(String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

mod signature {
    use super::*;

    pub(super) fn serialize<S: Serializer>(signature: &Signature, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(signature.to_bytes()))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Signature, D::Error> {
        let bytes = hex::decode(String::deserialize(deserializer)?).map_err(de::Error::custom)?;
        Signature::from_bytes(&bytes).map_err(de::Error::custom)
    }
}
