//! Plain HTTP towards stock nodes' ports.
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

/// How long any exchange may take: a gateway tries a segment three times.
const EXCHANGE: Duration = Duration::from_secs(60);
/// The largest answer that is read.
const MAX_ANSWER: usize = 256 * 1024 * 1024;

/// An answer with its type.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: u16,
    pub content_type: String,
    pub body: Bytes,
}

/// Sends a request and reads the whole answer.
pub(crate) async fn send(request: Request<Full<Bytes>>) -> Result<Answer> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    tokio::time::timeout(EXCHANGE, async {
        let response = client.request(request).await?;
        let status = response.status().as_u16();
        let content_type =
            response.headers().get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
        anyhow::Ok(Answer { status, content_type, body })
    })
    .await
    .context("no answer in time")?
}

/// GET; anything but 200 is an error.
pub(crate) async fn get(url: &str) -> Result<Bytes> {
    let answer = send(Request::get(url).body(Full::default())?).await?;
    ensure!(answer.status == 200, "{url}: status {}", answer.status);
    Ok(answer.body)
}
