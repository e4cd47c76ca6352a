//! Vectors of the wire: what the reference gateway and orchestrator say byte for byte.
//!
//! Origin and generator: `tests/vectors/README.md`. Each vector has a test of its name, or a reason here.
use std::collections::BTreeSet;

use base64::Engine;
use livepeer::address::{Address, H256, keccak256, keccak256_parts};
use livepeer::capability::CapabilitySet;
use livepeer::credentials::{TokenKey, orchestrator_request_message, profile_tag, result_digest, segment_message};
use livepeer::params::TicketEconomics;
use livepeer::price::PricePerPixel;
use livepeer::profile::{VideoCodec, output_size};
use livepeer::recipient_rand::{RecipientRand, hmac_sha256};
use livepeer::signature::{Signature, SignatureError, SigningKey};
use livepeer::ticket::{Ticket, aux_data, wins};
use livepeer::units::{Round, Timestamp, Wei, WinProb, u256_to_bytes32, u256_to_minimal_bytes};
use livepeer::wire::{self, net};
use primitive_types::{U256, U512};
use prost::Message;
use serde_json::Value;

use crate::vectors::{bytes, hash, names, number, text, vector};

const FILE: &str = "wire.json";

/// Vectors that no part of the product speaks yet, or that another crate reads, each with the reason.
const ELSEWHERE: &[(&str, &str)] = &[
    ("abi_selectors", "read by golden::chain, where the contracts are"),
    ("redeem_calldata", "read by golden::chain, where the contracts are"),
    ("gateway_fee_estimate", "read by the gateway crate's purse tests"),
    ("byoc_job_signature", "bring-your-own-container jobs are not part of this product yet"),
    ("byoc_token_request", "bring-your-own-container jobs are not part of this product yet"),
    ("perceptual_hash_layout", "video-signature holds its parts against signature.json, and 22 whole files"),
];

macro_rules! vectors {
    ($($name:ident),* $(,)?) => {
        $(#[test] fn $name() { checks::$name(&vector(FILE, stringify!($name))); })*

        #[test]
        fn every_vector_is_read_or_has_a_reason() {
            let read = [$(stringify!($name)),*];
            let known: BTreeSet<&str> = read.into_iter().chain(ELSEWHERE.iter().map(|(name, _)| *name)).collect();
            let names = names(FILE);
            let present: BTreeSet<&str> = names.iter().map(String::as_str).collect();
            assert_eq!(known, present);
        }
    };
}

vectors!(
    keys,
    verify_signature_reference,
    get_orchestrator_request,
    get_orchestrator_request_offchain,
    ping,
    auth_token,
    win_prob,
    auto_adjust_price,
    recipient_rand,
    tickets,
    ticket_hash_reference,
    payment,
    orchestrator_info,
    capability_bitstrings,
    segment_signature,
    payment_only_segment,
    profile_tags,
    transcode_result,
    register_transcoder,
    notify_segment,
    notify_segment_teardown,
    end_transcoding_session,
    redeemer_ticket,
    resize_rule,
);

fn big(value: &Value) -> U256 {
    U256::from_big_endian(&bytes(value))
}

fn gateway() -> SigningKey {
    SigningKey::from_bytes(&[1; 32]).expect("a key")
}

fn orchestrator() -> SigningKey {
    SigningKey::from_bytes(&[2; 32]).expect("a key")
}

/// Decodes, compares with what was expected, encodes again and compares the bytes.
fn same_bytes<M: Message + Default>(encoded: &[u8]) -> M {
    let message = M::decode(encoded).expect("a message");
    let again = message.encode_to_vec();
    assert_eq!(hex::encode(again), hex::encode(encoded));
    message
}

mod checks {
    use super::*;

    pub(super) fn keys(v: &Value) {
        assert_eq!(gateway().address().to_string(), text(&v["gateway_address"]));
        assert_eq!(orchestrator().address().to_string(), text(&v["orchestrator_address"]));
        assert_eq!(gateway().to_secret_bytes().as_slice(), bytes(&v["gateway_private_key"]));
        assert_eq!(orchestrator().to_secret_bytes().as_slice(), bytes(&v["orchestrator_private_key"]));
    }

    pub(super) fn verify_signature_reference(v: &Value) {
        let signature = Signature::from_bytes(&bytes(&v["signature"])).expect("well formed");
        let signer = signature.recover_personal(hash(&v["message"])).expect("recoverable");
        assert_eq!(signer.to_string(), text(&v["expected_address"]));
        assert_eq!(Signature::from_bytes(&bytes(&v["rejected_high_s"])), Err(SignatureError::HighS));
    }

    pub(super) fn get_orchestrator_request(v: &Value) {
        let message = orchestrator_request_message(gateway().address());
        assert_eq!(message, bytes(&v["message_hex"]));
        assert_eq!(keccak256(&message), hash(&v["keccak256"]));
        let signature = gateway().sign_node(&message);
        assert_eq!(signature.to_bytes().as_slice(), bytes(&v["signature"]));
        let request: net::OrchestratorRequest = same_bytes(&bytes(&v["request_protobuf"]));
        assert_eq!(Address::from_bytes(&request.address), Some(gateway().address()));
        let sent = Signature::from_bytes(&request.sig).expect("well formed");
        assert_eq!(sent.recover_node(&message), Ok(gateway().address()));
        let needs = CapabilitySet::from_bitstring(&request.capabilities.expect("capabilities").bitstring);
        assert_eq!(needs, [0u32, 1, 4, 12].into_iter().collect());
    }

    pub(super) fn get_orchestrator_request_offchain(v: &Value) {
        let request = net::OrchestratorRequest::decode(bytes(&v["request_protobuf"]).as_slice()).expect("a message");
        assert_eq!(Address::from_bytes(&request.address), Some(Address::NULL));
        assert!(request.sig.is_empty());
        let capabilities = request.capabilities.expect("capabilities");
        assert!(capabilities.constraints.is_some());
        let needs = CapabilitySet::from_bitstring(&capabilities.bitstring);
        assert_eq!(needs, [0u32, 1, 4, 12, 26].into_iter().collect());
    }

    pub(super) fn ping(v: &Value) {
        let value = bytes(&v["request_value"]);
        assert_eq!(
            orchestrator().sign_node(&value).to_bytes().as_slice(),
            bytes(&v["reply_value_signed_by_orchestrator"])
        );
        assert_eq!(same_bytes::<net::PingPong>(&bytes(&v["request_protobuf"])).value, value);
    }

    pub(super) fn auth_token(v: &Value) {
        let key = TokenKey::new(bytes(&v["secret"]).try_into().expect("32 bytes"));
        let expiration = Timestamp(v["expiration"].as_i64().expect("a time"));
        let token = key.issue(text(&v["session_id"]), expiration);
        assert_eq!(token.token, bytes(&v["token"]));
        assert_eq!(hmac_sha256(&bytes(&v["secret"]), &[&bytes(&v["hmac_input"])]).as_slice(), bytes(&v["token"]));
        let sent: net::AuthToken = same_bytes(&bytes(&v["protobuf"]));
        assert_eq!(wire::auth_token_from_wire(&sent), token);
        assert_eq!(wire::auth_token_to_wire(&token), sent);
    }

    pub(super) fn win_prob(v: &Value) {
        for case in v["cases"].as_array().expect("cases") {
            let economics = TicketEconomics {
                expected_value: Wei(number(&case["ev"])),
                redeem_gas: case["redeem_gas"].as_u64().unwrap_or(1),
                gas_price: Wei(case.get("gas_price_wei").map(number).unwrap_or_default()),
                multiplier: 100,
                max_face_value: Wei(case.get("max_face_value").map(number).unwrap_or_default()),
            };
            if let Some(max_float) = case.get("max_float") {
                let offered = economics.face_value(Wei(number(max_float)));
                if let Some(error) = case.get("error") {
                    assert_eq!(offered.map_err(|e| e.to_string()), Err(text(error).to_owned()), "{case}");
                    continue;
                }
                assert_eq!(offered, Ok(Wei(number(&case["face_value"]))), "{case}");
            }
            let face_value = Wei(number(&case["face_value"]));
            if let Some(expected) = case.get("face_value_bytes") {
                assert_eq!(face_value.to_minimal_bytes(), bytes(expected));
            }
            if let Some(cost) = case.get("tx_cost") {
                assert_eq!(economics.tx_cost(), Wei(number(cost)));
            }
            let win_prob = economics.win_prob(face_value);
            match (case.get("win_prob_dec"), case.get("win_prob_hex")) {
                (None, None) => panic!("a case without an answer: {case}"),
                (dec, hex) => {
                    assert!(dec.is_none_or(|dec| number(dec) == win_prob.0), "{case}");
                    let minimal = u256_to_minimal_bytes(win_prob.0);
                    let expected = hex.map(|hex| u256_to_minimal_bytes(big(hex)));
                    assert!(expected.is_none_or(|expected| expected == minimal), "{case}");
                }
            }
        }
    }

    fn fraction(value: &Value) -> PricePerPixel {
        let (wei, pixels) = text(value).split_once('/').expect("a fraction");
        PricePerPixel::new(wei.parse().expect("wei"), pixels.parse().expect("pixels")).expect("a price")
    }

    pub(super) fn auto_adjust_price(v: &Value) {
        let price = fraction(&v["base_price"]);
        let adjusted = price.with_overhead(Wei(number(&v["tx_cost"])), Wei(number(&v["face_value"]))).expect("a price");
        assert_eq!(Some(adjusted.to_wire().0), v["price_per_unit"].as_i64());
        assert_eq!(Some(adjusted.to_wire().1), v["pixels_per_unit"].as_i64());
        for case in v["cases"].as_array().expect("cases") {
            let adjusted = fraction(&case["base"])
                .with_overhead(Wei(number(&case["tx_cost"])), Wei(number(&case["face_value"])))
                .expect("a price");
            assert_eq!(Some(adjusted.to_wire().0), case["price_per_unit"].as_i64(), "{case}");
            assert_eq!(Some(adjusted.to_wire().1), case["pixels_per_unit"].as_i64(), "{case}");
        }
    }

    /// Our own derivation differs on purpose (fixed-width fields, a generation); nobody else can check it.
    /// The primitive, the auxiliary data and the commitment are the network's.
    pub(super) fn recipient_rand(v: &Value) {
        let mac = hmac_sha256(&bytes(&v["secret"]), &[&bytes(&v["hmac_input"])]);
        assert_eq!(mac.as_slice(), bytes(&v["recipient_rand"]));
        let rand = RecipientRand::new(big(&v["recipient_rand"]));
        assert_eq!(rand.commitment(), hash(&v["recipient_rand_hash"]));
        let round = Round(v["creation_round"].as_u64().expect("a round"));
        assert_eq!(aux_data(round, hash(&v["creation_round_block_hash"])), bytes(&v["aux"]));
        let free = &v["zero_price_case"];
        let mac = hmac_sha256(&bytes(&v["secret"]), &[&bytes(&free["hmac_input"])]);
        assert_eq!(mac.as_slice(), bytes(&free["recipient_rand"]));
    }

    pub(super) fn tickets(v: &Value) {
        let aux = bytes(&v["aux"]);
        let rand = RecipientRand::new(big(&v["recipient_rand"]));
        for case in v["tickets"].as_array().expect("tickets") {
            let ticket = Ticket {
                recipient: text(&v["recipient"]).parse().expect("an address"),
                sender: text(&v["sender"]).parse().expect("an address"),
                face_value: Wei(number(&v["face_value"])),
                win_prob: WinProb(big(&v["win_prob_hex"])),
                sender_nonce: u32::try_from(case["sender_nonce"].as_u64().expect("a nonce")).expect("32 bits"),
                recipient_rand_hash: hash(&v["recipient_rand_hash"]),
                creation_round: Round(U256::from_big_endian(&aux[..32]).as_u64()),
                creation_round_block_hash: H256::from_slice(&aux[32..]),
            };
            assert_eq!(keccak256(&bytes(&case["flattened"])), hash(&case["ticket_hash"]));
            assert_eq!(ticket.hash(), hash(&case["ticket_hash"]));
            assert_eq!(ticket.aux_data(), aux);
            let exact = U512::from_dec_str(text(&v["ev_exact_times_max"])).expect("decimal");
            assert_eq!(ticket.expected_value().numerator(), exact);
            assert_eq!(ticket.expected_value().to_wei_floor(), Wei(number(&v["ev_floor_wei"])));
            let signature = gateway().sign_personal(ticket.hash());
            assert_eq!(signature.to_bytes().as_slice(), bytes(&case["signature"]));
            assert_eq!(signature.recover_personal(ticket.hash()), Ok(gateway().address()));
            let draw = keccak256_parts(&[&signature.to_bytes(), &u256_to_bytes32(rand.reveal())]);
            if let Some(expected) = case.get("win_hash") {
                assert_eq!(draw, hash(expected));
            }
            let expected = case.get("won").and_then(Value::as_bool);
            assert_eq!(Some(wins(&signature, rand, ticket.win_prob)), expected, "{case}");
        }
    }

    pub(super) fn ticket_hash_reference(v: &Value) {
        for case in v["cases"].as_array().expect("cases") {
            let ticket = Ticket {
                recipient: Address::from_bytes(&bytes(&case["recipient"])).expect("20 bytes"),
                sender: Address::from_bytes(&bytes(&case["sender"])).expect("20 bytes"),
                face_value: Wei(number(&case["face_value"])),
                win_prob: WinProb(number(&case["win_prob"])),
                sender_nonce: u32::try_from(case["sender_nonce"].as_u64().expect("a nonce")).expect("32 bits"),
                recipient_rand_hash: hash(&case["recipient_rand_hash"]),
                creation_round: Round(0),
                creation_round_block_hash: H256::zero(),
            };
            assert_eq!(ticket.hash(), hash(&case["hash"]), "{case}");
        }
    }

    fn from_header<M: Message + Default>(header: &Value) -> M {
        let decoded = base64::engine::general_purpose::STANDARD.decode(text(header)).expect("base64");
        same_bytes(&decoded)
    }

    pub(super) fn payment(v: &Value) {
        let sent: net::Payment = same_bytes(&bytes(&v["protobuf"]));
        assert_eq!(from_header::<net::Payment>(&v["header_livepeer_payment"]), sent);
        let payment = wire::payment_from_wire(&sent).expect("a payment");
        assert_eq!(payment.sender, gateway().address());
        let batch = payment.tickets.as_ref().expect("tickets");
        assert_eq!(batch.params.recipient, orchestrator().address());
        assert!(!batch.tickets.is_empty());
        assert_eq!(wire::payment_to_wire(&payment), sent);
        let sent: net::Payment = same_bytes(&bytes(&v["no_ticket_payment"]["protobuf"]));
        assert_eq!(from_header::<net::Payment>(&v["no_ticket_payment"]["header_livepeer_payment"]), sent);
        let payment = wire::payment_from_wire(&sent).expect("a payment");
        assert_eq!(payment.tickets, None);
        assert_eq!(wire::payment_to_wire(&payment), sent);
    }

    pub(super) fn orchestrator_info(v: &Value) {
        // Writers differ in map order and in whether a key of 0 is written, so the message is compared, not its bytes.
        let info = net::OrchestratorInfo::decode(bytes(&v["protobuf"]).as_slice()).expect("a message");
        let params = wire::params_from_wire(info.ticket_params.as_ref().expect("params"), None).expect("an offer");
        assert_eq!(Some(wire::params_to_wire(&params)), info.ticket_params);
        assert_eq!(info.transcoder, "https://orch.example:8935");
        let offered = CapabilitySet::from_bitstring(&info.capabilities.as_ref().expect("capabilities").bitstring);
        assert_eq!(Some(wire::capabilities_to_wire(&offered, "0.9.1")), info.capabilities);
    }

    pub(super) fn capability_bitstrings(v: &Value) {
        let ids = |value: &Value| -> CapabilitySet {
            value
                .as_array()
                .expect("ids")
                .iter()
                .map(|id| u32::try_from(id.as_u64().expect("an id")).expect("32 bits"))
                .collect()
        };
        let word: u64 = text(&v["default_transcoder_word0"]).parse().expect("a word");
        assert_eq!(ids(&v["default_transcoder_ids"]).to_bitstring(), [word]);
        for case in v["examples"].as_array().expect("examples") {
            let capabilities: net::Capabilities = same_bytes(&bytes(&case["capabilities_protobuf"]));
            assert_eq!(CapabilitySet::from_bitstring(&capabilities.bitstring), ids(&case["ids"]));
            assert_eq!(ids(&case["ids"]).to_bitstring(), capabilities.bitstring);
        }
    }

    pub(super) fn segment_signature(v: &Value) {
        let names: Vec<&str> = v["profile_names"].as_array().expect("names").iter().map(text).collect();
        let content = keccak256(text(&v["segment_utf8"]).as_bytes());
        assert_eq!(content, hash(&v["segment_hash"]));
        let manifest = text(&v["manifest_id"]).as_bytes();
        let message =
            segment_message(manifest, v["seq"].as_i64().expect("a number"), content.as_bytes(), names.iter().copied());
        assert_eq!(hex::encode(&message), text(&v["message"]));
        assert_eq!(gateway().sign_node(&message).to_bytes().as_slice(), bytes(&v["signature"]));
        let sent: net::SegData = same_bytes(&bytes(&v["seg_data_protobuf"]));
        assert_eq!(from_header::<net::SegData>(&v["header_livepeer_segment"]), sent);
        let meta = wire::segment_from_wire(&sent).expect("credentials");
        assert_eq!(meta.profiles.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), names);
        let mut again = net::SegData { full_profiles: Vec::new(), ..sent.clone() };
        again.profiles = Vec::new();
        wire::profiles_into_seg_data(&meta.profiles, &mut again);
        assert_eq!(again, sent);
    }

    pub(super) fn payment_only_segment(v: &Value) {
        let message = segment_message(text(&v["manifest_id"]).as_bytes(), 0, keccak256(b"").as_bytes(), []);
        assert_eq!(hex::encode(&message), text(&v["message"]));
        assert_eq!(gateway().sign_node(&message).to_bytes().as_slice(), bytes(&v["signature"]));
        let sent: net::SegData = same_bytes(&bytes(&v["seg_data_protobuf"]));
        assert_eq!(from_header::<net::SegData>(&v["header_livepeer_segment"]), sent);
        assert!(wire::segment_from_wire(&sent).expect("credentials").profiles.is_empty());
    }

    pub(super) fn profile_tags(v: &Value) {
        for (name, tag) in v["tags"].as_object().expect("tags") {
            assert_eq!(hex::encode(profile_tag(name)), text(tag), "{name}");
        }
    }

    pub(super) fn transcode_result(v: &Value) {
        let hashes = ["rendition_1_utf8", "rendition_2_utf8"].map(|name| keccak256(text(&v[name]).as_bytes()));
        assert_eq!(hashes, [hash(&v["keccak_1"]), hash(&v["keccak_2"])]);
        assert_eq!(result_digest(&hashes), hash(&v["digest"]));
        let signature = orchestrator().sign_personal(result_digest(&hashes));
        assert_eq!(signature.to_bytes().as_slice(), bytes(&v["signature"]));
        let success: net::TranscodeResult = same_bytes(&bytes(&v["success_protobuf"]));
        assert!(matches!(success.result, Some(net::transcode_result::Result::Data(data)) if data.segments.len() == 2));
        let failure: net::TranscodeResult = same_bytes(&bytes(&v["error_protobuf"]));
        assert_eq!(failure.result, Some(net::transcode_result::Result::Error("OrchestratorBusy".into())));
        let with_info =
            net::TranscodeResult::decode(bytes(&v["success_with_info_protobuf"]).as_slice()).expect("a message");
        assert!(with_info.info.is_some());
    }

    pub(super) fn register_transcoder(v: &Value) {
        let request: net::RegisterRequest = same_bytes(&bytes(&v["protobuf"]));
        assert_eq!((request.secret.as_str(), request.capacity), ("s3cret", 10));
    }

    pub(super) fn notify_segment(v: &Value) {
        let notice: net::NotifySegment = same_bytes(&bytes(&v["protobuf"]));
        assert_eq!(notice.seg_data.expect("credentials").hash, [0; 32]);
    }

    pub(super) fn notify_segment_teardown(v: &Value) {
        let notice: net::NotifySegment = same_bytes(&bytes(&v["protobuf"]));
        assert!(notice.url.is_empty());
        assert_eq!(notice.seg_data.and_then(|data| data.auth_token).expect("a token").session_id, "deadbeef");
    }

    pub(super) fn end_transcoding_session(v: &Value) {
        let request: net::EndTranscodingSessionRequest = same_bytes(&bytes(&v["protobuf"]));
        assert_eq!(request.auth_token.expect("a token").session_id, "deadbeef");
    }

    pub(super) fn redeemer_ticket(v: &Value) {
        let ticket: net::Ticket = same_bytes(&bytes(&v["protobuf"]));
        let params = wire::params_from_wire(&ticket.ticket_params.expect("params"), ticket.expiration_params.as_ref())
            .expect("an offer");
        assert_eq!(
            RecipientRand::new(U256::from_big_endian(&ticket.recipient_rand)).commitment(),
            params.recipient_rand_hash
        );
    }

    pub(super) fn resize_rule(v: &Value) {
        for case in v["cases"].as_array().expect("cases") {
            let pair = |name: &str| {
                let side = |i: usize| u32::try_from(case[name][i].as_u64().expect("a size")).expect("32 bits");
                (side(0), side(1))
            };
            assert_eq!(output_size(pair("source"), pair("requested"), VideoCodec::H264), pair("output"), "{case}");
        }
    }
}
