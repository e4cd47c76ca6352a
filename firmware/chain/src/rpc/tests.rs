use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use livepeer::address::Address;

/// Serves the given bodies, one per connection, each with status 200; then stops listening.
async fn serve(bodies: Vec<String>) -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move {
        for body in bodies {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut seen = Vec::new();
            let mut buffer = [0; 4096];
            while !seen.windows(2).any(|w| w == b"}}" || w == b"]}" || w == b"}]") {
                let n = stream.read(&mut buffer).await.unwrap();
                seen.extend_from_slice(&buffer[..n]);
            }
            let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(body.as_bytes()).await.unwrap();
        }
    });
    endpoint
}

fn rpc(endpoints: Vec<Endpoint>) -> Rpc {
    let mut config = ChainConfig::new(endpoints, Address::NULL, 7, Address::NULL);
    config.request_timeout_ms = 2_000;
    Rpc::new(&config).unwrap()
}

fn result(id: u64, value: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{value}}}"#)
}

async fn unreachable() -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap()).parse().unwrap()
}

#[tokio::test]
async fn the_next_endpoint_is_asked_when_one_cannot_be_reached() {
    let alive = serve(vec![result(2, r#""0x7""#), result(3, r#""0x10""#)]).await;
    let rpc = rpc(vec![unreachable().await, alive]);
    let block: String = rpc.request("eth_blockNumber", json!([])).await.unwrap();
    assert_eq!(block, "0x10");
}

#[tokio::test]
async fn an_unreachable_endpoint_is_named_without_its_path() {
    let endpoint = unreachable().await;
    let with_token = format!("{endpoint}/v2/s3cr3t").parse().unwrap();
    let error = rpc(vec![with_token]).request::<String>("eth_blockNumber", json!([])).await.unwrap_err();
    assert_eq!(error.to_string(), format!("rpc endpoint {endpoint} could not be reached"));
    assert!(!error.is_answer() && !error.needs_operator());
}

#[tokio::test]
async fn an_endpoint_of_another_chain_is_refused() {
    let endpoint = serve(vec![result(1, r#""0x1""#)]).await;
    let error = rpc(vec![endpoint]).request::<String>("eth_blockNumber", json!([])).await.unwrap_err();
    assert!(matches!(error, RpcError::WrongChain { expected: 7, found: 1, .. }), "{error}");
    assert!(error.needs_operator());
}

#[tokio::test]
async fn answers_out_of_order_find_their_questions() {
    let batch = format!("[{},{}]", result(3, r#""second""#), result(2, r#""first""#));
    let rpc = rpc(vec![serve(vec![result(1, r#""0x7""#), batch]).await]);
    let answers = rpc.batch(&[("a", json!([])), ("b", json!([]))]).await.unwrap();
    let answers: Vec<_> = answers.into_iter().map(|a| a.unwrap()).collect();
    assert_eq!(answers, [json!("first"), json!("second")]);
}

#[tokio::test]
async fn revert_data_is_found_in_a_refusal() {
    let refusal = r#"{"jsonrpc":"2.0","id":2,"error":{"code":3,"message":"execution reverted","data":"0x08c379a0"}}"#;
    let rpc = rpc(vec![serve(vec![result(1, r#""0x7""#), refusal.to_owned()]).await]);
    let error = rpc.request::<String>("eth_call", json!([])).await.unwrap_err();
    let RpcError::Response { code: 3, data: Some(data), .. } = &error else { panic!("{error:?}") };
    assert_eq!(data.as_ref(), [0x08, 0xc3, 0x79, 0xa0]);
    assert!(error.is_answer());
}

#[tokio::test]
async fn nonsense_is_a_fault_of_the_endpoint() {
    for body in ["<html>rate limited</html>", r#"{"jsonrpc":"2.0","id":99,"result":"0x1"}"#, "[]"] {
        let rpc = rpc(vec![serve(vec![result(1, r#""0x7""#), body.to_owned()]).await]);
        let error = rpc.request::<String>("eth_call", json!([])).await.unwrap_err();
        assert!(matches!(error, RpcError::Transport { fault: TransportFault::Shape, .. }), "{error:?}");
    }
}
