use super::*;
use crate::demux::demux;
use crate::segment::cut;

/// Ten seconds at 25 fps with a key frame each second, packets of sound every 20 ms; the clock wraps within.
fn clip() -> Vec<u8> {
    let key = [0, 0, 0, 1, 0x67, 1, 2, 0, 0, 0, 1, 0x68, 3, 0, 0, 0, 1, 0x65, 0x88, 0x80];
    let other = [0, 0, 0, 1, 0x41, 0x9a, 0x80];
    let start = (1i64 << 33) - 90_000;
    let units: Vec<_> = (0..250i64)
        .map(|n| {
            let at = Ticks(start + n * 3600);
            VideoUnit { pts: at, dts: at, keyframe: n % 25 == 0, data: if n % 25 == 0 { &key } else { &other } }
        })
        .collect();
    let packets = (0..500i64)
        .map(|n| AudioPacket { pts: Some(Ticks(start + n * 1800)), data: vec![u8::try_from(n % 251).unwrap(); 30] });
    let info = AudioInfo { stream_type: 0x0f, stream_id: 0xc0, descriptors: vec![] };
    mux(VideoCodec::H264, &units, Some(&AudioTrack { info, packets: packets.collect() }), "")
}

fn live(bytes: &[u8], piece: usize) -> Vec<Segment> {
    let mut cutter = TsCutter::new(2000);
    let mut segments: Vec<Segment> = bytes.chunks(piece).flat_map(|piece| cutter.push(piece).unwrap()).collect();
    segments.extend(cutter.finish().unwrap());
    segments
}

#[test]
fn a_live_stream_is_cut_as_the_same_file_would_be_whatever_the_pieces() {
    let clip = clip();
    let whole = cut(&clip, 2000).unwrap();
    for piece in [1, 187, 188, 1316, clip.len()] {
        let segments = live(&clip, piece);
        assert_eq!(segments.len(), 5);
        for (live, file) in segments.iter().zip(&whole) {
            assert_eq!(
                (live.first_pts, live.duration_ms, live.frames),
                (file.first_pts, file.duration_ms, file.frames)
            );
            let (live, file) = (demux(&live.bytes).unwrap(), demux(&file.bytes).unwrap());
            assert_eq!(live.video, file.video);
        }
        let sound = |segments: &[Segment]| -> Vec<AudioPacket> {
            segments.iter().flat_map(|s| demux(&s.bytes).unwrap().audio.unwrap().packets).collect()
        };
        let (heard, all) = (sound(&segments), sound(&whole));
        assert_eq!(heard.len(), all.len());
        assert!(heard.iter().zip(&all).all(|(a, b)| a.data == b.data), "every packet, once, in order");
    }
}

#[test]
fn garbage_between_packets_costs_no_more_than_what_it_hits() {
    let clip = clip();
    let (head, tail) = clip.split_at(188 * 200);
    let dirty = [head, &[0x47; 100], &[1; 77], tail].concat();
    let frames: usize = live(&dirty, 1000).iter().map(|segment| segment.frames).sum();
    assert!((245..=250).contains(&frames), "{frames}");
    assert!(live(&[0x47; 100_000], 4096).is_empty());
}

#[test]
fn a_stream_without_key_frames_ends_with_a_word_about_it() {
    let mut cutter = Cutter::new(2000);
    let unit = |n: i64, keyframe| AccessUnit { pts: Some(Ticks(n * 90_000)), dts: None, keyframe, data: vec![0; 10] };
    assert_eq!(cutter.video(VideoCodec::H264, unit(0, false)), Ok(None), "nothing begins before a key frame");
    assert_eq!(cutter.video(VideoCodec::H264, unit(1, true)), Ok(None));
    let rest: Result<Vec<_>, _> = (2..=61).map(|n| cutter.video(VideoCodec::H264, unit(n, false))).collect();
    assert!(rest.is_ok());
    assert_eq!(cutter.video(VideoCodec::H264, unit(62, false)), Err(LiveError::NoKeyframe));
}

#[test]
fn a_jump_in_time_does_not_make_an_endless_segment() {
    let mut cutter = Cutter::new(2000);
    let unit = |at: i64| AccessUnit { pts: Some(Ticks(at)), dts: None, keyframe: true, data: vec![0; 10] };
    assert_eq!(cutter.video(VideoCodec::H264, unit(0)), Ok(None));
    assert_eq!(cutter.video(VideoCodec::H264, unit(90_000)), Ok(None));
    let before = cutter.video(VideoCodec::H264, unit(90_000_000)).unwrap().unwrap();
    assert_eq!((before.frames, before.duration_ms), (2, 2000));
    let after = cutter.video(VideoCodec::H264, unit(0)).unwrap().unwrap();
    assert_eq!(after.frames, 1);
}
