//! Renditions that go to the gateway's object store: held against a receiver that is stricter than the real ones.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response};
use ledger::Account;
use livepeer::recipient_rand::hmac_sha256;
use livepeer::units::Wei;
use livepeer::wire::net;
use net::os_info::StorageType;
use orchestrator::Config;
use serde_json::{Value, json};

use super::terms;
use super::web::{answer, serve};
use crate::node::peer::{Speak, data, error};
use crate::node::scripted::{Stage, gateway, ladder, paid};

const BUCKET: &str = "films";
const KEY_ID: &str = "AKIDEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const DAY: &str = "20260816";
const REGION: &str = "eu-west-1";

/// What a gateway tells of its store: the right to write below a prefix, signed.
fn grant(host: String, prefix: &str) -> net::S3osInfo {
    grant_by(KEY_ID, SECRET, host, prefix)
}

fn grant_by(key_id: &str, secret: &str, host: String, prefix: &str) -> net::S3osInfo {
    let credential = format!("{key_id}/{DAY}/{REGION}/s3/aws4_request");
    let policy = json!({
        "expiration": "2099-01-01T00:00:00.000Z",
        "conditions": [
            { "bucket": BUCKET },
            { "acl": "public-read" },
            ["starts-with", "$Content-Type", ""],
            ["starts-with", "$key", prefix],
            { "x-amz-algorithm": "AWS4-HMAC-SHA256" },
            { "x-amz-credential": credential },
            { "x-amz-date": format!("{DAY}T000000Z") },
        ],
    });
    let policy = STANDARD.encode(policy.to_string());
    let signature = sign(secret, &policy);
    net::S3osInfo { host, key: prefix.to_owned(), policy, signature, credential, x_amz_date: format!("{DAY}T000000Z") }
}

/// AWS signature version 4 over a policy.
fn sign(secret: &str, policy: &str) -> String {
    let steps = [DAY, REGION, "s3", "aws4_request"];
    let secret = format!("AWS4{secret}").into_bytes();
    let key = steps.iter().fold(secret, |key, step| hmac_sha256(&key, &[step.as_bytes()]).to_vec());
    hex::encode(hmac_sha256(&key, &[policy.as_bytes()]))
}

/// A form as it came in: its fields in order, and its file.
#[derive(Debug)]
struct Form {
    fields: Vec<(String, String)>,
    file: (String, String, Vec<u8>),
}

fn parse(request: &Request<Bytes>) -> Form {
    let kind = request.headers()["content-type"].to_str().unwrap();
    let boundary = kind.strip_prefix("multipart/form-data; boundary=").expect("a form");
    let length: usize = request.headers()["content-length"].to_str().unwrap().parse().unwrap();
    assert_eq!(length, request.body().len());
    let mut rest = request.body().strip_prefix(format!("--{boundary}\r\n").as_bytes()).expect("a first part");
    let (between, last) = (format!("\r\n--{boundary}\r\n"), format!("\r\n--{boundary}--\r\n"));
    let (mut fields, mut file) = (Vec::new(), None);
    while !rest.is_empty() {
        let find = |needle: &[u8]| rest.windows(needle.len()).position(|window| window == needle);
        let end = find(between.as_bytes()).or_else(|| find(last.as_bytes())).expect("an end");
        let part = &rest[..end];
        rest = rest[end..].strip_prefix(between.as_bytes()).unwrap_or_default();
        let head = part.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
        let (head, body) = (std::str::from_utf8(&part[..head]).unwrap(), part[head + 4..].to_vec());
        let quoted =
            |name: &str| head.split_once(&format!("{name}=\"")).map(|(_, rest)| rest.split('"').next().unwrap());
        let name = quoted(" name").unwrap().to_owned();
        assert!(file.is_none(), "S3 ignores what comes behind the file: {name}");
        match quoted("filename") {
            Some(filename) => {
                assert_eq!(name, "file");
                let kind = head.split_once("Content-Type: ").unwrap().1.to_owned();
                file = Some((filename.to_owned(), kind, body));
            }
            None => fields.push((name, String::from_utf8(body).unwrap())),
        }
    }
    Form { fields, file: file.expect("a file") }
}

/// Takes a form if its policy is signed and allows everything in it and nothing is missing; where it is kept.
fn take(form: &Form) -> Result<String, String> {
    let fields: BTreeMap<String, String> =
        form.fields.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect();
    assert_eq!(fields.len(), form.fields.len(), "a field came twice");
    let field = |name: &str| fields.get(name).cloned().ok_or_else(|| format!("{name} is missing"));
    let policy = field("policy")?;
    if field("x-amz-signature")? != sign(SECRET, &policy) {
        return Err("SignatureDoesNotMatch".to_owned());
    }
    let policy: Value = serde_json::from_slice(&STANDARD.decode(policy).unwrap()).unwrap();
    let key = field("key")?.replace("${filename}", &form.file.0);
    let mut allowed = vec!["policy".to_owned(), "x-amz-signature".to_owned()];
    for condition in policy["conditions"].as_array().unwrap() {
        let (name, begins, wanted) = match condition {
            Value::Array(rule) => {
                (rule[1].as_str().unwrap().trim_start_matches('$').to_owned(), true, rule[2].as_str())
            }
            Value::Object(rule) => {
                let (name, value) = rule.iter().next().unwrap();
                (name.clone(), false, value.as_str())
            }
            _ => unreachable!(),
        };
        let (name, wanted) = (name.to_ascii_lowercase(), wanted.unwrap());
        allowed.push(name.clone());
        let value = match name.as_str() {
            "bucket" => BUCKET.to_owned(),
            "key" => key.clone(),
            _ => field(&name)?,
        };
        if (begins && !value.starts_with(wanted)) || (!begins && value != wanted) {
            return Err(format!("policy condition failed: {name}"));
        }
    }
    match fields.keys().find(|name| !allowed.contains(name)) {
        Some(extra) => Err(format!("extra input field: {extra}")),
        None => Ok(key),
    }
}

type Kept = Arc<Mutex<BTreeMap<String, (String, Vec<u8>)>>>;

fn store() -> (Kept, impl Fn(&Request<Bytes>) -> Response<Bytes> + Send + Sync) {
    let kept = Kept::default();
    let keep = Arc::clone(&kept);
    let receive = move |request: &Request<Bytes>| {
        assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/films"));
        let form = parse(request);
        match take(&form) {
            Ok(key) => {
                keep.lock().unwrap().insert(key, (form.file.1, form.file.2));
                answer(204, "")
            }
            Err(refused) => answer(403, refused),
        }
    };
    (kept, receive)
}

fn own_network(config: &mut Config) {
    config.outbound.allow_networks = vec!["127.0.0.0/8".parse().unwrap()];
}

#[tokio::test]
async fn renditions_go_to_the_gateways_own_store_under_its_policy() {
    let (kept, receive) = store();
    let (address, _) = serve(receive).await;
    let stage = Stage::on_chain_with(terms("2"), own_network).await;
    let info = stage.offer().await.unwrap();
    let word = info.capabilities.as_ref().unwrap().bitstring[0];
    assert!(word >> 5 & 1 == 1 && word >> 6 & 1 == 1, "stores are offered: {word:b}");
    let host = format!("http://{address}/{BUCKET}");
    let mut upload = paid(&info, 7, 1..=4);
    let s3 = |info| net::OsInfo { storage_type: StorageType::S3.into(), s3info: Some(info) };
    upload.data.storage = vec![s3(grant(host.clone(), "live/stream"))];
    let result = upload.send(&stage.uri, Speak::Http1).await;
    let names: Vec<String> = ladder().iter().map(|profile| format!("live/stream/{}/7.ts", profile.name)).collect();
    let urls: Vec<&str> = data(&result).segments.iter().map(|segment| segment.url.as_str()).collect();
    assert_eq!(urls, names.iter().map(|name| format!("{host}/{name}")).collect::<Vec<_>>());
    {
        let kept = kept.lock().unwrap();
        assert_eq!(kept.keys().cloned().collect::<Vec<_>>(), names);
        for (profile, (kind, media)) in ladder().iter().zip(kept.values()) {
            assert_eq!(kind, "video/mp2t");
            assert_eq!(*media, format!("a rendition of 100 bytes as {}", profile.name).into_bytes());
        }
    }
    let account = Account::session(gateway().address(), &info.auth_token.as_ref().unwrap().session_id);
    let charged = stage.ledger().balance(&account).unwrap().debit;
    assert!(charged > Wei::ZERO);

    // A store that refuses costs the segment, and the gateway nothing.
    let mut forged = grant(host, "live/stream");
    forged.signature = "0".repeat(64);
    let mut upload = paid(&info, 8, 5..=8);
    upload.data.storage = vec![s3(forged)];
    assert_eq!(error(&upload.send(&stage.uri, Speak::Http2).await), "renditions could not be stored");
    let mut upload = paid(&info, 9, 9..=12);
    upload.data.storage = vec![s3(grant("http://127.0.0.1:1".to_owned(), "live"))];
    assert_eq!(error(&upload.send(&stage.uri, Speak::Http1).await), "renditions could not be stored");
    assert_eq!(stage.ledger().balance(&account).unwrap().debit, charged);
    assert_eq!(kept.lock().unwrap().len(), 2);
}

/// Against a real server: `S3_ENDPOINT=http://127.0.0.1:9000 S3_KEY=… S3_SECRET=…`, with a public bucket `films`.
#[tokio::test]
#[ignore = "needs an S3-compatible server, named by S3_ENDPOINT"]
async fn a_real_store_takes_renditions_and_serves_them() {
    let told = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let host = format!("{}/{BUCKET}", told("S3_ENDPOINT"));
    let stage = Stage::on_chain_with(terms("2"), own_network).await;
    let info = stage.offer().await.unwrap();
    let mut upload = paid(&info, 7, 1..=4);
    let granted = grant_by(&told("S3_KEY"), &told("S3_SECRET"), host, "live/stream");
    upload.data.storage = vec![net::OsInfo { storage_type: StorageType::S3.into(), s3info: Some(granted.clone()) }];
    let result = upload.send(&stage.uri, Speak::Http1).await;
    for (segment, profile) in data(&result).segments.iter().zip(ladder()) {
        let got = std::process::Command::new("curl").args(["-sf", &segment.url]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&got.stdout), format!("a rendition of 100 bytes as {}", profile.name));
    }
    let elsewhere = net::S3osInfo { key: "other".to_owned(), ..granted };
    let mut upload = paid(&info, 8, 5..=8);
    upload.data.storage = vec![net::OsInfo { storage_type: StorageType::S3.into(), s3info: Some(elsewhere) }];
    assert_eq!(error(&upload.send(&stage.uri, Speak::Http1).await), "renditions could not be stored");
}

#[tokio::test]
async fn a_google_store_gets_the_fields_it_knows() {
    let (address, asked) = serve(|_| answer(204, "")).await;
    let stage = Stage::on_chain_with(terms("2"), own_network).await;
    let info = stage.offer().await.unwrap();
    let mut upload = paid(&info, 0, 1..=4);
    let granted = net::S3osInfo { x_amz_date: String::new(), ..grant(format!("http://{address}"), "live") };
    upload.data.storage = vec![net::OsInfo { storage_type: StorageType::Google.into(), s3info: Some(granted.clone()) }];
    data(&upload.send(&stage.uri, Speak::Http1).await);
    let form = parse(&asked.lock().unwrap()[0]);
    let names: Vec<&str> = form.fields.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["acl", "Content-Type", "key", "policy", "GoogleAccessId", "signature"]);
    assert_eq!((&form.fields[4].1, &form.fields[5].1), (&granted.credential, &granted.signature));
}

#[tokio::test]
async fn a_store_inside_our_network_is_not_written_to() {
    let (address, asked) = serve(|_| answer(204, "")).await;
    let stage = Stage::on_chain().await;
    let info = stage.offer().await.unwrap();
    let mut upload = paid(&info, 0, 1..=4);
    let granted = grant(format!("http://{address}/{BUCKET}"), "live");
    upload.data.storage = vec![net::OsInfo { storage_type: StorageType::S3.into(), s3info: Some(granted) }];
    assert_eq!(error(&upload.send(&stage.uri, Speak::Http1).await), "renditions could not be stored");
    assert!(asked.lock().unwrap().is_empty());
}
