//! Is this report possible? A worker is not trusted about anything, least of all about pixels.
//!
//! Walk 1, step 9. Pure: the job, the report and the number of descriptors go in, a verdict comes out. What
//! cannot be known without decoding again (that the pixels are the right ones) is the gateway's to sample;
//! what a lie could cost us or our credit is bounded here.
use livepeer::profile::Profile;

use crate::message::{Done, Job, Rendition, Report};

/// Longest text for our log.
pub const MAX_DETAIL: usize = 4096;
/// Encoded frames per decoded one, beyond which a report is no longer believed.
///
/// *Source:* livepeer-wire §1.5, "Encoded frames runaway".
const MAX_FRAMES_PER_DECODED: u64 = 25;
/// No stream has more frames per millisecond than this.
const MAX_FRAMES_PER_MS: u64 = 1;
/// Frames of slack for streams shorter than their timestamps tell.
const FRAMES_SLACK: u64 = 1000;
/// No container holds a frame in less.
const MIN_BYTES_PER_FRAME: u64 = 8;
/// Largest side of a decoded frame.
const MAX_SOURCE_SIDE: u64 = 16_384;

/// What is wrong with a report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lie {
    /// An answer to a question nobody asked.
    #[error("report {got} for job {wanted}")]
    OtherJob {
        /// Id in the report.
        got: u64,
        /// Id of the job.
        wanted: u64,
    },
    /// A message that does not belong here.
    #[error("a message out of turn")]
    OutOfTurn,
    /// Renditions, descriptors and profiles do not agree in number.
    #[error("{renditions} renditions in {descriptors} descriptors for {profiles} profiles")]
    Count {
        /// Renditions reported.
        renditions: usize,
        /// Descriptors that came along.
        descriptors: usize,
        /// Profiles asked for.
        profiles: usize,
    },
    /// A frame size nobody asked for.
    #[error("rendition {index} is {width}x{height}")]
    Size {
        /// Which rendition.
        index: usize,
        /// Width claimed.
        width: u32,
        /// Height claimed.
        height: u32,
    },
    /// More or fewer pixels than the frames can have.
    #[error("rendition {index} claims {pixels} pixels in {frames} frames")]
    Pixels {
        /// Which rendition.
        index: usize,
        /// Pixels claimed.
        pixels: u64,
        /// Frames claimed.
        frames: u64,
    },
    /// More frames than were decoded, or than fit the bytes.
    #[error("rendition {index} claims {frames} frames")]
    Frames {
        /// Which rendition.
        index: usize,
        /// Frames claimed.
        frames: u64,
    },
    /// An empty file, or one over the limit.
    #[error("rendition {index} has {bytes} bytes")]
    Bytes {
        /// Which rendition.
        index: usize,
        /// Bytes claimed.
        bytes: u64,
    },
    /// Signatures nobody asked for, or fewer than were.
    #[error("{got} signatures where {wanted} belong")]
    Signatures {
        /// Signatures reported.
        got: usize,
        /// Signatures asked for.
        wanted: usize,
    },
    /// A signature longer than its pictures can make one.
    #[error("signature {index} has {bytes} bytes")]
    Signature {
        /// Which signature.
        index: usize,
        /// Bytes claimed.
        bytes: u64,
    },
    /// Content longer than the job allowed, or more decoded frames than it can hold.
    #[error("{frames} frames and {pixels} pixels decoded in {duration_ms} ms")]
    Source {
        /// Frames claimed.
        frames: u64,
        /// Pixels claimed.
        pixels: u64,
        /// Length claimed.
        duration_ms: u64,
    },
    /// A text longer than [`MAX_DETAIL`].
    #[error("{0} bytes of detail")]
    Detail(usize),
}

/// Checks a report against the job it answers and the number of descriptors beside it.
///
/// # Errors
/// The first [`Lie`] found; the worker that told it is to be ended.
pub fn check_report(job: &Job, report: &Report, descriptors: usize) -> Result<(), Lie> {
    match report {
        Report::Ready(_) | Report::Proof(_) | Report::Unfit { .. } => Err(Lie::OutOfTurn),
        Report::Failed { id, detail, .. } => {
            check_id(job, *id)?;
            if detail.len() > MAX_DETAIL {
                return Err(Lie::Detail(detail.len()));
            }
            if descriptors != 0 {
                return Err(Lie::Count { renditions: 0, descriptors, profiles: job.profiles.len() });
            }
            Ok(())
        }
        Report::Done(done) => {
            check_id(job, done.id)?;
            let (renditions, profiles) = (done.renditions.len(), job.profiles.len());
            let wanted = job.signatures.count(profiles);
            if renditions != profiles || descriptors != profiles.saturating_add(wanted) {
                return Err(Lie::Count { renditions, descriptors, profiles });
            }
            check_source(job, done)?;
            check_signatures(done, wanted)?;
            let pairs = job.profiles.iter().zip(&done.renditions).enumerate();
            pairs
                .into_iter()
                .try_for_each(|(index, (profile, rendition))| check_rendition(job, done, profile, rendition, index))
        }
    }
}

fn check_id(job: &Job, got: u64) -> Result<(), Lie> {
    if got == job.id { Ok(()) } else { Err(Lie::OtherJob { got, wanted: job.id }) }
}

fn check_source(job: &Job, done: &Done) -> Result<(), Lie> {
    let (frames, pixels, duration_ms) = (done.decoded_frames, done.decoded_pixels.0, done.duration_ms);
    let most_frames = duration_ms.saturating_mul(MAX_FRAMES_PER_MS).saturating_add(FRAMES_SLACK);
    let most_pixels = frames.saturating_mul(MAX_SOURCE_SIDE * MAX_SOURCE_SIDE);
    // Only a stream that had pictures may have a segment without.
    let least_frames = if job.video_seen { 0 } else { 1 };
    let possible = duration_ms <= job.limits.max_duration_ms
        && (least_frames..=most_frames).contains(&frames)
        && (frames..=most_pixels).contains(&pixels);
    if possible { Ok(()) } else { Err(Lie::Source { frames, pixels, duration_ms }) }
}

/// A signature has at most so many bytes for each picture: 86 of its own, and a share of its segment's 168.
const MAX_SIGNATURE_PER_FRAME: u64 = 90;
/// And so many besides: the header, and the segment that the first picture begins.
const MAX_SIGNATURE_BESIDES: u64 = 203;

fn check_signatures(done: &Done, wanted: usize) -> Result<(), Lie> {
    if done.signatures.len() != wanted {
        return Err(Lie::Signatures { got: done.signatures.len(), wanted });
    }
    for (index, &bytes) in done.signatures.iter().enumerate() {
        let frames = done.renditions.get(index).map_or(done.decoded_frames, |rendition| rendition.frames);
        if bytes > frames.saturating_mul(MAX_SIGNATURE_PER_FRAME).saturating_add(MAX_SIGNATURE_BESIDES) {
            return Err(Lie::Signature { index, bytes });
        }
    }
    Ok(())
}

fn check_rendition(job: &Job, done: &Done, profile: &Profile, rendition: &Rendition, index: usize) -> Result<(), Lie> {
    let Rendition { width, height, frames, pixels, bytes } = *rendition;
    let ((min_w, min_h), (max_w, max_h)) = profile.codec.size_limits();
    if bytes == 0 || bytes > job.limits.max_output_bytes {
        return Err(Lie::Bytes { index, bytes });
    }
    if done.decoded_frames == 0 && (width, height, frames, pixels.0) == (0, 0, 0, 0) {
        return Ok(());
    }
    if !(min_w..=max_w).contains(&width) || !(min_h..=max_h).contains(&height) {
        return Err(Lie::Size { index, width, height });
    }
    let most_frames = done.decoded_frames.saturating_mul(MAX_FRAMES_PER_DECODED).min(bytes / MIN_BYTES_PER_FRAME);
    if !(1..=most_frames).contains(&frames) {
        return Err(Lie::Frames { index, frames });
    }
    let (width, height) = (u64::from(width), u64::from(height));
    if pixels.0 != width.saturating_mul(height).saturating_mul(frames) {
        // The size may have changed on the way; then only its bounds are known.
        let long = u64::from(profile.width.clamp(min_w, max_w).max(profile.height.clamp(min_h, max_h)));
        let least = frames.saturating_mul(u64::from(min_w) * u64::from(min_h));
        let most = frames.saturating_mul((long * long).max(width * height));
        if !(least..=most).contains(&pixels.0) {
            return Err(Lie::Pixels { index, pixels: pixels.0, frames });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use livepeer::profile::preset;
    use livepeer::units::Pixels;
    use proptest::prelude::*;

    use super::*;
    use crate::message::{JobError, Limits, Signatures, Spent};

    fn job() -> Job {
        let profiles = vec![preset("360p").unwrap(), preset("720p").unwrap()];
        Job {
            id: 7,
            profiles,
            clip: None,
            limits: Limits::default(),
            threads: 1,
            service_provider: "Livepeer Transcoder (test)".into(),
            signatures: Signatures::None,
            video_seen: false,
        }
    }

    fn done() -> Done {
        let rendition = |width: u32, height: u32| Rendition {
            width,
            height,
            frames: 60,
            pixels: Pixels(u64::from(width) * u64::from(height) * 60),
            bytes: 100_000,
        };
        Done {
            id: 7,
            renditions: vec![rendition(640, 360), rendition(1280, 720)],
            decoded_frames: 60,
            decoded_pixels: Pixels(60 * 1920 * 1080),
            duration_ms: 2000,
            took_ms: 300,
            cpu_ms: 500,
            peak_rss: 1 << 28,
            signatures: Vec::new(),
            spent: Spent::default(),
        }
    }

    fn verdict(change: impl FnOnce(&mut Done)) -> Result<(), Lie> {
        let mut done = done();
        change(&mut done);
        check_report(&job(), &Report::Done(done), 2)
    }

    #[test]
    fn an_honest_report_passes() {
        assert_eq!(verdict(|_| {}), Ok(()));
    }

    #[test]
    fn a_report_for_another_job_is_a_lie() {
        assert_eq!(verdict(|done| done.id = 8), Err(Lie::OtherJob { got: 8, wanted: 7 }));
    }

    #[test]
    fn renditions_descriptors_and_profiles_must_agree() {
        assert!(matches!(verdict(|done| done.renditions.truncate(1)), Err(Lie::Count { .. })));
        assert!(matches!(check_report(&job(), &Report::Done(done()), 1), Err(Lie::Count { .. })));
        assert!(matches!(check_report(&job(), &Report::Done(done()), 3), Err(Lie::Count { .. })));
    }

    #[test]
    fn pixels_cannot_be_made_up() {
        assert!(matches!(verdict(|d| d.renditions[0].pixels = Pixels(u64::MAX)), Err(Lie::Pixels { .. })));
        assert!(matches!(verdict(|d| d.renditions[0].pixels = Pixels(0)), Err(Lie::Pixels { .. })));
        assert!(matches!(verdict(|d| d.renditions[0].frames = u64::MAX), Err(Lie::Frames { .. })));
        assert!(matches!(verdict(|d| d.renditions[0].width = 60_000), Err(Lie::Size { .. })));
        assert!(matches!(verdict(|d| d.decoded_frames = u64::MAX), Err(Lie::Source { .. })));
    }

    #[test]
    fn a_size_that_changed_on_the_way_is_believed_within_bounds() {
        let smaller = Pixels(30 * 640 * 360 + 30 * 640 * 480);
        assert_eq!(verdict(|done| done.renditions[0].pixels = smaller), Ok(()));
    }

    #[test]
    fn a_file_is_neither_empty_nor_over_its_limit() {
        assert!(matches!(verdict(|d| d.renditions[1].bytes = 0), Err(Lie::Bytes { index: 1, .. })));
        assert!(matches!(verdict(|d| d.renditions[1].bytes = 400_000_000), Err(Lie::Bytes { index: 1, .. })));
    }

    #[test]
    fn sound_alone_is_believed_only_of_a_stream_that_had_pictures() {
        let mute = |job: &Job| {
            let mut done = done();
            (done.decoded_frames, done.decoded_pixels) = (0, Pixels(0));
            for rendition in &mut done.renditions {
                *rendition = Rendition { width: 0, height: 0, frames: 0, pixels: Pixels(0), bytes: 9000 };
            }
            check_report(job, &Report::Done(done), 2)
        };
        assert_eq!(mute(&Job { video_seen: true, ..job() }), Ok(()));
        assert!(matches!(mute(&job()), Err(Lie::Source { .. })));
        let some = Done { decoded_frames: 0, decoded_pixels: Pixels(0), ..done() };
        let verdict = check_report(&Job { video_seen: true, ..job() }, &Report::Done(some), 2);
        assert!(matches!(verdict, Err(Lie::Frames { .. })), "{verdict:?}");
    }

    #[test]
    fn a_failure_brings_no_descriptors_and_a_short_text() {
        let failed = |detail: String| Report::Failed { id: 7, error: JobError::InvalidVideo, detail };
        assert_eq!(check_report(&job(), &failed("no frame".into()), 0), Ok(()));
        assert!(matches!(check_report(&job(), &failed("no frame".into()), 1), Err(Lie::Count { .. })));
        assert!(matches!(check_report(&job(), &failed("x".repeat(5000)), 0), Err(Lie::Detail(5000))));
    }

    #[test]
    fn signatures_come_as_asked_for_and_no_longer_than_their_pictures_make_them() {
        let asked = Job { signatures: Signatures::Renditions, ..job() };
        let said = |signatures: &[u64]| Report::Done(Done { signatures: signatures.to_vec(), ..done() });
        let verdict = |signatures: &[u64]| check_report(&asked, &said(signatures), 4);
        // Sixty frames make 5538 bytes; a picture too small to be signed has none.
        assert_eq!(verdict(&[5538, 0]), Ok(()));
        assert_eq!(verdict(&[5538]), Err(Lie::Signatures { got: 1, wanted: 2 }));
        assert_eq!(verdict(&[5538, 5700]), Err(Lie::Signature { index: 1, bytes: 5700 }));
        assert_eq!(verdict(&[5538, u64::MAX]), Err(Lie::Signature { index: 1, bytes: u64::MAX }));
        assert!(matches!(check_report(&asked, &said(&[5538, 5538]), 2), Err(Lie::Count { .. })));
        assert!(matches!(check_report(&job(), &said(&[5538, 5538]), 4), Err(Lie::Count { .. })));
        assert_eq!(check_report(&job(), &said(&[5538]), 2), Err(Lie::Signatures { got: 1, wanted: 0 }));
        let source = Job { signatures: Signatures::Source, profiles: Vec::new(), ..job() };
        let alone = |bytes| Report::Done(Done { renditions: Vec::new(), signatures: vec![bytes], ..done() });
        assert_eq!(check_report(&source, &alone(5538), 1), Ok(()));
        assert_eq!(check_report(&source, &alone(5700), 1), Err(Lie::Signature { index: 0, bytes: 5700 }));
    }

    #[test]
    fn greetings_are_no_answers() {
        assert_eq!(check_report(&job(), &Report::Unfit { reason: "no".into() }, 0), Err(Lie::OutOfTurn));
    }

    proptest! {
        #[test]
        fn what_passes_is_bounded_by_the_job_whatever_is_claimed(
            width in any::<u32>(), height in any::<u32>(), frames in any::<u64>(), pixels in any::<u64>(),
            bytes in any::<u64>(), decoded in any::<u64>(), duration_ms in any::<u64>(),
        ) {
            let mut claim = done();
            claim.decoded_frames = decoded;
            claim.duration_ms = duration_ms;
            claim.renditions[0] = Rendition { width, height, frames, pixels: Pixels(pixels), bytes };
            if check_report(&job(), &Report::Done(claim), 2).is_ok() {
                let limits = Limits::default();
                prop_assert!(bytes <= limits.max_output_bytes);
                prop_assert!(frames <= 25 * (limits.max_duration_ms + 1000));
                prop_assert!(pixels <= frames * 4096 * 4096);
            }
        }
    }
}
