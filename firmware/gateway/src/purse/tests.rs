use super::*;
use std::time::Duration;

use livepeer::profile::preset;
use livepeer::signature::{Signature, SigningKey};
use livepeer::units::{FrameRate, L1Block, Round};
use primitive_types::U256;
use serde_json::Value;

#[derive(Debug)]
struct Key(SigningKey);

impl TicketSigner for Key {
    fn address(&self) -> Address {
        self.0.address()
    }
    fn sign_node(&self, message: &[u8]) -> Result<Signature, SignerError> {
        Ok(self.0.sign_node(message))
    }
    fn sign_personal(&self, digest: H256) -> Result<Signature, SignerError> {
        Ok(self.0.sign_personal(digest))
    }
}

fn vector(name: &str) -> Value {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/wire.json");
    let vectors: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    vectors["vectors"][name].clone()
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap().trim_start_matches("0x")).unwrap()
}

/// The terms behind the vectors: 8 gwei a ticket, 1212 wei a pixel.
fn terms() -> Terms {
    let vector = vector("tickets");
    let aux = bytes(&vector["aux"]);
    Terms {
        params: livepeer::params::TicketParams {
            recipient: vector["recipient"].as_str().unwrap().parse().unwrap(),
            face_value: Wei::from_dec_str(vector["face_value"].as_str().unwrap()).unwrap(),
            win_prob: WinProb(U256::from_big_endian(&bytes(&vector["win_prob_hex"]))),
            recipient_rand_hash: H256::from_slice(&bytes(&vector["recipient_rand_hash"])),
            seed: U256::one(),
            expiration_block: L1Block(100),
            creation_round: Round(U256::from_big_endian(&aux[..32]).as_u64()),
            creation_round_block_hash: H256::from_slice(&aux[32..]),
        },
        price: PricePerPixel::new(1212, 1).unwrap(),
    }
}

fn key() -> Key {
    Key(SigningKey::from_bytes(&[1; 32]).unwrap())
}

const NO_LIMIT: Wei = Wei(U256::MAX);

#[test]
fn the_estimate_is_the_stock_gateways() {
    let vector = vector("gateway_fee_estimate");
    let profiles: Vec<_> = vector["profiles"]
        .as_array()
        .unwrap()
        .iter()
        .map(|profile| {
            let number = |index: usize| u32::try_from(profile[index].as_u64().unwrap()).unwrap();
            let mut made = preset("240p").unwrap();
            (made.width, made.height) = (number(0), number(1));
            made.fps = Some(FrameRate { num: number(2), den: 1 });
            made
        })
        .collect();
    let duration = Duration::from_secs_f64(vector["duration_s"].as_f64().unwrap()).as_millis();
    let duration = u64::try_from(duration).unwrap();
    let pixels = estimate_pixels(&profiles, duration);
    assert_eq!(pixels.0, vector["pixels"].as_u64().unwrap());
    let reserved = Purse::default().reserve(&terms(), pixels, NO_LIMIT).unwrap();
    assert_eq!(u64::from(reserved.tickets()), vector["tickets_from_zero_balance"].as_u64().unwrap());
    assert_eq!(reserved.ticket_value().to_wei_floor().to_string(), vector["ticket_ev_wei_floor"].as_str().unwrap());
    // With the whole wei of the fee in hand a fraction of one is still missing; with one more, nothing is.
    let fee = Wei::from_dec_str(vector["fee_wei_floor"].as_str().unwrap()).unwrap();
    let one_wei = ExpectedValue::of(Wei::from(1), WinProb::ALWAYS);
    let mut balance = Balance::default();
    balance.credit(ExpectedValue::of(fee, WinProb::ALWAYS), 1).unwrap();
    assert_eq!(balance.tickets_due(pixels, terms().price, one_wei), Ok(1));
    balance.credit(one_wei, 1).unwrap();
    assert_eq!(balance.tickets_due(pixels, terms().price, one_wei), Ok(0));
}

#[test]
fn a_part_of_a_second_and_a_fraction_of_a_frame_are_paid_in_full() {
    let mut profile = preset("240p").unwrap();
    assert_eq!(estimate_pixels(&[profile.clone()], 1001).0, 426 * 240 * 60 * 2);
    profile.fps = Some(FrameRate { num: 30000, den: 1001 });
    assert_eq!(estimate_pixels(&[profile], 1000).0, 426 * 240 * 30);
}

#[test]
fn tickets_are_those_of_the_reference_gateway() {
    let vector = vector("tickets");
    let reserved = Purse::default().reserve(&terms(), Pixels(1), NO_LIMIT).unwrap();
    assert_eq!(reserved.tickets(), 1, "never less than one ticket");
    let three = Reserved { tickets: 3, ..reserved };
    let payment = three.payment(&key()).unwrap();
    assert_eq!(payment.sender.to_string(), vector["sender"].as_str().unwrap());
    let made = payment.tickets.unwrap().tickets;
    let expected = vector["tickets"].as_array().unwrap();
    assert_eq!(made.len(), expected.len());
    for ((nonce, signature), expected) in made.iter().zip(expected) {
        assert_eq!(u64::from(*nonce), expected["sender_nonce"].as_u64().unwrap());
        assert_eq!(*signature, bytes(&expected["signature"]));
    }
}

#[test]
fn nonces_begin_at_one_and_never_repeat_per_offer() {
    let mut purse = Purse::default();
    let other = Terms {
        params: livepeer::params::TicketParams { recipient_rand_hash: H256([9; 32]), ..terms().params },
        ..terms()
    };
    let nonces = |reserved: &Reserved| (reserved.first_nonce, reserved.tickets);
    let first = purse.reserve(&terms(), Pixels(20_000_000), NO_LIMIT).unwrap();
    let elsewhere = purse.reserve(&other, Pixels(1), NO_LIMIT).unwrap();
    let second = purse.reserve(&terms(), Pixels(1), NO_LIMIT).unwrap();
    assert_eq!((nonces(&first), nonces(&elsewhere), nonces(&second)), ((1, 4), (1, 1), (5, 1)));
    purse.give_back(second).unwrap();
    let third = purse.reserve(&terms(), Pixels(1), NO_LIMIT).unwrap();
    assert_eq!(nonces(&third), (6, 1), "a nonce that may have been seen is not used again");
}

#[test]
fn change_is_kept_and_what_is_in_flight_is_not_counted_on() {
    let mut purse = Purse::default();
    let reserved = purse.reserve(&terms(), Pixels(20_000_000), NO_LIMIT).unwrap();
    assert_eq!(reserved.tickets(), 4);
    let meanwhile = purse.reserve(&terms(), Pixels(20_000_000), NO_LIMIT).unwrap();
    assert_eq!(meanwhile.tickets(), 4, "the other segment's credit is spoken for");
    purse.settle(reserved, Pixels(10_000_000)).unwrap();
    assert_eq!(purse.credit(), Wei::from(4 * 8_000_000_000 - 12_120_000_000));
    purse.give_back(meanwhile).unwrap();
    assert_eq!(purse.credit(), Wei::from(4 * 8_000_000_000 - 12_120_000_000));
    {
        let next = purse.reserve(&terms(), Pixels(10_000_000), NO_LIMIT).unwrap();
        assert_eq!(next.tickets(), 0, "the change covers it");
        assert!(next.payment(&key()).unwrap().tickets.is_none());
    }
    assert_eq!(purse.credit(), Wei::ZERO, "sent and lost counts as spent");
}

#[test]
fn a_segment_never_costs_more_than_we_allow() {
    let mut purse = Purse::default();
    let max = Wei::from(31_999_999_999);
    assert_eq!(purse.reserve(&terms(), Pixels(20_000_000), max).unwrap_err(), PurseError::TooMuch { tickets: 4, max });
    assert_eq!(
        purse.reserve(&terms(), Pixels(5_000_000_000), NO_LIMIT).unwrap_err(),
        PurseError::OfferUsedUp { tickets: 773, used: 0 }
    );
    let free = Terms {
        price: PricePerPixel::FREE,
        params: livepeer::params::TicketParams { face_value: Wei::ZERO, win_prob: WinProb::NEVER, ..terms().params },
    };
    assert_eq!(purse.reserve(&free, Pixels(u64::MAX), NO_LIMIT).unwrap().tickets(), 0);
}
