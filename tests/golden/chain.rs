//! Vectors of the contracts: what the real contract code answered, and what we make of it.
//!
//! Origin and generator: `tests/vectors/README.md`. Every section of `chain.json` has a test of its name here, or a
//! reason; every entry of a read section is counted.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::BTreeSet;

use chain::contracts;
use chain::revert::{CUSTOM_ERRORS, Call, Revert, RevertClass, classify};
use chain::{claimable_reserve, contract_id, payout, redeem_calldata};
use ethers::abi::{Abi, AbiDecode, AbiEncode, ParamType, RawLog, Token};
use ethers::types::{Bytes, U256};
use livepeer::address::{H256, keccak256};
use livepeer::recipient_rand::RecipientRand;
use livepeer::signature::{Signature, SigningKey, personal_hash};
use livepeer::ticket::{Ticket, WinningTicket, aux_data, wins};
use livepeer::transaction::{Transaction, transaction_hash};
use livepeer::units::{Round, Wei, WinProb, u256_to_bytes32};
use serde_json::{Value, json};

use crate::vectors::{address, bytes, file, hash, number, text};

/// Sections that describe the file, or the fixture the other sections were made with.
const FIXTURES: &[&str] = &["about", "keys", "local_contracts", "round", "sender_state"];

/// Sections nothing here reads, each with the reason.
const ELSEWHERE: &[(&str, &str)] = &[
    ("governance", "votes and proposals are not part of this product yet"),
    ("pool_hints", "stake is moved with the cold key, and reward without hints, until rewards are automatic"),
];

/// Contracts of which we speak nothing yet, with the reason; their calls, answers and events are not read.
const UNSPOKEN: &[(&str, &str)] = &[
    ("BondingVotes", "votes are not part of this product yet"),
    ("LivepeerGovernor", "votes are not part of this product yet"),
    ("Poll", "votes are not part of this product yet"),
    ("PollCreator", "votes are not part of this product yet"),
];

/// Functions of the contracts we do speak to that no part of the product calls, by reason.
const UNCALLED: &[(&str, &str)] = &[
    ("bond bondWithHint bondForWithHint unbond unbondWithHint rebond rebondWithHint", "cold key only"),
    ("rebondFromUnbonded rebondFromUnbondedWithHint transferBond withdrawStake withdrawFees", "cold key only"),
    ("claimEarnings setRewardCaller transcoder transcoderWithHint checkpointBondingState", "cold key only"),
    ("getTranscoderEarningsPoolForRound isValidUnbondingLock", "delegation is not shown whole yet"),
    ("currentRoundTotalActiveStake nextRoundTotalActiveStake", "delegation is not shown whole yet"),
    ("treasuryRewardCutRate nextRoundTreasuryRewardCutRate treasuryBalanceCeiling", "inflation is not shown yet"),
    (
        "approve allowance transfer totalSupply nonces DOMAIN_SEPARATOR",
        "the stake token is moved with the cold key only",
    ),
    ("currentMintableTokens currentMintedTokens", "what a round may still mint is not shown"),
];

/// Events of the contracts we do speak to that no part of the product follows.
const UNFOLLOWED: &str = "Bond Unbond Rebond TransferBond WithdrawStake WithdrawFees EarningsClaimed TreasuryReward \
    SetCurrentRewardTokens";

const SECTIONS: &[&str] = &[
    "controller_ids",
    "ticket_hashes",
    "recipient_rand_hashes",
    "aux_data",
    "signatures",
    "win_decisions",
    "redemptions",
    "batch",
    "reverts",
    "claimable_reserve",
    "calldata",
    "returns",
    "events",
    "signed_transactions",
    "error_selectors",
    "function_selectors",
    "event_topics",
];

#[test]
fn every_section_is_read_or_has_a_reason() {
    let all = file("chain.json");
    let present: BTreeSet<&str> = all.as_object().unwrap().keys().map(String::as_str).collect();
    let elsewhere = ELSEWHERE.iter().map(|(section, _)| section);
    let known: BTreeSet<&str> = SECTIONS.iter().chain(FIXTURES).chain(elsewhere).copied().collect();
    assert_eq!(known, present);
}

#[test]
fn controller_ids() {
    each("controller_ids", 25, |entry| {
        assert_eq!(H256(contract_id(text(&entry["name"]))), hash(&entry["id"]));
    });
}

#[test]
fn ticket_hashes() {
    let mut ours = 0;
    each("ticket_hashes", 8, |entry| {
        assert_eq!(keccak256(&bytes(&entry["packed"])), hash(&entry["hash"]));
        // Ours hold what the wire can carry: 32-bit nonces, 64-bit rounds, whole auxData.
        if let Some(ticket) = ticket(&entry["ticket"]) {
            assert_eq!(ticket.hash(), hash(&entry["hash"]), "{entry}");
            ours += 1;
        }
    });
    assert_eq!(ours, 4);
}

#[test]
fn recipient_rand_hashes() {
    each("recipient_rand_hashes", 5, |entry| {
        let rand = RecipientRand::new(number(&entry["recipientRand"]));
        assert_eq!(rand.commitment(), hash(&entry["recipientRandHash"]));
    });
}

#[test]
fn aux_data_is_64_bytes() {
    let mut made = 0;
    each("aux_data", 7, |entry| {
        let aux = bytes(&entry["auxData"]);
        if entry.get("revert").is_some() {
            assert_ne!(aux.len(), 64);
            return;
        }
        assert_eq!(aux.len(), 64);
        let (round, block_hash) = (number(&entry["creationRound"]), hash(&entry["creationRoundBlockHash"]));
        assert_eq!([u256_to_bytes32(round), block_hash.0].concat(), aux);
        let Ok(round) = u64::try_from(round) else { return };
        // The pair of zeros is empty when hashed; params are never made for it.
        if round != 0 {
            assert_eq!(aux_data(Round(round), block_hash), aux);
            made += 1;
        }
    });
    assert_eq!(made, 1);
}

#[test]
fn signatures() {
    let mut valid = 0;
    each("signatures", 20, |entry| {
        let digest = hash(&entry["ticket_hash"]);
        assert_eq!(personal_hash(digest), hash(&entry["eip191_digest"]));
        let signer = Signature::from_bytes(&bytes(&entry["signature"])).and_then(|s| s.recover_personal(digest));
        let matches = signer.as_ref().is_ok_and(|signer| *signer == address(&entry["claimed_sender"]));
        assert_eq!(matches, entry["result"] == "valid", "{entry}");
        if entry["result"] == "revert" {
            assert!(signer.is_err(), "the contract cannot recover it, nor may we: {entry}");
            let revert = Revert::Text(text(&entry["revert"]).to_owned());
            assert_eq!(classify(Call::Redeem, &revert), RevertClass::Permanent);
        }
        if matches {
            let again = key(text(&entry["signer_key"])).sign_personal(digest);
            assert_eq!(again.to_bytes().to_vec(), bytes(&entry["signature"]), "same key, same hash, same signature");
            valid += 1;
        }
    });
    assert_eq!(valid, 8);
}

#[test]
fn win_decisions() {
    each("win_decisions", 21, |entry| {
        let (raw, rand) = (bytes(&entry["signature"]), number(&entry["recipientRand"]));
        let draw = keccak256(&[raw.as_slice(), &u256_to_bytes32(rand)].concat());
        assert_eq!(draw, hash(&entry["value"]));
        let prob = number(&entry["winProb"]);
        let expected = entry["wins"].as_bool().unwrap();
        assert_eq!(U256::from(draw.0) < prob, expected);
        // The last vector has a signature of zeros, which no ticket of ours can carry.
        if let Ok(signature) = Signature::from_bytes(&raw) {
            assert_eq!(wins(&signature, RecipientRand::new(rand), WinProb(prob)), expected, "{entry}");
        } else {
            assert_eq!(raw, [0; 65]);
        }
    });
}

#[test]
fn redemptions() {
    let state = file("chain.json")["sender_state"].take();
    let mut losers = BTreeSet::new();
    each("redemptions", 42, |entry| {
        let call =
            contracts::RedeemWinningTicketCall::decode(bytes(&entry["calldata"])).expect("our interface reads it");
        assert_eq!(call.clone().encode(), bytes(&entry["calldata"]));
        assert_eq!(call.sig.to_vec(), bytes(&entry["signature"]));
        assert_eq!(call.recipient_rand, number(&entry["recipientRand"]));
        assert_eq!(call.ticket.face_value, number(&entry["ticket"]["faceValue"]));
        if let Some(ticket) = ticket(&entry["ticket"]) {
            assert_eq!(ticket.hash(), hash(&entry["ticketHash"]), "{}", entry["id"]);
        }
        if let Some(winner) = winner(entry) {
            assert_eq!(redeem_calldata(&winner), bytes(&entry["calldata"]), "{}", entry["id"]);
        } else {
            losers.insert(text(&entry["id"]).to_owned());
        }
        if entry["expect"] == "success" {
            let sender = ["sender", "sender_reserve_only"]
                .into_iter()
                .find(|name| key(name).address() == address(&entry["ticket"]["sender"]));
            let active = address(&entry["ticket"]["recipient"]) == key("recipient").address();
            let claimable = if active { wei(&state["claimable_by_recipient_from_sender"]) } else { Wei::ZERO };
            let deposit = wei(&state[sender.expect("a funded sender")]["deposit"]);
            let expected = wei(&entry["payout_wei"]);
            assert_eq!(payout(wei(&entry["ticket"]["faceValue"]), deposit, claimable), expected, "{}", entry["id"]);
        } else {
            assert_revert(entry, Call::Redeem);
        }
        if let Some(earlier) = entry.get("earlier_contracts").filter(|e| e["expect"] == "revert") {
            let words = text(&earlier["revert"]);
            let revert =
                if words == "Panic(0x12)" { Revert::Panic(0x12.into()) } else { Revert::Text(words.to_owned()) };
            assert_eq!(classify(Call::Redeem, &revert), class(text(&entry["class"])), "{}", entry["id"]);
        }
    });
    // What our own check and draw refuse to call a winner; the rest depends on the state of the chain.
    let expected = [
        "aux_len_63",
        "bad_sig_other_key",
        "bad_sig_other_ticket",
        "max_round",
        "not_winning_small_prob",
        "not_winning_zero_prob",
        "order_bad_sig_and_not_winning",
        "order_expired_and_wrong_rand",
        "order_unlocked_and_not_winning",
        "order_wrong_rand_and_used",
        "sig_high_s",
        "sig_len_64",
        "sig_v_0_1",
        "wrong_rand",
        "zero_sender",
    ];
    assert_eq!(losers.iter().map(String::as_str).collect::<Vec<_>>(), expected);
}

#[test]
fn batch() {
    each("batch", 4, |entry| {
        let call = contracts::BatchRedeemWinningTicketsCall::decode(bytes(&entry["calldata"])).expect("our interface");
        assert_eq!(call.clone().encode(), bytes(&entry["calldata"]));
        if let Some(tickets) = entry["tickets"].as_array() {
            assert_eq!(call.tickets.len(), tickets.len());
        }
    });
}

#[test]
fn reverts() {
    let mut succeed = 0;
    each("reverts", 53, |entry| {
        if entry["expect"] == "success" {
            succeed += 1;
            return;
        }
        let function = text(&entry["function"]);
        let call = match function.split('(').next().unwrap_or(function) {
            "initializeRound" | "blockHash" => Call::Round,
            "reward" | "rewardForTranscoder" => Call::Reward,
            "transcoder" => Call::Transcoder,
            "withdrawFees" | "claimEarnings" => Call::Fees,
            "unlock" | "withdraw" | "cancelUnlock" => Call::Funding,
            "updateTranscoderWithFees" => Call::Redeem,
            "propose" | "castVote" | "getPastVotes" | "delegate" => Call::Vote,
            "bond" | "unbond" | "rebond" | "rebondFromUnbonded" | "withdrawStake" | "transferBond"
            | "slashTranscoder" => Call::Stake,
            other => panic!("{other} has no call class"),
        };
        assert_revert(entry, call);
    });
    assert_eq!(succeed, 6);
}

#[test]
fn claimable_reserves() {
    each("claimable_reserve", 7, |entry| {
        let share = claimable_reserve(
            wei(&entry["funds_remaining"]),
            wei(&entry["claimed_in_current_round"]),
            text(&entry["pool_size"]).parse().unwrap(),
            wei(&entry["claimed_by_me"]),
        );
        let told = entry.get("treat_as").unwrap_or(&entry["claimable_by_me"]);
        assert_eq!(share, wei(told), "{entry}");
    });
}

#[test]
fn calldata() {
    let mut read = 0;
    each("calldata", 122, |entry| {
        let (contract, signature) = (text(&entry["contract"]), text(&entry["function"]));
        let name = signature.split('(').next().unwrap();
        assert_eq!(keccak256(signature.as_bytes())[..4], bytes(&entry["selector"])[..]);
        let Some(abi) = abi(contract) else {
            assert!(UNSPOKEN.iter().any(|(unspoken, _)| *unspoken == contract), "{contract}");
            return;
        };
        let Ok(function) = abi.function(name) else {
            assert!(uncalled(name), "{contract}.{name} is neither spoken nor excused");
            return;
        };
        let args: Vec<Token> = entry["args"]
            .as_array()
            .unwrap()
            .iter()
            .zip(&function.inputs)
            .map(|(value, input)| token(&input.kind, value))
            .collect();
        assert_eq!(function.encode_input(&args).unwrap(), bytes(&entry["calldata"]), "{contract}.{name}");
        read += 1;
    });
    assert_eq!(read, 64);
}

#[test]
fn returns() {
    let mut read = 0;
    each("returns", 19, |entry| {
        let (contract, signature) = (text(&entry["contract"]), text(&entry["function"]));
        let name = signature.split('(').next().unwrap();
        let Some(abi) = abi(contract) else {
            assert!(UNSPOKEN.iter().any(|(unspoken, _)| *unspoken == contract), "{contract}");
            return;
        };
        let Ok(function) = abi.function(name) else {
            assert!(uncalled(name), "{contract}.{name} is neither spoken nor excused");
            return;
        };
        let answer = function.decode_output(&bytes(&entry["data"])).unwrap();
        let expected: Vec<Token> = entry["decoded"]
            .as_array()
            .unwrap()
            .iter()
            .zip(&function.outputs)
            .map(|(value, output)| token(&output.kind, value))
            .collect();
        assert_eq!(answer, expected, "{contract}.{name}");
        read += 1;
    });
    assert_eq!(read, 17);
}

#[test]
fn events() {
    let mut read = 0;
    each("events", 29, |entry| {
        let contract = text(&entry["contract"]);
        let declaration = text(&entry["event"]).strip_prefix("event ").unwrap();
        let name = declaration.split('(').next().unwrap();
        let Some(abi) = abi(contract) else {
            assert!(UNSPOKEN.iter().any(|(unspoken, _)| *unspoken == contract), "{contract}");
            return;
        };
        let Ok(event) = abi.event(name) else {
            assert!(UNFOLLOWED.split(' ').any(|unfollowed| unfollowed == name), "{name}");
            return;
        };
        let topics = entry["topics"].as_array().unwrap().iter().map(hash).collect();
        let log = event.parse_log(RawLog { topics, data: bytes(&entry["data"]) }).expect("a log of this event");
        for param in &log.params {
            let kind = &event.inputs.iter().find(|input| input.name == param.name).unwrap().kind;
            assert_eq!(param.value, token(kind, &entry["decoded"][&param.name]), "{name}.{}", param.name);
        }
        assert_eq!(log.params.len(), entry["decoded"].as_object().unwrap().len());
        read += 1;
    });
    assert_eq!(read, 18);
}

#[test]
fn signed_transactions() {
    each("signed_transactions", 1, |entry| {
        let tx = &entry["tx"];
        let transaction = Transaction {
            chain_id: tx["chainId"].as_u64().unwrap(),
            nonce: tx["nonce"].as_u64().unwrap(),
            max_priority_fee_per_gas: Wei::from(tx["maxPriorityFeePerGas"].as_u64().unwrap()),
            max_fee_per_gas: wei(&tx["maxFeePerGas"]),
            gas_limit: tx["gasLimit"].as_u64().unwrap(),
            to: address(&tx["to"]),
            value: Wei::from(tx["value"].as_u64().unwrap()),
            data: bytes(&tx["data"]),
        };
        let signed = transaction.encode_signed(&key(text(&entry["signer_key"])).sign_hash(transaction.sighash()));
        assert_eq!(signed, bytes(&entry["raw"]));
        assert_eq!(transaction_hash(&signed), hash(&entry["hash"]));
    });
}

#[test]
fn error_selectors() {
    let section = section("error_selectors");
    let all = section.as_object().unwrap();
    assert_eq!(all.len(), 12);
    for (signature, selector) in all {
        let selector = bytes(selector);
        assert_eq!(keccak256(signature.as_bytes())[..4], selector[..]);
        let read = Revert::decode(&[&selector[..], &[0; 32]].concat());
        match signature.as_str() {
            "Error(string)" => assert_eq!(Revert::decode(&selector), Revert::Unknown(selector.try_into().unwrap())),
            "Panic(uint256)" => assert_eq!(read, Revert::Panic(U256::zero())),
            name => assert_eq!(read.to_string(), name),
        }
    }
    assert_eq!(CUSTOM_ERRORS.len(), all.len() - 2);
}

#[test]
fn function_selectors() {
    let (count, spoken) = names("function_selectors", |abi, signature, selector| {
        let name = signature.split('(').next().unwrap();
        let Ok(function) = abi.function(name) else { return false };
        assert_eq!(function.short_signature().to_vec(), selector, "{signature}");
        true
    });
    assert_eq!((count, spoken), (237, 64));
}

#[test]
fn event_topics() {
    let (count, followed) = names("event_topics", |abi, signature, topic| {
        let name = signature.split('(').next().unwrap();
        let Ok(event) = abi.event(name) else { return false };
        assert_eq!(event.signature().as_bytes(), topic, "{signature}");
        true
    });
    assert_eq!((count, followed), (68, 18));
}

/// The wire's own copy of a redemption and of the selectors.
#[test]
fn the_wire_vectors_agree_about_redeeming() {
    let wire = file("wire.json")["vectors"].take();
    let selectors = &wire["abi_selectors"];
    let text = selectors.to_string();
    assert!(text.contains("ec8b3cb6"), "redeemWinningTicket is among them");
    let mut seen = 0;
    let mut check = |name: &str, selector: &str| {
        let selector = hex::decode(selector.trim_start_matches("0x")).unwrap();
        assert_eq!(keccak256(name.as_bytes())[..4], selector[..], "{name}");
        seen += 1;
    };
    walk(selectors, &mut check);
    assert!(seen > 0);
    let calldata = find_hex(&wire["redeem_calldata"], "ec8b3cb6").expect("a redemption");
    let call = contracts::RedeemWinningTicketCall::decode(&calldata).unwrap();
    assert_eq!(call.encode(), calldata);
}

// Reading the file.

fn section(name: &str) -> Value {
    assert!(SECTIONS.contains(&name), "{name} is not on the list");
    file("chain.json")[name].take()
}

/// Runs a check on every entry of a section and counts them.
fn each(name: &str, count: usize, mut check: impl FnMut(&Value)) {
    let section = section(name);
    let entries = section.as_array().expect("a list");
    assert_eq!(entries.len(), count, "{name} grew or shrank: read the new entries");
    entries.iter().for_each(&mut check);
}

/// Checks every `signature: id` of every contract; answers how many there are and how many `check` knew.
fn names(name: &str, mut check: impl FnMut(&Abi, &str, &[u8]) -> bool) -> (usize, usize) {
    let (mut count, mut known) = (0, 0);
    for (contract, entries) in section(name).as_object().unwrap() {
        for (signature, id) in entries.as_object().unwrap() {
            let id = bytes(id);
            assert_eq!(keccak256(signature.as_bytes())[..id.len()], id[..], "{signature}");
            count += 1;
            match abi(contract) {
                Some(abi) => known += usize::from(check(abi, signature, &id)),
                None => assert!(UNSPOKEN.iter().any(|(unspoken, _)| unspoken == contract), "{contract}"),
            }
        }
    }
    (count, known)
}

fn abi(contract: &str) -> Option<&'static Abi> {
    Some(match contract {
        "Controller" => &contracts::CONTROLLER_ABI,
        "TicketBroker" => &contracts::TICKETBROKER_ABI,
        "RoundsManager" => &contracts::ROUNDSMANAGER_ABI,
        "BondingManager" => &contracts::BONDINGMANAGER_ABI,
        "ServiceRegistry" => &contracts::SERVICEREGISTRY_ABI,
        "LivepeerToken" => &contracts::LIVEPEERTOKEN_ABI,
        "Minter" => &contracts::MINTER_ABI,
        _ => return None,
    })
}

fn uncalled(function: &str) -> bool {
    UNCALLED.iter().any(|(names, _)| names.split(' ').any(|name| name == function))
}

fn wei(value: &Value) -> Wei {
    Wei(number(value))
}

fn key(name: &str) -> SigningKey {
    let secret = bytes(&file("chain.json")["keys"][name]["private_key"]);
    SigningKey::from_bytes(&secret.try_into().unwrap()).unwrap()
}

/// The ticket, when the wire could carry it.
fn ticket(value: &Value) -> Option<Ticket> {
    let aux = bytes(&value["auxData"]);
    if !aux.is_empty() && aux.len() != 64 {
        return None;
    }
    let round = aux.get(..32).map_or(U256::zero(), U256::from_big_endian);
    Some(Ticket {
        recipient: address(&value["recipient"]),
        sender: address(&value["sender"]),
        face_value: wei(&value["faceValue"]),
        win_prob: WinProb(number(&value["winProb"])),
        sender_nonce: u32::try_from(number(&value["senderNonce"])).ok()?,
        recipient_rand_hash: hash(&value["recipientRandHash"]),
        creation_round: Round(u64::try_from(round).ok()?),
        creation_round_block_hash: aux.get(32..).map_or(H256::zero(), H256::from_slice),
    })
}

/// The winner, when our own checks and draw agree that it is one.
fn winner(entry: &Value) -> Option<WinningTicket> {
    let record = json!({
        "ticket": ticket(&entry["ticket"])?,
        "signature": text(&entry["signature"]).trim_start_matches("0x"),
        "recipient_rand": RecipientRand::new(number(&entry["recipientRand"])),
        "expiration_block": 0,
    });
    serde_json::from_value(record).ok()
}

fn assert_revert(entry: &Value, call: Call) {
    let revert = Revert::decode(&bytes(&entry["revert_data"]));
    let what = format!("{} {}", entry["id"], entry["condition"]);
    let words = text(&entry["revert"]);
    if words.is_empty() {
        assert_eq!(revert, Revert::Empty, "{what}");
    } else {
        assert_eq!(revert.to_string(), words, "{what}");
    }
    // Where the vectors and the specification's table part ways, the table stands; each case with its reason.
    let expected = match (text(&entry["class"]), words) {
        // Only the caller knows whether its bond starts next round: the words are the same.
        ("wait-round", "caller must be bonded") => RevertClass::Permanent,
        // A cold address that takes no ether must be changed by a person.
        ("permanent", "") => RevertClass::Operator,
        // Rates without a bond: a person must bond first. Proposals need more stake: likewise.
        ("permanent-until-bonded", _) | ("permanent", "Governor: proposer votes below proposal threshold") => {
            RevertClass::Operator
        }
        (other, _) => class(other),
    };
    assert_eq!(classify(call, &revert), expected, "{what}: {words}");
}

fn class(name: &str) -> RevertClass {
    match name {
        "already-done" => RevertClass::Done,
        "wait-round" => RevertClass::WaitForRound,
        "wait-unpause" => RevertClass::WaitForUnpause,
        "wait-funds" => RevertClass::WaitForFunds,
        "wait-active" => RevertClass::WaitForActiveSet,
        "wait-reward" => RevertClass::NeedReward,
        "permanent" => RevertClass::Permanent,
        "permanent-unless-relocked" => RevertClass::Conditional,
        "config" => RevertClass::Operator,
        other => panic!("unknown class {other}"),
    }
}

/// A JSON value as the ABI's token of a type.
fn token(kind: &ParamType, value: &Value) -> Token {
    match kind {
        ParamType::Address => Token::Address(address(value).0),
        ParamType::Uint(_) => Token::Uint(number(value)),
        ParamType::Bool => Token::Bool(value.as_bool().unwrap()),
        ParamType::String => Token::String(text(value).to_owned()),
        ParamType::Bytes => Token::Bytes(Bytes::from(bytes(value)).to_vec()),
        ParamType::FixedBytes(_) => Token::FixedBytes(bytes(value)),
        ParamType::Array(kind) => Token::Array(value.as_array().unwrap().iter().map(|v| token(kind, v)).collect()),
        ParamType::Tuple(kinds) => {
            let values: Vec<&Value> = match value {
                Value::Array(values) => values.iter().collect(),
                // Members stand in the order of the interface.
                Value::Object(values) if values.len() == 7 => {
                    ["recipient", "sender", "faceValue", "winProb", "senderNonce", "recipientRandHash", "auxData"]
                        .iter()
                        .map(|name| &value[*name])
                        .collect()
                }
                other => panic!("not a tuple: {other}"),
            };
            Token::Tuple(kinds.iter().zip(values).map(|(kind, value)| token(kind, value)).collect())
        }
        other => panic!("no vector has a {other}"),
    }
}

/// Visits every pair of a function signature and its selector.
fn walk(value: &Value, check: &mut impl FnMut(&str, &str)) {
    if let Value::Object(entries) = value {
        for (name, entry) in entries {
            match entry {
                Value::String(selector) if name.contains('(') => check(name, selector),
                other => walk(other, check),
            }
        }
    }
}

/// The first hex text that begins with a selector.
fn find_hex(value: &Value, selector: &str) -> Option<Vec<u8>> {
    match value {
        Value::String(text) => {
            let digits = text.trim_start_matches("0x");
            digits.starts_with(selector).then(|| hex::decode(digits).ok()).flatten()
        }
        Value::Array(values) => values.iter().find_map(|v| find_hex(v, selector)),
        Value::Object(values) => values.values().find_map(|v| find_hex(v, selector)),
        _ => None,
    }
}
