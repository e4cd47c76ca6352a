//! The orchestrator beyond the plain segment: every form of discovery, refreshed tokens, drain, prices, URLs, stores.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod errands;
mod feed;
mod store;
mod url;
mod web;
mod webhook;

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Request;
use http_body_util::Full;
use livepeer::address::Address;
use livepeer::broker::FeedAnswer;
use livepeer::price::quoted::EtherPrice;
use livepeer::units::{Timestamp, Wei};
use livepeer::wire::net;
use orchestrator::PaymentConfig;
use orchestrator::config::MaxSessions;
use orchestrator::prices::FeedReport;
use prost::Message;

use crate::node::peer::{Speak, Upload, call, data, discover, open, told};
use crate::node::scripted::{Scripted, Stage, content, gateway, ladder, paid, pay, request_of};

/// How long a gateway's token is good for, less what is left when it asks for another.
const TO_REFRESH: Duration = Duration::from_secs(27 * 60 + 1);

fn segment(info: &net::OrchestratorInfo, seq: i64) -> Upload {
    Upload::new(info.auth_token.as_ref().unwrap(), seq, content(100), &ladder())
}

/// Terms on which tickets are worth a little; the price as text.
fn terms(price: &str) -> PaymentConfig {
    PaymentConfig {
        price_per_pixel: price.parse().unwrap(),
        auto_adjust_price: false,
        ticket_ev_wei: Wei::from(1_000_000),
        max_face_value_wei: Wei::from(4_000_000),
        ..PaymentConfig::default()
    }
}

fn price_of(info: &net::OrchestratorInfo) -> (i64, i64) {
    let price = info.price_info.as_ref().unwrap();
    (price.price_per_unit, price.pixels_per_unit)
}

/// So many dollars for an ether.
fn dollars(units: u64) -> FeedReport {
    let price = EtherPrice { currency: "USD".into(), units: units.into(), ether: 1.into() };
    FeedReport { answer: Some(FeedAnswer { price, updated_at: Timestamp(0) }), fault: None }
}

#[tokio::test]
async fn a_question_about_us_is_answered_in_full_even_by_a_full_box() {
    let stage = Stage::off_chain(Scripted::new(1000, 1)).await;
    let one = discover(&stage.uri).await.unwrap();
    assert!(one.hardware.is_empty(), "who brings a job asks for no hardware");
    data(&segment(&one, 0).send(&stage.uri, Speak::Http1).await);
    let text = "Invalid orchestrator request: OrchestratorCapped";
    assert_eq!(discover(&stage.uri).await.unwrap_err(), text);
    let question = net::OrchestratorRequest { address: vec![0; 20], ..Default::default() };
    let info: net::OrchestratorInfo = call(&stage.uri, "GetOrchestrator", &question).await.unwrap();
    assert_eq!(info.hardware[0].pipeline, "transcoding");
    assert!(info.auth_token.is_some() && info.capabilities.is_some());
    segment(&info, 0).refused(&stage.uri, 403, "OrchestratorCapped").await;
}

#[tokio::test]
async fn a_running_stream_keeps_its_slot_and_its_price_when_its_token_is_refreshed() {
    let payment = PaymentConfig { pixels_per_unit: 1_000_000_000_000, ..terms("0.01USD") };
    let stage = Stage::on_chain_with(payment, |config| config.max_sessions = MaxSessions::Fixed(1)).await;
    stage.feed.send_replace(dollars(5_000));
    let first = stage.offer().await.unwrap();
    assert_eq!(price_of(&first), (2, 1));
    data(&paid(&first, 0, 1..=4).send(&stage.uri, Speak::Http1).await);
    assert_eq!(stage.offer().await.unwrap_err(), "Invalid orchestrator request: OrchestratorCapped");

    // The price of ether falls, and 27 minutes pass.
    stage.feed.send_replace(dollars(2_500));
    stage.clock.advance(TO_REFRESH);
    stage.chain.world().head.seen_at = Timestamp(1_700_000_000 + 27 * 60);
    let second = stage.offer().await.unwrap();
    assert_eq!(price_of(&second), (2, 1), "a running stream keeps its price");
    assert_ne!(second.auth_token, first.auth_token);
    let result = paid(&second, 1, 1..=4).send(&stage.uri, Speak::Http2).await;
    assert_eq!(data(&result).segments.len(), 2);
    assert_eq!(price_of(result.info.as_ref().unwrap()), (2, 1));
    let old = first.auth_token.unwrap().session_id;
    assert_eq!(*stage.transcoder.ended.lock().unwrap(), [old], "and its worker goes to the new session");

    let end = net::EndTranscodingSessionRequest { auth_token: second.auth_token };
    call::<_, net::EndTranscodingSessionResponse>(&stage.uri, "EndTranscodingSession", &end).await.unwrap();
    assert_eq!(price_of(&stage.offer().await.unwrap()), (4, 1), "a new stream pays today's");
}

#[tokio::test]
async fn a_drain_turns_newcomers_away_and_ends_with_the_last_stream() {
    let stage = Stage::off_chain(Scripted::new(1000, 10)).await;
    let running = discover(&stage.uri).await.unwrap();
    let late = discover(&stage.uri).await.unwrap();
    data(&segment(&running, 0).send(&stage.uri, Speak::Http1).await);
    stage.node.drain(true);
    assert_eq!(discover(&stage.uri).await.unwrap_err(), "Invalid orchestrator request: OrchestratorCapped");
    segment(&late, 0).refused(&stage.uri, 403, "OrchestratorCapped").await;
    data(&segment(&running, 1).send(&stage.uri, Speak::Http2).await);

    stage.clock.advance(TO_REFRESH);
    let refreshed = discover(&stage.uri).await.expect("a running stream goes on");
    data(&segment(&refreshed, 2).send(&stage.uri, Speak::Http1).await);
    let drained = tokio::time::timeout(Duration::from_millis(50), stage.node.drained()).await;
    assert!(drained.is_err(), "not while a stream runs");
    let end = net::EndTranscodingSessionRequest { auth_token: refreshed.auth_token };
    call::<_, net::EndTranscodingSessionResponse>(&stage.uri, "EndTranscodingSession", &end).await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), stage.node.drained()).await.expect("it is empty");
    stage.node.drain(false);
    assert!(discover(&stage.uri).await.is_ok());
}

#[tokio::test]
async fn a_gateway_may_have_a_price_and_slots_of_its_own() {
    let payment =
        PaymentConfig { price_per_gateway: [(gateway().address(), "0.5".parse().unwrap())].into(), ..terms("9") };
    let friend = Address::from_bytes(&[9; 20]).unwrap();
    let stage = Stage::on_chain_with(payment, |config| {
        config.max_sessions = MaxSessions::Fixed(2);
        config.reserved_sessions = [(friend, 1)].into();
    })
    .await;
    let info = stage.offer().await.unwrap();
    assert_eq!(price_of(&info), (1, 2));
    let result = paid(&info, 0, 1..=4).send(&stage.uri, Speak::Http1).await;
    assert_eq!(price_of(result.info.as_ref().unwrap()), (1, 2));
    let capped = "Invalid orchestrator request: OrchestratorCapped";
    assert_eq!(stage.offer().await.unwrap_err(), capped, "the other slot is somebody else's");
    let other = livepeer::signature::SigningKey::from_bytes(&[0x62; 32]).unwrap();
    let standing = *stage.chain.world().senders.get(&gateway().address()).unwrap();
    stage.chain.world().senders.insert(other.address(), standing);
    let about_us = net::OrchestratorRequest { capabilities: None, ..request_of(&other) };
    let info: net::OrchestratorInfo = call(&stage.uri, "GetOrchestrator", &about_us).await.unwrap();
    assert_eq!(price_of(&info), (9, 1), "everybody else's price");
    assert!(info.capabilities_prices.is_empty(), "nothing here has a price of its own model");
}

#[tokio::test]
async fn without_a_believable_feed_nothing_is_offered_at_a_price_in_dollars() {
    let payment = PaymentConfig {
        pixels_per_unit: 1_000_000_000_000,
        max_price_per_pixel: Some("0.000005ETH".parse().unwrap()),
        ..terms("0.01USD")
    };
    let stage = Stage::on_chain_with(payment, |_| {}).await;
    assert_eq!(stage.offer().await.unwrap_err(), "orchestrator cannot make an offer now");
    stage.feed.send_replace(dollars(5_000));
    assert_eq!(price_of(&stage.offer().await.unwrap()), (2, 1));
    stage.feed.send_replace(dollars(1_000));
    assert_eq!(price_of(&stage.offer().await.unwrap()), (5, 1), "ten wei are above the ceiling");
    stage.feed.send_replace(FeedReport { answer: None, fault: Some("away".to_owned()) });
    assert_eq!(stage.offer().await.unwrap_err(), "orchestrator cannot make an offer now");
}

#[tokio::test]
async fn a_stream_that_pays_by_manifest_gets_fresh_terms_at_its_own_price() {
    let stage = Stage::on_chain().await;
    let ask = async |body: String| {
        let request = Request::post("/refresh-payment")
            .header("Host", "node")
            .header("Content-Type", "application/json")
            .body(Full::new(body.into()))
            .unwrap();
        told(open(&stage.uri, Speak::Http1, request).await).await
    };
    let sender = gateway().address();
    let of = |sender: &str, manifest: &str| format!(r#"{{"sender":"{sender}","manifest_id":"{manifest}"}}"#);
    let wrong = |message: &str| format!(r#"{{"error":{{"message":"{message}"}}}}"#);
    assert_eq!(ask(of("0x12", "stream")).await, (400, wrong("invalid sender")));
    assert_eq!(ask(of(&sender.to_string(), " ")).await, (400, wrong("missing manifest_id")));
    assert_eq!(ask("nonsense".to_owned()).await, (400, wrong("request makes no sense")));
    assert_eq!(ask(of(&sender.to_string(), "stream")).await, (409, wrong("fixed price not found for session")));
    assert_eq!(ask("x".repeat(5000)).await.0, 400);

    let info = stage.offer().await.unwrap();
    let mut upload = Upload::new(info.auth_token.as_ref().unwrap(), 0, Default::default(), &[]).signed(&gateway(), &[]);
    upload.payment = pay(&info, 1..=3);
    let paying = open(&stage.uri, Speak::Http1, upload.request(&stage.uri, Speak::Http1, "/payment")).await;
    assert_eq!(paying.status(), 200);

    let (status, answer) = ask(of(&sender.to_string(), "stream")).await;
    assert_eq!(status, 200, "{answer}");
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    assert_eq!((answer["orchestrator"].as_str(), answer["manifest_id"].as_str()), (Some(&*stage.uri), Some("stream")));
    assert_eq!(answer["payment_url"], format!("{}/payment", stage.uri));
    let params = STANDARD.decode(answer["payment_params"].as_str().unwrap()).unwrap();
    let fresh = net::OrchestratorInfo::decode(params.as_slice()).unwrap();
    assert_eq!(price_of(&fresh), price_of(&info));
    assert_ne!(fresh.ticket_params, info.ticket_params);
    let token = fresh.auth_token.clone().unwrap();
    assert_eq!(token.session_id, "stream");
    let mut again = Upload::new(&token, 0, Default::default(), &[]).signed(&gateway(), &[]);
    again.payment = pay(&fresh, 1..=3);
    let paying = open(&stage.uri, Speak::Http1, again.request(&stage.uri, Speak::Http1, "/payment")).await;
    assert_eq!(paying.status(), 200, "the fresh terms are good");
    assert_eq!(stage.ledger().totals().tickets_received, 6);
}

#[tokio::test]
async fn a_node_that_cannot_be_reached_at_its_own_address_says_so() {
    let stage = Stage::on_chain().await;
    let alarms = async || stage.node.snapshot(Default::default(), "run", Duration::ZERO).await.alarms;
    assert!(orchestrator::availability::look(&stage.node).await);
    assert!(!alarms().await.iter().any(|alarm| alarm.id.starts_with("URI-")));
    stage.stop.cancel();
    let gone = async {
        while orchestrator::availability::look(&stage.node).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.expect("the port closes");
    let raised = alarms().await.into_iter().find(|alarm| alarm.id == "URI-UNREACHABLE").expect("an alarm");
    assert!(raised.text.contains(&stage.uri), "{}", raised.text);
}
