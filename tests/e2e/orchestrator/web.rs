//! A web server that answers as it is told and remembers what it was asked.
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// What it was asked, in order.
pub(super) type Asked = Arc<Mutex<Vec<Request<Bytes>>>>;

/// Serves until the test ends.
pub(super) async fn serve(
    answer: impl Fn(&Request<Bytes>) -> Response<Bytes> + Send + Sync + 'static,
) -> (SocketAddr, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (asked, answer) = (Asked::default(), Arc::new(answer));
    let log = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
            let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                async move {
                    let (parts, body) = request.into_parts();
                    let body = body.collect().await?.to_bytes();
                    let request = Request::from_parts(parts, body);
                    let response = answer(&request).map(Full::new);
                    log.lock().unwrap().push(request);
                    Ok::<_, hyper::Error>(response)
                }
            });
            tokio::spawn(async move {
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                let _ = connection.await;
            });
        }
    });
    (address, asked)
}

/// An answer with a status and a body.
pub(super) fn answer(status: u16, body: impl Into<Bytes>) -> Response<Bytes> {
    Response::builder().status(status).body(body.into()).unwrap()
}
