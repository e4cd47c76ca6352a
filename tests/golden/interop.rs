//! Vectors captured from a running go-livepeer: what it says on the wire, told apart and held against our own reading.
//!
//! Origin: `tests/vectors/README.md`. Each vector has a test of its name.
use std::collections::BTreeSet;

use base64::Engine;
use livepeer::address::{Address, H256};
use livepeer::capability::{Capability, CapabilitySet};
use livepeer::credentials::{orchestrator_request_message, result_digest, segment_message};
use livepeer::signature::Signature;
use livepeer::ticket::{Ticket, aux_data};
use livepeer::wire::{self, net};
use prost::Message;
use serde_json::Value;

use crate::vectors::{address, hash, names, text, vector};

const FILE: &str = "interop.json";

macro_rules! vectors {
    ($($name:ident),* $(,)?) => {
        $(#[test] fn $name() { checks::$name(&vector(FILE, stringify!($name))); })*

        #[test]
        fn every_captured_vector_is_read() {
            let read: BTreeSet<&str> = [$(stringify!($name)),*].into();
            let names = names(FILE);
            let present: BTreeSet<&str> = names.iter().map(String::as_str).collect();
            assert_eq!(read, present);
        }
    };
}

vectors!(
    get_orchestrator_request,
    get_orchestrator_request_poll,
    seg_data,
    seg_data_rtmp,
    payment,
    end_transcoding_session,
    orchestrator_info,
    orchestrator_info_poll,
    orchestrator_info_offchain,
    transcode_result,
    register_transcoder,
    transcode_results_post,
    notify_segment,
    notify_segment_teardown,
);

fn message<M: Message + Default>(value: &Value) -> M {
    M::decode(hex::decode(text(value)).expect("hex").as_slice()).expect("a message")
}

/// The same, and our writer gives the very bytes: of messages without maps, which Go writes in any order.
fn same_bytes<M: Message + Default>(value: &Value) -> M {
    let decoded: M = message(value);
    assert_eq!(hex::encode(decoded.encode_to_vec()), text(value));
    decoded
}

fn header<M: Message + Default>(value: &Value) -> M {
    let bytes = base64::engine::general_purpose::STANDARD.decode(text(value)).expect("base64");
    M::decode(bytes.as_slice()).expect("a message")
}

fn needs(capabilities: Option<&net::Capabilities>) -> CapabilitySet {
    CapabilitySet::from_bitstring(&capabilities.expect("capabilities").bitstring)
}

fn set(ids: &[u32]) -> CapabilitySet {
    ids.iter().copied().collect()
}

mod checks {
    use super::*;

    pub(super) fn get_orchestrator_request(v: &Value) {
        let request = signed_request(v);
        // H.264 in and out, transport stream, baseline, key frames every second, auth token, clip window.
        assert_eq!(needs(request.capabilities.as_ref()), set(&[0, 1, 7, 11, 12, 26]));
    }

    pub(super) fn get_orchestrator_request_poll(v: &Value) {
        assert!(signed_request(v).capabilities.is_none(), "no job is meant");
    }

    fn signed_request(v: &Value) -> net::OrchestratorRequest {
        let request: net::OrchestratorRequest = same_bytes(&v["protobuf"]);
        assert_eq!(Address::from_bytes(&request.address), Some(address(&v["gateway"])));
        let signature = Signature::from_bytes(&request.sig).expect("well formed");
        let signed = orchestrator_request_message(address(&v["gateway"]));
        assert_eq!(signature.recover_node(&signed), Ok(address(&v["gateway"])));
        request
    }

    pub(super) fn seg_data(v: &Value) {
        credentials(v, "stream", &[0, 1, 7, 11, 12, 26]);
    }

    pub(super) fn seg_data_rtmp(v: &Value) {
        // A segment of an RTMP stream carries no clip window.
        credentials(v, "rtmp", &[0, 1, 7, 11, 12]);
    }

    fn credentials(v: &Value, manifest: &str, needed: &[u32]) {
        let sent: net::SegData = header(&v["header_livepeer_segment"]);
        let read = wire::segment_from_wire(&sent).expect("credentials");
        assert_eq!((read.manifest_id.as_slice(), text(&v["content_type"])), (manifest.as_bytes(), "video/MP2T"));
        assert_eq!(H256::from_slice(&read.hash), hash(&v["keccak256_of_body"]));
        assert_eq!(read.needs, set(needed));
        let names: Vec<&str> = read.profiles.iter().map(|profile| profile.name.as_str()).collect();
        assert_eq!(names, ["240p0", "360p30"]);
        let gops: Vec<_> = sent.full_profiles3.iter().map(|profile| (profile.fps, profile.gop)).collect();
        assert_eq!(gops, [(0, 0), (30, 1000)], "fps 0 keeps the source's");
        let signed = segment_message(&read.manifest_id, read.seq, &read.hash, names.iter().copied());
        let signature = Signature::from_bytes(&read.signature).expect("well formed");
        assert_eq!(signature.recover_node(&signed), Ok(address(&v["gateway"])));
        assert!(read.auth_token.is_some_and(|token| token.session_id.len() == 32), "our own token comes back");
    }

    pub(super) fn payment(v: &Value) {
        let sent: net::Payment = header(&v["header_livepeer_payment"]);
        let payment = wire::payment_from_wire(&sent).expect("a payment");
        assert_eq!(wire::payment_to_wire(&payment), sent, "nothing is lost in reading");
        assert_eq!(payment.sender, address(&v["gateway"]));
        let batch = payment.tickets.as_ref().expect("tickets");
        assert_eq!(batch.params.recipient, address(&v["recipient"]));
        assert!(!batch.tickets.is_empty());
        for (sender_nonce, signature) in &batch.tickets {
            let expiration = sent.expiration_params.as_ref().expect("expiration params");
            let round = livepeer::units::Round(u64::try_from(expiration.creation_round).expect("a round"));
            let whole = Ticket {
                recipient: batch.params.recipient,
                sender: payment.sender,
                face_value: batch.params.face_value,
                win_prob: batch.params.win_prob,
                sender_nonce: *sender_nonce,
                recipient_rand_hash: batch.params.recipient_rand_hash,
                creation_round: round,
                creation_round_block_hash: H256::from_slice(&expiration.creation_round_block_hash),
            };
            assert_eq!(whole.aux_data(), aux_data(round, whole.creation_round_block_hash));
            let signature = Signature::from_bytes(signature).expect("well formed");
            assert_eq!(signature.recover_personal(whole.hash()), Ok(payment.sender), "nonce {sender_nonce}");
        }
    }

    pub(super) fn end_transcoding_session(v: &Value) {
        let request: net::EndTranscodingSessionRequest = same_bytes(&v["protobuf"]);
        assert_eq!(request.auth_token.expect("a token").session_id.len(), 32);
    }

    pub(super) fn orchestrator_info(v: &Value) {
        let (request, info) = offer(v);
        assert!(needs(request.capabilities.as_ref()).is_subset(&needs(info.capabilities.as_ref())));
        assert!(info.hardware.is_empty() && info.capabilities_prices.is_empty());
    }

    pub(super) fn orchestrator_info_poll(v: &Value) {
        let (request, info) = offer(v);
        assert!(request.capabilities.is_none());
        assert!(info.price_info.is_some());
    }

    fn offer(v: &Value) -> (net::OrchestratorRequest, net::OrchestratorInfo) {
        let info: net::OrchestratorInfo = message(&v["protobuf"]);
        assert_eq!(Address::from_bytes(&info.address), Some(address(&v["orchestrator"])));
        let sent = info.ticket_params.as_ref().expect("params");
        let params = wire::params_from_wire(sent, None).expect("an offer");
        assert_eq!(Some(wire::params_to_wire(&params)), info.ticket_params);
        assert_eq!(params.recipient, address(&v["orchestrator"]));
        assert_eq!(info.auth_token.as_ref().expect("a token").session_id.len(), 8);
        let offered = needs(info.capabilities.as_ref());
        assert!(offered.contains(Capability::MpegSevenSignature) && !offered.contains(Capability::HevcDecode));
        (same_bytes(&v["request"]), info)
    }

    pub(super) fn orchestrator_info_offchain(v: &Value) {
        let info: net::OrchestratorInfo = message(&v["protobuf"]);
        // An empty address would be refused by every stock gateway: its empty block list holds the empty text.
        assert_eq!(info.address, [0; 20]);
        assert!(info.ticket_params.is_none() && info.price_info.is_none());
        // What our transcoder can do, seen through the stock orchestrator that it is attached to.
        let offered = needs(info.capabilities.as_ref());
        assert!(offered.contains(Capability::MpegSevenSignature) && offered.contains(Capability::HevcDecode));
        let request: net::OrchestratorRequest = message(&v["request"]);
        assert_eq!(Address::from_bytes(&request.address), Some(Address::NULL));
        assert!(request.sig.is_empty());
    }

    pub(super) fn transcode_result(v: &Value) {
        let result: net::TranscodeResult = message(&v["protobuf"]);
        let Some(net::transcode_result::Result::Data(data)) = result.result else { panic!("no data") };
        let hashes: Vec<H256> = v["keccak256_of_renditions"].as_array().expect("hashes").iter().map(hash).collect();
        assert_eq!(data.segments.len(), hashes.len());
        let signature = Signature::from_bytes(&data.sig).expect("well formed");
        assert_eq!(signature.recover_personal(result_digest(&hashes)), Ok(address(&v["orchestrator"])));
        // 426x240 and 640x360, sixty pictures each.
        let pixels: Vec<i64> = data.segments.iter().map(|segment| segment.pixels).collect();
        assert_eq!(pixels, [426 * 240 * 60, 640 * 360 * 60]);
        assert!(result.info.is_some());
    }

    pub(super) fn register_transcoder(v: &Value) {
        let request: net::RegisterRequest = message(&v["protobuf"]);
        assert_eq!((request.secret.as_str(), request.capacity), ("interop-secret", 20));
        let capabilities = request.capabilities.expect("capabilities");
        assert_eq!(capabilities.version, "0.9.1");
        let offered = CapabilitySet::from_bitstring(&capabilities.bitstring);
        // In software it decodes no HEVC, and reports capacity one for each thing it can do, whatever its capacity.
        assert!(offered.contains(Capability::MpegSevenSignature) && !offered.contains(Capability::HevcDecode));
        let listed: CapabilitySet = capabilities.capacities.keys().copied().collect();
        assert_eq!(listed, offered);
        assert!(capabilities.capacities.values().all(|capacity| *capacity == 1), "{:?}", capabilities.capacities);
        assert!(text(&v["user_agent"]).starts_with("grpc-go/"));
    }

    pub(super) fn transcode_results_post(v: &Value) {
        let field = |name: &str| text(&v["headers"][name]).to_owned();
        assert_eq!(field("authorization"), "Livepeer-Transcoder-1.0");
        assert_eq!(field("credentials"), "interop-secret");
        assert!(field("taskid").parse::<i64>().is_ok());
        assert_eq!(field("pixels").parse(), Ok(1280 * 720 * 60), "pictures of the source");
        let (kind, boundary) = field("content-type")
            .split_once("; boundary=")
            .map(|(k, b)| (k.to_owned(), b.to_owned()))
            .expect("a boundary");
        assert_eq!(kind, "multipart/mixed");
        let part: Vec<&str> = text(&v["first_part"]).split("\r\n").collect();
        assert_eq!(part[0], format!("--{boundary}"));
        assert!(part.contains(&"Content-Type: video/mp2t"));
        assert!(part.contains(&format!("Pixels: {}", 426 * 240 * 60).as_str()));
    }

    pub(super) fn notify_segment(v: &Value) {
        let notice: net::NotifySegment = message(&v["protobuf"]);
        assert!(notice.url.starts_with("https://127.0.0.1:") && notice.url.ends_with(".tempfile"));
        assert_eq!(notice.task_id, 0, "tasks are numbered from nought");
        assert_eq!((notice.profiles.as_slice(), notice.orch_id.as_str()), (b"invalid".as_slice(), "offchain"));
        let data = notice.seg_data.expect("credentials");
        assert_eq!(data.hash, [0; 32]);
        assert!(data.sig.is_empty() && data.storage.is_empty());
        let read = wire::segment_from_wire(&data).expect("credentials");
        assert_eq!(read.profiles.len(), 2);
        assert!(read.auth_token.is_some_and(|token| token.session_id.len() == 8));
    }

    pub(super) fn notify_segment_teardown(v: &Value) {
        let notice: net::NotifySegment = same_bytes(&v["protobuf"]);
        assert!(notice.url.is_empty() && notice.task_id == 0);
        assert_eq!(notice.seg_data.and_then(|data| data.auth_token).expect("a token").session_id.len(), 8);
    }
}
