//! The operator's webhook.
use bytes::Bytes;
use http::Request;
use livepeer::signature::SigningKey;
use livepeer::wire::net;
use orchestrator::config::WebUrl;

use super::web::{answer, serve};
use super::{price_of, terms};
use crate::node::peer::{Speak, call};
use crate::node::scripted::{Stage, gateway, paid, request_of, unpaid};

fn id(request: &Request<Bytes>) -> String {
    let body: serde_json::Value = serde_json::from_slice(request.body()).unwrap();
    body["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_webhook_decides_who_is_served_and_at_which_price() {
    let friend = gateway().address().to_checksum();
    let (address, asked) = serve(move |request| match id(request) {
        id if id == friend => answer(200, r#"{"priceInfo":{"pricePerUnit":3,"pixelsPerUnit":2}}"#),
        _ => answer(403, "not on the list\n"),
    })
    .await;
    let url = format!("http://{address}/hook");
    let stage = Stage::on_chain_with(terms("9"), |config| {
        config.auth_webhook = Some(WebUrl(url.parse().unwrap()));
    })
    .await;
    let info = stage.offer().await.unwrap();
    assert_eq!(price_of(&info), (3, 2), "also in the offers that current gateways ask for");
    let result = paid(&info, 0, 1..=8).send(&stage.uri, Speak::Http1).await;
    assert_eq!(price_of(result.info.as_ref().unwrap()), (3, 2));
    let below = stage.offer().await.unwrap();
    let told = "invalid expected price sent with payment err=\"expected price 1/1 is not the session's 3/2\"";
    unpaid(&below, 0, 1).refused(&stage.uri, 400, told).await;
    assert_eq!(asked.lock().unwrap().len(), 1, "one gateway is asked for once in half an hour");

    let stranger = SigningKey::from_bytes(&[0x62; 32]).unwrap();
    let standing = *stage.chain.world().senders.get(&gateway().address()).unwrap();
    stage.chain.world().senders.insert(stranger.address(), standing);
    let refused: Result<net::OrchestratorInfo, _> = call(&stage.uri, "GetOrchestrator", &request_of(&stranger)).await;
    assert_eq!(refused.unwrap_err(), "authentication failed: not on the list");
    assert_eq!(id(asked.lock().unwrap().last().unwrap()), stranger.address().to_checksum());
    assert_eq!(asked.lock().unwrap().last().unwrap().headers()["content-type"], "application/json");

    let mut forged = request_of(&stranger);
    forged.sig[3] ^= 1;
    let refused: Result<net::OrchestratorInfo, _> = call(&stage.uri, "GetOrchestrator", &forged).await;
    assert_eq!(refused.unwrap_err(), "Invalid orchestrator request: orchestrator req sig check failed");
    assert_eq!(asked.lock().unwrap().len(), 2, "nobody is asked about who did not sign");
}

#[tokio::test]
async fn nobody_is_served_while_the_webhook_is_away_or_makes_no_sense() {
    let (address, _) = serve(|_| answer(200, "maybe")).await;
    for (url, text) in [
        (format!("http://{address}/"), "authentication failed: webhook made no sense"),
        ("http://127.0.0.1:1/".to_owned(), "authentication failed: webhook cannot be asked"),
    ] {
        let stage = Stage::on_chain_with(terms("9"), |config| {
            config.auth_webhook = Some(WebUrl(url.parse().unwrap()));
        })
        .await;
        assert_eq!(stage.offer().await.unwrap_err(), text);
    }
}
