//! How like their source renditions are.
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use millrace_tests::media;

use crate::LADDER;
use crate::contender::{Contender, mean};
use crate::material::Material;

/// Which measure of quality can be had.
pub(crate) enum Meter {
    Vmaf(PathBuf),
    Psnr,
}

/// One contender's renditions: for each size the value, and the bytes of pictures and sound together.
#[derive(Debug)]
pub(crate) struct Judged {
    pub(crate) values: Vec<f64>,
    pub(crate) bytes: Vec<f64>,
}

impl Meter {
    pub(crate) fn find() -> Self {
        let tool = media::repository().join(".tools/ffmpeg-vmaf");
        if tool.is_file() { Self::Vmaf(tool) } else { Self::Psnr }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Vmaf(_) => "vmaf",
            Self::Psnr => "psnr_y",
        }
    }

    pub(crate) fn unit(&self) -> &'static str {
        match self {
            Self::Vmaf(_) => "points",
            Self::Psnr => "dB",
        }
    }

    /// Judges what a contender made in its last round; nothing when it kept nothing.
    pub(crate) fn judge(&self, contender: &Contender, material: &Material) -> Result<Option<Judged>> {
        if contender.files.is_empty() {
            return Ok(None);
        }
        let mut judged = Judged { values: Vec::new(), bytes: Vec::new() };
        for place in 0..LADDER.len() {
            let (mut values, mut bytes) = (Vec::new(), 0.0);
            for (files, source) in contender.files.iter().zip(&material.segments) {
                let file = files.get(place).context("a rendition is missing")?;
                values.push(self.measure(file, source)?);
                bytes += f64::from(u32::try_from(std::fs::metadata(file)?.len())?);
            }
            judged.values.push(mean(&values));
            judged.bytes.push(bytes);
        }
        Ok(Some(judged))
    }

    /// The likeness of a rendition, scaled to the source's size, to the source.
    fn measure(&self, rendition: &Path, source: &Path) -> Result<f64> {
        let (program, filter, mark) = match self {
            Self::Vmaf(tool) => (tool.clone(), "libvmaf=n_threads=2", "VMAF score: "),
            Self::Psnr => (PathBuf::from("ffmpeg"), "psnr", " y:"),
        };
        let width = media::stream_field(source, "v", "width");
        let height = media::stream_field(source, "v", "height");
        let graph = format!(
            "[0:v]scale={width}:{height}:flags=bicubic,settb=1/1000,setpts=N[d];[1:v]settb=1/1000,setpts=N[r];[d][r]{filter}"
        );
        let out = Command::new(program)
            .args(["-hide_banner", "-nostdin", "-i"])
            .arg(rendition)
            .arg("-i")
            .arg(source)
            .args(["-lavfi", &graph, "-f", "null", "-"])
            .output()?;
        let text = String::from_utf8_lossy(&out.stderr);
        let Some((_, after)) = text.rsplit_once(mark) else { bail!("no {} in: {text}", self.name()) };
        let number: String = after.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
        Ok(number.parse()?)
    }
}
