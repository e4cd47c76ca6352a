//! What is transcoded.
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use millrace_tests::media;

use crate::contender::mean;

/// Our clip continued to 1080p by reflection: nothing is enlarged, so that there is as much detail to a pixel as in the
/// clip.
const REFLECTED: &str = "[0:v]split[a][b];[b]hflip,crop=640:720:0:0[b];[a][b]hstack,split[c][d];\
    [d]vflip,crop=1920:360:0:0[d];[c][d]vstack[v]";

/// Segments of one source.
#[derive(Debug)]
pub(crate) struct Material {
    /// In names of measures.
    pub(crate) name: &'static str,
    /// For people.
    pub(crate) told: String,
    /// Frames of a segment, on average.
    pub(crate) frames: f64,
    /// The segments as files.
    pub(crate) segments: Vec<PathBuf>,
    pub(crate) dir: PathBuf,
}

impl Material {
    /// The 720p source.
    pub(crate) fn small(clip: Option<&Path>, dir: &Path) -> Result<Self> {
        Self::cut("720p", clip.map_or_else(media::bunny, Path::to_owned), dir)
    }

    /// The 1080p source.
    pub(crate) fn large(clip: Option<&Path>, dir: &Path) -> Result<Self> {
        let made = || {
            let bunny = media::bunny().display().to_string();
            let rate = ["-b:v", "8M", "-maxrate", "8M", "-bufsize", "8M", "-g", "60", "-sc_threshold", "0", "-bf", "2"];
            let input = ["-i", &bunny, "-filter_complex", REFLECTED, "-map", "[v]", "-map", "0:a", "-c:a", "copy"];
            let coder = ["-c:v", "libx264", "-preset", "medium", "-profile:v", "high"];
            media::clip("reflected-1080.ts", &[&input[..], &coder, &rate].concat())
        };
        let mut cut = Self::cut("1080p", clip.map_or_else(made, Path::to_owned), dir)?;
        if clip.is_none() {
            cut.told = format!("{} segments of our clip continued by reflection", cut.segments.len());
        }
        Ok(cut)
    }

    fn cut(name: &'static str, clip: PathBuf, dir: &Path) -> Result<Self> {
        let input = std::fs::read(&clip).with_context(|| format!("read {}", clip.display()))?;
        let dir = dir.join(name);
        std::fs::create_dir_all(&dir)?;
        let (mut segments, mut frames) = (Vec::new(), Vec::new());
        for (n, segment) in mpegts::segment::cut(&input, 2000)?.into_iter().enumerate() {
            let path = dir.join(format!("in-{n}.ts"));
            std::fs::write(&path, segment.bytes)?;
            frames.push(f64::from(count(&path)?));
            segments.push(path);
        }
        ensure!(!segments.is_empty(), "{} has no segment", clip.display());
        let file = clip.file_name().unwrap_or_default().to_string_lossy();
        let told = format!("{} segments of {file}", segments.len());
        Ok(Self { name, told, frames: mean(&frames), segments, dir })
    }
}

/// Pictures in a file.
fn count(path: &Path) -> Result<u32> {
    let mut command = Command::new("ffprobe");
    command.args([
        "-v",
        "error",
        "-select_streams",
        "v:0",
        "-count_packets",
        "-show_entries",
        "stream=nb_read_packets",
    ]);
    let out = command.args(["-of", "csv=p=0"]).arg(path).output().context("ffprobe is not installed")?;
    let text = String::from_utf8_lossy(&out.stdout);
    let first = text.lines().next().unwrap_or_default().trim_end_matches(',');
    first.parse().with_context(|| format!("no pictures in {}", path.display()))
}
