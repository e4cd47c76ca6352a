use proptest::prelude::*;

use super::*;

fn part(content_type: &str, pixels: Option<u64>, media: &[u8]) -> (PartHead, Bytes) {
    let length = u64::try_from(media.len()).unwrap();
    let head = PartHead { content_type: content_type.to_owned(), length: Some(length), pixels };
    (head, Bytes::copy_from_slice(media))
}

/// Reads a body fed in steps of this size.
fn read(boundary: &str, body: &[u8], step: usize) -> Result<Vec<(PartHead, Bytes)>, MultipartError> {
    let mut reader = Reader::new(boundary)?;
    let mut parts: Vec<(PartHead, BytesMut)> = Vec::new();
    let mut ended = true;
    for bytes in body.chunks(step.max(1)) {
        reader.feed(bytes);
        while let Some(piece) = reader.piece()? {
            match piece {
                Piece::Head(head) => {
                    assert!(ended, "a part begins inside a part");
                    ended = false;
                    parts.push((head, BytesMut::new()));
                }
                Piece::Data(data) => parts.last_mut().unwrap().1.extend_from_slice(&data),
                Piece::PartEnd => ended = true,
                Piece::End => assert!(ended, "the end comes inside a part"),
            }
        }
    }
    reader.finish()?;
    Ok(parts.into_iter().map(|(head, media)| (head, media.freeze())).collect())
}

fn written(boundary: &str, parts: &[(PartHead, Bytes)]) -> Vec<u8> {
    write(boundary, parts).concat()
}

#[test]
fn what_a_stock_transcoder_writes_is_read() {
    // The order of headers, the boundary and the line ends are those of Go's mime/multipart.
    let body = b"--5f9c3a\r\nContent-Length: 5\r\nContent-Type: video/mp2t\r\nPixels: 921600\r\n\r\nG1234\r\n\
        --5f9c3a\r\nContent-Length: 3\r\nContent-Type: application/octet-stream\r\n\r\n\x00\x01\x02\r\n--5f9c3a--\r\n";
    let wanted = vec![part("video/mp2t", Some(921_600), b"G1234"), part(SIGNATURE, None, &[0, 1, 2])];
    assert_eq!(read("5f9c3a", body, 7), Ok(wanted.clone()));
    assert_eq!(written("5f9c3a", &wanted), body);
}

#[test]
fn a_part_without_a_length_ends_at_the_boundary() {
    let body = b"--b\r\nContent-Type: video/mp2t\r\nPixels: 1\r\n\r\nG\r\n-\r\n--\r\n--a\r\n--b--\r\n";
    for step in [1, 2, 3, 100] {
        let parts = read("b", body, step).unwrap();
        assert_eq!(parts.len(), 1);
        assert_eq!(&parts[0].1[..], b"G\r\n-\r\n--\r\n--a");
    }
}

#[test]
fn a_part_without_a_head_is_a_part() {
    assert_eq!(read("b", b"--b\r\n\r\nG\r\n--b--", 1).unwrap(), [(PartHead::default(), Bytes::from_static(b"G"))]);
}

#[test]
fn a_part_that_lies_about_its_length_is_refused() {
    for length in [3, 5] {
        let body = format!("--b\r\nContent-Length: {length}\r\n\r\n1234\r\n--b--\r\n");
        assert_eq!(read("b", body.as_bytes(), 100), Err(MultipartError::NoBoundary));
    }
}

#[test]
fn what_is_cut_off_is_no_result() {
    let body = written("b", &[part("video/mp2t", Some(1), b"media")]);
    for length in 0..body.len() - 4 {
        assert_eq!(read("b", &body[..length], 10), Err(MultipartError::Truncated), "{length}");
    }
}

#[test]
fn a_head_that_does_not_end_is_not_waited_for() {
    let mut reader = Reader::new("b").unwrap();
    reader.feed(b"--b\r\nX: ");
    assert_eq!(reader.piece(), Ok(None));
    let refused = (0..100).find_map(|_| {
        reader.feed(&[b'x'; 100]);
        reader.piece().err()
    });
    assert_eq!(refused, Some(MultipartError::HeadTooLarge));
}

#[test]
fn numbers_that_are_none_are_refused() {
    for head in ["Content-Length: -1", "Content-Length: 99999999999999999999", "Pixels: many", "no colon"] {
        let body = format!("--b\r\n{head}\r\n\r\nG\r\n--b--");
        assert_eq!(read("b", body.as_bytes(), 100), Err(MultipartError::Head), "{head}");
    }
}

#[test]
fn the_boundary_is_found_in_the_media_type() {
    assert_eq!(boundary_of("multipart/mixed; boundary=abc"), Some(Ok("abc".into())));
    assert_eq!(boundary_of("Multipart/Mixed;charset=x; Boundary=\"a-c\""), Some(Ok("a-c".into())));
    assert_eq!(boundary_of("multipart/mixed"), Some(Err(MultipartError::Boundary)));
    assert_eq!(boundary_of("multipart/mixed; boundary=\"\r\n\""), Some(Err(MultipartError::Boundary)));
    assert_eq!(boundary_of("multipart/form-data; boundary=abc"), None);
}

proptest! {
    #[test]
    fn what_is_written_is_read_however_it_is_cut(
        parts in prop::collection::vec((any::<Option<u64>>(), prop::collection::vec(any::<u8>(), 0..300)), 0..6),
        step in 1_usize..200,
    ) {
        let parts: Vec<_> = parts.iter().map(|(pixels, media)| part("video/mp2t", *pixels, media)).collect();
        prop_assert_eq!(read("0123456789abcdef", &written("0123456789abcdef", &parts), step), Ok(parts));
    }

    #[test]
    fn no_bytes_break_the_reader_and_it_holds_little(
        pieces in prop::collection::vec(prop_oneof![
            Just(b"--b".to_vec()), Just(b"\r\n".to_vec()), Just(b"--".to_vec()), Just(b"Content-Length: 9".to_vec()),
            Just(b"Pixels: 1".to_vec()), prop::collection::vec(any::<u8>(), 0..50),
        ], 0..60),
    ) {
        let mut reader = Reader::new("b").unwrap();
        'body: for piece in &pieces {
            reader.feed(piece);
            loop {
                match reader.piece() {
                    Err(_) => break 'body,
                    Ok(None) => break,
                    Ok(Some(_)) => {}
                }
            }
            prop_assert!(reader.held.len() <= MAX_HEAD + 60);
        }
    }
}
