use std::sync::atomic::{AtomicUsize, Ordering};

use livepeer::profile::preset;
use livepeer::units::Pixels;
use sandbox::memfd::Sealed;
use sandbox::message::{JobError, Rendition};
use tokio::sync::oneshot;

use super::register::{Attached, Refusal};
use super::results::Report;
use super::verify::Part;
use super::*;
use crate::pool::{Capacity, Origin, Output, TranscodeError, TranscodeRequest, Transcoded, Transcoder};

const SECRET: &str = "a secret nobody guesses";
const TS: &[u8] = include_bytes!("testdata/320x240.ts");
const PIXELS: u64 = 320 * 240 * 10;
const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// Our own pool, which counts what it is asked.
#[derive(Debug, Clone, Default)]
struct Own {
    asked: Arc<AtomicUsize>,
    error: Option<TranscodeError>,
}

impl Transcoder for Own {
    async fn transcode(&self, _session: &str, _request: TranscodeRequest) -> Result<Transcoded, TranscodeError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if let Some(error) = &self.error {
            return Err(error.clone());
        }
        let rendition = Rendition { width: 320, height: 240, frames: 10, pixels: Pixels(PIXELS), bytes: 4 };
        Ok(Transcoded {
            renditions: vec![Output { rendition, media: Bytes::from_static(b"ours"), signature: None }],
            decoded_frames: 10,
            decoded_pixels: Pixels(PIXELS),
            duration: Duration::from_secs(1),
            took: Duration::from_millis(1),
            cpu: Duration::from_millis(1),
        })
    }

    fn end_session(&self, _session: &str) {}

    fn capacity(&self) -> Capacity {
        Capacity { total: 3, busy: 0 }
    }
}

struct Stage {
    remotes: Arc<Remotes>,
    own: Own,
    all: Workforce<Own>,
}

fn stage(own: Own) -> Stage {
    let uri = "https://127.0.0.1:8935".parse().unwrap();
    let remotes = Remotes::new(&RemoteConfig::default(), Some(&Secret::new(SECRET.into())), &uri);
    let can = || [0_u32, 1].into_iter().collect();
    let all = Workforce::new(own.clone(), can, Arc::clone(&remotes));
    Stage { remotes, own, all }
}

fn registration(capacity: i64) -> net::RegisterRequest {
    net::RegisterRequest { secret: SECRET.into(), capacity, capabilities: None }
}

impl Stage {
    fn attach(&self, capacity: i64) -> Attached {
        self.remotes.attach(&registration(capacity), PEER).unwrap()
    }

    async fn segment(&self, session: &str) -> Result<Transcoded, TranscodeError> {
        self.all.transcode(session, request()).await
    }

    /// Takes the task of a notice, as the handler of results does.
    fn claim(&self, notice: &net::NotifySegment) -> Option<oneshot::Sender<Report>> {
        self.remotes.lock().tasks.remove(&notice.task_id).map(|task| task.reply)
    }

    fn asked(&self) -> usize {
        self.own.asked.load(Ordering::Relaxed)
    }
}

fn request() -> TranscodeRequest {
    let mut profile = preset("240p").unwrap();
    (profile.width, profile.height) = (320, 240);
    TranscodeRequest {
        segment: Sealed::from_bytes(b"some media").unwrap(),
        profiles: vec![profile],
        clip: None,
        deadline: Duration::from_secs(7),
        max_duration_ms: 300_000,
        max_output_bytes: 1 << 20,
        service_provider: String::new(),
        origin: Origin {
            manifest_id: b"stream".to_vec(),
            seq: 7,
            duration: Duration::from_secs(2),
            needs: [0_u32, 5, 12].into_iter().collect(),
            orchestrator: "offchain".into(),
            ..Origin::default()
        },
        signatures: false,
    }
}

fn honest(pixels: u64) -> Report {
    let parts = vec![Part { media: Bytes::from_static(TS), pixels, signature: None }];
    Report::Done { parts, decoded: 1, memory: None }
}

fn is_ours(done: &Transcoded) -> bool {
    &done.renditions[0].media[..] == b"ours"
}

#[tokio::test(start_paused = true)]
async fn a_segment_goes_to_an_attached_transcoder_with_all_it_needs_to_know() {
    let stage = stage(Own::default());
    let mut there = stage.attach(2);
    let (done, ()) = tokio::join!(stage.segment("s1"), async {
        let notice = there.notices.recv().await.unwrap();
        let path = notice.url.strip_prefix("https://127.0.0.1:8935").unwrap();
        assert_eq!(stage.remotes.input(path).unwrap(), &b"some media"[..]);
        assert!(notice.task_id > 0 && path.len() > "/stream/s1/7-.tempfile".len() + 30, "{path}");
        let data = notice.seg_data.as_ref().unwrap();
        let meta = livepeer::wire::segment_from_wire(data).unwrap();
        assert_eq!((meta.seq, meta.duration_ms, &meta.manifest_id[..]), (7, 2000, &b"stream"[..]));
        assert_eq!(meta.profiles.len(), 1);
        assert_eq!(meta.needs.iter().collect::<Vec<_>>(), [0], "storage and tokens are not the transcoder's business");
        let token = meta.auth_token.unwrap();
        assert_eq!((token.session_id.as_str(), token.token.len()), ("s1", 0), "the token itself stays here");
        assert_eq!((notice.orch_id.as_str(), &data.hash[..]), ("offchain", &[0; 32][..]));
        stage.claim(&notice).unwrap().send(honest(PIXELS)).unwrap();
    });
    let done = done.unwrap();
    assert_eq!((done.encoded_pixels(), &done.renditions[0].media[..]), (Pixels(PIXELS), TS));
    assert_eq!(stage.asked(), 0);
    assert!(stage.remotes.lock().inputs.is_empty(), "a segment lies ready no longer than it must");
}

#[tokio::test(start_paused = true)]
async fn whoever_attaches_knows_the_secret_and_takes_something() {
    let stage = stage(Own::default());
    let refused = |secret: &str, capacity| {
        let request = net::RegisterRequest { secret: secret.into(), capacity, capabilities: None };
        stage.remotes.attach(&request, PEER).unwrap_err()
    };
    assert_eq!(refused("", 1), Refusal::Secret);
    assert_eq!(refused("a secret nobody guesse", 1), Refusal::Secret);
    assert_eq!(refused(SECRET, 0), Refusal::ZeroCapacity);
    assert_eq!(refused(SECRET, -5), Refusal::ZeroCapacity);
    assert_eq!(Remotes::none().attach(&registration(1), PEER).unwrap_err(), Refusal::Disabled);
    let _keep: Vec<_> = (0..100).map(|_| stage.attach(1)).collect();
    assert_eq!(refused(SECRET, 1), Refusal::Full);
    stage.remotes.close();
    assert_eq!(refused(SECRET, 1), Refusal::Stopping);
}

#[tokio::test(start_paused = true)]
async fn capacity_is_what_is_here_and_what_is_attached() {
    let stage = stage(Own::default());
    assert_eq!(stage.all.capacity().total, 3);
    let (one, two) = (stage.attach(5), stage.attach(7));
    assert_eq!(stage.all.capacity().total, 15);
    drop(one);
    assert_eq!(stage.all.capacity().total, 10);
    drop(two);
    assert_eq!(stage.all.capacity().total, 3);
    assert!(is_ours(&stage.segment("s").await.unwrap()));
}

#[tokio::test(start_paused = true)]
async fn a_transcoder_that_goes_away_costs_no_segment() {
    let stage = stage(Own::default());
    let mut there = stage.attach(2);
    let (done, ()) = tokio::join!(stage.segment("s"), async {
        there.notices.recv().await.unwrap();
        drop(there);
    });
    let done = done.unwrap();
    assert!(is_ours(&done) && done.took < Duration::from_millis(10), "nobody waits for a dead box");
}

#[tokio::test(start_paused = true)]
async fn after_half_the_time_another_is_asked_and_the_first_right_result_counts() {
    for first_wins in [true, false] {
        let stage = stage(Own::default());
        let (mut slow, mut quick) = (stage.attach(9), stage.attach(1));
        let (done, loser) = tokio::join!(stage.segment("s"), async {
            let first = slow.notices.recv().await.unwrap();
            let second = quick.notices.recv().await.unwrap();
            let (winner, loser) = if first_wins { (first, second) } else { (second, first) };
            stage.claim(&winner).unwrap().send(honest(PIXELS)).unwrap();
            loser
        });
        let took = done.unwrap().took;
        assert!(took >= Duration::from_millis(3500) && took < Duration::from_millis(3600), "{took:?}");
        assert!(stage.claim(&loser).is_none(), "a late result finds nothing");
        let (left, has) = if first_wins { (&mut quick, &mut slow) } else { (&mut slow, &mut quick) };
        let teardown = left.notices.recv().await.unwrap();
        let session = teardown.seg_data.unwrap().auth_token.unwrap().session_id;
        assert_eq!((teardown.url.as_str(), session.as_str()), ("", "s"));
        let failed: Vec<_> = stage.remotes.status().iter().map(|row| row.segments_failed).collect();
        assert_eq!(failed, if first_wins { [0, 0] } else { [1, 0] }, "who was asked late is not to blame");
        // The session stays with who had it right.
        let (done, ()) = tokio::join!(stage.segment("s"), async {
            let notice = has.notices.recv().await.unwrap();
            stage.claim(&notice).unwrap().send(honest(PIXELS)).unwrap();
        });
        assert!(!is_ours(&done.unwrap()));
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_on_one_segment_ends_no_connection() {
    let stage = stage(Own::default());
    let mut there = stage.attach(2);
    for _ in 0..2 {
        let (done, ()) = tokio::join!(stage.segment("s"), async {
            let notice = there.notices.recv().await.unwrap();
            stage.claim(&notice).unwrap().send(Report::Said("CUDA error".into())).unwrap();
            assert_eq!(there.notices.recv().await.unwrap().url, "", "the session is over there");
        });
        assert!(is_ours(&done.unwrap()));
        stage.all.end_session("s");
    }
    let status = stage.remotes.status();
    assert_eq!((status[0].standing.as_str(), status[0].segments_failed), ("benched", 2));
    assert!(is_ours(&stage.segment("t").await.unwrap()), "a benched transcoder is asked nothing");
    tokio::time::advance(Duration::from_secs(30)).await;
    let (done, ()) = tokio::join!(stage.segment("u"), async {
        let notice = there.notices.recv().await.unwrap();
        stage.claim(&notice).unwrap().send(honest(PIXELS)).unwrap();
    });
    assert!(!is_ours(&done.unwrap()));
    assert_eq!(stage.remotes.status()[0].standing, "fit");
}

#[tokio::test(start_paused = true)]
async fn pixels_that_were_made_up_are_not_billed() {
    let stage = stage(Own::default());
    let mut there = stage.attach(2);
    let (done, ()) = tokio::join!(stage.segment("s"), async {
        let notice = there.notices.recv().await.unwrap();
        stage.claim(&notice).unwrap().send(honest(PIXELS * 100)).unwrap();
    });
    let done = done.unwrap();
    assert!(is_ours(&done) && done.encoded_pixels() == Pixels(PIXELS));
    assert_eq!(stage.remotes.status()[0].segments_failed, 1);
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_blamed_only_when_two_say_so() {
    let blame = || Report::Said(JobError::NoKeyframes.to_string());
    // Our own pool can do it: the transcoder was wrong, and pays for it.
    let first = stage(Own::default());
    let mut there = first.attach(2);
    let (done, ()) = tokio::join!(first.segment("s"), async {
        let notice = there.notices.recv().await.unwrap();
        first.claim(&notice).unwrap().send(blame()).unwrap();
    });
    assert!(is_ours(&done.unwrap()));
    assert_eq!(first.remotes.status()[0].segments_failed, 1);
    // Our own pool says so too: nobody pays.
    let second = stage(Own { error: Some(JobError::NoKeyframes.into()), ..Own::default() });
    let mut there = second.attach(2);
    let (done, ()) = tokio::join!(second.segment("s"), async {
        let notice = there.notices.recv().await.unwrap();
        second.claim(&notice).unwrap().send(blame()).unwrap();
    });
    assert_eq!(done.unwrap_err(), JobError::NoKeyframes.into());
    assert_eq!(second.remotes.status()[0].segments_failed, 0);
}

#[tokio::test(start_paused = true)]
async fn when_nobody_is_left_the_last_failure_is_told() {
    let stage = stage(Own { error: Some(TranscodeError::Busy), ..Own::default() });
    assert_eq!(stage.segment("s").await.unwrap_err(), TranscodeError::Busy);
    let mut there = stage.attach(1);
    let mut needs_more = request();
    needs_more.origin.needs = [20_u32].into_iter().collect();
    let nobody = stage.all.transcode("s", needs_more).await.unwrap_err();
    assert_eq!(nobody.to_string(), "no transcoders can provide requested capabilities");
    let (done, _) = tokio::join!(stage.segment("s"), there.notices.recv());
    assert!(matches!(done, Err(TranscodeError::Busy | TranscodeError::Timeout)));
    assert!(stage.remotes.lock().tasks.is_empty() && stage.remotes.lock().inputs.is_empty());
}

#[tokio::test(start_paused = true)]
async fn stopping_brings_segments_home() {
    let stage = stage(Own::default());
    let mut there = stage.attach(2);
    let (done, ()) = tokio::join!(stage.segment("s"), async {
        there.notices.recv().await.unwrap();
        stage.remotes.close();
        assert!(there.notices.recv().await.is_none(), "the connection ends");
    });
    assert!(is_ours(&done.unwrap()));
}
