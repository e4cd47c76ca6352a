use super::*;
use crate::recipient_rand::OfferTerms;
use crate::signature::SigningKey;

fn key(byte: u8) -> SigningKey {
    SigningKey::from_bytes(&[byte; 32]).unwrap()
}

fn offer(win_prob: WinProb) -> (TicketParams, RecipientSecret) {
    let secret = RecipientSecret::new([3; 32], 0);
    let terms = OfferTerms {
        seed: 1.into(),
        sender: key(1).address(),
        face_value: Wei::from(1000),
        win_prob,
        expiration_block: L1Block(140),
        price: PricePerPixel::FREE,
        creation_round: Round(5),
        creation_round_block_hash: H256::repeat_byte(5),
    };
    (TicketParams::offer(&secret, key(2).address(), &terms), secret)
}

fn open(params: &TicketParams, secret: &RecipientSecret) -> Result<OpenBatch, TicketError> {
    OpenBatch::open(params, key(1).address(), PricePerPixel::FREE, key(2).address(), secret)
}

fn signed(params: &TicketParams, nonce: u32) -> Vec<u8> {
    let ticket = Ticket {
        recipient: params.recipient,
        sender: key(1).address(),
        face_value: params.face_value,
        win_prob: params.win_prob,
        sender_nonce: nonce,
        recipient_rand_hash: params.recipient_rand_hash,
        creation_round: params.creation_round,
        creation_round_block_hash: params.creation_round_block_hash,
    };
    key(1).sign_personal(ticket.hash()).to_bytes().to_vec()
}

#[test]
fn a_sure_ticket_wins_and_survives_storage() {
    let (params, secret) = offer(WinProb::ALWAYS);
    let winner = open(&params, &secret).unwrap().check(1, &signed(&params, 1)).unwrap().draw().unwrap();
    let stored = serde_json::to_string(&winner).unwrap();
    assert_eq!(serde_json::from_str::<WinningTicket>(&stored).unwrap(), winner);
}

#[test]
fn a_damaged_record_is_not_a_winner() {
    let (params, secret) = offer(WinProb::ALWAYS);
    let winner = open(&params, &secret).unwrap().check(1, &signed(&params, 1)).unwrap().draw().unwrap();
    let stored = serde_json::to_string(&winner).unwrap();
    let damaged = stored.replacen("\"sender_nonce\":1", "\"sender_nonce\":2", 1);
    assert_ne!(stored, damaged);
    assert!(serde_json::from_str::<WinningTicket>(&damaged).is_err());
}

#[test]
fn a_hopeless_ticket_never_wins() {
    let (params, secret) = offer(WinProb::NEVER);
    let checked = open(&params, &secret).unwrap().check(1, &signed(&params, 1)).unwrap();
    assert_eq!(checked.draw(), None);
}

#[test]
fn any_changed_term_is_not_our_offer() {
    let (params, secret) = offer(WinProb::ALWAYS);
    let changed = [
        TicketParams { face_value: Wei::from(1), ..params },
        TicketParams { win_prob: WinProb::NEVER, ..params },
        TicketParams { seed: 2.into(), ..params },
        TicketParams { expiration_block: L1Block(141), ..params },
        TicketParams { creation_round: Round(6), ..params },
        TicketParams { creation_round_block_hash: H256::zero(), ..params },
    ];
    for params in changed {
        assert_eq!(open(&params, &secret).unwrap_err(), TicketError::RecipientRand);
    }
    let dear = PricePerPixel::new(1, 1).unwrap();
    let opened = OpenBatch::open(&params, key(1).address(), dear, key(2).address(), &secret);
    assert_eq!(opened.unwrap_err(), TicketError::RecipientRand);
}

#[test]
fn a_ticket_for_or_from_the_wrong_account_is_refused() {
    let (params, secret) = offer(WinProb::ALWAYS);
    let open = |sender: Address, us: Address| OpenBatch::open(&params, sender, PricePerPixel::FREE, us, &secret);
    assert_eq!(open(key(1).address(), key(9).address()).unwrap_err(), TicketError::Recipient);
    assert_eq!(open(Address::NULL, key(2).address()).unwrap_err(), TicketError::Sender);
    assert_eq!(open(key(2).address(), key(2).address()).unwrap_err(), TicketError::Sender);
}

#[test]
fn a_signature_for_another_nonce_is_refused() {
    let (params, secret) = offer(WinProb::ALWAYS);
    let batch = open(&params, &secret).unwrap();
    assert_eq!(batch.check(2, &signed(&params, 1)).unwrap_err(), TicketError::Signature);
    assert_eq!(batch.check(1, &[]).unwrap_err(), TicketError::Signature);
}
