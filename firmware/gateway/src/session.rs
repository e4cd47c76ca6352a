//! A session: pay for one segment, send it, believe nothing that comes back.
//!
//! Walk 1 from the gateway's side: reserve → sign → upload → read the result → settle → fetch the renditions →
//! check the orchestrator's signature and pixel counts.
//!
//! *Source:* livepeer-wire §1.4 to §1.6, §3.4, §3.5, §4.1, §5.6.
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures_util::future::try_join_all;
use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use livepeer::address::{Address, H256};
use livepeer::capability::CapabilitySet;
use livepeer::credentials::{TOKEN_LIFETIME_SECONDS, result_digest, segment_message};
use livepeer::price::PricePerPixel;
use livepeer::profile::{Container, Profile, VideoCodec};
use livepeer::signature::Signature;
use livepeer::units::Pixels;
use livepeer::wire::{self, net};
use prost::Message;
use tokio::time::Instant;

use crate::exact::Overflow;
use crate::gateway::Gateway;
use crate::http::{Downloaded, HttpError};
use crate::inspect::{Inspected, inspect};
use crate::needs;
use crate::offer::{self, Offer, OfferError};
use crate::purse::{Purse, Reserved, estimate_pixels};
use crate::rpc;
use crate::verify::{self, Claim};

mod error;

pub use error::SessionError;

/// A token with less than this share of its life left is renewed first.
const TOKEN_RESERVE_SECONDS: i64 = TOKEN_LIFETIME_SECONDS / 10;
/// Shorter segments are scored as if they had this length.
pub(crate) const SCORE_FLOOR: Duration = Duration::from_millis(1500);
/// A rendition this short is none.
const SMALLEST_RENDITION: u64 = 25;
/// Longest refusal kept.
const MAX_TEXT: usize = 300;

/// One rendition, on disk.
#[derive(Debug, Clone)]
pub struct RenditionFile {
    /// Where.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// Pixels as reported, and as counted where counting is on.
    pub pixels: Pixels,
    /// What it holds, when it was looked at.
    pub inspected: Option<Inspected>,
}

/// A segment that came back.
#[derive(Debug, Clone)]
pub struct Transcoded {
    /// In the order of the profiles.
    pub renditions: Vec<RenditionFile>,
    /// Sum of the renditions' pixels.
    pub pixels: Pixels,
    /// From the start of the upload until the whole result was read.
    pub round_trip: Duration,
    /// Tickets sent with it.
    pub tickets: u32,
    /// Its renditions were decoded and held against the source.
    pub verified: bool,
}

/// A segment to send.
#[derive(Debug)]
pub struct Upload {
    /// Its number in the stream.
    pub seq: i64,
    /// A transport stream.
    pub bytes: Bytes,
    /// keccak-256 of the bytes.
    pub hash: H256,
    /// How long it plays.
    pub duration: Duration,
    /// Where its renditions go: one file per profile.
    pub targets: Vec<PathBuf>,
}

/// A session with one orchestrator.
#[derive(Debug)]
pub struct Session {
    gateway: Arc<Gateway>,
    asked: Uri,
    stream_id: String,
    profiles: Arc<[Profile]>,
    needed: CapabilitySet,
    renewing: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    offer: Offer,
    first_price: Option<PricePerPixel>,
    purse: Purse,
    score: Option<f64>,
    /// When the segments that are under way were begun.
    in_flight: Vec<Instant>,
}

/// A segment is under way for as long as this lives.
struct InFlight<'a> {
    session: &'a Session,
    begun: Instant,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let mut state = self.session.state();
        if let Some(at) = state.in_flight.iter().position(|begun| *begun == self.begun) {
            state.in_flight.swap_remove(at);
        }
    }
}

impl Session {
    /// Begins a stream with an orchestrator on its offer.
    #[must_use]
    pub fn new(
        gateway: Arc<Gateway>,
        asked: Uri,
        offer: Offer,
        stream_id: String,
        profiles: Arc<[Profile]>,
        needed: CapabilitySet,
    ) -> Self {
        let first_price = offer.terms.map(|terms| terms.price);
        let state = State { offer, first_price, purse: Purse::default(), score: None, in_flight: Vec::new() };
        Self {
            gateway,
            asked,
            stream_id,
            profiles,
            needed,
            renewing: tokio::sync::Mutex::new(()),
            state: Mutex::new(state),
        }
    }

    /// The URI that was asked for the offer.
    #[must_use]
    pub fn asked(&self) -> &Uri {
        &self.asked
    }

    /// The offer in force.
    #[must_use]
    pub fn offer(&self) -> Offer {
        self.state().offer.clone()
    }

    /// Round trip of the last segment ÷ its duration; below 1 is faster than real time.
    #[must_use]
    pub fn score(&self) -> Option<f64> {
        self.state().score
    }

    /// How long the oldest segment that is under way has been so, downloads and checks included.
    #[must_use]
    pub fn oldest_in_flight(&self) -> Option<Duration> {
        self.state().in_flight.iter().map(Instant::elapsed).max()
    }

    /// Tells the orchestrator that no more segments come. The answer does not matter.
    pub async fn end(&self) {
        let token = wire::auth_token_to_wire(&self.offer().auth_token);
        if let Err(error) = rpc::end_session(&self.asked, token).await {
            tracing::debug!(orchestrator = %self.asked, %error, "orchestrator did not hear that the session ended");
        }
    }

    /// Sends a segment and fetches its renditions. On an error no file is left.
    ///
    /// # Errors
    /// [`SessionError`]; unless the stream is at fault, another orchestrator may do better.
    pub async fn transcode(&self, work: &Upload) -> Result<Transcoded, SessionError> {
        let begun = Instant::now();
        self.state().in_flight.push(begun);
        let _under_way = InFlight { session: self, begun };
        self.renew_if_due().await?;
        let (offer, reserved) = self.reserve(work)?;
        let uri = segment_uri(&offer.service_uri)?;
        let headers = self.headers(&offer, work, reserved.as_ref())?;
        let posted = self.gateway.http.post_segment(uri, headers, work.bytes.clone(), work.duration).await;
        let answer = match posted {
            Err(error) if !error.was_sent() => {
                self.give_back(&offer, reserved)?;
                return Err(SessionError::NotSent(error));
            }
            posted => {
                self.note_spent(reserved.as_ref());
                posted.map_err(SessionError::NotSent)?
            }
        };
        if answer.status != StatusCode::OK {
            let text = String::from_utf8_lossy(&answer.body).trim().chars().take(MAX_TEXT).collect();
            return Err(SessionError::Refused { status: answer.status, text });
        }
        let result = net::TranscodeResult::decode(answer.body)?;
        self.adopt(result.info.as_ref());
        let data = match result.result {
            Some(net::transcode_result::Result::Data(data)) => data,
            Some(net::transcode_result::Result::Error(text)) => {
                return Err(SessionError::Failed(text.chars().take(MAX_TEXT).collect()));
            }
            None => return Err(SessionError::Renditions),
        };
        let reported = self.reported(&data)?;
        let pixels = Pixels(reported.iter().fold(0, |sum, one| sum.saturating_add(one.pixels.0)));
        let tickets = reserved.as_ref().map_or(0, Reserved::tickets);
        self.settle(&offer, reserved, pixels)?;
        self.state().score = Some(answer.round_trip.as_secs_f64() / work.duration.max(SCORE_FLOOR).as_secs_f64());
        let fetched = self.fetch(&offer, &data, reported, work).await;
        if fetched.is_err() {
            for path in &work.targets {
                let _absent_or_gone = tokio::fs::remove_file(path).await;
            }
        }
        let verified = self.gateway.config.decoder.is_some();
        Ok(Transcoded { renditions: fetched?, pixels, round_trip: answer.round_trip, tickets, verified })
    }

    /// Asks for a new session when the token or the ticket parameters are about to end.
    async fn renew_if_due(&self) -> Result<(), SessionError> {
        if !self.is_due()? {
            return Ok(());
        }
        let _one_at_a_time = self.renewing.lock().await;
        if !self.is_due()? {
            return Ok(());
        }
        let offer = self.gateway.renew(&self.asked, &self.needed).await?;
        let mut state = self.state();
        if let (Some(first), Some(terms)) = (state.first_price, &offer.terms) {
            offer::check_growth(first, terms.price)?;
        }
        if offer.auth_token.session_id != state.offer.auth_token.session_id {
            state.purse = Purse::default();
        }
        state.offer = offer;
        Ok(())
    }

    fn is_due(&self) -> Result<bool, SessionError> {
        let chain = self.gateway.chain();
        let state = self.state();
        if let (Some(first), Some(terms)) = (state.first_price, &state.offer.terms) {
            offer::check_growth(first, terms.price)?;
        }
        let left = state.offer.auth_token.expiration.0.saturating_sub(unix_now());
        let expires = state.offer.terms.is_some_and(|terms| offer::expires(&terms.params, chain.as_ref()));
        Ok(left < TOKEN_RESERVE_SECONDS || expires)
    }

    fn reserve(&self, work: &Upload) -> Result<(Offer, Option<Reserved>), SessionError> {
        let duration = u64::try_from(work.duration.as_millis()).unwrap_or(u64::MAX);
        let mut state = self.state();
        let reserved = match state.offer.terms {
            None => None,
            Some(terms) => {
                let limits = &self.gateway.config.limits;
                offer::check_params(&terms.params, limits, self.gateway.chain().as_ref())?;
                let pixels = estimate_pixels(&self.profiles, duration);
                Some(state.purse.reserve(&terms, pixels, limits.max_segment_value)?)
            }
        };
        Ok((state.offer.clone(), reserved))
    }

    fn give_back(&self, offer: &Offer, reserved: Option<Reserved>) -> Result<(), Overflow> {
        let mut state = self.state();
        match reserved {
            Some(reserved) if state.is_session(offer) => state.purse.give_back(reserved),
            _ => Ok(()),
        }
    }

    fn settle(&self, offer: &Offer, reserved: Option<Reserved>, pixels: Pixels) -> Result<(), Overflow> {
        let mut state = self.state();
        match reserved {
            Some(reserved) if state.is_session(offer) => state.purse.settle(reserved, pixels),
            _ => Ok(()),
        }
    }

    fn note_spent(&self, reserved: Option<&Reserved>) {
        if let Some(reserved) = reserved {
            self.gateway.spend(reserved.tickets(), reserved.ticket_value());
        }
    }

    /// Takes over the terms that come with a result. Terms we cannot read leave the old ones in force.
    fn adopt(&self, info: Option<&net::OrchestratorInfo>) {
        let Some(info) = info else { return };
        let pays = self.gateway.config.signer.is_some();
        match offer::read(info, pays, self.gateway.chain().as_ref()) {
            Ok(fresh) => {
                let mut state = self.state();
                if state.is_session(&fresh) {
                    state.offer.terms = fresh.terms;
                    state.offer.signer = fresh.signer;
                }
            }
            Err(error) => tracing::debug!(orchestrator = %self.asked, %error, "new terms were not readable"),
        }
    }

    fn headers(&self, offer: &Offer, work: &Upload, reserved: Option<&Reserved>) -> Result<HeaderMap, SessionError> {
        let mut data = segment_data(&self.stream_id, work, &self.profiles, &self.needed, offer);
        data.calc_perceptual_hash = offer.hashes && self.gateway.config.decoder.is_some();
        let mut payment = String::new();
        if let (Some(signer), Some(reserved)) = (&self.gateway.config.signer, reserved) {
            let names = wire_names(&self.profiles);
            let message = segment_message(&data.manifest_id, data.seq, &data.hash, names.iter().map(String::as_str));
            data.sig = signer.sign_node(&message)?.to_bytes().to_vec();
            payment = header_text(&wire::payment_to_wire(&reserved.payment(signer.as_ref())?));
        }
        let text = |text: String| HeaderValue::try_from(text).expect("base64 is a header value");
        let mut headers = HeaderMap::new();
        headers.insert("livepeer-segment", text(header_text(&data)));
        headers.insert("livepeer-payment", text(payment));
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("video/MP2T"));
        Ok(headers)
    }

    /// Where each rendition is and what it is said to hold.
    fn reported(&self, data: &net::TranscodeData) -> Result<Vec<Reported>, SessionError> {
        if data.segments.len() != self.profiles.len() {
            return Err(SessionError::Renditions);
        }
        let each = data.segments.iter().map(|segment| {
            let uri: Uri = segment.url.parse().map_err(|_| SessionError::Renditions)?;
            let pixels = u64::try_from(segment.pixels).map_err(|_| SessionError::Renditions)?;
            let hash = Some(segment.perceptual_hash_url.as_str()).filter(|url| !url.is_empty());
            let hash = hash.map(str::parse::<Uri>).transpose().map_err(|_| SessionError::Renditions)?;
            if uri.authority().is_none() {
                return Err(SessionError::Renditions);
            }
            Ok(Reported { uri, pixels: Pixels(pixels), hash })
        });
        each.collect()
    }

    async fn fetch(
        &self,
        offer: &Offer,
        data: &net::TranscodeData,
        reported: Vec<Reported>,
        work: &Upload,
    ) -> Result<Vec<RenditionFile>, SessionError> {
        let downloads =
            self.profiles.iter().zip(reported.iter()).zip(&work.targets).map(|((profile, one), path)| async {
                let fetched = self.gateway.http.download(one.uri.clone(), path).await;
                let fetched =
                    fetched.map_err(|source| SessionError::Download { profile: profile.name.clone(), source })?;
                if fetched.bytes < SMALLEST_RENDITION {
                    Err(SessionError::Empty(profile.name.clone()))
                } else {
                    Ok(fetched)
                }
            });
        let downloaded: Vec<Downloaded> = try_join_all(downloads).await?;
        if self.gateway.config.signer.is_some() {
            let hashes: Vec<H256> = downloaded.iter().map(|download| download.hash).collect();
            check_signature(offer.signer, &hashes, &data.sig)?;
        }
        let mut renditions = Vec::with_capacity(work.targets.len());
        for (((profile, one), path), download) in self.profiles.iter().zip(&reported).zip(&work.targets).zip(downloaded)
        {
            let (pixels, inspected) = (one.pixels, look(path.clone()).await);
            if self.gateway.config.verify && is_countable(profile) {
                let counted = inspected.as_ref().map(Inspected::pixels);
                let counted = counted.ok_or_else(|| SessionError::Unreadable(profile.name.clone()))?;
                if counted != pixels {
                    return Err(SessionError::Pixels { profile: profile.name.clone(), counted, reported: pixels });
                }
            }
            renditions.push(RenditionFile { path: path.clone(), bytes: download.bytes, pixels, inspected });
        }
        if let Some(decoder) = &self.gateway.config.decoder {
            let claims = self.claims(&renditions, &reported, offer).await?;
            verify::verify(decoder.as_ref(), &work.bytes, claims).await?;
        }
        Ok(renditions)
    }

    /// What is to be verified: each rendition with what was said of it. A hash that was asked for must be there.
    async fn claims(
        &self,
        renditions: &[RenditionFile],
        reported: &[Reported],
        offer: &Offer,
    ) -> Result<Vec<Claim>, SessionError> {
        let claim = |((profile, rendition), one): ((&Profile, &RenditionFile), &Reported)| {
            let (profile, path, pixels) = (profile.name.clone(), rendition.path.clone(), rendition.pixels);
            let uri = one.hash.clone().filter(|_| offer.hashes);
            async move {
                let hash = match uri {
                    Some(uri) => self.gateway.http.fetch_small(uri).await,
                    None if offer.hashes => Err(HttpError::Status(StatusCode::NOT_FOUND)),
                    None => return Ok(Claim { profile, path, pixels, hash: None }),
                };
                let hash = hash.map_err(|source| SessionError::Hash { profile: profile.clone(), source })?;
                Ok(Claim { profile, path, pixels, hash: Some(hash) })
            }
        };
        try_join_all(self.profiles.iter().zip(renditions).zip(reported).map(claim)).await
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a rendition is and what it is said to hold.
#[derive(Debug)]
struct Reported {
    uri: Uri,
    pixels: Pixels,
    /// Where its perceptual hash is.
    hash: Option<Uri>,
}

impl State {
    fn is_session(&self, offer: &Offer) -> bool {
        self.offer.auth_token.session_id == offer.auth_token.session_id
    }
}

/// The credentials of a segment, not signed yet.
fn segment_data(
    stream_id: &str,
    work: &Upload,
    profiles: &[Profile],
    needed: &CapabilitySet,
    offer: &Offer,
) -> net::SegData {
    let mut data = net::SegData {
        manifest_id: stream_id.as_bytes().to_vec(),
        seq: work.seq,
        hash: work.hash.as_bytes().to_vec(),
        duration: i32::try_from(work.duration.as_millis()).unwrap_or(i32::MAX),
        capabilities: Some(needs::to_wire(needed)),
        auth_token: Some(wire::auth_token_to_wire(&offer.auth_token)),
        ..net::SegData::default()
    };
    wire::profiles_into_seg_data(profiles, &mut data);
    data
}

/// The profiles' names as they go out, which is what is signed.
fn wire_names(profiles: &[Profile]) -> Vec<String> {
    profiles.iter().map(|profile| wire::profile_to_wire(profile).name).collect()
}

fn header_text(message: &impl Message) -> String {
    BASE64.encode(message.encode_to_vec())
}

fn segment_uri(service_uri: &Uri) -> Result<Uri, OfferError> {
    format!("{}/segment", service_uri.to_string().trim_end_matches('/')).parse().map_err(|_| OfferError::ServiceUri)
}

fn check_signature(expected: Address, hashes: &[H256], signature: &[u8]) -> Result<(), SessionError> {
    let signature = Signature::from_bytes(signature)?;
    if signature.recover_personal(result_digest(hashes))? == expected {
        Ok(())
    } else {
        Err(SessionError::SignedByOther { expected })
    }
}

/// Can frames be counted without a decoder?
fn is_countable(profile: &Profile) -> bool {
    profile.container == Container::MpegTs && profile.codec == VideoCodec::H264
}

/// Looks at a file off the event loop.
async fn look(path: PathBuf) -> Option<Inspected> {
    let read = move || read_and_inspect(&path);
    tokio::task::spawn_blocking(read).await.ok().flatten()
}

fn read_and_inspect(path: &Path) -> Option<Inspected> {
    inspect(&std::fs::read(path).ok()?)
}

fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
