use super::*;
use proptest::prelude::*;

/// All frames of a stream, or the first error.
fn read(stream: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    let mut reader = Reader::new(stream)?;
    let mut frames = Vec::new();
    while let Some(luma) = reader.next_frame()? {
        frames.push(luma.to_vec());
    }
    Ok(frames)
}

#[test]
fn reads_size_clock_and_luma_and_skips_the_rest() {
    let mut stream = b"YUV4MPEG2 W3 H2 F30000:1001 Ip A1:1 C420jpeg XYSCSS=420JPEG\n".to_vec();
    for first in [10, 20] {
        stream.extend_from_slice(b"FRAME\n");
        stream.extend(first..first + 6);
        stream.extend_from_slice(&[128; 4]);
    }
    let reader = Reader::new(stream.as_slice()).expect("a stream");
    assert_eq!((reader.width(), reader.height()), (3, 2));
    assert_eq!(reader.time_base(), TimeBase::new(1001, 30_000).expect("a clock"));
    let frames = read(&stream).expect("two frames");
    assert_eq!(frames, [(10..16).collect::<Vec<u8>>(), (20..26).collect()]);
}

#[test]
fn knows_how_much_chroma_each_format_has() {
    let formats = [
        ("mono", 0),
        ("420", 12),
        ("420mpeg2", 12),
        ("420paldv", 12),
        ("411", 12),
        ("422", 18),
        ("444", 30),
        ("444alpha", 45),
    ];
    for (colour, chroma) in formats {
        let mut stream = format!("YUV4MPEG2 W5 H3 F25:1 C{colour}\n").into_bytes();
        for _ in 0..2 {
            stream.extend_from_slice(b"FRAME Ixyz\n");
            stream.resize(stream.len() + 15 + chroma, 7);
        }
        assert_eq!(read(&stream).expect(colour), vec![vec![7; 15]; 2], "{colour}");
        stream.pop();
        assert!(matches!(read(&stream), Err(Error::Truncated { number: 1 })), "{colour}");
    }
}

#[test]
fn deeper_samples_are_narrowed() {
    let mut stream = b"YUV4MPEG2 W2 H2 F25:1 C420p10 XYSCSS=420P10\n".to_vec();
    for _ in 0..2 {
        stream.extend_from_slice(b"FRAME\n");
        stream.extend([0u16, 1023, 514, 514, 512, 512].iter().flat_map(|sample| sample.to_le_bytes()));
    }
    assert_eq!(read(&stream).expect("two frames"), vec![vec![0, 255, 129, 128]; 2]);
    stream.pop();
    assert!(matches!(read(&stream), Err(Error::Truncated { number: 1 })));
}

#[test]
fn refuses_what_is_not_such_a_stream() {
    let error = |stream: &[u8]| read(stream).expect_err("not a stream").to_string();
    assert_eq!(error(b""), "not a YUV4MPEG2 stream");
    assert_eq!(error(b"RIFF....AVI \n"), "not a YUV4MPEG2 stream");
    assert_eq!(error(b"YUV4MPEG2 \xff\n"), "not a YUV4MPEG2 stream");
    assert_eq!(error(&[b'x'; 5000]), "a line of the stream is longer than 1024 bytes or ends with the stream");
    assert_eq!(error(b"YUV4MPEG2 W0 H2 F25:1\n"), "the stream's parameter W is missing or wrong");
    assert_eq!(error(b"YUV4MPEG2 W4 H-2 F25:1\n"), "the stream's parameter H is missing or wrong");
    assert_eq!(error(b"YUV4MPEG2 W4 H2 F0:0\n"), "the stream's parameter F is missing or wrong");
    assert_eq!(error(b"YUV4MPEG2 W4294967295 H4294967295 F25:1\n"), "pictures of 4294967295x4294967295 are too large");
    let colour = |name: &str| format!("colour format {name:?} is not one of planes of 8, 10 or 12 bits");
    assert_eq!(error(b"YUV4MPEG2 W4 H2 F25:1 C420p16\n"), colour("420p16"));
    assert_eq!(error(b"YUV4MPEG2 W4 H2 F25:1 Cp10\n"), colour("p10"));
    assert_eq!(error(b"YUV4MPEG2 W4 H2 F25:1 C422p10 XCOLORRANGE=FULL\n"), colour("422p10 of full range"));
    assert_eq!(error(b"YUV4MPEG2 W4 H2 F25:1 Cmono\nFRAMES\n"), "frame 0 does not begin as a frame does");
    assert_eq!(error(b"YUV4MPEG2 W4 H2 F25:1 Cmono\nFRAME\n1234567"), "the stream ends within frame 0");
}

proptest! {
    #[test]
    fn whatever_the_stream_holds_it_is_read_or_refused(
        head in prop_oneof![
            Just(String::new()),
            "YUV4MPEG2( [WHFCIAX][0-9]{0,3}:?[0-9a-z]{0,3}){0,8}\n?",
            "YUV4MPEG2 W[0-9]{1,2} H[0-9]{1,2} F25:1( C(mono|411|444|420p10|444p12))?\n(FRAME\n)?",
        ],
        rest in proptest::collection::vec(any::<u8>(), 0..3000),
    ) {
        let mut stream = head.into_bytes();
        stream.extend(rest);
        let _ = read(&stream);
    }
}
