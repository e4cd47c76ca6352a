use super::*;
use crate::noise::noise;
use proptest::prelude::*;

fn signer(width: u32, height: u32) -> Signer {
    Signer::new(width, height, TimeBase::MPEG).expect("a size with a signature")
}

/// The rows of a picture with other bytes between them and after them.
fn padded(luma: &[u8], width: usize, stride: usize) -> Vec<u8> {
    let mut plane = Vec::new();
    for row in luma.chunks(width) {
        plane.extend_from_slice(row);
        plane.resize(plane.len() + stride - width, 0xa5);
    }
    plane
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_size_is_signed_or_refused(width in 0u32..300, height in 0u32..300, pts: i64, seed: u64) {
        let luma = noise(width as usize * height as usize, seed);
        match Signer::new(width, height, TimeBase::MPEG) {
            Ok(mut signer) => {
                prop_assert!(width >= 32 && height >= 32);
                signer.push(pts, &luma, width as usize)?;
                prop_assert_eq!(signer.finish().len(), 289);
            }
            Err(Error::NoPixels { .. }) => prop_assert!(width == 0 || height == 0),
            Err(Error::TooSmall { .. }) => prop_assert!(width.min(height) < 32 && width.min(height) > 0),
            Err(other) => prop_assert!(false, "{other}"),
        }
    }

    #[test]
    fn long_and_narrow_pictures_are_signed(long in 32u32..=65_536, short in 32u32..48, upright: bool, seed: u64) {
        let (width, height) = if upright { (short, long) } else { (long, short) };
        let mut signer = signer(width, height);
        signer.push(0, &noise(width as usize * height as usize, seed), width as usize)?;
        prop_assert_eq!(signer.finish().len(), 289);
    }

    #[test]
    fn any_stride_and_plane_is_signed_or_refused(
        width in 32u32..80, height in 32u32..80, stride in prop_oneof![0usize..200, Just(usize::MAX)], length in 0usize..20_000,
    ) {
        let mut signer = signer(width, height);
        let result = signer.push(0, &vec![9; length], stride);
        let (width, height) = (width as usize, height as usize);
        let expected = match stride {
            _ if stride < width => Err(Error::StrideTooNarrow { stride, width }),
            usize::MAX => Err(Error::PlaneTooShort { length, needed: usize::MAX }),
            _ if length < stride * (height - 1) + width => {
                Err(Error::PlaneTooShort { length, needed: stride * (height - 1) + width })
            }
            _ => Ok(()),
        };
        prop_assert_eq!(result, expected);
        prop_assert_eq!(signer.frames(), usize::from(result.is_ok()));
    }

    #[test]
    fn the_size_follows_from_the_number_of_frames(frames in 1usize..300) {
        let mut signer = signer(32, 32);
        for pts in (0..).take(frames) {
            signer.push(pts, &[0; 1024], 32)?;
        }
        prop_assert_eq!(signer.finish().len(), (275 + 1344 * frames.div_ceil(45) + 689 * frames).div_ceil(8));
    }

    #[test]
    fn the_same_pictures_have_the_same_signature_whatever_lies_between_their_rows(
        (wide, high) in (32u32..150, 32u32..100), padding in 1usize..80, seed: u64,
    ) {
        let (width, height) = (wide as usize, high as usize);
        let luma = noise(width * height, seed);
        let stride = width + padding;
        let mut files = Vec::new();
        for (plane, stride) in [(luma.clone(), width), (luma.clone(), width), (padded(&luma, width, stride), stride)] {
            let mut signer = signer(wide, high);
            signer.push(7, &plane, stride)?;
            files.push(signer.finish());
        }
        prop_assert_eq!(&files[0], &files[1]);
        prop_assert_eq!(&files[0], &files[2]);
    }

    #[test]
    fn each_frame_is_signed_as_if_it_were_alone(seeds in proptest::collection::vec(any::<u64>(), 1..4)) {
        let mut together = signer(50, 40);
        for (pts, seed) in (0..).zip(&seeds) {
            let luma = noise(50 * 40, *seed);
            together.push(pts, &luma, 50)?;
            let mut alone = signer(50, 40);
            alone.push(pts, &luma, 50)?;
            prop_assert_eq!(together.frames.last(), alone.frames.last());
        }
    }

    #[test]
    fn any_time_base_is_taken_or_refused(numerator: u32, denominator: u32) {
        prop_assert_eq!(TimeBase::new(numerator, denominator).is_ok(), numerator > 0 && denominator > 0);
    }
}

#[test]
fn a_picture_needs_pixels_and_must_fit() {
    let error = |width, height| Signer::new(width, height, TimeBase::MPEG).map(|_| ()).unwrap_err();
    assert_eq!(error(0, 64), Error::NoPixels { width: 0, height: 64 });
    assert_eq!(error(64, 0), Error::NoPixels { width: 64, height: 0 });
    assert_eq!(error(1, 1), Error::TooSmall { width: 1, height: 1 });
    assert_eq!(error(31, u32::MAX), Error::TooSmall { width: 31, height: u32::MAX });
    assert_eq!(error(65_537, 32), Error::TooLarge { width: 65_537, height: 32 });
    assert_eq!(error(31, 64).to_string(), "a picture of 31x64 is too small: a signature needs 32 pixels a side");
    assert!(Signer::new(LARGEST_SIDE, LARGEST_SIDE, TimeBase::MPEG).is_ok());
}

#[test]
fn a_time_base_needs_both_numbers() {
    assert_eq!(TimeBase::new(0, 30), Err(Error::ZeroTimeBase { numerator: 0, denominator: 30 }));
    assert_eq!(TimeBase::new(1, 0), Err(Error::ZeroTimeBase { numerator: 1, denominator: 0 }));
}

#[test]
fn the_media_time_unit_is_the_low_half_of_the_ticks_per_second() {
    for (numerator, denominator, unit) in [(1, 90_000, 24_464), (1001, 30_000, 29), (2, 1, 0), (1, u32::MAX, 0xffff)] {
        assert_eq!(TimeBase::new(numerator, denominator).map(TimeBase::media_time_unit), Ok(unit));
    }
}

#[test]
fn refuses_a_frame_beyond_the_limit_and_keeps_the_rest() {
    let mut signer = signer(32, 32).with_limit(2);
    for pts in 0..2 {
        signer.push(pts, &[1; 1024], 32).expect("within the limit");
    }
    assert_eq!(signer.push(2, &[1; 1024], 32), Err(Error::TooManyFrames { most: 2 }));
    assert_eq!(signer.finish().len(), 375);
}

#[test]
fn no_frame_is_no_file() {
    assert!(signer(64, 64).finish().is_empty());
}

#[test]
fn negative_times_are_stored_modulo_32_bits() {
    let mut signer = signer(32, 32);
    signer.push(-1, &[1; 1024], 32).expect("a frame");
    assert_eq!(signer.frames[0].pts, u32::MAX);
}
