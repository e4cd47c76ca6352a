use std::time::Duration;

use livepeer::address::H256;
use millrace_hal::SimClock;

use super::*;

const NOON: u64 = 20_000 * 86_400 + 43_200;

fn config(dir: &std::path::Path, limit: u64) -> Config {
    let path = dir.join("signer.toml");
    let text = format!(
        "state_dir = \"{}\"\n[chain]\nchain_id = 7\nrecipient = \"0x{}\"\nticket_broker = \"0x{}\"\n\
         rounds_manager = \"0x{}\"\ndaily_limit_wei = \"{limit}\"\n",
        dir.display(),
        "11".repeat(20),
        "22".repeat(20),
        "33".repeat(20)
    );
    std::fs::write(&path, text).unwrap();
    Config::read(&path).unwrap()
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[5; 32]).unwrap()
}

fn desk(dir: &std::path::Path, limit: u64, clock: &SimClock) -> Desk {
    Desk::open(&config(dir, limit), key(), Box::new(clock.clone())).unwrap()
}

fn initialize(nonce: u64) -> Transaction {
    Transaction {
        chain_id: 7,
        nonce,
        max_priority_fee_per_gas: Wei::ZERO,
        max_fee_per_gas: Wei::from(2),
        gas_limit: 300_000,
        to: livepeer::address::Address::from_bytes(&[0x33; 20]).unwrap(),
        value: Wei::ZERO,
        data: vec![0xd4, 0x80, 0x7f, 0xb2],
    }
}

#[test]
fn each_signature_recovers_the_hot_account() {
    let dir = tempfile::tempdir().unwrap();
    let desk = desk(dir.path(), 1_000_000, &SimClock::at(NOON));
    let digest = H256::repeat_byte(4);
    let Response::Signature(result) = desk.answer(Request::SignResult { digest }) else { panic!("no signature") };
    assert_eq!(result.recover_personal(digest), Ok(key().address()));
    let Response::Signature(ping) = desk.answer(Request::SignPing { value: b"value".to_vec() }) else {
        panic!("no signature")
    };
    assert_eq!(ping.recover_node(b"value"), Ok(key().address()));
    let request = Request::SignTransaction { transaction: initialize(0) };
    let Response::Signature(signed) = desk.answer(request) else { panic!("no signature") };
    assert_eq!(signed.recover(initialize(0).sighash()), Ok(key().address()));
}

#[test]
fn the_day_has_a_limit_that_a_restart_does_not_lift() {
    let dir = tempfile::tempdir().unwrap();
    let clock = SimClock::at(NOON);
    let ask = |desk: &Desk, nonce| desk.answer(Request::SignTransaction { transaction: initialize(nonce) });
    let first = desk(dir.path(), 1_200_000, &clock);
    assert!(matches!(ask(&first, 0), Response::Signature(_)));
    drop(first);
    let second = desk(dir.path(), 1_200_000, &clock);
    assert!(matches!(ask(&second, 1), Response::Signature(_)));
    assert!(matches!(ask(&second, 2), Response::Refused(Refusal::DailyLimit { .. })));
    assert!(matches!(ask(&second, 1), Response::Signature(_)), "signing the same again costs nothing");
    clock.advance(Duration::from_secs(86_400));
    assert!(matches!(ask(&second, 2), Response::Signature(_)));
}

#[test]
fn what_is_signed_and_refused_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let desk = desk(dir.path(), 600_000, &SimClock::at(NOON));
    desk.answer(Request::SignResult { digest: H256::zero() });
    desk.answer(Request::SignTransaction { transaction: initialize(0) });
    desk.answer(Request::SignTransaction { transaction: Transaction { value: Wei::from(1), ..initialize(1) } });
    let long = desk.answer(Request::SignPing { value: vec![0; MAX_PING + 1] });
    assert_eq!(long, Response::Refused(Refusal::PingTooLong { found: MAX_PING + 1 }));
    desk.malformed();
    let Response::Usage(usage) = desk.answer(Request::Usage) else { panic!("no usage") };
    assert_eq!((usage.results, usage.pings, usage.transactions, usage.refused), (1, 0, 1, 3));
    assert_eq!((usage.spent_today, usage.daily_limit), (Wei::from(600_000), Wei::from(600_000)));
}
