//! Tickets: check one, draw it, and know what a winner is.
//!
//! ```text
//! Payment ── open ──► OpenPayment ── check(nonce, signature) ──► CheckedTicket ── draw ──► WinningTicket
//! ```
//! Each step is the only way to the next type; a winner read back from disk is checked and drawn again.
//!
//! *Source:* livepeer-wire §5.1, §5.5; livepeer-chain §5.
use primitive_types::U256;
use serde::{Deserialize, Serialize};

use crate::address::{Address, H256, keccak256_parts};
use crate::params::TicketParams;
use crate::price::PricePerPixel;
use crate::recipient_rand::{RecipientRand, RecipientSecret};
use crate::signature::{Signature, SignatureError};
use crate::units::{ExpectedValue, L1Block, Round, Wei, WinProb, u256_to_bytes32};

/// A ticket's seven fields, as the contract hashes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// Who is paid.
    pub recipient: Address,
    /// Who pays.
    pub sender: Address,
    /// What a winner pays.
    pub face_value: Wei,
    /// How likely it wins.
    pub win_prob: WinProb,
    /// Makes tickets of one offer differ; 32 bits on the wire.
    pub sender_nonce: u32,
    /// Commitment to recipientRand.
    pub recipient_rand_hash: H256,
    /// Round the ticket belongs to.
    pub creation_round: Round,
    /// Hash the chain stores for that round.
    pub creation_round_block_hash: H256,
}

impl Ticket {
    /// The 64 bytes the contract calls auxData; none when round and hash are both zero.
    #[must_use]
    pub fn aux_data(&self) -> Vec<u8> {
        aux_data(self.creation_round, self.creation_round_block_hash)
    }

    /// The hash that is signed and that names the ticket on chain. It holds no chain id.
    #[must_use]
    pub fn hash(&self) -> H256 {
        keccak256_parts(&[
            self.recipient.as_bytes(),
            self.sender.as_bytes(),
            &u256_to_bytes32(self.face_value.0),
            &u256_to_bytes32(self.win_prob.0),
            &u256_to_bytes32(self.sender_nonce.into()),
            self.recipient_rand_hash.as_bytes(),
            &self.aux_data(),
        ])
    }

    /// What the ticket is worth on average.
    #[must_use]
    pub fn expected_value(&self) -> ExpectedValue {
        ExpectedValue::of(self.face_value, self.win_prob)
    }
}

/// Round and block hash as the contract reads them.
#[must_use]
pub fn aux_data(creation_round: Round, creation_round_block_hash: H256) -> Vec<u8> {
    if creation_round.0 == 0 && creation_round_block_hash.is_zero() {
        return Vec::new();
    }
    let mut aux = u256_to_bytes32(creation_round.0.into()).to_vec();
    aux.extend_from_slice(creation_round_block_hash.as_bytes());
    aux
}

/// Does this signature win against this recipientRand?
#[must_use]
pub fn wins(signature: &Signature, recipient_rand: RecipientRand, win_prob: WinProb) -> bool {
    let draw = keccak256_parts(&[&signature.to_bytes(), &u256_to_bytes32(recipient_rand.reveal())]);
    U256::from_big_endian(draw.as_bytes()) < win_prob.0
}

/// A payment as it came in: parsed, not yet believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payment {
    /// Who pays.
    pub sender: Address,
    /// The price the gateway believes in.
    pub expected_price: PricePerPixel,
    /// The offer and the tickets made for it; absent when the gateway counts on earlier credit.
    pub tickets: Option<TicketBatch>,
}

/// Tickets for one offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TicketBatch {
    /// The offer, as the gateway repeats it.
    pub params: TicketParams,
    /// Nonce and raw signature of each ticket, in order.
    pub tickets: Vec<(u32, Vec<u8>)>,
}

/// Why a payment or a ticket in it is refused, in the network's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum TicketError {
    /// Made out to somebody else.
    #[error("invalid ticket recipient")]
    Recipient,
    /// From nobody, or from ourselves.
    #[error("invalid ticket sender")]
    Sender,
    /// Not an offer of ours: some term, the price or the secret's generation differs.
    #[error("invalid recipientRand for ticket recipientRandHash")]
    RecipientRand,
    /// Not signed by the sender.
    #[error("invalid ticket signature")]
    Signature,
    /// The offer is over.
    #[error("TicketParams expired")]
    Expired,
    /// The nonce was used before.
    #[error("invalid ticket senderNonce: already seen sender={sender} nonce={nonce}")]
    NonceSeen {
        /// Who pays.
        sender: Address,
        /// The nonce.
        nonce: u32,
    },
    /// The offer was paid with too many tickets.
    #[error("invalid ticket senderNonce: too many values sender={sender} nonce={nonce}")]
    TooManyNonces {
        /// Who pays.
        sender: Address,
        /// The nonce.
        nonce: u32,
    },
}

impl TicketError {
    /// Does this fault end the whole payment? Otherwise later tickets are still drawn, without credit.
    #[must_use]
    pub fn is_fatal(self) -> bool {
        matches!(self, Self::Recipient | Self::Sender | Self::RecipientRand)
    }
}

/// A batch whose offer is proved to be ours, with the recipientRand behind it.
#[derive(Debug, Clone, Copy)]
pub struct OpenBatch {
    params: TicketParams,
    sender: Address,
    recipient_rand: RecipientRand,
}

impl OpenBatch {
    /// Recomputes recipientRand from the offer as the gateway repeats it and compares the commitment.
    ///
    /// # Errors
    /// [`TicketError::Recipient`], [`TicketError::Sender`] or [`TicketError::RecipientRand`]; all fatal.
    pub fn open(
        params: &TicketParams,
        sender: Address,
        price: PricePerPixel,
        us: Address,
        secret: &RecipientSecret,
    ) -> Result<Self, TicketError> {
        if params.recipient != us {
            return Err(TicketError::Recipient);
        }
        if sender.is_null() || sender == us {
            return Err(TicketError::Sender);
        }
        let recipient_rand = secret.recipient_rand(&params.terms(sender, price));
        if recipient_rand.commitment() != params.recipient_rand_hash {
            return Err(TicketError::RecipientRand);
        }
        Ok(Self { params: *params, sender, recipient_rand })
    }

    /// Checks one ticket of the batch: form and signer of its signature.
    ///
    /// # Errors
    /// [`TicketError::Signature`].
    pub fn check(&self, sender_nonce: u32, signature: &[u8]) -> Result<CheckedTicket, TicketError> {
        let ticket = Ticket {
            recipient: self.params.recipient,
            sender: self.sender,
            face_value: self.params.face_value,
            win_prob: self.params.win_prob,
            sender_nonce,
            recipient_rand_hash: self.params.recipient_rand_hash,
            creation_round: self.params.creation_round,
            creation_round_block_hash: self.params.creation_round_block_hash,
        };
        let signature = signed_by_sender(&ticket, signature).map_err(|_| TicketError::Signature)?;
        Ok(CheckedTicket {
            ticket,
            signature,
            recipient_rand: self.recipient_rand,
            expiration_block: self.params.expiration_block,
        })
    }
}

/// The signature, when it is well formed and the ticket's sender made it.
fn signed_by_sender(ticket: &Ticket, signature: &[u8]) -> Result<Signature, SignatureError> {
    let signature = Signature::from_bytes(signature)?;
    if signature.recover_personal(ticket.hash())? == ticket.sender {
        Ok(signature)
    } else {
        Err(SignatureError::Unrecoverable)
    }
}

/// A ticket of ours, signed by its sender. Whether it wins is still open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckedTicket {
    ticket: Ticket,
    signature: Signature,
    recipient_rand: RecipientRand,
    expiration_block: L1Block,
}

impl CheckedTicket {
    /// The ticket's fields.
    #[must_use]
    pub fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// First L1 block at which the offer behind it is over.
    #[must_use]
    pub fn expiration_block(&self) -> L1Block {
        self.expiration_block
    }

    /// Does it win? Then it is worth its face value, whether or not it earned credit.
    #[must_use]
    pub fn draw(&self) -> Option<WinningTicket> {
        wins(&self.signature, self.recipient_rand, self.ticket.win_prob).then_some(WinningTicket {
            ticket: self.ticket,
            signature: self.signature,
            recipient_rand: self.recipient_rand,
            expiration_block: self.expiration_block,
        })
    }
}

/// A ticket that won: money, once it is redeemed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WinnerRecord", into = "WinnerRecord")]
pub struct WinningTicket {
    ticket: Ticket,
    signature: Signature,
    recipient_rand: RecipientRand,
    expiration_block: L1Block,
}

impl WinningTicket {
    /// The ticket's fields.
    #[must_use]
    pub fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// The sender's signature.
    #[must_use]
    pub fn signature(&self) -> Signature {
        self.signature
    }

    /// The number that made it win. Redeeming publishes it.
    #[must_use]
    pub fn recipient_rand(&self) -> RecipientRand {
        self.recipient_rand
    }

    /// First L1 block at which it may be redeemed: earlier, the sender could use the published
    /// recipientRand to make further tickets of the same offer lose.
    #[must_use]
    pub fn expiration_block(&self) -> L1Block {
        self.expiration_block
    }

    /// Names the ticket here and on chain.
    #[must_use]
    pub fn hash(&self) -> H256 {
        self.ticket.hash()
    }
}

/// A winner as it is stored. Reading one back checks the signature and draws again, so damage on disk
/// cannot become a redemption that fails on chain.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WinnerRecord {
    ticket: Ticket,
    signature: String,
    recipient_rand: RecipientRand,
    expiration_block: L1Block,
}

/// A stored record is not a winning ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stored ticket does not check or does not win")]
pub struct NotAWinner;

impl TryFrom<WinnerRecord> for WinningTicket {
    type Error = NotAWinner;
    fn try_from(record: WinnerRecord) -> Result<Self, NotAWinner> {
        let bytes = hex::decode(&record.signature).map_err(|_| NotAWinner)?;
        let signature = signed_by_sender(&record.ticket, &bytes).map_err(|_| NotAWinner)?;
        let committed = record.recipient_rand.commitment() == record.ticket.recipient_rand_hash;
        if !committed || !wins(&signature, record.recipient_rand, record.ticket.win_prob) {
            return Err(NotAWinner);
        }
        Ok(Self {
            ticket: record.ticket,
            signature,
            recipient_rand: record.recipient_rand,
            expiration_block: record.expiration_block,
        })
    }
}

impl From<WinningTicket> for WinnerRecord {
    fn from(winner: WinningTicket) -> Self {
        Self {
            ticket: winner.ticket,
            signature: hex::encode(winner.signature.to_bytes()),
            recipient_rand: winner.recipient_rand,
            expiration_block: winner.expiration_block,
        }
    }
}

#[cfg(test)]
mod tests;
