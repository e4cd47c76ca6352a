//! A peer of the node on the wire: one connection per request, HTTP version chosen, certificates not checked.
use std::net::Ipv4Addr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use livepeer::address::{Address, keccak256};
use livepeer::capability::{Capability, CapabilitySet};
use livepeer::credentials::segment_message;
use livepeer::profile::Profile;
use livepeer::signature::SigningKey;
use livepeer::wire::{net, profiles_into_seg_data};
use prost::Message;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpSocket;

/// Which HTTP is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speak {
    Http1,
    Http2,
}

/// TLS to whoever answers, offering only this HTTP version.
pub(crate) fn tls(speak: Speak) -> Arc<ClientConfig> {
    let mut config = service::tls_to_peer(None);
    config.alpn_protocols = vec![match speak {
        Speak::Http1 => b"http/1.1".to_vec(),
        Speak::Http2 => b"h2".to_vec(),
    }];
    Arc::new(config)
}

/// Sends a request and returns as soon as the head of the answer is there.
pub(crate) async fn open(uri: &str, speak: Speak, request: Request<Full<Bytes>>) -> Response<Incoming> {
    open_from(Ipv4Addr::LOCALHOST, uri, speak, request).await
}

/// The same from another address of this machine.
pub(crate) async fn open_from(
    source: Ipv4Addr,
    uri: &str,
    speak: Speak,
    request: Request<Full<Bytes>>,
) -> Response<Incoming> {
    let base: Uri = uri.parse().unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((source, 0).into()).unwrap();
    let stream = socket.connect(base.authority().unwrap().as_str().parse().unwrap()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    if base.scheme_str() == Some("http") {
        return over(stream, speak, request).await;
    }
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let stream = tokio_rustls::TlsConnector::from(tls(speak)).connect(name, stream).await.unwrap();
    let chosen = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    assert_eq!(chosen.as_deref(), Some(if speak == Speak::Http1 { &b"http/1.1"[..] } else { &b"h2"[..] }));
    over(stream, speak, request).await
}

async fn over(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    speak: Speak,
    request: Request<Full<Bytes>>,
) -> Response<Incoming> {
    let io = TokioIo::new(stream);
    match speak {
        Speak::Http1 => {
            let (mut send, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            send.send_request(request).await.unwrap()
        }
        Speak::Http2 => {
            let (mut send, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            send.send_request(request).await.unwrap()
        }
    }
}

/// Status and body as text.
pub(crate) async fn told(response: Response<Incoming>) -> (u16, String) {
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    (status, String::from_utf8_lossy(&body).into_owned())
}

/// `GET` of a path or URL on a node.
pub(crate) async fn get(uri: &str, speak: Speak, path: &str) -> Response<Incoming> {
    let target = if speak == Speak::Http2 { format!("{uri}{path}") } else { path.to_owned() };
    let host = uri.split("://").nth(1).unwrap();
    let mut request = Request::get(target);
    if speak == Speak::Http1 {
        request = request.header("Host", host);
    }
    open(uri, speak, request.body(Full::default()).unwrap()).await
}

/// A gRPC call, to be sent.
pub(crate) fn question<Q: Message>(uri: &str, method: &str, question: &Q) -> Request<Full<Bytes>> {
    let message = question.encode_to_vec();
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(u32::try_from(message.len()).unwrap());
    body.extend_from_slice(&message);
    Request::post(format!("{uri}/net.{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(body.freeze()))
        .unwrap()
}

/// A unary gRPC call: the answer, or the error's text.
pub(crate) async fn call<Q: Message, A: Message + Default>(uri: &str, method: &str, asked: &Q) -> Result<A, String> {
    call_from(Ipv4Addr::LOCALHOST, uri, method, asked).await
}

/// The same from another address of this machine.
pub(crate) async fn call_from<Q: Message, A: Message + Default>(
    source: Ipv4Addr,
    uri: &str,
    method: &str,
    asked: &Q,
) -> Result<A, String> {
    let request = question(uri, &format!("Orchestrator/{method}"), asked);
    let response = open_from(source, uri, Speak::Http2, request).await;
    assert_eq!(response.status(), 200);
    let refused = response.headers().get("grpc-message").cloned();
    let body = response.into_body().collect().await.unwrap();
    let refused = refused.or_else(|| body.trailers().and_then(|trailers| trailers.get("grpc-message").cloned()));
    let mut bytes = body.to_bytes();
    if bytes.len() < 5 {
        let text = refused.map(|text| text.to_str().unwrap().to_owned()).unwrap_or_default();
        return Err(text.replace("%20", " "));
    }
    bytes.advance(5);
    Ok(A::decode(bytes).unwrap())
}

/// Asks for an offer as an off-chain gateway does.
pub(crate) async fn discover(uri: &str) -> Result<net::OrchestratorInfo, String> {
    discover_from(Ipv4Addr::LOCALHOST, uri).await
}

/// The same from another address of this machine.
pub(crate) async fn discover_from(source: Ipv4Addr, uri: &str) -> Result<net::OrchestratorInfo, String> {
    let request = net::OrchestratorRequest {
        address: vec![0; 20],
        sig: Vec::new(),
        capabilities: Some(net::Capabilities::default()),
        ignore_capacity_check: false,
    };
    call_from(source, uri, "GetOrchestrator", &request).await
}

/// One upload, ready to be spoilt.
#[derive(Debug, Clone)]
pub(crate) struct Upload {
    pub(crate) data: net::SegData,
    pub(crate) payment: net::Payment,
    pub(crate) content: Bytes,
    pub(crate) content_type: &'static str,
}

impl Upload {
    /// A segment for a session, unsigned and unpaid.
    pub(crate) fn new(token: &net::AuthToken, seq: i64, content: Bytes, profiles: &[Profile]) -> Self {
        let needs: CapabilitySet = [Capability::AuthToken, Capability::H264, Capability::MpegTs].into_iter().collect();
        let mut data = net::SegData {
            manifest_id: b"stream".to_vec(),
            seq,
            hash: keccak256(&content).as_bytes().to_vec(),
            duration: 1000,
            capabilities: Some(net::Capabilities { bitstring: needs.to_bitstring(), ..Default::default() }),
            auth_token: Some(token.clone()),
            ..net::SegData::default()
        };
        profiles_into_seg_data(profiles, &mut data);
        Self { data, payment: net::Payment::default(), content, content_type: "video/MP2T" }
    }

    /// Signs it as this gateway.
    pub(crate) fn signed(mut self, key: &SigningKey, profiles: &[Profile]) -> Self {
        let names = profiles.iter().map(|profile| profile.name.as_str());
        let message = segment_message(&self.data.manifest_id, self.data.seq, &self.data.hash, names);
        self.data.sig = key.sign_node(&message).to_bytes().to_vec();
        self.payment.sender = key.address().as_bytes().to_vec();
        self
    }

    pub(crate) fn request(&self, uri: &str, speak: Speak, path: &str) -> Request<Full<Bytes>> {
        let target = if speak == Speak::Http2 { format!("{uri}{path}") } else { path.to_owned() };
        let mut request = Request::post(target)
            .header("Livepeer-Segment", STANDARD.encode(self.data.encode_to_vec()))
            .header("Livepeer-Payment", STANDARD.encode(self.payment.encode_to_vec()))
            .header("Content-Type", self.content_type);
        if speak == Speak::Http1 {
            request = request.header("Host", uri.split("://").nth(1).unwrap());
        }
        request.body(Full::new(self.content.clone())).unwrap()
    }

    /// Sends it and reads the whole answer, which must be a result.
    pub(crate) async fn send(&self, uri: &str, speak: Speak) -> net::TranscodeResult {
        let response = open(uri, speak, self.request(uri, speak, "/segment")).await;
        assert_eq!(response.status(), 200, "{:?}", told(response).await);
        result(response).await
    }

    /// Sends it; it must be refused, with this status and text.
    pub(crate) async fn refused(&self, uri: &str, status: u16, text: &str) {
        for speak in [Speak::Http1, Speak::Http2] {
            let told = told(open(uri, speak, self.request(uri, speak, "/segment")).await).await;
            assert_eq!(told, (status, format!("{text}\n")), "{speak:?}");
        }
    }
}

/// Reads a result to its end.
pub(crate) async fn result(response: Response<Incoming>) -> net::TranscodeResult {
    net::TranscodeResult::decode(response.into_body().collect().await.unwrap().to_bytes()).unwrap()
}

/// The renditions of a result that has some.
pub(crate) fn data(result: &net::TranscodeResult) -> &net::TranscodeData {
    match result.result.as_ref().unwrap() {
        net::transcode_result::Result::Data(data) => data,
        net::transcode_result::Result::Error(error) => panic!("no renditions: {error}"),
    }
}

/// The error of a result that has one.
pub(crate) fn error(result: &net::TranscodeResult) -> &str {
    match result.result.as_ref().unwrap() {
        net::transcode_result::Result::Error(error) => error,
        net::transcode_result::Result::Data(_) => panic!("renditions where an error was expected"),
    }
}

/// A gateway's own address, as the wire has it.
pub(crate) fn address(bytes: &[u8]) -> Address {
    Address::from_bytes(bytes).unwrap()
}
