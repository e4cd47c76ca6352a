//! `POST /segment`: one segment, from its headers to its renditions.
//!
//! Walk 1, steps 2 to 11, in the order in which stock does them. Until the upload's hash is checked a refusal is
//! an HTTP status; then `200 OK` goes out at once, and everything later is inside the body.
//!
//! *Source:* livepeer-wire §4.1.
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, header};
use ledger::Account;
use livepeer::address::{Address, H256, keccak256};
use livepeer::broker::Broker;
use livepeer::capability::version_satisfies;
use livepeer::credentials::{result_digest, segment_message};
use livepeer::signature::Signature;
use livepeer::wire::{SegmentMeta, net, segment_from_wire};
use prost::Message;
use sandbox::memfd::Sealed;
use sandbox::message::{Clip, JobError};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use crate::admission::load::Claim;
use crate::delivery;
use crate::info::VERSION;
use crate::node::Orchestrator;
use crate::pool::{Origin, TranscodeError, TranscodeRequest, Transcoded, Transcoder};
use crate::reject::{Failure, Rejection};
use crate::server::Peer;
use crate::session::{Entered, Visitor};
use crate::sign::Signer;
use crate::upload::{self, MAX_SEGMENT, Received};

/// Longest content, in milliseconds.
const MAX_DURATION_MS: u64 = 300_000;
/// Most renditions of one segment.
const MAX_RENDITIONS: usize = 10;
/// A rendition below this size counts as missing with gateways.
const MIN_RENDITION: usize = 25;
/// A gateway waits at least this long for the whole exchange …
const EXCHANGE: Duration = Duration::from_secs(8);
/// … and we keep this much of it for the way back.
const MARGIN: Duration = Duration::from_millis(500);

/// The upload was accepted and its renditions are owed.
struct Accepted {
    peer: Peer,
    entered: Entered,
    meta: SegmentMeta,
    sender: Address,
    info: net::OrchestratorInfo,
    segment: Sealed,
    /// Accounts for the memory of `segment`.
    memory: Option<OwnedSemaphorePermit>,
    began: Instant,
    uploaded: Instant,
}

/// Serves one segment.
pub(crate) async fn serve<T: Transcoder, B: Broker, S: Signer>(
    State(node): State<Arc<Orchestrator<T, B, S>>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    mut body: Body,
) -> Response {
    let accepted = match accept(&node, peer, &headers, &mut body).await {
        Ok(accepted) => accepted,
        Err(rejection) => {
            node.refuse(peer, "/segment", &rejection);
            upload::linger(&mut body).await;
            return rejection.respond();
        }
    };
    // The work goes on when the gateway goes away: it is paid for, and the next segment follows.
    let (answer, answered) = oneshot::channel();
    let worker = Arc::clone(&node);
    node.work.spawn(async move {
        let result = complete(&worker, accepted).await;
        if answer.send(result.encode_to_vec()).is_err() {
            tracing::debug!(seq = result.seq, "the gateway went away before its result");
        }
    });
    let result = async { answered.await.map(bytes::Bytes::from).map_err(|_| "the segment's task panicked") };
    let mut response = Response::new(Body::from_stream(futures_util::stream::once(result)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    response
}

/// Steps 1 to 12: everything that can be refused with a status.
async fn accept<T: Transcoder, B: Broker, S: Signer>(
    node: &Arc<Orchestrator<T, B, S>>,
    peer: Peer,
    headers: &HeaderMap,
    body: &mut Body,
) -> Result<Accepted, Rejection> {
    let began = Instant::now();
    let payment = payment_header(headers)?;
    let sender = Address::from_bytes(&payment.sender).unwrap_or_default();
    let meta = segment_from_wire(&segment_header(headers)?)?;
    if node.till.is_some() {
        check_signature(&meta, sender)?;
    }
    if !meta.needs.is_subset(&node.capabilities()) || !version_satisfies(VERSION, &meta.min_version) {
        return Err(Rejection::Capabilities);
    }
    node.token_key.check(meta.auth_token.as_ref(), node.now())?;
    let token = meta.auth_token.clone().ok_or(livepeer::credentials::AuthTokenError::Missing)?;

    let visitor = Visitor {
        id: &token.session_id,
        owner: node.owner(sender, peer),
        token_ends: token.expiration,
        now: node.now(),
    };
    let claim = node.claim(&token.session_id, &meta.profiles);
    // Without room only a refreshed token gets in, in place of its predecessor.
    let fits = claim.as_ref().is_none_or(Claim::fits) && !node.is_draining();
    let most = if fits { node.max_sessions() } else { 0 };
    let entered = node.sessions.enter(&visitor, most)?;
    if let Some(old) = &entered.succeeded {
        tracing::info!(session = old, by = token.session_id, "session succeeded by its refreshed token");
        node.forget(old);
    }
    // The offer repeats the session's price; on its first payment that is the one the gateway believes in.
    let granted = node.granted(sender);
    let believed = node.till.as_ref().and_then(|till| till.believed_price(entered.session(), &payment, granted));
    let info = node.offer(sender, believed, &token).await?;
    if let Some(till) = &node.till {
        let account = Account::session(sender, token.session_id.as_str());
        let fixed = entered.session().price();
        let price = till.take(&payment, &account, fixed, granted, node.now()).await?;
        let price = entered.session().fix_price(price);
        if !price.is_free() && !till.covers_ticket(&account).await? {
            return Err(Rejection::InsufficientBalance);
        }
    }

    let Received { segment, hash, memory } = upload::receive(node, headers, body, whole_exchange(&meta)).await?;
    if hash.as_bytes() != meta.hash {
        return Err(Rejection::Hash);
    }
    node.meters.received(segment.len(), Duration::from_millis(meta.duration_ms.into()));
    entered.establish();
    if let Some(claim) = &claim {
        claim.keep();
    }
    Ok(Accepted { peer, entered, meta, sender, info, segment, memory, began, uploaded: Instant::now() })
}

/// Step 14: transcode, charge, keep, sign; a failure becomes the result's text.
async fn complete<T: Transcoder, B: Broker, S: Signer>(
    node: &Orchestrator<T, B, S>,
    accepted: Accepted,
) -> net::TranscodeResult {
    let (peer, seq, info) = (accepted.peer, accepted.meta.seq, accepted.info.clone());
    let session = accepted.entered.session().id().to_owned();
    let result = match renditions(node, accepted).await {
        Ok(data) => net::transcode_result::Result::Data(data),
        Err(failure) => {
            node.meters.failed(failure.kind());
            if let Some(suppressed) = node.log_limit.allow(peer.0.ip()) {
                let detail = failure.detail();
                tracing::warn!(session, seq, reason = %failure, detail, suppressed, "segment failed");
            }
            net::transcode_result::Result::Error(failure.to_string())
        }
    };
    net::TranscodeResult { seq, info: Some(info), result: Some(result) }
}

async fn renditions<T: Transcoder, B: Broker, S: Signer>(
    node: &Orchestrator<T, B, S>,
    accepted: Accepted,
) -> Result<net::TranscodeData, Failure> {
    let Accepted { entered, meta, sender, segment, memory, began, uploaded, .. } = accepted;
    let session = entered.session();
    let _turn = session.turn().await?;
    let left = whole_exchange(&meta).saturating_sub(began.elapsed()).saturating_sub(MARGIN);
    let request = job(node, &meta, segment, left, session.video_seen())?;
    let transcoded = node.transcoder.transcode(session.id(), request).await?;
    drop(memory);
    if transcoded.encoded_pixels().0 > 0 {
        session.saw_video();
    }

    let missing = transcoded.renditions.len() != meta.profiles.len()
        || transcoded.renditions.iter().any(|output| output.media.len() < MIN_RENDITION);
    if missing {
        return Err(TranscodeError::WorkerLost { cause: "a rendition is missing".to_owned() }.into());
    }
    let until = began + whole_exchange(&meta);
    let segments = delivery::deliver(node, session.id(), &meta, &transcoded, until).await.map_err(Failure::Store)?;
    // Gateways count what they got; charging what did not reach their store would part our books from theirs.
    if let (Some(till), Some(price)) = (&node.till, session.price()) {
        let account = Account::session(sender, session.id());
        let fee = price.fee(transcoded.encoded_pixels());
        till.charge(&account, fee, node.now()).await.map_err(|error| Failure::Internal(error.to_string()))?;
    }
    let sig = match &node.till {
        Some(till) => {
            let digest = digest(transcoded.clone()).await?;
            till.signer.sign_result(digest).await.map_err(Failure::Sign)?.to_bytes().to_vec()
        }
        None => Vec::new(),
    };
    let bytes_out = transcoded.renditions.iter().map(|output| output.rendition.bytes).sum();
    let content = Duration::from_millis(meta.duration_ms.into());
    let pixels = transcoded.encoded_pixels();
    node.meters.transcoded(content, transcoded.took, uploaded.elapsed(), pixels, bytes_out);
    let took_ms = u64::try_from(uploaded.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(session = session.id(), seq = meta.seq, pixels = pixels.0, took_ms, "segment transcoded");
    Ok(net::TranscodeData { segments, sig })
}

/// What the transcoder is asked for.
fn job<T, B, S>(
    node: &Orchestrator<T, B, S>,
    meta: &SegmentMeta,
    segment: Sealed,
    deadline: Duration,
    video_seen: bool,
) -> Result<TranscodeRequest, Failure> {
    match meta.profiles.len() {
        0 => return Err(TranscodeError::from(JobError::InvalidArgument).into()),
        1..=MAX_RENDITIONS => {}
        _ => return Err(TranscodeError::from(JobError::TooManyOutputs).into()),
    }
    let provider = node.till.as_ref().map_or_else(|| "offchain".to_owned(), |till| till.recipient().to_string());
    Ok(TranscodeRequest {
        segment,
        profiles: meta.profiles.clone(),
        clip: meta.clip.map(|(from_ms, to_ms)| Clip { from_ms, to_ms }),
        deadline,
        max_duration_ms: MAX_DURATION_MS,
        max_output_bytes: MAX_SEGMENT,
        service_provider: format!("Livepeer Transcoder {VERSION} ({provider})"),
        origin: Origin {
            manifest_id: meta.manifest_id.clone(),
            seq: meta.seq,
            duration: Duration::from_millis(meta.duration_ms.into()),
            needs: meta.needs.clone(),
            min_version: meta.min_version.clone(),
            orchestrator: provider,
            video_seen,
        },
        signatures: meta.wants_perceptual_hash,
    })
}

/// The digest of the result, off the async threads: it reads every rendition.
async fn digest(transcoded: Transcoded) -> Result<H256, Failure> {
    let hashing = tokio::task::spawn_blocking(move || {
        let hashes: Vec<H256> = transcoded.renditions.iter().map(|output| keccak256(&output.media)).collect();
        result_digest(&hashes)
    });
    hashing.await.map_err(|error| Failure::Internal(error.to_string()))
}

/// How long a gateway waits for the whole exchange.
fn whole_exchange(meta: &SegmentMeta) -> Duration {
    EXCHANGE.max(Duration::from_millis(u64::from(meta.duration_ms).saturating_mul(4)))
}

/// The payment of a request; an absent header is an empty one, as off-chain gateways send it.
pub(crate) fn payment_header(headers: &HeaderMap) -> Result<net::Payment, Rejection> {
    let text = headers.get("Livepeer-Payment").map(HeaderValue::as_bytes).unwrap_or_default();
    let bytes = STANDARD.decode(text).map_err(Rejection::PaymentBase64)?;
    net::Payment::decode(bytes.as_slice()).map_err(Rejection::PaymentProtobuf)
}

/// The segment's credentials.
pub(crate) fn segment_header(headers: &HeaderMap) -> Result<net::SegData, Rejection> {
    let text = headers.get("Livepeer-Segment").ok_or(Rejection::SegmentEncoding)?;
    let bytes = STANDARD.decode(text.as_bytes()).map_err(|_| Rejection::SegmentEncoding)?;
    net::SegData::decode(bytes.as_slice()).map_err(|_| Rejection::SegmentEncoding)
}

/// Did the paying account sign this segment?
pub(crate) fn check_signature(meta: &SegmentMeta, sender: Address) -> Result<(), Rejection> {
    let names = meta.profiles.iter().map(|profile| profile.name.as_str());
    let message = segment_message(&meta.manifest_id, meta.seq, &meta.hash, names);
    let signer = Signature::from_bytes(&meta.signature).and_then(|signature| signature.recover_node(&message));
    if signer == Ok(sender) && !sender.is_null() { Ok(()) } else { Err(Rejection::SegmentSignature) }
}

impl<T, B, S> Orchestrator<T, B, S> {
    /// Counts a refusal and tells of it, without letting a peer fill the log.
    pub(crate) fn refuse(&self, peer: Peer, path: &'static str, rejection: &Rejection) {
        self.meters.refused(rejection);
        if let Some(suppressed) = self.log_limit.allow(peer.0.ip()) {
            let (reason, fault) = (rejection, rejection.fault());
            tracing::info!(peer = %peer.0, path, %reason, ?fault, suppressed, "request refused");
        }
    }
}
