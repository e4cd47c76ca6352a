use super::*;
use crate::decoder::Decoding;
use mpegts::{AudioInfo, AudioPacket, Ticks, VideoCodec, VideoUnit, mux};
use video_signature::{Signer, TimeBase};

/// Takes the first byte of a picture for what it shows, and the second for how many frames there are.
#[derive(Debug)]
struct Pretend;

impl Decoder for Pretend {
    fn decode(&self, media: Bytes) -> Decoding<'_> {
        Box::pin(async move {
            let video = demux(&media).ok().and_then(|d| d.video).ok_or(DecodeError::Media("no video".into()))?;
            let unit = video.units.first().ok_or(DecodeError::Media("no picture".into()))?;
            let (&[.., shows, frames], size) = (unit.data.last_chunk::<2>().unwrap(), 64usize);
            let mut signer = Signer::new(64, 64, TimeBase::MPEG).unwrap();
            for frame in 0..usize::from(frames) {
                let luma: Vec<u8> = (0..size * size)
                    .map(|at| {
                        u8::try_from((at / 2 * usize::from(shows) * 7 + at / size * 13 + frame * 31) % 251).unwrap()
                    })
                    .collect();
                signer.push(i64::try_from(frame).unwrap(), &luma, size).unwrap();
            }
            let (frames, signature) = (u64::from(frames), Some(signer.finish().into()));
            Ok(Decoded { frames, pixels: Pixels(frames * 64 * 64), signature })
        })
    }
}

fn stream(shows: u8, frames: u8, sound: std::ops::Range<u8>) -> Bytes {
    let key = [0, 0, 0, 1, 0x67, 1, 2, 0, 0, 0, 1, 0x68, 3, 0, 0, 0, 1, 0x65, 0x88, shows, frames];
    let units = [VideoUnit { pts: Ticks(0), dts: Ticks(0), keyframe: true, data: &key }];
    let packet = |n: u8| AudioPacket {
        pts: Some(Ticks(i64::from(n) * 1920)),
        data: vec![0xff, 0xf1, 0x4c, 0x80, 1, 0x1f, 0xfc, n],
    };
    let info = AudioInfo { stream_type: AAC, stream_id: 0xc0, descriptors: vec![] };
    let track = AudioTrack { info, packets: sound.map(packet).collect() };
    mux(VideoCodec::H264, &units, Some(&track), "").into()
}

async fn hold(rendition: Bytes, pixels: u64, hash: Option<Bytes>) -> Result<(), VerifyError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.ts");
    std::fs::write(&path, &rendition).unwrap();
    let claim = Claim { profile: "720p".into(), path, pixels: Pixels(pixels), hash };
    verify(&Pretend, &stream(1, 30, 0..90), vec![claim]).await
}

const HONEST: u64 = 30 * 64 * 64;

#[tokio::test]
async fn an_honest_rendition_passes_with_and_without_its_hash() {
    hold(stream(1, 30, 0..90), HONEST, None).await.unwrap();
    let hash = Pretend.decode(stream(1, 30, 0..0)).await.unwrap().signature;
    hold(stream(1, 30, 0..90), HONEST, hash).await.unwrap();
}

#[tokio::test]
async fn each_false_claim_is_caught_by_its_name() {
    let caught = |result: Result<(), VerifyError>| {
        let error = result.unwrap_err();
        assert!(error.is_a_false_claim(), "{error}");
        error
    };
    let more = caught(hold(stream(1, 30, 0..90), HONEST + 1, None).await);
    assert!(matches!(more, VerifyError::Pixels { .. }));
    let other = caught(hold(stream(9, 30, 0..90), HONEST, None).await);
    assert!(matches!(other, VerifyError::Pictures { .. }), "{other}");
    let silent = caught(hold(stream(1, 30, 0..0), HONEST, None).await);
    assert!(matches!(silent, VerifyError::Sound { unlike: 0, frames: 0, .. }));
    let dubbed = caught(hold(stream(1, 30, 100..190), HONEST, None).await);
    assert!(matches!(dubbed, VerifyError::Sound { unlike: 90, .. }));
    let foreign = Pretend.decode(stream(9, 30, 0..0)).await.unwrap().signature;
    assert!(matches!(caught(hold(stream(1, 30, 0..90), HONEST, foreign).await), VerifyError::Hash { .. }));
    let none = Some(Bytes::from_static(b"not a signature"));
    assert!(matches!(caught(hold(stream(1, 30, 0..90), HONEST, none).await), VerifyError::Hash { .. }));
    let broken = caught(hold(Bytes::from_static(b"nothing"), HONEST, None).await);
    assert!(matches!(broken, VerifyError::Rendition { .. }));
}

#[tokio::test]
async fn a_frame_of_sound_lost_at_the_edge_is_no_lie() {
    hold(stream(1, 30, 1..90), HONEST, None).await.unwrap();
}
