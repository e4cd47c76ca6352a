//! Microseconds a frame takes at the usual sizes, as the median of many: for a frame that was just written, and
//! for one that has left the processor's caches since.

use std::time::{Duration, Instant};

use video_signature::{Error, Signer, TimeBase};

/// Frames timed per size.
const ROUNDS: usize = 301;

/// Pixels that no cache holds together.
const COLD_PIXELS: usize = 512 << 20;

fn main() -> Result<(), Error> {
    let luma: Vec<u8> = (0..=250u8).cycle().take(COLD_PIXELS).collect();
    for (width, height) in [(426, 240), (640, 360), (854, 480), (1280, 720), (1920, 1080), (3840, 2160)] {
        let pixels = width as usize * height as usize;
        let warm = median(width, height, |_| &luma[..pixels])?;
        let planes = COLD_PIXELS / pixels;
        // A step far from any prefetcher's reach, through all of the memory.
        let cold = median(width, height, |round| &luma[(round * 7 % planes) * pixels..][..pixels])?;
        println!(
            "{width}x{height}: warm {:.1} us, cold {:.1} us per frame",
            warm.as_secs_f64() * 1e6,
            cold.as_secs_f64() * 1e6
        );
    }
    Ok(())
}

/// The median time of the frames that `plane` gives for each round.
fn median<'a>(width: u32, height: u32, plane: impl Fn(usize) -> &'a [u8]) -> Result<Duration, Error> {
    let mut signer = Signer::new(width, height, TimeBase::MPEG)?;
    let mut times = Vec::with_capacity(ROUNDS);
    for (pts, round) in (0..).zip(0..ROUNDS) {
        let luma = plane(round);
        let start = Instant::now();
        signer.push(pts, luma, width as usize)?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    Ok(times[ROUNDS / 2])
}
