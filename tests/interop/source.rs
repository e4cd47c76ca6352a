//! The streams that are sent, cut into segments, with time going on from one round of the clip to the next.
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use millrace_tests::media;
use mpegts::segment::{Looper, Segment};

/// Length of the segments, as gateways cut them.
const SEGMENT_MS: u64 = 2000;

/// What the stock gateway asks for: passthrough at the encoder's defaults, and a fixed rate with profile and key frames.
pub(crate) const LADDER_JSON: &str = r#"[
  {"name": "240p0", "width": 426, "height": 240, "bitrate": 400000, "fps": 0},
  {"name": "360p30", "width": 640, "height": 360, "bitrate": 900000, "fps": 30, "profile": "h264baseline", "gop": "1"}
]"#;
/// Their names, and the long side asked for.
pub(crate) const LADDER: [(&str, u32); 2] = [("240p0", 426), ("360p30", 640)];

/// One stream.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub name: &'static str,
    pub clip: PathBuf,
    pub width: u32,
    pub height: u32,
    pub audio: bool,
}

impl Source {
    /// 1280x720 H.264 with AAC.
    pub(crate) fn plain() -> Self {
        Self { name: "h264-720p", clip: media::bunny(), width: 1280, height: 720, audio: true }
    }

    /// The same without sound.
    pub(crate) fn silent() -> Self {
        let clip = bunny_as("interop-silent.ts", &["-c:v", "copy", "-an"]);
        Self { name: "h264-silent", clip, width: 1280, height: 720, audio: false }
    }

    /// Standing upright.
    pub(crate) fn portrait() -> Self {
        let x264 = [
            "-vf",
            "transpose=1",
            "-c:v",
            "libx264",
            "-preset",
            "veryfast",
            "-g",
            "60",
            "-sc_threshold",
            "0",
            "-c:a",
            "copy",
        ];
        Self {
            name: "h264-portrait",
            clip: bunny_as("interop-portrait.ts", &x264),
            width: 720,
            height: 1280,
            audio: true,
        }
    }

    /// HEVC.
    pub(crate) fn hevc() -> Self {
        let x265 = [
            "-c:v",
            "libx265",
            "-preset",
            "ultrafast",
            "-x265-params",
            "keyint=60:min-keyint=60:scenecut=0:open-gop=0:log-level=1",
            "-c:a",
            "copy",
        ];
        Self { name: "hevc-720p", clip: bunny_as("interop-hevc.ts", &x265), width: 1280, height: 720, audio: true }
    }

    /// Picture and sound for ffmpeg to repeat, each by itself: together they would begin anew when the longer one is over,
    /// and the pictures would skip.
    pub(crate) fn apart(&self) -> Vec<PathBuf> {
        let clip = self.clip.display().to_string();
        let picture = media::clip(&format!("interop-{}-picture.mp4", self.name), &["-i", &clip, "-an", "-c", "copy"]);
        if !self.audio {
            return vec![picture];
        }
        let sound = ["-i", &clip, "-vn", "-c", "copy", "-bsf:a", "aac_adtstoasc"];
        vec![picture, media::clip(&format!("interop-{}-sound.mp4", self.name), &sound)]
    }

    /// So many segments of it.
    pub(crate) fn segments(&self, count: usize) -> Result<Vec<Cut>> {
        let clip = std::fs::read(&self.clip).with_context(|| self.clip.display().to_string())?;
        let looper = Looper::new(&clip, SEGMENT_MS)?.context("a clip without a picture")?;
        Ok(looper.take(count).map(Cut::from).collect())
    }
}

fn bunny_as(name: &str, args: &[&str]) -> PathBuf {
    let bunny = media::bunny();
    let input = bunny.display().to_string();
    media::clip(name, &[&["-i", &input], args].concat())
}

/// One segment.
#[derive(Debug, Clone)]
pub(crate) struct Cut {
    pub bytes: Bytes,
    pub duration_ms: u64,
    pub frames: usize,
}

impl From<Segment> for Cut {
    fn from(segment: Segment) -> Self {
        Self { bytes: segment.bytes.into(), duration_ms: segment.duration_ms, frames: segment.frames }
    }
}
