//! Does signing work here? Known pictures must come out as FFmpeg's filter signs them.
//!
//! Walk 4, step 3.
use gstreamer as gst;
use gstreamer_video as gst_video;
use gstreamer_video::prelude::*;
use mpegts::Ticks;
use sandbox::message::Signatures;

use super::{Clock, Desk, MPEG};

/// What FFmpeg 5.1 wrote for the known pictures.
const KNOWN: &[u8] = include_bytes!("known.mpeg7");
const FRAMES: u32 = 50;
/// A size that fits the grid in neither direction.
const SIZE: (u32, u32) = (150, 82);
const STEP: i64 = 3000;

/// Signs the known pictures.
pub(crate) fn prove() -> Result<(), String> {
    let made = sign()?;
    if made == KNOWN { Ok(()) } else { Err("known pictures get another signature than FFmpeg's".to_owned()) }
}

fn sign() -> Result<Vec<u8>, String> {
    let info = gst_video::VideoInfo::builder(gst_video::VideoFormat::I420, SIZE.0, SIZE.1).build();
    let info = info.map_err(|e| e.to_string())?;
    let desk = Desk::open(1, Clock { origin: Ticks(0), per_second: MPEG })?;
    let pen = desk.pen(0, &info);
    for number in 0..FRAMES {
        pen.sign(&picture(&info, number)?, Ticks(i64::from(number) * STEP));
    }
    drop(pen);
    let made = desk.close(Signatures::Source).map_err(|e| e.detail)?;
    made.into_iter().next().ok_or_else(|| "no signature".to_owned())
}

fn picture(info: &gst_video::VideoInfo, number: u32) -> Result<gst::Buffer, String> {
    let room = gst::Buffer::with_size(info.size()).map_err(|e| e.to_string())?;
    let mut frame = gst_video::VideoFrame::from_buffer_writable(room, info).map_err(|_| "no memory".to_owned())?;
    let stride = frame.plane_stride().first().and_then(|s| usize::try_from(*s).ok()).unwrap_or(1).max(1);
    let plane = frame.plane_data_mut(0).map_err(|e| e.to_string())?;
    for (y, row) in (0u32..).zip(plane.chunks_mut(stride)) {
        for (x, sample) in (0u32..).zip(row) {
            *sample = luma(number, x, y);
        }
    }
    Ok(frame.into_buffer())
}

/// Two crossing patterns, one of which moves.
fn luma(number: u32, x: u32, y: u32) -> u8 {
    let [low, ..] = ((x * 7 + number * 5) ^ (y * 3)).to_le_bytes();
    low
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_known_signature_is_the_one_the_installed_ffmpeg_writes() {
        gst::init().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut ffmpeg = Command::new("ffmpeg")
            .args(["-v", "error", "-f", "yuv4mpegpipe", "-i", "-"])
            .args(["-vf", "settb=1/90000,signature=format=binary:filename=theirs.bin", "-f", "null", "-"])
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stream = ffmpeg.stdin.take().unwrap();
        writeln!(stream, "YUV4MPEG2 W{} H{} F30:1 Cmono", SIZE.0, SIZE.1).unwrap();
        for number in 0..FRAMES {
            stream.write_all(b"FRAME\n").unwrap();
            let pixels = (0..SIZE.1).flat_map(|y| (0..SIZE.0).map(move |x| luma(number, x, y)));
            stream.write_all(&pixels.collect::<Vec<u8>>()).unwrap();
        }
        drop(stream);
        assert!(ffmpeg.wait().unwrap().success());
        assert!(std::fs::read(dir.path().join("theirs.bin")).unwrap() == KNOWN);
        assert_eq!(prove(), Ok(()));
    }
}
