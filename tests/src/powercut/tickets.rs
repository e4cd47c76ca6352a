//! Gateways that pay into a ledger.
use ledger::{Account, Ledger, Receipt, ReceiveError, ReceiveRequest, Submission};
use livepeer::address::{Address, H256};
use livepeer::params::{MAX_NONCES, TicketParams};
use livepeer::price::PricePerPixel;
use livepeer::recipient_rand::{OfferTerms, RecipientSecret};
use livepeer::signature::SigningKey;
use livepeer::ticket::{OpenBatch, Ticket, TicketError};
use livepeer::transaction::transaction_hash;
use livepeer::units::{L1Block, L2Block, Round, Timestamp, Wei, WinProb};

/// Face value of every ticket.
pub const FACE_VALUE: u64 = 1000;
/// The secret behind every offer.
const SECRET: [u8; 32] = [3; 32];
/// The round every ticket belongs to.
pub const ROUND: Round = Round(5);

/// An offer of ours and the gateway that pays for it.
#[derive(Debug, Clone)]
pub struct Offer {
    params: TicketParams,
    gateway: SigningKey,
    batch: OpenBatch,
}

impl Offer {
    /// The offer of a seed to a gateway, known by one byte.
    ///
    /// # Panics
    /// For gateway 0.
    #[must_use]
    pub fn new(gateway: u8, seed: u64, win_prob: WinProb) -> Self {
        let gateway = key(gateway);
        let secret = RecipientSecret::new(SECRET, 0);
        let terms = OfferTerms {
            seed: seed.into(),
            sender: gateway.address(),
            face_value: Wei::from(FACE_VALUE),
            win_prob,
            expiration_block: L1Block(140),
            price: PricePerPixel::FREE,
            creation_round: ROUND,
            creation_round_block_hash: H256::repeat_byte(5),
        };
        let us = key(99).address();
        let params = TicketParams::offer(&secret, us, &terms);
        let batch = OpenBatch::open(&params, gateway.address(), PricePerPixel::FREE, us, &secret)
            .expect("the offer is our own");
        Self { params, gateway, batch }
    }

    /// The offer, proved to be ours.
    #[must_use]
    pub fn batch(&self) -> &OpenBatch {
        &self.batch
    }

    /// Proves once more that the offer is ours, as for a payment that just came in.
    ///
    /// # Errors
    /// Never for an offer that was made here.
    pub fn open(&self) -> Result<OpenBatch, TicketError> {
        let secret = RecipientSecret::new(SECRET, 0);
        OpenBatch::open(&self.params, self.gateway.address(), PricePerPixel::FREE, self.params.recipient, &secret)
    }

    /// A signed ticket: its nonce and signature.
    #[must_use]
    pub fn ticket(&self, sender_nonce: u32) -> (u32, Vec<u8>) {
        let ticket = Ticket {
            recipient: self.params.recipient,
            sender: self.gateway.address(),
            face_value: self.params.face_value,
            win_prob: self.params.win_prob,
            sender_nonce,
            recipient_rand_hash: self.params.recipient_rand_hash,
            creation_round: self.params.creation_round,
            creation_round_block_hash: self.params.creation_round_block_hash,
        };
        (sender_nonce, self.gateway.sign_personal(ticket.hash()).to_bytes().to_vec())
    }

    /// Pays with tickets of these nonces.
    ///
    /// # Errors
    /// What the ledger says.
    pub fn pay(&self, ledger: &Ledger, nonces: &[u32]) -> Result<Receipt, ReceiveError> {
        let tickets: Vec<_> = nonces.iter().map(|nonce| self.ticket(*nonce)).collect();
        self.pay_with(ledger, &tickets)
    }

    /// Pays with these tickets.
    ///
    /// # Errors
    /// What the ledger says.
    pub fn pay_with(&self, ledger: &Ledger, tickets: &[(u32, Vec<u8>)]) -> Result<Receipt, ReceiveError> {
        ledger.receive(&ReceiveRequest {
            account: &Account::session(self.gateway.address(), "session"),
            batch: &self.batch,
            tickets,
            head: L1Block(100),
            max_nonces: MAX_NONCES,
            now: Timestamp(1_000_000),
        })
    }
}

fn key(byte: u8) -> SigningKey {
    SigningKey::from_bytes(&[byte; 32]).expect("not zero")
}

/// The account of a gateway.
#[must_use]
pub fn gateway(byte: u8) -> Address {
    key(byte).address()
}

/// The ledger's account of a gateway.
#[must_use]
pub fn account(byte: u8) -> Account {
    Account::session(gateway(byte), "session")
}

/// A transaction with this account nonce.
#[must_use]
pub fn submission(account_nonce: u64) -> Submission {
    let signed = [&[2], &account_nonce.to_be_bytes()[..]].concat();
    Submission {
        hash: transaction_hash(&signed),
        account_nonce,
        signed,
        at: L2Block(1),
        attempt: 0,
        tickets: Vec::new(),
    }
}
