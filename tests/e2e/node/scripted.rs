//! The orchestrator in this process, with a transcoder that does as it is told and a chain in memory: what has
//! to be exact to the moment, and everything about payments.
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use ledger::{Account, Ledger, OpenOptions};
use livepeer::address::{Address, keccak256};
use livepeer::broker::SenderInfo;
use livepeer::credentials::{TokenKey, orchestrator_request_message, result_digest};
use livepeer::price::PricePerPixel;
use livepeer::profile::{Profile, preset};
use livepeer::recipient_rand::RecipientSecret;
use livepeer::signature::{Signature, SigningKey};
use livepeer::ticket::{Payment, Ticket, TicketBatch};
use livepeer::units::{Pixels, Round, Wei, WinProb};
use livepeer::wire::{net, params_from_wire, payment_to_wire};
use millrace_hal::SimClock;
use orchestrator::config::{MaxSessions, ServiceUri};
use orchestrator::payment::TillParts;
use orchestrator::pool::{Capacity, Output, TranscodeError, TranscodeRequest, Transcoded, Transcoder};
use orchestrator::{Config, Orchestrator, Parts, PaymentConfig, Redeemer, RedeemerConfig, Till};
use prost::Message;
use sandbox::message::Rendition;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::peer::{Speak, Upload, address, call, data, discover, error, get, open, result, told};
use crate::sim_chain::{SimChain, SimSigner};

/// Who is paid here.
const US: Address = Address(primitive_types::H160([0x0b; 20]));
/// The price asked, in wei per pixel.
const PRICE: u64 = 2;
/// What a ticket is worth.
const EV: u64 = 1_000_000;
/// Frames of every rendition.
const FRAMES: u64 = 10;

/// Makes renditions of nothing, one whenever it is allowed to.
#[derive(Debug)]
pub(crate) struct Scripted {
    pub(crate) allowed: Semaphore,
    pub(crate) started: Semaphore,
    pub(crate) error: Mutex<Option<TranscodeError>>,
    pub(crate) ended: Mutex<Vec<String>>,
    pub(crate) order: Mutex<Vec<u64>>,
    pub(crate) sessions: usize,
}

impl Scripted {
    pub(crate) fn new(allowed: usize, sessions: usize) -> Arc<Self> {
        Arc::new(Self {
            allowed: Semaphore::new(allowed),
            started: Semaphore::new(0),
            error: Mutex::default(),
            ended: Mutex::default(),
            order: Mutex::default(),
            sessions,
        })
    }
}

impl Transcoder for Scripted {
    async fn transcode(&self, _session: &str, request: TranscodeRequest) -> Result<Transcoded, TranscodeError> {
        self.started.add_permits(1);
        self.allowed.acquire().await.unwrap().forget();
        self.order.lock().unwrap().push(request.segment.len());
        if let Some(error) = self.error.lock().unwrap().clone() {
            return Err(error);
        }
        let renditions = request.profiles.iter().map(|profile| {
            let pixels = u64::from(profile.width) * u64::from(profile.height) * FRAMES;
            let media = Bytes::from(format!("a rendition of {} bytes as {}", request.segment.len(), profile.name));
            let bytes = u64::try_from(media.len()).unwrap();
            let (width, height) = (profile.width, profile.height);
            let rendition = Rendition { width, height, frames: FRAMES, pixels: Pixels(pixels), bytes };
            Output { rendition, media, signature: None }
        });
        Ok(Transcoded {
            renditions: renditions.collect(),
            decoded_frames: FRAMES,
            decoded_pixels: Pixels(1),
            duration: Duration::from_secs(1),
            took: Duration::from_millis(1),
            cpu: Duration::from_millis(1),
        })
    }

    fn end_session(&self, session: &str) {
        self.ended.lock().unwrap().push(session.to_owned());
    }

    fn capacity(&self) -> Capacity {
        Capacity { total: self.sessions, busy: 0 }
    }
}

pub(crate) type Served = Orchestrator<Scripted, SimChain, SimSigner>;

/// An orchestrator on a port of its own.
pub(crate) struct Stage {
    pub(crate) node: Arc<Served>,
    pub(crate) transcoder: Arc<Scripted>,
    pub(crate) chain: SimChain,
    pub(crate) ledger: Option<Ledger>,
    pub(crate) signer: SimSigner,
    pub(crate) clock: SimClock,
    pub(crate) uri: String,
    /// What the price feed tells.
    pub(crate) feed: tokio::sync::watch::Sender<orchestrator::prices::FeedReport>,
    pub(crate) stop: CancellationToken,
    pub(crate) _dir: tempfile::TempDir,
}

impl Stage {
    pub(crate) async fn set(
        transcoder: Arc<Scripted>,
        payment: Option<PaymentConfig>,
        more: impl FnOnce(&mut Config),
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let chain = SimChain::new();
        let signer = SimSigner::new(&chain);
        let clock = SimClock::at(1_700_000_000);
        let ledger = payment.is_some().then(|| Ledger::open(dir.path(), OpenOptions::default()).unwrap());
        let feed = tokio::sync::watch::Sender::new(orchestrator::prices::FeedReport::default());
        let told = feed.clone();
        let till = payment.zip(ledger.clone()).map(|(config, ledger)| {
            let (broker, signer) = (Arc::new(chain.clone()), Arc::new(signer.clone()));
            let (_, redeemer) = Redeemer::new(
                Arc::clone(&broker),
                Arc::clone(&signer),
                ledger.clone(),
                Arc::new(clock.clone()),
                RedeemerConfig::default(),
            );
            let secret = RecipientSecret::new([3; 32], ledger.generation());
            let feed = feed.subscribe();
            Till::new(TillParts { broker, signer, ledger, secret, recipient: US, config, feed, redeemer })
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bound: SocketAddr = listener.local_addr().unwrap();
        let service_uri = ServiceUri::of_listener(true, bound);
        let mut config = Config::default();
        more(&mut config);
        let node = Orchestrator::new(Parts {
            config,
            service_uri: service_uri.clone(),
            token_key: TokenKey::new([5; 32]),
            transcoder: Arc::clone(&transcoder),
            proved: Box::new(|| vec!["mux-mp4".to_owned()]),
            till,
            remotes: orchestrator::remote::Remotes::none(),
            hardware: Box::new(|| {
                vec![net::HardwareInformation { pipeline: "transcoding".to_owned(), ..Default::default() }]
            }),
            clock: Arc::new(clock.clone()),
        });
        let (certificate, key) = orchestrator::tls::self_signed(dir.path(), "127.0.0.1").unwrap();
        let tls = orchestrator::tls::server_config(&certificate, &key).unwrap();
        let (router, stop) = (orchestrator::server::router(&node), CancellationToken::new());
        let drain = Duration::from_secs(5);
        tokio::spawn(orchestrator::server::serve(router, listener, Some(tls), 64, drain, stop.clone()));
        let uri = service_uri.to_string();
        Self { node, transcoder, chain, ledger, signer, clock, uri, stop, feed: told, _dir: dir }
    }

    pub(crate) async fn off_chain(transcoder: Arc<Scripted>) -> Self {
        Self::set(transcoder, None, |config| config.max_sessions = MaxSessions::Fixed(2)).await
    }

    pub(crate) async fn on_chain() -> Self {
        let payment = PaymentConfig {
            price_per_pixel: PricePerPixel::new(PRICE, 1).unwrap().into(),
            auto_adjust_price: false,
            ticket_ev_wei: Wei::from(EV),
            max_face_value_wei: Wei::from(4 * EV),
            ..PaymentConfig::default()
        };
        Self::on_chain_with(payment, |_| {}).await
    }

    /// On chain on other terms; our gateway has funds there.
    pub(crate) async fn on_chain_with(payment: PaymentConfig, more: impl FnOnce(&mut Config)) -> Self {
        let stage = Self::set(Scripted::new(1000, 10), Some(payment), more).await;
        let standing = SenderInfo {
            deposit: Wei::from(u64::MAX),
            claimable_reserve: Wei::from(u64::MAX),
            ..SenderInfo::default()
        };
        stage.chain.world().senders.insert(gateway().address(), standing);
        stage
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        self.ledger.as_ref().unwrap()
    }

    /// An offer to our gateway.
    pub(crate) async fn offer(&self) -> Result<net::OrchestratorInfo, String> {
        call(&self.uri, "GetOrchestrator", &request_of(&gateway())).await
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(crate) fn gateway() -> SigningKey {
    SigningKey::from_bytes(&[0x61; 32]).unwrap()
}

pub(crate) fn request_of(key: &SigningKey) -> net::OrchestratorRequest {
    net::OrchestratorRequest {
        address: key.address().as_bytes().to_vec(),
        sig: key.sign_node(&orchestrator_request_message(key.address())).to_bytes().to_vec(),
        capabilities: Some(net::Capabilities::default()),
        ignore_capacity_check: false,
    }
}

pub(crate) fn ladder() -> Vec<Profile> {
    vec![preset("144p").unwrap(), preset("240p").unwrap()]
}

/// Pixels of one segment in this ladder.
pub(crate) fn pixels() -> u64 {
    (256 * 144 + 426 * 240) * FRAMES
}

pub(crate) fn content(length: usize) -> Bytes {
    Bytes::from(vec![7; length])
}

/// Tickets with these nonces for an offer.
pub(crate) fn pay(info: &net::OrchestratorInfo, nonces: impl IntoIterator<Item = u32>) -> net::Payment {
    let params = params_from_wire(info.ticket_params.as_ref().unwrap(), None).unwrap();
    let price = info.price_info.as_ref().unwrap();
    let expected_price = PricePerPixel::from_wire(price.price_per_unit, price.pixels_per_unit).unwrap();
    let tickets = nonces.into_iter().map(|sender_nonce| {
        let ticket = Ticket {
            recipient: params.recipient,
            sender: gateway().address(),
            face_value: params.face_value,
            win_prob: params.win_prob,
            sender_nonce,
            recipient_rand_hash: params.recipient_rand_hash,
            creation_round: params.creation_round,
            creation_round_block_hash: params.creation_round_block_hash,
        };
        (sender_nonce, gateway().sign_personal(ticket.hash()).to_bytes().to_vec())
    });
    let tickets = Some(TicketBatch { params, tickets: tickets.collect() });
    payment_to_wire(&Payment { sender: gateway().address(), expected_price, tickets })
}

/// A signed segment that pays with these nonces.
pub(crate) fn paid(info: &net::OrchestratorInfo, seq: i64, nonces: impl IntoIterator<Item = u32>) -> Upload {
    let token = info.auth_token.as_ref().unwrap();
    let mut upload = Upload::new(token, seq, content(100), &ladder()).signed(&gateway(), &ladder());
    upload.payment = pay(info, nonces);
    upload
}

/// A signed segment that counts on earlier credit, at this price.
pub(crate) fn unpaid(info: &net::OrchestratorInfo, seq: i64, wei: i64) -> Upload {
    let token = info.auth_token.as_ref().unwrap();
    let mut upload = Upload::new(token, seq, content(100), &ladder()).signed(&gateway(), &ladder());
    let price = net::PriceInfo { price_per_unit: wei, pixels_per_unit: 1, ..net::PriceInfo::default() };
    upload.payment.expected_price = Some(price);
    upload
}

#[tokio::test]
async fn the_upload_is_acknowledged_before_it_is_transcoded() {
    let stage = Stage::off_chain(Scripted::new(0, 2)).await;
    let token = discover(&stage.uri).await.unwrap().auth_token.unwrap();
    for (seq, speak) in [(0, Speak::Http1), (1, Speak::Http2)] {
        let upload = Upload::new(&token, seq, content(500_000), &ladder());
        let response = open(&stage.uri, speak, upload.request(&stage.uri, speak, "/segment")).await;
        assert_eq!(response.status(), 200, "while the transcoder has not even been allowed to begin");
        stage.transcoder.allowed.add_permits(1);
        let result = result(response).await;
        assert_eq!(data(&result).segments.len(), 2);
    }
}

#[tokio::test]
async fn segments_of_a_session_run_in_order_and_the_sixth_is_told_to_go() {
    let stage = Stage::off_chain(Scripted::new(0, 2)).await;
    let token = discover(&stage.uri).await.unwrap().auth_token.unwrap();
    let mut waiting = Vec::new();
    for seq in 0..6 {
        let upload = Upload::new(&token, seq, content(100 + usize::try_from(seq).unwrap()), &ladder());
        waiting.push(open(&stage.uri, Speak::Http1, upload.request(&stage.uri, Speak::Http1, "/segment")).await);
        if seq == 0 {
            stage.transcoder.started.acquire().await.unwrap().forget();
        }
    }
    let sixth = result(waiting.pop().unwrap()).await;
    assert_eq!(error(&sixth), "OrchestratorBusy");
    stage.transcoder.allowed.add_permits(5);
    for response in waiting {
        assert_eq!(data(&result(response).await).segments.len(), 2);
    }
    assert_eq!(*stage.transcoder.order.lock().unwrap(), [100, 101, 102, 103, 104]);
}

#[tokio::test]
async fn a_full_node_refuses_newcomers_and_never_those_it_has() {
    let stage = Stage::off_chain(Scripted::new(1000, 1)).await;
    let (one, two) = (discover(&stage.uri).await.unwrap(), discover(&stage.uri).await.unwrap());
    let segment = |info: &net::OrchestratorInfo, seq| {
        Upload::new(info.auth_token.as_ref().unwrap(), seq, content(100), &ladder())
    };
    data(&segment(&one, 0).send(&stage.uri, Speak::Http1).await);
    segment(&two, 0).refused(&stage.uri, 403, "OrchestratorCapped").await;
    data(&segment(&one, 1).send(&stage.uri, Speak::Http2).await);
    let end = net::EndTranscodingSessionRequest { auth_token: one.auth_token.clone() };
    call::<_, net::EndTranscodingSessionResponse>(&stage.uri, "EndTranscodingSession", &end).await.unwrap();
    assert_eq!(*stage.transcoder.ended.lock().unwrap(), [one.auth_token.unwrap().session_id]);
    data(&segment(&two, 1).send(&stage.uri, Speak::Http1).await);
}

#[tokio::test]
async fn what_the_transcoder_says_reaches_the_gateway_in_the_networks_words() {
    let stage = Stage::off_chain(Scripted::new(1000, 2)).await;
    let token = discover(&stage.uri).await.unwrap().auth_token.unwrap();
    let lost = TranscodeError::WorkerLost { cause: "SIGSYS in /usr/lib".to_owned() };
    for (seq, (fault, words)) in (0..).zip([
        (lost, "TranscoderFailed"),
        (TranscodeError::Busy, "OrchestratorBusy"),
        (TranscodeError::Timeout, "TranscoderTimeout"),
        (TranscodeError::Stopped, "OrchestratorCapped"),
    ]) {
        *stage.transcoder.error.lock().unwrap() = Some(fault);
        let result = Upload::new(&token, seq, content(100), &ladder()).send(&stage.uri, Speak::Http1).await;
        assert_eq!(error(&result), words);
    }
    *stage.transcoder.error.lock().unwrap() = None;
    let mut stored = Upload::new(&token, 9, content(100), &ladder());
    stored.data.storage = vec![net::OsInfo { storage_type: 1, ..net::OsInfo::default() }];
    let result = stored.send(&stage.uri, Speak::Http1).await;
    assert_eq!(error(&result), "renditions could not be stored");
}

#[tokio::test]
async fn a_token_is_good_for_half_an_hour() {
    let stage = Stage::off_chain(Scripted::new(1000, 2)).await;
    let token = discover(&stage.uri).await.unwrap().auth_token.unwrap();
    let upload = Upload::new(&token, 0, content(100), &ladder());
    stage.clock.advance(Duration::from_secs(30 * 60 - 1));
    data(&upload.send(&stage.uri, Speak::Http1).await);
    stage.clock.advance(Duration::from_secs(1));
    upload.refused(&stage.uri, 403, "expired auth token").await;
    // Ending a session is allowed whenever the token is ours.
    let end = net::EndTranscodingSessionRequest { auth_token: Some(token) };
    call::<_, net::EndTranscodingSessionResponse>(&stage.uri, "EndTranscodingSession", &end).await.unwrap();
}

#[tokio::test]
async fn uploads_share_their_memory() {
    let stage = Stage::set(Scripted::new(0, 4), None, |config| config.upload_memory_mib = 32).await;
    let token = |info: net::OrchestratorInfo| info.auth_token.unwrap();
    let (one, two) = (token(discover(&stage.uri).await.unwrap()), token(discover(&stage.uri).await.unwrap()));
    let large = Upload::new(&one, 0, content(20 << 20), &ladder());
    let held = open(&stage.uri, Speak::Http1, large.request(&stage.uri, Speak::Http1, "/segment")).await;
    assert_eq!(held.status(), 200);
    let other = Upload::new(&two, 0, content(20 << 20), &ladder());
    let refused = told(open(&stage.uri, Speak::Http2, other.request(&stage.uri, Speak::Http2, "/segment")).await).await;
    assert_eq!(refused, (500, "Internal Server Error\n".to_owned()));
    stage.transcoder.allowed.add_permits(2);
    data(&result(held).await);
    data(&other.send(&stage.uri, Speak::Http1).await);
}

#[tokio::test]
async fn a_paying_gateway_is_served_credited_and_charged() {
    let stage = Stage::on_chain().await;
    let info = stage.offer().await.unwrap();
    assert_eq!(address(&info.address), stage.signer.key.address());
    let params = params_from_wire(info.ticket_params.as_ref().unwrap(), None).unwrap();
    assert_eq!((params.recipient, params.face_value), (US, Wei::from(4 * EV)));
    assert!(params.win_prob > WinProb::NEVER && params.win_prob < WinProb::ALWAYS);
    assert_eq!(info.price_info.as_ref().unwrap().price_per_unit, i64::try_from(PRICE).unwrap());

    let sent = paid(&info, 0, 1..=4).send(&stage.uri, Speak::Http1).await;
    let account = Account::session(gateway().address(), &info.auth_token.as_ref().unwrap().session_id);
    let balance = stage.ledger().balance(&account).unwrap();
    assert!(balance.credit >= Wei::from(4 * EV) && balance.credit <= Wei::from(4 * EV + 4));
    assert_eq!(balance.debit, Wei::from(PRICE * pixels()));
    let fresh = sent.info.as_ref().unwrap();
    assert_eq!(fresh.auth_token, info.auth_token);
    assert_ne!(fresh.ticket_params, info.ticket_params);

    // The result is signed by the account named in the offer, over what is served.
    let mut hashes = Vec::new();
    for rendition in &data(&sent).segments {
        let path = rendition.url.strip_prefix(&stage.uri).unwrap();
        let media = get(&stage.uri, Speak::Http1, path).await.into_body().collect().await.unwrap().to_bytes();
        hashes.push(keccak256(&media));
    }
    let signature = Signature::from_bytes(&data(&sent).sig).unwrap();
    assert_eq!(signature.recover_personal(result_digest(&hashes)), Ok(stage.signer.key.address()));

    let value = keccak256(b"ping").as_bytes().to_vec();
    let pong: net::PingPong = call(&stage.uri, "Ping", &net::PingPong { value: value.clone() }).await.unwrap();
    let pong = Signature::from_bytes(&pong.value).unwrap();
    assert_eq!(pong.recover_node(&value), Ok(stage.signer.key.address()));
}

#[tokio::test]
async fn only_whom_it_says_may_ask_for_an_offer() {
    let stage = Stage::on_chain().await;
    let text = "Invalid orchestrator request: orchestrator req sig check failed";
    assert_eq!(discover(&stage.uri).await.unwrap_err(), text, "an off-chain gateway");
    let mut forged = request_of(&gateway());
    forged.address = vec![9; 20];
    let told: Result<net::OrchestratorInfo, _> = call(&stage.uri, "GetOrchestrator", &forged).await;
    assert_eq!(told.unwrap_err(), text);
    let poor = SigningKey::from_bytes(&[0x62; 32]).unwrap();
    let told: Result<net::OrchestratorInfo, _> = call(&stage.uri, "GetOrchestrator", &request_of(&poor)).await;
    assert_eq!(told.unwrap_err(), "insufficient sender reserve");
}

#[tokio::test]
async fn a_wrong_signature_is_refused() {
    let stage = Stage::on_chain().await;
    let info = stage.offer().await.unwrap();
    let good = paid(&info, 0, 1..=4);
    let spoilt = [
        &|u: &mut Upload| u.data.sig[3] ^= 1,
        &|u: &mut Upload| u.data.sig.clear(),
        &|u: &mut Upload| u.data.seq += 1,
        &|u: &mut Upload| u.data.manifest_id.push(b'x'),
        &|u: &mut Upload| u.data.full_profiles[0].name.push('x'),
        &|u: &mut Upload| u.payment.sender = vec![9; 20],
        &|u: &mut Upload| u.payment.sender.clear(),
    ] as [&dyn Fn(&mut Upload); 7];
    for spoil in spoilt {
        let mut upload = good.clone();
        spoil(&mut upload);
        upload.refused(&stage.uri, 403, "ErrSegSig").await;
    }
    assert_eq!(stage.ledger().totals().tickets_received, 0);
}

#[tokio::test]
async fn a_payment_that_is_not_good_is_refused_in_the_networks_words() {
    let stage = Stage::on_chain().await;
    let info = stage.offer().await.unwrap();
    let sender = gateway().address();
    paid(&info, 0, 1..=4).send(&stage.uri, Speak::Http1).await;
    let refused = async |upload: Upload, text: &str| upload.refused(&stage.uri, 400, text).await;

    let seen = format!("invalid ticket senderNonce: already seen sender={sender} nonce=4");
    refused(paid(&info, 1, [4]), &seen).await;
    let mut unsigned = paid(&info, 1, [5]);
    unsigned.payment.ticket_sender_params[0].sig[3] ^= 1;
    refused(unsigned, "invalid ticket signature").await;
    let mut tampered = paid(&info, 1, [6]);
    tampered.payment.ticket_params.as_mut().unwrap().win_prob = vec![1];
    refused(tampered, "invalid recipientRand for ticket recipientRandHash").await;
    let mut foreign = paid(&info, 1, [7]);
    foreign.payment.ticket_params.as_mut().unwrap().recipient = vec![9; 20];
    refused(foreign, "invalid ticket recipient").await;
    let mut nameless = paid(&info, 1, [8]);
    nameless.payment.expected_price = None;
    refused(nameless, "invalid expected price sent with payment err=\"expected price is nil\"").await;
    let mut roundless = paid(&info, 1, [9]);
    roundless.payment.expiration_params = None;
    refused(roundless, "missing ticket expiration params").await;

    stage.chain.world().head.l1_block.0 += 40;
    refused(paid(&info, 1, [10]), "TicketParams expired").await;
    stage.chain.world().head.l1_block.0 -= 40;
    stage.chain.world().head.recipient_active = false;
    refused(paid(&info, 1, [11]), &format!("orchestrator {US} is inactive in round 7, cannot process payments")).await;
    stage.chain.world().head.recipient_active = true;
    stage.chain.world().senders.get_mut(&sender).unwrap().withdraw_round = Round(8);
    refused(paid(&info, 1, [12]), &format!("deposit and reserve for sender {sender} is set to unlock soon")).await;
    stage.chain.world().senders.get_mut(&sender).unwrap().withdraw_round = Round(9);
    data(&paid(&info, 1, [12]).send(&stage.uri, Speak::Http1).await);

    assert_eq!(stage.ledger().totals().tickets_received, 5, "the refused ones earned nothing");
    let status = stage.node.snapshot(Default::default(), "run", Duration::ZERO).await;
    let errors = &status.money.payment_errors;
    for kind in ["nonce", "signature", "params", "encoding", "expired", "inactive", "unlocking"] {
        assert!(errors.contains_key(kind), "{kind} is missing in {errors:?}");
    }
}

#[tokio::test]
async fn an_offer_is_good_for_as_many_tickets_as_it_says_even_in_one_request() {
    let stage = Stage::on_chain().await;
    let info = stage.offer().await.unwrap();
    data(&paid(&info, 0, 1..=600).send(&stage.uri, Speak::Http2).await);
    let sender = gateway().address();
    let many = format!("invalid ticket senderNonce: too many values sender={sender} nonce=601");
    paid(&info, 1, [601]).refused(&stage.uri, 400, &many).await;
    let info = stage.offer().await.unwrap();
    data(&paid(&info, 0, 1..=600).send(&stage.uri, Speak::Http1).await);
    assert_eq!(stage.ledger().totals().tickets_received, 1200);
}

#[tokio::test]
async fn nobody_works_off_a_price_of_his_own() {
    let stage = Stage::on_chain().await;
    let info = stage.offer().await.unwrap();
    let price = i64::try_from(PRICE).unwrap();
    // Without credit nothing goes, whatever price is believed in; below ours is refused as such.
    unpaid(&info, 0, price).refused(&stage.uri, 400, "Insufficient balance").await;
    let own = |expected: i64| {
        format!(
            "invalid expected price sent with payment err=\"expected price {expected}/1 is not the session's {PRICE}/1\""
        )
    };
    unpaid(&info, 0, 0).refused(&stage.uri, 400, &own(0)).await;
    unpaid(&info, 0, 1).refused(&stage.uri, 400, &own(1)).await;

    // With credit the session's price holds: stock would let the next two work for nothing.
    data(&paid(&info, 0, 1..=10).send(&stage.uri, Speak::Http1).await);
    unpaid(&info, 1, 0).refused(&stage.uri, 400, &own(0)).await;
    unpaid(&info, 1, 3).refused(&stage.uri, 400, &own(3)).await;
    let mut none = unpaid(&info, 1, 1);
    none.payment.expected_price.as_mut().unwrap().pixels_per_unit = 0;
    let told_zero = "invalid expected price sent with payment err=\"pixels per unit must be positive\"";
    none.refused(&stage.uri, 400, told_zero).await;
    let mut negative = unpaid(&info, 1, -1);
    negative.payment.expected_price.as_mut().unwrap().pixels_per_unit = 1;
    negative.refused(&stage.uri, 400, "invalid expected price sent with payment err=\"price is negative\"").await;

    // Credit is used up at our price, segment by segment; then it ends.
    let account = Account::session(gateway().address(), &info.auth_token.as_ref().unwrap().session_id);
    let mut seq = 1;
    while stage.ledger().balance(&account).unwrap().covers(Wei::from(EV)) {
        data(&unpaid(&info, seq, price).send(&stage.uri, Speak::Http1).await);
        seq += 1;
    }
    assert_eq!(
        stage.ledger().balance(&account).unwrap().debit,
        Wei::from(PRICE * pixels()).checked_mul(u64::try_from(seq).unwrap()).unwrap()
    );
    unpaid(&info, seq, price).refused(&stage.uri, 400, "Insufficient balance").await;
}

#[tokio::test]
async fn work_is_charged_even_when_nobody_waits_for_it() {
    let stage = Stage::on_chain().await;
    let info = stage.offer().await.unwrap();
    stage.transcoder.allowed.forget_permits(1000);
    let upload = paid(&info, 0, 1..=4);
    let response = open(&stage.uri, Speak::Http1, upload.request(&stage.uri, Speak::Http1, "/segment")).await;
    assert_eq!(response.status(), 200);
    stage.transcoder.started.acquire().await.unwrap().forget();
    drop(response);
    stage.transcoder.allowed.add_permits(1);
    stage.node.finish().await;
    let account = Account::session(gateway().address(), &info.auth_token.unwrap().session_id);
    assert_eq!(stage.ledger().balance(&account).unwrap().debit, Wei::from(PRICE * pixels()));
}

#[tokio::test]
async fn failed_work_is_not_charged() {
    let stage = Stage::on_chain().await;
    let info = stage.offer().await.unwrap();
    *stage.transcoder.error.lock().unwrap() = Some(TranscodeError::Timeout);
    let sent = paid(&info, 0, 1..=4).send(&stage.uri, Speak::Http1).await;
    assert_eq!(error(&sent), "TranscoderTimeout");
    let account = Account::session(gateway().address(), &info.auth_token.unwrap().session_id);
    assert_eq!(stage.ledger().balance(&account).unwrap().debit, Wei::ZERO);
}

#[tokio::test]
async fn a_payment_without_a_segment_is_credited_to_its_manifest() {
    let stage = Stage::on_chain().await;
    let info = stage.offer().await.unwrap();
    let mut upload = Upload::new(info.auth_token.as_ref().unwrap(), 0, Bytes::new(), &[]).signed(&gateway(), &[]);
    upload.payment = pay(&info, 1..=3);
    let response = open(&stage.uri, Speak::Http1, upload.request(&stage.uri, Speak::Http1, "/payment")).await;
    assert_eq!(response.status(), 200);
    let paid = net::PaymentResult::decode(response.into_body().collect().await.unwrap().to_bytes()).unwrap();
    assert_eq!(paid.info.unwrap().auth_token, info.auth_token);
    let balance = |id: &str| stage.ledger().balance(&Account::manifest(gateway().address(), id)).unwrap().credit;
    assert!(balance("stream") >= Wei::from(3 * EV));
    assert_eq!(balance(&info.auth_token.as_ref().unwrap().session_id), Wei::ZERO);
    let again = told(open(&stage.uri, Speak::Http1, upload.request(&stage.uri, Speak::Http1, "/payment")).await).await;
    assert_eq!(again.0, 400);
    assert!(again.1.starts_with("invalid ticket senderNonce: already seen"));
}

#[tokio::test]
async fn when_the_chain_is_away_known_gateways_are_served_on_a_clock() {
    let stage = Stage::on_chain().await;
    let info = stage.offer().await.unwrap();
    data(&paid(&info, 0, 1..=4).send(&stage.uri, Speak::Http1).await);
    stage.chain.world().away = true;
    data(&paid(&info, 1, 5..=8).send(&stage.uri, Speak::Http1).await);
    let stranger = SigningKey::from_bytes(&[0x62; 32]).unwrap();
    let told: Result<net::OrchestratorInfo, _> = call(&stage.uri, "GetOrchestrator", &request_of(&stranger)).await;
    assert_eq!(told.unwrap_err(), "orchestrator cannot make an offer now");
    stage.clock.advance(Duration::from_secs(15 * 60 + 1));
    paid(&info, 2, 9..=12).refused(&stage.uri, 500, "Internal Server Error").await;
    let status = stage.node.snapshot(Default::default(), "run", Duration::ZERO).await;
    assert!(status.alarms.iter().any(|alarm| alarm.id == "RPC-DOWN"));
    assert_eq!(stage.ledger().totals().tickets_received, 8, "nothing was lost");
}
