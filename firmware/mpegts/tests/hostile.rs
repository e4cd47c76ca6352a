//! Whatever the bytes are, nothing panics and nothing grows out of bounds; what is muxed comes back.
use mpegts::{
    AccessUnit, AudioInfo, AudioPacket, AudioTrack, Ticks, VideoCodec, VideoUnit, demux, h264, h265, mux, nal, segment,
};
use proptest::prelude::*;

/// A picture that the splitter sees as one: a slice that starts at macroblock 0, without start codes inside.
fn picture() -> impl Strategy<Value = (bool, Vec<u8>)> {
    (any::<bool>(), proptest::collection::vec(1u8.., 0..700)).prop_map(|(key, body)| {
        let mut data = vec![0, 0, 0, 1, 9, 0xf0, 0, 0, 0, 1, if key { 0x65 } else { 0x41 }, 0x88];
        data.extend(body);
        (key, data)
    })
}

fn packets_of(input: &[u8], stride: usize, prefix: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for packet in input.chunks(188) {
        out.extend(std::iter::repeat_n(0xaa, prefix));
        out.extend_from_slice(packet);
        out.extend(std::iter::repeat_n(0xbb, stride - prefix - 188));
    }
    out
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..4000)) {
        let _ = demux(&bytes);
        let _ = segment::cut(&bytes, 2000);
        let _ = h264::parse_sps(&bytes);
        let _ = h265::parse_sps(&bytes);
        let _ = nal::access_units(VideoCodec::H264, &bytes);
        let _ = nal::access_units(VideoCodec::H265, &bytes);
    }

    #[test]
    fn bytes_that_look_like_packets_never_panic(
        packets in proptest::collection::vec((any::<[u8; 3]>(), proptest::collection::vec(any::<u8>(), 184)), 0..40)
    ) {
        let bytes: Vec<u8> = packets.iter().flat_map(|(head, body)| [&[0x47], &head[..], body].concat()).collect();
        let _ = demux(&bytes);
    }

    #[test]
    fn a_flipped_byte_never_panics(at in 0usize..6000, to in any::<u8>(), pictures in proptest::collection::vec(picture(), 1..20)) {
        let mut bytes = build(&pictures, 0, &[]);
        if let Some(byte) = bytes.get_mut(at) { *byte = to; }
        let _ = demux(&bytes);
        let _ = segment::Looper::new(&bytes, 500).map(|l| l.map(|l| l.take(3).count()));
    }

    #[test]
    fn what_is_muxed_comes_back(
        pictures in proptest::collection::vec(picture(), 1..30),
        start in 0i64..(1 << 33),
        sound in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..900), 0..30),
        layout in prop_oneof![Just((188usize, 0usize)), Just((192, 4)), Just((204, 0))],
        junk in proptest::collection::vec(any::<u8>().prop_filter("no sync", |b| *b != 0x47), 0..300),
    ) {
        let bytes = build(&pictures, start, &sound);
        let mut wrapped = junk;
        wrapped.extend(packets_of(&bytes, layout.0, layout.1));
        let found = demux(&wrapped).unwrap();
        let units = found.video.unwrap().units;
        let expected: Vec<AccessUnit> = pictures.iter().enumerate().map(|(n, (key, data))| {
            let pts = Ticks(start + i64::try_from(n).unwrap() * 3003);
            AccessUnit { pts: Some(pts), dts: None, keyframe: *key, data: data.clone() }
        }).collect();
        // Whether time before the wrap or after it came first is for the demuxer to say; modulo the wrap they agree.
        prop_assert_eq!(units.len(), expected.len());
        for (unit, want) in units.iter().zip(&expected) {
            prop_assert_eq!(unit.pts.map(Ticks::wrapped), want.pts.map(Ticks::wrapped));
            prop_assert_eq!(&unit.data, &want.data);
            prop_assert_eq!(unit.keyframe, want.keyframe);
        }
        let back: Vec<_> = found.audio.map(|a| a.packets).unwrap_or_default();
        prop_assert_eq!(back.len(), sound.len());
        for (n, (packet, want)) in back.iter().zip(&sound).enumerate() {
            prop_assert_eq!(&packet.data, want);
            let pts = Ticks(start + i64::try_from(n).unwrap() * 1920);
            prop_assert_eq!(packet.pts.map(Ticks::wrapped), Some(pts.wrapped()));
        }
    }
}

#[expect(clippy::unwrap_used, reason = "a test may stop where it is")]
fn build(pictures: &[(bool, Vec<u8>)], start: i64, sound: &[Vec<u8>]) -> Vec<u8> {
    let units: Vec<VideoUnit<'_>> = pictures
        .iter()
        .enumerate()
        .map(|(n, (keyframe, data))| {
            let at = Ticks(start + i64::try_from(n).unwrap() * 3003);
            VideoUnit { pts: at, dts: at, keyframe: *keyframe, data }
        })
        .collect();
    let packets = sound.iter().enumerate().map(|(n, data)| AudioPacket {
        pts: Some(Ticks(start + i64::try_from(n).unwrap() * 1920)),
        data: data.clone(),
    });
    let info = AudioInfo { stream_type: 0x0f, stream_id: 0xc0, descriptors: vec![] };
    let audio = (!sound.is_empty()).then(|| AudioTrack { info, packets: packets.collect() });
    mux(VideoCodec::H264, &units, audio.as_ref(), "someone")
}
