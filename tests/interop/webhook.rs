//! What a stock gateway asks its operator's web service: which orchestrators there are, and how a stream is to be treated.
use std::convert::Infallible;

use anyhow::Result;
use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

/// Answers every request with the same JSON until dropped.
#[derive(Debug)]
pub(crate) struct Webhook {
    pub url: String,
    _server: AbortOnDropHandle<()>,
}

impl Webhook {
    pub(crate) async fn start(answer: &Value) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let url = format!("http://{}/hook", listener.local_addr()?);
        let answer = Bytes::from(serde_json::to_vec(answer)?);
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let answer = answer.clone();
                tokio::spawn(async move {
                    let reply = service_fn(move |_request| {
                        let answer = answer.clone();
                        async move { Ok::<_, Infallible>(Response::new(Full::new(answer))) }
                    });
                    let _closed =
                        auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), reply).await;
                });
            }
        });
        Ok(Self { url, _server: AbortOnDropHandle::new(server) })
    }
}
