//! An orchestrator that does as told: it speaks the wire protocol, transcodes nothing, and can lie.
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use livepeer::address::{H256, keccak256};
use livepeer::credentials::result_digest;
use livepeer::signature::SigningKey;
use livepeer::wire::net;
use prost::Message;
use tokio::net::TcpListener;

/// What becomes of a segment.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Act {
    /// It comes back as it is.
    Return,
    /// An error inside the answer.
    Fail(&'static str),
    /// Refused with a status.
    Refuse(u16, &'static str),
    /// One pixel more is reported than is there.
    Overcharge,
    /// An empty rendition.
    Empty,
    /// A rendition too many.
    TwoForOne,
    /// Signed by somebody else.
    Forge,
    /// The rendition cannot be fetched.
    Lose,
    /// No answer at all.
    Silence,
    /// It comes back, and the price is three times as high from now on.
    RaisePrice,
}

/// What orchestrators under one script saw, and what they are to do next.
#[derive(Debug, Default)]
pub(crate) struct Script {
    /// Done one after another; after the last, segments are returned.
    pub(crate) acts: Mutex<VecDeque<Act>>,
    /// Seconds of life of the tokens handed out, one after another; afterwards half an hour.
    pub(crate) lives: Mutex<VecDeque<i64>>,
    /// Ports that were sent a segment, in order.
    pub(crate) uploads: Mutex<Vec<u16>>,
    /// Every ticket seen: commitment and nonce.
    pub(crate) tickets: Mutex<Vec<(Vec<u8>, u32)>>,
    /// Offers made.
    pub(crate) offers: AtomicUsize,
    /// Sessions ended by the gateway.
    pub(crate) ended: AtomicUsize,
    renditions: Mutex<BTreeMap<String, Bytes>>,
}

/// One orchestrator; it ends with the runtime.
#[derive(Debug, Clone)]
pub(crate) struct Orchestrator {
    script: Arc<Script>,
    port: u16,
    /// Signs and is paid; none is an off-chain one.
    key: Option<SigningKey>,
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

impl Orchestrator {
    /// Listens without TLS on a free port.
    pub(crate) async fn start(script: &Arc<Script>, key: Option<SigningKey>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let orchestrator = Self { script: Arc::clone(script), port: listener.local_addr().unwrap().port(), key };
        let served = orchestrator.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let served = served.clone();
                let answer = service_fn(move |request| {
                    let served = served.clone();
                    async move { Ok::<_, Infallible>(served.answer(request).await) }
                });
                tokio::spawn(async move {
                    // A connection that breaks is the gateway's doing.
                    let _ =
                        auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        orchestrator
    }

    pub(crate) fn uri(&self) -> http::Uri {
        format!("http://127.0.0.1:{}", self.port).parse().unwrap()
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let Ok(body) = body.collect().await.map(http_body_util::Collected::to_bytes) else {
            return plain(StatusCode::BAD_REQUEST, Bytes::new());
        };
        match head.uri.path() {
            "/net.Orchestrator/GetOrchestrator" => grpc(&self.offer(1)),
            "/net.Orchestrator/EndTranscodingSession" => {
                self.script.ended.fetch_add(1, Ordering::Relaxed);
                grpc(&net::EndTranscodingSessionResponse {})
            }
            "/segment" => self.segment(&head.headers, body).await,
            path => match self.script.renditions.lock().unwrap().get(path) {
                Some(rendition) => plain(StatusCode::OK, rendition.clone()),
                None => plain(StatusCode::NOT_FOUND, Bytes::new()),
            },
        }
    }

    fn offer(&self, price_factor: i64) -> net::OrchestratorInfo {
        let number = self.script.offers.fetch_add(1, Ordering::Relaxed);
        let life = self.script.lives.lock().unwrap().pop_front().unwrap_or(1800);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let recipient = self.key.as_ref().map(SigningKey::address);
        net::OrchestratorInfo {
            transcoder: self.uri().to_string(),
            ticket_params: recipient.map(|recipient| net::TicketParams {
                recipient: recipient.as_bytes().to_vec(),
                face_value: 4_000_000_000_000u64.to_be_bytes().to_vec(),
                win_prob: vec![0x40; 32],
                recipient_rand_hash: keccak256(&number.to_be_bytes()).as_bytes().to_vec(),
                seed: vec![1],
                expiration_block: vec![100],
                expiration_params: Some(net::TicketExpirationParams {
                    creation_round: 7,
                    creation_round_block_hash: vec![7; 32],
                }),
            }),
            price_info: recipient.map(|_| net::PriceInfo {
                price_per_unit: 20_000 * price_factor,
                pixels_per_unit: 1,
                ..Default::default()
            }),
            address: recipient.map(|recipient| recipient.as_bytes().to_vec()).unwrap_or_default(),
            capabilities: Some(net::Capabilities { bitstring: vec![0x0400_1fff], ..Default::default() }),
            auth_token: Some(net::AuthToken {
                token: vec![5; 32],
                session_id: format!("{number:08x}"),
                expiration: i64::try_from(now).unwrap() + life,
            }),
            ..Default::default()
        }
    }

    async fn segment(&self, headers: &HeaderMap, body: Bytes) -> Response<Body> {
        let header = |name: &str| BASE64.decode(headers[name].as_bytes()).unwrap();
        let data = net::SegData::decode(&*header("livepeer-segment")).unwrap();
        let payment = net::Payment::decode(&*header("livepeer-payment")).unwrap();
        assert_eq!(data.hash, keccak256(&body).as_bytes());
        self.script.uploads.lock().unwrap().push(self.port);
        if let Some(params) = payment.ticket_params {
            let tickets = payment.ticket_sender_params.iter();
            let tickets = tickets.map(|ticket| (params.recipient_rand_hash.clone(), ticket.sender_nonce));
            self.script.tickets.lock().unwrap().extend(tickets);
        }
        let act = self.script.acts.lock().unwrap().pop_front().unwrap_or(Act::Return);
        match act {
            Act::Refuse(status, text) => plain(StatusCode::from_u16(status).unwrap(), format!("{text}\n").into()),
            Act::Silence => std::future::pending().await,
            Act::Fail(text) => self.result(&data, net::transcode_result::Result::Error(text.to_owned()), 1),
            act => {
                let price_factor = if matches!(act, Act::RaisePrice) { 3 } else { 1 };
                let returned = net::transcode_result::Result::Data(self.renditions(act, &data, &body));
                self.result(&data, returned, price_factor)
            }
        }
    }

    fn renditions(&self, act: Act, data: &net::SegData, body: &Bytes) -> net::TranscodeData {
        let token = data.auth_token.as_ref().unwrap();
        let content = if matches!(act, Act::Empty) { Bytes::new() } else { body.clone() };
        let pixels = i64::try_from(gateway::inspect(body).unwrap().pixels().0).unwrap();
        let mut segments = Vec::new();
        for profile in &data.full_profiles {
            let path = format!("/stream/{}/{}/{}.ts", token.session_id, profile.name, data.seq);
            if !matches!(act, Act::Lose) {
                self.script.renditions.lock().unwrap().insert(path.clone(), content.clone());
            }
            segments.push(net::TranscodedSegmentData {
                url: format!("http://127.0.0.1:{}{path}", self.port),
                pixels: pixels + i64::from(matches!(act, Act::Overcharge)),
                perceptual_hash_url: String::new(),
            });
        }
        if matches!(act, Act::TwoForOne) {
            segments.push(segments[0].clone());
        }
        let hashes: Vec<H256> = segments.iter().map(|_| keccak256(&content)).collect();
        let forger = SigningKey::from_bytes(&[9; 32]).unwrap();
        let signer = if matches!(act, Act::Forge) { Some(&forger) } else { self.key.as_ref() };
        let sig = signer.map(|key| key.sign_personal(result_digest(&hashes)).to_bytes().to_vec());
        net::TranscodeData { segments, sig: sig.unwrap_or_default() }
    }

    fn result(&self, data: &net::SegData, result: net::transcode_result::Result, price_factor: i64) -> Response<Body> {
        let info = net::OrchestratorInfo { auth_token: data.auth_token.clone(), ..self.offer(price_factor) };
        let message = net::TranscodeResult { seq: data.seq, result: Some(result), info: Some(info) };
        plain(StatusCode::OK, message.encode_to_vec().into())
    }
}

fn plain(status: StatusCode, body: Bytes) -> Response<Body> {
    Response::builder().status(status).body(Full::new(body).boxed_unsync()).unwrap()
}

fn grpc(message: &impl Message) -> Response<Body> {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.encoded_len()).unwrap());
    message.encode(&mut frame).unwrap();
    let trailers = HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), "0".parse().unwrap())]);
    let body = Full::new(frame.freeze()).with_trailers(async move { Some(Ok(trailers)) });
    Response::builder().header("content-type", "application/grpc").body(body.boxed_unsync()).unwrap()
}
