use axum::body::Body;
use http::{Method, Request};
use service::status::{Alarm, AttachedTranscoder};
use tower::ServiceExt as _;

use super::*;

/// The answer to a request of somebody on this machine.
async fn asked(status: NodeStatus, method: Method, path: &str, body: &str) -> (u16, String, String) {
    let (_publish, status) = watch::channel(status);
    let origin = Origin { node_type: "orch", node_id: "box".into(), orchestrator: None };
    let admin = Admin { status, origin, measures: Measures::default(), node: None, chain: None };
    let router = router(Arc::new(admin), "127.0.0.1:7935".parse().unwrap());
    let request = Request::builder().method(method).uri(path).header("host", "localhost:7935");
    let response = router.oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap();
    let kind = response.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
    let status = response.status().as_u16();
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, kind.unwrap_or_default(), String::from_utf8(body.to_vec()).unwrap())
}

async fn get_of(status: NodeStatus, path: &str) -> (u16, String) {
    let (code, _, body) = asked(status, Method::GET, path, "").await;
    (code, body)
}

#[tokio::test]
async fn the_status_has_the_fields_of_the_stock_node() {
    let attached = AttachedTranscoder { address: "192.0.2.7:4".into(), capacity: 5, ..AttachedTranscoder::default() };
    let status = NodeStatus { mode: "run".into(), transcoders: vec![attached], ..NodeStatus::default() };
    let (code, kind, body) = asked(status, Method::GET, "/status", "").await;
    assert_eq!((code, kind.as_str()), (200, "application/json"));
    let begins = "{\"Manifests\":{},\"InternalManifests\":{},\"StreamInfo\":{},\"OrchestratorPool\":[],\
                  \"OrchestratorPoolInfos\":null,\"Version\":";
    assert!(body.starts_with(begins), "{body}");
    let value: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(value["RegisteredTranscodersNumber"], 1);
    assert_eq!(value["RegisteredTranscoders"], serde_json::json!([{ "Address": "192.0.2.7:4", "Capacity": 5 }]));
    assert_eq!((&value["LocalTranscoding"], &value["GOOS"]), (&true.into(), &"linux".into()));
    assert_eq!(value["Millrace"]["mode"], "run");
}

#[tokio::test]
async fn health_is_taking_newcomers_with_nothing_critically_wrong() {
    let mode = |mode: &str| NodeStatus { mode: mode.into(), ..NodeStatus::default() };
    assert_eq!(get_of(mode("run"), "/healthz").await, (200, "ok\n".into()));
    assert_eq!(get_of(mode("starting"), "/healthz").await, (503, "mode: starting\n".into()));
    let alarm =
        |severity: &str| Alarm { id: "X".into(), severity: severity.into(), text: "why".into(), ..Alarm::default() };
    let with = |severity| NodeStatus { alarms: vec![alarm(severity)], ..mode("run") };
    assert_eq!(get_of(with("crit"), "/healthz").await, (503, "X: why\n".into()));
    assert_eq!(get_of(with("err"), "/healthz").await.0, 200);
}

#[tokio::test]
async fn what_needs_another_key_or_role_says_so() {
    let answer = |method, path| async move { asked(NodeStatus::default(), method, path, "amount=1").await };
    let (code, _, text) = answer(Method::POST, "/bond").await;
    assert_eq!(code, 403);
    assert!(text.contains("the stake key is never on this box") && text.contains("'bond(uint256,address)'"), "{text}");
    let (code, _, text) = answer(Method::POST, "/fundDeposit").await;
    assert!(code == 400 && text.contains("gateway"), "{text}");
    let (code, _, text) = answer(Method::GET, "/getNetworkCapabilities").await;
    assert_eq!((code, text.as_str()), (400, "Node must be gateway node to get network capabilities\n"));
    let (code, _, text) = answer(Method::GET, "/currentRound").await;
    assert_eq!((code, text.as_str()), (500, "missing ETH client\n"));
    assert_eq!(answer(Method::GET, "/nothere").await.0, 404);
    assert_eq!(answer(Method::GET, "/setMaxSessions").await.0, 405);
    let (code, _, text) = answer(Method::POST, "/setMaxSessions").await;
    assert_eq!((code, text.as_str()), (400, "missing form param: maxSessions\n"));
}

#[tokio::test]
async fn a_body_is_bounded() {
    let long = "a".repeat(MAX_FORM + 1);
    let (code, _, text) = asked(NodeStatus::default(), Method::POST, "/setLogLevel", &long).await;
    assert_eq!(code, 413, "{text}");
    let (code, _, text) = asked(NodeStatus::default(), Method::POST, "/setLogLevel", "loglevel=a=b=c").await;
    assert!(code == 400 && text.contains("not a log filter"), "{text}");
}
