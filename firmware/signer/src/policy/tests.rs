use super::*;

fn address(byte: u8) -> Address {
    Address::from_bytes(&[byte; 20]).unwrap()
}

/// The redemption of the golden vectors, signed there for chain 42161.
const CALL: &str = concat!(
    "ec8b3cb6",
    "0000000000000000000000000000000000000000000000000000000000000060",
    "00000000000000000000000000000000000000000000000000000000000001a0",
    "0d76ab965f304d145e41a6ac44355873861cd9a2b3d0a5b259765d4b205c329e",
    "0000000000000000000000005cbdd86a2fa8dc4bddd8a8f69dba48572eec07fb",
    "00000000000000000000000019e7e376e7c213b7e7e7e46cc70a5dd086daff2a",
);

fn recipient() -> Address {
    "0x5CbDd86a2FA8Dc4bDdd8a8f69dBa48572EeC07FB".parse().unwrap()
}

fn rules() -> ChainConfig {
    ChainConfig {
        chain_id: 42161,
        recipient: recipient(),
        ticket_broker: address(1),
        rounds_manager: Some(address(2)),
        bonding_manager: Some(address(3)),
        max_gas_limit: 3_000_000,
        max_fee_per_gas_wei: Wei::from(1_000),
        daily_limit_wei: Wei::from(u64::MAX),
    }
}

fn redemption() -> Transaction {
    Transaction {
        chain_id: 42161,
        nonce: 7,
        max_priority_fee_per_gas: Wei::ZERO,
        max_fee_per_gas: Wei::from(200),
        gas_limit: 1_200_000,
        to: address(1),
        value: Wei::ZERO,
        data: hex::decode(CALL).unwrap(),
    }
}

fn verdict(transaction: &Transaction) -> Result<Wei, Refusal> {
    examine(Some(&rules()), transaction)
}

fn words(selector: [u8; 4], words: &[&[u8]]) -> Vec<u8> {
    let mut data = selector.to_vec();
    for word in words {
        data.extend(std::iter::repeat_n(0, 32 - word.len()));
        data.extend_from_slice(word);
    }
    data
}

#[test]
fn a_redemption_for_our_recipient_is_signed() {
    assert_eq!(verdict(&redemption()), Ok(Wei::from(240_000_000)));
}

#[test]
fn nothing_is_signed_without_a_chain() {
    assert_eq!(examine(None, &redemption()), Err(Refusal::OffChain));
}

#[test]
fn another_chain_is_refused() {
    let transaction = Transaction { chain_id: 1, ..redemption() };
    assert_eq!(verdict(&transaction), Err(Refusal::WrongChain { expected: 42161, found: 1 }));
}

#[test]
fn value_is_refused() {
    let transaction = Transaction { value: Wei::from(1), ..redemption() };
    assert_eq!(verdict(&transaction), Err(Refusal::Value { value: Wei::from(1) }));
}

#[test]
fn too_much_gas_is_refused() {
    let transaction = Transaction { gas_limit: 3_000_001, ..redemption() };
    assert_eq!(verdict(&transaction), Err(Refusal::GasLimit { found: 3_000_001, cap: 3_000_000 }));
}

#[test]
fn too_dear_a_fee_or_tip_is_refused() {
    let refused = Err(Refusal::Fee { found: Wei::from(1_001), cap: Wei::from(1_000) });
    assert_eq!(verdict(&Transaction { max_fee_per_gas: Wei::from(1_001), ..redemption() }), refused);
    assert_eq!(verdict(&Transaction { max_priority_fee_per_gas: Wei::from(1_001), ..redemption() }), refused);
}

#[test]
fn other_contracts_and_functions_are_refused() {
    let elsewhere = Transaction { to: address(9), ..redemption() };
    assert!(matches!(verdict(&elsewhere), Err(Refusal::ForbiddenCall { .. })));
    for data in [&b""[..], b"\xec\x8b\x3c", b"\x3c\xcf\xd6\x0b", b"\x6c\xaa\x73\x6b", b"\xa9\x05\x9c\xbb"] {
        for to in [address(1), address(2), address(3), address(9)] {
            let transaction = Transaction { to, data: data.to_vec(), ..redemption() };
            assert!(matches!(verdict(&transaction), Err(Refusal::ForbiddenCall { .. })), "{data:02x?}");
        }
    }
    // An allowed function on the wrong contract.
    let misplaced = Transaction { to: address(3), ..redemption() };
    assert!(matches!(verdict(&misplaced), Err(Refusal::ForbiddenCall { .. })));
}

#[test]
fn a_redemption_for_somebody_else_is_refused() {
    let mut transaction = redemption();
    let at = transaction.data.len() - 33;
    transaction.data[at] ^= 1;
    assert!(matches!(verdict(&transaction), Err(Refusal::ForeignRecipient { .. })));
    // The recipient's word is there, but the offset of the ticket leads elsewhere.
    let mut transaction = redemption();
    transaction.data[4 + 31] = 0x80;
    assert!(matches!(verdict(&transaction), Err(Refusal::ForeignRecipient { .. })));
    let cut = Transaction { data: redemption().data[..100].to_vec(), ..redemption() };
    assert!(matches!(verdict(&cut), Err(Refusal::ForeignRecipient { .. })));
}

#[test]
fn every_ticket_of_a_batch_must_be_ours() {
    let (ours, other) = (recipient(), address(9));
    let batch = |second: &Address| {
        let parts: [&[u8]; 6] = [&[0x20], &[2], &[0x40], &[0x60], ours.as_bytes(), second.as_bytes()];
        Transaction { data: words(BATCH_REDEEM, &parts), ..redemption() }
    };
    assert!(verdict(&batch(&ours)).is_ok());
    assert!(matches!(verdict(&batch(&other)), Err(Refusal::ForeignRecipient { .. })));
    let empty = Transaction { data: words(BATCH_REDEEM, &[&[0x20], &[0]]), ..redemption() };
    assert!(matches!(verdict(&empty), Err(Refusal::ForeignRecipient { .. })));
    let endless = Transaction { data: words(BATCH_REDEEM, &[&[0x20], &[0xff; 32]]), ..redemption() };
    assert!(matches!(verdict(&endless), Err(Refusal::ForeignRecipient { .. })));
}

#[test]
fn rounds_are_initialised_and_rewards_called_for_us_only() {
    let initialize = Transaction { to: address(2), data: INITIALIZE_ROUND.to_vec(), ..redemption() };
    assert!(verdict(&initialize).is_ok());
    for selector in [REWARD_FOR, REWARD_FOR_WITH_HINT] {
        let reward = |whom: Address| Transaction {
            to: address(3),
            data: words(selector, &[whom.as_bytes(), &[], &[]]),
            ..redemption()
        };
        assert!(verdict(&reward(recipient())).is_ok());
        assert!(matches!(verdict(&reward(address(9))), Err(Refusal::ForeignRecipient { .. })));
    }
    let without = ChainConfig { rounds_manager: None, bonding_manager: None, ..rules() };
    assert!(matches!(examine(Some(&without), &initialize), Err(Refusal::ForbiddenCall { .. })));
}
