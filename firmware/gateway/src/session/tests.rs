use super::*;
use livepeer::address::keccak256;
use livepeer::credentials::AuthToken;
use livepeer::profile::preset;
use livepeer::signature::SigningKey;
use livepeer::units::Timestamp;
use serde_json::Value;

fn vector(name: &str) -> Value {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/wire.json");
    let vectors: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    vectors["vectors"][name].clone()
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

#[test]
fn the_segment_header_is_the_reference_gateways() {
    let vector = vector("segment_signature");
    let wire = net::SegData::decode(&*bytes(&vector["seg_data_protobuf"])).unwrap();
    let token = wire::auth_token_from_wire(wire.auth_token.as_ref().unwrap());
    let segment = vector["segment_utf8"].as_str().unwrap().as_bytes();
    let work = Upload {
        seq: vector["seq"].as_i64().unwrap(),
        bytes: Bytes::copy_from_slice(segment),
        hash: keccak256(segment),
        duration: Duration::from_secs(2),
        targets: Vec::new(),
    };
    let names = vector["profile_names"].as_array().unwrap().iter().map(|name| name.as_str().unwrap());
    let profiles: Vec<Profile> = names.map(|name| preset(name).unwrap()).collect();
    let offer = Offer {
        service_uri: Uri::from_static("https://127.0.0.1:8935"),
        signer: Address::NULL,
        auth_token: AuthToken { expiration: Timestamp(token.expiration.0), ..token },
        terms: None,
        hashes: false,
    };
    let needed = needs::needs(mpegts::VideoCodec::H264, &profiles);
    let mut data = segment_data(vector["manifest_id"].as_str().unwrap(), &work, &profiles, &needed, &offer);
    let names = wire_names(&profiles);
    let message = segment_message(&data.manifest_id, data.seq, &data.hash, names.iter().map(String::as_str));
    assert_eq!(hex::encode(&message), vector["message"].as_str().unwrap());
    let key = SigningKey::from_bytes(&[1; 32]).unwrap();
    data.sig = key.sign_node(&message).to_bytes().to_vec();
    assert_eq!(header_text(&data), vector["header_livepeer_segment"].as_str().unwrap());
}

#[test]
fn a_result_counts_only_with_the_signature_of_whom_the_offer_names() {
    let vector = vector("transcode_result");
    let orchestrator = SigningKey::from_bytes(&[2; 32]).unwrap().address();
    let hash = |name: &str| keccak256(vector[name].as_str().unwrap().as_bytes());
    let hashes = [hash("rendition_1_utf8"), hash("rendition_2_utf8")];
    let signature = bytes(&vector["signature"]);
    assert!(check_signature(orchestrator, &hashes, &signature).is_ok());
    let swapped = [hashes[1], hashes[0]];
    assert!(matches!(check_signature(orchestrator, &swapped, &signature), Err(SessionError::SignedByOther { .. })));
    let other = SigningKey::from_bytes(&[1; 32]).unwrap().address();
    assert!(matches!(check_signature(other, &hashes, &signature), Err(SessionError::SignedByOther { .. })));
    assert!(matches!(check_signature(orchestrator, &hashes, &[]), Err(SessionError::SignatureForm(_))));
}

#[test]
fn only_the_networks_exact_words_blame_the_stream() {
    let failed = |text: &str| SessionError::Failed(text.into()).is_the_streams_fault();
    assert!(failed("No keyframes in input"));
    assert!(!failed("no keyframes in input"));
    assert!(!failed("OrchestratorBusy"));
    assert!(!failed("Insufficient balance"));
}

#[test]
fn segments_go_below_the_service_uri_whether_or_not_it_ends_in_a_slash() {
    let uri = |text| segment_uri(&Uri::from_static(text)).unwrap().to_string();
    assert_eq!(uri("https://box:8935"), "https://box:8935/segment");
    assert_eq!(uri("https://box:8935/"), "https://box:8935/segment");
    assert_eq!(uri("https://box:8935/millrace/"), "https://box:8935/millrace/segment");
}
