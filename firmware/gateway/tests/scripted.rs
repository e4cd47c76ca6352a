//! The gateway against orchestrators that fail, refuse, lie and vanish.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

#[path = "scripted/orchestrator.rs"]
mod orchestrator;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use gateway::{
    DecodeError, Decoded, Decoder, Decoding, Fed, Gateway, GatewayConfig, IngestError, OfferLimits, Pace, PushError,
    PushOptions, PushReport, SignerError, TicketSigner,
};
use livepeer::address::{Address, H256};
use livepeer::profile::preset;
use livepeer::signature::{Signature, SigningKey};
use livepeer::units::{Pixels, Wei};
use mpegts::segment::{Looper, Segment};

use crate::orchestrator::{Act, Orchestrator, Script};

#[derive(Debug)]
struct Key(SigningKey);

impl TicketSigner for Key {
    fn address(&self) -> Address {
        self.0.address()
    }
    fn sign_node(&self, message: &[u8]) -> Result<Signature, SignerError> {
        Ok(self.0.sign_node(message))
    }
    fn sign_personal(&self, digest: H256) -> Result<Signature, SignerError> {
        Ok(self.0.sign_personal(digest))
    }
}

fn gateway(orchestrators: &[&Orchestrator], pays: bool) -> Arc<Gateway> {
    let key = SigningKey::from_bytes(&[1; 32]).unwrap();
    Arc::new(Gateway::new(GatewayConfig {
        orchestrators: orchestrators.iter().map(|orchestrator| orchestrator.uri()).collect(),
        signer: pays.then(|| Arc::new(Key(key)) as Arc<dyn TicketSigner>),
        chain: None,
        limits: OfferLimits { max_segment_value: Wei::from(100_000_000_000_000), ..OfferLimits::default() },
        verify: true,
        webhook: None,
        decoder: None,
    }))
}

fn paid() -> Option<SigningKey> {
    Some(SigningKey::from_bytes(&[2; 32]).unwrap())
}

fn clip(segments: usize) -> Vec<Segment> {
    let bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/media/bbb-720p.ts")).unwrap();
    Looper::new(&bytes, 2000).unwrap().unwrap().take(segments).collect()
}

fn feed(segments: usize) -> impl Stream<Item = Result<Fed, IngestError>> + Send {
    stream::iter(clip(segments).into_iter().map(|segment| Ok(Fed::from(segment))))
}

fn options(dir: &Path, pace: Pace) -> PushOptions {
    let input = mpegts::VideoCodec::H264;
    PushOptions { profiles: vec![preset("240p").unwrap()], input, dir: dir.to_owned(), pace, window: None }
}

async fn push(gateway: Arc<Gateway>, segments: usize, dir: &Path) -> Result<PushReport, PushError> {
    gateway::push(gateway, feed(segments), &options(dir, Pace::Max), std::future::pending(), &mut |_| {}).await
}

fn acts(acts: &[Act]) -> Arc<Script> {
    let script = Script::default();
    script.acts.lock().unwrap().extend(acts);
    Arc::new(script)
}

#[tokio::test]
async fn a_segment_that_one_orchestrator_loses_comes_from_another() {
    let script = acts(&[Act::Fail("OrchestratorBusy")]);
    let (one, other) = (Orchestrator::start(&script, None).await, Orchestrator::start(&script, None).await);
    let dir = tempfile::tempdir().unwrap();
    let report = push(gateway(&[&one, &other], false), 1, dir.path()).await.unwrap();
    assert_eq!((report.segments, report.failed, report.retries, report.renditions), (1, 0, 1, 1));
    let uploads = script.uploads.lock().unwrap().clone();
    assert_eq!(uploads.len(), 2);
    assert_ne!(uploads[0], uploads[1], "the one that failed is left alone");
    assert!(std::fs::read_to_string(dir.path().join("out/240p.m3u8")).unwrap().contains("240p/00000.ts"));
}

#[tokio::test]
async fn every_lie_costs_the_liar_its_session_and_leaves_no_file() {
    for lie in [Act::Overcharge, Act::Empty, Act::TwoForOne, Act::Forge, Act::Lose, Act::Refuse(500, "oops")] {
        let script = acts(&[lie, lie, lie]);
        let liar = Orchestrator::start(&script, paid()).await;
        let dir = tempfile::tempdir().unwrap();
        let report = push(gateway(&[&liar], true), 1, dir.path()).await.unwrap();
        assert_eq!((report.failed, report.each[0].attempts), (1, 3), "{lie:?}");
        let error = report.each[0].error.as_ref().unwrap();
        let says = match lie {
            Act::Overcharge => "pixels",
            Act::Empty => "is empty",
            Act::TwoForOne => "one usable rendition per profile",
            Act::Forge => "is not signed by",
            Act::Lose => "status 404",
            _ => "oops (status 500",
        };
        assert!(error.contains(says), "{lie:?}: {error}");
        assert!(!dir.path().join("out/240p/00000.ts").exists(), "{lie:?}");
        assert_eq!(script.uploads.lock().unwrap().len(), 3, "{lie:?}");
    }
}

#[tokio::test]
async fn the_streams_own_fault_is_not_tried_again_and_blames_nobody() {
    let script = acts(&[Act::Fail("No keyframes in input")]);
    let orchestrator = Orchestrator::start(&script, None).await;
    let dir = tempfile::tempdir().unwrap();
    let report = push(gateway(&[&orchestrator], false), 3, dir.path()).await.unwrap();
    assert_eq!((report.segments, report.failed, report.retries), (3, 1, 0));
    assert_eq!(report.orchestrators.len(), 1);
    assert_eq!(script.ended.load(Ordering::Relaxed), 1, "one session did it all, and was ended");
    let playlist = std::fs::read_to_string(dir.path().join("out/240p.m3u8")).unwrap();
    assert_eq!(playlist.matches("#EXT-X-DISCONTINUITY").count(), 1);
}

#[tokio::test]
async fn an_orchestrator_that_says_nothing_is_given_up_after_two_seconds() {
    let script = acts(&[Act::Silence]);
    let orchestrator = Orchestrator::start(&script, None).await;
    let dir = tempfile::tempdir().unwrap();
    let begun = std::time::Instant::now();
    let report = push(gateway(&[&orchestrator], false), 1, dir.path()).await.unwrap();
    assert_eq!((report.failed, report.retries), (0, 1));
    assert!(begun.elapsed() >= std::time::Duration::from_secs(2));
}

#[tokio::test]
async fn tickets_cover_the_segments_and_no_nonce_is_used_twice() {
    let script = acts(&[Act::Return, Act::Fail("OrchestratorBusy"), Act::Return]);
    let orchestrator = Orchestrator::start(&script, paid()).await;
    let dir = tempfile::tempdir().unwrap();
    let report = push(gateway(&[&orchestrator], true), 4, dir.path()).await.unwrap();
    assert_eq!(report.failed, 0);
    let tickets = script.tickets.lock().unwrap().clone();
    assert_eq!(report.tickets_sent, tickets.len() as u64, "those of the lost attempt are spent too");
    let distinct: BTreeSet<_> = tickets.iter().cloned().collect();
    assert_eq!(distinct.len(), tickets.len());
    for (offer, _) in &tickets {
        let nonces: BTreeSet<u32> =
            tickets.iter().filter(|(other, _)| other == offer).map(|(_, nonce)| *nonce).collect();
        let count = u32::try_from(nonces.len()).unwrap();
        assert_eq!(nonces, (1..=count).collect(), "nonces begin at one and leave no gap");
    }
    // Four segments of 1280x720x60 at 20000 wei: what was paid covers what was delivered.
    let owed = Wei::from(4 * 1280 * 720 * 60 * 20_000);
    assert!(Wei::from_dec_str(&report.ev_sent_wei).unwrap() >= owed, "{report:#?}");
}

#[tokio::test]
async fn a_price_that_more_than_doubles_ends_the_session() {
    let script = acts(&[Act::RaisePrice]);
    let orchestrator = Orchestrator::start(&script, paid()).await;
    let dir = tempfile::tempdir().unwrap();
    let gateway = gateway(&[&orchestrator], true);
    // In real time the second segment is sent when the first is back.
    let options = options(dir.path(), Pace::RealTime);
    let report = gateway::push(gateway, feed(2), &options, std::future::pending(), &mut |_| {}).await.unwrap();
    assert_eq!((report.failed, report.retries), (0, 1), "{:?}", report.each);
    assert_eq!(script.uploads.lock().unwrap().len(), 2, "nothing is sent at the new price");
}

#[tokio::test]
async fn a_session_about_to_end_is_renewed_before_the_next_segment() {
    let script = acts(&[]);
    script.lives.lock().unwrap().push_back(100);
    let orchestrator = Orchestrator::start(&script, None).await;
    let dir = tempfile::tempdir().unwrap();
    let report = push(gateway(&[&orchestrator], false), 2, dir.path()).await.unwrap();
    assert_eq!((report.failed, report.retries), (0, 0));
    // Discovery, one renewal for both segments, and an offer with each result.
    assert_eq!(script.offers.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn where_nobody_answers_everybody_is_named_and_nothing_is_written() {
    let closed = |port: u16| format!("http://127.0.0.1:{port}").parse().unwrap();
    let gateway = Arc::new(Gateway::new(GatewayConfig {
        orchestrators: vec![closed(1), closed(2)],
        signer: None,
        chain: None,
        limits: OfferLimits::default(),
        verify: true,
        webhook: None,
        decoder: None,
    }));
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("push");
    let error = push(gateway, 1, &out).await.unwrap_err().to_string();
    assert!(error.contains("127.0.0.1:1/ no connection") && error.contains("127.0.0.1:2/ no connection"), "{error}");
    assert!(!out.exists());
}

#[tokio::test]
async fn a_dead_orchestrator_ends_the_push_after_five_lost_segments() {
    let script = acts(&[Act::Refuse(503, "OrchestratorCapped"); 60]);
    let orchestrator = Orchestrator::start(&script, None).await;
    let dir = tempfile::tempdir().unwrap();
    let error = push(gateway(&[&orchestrator], false), 20, dir.path()).await.unwrap_err();
    assert!(matches!(&error, PushError::Hopeless { last } if last.contains("OrchestratorCapped")), "{error}");
}

#[tokio::test]
async fn who_pays_is_not_served_by_who_takes_no_payment() {
    let script = acts(&[]);
    let orchestrator = Orchestrator::start(&script, None).await;
    let dir = tempfile::tempdir().unwrap();
    let error = push(gateway(&[&orchestrator], true), 1, dir.path()).await.unwrap_err().to_string();
    assert!(error.contains("runs off-chain"), "{error}");
}

/// Finds the pixels that were reported, or one more.
#[derive(Debug)]
struct Counts {
    more: u64,
}

impl Decoder for Counts {
    fn decode(&self, media: Bytes) -> Decoding<'_> {
        Box::pin(async move {
            let seen = gateway::inspect(&media).ok_or_else(|| DecodeError::Media("no video".to_owned()))?;
            let pixels = Pixels(seen.pixels().0 + self.more);
            Ok(Decoded { frames: seen.frames, pixels, signature: None })
        })
    }
}

async fn verified(more: u64, orchestrators: &[&Orchestrator]) -> PushReport {
    let gateway = Arc::new(Gateway::new(GatewayConfig {
        orchestrators: orchestrators.iter().map(|orchestrator| orchestrator.uri()).collect(),
        webhook: None,
        signer: None,
        chain: None,
        limits: OfferLimits::default(),
        verify: true,
        decoder: Some(Arc::new(Counts { more })),
    }));
    let dir = tempfile::tempdir().unwrap();
    push(gateway, 1, dir.path()).await.unwrap()
}

#[tokio::test]
async fn what_does_not_decode_to_what_was_claimed_is_reported_as_a_false_claim() {
    let script = acts(&[]);
    let honest = Orchestrator::start(&script, None).await;
    let report = verified(0, &[&honest]).await;
    assert_eq!((report.failed, report.verified, report.false_claims), (0, 1, 0), "{:?}", report.each);
    let report = verified(1, &[&honest]).await;
    assert_eq!((report.failed, report.verified, report.false_claims), (1, 0, 3));
    let claim = &report.each[0].false_claims[0];
    assert!(claim.claim.contains("were reported"), "{claim:?}");
}

#[tokio::test]
async fn told_to_stop_it_waits_for_what_is_on_its_way_and_ends_the_ladder() {
    let script = acts(&[]);
    let orchestrator = Orchestrator::start(&script, None).await;
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path(), Pace::Max);
    // A source without an end: only the stop ends this.
    let segments = stream::iter(clip(3).into_iter().cycle().map(|segment| Ok(Fed::from(segment))));
    let stop = Arc::new(tokio::sync::Notify::new());
    let told = Arc::clone(&stop);
    let mut progress = |segment: &gateway::SegmentReport| {
        if segment.seq == 2 {
            stop.notify_one();
        }
    };
    let gateway = gateway(&[&orchestrator], false);
    let report = gateway::push(gateway, segments, &options, told.notified(), &mut progress).await.unwrap();
    assert!((3..=5).contains(&report.segments) && report.failed == 0, "{}", report.segments);
    let playlist = std::fs::read_to_string(dir.path().join("out/240p.m3u8")).unwrap();
    assert_eq!(u64::try_from(playlist.matches("#EXTINF").count()).unwrap(), report.segments);
    assert!(playlist.ends_with("#EXT-X-ENDLIST\n"));
}

#[tokio::test]
async fn a_source_that_fails_leaves_a_finished_ladder_of_what_it_gave() {
    let script = acts(&[]);
    let orchestrator = Orchestrator::start(&script, None).await;
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path(), Pace::Max);
    let failure = Err(IngestError::Live(mpegts::live::LiveError::NoKeyframe));
    let segments = stream::iter(clip(1).into_iter().map(|segment| Ok(Fed::from(segment))).chain([failure]));
    let gateway = gateway(&[&orchestrator], false);
    let error = gateway::push(gateway, segments, &options, std::future::pending(), &mut |_| {}).await.unwrap_err();
    assert!(matches!(error, PushError::Source(IngestError::Live(_))), "{error}");
    let playlist = std::fs::read_to_string(dir.path().join("out/240p.m3u8")).unwrap();
    assert!(playlist.contains("240p/00000.ts") && playlist.ends_with("#EXT-X-ENDLIST\n"), "{playlist}");
}
