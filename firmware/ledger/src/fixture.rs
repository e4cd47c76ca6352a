//! A gateway that pays, for tests.
use livepeer::address::{Address, H256};
use livepeer::params::TicketParams;
use livepeer::price::PricePerPixel;
use livepeer::recipient_rand::{OfferTerms, RecipientSecret};
use livepeer::signature::SigningKey;
use livepeer::ticket::{OpenBatch, Ticket};
use livepeer::transaction::transaction_hash;
use livepeer::units::{L1Block, L2Block, Round, Timestamp, Wei, WinProb};

use crate::{Account, Ledger, OpenOptions, Receipt, ReceiveError, ReceiveRequest, Submission};

pub(crate) const FACE_VALUE: u64 = 1000;
pub(crate) const EXPIRATION: L1Block = L1Block(140);
pub(crate) const HEAD: L1Block = L1Block(100);
pub(crate) const NOW: Timestamp = Timestamp(1_000_000);

pub(crate) fn open(dir: &std::path::Path) -> Ledger {
    Ledger::open(&dir.join("ledger"), OpenOptions::default()).unwrap()
}

/// An offer and the gateway that pays for it.
#[derive(Clone)]
pub(crate) struct Offer {
    pub(crate) params: TicketParams,
    pub(crate) gateway: SigningKey,
    pub(crate) batch: OpenBatch,
}

pub(crate) fn gateway(byte: u8) -> SigningKey {
    SigningKey::from_bytes(&[byte; 32]).unwrap()
}

pub(crate) fn us() -> Address {
    gateway(99).address()
}

impl Offer {
    pub(crate) fn new(seed: u64, win_prob: WinProb) -> Self {
        Self::with(1, 0, seed, |terms| OfferTerms { win_prob, ..terms })
    }

    pub(crate) fn with(sender: u8, generation: u64, seed: u64, change: impl Fn(OfferTerms) -> OfferTerms) -> Self {
        let gateway = gateway(sender);
        let secret = RecipientSecret::new([3; 32], generation);
        let terms = change(OfferTerms {
            seed: seed.into(),
            sender: gateway.address(),
            face_value: Wei::from(FACE_VALUE),
            win_prob: WinProb::ALWAYS,
            expiration_block: EXPIRATION,
            price: PricePerPixel::FREE,
            creation_round: Round(5),
            creation_round_block_hash: H256::repeat_byte(5),
        });
        let params = TicketParams::offer(&secret, us(), &terms);
        let batch = OpenBatch::open(&params, gateway.address(), PricePerPixel::FREE, us(), &secret).unwrap();
        Self { params, gateway, batch }
    }

    pub(crate) fn ticket(&self, sender_nonce: u32) -> (u32, Vec<u8>) {
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

    pub(crate) fn account(&self) -> Account {
        Account::session(self.gateway.address(), "session")
    }

    pub(crate) fn pay(&self, ledger: &Ledger, nonces: &[u32]) -> Receipt {
        self.try_pay(ledger, nonces, HEAD).unwrap()
    }

    pub(crate) fn try_pay(&self, ledger: &Ledger, nonces: &[u32], head: L1Block) -> Result<Receipt, ReceiveError> {
        let tickets: Vec<_> = nonces.iter().map(|nonce| self.ticket(*nonce)).collect();
        self.try_pay_with(ledger, &tickets, head)
    }

    pub(crate) fn try_pay_with(
        &self,
        ledger: &Ledger,
        tickets: &[(u32, Vec<u8>)],
        head: L1Block,
    ) -> Result<Receipt, ReceiveError> {
        let account = self.account();
        let request =
            ReceiveRequest { account: &account, batch: &self.batch, tickets, head, max_nonces: 600, now: NOW };
        ledger.receive(&request)
    }
}

/// A transaction of ours; `id` makes its bytes differ.
pub(crate) fn submission(account_nonce: u64, id: u8) -> Submission {
    let signed = vec![2, id, 0xfe];
    Submission {
        hash: transaction_hash(&signed),
        account_nonce,
        signed,
        at: L2Block(1),
        attempt: 0,
        tickets: Vec::new(),
    }
}
