//! A transport stream over SRT: one caller, cut at key frames.
use std::future::Future;
use std::io;
use std::net::SocketAddr;

use futures_util::stream::StreamExt;
use mpegts::live::TsCutter;
use srt_tokio::SrtSocket;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use super::{Fed, IngestOptions, Item};

/// Waits for one caller on this address. The future ends with the caller's stream.
pub(super) async fn listen(
    address: &str,
    options: &IngestOptions,
    feed: mpsc::Sender<Item>,
) -> io::Result<(SocketAddr, impl Future<Output = ()> + Send + 'static)> {
    let socket = UdpSocket::bind(address).await?;
    let local = socket.local_addr()?;
    let options = options.clone();
    let serving = async move {
        let caller = SrtSocket::builder().latency(options.latency).local_ip(local.ip()).local_port(local.port());
        match caller.socket(socket).listen().await {
            Ok(caller) => take(caller, &options, &feed).await,
            Err(error) => tracing::warn!(%error, "SRT caller was not accepted"),
        }
    };
    Ok((local, serving))
}

async fn take(mut caller: SrtSocket, options: &IngestOptions, feed: &mpsc::Sender<Item>) {
    let target = u64::try_from(options.segment.as_millis()).unwrap_or(u64::MAX);
    let mut cutter = TsCutter::new(target);
    let hand_on = async |cut: Result<Vec<_>, mpegts::live::LiveError>, codec| match cut {
        Ok(segments) => {
            for segment in segments {
                if feed.send(Ok((codec, Fed::from(segment)))).await.is_err() {
                    return false;
                }
            }
            true
        }
        Err(error) => {
            // Nobody listens any more when this fails, which is as good.
            let _ = feed.send(Err(error.into())).await;
            false
        }
    };
    loop {
        let bytes = match tokio::time::timeout(options.idle, caller.next()).await {
            Ok(Some(Ok((_, bytes)))) => bytes,
            Ok(Some(Err(error))) => {
                tracing::info!(%error, "SRT caller is gone");
                break;
            }
            Ok(None) | Err(_) => break,
        };
        let cut = cutter.push(&bytes);
        if !hand_on(cut, cutter.codec()).await {
            return;
        }
    }
    let rest = cutter.finish();
    hand_on(rest, cutter.codec()).await;
}
